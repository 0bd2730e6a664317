"""A model as Keras 3 has it: the layers with their settings and weights, and the files of them."""

import json
from collections import Counter
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np

from ..._equations.cell import Cell
from ..._equations.records import LSTMWeights
from ...model import LSTM
from .._model import Direction, directions, in_numpy, require_only
from . import _hdf5
from ._activations import activation_name
from ._hdf5 import Arrays

_VERSION = "3.0.0"  # whose layout this is


class KerasLayer(NamedTuple):
    """A layer: its class, its settings, and the weights of each cell by its path in a file."""

    kind: str
    config: dict[str, Any]
    cells: dict[str, Arrays]


def layers_of(model: LSTM) -> list[KerasLayer]:
    """Return the layers of Keras that compute what a model does.

    Raises
    ------
    ValueError
        If there are none.
    """
    require_only("Keras", model, {"stack", "both", "reverse", "cell"})
    if len(model.layers) > 1 and any(layer.forward is None for layer in model.layers):
        raise ValueError("Keras cannot hold a reverse-only layer among others: it flips the output in time.")
    used: Counter[str] = Counter()
    layers = []
    for _, group in groupby(directions(model), key=lambda direction: direction.layer):
        here = list(group)
        snake = "lstm" if len(here) == 1 else "bidirectional"
        layers.append(_layer(here, f"{snake}_{used[snake]}" if used[snake] else snake))
        used[snake] += 1
    return layers


def weights_file(model: LSTM, *, described: bool = True) -> bytes:
    """Return a `.weights.h5`, with a description of the layers unless it stands elsewhere."""
    model = in_numpy(model)
    layers = layers_of(model)
    groups: dict[str, Arrays] = {}
    for layer in layers:
        groups |= {f"layers/{layer.config['name']}/{path}/vars": arrays for path, arrays in layer.cells.items()}
    return _hdf5.written(groups, {"lstm_xp": json.dumps(_sequential(model, layers))} if described else {})


def archive_members(model: LSTM) -> dict[str, bytes]:
    """Return the members of a `.keras` by their names."""
    model = in_numpy(model)
    return {
        "metadata.json": json.dumps({"keras_version": _VERSION}).encode(),
        "config.json": json.dumps(_sequential(model, layers_of(model))).encode(),
        "model.weights.h5": weights_file(model, described=False),
    }


def _layer(here: list[Direction], name: str) -> KerasLayer:
    if len(here) == 1:
        return KerasLayer("LSTM", _settings(here[0], name), {"cell": _arrays(here[0].weights)})
    sides = dict(zip(("forward", "backward"), here, strict=True))
    inner = {side: _node("LSTM", _settings(direction, f"{side}_{name}")) for side, direction in sides.items()}
    config = {"name": name, "dtype": _dtype(here[0]), "merge_mode": "concat"}
    return KerasLayer(
        "Bidirectional",
        config | {"layer": inner["forward"], "backward_layer": inner["backward"]},
        {f"{side}_layer/cell": _arrays(direction.weights) for side, direction in sides.items()},
    )


def _node(kind: str, config: dict[str, Any]) -> dict[str, Any]:
    module = "keras" if kind == "Sequential" else "keras.layers"
    return {"module": module, "class_name": kind, "config": config, "registered_name": None}


def _dtype(direction: Direction) -> str:
    return str(direction.weights.weight_ih.dtype)


def _settings(direction: Direction, name: str) -> dict[str, Any]:
    """Return the settings of an `LSTM` layer that are not the same for all."""
    gates, candidate = _names(direction.cell, direction.where)
    return {
        "name": name,
        "dtype": _dtype(direction),
        "units": direction.weights.weight_hh.shape[1],
        "activation": candidate,
        "recurrent_activation": gates,
        "use_bias": direction.weights.bias is not None,
        "return_sequences": True,
        "go_backwards": direction.reverse,
    }


def _names(cell: Cell, where: str) -> tuple[str, str]:
    """Return the names of the activations of gates and candidate in Keras 3."""
    for option in ("clip", "cell_clip", "coupled"):
        if getattr(cell, option) is not None:
            raise ValueError(f"Keras cannot hold a cell with `{option}`; got {where}.")
    if cell.candidate_activation != cell.output_activation:
        raise ValueError(f"Keras cannot hold a cell whose candidate and output activations differ; got {where}.")
    names = activation_name(cell.gate_activation), activation_name(cell.candidate_activation)
    for name, ours in zip(names, (cell.gate_activation, cell.candidate_activation), strict=True):
        if name is None:
            raise ValueError(f"Keras cannot hold the activation {ours!r}, which has no name in Keras 3; got {where}.")
    return str(names[0]), str(names[1])


def _arrays(weights: LSTMWeights) -> Arrays:
    kernels = [np.ascontiguousarray(weights.weight_ih.T), np.ascontiguousarray(weights.weight_hh.T)]
    return kernels if weights.bias is None else [*kernels, np.asarray(weights.bias)]


def _sequential(model: LSTM, layers: list[KerasLayer]) -> dict[str, Any]:
    """Return the configuration of a `Sequential` model."""
    first = directions(model)[0]
    shape = [None, None, first.weights.weight_ih.shape[1]]
    inputs = _node("InputLayer", {"name": "input_layer", "batch_shape": shape, "dtype": _dtype(first)})
    nodes = [inputs, *(_node(layer.kind, layer.config) for layer in layers)]
    return _node("Sequential", {"name": "sequential", "trainable": True, "dtype": _dtype(first), "layers": nodes})
