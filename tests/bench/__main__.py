"""Run the benchmarks."""

import argparse
import sys
from pathlib import Path

from . import report
from .device import gpu
from .rows import DEVICES


def main() -> None:
    """Measure the rows asked for, and show them."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--device", choices=DEVICES, default="cpu", help="where (default: %(default)s)")
    parser.add_argument("--only", default="", metavar="TEXT", help="run the rows whose name has this text")
    parser.add_argument("--repeat", type=int, default=9, metavar="N", help="turns of each side (default: %(default)s)")
    parser.add_argument(
        "--write", type=Path, metavar="FILE", help="put tables and charts between the markers of a document"
    )
    options = parser.parse_args()

    rows = [row for row in DEVICES[options.device] if options.only.lower() in report.name_of(row).lower()]
    if not rows:
        parser.error(f"no row has {options.only!r} in its name")
    if options.device == "gpu" and gpu() is None:
        sys.exit("There is no GPU that torch, JAX or CuPy can use.")
    kept = {"header": report.header(options.device), "rows": {}}
    for row in rows:
        record = report.record(row, None if row.missing() else row.run(options.repeat))
        print("; ".join(report.cells(record)), file=sys.stderr, flush=True)  # a whole run takes minutes
        kept["rows"][report.name_of(row)] = record

    if options.write:
        report.write(options.write, options.device, kept)
    report.show(kept)


if __name__ == "__main__":
    main()
