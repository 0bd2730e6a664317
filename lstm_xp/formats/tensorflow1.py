"""TensorFlow 1: the variables of `BasicLSTMCell` and `LSTMCell`.

One matrix ``kernel (I + R, 4H)`` acts on x and h joined, its columns are ordered i, j (the candidate), f, o, and
``forget_bias`` is added to the forget gate's pre-activation when the cell runs: here it is in the bias. Peepholes are
three vectors, and a projection is a matrix of its own. TensorFlow keeps the state as (c, h).
"""

import numpy as np

from .._equations.activations import Activation
from .._equations.cell import Cell
from .._equations.records import LSTMWeights
from ..model import LSTM
from ._model import Format, directions
from ._one_cell import LayerParams, Params, StackParams, joined, separated, stacked, unstacked

FORMAT = Format("TensorFlow 1")

_PEEPHOLES = ("w_i_diag", "w_f_diag", "w_o_diag")


def from_params(
    params: StackParams,
    *,
    forget_bias: float = 1.0,
    cell_clip: float | None = None,
    proj_clip: float | None = None,
    activation: Activation = "tanh",
) -> LSTM:
    """Return the model of the variables of a cell.

    Parameters
    ----------
    params : mapping of a cell, pair of mappings (both directions), or sequence with one of these a layer
        ``kernel (I + R, 4H)`` and ``bias (4H,)``; with peepholes ``w_i_diag``, ``w_f_diag`` and ``w_o_diag`` (H,); with
        a projection ``projection/kernel (H, R)``.
    forget_bias, cell_clip, proj_clip, activation
        What the cell's constructor got: TensorFlow keeps none of it with the variables.

    Examples
    --------
    >>> from_params({"kernel": np.zeros((3 + 4, 16)), "bias": np.zeros(16)}, cell_clip=3.0).cell.cell_clip
    3.0
    """
    cell = _cell(activation, cell_clip, proj_clip)
    return stacked(params, lambda p: _weights(p, forget_bias), ("kernel", "bias"), cell)


def to_params(model: LSTM, *, forget_bias: float = 1.0) -> tuple[LayerParams, ...]:
    """Return the variables, one item a layer; a layer without a bias has what acts as zeros.

    The clips and the activation of `model.cell`, and `forget_bias`, are for the cell's constructor.

    Raises
    ------
    ValueError
        If the model has a reverse-only layer, or a cell that the constructor cannot make.

    Examples
    --------
    >>> (cell,) = to_params(LSTM.init(3, 4, proj_size=2, rng=0))
    >>> {name: array.shape for name, array in cell.items()}
    {'kernel': (5, 16), 'bias': (16,), 'projection/kernel': (4, 2)}
    """
    for where, _, _, _, cell in directions(model):
        activation = cell.candidate_activation
        if cell != _cell(activation, cell.cell_clip, cell.proj_clip):
            raise ValueError(f"{FORMAT.name} cannot hold the cell of {where}, {cell!r}.")
    return unstacked(FORMAT.name, model, lambda w: _params(w, forget_bias), ("projection", "peephole", "cell"))


def _cell(activation: Activation, cell_clip: float | None, proj_clip: float | None) -> Cell:
    """Return what the cell's constructor makes."""
    return Cell(candidate_activation=activation, output_activation=activation, cell_clip=cell_clip, proj_clip=proj_clip)


def _weights(p: Params, forget_bias: float) -> LSTMWeights:
    projection = p.get("projection/kernel")
    peepholes = [p[name] for name in _PEEPHOLES if name in p]
    R = p["kernel"].shape[1] // 4 if projection is None else projection.shape[1]
    return separated(p["kernel"], p["bias"], R, forget_bias)._replace(
        weight_hr=None if projection is None else projection.T,
        peephole=np.concatenate(peepholes) if peepholes else None,
    )


def _params(weights: LSTMWeights, forget_bias: float) -> dict[str, np.ndarray]:
    params = dict(zip(("kernel", "bias"), joined(weights, forget_bias), strict=True))
    if weights.peephole is not None:
        params |= dict(zip(_PEEPHOLES, np.split(weights.peephole, 3), strict=True))
    if weights.weight_hr is not None:
        params["projection/kernel"] = weights.weight_hr.T
    return params
