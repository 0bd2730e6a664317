"""HDF5 as Keras writes it: the weights of LSTM cells by their paths, and a few texts.

Cells are found by the names and shapes of their weights. The package pyfive, which is Python alone, takes a file apart;
what it may read of each object and of the whole is bounded, so that no damaged file is read without end.
"""

import math
import re
import struct
from collections.abc import Iterator, Mapping
from io import BytesIO
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from .._files import needed
from .._model import unpacked

Arrays = list[np.ndarray]

# Keras 3 numbers the weights of a cell, Keras 2 names them (":0" is TensorFlow's).
_NUMBERED = ("0", "1", "2")
_NAMED = ("kernel", "recurrent_kernel", "bias")
_TEXTS = ("lstm_xp", "model_config", "keras_version")
_DEPTH = 64
_OBJECT = 1 << 18  # bytes that a group or the header of a dataset may take, for some thousand names
_CALL = 16  # bytes that a read counts for, besides its own

# The kinds of messages in the header of an object, and of types.
_LINKS, _LINK, _EXTERNAL, _ATTRIBUTE, _ATTRIBUTES = 0x02, 0x06, 0x07, 0x0C, 0x15
_DATATYPE, _FLOAT, _STRING, _VARIABLE = 0x03, 1, 3, 9
_VIRTUAL = 3
_EXPONENTS = {2: 5, 4: 8, 8: 11}  # bits, by the bytes of a number

_Objects: TypeAlias = Any  # what pyfive has of one object


class StoredCell(NamedTuple):
    """The weights of a cell of an LSTM: kernel, recurrent kernel and bias, if there is one."""

    path: tuple[str, ...]  # the group's
    arrays: Arrays
    beside: int  # how many names there are beside it, with its own


class Stored(NamedTuple):
    """What is read of a file."""

    cells: list[StoredCell]  # by their paths, with numbers in their order
    names: Mapping[str, str]  # of layers, by their paths
    texts: Mapping[str, str]  # attributes
    order: list[str]  # of the layers in a file of Keras 2


class _Group(NamedTuple):
    """A group with the names of its ancestors, and its own members: addresses, or texts for what is a link."""

    path: tuple[str, ...]
    objects: _Objects
    members: dict[str, int | str]
    parent: "_Group | None"


class _Source(BytesIO):
    """The bytes of a file, of which only so many are given out, for one object and in all."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.size = len(content)
        self.heaps: dict[int, object] = {}  # of texts that several objects share
        self._all = _OBJECT + 4 * len(content)
        self._one = 0

    def allow(self, size: int) -> None:
        """Begin with another object, of which this may be read."""
        self._one = size

    def read(self, size: int | None = -1, /) -> bytes:
        """Return bytes from where the source stands."""
        content = super().read(size)
        self._one -= len(content) + _CALL
        self._all -= len(content) + _CALL
        if min(self._one, self._all) < 0:
            raise ValueError(f"one of its objects takes more than {_OBJECT} bytes, or it is read again and again")
        return content


def read(content: bytes, budget: int) -> Stored:
    """Return the cells of a file.

    Raises
    ------
    ValueError
        If it is damaged, leads to other files, or asks for more memory than the budget, in bytes.
    """
    needed("pyfive", "keras")
    try:
        return _stored(_Source(content), budget)
    except Exception as error:  # damaged bytes make pyfive raise almost anything
        reason = str(error).strip() or type(error).__name__
        raise ValueError(f"it is damaged, or no file of Keras: {reason}") from error


def _stored(source: _Source, budget: int) -> Stored:
    cells: list[StoredCell] = []
    names: dict[str, str] = {}
    texts: dict[str, list[str]] = {}
    for here in _groups(source):
        if here.path in ((), ("model_weights",)):
            texts |= _texts(source, here.objects)  # those of `model_weights` come later, and count
        datasets = _weights_of(source, here)
        if datasets is not None:
            budget -= sum(math.prod(each.shape) * each.ptype.dtype.itemsize for each in datasets)
            if budget < 0:
                raise ValueError("its weights take more memory than a file of its size can hold")
            arrays = [_numbers(source, "/".join(here.path), each) for each in datasets]
            cells.append(StoredCell(here.path, arrays, _beside(here)))
        elif here.path[-1:] == ("vars",):  # where late versions of Keras 3 note the name of the layer
            names |= {"/".join(here.path[:-1]): name for name in _texts(source, here.objects).get("name", [])}
    return Stored(
        sorted(cells, key=lambda cell: _natural("/".join(cell.path))),
        names,
        {name: text for name in _TEXTS for text in texts.get(name, [])},
        [text for name in sorted(texts) if name.startswith("layer_names") for text in texts[name]],
    )


def _groups(source: _Source) -> Iterator[_Group]:
    """Yield every group once."""
    content = source.getbuffer()
    (end,) = struct.unpack_from("<Q", content, 28 if content[8] >= 2 else 40)
    if end > source.size:
        raise ValueError(f"it is truncated: it must have {end} bytes; got {source.size}")
    source.allow(_OBJECT)
    root = needed("pyfive.misc_low_level", "keras").SuperBlock(source, 0).offset_to_dataobjects
    seen = set()
    waiting: list[tuple[tuple[str, ...], int, _Group | None]] = [((), root, None)]
    while waiting:
        path, address, parent = waiting.pop()
        if address in seen or len(path) > _DEPTH:
            continue
        seen.add(address)
        objects = _opened(source, address)
        if objects.is_dataset:
            continue
        here = _Group(path, objects, objects.get_links(), parent)
        yield here
        # Weights are no groups, and the groups of weights have no others.
        below = {} if path[-1:] == ("vars",) else here.members
        waiting.extend(((*path, name), there, here) for name, there in below.items() if isinstance(there, int))


def _opened(source: _Source, address: int) -> _Objects:
    """Return a group or a dataset."""
    source.allow(_OBJECT)
    objects = needed("pyfive.dataobjects", "keras").DataObjects(source, address, global_heaps=source.heaps)
    data = bytearray(objects.msg_data)
    for kind, counter in ((_LINKS, 8), (_ATTRIBUTES, 2)):
        for at in _places(objects, kind):
            heap = at + 2 + counter * (data[at + 1] & 1)
            if data[heap : heap + 8] != b"\xff" * 8:
                raise ValueError("it has names or attributes in a heap with a tree, as Keras never does")
    for at in _places(objects, _LINK):
        if data[at + 1] & 8 and data[at + 2] > 1:
            data[at + 2] = 1  # a link to another file, which pyfive does not know: no more is followed than one inside
    objects.msg_data = bytes(data)
    return objects


def _places(objects: _Objects, kind: int) -> list[int]:
    return [message["offset_to_message"] for message in objects.find_msg_type(kind)]


def _beside(here: _Group) -> int:
    """Return how many names there are beside the cell of this group, with its own."""
    cell = here.parent if here.path[-1:] == ("vars",) and here.parent is not None else here
    return 1 if cell.parent is None else len(cell.parent.members)


def _weights_of(source: _Source, here: _Group) -> list[_Objects] | None:
    """Return kernel, recurrent kernel and bias, if there is one, of an LSTM's cell; None if the group is none."""
    names = {name.removesuffix(":0"): name for name in here.members}
    parts = _NUMBERED if here.path[-1:] == ("vars",) else _NAMED
    if not names.keys() >= set(parts[:2]) or (parts is _NUMBERED and not names.keys() <= set(parts)):
        return None
    places = [here.members[names[part]] for part in parts if part in names]
    datasets = []
    for place in places:
        if isinstance(place, str):
            raise ValueError(f"{'/'.join(here.path)!r} has weights behind a link, which is not followed")
        datasets.append(_opened(source, place))
    if not all(each.is_dataset and each.shape is not None for each in datasets):
        return None
    return datasets if _are_of_lstm(*(each.shape for each in datasets)) else None


