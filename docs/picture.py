"""Draw how a call travels: ``python docs/picture.py`` writes docs/call.svg, which the page on contributing shows."""

from pathlib import Path
from xml.sax.saxutils import escape

WIDTH, HEIGHT, TALL, APART = 660, 604, 44, 63
# Left edge and width of each column: kernels, the way there, the gradient's way.
COLUMNS = ((16, 104), (144, 216), (408, 236))

# Row, column, what is called, and a few words.
BOXES = (
    (0, 1, "y, state = model(x)", "the caller"),
    (1, 1, "LSTM, lstm, lstm_vjp", "model.py, layers.py"),
    (2, 1, "check_call", "_checks/call.py: what comes in"),
    (3, 1, "Call, Plan", "_equations/records.py: the call"),
    (4, 1, "kernel_for(call, plan)", "_kernels/choice.py: a predicate"),
    (4, 0, "kernel.run", "torch.lstm"),
    (5, 1, "staged(stack.forward)", "layers, directions; on JAX a jit"),
    (6, 1, "sequence.forward", "one direction; marks wrap the step"),
    (7, 1, "scan", "_seams/scan.py: the step over time"),
    (8, 1, "cell.forward", "one step: z, c in; h, c out"),
    (0, 2, "dx, dlayers, dstate = vjp(dy)", "the caller"),
    (2, 2, "check_gradients", "_checks/call.py: what comes in"),
    (5, 2, "staged(stack.backward)", "from the last layer to the first"),
    (6, 2, "sequence.backward", "one direction; marks wrap the step"),
    (7, 2, "scan", "_seams/scan.py: from the other end"),
    (8, 2, "cell.backward", "one step: dh, dc in; dz, dc out"),
)

# From row and column to row and column, with a word.
CALLS = (
    *((row, 1, row + 1, 1, "no kernel" if row == 4 else "") for row in range(8)),
    (4, 1, 4, 0, ""),
    (0, 2, 2, 2, ""),
    (2, 2, 5, 2, ""),
    *((row, 2, row + 1, 2, "") for row in range(5, 8)),
)
KEPT = (6, 1, 6, 2, "kept")

LEGEND = (
    "Solid: a call; its results come back the same way. Dashed: what lstm_vjp, and jax.grad of lstm, keep",
    "for the gradient: x, the state before the first step, every h, c and z, and the marks.",
)

STYLE = """
  .page { fill: #ffffff; stroke: #d0d7de } .box { fill: #eef3fb; stroke: #5577aa } .kernel { fill: #fdf1dc }
  text { fill: #1b1f24; font: 10.5px Helvetica, Arial, "DejaVu Sans", sans-serif; text-anchor: middle }
  .name { font: 11.5px Menlo, Consolas, "DejaVu Sans Mono", monospace } .legend { text-anchor: start }
  .line { stroke: #5577aa; stroke-width: 1.5; fill: none } .kept { stroke-dasharray: 5 3 } .head { fill: #5577aa }
  @media (prefers-color-scheme: dark) {
    .page { fill: #161b22; stroke: #3d444d } .box { fill: #22304a; stroke: #86a8dc } .kernel { fill: #4a3a1c }
    text { fill: #e6edf3 } .line { stroke: #86a8dc } .head { fill: #86a8dc }
  }
"""


def place(row: int, column: int) -> tuple[int, int, int]:
    """Return left edge, top edge and width of a box."""
    left, width = COLUMNS[column]
    return left, 16 + row * APART, width


def box(row: int, column: int, name: str, words: str) -> str:
    """Return a box with its two lines of text."""
    left, top, width = place(row, column)
    middle = left + width / 2
    kind = "box kernel" if column == 0 else "box"
    return (
        f'<rect class="{kind}" x="{left}" y="{top}" width="{width}" height="{TALL}" rx="5"/>'
        f'<text class="name" x="{middle}" y="{top + 18}">{escape(name)}</text>'
        f'<text x="{middle}" y="{top + 34}">{escape(words)}</text>'
    )


def arrow(row: int, column: int, to_row: int, to_column: int, word: str, kind: str = "") -> str:
    """Return an arrow between two boxes: downward in a column, or sideways in a row."""
    left, top, width = place(row, column)
    to_left, to_top, to_width = place(to_row, to_column)
    if column == to_column:
        x, y, to_x, to_y = left + width / 2, top + TALL, to_left + to_width / 2, to_top
        head, word_x, word_y = f"{to_x - 4},{to_y - 8} {to_x + 4},{to_y - 8}", x + 34, (y + to_y) / 2 + 4
    else:
        right = to_column > column
        x, to_x, y = (left + width, to_left, top + TALL / 2) if right else (left, to_left + to_width, top + TALL / 2)
        to_y, back = y, to_x + (-8 if right else 8)
        head, word_x, word_y = f"{back},{y - 4} {back},{y + 4}", (x + to_x) / 2, y - 6
    return (
        f'<path class="line {kind}" d="M{x},{y} L{to_x},{to_y}"/>'
        f'<polygon class="head" points="{to_x},{to_y} {head}"/>'
        f'<text x="{word_x}" y="{word_y}">{escape(word)}</text>'
    )


def picture() -> str:
    """Return the picture as SVG."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT + 30}" '
        f'viewBox="0 0 {WIDTH} {HEIGHT + 30}" role="img">',
        "<title>How a call travels, and its gradient</title>",
        f"<style>{STYLE}</style>",
        f'<rect class="page" x="0.5" y="0.5" width="{WIDTH - 1}" height="{HEIGHT + 29}" rx="6"/>',
        *(arrow(*call) for call in CALLS),
        arrow(*KEPT, kind="kept"),
        *(box(*one) for one in BOXES),
        *(
            f'<text class="legend" x="16" y="{HEIGHT - 4 + 17 * k}">{escape(line)}</text>'
            for k, line in enumerate(LEGEND)
        ),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    (Path(__file__).parent / "call.svg").write_text(picture())
