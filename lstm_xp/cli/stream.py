"""A model over sequences that are longer than memory: read and written block by block.

Layers that only run forward take a block through all of them. A reverse direction starts at the last block, and what
comes after a bidirectional layer needs both of its directions: between such layers the sequence rests in a file.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from .._equations.cell import Cell
from .._equations.records import Layer, LSTMState, LSTMWeights, State
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
    shape: tuple[int, int, int]
    dtype: np.dtype  # as the model takes them
    flat: bool = False  # whether the file has no batch axis

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return steps of all sequences; of the rest of the file nothing stays in memory."""
        array = np.load(self.path, mmap_mode="r", allow_pickle=False)
        block = np.array(array[..., start:stop, :], dtype=self.dtype)
        return block[None] if self.flat else block


class Writer:
    """Writes (batch, time, features), or (time, features), into an `.npy` file, the blocks in any order."""

    def __init__(self, file: BinaryIO, shape: tuple[int, int, int], dtype: np.dtype, *, flat: bool = False) -> None:
        self._file, self._shape, self._itemsize = file, shape, dtype.itemsize
        header = {
            "descr": np.lib.format.dtype_to_descr(dtype),
            "fortran_order": False,
            "shape": shape[1:] if flat else shape,
        }
        np.lib.format.write_array_header_1_0(file, header)
        self._start = file.tell()

    def write(self, start: int, block: np.ndarray) -> None:
        """Write the steps from `start` on. Not through a memory map: on a full disk that ends the process."""
        _, T, F = self._shape
        for b, rows in enumerate(block):
            self._file.seek(self._start + (b * T + start) * F * self._itemsize)
            self._file.write(np.ascontiguousarray(rows).data)


def passes(model: LSTM) -> list[Pass]:
    """Cut a model into passes, in their order."""
    single = [
        Pass(
            LSTM((Layer(None, d.weights) if d.reverse else Layer(d.weights),), (d.cell,)),
            (d.layer,),
            d.reverse,
            second=d.reverse and model.layers[d.layer].forward is not None,
        )
        for d in directions(model)
    ]
    joined: list[Pass] = []
    for here, after in zip(single, [*single[1:], None], strict=True):
        first = after is not None and after.second
        if joined and not (joined[-1].reverse or here.reverse or first):
            layers, cells = joined[-1].model.layers + here.model.layers, (*_cells(joined[-1]), *_cells(here))
            joined[-1] = Pass(LSTM(layers, cells), joined[-1].layers + here.layers)
        else:
            joined.append(here)
    return joined


def _cells(part: Pass) -> tuple[Cell, ...]:
    return tuple(d.cell for d in directions(part.model))


def run(
    model: LSTM,
    source: Sequences,
    state: State,
    target: Writer,
    lengths: np.ndarray | None,
    *,
    place: Place,
    chunk: int,
    folder: Path,
    progress: Callable[[], None],
) -> State:
    """Run the model in blocks of at most `chunk` steps, and return the last state.

    Sequences between two passes rest in files in `folder`. After each block of each pass `progress` is called.
    """
    B, T, _ = source.shape
    dtype = source.dtype
    states = tuple(LSTMState(h.copy(), c.copy()) for h, c in state)
    written: Sequences | None = None
    *before, last = enumerate(passes(model))
    for number, part in before:
        source, beside = _inputs(part, source, written)
        width = directions(part.model)[-1].weights.weight_hh.shape[1] + (beside.shape[2] if beside else 0)
        written = Sequences(folder / f"{number}.npy", (B, T, width), dtype)
        with open(written.path, "xb") as file:
            writer = Writer(file, written.shape, dtype)
            for _ in _through(part, source, beside, states, writer, lengths, place=place, chunk=chunk):
                progress()
    source, beside = _inputs(last[1], source, written)
    for _ in _through(last[1], source, beside, states, target, lengths, place=place, chunk=chunk):
        progress()
    return states


def _inputs(part: Pass, source: Sequences, written: Sequences | None) -> tuple[Sequences, Sequences | None]:
    """Return what a pass reads, and what its output stands beside."""
    if written is None or part.second:
        return source, written
    return written, None


def _through(
    part: Pass,
    source: Sequences,
    beside: Sequences | None,
    states: State,
    target: Writer,
    lengths: np.ndarray | None,
    *,
    place: Place,
    chunk: int,
) -> Iterator[int]:
    """Take the sequences through one pass, and its rows of the states from first to last; yield after each block."""
    model, row = _there(part.model, place), int(part.second)
    carry: Any = tuple(LSTMState(*(place.asarray(a[row : row + 1].copy()) for a in states[k])) for k in part.layers)
    T = source.shape[1]
    starts = range(0, T, chunk)
    for start in reversed(starts) if part.reverse else starts:
        stop = min(start + chunk, T)
        inside = None if lengths is None else place.asarray(np.clip(lengths - start, 0, stop - start))
        y, carry = model(place.asarray(source.read(start, stop)), carry, lengths=inside)
        block = place.asnumpy(y)
        target.write(start, np.concatenate([beside.read(start, stop), block], axis=2) if beside else block)
        for k, after in zip(part.layers, carry, strict=True):
            for whole, half in zip(states[k], after, strict=True):
                whole[row] = place.asnumpy(half)[0]
        yield start


def _there(model: LSTM, place: Place) -> LSTM:
    """Return the model with the arrays of a place."""

    def each(weights: LSTMWeights | None) -> LSTMWeights | None:
        return None if weights is None else LSTMWeights(*(None if a is None else place.asarray(a) for a in weights))

    return LSTM(tuple(Layer(*map(each, layer)) for layer in model.layers), model.cell)
