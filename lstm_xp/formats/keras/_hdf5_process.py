"""A program of its own, which reads the LSTMs of an HDF5 file from its standard input: see `_hdf5`.

It finds cells by the names and shapes of their weights, checks every size before it reads, and follows no link to
another file. What it writes to its standard output is the length of a description (8 bytes), the description (JSON),
and the arrays one after the other.
"""

import json
import os
import signal
import sys
from collections.abc import Iterator
from io import BytesIO
from typing import NamedTuple

import h5py  # type: ignore[import-untyped] # it has no types
import numpy as np

# Keras 3 numbers the weights of a cell, Keras 2 names them (":0" is TensorFlow's).
_NUMBERED = ("0", "1", "2")
_NAMED = ("kernel", "recurrent_kernel", "bias")
_TEXTS = ("lstm_xp", "model_config", "keras_version")
_DEPTH = 64

_MEMORY = 1 << 29  # what this program takes for itself
_BYTES_A_SECOND = 1 << 25


class Group(NamedTuple):
    """A group with the names of its ancestors, and its own members."""

    path: tuple[str, ...]
    group: h5py.Group
    members: list[str]
    parent: "Group | None"


def main(budget: int, seconds: float) -> None:
    """Read the standard input, and write what it has or what is wrong with it."""
    _limit(budget, seconds)
    _watch()
    try:
        with h5py.File(BytesIO(sys.stdin.buffer.read()), "r") as file:
            description, arrays = _contents(file, budget)
    except MemoryError:
        description, arrays = {"error": "it asks for more memory than a file of its size can need"}, []
    except Exception as error:  # damaged bytes make h5py raise almost anything
        description, arrays = {"error": str(error).strip() or type(error).__name__}, []
    text = json.dumps(description).encode()
    with os.fdopen(1, "wb") as out:
        out.writelines((len(text).to_bytes(8, "little"), text, *arrays))


def _limit(budget: int, seconds: float) -> None:
    """Let the system end this process when it runs or grows without end."""
    if sys.platform != "win32":
        import resource

        spent = sum(os.times()[:2])
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (int(spent + seconds) + 1, resource.RLIM_INFINITY))
        if sys.platform == "linux":
            memory = _MEMORY + 3 * budget
            resource.setrlimit(resource.RLIMIT_AS, (memory, memory))


def _watch(size: int = 0) -> None:
    """Let the system end this process when it is at one thing for too long, be it as large as this."""
    if sys.platform != "win32":
        signal.setitimer(signal.ITIMER_PROF, 1 + size / _BYTES_A_SECOND)


def _contents(file: h5py.File, budget: int) -> tuple[dict[str, object], list[bytes]]:
    """Return the description and the arrays of a file."""
    root = file["model_weights"] if "model_weights" in file and _is_own_group(file, "model_weights") else file
    cells: list[dict[str, object]] = []
    arrays: list[bytes] = []
    names: dict[str, str] = {}
    left = budget
    for here in _groups(file):
        datasets = _weights_of(here)
        if datasets is None:
            names |= _layer_name(here)
            continue
        left -= sum(dataset.nbytes for dataset in datasets)
        if left < 0:
            raise ValueError("its weights take more memory than a file of its size can hold")
        read = [_read("/".join(here.path), dataset) for dataset in datasets]
        arrays += [array.tobytes() for array in read]
        shapes = [[array.shape, array.dtype.str] for array in read]
        cells.append({"path": here.path, "arrays": shapes, "beside": _beside(here)})
    texts = {name: text for name in _TEXTS for text in (_texts(root, name) or _texts(file, name))}
    order = [text for name in sorted(root.attrs) if name.startswith("layer_names") for text in _texts(root, name)]
    return {"cells": cells, "names": names, "texts": texts, "order": order}, arrays


def _groups(file: h5py.File) -> Iterator[Group]:
    """Yield every group once."""
    seen = set()
    waiting: list[tuple[tuple[str, ...], h5py.Group, Group | None]] = [((), file, None)]
    while waiting:
        _watch()
        path, group, parent = waiting.pop()
        address = h5py.h5o.get_info(group.id).addr
        if address in seen or len(path) > _DEPTH:
            continue
        seen.add(address)
        here = Group(path, group, list(group), parent)
        yield here
        # Weights are no groups, and the groups of weights have no others.
        below = [] if path[-1:] == ("vars",) else here.members
        waiting.extend(((*path, name), group[name], here) for name in below if _is_own_group(group, name))


