"""One direction of one layer over time, forward and backward.

A sequence is (features, time, batch), a state (features, batch), a mark of steps (1, time, batch). Where `mask` is
false, a step changes nothing: its state is the one before, its y is zero, and neither its input nor its `reset`
matters. Where `reset` is true, the step starts from zeros.
"""

from typing import NamedTuple

from .._seams.namespace import Array, Namespace
from .._seams.scan import Arrays, adder, each_times, product, scan
from . import cell as _cell
from .cell import PLAIN, Cell

State = tuple[Array, Array]  # h (R, batch), c (H, batch)
Stepped = tuple[State, Arrays]  # a state, and what was kept


class Weights(NamedTuple):
    """The weights of one direction; the rows of W, R and b are ordered i, f, g, o, those of p i, f, o."""

    W: Array  # (4H, I)
    R: Array  # (4H, R)
    b: Array | None = None  # (4H, 1)
    P: Array | None = None  # (R, H)
    p: Array | None = None  # (3H, 1)


class Marks(NamedTuple):
    """What is said about single steps: (1, time, batch), boolean."""

    mask: Array | None = None
    reset: Array | None = None


UNMARKED = Marks()


class Trajectory(NamedTuple):
    """Every step of a sequence: its states (R or H, time, batch), and its gates if they were asked for."""

    h: Array
    c: Array
    gates: _cell.Gates | None = None


class Gradients(NamedTuple):
    """What `backward` returns: one gradient for each array that went into `states`."""

    dx: Array
    dh0: Array
    dc0: Array
    dweights: Weights


def states(
    x: Array,
    state: State,
    weights: Weights,
    marks: Marks = UNMARKED,
    *,
    cell: Cell = PLAIN,
    reverse: bool = False,
    with_gates: bool = False,
    fresh: bool = False,
    xp: Namespace,
) -> tuple[Trajectory, State]:
    """Return the states of every step, and the last one; `fresh` weights, made for this call, may be written into."""
    keep = "hc" + "ifgo" * with_gates
    last, (h, c, *gates) = _run(x, state, weights, marks, cell, reverse, keep, fresh=fresh, xp=xp)
    return Trajectory(h, c, tuple(gates) if gates else None), last


def outputs(
    x: Array,
    state: State,
    weights: Weights,
    marks: Marks = UNMARKED,
    *,
    cell: Cell = PLAIN,
    reverse: bool = False,
    xp: Namespace,
) -> tuple[Array, State]:
    """Return y (R, time, batch), and the last state: no other array is as long as the sequence."""
    last, (y,) = _run(x, state, weights, marks, cell, reverse, "y", xp=xp)
    return y, last


def step(
    x: Array,
    state: State,
    weights: Weights,
    *,
    cell: Cell = PLAIN,
    xp: Namespace,
) -> State:
    """Return the state after one step: the same equations without a loop."""
    W, R, b, P, p = weights
    h, c = state
    add, matmul = adder(xp), product(xp)
    z = add(matmul(W, x), matmul(R, h))
    if b is not None:
        z = add(z, b)
    if _cell.at_once(p, cell):
        # On the products too: a sequence halves the weights, once for all its steps.
        z = _cell.halve_sigmoids(z, fresh=True, xp=xp)
    h, c, _ = _cell.forward(z, c, p, cell, xp=xp)
    return _cell.project(h, P, cell, xp=xp), c


def masked(y: Array, mask: Array | None, *, xp: Namespace) -> Array:
    """Return y with zeros where the mask is false."""
    return y if mask is None else xp.where(mask, y, xp.zeros_like(y))


