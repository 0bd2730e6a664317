"""What happens around files: a machine that refuses something, and what is there after one was written, or was not."""

import errno
import importlib
import inspect
import io
import os
import resource
import stat
import subprocess
import sys
import tempfile
import threading
import zipfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import lstm_xp
from lstm_xp import LSTM, load, save
from lstm_xp.cli.console import read_arrays
from lstm_xp.formats import FORMATS, _files
from tests.support.stacks import MODELS, assert_same

pytest.importorskip("torch")
pytest.importorskip("h5py")
pytest.importorskip("pyfive")
pytest.importorskip("onnx")
pytest.importorskip("safetensors")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of a process")

ROOT = Path(__file__).parents[2]
WAIT = 300  # seconds for a process that is done in ten, on the busiest machine
SUFFIXES = [suffix for format in FORMATS.values() for files in format.files for suffix in files.suffixes]
kinds = pytest.mark.parametrize("suffix", SUFFIXES)
MODEL, OTHER = MODELS["both"], MODELS["plain"]


@contextmanager
def limited(kind, most):
    """Set a limit of this process for as long as a block takes."""
    before = resource.getrlimit(kind)
    resource.setrlimit(kind, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(kind, before)


def python(code, *argv):
    """Run code in a process of its own; return what it printed."""
    argv = [sys.executable, "-c", code, *map(str, argv)]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, timeout=WAIT)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture
def path(tmp_path, suffix):
    """A file of that suffix."""
    path = tmp_path / f"model{suffix}"
    save(path, MODEL)
    assert_same(load(path), MODEL)  # and what reads it is imported
    return path


# A machine that cannot read


@kinds
def test_no_more_open_files(path):
    outcomes = set()
    for more in range(4):
        free = os.open(os.devnull, os.O_RDONLY)
        os.close(free)
        with limited(resource.RLIMIT_NOFILE, free + more):
            try:
                outcomes.add(load(path).output_size)
            except OSError as error:
                outcomes.add((error.errno, error.filename))
    assert outcomes == {(errno.EMFILE, str(path)), MODEL.output_size}


class BadDisk(io.FileIO):
    """A disk that cannot be read from some place on."""

    good = 0

    def readinto(self, buffer):
        if self.tell() + len(buffer) > self.good:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return super().readinto(buffer)

    def readall(self):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    @classmethod
    def open(cls, path, mode):
        assert mode == "rb"
        return io.BufferedReader(cls(path), 64)


@kinds
@pytest.mark.parametrize("part", [0, 0.5, 0.98])
def test_a_disk_that_cannot_be_read(path, part, monkeypatch):
    good = int(part * path.stat().st_size)
    monkeypatch.setattr(BadDisk, "good", good)
    monkeypatch.setattr(_files, "open", BadDisk.open, raising=False)
    for read in (load, lstm_xp.inspect):
        with pytest.raises(OSError, match=os.strerror(errno.EIO)) as caught:
            read(path)
        assert (caught.value.errno, caught.value.filename) == (errno.EIO, str(path))


@pytest.mark.slow
@kinds
def test_too_little_memory(suffix, tmp_path):
    """Whatever a process has left, it reads the file or says that its memory does not suffice."""
    for name, size in (("small", 4), ("large", 1000)):
        save(tmp_path / f"{name}{suffix}", LSTM.init(size, size, rng=0))
    code = """if True:
        import resource, sys
        from lstm_xp import load
        small, large = sys.argv[1:]
        load(small)
        for more in (1, 6, 12, 20, 30, 40, 60, 80, 400):
            with open("/proc/self/status") as file:
                size = next(int(line.split()[1]) << 10 for line in file if line.startswith("VmSize"))
            resource.setrlimit(resource.RLIMIT_AS, (size + (more << 20), -1))
            try:
                load(large)
                outcome = "read"
            except Exception as error:
                outcome = f"{type(error).__name__}: {error}"
            resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
            print(outcome)
    """
    outcomes = python(code, tmp_path / f"small{suffix}", tmp_path / f"large{suffix}").splitlines()
    said = f"MemoryError: load: there is not enough memory for {tmp_path}/large{suffix}"
    assert set(outcomes) == {"read", said}
    assert (outcomes[0], outcomes[-1]) == (said, "read")


@kinds
def test_a_caller_that_is_deep(path):
    """Near the end of Python's stack the file is read, or the stack is said to be at its end."""

    def below(depth):
        return load(path) if depth == 0 else below(depth - 1)

    outcomes = set()
    here = sys.getrecursionlimit() - len(inspect.stack())
    for left in (*range(5, 60), *range(60, 300, 7)):
        try:
            outcomes.add(below(here - left).output_size)
        except RecursionError:
            outcomes.add("refused")
    assert outcomes == {"refused", MODEL.output_size}


