"""The equations of the LSTM: one step forward, one step backward.

Arrays are features first, ``(H, batch)``; everything here also takes ``(H, time, batch)``, many steps at once.
The rows of a block ``(4H, ...)`` are ordered i, f, g, o (input gate, forget gate, candidate, output gate), as in
PyTorch and cuDNN, so that weights are taken as they come::

    z = W x + R h_prev + b                      pre-activations
    i, f, o = sigmoid(z_i, z_f, z_o)            g = tanh(z_g)
    c = f * c_prev + i * g
    h = o * tanh(c)

A sigmoid is a tanh of half the argument, ``sigmoid(z) = (1 + tanh(z / 2)) / 2``. With the sigmoid rows of the
weights halved once (`halve_sigmoids`), one tanh over the whole block makes all four gates, and nothing can overflow.
A library that has a faster sigmoid takes them as they are.

A `Cell` changes the equations: other activations, bounds, a gate made from another one. Peepholes p add
``p_i * c_prev`` to z_i, ``p_f * c_prev`` to z_f and ``p_o * c`` to z_o. Where one of these touches the gates, they
are made one by one, from pre-activations that are not halved: `at_once` says which form `z` has.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from .._seams.namespace import Array, Namespace
from .._seams.scan import own_sigmoid, product, writes_in_place
from . import activations as _activations
from .activations import Activation, slope, value

# i, f, g, o. A plain tuple: one is made at every step.
Gates = tuple[Array, Array, Array, Array]


@dataclass(frozen=True)
class Cell:
    """A variant of the equations: what the cells of other systems can do, together.

    Parameters
    ----------
    gate_activation, candidate_activation, output_activation : str, tuple or callable
        Activation of the three gates, of the candidate, and of the cell state on its way out. A name of the ONNX
        operator in snake case (sigmoid, tanh, relu, hard_sigmoid, affine, leaky_relu, thresholded_relu, scaled_tanh,
        elu, softsign, softplus), a tuple ``(name, alpha, beta)``, or a function of ``(x, xp)``: an array and its
        namespace. A function needs a method ``derivative(x, xp)`` to pass through `lstm_vjp`.
    clip : float, optional
        Bound of the gates' pre-activations on both sides (ONNX).
    cell_clip, proj_clip : float, optional
        Bound of the cell state, and of the projected hidden state (TensorFlow 1).
    coupled : {"forget", "input"}, optional
        ``"forget"`` makes the forget gate ``f = 1 - i`` (ONNX ``input_forget``), ``"input"`` makes the input gate
        ``i = 1 - f`` (TensorFlow).

    Raises
    ------
    ValueError
        If an activation has no such name, a bound is not positive, or `coupled` is something else.

    Examples
    --------
    >>> Cell(gate_activation=("hard_sigmoid", 1 / 6, 0.5), cell_clip=3.0).cell_clip
    3.0
    """

    gate_activation: Activation = "sigmoid"
    candidate_activation: Activation = "tanh"
    output_activation: Activation = "tanh"
    clip: float | None = None
    cell_clip: float | None = None
    proj_clip: float | None = None
    coupled: Literal["forget", "input"] | None = None

    def __post_init__(self) -> None:
        """Check the options, and the numbers' types."""
        for name in ("gate_activation", "candidate_activation", "output_activation"):
            _activations.check(name, getattr(self, name))
        for name in ("clip", "cell_clip", "proj_clip"):
            bound = getattr(self, name)
            number = isinstance(bound, int | float) and not isinstance(bound, bool)
            if bound is not None and not (number and bound > 0):
                raise ValueError(f"Cell: `{name}` must be a positive number or None; got {bound!r}.")
        if self.coupled not in (None, "forget", "input"):
            raise ValueError(f"Cell: `coupled` must be None, 'forget' or 'input'; got {self.coupled!r}.")


PLAIN = Cell()

# To compute more numbers than this takes longer than another operation does.
_LARGE = 2**12


class Slopes(NamedTuple):
    """What the gradient of one step needs and the gradient itself does not change."""

    h_c: Array  # dh / dc
    z_i: Array  # dc / dz_i
    z_f: Array  # dc / dz_f
    z_g: Array  # dc / dz_g
    z_o: Array  # dh / dz_o
    c_c: Array  # dc / dc_prev


