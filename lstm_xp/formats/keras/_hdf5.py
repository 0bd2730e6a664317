"""HDF5 as Keras writes it: the weights of LSTM cells by their paths, and a few texts.

Files are read in another process. The library that reads HDF5 crashes on some damaged files and never returns on
others, which no check made beforehand can rule out; there it ends that process alone.
"""

import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .._files import needed
from .._model import unpacked

_PROGRAM = Path(__file__).with_name("_hdf5_process.py")
_WAIT = 60.0  # seconds of the clock, for systems that cannot bound the time of computing
_BYTES_A_SECOND = 1 << 20  # in a file of many small things

Arrays = list[np.ndarray]


class StoredCell(NamedTuple):
    """The weights of a cell of an LSTM: kernel, recurrent kernel and bias, if there is one."""

    path: tuple[str, ...]  # the group's
    arrays: Arrays
    beside: int  # how many names there are beside it, with its own


class Stored(NamedTuple):
    """What is read of a file."""

    cells: list[StoredCell]  # by their paths, with numbers in their order
    names: Mapping[str, str]  # of layers, by their paths
    texts: Mapping[str, str]  # attributes
    order: list[str]  # of the layers in a file of Keras 2


def read(content: bytes, budget: int) -> Stored:
    """Return the cells of a file.

    Raises
    ------
    ValueError
        If it is damaged, leads to other files, or asks for more memory than the budget, in bytes.
    """
    import subprocess  # here, as it takes long, and few who import the package read such a file

    needed("h5py", "keras")
    seconds = 2 + len(content) / _BYTES_A_SECOND
    command = [sys.executable, "-P", str(_PROGRAM), str(budget), str(seconds)]
    wait = _WAIT + seconds
    try:
        done = subprocess.run(command, input=content, capture_output=True, env=_environment(), timeout=wait)
    except subprocess.TimeoutExpired as error:
        raise ValueError("it is damaged: reading it did not come to an end") from error
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "replace").strip().split("\n")[-1]
        raise ValueError(f"it is damaged: the process that read it ended with {done.returncode} {said}".rstrip())
    return _stored(done.stdout)


def _environment() -> dict[str, str]:
    """Return the environment: the packages of this process, no code from plugins, and one thread."""
    own = {"PYTHONPATH": os.pathsep.join(sys.path), "HDF5_PLUGIN_PRELOAD": "::", "OPENBLAS_NUM_THREADS": "1"}
    return dict(os.environ) | own


def _stored(output: bytes) -> Stored:
    start = 8 + int.from_bytes(output[:8], "little")
    description = json.loads(output[8:start])
    if "error" in description:
        raise ValueError(f"it is damaged, or no file of Keras: {description['error']}")
    cells = []
    for cell in description["cells"]:
        arrays = []
        for shape, dtype in cell["arrays"]:
            arrays.append(unpacked(output, dtype, shape, start))
            start += arrays[-1].nbytes
        cells.append(StoredCell(tuple(cell["path"]), arrays, cell["beside"]))
    return Stored(
        sorted(cells, key=lambda cell: natural("/".join(cell.path))),
        description["names"],
        description["texts"],
        description["order"],
    )


def natural(text: str) -> list[tuple[str, int]]:
    """Return what sorts texts with numbers in the order of the numbers, none before all."""
    parts = re.split(r"(?:_(\d{1,9}))?(?:/|$)", text)
    return [(name, -1 if number is None else int(number)) for name, number in zip(parts[::2], parts[1::2])]  # noqa: B905 -- the last text is empty


def written(groups: Mapping[str, Sequence[np.ndarray]], texts: Mapping[str, str]) -> bytes:
    """Return a file with arrays numbered from 0 in each group, and texts as attributes."""
    h5py = needed("h5py", "keras")
    content = BytesIO()
    with h5py.File(content, "w") as file:
        for name, text in texts.items():
            file.attrs[name] = text
        for path, arrays in groups.items():
            group = file.create_group(path)
            for k, array in enumerate(arrays):
                group[str(k)] = array
    return content.getvalue()
