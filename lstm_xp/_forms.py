"""The form of a call: all that the checks and the choice of a kernel look at, so that each form is checked once.

Types, dtypes, devices and shapes, never a value. Where there is little to compute, the checks take as long as the
equations: a call of a form that has passed them goes without.
"""

from typing import Any, TypeVar

from ._namespace import Array
from ._structure import Layer, LSTMState, LSTMWeights

Form = tuple[Any, ...]
Found = TypeVar("Found")

# Each new length or batch is another form: a stream of them must not fill the memory.
MOST = 256

_GROUPS = {LSTMWeights, LSTMState, type(None)}


def form_of(arrays: tuple[Array, ...], layers: Any, state: Any, *options: Any) -> Form | None:
    """Return the form of a call, which holds no array, or None where there is none, as something is out of place.

    Such a call is left to the checks, which have the words. Of two calls with equal forms both pass them, or neither.
    """
    if not isinstance(layers, tuple | list) or not isinstance(state, tuple | list | None):
        return None
    groups: list[Any] = [group for layer in layers if type(layer) is Layer for group in layer]
    if len(groups) < 2 * len(layers):
        return None
    groups += state or ()
    if not _GROUPS.issuperset(map(type, groups)):
        return None
    facts = [*options, len(layers)]
    try:
        for group in (arrays, *groups):
            facts.append(type(group))
            for a in group or ():
                facts += (None,) if a is None else (type(a), a.dtype, getattr(a, "device", None), a.shape)
    except AttributeError:
        return None
    return tuple(facts)


def note(known: dict[Form | None, Found], form: Form | None, found: Found) -> Found:
    """Keep what was found out about a form, and return it."""
    if form is not None:
        if len(known) >= MOST:
            known.clear()
        known[form] = found
    return found
