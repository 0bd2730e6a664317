"""Files and state dicts of PyTorch, the native format, and what `load`, `save` and `inspect` say."""

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from collections import Counter, OrderedDict
from types import SimpleNamespace

import numpy as np
import pytest

import lstm_xp
from lstm_xp import LSTM, Cell, Layer, inspect, load, save
from lstm_xp.formats import native
from lstm_xp.formats import torch as torch_format
from tests.support.rebuilt import Rebuilt
from tests.support.stacks import MODELS, assert_same, run

torch = pytest.importorskip("torch")
safetensors_numpy = pytest.importorskip("safetensors.numpy")

pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit.*` is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]

native_suffixes = pytest.mark.parametrize("suffix", ["npz", "safetensors"])


def by_name(models=MODELS):
    return pytest.mark.parametrize("model", models.values(), ids=[name.replace(" ", "-") for name in models])


def randomised(module, seed=0):
    """Return a module whose weights are all random, both biases too."""
    rng = np.random.default_rng(seed)
    for p in module.parameters():
        p.data = torch.tensor(rng.uniform(-1, 1, p.shape), dtype=p.dtype)
    return module.eval()


class Several(torch.nn.Module):
    """A module with layers of every recurrent kind, one inside another module."""

    def __init__(self):
        super().__init__()
        self.encoder = torch.nn.ModuleDict({"rnn": torch.nn.LSTM(3, 4, 2, bidirectional=True)})
        self.cell = torch.nn.LSTMCell(3, 5)
        self.gru, self.gru_cell = torch.nn.GRU(3, 4), torch.nn.GRUCell(3, 4)
        self.rnn, self.head = torch.nn.RNN(3, 4), torch.nn.Linear(3, 4)


class Scripted(torch.nn.Module):
    """A module that TorchScript compiles."""

    def __init__(self):
        super().__init__()
        self.rnn = torch.nn.LSTM(3, 4, 2, batch_first=True, bidirectional=True)
        self.cell = torch.nn.LSTMCell(3, 5)
        self.gru = torch.nn.GRU(3, 4)

    def forward(self, x):
        return self.rnn(x)[0], self.cell(x[:, 0])[0], self.gru(x)[0]


# The native format


@native_suffixes
@by_name()
def test_native_holds_every_model_exactly(model, suffix, tmp_path):
    path = tmp_path / f"model.{suffix}"
    save(path, model)
    assert_same(load(path), model)
    assert load(path).cell == model.cell
    assert [entry.format for entry in inspect(path)] == [f"lstm_xp {suffix}"]


@native_suffixes
def test_a_function_is_refused_by_name(suffix, tmp_path):
    model = LSTM(MODELS["plain"].layers, Cell(output_activation=lambda x, xp: x))
    with pytest.raises(ValueError, match=r"save: .*the native format cannot hold a function as `output_activation`"):
        save(tmp_path / f"model.{suffix}", model)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": 2}, r"version 1 of the native format is read here; got 2"),
        ({"format": "x"}, r"must name the format 'lstm_xp'; got 'x'"),
        ({"cell": {"clop": 1}}, r"the cell must be described by its options; got {'clop': 1}"),
        ({"cell": {"clip": -1}}, r"`clip` must be a positive number"),
        ({"cell": [{}, {}]}, r"`cell` must be a Cell, or a tuple with one a layer"),
        ({"cell": 3}, r"the cell must be described by its options; got 3"),
    ],
)
def test_a_description_that_does_not_fit(change, words, tmp_path):
    arrays, description = native.to_params(MODELS["plain"])
    np.savez(tmp_path / "a.npz", description=json.dumps(description | change), **arrays)
    with pytest.raises(ValueError, match=words):
        load(tmp_path / "a.npz")


# As JSON spells them.
NO_NUMBERS = ["NaN", "Infinity", "-Infinity", "1e400", "true", '"1"', "[1]", "{}", "9" * 400, "9" * 4000, "9" * 9000]


@native_suffixes
@pytest.mark.parametrize("number", NO_NUMBERS, ids=lambda text: text[:9] + str(len(text)))
@pytest.mark.parametrize("option", ["clip", "cell_clip", "gate_activation"])
def test_what_is_no_number_is_said_when_it_is_read(option, number, suffix, tmp_path):
    arrays, description = native.to_params(MODELS["plain"])
    value = f'["elu", {number}, 0.0]' if option == "gate_activation" else number
    text = json.dumps(description).replace('"cell": {}', f'"cell": {{"{option}": {value}}}')
    path = tmp_path / f"a.{suffix}"
    if suffix == "npz":
        np.savez(path, description=text, **arrays)
    else:
        path.write_bytes(safetensors_numpy.save(arrays, {"description": text}))
    with pytest.raises(ValueError, match=r"load: .*(`.*` must be .* number|Exceeds the limit)") as caught:
        load(path)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -1.0])
def test_what_is_no_number_in_onnx(number, tmp_path):
    onnx = pytest.importorskip("onnx")
    save(tmp_path / "a.onnx", LSTM(MODELS["plain"].layers, Cell(clip=0.5)))
    proto = onnx.load(tmp_path / "a.onnx")
    for node in proto.graph.node:
        for attribute in node.attribute:
            if attribute.name == "clip":
                attribute.f = number
    onnx.save(proto, tmp_path / "a.onnx")
    (entry,) = inspect(tmp_path / "a.onnx")
    assert f"`clip` must be a positive number or None; got {number}" in entry.problem


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"layers.0.forward.weight_ih": None}, r"'layers.0.forward.weight_ih' is missing"),
        ({"layers.2.forward.weight_ih": np.zeros(3)}, r"numbered from 0 without a gap; got \[0, 2\]"),
        ({"layers.0.forward.other": np.zeros(3)}, r"arrays must be named like .*; got 'layers.0.forward.other'"),
        ({"other": np.zeros(3)}, r"arrays must be named like 'layers.0.forward.weight_ih'; got 'other'"),
        ({"layers.0.forward.bias": np.zeros(3, np.float32)}, r"`layers\[0\].forward.bias` must have shape \(4H\) = "),
        ({"layers.0.forward.bias": np.zeros(16)}, r"must have the dtype of"),
        ({"layers.0.forward.bias": np.zeros(16, int)}, r"must have the dtype of"),
        ({"layers.0.forward.bias": np.full(16, np.nan, np.float32)}, r"`layers\[0\].forward.bias` must be finite"),
        ({"layers.0.forward.weight_ih": np.zeros(3, np.float32)}, r"weight_ih` must have 2 dimensions"),
    ],
)
def test_arrays_that_do_not_fit(change, words, tmp_path):
    arrays, description = native.to_params(MODELS["plain"])
    arrays = {name: array for name, array in (arrays | change).items() if array is not None}
    np.savez(tmp_path / "a.npz", description=json.dumps(description), **arrays)
    with pytest.raises(ValueError, match=words):
        load(tmp_path / "a.npz")


