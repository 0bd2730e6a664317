"""Streams that come and go with one model: their states as one batch, and the states of a batch one by one."""

from collections.abc import Sequence
from itertools import accumulate, pairwise

from ._checks import arrays
from ._checks.arrays import refusal
from ._checks.call import check_layer_states
from ._equations.records import LSTMState, State
from ._seams.namespace import Array, Namespace, whole
from ._seams.ops import copier
from ._seams.trees import mapped

__all__ = ["gather_states", "scatter_states"]

_SYMBOLS = "directions, batch, hidden"


def gather_states(states: Sequence[State], /) -> State:
    """Join the states of several streams, so that one call or step takes all of them.

    Parameters
    ----------
    states : sequence of tuples of LSTMState
        Of one model, with ``h (D, batch, R)`` and ``c (D, batch, H)`` a layer: as `lstm` returns them, and
        `LSTM.zero_state` for a stream that begins. All of one library, dtype and device.

    Returns
    -------
    tuple of LSTMState
        One a layer; its batch is all of theirs, in their order.

    Raises
    ------
    ValueError
        If there are none, or layers or shapes differ.
    TypeError
        If something is not what it should be, or arrays differ in library, dtype or device.

    Examples
    --------
    >>> from lstm_xp import LSTM
    >>> model = LSTM.init(3, 4, rng=0)
    >>> state = gather_states([model.zero_state(1), model.zero_state(2)])
    >>> state[0].h.shape
    (1, 3, 4)
    """
    if not isinstance(states, tuple | list):
        raise TypeError(refusal("gather_states", "states", "be a sequence of states", type(states).__name__))
    if not states:
        raise ValueError(refusal("gather_states", "states", "have at least one state", "none"))
    xp = _check("gather_states", {f"states[{k}]": state for k, state in enumerate(states)})
    return tuple(
        LSTMState(*(xp.concat(parts, axis=1) for parts in zip(*layer, strict=True)))
        for layer in zip(*states, strict=True)
    )


def scatter_states(state: State, sizes: Sequence[int] | None = None, /) -> list[State]:
    """Part the state of a batch into those of its streams: what `gather_states` has joined.

    Parameters
    ----------
    state : tuple of LSTMState
        One a layer, as `lstm` returns it.
    sizes : sequence of int, optional
        Sequences of each stream; by default each is a stream of its own.

    Returns
    -------
    list of tuples of LSTMState
        In their order, with memory of their own: one that is kept does not keep the batch.

    Raises
    ------
    ValueError
        If the sizes do not add up to the batch, or shapes do not fit each other.
    TypeError
        If something is not what it should be, or arrays differ in library, dtype or device.

    Examples
    --------
    >>> from lstm_xp import LSTM
    >>> first, second = scatter_states(LSTM.init(3, 4, rng=0).zero_state(3), [1, 2])
    >>> second[0].h.shape
    (1, 2, 4)
    """
    xp = _check("scatter_states", {"state": state})
    batch = state[0].h.shape[1]
    if not isinstance(batch, int):
        raise ValueError(refusal("scatter_states", "state", "have a known batch", batch))
    sizes = [1] * batch if sizes is None else sizes
    if not isinstance(sizes, tuple | list):
        raise TypeError(refusal("scatter_states", "sizes", "be a sequence of int", type(sizes).__name__))
    sizes = [arrays.integer("scatter_states", f"sizes[{k}]", size, 0) for k, size in enumerate(sizes)]
    if sum(sizes) != batch:
        raise ValueError(refusal("scatter_states", "sizes", f"add up to the batch of `state`, {batch}", sum(sizes)))
    copy, state = copier(xp), mapped(whole, tuple(state))
    return [
        tuple(LSTMState(copy(h[:, start:stop, :]), copy(c[:, start:stop, :])) for h, c in state)
        for start, stop in pairwise(accumulate(sizes, initial=0))
    ]


def _check(function: str, states: dict[str, State]) -> Namespace:
    """Require states, named, that one model could have, with one batch in all layers; return their namespace."""
    first = next(iter(states.values()))
    layers = max(1, len(first)) if isinstance(first, tuple | list) else 1
    named: dict[str, Array] = {}
    for name, state in states.items():
        for k, s in enumerate(check_layer_states(function, name, state, layers)):
            named |= {f"{name}[{k}].h": s.h, f"{name}[{k}].c": s.c}
    xp = arrays.arrays(function, named)
    for name, array in named.items():
        arrays.rank(function, name, array, _SYMBOLS)
        arrays.counted(function, name, array)
    for name, state in states.items():
        batch = state[0].h.shape[1]
        for k, (s, like) in enumerate(zip(state, first, strict=True)):
            D = like.h.shape[0]
            arrays.shape(function, f"{name}[{k}].h", s.h, _SYMBOLS, (D, batch, like.h.shape[2]))
            arrays.shape(function, f"{name}[{k}].c", s.c, _SYMBOLS, (D, batch, like.c.shape[2]))
    return xp
