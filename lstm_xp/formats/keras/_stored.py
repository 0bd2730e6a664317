"""Which cells of an HDF5 file belong to which layer of Keras.

Keras 3, and 2 in a `.keras`, address a layer by its class and its number among those of that class, and number its
weights. Keras 2 addresses it by its name. Groups are listed by the alphabet, so nothing here relies on their order.
"""

import re
from typing import TypeAlias

from .._files import Json
from .._model import Entry
from ._hdf5 import Arrays, Stored, StoredCell
from ._layers import Config, Described, described, entries, printable, settings_of

_Path: TypeAlias = tuple[str, ...]
_Item: TypeAlias = tuple[_Path, StoredCell]  # a cell, after what comes behind its layer in its path

# Keras 2.12 and 2.13 have their own container of layers, and count each layer with weights twice there.
_CONTAINERS = {"layers": 1, "_layer_checkpoint_dependencies": 2}
_CLASSES = {"CuDNNLSTM": "cu_dnnlstm", "LSTMCell": "lstm_cell"}
# What Keras puts between a layer and its weights: a cell, a stack of cells, the directions.
_CELL = re.compile(r"cell|lstm_cell(_\d+)?")
_STACK = re.compile(r"cells|stacked_rnn_cells(_\d+)?")
_SIDE = re.compile(r"(forward|backward)_.*", re.DOTALL)


def configured(stored: Stored, config: Json, version: int, format: str) -> list[Entry]:
    """Return the LSTMs that a configuration describes; those that only have weights have a problem."""
    found = list(described(config))
    below = _below(stored)
    items = {layer.address: _items_of(below, layer) for layer in found}
    claimed = {cell.path for own in items.values() for _, cell in own}
    reason = "it belongs to an object of a class that is unknown here, which may compute something else with it."
    return entries(found, lambda layer: _arrays_of(layer, items[layer.address]), version, format) + [
        Entry(printable("/".join(_parts(cell))), format, None, reason)
        for cell in stored.cells
        if cell.path not in claimed
    ]


def bare(stored: Stored) -> list[Entry]:
    """Return the LSTMs of a file that says nothing but the weights."""
    owners: dict[_Path, list[_Item]] = {}
    for cell in stored.cells:
        owner = _owner(cell)
        owners.setdefault(owner, []).append((_parts(cell)[len(owner) :], cell))
    order = {name: k for k, name in enumerate(stored.order)}
    ordered = sorted(owners, key=lambda owner: order.get(owner[0] if owner else "", 0))
    format = "Keras weights" if any(_numbered(cell) for cell in stored.cells) else "Keras HDF5"
    arrays = {owner: [cell.arrays for _, cell in sorted(owners[owner], key=_side)] for owner in ordered}
    found = [_guessed(stored, owner, owners[owner]) for owner in ordered]
    return entries(found, lambda layer: arrays[layer.node["owner"]], 3, format)


def _below(stored: Stored) -> dict[_Path, list[_Item]]:
    """Return the cells that lie below each path: there may be thousands, and as many layers."""
    below: dict[_Path, list[_Item]] = {}
    for cell in stored.cells:
        parts = _parts(cell)
        for k in range(len(parts) + 1):
            below.setdefault(parts[:k], []).append((parts[k:], cell))
    return below


def _items_of(below: dict[_Path, list[_Item]], layer: Described) -> list[_Item]:
    """Return the cells of a layer: by its address, or by its name, which comes somewhere behind its first model's."""
    starts = dict.fromkeys(_address(layer, container, step) for container, step in _CONTAINERS.items())
    items = [item for start in starts for item in below.get(start, ()) if _numbered(item[1])]
    first, own = layer.names[:1], layer.names[-1]
    for rest, cell in below.get(first, ()):
        if not _numbered(cell) and (own in rest or first == layer.names):
            items.append((rest[len(rest) - rest[::-1].index(own) :] if own in rest else rest, cell))
    return items


def _arrays_of(layer: Described, items: list[_Item]) -> list[Arrays]:
    """Return the weights of the cells of a layer in its order."""
    if layer.kind == "Bidirectional":
        items = sorted(items, key=_side)
    elif items and not _numbered(items[0][1]):
        names = [settings.get("name") for settings in settings_of(layer.kind, layer.config)]
        items = sorted(items, key=lambda item: names.index(item[0][-1]) if item[0] and item[0][-1] in names else -1)
    return [cell.arrays for _, cell in items]


def _address(layer: Described, container: str, step: int) -> _Path:
    """Return where Keras 3 has a layer."""
    numbers = [(_CLASSES.get(kind, kind.lower()), step * k) for kind, k in layer.address]
    return tuple(part for name, k in numbers for part in (container, f"{name}_{k}" if k else name))


def _owner(cell: StoredCell) -> _Path:
    """Return the path of the layer that has a cell."""
    parts = _parts(cell)
    for own in (_CELL, _STACK, _CELL, _SIDE):
        if parts and own.fullmatch(parts[-1]):
            parts = parts[:-1]
    return parts


def _guessed(stored: Stored, owner: _Path, items: list[_Item]) -> Described:
    """Return the layer that weights with these paths are taken for."""
    kind = "LSTM"
    config: Config = {}
    sides = sorted(part.split("_")[0] for rest, _ in items for part in rest if _SIDE.fullmatch(part))
    if sides == ["backward", "forward"]:
        kind, config = "Bidirectional", {"layer": {"class_name": "LSTM"}}
    elif len(items) > 1 or any(_STACK.fullmatch(part) for part in items[0][0][:-1]):
        cells = [{"class_name": "LSTMCell"}] * items[0][1].beside  # of what kind the others are is unknown
        kind, config = "RNN", {"cell": {"class_name": "StackedRNNCells", "config": {"cells": cells}}}
    names = [part for part in owner if part not in _CONTAINERS] or ["."]
    names[-1] = stored.names.get("/".join(owner), names[-1])
    return Described(tuple(names), (), kind, config, {"owner": owner})


def _numbered(cell: StoredCell) -> bool:
    return cell.path[-1:] == ("vars",)


def _parts(cell: StoredCell) -> _Path:
    """Return the path of a cell without what all have; Keras 2 joined some of it with backslashes on Windows."""
    parts = tuple(re.split(r"[/\\]", "/".join(cell.path)))
    return parts[:-1] if _numbered(cell) else parts[parts[0] == "model_weights" :]


def _side(item: _Item) -> bool:
    """Put the forward cell first."""
    return not any(part.startswith("forward_") for part in item[0])
