"""What the formats share that have one set of parameters a cell, and leave stacks to their users.

Their parameters are a mapping for a forward layer, or a pair of mappings, forward and backward, for a bidirectional
one; of a stack, a sequence with one of these a layer.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeAlias

import numpy as np

from .._equations.cell import PLAIN, Cell
from .._equations.records import Layer, LSTMWeights
from ..model import LSTM
from ._model import Feature, as_numpy, in_numpy, require_only

Params: TypeAlias = Mapping[str, Any]
LayerParams: TypeAlias = Params | tuple[Params, Params]


def stacked(
    params: Params | tuple[LayerParams, ...] | list[LayerParams],
    unpack: Callable[[Params], LSTMWeights],
    keys: tuple[str, ...],
    cell: Cell = PLAIN,
) -> LSTM:
    """Return the model of the parameters of its cells; a single forward layer's may come as they are."""
    items = [params] if isinstance(params, Mapping) else list(params)
    layers = []
    for k, item in enumerate(items):
        pair = tuple(item) if isinstance(item, tuple | list) and len(item) == 2 else (item,)
        for each in pair:
            _require_keys(each, keys, k)
        layers.append(Layer(*(unpack({key: as_numpy(a) for key, a in each.items() if a is not None}) for each in pair)))
    if not layers:
        raise ValueError("from_params: `params` must have at least one layer; got none.")
    return LSTM(tuple(layers), cell)


def _require_keys(params: Any, keys: tuple[str, ...], k: int) -> None:
    got = ", ".join(map(str, params)) if isinstance(params, Mapping) else type(params).__name__
    if not isinstance(params, Mapping) or not params.keys() >= set(keys):
        raise ValueError(f"from_params: `params[{k}]` must be a mapping with {', '.join(keys)}; got {got}.")


def unstacked(
    format: str,
    model: LSTM,
    pack: Callable[[LSTMWeights], dict[str, np.ndarray]],
    allowed: Collection[Feature] = (),
) -> tuple[Any, ...]:
    """Return the parameters of the cells of a model, one item a layer."""
    model = in_numpy(model)
    require_only(format, model, {"stack", "both", *allowed})
    pairs = [tuple(pack(w) for w in layer if w is not None) for layer in model.layers]
    return tuple(pair[0] if len(pair) == 1 else pair for pair in pairs)
