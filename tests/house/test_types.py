"""That the types of the public functions help: right uses pass, and a misspelt option does not."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

USES = Path(__file__).with_name("uses.py")


@pytest.mark.slow
def test_uses(tmp_path):
    pytest.importorskip("mypy")
    options = ["--no-error-summary", "--no-site-packages", "--ignore-missing-imports", "--cache-dir", str(tmp_path)]
    command = [sys.executable, "-m", "mypy", *options, str(USES)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=USES.parents[2])
    found = {
        (int(line), code) for line, code in re.findall(r"uses.py:(\d+): error: .*\[([\w-]+)\]$", done.stdout, re.M)
    }
    wanted = {
        (number, line.split("# error: ")[1])
        for number, line in enumerate(USES.read_text().splitlines(), 1)
        if "# error: " in line
    }
    assert found == wanted, done.stdout + done.stderr
