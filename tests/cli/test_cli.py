import errno
import json
import os
import re
import sys

import numpy as np
import pytest

from lstm_xp import __version__, cli
from lstm_xp.cli import demo, demo_task, places, reference, selfcheck
from tests.cli.program import fails, python


@pytest.fixture
def numpy_only(monkeypatch):
    place = next(places.installed())
    monkeypatch.setattr(places, "installed", lambda: iter([place]))


@pytest.fixture
def few_names(monkeypatch):
    names, held_out = demo_task.read_names()
    monkeypatch.setattr(demo_task, "read_names", lambda: (names[::10], held_out[::10]))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "weights.npz"
    demo_task.save(path, demo_task.initial_parameters(np.random.default_rng(0)))
    return path


# The program.


def test_help_without_a_command(capsys):
    assert cli.main([]) == 0
    assert "demo" in capsys.readouterr().out


def test_module_is_the_program():
    done = python("-m", "lstm_xp", "--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"lstm-xp {__version__}\n", "")


def test_importing_the_package_imports_no_command_line():
    done = python("-c", "import sys, lstm_xp; print(*sys.modules)")
    assert "lstm_xp" in done.stdout.split()
    assert not {"rich", "lstm_xp.cli"} & set(done.stdout.split())


def test_missing_rich_names_the_extra(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "rich.console", None)
    assert "lstm_xp[cli]" in fails(capsys, ["demo"])


@pytest.mark.parametrize("argv", [["demo", "--steps", "-1"], ["demo", "--seed", "x"], ["nonsense"]])
def test_wrong_arguments(argv, capsys):
    with pytest.raises(SystemExit) as error:
        cli.main(argv)
    assert error.value.code == 2
    assert "lstm-xp" in capsys.readouterr().err


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_full_standard_output():
    with open("/dev/full", "w") as full:
        done = python("-m", "lstm_xp", stdout=full)
    assert done.returncode == 1
    assert done.stderr == f"lstm-xp: {os.strerror(errno.ENOSPC)}\n"


# The data and the training.


def test_every_tenth_name_is_held_out():
    names, held_out = demo_task.read_names()
    assert len(names) + len(held_out) == 5163
    assert not set(names) & set(held_out)
    assert set("".join(names)) == set(demo_task.ALPHABET[1:])


def test_encode_by_hand():
    batch = demo_task.encode(["al", "bo", "c"])
    assert batch.x.shape == (27, 3, 3)
    written = [["".join(demo_task.ALPHABET[k] for k in row) for row in np.argmax(part, axis=0)] for part in batch]
    assert written == [[".al", ".bo", ".c."], ["al.", "bo.", "c.."]]
    np.testing.assert_array_equal(np.sum(batch.target, axis=(0, 2)), [3, 3, 2])


def test_letter_frequencies_by_hand():
    frequencies = demo_task.letter_frequencies(["a", "ab"])[:, 0, 0]
    np.testing.assert_allclose(frequencies[:3], [0.4, 0.4, 0.2])


def test_gradients_of_the_loss_against_differences():
    rng = np.random.default_rng(0)
    parameters = demo_task.initial_parameters(rng)
    batch = demo_task.encode(["anna", "bo", "christopher"])
    _, gradients = demo_task.loss_and_gradients(parameters, batch)
    for key, gradient in gradients.items():
        direction = rng.normal(size=gradient.shape)
        moved = ({**parameters, key: parameters[key] + h * direction} for h in (-1e-5, 1e-5))
        low, high = (demo_task.mean_loss(each, batch) for each in moved)
        assert np.sum(gradient * direction) == pytest.approx((high - low) / 2e-5, rel=1e-6, abs=1e-9), key


def test_training_beats_letter_frequencies(monkeypatch):
    monkeypatch.setattr(demo_task, "_BATCH", 16)
    names, held_out = demo_task.read_names()
    batch = demo_task.encode(held_out[::5])
    baseline = demo_task.cross_entropy(demo_task.letter_frequencies(names), batch.target)
    rng = np.random.default_rng(1)
    parameters = demo_task.initial_parameters(rng)
    for _ in demo_task.train(parameters, names, 60, rng):
        pass
    assert demo_task.mean_loss(parameters, batch) < 0.97 * baseline


def test_demo_is_reproducible_and_prints_names(few_names, numpy_only, capsys):
    printed = []
    for _ in range(2):
        assert cli.main(["demo", "--steps", "2", "--seed", "5"]) == 0
        printed.append(capsys.readouterr().out)
    assert all(word in printed[0] for word in ("letter frequencies", "before training", "after training", "NumPy"))
    names = [re.findall(r"^ +([A-Z][a-z]+) +(?:invented|real|in the)", text, re.MULTILINE) for text in printed]
    assert len(names[0]) >= 10
    assert names[0] == names[1]


def test_demo_reports_a_library_that_raises(few_names, numpy_only, saved, capsys, monkeypatch):
    def broken(*_):
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(demo, "lstm_forward", broken)
    assert cli.main(["demo", "--load", str(saved)]) == 1
    assert "NumPy cpu float32: RuntimeError: no such kernel" in capsys.readouterr().out


# Weights on disk.


def test_save_then_load(few_names, numpy_only, tmp_path, capsys):
    path = tmp_path / "weights.npz"
    assert cli.main(["demo", "--steps", "2", "--save", str(path)]) == 0
    first = demo_task.load(path)
    assert cli.main(["demo", "--load", str(path), "--save", str(path)]) == 0
    again = demo_task.load(path)
    assert all(np.array_equal(first[key], again[key]) for key in first)
    assert cli.main(["demo", "--load", str(path), "--steps", "1", "--save", str(path)]) == 0
    assert not np.array_equal(first["Wf"], demo_task.load(path)["Wf"])
    assert os.listdir(tmp_path) == ["weights.npz"]
    assert "after training" in capsys.readouterr().out


def without(key):
    def change(arrays):
        del arrays[key]

    return change


def replaced(key, value):
    def change(arrays):
        arrays[key] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("Wf"), "Wf is missing"),
        (without("format"), "not a file that `lstm-xp demo --save` wrote"),
        (replaced("alphabet", np.array("abc")), "not a file that `lstm-xp demo --save` wrote"),
        (replaced("by", np.zeros((26, 1))), r"by must be float64 \(27, 1\); got float64 \(26, 1\)"),
        (replaced("by", np.zeros((27, 1), "float32")), r"by must be float64 \(27, 1\); got float32 \(27, 1\)"),
        (replaced("by", np.full((27, 1), np.nan)), "by must be finite"),
        (replaced("by", np.array([{}], dtype=object)), "not a readable .npz file"),
    ],
)
def test_load_refuses_other_arrays(change, message, saved, tmp_path, capsys):
    with np.load(saved) as archive:
        arrays = dict(archive)
    change(arrays)
    np.savez(tmp_path / "other.npz", **arrays)
    assert re.search(message, fails(capsys, ["demo", "--load", str(tmp_path / "other.npz")]))


