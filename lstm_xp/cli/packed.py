"""Files of many arrays: `.npz`, HDF5, Zarr. What is put into one leaves all else that it has as it was.

An array has `shape`, `dtype` and `chunks`, and numbers when it is asked for them; a group has `get`, for what is at a
path below it. Nothing is looked at that nobody asks for.
"""

import math
import os
import shutil
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from copy import copy
from pathlib import Path, PurePosixPath
from typing import IO, Any, BinaryIO, NamedTuple

import numpy as np

from ..formats._files import naming_damage, needed, npy_header, opened_zip, reading, writing

# Data compresses, with zip to a thousandth at most, where weights hardly do.
RATIO = 1 << 10
# Numbers, or bytes of an archive, that are read or written at a time, unless the file has more of them in one piece.
_BLOCK = 1 << 22


class Kind(NamedTuple):
    """What is done with a kind of files."""

    open: Callable[[Path, ExitStack], Any]  # the group or the array that is at its root
    names: Callable[[Any], list[str]]  # of all arrays below a group
    pack: Callable[[Path, Mapping[str, Path]], None]


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Give what is at the root of a file of many arrays."""
    path.stat()
    with ExitStack() as stack:
        with naming_damage(f"cannot use {path}"):
            root = KINDS[path.suffix].open(path, stack)
        yield root


def is_array(found: Any) -> bool:
    """Tell arrays from groups and from what is neither."""
    return hasattr(found, "chunks")


def is_group(found: Any) -> bool:
    """Tell groups from arrays and from what is neither."""
    return hasattr(found, "get")


def at(root: Any, key: str) -> Any:
    """Return what is at a path, if there is anything."""
    return root if not key else root.get(key) if is_group(root) else None


def pack(path: Path, made: Mapping[str, Path]) -> None:
    """Put `.npy` files, which lie in one folder beside the target, into a file of many, beside what else it has."""
    if made:
        with naming_damage(f"cannot write {path}"):
            KINDS[path.suffix].pack(Path(os.path.realpath(path)), made)


def pieces(array: Any) -> Iterator[tuple[slice, ...]]:
    """Yield sequences and steps that together are whole chunks: as many as make a block, and at least one."""
    B, T, F = (1, *array.shape)[-3:]
    rows, steps = (1, *(array.chunks or (1,) * array.ndim))[-3:-1]
    steps = max(1, min(T, steps * max(1, _BLOCK // max(1, rows * steps * F))))
    rows *= max(1, _BLOCK // max(1, rows * steps * F))
    for b in range(0, B, rows):
        for t in range(0, T, steps):
            yield (slice(b, b + rows), slice(t, t + steps))[3 - array.ndim :]


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """Give a new file in the place of one that nobody else may change before."""

    def changed() -> int | None:
        return path.stat().st_mtime_ns if path.exists() else None

    before = changed()
    with writing(path) as file:
        yield file
        if changed() != before:
            raise ValueError("another program has changed it meanwhile; run again")


class Member:
    """An array in an archive of NumPy."""

    chunks = None

    def __init__(self, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> None:
        self._archive, self._info = archive, info
        with self.open() as file:
            self.shape, _, self.dtype = npy_header(file)
        if min(self.shape, default=0) < 0 or math.prod(self.shape) * self.dtype.itemsize > self._info.file_size:
            raise ValueError(f"{info.filename} promises more than it has")

    def open(self) -> IO[bytes]:
        """Give its bytes: a file of NumPy."""
        return self._archive.open(self._info)

    def blocks(self) -> Iterator[bytes]:
        """Yield its bytes, some at a time."""
        with self.open() as file:
            while content := file.read(_BLOCK):
                yield content


class _Archive(NamedTuple):
    """An archive of NumPy, or what in it has a name that begins so."""

    archive: zipfile.ZipFile
    above: str = ""

    def names(self) -> list[str]:
        files = [name for name in self.archive.namelist() if name.endswith(".npy") and name.startswith(self.above)]
        return [name[len(self.above) :].removesuffix(".npy") for name in files]

    def get(self, key: str) -> Any:
        info = self.archive.NameToInfo.get(f"{self.above}{key}.npy")
        below = self._replace(above=f"{self.above}{key}/")
        return Member(self.archive, info) if info else below if below.names() else None


def _open_npz(path: Path, stack: ExitStack) -> _Archive:
    return _Archive(stack.enter_context(opened_zip(stack.enter_context(reading(path)), RATIO)))


def _pack_npz(path: Path, made: Mapping[str, Path]) -> None:
    new = {f"{key}.npy": npy for key, npy in made.items()}
    with _replacing(path) as file, ExitStack() as stack, zipfile.ZipFile(file, "w") as target:
        if path.exists():
            source = _open_npz(path, stack).archive
            for info in source.infolist():
                if info.filename not in new:
                    with source.open(info) as old, target.open(copy(info), "w") as member:
                        shutil.copyfileobj(old, member)
        for name, npy in new.items():
            target.write(npy, name)


def _open_hdf5(path: Path, stack: ExitStack) -> Any:
    with reading(path):  # says better than HDF5 why a file cannot be opened
        h5py = needed("h5py", "hdf5")
    return stack.enter_context(h5py.File(path, "r"))


def _names_hdf5(group: Any) -> list[str]:
    found: list[str] = []
    group.visititems(lambda name, item: found.append(name) if is_array(item) and item.shape is not None else None)
    return found


def _pack_hdf5(path: Path, made: Mapping[str, Path]) -> None:
    h5py = needed("h5py", "hdf5")
    with _replacing(path) as file:
        if path.exists():
            shutil.copyfile(path, file.name)
        # By Python's file: HDF5 itself crashes where a write fails, as on a full disk.
        with h5py.File(file, "r+" if path.exists() else "w") as target:
            for key, npy in made.items():
                if key in target:
                    del target[key]
                target[key] = np.load(npy, mmap_mode="r")


def _open_zarr(path: Path, _: ExitStack) -> Any:
    return needed("zarr", "zarr").open(path, mode="r", use_consolidated=False)  # which may be older than the rest


def _names_zarr(group: Any) -> list[str]:
    return sorted(name for name, item in group.members(max_depth=None) if is_array(item))


def _pack_zarr(path: Path, made: Mapping[str, Path]) -> None:
    zarr = needed("zarr", "zarr")
    new = next(iter(made.values())).with_name("new.zarr")
    old = zarr.open_group(path, mode="a", use_consolidated=False) if path.exists() else None
    group = zarr.open_group(new, zarr_format=3 if old is None else old.metadata.zarr_format)
    for key, npy in made.items():
        array = np.load(npy, mmap_mode="r")
        target = group.create_array(key, shape=array.shape, dtype=array.dtype)
        for piece in pieces(target):
            target[piece] = array[piece]
    if old is None:
        os.replace(new, path)
        return
    for key, npy in made.items():
        above, _, _ = key.rpartition("/")
        if above:
            old.require_group(above)
        if (path / key).exists():  # to remove it here could end half-way
            os.replace(path / key, npy.with_suffix(".old"))
        os.replace(new / key, path / key)
    _consolidate(zarr, path, {str(above) for key in made for above in PurePosixPath(key).parents})


def _consolidate(zarr: Any, path: Path, groups: Iterable[str]) -> None:
    """Write the metadata of these groups again, of those that have them in one place."""
    for group in groups:
        below = "" if group == "." else group
        if zarr.open_group(path, path=below, mode="r").metadata.consolidated_metadata is not None:
            with warnings.catch_warnings(action="ignore"):  # that Zarr's third format has none
                zarr.consolidate_metadata(path, path=below)


_HDF5 = Kind(_open_hdf5, _names_hdf5, _pack_hdf5)
KINDS = {
    ".npz": Kind(_open_npz, _Archive.names, _pack_npz),
    ".h5": _HDF5,
    ".hdf5": _HDF5,
    ".zarr": Kind(_open_zarr, _names_zarr, _pack_zarr),
}
