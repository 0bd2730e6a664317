"""`lstm-xp run`: a trained model over sequences in files."""

import argparse
import math
import os
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .._equations.records import LSTMState, State
from .._seams.trees import leaves
from ..formats import load
from ..formats._files import naming, require_budget, require_writable, temporary_folder, writing
from ..formats._model import directions
from ..model import LSTM
from . import batch, packed, places, stored, stream
from .console import console, printable, progress_bar, read_arrays, whole
from .places import Place
from .process import stop_behind, words
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
    folder: Path  # for what lies on the disk meanwhile


def run(arguments: argparse.Namespace) -> int:
    """Run the command; return its exit status."""
    out = console()
    found = [each for text in arguments.input for each in stored.find(text)]
    many = len(found) > 1 or found[0].where != arguments.input[0]
    given = [path for path in (arguments.file, arguments.lengths, arguments.state) if path is not None]
    outputs = batch.outputs(arguments.output, found, given, many=many)
    _check_state(arguments, found, many=many)
    there = batch.there(arguments.output, outputs)
    model = load(arguments.file, name=arguments.name)
    if arguments.dtype is not None:
        model = model.to(dtype=np.dtype(arguments.dtype))
    place = _place(arguments.library, arguments.device)
    for each in found:
        _check(each, model, cast=arguments.dtype is not None)
    if arguments.skip_existing and (arguments.save_state is None or arguments.save_state.exists()):
        outputs = {name: each for name, each in outputs.items() if name not in there}
    path, inside = stored.split(arguments.output)
    with temporary_folder(_beside(path, outputs if inside is None else None, many=many)) as folder:
        files = {name: Path(name) if inside is None else folder / f"{k}.npy" for k, name in enumerate(outputs)}
        ended = _compute(_Task(arguments, model, place, folder), outputs, files, out, many=many)
        failed = {name: said for name, said in ended.items() if isinstance(said, str)}
        if inside is not None:
            packed.pack(path, {name: file for name, file in files.items() if name not in failed})
    for last in ended.values() if arguments.save_state is not None else ():
        _save_state(arguments.save_state, last)
    if failed:
        said = "; ".join(f"{outputs[name].where}: {text}" for name, text in failed.items())
        raise ValueError(f"{len(failed)} of {len(outputs)} failed: {said}")
    return 0


def _check_state(arguments: argparse.Namespace, found: list[Stored], *, many: bool) -> None:
    """Require that what belongs to one input is given with one, and that the last state has a place of its own."""
    last_state = arguments.save_state
    if many and (arguments.lengths or arguments.state or last_state):
        raise ValueError("--lengths, --state and --save-state go with a single input")
    if last_state is not None:
        taken = [arguments.file, arguments.lengths, found[0].path, stored.split(arguments.output)[0]]
        if os.path.realpath(last_state) in {os.path.realpath(path) for path in taken if path is not None}:
            raise ValueError(f"--save-state must name a file of its own; got {last_state} twice")
        require_writable(last_state)


def _beside(path: Path, files: Iterable[str] | None, *, many: bool) -> Path:
    """Require that the output, or its files, can be written, before the work; return where temporary files go."""
    if files is not None and many:
        path.mkdir(exist_ok=True)
    for target in [path / "zarr.json" if path.is_dir() else path] if files is None else map(Path, files):
        require_writable(target)
    return path if files is not None and many else Path(os.path.realpath(path)).parent


def _compute(
    task: _Task, outputs: dict[str, Stored], files: dict[str, Path], out: "Console", *, many: bool
) -> dict[str, Any]:
    """Run the model over what each output is made of; return the last state of each, or, of many, why it failed."""
    blocks = sum(-(-T // _steps(task, B)) for B, T, _ in (each.with_batch for each in outputs.values()))
    stop = Event()
    with progress_bar(out) as progress:
        target, _ = stored.split(task.arguments.output)
        bar = progress.add_task(printable(target.name), total=len(stream.passes(task.model)) * blocks)

        def tick(blocks: int = 1) -> None:
            if stop.is_set():
                raise KeyboardInterrupt
            progress.advance(bar, blocks)

        def work(name: str) -> State | str | None:
            try:
                with naming(target, task.folder):
                    last = _one(task, outputs[name], files[name], tick)
                return last if task.arguments.save_state is not None else None
            except (ValueError, ModuleNotFoundError, OSError) as error:
                if not many or stop_behind(error):
                    raise
                return words(error)

        return dict(zip(outputs, batch.side_by_side(work, outputs, task.arguments.jobs, stop), strict=True))


def _one(task: _Task, each: Stored, target: Path, tick: Callable[..., None]) -> State:
    """Run the model over one array; return the last state."""
    model, arguments = task.model, task.arguments
    B, T, _ = each.with_batch
    lengths = None if arguments.lengths is None else _lengths(arguments.lengths, B, T)
    state = _initial_state(model, B, arguments.state)
    with temporary_folder(task.folder) as folder, writing(target) as file:
        path = stored.unpacked(each, folder / "input.npy", partial(tick, 0))
        source = stream.Sequences(path, each.shape, leaves(model.layers)[0].dtype)
        job = stream.Job(task.place, _steps(task, B), lengths, folder, tick)
        return stream.run(model, source, state, file, job)


def _save_state(path: Path, state: State) -> None:
    with writing(path) as file:
        arrays = {f"{part}{k}": a for k, s in enumerate(state) for part, a in s._asdict().items()}
        np.savez(file, **arrays)


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
        wanted = "a floating dtype" if cast else f"the dtype of the weights, {dtype}, or give --dtype"
        raise ValueError(f"{where} must have {wanted}; got {each.dtype}")
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
    known = {f"{part}{k}" for part in "hc" for k in range(len(zeros))}
    if given.keys() - known:
        raise ValueError(f"{path} must hold {', '.join(sorted(known))} alone; got {', '.join(sorted(given))}")

    def array(name: str, like: np.ndarray) -> np.ndarray:
        found = given.get(name)
        if found is None or found.shape != like.shape or found.dtype.kind != "f":
            got = "nothing" if found is None else f"{found.dtype} {found.shape}"
            raise ValueError(f"{path} must hold {name}, numbers of shape {like.shape}; got {got}")
        return found.astype(like.dtype)

    return tuple(LSTMState(array(f"h{k}", h), array(f"c{k}", c)) for k, (h, c) in enumerate(zeros))
