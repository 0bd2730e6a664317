"""What the parent process has around it, a terminal or settings, does not reach the tests of the command line."""

import pytest


@pytest.fixture(autouse=True)
def wide_and_plain(monkeypatch):
    """Tables are neither folded nor coloured, whatever the terminal and the environment say."""
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "TERM", "PYTHON_COLORS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("LINES", "50")
