"""`lstm-xp check`: every library, device and dtype installed here against plain Python numbers."""

import argparse
import json
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass

import numpy as np

from .. import __version__
from .._seams.namespace import Array, array_namespace, to_numpy
from ..textbook import lstm_backward, lstm_cell, lstm_cell_backward, lstm_forward
from . import places, reference
from .console import console, show_table
from .places import Place

HELP = "compare every array library installed here with an independent reference, forward and backward"

# Forward: absolute, or relative where a cell state is above 1. Gradients: relative, along random directions. Rounding
# errors of one step are a few times the dtype's epsilon (2e-16, 1e-7) and add up over the steps; a projected gradient
# is a sum of hundreds of terms that partly cancel, which costs the gradients another one to three digits.
_TOLERANCES = {"float64": (1e-12, 1e-9), "float32": (1e-5, 1e-4)}

# The known exceptions: judged as float32, for this reason.
_AS_FLOAT32 = {("MLX", "float64"): "judged as float32: the float64 exp of MLX is only accurate to single precision"}

# a[4][3][6], as the course's notebook prints it for its example.
_NOTEBOOK_A = 0.17211776753291672

_PARAMETERS = ("Wf", "bf", "Wi", "bi", "Wo", "bo", "Wc", "bc", "Wy", "by")
_CELL_NAMES = {"dxt": "dx", "da_prev": "da0", "dc_prev": "dc0"}

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Case:
    """Inputs, and what the reference says about them."""

    inputs: Arrays  # x, a0, c0 and the parameters
    cotangents: Arrays  # da, dy, dc: the loss is sum(da * a) + sum(dy * y) + sum(dc * c)
    outputs: Arrays  # a, y, c
    directions: Arrays  # one for each input
    slopes: dict[str, float]  # of the loss, along each direction


@dataclass(frozen=True)
class Row:
    """How one library does in one dtype on one device."""

    library: str
    version: str
    device: str
    dtype: str
    forward: float | None
    gradient: float | None
    seconds: float
    ok: bool
    note: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else")


def run(arguments: argparse.Namespace) -> int:
    """Run the command; return its exit status."""
    if arguments.json:
        rows = list(check())
        print(json.dumps(_report(rows), indent=2, allow_nan=False))
    else:
        rows = _show()
    return 0 if all(row.ok for row in rows) else 1


def _report(rows: list[Row]) -> dict[str, object]:
    return {
        "version": __version__,
        "ok": all(row.ok for row in rows),
        "results": [asdict(row) for row in rows],
        "not_installed": places.missing(),
    }


def _show() -> list[Row]:
    out = console()
    with out.status("comparing"):
        rows = list(check())
    columns = ("library", "version", "device", "dtype", "forward", "gradient", "time", "ok")
    show_table(out, "Largest difference from the reference", columns, map(_cells, rows))
    for row in rows:
        if row.note:
            out.print(f"{row.library} {row.device} {row.dtype}: {row.note}", markup=False, soft_wrap=True)
    if absent := places.missing():
        out.print(f"Not installed: {', '.join(absent)}")
    return rows


def _cells(row: Row) -> list[str]:
    differences = ["-" if value is None else f"{value:.1e}" for value in (row.forward, row.gradient)]
    names = [row.library, row.version, row.device, row.dtype]
    return [*names, *differences, f"{row.seconds:.1f} s", "yes" if row.ok else "NO"]


def check() -> Iterator[Row]:
    """Yield one row for each library, device and dtype."""
    known = cases()
    for place in places.installed():
        for dtype in place.dtypes:
            yield _row(place, dtype, known)


def cases() -> tuple[Case, Case, Case]:
    """Return the notebook's example, a larger random sequence, and a single step."""
    draw = np.random.RandomState(1).randn
    shapes = {"x": (3, 10, 7), "a0": (5, 10), **dict.fromkeys(("Wf", "Wi", "Wo", "Wc"), (5, 8))}
    shapes |= {**dict.fromkeys(("bf", "bi", "bo", "bc"), (5, 1)), "Wy": (2, 5), "by": (2, 1)}
    inputs = {key: draw(*shapes[key]) for key in ("x", "a0", *_PARAMETERS)}
    # A loss on the first four steps, as in the notebook.
    cotangents = {"da": draw(5, 10, 4), "dy": draw(2, 10, 4), "dc": draw(5, 10, 4)}
    notebook = _case({**inputs, "c0": np.zeros((5, 10))}, cotangents)
    # The one number known from elsewhere takes the place of the reference's own.
    notebook.outputs["a"][4, 3, 6] = _NOTEBOOK_A
    # 17 steps: one more than a block of the scan.
    return notebook, _random_case(T_x=17), _one_step(_random_case(T_x=1))


def _random_case(*, T_x: int) -> Case:
    draw = np.random.default_rng(0).normal
    n_x, n_a, n_y, m = 12, 16, 5, 4
    inputs = {"x": draw(size=(n_x, m, T_x)), "a0": draw(size=(n_a, m)), "c0": draw(size=(n_a, m))}
    for gate in "fico":
        inputs["W" + gate] = draw(size=(n_a, n_a + n_x)) / math.sqrt(n_a + n_x)
        inputs["b" + gate] = draw(size=(n_a, 1))
    inputs |= {"Wy": draw(size=(n_y, n_a)), "by": draw(size=(n_y, 1))}
    cotangents = {"da": draw(size=(n_a, m, T_x)), "dc": draw(size=(n_a, m, T_x))}
    if T_x > 1:  # the gradients of a single step, `lstm_cell_backward`, take no dy
        cotangents["dy"] = draw(size=(n_y, m, T_x))
    return _case(inputs, cotangents)


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


def _one_step(case: Case) -> Case:
    """Return a case of one time step without its axis of time."""

    def flat(arrays: Arrays) -> Arrays:
        return {key: array[:, :, 0] if array.ndim == 3 else array for key, array in arrays.items()}

    return Case(flat(case.inputs), flat(case.cotangents), flat(case.outputs), flat(case.directions), case.slopes)


def _row(place: Place, dtype: str, cases: tuple[Case, Case, Case]) -> Row:
    names = place.library, place.version, place.device, dtype
    note = _AS_FLOAT32.get((place.library, dtype), "")
    start = time.perf_counter()
    try:
        pairs = [_differences(_results(place, dtype, case), case) for case in cases]
    except Exception as error:  # whatever a library raises, the others still run
        return Row(*names, None, None, time.perf_counter() - start, False, f"{type(error).__name__}: {error}")
    seconds = time.perf_counter() - start
    forward, gradient = (float(np.max(column)) for column in zip(*pairs, strict=True))
    forward_limit, gradient_limit = _TOLERANCES["float32" if note else dtype]
    ok = forward <= forward_limit and gradient <= gradient_limit
    return Row(*names, _finite(forward), _finite(gradient), seconds, ok, note)


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
    forward = [
        np.max(np.abs(_shaped(got, name, wanted) - wanted) / np.maximum(1, np.abs(wanted)))
        for name, wanted in case.outputs.items()
    ]
    gradient = [
        abs(np.sum(_shaped(got, "d" + name, direction) * direction) / case.slopes[name] - 1)
        for name, direction in case.directions.items()
    ]
    return float(np.max(forward)), float(np.max(gradient))


def _shaped(got: Arrays, name: str, like: np.ndarray) -> np.ndarray:
    if got[name].shape != like.shape:
        raise ValueError(f"{name} must have shape {like.shape}; got {got[name].shape}")
    return got[name]
