"""`lstm-xp info`: the LSTMs of a file."""

import argparse
from pathlib import Path

from .._equations.cell import PLAIN
from .._equations.records import kind_of
from .._seams.trees import leaves
from ..formats import Entry, inspect
from .console import console, show_table

HELP = "list the LSTMs of a file: sizes, layers, directions, cells"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("file", type=Path, metavar="FILE", help="a file of weights, of any known format")


def run(arguments: argparse.Namespace) -> int:
    """Run the command; return its exit status: 1 if the file has no LSTM that can be used."""
    out = console()
    entries = inspect(arguments.file)
    columns = ("name", "input", "layers", "parameters", "dtype", "cell", "format")
    show_table(out, str(arguments.file), columns, map(_row, entries))
    return 0 if any(entry.model is not None for entry in entries) else 1


def _row(entry: Entry) -> list[str]:
    if entry.model is None:
        return [entry.name, "", f"cannot be used: {entry.problem}", "", "", "", entry.format]
    arrays = leaves(entry.model.layers)
    return [
        entry.name,
        str(entry.model.input_size),
        ", ".join(map(kind_of, entry.model.layers)),
        str(sum(a.size for a in arrays)),
        str(arrays[0].dtype),
        "plain" if entry.model.cell == PLAIN else repr(entry.model.cell),
        entry.format,
    ]
