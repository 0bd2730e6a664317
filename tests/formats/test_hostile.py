"""Files that are damaged, or made to do harm: a clear refusal, soon, in little memory, and nothing run or touched."""

import io
import json
import os
import pickle
import random
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from lstm_xp import LSTM, load, save
from lstm_xp.formats import FORMATS
from lstm_xp.formats import torch as torch_format
from tests.support.rebuilt import Rebuilt
from tests.support.stacks import MODELS, assert_same

torch = pytest.importorskip("torch")
pytest.importorskip("h5py")
pytest.importorskip("pyfive")
pytest.importorskip("onnx")
pytest.importorskip("safetensors")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:`torch.jit.*` is deprecated:DeprecationWarning"),
]

ROOT = Path(__file__).parents[2]
WAIT = 500  # seconds for a process that is done in ten, on the busiest machine
MODEL = MODELS["both"]
SUFFIXES = [files.suffixes[0][1:] for format in FORMATS.values() for files in format.files if files.suffixes]


def _legacy(path):
    torch.save(torch_format.to_params(MODEL), path, _use_new_zipfile_serialization=False)


def _jit(path):
    peer = torch.nn.LSTM(3, 4, 2, bidirectional=True)
    peer.load_state_dict(torch_format.to_params(MODEL))
    torch.jit.save(torch.jit.script(peer), path)


MAKERS = {suffix: lambda path: save(path, MODEL) for suffix in SUFFIXES} | {"legacy.pt": _legacy, "jit": _jit}
kinds = pytest.mark.parametrize("kind", MAKERS)


@pytest.fixture(scope="module")
def valid(tmp_path_factory):
    """The bytes of one good file of every kind."""
    folder = tmp_path_factory.mktemp("valid")
    for kind, make in MAKERS.items():
        make(folder / f"model.{kind}")
        assert_same(load(folder / f"model.{kind}"), MODEL)
    return {kind: (folder / f"model.{kind}").read_bytes() for kind in MAKERS}


