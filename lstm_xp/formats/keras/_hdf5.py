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

from .._files import naming_damage, needed, require_budget
from .._model import unpacked

Arrays = list[np.ndarray]

# Keras 3 numbers the weights of a cell, Keras 2 names them (":0" is TensorFlow's).
_NUMBERED = ("0", "1", "2")
_NAMED = ("kernel", "recurrent_kernel", "bias")
_TEXTS = ("lstm_xp", "model_config", "keras_version")
_DEPTH = 64
_OBJECT = 1 << 22  # bytes that a group or the header of a dataset may take, for some ten thousand names
_NAME = 1 << 12  # bytes of one name: they can overlap
_CALL = 16  # bytes that a read counts for, besides its own

# The kinds of messages in the header of an object, and of types.
_LINKS, _LINK, _EXTERNAL, _ATTRIBUTE, _ATTRIBUTES = 0x02, 0x06, 0x07, 0x0C, 0x15
_SYMBOLS = 0x11
_DATATYPE, _INTEGER, _FLOAT, _STRING, _OPAQUE, _VARIABLE = 0x03, 0, 1, 3, 5, 9
_COMPACT, _CONTIGUOUS, _VIRTUAL = 0, 1, 3  # where numbers lie
_NOWHERE = 2**64 - 1  # where what was never written lies: zeros
_EXPONENTS = {2: 5, 4: 8, 8: 11}  # bits, by the bytes of a number

_Path: TypeAlias = tuple[str, ...]
_Objects: TypeAlias = Any  # what pyfive has of one object
_Members: TypeAlias = dict[str, int | str]  # of a group: addresses, or texts for what is a link


class StoredCell(NamedTuple):
    """The weights of a cell of an LSTM: kernel, recurrent kernel and bias, if there is one."""

    path: _Path  # the group's
    arrays: Arrays
    beside: int  # how many names there are beside it, with its own


class Stored(NamedTuple):
    """What is read of a file."""

    cells: list[StoredCell]  # by their paths, with numbers in their order
    names: Mapping[str, str]  # of layers, by their paths
    texts: Mapping[str, str]  # attributes
    order: list[str]  # of the layers in a file of Keras 2