@pytest.mark.parametrize("kind", ["empty", "text", "truncated", "damaged", "npy", "pickle"])
def test_load_refuses_other_files(kind, saved, tmp_path, capsys):
    whole = saved.read_bytes()
    path = tmp_path / "file"
    half = len(whole) // 2
    contents = {"empty": b"", "text": b"anna\n", "truncated": whole[:half], "pickle": b"\x80\x04}."}
    contents["damaged"] = whole[:half] + bytes([whole[half] ^ 255]) + whole[half + 1 :]
    if kind == "npy":
        with open(path, "wb") as file:
            np.save(file, np.zeros(3))
    else:
        path.write_bytes(contents[kind])
    assert "not a readable .npz file" in fails(capsys, ["demo", "--load", str(path)])


def test_load_survives_any_damage(saved, tmp_path):
    whole, path = saved.read_bytes(), tmp_path / "damaged.npz"
    rng = np.random.default_rng(0)
    for position in rng.integers(1, 400, size=100):
        for damaged in (whole[: -10 * position], whole[:position] + rng.bytes(1) + whole[position + 1 :]):
            path.write_bytes(damaged)
            try:
                demo_task.load(path)
            except ValueError as error:
                assert str(error).startswith(f"cannot use {path}: ")  # noqa: PT017 -- some damage is harmless


def test_load_without_a_file(tmp_path, capsys):
    assert os.strerror(errno.ENOENT) in fails(capsys, ["demo", "--load", str(tmp_path / "none.npz")])


def no_training(*_):
    raise AssertionError("trained before the target was checked")


