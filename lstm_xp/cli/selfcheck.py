"""`lstm-xp check`: every library, device and dtype installed here against plain Python numbers."""

import argparse
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from .. import __version__
from .._seams.namespace import Array, array_namespace, to_numpy
from ..textbook import lstm_backward, lstm_cell, lstm_cell_backward, lstm_forward
from . import places, reference
from .console import console, show_table
from .places import Place, Trial

HELP = "compare every array library installed here with an independent reference, forward and backward"

# Forward: absolute, or relative where a cell state is above 1. Gradients: relative, along random directions. Rounding
# errors of one step are a few times the dtype's epsilon (2e-16, 1e-7) and add up over the steps; a projected gradient
# is a sum of hundreds of terms that partly cancel, which costs the gradients another one to three digits.
_TOLERANCES = {"float64": (1e-12, 1e-9), "float32": (1e-5, 1e-4)}

# The known exceptions: judged as float32, for this reason.
_AS_FLOAT32 = {("MLX", "float64"): "judged as float32: the float64 exp of MLX is only accurate to single precision"}

# a[4][3][6], as the course's notebook prints it for its example.
_NOTEBOOK_A = 0.17211776753291672

_CELL_NAMES = {"dxt": "dx", "da_prev": "da0", "dc_prev": "dc0"}

Arrays = dict[str, np.ndarray]


class Case(NamedTuple):
    """Inputs, and what the reference says about them."""

    inputs: Arrays  # x, a0, c0 and the parameters
    cotangents: Arrays  # da, dy, dc: the loss is sum(da * a) + sum(dy * y) + sum(dc * c)
    outputs: Arrays  # a, y, c
    directions: Arrays  # one for each input
    slopes: dict[str, float]  # of the loss, along each direction


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else")


def run(arguments: argparse.Namespace) -> int:
    """Run the command; return its exit status."""
    trials = list(check()) if arguments.json else _show()
    ok = all(trial.ok for trial in trials)
    if arguments.json:
        results = [trial._asdict() for trial in trials]
        report = {"version": __version__, "ok": ok, "results": results, "not_installed": places.missing()}
        print(json.dumps(report, indent=2, allow_nan=False))
    return 0 if ok else 1


def _show() -> list[Trial]:
    out = console()
    with out.status("comparing"):
        trials = list(check())
    columns = ("library", "version", "device", "dtype", "forward", "gradient", "time", "ok")
    show_table(out, "Largest difference from the reference", columns, map(_cells, trials))
    for trial in trials:
        if trial.note:
            out.print(f"{trial.library} {trial.device} {trial.dtype}: {trial.note}", soft_wrap=True)
    if absent := places.missing():
        out.print(f"Not installed: {', '.join(absent)}")
    return trials


def _cells(trial: Trial) -> list[str]:
    differences = ["-" if value is None else f"{value:.1e}" for value in (trial.forward, trial.gradient)]
    return [*trial[:4], *differences, f"{trial.seconds:.1f} s", "yes" if trial.ok else "NO"]


def check() -> Iterator[Trial]:
    """Compare every library, device and dtype with the reference."""
    return places.trials(partial(_judge, cases()))


def cases() -> tuple[Case, Case, Case]:
    """Return the notebook's example, a larger random sequence, and a single step."""
    inputs, cotangents = _drawn(3, 5, 2, 10, 7, steps=4)  # a loss on the first four steps, as in the notebook
    notebook = _case({**inputs, "c0": np.zeros((5, 10))}, cotangents)
    # The one number known from elsewhere takes the place of the reference's own.
    notebook.outputs["a"][4, 3, 6] = _NOTEBOOK_A
    # 17 steps: one more than a block of the scan.
    long, single = (_drawn(12, 16, 5, 4, T_x, steps=T_x, scale=28**-0.5) for T_x in (17, 1))
    return notebook, _case(*long), _one_step(*single)


def _drawn(n_x: int, n_a: int, n_y: int, m: int, T_x: int, *, steps: int, scale: float = 1) -> tuple[Arrays, Arrays]:
    """Return inputs, in the order in which the notebook draws them, and cotangents of the first steps."""
    draw = np.random.RandomState(1).randn
    inputs = {"x": draw(n_x, m, T_x), "a0": draw(n_a, m)}
    for gate in "fioc":
        inputs |= {"W" + gate: draw(n_a, n_a + n_x) * scale, "b" + gate: draw(n_a, 1)}
    inputs |= {"Wy": draw(n_y, n_a), "by": draw(n_y, 1), "c0": draw(n_a, m)}
    return inputs, {"da": draw(n_a, m, steps), "dy": draw(n_y, m, steps), "dc": draw(n_a, m, steps)}


