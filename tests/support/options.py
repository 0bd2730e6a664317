"""All options of a call, together: rows in which each pair of values meets, and the problem that a row names."""

from dataclasses import replace
from itertools import combinations, cycle, product
from typing import NamedTuple

import numpy as np

from lstm_xp import Cell, Layer
from tests.support.layers import Stack, problem


class Row(NamedTuple):
    """One value of each option."""

    layers: str
    directions: str
    projection: str
    biases: str
    peepholes: str
    activations: str
    bounds: str
    coupled: str
    cells: str
    marks: str
    state: str
    time: str
    trace: str
    checkpoint: str
    last: str
    steps: int
    batch: int
    dtype: str

    def __str__(self):
        return " ".join(f"{name}={value}" for name, value in zip(self._fields, self, strict=True))


OPTIONS = {
    "layers": ("one", "alike", "unlike"),
    "directions": ("forward", "reverse", "both", "mixed"),
    "projection": ("none", "free", "bounded"),
    "biases": ("all", "none", "one"),
    "peepholes": ("none", "all", "one"),
    "activations": ("usual", "output", "others", "callable"),
    "bounds": ("none", "clip", "cell_clip"),
    "coupled": ("none", "forget", "input"),
    "cells": ("one", "each"),
    "marks": ("none", "lengths", "mask", "reset", "all"),
    "state": ("given", "zeros"),
    "time": ("second", "first"),
    "trace": ("no", "yes"),
    "checkpoint": ("no", "yes"),
    "last": ("yes", "no"),  # whether the last state has a gradient too
    "steps": (5, 18),  # less than a block, and more
    "batch": (3, 1, 9),  # few columns, one, and many
    "dtype": ("float64", "float32"),
}
# What a kernel takes, or nearly: where many options must have one value, pairs of the others seldom meet.
_PLAIN = ("peepholes", "activations", "bounds", "coupled", "cells", "trace")
FOR_KERNELS = OPTIONS | {name: OPTIONS[name][:1] for name in _PLAIN} | {"marks": ("none", "lengths")}
FOR_KERNELS |= {"layers": ("one", "alike"), "directions": ("forward", "both"), "steps": (5, 1, 18)}
# What has a shorter way than a sequence, or nearly.
OF_ONE_STEP = OPTIONS | {"directions": ("forward",), "marks": ("none", "all"), "trace": ("no",), "steps": (1,)}
# What a library that makes a graph of every operation can do in seconds.
SHORT = {name: values[:2] for name, values in OPTIONS.items()} | {
    "layers": ("one",),
    "activations": ("usual", "others"),
    "marks": ("none", "all"),
    "steps": (2,),
}


def covering(options):
    """Return rows in which each value of each option meets each value of each other one, few of them.

    A row begins with a pair that has not met, and takes of each other option the value with the most such pairs.
    """
    items = [[(name, value) for value in values] for name, values in options.items()]
    left = dict.fromkeys(frozenset(pair) for two in combinations(items, 2) for pair in product(*two))  # a set in order
    rows = []
    while left:
        row = dict(next(iter(left)))
        for name, values in options.items():
            if name not in row:
                first = len(rows) % len(values)  # of equals, by turns
                met = {v: sum(frozenset(((name, v), item)) in left for item in row.items()) for v in values}
                row[name] = max(values[first:] + values[:first], key=met.get)
        for pair in combinations(row.items(), 2):
            left.pop(frozenset(pair), None)
        rows.append(Row(**row))
    return rows


def shares(rows, parts):
    """Return so many lists of a few rows, each with every value, as long as there are rows: none is in two of them."""
    rows, found = list(rows), [[] for _ in range(parts)]
    for part in found:
        missing = {item for row in rows for item in row._asdict().items()}
        while missing:
            part.append(max(rows, key=lambda row, missing=missing: len(missing & row._asdict().items())))
            missing -= rows.pop(rows.index(part[-1]))._asdict().items()
    return found


class Cube:
    """A function of a user, with its derivative."""

    def __call__(self, x, xp):
        return xp.tanh(x * x * x + x)

    def derivative(self, x, xp):
        return (3 * x * x + 1) * (1 - xp.tanh(x * x * x + x) ** 2)


_ACTIVATIONS = {
    "usual": (),
    "output": ("sigmoid", "tanh", "softsign"),
    "others": ("hard_sigmoid", ("scaled_tanh", 1.2, 0.8), "elu"),
    "callable": ("sigmoid", Cube(), Cube()),
}
_DIRECTIONS = {"forward": (1, 1, 1), "reverse": (-1, -1, -1), "both": (2, 2, 2), "mixed": (2, -1, 1)}
_SIZES = {"one": (3,), "alike": (3, 3), "unlike": (3, 2, 4)}
_BOUNDS = {"none": {}, "clip": {"clip": 0.9}, "cell_clip": {"cell_clip": 0.6}}


def _cells(row, layers):
    """Return the cell of the row, or one a direction that is by turns this one and others."""
    coupled = None if row.coupled == "none" else row.coupled
    bounds = {"proj_clip": 0.15} if row.projection == "bounded" else {}
    cell = Cell(*_ACTIVATIONS[row.activations], coupled=coupled, **_BOUNDS[row.bounds], **bounds)
    if row.cells == "one":
        return cell
    turns = cycle([cell, Cell(**bounds), replace(cell, coupled="forget", clip=0.7)])
    return tuple((next(turns), next(turns)) if None not in layer else next(turns) for layer in layers)


def _with_one(layers, part):
    """Return the layers without one of their weights, but in the last direction."""
    last = next(w for w in reversed(layers[-1]) if w is not None)
    return tuple(
        Layer(*(w if w is None or w is last else w._replace(**{part: None}) for w in layer)) for layer in layers
    )


def problem_of(row, seed=0):
    """Return x, layers and state of a row, batch first, and the options of the call but those that are not arrays."""
    sizes = _SIZES[row.layers]
    projected = row.projection != "none"
    stack = Stack(
        tuple((H, (H - 1) * projected, D) for H, D in zip(sizes, _DIRECTIONS[row.directions], strict=False)),
        bias=row.biases != "none",
        peephole=row.peepholes != "none",
        **{mark: row.marks in (mark, "all") for mark in ("lengths", "mask", "reset")},
    )
    x, layers, state, options = problem(stack, B=row.batch, T=row.steps, seed=seed)
    for kind, part in ((row.biases, "bias"), (row.peepholes, "peephole")):
        if kind == "one":
            layers = _with_one(layers, part)
    if row.state == "zeros":
        state = None
    return x, layers, state, options | {"cell": _cells(row, layers)}


def swapped(a):
    """Return an array with batch and time in the other order."""
    return np.swapaxes(a, 0, 1)
