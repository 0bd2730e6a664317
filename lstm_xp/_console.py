"""What the commands share: the way they fail, and their tables."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


class CommandError(Exception):
    """Something the person at the keyboard can put right: one line, no traceback."""


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
