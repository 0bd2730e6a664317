"""What only time finds: ``pytest -m soak -n 0 -s``, for `LSTM_XP_SOAK_SECONDS`, ten minutes by default.

Everything is drawn from a seed that is printed before it is used. ``LSTM_XP_SOAK_SEED`` begins with that one.
"""

import gc
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from lstm_xp import LSTM, inspect, load, lstm_vjp, save
from tests.conftest import Bench
from tests.formats.test_hostile import MAKERS, ROOT, mutated, read_all, victim  # noqa: F401 -- fixtures
from tests.support.backends import BACKENDS
from tests.support.format_table import SUFFIXES
from tests.support.layers import leaves
from tests.support.options import OPTIONS, SHORT, Row
from tests.support.stacks import MODELS, assert_same
from tests.support.ways import hold

pytestmark = [pytest.mark.soak, pytest.mark.filterwarnings("ignore:`torch.jit.*` is deprecated:DeprecationWarning")]
SECONDS = float(os.environ.get("LSTM_XP_SOAK_SECONDS", "600"))
PATIENCE = 300  # seconds for a process that is done in ten
posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
linux = pytest.mark.skipif(sys.platform != "linux", reason="/proc")


def seeds(part):
    """Yield seeds for a part of the time, at least one, and print each: the last one printed is the one that failed."""
    seed = int(os.environ.get("LSTM_XP_SOAK_SEED", time.time_ns() % 10**9))
    end = time.monotonic() + part * SECONDS
    while True:
        print(f"LSTM_XP_SOAK_SEED={seed}", flush=True)
        yield seed
        if time.monotonic() > end:
            return
        seed += 1


# Numbers

# Of ten problems, so many go to a library that takes seconds for one.
SLOW = [backend for backend in BACKENDS if backend.library in ("JAX", "Dask", "ndonnx")]
QUICK = [backend for backend in BACKENDS if backend not in SLOW]


def test_problems_of_all_options_on_all_libraries():
    for seed in seeds(0.4):
        rng = random.Random(seed)
        backend = rng.choice(SLOW if rng.random() < 0.1 else QUICK)
        place = backend.place()
        if place is None:
            continue
        options = SHORT if backend.lazy else OPTIONS | {"steps": range(1, 20), "batch": range(1, 12)}
        row = Row(**{name: rng.choice(values) for name, values in options.items()})
        dtype = row.dtype if row.dtype in backend.dtypes and row.dtype in place.dtypes else place.dtypes[-1]
        # A float32 lies now and then on the other side of a bound: a gradient is then another one.
        exact = dtype == "float64" and not backend.coarse_exp
        print(backend.name, dtype, row)
        hold(Bench(backend, place, dtype), row, seed=seed % 2**32, gradients=exact)


# Files whose checksums and lengths are right


def _values(tree, parent=None, key=None):
    """Yield every place of a value in JSON, as a container and a key."""
    if parent is not None:
        yield parent, key
    for k, item in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        yield from _values(item, tree, k)


def _other_json(text, rng):
    tree = json.loads(text)
    places = list(_values(tree))
    for parent, key in rng.sample(places, min(len(places), rng.choice((1, 1, 2, 4)))):
        other, from_key = rng.choice(places)
        wild = (None, True, -1, 0, 3, 1 << 40, 1e308, "", "tanh", "\0" * 9, [], {}, [[]] * 50, "stale")
        if rng.random() < 0.2 and isinstance(parent, dict):
            parent.pop(key, None)
        elif isinstance(parent, dict) or key < len(parent):
            value = rng.choice(wild)
            if value == "stale" and (from_key in other if isinstance(other, dict) else from_key < len(other)):
                value = json.loads(json.dumps(other[from_key]))
            parent[key] = value
    return json.dumps(tree).encode()


def _other_bytes(content, rng):
    try:
        return _other_json(content, rng)
    except ValueError:
        return mutated(content, rng)


