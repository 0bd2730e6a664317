"""Stacks of layers to run: from the plain one to one with everything at once."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from lstm_xp import LSTM, Cell
from lstm_xp._equations.cell import PLAIN
from tests.support.problems import layer_problem as problem

EVERYTHING = Cell(
    gate_activation="hard_sigmoid",
    candidate_activation=("scaled_tanh", 1.2, 0.8),
    output_activation="softsign",
    clip=0.9,
    cell_clip=0.6,
    proj_clip=0.08,  # so low that many are at it
)


@dataclass(frozen=True)
class Stack:
    """What makes a problem: sizes, directions, options, and which marks there are."""

    layers: tuple[tuple[int, int, int], ...]  # H, R (0 for no projection), directions: 1, 2, or -1 for reverse-only
    cell: Any = PLAIN  # the very object that is the default of `lstm`
    bias: bool = True
    peephole: bool = False
    lengths: bool = False
    mask: bool = False
    reset: bool = False


STACKS = {
    "plain": Stack(((4, 0, 1),)),
    "sizes": Stack(((4, 0, 1), (3, 0, 2), (2, 0, -1)), bias=False),
    "uniform": Stack(((4, 0, 2),) * 3),
    "projected": Stack(((4, 2, 2),) * 2, lengths=True),
    "peephole": Stack(((3, 0, 2),), peephole=True, mask=True),
    "lengths": Stack(((4, 0, 2), (3, 0, 1)), lengths=True),
    "marks": Stack(((3, 0, 2), (2, 0, 2)), lengths=True, mask=True, reset=True),
    "coupled forget": Stack(((3, 0, 2),), Cell(coupled="forget"), reset=True),
    "coupled input": Stack(((3, 0, 1),), Cell(coupled="input", cell_clip=0.5), peephole=True),
    "a cell each": Stack(((3, 0, 2), (2, 0, 1)), ((Cell(clip=0.5), Cell(output_activation="elu")), Cell())),
    "everything": Stack(((3, 2, 2),) * 2, EVERYTHING, peephole=True, lengths=True, mask=True, reset=True),
}


def mapped(function, tree):
    """Apply a function to every array of nested tuples, records and mappings; None stays."""
    if tree is None or isinstance(tree, Cell):
        return tree
    if isinstance(tree, LSTM):
        return LSTM(mapped(function, tree.layers), tree.cell)
    if isinstance(tree, dict):
        return {key: mapped(function, value) for key, value in tree.items()}
    if isinstance(tree, tuple):
        items = [mapped(function, item) for item in tree]
        return type(tree)(*items) if hasattr(tree, "_fields") else tuple(items)
    return function(tree)


def leaves(tree):
    """Return every array of nested tuples and mappings, in order."""
    found = []
    mapped(lambda array: found.append(array) or array, tree)
    return found


def model_of(name, make=np.asarray, *, T=5):
    """Return a stack as a record, x, state and the marks, each array as `make` makes it."""
    x, layers, state, options = problem(STACKS[name], T=T)
    cell = options.pop("cell")
    x, layers, state, marks = mapped(make, (x, layers, state, options))
    return LSTM(layers, cell), x, state, marks