@pytest.fixture(scope="module")
def victim():
    """The process whose children read files: it has imported what reads them."""
    argv = [sys.executable, "-m", "tests.support.victim", str(WAIT)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        yield process
        process.kill()


@pytest.fixture
def read_all(victim):
    """Return the function that reads files in a process of their own, which must do nothing but that.

    It returns what came of each by its name. Seconds are those of the processor: the clock only ends what hangs.
    """

    def read_all(paths, *, seconds=2.0, mebibytes=300):
        print(json.dumps(list(map(str, paths))), file=victim.stdin, flush=True)
        *lines, end = _until_ended(victim.stdout)
        assert end == "ended 0\n"
        report = json.loads(lines[-1])
        assert len(report["results"]) == len(paths)
        assert not report["acts"]
        assert report["MiB"] < mebibytes
        assert not [result for result in report["results"] if result[1].startswith("fault")]
        assert not [result for result in report["results"] if result[2] > seconds]
        return {name: result for name, result, _ in report["results"]}

    return read_all


def _until_ended(stream):
    """Yield lines up to the one that says how the child ended; an empty one if the parent has."""
    line = "\n"
    while line and not line.startswith("ended"):
        line = stream.readline()
        yield line


@pytest.fixture
def assert_refused(read_all):
    """Return the function that holds a file against what a process of its own says of it."""

    def assert_refused(path, words):
        (result,) = read_all([path]).values()
        assert result.startswith("refused")
        assert words in result

    return assert_refused


@kinds
def test_truncated(kind, valid, tmp_path, read_all):
    paths = []
    for part in (1, 4, 9, 40, len(valid[kind]) // 2, len(valid[kind]) - 40, len(valid[kind]) - 1):
        paths.append(tmp_path / f"{part}.{kind}")
        paths[-1].write_bytes(valid[kind][:part])
    assert all(result.startswith("refused") for result in read_all(paths).values())


@kinds
def test_empty_and_random(kind, valid, tmp_path, read_all):
    rng = random.Random(0)
    empty, noise, zeros = (tmp_path / f"{name}.{kind}" for name in ("empty", "noise", "zeros"))
    empty.write_bytes(b"")
    noise.write_bytes(rng.randbytes(5000))
    zeros.write_bytes(bytes(5000))
    results = read_all([empty, noise, zeros])
    assert all(result.startswith("refused") for result in results.values())
    assert "got an empty file" in results[empty.name]


@kinds
def test_the_content_counts_and_not_the_suffix(kind, valid, tmp_path):
    for suffix in ("npz", "pt", "txt"):
        path = tmp_path / f"model.{suffix}"
        path.write_bytes(valid[kind])
        assert_same(load(path), MODEL)


@kinds
def test_not_numbers(kind, tmp_path, monkeypatch):
    """A weight that is not finite, in a file that is otherwise good."""
    weights = MODEL.layers[1].backward
    broken = weights._replace(weight_hh=weights.weight_hh * np.float32(np.nan))
    layers = (MODEL.layers[0], MODEL.layers[1]._replace(backward=broken))
    monkeypatch.setattr(sys.modules[__name__], "MODEL", LSTM(layers))
    monkeypatch.setattr("lstm_xp.formats._finite", lambda function, model: model)
    MAKERS[kind](tmp_path / f"model.{kind}")
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"`layers\[1\].backward.weight_hh` must be finite; got NaN or infinity"):
        load(tmp_path / f"model.{kind}")


# Bombs: little on disk, much in memory


def zipped(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def bomb(path, names, size, *, said):
    """Write an archive each of whose members unpacks to so many MiB of zeros, and of which it says that many bytes."""
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    each = compressor.compress(bytes(1 << 20)) + compressor.flush(zlib.Z_FULL_FLUSH)
    content = each * size + compressor.flush()
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, content)
        for member in archive.infolist():  # which is written last, and alone says what a member is
            member.compress_type, member.file_size = zipfile.ZIP_DEFLATED, said


@pytest.mark.parametrize("members", [("big.npy",), ("a/data.pkl", "a/big"), ("a/data.pkl", "a/constants.pkl", "a/big")])
def test_a_zip_bomb(members, tmp_path, read_all):
    bomb(tmp_path / "bomb", members, 128, said=128 << 20)
    assert os.path.getsize(tmp_path / "bomb") < 1 << 20
    (result,) = read_all([tmp_path / "bomb"], mebibytes=100).values()
    assert "more than a file of" in result or "not a readable" in result


@pytest.mark.parametrize("kind", ["npz", "keras", "jit"])
def test_a_zip_bomb_that_says_it_is_small(kind, valid, tmp_path, read_all):
    """Its members have far more in them than the archive says."""
    with zipfile.ZipFile(io.BytesIO(valid[kind])) as archive:
        bomb(tmp_path / f"a.{kind}", archive.namelist(), 180, said=200)
    (result,) = read_all([tmp_path / f"a.{kind}"], mebibytes=100).values()
    assert "Bad CRC-32" in result


def header(shape, descr="<f4"):
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": descr, "fortran_order": False, "shape": shape})
    return stream.getvalue()


def test_absurd_dimensions(tmp_path, read_all):
    zipped(tmp_path / "a.npz", {"layers.0.forward.weight_ih.npy": header((1 << 40, 4)) + bytes(64)})
    zipped(tmp_path / "b.npz", {"layers.0.forward.weight_ih.npy": header((0, 1 << 62)) + bytes(64)})
    described = {"lstm.weight_hh_l0": {"dtype": "F32", "shape": [1 << 31, 1 << 31], "data_offsets": [0, 16]}}
    text = json.dumps(described).encode()
    (tmp_path / "c.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(16))
    (tmp_path / "d.safetensors").write_bytes((1 << 60).to_bytes(8, "little") + text + bytes(16))
    one = torch.zeros(1)
    huge = {
        f"lstm.{part}_l0": one.expand(1 << 20, 1 << 18) for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    }
    torch.save(huge, tmp_path / "e.pt")
    torch.save({k: v.bfloat16() for k, v in {"lstm.weight_hh_l0": one}.items()}, tmp_path / "f.pt")
    paths = [tmp_path / name for name in ("a.npz", "b.npz", "c.safetensors", "d.safetensors", "e.pt")]
    results = read_all(paths, mebibytes=150)
    assert all(result.startswith("refused") for result in results.values())
    assert "more than a file of" in results["e.pt"]


# Pickles that would run code


def harm(path):
    """What unpickles into a call."""
    return Rebuilt(os.system, f"touch {path}")


def test_a_pickle_that_would_run_code(tmp_path, valid, read_all):
    mark = tmp_path / "mark"
    torch.save({"lstm": harm(mark)}, tmp_path / "a.pt")
    torch.save({"lstm": harm(mark)}, tmp_path / "b.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "c.pt").write_bytes(pickle.dumps(harm(mark)))
    with zipfile.ZipFile(io.BytesIO(valid["jit"])) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = next(name for name in members if name.endswith("/data.pkl"))
    zipped(tmp_path / "d.jit", members | {name: pickle.dumps(harm(mark), protocol=2)})
    np.savez(tmp_path / "e.npz", description=np.array([harm(mark)], dtype=object))
    results = read_all([tmp_path / name for name in ("a.pt", "b.pt", "c.pt", "d.jit", "e.npz")])
    assert not mark.exists()
    assert "an object of posix.system" in results["a.pt"]
    assert "an object of posix.system" in results["b.pt"]
    assert results["d.jit"] == "loaded: []"  # what the pickle names was never looked up, and no weights are there


def test_the_harm_would_be_done(tmp_path):
    """The check above can fail: the same pickle in Python's own hands, and a reader that opens what it should not."""
    pickle.loads(pickle.dumps(harm(tmp_path / "mark")))
    assert (tmp_path / "mark").exists()
    code = """
import sys
from tests.support.victim import watch

seen = watch("/nowhere")
open("/etc/hostname")
print(len(seen))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True, timeout=WAIT
    )
    assert done.stdout.strip() == "1"


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    ("start", "shape", "strides"),
    [
        (0, (17,), (1,)),
        (0, (2, 9), (8, 1)),
        (1, (4, 4), (4, 1)),
        (-1, (4, 4), (4, 1)),
        (0, (4, 4), (5, 1)),
        (3, (2, 4), (-1, 1)),
        (0, (-4, -4), (4, 1)),
        (0, (2, 5), (2**62, 0)),
        (0, (5, 2), (2**62, 1)),
        (2**70, (1,), (1,)),
        (0, (4,), (1, 1)),
    ],
    ids=str,
)
def test_a_tensor_outside_of_its_storage(start, shape, strides, legacy, tmp_path, read_all):
    storage = torch.zeros(16)._typed_storage()
    tensor = Rebuilt(torch._utils._rebuild_tensor_v2, storage, start, shape, strides, False, {})
    torch.save({"weight_hh_l0": tensor}, tmp_path / "a.pt", _use_new_zipfile_serialization=not legacy)
    (result,) = read_all([tmp_path / "a.pt"]).values()
    words = "must lie within its storage" if len(shape) == len(strides) else "is longer than"
    assert result.startswith("refused")
    assert words in result


def test_a_tensor_in_the_place_of_a_storage(tmp_path, assert_refused):
    """A view that repeats its numbers says that it has more of them than there are."""
    view = Rebuilt(torch._utils._rebuild_tensor_v2, torch.zeros(16)._typed_storage(), 0, (1 << 20,), (0,), False, {})
    tensor = Rebuilt(torch._utils._rebuild_tensor_v2, view, 0, (1 << 10, 1 << 10), (1 << 10, 1), False, {})
    torch.save({"weight_hh_l0": tensor}, tmp_path / "a.pt")
    assert_refused(tmp_path / "a.pt", "must lie within its storage")


def test_torchscript_with_a_tensor_outside_of_its_storage(valid, tmp_path, assert_refused):
    with zipfile.ZipFile(io.BytesIO(valid["jit"])) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = next(name for name in members if name.endswith("/data/0"))
    zipped(tmp_path / "a.jit", members | {name: members[name][:-4]})
    assert_refused(tmp_path / "a.jit", "must lie within its storage")


def test_pickles_without_an_end(valid, tmp_path, read_all):
    """A mapping that holds itself, and a memo index that would take gigabytes."""
    with zipfile.ZipFile(io.BytesIO(valid["jit"])) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = next(name for name in members if name.endswith("/data.pkl"))
    loop: dict[str, object] = {}
    loop["self"] = loop
    zipped(tmp_path / "a.jit", members | {name: pickle.dumps(loop, protocol=2)})
    zipped(tmp_path / "b.jit", members | {name: b"\x80\x02}r\xff\xff\xff\x7f."})
    torch.save(loop, tmp_path / "c.pt")
    deep: dict[str, object] = {}
    for _ in range(300):
        deep = {"a": deep}
    torch.save(deep, tmp_path / "d.pt")
    results = read_all([tmp_path / name for name in ("a.jit", "b.jit", "c.pt", "d.pt")], mebibytes=100)
    assert set(results.values()) == {"loaded: []"}


GIBI = 1 << 30
LONGEST = b"\x8a\x05" + (2 * GIBI).to_bytes(5, "little")  # an integer
HUNGRY = {
    "binunicode": b"X" + (2 * GIBI).to_bytes(4, "little"),
    "binunicode8": b"\x8d" + (2 * GIBI).to_bytes(8, "little"),
    "binbytes": b"B" + (2 * GIBI).to_bytes(4, "little"),
    "binbytes8": b"\x8e" + (2 * GIBI).to_bytes(8, "little"),
    "bytearray8": b"\x96" + (2 * GIBI).to_bytes(8, "little"),
    "binstring": b"T" + (2 * GIBI - 1).to_bytes(4, "little"),
    "long4": b"\x8b" + (2 * GIBI - 1).to_bytes(4, "little"),
    "frame": b"\x95" + (2 * GIBI).to_bytes(8, "little"),
    "bytearray": b"cbuiltins\nbytearray\n" + LONGEST + b"\x85R",
    "__builtin__": b"c__builtin__\nbytearray\n" + LONGEST + b"\x85R",
    "codec": b"c_codecs\nencode\nq\x00X\x00\x20\0\0" + bytes(1 << 13) + b"X\6\0\0\0latin1\x86R"
    + b"q\x01h\x00h\x01X\3\0\0\0hex\x86R" * 18,
    "deep": b"})" + b"\x85" * 1_000_000 + b"Ns",
    "set": b"(" + b")" + b"\x85" * 1_000_000 + b"\x91",
    "dict": b"(" + b")" + b"\x85" * 1_000_000 + b"Nd",
    "key": b"(X\1\0\0\0sctorch\nFloatStorage\n)" + b"\x85" * 1_000_000 + b"X\3\0\0\0cpuK\1tQ",
    "state": b"}(X\1\0\0\0a}q\0(" + b"".join(b"M" + struct.pack("<H", k) + b"N" for k in range(1 << 16))
    + b"uX\1\0\0\0b](ccollections\nOrderedDict\nq\1" + b"h\1)Rh\0b" * 20_000 + b"eu",
}  # fmt: skip
HARMLESS = {"bytearray", "__builtin__", "codec", "deep", "state"}  # as what they call is never looked up


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS")
@pytest.mark.parametrize("name", HUNGRY)
def test_a_pickle_asks_for_gigabytes(name, tmp_path, read_all):
    """Or for more recursion than there is, or fills much with little. In state dicts and in TorchScript."""
    stream = b"\x80\x04" + HUNGRY[name] + b"."
    zipped(tmp_path / "a.pt", {"a/data.pkl": stream})
    first = [torch.serialization.MAGIC_NUMBER, torch.serialization.PROTOCOL_VERSION, {"little_endian": True}]
    (tmp_path / "b.pt").write_bytes(b"".join(pickle.dumps(each, 2) for each in first) + stream + pickle.dumps([], 2))
    zipped(tmp_path / "c.jit", {"a/data.pkl": stream, "a/constants.pkl": b""})
    zipped(tmp_path / "empty", {"a": b""})
    (tmp_path / "d.pt").write_bytes((tmp_path / "b.pt").read_bytes() + (tmp_path / "empty").read_bytes())
    results = read_all(sorted(tmp_path.iterdir()), mebibytes=100)
    refused = [name for name, result in results.items() if result.startswith("refused")]
    assert refused == (["empty"] if name in HARMLESS else sorted(results))


def test_a_tar_that_begins_as_pickles(tmp_path, assert_refused):
    """PyTorch would unpack it, as it was written before 0.1.10."""
    with tarfile.open(tmp_path / "a.pt", "w", format=tarfile.GNU_FORMAT, encoding="latin1") as archive:
        for name in ("\x80\2N." * 5, "storages", "tensors", "pickle"):
            archive.addfile(tarfile.TarInfo(name))
    assert_refused(tmp_path / "a.pt", "must begin with the number that PyTorch writes")


def test_views_that_a_pickle_turns_into_numbers(tmp_path, read_all):
    view = torch.zeros(1).expand(1 << 28)
    moved = Rebuilt(torch._utils._rebuild_device_tensor_from_cpu_tensor, view, torch.float64, "cpu", False)
    torch.save({"lstm.weight_hh_l0": moved}, tmp_path / "a.pt")
    assert set(read_all([tmp_path / "a.pt"]).values()) == {"loaded: []"}


# Mutations

ROUNDS = 600


def mutated(content, rng):
    """Return the bytes with some of them changed, cut, doubled, or put elsewhere."""
    content = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 5, 20))):
        if not content:
            break
        at = rng.randrange(len(content)) if rng.random() < 0.5 else rng.randrange(min(len(content), 600))
        match rng.randrange(6):
            case 0:
                content[at] ^= 1 << rng.randrange(8)
            case 1:
                content[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
            case 2:
                content[at : at + 4] = rng.choice((bytes(4), b"\xff" * 4, b"\x00\x00\x00\x7f", rng.randbytes(4)))
            case 3:
                content[at : at + rng.randrange(16)] = b""
            case 4:
                content[at:at] = content[at : at + rng.randrange(64)]
            case 5:
                content = content[: max(16, at)] if rng.random() < 0.2 else content
    return bytes(content)


@pytest.mark.parametrize("kind", MAKERS)
def test_mutations_are_loaded_or_refused(kind, valid, tmp_path, read_all):
    rng = random.Random(0)
    paths = []
    for k in range(ROUNDS):
        paths.append(tmp_path / f"{k}.{kind}")
        paths[-1].write_bytes(mutated(valid[kind], rng))
    results = read_all(paths)
    assert sum(result.startswith("refused") for result in results.values()) > ROUNDS // 20
