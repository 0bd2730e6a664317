"""Equinox: the parameters of `equinox.nn.LSTMCell`, whose row blocks are those of this package."""

from typing import Any

from .._equations.records import LSTMWeights
from ..model import LSTM
from ._model import bias_of
from ._one_cell import LayerParams, Params, stacked, unstacked


def from_params(params: Params | tuple[LayerParams, ...] | list[LayerParams]) -> LSTM:
    """Return the model of the fields ``weight_ih (4H, I)``, ``weight_hh (4H, H)`` and ``bias (4H,)`` of a cell.

    Parameters
    ----------
    params : mapping, or sequence with one a layer
        ``vars(cell)`` is such a mapping; a pair of them is a bidirectional layer. Without a bias it is missing or None.

    Examples
    --------
    >>> from_params(to_params(LSTM.init(3, 4, num_layers=2, rng=0)))
    LSTM(3 -> 4, layers: 4, 4, 272 parameters, numpy float32)
    """
    return stacked(params, _weights, ("weight_ih", "weight_hh"))


def to_params(model: LSTM) -> tuple[Any, ...]:
    """Return the fields of the cells, one item a layer; a layer without a bias has zeros.

    Raises
    ------
    ValueError
        If the model has a projection, peepholes, a reverse-only layer, or another cell than the plain one.

    Examples
    --------
    >>> (cell,) = to_params(LSTM.init(3, 4, rng=0))
    >>> {name: array.shape for name, array in cell.items()}
    {'weight_ih': (16, 3), 'weight_hh': (16, 4), 'bias': (16,)}
    """
    return unstacked(
        "Equinox", model, lambda w: {"weight_ih": w.weight_ih, "weight_hh": w.weight_hh, "bias": bias_of(w)}
    )


def _weights(p: Params) -> LSTMWeights:
    return LSTMWeights(p["weight_ih"], p["weight_hh"], p.get("bias"))