@pytest.mark.parametrize("suffix", [".safetensors", ".onnx", ".keras", ".weights.h5"])
@pytest.mark.parametrize(
    "error",
    [
        ImportError("no shared object"),
        OSError(errno.ENFILE, "too many files"),
        ModuleNotFoundError("no other package", name="other"),
    ],
    ids=repr,
)
def test_a_package_that_cannot_be_imported(error, path, monkeypatch):
    monkeypatch.setattr(importlib, "import_module", lambda *_: raised(error))
    with pytest.raises(type(error), match=r"no shared object|too many files|no other package") as caught:
        load(path)
    assert caught.value is error


@pytest.mark.parametrize("error", [OSError("seek to nowhere"), OSError(errno.EINVAL, "seek to nowhere")], ids=repr)
def test_what_damage_makes_of_a_file_is_no_fault_of_the_machine(error):
    assert _files.damage(error).endswith("seek to nowhere")
    with pytest.raises(OSError, match="slow"):
        _files.damage(OSError(errno.ETIMEDOUT, "slow"))


def test_a_header_that_leads_python_astray(tmp_path):
    """The header of an array is read by Python, whose parser takes such a one for too little memory."""
    header = b"-" * 9000 + b"1\n"
    (tmp_path / "x.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.write(tmp_path / "x.npy", "x.npy")
    with pytest.raises(ValueError, match=r"load: .*a\.npz: Header info length"):
        load(tmp_path / "a.npz")


def test_the_machine_of_a_run(tmp_path, monkeypatch):
    """What the command line reads by itself: arrays in an archive."""
    path = tmp_path / "a.npz"
    np.savez(path, h0=np.ones(3))
    assert read_arrays(path)["h0"].shape == (3,)
    with monkeypatch.context() as patch:
        patch.setattr(_files, "open", BadDisk.open, raising=False)
        with pytest.raises(OSError, match=f"{os.strerror(errno.EIO)}.*{path}"):
            read_arrays(path)
    for fault in (MemoryError, RecursionError, KeyboardInterrupt):
        monkeypatch.setattr(_files, "_npy", lambda content, fault=fault: raised(fault))
        for read in (load, read_arrays):
            with pytest.raises(fault):
                read(path)


def raised(error):
    raise error


# A machine that cannot write


@kinds
@pytest.mark.parametrize("old", [False, True], ids=["new", "over another"])
def test_a_full_disk(suffix, old, tmp_path):
    """A limit on the size of a file stops the write half-way, as a full disk does."""
    path = tmp_path / f"model{suffix}"
    save(path, MODEL)
    size, before = path.stat().st_size, b""
    path.unlink()
    if old:
        save(path, OTHER)
        before = path.read_bytes()
    for most in (0, size // 2, size - 1):
        with limited(resource.RLIMIT_FSIZE, most), pytest.raises(OSError, match=os.strerror(errno.EFBIG)) as caught:
            save(path, MODEL)
        assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(path))
        assert os.listdir(tmp_path) == [path.name] * old
        assert not old or path.read_bytes() == before


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_disk_that_is_full_at_the_last_step(step, tmp_path, monkeypatch):
    path = tmp_path / "a.npz"
    save(path, OTHER)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, step, full)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)) as caught:
        save(path, MODEL)
    assert caught.value.filename == str(path)
    assert os.listdir(tmp_path) == ["a.npz"]
    assert_same(load(path), OTHER)


# What no file can hold


@kinds
@pytest.mark.parametrize("dtype", ["longdouble", "float16", "float32", "float64"])
def test_a_dtype_comes_back_or_is_refused(dtype, suffix, tmp_path):
    path = tmp_path / f"model{suffix}"
    model = LSTM.init(3, 4, rng=0).to(dtype=np.dtype(dtype))
    if dtype == "longdouble":
        with pytest.raises(ValueError, match=r"save: `model` must have one of the dtypes .*; got float128\. Convert"):
            save(path, model)
        assert not os.listdir(tmp_path)
    else:
        save(path, model)
        assert_same(load(path), model)


@kinds
@pytest.mark.parametrize("library", ["torch", "jax.numpy", "mlx.core"])
def test_bfloat16_comes_back_wider(library, suffix, tmp_path):
    xp = pytest.importorskip(library)
    model = LSTM.init(3, 4, rng=0).to(xp, dtype=xp.bfloat16)
    save(tmp_path / f"model{suffix}", model)
    assert_same(load(tmp_path / f"model{suffix}"), model.to(xp, dtype=xp.float32).to(np))


# What is there afterwards


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, MemoryError, GeneratorExit])
def test_whatever_ends_the_write_nothing_is_left(error, tmp_path):
    def write():
        with _files.writing(tmp_path / "a.npz") as file:
            file.write(b"half")
            raise error

    with pytest.raises(error):
        write()
    assert not os.listdir(tmp_path)


