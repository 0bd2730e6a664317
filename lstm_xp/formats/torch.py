"""PyTorch: `nn.LSTM`, `nn.LSTMCell` and this package's module, alive, as a state dict, and in `.pt` and `.pth`.

The row blocks are those of this package. PyTorch has two biases, which act as their sum; on the way back the second one
is zero. That computes the same, but under an optimiser such as Adam two biases do not learn like one.

An LSTM is found by the names of its weights, behind any prefix; the prefix without its last dot is its name.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from io import BytesIO
from typing import BinaryIO, TypeAlias

import numpy as np

from .._equations.records import Layer, LSTMWeights
from .._seams.namespace import Array, to_numpy
from ..model import LSTM
from ._files import needed, opened_zip, require_budget, size_of, unpacked_member
from ._model import Entry, Files, Format, chosen, directions, entry_of, in_numpy, numbered, numbers, require_only
from ._pickles import Unpickler

PARTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr", "weight_peephole")  # the last one is ours
_NAME = re.compile(rf"(?:(.*)\.)?({'|'.join(PARTS)})(?:_l(\d+)(_reverse)?)?", re.DOTALL)

_LEGACY = 5  # pickles in a file that is no archive: two numbers, the machine, the tree, the names of the storages
_MAGIC = 0x1950A86A20F9469CFC6C

Parts: TypeAlias = dict[str, np.ndarray]


def from_params(source: object, *, name: str | None = None) -> LSTM:
    """Return the LSTM of a module or of a state dict, in NumPy's arrays.

    Parameters
    ----------
    source : torch.nn.Module or mapping
        An `nn.LSTM`, an `nn.LSTMCell`, a module that has one, or the state dict of such a module.
    name : str, optional
        Which of several, by the prefix of its weights without the last dot; ``"."`` for no prefix.

    Raises
    ------
    ValueError
        If there is no LSTM, none of that name, or several and no name is given.

    Examples
    --------
    >>> import torch
    >>> from_params(torch.nn.LSTM(3, 4, num_layers=2, bidirectional=True))
    LSTM(3 -> 8, layers: 4 + 4 both, 4 + 4 both, 672 parameters, numpy float32)
    """
    tensors = source.state_dict() if hasattr(source, "state_dict") else source
    return chosen("from_params", "source", found(tensors, "PyTorch"), name)


def to_params(model: LSTM) -> dict[str, Array]:
    """Return a state dict that `torch.nn.LSTM` loads with ``strict=True``.

    Raises
    ------
    ValueError
        If the model has what `torch.nn.LSTM` lacks: peepholes, another cell, a reverse-only layer, or layers that
        differ in size, directions or in which weights they have.

    Examples
    --------
    >>> import torch
    >>> peer = torch.nn.LSTM(3, 4)
    >>> peer.load_state_dict(to_params(LSTM.init(3, 4, rng=0)))
    <All keys matched successfully>
    """
    torch = needed("torch", "torch")
    model = in_numpy(model)
    require_only(FORMAT.name, model, {"projection"})
    each = [w for layer in model.layers for w in layer if w is not None]
    sizes = {tuple(None if a is None else a.shape for a in w[1:]) for w in each}  # of all but the input weights
    if len(sizes) > 1 or len({layer.backward is None for layer in model.layers}) > 1:
        raise ValueError("PyTorch cannot hold layers that differ in size, in directions or in which weights they have.")
    arrays = {}
    for _, k, reverse, w, _ in directions(model):
        zeros = None if w.bias is None else np.zeros_like(w.bias)
        for part, array in zip(PARTS[:5], (w.weight_ih, w.weight_hh, w.bias, zeros, w.weight_hr), strict=True):
            if array is not None:
                arrays[f"{part}_l{k}_reverse" if reverse else f"{part}_l{k}"] = array
    return {name: torch.tensor(array) for name, array in arrays.items()}


def write(file: BinaryIO, model: LSTM) -> None:
    """Write the state dict."""
    content = BytesIO()  # because PyTorch makes of an OSError whatever it likes
    needed("torch", "torch").save(to_params(model), content)
    file.write(content.getbuffer())


def read(file: BinaryIO, format: str = "PyTorch state dict", *, objects: bool = False) -> Iterable[Entry]:
    """Return the LSTMs of the state dict in an archive, and of state dicts or objects inside of mappings."""
    with opened_zip(file) as archive:
        names = archive.namelist()
        (member,) = (name for name in names if name.count("/") == 1 and name.endswith("/data.pkl"))
        folder = member.removesuffix("data.pkl")
        big = f"{folder}byteorder" in names and unpacked_member(archive, f"{folder}byteorder") == b"big"
        tree = Unpickler(BytesIO(unpacked_member(archive, member)), ">" if big else "<", objects=objects).load()
        return _entries(file, tree, lambda key: unpacked_member(archive, f"{folder}data/{key}"), format)


def read_legacy(file: BinaryIO) -> Iterable[Entry]:
    """Return those of a file that is pickles, one after the other, and then the storages."""
    whole = file.read()
    content = BytesIO(whole)
    pickles = [Unpickler(content) for _ in range(_LEGACY)]
    magic, _, _, tree, keys = [each.load() for each in pickles]
    sizes = pickles[3].sizes
    if magic != _MAGIC or keys != sorted(sizes):
        raise ValueError("it must begin with the number that PyTorch writes, and list the storages of its tensors")
    storages = {}
    for key in keys:
        count, start = int.from_bytes(content.read(8), "little"), content.tell()
        storages[key] = memoryview(whole)[start : content.seek(start + count * sizes[key])]
    return _entries(file, tree, storages.__getitem__, "PyTorch state dict")


def _entries(file: BinaryIO, tree: object, content_of: Callable[[str], bytes | memoryview], format: str) -> list[Entry]:
    """Return every LSTM of a tree, whose tensors lie in storages; only those with names of weights are read."""
    if not isinstance(tree, Mapping):
        raise ValueError(f"it must hold a state dict, or a mapping with one inside; got {type(tree).__name__}.")
    tensors = {name: tensor for name, tensor in flattened(tree) if _NAME.fullmatch(name)}
    dtypes = {tensor.storage: tensor.dtype for tensor in tensors.values()}
    storages = {key: numbers(content_of(key), dtype) for key, dtype in dtypes.items()}
    arrays = {name: tensor.within(storages[tensor.storage]) for name, tensor in tensors.items()}
    # Views may be larger than what they view.
    require_budget(size_of(file), sum(array.nbytes for array in arrays.values()), "it")
    return found(arrays, format)


def found(tree: object, format: str) -> list[Entry]:
    """Return every LSTM among the arrays of a nested mapping."""
    modules: dict[str, dict[tuple[int, bool], Parts]] = {}
    for key, array in flattened(tree):
        match = _NAME.fullmatch(key)
        if match is not None and len(match[3] or "") < 6:
            prefix, part, k, reverse = match.groups()
            place = int(k or 0), bool(reverse)
            modules.setdefault(prefix or ".", {}).setdefault(place, {})[part] = np.array(to_numpy(array))
    return [entry_of(name, format, partial(_model, parts)) for name, parts in modules.items() if _is_lstm(parts)]


def flattened(tree: object) -> Iterator[tuple[str, Array]]:
    """Yield every floating array under the names of a nested mapping, joined by dots."""
    # Not by recursion, and each mapping once: a damaged file may nest without end.
    seen: set[int] = set()
    waiting = [("", tree)]
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, Mapping):
            if id(value) not in seen:
                seen.add(id(value))
                waiting.extend(
                    (f"{name}.{key}" if name else str(key), item) for key, item in reversed(list(value.items()))
                )
        elif hasattr(value, "shape") and hasattr(value, "dtype") and "float" in str(value.dtype):
            yield name, value


def _is_lstm(directions: Mapping[tuple[int, bool], Parts]) -> bool:
    """Tell an LSTM from other recurrent layers, which name their weights alike but have 3 or 1 blocks of rows."""
    parts = directions.get((0, False), {})
    if "weight_hh" not in parts or parts["weight_hh"].ndim != 2:
        return False
    rows, R = parts["weight_hh"].shape
    return "weight_hr" in parts or rows == 4 * R


def _model(directions: Mapping[tuple[int, bool], Parts]) -> LSTM:
    layers = []
    for k, (forward, backward) in enumerate(numbered(directions)):
        if forward is None:
            raise ValueError(f"layer {k} must have a forward direction; got weights of the reverse one alone.")
        layers.append(Layer(_weights(forward, k), None if backward is None else _weights(backward, k)))
    return LSTM(tuple(layers))


def _weights(parts: Parts, k: int) -> LSTMWeights:
    biases = [parts[part] for part in ("bias_ih", "bias_hh") if part in parts]
    if "weight_ih" not in parts or "weight_hh" not in parts or len(biases) == 1:
        missing = ", ".join(part for part in PARTS[:4] if part not in parts)
        raise ValueError(f"layer {k} must have {', '.join(PARTS[:4])}, or no bias at all; missing: {missing}.")
    if len({bias.shape for bias in biases}) > 1:
        raise ValueError(f"layer {k} must have biases of one shape; got {biases[0].shape} and {biases[1].shape}.")
    bias = np.add(*biases) if biases else None
    return LSTMWeights(parts["weight_ih"], parts["weight_hh"], bias, *map(parts.get, PARTS[4:]))


_ARCHIVE = Files("PyTorch", read, write, (".pt", ".pth"), member=r"data\.pkl")
_PICKLES = Files("PyTorch pickle", read_legacy, head=rb"\x80")
FORMAT = Format("PyTorch", (_ARCHIVE, _PICKLES))
