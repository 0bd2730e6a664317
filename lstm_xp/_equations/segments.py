"""One direction of one layer with what its gradient needs: every step, or of each segment the state before it alone.

Then the rest is computed again, and memory grows with the number of segments and with the steps of one (Chen et al.
2016, arXiv:1604.06174).
"""

from typing import Any, NamedTuple

from .._seams.namespace import Array, Namespace
from .._seams.ops import adder
from .._seams.scan import fold
from .._seams.trees import filled, leaves, mapped
from . import sequence
from .marks import Carry, Marks, masked
from .sequence import Direction, Gradients, Kept


class KeptStarts(NamedTuple):
    """What `backward` needs of a run in segments."""

    x: Array
    starts: Carry  # (features, segments, batch): before each
    marks: Marks


def run(
    x: Array, start: Carry, marks: Marks, *, direction: Direction, keep: bool = False, xp: Namespace
) -> tuple[Array, Carry, Any]:
    """Return y, which is h but 0 where masked, the last state, and what the gradient needs if it is to `keep` that."""
    path, last = sequence.forward(x, start, direction, marks, keep=keep, xp=xp)
    return masked(path.h, marks.mask, xp=xp), last, Kept(x, start, path, marks) if keep else None


def forward(
    x: Array, start: Carry, marks: Marks, *, direction: Direction, length: int | None, xp: Namespace
) -> tuple[Array, Carry, Any]:
    """Return y, the last state, and what the gradient needs: in segments of so many steps, or of all at once."""
    if length is None:
        return run(x, start, marks, direction=direction, keep=True, xp=xp)

    def one(carry: Carry, t: int, rows: Any) -> tuple[Carry, tuple[Array, Carry]]:
        x, marks = rows
        y, last, _ = run(x, carry, marks, direction=direction, xp=xp)
        return last, (y, mapped(lambda a: xp.expand_dims(a, axis=1), carry))

    last, (y, starts) = fold(one, start, (x, marks), length=length, reverse=direction.reverse, xp=xp)
    return y, last, KeptStarts(x, starts, marks)


def backward(
    dy: Array,
    dlast: Carry | None,
    kept: Kept | KeptStarts,
    direction: Direction,
    *,
    length: int | None,
    with_dx: bool = True,
    xp: Namespace,
) -> Gradients:
    """Return what `sequence.backward` returns."""
    if isinstance(kept, Kept):
        return sequence.backward(dy, dlast, kept, direction, with_dx=with_dx, xp=xp)
    assert length is not None
    add = adder(xp)

    def one(carry: Any, t: int, rows: Any) -> tuple[Any, tuple[Array | None, None]]:
        (x, marks, dy), (dlast, dweights) = rows, carry
        start = mapped(lambda a: a[:, t // length, :], kept.starts)
        _, _, segment = run(x, start, marks, direction=direction, keep=True, xp=xp)
        found = sequence.backward(dy, dlast, segment, direction, with_dx=with_dx, xp=xp)
        sums = map(add, leaves(dweights), leaves(found.dweights))
        return (found.dstart, filled(dweights, sums)), (found.dx, None)

    if dlast is None:
        dlast = mapped(lambda a: xp.zeros_like(a[:, 0, :]), kept.starts)
    carry = dlast, mapped(xp.zeros_like, direction.weights)
    rows = kept.x, kept.marks, dy
    (dstart, dweights), (dx, _) = fold(one, carry, rows, length=length, reverse=not direction.reverse, xp=xp)
    return Gradients(dx, dstart, dweights)
