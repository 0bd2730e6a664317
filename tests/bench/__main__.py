"""Run the benchmarks."""

import argparse
import sys
from pathlib import Path

from . import report
from .rows import ROWS


def main() -> None:
    """Measure the rows asked for, and show them."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--only", default="", metavar="TEXT", help="run the rows whose name has this text")
    parser.add_argument("--repeat", type=int, default=9, metavar="N", help="turns of each side (default: %(default)s)")
    parser.add_argument("--markdown", action="store_true", help="print Markdown")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the Markdown between the markers of a document")
    options = parser.parse_args()

    rows = [row for row in ROWS if options.only.lower() in row.what.lower()]
    if not rows:
        parser.error(f"no row has {options.only!r} in its name")
    table = []
    for row in rows:
        table.append(report.cells(row, None if row.missing() else row.run(options.repeat)))
        print("; ".join(table[-1]), file=sys.stderr, flush=True)  # a whole run takes minutes

    if options.write:
        report.write(options.write, report.markdown(table))
    if options.markdown:
        print(report.markdown(table), end="")
    else:
        report.show(table)


if __name__ == "__main__":
    main()