def _are_of_lstm(kernel: tuple[int, ...], recurrent: tuple[int, ...], bias: tuple[int, ...] = (4,)) -> bool:
    """Tell an LSTM, whose weights have four blocks of columns, from a GRU with three and others with one."""
    if len(kernel) != 2 or len(recurrent) != 2 or len(bias) != 1 or recurrent[0] < 1:
        return False
    return kernel[1] == recurrent[1] == 4 * recurrent[0]


def _numbers(source: _Source, where: str, objects: _Objects) -> np.ndarray:
    """Return a dataset that is plain numbers in this very file: all that Keras writes."""
    if objects.find_msg_type(_EXTERNAL) or objects.get_id_storage_params()[1] == _VIRTUAL:
        raise ValueError(f"{where!r} has its numbers in other files, which are not opened")
    if objects.filter_pipeline:
        raise ValueError(f"{where!r} is compressed, which Keras never does, and may unpack without end")
    dtype = objects.ptype.dtype
    (kind,) = _places(objects, _DATATYPE)
    halves = dtype == "V2" and _texts(source, objects).get("dtype") == ["bfloat16"]
    usual = objects.msg_data[kind] & 15 == _FLOAT and objects.msg_data[kind + 13] == _EXPONENTS.get(dtype.itemsize)
    if not halves and not usual:
        raise ValueError(f"{where!r} must have a floating dtype of 2, 4 or 8 bytes; got {dtype}")
    source.allow(_OBJECT + math.prod(objects.shape) * dtype.itemsize)
    numbers = needed("pyfive.h5d", "keras").DatasetID(objects, noindex=True).get_data((), 0)
    return unpacked(numbers.tobytes(), "bfloat16" if halves else dtype.str, objects.shape)


def _texts(source: _Source, objects: _Objects) -> dict[str, list[str]]:
    """Return the attributes of an object that are a text or texts."""
    found = {}
    data = objects.msg_data
    for message in objects.find_msg_type(_ATTRIBUTE):
        at = message["offset_to_message"]
        version, length, kind_length = struct.unpack_from("<BxHH", data, at)
        unit = 8 if version == 1 else 1
        name = at + (8 if version == 1 else 9)
        kind = name + -(-length // unit) * unit
        if data[kind] & 15 != _STRING and (data[kind] & 15 != _VARIABLE or data[kind + 1] & 15 != 1):
            continue
        shape, _ = needed("pyfive.dataobjects", "keras").determine_data_shape(
            data, kind + -(-kind_length // unit) * unit
        )
        if shape is None or math.prod(shape) > message["size"]:
            continue
        source.allow(source.size)
        value = np.asarray(objects.unpack_attribute(at)[1], object)
        texts = [text for text in value.ravel().tolist() if isinstance(text, bytes)]
        if sum(map(len, texts)) > source.size:
            raise ValueError("its texts take more memory than a file of its size can hold")
        own = data[name : name + length].rstrip(b"\0").decode("utf-8", "replace")
        found[own] = [text.decode("utf-8", "replace") for text in texts]
    return found


def _natural(text: str) -> list[tuple[str, int]]:
    """Return what sorts texts with numbers in the order of the numbers, none before all."""
    parts = re.split(r"(?:_(\d{1,9}))?(?:/|$)", text)
    return [(name, -1 if number is None else int(number)) for name, number in zip(parts[::2], parts[1::2])]  # noqa: B905 -- the last text is empty
