"""Write the table of docs/libraries.md from the test matrix: ``python -m tests.support.library_table``."""

from tests.support import pages
from tests.support.backends import BACKENDS

PAGE = pages.DOCS / "libraries.md"
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


if __name__ == "__main__":
    pages.write(PAGE, table())
