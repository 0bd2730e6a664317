"""One direction of one layer over time, forward and backward.

A sequence is (features, time, batch), a state (features, batch).
"""

from functools import partial
from typing import Any, NamedTuple, TypeAlias

from .._seams.compilers import Equation, compiled, compiler_for
from .._seams.namespace import Array, Namespace
from .._seams.ops import adder, column, each_times, product, weight_gradient
from .._seams.scan import scan
from . import cell as equations
from .cell import Cell, Gates
from .marks import UNMARKED, Carry, Marks, Step, marked, marked_gradient, masked, zeroed
from .records import LSTMWeights


class Direction(NamedTuple):
    """One direction of a layer; the reverse one runs from the last step to the first."""

    weights: LSTMWeights
    cell: Cell
    reverse: bool = False
    compilable: bool = True  # whether a compiler may take the equations


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

    dx: Array | None
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
    (W, R, b, P, p), cell, reverse, _ = direction
    add, matmul = adder(xp), product(xp)
    p = None if p is None else p[:, None]
    b = None if b is None else column(b, start[1].shape[1], xp=xp)
    fused = _fused(equations.forward, (4, 1), direction, start[1], xp=xp)

    def prepare(rows: _Inputs) -> _Row:
        z = each_times(W, masked(rows.x, rows.mask, xp=xp), xp=xp)
        return _Row(z if b is None else add(z, b), rows.mask, rows.reset)

    def one(carry: Carry, row: _Row) -> _Stepped:
        h, c = carry
        z = add(matmul(R, h), row.z)
        out, c = fused(z, c) if fused else equations.forward(z, c, p, cell, xp=xp)[:2]
        h = equations.project(out, P, cell, xp=xp)
        if keep:
            return (h, c), Path(h, c, z, None if P is None else out)
        return (h, c), Path(h, c if with_c else None)

    run = marked(one, marks, xp=xp)
    last, path = scan(run, start, _Inputs(x, *marks), prepare=prepare, xp=xp, reverse=reverse)
    return path, last


def step(x: Array, start: Carry, direction: Direction, *, xp: Namespace) -> Carry:
    """Return the state after one step from x (I, batch): what `forward` prepares would be most of its cost."""
    (W, R, b, P, p), cell, *_ = direction
    h, c = start
    add, matmul = adder(xp), product(xp)
    z = add(matmul(W, x), matmul(R, h))
    z = z if b is None else add(z, b[:, None])
    p = None if p is None else p[:, None]
    fused = _fused(equations.forward, (4, 1), direction, c, xp=xp)
    h, c = fused(z, c) if fused else equations.forward(z, c, p, cell, xp=xp)[:2]
    return equations.project(h, P, cell, xp=xp), c


# A name, as the annotations of an inner function are evaluated at every call, where torch.compile cannot follow them.
_Stepped: TypeAlias = tuple[Carry, Path]


class _Known(NamedTuple):
    """What is known of a step before its gradient."""

    z: Array
    c_prev: Array
    c: Array


class _Back(NamedTuple):
    """What the gradient of a step reads."""

    dh: Array
    dc: Array | None
    at: Any  # what is known, or its slopes
    free: Array | None  # where h was not bounded
    mask: Array | None
    reset: Array | None


class _Gradient(NamedTuple):
    """What the gradient of a step leaves: that of z, and that of the product P @ out."""

    dz: Array
    dP_out: Array | None = None


_SteppedBack: TypeAlias = tuple[Carry, _Gradient]


def backward(
    dy: Array,
    dlast: Carry | None,
    kept: Kept,
    direction: Direction,
    *,
    dc: Array | None = None,
    with_dx: bool = True,
    xp: Namespace,
) -> Gradients:
    """Return the gradients of sum(dy * y) + sum(dc * c) + sum(dlast * last state); without `with_dx` none of x."""
    weights, cell, reverse, _ = direction
    x, path, marks = masked(kept.x, kept.marks.mask, xp=xp), kept.path, kept.marks
    h_prev, c_prev = _before(kept, reverse, xp=xp)
    dh, free = masked(dy, marks.mask, xp=xp), equations.unbounded(path.h, cell, xp=xp)
    rows = _Back(dh, dc, _Known(path.z, c_prev, path.c), free, *marks)
    W, R, b, P, p = weights
    slopes = partial(equations.slopes, p=None if p is None else p[:, None, None], cell=cell, xp=xp)
    fused = _fused(equations.gradient, (1, 1, 4, 1, 1), direction, kept.start[1], xp=xp)

    def linearise(rows: _Back) -> _Back:
        return rows if fused else rows._replace(at=slopes(*rows.at))

    back = _gradient_step(fused, weights, marks, xp=xp)
    if dlast is None:
        dlast = xp.zeros_like(kept.start[0]), xp.zeros_like(kept.start[1])
    dstart, (dz, dP_out) = scan(back, dlast, rows, prepare=linearise, xp=xp, reverse=not reverse)
    dweights = LSTMWeights(
        weight_gradient(dz, x, W, xp=xp),
        weight_gradient(dz, h_prev, R, xp=xp),
        None if b is None else xp.sum(dz, axis=(1, 2)),
        None if P is None else weight_gradient(dP_out, path.out, P, xp=xp),
        None if p is None else xp.sum(equations.peephole_gradient(dz, c_prev, path.c, xp=xp), axis=(1, 2)),
    )
    return Gradients(_times(W.T, dz, xp=xp) if with_dx else None, dstart, dweights)


