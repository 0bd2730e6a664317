"""The package's own format: every model, exactly, as named arrays and a description; in `.npz` or `.safetensors`.

The arrays are named ``layers.0.forward.weight_ih`` and so on. The description is JSON: the format's version, and the
cell. In a `.safetensors` it is the metadata, in an `.npz` an array of text. A `.safetensors` without it is searched for
the names of PyTorch.
"""

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from .._equations.cell import Cell
from .._equations.records import Layer, LSTMWeights
from ..model import LSTM
from . import torch
from ._files import needed, npz_arrays
from ._model import Entry, directions, in_numpy

_FORMAT = "lstm_xp"
_VERSION = 1
_DESCRIPTION = "description"
_NAME = re.compile(r"layers\.(\d+)\.(forward|backward)\.(\w+)")

Params = dict[str, np.ndarray]


def to_params(model: LSTM) -> tuple[Params, dict[str, Any]]:
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
    arrays = {}
    for k, layer in enumerate(model.layers):
        for direction, weights in layer._asdict().items():
            for part, array in weights._asdict().items() if weights is not None else ():
                if array is not None:
                    arrays[f"layers.{k}.{direction}.{part}"] = np.ascontiguousarray(array)
    for d in directions(model):
        for option, value in _options(d.cell).items():
            if callable(value):
                raise ValueError(f"the native format cannot hold a function as `{option}`; got {value!r}.")
    return arrays, {"format": _FORMAT, "version": _VERSION, "cell": _described(model.cell)}


def from_params(arrays: Mapping[str, np.ndarray], description: Mapping[str, Any]) -> LSTM:
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
    parts: dict[tuple[int, str], Params] = {}
    for name, array in arrays.items():
        match = _NAME.fullmatch(name)
        if match is None or match[3] not in LSTMWeights._fields or len(match[1]) > 6:
            raise ValueError(f"arrays must be named like 'layers.0.forward.weight_ih'; got {name!r}.")
        parts.setdefault((int(match[1]), match[2]), {})[match[3]] = array
    numbers = sorted({k for k, _ in parts})
    if not numbers or numbers != list(range(len(numbers))):
        raise ValueError(f"layers must be numbered from 0 without a gap; got {numbers}.")
    for (k, direction), here in parts.items():
        for part in ("weight_ih", "weight_hh"):
            if part not in here:
                raise ValueError(f"'layers.{k}.{direction}.{part}' is missing.")
    layers = [
        Layer(*(LSTMWeights(**parts[k, d]) if (k, d) in parts else None for d in ("forward", "backward")))
        for k in numbers
    ]
    return LSTM(tuple(layers), _cell(description.get("cell", {})))


def write_npz(file: BinaryIO, model: LSTM) -> None:
    """Write an archive of NumPy."""
    arrays, description = to_params(model)
    np.savez(file, allow_pickle=False, **{_DESCRIPTION: np.array(json.dumps(description))}, **arrays)


def read_npz(path: Path) -> Iterable[Entry]:
    """Yield the model of an archive of NumPy."""
    arrays = npz_arrays(path)
    description = arrays.pop(_DESCRIPTION, None)
    if description is None:
        raise ValueError(f"an .npz of this package has an array {_DESCRIPTION!r}; got {', '.join(arrays)}.")
    yield Entry(".", "lstm_xp npz", from_params(arrays, _parsed(str(description))))


def write_safetensors(file: BinaryIO, model: LSTM) -> None:
    """Write a file of the package safetensors."""
    arrays, description = to_params(model)
    metadata = {_DESCRIPTION: json.dumps(description)}
    file.write(needed("safetensors.numpy", "safetensors").save(arrays, metadata))


def read_safetensors(path: Path) -> Iterable[Entry]:
    """Yield the model of a file of the package safetensors, or the LSTMs with the names of PyTorch."""
    safetensors = needed("safetensors", "safetensors")
    content = path.read_bytes()
    tensors = safetensors.deserialize(content)
    # The package has checked the header that stands before the tensors: its length, then JSON.
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    description = header.get("__metadata__", {}).get(_DESCRIPTION)
    arrays = {name: _array(tensor) for name, tensor in tensors if tensor["dtype"] in _DTYPES}
    if description is None:
        yield from torch.found(arrays, "PyTorch names in safetensors")
    else:
        yield Entry(".", "lstm_xp safetensors", from_params(arrays, _parsed(description)))


_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


def _array(tensor: Mapping[str, Any]) -> np.ndarray:
    """Return a tensor of the file."""
    array = np.frombuffer(tensor["data"], _DTYPES[tensor["dtype"]]).reshape(tensor["shape"])
    if tensor["dtype"] == "BF16":  # the upper half of a float32
        array = (array.astype("<u4") << 16).view("<f4")
    return array.astype(array.dtype.newbyteorder("="))


def _parsed(text: str) -> Mapping[str, Any]:
    description = json.loads(text)
    if not isinstance(description, dict):
        raise ValueError(f"the description must be a JSON object; got {text[:40]!r}.")
    return description


def _options(cell: Cell) -> dict[str, Any]:
    """Return the options that are not the plain ones."""
    return {
        field.name: getattr(cell, field.name)
        for field in dataclasses.fields(Cell)
        if getattr(cell, field.name) != field.default
    }


def _described(cell: Any) -> Any:
    """Return cells as JSON has them: objects, in lists as deep as their tuples."""
    return _options(cell) if isinstance(cell, Cell) else [_described(item) for item in cell]


def _cell(described: Any) -> Any:
    if isinstance(described, list):
        return tuple(_cell(item) for item in described)
    try:
        options: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in described.items()}
        return Cell(**options)
    except (AttributeError, TypeError) as error:
        raise ValueError(f"the cell must be described by its options; got {described!r}.") from error
