"""`lstm-xp demo`: learn to write names on NumPy alone, then run what was learned on every library."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .._seams.namespace import to_numpy
from ..formats._files import require_writable
from ..textbook import lstm_forward
from . import demo_task as task
from . import places
from .console import console, progress_bar, show_table, whole
from .demo_task import Names, Parameters
from .places import Place

if TYPE_CHECKING:
    from rich.console import Console

HELP = "learn to write US first names, letter by letter, on NumPy alone; then run the result on every library"
_INVENTED = 12


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    steps = f"training steps (default: {task.STEPS}; with --load, none unless given)"
    parser.add_argument("--steps", type=whole(0), help=steps)
    parser.add_argument("--seed", type=whole(0), default=1, help="seed of everything random (default: 1)")
    parser.add_argument("--save", type=Path, metavar="weights.npz", help="write the learned weights to this file")
    parser.add_argument("--load", type=Path, metavar="weights.npz", help="start from weights that --save wrote")


def run(arguments: argparse.Namespace) -> int:
    """Run the command; return its exit status."""
    out = console()
    if arguments.save:
        require_writable(arguments.save)  # before the work, not after it
    rng = np.random.default_rng(arguments.seed)
    parameters = task.load(arguments.load) if arguments.load else task.initial_parameters(rng)
    usual = 0 if arguments.load else task.STEPS
    steps = usual if arguments.steps is None else arguments.steps
    names = known, held_out = task.read_names()
    out.print(f"{len(known)} US first names to learn from, {len(held_out)} held out.")
    _learn(out, parameters, names, steps, rng)
    if arguments.save:
        task.save(arguments.save, parameters)
    origins = dict.fromkeys(known, "in the training list") | dict.fromkeys(held_out, "real, but held out")
    invented = task.invent(parameters, _INVENTED, rng)
    rows = ([name.capitalize(), origins.get(name, "invented")] for name in invented)
    show_table(out, "Names it writes", ("name", ""), rows)
    return _show_libraries(out, parameters, held_out)


def _learn(out: "Console", parameters: Parameters, names: Names, steps: int, rng: np.random.Generator) -> None:
    """Train with a progress bar, and say what it brought."""
    known, held_out = names
    # As many names to learn from as are held out: all of them would take long.
    batches = task.encode(known[:: len(known) // len(held_out)]), task.encode(held_out)
    frequencies = task.letter_frequencies(known)
    losses = {"letter frequencies": [task.cross_entropy(frequencies, batch.target) for batch in batches]}
    losses["before training"] = [task.mean_loss(parameters, batch) for batch in batches]
    with progress_bar(out) as progress:
        bar = progress.add_task("loss", total=steps)
        for loss in task.train(parameters, known, steps, rng):
            progress.update(bar, advance=1, description=f"loss {loss:.3f}")
    losses["after training"] = [task.mean_loss(parameters, batch) for batch in batches]
    show_table(
        out,
        "Loss: mean cross-entropy of a letter, in nats (bits)",
        ("", "names learned from", "names held out"),
        ([label, *(f"{loss:.3f} ({loss / np.log(2):.3f})" for loss in pair)] for label, pair in losses.items()),
    )


def _show_libraries(out: "Console", parameters: Parameters, held_out: Sequence[str]) -> int:
    """Run the weights everywhere and compare with NumPy's float64; return the exit status."""
    batch = task.encode(held_out)
    wanted = task.predict(parameters, batch)
    inputs = {"x": batch.x, "a0": np.zeros((len(parameters["bf"]), len(held_out))), **parameters}

    def judge(place: Place, dtype: str) -> tuple[float, None, bool, str]:
        there = {key: place.asarray(value.astype(dtype)) for key, value in inputs.items()}
        y = to_numpy(lstm_forward(there["x"], there["a0"], there)[1])
        return float(np.max(np.abs(y - wanted))), None, True, ""

    trials = list(places.trials(judge))
    columns = ("library", "version", "device", "dtype", "difference", "first run")
    rows = ([*t[:4], "failed" if t.forward is None else f"{t.forward:.1e}", f"{t.seconds:.2f} s"] for t in trials)
    show_table(out, "The same weights on every library installed here: largest difference from NumPy", columns, rows)
    for trial in trials:
        if trial.note:
            out.print(f"{trial.library} {trial.device} {trial.dtype}: {trial.note}", soft_wrap=True)
    return 0 if all(trial.ok for trial in trials) else 1
