"""Write the table of docs/formats.md from what each format takes: ``python -m tests.support.format_table``."""

import tempfile
from pathlib import Path

from lstm_xp import save
from lstm_xp.formats import equinox, flax, haiku, mlx, tensorflow1
from tests.support.stacks import MODELS

PAGE = Path(__file__).parents[2] / "docs" / "formats.md"
BEGIN, END = "<!-- generated -->", "<!-- /generated -->"

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
FILES = {
    "this package's `.npz`, `.safetensors`": ".npz",
    "PyTorch: `.pt`, `.pth`, in memory": ".pt",
    "Keras: `.keras`, `.weights.h5`": ".keras",
    "ONNX: `.onnx`, in memory": ".onnx",
}
IN_MEMORY = {"Flax": flax, "Equinox": equinox, "MLX": mlx, "Haiku": haiku, "TensorFlow 1": tensorflow1}


def table():
    """Return the table in Markdown, one row a format."""
    rows = [("", *COLUMNS), ("---",) * (len(COLUMNS) + 1)]
    rows += [(name, *_held(lambda model, s=suffix: _saved(s, model))) for name, suffix in FILES.items()]
    rows += [(f"{name}, in memory", *_held(module.to_params)) for name, module in IN_MEMORY.items()]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _held(take):
    """Return yes or no for each column."""
    return ["yes" if _takes(take, MODELS[name]) else "no" for name in COLUMNS.values()]


def _takes(take, model):
    try:
        take(model)
    except ValueError as error:
        if "cannot hold" not in str(error):
            raise
        return False
    return True


def _saved(suffix, model):
    with tempfile.TemporaryDirectory() as folder:
        save(f"{folder}/model{suffix}", model)


def main():
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{table()}\n{END}{after}")


if __name__ == "__main__":
    main()
