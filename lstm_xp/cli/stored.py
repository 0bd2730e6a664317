"""Arrays in files of one or many: `.npy`, folders of them, `.npz`, HDF5, Zarr; all numbers go by way of a `.npy`.

`FILE::PATH` is an array in a file of many, or all that are below PATH; without `::` it is all there are.
"""

import math
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

import numpy as np

from ..formats._files import naming_damage, needed, npy_header, opened_zip, reading, require_budget, writing
from . import stream

# Data compresses, with zip to a thousandth at most, where weights hardly do.
_RATIO = 1 << 10
# Numbers that are unpacked at a time, unless the file has more of them in one piece.
_BLOCK = 1 << 22


class Stored(NamedTuple):
    """An array in a file: what is known of it before its numbers are read."""

    where: str  # as a person writes it
    path: Path
    key: str | None  # in a file of many
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def name(self) -> str:
        """The name of what is made of it."""
        return PurePosixPath(self.key).name if self.key else self.path.stem

    @property
    def with_batch(self) -> tuple[int, int, int]:
        """The sizes along batch, time and features; a single sequence has no axis for the first."""
        B, T, F = (1, *self.shape)[-3:]
        return B, T, F


def split(text: str) -> tuple[Path, str | None]:
    """Return a file, and the path of an array inside; None if it is no file of many."""
    path, _, inside = text.partition("::")
    return (Path(path), inside.strip("/")) if Path(path).suffix in _KINDS else (Path(text), None)


def find(text: str) -> list[Stored]:
    """Return what a person has named: an array, or all of a folder, a file or a group."""
    path, inside = split(text)
    if inside is None and path.is_dir():
        files = sorted(path.glob("*.npy"))
        if not files:
            raise ValueError(f"{path} has no .npy files")
        return [one for file in files for one in find(str(file))]
    if inside is None:
        array = one_array(path)
        return [Stored(text, path, None, array.shape, array.dtype)]
    with opened(path) as arrays:
        keys = [inside] if inside in arrays else [key for key in arrays if not inside or key.startswith(f"{inside}/")]
        if not keys:
            raise ValueError(f"{path} has no array {inside!r}; it has {', '.join(map(repr, arrays)) or 'none'}")
        size = size_of(path)
        for key in keys:
            numbers = max(math.prod(arrays[key].shape), math.prod(arrays[key].chunks or ()))
            require_budget(size, numbers * arrays[key].dtype.itemsize, f"{path}::{key}", _RATIO)
        names = {key: text if key == inside else f"{path}::{key}" for key in keys}
        return [Stored(names[key], path, key, tuple(arrays[key].shape), arrays[key].dtype) for key in keys]


def one_array(path: Path) -> np.ndarray:
    """Open an array of NumPy: what is not looked at stays in the file."""
    try:
        with np.errstate(over="ignore"):
            array = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError:
        raise
    except Exception as error:  # foreign bytes make NumPy raise almost anything
        raise ValueError(f"{path} is not a readable .npy file") from error
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{path} must be a .npy file of one array; got an archive")
    return array


def size_of(path: Path) -> int:
    """Return how many bytes there are in a file or a folder."""
    return sum(file.stat().st_size for file in (path.rglob("*") if path.is_dir() else [path]))


def unpacked(stored: Stored, path: Path, progress: Callable[[], None]) -> Path:
    """Return a `.npy` of the array: its own file, or `path`, which is written piece by piece, as the pieces lie."""
    if stored.key is None:
        return stored.path
    with opened(stored.path) as arrays, open(path, "xb") as file, naming_damage(f"cannot use {stored.where}"):
        array = arrays[stored.key]
        if isinstance(array, _Member):
            with array.open() as member:
                while content := member.read(_BLOCK):
                    file.write(content)
                    progress()
            return path
        writer = stream.Writer(file, stored.shape, stored.dtype)
        for *rows, steps in _pieces(array):
            writer.write(steps.start, array[*rows, steps] if rows else array[steps][None], *(b.start for b in rows))
            progress()
    return path


