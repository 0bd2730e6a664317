"""Equinox: the parameters of `equinox.nn.LSTMCell`, whose row blocks are those of this package."""

from ..model import LSTM
from ._model import Format
from ._one_cell import LayerParams, StackParams, from_named, to_named

FORMAT = Format("Equinox")


def from_params(params: StackParams) -> LSTM:
    """Return the model of the fields ``weight_ih (4H, I)``, ``weight_hh (4H, H)`` and ``bias (4H,)`` of a cell.

    Parameters
    ----------
    params : mapping of a cell, pair of mappings (both directions), or sequence with one of these a layer
        ``vars(cell)`` is such a mapping. Without a bias it is missing or None.

    Examples
    --------
    >>> from_params(to_params(LSTM.init(3, 4, num_layers=2, rng=0)))
    LSTM(3 -> 4, layers: 4, 4, 272 parameters, numpy float32)
    """
    return from_named(params, "weight_ih", "weight_hh")


def to_params(model: LSTM) -> tuple[LayerParams, ...]:
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
    return to_named(FORMAT.name, model, "weight_ih", "weight_hh")