@native_suffixes
@pytest.mark.parametrize("text", ["[]", "3", '"lstm_xp"', "null"])
def test_a_description_that_is_no_object(text, suffix, tmp_path):
    arrays, _ = native.to_params(MODELS["plain"])
    path = tmp_path / f"a.{suffix}"
    if suffix == "npz":
        np.savez(path, description=text, **arrays)
    else:
        path.write_bytes(safetensors_numpy.save(arrays, {"description": text}))
    with pytest.raises(ValueError, match=r"the description must be a JSON object; got '"):
        load(path)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_tensors_of_other_kinds_in_safetensors(metadata, tmp_path):
    tensors = {f"a.{name}": t.numpy() for name, t in torch_format.to_params(MODELS["plain"]).items()}
    tensors |= {"a.weight_ih_l1": np.ones((16, 4), np.int64), "b.weight_hh_l0": np.ones((16, 4), np.int32)}
    path = tmp_path / "a.safetensors"
    path.write_bytes(safetensors_numpy.save(tensors, metadata))
    (entry,) = inspect(path)
    assert (entry.name, entry.format) == ("a", "PyTorch names in safetensors")
    assert_same(entry.model, MODELS["plain"])


def test_an_archive_of_something_else(tmp_path):
    np.savez(tmp_path / "a.npz", weights=np.zeros(3))
    with pytest.raises(ValueError, match=r"an .npz of this package has an array 'description'; got weights"):
        load(tmp_path / "a.npz")


