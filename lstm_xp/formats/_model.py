"""What every format does with a model: arrays to NumPy, row blocks to another order, and no for what it cannot hold."""

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import BinaryIO, Literal, NamedTuple, TypeAlias, TypeVar

import numpy as np

from .._checks.call import cells_of
from .._equations.cell import PLAIN, Cell
from .._equations.records import Cells, DirectionCells, LSTMWeights, directions_of
from .._seams.namespace import to_numpy
from .._seams.trees import mapped
from ..model import LSTM

# What a model can have beyond plain layers, of which every format has several, forward ones and bidirectional ones.
Feature: TypeAlias = Literal["reverse", "projection", "peephole", "cell"]

_SAID: dict[Feature, str] = {
    "reverse": "a reverse-only layer",
    "projection": "a projection (`weight_hr`)",
    "peephole": "`peephole` weights",
    "cell": "a `cell` other than the plain one",
}

_Item = TypeVar("_Item")


class Entry(NamedTuple):
    """One LSTM of a file, as `lstm_xp.inspect` lists it.

    `name` is what `lstm_xp.load` takes as ``name=``, ``"."`` for a file that is one LSTM itself. `format` says what
    stands for it in the file. `model` has NumPy's arrays; it is None where `problem` says why it cannot be used.
    """

    name: str
    format: str
    model: LSTM | None
    problem: str | None = None


class Files(NamedTuple):
    """A kind of files: how one is read and written, to what suffixes, and known: by patterns of bytes and of names."""

    kind: str
    read: Callable[[BinaryIO], Iterable[Entry]]
    write: Callable[[BinaryIO, LSTM], None] | None = None
    suffixes: tuple[str, ...] = ()
    head: bytes = b"(?!)"  # what the file begins with, if it is no archive
    member: str = "(?!)"  # what the name of some member ends with, if it is an archive

    def have(self, head: bytes, members: Sequence[str]) -> bool:
        """Tell whether a file with this beginning, or an archive with these members, is one of them."""
        if members:
            return any(re.search(f"{self.member}$", name) for name in members)
        return re.match(self.head, head, re.DOTALL) is not None


class Format(NamedTuple):
    """What a module says of its format: the name, and the files it has besides its parameters in memory."""

    name: str
    files: tuple[Files, ...] = ()


class Direction(NamedTuple):
    """One direction of one layer of a model."""

    where: str  # as an error names it
    layer: int
    reverse: bool
    weights: LSTMWeights
    cell: Cell


def entry_of(name: str, format: str, make: Callable[[], LSTM]) -> Entry:
    """Return an LSTM of a file, or the problem with it."""
    try:
        return Entry(name, format, make())
    except (TypeError, ValueError) as error:
        return Entry(name, format, None, str(error).removeprefix("LSTM: "))


def chosen(function: str, source: str, entries: Sequence[Entry], name: str | None) -> LSTM:
    """Return the model of the entry with that name; the only one, if no name is given."""
    listed = ", ".join(repr(entry.name) for entry in entries)
    if not entries:
        raise ValueError(f"{function}: {source} has no LSTM.")
    if name is None and len(entries) > 1:
        raise ValueError(f"{function}: `name` must say which LSTM of {source}, one of {listed}; got None.")
    entry = next((entry for entry in entries if name in (None, entry.name)), None)
    if entry is None:
        raise ValueError(f"{function}: `name` must be one of the LSTMs of {source}, {listed}; got {name!r}.")
    if entry.model is None:
        raise ValueError(f"{function}: {source}, LSTM {entry.name!r}: {entry.problem}")
    return entry.model


def unique_names(places: Sequence[tuple[str, str]]) -> list[str]:
    """Return a name for each: its own where no other has it, else behind the place that it is in, else numbered."""
    count = Counter(own for _, own in places)
    names: dict[str, None] = {}
    for where, own in places:
        name = base = own if count[own] == 1 else where + own
        number = 1
        while name in names:
            number += 1
            name = f"{base}#{number}"
        names[name] = None
    return list(names)


def numbers(content: bytes | memoryview, dtype: str) -> np.ndarray:
    """Return bytes as numbers, where they are; the dtype begins with the order of the bytes, "<" or ">".

    bfloat16, the upper half of a float32, is widened to that.
    """
    if dtype[1:] == "bfloat16":
        return (np.frombuffer(content, f"{dtype[0]}u2").astype("u4") << 16).view("f4")
    return to_numpy(np.frombuffer(content, dtype[0] + np.dtype(dtype[1:]).str[1:]))


def unpacked(content: bytes, dtype: str, shape: Sequence[int]) -> np.ndarray:
    """Return an array, in memory of its own, from bytes as `numbers` takes them."""
    return np.array(numbers(content, dtype).reshape(shape))


def in_numpy(model: LSTM) -> LSTM:
    """Return the model with NumPy's arrays."""
    return LSTM(mapped(to_numpy, model.layers), model.cell)


def blocks(rows: np.ndarray, order: Sequence[int]) -> np.ndarray:
    """Return the row blocks in another order: block k of the result is block ``order[k]``."""
    parts = np.split(rows, len(order))
    return np.concatenate([parts[k] for k in order])


def numbered(directions: Mapping[tuple[int, bool], _Item]) -> list[tuple[_Item | None, _Item | None]]:
    """Return what there is of each layer, forward and reverse, from what there is by its number and direction."""
    numbers = sorted({k for k, _ in directions})
    if not numbers or numbers != list(range(len(numbers))):
        raise ValueError(f"layers must be numbered from 0 without a gap; got {numbers}.")
    return [(directions.get((k, False)), directions.get((k, True))) for k in numbers]


def shortest(cells: DirectionCells) -> Cells:
    """Return the cells as short as they can be said."""
    each = tuple(pair[0] if len(set(pair)) == 1 else (pair[0], pair[-1]) for pair in cells)
    first = each[0]
    return first if len(set(each)) == 1 and isinstance(first, Cell) else each


def directions(model: LSTM) -> list[Direction]:
    """Return every direction of every layer with its cell."""
    cells = cells_of("LSTM", model.layers, model.cell)
    return [
        Direction(f"layers[{k}].{'backward' if reverse else 'forward'}", k, reverse, weights, cell)
        for k, layer in enumerate(model.layers)
        for (reverse, weights), cell in zip(directions_of(layer), cells[k], strict=True)
    ]


def require_only(format: str, model: LSTM, allowed: Collection[Feature]) -> None:
    """Raise if the model has something that the format cannot hold."""
    for where, k, _, weights, cell in directions(model):
        has: dict[Feature, bool] = {
            "reverse": model.layers[k].forward is None,
            "projection": weights.weight_hr is not None,
            "peephole": weights.peephole is not None,
            "cell": cell != PLAIN,
        }
        for feature, present in has.items():
            if present and feature not in allowed:
                raise ValueError(f"{format} cannot hold {_SAID[feature]}; got {where}.")


def bias_of(weights: LSTMWeights) -> np.ndarray:
    """Return the bias, for a format that always has one: zeros compute the same as none."""
    if weights.bias is not None:
        return np.asarray(weights.bias)
    return np.zeros(weights.weight_hh.shape[0], dtype=weights.weight_hh.dtype)