def halve_sigmoids(rows: Array, *, fresh: bool = False, xp: Namespace) -> Array:
    """Halve the rows i, f, o of a block where one tanh makes all gates: the form in which `at_once` gates take it.

    A `fresh` block, which the caller has just made, is halved in its place where that is safe.
    """
    if own_sigmoid(rows.dtype, xp) is not None:
        return rows
    H = rows.shape[0] // 4
    i_f, g, o = rows[: 2 * H, ...], rows[2 * H : 3 * H, ...], rows[3 * H :, ...]
    if fresh and writes_in_place(xp):
        i_f *= 0.5
        o *= 0.5
        return rows
    return xp.concat([0.5 * i_f, g, 0.5 * o])


def at_once(p: Array | None, cell: Cell) -> bool:
    """Tell whether all four gates are made from one block, which then went through `halve_sigmoids`."""
    return p is None and (
        cell is PLAIN
        or (cell.clip is None and (cell.gate_activation, cell.candidate_activation) == ("sigmoid", "tanh"))
    )


def forward(
    z: Array, c_prev: Array, p: Array | None = None, cell: Cell = PLAIN, *, xp: Namespace
) -> tuple[Array, Array, Gates]:
    """Return h, c and the gates of one step."""
    one_block = at_once(p, cell)
    if one_block:
        i, f, g, o = _gates(z, xp=xp)
    else:
        i, _, f, _, g, _ = _inner_gates(z, c_prev, p, cell, xp=xp)
    if cell.coupled is not None:
        i, f = _couple(i, f, cell)
    c = f * c_prev
    c += i * g
    c = _bound(c, cell.cell_clip, xp=xp)
    if not one_block:
        o, _ = _output_gate(z, c, p, cell, xp=xp)
    h = o * (xp.tanh(c) if cell is PLAIN else value(cell.output_activation, c, xp=xp))
    return h, c, (i, f, g, o)


def linearise(
    z: Array, c_prev: Array, c: Array, p: Array | None = None, cell: Cell = PLAIN, *, xp: Namespace
) -> tuple[Slopes, Array]:
    """Return the derivatives of `forward`, for one step or for many at once, and h."""
    if at_once(p, cell):
        return linearise_gates(_gates(z, xp=xp), c_prev, c, cell, xp=xp)
    i, z_i, f, z_f, g, z_g = _inner_gates(z, c_prev, p, cell, xp=xp)
    o, z_o = _output_gate(z, c, p, cell, xp=xp)
    pre = (z_i, z_f, z_g, z_o)
    gates = (i, f, g, o)
    kinds = (cell.gate_activation, cell.gate_activation, cell.candidate_activation, cell.gate_activation)
    own = tuple(
        _within(z, cell.clip, slope(kind, z, gate, xp=xp), xp=xp)
        for z, gate, kind in zip(pre, gates, kinds, strict=True)
    )
    return slopes(gates, own, c_prev, c, p, cell, xp=xp)


def linearise_gates(
    gates: Gates, c_prev: Array, c: Array, cell: Cell = PLAIN, *, xp: Namespace
) -> tuple[Slopes, Array]:
    """Return what `linearise` does, from the gates that `forward` returned: only where it made them `at_once`."""
    return slopes(gates, _sigmoid_and_tanh_slopes(gates), c_prev, c, None, cell, xp=xp)


def slopes(
    gates: Gates, own: Gates, c_prev: Array, c: Array, p: Array | None, cell: Cell, *, xp: Namespace
) -> tuple[Slopes, Array]:
    """Return the derivatives of a step, and h, from the gates and each gate's own derivative."""
    i, f, g, o = gates
    d_i, d_f, d_g, d_o = own
    out = value(cell.output_activation, c, xp=xp)
    h_c = o * slope(cell.output_activation, c, out, xp=xp)
    z_i, z_f, z_g, z_o, c_c = g * d_i, c_prev * d_f, i * d_g, out * d_o, f
    if cell.coupled is not None:
        i, f = _couple(i, f, cell)
        z_g, c_c = i * d_g, f
        both = g - c_prev
        z_i, z_f = (both * d_i, xp.zeros_like(d_f)) if cell.coupled == "forget" else (xp.zeros_like(d_i), -both * d_f)
    if p is not None:
        p_i, p_f, p_o = (_rows(p, k, 3) for k in range(3))
        h_c = h_c + p_o * z_o
        c_c = c_c + p_i * z_i + p_f * z_f
    if cell.cell_clip is not None:
        z_i, z_f, z_g, c_c = (_within(c, cell.cell_clip, d, xp=xp) for d in (z_i, z_f, z_g, c_c))
    return Slopes(h_c, z_i, z_f, z_g, z_o, c_c), o * out