def test_arrays_of_other_libraries_are_saved(tmp_path):
    jax = pytest.importorskip("jax")
    for k, xp in enumerate((torch, jax.numpy)):
        save(tmp_path / f"{k}.npz", MODELS["both"].to(xp))
        assert_same(load(tmp_path / f"{k}.npz"), MODELS["both"])


def test_bfloat16_widens_exactly(tmp_path):
    model = MODELS["plain"].to(torch, dtype=torch.bfloat16)
    wanted = model.to(dtype=torch.float32).to(np)
    save(tmp_path / "a.npz", model)
    assert_same(load(tmp_path / "a.npz"), wanted)
    tensors = {f"lstm.{k}": v.bfloat16() for k, v in torch_format.to_params(model).items()}
    torch.save(tensors, tmp_path / "a.pt")
    assert_same(load(tmp_path / "a.pt"), wanted)
    pytest.importorskip("safetensors.torch").save_file(tensors, tmp_path / "a.safetensors")
    assert_same(load(tmp_path / "a.safetensors"), wanted)


@pytest.mark.parametrize("named", ["ours", "PyTorch's"])
def test_the_other_byte_order(named, tmp_path):
    """The numbers count, and not how they lie in the file: the model that was read computes what the original does."""
    model = MODELS["double"]
    if named == "ours":
        arrays, description = native.to_params(model)
        extra = {"description": json.dumps(description)}
    else:
        arrays, extra = {f"a.{name}": t.numpy() for name, t in torch_format.to_params(model).items()}, {}
    np.savez(tmp_path / "a.npz", **extra, **{name: array.astype(">f8") for name, array in arrays.items()})
    got = load(tmp_path / "a.npz")
    assert got.layers[0].forward.weight_ih.dtype.isnative
    assert_same(got, model)
    x = torch.ones((2, 5, 3), dtype=torch.float64)  # a library that has no other byte order
    np.testing.assert_allclose(got.to(torch)(x)[0], model(x.numpy())[0], rtol=0, atol=1e-12)


def test_a_header_of_safetensors_that_begins_like_a_pickle(tmp_path):
    """Its length comes first, and that of one in 32 files begins with the byte of a pickle."""
    tensors = {name: t.numpy() for name, t in torch_format.to_params(MODELS["plain"]).items()}
    for k in range(2000):
        content = safetensors_numpy.save(tensors, {"note": "x" * k})
        if content[0] == 0x80:
            break
    assert content[0] == 0x80
    (tmp_path / "a.safetensors").write_bytes(content)
    (entry,) = inspect(tmp_path / "a.safetensors")
    assert entry.format == "PyTorch names in safetensors"
    assert_same(entry.model, MODELS["plain"])


# PyTorch

PEERS = {
    "plain": torch.nn.LSTM(3, 4, batch_first=True),
    "all": torch.nn.LSTM(3, 4, 3, batch_first=True, bidirectional=True),
    "projected": torch.nn.LSTM(3, 4, 2, batch_first=True, bidirectional=True, proj_size=2),
    "no bias": torch.nn.LSTM(3, 4, 2, batch_first=True, bias=False),
    "double": torch.nn.LSTM(3, 4, batch_first=True, dtype=torch.float64),
}


@by_name(PEERS)
def test_a_live_lstm_and_back(model):
    """Both biases are random, so that a lost one would be seen."""
    peer = randomised(model)
    ours = torch_format.from_params(peer)
    x = torch.tensor(np.random.default_rng(1).standard_normal((2, 5, 3)), dtype=next(peer.parameters()).dtype)
    with torch.no_grad():
        y = peer(x)[0].numpy()
    np.testing.assert_allclose(ours(x.numpy())[0], y, rtol=0, atol=1e-6 if y.dtype == np.float32 else 1e-12)
    again = randomised(model, seed=2)
    assert not again.load_state_dict(torch_format.to_params(ours), strict=True).missing_keys
    with torch.no_grad():
        np.testing.assert_allclose(again(x)[0].numpy(), y, rtol=0, atol=1e-6)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("options", [{"hidden_size": 5}, {"hidden_size": 4, "bidirectional": True}], ids=str)
