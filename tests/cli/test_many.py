"""`lstm-xp run` over many inputs: files, folders, archives, HDF5 and Zarr."""

import errno
import os
import shutil
import signal
import sys
import tracemalloc
import zipfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from lstm_xp import LSTM, cli, save
from lstm_xp.cli import packed, run, stored
from lstm_xp.formats._files import temporary_folder
from tests.cli import program

MODEL = LSTM.init(3, 4, num_layers=2, bidirectional=True, rng=0, dtype=np.float64)
RNG = np.random.default_rng(0)
XS = {"a": RNG.standard_normal((2, 23, 3)), "b": RNG.standard_normal((11, 3)), "c": RNG.standard_normal((40, 5, 3))}
YS = {name: MODEL(x if x.ndim == 3 else x[None])[0].reshape(*x.shape[:-1], 8) for name, x in XS.items()}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a model, in which the program runs."""
    monkeypatch.chdir(tmp_path)
    save("m.npz", MODEL)
    return tmp_path


@pytest.fixture
def small_blocks(monkeypatch):
    """Unpack few numbers at a time."""
    monkeypatch.setattr(packed, "_BLOCK", 40)


def write_npy(path, arrays):
    Path(path).mkdir()
    for name, array in arrays.items():
        np.save(f"{path}/{name}.npy", array)
    return path


def write_npz(path, arrays):
    np.savez_compressed(f"{path}.npz", **arrays)
    return f"{path}.npz"


def write_hdf5(path, arrays):
    h5py = pytest.importorskip("h5py")
    with h5py.File(f"{path}.h5", "a") as file:
        for name, array in arrays.items():
            chunks = {} if name == "b" else {"chunks": (1, 4, 3), "compression": "gzip"}
            file.create_dataset(f"in/{name}", data=array, **chunks)
    return f"{path}.h5::/in"


def put_zarr(group, name, array, **options):
    group.create_array(name, shape=array.shape, dtype=array.dtype, **options)[...] = array


def write_zarr(path, arrays, zarr_format=3):
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group(f"{path}.zarr", mode="a", zarr_format=zarr_format).require_group("in")
    for name, array in arrays.items():
        put_zarr(group, name, array, chunks=(4, 3, 2)[-array.ndim :])
    return f"{path}.zarr::/in"


def write_zarr2(path, arrays):
    return write_zarr(path, arrays, 2)


INPUTS = {"folder": write_npy, "npz": write_npz, "hdf5": write_hdf5, "zarr": write_zarr, "zarr 2": write_zarr2}
OUTPUTS = {"folder": "out", "npz": "out.npz", "hdf5": "out.h5::/y/z", "zarr": "out.zarr::/y/z"}
inputs = pytest.mark.parametrize("kind", INPUTS)
outputs = pytest.mark.parametrize("target", OUTPUTS)
PACKED = {kind: write for kind, write in INPUTS.items() if kind != "folder"}
in_one_file = pytest.mark.parametrize("kind", PACKED)


def made(output):
    """Return the arrays that are in an output."""
    path, _, inside = output.partition("::")
    if path.endswith(".npz"):
        with np.load(path) as arrays:
            return dict(arrays)
    if path.endswith(".h5"):
        with pytest.importorskip("h5py").File(path) as file:
            return {name: item[...] for name, item in file[inside].items() if hasattr(item, "chunks")}
    if path.endswith(".zarr"):
        group = pytest.importorskip("zarr").open_group(path, mode="r")
        group = group[inside.strip("/")] if inside.strip("/") else group
        return {name: item[...] for name, item in group.arrays()}
    return {file.stem: np.load(file) for file in Path(path).iterdir()}


def library_of(target):
    """Skip a test for what is not installed."""
    module = {"hdf5": "h5py", "zarr": "zarr"}.get(target)
    if module:
        pytest.importorskip(module)


def assert_made(output, wanted=YS):
    got = made(output)
    assert set(got) == set(wanted)
    for name, y in wanted.items():
        assert got[name].dtype == y.dtype
        np.testing.assert_allclose(got[name], y, rtol=0, atol=1e-12)


def fails(capsys, argv, *words):
    """Run the program, which must fail in one line with these words, and leave the folder as it is."""
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    line = program.fails(capsys, argv)
    assert all(word in line for word in words), line
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before


# Every kind of input into every kind of output.


@inputs
@outputs
@pytest.mark.usefixtures("small_blocks")
def test_every_input_is_run(kind, target, folder):
    library_of(target)
    source = INPUTS[kind]("x", XS)
    before = set(os.listdir())
    assert cli.main(["run", "m.npz", source, "-o", OUTPUTS[target], "--chunk", "7", "--jobs", "2"]) == 0
    assert_made(OUTPUTS[target])
    assert set(os.listdir()) - before == {OUTPUTS[target].partition("::")[0]}


@pytest.mark.parametrize("kind", INPUTS)
def test_progress_of_the_whole(kind, folder, capsys):
    """Of every input, layer and direction each block, and not what is unpacked."""
    source = INPUTS[kind]("x", XS)
    assert cli.main(["run", "m.npz", source, "-o", "out", "--chunk", "7"]) == 0
    blocks = sum(-(-x.shape[-2] // 7) for x in XS.values())
    assert f" {4 * blocks}/{4 * blocks} " in capsys.readouterr().out


@outputs
def test_inputs_of_different_kinds(target, folder):
    library_of(target)
    np.save("a.npy", XS["a"])
    source = write_npz("x", {"b": XS["b"], "c": XS["c"]})
    assert cli.main(["run", "m.npz", "a.npy", source, "-o", OUTPUTS[target]]) == 0
    assert_made(OUTPUTS[target])


@in_one_file
@pytest.mark.parametrize("name", XS)
def test_one_array_becomes_one(kind, name, folder):
    where = PACKED[kind]("x", XS)
    where = f"{where}/{name}" if "::" in where else f"{where}::{name}"
    assert cli.main(["run", "m.npz", where, "-o", "y.npy"]) == 0
    np.testing.assert_allclose(np.load("y.npy"), YS[name], rtol=0, atol=1e-12)
    there = where.replace("::/in/", "::/")  # into the file of the input, at its root
    if there != where:
        assert cli.main(["run", "m.npz", where, "-o", there]) == 0
        assert cli.main(["run", "m.npz", where, "-o", there]) == 0  # once more, in its own place
        assert_made(there.removesuffix(name), {name: YS[name]})
        assert_made(where.removesuffix(f"/{name}"), XS)


def test_an_array_at_the_root_of_zarr(folder):
    zarr = pytest.importorskip("zarr")
    zarr.create_array("x.zarr", data=XS["a"])
    assert cli.main(["run", "m.npz", "x.zarr", "-o", "y.npy"]) == 0
    np.testing.assert_allclose(np.load("y.npy"), YS["a"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(0, 5, 3), (2, 0, 3), (0, 3)])
@pytest.mark.parametrize("kind", ["npz", "hdf5", "zarr"])
def test_arrays_without_numbers(kind, shape, folder):
    x = np.ones(shape)
    if kind == "npz":
        np.savez("x.npz", x=x)
        source, target = "x.npz", "y.npz"
    elif kind == "hdf5":
        with pytest.importorskip("h5py").File("x.h5", "w") as file:
            file["x"] = x
        source, target = "x.h5::/x", "y.h5::/y"
    else:
        pytest.importorskip("zarr").open_group("x.zarr", mode="w").create_array("x", shape=shape, dtype="f8")
        source, target = "x.zarr::/x", "y.zarr::/y"
    assert cli.main(["run", "m.npz", source, "-o", target]) == 0
    assert cli.main(["run", "m.npz", target.replace("/y", "/y"), "-o", "z.npy"]) == 1  # eight features, not three
    assert [each.shape for each in stored.find(target.partition("::")[0])] == [(*shape[:-1], 8)]


@pytest.mark.parametrize("library", ["torch", pytest.param("jax", marks=pytest.mark.slow), "mlx"])
def test_jobs_on_other_libraries(library, folder):
    pytest.importorskip(library)
    argv = ["run", "m.npz", write_npy("xs", XS), "-o", "out", "--jobs", "2", "--library", library, "--chunk", "7"]
    assert cli.main(argv) == 0
    assert_made("out")


# What is there already.


@pytest.mark.parametrize("kind", ["npz", "hdf5", "zarr", "zarr 2"])
def test_what_else_an_output_has_stays(kind, folder):
    """And what has the name of an output is replaced."""
    target = INPUTS[kind]("y", {"other": XS["a"], "a": XS["c"]})
    source = write_npy("xs", XS)
    assert cli.main(["run", "m.npz", source, "-o", target]) == 0
    assert_made(target, YS | {"other": XS["a"]})


@outputs
def test_again_only_what_is_missing(target, folder, capsys, monkeypatch):
    library_of(target)
    argv = ["run", "m.npz", write_npy("xs", XS), "-o", OUTPUTS[target], "--jobs", "2", "--skip-existing"]
    done = []
    one = run._one

    def failing(task, each, *rest):
        done.append(each.name)
        if each.name == "b" and len(done) <= len(XS):
            raise ValueError("no good")
        return one(task, each, *rest)

    monkeypatch.setattr(run, "_one", failing)
    line = program.fails(capsys, argv)
    assert line == f"lstm-xp: 1 of 3 failed: {Path('xs', 'b.npy')}: no good"
    assert_made(OUTPUTS[target], {name: YS[name] for name in "ac"})
    for wanted in (["b"], []):
        done[len(XS) :] = []
        assert cli.main(argv) == 0
        assert done[len(XS) :] == wanted
        assert_made(OUTPUTS[target])


def packed_array(path, name, array):
    """Put one array into a file of many, by the library's own means."""
    if path.endswith(".npz"):
        np.savez(path, **{name: array})
    elif path.endswith(".h5"):
        with pytest.importorskip("h5py").File(path, "a") as file:
            file[name] = array
    else:
        put_zarr(pytest.importorskip("zarr").open_group(path, mode="a"), name, array)


