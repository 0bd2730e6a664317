"""The measurements as a table: on a terminal, or as a section of Markdown."""

import os
import platform
import re
import statistics
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import lstm_xp

from .rows import Result, Row
from .timing import extra_bytes

COLUMNS = ("what", "lstm_xp", "against", "ratio", "expected", "met")
_MARKED = re.compile(r"(<!-- measured -->\n).*?(<!-- /measured -->)", re.DOTALL)


def header() -> str:
    """Return the processor and the versions."""
    names = ("numpy", "torch", "jax", "flax", "onnxruntime", "lstm_xp")
    versions = ", ".join([f"Python {platform.python_version()}", *(f"{name} {_version(name)}" for name in names)])
    return f"{_processor()}, {os.cpu_count()} cores; {versions}"


def _version(name: str) -> str:
    try:
        return lstm_xp.__version__ if name == "lstm_xp" else version(name)
    except PackageNotFoundError:
        return "absent"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.*)", info.read_text()) if info.exists() else None
    return found[1] if found else platform.processor() or platform.machine()


def cells(row: Row, result: Result | None) -> tuple[str, ...]:
    """Return the texts of one row of the table; without a result, what was missing."""
    expected = "" if row.expected is None else str(row.expected)
    if result is None:
        return row.what, "not run", f"no {', '.join(row.missing())}", "", expected, ""
    ours, peer = (_spread(row, samples) for samples in (result.ours, result.peer))
    if row.ours.name != "lstm_xp":
        ours = f"{row.ours.name}: {ours}"
    met = {None: "", True: "yes", False: "no"}[result.met]
    return row.what, ours, f"{row.peer.name}: {peer}", _ratio(result), expected, met


def _ratio(result: Result) -> str:
    ratio = result.ratio
    faster = "faster" in str(result.row.expected) or (result.row.expected is None and ratio < 1)
    return f"{1 / ratio:.2f}x faster" if faster else f"{ratio:.2f}x"


def _spread(row: Row, samples: list[float]) -> str:
    """Return median (first quartile to third)."""
    low, middle, high = statistics.quantiles(samples, n=4, method="inclusive") if len(samples) > 1 else samples * 3
    scale, unit = (2**20, "MiB") if row.measure is extra_bytes else _unit(middle)
    return f"{middle / scale:.3g} {unit} ({low / scale:.3g} to {high / scale:.3g})"


def _unit(seconds: float) -> tuple[float, str]:
    return next(((s, unit) for s, unit in ((1.0, "s"), (1e-3, "ms")) if seconds >= s), (1e-6, "µs"))


def markdown(table: Sequence[Sequence[str]]) -> str:
    """Return the header and the table as Markdown."""
    lines = [COLUMNS, ["---"] * len(COLUMNS), *table]
    return "\n".join([header() + ".", "", *(f"| {' | '.join(line)} |" for line in lines)]) + "\n"


def show(table: Sequence[Sequence[str]]) -> None:
    """Print the header and the table."""
    print(header())
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        widths = [max(map(len, column)) for column in zip(COLUMNS, *table, strict=True)]
        for line in (COLUMNS, *table):
            print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())
    else:
        rich_table = Table(*COLUMNS)
        for line in table:
            rich_table.add_row(*line)
        Console().print(rich_table)


def write(path: Path, section: str) -> None:
    """Put a section between the markers of a document."""
    text, count = _MARKED.subn(lambda marks: f"{marks[1]}{section}{marks[2]}", path.read_text(encoding="utf-8"))
    if count != 1:
        raise ValueError(f"{path} must have the markers <!-- measured --> and <!-- /measured --> once; got {count}.")
    path.write_text(text, encoding="utf-8")