def test_torch_holds_no_layers_that_differ_in_one_way(options, bias):
    model = LSTM(LSTM.init(3, 4, bias=bias, rng=0).layers + LSTM.init(4, bias=bias, rng=1, **options).layers)
    with pytest.raises(ValueError, match="PyTorch cannot hold layers that differ"):
        torch_format.to_params(model)


def test_a_live_cell():
    peer = randomised(torch.nn.LSTMCell(3, 4))
    x, h, c = (
        torch.tensor(np.random.default_rng(1).standard_normal(s), dtype=torch.float32) for s in [(2, 3)] + [(2, 4)] * 2
    )
    with torch.no_grad():
        h_next, c_next = peer(x, (h, c))
    state = (lstm_xp.LSTMState(h.numpy()[None], c.numpy()[None]),)
    _, ((h_ours, c_ours),) = torch_format.from_params(peer)(x.numpy()[:, None], state)
    np.testing.assert_allclose(h_ours[0], h_next, atol=1e-6)
    np.testing.assert_allclose(c_ours[0], c_next, atol=1e-6)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("wrapped", [False, True], ids=["bare", "checkpoint"])
def test_state_dicts_in_files(wrapped, legacy, tmp_path):
    peer = randomised(Several())
    tree = {"step": 7, "model_state": peer.state_dict(), "betas": [0.9]} if wrapped else peer.state_dict()
    torch.save(tree, tmp_path / "a.pt", _use_new_zipfile_serialization=not legacy)
    entries = inspect(tmp_path / "a.pt")
    prefix = "model_state." if wrapped else ""
    assert [entry.name for entry in entries] == [prefix + "encoder.rnn", prefix + "cell"]
    assert_same(load(tmp_path / "a.pt", name=prefix + "cell"), torch_format.from_params(peer.cell))
    assert_same(load(tmp_path / "a.pt", name=prefix + "encoder.rnn"), torch_format.from_params(peer.encoder["rnn"]))


def carved(tensors):
    """The same tensors as views of one storage."""
    flat = torch.cat([torch.zeros(7), *(tensor.flatten() for tensor in tensors.values())])
    ends = np.cumsum([tensor.numel() for tensor in tensors.values()]) + 7
    views = zip(tensors.items(), ends, strict=True)
    return {name: flat[end - tensor.numel() : end].view(tensor.shape) for (name, tensor), end in views}


LAYOUTS = {
    "views of one storage": carved,
    "columns": lambda tensors: {name: torch.stack([t, t], -1)[..., 1] for name, t in tensors.items()},
    "transposed": lambda tensors: {n: t.t().contiguous().t() if t.ndim == 2 else t for n, t in tensors.items()},
    "expanded": lambda tensors: {name: torch.ones(1).expand(t.shape) for name, t in tensors.items()},
    "parameters": lambda tensors: {name: torch.nn.Parameter(t) for name, t in tensors.items()},
    "marked": lambda tensors: {name: marked(torch.nn.Parameter(t)) for name, t in tensors.items()},
    "half": lambda tensors: {name: t.half() for name, t in tensors.items()},
    "double": lambda tensors: {name: t.double() for name, t in tensors.items()},
    "bfloat16": lambda tensors: {name: t.bfloat16() for name, t in tensors.items()},
    "DataParallel": lambda tensors: {f"module.{name}": t for name, t in tensors.items()},
    "in each other": lambda tensors: {"state_dict": {"models": {1: tensors}}},
    "other kinds beside": lambda tensors: tensors | beside(),
}


def marked(tensor):
    tensor.mark = "a mark"
    return tensor