def _case(inputs: Arrays, cotangents: Arrays) -> Case:
    rng = np.random.default_rng(1)
    lists, cotangent_lists = ({key: array.tolist() for key, array in arrays.items()} for arrays in (inputs, cotangents))
    a, y, c = reference.lstm_forward(lists["x"], lists["a0"], lists["c0"], lists)
    outputs = {"a": np.real(a), "y": np.real(y), "c": np.real(c)}
    names = [key for key in inputs if "dy" in cotangents or key not in ("Wy", "by")]
    directions = {key: rng.normal(size=inputs[key].shape) for key in names}
    slopes = {
        key: reference.directional_derivative(lists, cotangent_lists, key, direction.tolist())
        for key, direction in directions.items()
    }
    # `lstm_backward` gives dx only as far as the loss reaches.
    directions["x"] = directions["x"][:, :, : cotangents["da"].shape[2]]
    return Case(inputs, cotangents, outputs, directions, slopes)


def _one_step(inputs: Arrays, cotangents: Arrays) -> Case:
    """Return a case of one time step without its axis of time."""
    # The gradients of a single step, `lstm_cell_backward`, take no dy.
    case = _case(inputs, {key: cotangents[key] for key in ("da", "dc")})

    def flat(arrays: Arrays) -> Arrays:
        return {key: array[:, :, 0] if array.ndim == 3 else array for key, array in arrays.items()}

    return Case(flat(case.inputs), flat(case.cotangents), flat(case.outputs), flat(case.directions), case.slopes)


def _judge(cases: Sequence[Case], place: Place, dtype: str) -> tuple[float | None, float | None, bool, str]:
    """Return the largest differences of all cases, forward and in the gradients, whether they are small, and a note."""
    forward, gradient = np.max([_differences(_results(place, dtype, case), case) for case in cases], axis=0).tolist()
    note = _AS_FLOAT32.get((place.library, dtype), "")
    forward_limit, gradient_limit = _TOLERANCES["float32" if note else dtype]
    ok = forward <= forward_limit and gradient <= gradient_limit
    return _finite(forward), _finite(gradient), ok, note


def _finite(value: float) -> float | None:
    """Return None for infinity and NaN, which JSON has not."""
    return value if math.isfinite(value) else None


def _results(place: Place, dtype: str, case: Case) -> Arrays:
    """Return the outputs and the gradients of a library, in NumPy."""
    sent = {key: place.asarray(array.astype(dtype)) for key, array in (case.inputs | case.cotangents).items()}
    arrays = _of_cell(sent) if case.inputs["x"].ndim == 2 else _of_sequence(sent)
    # They come back in one piece: a lazy library computes everything anew for each that it is asked for.
    xp = array_namespace(arrays["a"])
    flat = to_numpy(xp.concat([xp.reshape(array, (-1,)) for array in arrays.values()])).astype("float64")
    ends = np.cumsum([math.prod(array.shape) for array in arrays.values()])
    pieces = np.split(flat, ends[:-1])
    return {name: piece.reshape(arrays[name].shape) for name, piece in zip(arrays, pieces, strict=True)}


def _of_sequence(sent: Mapping[str, Array]) -> dict[str, Array]:
    a, y, c, caches = lstm_forward(sent["x"], sent["a0"], sent, c0=sent["c0"])
    return {"a": a, "y": y, "c": c, **lstm_backward(sent["da"], caches, dy=sent["dy"], dc=sent["dc"])}


def _of_cell(sent: Mapping[str, Array]) -> dict[str, Array]:
    a, c, y, cache = lstm_cell(sent["x"], sent["a0"], sent["c0"], sent)
    gradients = lstm_cell_backward(sent["da"], sent["dc"], cache)
    return {"a": a, "y": y, "c": c} | {_CELL_NAMES.get(name, name): gradient for name, gradient in gradients.items()}


def _differences(got: Arrays, case: Case) -> tuple[float, float]:
    """Return the largest difference of an output, and of a gradient along its direction."""
    directions = {"d" + name: direction for name, direction in case.directions.items()}
    for name, like in (case.outputs | directions).items():
        if got[name].shape != like.shape:
            raise ValueError(f"{name} must have shape {like.shape}; got {got[name].shape}")
    forward = [np.max(np.abs(got[name] - a) / np.maximum(1, np.abs(a))) for name, a in case.outputs.items()]
    gradient = [abs(np.sum(got["d" + name] * d) / case.slopes[name] - 1) for name, d in case.directions.items()]
    return float(np.max(forward)), float(np.max(gradient))
