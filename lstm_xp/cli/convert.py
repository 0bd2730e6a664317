"""`lstm-xp convert`: an LSTM from one file into another, of any two formats, and a check of what was written."""

import argparse
from pathlib import Path

import numpy as np

from .._seams.trees import leaves, mapped
from ..formats import load, save
from ..model import LSTM
from .console import console, printable

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
    model = load(arguments.source, name=arguments.name)
    save(arguments.target, model)
    difference = largest_difference(model, load(arguments.target))
    out.print(printable(f"{arguments.source} -> {arguments.target}"), soft_wrap=True)
    out.print(repr(model), soft_wrap=True)
    out.print(f"largest difference between the two on random input: {difference:.1e}")
    # What a format does to a bias, such as to take a forget bias of 1 out of it, may cost a rounding.
    return 0 if difference <= 16 * np.finfo(leaves(model.layers)[0].dtype).eps else 1


def largest_difference(model: LSTM, other: LSTM) -> float:
    """Return the largest difference between two models, in outputs and states, on random input and states."""
    rng = np.random.default_rng(0)
    zeros = np.zeros((_BATCH, _TIME, model.input_size), leaves(model.layers)[0].dtype), model.zero_state(_BATCH)
    x, state = mapped(lambda array: rng.standard_normal(array.shape).astype(array.dtype), zeros)
    pairs = zip(leaves(model(x, state)), leaves(other(x, state)), strict=True)
    return max(float(np.max(np.abs(a.astype(float) - b.astype(float)), initial=0)) for a, b in pairs)
