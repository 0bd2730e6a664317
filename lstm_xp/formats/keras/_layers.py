"""LSTMs as the configuration of a Keras model describes them, and what their weights make of them.

A configuration is data from a file: of the classes that it names only those below mean something; none is looked up.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import NamedTuple, TypeAlias

import numpy as np

from ..._equations.cell import Cell
from ..._equations.records import DirectionCells, Layer, LSTMWeights, width_of
from ...model import LSTM
from .._files import Json
from .._model import Entry, entry_of, shortest, unique_names
from ._activations import activation
from ._hdf5 import Arrays

Config: TypeAlias = Mapping[str, Json]

# Models that consist of layers, layers of one cell, and layers that do nothing once a model is trained.
_MODELS = ("Sequential", "Functional", "Model")
_ONE_CELL = ("LSTM", "CuDNNLSTM", "LSTMCell")
_IDLE = ("InputLayer", "Masking", "Dropout", "SpatialDropout1D", "GaussianDropout", "GaussianNoise", "AlphaDropout")


class Described(NamedTuple):
    """A layer that has the cells of an LSTM."""

    names: tuple[str, ...]  # of the models around it, and its own
    address: tuple[tuple[str, int], ...]  # classes on the way to it, and how many there were before of each
    kind: str
    config: Config
    node: Config  # where it stands in the configuration
    follows: bool = False  # whether its input is the output of the one before


class _Part(NamedTuple):
    """What an entry is made of."""

    names: tuple[str, ...]
    layers: tuple[Layer, ...]
    cells: DirectionCells
    width: int  # of its output, if that can be the input of the next layer, or 0


def described(
    node: Json, names: tuple[str, ...] = (), address: tuple[tuple[str, int], ...] = (), follows: bool = False
) -> Iterator[Described]:
    """Yield every LSTM of a configuration: of a model, or of a layer."""
    kind, config = _object(node)
    if kind not in _MODELS:
        if _has_lstm(kind, config):
            yield Described(names or (str(config.get("name", ".")),), address, kind, config, node, follows)
        return
    layers = config.get("layers", [])
    if not isinstance(layers, list):
        raise ValueError(f"the configuration must have a list of layers; got {repr(layers)[:40]}.")
    before: Counter[str] = Counter()
    follows = False
    for layer in layers:
        inner, settings = _object(layer)
        name = str(settings.get("name", layer.get("name", inner.lower())))
        yield from described(layer, (*names, name), (*address, (inner, before[inner])), follows)
        before[inner] += 1
        if inner not in _IDLE:
            follows = kind == "Sequential" and _has_lstm(inner, settings)


def _object(node: Json) -> tuple[str, Config]:
    """Return the class and the settings of an object of a configuration."""
    if not isinstance(node, Mapping) or not isinstance(node.get("class_name"), str):
        raise ValueError(f"the configuration must have objects with a `class_name`; got {repr(node)[:40]}.")
    config = node.get("config", {})
    registered = node.get("registered_name")  # a class of the user's own, perhaps with a name of Keras, or that of ours
    if ">" in str(registered) and registered != "lstm_xp>LSTM":
        return node["registered_name"], {}
    if isinstance(config, list):  # that of a model before Keras 2.2.3
        config = {"layers": config}
    return node["class_name"], config if isinstance(config, Mapping) else {}


def settings_of(kind: str, config: Config) -> list[Config]:
    """Return the settings of each cell of a layer, as the order of its weights is; of `Bidirectional` forward first."""
    cells = _cells_of(kind, config)
    for name, _ in cells:
        if name not in _ONE_CELL:
            raise ValueError(f"its cells must all be LSTMCell; got {name!r}.")
    return [settings for _, settings in cells]


def _has_lstm(kind: str, config: Config) -> bool:
    return any(name in _ONE_CELL for name, _ in _cells_of(kind, config))


def _cells_of(kind: str, config: Config) -> list[tuple[str, Config]]:
    """Return the cells of a layer; what is no layer of cells stands for itself."""
    if kind == "Bidirectional" and "layer" in config:
        return [cell for side in _both(config) for cell in _cells_of_side(*side)]
    return _cells_of_side(kind, config)


def _cells_of_side(kind: str, config: Config) -> list[tuple[str, Config]]:
    if kind != "RNN" or "cell" not in config:
        return [(kind, config)]
    name, inner = _object(config["cell"])
    cells = inner.get("cells") if name == "StackedRNNCells" else [config["cell"]]
    return [_object(cell) for cell in cells] if isinstance(cells, list) else []


def _both(config: Config) -> list[tuple[str, Config]]:
    """Return the layers inside of `Bidirectional`, forward first."""
    return [_object(config["layer"]), _object(config.get("backward_layer") or config["layer"])]


def entries(
    found: Iterable[Described], arrays_of: Callable[[Described], list[Arrays]], version: int, format: str
) -> list[Entry]:
    """Return the LSTMs of layers with the weights of their cells; what is one stack becomes one entry."""
    parts: list[_Part | Entry] = []
    for layer in found:
        try:
            part = _part(layer, arrays_of(layer), version)
        except ValueError as error:
            parts.append(Entry("/".join(layer.names), format, None, str(error)))
            continue
        last, first = parts[-1] if parts else None, part.layers[0].forward
        if layer.follows and isinstance(last, _Part) and first is not None and first.weight_ih.shape[1] == last.width:
            parts[-1] = _Part(last.names, last.layers + part.layers, last.cells + part.cells, part.width)
        else:
            parts.append(part)
    made = [
        part
        if isinstance(part, Entry)
        else entry_of("/".join(part.names), format, partial(LSTM, part.layers, shortest(part.cells)))
        for part in parts
    ]
    places = [(where + slash, own) for where, slash, own in (entry.name.rpartition("/") for entry in made)]
    return [e._replace(name=printable(name)) for name, e in zip(unique_names(places), made, strict=True)]


def printable(name: str) -> str:
    """Return a name from a file, which may have halves of characters, as text."""
    return name.encode("utf-8", "backslashreplace").decode()


def _part(layer: Described, stored: list[Arrays], version: int) -> _Part:
    settings = settings_of(layer.kind, layer.config)
    if len(stored) != len(settings):
        raise ValueError(f"it must have the weights of {len(settings)} cells; got {len(stored)}.")
    weights = [_weights(arrays, config) for arrays, config in zip(stored, settings, strict=True)]
    cells = tuple(_cell(config, version) for config in settings)
    both = layer.kind == "Bidirectional"
    reverse = bool(layer.config.get("go_backwards"))
    goes_on = _goes_on(layer.config, weights) if both else layer.config.get("return_sequences") and not reverse
    layers = (Layer(*weights),) if both else tuple(Layer(None, w) if reverse else Layer(w) for w in weights)
    of_layers = (cells,) if both else tuple((cell,) for cell in cells)
    return _Part(layer.names, layers, of_layers, width_of(layers[-1]) if goes_on else 0)


def _goes_on(config: Config, weights: list[LSTMWeights]) -> bool:
    """Require a `Bidirectional` that is one layer here, and tell whether its output can be another one's input."""
    (_, forward), (_, backward) = _both(config)
    if forward.get("go_backwards"):
        raise ValueError("its first layer must go forward; got go_backwards=True.")
    if "backward_layer" in config and not backward.get("go_backwards"):
        raise ValueError("its second layer must go backwards; got go_backwards=False.")
    if len(weights) != 2:
        raise ValueError(f"each of its directions must have one cell; got {len(weights)} for both.")
    sizes = [w.weight_hh.shape[1] for w in weights]
    if sizes[0] != sizes[1]:
        raise ValueError(f"its directions must have one size; got {sizes[0]} and {sizes[1]} units.")
    merge = config.get("merge_mode", "concat")
    if merge not in ("concat", None):
        raise ValueError(f"its directions must stay side by side; got merge_mode={merge!r}.")
    return bool(forward.get("return_sequences")) and merge is not None


