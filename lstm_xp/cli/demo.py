"""`lstm-xp demo`: learn to write names on NumPy alone, then run what was learned on every library."""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..textbook import lstm_forward
from . import demo_task as _names
from . import npz as _weights
from . import places as _libraries
from .console import console, show_table, whole
from .places import Place

if TYPE_CHECKING:
    from rich.console import Console

HELP = "learn to write US first names, letter by letter, on NumPy alone; then run the result on every library"
_INVENTED = 12


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument(
        "--steps",
        type=whole(0),
        help=f"training steps (default: {_names.STEPS}; with --load, none unless given)",
    )
    parser.add_argument("--seed", type=whole(0), default=1, help="seed of everything random (default: 1)")
    parser.add_argument("--save", type=Path, metavar="weights.npz", help="write the learned weights to this file")
    parser.add_argument("--load", type=Path, metavar="weights.npz", help="start from weights that --save wrote")


def run(arguments: argparse.Namespace) -> int:
    """Run the command; return its exit status."""
    out = console()
    if arguments.save:
        _weights.check_target(arguments.save)
    rng = np.random.default_rng(arguments.seed)
    if arguments.load:
        weights = _weights.load(arguments.load, _names.SHAPES, _names.ALPHABET)
    else:
        weights = _names.initial_weights(rng)
    steps = arguments.steps
    if steps is None:
        steps = 0 if arguments.load else _names.STEPS

    names, held_out = _names.read_names()
    out.print(f"{len(names)} US first names to learn from, {len(held_out)} held out.")
    _learn(out, weights, names, held_out, steps, rng)
    if arguments.save:
        _weights.save(arguments.save, weights, _names.ALPHABET)
    _show_names(out, _names.invent(weights, _INVENTED, rng), names, held_out)
    return _show_libraries(out, weights, held_out)


def _learn(
    out: "Console",
    weights: _names.Weights,
    names: Sequence[str],
    held_out: Sequence[str],
    steps: int,
    rng: np.random.Generator,
) -> None:
    """Train with a progress bar, and say what it brought."""
    # As many names to learn from as are held out: all of them would take long.
    batches = _names.encode(names[:: len(names) // len(held_out)]), _names.encode(held_out)
    frequencies = _names.letter_frequencies(names)
    losses = {"letter frequencies": [_names.cross_entropy(frequencies, batch.target) for batch in batches]}
    losses["before training"] = [_names.mean_loss(weights, batch) for batch in batches]
    _train(out, weights, names, steps, rng)
    losses["after training"] = [_names.mean_loss(weights, batch) for batch in batches]
    show_table(
        out,
        "Loss: mean cross-entropy of a letter, in nats (bits)",
        ("", "names learned from", "names held out"),
        ([label, *(f"{loss:.3f} ({loss / np.log(2):.3f})" for loss in pair)] for label, pair in losses.items()),
    )


def _train(out: "Console", weights: _names.Weights, names: Sequence[str], steps: int, rng: np.random.Generator) -> None:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=out) as progress:
        task = progress.add_task("loss", total=steps)
        for loss in _names.train(weights, names, steps, rng):
            progress.update(task, advance=1, description=f"loss {loss:.3f}")


def _show_names(out: "Console", invented: Sequence[str], names: Sequence[str], held_out: Sequence[str]) -> None:
    known = dict.fromkeys(names, "in the training list") | dict.fromkeys(held_out, "real, but held out")
    rows = ([name.capitalize(), known.get(name, "invented")] for name in invented)
    show_table(out, "Names it writes", ("name", ""), rows)


def _show_libraries(out: "Console", weights: _names.Weights, held_out: Sequence[str]) -> int:
    """Run the weights everywhere and compare with NumPy's float64; return the exit status."""
    batch = _names.encode(held_out)
    x, wanted = batch.x, _names.predict(weights, batch)
    errors, rows = [], []
    for place in _libraries.places():
        for dtype in place.dtypes:
            start = time.perf_counter()
            try:
                difference = f"{np.max(np.abs(_predict_at(place, dtype, weights, x) - wanted)):.1e}"
            except Exception as error:  # whatever a library raises, the others still run
                difference = "failed"
                errors.append(f"{place.library} {place.device} {dtype}: {type(error).__name__}: {error}")
            seconds = f"{time.perf_counter() - start:.2f} s"
            rows.append([place.library, place.version, place.device, dtype, difference, seconds])
    columns = ("library", "version", "device", "dtype", "difference", "first run")
    show_table(out, "The same weights on every library installed here: largest difference from NumPy", columns, rows)
    for line in errors:
        out.print(line, markup=False, soft_wrap=True)
    return 1 if errors else 0


def _predict_at(place: Place, dtype: str, weights: _names.Weights, x: np.ndarray) -> np.ndarray:
    a0 = np.zeros((weights["bf"].shape[0], x.shape[1]))
    there = {key: place.asarray(value.astype(dtype)) for key, value in {"x": x, "a0": a0, **weights}.items()}
    y = lstm_forward(there.pop("x"), there.pop("a0"), there)[1]
    return place.asnumpy(y)