class _Source(BytesIO):
    """The bytes of a file, of which only so many are given out, for one object and in all."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.size = len(content)
        self.heaps: dict[int, object] = {}  # of texts that several objects share
        self._all = self._left_of_all = _OBJECT + 4 * len(content)

    def begin(self, what: str, most: int) -> None:
        """Allow so many bytes for the object that is read now."""
        self._what, self._most, self._left = what, most, most

    def read(self, size: int | None = -1, /) -> bytes:
        """Return bytes from where the source stands."""
        content = super().read(size)
        self.spend(len(content) + _CALL)
        return content

    def spend(self, size: int) -> None:
        """Count bytes that were made of what was read."""
        self._left -= size
        self._left_of_all -= size
        if self._left < 0:
            raise ValueError(f"{self._what} takes more than {self._most} bytes to read, the limit of one object")
        if self._left_of_all < 0:
            raise ValueError(f"its objects take more than {self._all} bytes to read, the limit of a file of its size")


def read(content: bytes, size: int) -> Stored:
    """Return the cells of a file.

    Raises
    ------
    ValueError
        If it is damaged, leads to other files, or asks for more memory than a file of this size can hold.
    """
    with naming_damage("it is damaged, or no file of Keras"):
        return _stored(_Source(content), size)


def _stored(source: _Source, size: int) -> Stored:
    wanted = 0
    cells: list[StoredCell] = []
    names: dict[str, str] = {}
    texts: dict[str, list[str]] = {}
    sizes: dict[_Path, int] = {}  # of the groups
    for path, objects, members in _groups(source):
        sizes[path] = len(members)
        if path in ((), ("model_weights",)):
            texts |= _texts(source, objects)  # those of `model_weights` come later, and count
        datasets = _weights_of(source, path, members)
        if datasets is not None:
            wanted += sum(math.prod(each.shape) * _type_of(each)[1] for each in datasets)
            require_budget(size, wanted, "it")
            arrays = [_numbers(source, "/".join(path), each) for each in datasets]
            above = path[:-2] if path[-1:] == ("vars",) else path[:-1]
            cells.append(StoredCell(path, arrays, sizes[above]))
        elif path[-1:] == ("vars",):  # where late versions of Keras 3 note the name of the layer
            names |= {"/".join(path[:-1]): name for name in _texts(source, objects).get("name", [])}
    return Stored(
        sorted(cells, key=lambda cell: _natural("/".join(cell.path))),
        names,
        {name: text for name in _TEXTS for text in texts.get(name, [])},
        [text for name in sorted(texts) if name.startswith("layer_names") for text in texts[name]],
    )


def _groups(source: _Source) -> Iterator[tuple[_Path, _Objects, _Members]]:
    """Yield every object once, with the names on the way to it, and its own members: a dataset has none."""
    content = source.getbuffer()
    (end,) = struct.unpack_from("<Q", content, 28 if content[8] >= 2 else 40)
    if end > source.size:
        raise ValueError(f"it is truncated: it must have {end} bytes; got {source.size}")
    source.begin("its first object", _OBJECT)
    root = needed("pyfive.misc_low_level", "keras").SuperBlock(source, 0).offset_to_dataobjects
    seen = set()
    waiting: list[tuple[_Path, int]] = [((), root)]
    while waiting:
        path, address = waiting.pop()
        if address in seen:
            continue
        if len(path) > _DEPTH:
            raise ValueError(f"its groups lie more than {_DEPTH} deep in each other: {'/'.join(path)[:60]!r}...")
        seen.add(address)
        objects = _opened(source, path, address)
        members = objects.get_links()
        yield path, objects, members
        if path[-1:] != ("vars",):  # weights are no groups, and the groups of weights have no others
            waiting.extend(((*path, name), there) for name, there in members.items() if isinstance(there, int))


def _opened(source: _Source, path: _Path, address: int | str) -> _Objects:
    """Return a group or a dataset."""
    source.begin(repr("/" + "/".join(path)), _OBJECT)
    objects = needed("pyfive.dataobjects", "keras").DataObjects(source, address, global_heaps=source.heaps)
    data = bytearray(objects.msg_data)
    for kind, counter in ((_LINKS, 8), (_ATTRIBUTES, 2)):
        for at in _places(objects, kind):
            heap = at + 2 + counter * (data[at + 1] & 1)
            if data[heap : heap + 8] != _NOWHERE.to_bytes(8):
                raise ValueError("it has names or attributes in a heap with a tree, as Keras never does")
    for at in _places(objects, _LINK):
        if data[at + 1] & 8:
            data[at + 2] = 1  # by name: pyfive knows none to other files, and none is followed
    for at in _places(objects, _SYMBOLS):
        heap = needed("pyfive.misc_low_level", "keras").Heap(source, int.from_bytes(data[at + 8 : at + 16], "little"))
        if max(map(len, heap.data.split(b"\0"))) > _NAME:
            raise ValueError(f"{'/' + '/'.join(path)!r} has a name of more than {_NAME} bytes")
    objects.msg_data = bytes(data)
    return objects


def _places(objects: _Objects, kind: int) -> list[int]:
    return [message["offset_to_message"] for message in objects.find_msg_type(kind)]


def _weights_of(source: _Source, path: _Path, members: _Members) -> list[_Objects] | None:
    """Return kernel, recurrent kernel and bias, if there is one, of an LSTM's cell; None if the group is none."""
    names = {name.removesuffix(":0"): name for name in members}
    parts = _NUMBERED if path[-1:] == ("vars",) else _NAMED
    if not names.keys() >= set(parts[:2]) or (parts is _NUMBERED and not names.keys() <= set(parts)):
        return None
    places = [members[names[part]] for part in parts if part in names]
    if any(isinstance(place, str) for place in places):
        raise ValueError(f"{'/'.join(path)!r} has weights behind a link, which is not followed")
    datasets = [_opened(source, path, place) for place in places]
    if not all(each.is_dataset and each.shape is not None for each in datasets):
        return None
    return datasets if _are_of_lstm(*(each.shape for each in datasets)) else None


