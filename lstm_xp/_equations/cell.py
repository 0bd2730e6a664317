"""The equations of the LSTM: one step forward, one step backward.

Arrays are features first, ``(H, batch)``; everything here also takes ``(H, time, batch)``, many steps at once.
The rows of a block ``(4H, ...)`` are ordered i, f, g, o (input gate, forget gate, candidate, output gate), as in
PyTorch and cuDNN, so that weights are taken as they come::

    z = W x + R h_prev + b                      pre-activations
    i, f, o = sigmoid(z_i, z_f, z_o)            g = tanh(z_g)
    c = f * c_prev + i * g
    h = o * tanh(c)

A `Cell` changes the equations: other activations, bounds, a gate made from another one. Peepholes p add
``p_i * c_prev`` to z_i, ``p_f * c_prev`` to z_f and ``p_o * c`` to z_o.

`forward`, `linearise` and `backward` are elementwise: the products with the weights are `sequence.py`'s.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from .._seams import ops
from .._seams.namespace import Array, Namespace
from . import activations
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
        namespace. A function needs a method ``derivative(x, xp)`` to pass through `lstm_vjp`. Make it once: cells are
        equal if their functions are the same, and JAX compiles anew for a cell that is equal to none before.
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
        If an activation has no such name or no hash, a number is not finite, a bound not positive, or `coupled`
        something else.

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
        for name, activation in self.activations.items():
            object.__setattr__(self, name, activations.checked(name, activation))
        for name in ("clip", "cell_clip", "proj_clip"):
            bound = getattr(self, name)
            if bound is not None and not (activations.is_number(bound) and bound > 0):
                raise ValueError(f"Cell: `{name}` must be a positive number or None; got {bound!r:.60}.")
        if self.coupled not in (None, "forget", "input"):
            raise ValueError(f"Cell: `coupled` must be None, 'forget' or 'input'; got {self.coupled!r}.")

    @property
    def activations(self) -> dict[str, Activation]:
        """The three activations, by the names of their fields."""
        names = ("gate_activation", "candidate_activation", "output_activation")
        return {name: getattr(self, name) for name in names}


PLAIN = Cell()


class Slopes(NamedTuple):
    """What the gradient of one step needs and the gradient itself does not change."""

    h_c: Array  # dh / dc
    z_i: Array  # dc / dz_i
    z_f: Array  # dc / dz_f
    z_g: Array  # dc / dz_g
    z_o: Array  # dh / dz_o
    c_c: Array  # dc / dc_prev


def forward(
    z: Array, c_prev: Array, p: Array | None = None, cell: Cell = PLAIN, *, xp: Namespace
) -> tuple[Array, Array, Gates]:
    """Return h, c and the gates of one step."""
    at_once = _at_once(p, cell)
    if at_once:
        i, f, g, o = ops.gates(z, xp=xp)
    else:
        z_i, z_f, z_g, z_o = _inner(z, c_prev, p, cell, xp=xp)
        i, f = (value(cell.gate_activation, gate, xp=xp) for gate in (z_i, z_f))
        g = value(cell.candidate_activation, z_g, xp=xp)
    i, f = _coupled(i, f, cell)
    c = f * c_prev
    c += i * g
    c = _bounded(c, cell.cell_clip, xp=xp)
    if not at_once:
        o = value(cell.gate_activation, _outer(z_o, c, p, cell, xp=xp), xp=xp)
    return o * value(cell.output_activation, c, xp=xp), c, (i, f, g, o)


def activate(
    z: Array, c_prev: Array, c: Array, p: Array | None = None, cell: Cell = PLAIN, *, xp: Namespace
) -> tuple[Gates, Gates]:
    """Return the gates of steps whose c is known, and what each is the activation of."""
    *inner, z_o = _inner(z, c_prev, p, cell, xp=xp)
    z_i, z_f, z_g, z_o = (*inner, _outer(z_o, c, p, cell, xp=xp))
    if _at_once(p, cell):
        i, f, g, o = ops.gates(z, xp=xp)
    else:
        i, f, o = (value(cell.gate_activation, gate, xp=xp) for gate in (z_i, z_f, z_o))
        g = value(cell.candidate_activation, z_g, xp=xp)
    return (*_coupled(i, f, cell), g, o), (z_i, z_f, z_g, z_o)


def linearise(
    gates: Gates, inner: Gates, c_prev: Array, c: Array, p: Array | None = None, cell: Cell = PLAIN, *, xp: Namespace
) -> Slopes:
    """Return the derivatives of `forward`, for one step or for many at once; `activate` has the arguments.

    A sigmoid or a tanh tells its derivative by its value: of the plain cell `inner` is not looked at.
    """
    i, f, g, o = gates
    kinds = (cell.gate_activation, cell.gate_activation, cell.candidate_activation, cell.gate_activation)
    d_i, d_f, d_g, d_o = (
        _within(z, cell.clip, slope(kind, z, gate, xp=xp), xp=xp)
        for kind, z, gate in zip(kinds, inner, gates, strict=True)
    )
    out = value(cell.output_activation, c, xp=xp)
    h_c = o * slope(cell.output_activation, c, out, xp=xp)
    z_i, z_f, z_g, z_o, c_c = g * d_i, c_prev * d_f, i * d_g, out * d_o, f
    if cell.coupled == "forget":
        z_i, z_f = (g - c_prev) * d_i, xp.zeros_like(d_f)
    elif cell.coupled == "input":
        z_i, z_f = xp.zeros_like(d_i), (c_prev - g) * d_f
    if p is not None:
        p_i, p_f, p_o = _rows(p, 3)
        h_c = h_c + p_o * z_o
        c_c = c_c + p_i * z_i + p_f * z_f
    if cell.cell_clip is not None:
        z_i, z_f, z_g, c_c = (_within(c, cell.cell_clip, d, xp=xp) for d in (z_i, z_f, z_g, c_c))
    return Slopes(h_c, z_i, z_f, z_g, z_o, c_c)


def slopes(z: Array, c_prev: Array, c: Array, p: Array | None = None, *, cell: Cell, xp: Namespace) -> Slopes:
    """Return what `linearise` does, from what `activate` takes."""
    gates, inner = activate(z, c_prev, c, p, cell, xp=xp)
    return linearise(gates, inner, c_prev, c, p, cell, xp=xp)


def backward(dh: Array, dc: Array, slopes: Slopes, *, xp: Namespace) -> tuple[Array, Array]:
    """Return dz (4H, batch), rows i, f, g, o, and dc_prev from the gradients of h and c."""
    dc = dc + dh * slopes.h_c
    dz = xp.concat([dc * slopes.z_i, dc * slopes.z_f, dc * slopes.z_g, dh * slopes.z_o])
    return dz, dc * slopes.c_c


def gradient(dh: Array, dc: Array, *known: Array, cell: Cell, xp: Namespace) -> tuple[Array, Array]:
    """Return what `backward` does, from what `slopes` takes."""
    return backward(dh, dc, slopes(*known, cell=cell, xp=xp), xp=xp)


def project(h: Array, P: Array | None, cell: Cell, *, xp: Namespace) -> Array:
    """Return the projected hidden state, within its bound."""
    return h if P is None else _bounded(ops.product(xp)(P, h), cell.proj_clip, xp=xp)


def unbounded(h: Array, cell: Cell, *, xp: Namespace) -> Array | None:
    """Return 1 where `project` did not bound h, and 0 elsewhere; None without a bound."""
    return None if cell.proj_clip is None else _within(h, cell.proj_clip, xp.ones_like(h), xp=xp)


def peephole_gradient(dz: Array, c_prev: Array, c: Array, *, xp: Namespace) -> Array:
    """Return what each of the rows i, f, o of the peepholes adds to its gradient at every step."""
    dz_i, dz_f, _, dz_o = _rows(dz, 4)
    return xp.concat([dz_i * c_prev, dz_f * c_prev, dz_o * c])


def _at_once(p: Array | None, cell: Cell) -> bool:
    """Tell whether all gates come from one block: the activations are the usual ones, and nothing comes before them."""
    kinds = (cell.gate_activation, cell.candidate_activation)
    return p is None and cell.clip is None and kinds == ("sigmoid", "tanh")


def _inner(z: Array, c_prev: Array, p: Array | None, cell: Cell, *, xp: Namespace) -> Gates:
    """Return what i, f and g are the activations of, and the row block o as it is: o sees the new c."""
    z_i, z_f, z_g, z_o = _rows(z, 4)
    if p is not None:
        p_i, p_f, _ = _rows(p, 3)
        z_i, z_f = z_i + p_i * c_prev, z_f + p_f * c_prev
    z_i, z_f, z_g = (_bounded(gate, cell.clip, xp=xp) for gate in (z_i, z_f, z_g))
    return z_i, z_f, z_g, z_o


def _outer(z_o: Array, c: Array, p: Array | None, cell: Cell, *, xp: Namespace) -> Array:
    """Return what o is the activation of."""
    return _bounded(z_o if p is None else z_o + _rows(p, 3)[2] * c, cell.clip, xp=xp)


def _coupled(i: Array, f: Array, cell: Cell) -> tuple[Array, Array]:
    if cell.coupled is None:
        return i, f
    return (i, 1 - i) if cell.coupled == "forget" else (1 - f, f)


def _rows(block: Array, parts: int) -> tuple[Array, ...]:
    H = block.shape[0] // parts
    return tuple(block[k * H : (k + 1) * H, ...] for k in range(parts))


def _bounded(x: Array, bound: float | None, *, xp: Namespace) -> Array:
    return x if bound is None else activations.between(x, -bound, bound, xp=xp)


def _within(x: Array, bound: float | None, d: Array, *, xp: Namespace) -> Array:
    """Return the derivative d, but 0 where x is at its bound."""
    return d if bound is None else xp.where(xp.abs(x) < bound, d, xp.zeros_like(d))
