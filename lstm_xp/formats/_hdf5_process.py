"""A program of its own, which reads the LSTMs of an HDF5 file from its standard input: see `_hdf5`.

It finds cells by the names and shapes of their weights, checks every size before it reads, and follows no link to
another file. What it writes to its standard output is the length of a description (8 bytes), the description (JSON),
and the arrays one after the other.
"""

import json
import os
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import h5py  # type: ignore[import-untyped] # it has no types

# Keras 3 numbers the weights of a cell, Keras 2 names them (":0" is TensorFlow's).
_NUMBERED = ("0", "1", "2")
_NAMED = ("kernel", "recurrent_kernel", "bias")
_TEXTS = ("lstm_xp", "model_config", "keras_version")
_DEPTH = 64


class Group(NamedTuple):
    """A group with the names of its ancestors."""

    path: tuple[str, ...]
    group: Any
    parent: "Group | None"


def main(budget: int, seconds: float) -> None:
    """Read the standard input, and write what it has or what is wrong with it."""
    _limit(budget, seconds)
    try:
        with os.fdopen(0, "rb") as content, h5py.File(content, "r") as file:
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
            memory = (1 << 31) + 4 * budget
            resource.setrlimit(resource.RLIMIT_AS, (memory, memory))


def _contents(file: Any, budget: int) -> tuple[dict[str, Any], list[bytes]]:
    """Return the description and the arrays of a file."""
    root = file["model_weights"] if _is_group(file, "model_weights") else file
    cells: list[dict[str, Any]] = []
    arrays: list[bytes] = []
    names: dict[str, str] = {}
    left = budget
    for here in _groups(file):
        path = here.path
        datasets = _weights_of(path, here.group)
        if datasets is None:
            continue
        left -= sum(dataset.nbytes for dataset in datasets)
        if left < 0:
            raise ValueError("its weights take more memory than a file of its size can hold")
        read = [_read("/".join(path), dataset) for dataset in datasets]
        arrays += [array.tobytes() for array in read]
        shapes = [[array.shape, array.dtype.str] for array in read]
        cells.append({"path": path, "arrays": shapes, "beside": _beside(here)})
        names |= _layer_names(file, path)
    texts = {name: text for name in _TEXTS for text in (_texts(root, name) or _texts(file, name))}
    order = [text for name in sorted(root.attrs) if name.startswith("layer_names") for text in _texts(root, name)]
    return {"cells": cells, "names": names, "texts": texts, "order": order}, arrays


def _groups(file: Any) -> Iterator[Group]:
    """Yield every group once."""
    seen = set()
    waiting = [Group((), file, None)]
    while waiting:
        here = waiting.pop()
        address = h5py.h5o.get_info(here.group.id).addr
        if address in seen or len(here.path) > _DEPTH:
            continue
        seen.add(address)
        yield here
        for name in here.group:
            if _is_group(here.group, name):
                waiting.append(Group((*here.path, name), here.group[name], here))


def _beside(here: Group) -> int:
    """Return how many names there are beside the cell of this group, with its own."""
    cell = here.parent if here.path[-1:] == ("vars",) and here.parent is not None else here
    return 1 if cell.parent is None else len(cell.parent.group)


def _is_group(group: Any, name: str) -> bool:
    return _is_own(group, name) and group.get(name, getclass=True) is h5py.Group


def _is_own(group: Any, name: str) -> bool:
    """Tell whether a name stands for something in this very file: links may lead to others."""
    return name in group and group.get(name, getclass=True, getlink=True) is h5py.HardLink


def _weights_of(path: tuple[str, ...], group: Any) -> list[Any] | None:
    """Return kernel, recurrent kernel and bias, if there is one, of an LSTM's cell; None if the group is none."""
    names = {name.removesuffix(":0"): name for name in group}
    parts = _NUMBERED if path[-1:] == ("vars",) else _NAMED
    if not names.keys() >= set(parts[:2]) or (parts is _NUMBERED and not names.keys() <= set(parts)):
        return None
    for part in parts:
        if part in names and group.get(names[part], getclass=True, getlink=True) is not h5py.HardLink:
            raise ValueError(f"{'/'.join(path)!r} has weights behind a link, which is not followed")
    datasets = [group[names[part]] for part in parts if part in names]
    if not all(isinstance(dataset, h5py.Dataset) and dataset.shape is not None for dataset in datasets):
        return None
    shapes = [dataset.shape for dataset in datasets]
    return datasets if _are_of_lstm(*shapes) else None


def _are_of_lstm(kernel: tuple[int, ...], recurrent: tuple[int, ...], bias: tuple[int, ...] = (4,)) -> bool:
    """Tell an LSTM, whose weights have four blocks of columns, from a GRU with three and others with one."""
    if len(kernel) != 2 or len(recurrent) != 2 or len(bias) != 1 or recurrent[0] < 1:
        return False
    return kernel[1] == recurrent[1] == 4 * recurrent[0]


def _read(where: str, dataset: Any) -> Any:
    """Return a dataset that is plain numbers in this very file: all that Keras writes."""
    settings = dataset.id.get_create_plist()
    if settings.get_layout() == h5py.h5d.VIRTUAL or settings.get_external_count():
        raise ValueError(f"{where!r} has its numbers in other files, which are not opened")
    if settings.get_nfilters():
        raise ValueError(f"{where!r} is compressed, which Keras never does, and may unpack without end")
    dtype = dataset.dtype
    if dtype == "V2" and _texts(dataset, "dtype") == ["bfloat16"]:  # the upper half of a float32
        return (dataset[()].view("<u2").astype("<u4") << 16).view("<f4")
    if dtype.kind != "f" or dtype.itemsize not in (2, 4, 8):
        raise ValueError(f"{where!r} must have a floating dtype of 2, 4 or 8 bytes; got {dtype}")
    return dataset[()].astype(dtype.newbyteorder("<"))


def _layer_names(file: Any, path: tuple[str, ...]) -> dict[str, str]:
    """Return the names of the layers around a cell, by their paths; late versions of Keras 3 note them."""
    names = {}
    for k in range(1, len(path)):
        owner = "/".join(path[:k])
        texts = _texts(file[owner]["vars"], "name") if _is_group(file[owner], "vars") else []
        if texts:
            names[owner] = texts[0]
    return names


def _texts(group: Any, name: str) -> list[str]:
    """Return the text or texts of an attribute; none if there is no such attribute."""
    if name not in group.attrs:
        return []
    value = group.attrs[name]
    items = [value] if isinstance(value, str | bytes) else getattr(value, "tolist", list)()
    items = items if isinstance(items, list) else [items]
    return [x.decode("utf-8", "replace") if isinstance(x, bytes) else x for x in items if isinstance(x, str | bytes)]


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
