"""Write the table of docs/libraries.md from the test matrix: ``python -m tests.support.library_table``."""

from pathlib import Path

from tests.support.backends import BACKENDS

PAGE = Path(__file__).parents[2] / "docs" / "libraries.md"
BEGIN, END = "<!-- generated -->", "<!-- /generated -->"
COLUMNS = ("library", "where", "float64", "float32", "tested in every run", "transforms tested")


def table():
    """Return the table in Markdown, one row a backend."""
    rows = [COLUMNS, ("---",) * len(COLUMNS), *map(_row, BACKENDS)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _row(backend):
    where = "GPU" if backend.gpu else "CPU"
    return (
        backend.library,
        f"{where}, {backend.note}" if backend.note else where,
        *("yes" if dtype in backend.dtypes else "no" for dtype in ("float64", "float32")),
        "yes" if backend.required else "where a GPU is found",
        ", ".join(f"`{transform}`" for transform in backend.transforms),
    )


def main():
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{table()}\n{END}{after}")


if __name__ == "__main__":
    main()