def _pieces(array: Any) -> Iterator[tuple[slice, ...]]:
    """Yield sequences and steps that together are whole chunks: as many as make a block, and at least one."""
    B, T, F = (1, *array.shape)[-3:]
    rows, steps = (1, *(array.chunks or (1,) * array.ndim))[-3:-1]
    steps = max(1, min(T, steps * max(1, _BLOCK // max(1, rows * steps * F))))
    rows *= max(1, _BLOCK // max(1, rows * steps * F))
    for b in range(0, B, rows):
        for t in range(0, T, steps):
            yield (slice(b, b + rows), slice(t, t + steps))[3 - array.ndim :]


# Files of many arrays. What they give has `shape`, `dtype` and `chunks`, and numbers when they are asked for.


@contextmanager
def opened(path: Path) -> Iterator[Mapping[str, Any]]:
    """Give the arrays in a file of many by their paths inside."""
    path.stat()
    with ExitStack() as stack:
        with naming_damage(f"cannot use {path}"):
            arrays = _KINDS[path.suffix][0](path, stack)
        yield arrays


def pack(path: Path, made: Mapping[str, Path]) -> None:
    """Put `.npy` files, which lie in one folder beside the target, into a file of many, beside what else it has."""
    if made:
        _KINDS[path.suffix][1](path, made)


class _Member:
    """An array in an archive of NumPy."""

    chunks = None

    def __init__(self, archive: zipfile.ZipFile, name: str) -> None:
        self._archive, self._info = archive, archive.getinfo(name)
        with self.open() as file:
            self.shape, _, self.dtype = npy_header(file)
        if min(self.shape, default=0) < 0 or math.prod(self.shape) * self.dtype.itemsize > self._info.file_size:
            raise ValueError(f"{name} promises more than it has")

    def open(self) -> IO[bytes]:
        return self._archive.open(self._info)


def _read_npz(path: Path, stack: ExitStack) -> dict[str, Any]:
    archive = stack.enter_context(opened_zip(stack.enter_context(reading(path)), _RATIO))
    return {name.removesuffix(".npy"): _Member(archive, name) for name in archive.namelist()}


def _write_npz(path: Path, made: Mapping[str, Path]) -> None:
    with writing(path) as file, ExitStack() as stack, zipfile.ZipFile(file, "w") as archive:
        old = _read_npz(path, stack) if path.exists() else {}
        for key in old.keys() - made.keys():
            with old[key].open() as source, archive.open(f"{key}.npy", "w", force_zip64=True) as target:
                shutil.copyfileobj(source, target)
        for key, npy in made.items():
            archive.write(npy, f"{key}.npy")


def _read_hdf5(path: Path, stack: ExitStack) -> dict[str, Any]:
    with reading(path):  # says better than HDF5 why a file cannot be opened
        h5py = needed("h5py", "hdf5")
    found: dict[str, Any] = {}
    file = stack.enter_context(h5py.File(path, "r"))
    file.visititems(lambda name, item: found.update({name: item} if isinstance(item, h5py.Dataset) else {}))
    return found


def _write_hdf5(path: Path, made: Mapping[str, Path]) -> None:
    h5py = needed("h5py", "hdf5")
    with writing(path) as file:
        if path.exists():
            shutil.copyfile(path, file.name)
        # By Python's file: HDF5 itself crashes where a write fails, as on a full disk.
        with h5py.File(file, "r+" if path.exists() else "w") as target:
            for key, npy in made.items():
                if key in target:
                    del target[key]
                target[key] = np.load(npy, mmap_mode="r")


def _read_zarr(path: Path, _: ExitStack) -> dict[str, Any]:
    zarr = needed("zarr", "zarr")
    root = zarr.open(path, mode="r")
    found = {"": root} if isinstance(root, zarr.Array) else dict(sorted(root.members(max_depth=None)))
    return {name: item for name, item in found.items() if isinstance(item, zarr.Array)}


def _write_zarr(path: Path, made: Mapping[str, Path]) -> None:
    zarr = needed("zarr", "zarr")
    new, there = next(iter(made.values())).with_name("new.zarr"), path.exists()
    group = zarr.open_group(new, mode="w", zarr_format=zarr.open(path, mode="r").metadata.zarr_format if there else 3)
    for key, npy in made.items():
        array = np.load(npy, mmap_mode="r")
        target = group.create_array(key, shape=array.shape, dtype=array.dtype)
        for piece in _pieces(target):
            target[piece] = array[piece]
    if not there:
        os.replace(new, path)
        return
    for key, npy in made.items():
        above, _, _ = key.rpartition("/")
        if above:
            zarr.open_group(path, mode="a").require_group(above)
        if (path / key).exists():  # to remove it here could end half-way
            os.replace(path / key, npy.with_suffix(".old"))
        os.replace(new / key, path / key)


_KINDS = {
    ".npz": (_read_npz, _write_npz),
    ".h5": (_read_hdf5, _write_hdf5),
    ".hdf5": (_read_hdf5, _write_hdf5),
    ".zarr": (_read_zarr, _write_zarr),
}
