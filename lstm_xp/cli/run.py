"""`lstm-xp run`: a trained model over sequences in files."""

import argparse
import math
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .._equations.records import LSTMState, State
from .._seams.trees import leaves
from ..formats import load
from ..formats._files import require_budget, require_writable, writing
from ..formats._model import directions
from ..model import LSTM
from . import batch, places, stored, stream
from .console import console, printable, progress_bar, read_arrays, whole
from .places import Place
from .process import words
from .stored import Stored

if TYPE_CHECKING:
    from rich.console import Console

HELP = "run a trained model over sequences in files, block by block"
_LIBRARIES = ("numpy", "torch", "jax", "cupy", "mlx")
_DTYPES = ("float64", "float32", "float16")
# Numbers in one block of the widest array, and steps at most.
_BLOCK, _STEPS = 1 << 22, 1000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("file", type=Path, metavar="FILE", help="a file of weights, of any known format")
    kinds = ".npy, folder of them, .npz, FILE.h5::PATH, FOLDER.zarr::PATH: (batch, time, features) or (time, features)"
    parser.add_argument("input", nargs="+", metavar="INPUT", help=kinds)
    where = "where the outputs go: .npy, for several inputs a folder; or .npz, FILE.h5::PATH, FOLDER.zarr::PATH"
    parser.add_argument("-o", "--output", metavar="OUT", required=True, help=where)
    parser.add_argument("-j", "--jobs", type=whole(1), default=1, metavar="N", help="inputs computed at a time")
    parser.add_argument("--skip-existing", action="store_true", help="compute only what OUT does not have")
    parser.add_argument("--name", help="which LSTM of FILE, as `lstm-xp info` lists it")
    parser.add_argument("--library", choices=_LIBRARIES, default="numpy", help="what computes (default: numpy)")
    parser.add_argument("--device", metavar="D", help="device of the library, as `lstm-xp check` lists it")
    parser.add_argument("--dtype", choices=_DTYPES, help="what to convert weights and input to (default: nothing)")
    parser.add_argument("--lengths", type=Path, metavar="L.npy", help="(batch,): the steps of each sequence")
    start = "the state to start from, as --save-state writes it"
    parser.add_argument("--state", type=Path, metavar="S.npz", help=start)
    parser.add_argument("--save-state", type=Path, metavar="S.npz", help="where the state after the last step goes")
    parser.add_argument("--chunk", type=whole(1), metavar="N", help="steps computed at a time")


class _Task(NamedTuple):
    """What is the same for every input."""

    arguments: argparse.Namespace
    model: LSTM
    place: Place


def run(arguments: argparse.Namespace) -> int:
    """Run the command; return its exit status."""
    out = console()
    found = [each for text in arguments.input for each in stored.find(text)]
    many = len(found) > 1 or found[0].where != arguments.input[0]
    outputs = batch.outputs(arguments.output, found, arguments.file, many=many)
    _check_state(arguments, many=many)
    there = batch.there(arguments.output, outputs)
    model = load(arguments.file, name=arguments.name)
    if arguments.dtype is not None:
        model = model.to(dtype=np.dtype(arguments.dtype))
    task = _Task(arguments, model, _place(arguments.library, arguments.device))
    for each in found:
        _check(each, model, cast=arguments.dtype is not None)
    if arguments.skip_existing:
        outputs = {name: each for name, each in outputs.items() if name not in there}
    path, inside = stored.split(arguments.output)
    if inside is None and many:
        path.mkdir(exist_ok=True)
    for target in [Path(name) for name in outputs] if inside is None else [] if path.is_dir() else [path]:
        require_writable(target)  # before the work, not after it
    if inside is None:
        failed = _compute(task, outputs, {name: Path(name) for name in outputs}, out, many=many)
    else:
        with tempfile.TemporaryDirectory(prefix=".lstm-xp-", dir=path.absolute().parent) as folder:
            files = {name: Path(folder, f"{k}.npy") for k, name in enumerate(outputs)}
            failed = _compute(task, outputs, files, out, many=many)
            stored.pack(path, {name: file for name, file in files.items() if name not in failed})
    if failed:
        said = "; ".join(f"{outputs[name].where}: {text}" for name, text in failed.items())
        raise ValueError(f"{len(failed)} of {len(outputs)} failed: {said}")
    return 0


def _check_state(arguments: argparse.Namespace, *, many: bool) -> None:
    """Require that what belongs to one input is given with one, and that the last state has a place of its own."""
    last_state = arguments.save_state
    if many and (arguments.lengths or arguments.state or last_state):
        raise ValueError("--lengths, --state and --save-state go with a single input")
    if last_state is not None:
        if last_state.resolve() == stored.split(arguments.output)[0].resolve():
            raise ValueError(f"--save-state must name another file than --output; got {last_state} twice")
        require_writable(last_state)


