"""MLX: the parameters of `mlx.nn.LSTM`, whose row blocks are those of this package."""

from typing import Any

from .._equations.records import LSTMWeights
from ..model import LSTM
from ._model import bias_of
from ._one_cell import LayerParams, Params, stacked, unstacked


def from_params(params: Params | tuple[LayerParams, ...] | list[LayerParams]) -> LSTM:
    """Return the model of the parameters ``Wx (4H, I)``, ``Wh (4H, H)`` and ``bias (4H,)`` of a layer.

    Parameters
    ----------
    params : mapping, or sequence with one a layer
        ``layer.parameters()`` is such a mapping; a pair of them is a bidirectional layer. The bias may be missing.

    Examples
    --------
    >>> from_params(to_params(LSTM.init(3, 4, bidirectional=True, rng=0)))
    LSTM(3 -> 8, layers: 4 + 4 both, 256 parameters, numpy float32)
    """
    return stacked(params, _weights, ("Wx", "Wh"))


def to_params(model: LSTM) -> tuple[Any, ...]:
    """Return the parameters, one item a layer; a layer without a bias has zeros.

    Raises
    ------
    ValueError
        If the model has a projection, peepholes, a reverse-only layer, or another cell than the plain one.

    Examples
    --------
    >>> (layer,) = to_params(LSTM.init(3, 4, rng=0))
    >>> {name: array.shape for name, array in layer.items()}
    {'Wx': (16, 3), 'Wh': (16, 4), 'bias': (16,)}
    """
    return unstacked("MLX", model, lambda w: {"Wx": w.weight_ih, "Wh": w.weight_hh, "bias": bias_of(w)})


def _weights(p: Params) -> LSTMWeights:
    return LSTMWeights(p["Wx"], p["Wh"], p.get("bias"))