def _run(
    x: Array,
    state: State,
    weights: Weights,
    marks: Marks,
    cell: Cell,
    reverse: bool,
    keep: str,
    *,
    fresh: bool = False,
    xp: Namespace,
) -> Stepped:
    """Fold the cell over time; `keep` names the outputs, one letter each."""
    W, R, b = _ready(weights, cell, fresh=fresh, xp=xp)
    add, matmul = adder(xp), product(xp)
    P, p = weights.P, weights.p
    given = tuple(mark for mark in marks if mark is not None)
    mask, reset = (mark is not None for mark in marks)

    def project(x: Array, *marks: Array) -> Arrays:
        z_x = each_times(W, masked(x, marks[0], xp=xp) if mask else x, xp=xp)
        return _biased(z_x, b, xp=xp), *marks

    def advance(carry: State, z_x: Array, *marks: Array) -> Stepped:
        h_prev, c_prev = _restarted(carry, marks[-1], xp=xp) if reset else carry
        out, c, gates = _cell.forward(add(matmul(R, h_prev), z_x), c_prev, p, cell, xp=xp)
        y = h = _cell.project(out, P, cell, xp=xp)
        if mask:
            here = marks[0]
            y = masked(y, here, xp=xp)
            h, c = xp.where(here, h, carry[0]), xp.where(here, c, carry[1])
        if keep == "y":
            return (h, c), (y,)
        if keep == "hc":
            return (h, c), (h, c)
        return (h, c), (h, c, *(masked(gate, marks[0] if mask else None, xp=xp) for gate in gates))

    return scan(advance, state, (x, *given), prepare=project, xp=xp, reverse=reverse)


def backward(
    dh: Array,
    dc: Array | None,
    dlast: State | None,
    weights: Weights,
    x: Array,
    state: State,
    h: Array,
    c: Array,
    marks: Marks = UNMARKED,
    gates: _cell.Gates | None = None,
    *,
    cell: Cell = PLAIN,
    reverse: bool = False,
    xp: Namespace,
) -> Gradients:
    """Return the gradients of sum(dh * y) + sum(dc * c) + sum(dlast * last state).

    Gates that were not kept are computed again, from h, many steps at once. They can be kept where they tell their
    own slopes: see `_cell.linearise_gates`.
    """
    W, R, b = _ready(weights, cell, xp=xp) if gates is None else (None, None, None)
    P, p = weights.P, weights.p
    mask, reset = marks
    marked = mask is not None or reset is not None
    bounded = P is not None and cell.proj_clip is not None
    x = masked(x, mask, xp=xp)
    h_prev, c_prev = (_shift(first, s, reverse, xp=xp) for first, s in zip(state, (h, c), strict=True))
    if reset is not None:
        # At a masked step this changes nothing: its gradient passes by.
        h_prev, c_prev = _restarted((h_prev, c_prev), reset, xp=xp)
    sequences = {"x": x, "h_prev": h_prev} if gates is None else dict(zip("ifgo", gates, strict=True))
    sequences |= {"c_prev": c_prev, "c": c, "dh": masked(dh, mask, xp=xp)}
    optional = {"dc": dc, "mask": mask, "reset": reset, "h": h if bounded else None}
    sequences |= {name: s for name, s in optional.items() if s is not None}

    # What a row has after the slopes.
    used = {"dh": True, "dc": dc is not None, "out": P is not None, "unbounded": bounded}
    used |= {"passing": marked, "starting": marked}
    names = [name for name, here in used.items() if here]

    def differentiate(*block: Array) -> Arrays:
        s = dict(zip(sequences, block, strict=True))
        if gates is None:
            z = adder(xp)(_times(W, s["x"], xp=xp), _times(R, s["h_prev"], xp=xp))
            z = _biased(z, b, xp=xp)
            p_all = None if p is None else xp.expand_dims(p, axis=2)
            slopes, s["out"] = _cell.linearise(z, s["c_prev"], s["c"], p_all, cell, xp=xp)
        else:
            kept = (s["i"], s["f"], s["g"], s["o"])
            slopes, s["out"] = _cell.linearise_gates(kept, s["c_prev"], s["c"], cell, xp=xp)
        if bounded:
            s["unbounded"] = _cell.unbounded(s["h"], cell, xp=xp)
        if marked:
            slopes, s["passing"], s["starting"] = _marked(slopes, s.get("mask"), s.get("reset"), s["dh"], xp=xp)
        return *slopes, *(s[name] for name in names)

    def retreat(carry: State, *row: Array) -> Stepped:
        dh_next, dc_next = carry
        slopes, rest = _cell.Slopes(*row[:6]), dict(zip(names, row[6:], strict=True))
        dh = rest["dh"] + dh_next
        dc = dc_next if "dc" not in rest else dc_next + rest["dc"]
        if P is None:
            dz, dc_prev = _cell.backward(dh, dc, slopes, xp=xp)
            out: Arrays = (dz,)
        else:
            dP_h = dh * rest["unbounded"] if "unbounded" in rest else dh
            if "passing" in rest:
                dP_h = dP_h * (1 - rest["passing"])
            dz, dc_prev = _cell.backward(matmul(P.T, dP_h), dc, slopes, xp=xp)
            out = (dz, dP_h, rest["out"])
        dh_prev = matmul(R_T, dz)
        if "passing" in rest:
            dh_prev = rest["starting"] * dh_prev + rest["passing"] * dh
        return (dh_prev, dc_prev), out

    R_T, matmul = weights.R.T, product(xp)
    if dlast is None:
        dlast = (xp.zeros_like(state[0]), xp.zeros_like(state[1]))
    xs = tuple(sequences.values())
    (dh0, dc0), (dz, *projected) = scan(retreat, dlast, xs, prepare=differentiate, xp=xp, reverse=not reverse)

    each_step = ((1, 2), (1, 2))
    dweights = Weights(
        W=xp.tensordot(dz, x, axes=each_step),
        R=xp.tensordot(dz, h_prev, axes=each_step),
        b=None if weights.b is None else _sum(dz, xp=xp),
        P=None if P is None else xp.tensordot(*projected, axes=each_step),
        p=None if p is None else _peephole_gradient(dz, c_prev, c, xp=xp),
    )
    return Gradients(_times(weights.W.T, dz, xp=xp), dh0, dc0, dweights)


