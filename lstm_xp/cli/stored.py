"""Arrays in files of one or many: `.npy`, folders of them, `.npz`, HDF5, Zarr; all numbers go by way of a `.npy`.

`FILE::PATH` is an array in a file of many, or all that are below PATH; without `::` it is all there are. Nothing else
in such a file is looked at.
"""

import math
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from ..formats._files import naming_damage, require_budget
from . import packed, stream
from .packed import RATIO, at, is_array, is_group, opened, pieces


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
    return (Path(path), inside.strip("/")) if Path(path).suffix in packed.KINDS else (Path(text), None)


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
    with opened(path) as root:
        here, names = at(root, inside), packed.KINDS[path.suffix].names
        size = size_of(path)
        if is_array(here):
            return [_described(text, path, inside, here, size)]
        found = [f"{inside}/{name}".strip("/") for name in names(here)] if is_group(here) else []
        if not found:
            known = ", ".join(map(repr, names(root) if is_group(root) else [""]))
            raise ValueError(f"{path} has no array {inside!r}; it has {known or 'none'}")
        return [_described(f"{path}::{key}", path, key, at(root, key), size) for key in found]


def _described(where: str, path: Path, key: str, array: Any, size: int) -> Stored:
    with naming_damage(f"cannot use {where}"):
        if array.shape is None:
            raise ValueError("it is empty, without a shape")
        stored = Stored(where, path, key, tuple(array.shape), array.dtype)
        numbers = max(math.prod(stored.shape), math.prod(array.chunks or ()))
    require_budget(size, numbers * stored.dtype.itemsize, where, RATIO)
    return stored


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
    return sum(file.lstat().st_size for file in (path.rglob("*") if path.is_dir() else [path.resolve()]))


def unpacked(stored: Stored, path: Path, progress: Callable[[], None]) -> Path:
    """Return a `.npy` of the array: its own file, or `path`, which is written piece by piece, as the pieces lie."""
    if stored.key is None:
        return stored.path
    with opened(stored.path) as root, open(path, "xb") as file, naming_damage(f"cannot use {stored.where}"):
        array = at(root, stored.key)
        if isinstance(array, packed.Member):
            for content in array.blocks():
                file.write(content)
                progress()
            return path
        writer = stream.Writer(file, stored.shape, stored.dtype)
        for *rows, steps in pieces(array):
            writer.write(steps.start, array[*rows, steps] if rows else array[steps][None], *(b.start for b in rows))
            progress()
    return path
