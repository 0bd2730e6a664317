"""The program in a process of its own: the encoding of its streams, streams that are closed, signals."""

import errno
import io
import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

from lstm_xp import LSTM, cli, save
from tests.cli.program import python

posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX streams and signals")
COMMANDS = {"info": "info m.npz", "convert": "convert m.npz c.npz", "run": "run m.npz x.npy -o y.npy"}
commands = pytest.mark.parametrize("command", COMMANDS)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a model and an input, in which the program runs."""
    monkeypatch.chdir(tmp_path)
    save("m.npz", LSTM.init(3, 4, rng=0))
    np.save("x.npy", np.ones((2, 12, 3), np.float32))
    return tmp_path


# Encodings, and names that a terminal would obey.

NAME = "模型\x1b[31m\r\n\u202e"
SHOWN = r"\u6a21\u578b\x1b[31m\r\n\u202e"


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "ascii", "utf-8"])
@commands
def test_any_encoding(command, encoding, folder, monkeypatch):
    """Names that the encoding lacks, and characters that a terminal would obey, are written as escapes."""
    name = NAME if sys.platform != "win32" else "模型"
    os.rename("m.npz", f"{name}.npz")
    argv = [word.replace("m.npz", f"{name}.npz").replace("y.npy", f"{name}.npy") for word in COMMANDS[command].split()]
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    assert cli.main(argv) == 0
    written = stream.buffer.getvalue().decode(encoding)
    shown = SHOWN if name == NAME else r"\u6a21\u578b"
    assert (shown if encoding != "utf-8" else shown.replace(r"\u6a21\u578b", "模型")) in written
    assert not set("\x1b\r\u202e") & set(written)


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are bytes")
def test_a_name_that_is_no_text(folder):
    os.rename(b"m.npz", b"\xff.npz")
    for argv, status, stream in ((["info", b"\xff.npz"], 0, "stdout"), (["info", b"\xff.none"], 1, "stderr")):
        done = python("-m", "lstm_xp", *argv)
        assert done.returncode == status
        assert r"\udcff" in getattr(done, stream)


def test_a_name_that_looks_like_markup(folder, capsys):
    assert cli.main(["run", "m.npz", "x.npy", "-o", "[@click=(]y.npy"]) == 0
    assert "[@click=(]y.npy" in capsys.readouterr().out


def test_an_array_with_a_name_that_a_terminal_would_obey(folder, capsys):
    torch = pytest.importorskip("torch")
    torch.save(torch.nn.ModuleDict({"a\x1b[2J\n\udcff": torch.nn.LSTM(3, 4)}).state_dict(), "a.pt")
    assert cli.main(["info", "a.pt"]) == 0
    assert r"a\x1b[2J\n\udcff" in capsys.readouterr().out


# Streams that are closed, or take nothing.


def shell(line):
    """Run a line of the shell, with $LSTM for the program, and $PYTHON; return its exit status and standard error."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    own = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    own |= {"PYTHON": sys.executable, "LSTM": f"{sys.executable} -m lstm_xp"}
    done = subprocess.run(["sh", "-c", line], env=kept | own, timeout=300, capture_output=True, text=True)
    return done.returncode, done.stderr


def assert_written(*commands):
    """Check that commands have done their work, and have left nothing else."""
    made = {"info": None, "convert": "c.npz", "run": "y.npy"}
    made = {made[command] for command in commands} - {None}
    assert set(os.listdir()) == {"m.npz", "x.npy"} | made
    for name in made:
        assert np.load(name) is not None


@posix
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_closed_streams(closed, folder):
    code = "import sys; from lstm_xp import cli; sys.exit(max(cli.main(line.split()) for line in sys.argv[1:]))"
    lines = " ".join(f"'{line}'" for line in COMMANDS.values())
    assert shell(f"$PYTHON -c '{code}' {lines} {closed}") == (0, "")
    assert_written(*COMMANDS)


@posix
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_an_error_with_closed_streams(closed, folder):
    status, errors = shell(f"$LSTM info none {closed}")
    assert status == 1
    assert errors == ("" if "2>" in closed else f"lstm-xp: none: {os.strerror(errno.ENOENT)}\n")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("command", [*COMMANDS, "--help"])
