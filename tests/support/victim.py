"""Processes that read files nobody should trust: ``python -m tests.support.victim SECONDS``.

For each line of standard input, the paths in JSON, a child reads these files, of which it may take so many seconds.
Its answer is JSON too: of every file what came of it and the time it took of a processor, and for all of them what
the child did that reading weights does not need, and how much memory it took. A line with its exit status follows,
which tells of a crash. The packages that read files are imported once, for all children.
"""

import json
import os
import resource
import signal
import sys
import sysconfig
import time
import warnings
from importlib import import_module
from pathlib import Path

import numpy as np

from lstm_xp import inspect, lstm
from lstm_xp._seams import compilers
from tests.support.layers import leaves

# What is done by no reader; a name ends where the event's own ends.
_ACTS = (
    "os.system",
    "os.exec",
    "os.fork",
    "os.posix_spawn",
    "os.spawn",
    "os.remove",
    "os.rename",
    "os.mkdir",
    "os.link",
)
_ACTS += ("os.symlink", "os.chmod", "os.truncate", "subprocess.Popen", "pty.spawn", "socket.connect", "shutil.")

compilers.importable = lambda: False  # what it compiles it writes down, beside the package
PACKAGES = ("safetensors", "onnx.reference", "pyfive")


def watch(folder):
    """Return a list to which everything is added that a reader of files in this folder has no business with."""
    seen = []
    own = [str(folder), *{sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}]
    own += [f"{sys.base_prefix}/lib", str(Path(__file__).parents[2]), "/dev/null", "/proc/", "/sys/"]

    def hook(event, arguments):
        if event.startswith(_ACTS):
            seen.append(f"{event} {arguments!r}")
        elif event == "open" and isinstance(arguments[0], str):
            path, mode = arguments[:2]
            writes = isinstance(mode, str) and any(letter in mode for letter in "wax+")
            if writes or not str(Path(path).absolute()).startswith(tuple(own)):
                seen.append(f"{event} {arguments!r}")

    sys.addaudithook(hook)
    return seen


def outcome(path):
    """Return what came of reading a file: models that run, or the documented refusal; anything else is a fault."""
    try:
        entries = inspect(path)
    except ValueError as error:
        return f"refused: {error}"
    for entry in entries:
        if entry.model is None:
            continue
        arrays = leaves(entry.model)
        assert all(np.isfinite(a).all() for a in arrays)
        x = np.zeros((1, 2, arrays[0].shape[1]), arrays[0].dtype)
        with np.errstate(all="ignore"):
            lstm(x, entry.model.layers, cell=entry.model.cell)
    return f"loaded: {[entry.problem for entry in entries]}"


def peak():
    """Return how many MiB the process took at most. Not by getrusage where that begins with what the parent holds."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) / 1024


def read(paths):
    """Read files, and print what came of them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = peak()
        seen = watch(Path(paths[0]).parent)
        results = []
        for path in paths:
            start = time.process_time()
            try:
                result = outcome(path)
            except BaseException as error:  # whatever it is, the other files are looked at too
                result = f"fault: {type(error).__name__}: {error}"
            results.append([Path(path).name, result, time.process_time() - start])
    print(json.dumps({"results": results, "acts": seen, "MiB": peak() - before}), flush=True)


def main(seconds):
    signal.alarm(seconds)
    for name in PACKAGES:
        import_module(name)
    signal.alarm(0)  # a child has its own
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            signal.alarm(seconds)
            read(json.loads(line))
            os._exit(0)
        print("ended", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
