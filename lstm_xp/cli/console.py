"""What the commands share: the way they fail, and their tables."""

import argparse
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


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
    """Turn what the package raises about a file into the one line that the person sees."""
    try:
        yield
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise CommandError(f"{where}{error.strerror or error}") from error
    except (ValueError, ModuleNotFoundError) as error:
        raise CommandError(" ".join(str(error).split())) from error


def console() -> "Console":
    """Return the console for standard output."""
    try:
        from rich.console import Console
    except ModuleNotFoundError:
        raise CommandError('this needs rich: pip install "lstm_xp[cli]"') from None
    return Console(highlight=False)


def show_table(console: "Console", title: str, columns: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    """Print a table."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)
