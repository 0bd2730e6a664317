"""Haiku: the parameters of `haiku.LSTM`.

One matrix ``w (I + H, 4H)`` acts on x and h joined, its columns are ordered i, g, f, o, and 1 is added to the forget
gate's pre-activation when the cell runs: here it is in the bias.
"""

from ..model import LSTM
from ._model import Format
from ._one_cell import LayerParams, StackParams, joined, separated, stacked, unstacked

FORMAT = Format("Haiku")

_FORGET_BIAS = 1.0


def from_params(params: StackParams) -> LSTM:
    """Return the model of the parameters ``w (I + H, 4H)`` and ``b (4H,)`` of a core.

    Parameters
    ----------
    params : mapping of a cell, pair of mappings (both directions), or sequence with one of these a layer
        ``params["lstm/linear"]`` is such a mapping.

    Examples
    --------
    >>> import numpy as np
    >>> model = from_params({"w": np.zeros((3 + 4, 16)), "b": np.zeros(16)})
    >>> model.layers[0].forward.bias[4:8]
    array([1., 1., 1., 1.])
    """
    return stacked(params, lambda p: separated(p["w"], p["b"], p["w"].shape[1] // 4, _FORGET_BIAS), ("w", "b"))


def to_params(model: LSTM) -> tuple[LayerParams, ...]:
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
    return unstacked(FORMAT.name, model, lambda w: dict(zip("wb", joined(w, _FORGET_BIAS), strict=True)))
