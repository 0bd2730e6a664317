"""The commands that use files of weights: `info`, `convert`, `run`."""

import argparse
import errno
import json
import os
import sys
import tracemalloc
import zipfile

import numpy as np
import pytest

from lstm_xp import LSTM, Cell, Layer, LSTMState, LSTMWeights, cli, load, lstm, save
from lstm_xp.cli import convert, places, run, stream
from lstm_xp.formats import _files
from lstm_xp.formats._model import directions
from tests.cli import program
from tests.support.stacks import MODELS, assert_same

B, T = 3, 23
LENGTHS = np.asarray([T, 0, 11])


def deep():
    """Return a stack with every kind of neighbours: forward, bidirectional and reverse-only layers."""
    sizes = [(3, 4, 2, False), (4, 5, 2, True), (10, 4, 2, False), (4, 6, 1, None), (6, 2, 1, False)]
    layers = []
    for k, (I, H, n, both) in enumerate(sizes):  # noqa: E741 -- the field's letter for the input size
        some = LSTM.init(I, H, num_layers=n, bidirectional=bool(both), rng=k, dtype=np.float64).layers
        layers += [Layer(None, some[0].forward)] if both is None else some
    return LSTM(tuple(layers), tuple(Cell(cell_clip=0.5) for _ in layers))


