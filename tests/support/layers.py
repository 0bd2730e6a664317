"""Stacks of layers to run: from the plain one to one with everything at once."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from lstm_xp import LSTM, Cell, Layer, LSTMState, LSTMWeights
from lstm_xp._equations.cell import PLAIN

EVERYTHING = Cell(
    gate_activation="hard_sigmoid",
    candidate_activation=("scaled_tanh", 1.2, 0.8),
    output_activation="softsign",
    clip=0.9,
    cell_clip=0.6,
    proj_clip=0.2,
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
    "small": Stack(((2, 1, 1),), EVERYTHING, peephole=True, lengths=True, mask=True, reset=True),
    "everything": Stack(((3, 2, 2),) * 2, EVERYTHING, peephole=True, lengths=True, mask=True, reset=True),
}


def problem(stack, *, B=3, T=5, I=3, seed=0):  # noqa: E741 -- the field's letter for the input size
    """Return x, layers, state, and the options, all float64 NumPy; x is on unit scale."""
    rng = np.random.default_rng(seed)

    def weights(I, H, R):  # noqa: E741 -- as above
        return LSTMWeights(
            rng.standard_normal((4 * H, I)) / np.sqrt(I),
            rng.standard_normal((4 * H, R or H)) / np.sqrt(H),
            rng.standard_normal(4 * H) if stack.bias else None,
            rng.standard_normal((R, H)) / np.sqrt(H) if R else None,
            rng.standard_normal(3 * H) if stack.peephole else None,
        )

    x = rng.standard_normal((B, T, I))
    layers, state = [], []
    for H, R, directions in stack.layers:
        D, width = abs(directions), R or H
        both = [weights(I, H, R) for _ in range(D)]
        layers.append(Layer(None, *both) if directions == -1 else Layer(*both))
        state.append(LSTMState(0.5 * rng.standard_normal((D, B, width)), 0.5 * rng.standard_normal((D, B, H))))
        I = D * width  # noqa: E741 -- as above
    options = {"cell": stack.cell}
    if stack.lengths:
        options["lengths"] = np.asarray([0, T, *rng.integers(1, T + 1, B)][:B])
    if stack.mask:
        options["mask"] = rng.random((B, T)) < 0.7
    if stack.reset:
        options["reset"] = rng.random((B, T)) < 0.3
    return x, tuple(layers), tuple(state), options


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
    mapped(found.append, tree)
    return found


def model_of(name, make=np.asarray):
    """Return a stack as a record, x, state and the marks, each array as `make` makes it."""
    x, layers, state, options = problem(STACKS[name])
    cell = options.pop("cell")
    x, layers, state, marks = mapped(make, (x, layers, state, options))
    return LSTM(layers, cell), x, state, marks