def test_save_target_is_checked_first(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(demo_task, "train", no_training)
    path = tmp_path / "none" / "weights.npz"
    assert fails(capsys, ["demo", "--save", str(path)]) == f"lstm-xp: {path}: {os.strerror(errno.ENOENT)}"
    assert "not a regular file" in fails(capsys, ["demo", "--save", str(tmp_path)])


def test_full_disk_leaves_the_old_file(few_names, saved, capsys, monkeypatch, tmp_path):
    path = tmp_path / "weights.npz"
    path.write_bytes(saved.read_bytes())

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    line = fails(capsys, ["demo", "--steps", "0", "--save", str(path)])
    assert os.strerror(errno.ENOSPC) in line
    assert os.listdir(tmp_path) == ["weights.npz"]
    assert path.read_bytes() == saved.read_bytes()


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_FSIZE")
def test_a_write_cut_short_leaves_nothing(tmp_path):
    # A limit on the size of a file stops the write half-way, as a full disk does.
    code = """if True:
        import resource, signal, sys
        from lstm_xp.cli import places as _libraries
        from lstm_xp import cli
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        sys.exit(cli.main(["demo", "--steps", "0", "--save", sys.argv[1]]))
    """
    path = tmp_path / "weights.npz"
    done = python("-c", code, str(path))
    assert done.returncode == 1
    # Python says besides that NumPy before 2.2 leaves the archive open.
    assert f"lstm-xp: {path}: {os.strerror(errno.EFBIG)}\n" in done.stderr
    assert os.listdir(tmp_path) == []


# Ctrl-C.


def test_interrupted_training(few_names, tmp_path, capsys, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo_task, "loss_and_gradients", interrupt)
    assert fails(capsys, ["demo", "--save", str(tmp_path / "weights.npz")], status=130) == "lstm-xp: interrupted"
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_real_signal(tmp_path):
    # A process that starts where Ctrl-C is ignored, as one in the background of a script does, ignores it as well.
    code = """if True:
        import os, signal, sys
        from lstm_xp import cli
        from lstm_xp.cli import demo_task
        step, losses = demo_task.loss_and_gradients, []
        def interrupted(*arguments):
            losses.append(step(*arguments))
            if len(losses) == 3:
                os.kill(os.getpid(), signal.SIGINT)
            return losses[-1]
        demo_task.loss_and_gradients = interrupted
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        sys.exit(cli.main(["demo", "--steps", "1000000", "--save", sys.argv[1]]))
    """
    done = python("-c", code, str(tmp_path / "weights.npz"))
    assert (done.returncode, done.stderr) == (130, "lstm-xp: interrupted\n")
    assert os.listdir(tmp_path) == []


# check


@pytest.fixture(scope="module")
def cases():
    return selfcheck.cases()


@pytest.fixture
def oracle(cases, monkeypatch):
    """Compute the reference once for all tests."""
    monkeypatch.setattr(selfcheck, "cases", lambda: cases)


def test_reference_agrees_with_the_notebook(cases):
    inputs = cases[0].inputs
    a, _, _ = reference.lstm_forward(*(inputs[key].tolist() for key in ("x", "a0", "c0")), inputs)
    assert a[4][3][6] == pytest.approx(0.17211776753291672, abs=1e-15)


# ndonnx takes longest; the tests of each library have it, and so has the command in `.ci/run`.
QUICK = ["numpy", "array_api_strict", "torch", pytest.param("jax", marks=pytest.mark.slow), "mlx", "dask"]


@pytest.mark.parametrize("library", QUICK)
def test_check_of_a_library(library, oracle, capsys, monkeypatch):
    pytest.importorskip(library)
    found = list(places.installed(library))
    monkeypatch.setattr(places, "installed", lambda: iter(found))
    status = cli.main(["check", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert [row for row in report["results"] if not row["ok"]] == []
    assert status == 0
    assert report["ok"]
    wanted = {(place.library, place.device, dtype) for place in found for dtype in place.dtypes}
    assert {(row["library"], row["device"], row["dtype"]) for row in report["results"]} == wanted
    assert report["not_installed"] == places.missing()


def test_check_asks_for_every_library(oracle, capsys, monkeypatch):
    monkeypatch.setattr(places, "find_spec", lambda module: None)
    assert cli.main(["check", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["results"] == []
    assert report["not_installed"] == ["numpy", "array_api_strict", "torch", "jax", "cupy", "mlx", "dask", "ndonnx"]


def test_check_prints_a_table(oracle, numpy_only, capsys):
    assert cli.main(["check"]) == 0
    printed = capsys.readouterr().out
    assert "NumPy" in printed
    assert "float32" in printed


def wrong_hidden_state(x, a0, parameters, *, c0):
    a, y, c, caches = lstm_forward(x, a0, parameters, c0=c0)
    return a * (1 + 1e-4), y, c, caches


def wrong_gradient(da, caches, *, dy, dc):
    gradients = lstm_backward(da, caches, dy=dy, dc=dc)
    return gradients | {"dWo": gradients["dWo"] * (1 + 1e-3)}


def not_a_number(da, caches, *, dy, dc):
    gradients = lstm_backward(da, caches, dy=dy, dc=dc)
    return gradients | {"dbi": gradients["dbi"] * float("nan")}


def wrong_shape(x, a0, parameters, *, c0):
    a, y, c, caches = lstm_forward(x, a0, parameters, c0=c0)
    return a[:1, ...], y, c, caches


def raises(*_, **__):
    raise RuntimeError("no such kernel")


lstm_forward, lstm_backward = selfcheck.lstm_forward, selfcheck.lstm_backward


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("lstm_forward", wrong_hidden_state),
        ("lstm_forward", wrong_shape),
        ("lstm_forward", raises),
        ("lstm_backward", wrong_gradient),
        ("lstm_backward", not_a_number),
        ("lstm_cell", raises),
        ("lstm_cell_backward", raises),
    ],
)
def test_check_finds_what_is_broken(name, broken, oracle, numpy_only, capsys, monkeypatch):
    monkeypatch.setattr(selfcheck, name, broken)
    assert cli.main(["check", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert not report["ok"]
    assert not any(row["ok"] for row in report["results"])
    if broken is raises:
        assert report["results"][0]["note"] == "RuntimeError: no such kernel"
