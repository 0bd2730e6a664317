"""TorchScript archives: the attributes of the modules, without their code, which is neither run nor compiled."""

import math
import pickle
import zipfile
from collections.abc import Iterable
from io import BytesIO
from typing import Any, BinaryIO, ClassVar

import numpy as np

from ._files import opened_zip, unpacked_member
from ._model import Entry, Files, Format
from .torch import found_in, require_harmless


def read(file: BinaryIO) -> Iterable[Entry]:
    """Return the LSTMs among the attributes of a module."""
    with opened_zip(file) as archive:
        (member,) = (name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl"))
        require_harmless([BytesIO(unpacked_member(archive, member))])
        return found_in(file, _Unpickler(archive, member).load(), "TorchScript")


class _Object(dict[str, object]):
    """Stands for every object of an archive: its attributes by name, and nothing that could run."""

    def __init__(self, *_: object) -> None:
        super().__init__()


class _Unpickler(pickle._Unpickler):
    """Reads the attributes of TorchScript's modules; no class or function that the file names is ever looked up.

    The unpickler written in Python, because the one in C takes memory for as many entries as a damaged file says.
    """

    stack: list[object]
    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)

    def __init__(self, archive: zipfile.ZipFile, member: str) -> None:
        super().__init__(BytesIO(unpacked_member(archive, member)))
        self._archive, self._folder = archive, member.removesuffix("data.pkl")
        self._storages: dict[str, np.ndarray] = {}

    def find_class(self, module: str, name: str) -> object:
        """Return what the reader has for a name: tensors, parameters, and lists; an inert object for the rest."""
        if module == "torch" and name in _STORAGES:
            return name
        return _BUILT.get((module, name), _Object)

    def persistent_load(self, pid: tuple[str, str, str, str, int]) -> np.ndarray | None:
        """Return a storage as numbers in a row; None for dtypes that no LSTM has."""
        _, storage, key, _, _ = pid
        if storage not in _STORAGES:
            return None
        member = f"{self._folder}data/{key}"
        if member not in self._storages:
            self._storages[member] = np.frombuffer(unpacked_member(self._archive, member), _STORAGES[storage])
        return self._storages[member]

    def load_build(self) -> None:
        state = self.stack.pop()
        built = self.stack[-1]
        if isinstance(built, _Object) and isinstance(state, dict):
            built.update(state)

    dispatch[pickle.BUILD[0]] = load_build


_STORAGES = {"DoubleStorage": "<f8", "FloatStorage": "<f4", "HalfStorage": "<f2"}


def _tensor(
    storage: np.ndarray | None, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object
) -> np.ndarray | None:
    """Return a tensor that lies in its storage, one number in one place."""
    if storage is None:
        return None
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if min((offset, *size, *stride)) < 0 or last >= storage.size or math.prod(size) > storage.size:
        raise ValueError(f"a tensor of shape {size} and strides {stride} does not lie within its storage")
    steps = tuple(step * storage.itemsize for step in stride)
    return np.lib.stride_tricks.as_strided(storage[offset:], size, steps, writeable=False)


_BUILT = {
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
    ("torch.jit._pickle", "restore_type_tag"): lambda value, *_: value,
}

FORMAT = Format("TorchScript", (Files("TorchScript", read, member=r"constants\.pkl"),))