def _ready(weights: Weights, cell: Cell, *, fresh: bool = False, xp: Namespace) -> tuple[Array, Array, Array | None]:
    """Return W, R and b (4H, 1, 1) in the form that the cell takes."""
    W, R, b, _, p = weights
    if _cell.at_once(p, cell):
        W, R, b = (None if rows is None else _cell.halve_sigmoids(rows, fresh=fresh, xp=xp) for rows in (W, R, b))
    return W, R, None if b is None else xp.expand_dims(b, axis=2)


def _biased(fresh: Array, b: Array | None, *, xp: Namespace) -> Array:
    return fresh if b is None else adder(xp)(fresh, b)


def _restarted(state: State, reset: Array, *, xp: Namespace) -> State:
    h, c = state
    return xp.where(reset, xp.zeros_like(h), h), xp.where(reset, xp.zeros_like(c), c)


def _marked(
    slopes: _cell.Slopes, mask: Array | None, reset: Array | None, like: Array, *, xp: Namespace
) -> tuple[_cell.Slopes, Array, Array]:
    """Return the slopes under the marks, and two factors: of dh that passes by, of dh_prev that is handed on.

    A masked step has no slopes and hands its gradient on; a reset hands none on.
    """
    one = xp.ones_like(like[:1, ...])
    zero = xp.zeros_like(one)
    passing = zero if mask is None else xp.where(mask, zero, one)
    starting = one if reset is None else xp.where(reset, zero, one)
    taken = 1 - passing
    h_c, z_i, z_f, z_g, z_o, c_c = (slope * taken for slope in slopes)
    return _cell.Slopes(h_c, z_i, z_f, z_g, z_o, c_c * starting + passing), passing, starting


def _peephole_gradient(dz: Array, c_prev: Array, c: Array, *, xp: Namespace) -> Array:
    H = dz.shape[0] // 4
    seen = {0: c_prev, 1: c_prev, 3: c}  # by the rows i, f, o
    return xp.concat([_sum(dz[k * H : (k + 1) * H, ...] * s, xp=xp) for k, s in seen.items()])


def _sum(rows: Array, *, xp: Namespace) -> Array:
    """Sum over steps and batch; the axis that is left has a neighbour of size 1."""
    return xp.expand_dims(xp.sum(rows, axis=(1, 2)), axis=1)


def _times(matrix: Array, x: Array, *, xp: Namespace) -> Array:
    """Apply one matrix to every step of every sequence: one product."""
    return xp.tensordot(matrix, x, axes=1)


def _shift(first: Array, s: Array, reverse: bool, *, xp: Namespace) -> Array:
    """Return what each of the steps started from."""
    if s.shape[1] == 0:
        return s
    first = xp.expand_dims(first, axis=1)
    return xp.concat([s[:, 1:, :], first] if reverse else [first, s[:, :-1, :]], axis=1)
