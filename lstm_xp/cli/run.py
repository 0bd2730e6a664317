"""`lstm-xp run`: a trained model over sequences in a file."""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .._equations.records import LSTMState, State, width_of
from ..formats import load
from ..formats._files import require_writable, writing
from ..formats._model import directions
from ..model import LSTM
from . import places as _libraries
from . import stream as _stream
from .console import CommandError, console, failing_in_one_line, whole
from .npz import read_arrays
from .places import Place

if TYPE_CHECKING:
    from rich.console import Console

HELP = "run a trained model over sequences in a .npy file, block by block"
_LIBRARIES = ("numpy", "torch", "jax", "cupy", "mlx")
_DTYPES = ("float64", "float32", "float16")
# Numbers in one block of the widest array, and steps at most.
_BLOCK, _STEPS = 1 << 22, 1000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("file", type=Path, metavar="FILE", help="a file of weights, of any known format")
    parser.add_argument("input", type=Path, metavar="INPUT.npy", help="(batch, time, features), or (time, features)")
    parser.add_argument("-o", "--output", type=Path, metavar="OUT.npy", required=True, help="where the outputs go")
    parser.add_argument("--name", help="which LSTM of FILE, as `lstm-xp info` lists it")
    parser.add_argument("--library", choices=_LIBRARIES, default="numpy", help="what computes (default: numpy)")
    parser.add_argument("--device", metavar="D", help="device of the library, as `lstm-xp check` lists it")
    parser.add_argument("--dtype", choices=_DTYPES, help="what to convert weights and input to (default: nothing)")
    parser.add_argument("--lengths", type=Path, metavar="L.npy", help="(batch,): the steps of each sequence")
    parser.add_argument(
        "--state", type=Path, metavar="S.npz", help="the state to start from, as --save-state writes it"
    )
    parser.add_argument("--save-state", type=Path, metavar="S.npz", help="where the state after the last step goes")
    parser.add_argument("--chunk", type=whole(1), metavar="N", help="steps computed at a time")


def run(arguments: argparse.Namespace) -> int:
    """Run the command; return its exit status."""
    out = console()
    with failing_in_one_line():
        for target in filter(None, (arguments.output, arguments.save_state)):
            require_writable(target)  # before the work, not after it
        model = load(arguments.file, name=arguments.name)
        if arguments.dtype is not None:
            model = model.to(dtype=np.dtype(arguments.dtype))
        place = _place(arguments.library, arguments.device)
        source = _source(arguments.input, model, cast=arguments.dtype is not None)
        lengths = None if arguments.lengths is None else _lengths(arguments.lengths, source.shape)
        state = _initial_state(model, source.shape[0], arguments.state)
        _stream_through(out, arguments, model, source, state, lengths, place)
    return 0


def _stream_through(
    out: "Console",
    arguments: argparse.Namespace,
    model: LSTM,
    source: _stream.Sequences,
    state: State,
    lengths: np.ndarray | None,
    place: Place,
) -> None:
    from rich.progress import Progress

    B, T, _ = source.shape
    chunk = arguments.chunk or _steps(model, B)
    shape = (B, T, width_of(model.layers[-1]))
    with (
        Progress(console=out) as progress,
        tempfile.TemporaryDirectory(prefix=".lstm-xp-", dir=arguments.output.absolute().parent) as folder,
        writing(arguments.output) as file,
    ):
        task = progress.add_task(arguments.output.name, total=len(_stream.passes(model)) * -(-T // chunk))
        last = _stream.run(
            model,
            source,
            state,
            _stream.Writer(file, shape, source.dtype, flat=source.flat),
            lengths,
            place=place,
            chunk=chunk,
            folder=Path(folder),
            progress=lambda: progress.advance(task),
        )
        if arguments.save_state is not None:
            with writing(arguments.save_state) as kept:
                arrays = {f"{part}{k}": a for k, s in enumerate(last) for part, a in s._asdict().items()}
                np.savez(kept, allow_pickle=False, **arrays)


def _steps(model: LSTM, B: int) -> int:
    """Return how many steps make a block."""
    widest: int = max(max(d.weights.weight_ih.shape) for d in directions(model))
    return max(1, min(_STEPS, _BLOCK // (max(1, B) * widest)))


def _place(library: str, device: str | None) -> Place:
    if library in _libraries.missing():
        raise CommandError(f"{library} is not installed")
    places = list(_libraries.places(library))
    chosen = next((place for place in places if device in (None, place.device)), None)
    if chosen is None:
        names = ", ".join(place.device for place in places) or "none"
        raise CommandError(f"{library} has no device {device or ''} here; it has {names}")
    return chosen


def _source(path: Path, model: LSTM, *, cast: bool) -> _stream.Sequences:
    array = _array(path)
    dtype, I = directions(model)[0].weights.weight_ih.dtype, directions(model)[0].weights.weight_ih.shape[1]  # noqa: E741
    if array.ndim not in (2, 3) or array.shape[-1] != I:
        raise CommandError(f"{path} must have shape (batch, time, {I}) or (time, {I}); got {array.shape}")
    if array.dtype.kind != "f" or (array.dtype != dtype and not cast):
        raise CommandError(f"{path} must have the dtype of the weights, {dtype}, or give --dtype; got {array.dtype}")
    shape = array.shape if array.ndim == 3 else (1, *array.shape)
    return _stream.Sequences(path, shape, dtype, flat=array.ndim == 2)


def _lengths(path: Path, shape: Sequence[int]) -> np.ndarray:
    lengths = _array(path)
    B, T = shape[:2]
    if lengths.dtype.kind not in "iu" or lengths.shape != (B,):
        raise CommandError(f"{path} must hold integers of shape (batch,) = ({B},); got {lengths.dtype} {lengths.shape}")
    if B and not 0 <= lengths.min() <= lengths.max() <= T:
        raise CommandError(
            f"{path} must hold lengths between 0 and time = {T}; got from {lengths.min()} to {lengths.max()}"
        )
    return lengths.astype(np.int64)


def _array(path: Path) -> np.ndarray:
    """Open an array of NumPy: what is not looked at stays in the file."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError:
        raise
    except Exception as error:  # foreign bytes make NumPy raise almost anything
        raise CommandError(f"{path} is not a readable .npy file") from error
    if not isinstance(array, np.ndarray):
        raise CommandError(f"{path} must be a .npy file of one array; got an archive")
    return array


def _initial_state(model: LSTM, B: int, path: Path | None) -> State:
    """Return the state to start from: zeros without a file."""
    dtype = directions(model)[0].weights.weight_ih.dtype
    given = None if path is None else read_arrays(path)
    state = []
    for k, layer in enumerate(model.layers):
        weights = [w for w in layer if w is not None]
        D, (rows, R) = len(weights), weights[0].weight_hh.shape
        arrays = []
        for part, size in (("h", R), ("c", rows // 4)):
            shape = (D, B, size)
            array = np.zeros(shape, dtype) if given is None else given.get(f"{part}{k}")
            if array is None or array.shape != shape or array.dtype.kind != "f":
                got = "nothing" if array is None else f"{array.dtype} {array.shape}"
                raise CommandError(f"{path} must hold {part}{k}, numbers of shape {shape}; got {got}")
            arrays.append(array.astype(dtype))
        state.append(LSTMState(*arrays))
    return tuple(state)