def gates(kept: Kept, direction: Direction, *, xp: Namespace) -> Gates:
    """Return the gates of every step: 0 where it is masked."""
    p = direction.weights.peephole
    p = None if p is None else p[:, None, None]
    _, c_prev = _before(kept, direction.reverse, xp=xp)
    made, _ = equations.activate(kept.path.z, c_prev, kept.path.c, p, direction.cell, xp=xp)
    i, f, g, o = (masked(gate, kept.marks.mask, xp=xp) for gate in made)
    return i, f, g, o


def preactivations(kept: Kept, direction: Direction, *, xp: Namespace) -> Array:
    """Return z of every step from the states around it, where it was not kept: a product with R once more."""
    W, R, b, _, _ = direction.weights
    h_prev, _ = _before(kept, direction.reverse, xp=xp)
    z = adder(xp)(_times(W, kept.x, xp=xp), _times(R, h_prev, xp=xp))
    return z if b is None else adder(xp)(z, column(b, z.shape[2], xp=xp))


def _fused(
    equation: Equation, rows: tuple[int, ...], direction: Direction, c: Array, *, xp: Namespace
) -> Equation | None:
    """Return an equation for arrays of so many row blocks and states like c, if a compiler takes it: no user's code."""
    p, cell = direction.weights.peephole, direction.cell
    compiler = compiler_for(c, xp=xp) if direction.compilable else None
    if compiler is None or any(map(callable, vars(cell).values())):
        return None
    if p is None:
        return compiled(compiler, equation, rows, c.dtype, cell=cell)
    found = compiled(compiler, equation, (*rows, 3), c.dtype, cell=cell)
    columns = p[:, None] * xp.ones_like(c[:1, ...])
    return lambda *arrays: found(*arrays, columns)


def _gradient_step(fused: Equation | None, weights: LSTMWeights, marks: Marks, *, xp: Namespace) -> Step[_Gradient]:
    """Return the step of `backward`, under its marks."""
    matmul, R_T = product(xp), weights.weight_hh.T
    P_T = None if weights.weight_hr is None else weights.weight_hr.T

    def one(carry: Carry, row: _Back) -> _SteppedBack:
        dh, dc = row.dh + carry[0], carry[1] if row.dc is None else carry[1] + row.dc
        dP_out = None
        if P_T is not None:
            dP_out = dh if row.free is None else dh * row.free
            dh = matmul(P_T, dP_out)
        dz, dc = fused(dh, dc, *row.at) if fused else equations.backward(dh, dc, row.at, xp=xp)
        return (matmul(R_T, dz), dc), _Gradient(dz, dP_out)

    return marked_gradient(one, marks, xp=xp)


def _times(matrix: Array, x: Array, *, xp: Namespace) -> Array:
    """Apply one matrix to every step of every sequence: one product."""
    return xp.tensordot(matrix, x, axes=1)


def _before(kept: Kept, reverse: bool, *, xp: Namespace) -> Carry:
    """Return h and c (features, time, batch) that each of the steps started from."""
    h, c = (_shifted(s, first, reverse, xp=xp) for s, first in zip(kept.path[:2], kept.start, strict=True))
    return (h, c) if kept.marks.reset is None else zeroed((h, c), kept.marks.reset, xp=xp)


def _shifted(s: Array, first: Array, reverse: bool, *, xp: Namespace) -> Array:
    """Return the steps one later, with the first one before them."""
    first = xp.expand_dims(first, axis=1)
    if reverse:
        return xp.concat([s, first], axis=1)[:, 1:, :]
    return xp.concat([first, s], axis=1)[:, : s.shape[1], :]