def backward(dh: Array, dc: Array, slopes: Slopes, *, xp: Namespace) -> tuple[Array, Array]:
    """Return dz (4H, batch), rows i, f, g, o, and dc_prev from the gradients of h and c."""
    dc = dc + dh * slopes.h_c
    dz = xp.concat([dc * slopes.z_i, dc * slopes.z_f, dc * slopes.z_g, dh * slopes.z_o])
    return dz, dc * slopes.c_c


def project(h: Array, P: Array | None, cell: Cell, *, xp: Namespace) -> Array:
    """Return the projected hidden state, within its bound."""
    return h if P is None else _bound(product(xp)(P, h), cell.proj_clip, xp=xp)


def unbounded(h: Array, cell: Cell, *, xp: Namespace) -> Array:
    """Return 1 where `project` did not bound h, 0 elsewhere."""
    return _within(h, cell.proj_clip, xp.ones_like(h), xp=xp)


def _gates(z: Array, *, xp: Namespace) -> Gates:
    """Return i, f, g, o: the activations of a block of pre-activations that went through `halve_sigmoids`."""
    H = z.shape[0] // 4
    sigmoid = own_sigmoid(z.dtype, xp)
    if sigmoid is not None and writes_in_place(xp) and z.size > _LARGE:
        i_f = sigmoid(z[: 2 * H, ...])
        return i_f[:H, ...], i_f[H:, ...], xp.tanh(z[2 * H : 3 * H, ...]), sigmoid(z[3 * H :, ...])
    if sigmoid is not None:
        s, g = sigmoid(z), xp.tanh(z[2 * H : 3 * H, ...])
    else:
        t = xp.tanh(z)
        s, g = t * 0.5, t[2 * H : 3 * H, ...]
        s += 0.5
    # The rows g of s go unused: the three gates are not neighbours, and s is made at once.
    return s[:H, ...], s[H : 2 * H, ...], g, s[3 * H :, ...]


def _sigmoid_and_tanh_slopes(gates: Gates) -> Gates:
    i, f, g, o = gates
    return i * (1 - i), f * (1 - f), 1 - g * g, o * (1 - o)


def _inner_gates(z: Array, c_prev: Array, p: Array | None, cell: Cell, *, xp: Namespace) -> tuple[Array, ...]:
    """Return i, f and g, each followed by its pre-activation."""
    p_i, p_f = (None, None) if p is None else (_rows(p, 0, 3), _rows(p, 1, 3))
    i = _gate(_rows(z, 0, 4), c_prev, p_i, cell, xp=xp)
    f = _gate(_rows(z, 1, 4), c_prev, p_f, cell, xp=xp)
    z_g = _bound(_rows(z, 2, 4), cell.clip, xp=xp)
    return *i, *f, value(cell.candidate_activation, z_g, xp=xp), z_g


def _output_gate(z: Array, c: Array, p: Array | None, cell: Cell, *, xp: Namespace) -> tuple[Array, Array]:
    """Return o and its pre-activation."""
    return _gate(_rows(z, 3, 4), c, None if p is None else _rows(p, 2, 3), cell, xp=xp)


def _gate(z: Array, c: Array, p: Array | None, cell: Cell, *, xp: Namespace) -> tuple[Array, Array]:
    """Return a gate, which sees the cell state c through its peephole p, and its pre-activation."""
    if p is not None:
        z = z + p * c
    z = _bound(z, cell.clip, xp=xp)
    return value(cell.gate_activation, z, xp=xp), z


def _couple(i: Array, f: Array, cell: Cell) -> tuple[Array, Array]:
    return (i, 1 - i) if cell.coupled == "forget" else (1 - f, f)


def _rows(block: Array, k: int, parts: int) -> Array:
    H = block.shape[0] // parts
    return block[k * H : (k + 1) * H, ...]


def _bound(x: Array, bound: float | None, *, xp: Namespace) -> Array:
    return x if bound is None else _activations.between(x, -bound, bound, xp=xp)


def _within(x: Array, bound: float | None, d: Array, *, xp: Namespace) -> Array:
    """Return the derivative d, but 0 where x is at its bound."""
    return d if bound is None else xp.where(xp.abs(x) < bound, d, xp.zeros_like(d))