def _other_zip(content, rng):
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for name in rng.sample(sorted(members), min(len(members), rng.choice((1, 1, 2)))):
        members[name] = _other_bytes(members[name], rng)
    if rng.random() < 0.1:
        del members[rng.choice(sorted(members))]
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, member in members.items():
            archive.writestr(name, member)
    return made.getvalue()


def _other_safetensors(content, rng):
    size = int.from_bytes(content[:8], "little")
    text = _other_json(content[8 : 8 + size], rng)
    return len(text).to_bytes(8, "little") + text + content[8 + size :]


def _other_onnx(content, rng):
    """Change fields of the graph, each to something of its kind."""
    import onnx

    model = onnx.load_from_string(content)
    graph = model.graph
    (node,) = [node for node in graph.node if node.op_type == "LSTM"][:1] or graph.node[:1]
    for _ in range(rng.choice((1, 1, 2, 4))):
        match rng.randrange(6):
            case 0:
                tensor = rng.choice(graph.initializer)
                tensor.dims[:] = [rng.choice((0, 1, -1, 4, 1 << 40)) for _ in range(rng.randrange(5))]
            case 1:
                rng.choice(graph.initializer).data_type = rng.randrange(24)
            case 2:
                node.input[rng.randrange(len(node.input))] = rng.choice(("", "X", *(t.name for t in graph.initializer)))
            case 3 if node.attribute:
                attribute = rng.choice(node.attribute)
                attribute.i, attribute.s = rng.choice((-1, 0, 1 << 40)), rng.choice((b"", b"reverse", b"\xff"))
            case 4:
                rng.choice(graph.node).op_type = rng.choice(("LSTM", "Identity", "Loop", "Transpose", ""))
            case _:
                tensor = rng.choice(graph.initializer)
                tensor.raw_data = tensor.raw_data[: rng.randrange(1 + len(tensor.raw_data))]
    return model.SerializeToString()


def _other(kind, content, rng):
    if kind == "onnx":
        return _other_onnx(content, rng)
    if kind == "safetensors":
        return _other_safetensors(content, rng)
    return _other_zip(content, rng) if content[:2] == b"PK" else mutated(content, rng)


@pytest.mark.filterwarnings("default:Detected pickle protocol")  # PyTorch's, of a number that is not so
def test_files_with_right_checksums_are_loaded_or_refused(tmp_path, read_all):  # noqa: F811
    valid = {}
    for kind, make in MAKERS.items():
        for name in ("both", "cells") if kind in ("npz", "safetensors") else ("both",):
            path = tmp_path / f"{name}.{kind}"
            make(path) if name == "both" else save(path, MODELS[name])
            valid[name, kind] = path.read_bytes()
    for seed in seeds(0.3):
        rng = random.Random(seed)
        name, kind = rng.choice(sorted(valid))
        paths = [tmp_path / f"{k}.{kind}" for k in range(150)]
        for path in paths:
            path.write_bytes(_other(kind, valid[name, kind], rng))
        results = read_all(paths, seconds=5.0)
        print(kind, sum(result.startswith("refused") for result in results.values()), "of", len(paths), "refused")
        for path in [path for path in paths if results[path.name] == "loaded: [None]"][:3]:
            model = load(path)
            save(tmp_path / "again.npz", model)
            with np.errstate(over="ignore", invalid="ignore"):  # numbers as large as there are
                assert_same(load(tmp_path / "again.npz"), model)


# Signals


def child(code, *argv):
    """Start a process that takes signals as one in a terminal does."""
    begin = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    begin += "signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM}); "
    argv = [sys.executable, "-c", begin + code, *map(str, argv)]
    return subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


def ended(process, rng, longest):
    """Send a signal at some moment, wait for the end, and return the signal."""
    sent = rng.choice((signal.SIGINT, signal.SIGTERM, signal.SIGKILL))
    try:
        time.sleep(rng.random() * longest)
        process.send_signal(sent)
        process.wait(PATIENCE)
    finally:
        process.kill()
        process.communicate()
    return sent


