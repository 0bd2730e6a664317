"""A model over sequences that are longer than memory: read and written block by block.

Layers that only run forward take a block through all of them. A reverse direction starts at the last block, and what
comes after a bidirectional layer needs both of its directions: between such layers the sequence rests in a file.
"""

from collections.abc import Callable
from contextlib import nullcontext
from itertools import groupby
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from .._equations.records import Layer, State
from .._seams.namespace import to_numpy
from .._seams.trees import leaves, mapped
from ..formats._model import directions
from ..model import LSTM
from .places import Place


class Pass(NamedTuple):
    """One way through the whole sequence: the part of a model that runs in one direction."""

    model: LSTM
    layers: tuple[int, ...]  # their numbers in the whole model
    reverse: bool = False
    second: bool = False  # of a bidirectional layer: it reads what the pass before read, and writes beside its output


class Sequences(NamedTuple):
    """Sequences in a `.npy` file: (batch, time, features), or (time, features) of a single one."""

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype  # as the model takes them

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return steps of all sequences, with a batch axis; of the rest of the file nothing stays in memory."""
        array = np.load(self.path, mmap_mode="r", allow_pickle=False)
        return np.array(array[..., start:stop, :], dtype=self.dtype, ndmin=3)


class Writer:
    """Writes sequences into an `.npy` file, the blocks in any order."""

    def __init__(self, file: BinaryIO, shape: tuple[int, ...], dtype: np.dtype) -> None:
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        self._file, self._start = file, file.tell()
        self._steps, self._bytes = shape[-2], shape[-1] * dtype.itemsize  # of a sequence, and of a step

    def write(self, start: int, block: np.ndarray, first: int = 0) -> None:
        """Write the steps from `start` on, of the sequences from `first` on.

        Not through a memory map: on a full disk that ends the process.
        """
        for b, rows in enumerate(block, first):
            self._file.seek(self._start + (b * self._steps + start) * self._bytes)
            self._file.write(np.ascontiguousarray(rows).data)


def passes(model: LSTM) -> list[Pass]:
    """Cut a model into passes, in their order: neighbours that only run forward go together, all others alone."""
    found = []
    for _, group in groupby(directions(model), lambda d: d.where if model.layers[d.layer].backward else "forward"):
        parts = list(group)
        layers = tuple(Layer(None, d.weights) if d.reverse else Layer(d.weights) for d in parts)
        part = LSTM(layers, tuple(d.cell for d in parts))
        reverse = parts[0].reverse
        second = reverse and model.layers[parts[0].layer].forward is not None
        found.append(Pass(part, tuple(d.layer for d in parts), reverse, second))
    return found


class Job(NamedTuple):
    """What is the same for every pass and every block."""

    place: Place
    chunk: int  # steps in a block, at most
    lengths: np.ndarray | None
    folder: Path  # for what stands between two passes
    progress: Callable[[], None]  # called after each block of each pass


def run(model: LSTM, source: Sequences, state: State, target: BinaryIO, job: Job) -> State:
    """Run the model over the source into a `.npy`, block by block, and return the last state."""
    states, parts = mapped(np.copy, state), passes(model)
    written = source  # by the pass before
    for number, part in enumerate(parts):
        source, beside = (source, written) if part.second else (written, None)
        width = part.model.output_size + (beside.shape[-1] if beside else 0)
        written = source._replace(path=job.folder / f"{number}.npy", shape=(*source.shape[:-1], width))
        with nullcontext(target) if part is parts[-1] else open(written.path, "xb") as file:
            _through(part, source, beside, states, Writer(file, written.shape, written.dtype), job)
    return states


def _through(part: Pass, source: Sequences, beside: Sequences | None, states: State, target: Writer, job: Job) -> None:
    """Take the sequences through one pass, and its rows of the states from first to last."""
    place, row = job.place, int(part.second)
    model = LSTM(mapped(place.asarray, part.model.layers), part.model.cell)
    own = tuple(states[k] for k in part.layers)
    carry = mapped(lambda array: place.asarray(array[row : row + 1].copy()), own)
    T = source.shape[-2]
    starts = range(0, T, job.chunk)
    for start in reversed(starts) if part.reverse else starts:
        stop = min(start + job.chunk, T)
        inside = None if job.lengths is None else place.asarray(np.clip(job.lengths - start, 0, stop - start))
        y, carry = model(place.asarray(source.read(start, stop)), carry, lengths=inside)
        block = to_numpy(y)
        target.write(start, np.concatenate([beside.read(start, stop), block], axis=2) if beside else block)
        job.progress()
    for before, after in zip(leaves(own), leaves(carry), strict=True):
        before[row] = to_numpy(after)[0]
