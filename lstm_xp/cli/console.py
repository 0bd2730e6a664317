"""What the commands share: numbers and archives that they are given, and what they print."""

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..formats._files import naming_damage, needed, npz_arrays, reading

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress


def whole(least: int) -> Callable[[str], int]:
    """Return the type of an argument that is a whole number of at least so much."""

    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"must be a whole number, {least} or more; got {text!r}")
        return int(text)

    return number


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read an archive of NumPy."""
    with reading(path) as file, naming_damage(f"cannot use {path}: not a readable .npz file"):
        return npz_arrays(file)


def printable(text: object) -> str:
    """Return a text with what a terminal would obey, not show, as escapes: names in files are anybody's."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def console() -> "Console":
    """Return the console for standard output: what a file or a library says is printed, not read as markup."""
    made: Console = needed("rich.console", "cli").Console(highlight=False, markup=False, emoji=False)
    return made


def show_table(console: "Console", title: str, columns: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    """Print a table."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Column, Table

    folded = (Column(name, overflow="fold") for name in columns)
    table = Table(*folded, title=printable(title), title_justify="left", box=SIMPLE_HEAD)
    for row in rows:
        table.add_row(*map(printable, row))
    console.print(table)


def progress_bar(console: "Console") -> "Progress":
    """Return a progress bar for tasks of any description."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    description = TextColumn("{task.description}", markup=False)
    return Progress(description, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console)
