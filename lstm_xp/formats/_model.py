"""What every format does with a model: arrays to NumPy, row blocks to another order, and no for what it cannot hold."""

from collections.abc import Collection, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from .._checks.call import cells_of
from .._equations.cell import PLAIN, Cell
from .._equations.records import Layer, LSTMWeights, directions_of
from .._seams.namespace import array_namespace, dtype_name
from ..model import LSTM

# What a model can have beyond one or more plain forward layers.
Feature: TypeAlias = Literal["stack", "both", "reverse", "projection", "peephole", "cell"]

_SAID: dict[Feature, str] = {
    "stack": "more than one layer",
    "both": "a bidirectional layer",
    "reverse": "a reverse-only layer",
    "projection": "a projection (`weight_hr`)",
    "peephole": "`peephole` weights",
    "cell": "a `cell` other than the plain one",
}


class Entry(NamedTuple):
    """One LSTM of a file, as `lstm_xp.inspect` lists it.

    `name` is what `lstm_xp.load` takes as ``name=``, ``"."`` for a file that is one LSTM itself. `format` says what
    stands for it in the file. `model` has NumPy's arrays; it is None where `problem` says why it cannot be used.
    """

    name: str
    format: str
    model: LSTM | None
    problem: str | None = None


class Direction(NamedTuple):
    """One direction of one layer of a model."""

    where: str  # as an error names it
    layer: int
    reverse: bool
    weights: LSTMWeights
    cell: Cell


def as_numpy(x: Any) -> np.ndarray:
    """Return an array of any library as NumPy's; bfloat16, which NumPy lacks, widens to float32: exactly."""
    if hasattr(x, "detach"):
        x = x.detach().cpu()
    if hasattr(x, "dtype") and dtype_name(x) == "bfloat16":
        xp = array_namespace(x)
        x = x.to(xp.float32) if hasattr(x, "to") else x.astype(xp.float32)
    return np.asarray(x.get() if hasattr(x, "get") else x)


def in_numpy(model: LSTM) -> LSTM:
    """Return the model with NumPy's arrays."""

    def each(weights: LSTMWeights | None) -> LSTMWeights | None:
        return None if weights is None else LSTMWeights(*(None if a is None else as_numpy(a) for a in weights))

    return LSTM(tuple(Layer(*map(each, layer)) for layer in model.layers), model.cell)


def blocks(rows: np.ndarray, order: Sequence[int]) -> np.ndarray:
    """Return the row blocks in another order: block k of the result is block ``order[k]``."""
    parts = np.split(rows, len(order))
    return np.concatenate([parts[k] for k in order])


def with_forget_bias(bias: np.ndarray, added: float) -> np.ndarray:
    """Return a bias, its blocks ordered i, f, g, o, with a number added to the forget gate's."""
    H = bias.shape[0] // 4
    return np.concatenate([bias[:H], bias[H : 2 * H] + bias.dtype.type(added), bias[2 * H :]])


def directions(model: LSTM) -> list[Direction]:
    """Return every direction of every layer with its cell."""
    cells = cells_of("LSTM", model.layers, model.cell)
    return [
        Direction(f"layers[{k}].{'backward' if reverse else 'forward'}", k, reverse, weights, cell)
        for k, layer in enumerate(model.layers)
        for (reverse, weights), cell in zip(directions_of(layer), cells[k], strict=True)
    ]


def features(model: LSTM) -> dict[Feature, str]:
    """Return what the model has beyond plain forward layers, each with the place where it stands."""
    found: dict[Feature, str] = {}
    if len(model.layers) > 1:
        found["stack"] = f"{len(model.layers)} layers"
    for where, k, reverse, weights, cell in directions(model):
        has: dict[Feature, bool] = {
            "both": None not in model.layers[k],
            "reverse": reverse and model.layers[k].forward is None,
            "projection": weights.weight_hr is not None,
            "peephole": weights.peephole is not None,
            "cell": cell != PLAIN,
        }
        for feature, present in has.items():
            if present:
                found.setdefault(feature, where)
    return found


def require_only(format: str, model: LSTM, allowed: Collection[Feature]) -> None:
    """Raise if the model has something that the format cannot hold."""
    for feature, where in features(model).items():
        if feature not in allowed:
            raise ValueError(f"{format} cannot hold {_SAID[feature]}; got {where}.")


def bias_of(weights: LSTMWeights) -> np.ndarray:
    """Return the bias, for a format that always has one: zeros compute the same as none."""
    if weights.bias is not None:
        return np.asarray(weights.bias)
    return np.zeros(weights.weight_hh.shape[0], dtype=weights.weight_hh.dtype)


def chosen(function: str, source: str, entries: Sequence[Entry], name: str | None) -> LSTM:
    """Return the model of the entry with that name; the only one, if no name is given."""
    listed = ", ".join(repr(entry.name) for entry in entries)
    if not entries:
        raise ValueError(f"{function}: {source} has no LSTM.")
    if name is None and len(entries) > 1:
        raise ValueError(f"{function}: `name` must say which LSTM of {source}, one of {listed}; got None.")
    entry = next((entry for entry in entries if name in (None, entry.name)), None)
    if entry is None:
        raise ValueError(f"{function}: `name` must be one of the LSTMs of {source}, {listed}; got {name!r}.")
    if entry.model is None:
        raise ValueError(f"{function}: {source}, LSTM {entry.name!r}: {entry.problem}")
    return entry.model
