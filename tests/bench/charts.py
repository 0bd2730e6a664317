"""Charts of the measurements: how many times as fast as each peer."""

from pathlib import Path
from typing import Any

COLOURS = {"NumPy": "#4d77cf", "PyTorch": "#ee4c2c", "JAX": "#26a69a", "Dask": "#e0a030", "CuPy": "#76b900"}


def draw(folder: Path, device: str, rows: list[dict[str, Any]]) -> list[str]:
    """Draw the rows of each chart that were measured, and return the names of the charts."""
    names = []
    for chart, title in (("forward", "Forward"), ("training", "Training: forward and gradient")):
        chosen = [row for row in rows if row["chart"] == chart and "ratio" in row]
        if chosen:
            names.append(f"{chart}_{device}")
            _bars(folder / f"{names[-1]}.svg", title, chosen)
    return names


def _bars(path: Path, title: str, rows: list[dict[str, Any]]) -> None:
    import matplotlib
    from matplotlib.figure import Figure

    speeds = [1 / row["ratio"] for row in rows]
    labels = [f"{row['what']} / {row['names'][1]}" for row in rows]
    # Text as text, and the same file from the same numbers.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": title, "font.size": 8}):
        figure = Figure(figsize=(8, 0.7 + 0.24 * len(rows)), layout="constrained")
        axes = figure.subplots()
        bars = axes.barh(labels, [speed - 1 for speed in speeds], left=1, color=[COLOURS[r["library"]] for r in rows])
        axes.bar_label(bars, [f"{speed:.2f}" for speed in speeds], padding=3)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xlim(min(0.4, *speeds) / 1.2, max(2.1, *speeds) * 1.2)
        axes.axvline(1, color="black", linewidth=0.8)
        axes.invert_yaxis()
        axes.set_title(f"{title}: times as fast as the peer", loc="left")
        axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(path, metadata={"Date": None})