def _beside(here: Group) -> int:
    """Return how many names there are beside the cell of this group, with its own."""
    cell = here.parent if here.path[-1:] == ("vars",) and here.parent is not None else here
    return 1 if cell.parent is None else len(cell.parent.members)


def _is_own_group(group: h5py.Group, name: str) -> bool:
    return _is_own(group, name) and h5py.h5o.get_info(group.id, _encoded(name)).type == h5py.h5o.TYPE_GROUP


def _is_own(group: h5py.Group, name: str) -> bool:
    """Tell whether a name stands for something in this very file: links may lead to others."""
    return bool(group.id.links.get_info(_encoded(name)).type == h5py.h5l.TYPE_HARD)


def _encoded(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _weights_of(here: Group) -> list[h5py.Dataset] | None:
    """Return kernel, recurrent kernel and bias, if there is one, of an LSTM's cell; None if the group is none."""
    names = {name.removesuffix(":0"): name for name in here.members}
    parts = _NUMBERED if here.path[-1:] == ("vars",) else _NAMED
    if not names.keys() >= set(parts[:2]) or (parts is _NUMBERED and not names.keys() <= set(parts)):
        return None
    for part in parts:
        if part in names and not _is_own(here.group, names[part]):
            raise ValueError(f"{'/'.join(here.path)!r} has weights behind a link, which is not followed")
    datasets = [here.group[names[part]] for part in parts if part in names]
    if not all(isinstance(dataset, h5py.Dataset) and dataset.shape is not None for dataset in datasets):
        return None
    shapes = [dataset.shape for dataset in datasets]
    return datasets if _are_of_lstm(*shapes) else None


def _are_of_lstm(kernel: tuple[int, ...], recurrent: tuple[int, ...], bias: tuple[int, ...] = (4,)) -> bool:
    """Tell an LSTM, whose weights have four blocks of columns, from a GRU with three and others with one."""
    if len(kernel) != 2 or len(recurrent) != 2 or len(bias) != 1 or recurrent[0] < 1:
        return False
    return kernel[1] == recurrent[1] == 4 * recurrent[0]


def _read(where: str, dataset: h5py.Dataset) -> np.ndarray:
    """Return a dataset that is plain numbers in this very file: all that Keras writes."""
    settings = dataset.id.get_create_plist()
    if settings.get_layout() == h5py.h5d.VIRTUAL or settings.get_external_count():
        raise ValueError(f"{where!r} has its numbers in other files, which are not opened")
    if settings.get_nfilters():
        raise ValueError(f"{where!r} is compressed, which Keras never does, and may unpack without end")
    dtype = dataset.dtype
    _watch(dataset.nbytes)
    halves = dtype == "V2" and _texts(dataset, "dtype") == ["bfloat16"]
    if not halves and (dtype.kind != "f" or dtype.itemsize not in (2, 4, 8)):
        raise ValueError(f"{where!r} must have a floating dtype of 2, 4 or 8 bytes; got {dtype}")
    numbers: np.ndarray = dataset[()]
    if halves:  # the upper half of a float32
        return (numbers.view("<u2").astype("<u4") << 16).view("<f4")
    return numbers.astype(dtype.newbyteorder("<"))


def _layer_name(here: Group) -> dict[str, str]:
    """Return the name of a layer by its path; late versions of Keras 3 note it beside its own weights."""
    if here.path[-1:] != ("vars",):
        return {}
    return {"/".join(here.path[:-1]): name for name in _texts(here.group, "name")}


def _texts(group: h5py.Group | h5py.Dataset, name: str) -> list[str]:
    """Return the text or texts of an attribute; none if there is no such attribute."""
    if name not in group.attrs:
        return []
    value = group.attrs[name]
    items = [value] if isinstance(value, str | bytes) else getattr(value, "tolist", list)()
    items = items if isinstance(items, list) else [items]
    return [x.decode("utf-8", "replace") if isinstance(x, bytes) else x for x in items if isinstance(x, str | bytes)]


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
