"""Running the program, in this process or in one of its own."""

import os
import subprocess
import sys

from lstm_xp import cli

# Seconds, and far more than anything takes: it only ends what would never end.
LIMIT = 300


def fails(capsys, argv, status=1):
    """Run the program in this process; return its one line on standard error."""
    assert cli.main(argv) == status
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("lstm-xp: ")
    return lines[0]


def python(*argv, stdout=subprocess.PIPE, **settings):
    """Run Python in a process of its own, which imports what this one does and has none of its other settings.

    `settings` are those that it has of its own.

    Whatever happens, it has ended when this returns or raises.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    own = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONIOENCODING": "utf-8"}
    return subprocess.run(
        [sys.executable, *argv],
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env=kept | own | settings,
        timeout=LIMIT,
    )