@pytest.mark.parametrize("path", ["y.h5", "y.zarr"])
def test_an_empty_group_is_no_place(path, folder, capsys):
    """It may have attributes."""
    np.save("x.npy", XS["a"])
    packed_array(path, "other", XS["a"])
    if path == "y.h5":
        with pytest.importorskip("h5py").File(path, "a") as file:
            file.create_group("y").attrs["unit"] = "m"
    else:
        pytest.importorskip("zarr").open_group(path).create_group("y").attrs["unit"] = "m"
    fails(capsys, ["run", "m.npz", "x.npy", "-o", f"{path}::/y"], f"{path} has a group 'y', so that there is no place")


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("group", ["", "g"])
@pytest.mark.filterwarnings("ignore:Consolidated metadata is currently not part")
def test_consolidated_metadata(zarr_format, group, folder):
    """What is described in one place for all arrays is what is there, before and after."""
    zarr = pytest.importorskip("zarr")
    root = zarr.open_group("y.zarr", mode="w", zarr_format=zarr_format)
    put_zarr(root, "g/a", np.full((4, 3), 7.0))
    zarr.consolidate_metadata("y.zarr", path=group)
    put_zarr(root, "g/late", XS["b"])  # which the description lacks
    assert cli.main(["run", "m.npz", "y.zarr::/g/late", "-o", "late.npy"]) == 0
    assert cli.main(["run", "m.npz", write_npy("xs", XS), "-o", "y.zarr::/g"]) == 0
    found = zarr.open_group("y.zarr", path=group, mode="r")
    assert set(found.metadata.consolidated_metadata.flattened_metadata) >= {f"{'g/' * (group == '')}{k}" for k in "abc"}
    for name, y in YS.items():
        array = found[f"g/{name}" if group == "" else name]
        np.testing.assert_allclose(array[...], y, rtol=0, atol=1e-12)