def _are_of_lstm(kernel: tuple[int, ...], recurrent: tuple[int, ...], bias: tuple[int, ...] = (4,)) -> bool:
    """Tell an LSTM, whose weights have four blocks of columns, from a GRU with three and others with one."""
    fits = len(kernel) == len(recurrent) == 2 and len(bias) == 1
    return fits and kernel[1] == recurrent[1] == 4 * recurrent[0] > 0


def _type_of(objects: _Objects) -> tuple[int, int, int]:
    """Return the class of a dataset's numbers, how many bytes one has, and how many bits of its exponent."""
    (at,) = _places(objects, _DATATYPE)
    kind, size, exponent = struct.unpack_from("<B3xI5xB", objects.msg_data, at)
    return kind & 15, size, exponent


def _numbers(source: _Source, where: str, objects: _Objects) -> np.ndarray:
    """Return a dataset that is plain numbers in this very file: all that Keras writes."""
    _, layout, at = objects.get_id_storage_params()
    if objects.find_msg_type(_EXTERNAL) or layout == _VIRTUAL:
        raise ValueError(f"{where!r} has its numbers in other files, which are not opened")
    if objects.filter_pipeline:
        raise ValueError(f"{where!r} is compressed, which Keras never does, and may unpack without end")
    kind, size, exponent = _type_of(objects)
    halves = kind == _OPAQUE and size == 2 and _texts(source, objects).get("dtype") == ["bfloat16"]
    if not halves and (kind != _FLOAT or exponent != _EXPONENTS.get(size)):
        got = objects.ptype.dtype if kind in (_INTEGER, _FLOAT) else f"a type of class {kind}"
        raise ValueError(f"{where!r} must have a floating dtype of 2, 4 or 8 bytes; got {got}")
    wanted = size * math.prod(objects.shape)
    if layout == _COMPACT:
        content = objects.msg_data[at + 2 : at + 2 + wanted]  # behind their own length
    elif layout == _CONTIGUOUS:
        (address,) = struct.unpack_from("<Q", objects.msg_data, at)
        source.begin(repr(f"/{where}"), _OBJECT + wanted)
        source.seek(min(address, source.size))
        content = bytes(wanted) if address == _NOWHERE else source.read(wanted)
    else:
        raise ValueError(f"{where!r} is cut into chunks, which Keras never does")
    return unpacked(content, "<bfloat16" if halves else objects.ptype.dtype.str, objects.shape)


def _texts(source: _Source, objects: _Objects) -> dict[str, list[str]]:
    """Return the attributes of an object that are a text or texts."""
    found, data = {}, objects.msg_data
    for message in objects.find_msg_type(_ATTRIBUTE):
        at = message["offset_to_message"]
        version, length, kind_length = struct.unpack_from("<BxHH", data, at)
        unit = 8 if version == 1 else 1
        name = at + (8 if version == 1 else 9)
        kind = name + -(-length // unit) * unit
        if data[kind] & 15 != _STRING and (data[kind] & 15 != _VARIABLE or data[kind + 1] & 15 != 1):
            continue
        space = kind + -(-kind_length // unit) * unit
        shape, _ = needed("pyfive.dataobjects", "keras").determine_data_shape(data, space)
        if shape is None or math.prod(shape) > message["size"]:
            continue
        source.begin("an attribute", _OBJECT + 2 * source.size)
        value = np.asarray(objects.unpack_attribute(at)[1], object)
        texts = [text for text in value.ravel().tolist() if isinstance(text, bytes)]
        source.spend(sum(map(len, texts)))
        own = data[name : name + length].rstrip(b"\0").decode("utf-8", "replace")
        found[own] = [text.decode("utf-8", "replace") for text in texts]
    return found


def _natural(text: str) -> list[tuple[str, int]]:
    """Return what sorts texts with numbers in the order of the numbers, none before all."""
    parts = re.split(r"(?:_(\d{1,9}))?(?:/|$)", text)
    return [(name, -1 if number is None else int(number)) for name, number in zip(parts[::2], parts[1::2])]  # noqa: B905 -- the last text is empty
