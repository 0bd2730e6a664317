"""The measurements: kept as JSON, shown on a terminal, and written into a document as tables and charts."""

import json
import os
import platform
import re
import statistics
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import lstm_xp

from . import charts
from .device import gpu
from .rows import Result, Row
from .timing import extra_bytes

COLUMNS = ("what", "lstm_xp", "against", "ratio", "expected", "met")
LIBRARIES = {"torch": "PyTorch"}  # those whose name is not the first word of their rows

# What a run keeps: a header, and a record of each row by its name.
Kept = dict[str, Any]


def header(device: str) -> str:
    """Return the processor and the versions."""
    names = ("numpy", "numba", "torch", "jax", "flax", "onnxruntime", "cupy", "lstm_xp")
    versions = [f"{name} {number}" for name in names if (number := _version(name))]
    where = f"{gpu()}, " * (device == "gpu") + f"{_processor()}, {os.cpu_count()} cores"
    return f"{where}; " + ", ".join([f"Python {platform.python_version()}", *versions])


def _version(name: str) -> str | None:
    try:
        return lstm_xp.__version__ if name == "lstm_xp" else version("cupy-cuda12x" if name == "cupy" else name)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.*)", info.read_text()) if info.exists() else None
    return found[1] if found else platform.processor() or platform.machine()


def name_of(row: Row) -> str:
    """Return what tells a row from all others."""
    return f"{row.what} against {row.peer.name}"


def record(row: Row, result: Result | None) -> Kept:
    """Return what is kept of a row; without a result, what was missing."""
    kept = {
        "library": LIBRARIES.get(row.library, row.library),
        "what": row.what,
        "chart": row.chart,
        "names": [row.ours.name, row.peer.name],
        "expected": "" if row.expected is None else str(row.expected),
    }
    if result is None:
        return {**kept, "missing": row.missing()}
    return {
        **kept,
        "unit": "bytes" if row.measure is extra_bytes else "seconds",
        "quartiles": [_quartiles(result.ours), _quartiles(result.peer)],
        "ratio": result.ratio,
        "met": result.met,
    }


def _quartiles(samples: list[float]) -> list[float]:
    return statistics.quantiles(samples, n=4, method="inclusive") if len(samples) > 1 else samples * 3


def cells(kept: Kept, *, spread: bool = True) -> tuple[str, ...]:
    """Return the texts of one row of a table: medians, and the quartiles beside them."""
    ours, peer = kept["names"]
    if "missing" in kept:
        return kept["what"], "not run", f"no {', '.join(kept['missing'])}", "", kept["expected"], ""
    texts = [_measured(quartiles, kept["unit"], spread) for quartiles in kept["quartiles"]]
    first = texts[0] if ours == "lstm_xp" else f"{ours}: {texts[0]}"
    met = {None: "", True: "yes", False: "no"}[kept["met"]]
    return kept["what"], first, f"{peer}: {texts[1]}", _ratio(kept), kept["expected"], met


def _ratio(kept: Kept) -> str:
    ratio = kept["ratio"]
    faster = "faster" in kept["expected"] or (not kept["expected"] and ratio < 1)
    return f"{1 / ratio:.2f}x faster" if faster else f"{ratio:.2f}x"


def _measured(quartiles: list[float], unit: str, spread: bool) -> str:
    """Return median (first quartile to third)."""
    low, middle, high = quartiles
    scale, unit = (2**20, "MiB") if unit == "bytes" else _unit(middle)
    return f"{middle / scale:.3g} {unit}" + f" ({low / scale:.3g} to {high / scale:.3g})" * spread


def _unit(seconds: float) -> tuple[float, str]:
    return next(((s, unit) for s, unit in ((1.0, "s"), (1e-3, "ms")) if seconds >= s), (1e-6, "µs"))


def joined(old: Kept | None, new: Kept) -> Kept:
    """Return new measurements, and the old ones of other rows if they were made with the same versions and machine."""
    if old is None or old["header"] != new["header"]:
        return new
    return {**new, "rows": {**old["rows"], **new["rows"]}}


def markdown(kept: Kept, pictures: Iterable[str] = ()) -> str:
    """Return the header, the charts, and a table for each library as Markdown."""
    parts = [f"{kept['header']}.", *(f"![{name}]({name}.svg)" for name in pictures)]
    libraries = dict.fromkeys(row["library"] for row in kept["rows"].values())
    for library in libraries:
        rows = [row for row in kept["rows"].values() if row["library"] == library]
        columns = ("", *COLUMNS[1:])
        lines = [columns, ["---"] * len(columns)]
        lines += [(text.partition(" ")[2], *rest) for text, *rest in (cells(row, spread=False) for row in rows)]
        parts.append(f"### {library}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines))
    return "\n\n".join(parts) + "\n"


def show(kept: Kept) -> None:
    """Print the header and one table."""
    print(kept["header"])
    table = [cells(row) for row in kept["rows"].values()]
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


def write(page: Path, device: str, kept: Kept) -> None:
    """Keep the measurements beside a document, and put tables and charts of them between its markers."""
    marked = re.compile(rf"(<!-- measured {device} -->\n).*?(<!-- /measured -->)", re.DOTALL)
    text = page.read_text(encoding="utf-8")
    if len(marked.findall(text)) != 1:
        raise ValueError(f"{page} must have the markers <!-- measured {device} --> and <!-- /measured --> once.")
    data = page.with_name(f"measured_{device}.json")
    kept = joined(json.loads(data.read_text(encoding="utf-8")) if data.exists() else None, kept)
    data.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    pictures = charts.draw(page.parent, device, list(kept["rows"].values()))
    section = markdown(kept, pictures)
    page.write_text(marked.sub(lambda marks: f"{marks[1]}{section}{marks[2]}", text), encoding="utf-8")
