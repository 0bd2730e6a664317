"""The file in which learned weights rest: an `.npz` that appears whole or not at all."""

import io
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ._console import CommandError

_FORMAT = "lstm_xp names 1"


def check_target(path: Path) -> None:
    """Raise unless a file could be written there: before the work, not after it."""
    if path.exists() and not path.is_file():
        raise CommandError(f"cannot write {path}: not a regular file")
    _write(path, b"", keep=False)


def save(path: Path, weights: Mapping[str, np.ndarray], alphabet: str) -> None:
    """Write the weights."""
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, format=np.array(_FORMAT), alphabet=np.array(alphabet), **weights)
    _write(path, content.getvalue(), keep=True)


def _write(path: Path, content: bytes, *, keep: bool) -> None:
    """Write into a temporary file beside the target, and only then move it there."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "xb") as file:
            file.write(content)
        if keep:
            os.replace(temporary, path)
    except OSError as error:
        raise CommandError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def load(path: Path, shapes: Mapping[str, tuple[int, ...]], alphabet: str) -> dict[str, np.ndarray]:
    """Read weights of these shapes."""
    arrays = _read(path)
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


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            return {key: np.asarray(archive[key]) for key in archive.files}
    except OSError as error:
        raise CommandError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # foreign or damaged bytes make zipfile, zlib, tokenize and NumPy raise almost anything
        raise CommandError(f"cannot use {path}: not a readable .npz file") from error
