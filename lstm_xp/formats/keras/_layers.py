"""LSTMs as the configuration of a Keras model describes them, and what their weights make of them.

A configuration is data from a file: of the classes that it names only those below mean something; none is looked up.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ..._equations.cell import Cell
from ..._equations.records import Layer, LSTMWeights, width_of
from ...model import LSTM
from .._model import Entry
from ._activations import activation
from ._hdf5 import Arrays

Config: TypeAlias = Mapping[str, Any]

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
    cells: tuple[Cell | tuple[Cell, Cell], ...]
    reverse: bool
    goes_on: bool  # whether its output can be the input of the next layer

    def before(self, later: "_Part") -> bool:
        """Tell whether another part can come right after this one."""
        width = width_of(self.layers[-1])
        first = later.layers[0].forward
        return self.goes_on and not later.reverse and first is not None and first.weight_ih.shape[1] == width


def described(node: Any) -> Iterator[Described]:
    """Yield every LSTM of a configuration: of a model, or of a layer."""
    kind, config = _object(node)
    if kind in _MODELS:
        yield from _inside(kind, config, (), ())
    elif _has_lstm(kind, config):
        yield Described((str(config.get("name", ".")),), (), kind, config, node)


def _inside(
    model: str, config: Config, names: tuple[str, ...], address: tuple[tuple[str, int], ...]
) -> Iterator[Described]:
    layers = config.get("layers", [])
    if not isinstance(layers, list):
        raise ValueError(f"the configuration must have a list of layers; got {_shown(layers)}.")
    before: Counter[str] = Counter()
    follows = False
    for node in layers:
        kind, config = _object(node)
        own = (*names, str(config.get("name", node.get("name", kind.lower()))))
        place = (*address, (kind, before[kind]))
        before[kind] += 1
        if kind in _MODELS:
            yield from _inside(kind, config, own, place)
        elif _has_lstm(kind, config):
            yield Described(own, place, kind, config, node, follows)
        if kind not in _IDLE:
            follows = model == "Sequential" and _has_lstm(kind, config)


def _object(node: Any) -> tuple[str, Config]:
    """Return the class and the settings of an object of a configuration."""
    if not isinstance(node, Mapping) or not isinstance(node.get("class_name"), str):
        raise ValueError(f"the configuration must have objects with a `class_name`; got {_shown(node)}.")
    config = node.get("config", {})
    if ">" in str(node.get("registered_name")):  # a class of the user's own, perhaps with a name of Keras
        return node["registered_name"], {}
    if node["class_name"] in _MODELS and isinstance(config, list):  # before Keras 2.2.3
        config = {"layers": config}
    return node["class_name"], config if isinstance(config, Mapping) else {}


def _has_lstm(kind: str, config: Config) -> bool:
    if kind == "Bidirectional":
        return "layer" in config and _has_lstm(*_object(config["layer"]))
    return kind in _ONE_CELL or (kind == "RNN" and any(name == "LSTMCell" for name, _ in _cells_of_rnn(config)))


def _cells_of_rnn(config: Config) -> list[tuple[str, Config]]:
    if "cell" not in config:
        return []
    kind, inner = _object(config["cell"])
    if kind != "StackedRNNCells":
        return [(kind, inner)]
    cells = inner.get("cells", [])
    return [_object(cell) for cell in cells] if isinstance(cells, list) else []


def settings_of(kind: str, config: Config) -> list[Config]:
    """Return the settings of each cell of a layer, as the order of its weights is; of `Bidirectional` forward first."""
    if kind == "Bidirectional":
        return [cell for inner in _both(config) for cell in settings_of(*inner)]
    if kind != "RNN":
        return [config]
    cells = _cells_of_rnn(config)
    for name, _ in cells:
        if name != "LSTMCell":
            raise ValueError(f"its cells must all be LSTMCell; got {name!r}.")
    return [cell for _, cell in cells]


def _both(config: Config) -> list[tuple[str, Config]]:
    """Return the layers inside of `Bidirectional`, forward first."""
    return [_object(config["layer"]), _object(config.get("backward_layer") or config["layer"])]


def entries(
    found: Iterable[Described], cells_of: Callable[[Described], list[Arrays]], version: int, format: str
) -> list[Entry]:
    """Return the LSTMs of layers with the weights of their cells; what is one stack becomes one entry."""
    parts: list[_Part | Entry] = []
    for layer in found:
        try:
            part = _part(layer, cells_of(layer), version)
        except ValueError as error:
            parts.append(Entry("/".join(layer.names), format, None, str(error)))
            continue
        last = parts[-1] if parts else None
        if layer.follows and isinstance(last, _Part) and last.before(part):
            joined = last.layers + part.layers, last.cells + part.cells
            parts[-1] = _Part(last.names, *joined, last.reverse, part.goes_on)
        else:
            parts.append(part)
    return _named([part if isinstance(part, Entry) else _entry(part, format) for part in parts])


def _entry(part: _Part, format: str) -> Entry:
    same = len(set(part.cells)) == 1 and isinstance(part.cells[0], Cell)
    return Entry("/".join(part.names), format, LSTM(part.layers, part.cells[0] if same else part.cells))


def _named(entries: list[Entry]) -> list[Entry]:
    """Return the entries under the names of their layers alone, where these differ."""
    short = [entry.name.split("/")[-1] for entry in entries]
    count = Counter(short)
    names = [name if count[name] == 1 else entry.name for name, entry in zip(short, entries, strict=True)]
    return [entry._replace(name=printable(name)) for name, entry in zip(names, entries, strict=True)]


def printable(name: str) -> str:
    """Return a name from a file, which may have halves of characters, as text."""
    return name.encode("utf-8", "backslashreplace").decode()


def _part(layer: Described, stored: list[Arrays], version: int) -> _Part:
    settings = settings_of(layer.kind, layer.config)
    if len(stored) != len(settings):
        raise ValueError(f"it must have the weights of {len(settings)} cells; got {len(stored)}.")
    weights = [_weights(arrays, config) for arrays, config in zip(stored, settings, strict=True)]
    cells = [_cell(config, version) for config in settings]
    if layer.kind == "Bidirectional":
        return _both_part(layer, weights, cells)
    reverse = bool(layer.config.get("go_backwards"))
    layers = tuple(Layer(None, w) if reverse else Layer(w) for w in weights)
    goes_on = bool(layer.config.get("return_sequences")) and not reverse
    return _Part(layer.names, layers, tuple(cells), reverse, goes_on)


def _both_part(layer: Described, weights: list[LSTMWeights], cells: list[Cell]) -> _Part:
    (_, forward), (_, backward) = _both(layer.config)
    if forward.get("go_backwards"):
        raise ValueError("its first layer must go forward; got go_backwards=True.")
    if "backward_layer" in layer.config and not backward.get("go_backwards"):
        raise ValueError("its second layer must go backwards; got go_backwards=False.")
    if len(weights) != 2:
        raise ValueError(f"each of its directions must have one cell; got {len(weights)} for both.")
    sizes = [w.weight_hh.shape[1] for w in weights]
    if sizes[0] != sizes[1]:
        raise ValueError(f"its directions must have one size; got {sizes[0]} and {sizes[1]} units.")
    merge = layer.config.get("merge_mode", "concat")
    if merge not in ("concat", None):
        raise ValueError(f"its directions must stay side by side; got merge_mode={merge!r}.")
    cell = cells[0] if cells[0] == cells[1] else (cells[0], cells[1])
    goes_on = bool(forward.get("return_sequences")) and merge is not None
    return _Part(layer.names, (Layer(*weights),), (cell,), False, goes_on)


def _weights(arrays: Arrays, config: Config) -> LSTMWeights:
    if len(arrays) not in (2, 3):
        raise ValueError(f"a cell must have kernel, recurrent kernel and perhaps a bias; got {len(arrays)} arrays.")
    kernel, recurrent = arrays[:2]
    bias = arrays[2] if len(arrays) == 3 else None
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
    gates = activation(config.get("recurrent_activation", "sigmoid"), version)
    candidate = activation(config.get("activation", "tanh"), version)
    return Cell(gates, candidate, candidate)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."
