"""MLX: the parameters of `mlx.nn.LSTM`, whose row blocks are those of this package."""

from ..model import LSTM
from ._model import Format
from ._one_cell import LayerParams, StackParams, from_named, to_named

FORMAT = Format("MLX")


def from_params(params: StackParams) -> LSTM:
    """Return the model of the parameters ``Wx (4H, I)``, ``Wh (4H, H)`` and ``bias (4H,)`` of a layer.

    Parameters
    ----------
    params : mapping of a cell, pair of mappings (both directions), or sequence with one of these a layer
        ``layer.parameters()`` is such a mapping. The bias may be missing.

    Examples
    --------
    >>> from_params(to_params(LSTM.init(3, 4, bidirectional=True, rng=0)))
    LSTM(3 -> 8, layers: 4 + 4 both, 256 parameters, numpy float32)
    """
    return from_named(params, "Wx", "Wh")


def to_params(model: LSTM) -> tuple[LayerParams, ...]:
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
    return to_named(FORMAT.name, model, "Wx", "Wh")