def test_what_else_lies_in_a_file_is_not_looked_at(folder):
    """Nor is it lost, and what was compressed still is."""
    zarr, h5py = pytest.importorskip("zarr"), pytest.importorskip("h5py")
    with zipfile.ZipFile("x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("README.txt", "hello")
        for name, array in {"object": np.array([None] * 9), "a": XS["a"], "zeros": np.zeros(10**6)}.items():
            with archive.open(f"{name}.npy", "w") as file:
                np.save(file, array)
    with h5py.File("x.h5", "w") as file:
        file["a"], file["null"], file["type"] = XS["a"], h5py.Empty("f4"), np.dtype("f4")
        file["lost"] = h5py.SoftLink("/nowhere")
    group = zarr.open_group("x.zarr", mode="w")
    for name in ("a", "foreign"):
        put_zarr(group, name, XS["a"])
    Path("x.zarr/broken").symlink_to("nowhere")
    Path("x.zarr/foreign/zarr.json").write_text(Path("x.zarr/foreign/zarr.json").read_text().replace("zstd", "xyz"))
    for path in ("x.npz", "x.h5", "x.zarr"):
        assert cli.main(["run", "m.npz", f"{path}::a", "-o", f"{path}::y"]) == 0
        assert cli.main(["run", "m.npz", f"{path}::a", "-o", f"{path}::y", "--skip-existing"]) == 0
        array = stored.find(f"{path}::y")[0]
        assert array.shape == YS["a"].shape
    assert Path("x.npz").stat().st_size < 10**5
    with zipfile.ZipFile("x.npz") as archive:
        assert archive.read("README.txt") == b"hello"
        assert set(archive.namelist()) == {"README.txt", "object.npy", "a.npy", "zeros.npy", "y.npy"}
    with h5py.File("x.h5") as file:
        assert set(file) == {"a", "null", "type", "lost", "y"}
    assert [each.key for each in stored.find("x.h5")] == ["a", "y"]


@pytest.mark.parametrize("where", ["x.h5::/real/a", "x.h5::/hard", "x.h5::/soft", "x.h5::/outer/a", "x.h5::/outer"])
def test_links_of_hdf5(where, folder):
    h5py = pytest.importorskip("h5py")
    with h5py.File("x.h5", "w") as file:
        file["real/a"] = XS["a"]
        file["hard"], file["soft"], file["outer"] = file["real/a"], h5py.SoftLink("/real/a"), h5py.SoftLink("/real")
    assert cli.main(["run", "m.npz", where, "-o", "out"]) == 0
    y = np.load("out/a.npy" if where == "x.h5::/outer" else "out")
    np.testing.assert_allclose(y, YS["a"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("path", ["y.npz", "y.h5"])
def test_two_runs_into_one_file(path, folder, capsys, monkeypatch):
    """What is written meanwhile by another program is not lost."""
    np.save("x.npy", XS["a"])
    packed_array(path, "old", XS["b"])
    writing = packed.writing

    @contextmanager
    def together(target):
        with writing(target) as file:
            packed_array("other" + path[1:], "new", XS["b"])
            os.replace("other" + path[1:], path)
            yield file

    with monkeypatch.context() as patch:
        patch.setattr(packed, "writing", together)
        line = program.fails(capsys, ["run", "m.npz", "x.npy", "-o", f"{path}::y"])
    assert f"cannot write {path}: another program has changed it meanwhile; run again" in line
    assert cli.main(["run", "m.npz", "x.npy", "-o", f"{path}::y"]) == 0
    assert [each.key for each in stored.find(path)] == ["new", "y"]


def test_a_link_to_a_zarr_elsewhere(folder):
    zarr = pytest.importorskip("zarr")
    np.save("x.npy", XS["a"])
    Path("disk").mkdir()
    Path("y.zarr").symlink_to("disk/y.zarr")
    for name in ("a", "b"):
        assert cli.main(["run", "m.npz", "x.npy", "-o", f"y.zarr::/{name}"]) == 0
    assert Path("y.zarr").is_symlink()
    assert set(zarr.open_group("disk/y.zarr", mode="r")) == {"a", "b"}


@outputs
def test_the_last_state_is_kept_once_the_output_is(target, folder, capsys, monkeypatch):
    """Otherwise a stream could not be gone on with from where it was."""
    library_of(target)
    np.save("x.npy", XS["a"])
    where = "y.npy" if target == "folder" else OUTPUTS[target]
    argv = ["run", "m.npz", "x.npy", "-o", where, "--save-state", "s.npz"]
    assert cli.main(argv) == 0
    before, replace = Path("s.npz").read_bytes(), os.replace

    def full(source, target):
        if Path(target).name != "s.npz":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        fails(capsys, [*argv, "--state", "s.npz"], os.strerror(errno.ENOSPC))
    os.remove("s.npz")
    assert cli.main([*argv, "--skip-existing"]) == 0
    assert Path("s.npz").read_bytes() == before


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_an_error_that_a_signal_has_brought_about(jobs, folder, capsys, monkeypatch):
    """As when it comes while a file is closed."""

    def closing(*_):
        try:
            raise KeyboardInterrupt(signal.SIGTERM)
        finally:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    monkeypatch.setattr(run, "_one", closing)
    argv = ["run", "m.npz", write_npy("xs", XS), "-o", "out", "--jobs", jobs]
    assert program.fails(capsys, argv, status=128 + signal.SIGTERM) == "lstm-xp: terminated"


def test_a_signal_while_temporary_files_go(folder, monkeypatch):
    remove, calls = shutil.rmtree, []

    def interrupted(path):
        calls.append(path)
        if len(calls) == 1:
            raise KeyboardInterrupt
        remove(path)

    monkeypatch.setattr(shutil, "rmtree", interrupted)
    with pytest.raises(KeyboardInterrupt), temporary_folder(folder) as made:
        (made / "file").touch()
    assert os.listdir() == ["m.npz"]


# Bad input.

BAD = {
    "no files": (["empty", "-o", "out"], "empty has no .npy files"),
    "no such array": (["x.npz::d", "-o", "out"], "x.npz has no array 'd'; it has 'a', 'b', 'c'"),
    "no such dataset": (["x.h5::/in/d", "-o", "out"], "x.h5 has no array 'in/d'; it has 'in/a', 'in/b', 'in/c'"),
    "no such zarr": (["x.zarr::/d", "-o", "out"], "x.zarr has no array 'd'; it has 'in/a', 'in/b', 'in/c'"),
    "below an array": (["root.zarr::/x", "-o", "out"], "root.zarr has no array 'x'; it has ''"),
    "no file": (["none.h5::/x", "-o", "out"], f"none.h5: {os.strerror(errno.ENOENT)}"),
    "no folder": (["none.zarr::/x", "-o", "out"], f"none.zarr: {os.strerror(errno.ENOENT)}"),
    "no archive": (["text.npz", "-o", "out"], "cannot use text.npz: "),
    "no HDF5": (["text.h5", "-o", "out"], "cannot use text.h5: "),
    "no Zarr": (["empty.zarr", "-o", "out"], "cannot use empty.zarr: "),
    "rank": (["bad.zarr::/flat", "-o", "out"], "flat must have shape (batch, time, 3) or (time, 3); got (3,)"),
    "features": (["bad.h5::/wide", "-o", "out"], "wide must have shape (batch, time, 3) or (time, 3); got (2, 4)"),
    "dtype": (["bad.npz::int", "-o", "out"], "bad.npz::int must have the dtype of the weights, float64"),
    "one of many": (["xs", "bad.npz::int", "-o", "out"], "bad.npz::int must have the dtype"),
    "one name": (["xs/a.npy", "x.npz::a", "-o", "out"], "x.npz::a and xs/a.npy must have names that differ"),
    "itself": (["xs/a.npy", "-o", "./xs/../xs/a.npy"], "--output must not be an input"),
    "a folder of itself": (["xs", "-o", "xs"], "--output must not be an input"),
    "an archive of itself": (["x.npz", "-o", "x.npz"], "--output must not be an input"),
    "a group of itself": (["x.h5::/in", "-o", "x.h5::/in"], "--output must not be an input"),
    "the model": (["x.npz", "-o", "m.npz"], "--output must not be an input"),
    "a file for many": (["xs", "-o", "xs/a.npy"], f"xs/a.npy: {os.strerror(errno.EEXIST)}"),
    "nowhere": (["xs", "-o", "none/out"], f"none/out: {os.strerror(errno.ENOENT)}"),
    "an archive nowhere": (["xs", "-o", "none/out.npz"], f"none/out.npz: {os.strerror(errno.ENOENT)}"),
    "a Zarr nowhere": (["xs", "-o", "none/out.zarr::/y"], f"none/out.zarr: {os.strerror(errno.ENOENT)}"),
    "no Zarr to write to": (["xs", "-o", "empty.zarr::/y"], "cannot use empty.zarr: "),
    "above": (["xs/a.npy", "-o", "out.zarr::/../y"], "--output must be FILE::PATH with a plain path; got '../y'"),
    "within an array": (
        ["xs", "-o", "x.h5::/in/a"],
        "x.h5 has an array 'in/a', so that there is no place for 'in/a/a'",
    ),
    "a Zarr that is an array": (
        ["xs/a.npy", "-o", "root.zarr::/y"],
        "root.zarr has an array '', so that there is no place for",
    ),
    "a group": (["xs/a.npy", "-o", "x.zarr::/in"], "x.zarr has a group 'in', so that there is no place for an array"),
    "lengths": (["xs", "-o", "out", "--lengths", "l.npy"], "--save-state go with a single input"),
    "state": (["xs", "-o", "out", "--save-state", "s.npz"], "--save-state go with a single input"),
    "promises": (["promises.zarr::/x", "-o", "out"], "takes 24000000000000 bytes of memory, more than a file of"),
    "chunks": (["promises.zarr::/chunk", "-o", "out"], "more than a file of"),
    "no text": (["x\udcff.npy", "-o", "out.npz"], "--output must be FILE::PATH with a plain path; got 'x"),
    "no shape": (["bad.h5::/null", "-o", "out"], "cannot use bad.h5::/null: it is empty, without a shape"),
    "a circle": (["xs/a.npy", "-o", "circle.npy"], f"circle.npy: {os.strerror(errno.ELOOP)}"),
    "hdf5 promises": (["promises.h5::/x", "-o", "out"], "takes 24000000000000 bytes of memory, more than a file of"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_before_any_work(case, folder, capsys, monkeypatch):
    h5py, zarr = pytest.importorskip("h5py"), pytest.importorskip("zarr")
    monkeypatch.setattr(run, "_one", None)
    for write in (write_npy, write_npz, write_hdf5, write_zarr):
        write("xs" if write is write_npy else "x", XS)
    np.savez("bad.npz", int=np.ones((2, 3), int))
    with h5py.File("bad.h5", "w") as file, h5py.File("promises.h5", "w") as promises:
        file["wide"], file["null"], file["lost"] = np.ones((2, 4)), h5py.Empty("f4"), h5py.SoftLink("/nowhere")
        promises.create_dataset("x", (10**12, 3), "f8", chunks=(1000, 3))
    zarr.open_group("bad.zarr").create_array("flat", shape=3, dtype="f8")
    zarr.open_group("promises.zarr").create_array("x", shape=(10**12, 3), chunks=(1000, 3), dtype="f8")
    zarr.open_group("promises.zarr").create_array("chunk", shape=(5, 3), chunks=(10**9, 3), dtype="f8")
    zarr.create_array("root.zarr", data=XS["a"])
    Path("empty").mkdir()
    Path("empty.zarr").mkdir()
    np.save("x\udcff.npy", XS["a"])
    Path("circle.npy").symlink_to("circle.npy")
    for name in ("text.npz", "text.h5"):
        Path(name).write_text("hello")
    arguments, words = BAD[case]
    fails(capsys, ["run", "m.npz", *arguments], words)
    assert not Path("out").exists()


@pytest.mark.parametrize("jobs", ["0", "-1", "x"])
def test_no_jobs(jobs, folder, capsys):
    with pytest.raises(SystemExit):
        cli.main(["run", "m.npz", "xs", "-o", "out", "--jobs", jobs])
    assert "must be a whole number, 1 or more" in capsys.readouterr().err


@pytest.mark.parametrize(("kind", "module", "extra"), [("hdf5", "h5py", "hdf5"), ("zarr", "zarr", "zarr")])
def test_a_package_that_is_not_there(kind, module, extra, folder, capsys, monkeypatch):
    source = INPUTS[kind]("x", XS)
    np.save("x.npy", XS["a"])
    monkeypatch.setitem(sys.modules, module, None)
    fails(capsys, ["run", "m.npz", source, "-o", "out"], f"this needs {module}", f"lstm_xp[{extra}]")
    output = OUTPUTS[kind]
    fails(capsys, ["run", "m.npz", "x.npy", "-o", output], f"this needs {module}", f"lstm_xp[{extra}]")


# Damage, and faults of the machine.


def damage_npz(path):
    content = bytearray(Path("x.npz").read_bytes())
    content[len(content) // 2] ^= 255
    Path("x.npz").write_bytes(content)


def damage_hdf5(path):
    with pytest.importorskip("h5py").File("x.h5", "r+") as file:
        file["in/c"].id.write_direct_chunk((0, 0, 0), b"no chunk of gzip")


def damage_zarr(path):
    Path("x.zarr/in/c/c/0/0/0").write_bytes(b"no chunk")


DAMAGE = {"npz": damage_npz, "hdf5": damage_hdf5, "zarr": damage_zarr}


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_one_damaged_array(kind, jobs, folder, capsys):
    """It is named, and the others are made."""
    source = INPUTS[kind]("x", {"a": XS["a"], "c": RNG.standard_normal((40, 50, 3))})
    DAMAGE[kind](source)
    line = program.fails(capsys, ["run", "m.npz", source, "-o", "out", "--jobs", jobs])
    where = source + "::c" if kind == "npz" else f"{source.replace('::/', '::')}/c"
    assert f"1 of 2 failed: {where}: cannot use {where}: " in line
    assert_made("out", {"a": YS["a"]})


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("error", [OSError(errno.EIO, os.strerror(errno.EIO)), MemoryError("no memory")])
def test_a_fault_of_the_machine_is_no_damage(kind, error, folder, capsys, monkeypatch):
    source = INPUTS[kind]("x", {"a": XS["a"]})

    def faulty(*_):
        raise error

    kinds = {name: each._replace(open=faulty) for name, each in packed.KINDS.items()}
    monkeypatch.setattr(packed, "KINDS", kinds)
    if isinstance(error, MemoryError):
        with pytest.raises(MemoryError):
            cli.main(["run", "m.npz", source, "-o", "out"])
    else:
        fails(capsys, ["run", "m.npz", source, "-o", "out"], os.strerror(errno.EIO))


# Memory.


@pytest.fixture
def traced_memory():
    tracemalloc.start()
    yield
    tracemalloc.stop()


@pytest.mark.usefixtures("folder", "traced_memory")
@pytest.mark.parametrize("kind", ["npz", "hdf5", "zarr"])
def test_memory_does_not_grow_with_the_sequence(kind, monkeypatch):
    """Not by what is unpacked, nor by what is packed."""
    monkeypatch.setattr(packed, "_BLOCK", 1 << 14)
    save("wide.npz", LSTM.init(3, 8, rng=0, dtype=np.float64))
    peaks = {}
    for steps in (200, 2400):  # the longer input takes 4 MiB, its outputs 10
        x = np.random.default_rng(0).standard_normal((64, steps, 3))
        name = f"x{steps}"
        if kind == "npz":
            np.savez_compressed(f"{name}.npz", x=x)
        elif kind == "hdf5":
            with pytest.importorskip("h5py").File(f"{name}.h5", "w") as file:
                file.create_dataset("x", data=x, chunks=(8, 50, 3), compression="gzip")
        else:
            group = pytest.importorskip("zarr").open_group(f"{name}.zarr", mode="w")
            group.create_array("x", shape=x.shape, dtype="f8", chunks=(8, 200, 3))[...] = x
        del x
        suffix = {"hdf5": "h5"}.get(kind, kind)
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        argv = ["run", "wide.npz", f"{name}.{suffix}::x", "-o", f"y{steps}.{suffix}::y", "--chunk", "50"]
        assert cli.main(argv) == 0
        peaks[steps] = tracemalloc.get_traced_memory()[1] - before
    chunks = 2**21 if kind == "zarr" else 0  # which Zarr makes larger for larger arrays
    assert peaks[2400] - peaks[200] < 2**20 + chunks, peaks


# Signals.

STOPPED = """if True:
    import os, signal, sys, threading
    from lstm_xp import cli
    from lstm_xp.cli import stream
    number, sent = signal.Signals[sys.argv[1]], threading.Event()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
    signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    write = stream.Writer.write
    def stopping(self, start, block, first=0):
        write(self, start, block, first)
        if not sent.is_set():
            sent.set()
            os.kill(os.getpid(), number)
    stream.Writer.write = stopping
    sys.exit(cli.main(sys.argv[2:]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
@outputs
def test_a_signal_ends_all_jobs(target, name, folder):
    library_of(target)
    source = write_npy("xs", {k: np.ones((20_000, 3)) for k in "abcdefgh"})
    argv = ["run", "m.npz", source, "-o", OUTPUTS[target], "--jobs", "3", "--chunk", "1"]
    done = program.python("-c", STOPPED, name, *argv)
    assert done.returncode == 128 + signal.Signals[name]
    assert len(done.stderr.splitlines()) == 1
    assert set(os.listdir()) - {"out"} == {"m.npz", "xs"}
    assert not os.path.exists("out") or os.listdir("out") == []


@pytest.mark.parametrize("target", ["npz", "hdf5", "zarr"])
def test_an_output_that_cannot_be_packed_stays_as_it_was(target, folder, capsys, monkeypatch):
    path = INPUTS[target]("y", {"a": XS["a"]}).partition("::")[0]
    np.save("x.npy", XS["a"])

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    fails(capsys, ["run", "m.npz", "x.npy", "-o", f"{path}::b"], os.strerror(errno.ENOSPC))


KILLED = """if True:
    import os, signal, sys
    from contextlib import contextmanager
    from lstm_xp import cli
    from lstm_xp.cli import packed
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    class Killing:
        def __init__(self, file):
            self.file = file
        def __getattr__(self, name):
            return getattr(self.file, name)
        def write(self, content):
            os.kill(os.getpid(), signal.SIGTERM)
            return self.file.write(content)
    @contextmanager
    def killing(path):
        with writing(path) as file:
            yield Killing(file)
    writing, packed.writing = packed.writing, killing
    sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_signal_while_hdf5_writes(folder):
    path = write_hdf5("out", {"other": XS["a"]}).partition("::")[0]
    content = Path(path).read_bytes()
    np.save("x.npy", XS["a"])
    done = program.python("-c", KILLED, "run", "m.npz", "x.npy", "-o", f"{path}::/y")
    assert (done.returncode, done.stderr) == (128 + signal.SIGTERM, "lstm-xp: terminated\n")
    assert set(os.listdir()) == {"m.npz", "x.npy", path}
    assert Path(path).read_bytes() == content


FULL = """if True:
    import resource, signal, sys
    from lstm_xp import cli
    from lstm_xp.cli import packed
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    pack = packed.pack
    def packing(*arguments):
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
        pack(*arguments)
    packed.pack = packing
    sys.exit(cli.main(sys.argv[2:]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_FSIZE")
@pytest.mark.parametrize("limit", ["1000", "5000", "20000"])
@pytest.mark.parametrize("target", ["npz", "hdf5", "zarr"])
def test_a_full_disk_while_an_output_is_packed(target, limit, folder):
    """HDF5 would crash where its own writes fail."""
    library_of(target)
    np.save("x.npy", RNG.standard_normal((2, 800, 3)))
    before = set(os.listdir())
    done = program.python("-c", FULL, limit, "run", "m.npz", "x.npy", "-o", OUTPUTS[target])
    assert done.returncode == 1
    *warnings, line = done.stderr.splitlines()
    assert line.startswith("lstm-xp: ")
    assert line.endswith(os.strerror(errno.EFBIG))
    assert "Traceback" not in str(warnings)  # some that Zarr's codecs have of one another
    assert set(os.listdir()) == before