def beside():
    """What else checkpoints have."""
    kinds = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool, torch.complex64)
    moments = {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.999)}]}
    return {
        "numbers": {str(kind): torch.ones(3, dtype=kind) for kind in kinds},
        "empty": torch.zeros(4, 0),
        "scalar": torch.tensor(1.0),
        "optimizer_states": [moments],
        "rng": torch.get_rng_state(),
        "plain": [None, True, 2**70, -1, 1e-3, "text", {1, 2}, Counter("aab"), OrderedDict(a=1), 1j],
        "torch's": [torch.Size([1, 2]), torch.float32, torch.device("cpu"), torch.eye(2).to_sparse()],
        "bytes": [b"bytes", bytearray(b"bytes")],
        ("no", "text"): 1,
    }


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_tensors_are_read_as_pytorch_reads_them(layout, legacy, tmp_path):
    tree = LAYOUTS[layout](randomised(torch.nn.LSTM(3, 4, 2, bidirectional=True)).state_dict())
    torch.save(tree, tmp_path / "a.pt", _use_new_zipfile_serialization=not legacy)
    wanted = torch_format.from_params(torch.load(tmp_path / "a.pt", weights_only=True))
    assert_same(load(tmp_path / "a.pt"), wanted)


@pytest.mark.parametrize("layout", ["views of one storage", "half", "double", "bfloat16"])
def test_the_other_byte_order_in_pt(layout, tmp_path):
    tree = LAYOUTS[layout](randomised(torch.nn.LSTM(3, 4)).state_dict())
    size = tree["weight_ih_l0"].element_size()
    torch.save(tree, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as archive, zipfile.ZipFile(tmp_path / "b.pt", "w") as turned:
        for name in archive.namelist():
            content = archive.read(name)
            if name.endswith("/byteorder"):
                content = b"big"
            elif "/data/" in name:
                content = np.frombuffer(content, f"u{size}").byteswap().tobytes()
            turned.writestr(name, content)
    assert_same(load(tmp_path / "b.pt"), torch_format.from_params(tree))


def test_what_else_an_archive_of_pytorch_has(tmp_path):
    """The order of bytes only since PyTorch 2.1; other members of like names are none of its own."""
    torch.save(torch_format.to_params(MODELS["plain"]), tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as archive, zipfile.ZipFile(tmp_path / "b.pt", "w") as other:
        for name in archive.namelist():
            if not name.endswith("/byteorder"):
                other.writestr(name, archive.read(name))
        for name in ("a/extra/data.pkl", "data.pkl", "a/other"):
            other.writestr(name, b"no pickle")
    assert_same(load(tmp_path / "b.pt"), MODELS["plain"])
    assert inspect(tmp_path / "b.pt")[0].format == "PyTorch state dict"


def test_views_of_old_files(tmp_path):
    """Before PyTorch 0.4 a storage could be a view of another one."""

    class Old(pickle.Pickler):
        def persistent_id(self, obj):
            return ("storage", torch.FloatStorage, "7", "cpu", 40, ("8", 2, 38)) if obj is old else None

    def tensor(start, *shape):
        strides = tuple(np.cumprod([1, *shape[:0:-1]])[::-1].tolist())
        return Rebuilt(torch._utils._rebuild_tensor, old, start, shape, strides)

    old, out = object(), io.BytesIO()
    for each in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
        pickle.dump(each, out, 2)
    Old(out, 2).dump({"weight_ih_l0": tensor(0, 4, 3), "weight_hh_l0": tensor(12, 4, 1)})
    pickle.dump(["7"], out, 2)
    (tmp_path / "a.pt").write_bytes(out.getvalue() + struct.pack("<q40f", 40, *range(40)))
    weights = load(tmp_path / "a.pt").layers[0].forward
    np.testing.assert_array_equal(weights.weight_ih, np.arange(2.0, 14).reshape(4, 3))
    np.testing.assert_array_equal(weights.weight_hh, np.arange(14.0, 18).reshape(4, 1))


@pytest.mark.parametrize("change", ["magic", "names", "neither"])
def test_old_files_say_what_they_are(change, tmp_path):
    torch.save(torch_format.to_params(MODELS["plain"]), tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    content = (tmp_path / "a.pt").read_bytes()
    if change == "magic":
        content = content.replace(pickle.dumps(torch.serialization.MAGIC_NUMBER, 2)[:-1], pickle.dumps(7, 2)[:-1])
    elif change == "names":  # of one storage more
        end = content.rindex(b"e.")
        content = content[:end] + b"X\1\0\0\0x" + content[end:] + bytes(8)
    (tmp_path / "a.pt").write_bytes(content)
    if change == "neither":
        assert_same(load(tmp_path / "a.pt"), MODELS["plain"])
    else:
        with pytest.raises(ValueError, match="must begin with the number that PyTorch writes, and list the storages"):
            load(tmp_path / "a.pt")


@pytest.mark.parametrize("compiled", ["script", "trace"])
def test_torchscript(compiled, tmp_path):
    peer = randomised(Scripted())
    module = torch.jit.script(peer) if compiled == "script" else torch.jit.trace(peer, torch.zeros(2, 2, 3))
    torch.jit.save(module, tmp_path / "a.jit")
    assert [entry[:2] for entry in inspect(tmp_path / "a.jit")] == [("rnn", "TorchScript"), ("cell", "TorchScript")]
    assert_same(load(tmp_path / "a.jit", name="rnn"), torch_format.from_params(peer.rnn))


@by_name()
def test_pt_holds_the_model_or_says_why_not(model, tmp_path):
    lacking = {
        "peephole": "`peephole` weights",
        "reverse": "a reverse-only layer",
        "activations": "a `cell` other than the plain one",
        "candidate": "a `cell` other",
        "clips": "a `cell` other",
        "coupled": "a `cell` other",
        "cells": "a `cell` other",
        "sizes": "layers that differ in size",
    }
    name = next(name for name, each in MODELS.items() if each is model)
    path = tmp_path / "a.pt"
    if name in lacking:
        with pytest.raises(ValueError, match=f"save: .*PyTorch cannot hold {lacking[name]}"):
            save(path, model)
        assert not os.listdir(tmp_path)
    else:
        save(path, model)
        assert_same(load(path), model)


def test_names_of_pytorch_in_safetensors(tmp_path):
    peer = randomised(Several())
    safetensors_numpy.save_file({k: v.numpy() for k, v in peer.state_dict().items()}, tmp_path / "a.safetensors")
    assert_same(load(tmp_path / "a.safetensors", name="cell"), torch_format.from_params(peer.cell))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"bias_hh_l0": None}, r"layer 0 must have .*, or no bias at all; missing: bias_hh\.$"),
        ({"weight_ih_l1": None}, r"layer 1 must have .*missing: weight_ih"),
        ({"weight_hh_l2": torch.zeros(16, 4)}, r"layer 2 must have"),
        ({"weight_hh_l3": torch.zeros(16, 4)}, r"numbered from 0 without a gap; got \[0, 1, 3\]"),
        ({"bias_hh_l0": torch.zeros(15)}, r"layer 0 must have biases of one shape; got \(16,\) and \(15,\)"),
        ({"weight_ih_l1": torch.zeros(16, 5)}, r"`layers\[1\].forward.weight_ih` must have shape"),
        ({"bias_hh_l0": torch.full((16,), torch.inf)}, r"`layers\[0\].forward.bias` must be finite"),
    ],
)
def test_weights_that_do_not_fit(change, words, tmp_path):
    tensors = {k: v for k, v in (torch_format.to_params(MODELS["stack"]) | change).items() if v is not None}
    tensors = {k: v for k, v in tensors.items() if "_l2" not in k or k in change}
    torch.save(tensors, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=rf"load: .*a.pt, LSTM '\.': .*{words}"):
        load(tmp_path / "a.pt")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["weight_ih_l0", "bias_ih_l0", "bias_hh_l0"], "source has no LSTM"),
        (["weight_hh_l0_reverse", "weight_ih_l0_reverse"], "source has no LSTM"),
        (["weight_hh_l1", "weight_ih_l1"], "source has no LSTM"),
        (["weight_ih_l0"], "source has no LSTM"),
    ],
    ids=str,
)
def test_weights_that_are_no_lstm(names, words):
    tensors = torch.nn.LSTM(3, 4, 2, bidirectional=True).state_dict()
    with pytest.raises(ValueError, match=words):
        torch_format.from_params({name: tensors[name] for name in names})


