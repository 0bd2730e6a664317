"""Write the tables of docs/libraries.md, from declarations: ``python -m tests.support.library_table``."""

import re

from tests.support import pages
from tests.support.backends import BACKENDS

PAGE = pages.DOCS / "libraries.md"
ROOT = pages.DOCS.parent
COLUMNS = ("library", "where", "float64", "float32", "tested in every run", "transforms tested")


def table():
    """Return the table in Markdown, one row a backend."""
    return pages.markdown([COLUMNS, *map(_row, BACKENDS)])


def _row(backend):
    where = "GPU" if backend.gpu else "CPU"
    return (
        backend.library,
        f"{where}, {backend.note}" if backend.note else where,
        *("yes" if dtype in backend.dtypes else "no" for dtype in ("float64", "float32")),
        "yes" if backend.required else "where a GPU is found",
        ", ".join(f"`{transform}`" for transform in backend.transforms),
    )


def versions():
    """Return the table of versions: the lowest that are declared, which `.ci/run` installs, and the pinned ones."""
    lowest = re.findall(r'"([\w-]+)>=([\d.]+)"', (ROOT / "pyproject.toml").read_text())
    latest = dict(re.findall(r"^([\w-]+)==(\S+)$", (ROOT / "tests" / "constraints.txt").read_text(), re.MULTILINE))
    rows = [(f"`{name}`", version, latest[name]) for name, version in lowest if name in latest]
    return pages.markdown([("package", "lowest", "latest"), *rows])


if __name__ == "__main__":
    pages.write(PAGE, table())
    pages.write(PAGE, versions(), "versions")
