"""Haiku: the parameters of `haiku.LSTM`.

One matrix ``w (I + H, 4H)`` acts on x and h joined, its columns are ordered i, g, f, o, and 1 is added to the forget
gate's pre-activation when the cell runs: here it is in the bias.
"""

from typing import Any

import numpy as np

from .._equations.records import LSTMWeights
from ..model import LSTM
from ._model import bias_of, blocks, with_forget_bias
from ._one_cell import LayerParams, Params, stacked, unstacked

_ORDER = (0, 2, 1, 3)  # i, g, f, o from i, f, g, o, and back
_FORGET_BIAS = 1


def from_params(params: Params | tuple[LayerParams, ...] | list[LayerParams]) -> LSTM:
    """Return the model of the parameters ``w (I + H, 4H)`` and ``b (4H,)`` of a core.

    Parameters
    ----------
    params : mapping, or sequence with one a layer
        ``params["lstm/linear"]`` is such a mapping; a pair of them is a bidirectional layer.

    Examples
    --------
    >>> model = from_params({"w": np.zeros((3 + 4, 16)), "b": np.zeros(16)})
    >>> model.layers[0].forward.bias[4:8]
    array([1., 1., 1., 1.])
    """
    return stacked(params, _weights, ("w", "b"))


def to_params(model: LSTM) -> tuple[Any, ...]:
    """Return the parameters, one item a layer; a layer without a bias has what acts as zeros.

    Raises
    ------
    ValueError
        If the model has a projection, peepholes, a reverse-only layer, or another cell than the plain one.

    Examples
    --------
    >>> (core,) = to_params(LSTM.init(3, 4, rng=0))
    >>> {name: array.shape for name, array in core.items()}
    {'w': (7, 16), 'b': (16,)}
    """
    return unstacked("Haiku", model, _params)


def _weights(p: Params) -> LSTMWeights:
    w, b = p["w"], p["b"]
    H = w.shape[1] // 4
    return LSTMWeights(
        blocks(w[:-H].T, _ORDER), blocks(w[-H:].T, _ORDER), with_forget_bias(blocks(b, _ORDER), _FORGET_BIAS)
    )


def _params(weights: LSTMWeights) -> dict[str, np.ndarray]:
    rows = np.concatenate([weights.weight_ih, weights.weight_hh], axis=1)
    return {"w": blocks(rows, _ORDER).T, "b": blocks(with_forget_bias(bias_of(weights), -_FORGET_BIAS), _ORDER)}
