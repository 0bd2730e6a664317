"""TensorFlow 1: the variables of `BasicLSTMCell` and `LSTMCell`.

One matrix ``kernel (I + R, 4H)`` acts on x and h joined, its columns are ordered i, j (the candidate), f, o, and
``forget_bias`` is added to the forget gate's pre-activation when the cell runs: here it is in the bias. Peepholes are
three vectors, and a projection is a matrix of its own. TensorFlow keeps the state as (c, h).
"""

from typing import Any

import numpy as np

from .._equations.activations import Activation
from .._equations.cell import Cell
from .._equations.records import LSTMWeights
from ..model import LSTM
from ._model import bias_of, blocks, directions, with_forget_bias
from ._one_cell import LayerParams, Params, stacked, unstacked

_ORDER = (0, 2, 1, 3)  # i, j, f, o from i, f, g, o, and back
_PEEPHOLES = ("w_i_diag", "w_f_diag", "w_o_diag")


def from_params(
    params: Params | tuple[LayerParams, ...] | list[LayerParams],
    *,
    forget_bias: float = 1.0,
    cell_clip: float | None = None,
    proj_clip: float | None = None,
    activation: Activation = "tanh",
) -> LSTM:
    """Return the model of the variables of a cell.

    Parameters
    ----------
    params : mapping, or sequence with one a layer
        ``kernel (I + R, 4H)`` and ``bias (4H,)``; with peepholes ``w_i_diag``, ``w_f_diag`` and ``w_o_diag`` (H,); with
        a projection ``projection/kernel (H, R)``. A pair of mappings is a bidirectional layer.
    forget_bias, cell_clip, proj_clip, activation
        What the cell's constructor got: TensorFlow keeps none of it with the variables.

    Examples
    --------
    >>> from_params({"kernel": np.zeros((3 + 4, 16)), "bias": np.zeros(16)}, cell_clip=3.0).cell.cell_clip
    3.0
    """
    cell = Cell(candidate_activation=activation, output_activation=activation, cell_clip=cell_clip, proj_clip=proj_clip)
    return stacked(params, lambda p: _weights(p, forget_bias), ("kernel", "bias"), cell)


def to_params(model: LSTM, *, forget_bias: float = 1.0) -> tuple[Any, ...]:
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
        made = Cell(
            candidate_activation=cell.candidate_activation,
            output_activation=cell.candidate_activation,
            cell_clip=cell.cell_clip,
            proj_clip=cell.proj_clip,
        )
        if cell != made:
            raise ValueError(f"TensorFlow 1 cannot hold the cell of {where}, {cell!r}.")
    return unstacked("TensorFlow 1", model, lambda w: _params(w, forget_bias), ("projection", "peephole", "cell"))


def _weights(p: Params, forget_bias: float) -> LSTMWeights:
    kernel, projection = p["kernel"], p.get("projection/kernel")
    R = kernel.shape[1] // 4 if projection is None else projection.shape[1]
    peephole = np.concatenate([p[name] for name in _PEEPHOLES]) if _PEEPHOLES[0] in p else None
    return LSTMWeights(
        blocks(kernel[:-R].T, _ORDER),
        blocks(kernel[-R:].T, _ORDER),
        with_forget_bias(blocks(p["bias"], _ORDER), forget_bias),
        None if projection is None else projection.T,
        peephole,
    )


def _params(weights: LSTMWeights, forget_bias: float) -> dict[str, np.ndarray]:
    rows = np.concatenate([weights.weight_ih, weights.weight_hh], axis=1)
    params = {
        "kernel": blocks(rows, _ORDER).T,
        "bias": blocks(with_forget_bias(bias_of(weights), -forget_bias), _ORDER),
    }
    if weights.peephole is not None:
        params |= dict(zip(_PEEPHOLES, np.split(weights.peephole, 3), strict=True))
    if weights.weight_hr is not None:
        params["projection/kernel"] = weights.weight_hr.T
    return params
