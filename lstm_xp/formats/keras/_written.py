"""A model as Keras 3 has it: the layers with their settings and weights, and the files of them."""

import json
from collections import Counter
from io import BytesIO
from itertools import groupby
from typing import NamedTuple

import numpy as np

from ..._equations.cell import Cell
from ..._equations.records import Layer, LSTMWeights
from ...model import LSTM
from .._files import needed
from .._model import Direction, directions, in_numpy, require_only
from ._activations import activation_name
from ._hdf5 import Arrays
from ._layers import Config

VERSION = "3.0.0"  # whose layout this is
_SIDES = Layer._fields  # forward, backward


class Written(NamedTuple):
    """A layer: its configuration, and the weights of each cell by its path in a file."""

    node: Config
    cells: dict[str, Arrays]


def layers_of(model: LSTM) -> list[Written]:
    """Return the layers of Keras that compute what a model does, or raise if there are none."""
    require_only("Keras", model, {"reverse", "cell"})
    if len(model.layers) > 1 and any(layer.forward is None for layer in model.layers):
        raise ValueError("Keras cannot hold a reverse-only layer among others: it flips the output in time.")
    used: Counter[str] = Counter()
    layers = []
    for _, group in groupby(directions(in_numpy(model)), key=lambda direction: direction.layer):
        here = list(group)
        snake = "lstm" if len(here) == 1 else "bidirectional"
        layers.append(_layer(here, f"{snake}_{used[snake]}" if used[snake] else snake))
        used[snake] += 1
    return layers


def weights_file(layers: list[Written], texts: dict[str, str]) -> bytes:
    """Return a `.weights.h5`: the arrays of each cell numbered from 0 in a group, and texts as attributes."""
    h5py = needed("h5py", "keras")
    content = BytesIO()
    with h5py.File(content, "w") as file:
        file.attrs.update(texts)
        for path, arrays in (item for layer in layers for item in layer.cells.items()):
            group = file.create_group(path)
            for k, array in enumerate(arrays):
                group[str(k)] = array
    return content.getvalue()


def configuration(layers: list[Written]) -> str:
    """Return the configuration of a `Sequential` model."""
    kernel = next(iter(layers[0].cells.values()))[0]
    dtype = str(kernel.dtype)
    inputs = {"name": "input_layer", "batch_shape": [None, None, kernel.shape[0]], "dtype": dtype}
    nodes = [_node("InputLayer", inputs), *(layer.node for layer in layers)]
    return json.dumps(_node("Sequential", {"name": "sequential", "trainable": True, "dtype": dtype, "layers": nodes}))


def _layer(here: list[Direction], name: str) -> Written:
    if len(here) == 1:
        node, places = _lstm(here[0], name), [""]
    else:
        forward, backward = (_lstm(direction, f"{side}_{name}") for side, direction in zip(_SIDES, here, strict=True))
        config = {"name": name, "dtype": forward["config"]["dtype"], "merge_mode": "concat"}
        node = _node("Bidirectional", config | {"layer": forward, "backward_layer": backward})
        places = [f"{side}_layer/" for side in _SIDES]
    arrays = [_arrays(direction.weights) for direction in here]
    return Written(node, {f"layers/{name}/{place}cell/vars": a for place, a in zip(places, arrays, strict=True)})


def _lstm(direction: Direction, name: str) -> Config:
    gates, candidate = _names(direction.cell, direction.where)
    settings = {
        "name": name,
        "dtype": str(direction.weights.weight_ih.dtype),
        "units": direction.weights.weight_hh.shape[1],
        "activation": candidate,
        "recurrent_activation": gates,
        "use_bias": direction.weights.bias is not None,
        "return_sequences": True,
        "go_backwards": direction.reverse,
    }
    return _node("LSTM", settings)


def _node(kind: str, config: Config) -> Config:
    module = "keras" if kind == "Sequential" else "keras.layers"
    return {"module": module, "class_name": kind, "config": config, "registered_name": None}


def _names(cell: Cell, where: str) -> list[str]:
    """Return the names of the activations of gates and candidate in Keras 3."""
    for option in ("clip", "cell_clip", "coupled"):
        if getattr(cell, option) is not None:
            raise ValueError(f"Keras cannot hold a cell with `{option}`; got {where}.")
    if cell.candidate_activation != cell.output_activation:
        raise ValueError(f"Keras cannot hold a cell whose candidate and output activations differ; got {where}.")
    return [activation_name(ours, where) for ours in (cell.gate_activation, cell.candidate_activation)]


def _arrays(weights: LSTMWeights) -> Arrays:
    kernels = [np.ascontiguousarray(weights.weight_ih.T), np.ascontiguousarray(weights.weight_hh.T)]
    return kernels if weights.bias is None else [*kernels, np.asarray(weights.bias)]