def test_what_a_killed_process_left_is_no_obstacle(tmp_path):
    code = """if True:
        import os, signal, sys
        from pathlib import Path
        from lstm_xp.formats._files import writing
        with writing(Path(sys.argv[1])) as file:
            print(os.listdir(Path(sys.argv[1]).parent), flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
    """
    path = tmp_path / "a.npz"
    killed = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, cwd=ROOT, timeout=WAIT)
    (left,) = os.listdir(tmp_path)
    assert killed.stdout == f"{[left]}\n"
    (tmp_path / f".{path.name}.{os.getpid()}").write_bytes(b"")  # as versions before 0.4.1 named it
    save(path, MODEL)
    assert_same(load(path), MODEL)


def test_eight_threads_write_one_file(tmp_path):
    path = tmp_path / "a.npz"
    models = [LSTM.init(3, size, rng=0) for size in range(1, 9)]
    start, failures = threading.Barrier(8), []

    def write(model):
        start.wait(WAIT)
        try:
            for _ in range(20):
                save(path, model)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(model,)) for model in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    assert not failures
    assert os.listdir(tmp_path) == ["a.npz"]
    got = load(path)
    assert_same(got, models[got.output_size - 1])


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_the_mode_of_a_new_file_and_of_an_old_one(umask, tmp_path):
    new, old = tmp_path / "new.npz", tmp_path / "old.npz"
    old.write_bytes(b"")
    old.chmod(0o640)
    before = os.umask(umask)
    try:
        save(new, MODEL)
        save(old, MODEL)
    finally:
        os.umask(before)
    assert stat.S_IMODE(new.stat().st_mode) == 0o666 & ~umask
    assert stat.S_IMODE(old.stat().st_mode) == 0o640


def test_a_mode_that_is_the_same_is_not_set(tmp_path, monkeypatch):
    """There are disks that let nobody set it."""

    def refused(*_, **__):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    save(tmp_path / "a.npz", OTHER)
    monkeypatch.setattr(os, "chmod", refused)
    save(tmp_path / "a.npz", MODEL)
    assert_same(load(tmp_path / "a.npz"), MODEL)


def test_the_longest_name(tmp_path):
    longest = os.pathconf(tmp_path, "PC_NAME_MAX")
    path = tmp_path / ("é" * ((longest - 4) // 2) + "x" * (longest % 2) + ".npz")
    save(path, MODEL)
    assert_same(load(path), MODEL)
    with pytest.raises(OSError, match=os.strerror(errno.ENAMETOOLONG)) as caught:
        save(tmp_path / f"x{path.name}", MODEL)
    assert caught.value.filename == str(tmp_path / f"x{path.name}")
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("there", [True, False], ids=["file", "dangling"])
@pytest.mark.parametrize("relative", [True, False], ids=["relative", "absolute"])
def test_a_link_is_followed(there, relative, tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "near").mkdir()
    target, middle, link = tmp_path / "far" / "a.npz", tmp_path / "far" / "middle", tmp_path / "near" / "link.npz"
    if there:
        save(target, OTHER)
    middle.symlink_to("a.npz")
    link.symlink_to(Path("../far/middle") if relative else middle)
    save(link, MODEL)
    assert link.is_symlink()
    assert middle.is_symlink()
    assert not target.is_symlink()
    assert_same(load(target), MODEL)
    assert (os.listdir(tmp_path / "near"), sorted(os.listdir(tmp_path / "far"))) == (["link.npz"], ["a.npz", "middle"])


def test_what_cannot_be_replaced(tmp_path):
    (tmp_path / "loop.npz").symlink_to("loop.npz")
    (tmp_path / "folder.npz").mkdir()
    os.mkfifo(tmp_path / "pipe.npz")
    (tmp_path / "lost.npz").symlink_to("nowhere/a.npz")
    before = sorted(os.listdir(tmp_path))
    numbers = {"loop": errno.ELOOP, "folder": errno.EINVAL, "pipe": errno.EINVAL, "lost": errno.ENOENT}
    for name, number in numbers.items():
        path = tmp_path / f"{name}.npz"
        for act in (lambda path: save(path, MODEL), _files.require_writable):
            with pytest.raises(OSError) as caught:  # noqa: PT011 -- the number says which
                act(path)
            assert (caught.value.errno, caught.value.filename) == (number, str(path))
    assert sorted(os.listdir(tmp_path)) == before


def test_a_file_that_may_not_be_written_is_not_replaced():
    """Nobody in particular tries it, whom the mode of a file concerns."""
    code = """if True:
        import os, sys
        from pathlib import Path
        from lstm_xp import LSTM, save
        from lstm_xp.formats._files import require_writable
        model = LSTM.init(3, 4, rng=0)
        if os.getuid() == 0:
            os.setuid(65534)
        for act in (require_writable, lambda path: save(path, model)):
            try:
                act(Path(sys.argv[1]))
            except PermissionError as error:
                print(error.filename)
    """
    with tempfile.TemporaryDirectory() as folder:  # which others may enter, unlike pytest's own
        os.chmod(folder, 0o777)
        path = Path(folder, "a.npz")
        path.write_bytes(b"old")
        path.chmod(0o444)
        assert python(code, path) == f"{path}\n" * 2
        assert path.read_bytes() == b"old"
        assert os.listdir(folder) == ["a.npz"]
