"""What every format does with files: none is written by halves, none may ask for more memory than it is worth."""

import errno
import importlib
import json
import os
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO, TypeAlias

import numpy as np

from .._seams.namespace import to_numpy

# Weights hardly compress, so a file that unpacks to much more than itself is no file of weights; small ones may be
# all zeros.
_FLOOR = 1 << 26
_RATIO = 16

Json: TypeAlias = Any  # what `json` reads and writes

_DEPTH = 100
_BRACKETS = re.compile(r'[\[\]{}]|"(?:[^"\\]|\\.)*"?', re.DOTALL)  # or a text, which may have some in it


def budget(size: int) -> int:
    """Return how many bytes the contents of a file of this size may take in memory."""
    return max(_FLOOR, _RATIO * size)


def require_budget(path: Path, wanted: int, what: str) -> None:
    """Raise if something in the file is larger than a file of this size can hold."""
    size = path.stat().st_size
    if wanted > budget(size):
        raise ValueError(f"{what} takes {wanted} bytes of memory, more than a file of {size} bytes can hold")


@contextmanager
def opened_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open an archive whose members, unpacked, stay within the budget."""
    with zipfile.ZipFile(path) as archive:
        require_budget(path, sum(member.file_size for member in archive.infolist()), "its contents")
        yield archive


def npz_arrays(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of an archive of NumPy by their names, in the byte order of this machine."""
    with opened_zip(path), np.load(path, allow_pickle=False) as archive:
        return {name: to_numpy(archive[name]) for name in archive.files}


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
        os.replace(file.name, path)


def require_writable(path: Path) -> None:
    """Raise what `writing` would raise for the place, and leave the target as it is."""
    with _beside(path):
        pass


@contextmanager
def _beside(path: Path) -> Iterator[BinaryIO]:
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        file = open(temporary, "xb")  # noqa: SIM115 -- closed below; an error here is about the target
    except OSError as error:
        error.filename = str(path)
        raise
    try:
        with file:
            yield file
    finally:
        temporary.unlink(missing_ok=True)


def needed(module: str, extra: str) -> ModuleType:
    """Import a package that only this format needs."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        package = module.split(".")[0]
        raise ModuleNotFoundError(f'this needs {package}: pip install "lstm_xp[{extra}]"', name=package) from None
