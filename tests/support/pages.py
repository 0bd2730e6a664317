"""Tables that are generated: as Markdown, and between the markers of a page of the documentation."""

from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def markdown(rows):
    """Return rows of texts as a table; the first row is its head."""
    head, *body = rows
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *body))


def write(page, text, marker="generated"):
    """Put a text between ``<!-- marker -->`` and ``<!-- /marker -->`` of a page, in the place of what is there."""
    begin, end = f"<!-- {marker} -->\n", f"\n<!-- /{marker} -->"
    before, found, rest = page.read_text().partition(begin)
    _, found_too, after = rest.partition(end)
    if not (found and found_too):
        raise ValueError(f"{page} must have {begin!r} and {end!r}")
    page.write_text(before + begin + text + end + after)