RUN = "import sys; from lstm_xp import cli; sys.exit(cli.main(sys.argv[1:]))"


@posix
def test_a_run_that_is_stopped_leaves_the_old_file_or_the_new_one(tmp_path):
    save(tmp_path / "model.npz", LSTM.init(4, 16, num_layers=2, bidirectional=True, rng=0))
    x = np.random.default_rng(0).standard_normal((8, 600, 4)).astype("float32")
    np.save(tmp_path / "x.npy", x)
    wanted, _ = load(tmp_path / "model.npz")(x)
    old = np.zeros(3)
    (tmp_path / "out").mkdir()
    target = tmp_path / "out" / "y.npy"
    argv = ["run", tmp_path / "model.npz", tmp_path / "x.npy", "-o", target, "--chunk", 20]
    start = time.monotonic()
    process = child(RUN, *argv)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    longest = 1.2 * (time.monotonic() - start)
    for seed in seeds(0.1):
        np.save(target, old)
        sent = ended(child(RUN, *argv), random.Random(seed), longest)
        found = np.load(target)
        if found.shape != old.shape:
            np.testing.assert_allclose(found, wanted, atol=1e-5)
        left = [path for path in target.parent.iterdir() if path != target]
        assert sent != signal.SIGINT or not left
        assert all(path.name[0] == "." for path in left)
        for path in left:
            path.unlink() if path.is_file() else [*map(Path.unlink, path.iterdir()), path.rmdir()]


SAVE = """
import sys
from lstm_xp import load, save
models = [load(path) for path in sys.argv[2:]]
save(sys.argv[1], models[0])
print(flush=True)
while True:
    for model in models:
        save(sys.argv[1], model)
"""


@posix
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_save_that_is_stopped_leaves_the_old_file_or_the_new_one(suffix, tmp_path):
    models = [LSTM.init(30, 40, rng=rng) for rng in (0, 1)]
    paths = [tmp_path / f"{k}.npz" for k in range(2)]
    for path, model in zip(paths, models, strict=True):
        save(path, model)
    (tmp_path / "out").mkdir()
    target = tmp_path / "out" / f"model{suffix}"
    for seed in seeds(0.1 / len(SUFFIXES)):
        process = child(SAVE, target, *paths)
        process.stdout.readline()
        sent = ended(process, random.Random(seed), 0.2)
        found = leaves(load(target))[0]
        assert any(np.array_equal(found, leaves(model)[0]) for model in models)
        left = [path for path in target.parent.iterdir() if path != target]
        assert sent != signal.SIGINT or not left
        assert all(path.name[0] == "." for path in left)
        for path in left:
            path.unlink()


# Memory and open files


def _resident():
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@linux
def test_memory_and_open_files_do_not_grow(tmp_path):
    """Each round does the same; the first ones fill what libraries keep."""
    import torch

    model, x = LSTM.init(16, 64, num_layers=2, rng=0), np.ones((8, 50, 16), "float32")
    tensors, there = model.to(torch), torch.ones(8, 50, 16)
    bad = tmp_path / "bad.npz"
    bad.write_bytes(b"PK\x03\x04 and no more")
    rounds = []
    for _ in seeds(0.1):
        for _ in range(5):
            (y, _), vjp = lstm_vjp(x, model.layers)
            vjp(y)
            tensors(there, trace=True)
            tensors.step(there[:, 0])
            for suffix in SUFFIXES:
                save(tmp_path / f"model{suffix}", model)
                inspect(tmp_path / f"model{suffix}")
            with pytest.raises(ValueError, match="not a readable zip file"):
                load(bad)
        rounds.append((_resident(), len(os.listdir("/proc/self/fd"))))
    memory, files = zip(*rounds[len(rounds) // 3 :], strict=True)
    print(f"{len(rounds)} rounds: {memory[0]:.0f} to {memory[-1]:.0f} MiB, {files[-1]} files open")
    assert memory[-1] - memory[0] < 30
    assert files[-1] <= files[0]
