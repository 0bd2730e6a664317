"""The form of a call: all that the checks and the choice of a kernel look at, so that each form is checked once.

Types, dtypes, devices and shapes, never a value. Where there is little to compute, the checks take as long as the
equations: a call of a form that has passed them goes without.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from ._equations.records import Layer, LSTMState, LSTMWeights
from ._seams.namespace import Array
from ._seams.scan import is_compiling

Form = tuple[Any, ...]
Found = TypeVar("Found")

# Each new length or batch is another form: a stream of them must not fill the memory.
MOST = 256

_GROUPS = {LSTMWeights, LSTMState, type(None)}
_SEQUENCES = (tuple, list)


def form_of(arrays: tuple[Array, ...], layers: Any, state: Any, *options: Any) -> Form | None:
    """Return the form of a call, which holds no array, or None where there is none, as something is out of place.

    Such a call is left to the checks, which have the words. Of two calls with equal forms both pass them, or neither.
    While PyTorch compiles, no call has a form.
    """
    if is_compiling() or not isinstance(layers, _SEQUENCES) or not (state is None or isinstance(state, _SEQUENCES)):
        return None
    groups: list[Any] = []
    for layer in layers:
        if type(layer) is not Layer:
            return None
        groups += layer
    groups += state or ()
    facts = [*options, len(layers), *map(type, groups)]
    if not _GROUPS.issuperset(map(type, groups)):
        return None
    every = list(arrays)
    for group in groups:
        every += group or ()
    try:
        for a in every:
            facts += (None,) if a is None else (type(a), a.dtype, getattr(a, "device", None), a.shape)
    except AttributeError:
        return None
    return tuple(facts)


def once(known: dict[Form, Found], form: Form | None, find: Callable[[], Found]) -> Found:
    """Return what is known of a form, or find it out and keep it; of no form nothing is known or kept."""
    if form is None:
        return find()
    found = known.get(form)
    if found is None:
        found = find()
        if len(known) >= MOST:
            known.clear()
        known[form] = found
    return found
