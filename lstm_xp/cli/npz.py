"""The file in which learned weights rest: an `.npz` that appears whole or not at all."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ..formats._files import npz_arrays, require_writable, writing
from .console import CommandError

_FORMAT = "lstm_xp names 1"


def check_target(path: Path) -> None:
    """Raise unless a file could be written there: before the work, not after it."""
    with _reporting("write", path):
        require_writable(path)


def save(path: Path, weights: Mapping[str, np.ndarray], alphabet: str) -> None:
    """Write the weights."""
    with _reporting("write", path), writing(path) as file:
        np.savez(file, allow_pickle=False, format=np.array(_FORMAT), alphabet=np.array(alphabet), **weights)


@contextmanager
def _reporting(action: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CommandError(f"cannot {action} {path}: {error.strerror or error}") from error


def load(path: Path, shapes: Mapping[str, tuple[int, ...]], alphabet: str) -> dict[str, np.ndarray]:
    """Read weights of these shapes."""
    arrays = read_arrays(path)
    if str(arrays.get("format")) != _FORMAT or str(arrays.get("alphabet")) != alphabet:
        raise CommandError(f"cannot use {path}: not a file that `lstm-xp demo --save` wrote")
    for key, shape in shapes.items():
        if key not in arrays:
            raise CommandError(f"cannot use {path}: {key} is missing")
        array = arrays[key]
        if array.dtype != np.float64 or array.shape != shape:
            raise CommandError(f"cannot use {path}: {key} must be float64 {shape}; got {array.dtype} {array.shape}")
        if not np.all(np.isfinite(array)):
            raise CommandError(f"cannot use {path}: {key} must be finite")
    return {key: arrays[key] for key in shapes}


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read an archive of NumPy."""
    with _reporting("read", path), open(path, "rb"):
        pass
    try:
        return npz_arrays(path)
    except Exception as error:  # foreign or damaged bytes make zipfile, zlib, tokenize and NumPy raise almost anything
        raise CommandError(f"cannot use {path}: not a readable .npz file") from error