RUN = {
    "deep": deep(),
    "plain": LSTM.init(3, 4, num_layers=2, rng=0, dtype=np.float64),
    "both": LSTM.init(3, 4, num_layers=2, proj_size=2, bidirectional=True, rng=1, dtype=np.float64),
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with models, inputs and lengths, in which the program runs."""
    monkeypatch.chdir(tmp_path)
    for name, model in RUN.items():
        save(f"{name}.npz", model)
    rng = np.random.default_rng(0)
    np.save("x.npy", rng.standard_normal((B, T, 3)))
    np.save("lengths.npy", LENGTHS)
    return tmp_path


@pytest.fixture
def traced_memory():
    """Memory as Python and NumPy allocate it: pages of a file in a map, which the system lends, do not count."""
    tracemalloc.start()
    yield
    tracemalloc.stop()


def fails(capsys, argv, status=1):
    """Run the program, which must fail in one line and leave the folder as it is; return the line."""
    before = set(os.listdir())
    line = program.fails(capsys, argv, status)
    assert set(os.listdir()) == before
    return line


def state_of(path):
    """Return the state in a file, by layers."""
    with np.load(path) as arrays:
        return tuple(LSTMState(arrays[f"h{k}"], arrays[f"c{k}"]) for k in range(len(arrays.files) // 2))


def assert_close(got, wanted):
    assert got.shape == wanted.shape
    assert got.dtype == wanted.dtype
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-12)


# info


SHAPES = {"weight_ih": (16, 3), "weight_hh": (16, 4), "bias_ih": (16,), "bias_hh": (16,)}
PARTS = {"encoder": SHAPES, "decoder": {k: v for k, v in SHAPES.items() if k != "bias_hh"}}


def test_info_lists_every_lstm(tmp_path, capsys):
    torch = pytest.importorskip("torch")
    good, bad = ({f"{name}.{k}_l0": torch.zeros(s) for k, s in parts.items()} for name, parts in PARTS.items())
    torch.save(good | bad, tmp_path / "a.pt")
    assert cli.main(["info", str(tmp_path / "a.pt")]) == 0
    words = capsys.readouterr().out.split()
    assert {"encoder", "decoder", "PyTorch", "float32", "plain", "128", "cannot"} <= set(words)


def test_info_of_a_file_without_one(tmp_path, capsys):
    torch = pytest.importorskip("torch")
    torch.save({}, tmp_path / "a.pt")
    assert cli.main(["info", str(tmp_path / "a.pt")]) == 1
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("command", [["info", "none.npz"], ["convert", "none.npz", "b.npz"]])
def test_a_file_that_is_not_there(command, folder, capsys):
    assert fails(capsys, command) == f"lstm-xp: none.npz: {os.strerror(errno.ENOENT)}"


def test_a_file_that_is_none(folder, capsys):
    (folder / "a.npz").write_bytes(b"hello")
    assert "inspect: a.npz: it must be of one of the formats" in fails(capsys, ["info", "a.npz"])


# convert


def test_convert_writes_and_checks(folder, capsys):
    assert cli.main(["convert", "deep.npz", "deep.safetensors"]) == 0
    assert "largest difference between the two on random input: 0.0e+00" in capsys.readouterr().out
    assert_same(load("deep.safetensors"), RUN["deep"])


def test_convert_takes_a_name(folder, capsys):
    torch = pytest.importorskip("torch")
    peer = torch.nn.ModuleDict({"a": torch.nn.LSTM(3, 4), "b": torch.nn.LSTM(3, 5)})
    torch.save(peer.state_dict(), "peers.pt")
    assert "one of 'a', 'b'" in fails(capsys, ["convert", "peers.pt", "b.npz"])
    assert cli.main(["convert", "peers.pt", "b.npz", "--name", "b"]) == 0
    assert load("b.npz").layers[0].forward.weight_hh.shape == (20, 5)


def test_convert_refuses_by_name(folder, capsys):
    pytest.importorskip("torch")
    assert "PyTorch cannot hold a `cell` other than the plain one" in fails(capsys, ["convert", "deep.npz", "deep.pt"])
    assert "`path` must end in one of" in fails(capsys, ["convert", "deep.npz", "deep.txt"])


def test_convert_sees_a_difference(folder, capsys, monkeypatch):
    other = LSTM.init(3, 4, num_layers=2, rng=5, dtype=np.float64)
    monkeypatch.setattr(convert, "save", lambda path, model: save(path, other))
    assert cli.main(["convert", "plain.npz", "b.npz"]) == 1


# run


@pytest.mark.parametrize("library", ["numpy", "torch", pytest.param("jax", marks=pytest.mark.slow), "mlx"])
@pytest.mark.parametrize("name", RUN)
def test_run_is_lstm(name, library, folder):
    """In blocks of 7 of 23 steps, with lengths, from a given state, to the state after."""
    pytest.importorskip(library)
    model, x = RUN[name], np.load("x.npy")
    rng = np.random.default_rng(1)
    _, zero = lstm(x, model.layers, cell=model.cell)
    state = tuple(LSTMState(*(rng.standard_normal(a.shape) for a in s)) for s in zero)
    np.savez("s.npz", **{f"{part}{k}": a for k, s in enumerate(state) for part, a in s._asdict().items()})
    arguments = ["--lengths", "lengths.npy", "--state", "s.npz", "--save-state", "after.npz", "--chunk", "7"]
    assert cli.main(["run", f"{name}.npz", "x.npy", "-o", "y.npy", "--library", library, *arguments]) == 0
    y, last = lstm(x, model.layers, state, cell=model.cell, lengths=LENGTHS)
    assert_close(np.load("y.npy"), y)
    for got, wanted in zip(state_of("after.npz"), last, strict=True):
        assert_close(got.h, wanted.h)
        assert_close(got.c, wanted.c)
    assert sorted(os.listdir()) == sorted(
        [f"{n}.npz" for n in RUN] + ["x.npy", "lengths.npy", "s.npz", "after.npz", "y.npy"]
    )


def test_a_sequence_in_two_runs(folder):
    x = np.load("x.npy")
    for k, part in enumerate((x[:, :10], x[:, 10:])):
        np.save(f"x{k}.npy", part)
    assert cli.main(["run", "plain.npz", "x0.npy", "-o", "y0.npy", "--save-state", "s.npz"]) == 0
    assert cli.main(["run", "plain.npz", "x1.npy", "-o", "y1.npy", "--state", "s.npz"]) == 0
    y = np.concatenate([np.load("y0.npy"), np.load("y1.npy")], axis=1)
    assert_close(y, lstm(x, RUN["plain"].layers)[0])


@pytest.mark.parametrize("order", ["C", "F"])
def test_one_sequence_without_a_batch_axis(order, folder):
    x = np.load("x.npy")[0]
    np.save("x1.npy", np.asarray(x, order=order))
    assert cli.main(["run", "deep.npz", "x1.npy", "-o", "y1.npy", "--chunk", "5"]) == 0
    assert_close(np.load("y1.npy"), lstm(x[None], RUN["deep"].layers, cell=RUN["deep"].cell)[0][0])


@pytest.mark.parametrize("shape", [(0, 5, 3), (2, 0, 3), (0, 3), (2, 1, 3)])
def test_empty_and_single(shape, folder):
    np.save("x1.npy", np.ones(shape))
    assert cli.main(["run", "both.npz", "x1.npy", "-o", "y1.npy"]) == 0
    x = np.ones(shape if len(shape) == 3 else (1, *shape))
    y = lstm(x, RUN["both"].layers)[0]
    assert_close(np.load("y1.npy"), y if len(shape) == 3 else y[0])


def test_dtype_is_converted_when_asked_for(folder, capsys):
    np.save("x1.npy", np.load("x.npy").astype(np.float32))
    assert "x1.npy must have the dtype of the weights, float64, or give --dtype; got float32" in fails(
        capsys, ["run", "plain.npz", "x1.npy", "-o", "y.npy"]
    )
    assert cli.main(["run", "plain.npz", "x1.npy", "-o", "y.npy", "--dtype", "float32"]) == 0
    wanted = lstm(np.load("x1.npy"), RUN["plain"].to(dtype=np.float32).layers)[0]
    assert np.load("y.npy").dtype == np.float32
    np.testing.assert_allclose(np.load("y.npy"), wanted, rtol=0, atol=1e-6)


BAD = {
    "rank": (["--"], {"x.npy": np.zeros(3)}, r"x.npy must have shape (batch, time, 3) or (time, 3); got (3,)"),
    "size": (["--"], {"x.npy": np.zeros((5, 4))}, r"(time, 3); got (5, 4)"),
    "integers": (["--"], {"x.npy": np.zeros((5, 3), int)}, r"must have the dtype of the weights, float64"),
    "objects": (["--"], {"x.npy": np.array([None])}, "x.npy is not a readable .npy file"),
    "lengths": (
        ["--lengths", "l.npy"],
        {"l.npy": np.ones(2, int)},
        "l.npy must hold integers of shape (batch,) = (3,)",
    ),
    "long": (["--lengths", "l.npy"], {"l.npy": np.full(3, 99)}, "lengths between 0 and time = 23; got from 99 to 99"),
    "floats": (["--lengths", "l.npy"], {"l.npy": np.ones(3)}, "l.npy must hold integers"),
    "state": (["--state", "l.npy"], {"l.npy": np.ones(3)}, "cannot use l.npy: not a readable .npz file"),
    "part": (
        ["--state", "s.npz"],
        {"s.npz": {"h0": np.ones((1, 3, 4))}},
        "s.npz must hold c0, numbers of shape (1, 3, 4)",
    ),
    "shape": (["--state", "s.npz"], {"s.npz": {"h0": np.ones((1, 2, 4))}}, "got float64 (1, 2, 4)"),
    "archive": (["--lengths", "s.npz"], {"s.npz": {"a": np.ones(3)}}, "s.npz must be a .npy file of one array"),
    "device": (["--device", "cuda:9"], {}, "numpy has no device cuda:9 here; it has cpu"),
    "name": (["--name", "x"], {}, "`name` must be one of the LSTMs of plain.npz, '.'; got 'x'"),
    "missing": (["--lengths", "none.npy"], {}, f"none.npy: {os.strerror(errno.ENOENT)}"),
    "folder": (["-o", "none/y.npy"], {}, f"none/y.npy: {os.strerror(errno.ENOENT)}"),
    "target": (["-o", "."], {}, ".: not a regular file"),
    "twice": (["--save-state", "./y.npy"], {}, "--save-state must name a file of its own; got y.npy twice"),
    "the input": (["--save-state", "x.npy"], {}, "--save-state must name a file of its own; got x.npy twice"),
    "the model": (["--save-state", "./plain.npz"], {}, "--save-state must name a file of its own; got plain.npz twice"),
    "the lengths": (
        ["--lengths", "l.npy", "--save-state", "l.npy"],
        {"l.npy": np.ones(3, int)},
        "--save-state must name a file of its own; got l.npy twice",
    ),
    "over the lengths": (
        ["--lengths", "l.npy", "-o", "l.npy"],
        {"l.npy": np.ones(3, int)},
        "--output must not be an input; got l.npy",
    ),
    "over the state": (
        ["--state", "s.npz", "-o", "s.npz::y"],
        {"s.npz": {}},
        "--output must not be an input; got s.npz",
    ),
    "more layers": (
        ["--state", "s.npz"],
        {"s.npz": {f"{part}{k}": np.zeros((1, 3, 4)) for part in "hc" for k in range(3)}},
        "s.npz must hold c0, c1, h0, h1 alone; got c0, c1, c2, h0, h1, h2",
    ),
    "integers, cast": (
        ["--dtype", "float32"],
        {"x.npy": np.zeros((5, 3), int)},
        "must have a floating dtype; got int64",
    ),
    "later": (["--save-state", "none/s.npz"], {}, f"none/s.npz: {os.strerror(errno.ENOENT)}"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(case, folder, capsys):
    arguments, files, words = BAD[case]
    for name, content in files.items():
        if isinstance(content, dict):
            np.savez(name, **content)
        else:
            np.save(name, content, allow_pickle=True)
    arguments = [] if arguments == ["--"] else arguments
    assert words in fails(capsys, ["run", "plain.npz", "x.npy", "-o", "y.npy", *arguments])


def test_a_truncated_input(folder, capsys):
    content = (folder / "x.npy").read_bytes()
    (folder / "x.npy").write_bytes(content[:-100])
    assert "x.npy is not a readable .npy file" in fails(capsys, ["run", "plain.npz", "x.npy", "-o", "y.npy"])


HEADERS = {
    "no steps": "(1000000000, 0, 3)",
    "no steps, wide states": "(2000000, 0, 3)",
    "no sequences": "(0, 1000000000000, 3)",
    "one sequence without features": "(1000000000000, 0)",
    "overflow": "(1000000000000, 1000000000000, 3)",
    "beyond an integer": "(1000000000000000000000000000000, 5, 3)",
    "negative": "(-1, 5, 3)",
    "nested": "((1, 2), 5, 3)",
    "fractions": "(1.0, 5, 3)",
    "brackets": "(" * 9000,
    "signs": "(" + "-" * 9000 + "1,)",
}


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS")
def test_a_header_promises_more_than_the_file_has(folder):
    """As the input, the lengths and the state: a line each, and little memory."""
    save("no features.npz", LSTM((Layer(LSTMWeights(np.zeros((4, 0)), np.ones((4, 1)))),)))
    save("wide.npz", LSTM.init(3, 40, rng=0, dtype=np.float64))
    plain, calls = ["plain.npz", "x.npy"], []
    for name, shape in HEADERS.items():
        text = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
        (folder / f"{name}.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text)
        with zipfile.ZipFile(f"{name}.npz", "w") as archive:
            archive.write(f"{name}.npy", "h0.npy")
        model = "no features.npz" if "features" in name else "wide.npz"
        calls += [[model, f"{name}.npy"], [*plain, "--lengths", f"{name}.npy"], [*plain, "--state", f"{name}.npz"]]
    before = set(os.listdir())
    code = """if True:
        import json, resource, sys
        from lstm_xp import cli
        with open("/proc/self/status") as file:
            now = int(next(line for line in file if line.startswith("VmSize")).split()[1]) << 10
        resource.setrlimit(resource.RLIMIT_AS, (now + (1 << 29),) * 2)
        for call in json.loads(sys.argv[1]):
            assert cli.main(["run", *call, "-o", "y.npy"]) == 1, call
    """
    done = program.python("-c", code, json.dumps(calls))
    assert done.returncode == 0, done.stderr
    for line, call in zip(done.stderr.splitlines(), calls, strict=True):
        assert call[-1] in line
    assert set(os.listdir()) == before


@pytest.mark.parametrize("prefix", [b"\x02\x00\x00\x00\x00\x80", b"\x03\x00\xff\xff\xff\xff", b"\x09\x00\x10\x00", b""])
def test_a_header_of_any_length_and_version(prefix, folder, capsys):
    (folder / "a.npy").write_bytes(b"\x93NUMPY" + prefix + b"{'descr': ")
    assert fails(capsys, ["run", "plain.npz", "a.npy", "-o", "y.npy"]) == "lstm-xp: a.npy is not a readable .npy file"


def test_many_short_sequences_for_a_wide_model(folder, monkeypatch):
    """What they make is far more than they are, and it is asked for."""
    save("wide.npz", LSTM.init(1, 100, rng=0, dtype=np.float64))
    np.save("x1.npy", np.ones((1000, 1, 1)))
    monkeypatch.setattr(_files, "_FLOOR", 1 << 18)
    assert cli.main(["run", "wide.npz", "x1.npy", "-o", "y1.npy"]) == 0
    assert np.load("y1.npy", mmap_mode="r").shape == (1000, 1, 100)
    with pytest.raises(ValueError, match="more than a file"):
        _files.require_budget(os.path.getsize("x1.npy"), os.path.getsize("y1.npy"), "y")


def test_a_library_that_is_not_there(folder, capsys, monkeypatch):
    monkeypatch.setattr(places, "missing", lambda: ["cupy"])
    line = fails(capsys, ["run", "plain.npz", "x.npy", "-o", "y.npy", "--library", "cupy"])
    assert line == "lstm-xp: cupy is not installed"


@pytest.mark.parametrize("chunk", ["0", "-1", "x"])
def test_a_chunk_of_nothing(chunk, folder, capsys):
    with pytest.raises(SystemExit):
        cli.main(["run", "plain.npz", "x.npy", "-o", "y.npy", "--chunk", chunk])
    assert "must be a whole number, 1 or more" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["plain", "deep"])
def test_an_interrupted_run_leaves_the_old_output(name, folder, capsys, monkeypatch):
    (folder / "y.npy").write_bytes(b"old")
    write, written = stream.Writer.write, []

    def interrupted(self, start, block):
        written.append(start)
        if len(written) == 3:
            raise KeyboardInterrupt
        write(self, start, block)

    monkeypatch.setattr(stream.Writer, "write", interrupted)
    assert "interrupted" in fails(capsys, ["run", f"{name}.npz", "x.npy", "-o", "y.npy", "--chunk", "4"], 130)
    assert (folder / "y.npy").read_bytes() == b"old"


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_FSIZE")
@pytest.mark.parametrize("name", ["plain", "both"])
def test_a_full_disk_leaves_nothing(name, folder):
    # A limit on the size of a file stops the write half-way, as a full disk does.
    code = """if True:
        import resource, signal, sys
        from lstm_xp import cli
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        sys.exit(cli.main(["run", sys.argv[1], "x.npy", "-o", "y.npy", "--chunk", "4"]))
    """
    before = set(os.listdir())
    done = program.python("-c", code, f"{name}.npz")
    assert done.returncode == 1
    assert os.strerror(errno.EFBIG) in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert set(os.listdir()) == before


@pytest.mark.usefixtures("folder", "traced_memory")
def test_memory_does_not_grow_with_the_sequence():
    """A long input, and what stands between two layers, are larger than what the program may take more."""
    save("wide.npz", LSTM.init(64, 8, num_layers=2, bidirectional=True, rng=0))
    peaks = {}
    for steps in (50, 1500):  # the longer input takes 23 MiB, its outputs 6
        np.save("long.npy", np.zeros((64, steps, 64), np.float32))
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        assert cli.main(["run", "wide.npz", "long.npy", "-o", "y.npy", "--chunk", "50"]) == 0
        peaks[steps] = tracemalloc.get_traced_memory()[1] - before
        assert np.load("y.npy", mmap_mode="r").shape == (64, steps, 16)
    assert peaks[1500] - peaks[50] < 2**20, peaks


def test_the_passes_of_a_deep_stack():
    """Neighbours that only run forward go together, and the first direction of a bidirectional layer goes alone."""
    kinds = [(part.layers, part.reverse, part.second) for part in stream.passes(RUN["deep"])]
    assert kinds == [
        ((0, 1), False, False),
        ((2,), False, False),
        ((2,), True, True),
        ((3,), False, False),
        ((3,), True, True),
        ((4, 5), False, False),
        ((6,), True, False),
        ((7,), False, False),
    ]
    assert sum(len(directions(part.model)) for part in stream.passes(RUN["deep"])) == len(directions(RUN["deep"]))


def test_the_steps_of_a_block():
    task = run._Task(argparse.Namespace(chunk=None), MODELS["plain"], None, None)
    assert run._steps(task, 1) == 1000
    assert 1 <= run._steps(task, 10**9) < 10
