"""Write the table of docs/formats.md from what each format takes: ``python -m tests.support.format_table``."""

from pathlib import Path

from lstm_xp import formats
from tests.support.stacks import MODELS

PAGE = Path(__file__).parents[2] / "docs" / "formats.md"
BEGIN, END = "<!-- generated -->", "<!-- /generated -->"

# The modules whose `from_params` takes what `to_params` gives, and the suffixes of all files.
IN_MEMORY = [name for name in formats.FORMATS if name not in ("native", "keras", "torchscript")]
SUFFIXES = [suffix for format in formats.FORMATS.values() for files in format.files for suffix in files.suffixes]

# What a column asks, by the model that has it.
COLUMNS = {
    "stacks": "stack",
    "both directions": "both",
    "layers that differ in size": "sizes",
    "reverse-only": "reverse",
    "projection": "projection",
    "peepholes": "peephole",
    "other activations": "candidate",
    "clip, coupled gates": "coupled",
    "cell and projection clips": "clips",
}


def table():
    """Return the table in Markdown, one row a format."""
    rows = [("", *COLUMNS), ("---",) * (len(COLUMNS) + 1)]
    rows += [(_label(name), *_held(name)) for name in formats.FORMATS if name != "torchscript"]  # which is only read
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _label(name):
    format = formats.FORMATS[name]
    suffixes = ", ".join(f"`{suffix}`" for files in format.files for suffix in files.suffixes)
    if name == "native":
        return f"this package's {suffixes}"
    return (f"{format.name}: {suffixes}" if suffixes else format.name) + (", in memory" if name in IN_MEMORY else "")


def _held(name):
    """Return yes or no for each column."""
    take = getattr(formats, name).to_params
    return ["yes" if _takes(take, MODELS[column]) else "no" for column in COLUMNS.values()]


def _takes(take, model):
    try:
        take(model)
    except ValueError as error:
        if "cannot hold" not in str(error):
            raise
        return False
    return True


def main():
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{table()}\n{END}{after}")


if __name__ == "__main__":
    main()
