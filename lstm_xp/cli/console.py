"""What the commands share: the way they fail, the archives that they read, and their tables."""

import argparse
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..formats._files import damage, npz_arrays, reading

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress


class CommandError(Exception):
    """Something the person at the keyboard can put right: one line, no traceback."""


def whole(least: int) -> Callable[[str], int]:
    """Return the type of an argument that is a whole number of at least so much."""

    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"must be a whole number, {least} or more; got {text!r}")
        return int(text)

    return number


@contextmanager
def failing_in_one_line() -> Iterator[None]:
    """Turn what the package says of a file into the one line that the person sees; `main` does it for an OSError."""
    try:
        yield
    except (ValueError, ModuleNotFoundError) as error:
        raise CommandError(" ".join(str(error).split())) from error


@contextmanager
def reporting(action: str, path: Path) -> Iterator[None]:
    """Say of an OSError what could not be done with which file."""
    try:
        yield
    except OSError as error:
        raise CommandError(f"cannot {action} {path}: {error.strerror or error}") from error


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read an archive of NumPy."""
    with reporting("read", path), reading(path) as file:
        try:
            return npz_arrays(file)
        except Exception as error:
            raise CommandError(f"cannot use {path}: not a readable .npz file: {damage(error)}") from error


def printable(text: object) -> str:
    """Return a text with what a terminal would obey, not show, as escapes: names in files are anybody's."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def console() -> "Console":
    """Return the console for standard output: what a file or a library says is printed, not read as markup."""
    try:
        from rich.console import Console
    except ModuleNotFoundError:
        raise CommandError('this needs rich: pip install "lstm_xp[cli]"') from None
    return Console(highlight=False, markup=False, emoji=False)


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
