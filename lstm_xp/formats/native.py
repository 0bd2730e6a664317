"""The package's own format: every model, exactly, as named arrays and a description; in `.npz` or `.safetensors`.

The arrays are named ``layers.0.forward.weight_ih`` and so on. The description is JSON: the format's version, and the
cell. In a `.safetensors` it is the metadata, in an `.npz` an array of text. A file without it is searched for the names
of PyTorch.
"""

import json
import re
from collections.abc import Iterable, Mapping
from typing import BinaryIO, TypeAlias

import numpy as np

from .._equations.cell import PLAIN, Cell
from .._equations.records import Cells, Layer, LSTMWeights
from ..model import LSTM
from . import torch
from ._files import Json, needed, npz_arrays, parsed
from ._model import Entry, Files, Format, directions, entry_of, in_numpy, numbered, unpacked

_FORMAT = "lstm_xp"
_VERSION = 1
_DESCRIPTION = "description"
_SIDES = Layer._fields  # forward, backward
_NAME = re.compile(r"layers\.(\d+)\.(forward|backward)\.(\w+)")

Params: TypeAlias = dict[str, np.ndarray]
Description: TypeAlias = dict[str, Json]


def to_params(model: LSTM) -> tuple[Params, Description]:
    """Return the arrays by their names, and the description.

    Raises
    ------
    ValueError
        If an activation is a function: a file holds no code.

    Examples
    --------
    >>> arrays, description = to_params(LSTM.init(3, 4, rng=0))
    >>> list(arrays)
    ['layers.0.forward.weight_ih', 'layers.0.forward.weight_hh', 'layers.0.forward.bias']
    >>> description
    {'format': 'lstm_xp', 'version': 1, 'cell': {}}
    """
    model = in_numpy(model)
    arrays: Params = {}
    for _, k, reverse, weights, cell in directions(model):
        own = {part: array for part, array in weights._asdict().items() if array is not None}
        arrays |= {f"layers.{k}.{_SIDES[reverse]}.{part}": np.ascontiguousarray(array) for part, array in own.items()}
        for option, value in _options(cell).items():
            if callable(value):
                raise ValueError(f"{FORMAT.name} cannot hold a function as `{option}`; got {value!r}.")
    return arrays, {"format": _FORMAT, "version": _VERSION, "cell": _as_json(model.cell)}


def from_params(arrays: Mapping[str, np.ndarray], description: Mapping[str, Json]) -> LSTM:
    """Return the model of named arrays and their description.

    Raises
    ------
    ValueError
        If the description is of a later version, or something else than such a model.

    Examples
    --------
    >>> from_params(*to_params(LSTM.init(3, 4, num_layers=2, rng=0)))
    LSTM(3 -> 4, layers: 4, 4, 272 parameters, numpy float32)
    """
    if description.get("format") != _FORMAT:
        raise ValueError(f"the description must name the format {_FORMAT!r}; got {description.get('format')!r}.")
    if description.get("version") != _VERSION:
        raise ValueError(f"version {_VERSION} of the native format is read here; got {description.get('version')!r}.")
    parts: dict[tuple[int, bool], Params] = {}
    for name, array in arrays.items():
        match = _NAME.fullmatch(name)
        if match is None or match[3] not in LSTMWeights._fields or len(match[1]) > 6:
            raise ValueError(f"arrays must be named like 'layers.0.forward.weight_ih'; got {name!r}.")
        parts.setdefault((int(match[1]), match[2] == _SIDES[1]), {})[match[3]] = array
    layers = []
    for k, pair in enumerate(numbered(parts)):
        sides = zip(_SIDES, pair, strict=True)
        layers.append(Layer(*(None if part is None else _weights(f"layers.{k}.{side}", part) for side, part in sides)))
    return LSTM(tuple(layers), _from_json(description.get("cell", {})))


def _weights(where: str, parts: Params) -> LSTMWeights:
    for part in ("weight_ih", "weight_hh"):
        if part not in parts:
            raise ValueError(f"'{where}.{part}' is missing.")
    return LSTMWeights(**parts)


def write_npz(file: BinaryIO, model: LSTM) -> None:
    """Write an archive of NumPy."""
    arrays, description = to_params(model)
    content: dict[str, Json] = {_DESCRIPTION: np.array(json.dumps(description)), **arrays}
    np.savez(file, **content)


def read_npz(file: BinaryIO) -> Iterable[Entry]:
    """Return the model of an archive of NumPy, or the LSTMs with the names of PyTorch."""
    arrays = npz_arrays(file)
    description = arrays.pop(_DESCRIPTION, None)
    found = _entries("npz", arrays, None if description is None else str(description))
    if not found:
        raise ValueError(f"an .npz of this package has an array {_DESCRIPTION!r}; got {', '.join(arrays)}.")
    return found


def write_safetensors(file: BinaryIO, model: LSTM) -> None:
    """Write a file of the package safetensors."""
    arrays, description = to_params(model)
    metadata = {_DESCRIPTION: json.dumps(description)}
    file.write(needed("safetensors.numpy", "safetensors").save(arrays, metadata))


def read_safetensors(file: BinaryIO) -> Iterable[Entry]:
    """Return the model of a file of the package safetensors, or the LSTMs with the names of PyTorch."""
    content = file.read()
    tensors = needed("safetensors", "safetensors").deserialize(content)
    # The package has checked the header that stands before the tensors: its length, then JSON.
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    description = header.get("__metadata__", {}).get(_DESCRIPTION)
    arrays = {
        name: unpacked(tensor["data"], _DTYPES[tensor["dtype"]], tensor["shape"])
        for name, tensor in tensors
        if tensor["dtype"] in _DTYPES
    }
    return _entries("safetensors", arrays, description)


_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<bfloat16"}


def _entries(kind: str, arrays: Params, text: str | None) -> list[Entry]:
    """Return the model of a file with a description, or the LSTMs with the names of PyTorch."""
    if text is None:
        return torch.found(arrays, f"PyTorch names in {kind}")
    description = parsed(text)
    if not isinstance(description, dict):
        raise ValueError(f"the description must be a JSON object; got {text[:40]!r}.")
    return [entry_of(".", f"lstm_xp {kind}", lambda: from_params(arrays, description))]


def _options(cell: Cell) -> Description:
    """Return the options that are not the plain ones."""
    return {name: value for name, value in vars(cell).items() if value != getattr(PLAIN, name)}


def _as_json(cells: Cells) -> Json:
    """Return cells as JSON has them: objects, in lists as deep as their tuples."""
    return _options(cells) if isinstance(cells, Cell) else [_as_json(cell) for cell in cells]


def _from_json(described: Json) -> Json:
    """Return cells from what `_as_json` makes of them."""
    if isinstance(described, list):
        return tuple(_from_json(item) for item in described)
    try:
        options: Description = {key: tuple(v) if isinstance(v, list) else v for key, v in described.items()}
        return Cell(**options)
    except (AttributeError, TypeError) as error:
        raise ValueError(f"the cell must be described by its options; got {repr(described)[:100]}.") from error


_NPZ = Files("npz", read_npz, write_npz, (".npz",), member=r"\.npy")
# These begin with the length of a header, less than 2 to the power of 40, and the header, which is JSON.
_SAFETENSORS = Files("safetensors", read_safetensors, write_safetensors, (".safetensors",), head=rb".{5}\0\0\0\{")
FORMAT = Format("the native format", (_NPZ, _SAFETENSORS))
