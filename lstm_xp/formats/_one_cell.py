"""What the formats share that have one set of parameters a cell, and leave stacks to their users.

Their parameters are a mapping for a forward layer, or a pair of mappings, forward and backward, for a bidirectional
one; of a stack, a sequence with one of these a layer.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeAlias

import numpy as np

from .._equations.cell import PLAIN, Cell
from .._equations.records import Layer, LSTMWeights
from .._seams.namespace import Array, to_numpy
from ..model import LSTM
from ._model import Feature, bias_of, blocks, in_numpy, require_only

Params: TypeAlias = Mapping[str, Array]  # of a cell
LayerParams: TypeAlias = Params | tuple[Params, ...]
StackParams: TypeAlias = Params | Sequence[LayerParams]

_ORDER = (0, 2, 1, 3)  # i, g, f, o from i, f, g, o, and back


def stacked(
    params: StackParams, unpack: Callable[[Params], LSTMWeights], keys: tuple[str, ...], cell: Cell = PLAIN
) -> LSTM:
    """Return the model of the parameters of its cells; a single forward layer's may come as they are."""
    layers = []
    for k, item in enumerate([params] if isinstance(params, Mapping) else params):
        pair = item if isinstance(item, tuple | list) and len(item) == 2 else (item,)
        layers.append(Layer(*(unpack(_arrays(each, keys, k)) for each in pair)))
    if not layers:
        raise ValueError("from_params: `params` must have at least one layer; got none.")
    return LSTM(tuple(layers), cell)


def _arrays(params: object, keys: tuple[str, ...], k: int) -> Params:
    """Return the parameters of a cell that there are, in NumPy's arrays."""
    if isinstance(params, Mapping) and params.keys() >= set(keys):
        return {key: to_numpy(a) for key, a in params.items() if a is not None}
    got = ", ".join(map(str, params)) if isinstance(params, Mapping) else type(params).__name__
    raise ValueError(f"from_params: `params[{k}]` must be a mapping with {', '.join(keys)}; got {got}.")


def unstacked(
    format: str, model: LSTM, pack: Callable[[LSTMWeights], Params], allowed: Collection[Feature] = ()
) -> tuple[LayerParams, ...]:
    """Return the parameters of the cells of a model, one item a layer."""
    model = in_numpy(model)
    require_only(format, model, allowed)
    pairs = [tuple(pack(w) for w in layer if w is not None) for layer in model.layers]
    return tuple(pair[0] if len(pair) == 1 else pair for pair in pairs)


def from_named(params: StackParams, ih: str, hh: str) -> LSTM:
    """Return the model of cells that call the two matrices so, and have a ``bias`` or none."""
    return stacked(params, lambda p: LSTMWeights(p[ih], p[hh], p.get("bias")), (ih, hh))


def to_named(format: str, model: LSTM, ih: str, hh: str) -> tuple[LayerParams, ...]:
    """Return the parameters of cells that call the two matrices so."""
    return unstacked(format, model, lambda w: {ih: w.weight_ih, hh: w.weight_hh, "bias": bias_of(w)})


def separated(kernel: np.ndarray, bias: np.ndarray, R: int, forget_bias: float) -> LSTMWeights:
    """Return the weights of one matrix ``(I + R, 4H)`` on x and h joined, its columns ordered i, g, f, o."""
    rows = blocks(kernel.T, _ORDER)
    return LSTMWeights(rows[:, :-R], rows[:, -R:], _with_forget_bias(blocks(bias, _ORDER), forget_bias))


def joined(weights: LSTMWeights, forget_bias: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the one matrix and the bias of weights: what `separated` takes."""
    rows = np.concatenate([weights.weight_ih, weights.weight_hh], axis=1)
    return blocks(rows, _ORDER).T, blocks(_with_forget_bias(bias_of(weights), -forget_bias), _ORDER)


def _with_forget_bias(bias: np.ndarray, added: float) -> np.ndarray:
    """Return a bias, its blocks ordered i, f, g, o, with a number added to the forget gate's."""
    H = bias.shape[0] // 4
    return np.concatenate([bias[:H], bias[H : 2 * H] + bias.dtype.type(added), bias[2 * H :]])
