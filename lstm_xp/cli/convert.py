"""`lstm-xp convert`: an LSTM from one file into another, of any two formats, and a check of what was written."""

import argparse
from pathlib import Path

import numpy as np

from .._equations.records import LSTMState, sizes_of
from ..formats import load, save
from ..formats._model import directions
from ..layers import lstm
from ..model import LSTM
from .console import console, failing_in_one_line

HELP = "write an LSTM in another format, and run both files on the same random input"
_BATCH, _TIME = 3, 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("source", type=Path, metavar="IN", help="a file of weights, of any known format")
    parser.add_argument("target", type=Path, metavar="OUT", help="the file to write; its suffix names the format")
    parser.add_argument("--name", help="which LSTM of IN, as `lstm-xp info` lists it")


def run(arguments: argparse.Namespace) -> int:
    """Run the command; return its exit status: 1 if the two files do not compute the same."""
    out = console()
    with failing_in_one_line():
        model = load(arguments.source, name=arguments.name)
        save(arguments.target, model)
        difference = largest_difference(model, load(arguments.target))
    out.print(f"{arguments.source} -> {arguments.target}", markup=False, soft_wrap=True)
    out.print(repr(model), markup=False, soft_wrap=True)
    out.print(f"largest difference between the two on random input: {difference:.1e}")
    # What a format does to a bias, such as to take a forget bias of 1 out of it, may cost a rounding.
    return 0 if difference <= 16 * np.finfo(directions(model)[0].weights.weight_ih.dtype).eps else 1


def largest_difference(model: LSTM, other: LSTM) -> float:
    """Return the largest difference between two models, in outputs and states, on random input and states."""
    rng = np.random.default_rng(0)
    first = directions(model)[0].weights.weight_ih

    def draw(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(first.dtype)

    sizes = map(sizes_of, model.layers)
    state = tuple(LSTMState(draw(D, _BATCH, R), draw(D, _BATCH, H)) for D, R, H in sizes)
    x = draw(_BATCH, _TIME, first.shape[1])
    results = [lstm(x, each.layers, state, cell=each.cell) for each in (model, other)]
    arrays = [(y, *(array for part in last for array in part)) for y, last in results]
    pairs = zip(*arrays, strict=True)
    return max(float(np.max(np.abs(a.astype(float) - b.astype(float)), initial=0)) for a, b in pairs)
