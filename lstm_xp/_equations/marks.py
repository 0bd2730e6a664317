"""What is said about single steps, as wrappers of a step that knows nothing of it.

Where `mask` is false, a step changes nothing: its state is the one before, and neither its input nor its `reset`
matters. Where `reset` is true, the step starts from zeros. The gradient of each stands next to it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias, TypeVar

from .._seams.namespace import Array, Namespace
from .._seams.trees import mapped

Carry: TypeAlias = tuple[Array, Array]  # h (R, batch), c (H, batch); in the gradient dh and dc
Out = TypeVar("Out", bound=tuple[Any, ...])
# A step takes the carry and a row, of which `mask` and `reset` are looked at here.
Step: TypeAlias = Callable[[Carry, Any], tuple[Carry, Out]]


class Marks(NamedTuple):
    """Booleans (1, time, batch)."""

    mask: Array | None = None
    reset: Array | None = None


UNMARKED = Marks()


def marked(step: Step[Out], marks: Marks, *, xp: Namespace) -> Step[Out]:
    """Return a step under its marks; it leaves h, and may leave c. A masked step takes no notice of a reset."""

    def restarting(carry: Carry, row: Any) -> Any:
        return step(zeroed(carry, row.reset, xp=xp), row)

    inner: Any = step if marks.reset is None else restarting

    def passing(carry: Carry, row: Any) -> Any:
        after, path = inner(carry, row)
        h, c = _chosen(row.mask, after, carry, xp=xp)
        return (h, c), path._replace(h=h, c=None if path.c is None else c)

    return inner if marks.mask is None else passing


def marked_gradient(step: Step[Out], marks: Marks, *, xp: Namespace) -> Step[Out]:
    """Return the gradient of a step under its marks: nothing goes back to before a reset, all goes by a masked step."""

    def restarting(carry: Carry, row: Any) -> Any:
        before, out = step(carry, row)
        return zeroed(before, row.reset, xp=xp), out

    inner = step if marks.reset is None else restarting

    def passing(carry: Carry, row: Any) -> Any:
        before, out = inner(carry, row)
        return _chosen(row.mask, before, carry, xp=xp), mapped(lambda d: masked(d, row.mask, xp=xp), out)

    return inner if marks.mask is None else passing


def masked(y: Array, mask: Array | None, *, xp: Namespace) -> Array:
    """Return y with zeros where the mask is false."""
    return y if mask is None else xp.where(mask, y, xp.zeros_like(y))


def zeroed(state: Carry, reset: Array, *, xp: Namespace) -> Carry:
    """Return a state with zeros where the reset is true."""
    return _chosen(reset, mapped(xp.zeros_like, state), state, xp=xp)


def _chosen(mask: Array, here: Carry, there: Carry, *, xp: Namespace) -> Carry:
    """Return one state where the mask is true, and the other elsewhere."""
    return xp.where(mask, here[0], there[0]), xp.where(mask, here[1], there[1])
