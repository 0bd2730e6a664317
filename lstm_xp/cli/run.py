"""`lstm-xp run`: a trained model over sequences in a file."""

import argparse
import math
import tempfile
from pathlib import Path

import numpy as np

from .._equations.records import LSTMState, State
from .._seams.trees import leaves
from ..formats import load
from ..formats._files import require_budget, require_writable, writing
from ..formats._model import directions
from ..model import LSTM
from . import places, stream
from .console import console, printable, progress_bar, read_arrays, whole
from .places import Place

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
    start = "the state to start from, as --save-state writes it"
    parser.add_argument("--state", type=Path, metavar="S.npz", help=start)
    parser.add_argument("--save-state", type=Path, metavar="S.npz", help="where the state after the last step goes")
    parser.add_argument("--chunk", type=whole(1), metavar="N", help="steps computed at a time")


def run(arguments: argparse.Namespace) -> int:
    """Run the command; return its exit status."""
    out = console()
    output, last_state = arguments.output, arguments.save_state
    if last_state is not None and last_state.resolve() == output.resolve():
        raise ValueError(f"--save-state must name another file than --output; got {last_state} twice")
    for target in filter(None, (output, last_state)):
        require_writable(target)  # before the work, not after it
    model = load(arguments.file, name=arguments.name)
    if arguments.dtype is not None:
        model = model.to(dtype=np.dtype(arguments.dtype))
    place = _place(arguments.library, arguments.device)
    source = _source(arguments.input, model, cast=arguments.dtype is not None)
    B, T, _ = source.shape
    lengths = None if arguments.lengths is None else _lengths(arguments.lengths, B, T)
    state = _initial_state(model, B, arguments.state)
    chunk = arguments.chunk or _steps(model, B)
    with (
        progress_bar(out) as progress,
        tempfile.TemporaryDirectory(prefix=".lstm-xp-", dir=output.absolute().parent) as folder,
        writing(output) as file,
    ):
        bar = progress.add_task(printable(output.name), total=len(stream.passes(model)) * -(-T // chunk))
        job = stream.Job(place, chunk, lengths, Path(folder), lambda: progress.advance(bar))
        writer = stream.Writer(file, source._replace(shape=(B, T, model.output_size)))
        last = stream.run(model, source, state, writer, job)
        if last_state is not None:
            with writing(last_state) as kept:
                arrays = {f"{part}{k}": a for k, s in enumerate(last) for part, a in s._asdict().items()}
                np.savez(kept, **arrays)
    return 0


def _steps(model: LSTM, B: int) -> int:
    """Return how many steps make a block."""
    widest: int = max(max(d.weights.weight_ih.shape) for d in directions(model))
    return max(1, min(_STEPS, _BLOCK // (max(1, B) * widest)))


def _place(library: str, device: str | None) -> Place:
    if library in places.missing():
        raise ValueError(f"{library} is not installed")
    known = {place.device: place for place in places.installed(library)}
    chosen = next(iter(known.values()), None) if device is None else known.get(device)
    if chosen is None:
        raise ValueError(f"{library} has no device {device or ''} here; it has {', '.join(known) or 'none'}")
    return chosen


def _source(path: Path, model: LSTM, *, cast: bool) -> stream.Sequences:
    array = _array(path)
    dtype, features = leaves(model.layers)[0].dtype, model.input_size
    if array.ndim not in (2, 3) or array.shape[-1] != features:
        wanted = f"(batch, time, {features}) or (time, {features})"
        raise ValueError(f"{path} must have shape {wanted}; got {array.shape}")
    if array.dtype.kind != "f" or (array.dtype != dtype and not cast):
        raise ValueError(f"{path} must have the dtype of the weights, {dtype}, or give --dtype; got {array.dtype}")
    shape = array.shape if array.ndim == 3 else (1, *array.shape)
    if not array.size:  # an axis of 0 hides the others, but there are as many steps to take, or states to keep
        state = sum(each.size for each in leaves(model.zero_state(1)))
        numbers = max(math.prod(max(1, n) for n in shape), shape[0] * (shape[1] * model.output_size + state))
        require_budget(path.stat().st_size, numbers * dtype.itemsize, f"{path}, by its shape {array.shape},")
    return stream.Sequences(path, shape, dtype, flat=array.ndim == 2)


def _lengths(path: Path, B: int, T: int) -> np.ndarray:
    lengths = _array(path)
    if lengths.dtype.kind not in "iu" or lengths.shape != (B,):
        raise ValueError(f"{path} must hold integers of shape (batch,) = ({B},); got {lengths.dtype} {lengths.shape}")
    if B and not 0 <= lengths.min() <= lengths.max() <= T:
        got = f"from {lengths.min()} to {lengths.max()}"
        raise ValueError(f"{path} must hold lengths between 0 and time = {T}; got {got}")
    return lengths.astype(np.int64)


def _array(path: Path) -> np.ndarray:
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


def _initial_state(model: LSTM, B: int, path: Path | None) -> State:
    """Return the state to start from: zeros without a file."""
    zeros = model.zero_state(B)
    if path is None:
        return zeros
    given = read_arrays(path)

    def array(name: str, like: np.ndarray) -> np.ndarray:
        found = given.get(name)
        if found is None or found.shape != like.shape or found.dtype.kind != "f":
            got = "nothing" if found is None else f"{found.dtype} {found.shape}"
            raise ValueError(f"{path} must hold {name}, numbers of shape {like.shape}; got {got}")
        return found.astype(like.dtype)

    return tuple(LSTMState(array(f"h{k}", h), array(f"c{k}", c)) for k, (h, c) in enumerate(zeros))