def _compute(
    task: _Task, outputs: dict[str, Stored], files: dict[str, Path], out: "Console", *, many: bool
) -> dict[str, str]:
    """Run the model over what each output is made of; of many inputs, return which have failed, and why."""
    blocks = sum(-(-T // _steps(task, B)) for B, T, _ in (each.with_batch for each in outputs.values()))
    stop = Event()
    with progress_bar(out) as progress:
        name = stored.split(task.arguments.output)[0].name
        bar = progress.add_task(printable(name), total=len(stream.passes(task.model)) * blocks)

        def tick(blocks: int = 1) -> None:
            if stop.is_set():
                raise KeyboardInterrupt
            progress.advance(bar, blocks)

        def work(name: str) -> str:
            try:
                _one(task, outputs[name], files[name], tick)
                return ""
            except (ValueError, ModuleNotFoundError, OSError) as error:
                if not many:
                    raise
                return words(error)

        said = batch.side_by_side(work, outputs, task.arguments.jobs, stop)
    return {name: text for name, text in zip(outputs, said, strict=True) if text}


def _one(task: _Task, each: Stored, target: Path, tick: Callable[..., None]) -> None:
    """Run the model over one array."""
    model, arguments = task.model, task.arguments
    B, T, _ = each.with_batch
    lengths = None if arguments.lengths is None else _lengths(arguments.lengths, B, T)
    state = _initial_state(model, B, arguments.state)
    with (
        tempfile.TemporaryDirectory(prefix=".lstm-xp-", dir=target.absolute().parent) as folder,
        writing(target) as file,
    ):
        path = stored.unpacked(each, Path(folder, "input.npy"), partial(tick, 0))
        source = stream.Sequences(path, each.shape, leaves(model.layers)[0].dtype)
        job = stream.Job(task.place, _steps(task, B), lengths, Path(folder), tick)
        last = stream.run(model, source, state, file, job)
        if arguments.save_state is not None:
            with writing(arguments.save_state) as kept:
                arrays = {f"{part}{k}": a for k, s in enumerate(last) for part, a in s._asdict().items()}
                np.savez(kept, **arrays)


def _steps(task: _Task, B: int) -> int:
    """Return how many steps make a block."""
    widest: int = max(max(d.weights.weight_ih.shape) for d in directions(task.model))
    return task.arguments.chunk or max(1, min(_STEPS, _BLOCK // (max(1, B) * widest)))


def _place(library: str, device: str | None) -> Place:
    if library in places.missing():
        raise ValueError(f"{library} is not installed")
    known = {place.device: place for place in places.installed(library)}
    chosen = next(iter(known.values()), None) if device is None else known.get(device)
    if chosen is None:
        raise ValueError(f"{library} has no device {device or ''} here; it has {', '.join(known) or 'none'}")
    return chosen


def _check(each: Stored, model: LSTM, *, cast: bool) -> None:
    """Require sequences that the model takes."""
    dtype, features, where, shape = leaves(model.layers)[0].dtype, model.input_size, each.where, each.shape
    if len(shape) not in (2, 3) or shape[-1] != features:
        raise ValueError(f"{where} must have shape (batch, time, {features}) or (time, {features}); got {shape}")
    if each.dtype.kind != "f" or (each.dtype != dtype and not cast):
        raise ValueError(f"{where} must have the dtype of the weights, {dtype}, or give --dtype; got {each.dtype}")
    if not math.prod(shape):  # an axis of 0 hides the others, but there are as many steps to take, or states to keep
        B, T, F = each.with_batch
        state = sum(part.size for part in leaves(model.zero_state(1)))
        numbers = max(max(1, B) * max(1, T) * max(1, F), B * (T * model.output_size + state))
        what = f"{where}, by its shape {shape},"
        require_budget(stored.size_of(each.path), numbers * dtype.itemsize, what)


def _lengths(path: Path, B: int, T: int) -> np.ndarray:
    lengths = stored.one_array(path)
    if lengths.dtype.kind not in "iu" or lengths.shape != (B,):
        raise ValueError(f"{path} must hold integers of shape (batch,) = ({B},); got {lengths.dtype} {lengths.shape}")
    if B and not 0 <= lengths.min() <= lengths.max() <= T:
        got = f"from {lengths.min()} to {lengths.max()}"
        raise ValueError(f"{path} must hold lengths between 0 and time = {T}; got {got}")
    return lengths.astype(np.int64)


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
