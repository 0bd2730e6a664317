"""`lstm-xp info`: the LSTMs of a file."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from .._equations.cell import PLAIN
from .._equations.records import kind_of
from ..formats import Entry, inspect
from ..formats._model import directions
from .console import console, failing_in_one_line, show_table

HELP = "list the LSTMs of a file: sizes, layers, directions, cells"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("file", type=Path, metavar="FILE", help="a file of weights, of any known format")


def run(arguments: argparse.Namespace) -> int:
    """Run the command; return its exit status: 1 if the file has no LSTM that can be used."""
    out = console()
    with failing_in_one_line():
        entries = inspect(arguments.file)
    columns = ("name", "input", "layers", "parameters", "dtype", "cell", "format")
    show_table(out, str(arguments.file), columns, map(_row, entries))
    return 0 if any(entry.model is not None for entry in entries) else 1


def _row(entry: Entry) -> Sequence[str]:
    if entry.model is None:
        return [entry.name, "", f"cannot be used: {entry.problem}", "", "", "", entry.format]
    first = directions(entry.model)[0].weights.weight_ih
    arrays = [a for d in directions(entry.model) for a in d.weights if a is not None]
    return [
        entry.name,
        str(first.shape[1]),
        ", ".join(map(kind_of, entry.model.layers)),
        str(sum(a.size for a in arrays)),
        str(first.dtype),
        "plain" if entry.model.cell == PLAIN else repr(entry.model.cell),
        entry.format,
    ]
