"""One direction of one layer over time, forward and backward.

A sequence is (features, time, batch), a state (features, batch), a mark of steps (1, time, batch). Where `mask` is
false, a step changes nothing: its state is the one before, its y is zero, and neither its input nor its `reset`
matters. Where `reset` is true, the step starts from zeros. Both are wrapped around a step that knows nothing of them.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from .._seams.namespace import Array, Namespace
from .._seams.ops import adder, each_times, product, weight_gradient
from .._seams.scan import scan
from .._seams.trees import mapped
from . import cell as equations
from .cell import PLAIN, Cell, Gates, Slopes
from .records import LSTMWeights

Carry: TypeAlias = tuple[Array, Array]  # h (R, batch), c (H, batch); in the gradient dh and dc


class Direction(NamedTuple):
    """One direction of a layer; the reverse one runs from the last step to the first."""

    weights: LSTMWeights
    cell: Cell = PLAIN
    reverse: bool = False


class Marks(NamedTuple):
    """What is said about single steps: (1, time, batch), boolean."""

    mask: Array | None = None
    reset: Array | None = None


UNMARKED = Marks()


class Path(NamedTuple):
    """Every step: the states after it, and what its gradient starts from, where they are kept."""

    h: Array  # (R, time, batch)
    c: Array | None = None  # (H, time, batch)
    z: Array | None = None  # (4H, time, batch)
    out: Array | None = None  # (H, time, batch): h before its projection


class Kept(NamedTuple):
    """What `backward` needs of a run."""

    x: Array
    start: Carry
    path: Path
    marks: Marks = UNMARKED


class Gradients(NamedTuple):
    """What `backward` returns: a gradient for each array that went into `forward`."""

    dx: Array
    dstart: Carry
    dweights: LSTMWeights


class _Inputs(NamedTuple):
    x: Array
    mask: Array | None
    reset: Array | None


class _Row(NamedTuple):
    """What a step reads."""

    z: Array
    mask: Array | None
    reset: Array | None


def forward(
    x: Array,
    start: Carry,
    direction: Direction,
    marks: Marks = UNMARKED,
    *,
    with_c: bool = False,
    keep: bool = False,
    xp: Namespace,
) -> tuple[Path, Carry]:
    """Return h of every step, and the last state; `with_c` c too, or all of the path to `keep` it for the gradient.

    At a masked step h and c are those before it.
    """
    (W, R, b, P, p), cell, reverse = direction
    add, matmul = adder(xp), product(xp)
    p = None if p is None else p[:, None]

    def prepare(rows: _Inputs) -> _Row:
        z = each_times(W, masked(rows.x, rows.mask, xp=xp), xp=xp)
        return _Row(z if b is None else add(z, b[:, None, None]), rows.mask, rows.reset)

    def one(carry: Carry, row: _Row) -> _Stepped:
        h, c = carry
        z = add(matmul(R, h), row.z)
        out, c, _ = equations.forward(z, c, p, cell, xp=xp)
        h = equations.project(out, P, cell, xp=xp)
        if keep:
            return (h, c), Path(h, c, z, None if P is None else out)
        return (h, c), Path(h, c if with_c else None)

    marked: _Step = one if marks.reset is None else _restarting(one, xp=xp)
    marked = marked if marks.mask is None else _passing(marked, xp=xp)
    last, path = scan(marked, start, _Inputs(x, *marks), prepare=prepare, xp=xp, reverse=reverse)
    return path, last


def step(x: Array, start: Carry, direction: Direction, *, xp: Namespace) -> Carry:
    """Return the state after one step from x (I, batch): what `forward` prepares would be most of its cost."""
    (W, R, b, P, p), cell, _ = direction
    h, c = start
    add, matmul = adder(xp), product(xp)
    z = add(matmul(W, x), matmul(R, h))
    z = z if b is None else add(z, b[:, None])
    h, c, _ = equations.forward(z, c, p if p is None else p[:, None], cell, xp=xp)
    return equations.project(h, P, cell, xp=xp), c


# Names, as the annotations of an inner function are evaluated at every call, where torch.compile cannot follow them.
_Stepped: TypeAlias = tuple[Carry, Path]
_Step: TypeAlias = Callable[[Carry, _Row], _Stepped]


class _Known(NamedTuple):
    """What is known of a step before its gradient."""

    dh: Array
    dc: Array | None
    h_prev: Array | None  # with x, where z has to be computed again
    x: Array | None
    c_prev: Array
    c: Array
    z: Array | None
    free: Array | None  # where h was not bounded
    mask: Array | None
    reset: Array | None


class _Back(NamedTuple):
    """What the gradient of a step reads."""

    dh: Array
    dc: Array | None
    slopes: Slopes
    free: Array | None
    mask: Array | None
    reset: Array | None


class _Gradient(NamedTuple):
    """What the gradient of a step leaves: that of z, and that of the product P @ out."""

    dz: Array
    dP_out: Array | None = None


_SteppedBack: TypeAlias = tuple[Carry, _Gradient]
_StepBack: TypeAlias = Callable[[Carry, _Back], _SteppedBack]


def backward(
    dy: Array, dlast: Carry | None, kept: Kept, direction: Direction, *, dc: Array | None = None, xp: Namespace
) -> Gradients:
    """Return the gradients of sum(dy * y) + sum(dc * c) + sum(dlast * last state)."""
    weights, cell, reverse = direction
    x, path, marks = masked(kept.x, kept.marks.mask, xp=xp), kept.path, kept.marks
    h_prev, c_prev = _before(kept, reverse, xp=xp)
    dh, free = masked(dy, marks.mask, xp=xp), equations.unbounded(path.h, cell, xp=xp)
    known = _Known(dh, dc, h_prev, x, c_prev, path.c, path.z, free, *marks)
    if path.z is not None:
        known = known._replace(h_prev=None, x=None)
    back = _gradient_step(weights, marks, xp=xp)
    if dlast is None:
        dlast = xp.zeros_like(kept.start[0]), xp.zeros_like(kept.start[1])
    prepare = _linearising(direction, xp=xp)
    dstart, (dz, dP_out) = scan(back, dlast, known, prepare=prepare, xp=xp, reverse=not reverse)
    W, R, b, P, p = weights
    dweights = LSTMWeights(
        weight_gradient(dz, x, W, xp=xp),
        weight_gradient(dz, h_prev, R, xp=xp),
        None if b is None else xp.sum(dz, axis=(1, 2)),
        None if P is None else weight_gradient(dP_out, path.out, P, xp=xp),
        None if p is None else xp.sum(equations.peephole_gradient(dz, c_prev, path.c, xp=xp), axis=(1, 2)),
    )
    return Gradients(_times(W.T, dz, xp=xp), dstart, dweights)


def gates(kept: Kept, direction: Direction, *, xp: Namespace) -> Gates:
    """Return the gates of every step: 0 where it is masked."""
    p = direction.weights.peephole
    p = None if p is None else p[:, None, None]
    _, c_prev = _before(kept, direction.reverse, xp=xp)
    made, _ = equations.activate(kept.path.z, c_prev, kept.path.c, p, direction.cell, xp=xp)
    i, f, g, o = (masked(gate, kept.marks.mask, xp=xp) for gate in made)
    return i, f, g, o


def _linearising(direction: Direction, *, xp: Namespace) -> Callable[[_Known], _Back]:
    """Return the function that takes the slopes of many steps at once."""
    (W, R, b, _, p), cell, _ = direction
    p = None if p is None else p[:, None, None]

    def prepare(known: _Known) -> _Back:
        z = known.z
        if z is None:
            z = adder(xp)(_times(W, known.x, xp=xp), _times(R, known.h_prev, xp=xp))
            z = z if b is None else adder(xp)(z, b[:, None, None])
        gates, inner = equations.activate(z, known.c_prev, known.c, p, cell, xp=xp)
        slopes, _ = equations.linearise(gates, inner, known.c_prev, known.c, p, cell, xp=xp)
        return _Back(known.dh, known.dc, slopes, known.free, known.mask, known.reset)

    return prepare


def _gradient_step(weights: LSTMWeights, marks: Marks, *, xp: Namespace) -> _StepBack:
    """Return the step of `backward`, under its marks."""
    matmul, R_T = product(xp), weights.weight_hh.T
    P_T = None if weights.weight_hr is None else weights.weight_hr.T

    def one(carry: Carry, row: _Back) -> _SteppedBack:
        dh, dc = row.dh + carry[0], carry[1] if row.dc is None else carry[1] + row.dc
        dP_out = None
        if P_T is not None:
            dP_out = dh if row.free is None else dh * row.free
            dh = matmul(P_T, dP_out)
        dz, dc = equations.backward(dh, dc, row.slopes, xp=xp)
        return (matmul(R_T, dz), dc), _Gradient(dz, dP_out)

    marked: _StepBack = one if marks.reset is None else _restarting_gradient(one, xp=xp)
    return marked if marks.mask is None else _passing_gradient(marked, xp=xp)


def masked(y: Array, mask: Array | None, *, xp: Namespace) -> Array:
    """Return y with zeros where the mask is false."""
    return y if mask is None else xp.where(mask, y, xp.zeros_like(y))


# The wrappers of a step: a reset is inside of a mask, as a masked step takes no notice of it.


def _restarting(step: _Step, *, xp: Namespace) -> _Step:
    """Let a step start from zeros where it is a reset."""
    return lambda carry, row: step(_zeroed(carry, row.reset, xp=xp), row)


def _restarting_gradient(step: _StepBack, *, xp: Namespace) -> _StepBack:
    """Let nothing go back to the step before a reset."""

    def wrapped(carry: Carry, row: _Back) -> _SteppedBack:
        before, out = step(carry, row)
        return _zeroed(before, row.reset, xp=xp), out

    return wrapped


def _passing(step: _Step, *, xp: Namespace) -> _Step:
    """Let the state pass by a masked step as it was."""

    def wrapped(carry: Carry, row: _Row) -> _Stepped:
        after, path = step(carry, row)
        h, c = _chosen(row.mask, after, carry, xp=xp)
        return (h, c), path._replace(h=h, c=None if path.c is None else c)

    return wrapped


def _passing_gradient(step: _StepBack, *, xp: Namespace) -> _StepBack:
    """Let the gradient pass by a masked step as it was, and leave nothing of it there."""

    def wrapped(carry: Carry, row: _Back) -> _SteppedBack:
        before, out = step(carry, row)
        mask = row.mask
        return _chosen(mask, before, carry, xp=xp), mapped(lambda d: masked(d, mask, xp=xp), out)

    return wrapped


def _chosen(mask: Array, here: Carry, there: Carry, *, xp: Namespace) -> Carry:
    """Return one state where the mask is true, and the other elsewhere."""
    return xp.where(mask, here[0], there[0]), xp.where(mask, here[1], there[1])


def _zeroed(state: Carry, reset: Array, *, xp: Namespace) -> Carry:
    h, c = state
    return xp.where(reset, xp.zeros_like(h), h), xp.where(reset, xp.zeros_like(c), c)


def _times(matrix: Array, x: Array, *, xp: Namespace) -> Array:
    """Apply one matrix to every step of every sequence: one product."""
    return xp.tensordot(matrix, x, axes=1)


def _before(kept: Kept, reverse: bool, *, xp: Namespace) -> Carry:
    """Return h and c (features, time, batch) that each of the steps started from."""
    h, c = (_shifted(s, first, reverse, xp=xp) for s, first in zip(kept.path[:2], kept.start, strict=True))
    return (h, c) if kept.marks.reset is None else _zeroed((h, c), kept.marks.reset, xp=xp)


def _shifted(s: Array, first: Array, reverse: bool, *, xp: Namespace) -> Array:
    """Return the steps one later, with the first one before them."""
    first = xp.expand_dims(first, axis=1)
    if reverse:
        return xp.concat([s, first], axis=1)[:, 1:, :]
    return xp.concat([first, s], axis=1)[:, : s.shape[1], :]