def test_peepholes_by_the_name_that_they_have_in_this_packages_module():
    peer = torch.nn.LSTM(3, 4, proj_size=2)
    weights = torch_format.from_params(peer.state_dict() | {"weight_peephole_l0": torch.arange(12.0)})
    np.testing.assert_array_equal(weights.layers[0].forward.peephole, np.arange(12.0))
    np.testing.assert_array_equal(weights.layers[0].forward.weight_hr, peer.weight_hr_l0.detach())


def test_a_recurrent_weight_that_is_no_matrix():
    assert not torch_format.found({"weight_hh_l0": np.zeros(16), "weight_ih_l0": np.zeros((16, 3))}, "")


@pytest.mark.parametrize(("number", "words"), [("99999", "numbered from 0 without a gap"), ("100000", None)])
def test_the_longest_number_of_a_layer(number, words):
    """What is longer is no number of a layer."""
    state = torch.nn.LSTM(3, 4).state_dict()
    (entry,) = torch_format.found(state | {f"weight_hh_l{number}": state["weight_hh_l0"]}, "")
    assert words in entry.problem if words else entry.problem is None
    arrays, description = native.to_params(MODELS["plain"])
    for digits, said in ((6, "numbered from 0 without a gap"), (7, "arrays must be named like")):
        with pytest.raises(ValueError, match=said):
            native.from_params(arrays | {f"layers.{'1' * digits}.forward.bias": np.zeros(16)}, description)


