"""Pickles of PyTorch, of state dicts and of TorchScript: plain containers, and tensors as places in storages.

No class or function that a file names is ever looked up. What PyTorch writes beside weights stands for nothing; of
other objects a state dict may have none, and of those of a TorchScript archive there are the attributes.
"""

import pickle
import re
from io import BytesIO
from typing import Any, ClassVar, NamedTuple, TypeAlias

import numpy as np

Shape: TypeAlias = tuple[int, ...]

_FLOATS = {"Double": "float64", "Float": "float32", "Half": "float16", "BFloat16": "bfloat16"}
_BYTES = {"ComplexDouble": 16, "ComplexFloat": 8, "Double": 8, "Long": 8, "Float": 4, "Int": 4, "QInt32": 4}
_BYTES |= {"BFloat16": 2, "Half": 2, "Short": 2}  # all others have 1
_BESIDE = r"(torch|collections|builtins|__builtin__|_codecs)\.\w+"
_BESIDE += r"|torch\.(_tensor|_utils|cuda|nn\.parameter|serialization|sparse|storage)\.\w+"
# They take memory for as much as a file says, hash what may lie too deep in itself, or run what others have registered.
_REFUSED = (
    pickle.BYTEARRAY8 + pickle.DICT + pickle.ADDITEMS + pickle.FROZENSET + pickle.EXT1 + pickle.EXT2 + pickle.EXT4
)


class Tensor(NamedTuple):
    """Numbers of a storage: where the first one lies, and how far it is to the next along each axis."""

    storage: str
    dtype: str  # behind the order of its bytes
    start: int
    shape: Shape = ()
    strides: Shape = ()

    def within(self, storage: np.ndarray) -> np.ndarray:
        """Return the numbers, from all of the storage."""
        steps = zip(self.shape, self.strides, strict=True)
        last = self.start + sum((n - 1) * step for n, step in steps) if all(self.shape) else -1
        if min((self.start, *self.shape, *self.strides)) < 0 or last >= storage.size:
            raise ValueError(f"a tensor of shape {self.shape} and strides {self.strides} must lie within its storage")
        strides = tuple(step * storage.itemsize for step in self.strides)
        return np.lib.stride_tricks.as_strided(storage[self.start :], self.shape, strides, writeable=False)


class _Mapping(dict[object, object]):
    """Stands for every mapping, with what texts and numbers lead to, and for every object: its attributes by name."""

    def __init__(self, *_: object) -> None:
        """Begin with nothing, whatever the file has for it."""

    def __setitem__(self, key: object, value: object) -> None:
        if isinstance(key, str | int):  # Python crashes on the hash of tuples that lie too deep in each other
            super().__setitem__(key, value)


class Unpickler(pickle._Unpickler):
    """Reads one pickle. The unpickler written in Python, as the one in C knows all opcodes."""

    stack: list[object]
    dispatch: ClassVar[dict[int, Any]] = {
        code: load for code, load in pickle._Unpickler.dispatch.items() if code not in _REFUSED
    }

    def __init__(self, content: BytesIO, order: str = "<", *, objects: bool = False) -> None:
        super().__init__(content, encoding="utf-8")
        self._order, self._objects = order, objects
        self.sizes: dict[str, int] = {}  # of a number of each storage, in bytes

    def find_class(self, module: str, name: str) -> object:
        """Return what the reader has for a name: tensors, parameters, storages; an inert mapping for the rest."""
        full = f"{module}.{name}"
        if not (self._objects or re.fullmatch(_BESIDE, full)):
            raise ValueError(
                f"it holds an object of {full}, and reading that would run code of the file. Save the state dict "
                "instead: `torch.save(module.state_dict(), path)`."
            )
        storage = module in ("torch", "torch.storage") and name.endswith("Storage")
        return name.removesuffix("Storage") if storage else _BUILT.get(full, _Mapping)

    def persistent_load(self, pid: tuple[Any, ...]) -> Tensor:
        """Return a storage, or a view of one, as there were in old files."""
        _, kind, key, _, _, *view = pid
        if not (isinstance(kind, str) and isinstance(key, str)):
            raise ValueError("a storage must have a kind and a name that are texts")
        self.sizes[key] = _BYTES.get(kind, 1)
        return Tensor(key, self._order + _FLOATS.get(kind, kind), view[0][1] if any(view) else 0)

    def load_empty_dictionary(self) -> None:
        self.stack.append(_Mapping())

    def load_build(self) -> None:
        state = self.stack.pop()
        built = self.stack[-1]
        if isinstance(built, _Mapping) and isinstance(state, _Mapping):
            built.update(state)
            state.clear()  # or a small file would fill any number of objects with it

    dispatch |= {pickle.EMPTY_DICT[0]: load_empty_dictionary, pickle.BUILD[0]: load_build}


def _tensor(storage: Tensor, start: int, shape: Shape, strides: Shape, *rest: object) -> Tensor | None:
    """Return a tensor of a storage; None if its numbers are to be read with another sign."""
    return None if any(rest[2:]) else storage._replace(start=storage.start + start, shape=shape, strides=strides)


_BUILT = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
    "torch._utils._rebuild_parameter_with_state": lambda tensor, *_: tensor,
    "torch._tensor._rebuild_from_type_v2": lambda make, kind, arguments, *_: _tensor(*arguments),
    "torch.jit._pickle.restore_type_tag": lambda value, *_: value,
}