def _weights(arrays: Arrays, config: Config) -> LSTMWeights:
    if len(arrays) not in (2, 3):
        raise ValueError(f"a cell must have kernel, recurrent kernel and perhaps a bias; got {len(arrays)} arrays.")
    kernel, recurrent, *rest = arrays
    bias = rest[0] if rest else None
    if kernel.ndim != 2 or recurrent.ndim != 2 or not kernel.shape[1] == recurrent.shape[1] == 4 * len(recurrent):
        raise ValueError(f"kernels must have 4 * units columns; got shapes {kernel.shape} and {recurrent.shape}.")
    H = len(recurrent)
    if config.get("units", H) != H or config.get("use_bias", bias is not None) != (bias is not None):
        raise ValueError("its weights must fit `units` and `use_bias` of the configuration; they do not.")
    if bias is not None and bias.shape == (8 * H,):
        return _from_cudnn(kernel, recurrent, bias)
    if bias is not None and bias.shape != (4 * H,):
        raise ValueError(f"the bias must have shape ({4 * H},); got {bias.shape}.")
    return LSTMWeights(np.ascontiguousarray(kernel.T), np.ascontiguousarray(recurrent.T), bias)


def _from_cudnn(kernel: np.ndarray, recurrent: np.ndarray, bias: np.ndarray) -> LSTMWeights:
    """Return the weights of CuDNNLSTM: matrices (out, in), each laid out in the columns of its gate; two biases."""
    gates = [np.ascontiguousarray(gate).reshape(-1, len(kernel)) for gate in np.split(kernel, 4, axis=1)]
    hidden = np.concatenate(np.split(recurrent, 4, axis=1))
    return LSTMWeights(np.concatenate(gates), hidden, np.sum(np.split(bias, 2), axis=0))


def _cell(config: Config, version: int) -> Cell:
    gates = activation(config.get("recurrent_activation", "sigmoid"), version, "`recurrent_activation`")
    candidate = activation(config.get("activation", "tanh"), version)
    return Cell(gates, candidate, candidate)
