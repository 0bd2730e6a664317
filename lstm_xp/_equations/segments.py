"""One direction of one layer in segments: of each only the state before it is kept, and the rest is computed again.

So memory grows with the number of segments, and with the steps of one (Chen et al. 2016, arXiv:1604.06174).
"""

from typing import NamedTuple, TypeAlias

from .._seams.namespace import Array, Namespace
from .._seams.ops import adder
from .._seams.scan import fold
from .._seams.trees import filled, leaves, mapped
from . import sequence
from .marks import UNMARKED, Carry, Marks
from .records import LSTMWeights
from .sequence import Direction, Gradients, Kept


class KeptStarts(NamedTuple):
    """What `backward` needs of a run."""

    x: Array
    starts: Carry  # (features, segments, batch): before each
    marks: Marks = UNMARKED


class _Steps(NamedTuple):
    x: Array
    marks: Marks
    dy: Array | None = None


Back: TypeAlias = tuple[Carry, LSTMWeights]


def forward(
    x: Array, start: Carry, direction: Direction, marks: Marks, *, length: int, xp: Namespace
) -> tuple[Array, Carry, KeptStarts]:
    """Return h of every step, the last state, and what the gradient needs, in segments of so many steps."""

    def one(carry: Carry, k: int, steps: _Steps) -> tuple[Carry, tuple[Array, Carry]]:
        path, last = sequence.forward(steps.x, carry, direction, steps.marks, xp=xp)
        return last, (path.h, mapped(lambda a: xp.expand_dims(a, axis=1), carry))

    last, (h, starts) = fold(one, start, _Steps(x, marks), length=length, reverse=direction.reverse, xp=xp)
    return h, last, KeptStarts(x, starts, marks)


def backward(
    dy: Array,
    dlast: Carry | None,
    kept: KeptStarts,
    direction: Direction,
    *,
    length: int,
    with_dx: bool = True,
    xp: Namespace,
) -> Gradients:
    """Return what `sequence.backward` returns."""
    add = adder(xp)

    def one(carry: Back, k: int, steps: _Steps) -> tuple[Back, tuple[Array | None, None]]:
        dlast, dweights = carry
        start = mapped(lambda a: a[:, k, :], kept.starts)
        path, _ = sequence.forward(steps.x, start, direction, steps.marks, keep=True, xp=xp)
        kept_all = Kept(steps.x, start, path, steps.marks)
        found = sequence.backward(steps.dy, dlast, kept_all, direction, with_dx=with_dx, xp=xp)
        sums = map(add, leaves(dweights), leaves(found.dweights))
        return (found.dstart, filled(dweights, sums)), (found.dx, None)

    if dlast is None:
        dlast = mapped(lambda a: xp.zeros_like(a[:, 0, :]), kept.starts)
    carry = dlast, mapped(xp.zeros_like, direction.weights)
    steps = _Steps(kept.x, kept.marks, dy)
    (dstart, dweights), (dx, _) = fold(one, carry, steps, length=length, reverse=not direction.reverse, xp=xp)
    return Gradients(dx, dstart, dweights)