def test_what_of_a_tree_is_an_array():
    """Whatever has a shape and a floating dtype, once."""
    half, inner = SimpleNamespace(shape=(), dtype="torch.bfloat16"), {"b": np.ones(1), 3: np.ones(2, np.float16)}
    tree = {"a": inner, "again": inner, "i": np.ones(3, int), "c": np.ones(1, complex), "none": None, "half": half}
    tree |= {"s": SimpleNamespace(shape=(1,)), "d": SimpleNamespace(dtype="float32")}
    tree["self"] = tree
    assert [name for name, _ in torch_format.flattened(tree)] == ["a.b", "a.3", "half"]
    assert [name for name, _ in torch_format.flattened(np.ones(1))] == [""]


def test_layers_that_only_go_backwards():
    tensors = {k: v for k, v in torch.nn.LSTM(3, 4, 2, bidirectional=True).state_dict().items()}
    del tensors["weight_ih_l1"], tensors["weight_hh_l1"], tensors["bias_ih_l1"], tensors["bias_hh_l1"]
    with pytest.raises(
        ValueError, match=r"layer 1 must have a forward direction; got weights of the reverse one alone"
    ):
        torch_format.from_params(tensors)


def test_a_pickled_module_is_refused_with_the_reason(tmp_path):
    torch.save(torch.nn.LSTM(3, 4), tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"an object of torch.nn.modules.rnn.LSTM.* would run code.*state_dict\(\)"):
        load(tmp_path / "a.pt")


def test_a_problem_does_not_hide_the_others(tmp_path):
    good, bad = torch_format.to_params(MODELS["plain"]), torch_format.to_params(MODELS["plain"])
    del bad["bias_hh_l0"]
    torch.save({f"{name}.{k}": v for name, sd in (("a", bad), ("b", good)) for k, v in sd.items()}, tmp_path / "a.pt")
    first, second = inspect(tmp_path / "a.pt")
    assert first.model is None
    assert "missing: bias_hh" in first.problem
    assert_same(second.model, MODELS["plain"])
    assert second.problem is None


# What the three functions say


def test_several_need_a_name(tmp_path):
    torch.save(Several().state_dict(), tmp_path / "a.pt")
    with pytest.raises(
        ValueError, match=r"load: `name` must say which LSTM of .*, one of 'encoder.rnn', 'cell'; got None"
    ):
        load(tmp_path / "a.pt")
    with pytest.raises(
        ValueError, match=r"load: `name` must be one of the LSTMs of .*, 'encoder.rnn', 'cell'; got 'x'"
    ):
        load(tmp_path / "a.pt", name="x")
    with pytest.raises(ValueError, match=r"from_params: `name` must say which LSTM of source"):
        torch_format.from_params(Several())