def test_a_full_disk_under_standard_output(command, folder):
    line = f"lstm-xp: {os.strerror(errno.ENOSPC)}\n"
    assert shell(f"$LSTM {COMMANDS.get(command, command)} > /dev/full") == (1, line)
    if command in COMMANDS:
        assert_written(command)


@posix
@commands
def test_a_pipe_that_nobody_reads(command, folder):
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as pipe:
        done = python("-m", "lstm_xp", *COMMANDS[command].split(), stdout=pipe)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert_written(command)


# Signals. Each process sends them to itself, so nothing depends on time.

STOPPED = """if True:
    import os, signal, sys
    from lstm_xp import cli, formats
    from lstm_xp.cli import demo_task, stream
    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    before, files, sent = set(os.listdir()), set(), []

    def stopped(original):
        def stopping(*arguments):
            original(*arguments)
            files.update(set(os.listdir()) - before)
            sent.append(number)
            os.kill(os.getpid(), number)
            return original(*arguments)
        return stopping

    def once_more(original):
        def removing(*arguments, **options):
            for each in again if sent else ():
                os.kill(os.getpid(), each)
            return original(*arguments, **options)
        return removing

    stream.Writer.write = stopped(stream.Writer.write)
    demo_task.loss_and_gradients = stopped(demo_task.loss_and_gradients)
    formats._WRITERS[".npz"] = stopped(formats._WRITERS[".npz"])
    for name in ("unlink", "rmdir", "remove"):
        setattr(os, name, once_more(getattr(os, name)))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)
    for number in numbers:
        for each in numbers:
            signal.signal(each, signal.default_int_handler if each == signal.SIGINT else signal.SIG_DFL)
        again, wanted = numbers, 128 + number
        if sys.argv[1] == "ignored":
            signal.signal(number, signal.SIG_IGN)
            again, wanted = [number], 0
        assert cli.main(sys.argv[2:]) == wanted
        assert sent and (files or sys.argv[2] == "demo")
        files.clear()
        sent.clear()
"""
LINES = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
if hasattr(signal, "SIGHUP"):
    LINES[signal.SIGHUP] = "hung up"
WRITES = {
    "convert": "convert m.npz old.npz",
    "run": "run m.npz x.npy -o old.npz --save-state s.npz --chunk 4",
    "demo": "demo --steps 1000000 --save old.npz",
}


@posix
@pytest.mark.parametrize("command", WRITES)
def test_a_signal_leaves_what_was_there(command, folder):
    """Each of them, also if others follow while the temporary files are removed."""
    old = (folder / "m.npz").read_bytes()
    (folder / "old.npz").write_bytes(old)
    done = python("-c", STOPPED, "heard", *WRITES[command].split())
    assert (done.returncode, done.stderr) == (0, "".join(f"lstm-xp: {line}\n" for line in LINES.values()))
    assert set(os.listdir()) == {"m.npz", "x.npy", "old.npz"}
    assert (folder / "old.npz").read_bytes() == old


@posix
def test_a_signal_that_is_ignored_stays_ignored(folder):
    done = python("-c", STOPPED, "ignored", *WRITES["convert"].split())
    assert (done.returncode, done.stderr) == (0, "")
    assert set(os.listdir()) == {"m.npz", "x.npy", "old.npz"}


@posix
def test_handlers_and_streams_are_given_back(folder, capsys, monkeypatch):
    """Those of the program that calls `main` are neither lost nor, where they are its own, replaced."""
    seen = {}
    run = cli._COMMANDS["info"].run
    monkeypatch.setattr(cli._COMMANDS["info"], "run", lambda a: seen.update(handlers()) or run(a))

    def handlers():
        return {number: signal.getsignal(number) for number in LINES}

    def own(*_):
        pass

    before = handlers()
    try:
        signal.signal(signal.SIGTERM, own)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        given, errors = handlers(), sys.stdout.errors
        assert cli.main(["info", "m.npz"]) == 0
        assert handlers() == given
        assert sys.stdout.errors == errors
        assert seen[signal.SIGTERM] is own
        assert seen[signal.SIGHUP] not in (own, signal.SIG_DFL)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_another_thread_than_the_first(folder, capsys):
    statuses = []
    thread = threading.Thread(target=lambda: statuses.append(cli.main(["info", "m.npz"])))
    thread.start()
    thread.join(timeout=300)
    assert statuses == [0]
