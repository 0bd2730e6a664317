"""Weights from and to other systems: one module a format, with the same verbs in each.

``from_params`` makes an `LSTM` of the parameters that the other system has in memory, and ``to_params`` is the way
back. Modules of formats that have files add ``read...(file)``, which lists every LSTM of a file, and
``write...(file, model)``. Models come in NumPy's arrays, and `LSTM.to` moves them. Reading never runs code of a file.
"""

import os
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import BinaryIO, TypeAlias

import numpy as np

from .._checks import arrays
from .._checks.call import first_weight, named_weights
from .._seams.namespace import dtype_name
from ..model import LSTM
from . import _files
from ._model import Entry, Files, Format, chosen, entry_of, in_numpy

# Where the files of two formats look alike, the one that looks closer comes first.
_MODULES = ("native", "torchscript", "torch", "keras", "onnx", "flax", "equinox", "mlx", "haiku", "tensorflow1")
FORMATS: dict[str, Format] = {name: import_module(f".{name}", __name__).FORMAT for name in _MODULES}

__all__ = ["Entry", "inspect", "load", "save", *_MODULES]

_PathLike: TypeAlias = str | os.PathLike[str]

_KINDS = [files for format in FORMATS.values() for files in format.files]
_DTYPES = ("float16", "float32", "float64", "bfloat16")  # longer ones are another on every kind of machine
_WRITERS = {suffix: files.write for files in _KINDS if files.write is not None for suffix in files.suffixes}


def inspect(path: _PathLike) -> tuple[Entry, ...]:
    """List the LSTMs of a file.

    Parameters
    ----------
    path : str or path
        An ``.npz`` or ``.safetensors`` of this package or with PyTorch's names; PyTorch's ``.pt``, ``.pth`` and
        TorchScript; Keras' ``.keras``, ``.weights.h5``, ``.h5``; ``.onnx``. The content counts, not the suffix.

    Returns
    -------
    tuple of Entry
        For each its name, its format, and the model, or the problem with it.

    Raises
    ------
    OSError, MemoryError
        If the file cannot be opened or read, or is too much for the memory that is left; the error names it.
    ValueError
        If it is of no known format, or damaged.
    ModuleNotFoundError
        If reading its format needs a package that is not installed; the message names the extra.

    Examples
    --------
    >>> import tempfile, lstm_xp
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     lstm_xp.save(f"{folder}/model.npz", LSTM.init(3, 4, rng=0))
    ...     for entry in inspect(f"{folder}/model.npz"):
    ...         print(entry.name, entry.format, entry.model)
    . lstm_xp npz LSTM(3 -> 4, layers: 4, 128 parameters, numpy float32)
    """
    return _entries("inspect", Path(path))


def load(path: _PathLike, *, name: str | None = None) -> LSTM:
    """Read an LSTM from a file of any known format.

    Parameters
    ----------
    path : str or path
        As `inspect` takes it.
    name : str, optional
        Which LSTM of the file, by the name that `inspect` lists; needed where there are several.

    Returns
    -------
    LSTM
        With NumPy's arrays in the dtype of the file (bfloat16, which NumPy lacks, becomes float32).

    Raises
    ------
    OSError, MemoryError, ModuleNotFoundError
        As `inspect`.
    ValueError
        If the file is damaged, has no LSTM, none of that name, or several and no `name` is given, or if what it has
        cannot be computed by an `LSTM`.

    Examples
    --------
    >>> import tempfile, lstm_xp
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     lstm_xp.save(f"{folder}/model.npz", LSTM.init(3, 4, rng=0))
    ...     load(f"{folder}/model.npz")
    LSTM(3 -> 4, layers: 4, 128 parameters, numpy float32)
    """
    return chosen("load", str(path), _entries("load", Path(path)), name)


def save(path: _PathLike, model: LSTM) -> None:
    """Write an LSTM to a file, in the format that its suffix names.

    Parameters
    ----------
    path : str or path
        ``.npz`` and ``.safetensors`` hold every model. ``.pt`` and ``.pth`` (a state dict of `torch.nn.LSTM`),
        ``.keras``, ``.weights.h5`` and ``.onnx`` hold what these systems can compute.
    model : LSTM
        With arrays of any library, in float16, float32, float64 or bfloat16; the file has their dtype, but for
        bfloat16, which NumPy lacks and which becomes float32.

    Raises
    ------
    OSError
        If the file cannot be written; the error names it, and nothing is there that was not there before.
    ValueError
        If the suffix names no format, or the format cannot hold the model or its dtype.
    ModuleNotFoundError
        If writing the format needs a package that is not installed; the message names the extra.

    Examples
    --------
    >>> save("model.pt", LSTM.init(3, 4, peephole=True, rng=0))
    Traceback (most recent call last):
    ValueError: save: model.pt: PyTorch cannot hold `peephole` weights; got layers[0].forward.
    """
    path = Path(path)
    arrays.instance("save", "model", model, LSTM, "an LSTM")
    suffix = next((suffix for suffix in _WRITERS if path.name.endswith(suffix)), None)
    if suffix is None:
        raise ValueError(f"save: `path` must end in one of {', '.join(_WRITERS)}; got {path.name!r}.")
    dtype = dtype_name(first_weight(model.layers)[1])
    if dtype not in _DTYPES:
        rule, hint = f"have one of the dtypes {', '.join(_DTYPES)}", "Convert it first: `model.to(dtype=...)`."
        raise ValueError(arrays.refusal("save", "model", rule, dtype, hint=hint))
    model = _finite("save", in_numpy(model))
    with _files.writing(path) as file:
        try:
            _WRITERS[suffix](file, model)
        except ValueError as error:
            raise ValueError(f"save: {path}: {error}") from error


def _entries(function: str, path: Path) -> tuple[Entry, ...]:
    kind = "zip"
    try:
        with _files.reading(path) as file:
            files = _files_of(file)
            kind = files.kind
            file.seek(0)
            entries = tuple(files.read(file))
        return tuple(
            entry if entry.model is None else entry_of(entry.name, entry.format, partial(_finite, "LSTM", entry.model))
            for entry in entries
        )
    except MemoryError as error:
        raise MemoryError(f"{function}: there is not enough memory for {path}") from error
    except ValueError as error:
        raise ValueError(f"{function}: {path}: {error}") from error
    except Exception as error:
        raise ValueError(f"{function}: {path} is not a readable {kind} file: {_files.damage(error)}") from error


def _files_of(file: BinaryIO) -> Files:
    """Return the kind of a file, by its first bytes or by the members of an archive."""
    head = file.read(16)
    members: list[str] = []
    if head.startswith(b"PK\x03\x04"):
        with _files.opened_zip(file) as archive:
            members = archive.namelist()
    found = next((files for files in _KINDS if files.have(head, members)), None)
    if found is None:
        got = f"got something that starts with {head[:8]!r}" if head else "got an empty file"
        raise ValueError(f"it must be of one of the formats {', '.join(files.kind for files in _KINDS)}; {got}.")
    return found


def _finite(function: str, model: LSTM) -> LSTM:
    """Require weights that are numbers: all else was checked when the model was made."""
    for name, array in named_weights(model.layers).items():
        if not np.all(np.isfinite(array)):
            raise ValueError(f"{function}: `{name}` must be finite; got NaN or infinity.")
    return model
