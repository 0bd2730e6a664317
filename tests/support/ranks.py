"""A program of `torch.distributed` in two processes."""

import subprocess
import sys

import pytest


def assert_held(code, folder):
    """Run a program with its rank and a file to meet at: each prints that it held. Whatever happens, both end."""
    torch = pytest.importorskip("torch")
    if not torch.distributed.is_available():
        pytest.skip("this PyTorch has no torch.distributed")
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(rank), str(folder / "store")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]
    try:
        for process in processes:
            out, err = process.communicate(timeout=120)
            assert out.split() == [b"held"], err.decode()[-2000:]
    finally:
        for process in processes:
            process.kill()
            process.wait()