def test_views_that_are_larger_than_their_file(tmp_path):
    torch.save({"weight_hh_l0": torch.ones(1).expand(1 << 14, 1 << 12)}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="it takes 268435456 bytes of memory, more than a file of"):
        inspect(tmp_path / "a.pt")


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_what_is_no_mapping(legacy, tmp_path):
    torch.save([torch.zeros(1)], tmp_path / "a.pt", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ValueError, match=r"it must hold a state dict, or a mapping with one inside; got list\."):
        inspect(tmp_path / "a.pt")


def test_none_at_all(tmp_path):
    torch.save(torch.nn.GRU(3, 4).state_dict(), tmp_path / "a.pt")
    assert inspect(tmp_path / "a.pt") == ()
    with pytest.raises(ValueError, match=r"load: .*a.pt has no LSTM"):
        load(tmp_path / "a.pt")


@pytest.mark.parametrize(("content", "got"), [(b"", "an empty file"), (b"a" * 9, "something that starts with b'a{8}'")])
def test_a_file_of_no_format(content, got, tmp_path):
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(ValueError, match=rf"a\.npz: it must be of one of the formats npz, .*; got {got}\."):
        load(tmp_path / "a.npz")


def test_the_suffix_names_the_format(tmp_path):
    with pytest.raises(ValueError, match=r"save: `path` must end in one of \.npz, .*; got 'model.bin'"):
        save(tmp_path / "model.bin", MODELS["plain"])
    with pytest.raises(TypeError, match=r"save: `model` must be an LSTM; got tuple"):
        save(tmp_path / "model.npz", MODELS["plain"].layers)


def test_saving_replaces_and_nothing_is_half_written(tmp_path, monkeypatch):
    path = tmp_path / "a.npz"
    save(path, MODELS["plain"])
    save(path, MODELS["stack"])

    def full(*_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=os.strerror(28)):
        save(path, MODELS["both"])
    assert os.listdir(tmp_path) == ["a.npz"]
    assert_same(load(path), MODELS["stack"])


@pytest.mark.parametrize("suffix", ["pt", "safetensors", "npz"])
def test_bad_models_are_not_written(suffix, tmp_path):
    weights = MODELS["plain"].layers[0].forward
    broken = LSTM((Layer(weights._replace(bias=np.full(16, np.nan, np.float32))),))
    with pytest.raises(ValueError, match=r"save: `layers\[0\].forward.bias` must be finite"):
        save(tmp_path / f"a.{suffix}", broken)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    ("suffix", "module", "extra"), [("pt", "torch", "torch"), ("safetensors", "safetensors.numpy", "safetensors")]
)
def test_a_missing_package_names_the_extra(suffix, module, extra, tmp_path, monkeypatch):
    save(tmp_path / f"a.{suffix}", MODELS["plain"])
    for name in (module, module.split(".")[0]):
        monkeypatch.setitem(sys.modules, name, None)
    words = rf'this needs {extra}: pip install "lstm_xp\[{extra}\]"'
    if suffix == "pt":
        assert_same(load(tmp_path / "a.pt"), MODELS["plain"])
    else:
        with pytest.raises(ModuleNotFoundError, match=words):
            load(tmp_path / f"a.{suffix}")
    with pytest.raises(ModuleNotFoundError, match=words):
        save(tmp_path / f"b.{suffix}", MODELS["plain"])


def test_no_format_imports_its_package_before_it_is_needed():
    code = "import sys, lstm_xp.formats; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=300)
    loaded = done.stdout.split()
    others = {"torch", "jax", "flax", "keras", "h5py", "pyfive", "onnx", "safetensors", "equinox", "mlx", "haiku"}
    assert not others & set(loaded)


def test_the_check_sees_a_difference():
    """That of this file: one number of one array, and a lost layer."""
    changed = MODELS["plain"].layers[0].forward._replace(bias=MODELS["plain"].layers[0].forward.bias + np.float32(1e-3))
    with pytest.raises(AssertionError):
        assert_same(LSTM((Layer(changed),)), MODELS["plain"])
    with pytest.raises(AssertionError):
        assert_same(MODELS["plain"], MODELS["stack"])
    assert run(MODELS["plain"]).shape == (2, 5, 4)
