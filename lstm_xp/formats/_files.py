"""What every format does with files: none is written by halves, none may ask for more memory than it is worth.

A fault of the machine is never called one of the file, whatever the library between them makes of it.
"""

import errno
import importlib
import io
import json
import math
import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import IO, Any, BinaryIO, TypeAlias

import numpy as np

from .._seams.namespace import to_numpy

# Weights hardly compress, so a file that unpacks to much more than itself is no file of weights; small ones may be
# all zeros.
_FLOOR = 1 << 26
_RATIO = 16
_PREFIX = ".lstm-xp-"  # of what lies on the disk for a while
_END = 1 << 17  # bytes from which zipfile finds out what an archive has, and more
_HEADER = 500  # letters of the header of a `.npy` of numbers: Python reads it, and is led astray by some of thousands

Json: TypeAlias = Any  # what `json` reads and writes

_DEPTH = 100
_BRACKETS = re.compile(r'[\[\]{}]|"(?:[^"\\]|\\.)*"?')  # or a text, which may have some in it


@contextmanager
def naming(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Name the file in what the machine refuses, and not the one that is written first, or is in such a folder."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and (not error.filename or str(error.filename).startswith(str(temporary))):
            error.filename, error.filename2 = str(path), None
        raise


@contextmanager
def reading(path: Path) -> Iterator[BinaryIO]:
    """Open a file for a library to read."""
    with naming(path), open(path, "rb") as file:
        yield file


def damage(error: Exception) -> str:
    """Return what a library says of damaged bytes, which may be any error; raise one that no bytes can bring about."""
    # They can lead a library to seek to nowhere, or to an OSError of its own, without a number.
    of_machine = isinstance(error, OSError) and error.errno not in (None, errno.EINVAL)
    if of_machine or isinstance(error, ImportError | MemoryError | RecursionError):
        raise error
    return str(error).strip().split("\n")[0] or type(error).__name__


@contextmanager
def naming_damage(what: str) -> Iterator[None]:
    """Put these words before what a library says of damaged bytes."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{what}: {damage(error)}") from error


def size_of(file: BinaryIO) -> int:
    """Return how many bytes a file has, and leave it at its end."""
    return file.seek(0, os.SEEK_END)


def require_budget(size: int, wanted: int, what: str, ratio: int | None = None) -> None:
    """Raise if something in a file is larger than a file of this size can hold."""
    if wanted > max(_FLOOR, (ratio or _RATIO) * size):
        raise ValueError(f"{what} takes {wanted} bytes of memory, more than a file of {size} bytes can hold")


@contextmanager
def opened_zip(file: BinaryIO, ratio: int | None = None) -> Iterator[zipfile.ZipFile]:
    """Open an archive whose members, unpacked, stay within the budget."""
    size = size_of(file)
    file.seek(max(0, size - _END))
    file.read()  # a disk that cannot be read here, zipfile would call a damaged archive
    with zipfile.ZipFile(file) as archive:
        require_budget(size, sum(member.file_size for member in archive.infolist()), "its contents", ratio)
        yield archive


def unpacked_member(archive: zipfile.ZipFile, name: str) -> bytes:
    """Return a member of an archive, and of it no more than the archive says that there is."""
    with archive.open(name) as member:
        return member.read(archive.getinfo(name).file_size)


def npz_arrays(file: BinaryIO) -> dict[str, np.ndarray]:
    """Return the arrays of an archive of NumPy by their names, in the byte order of this machine."""
    with opened_zip(file) as archive:
        return {name.removesuffix(".npy"): _npy(unpacked_member(archive, name)) for name in archive.namelist()}


def _npy(content: bytes) -> np.ndarray:
    """Return an array from a file of NumPy, whose own reader takes memory for whatever the header says."""
    file = io.BytesIO(content)
    shape, by_columns, dtype = npy_header(file)
    array = np.frombuffer(content, dtype, math.prod(shape), file.tell())  # which refuses objects
    return np.array(to_numpy(array.reshape(shape, order="F" if by_columns else "C")))


def npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Read the header of a file of NumPy: shape, whether by columns, and dtype."""
    first = np.lib.format.read_magic(file) == (1, 0)
    read = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
    shape, by_columns, dtype = read(file, max_header_size=_HEADER)
    return shape, by_columns, dtype


def parsed(text: str | bytes) -> Json:
    """Return what JSON says, unless it nests deeper than any description: Python's own limit moves with the caller."""
    if isinstance(text, bytes):  # as `json.loads` does it
        text = text.decode(json.detect_encoding(text), "surrogatepass")
    depth = 0
    for bracket in _BRACKETS.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(bracket[0], 0)
        if depth > _DEPTH:
            raise ValueError(f"its JSON has a recursion of brackets, more than {_DEPTH} deep.")
    return json.loads(text)


@contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """Give a temporary file beside the target, which takes its place once everything is written."""
    with _beside(path) as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
        file.close()
        os.replace(file.name, os.path.realpath(path))


@contextmanager
def temporary_folder(place: Path) -> Iterator[Path]:
    """Give a folder that is gone afterwards, even if a signal comes while it goes."""
    path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place.absolute()))
    try:
        yield path
    finally:
        try:
            shutil.rmtree(path)
        except KeyboardInterrupt:
            shutil.rmtree(path)
            raise


def require_writable(path: Path) -> None:
    """Raise what `writing` would raise for the place, and leave the target as it is."""
    with _beside(path):
        pass


@contextmanager
def _beside(path: Path) -> Iterator[BinaryIO]:
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    temporary = Path(os.path.realpath(path)).with_name(_PREFIX + os.urandom(8).hex())
    try:
        with naming(path, temporary), open(temporary, "x+b") as file:
            # Nothing else tells whether what is there may be written: to replace it asks nobody.
            with suppress(FileNotFoundError), open(path, "r+b"):
                if temporary.stat().st_mode != path.stat().st_mode:  # there are disks that let nobody set it
                    shutil.copymode(path, temporary)
            yield file
    finally:
        with suppress(OSError):  # it may not be there
            temporary.unlink()


def needed(module: str, extra: str) -> ModuleType:
    """Import a package that only this format needs."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.split(".")[0]
        if (error.name or package).split(".")[0] != package:  # it is there, and what it needs is not
            raise
        raise ModuleNotFoundError(f'this needs {package}: pip install "lstm_xp[{extra}]"', name=package) from None
