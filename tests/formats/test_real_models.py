"""Trained models that other people publish, read here and run on three libraries, against the frameworks they are for.

They are downloaded from the package registry, and never imported or run.
"""

import re
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from lstm_xp import LSTMState, inspect, load
from tests.support.stacks import assert_same

jax = pytest.importorskip("jax")
onnx = pytest.importorskip("onnx")
torch = pytest.importorskip("torch")

pytestmark = [
    pytest.mark.models,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:`torch.jit.*` is deprecated:DeprecationWarning"),
]

SILERO = "silero-vad==6.2.3"  # MIT; voice activity, one layer of 128 units
RESEMBLYZER = "Resemblyzer==0.1.4"  # Apache 2.0; speaker embedding, three layers of 256 units
UNREACHABLE = re.compile(
    "NewConnectionError|NameResolutionError|ConnectTimeout|ReadTimeout|ProxyError|Network is unreachable"
    "|name resolution|Connection (refused|reset|aborted)"
)

LIBRARIES = {"numpy": np, "torch": torch, "jax": jax.numpy}


@pytest.fixture(scope="module")
def downloaded(tmp_path_factory):
    """Return a function that fetches a distribution and returns the folder with its files."""
    folders = {}

    def fetch(requirement):
        if requirement not in folders:
            folder = tmp_path_factory.mktemp("download")
            command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "-d", str(folder), requirement]
            done = subprocess.run(command, capture_output=True, text=True, timeout=500)
            if done.returncode and UNREACHABLE.search(done.stderr):
                pytest.skip(f"the package registry cannot be reached for {requirement}")
            assert done.returncode == 0, done.stderr
            (wheel,) = folder.glob("*.whl")
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(folder)
            folders[requirement] = folder
        return folders[requirement]

    return fetch


@pytest.fixture(scope="module")
def silero(downloaded):
    return downloaded(SILERO) / "silero_vad" / "data"


def random_problem(I, H, D=1, *, layers=1, B=2, T=9):  # noqa: E741 -- the field's letter for the input size
    rng = np.random.default_rng(0)
    x = rng.standard_normal((B, T, I)).astype(np.float32)
    return x, tuple(LSTMState(*rng.uniform(-1, 1, (2, D, B, H)).astype(np.float32)) for _ in range(layers))


def assert_runs_like(model, x, state, y, h, c):
    """Hold y, and h and c of every layer (layers, batch, H), against the model on each library."""
    for xp in LIBRARIES.values():
        there = tuple(LSTMState(xp.asarray(s.h), xp.asarray(s.c)) for s in state)
        got, last = model.to(xp)(xp.asarray(x), there)
        np.testing.assert_allclose(np.asarray(got), y, rtol=0, atol=1e-5)
        np.testing.assert_allclose(np.concatenate([np.asarray(s.h) for s in last]), h, rtol=0, atol=1e-5)
        np.testing.assert_allclose(np.concatenate([np.asarray(s.c) for s in last]), c, rtol=0, atol=2e-5)


def over_time(cell, x, state):
    """Return y, h and c of one of PyTorch's cells."""
    h, c = (torch.tensor(a[0]) for a in state[0])
    outputs = []
    with torch.no_grad():
        for t in range(x.shape[1]):
            h, c = cell(torch.tensor(x[:, t]), (h, c))
            outputs.append(h)
    return torch.stack(outputs, dim=1), h[None], c[None]


# silero-vad

JIT = "_model.decoder.rnn"  # of 16 kHz; the archive has another one of 8 kHz
# The LSTM of 16 kHz in each file, by its name; `half` was trained further, as its numbers are others.
ONNX = {
    "silero_vad.onnx": "If_0_then_branch__Inline_0__/decoder/rnn/LSTM",
    "silero_vad_16k_op15.onnx": "/model/decoder/rnn/LSTM",
    "silero_vad_16k_sequence.onnx": "/recurrent/LSTM",
    "silero_vad_half.onnx": "/decoder/rnn/LSTM",
    "silero_vad_openvino_16k.onnx": "F2::If_0_then_branch__Inline_0__/decoder/rnn/LSTM",
}


def test_torchscript_of_silero(silero):
    path = silero / "silero_vad.jit"
    assert [entry.name for entry in inspect(path)] == [JIT, "_model_8k.decoder.rnn"]
    x, state = random_problem(128, 128)
    cell = torch.jit.load(path)._model.decoder.rnn
    y, h, c = over_time(cell, x, state)
    assert_runs_like(load(path, name=JIT), x, state, y, h, c)


def node_alone(model, name):
    """Return a model of one LSTM node, with x, h and c as inputs, and the nodes that its weights hang on."""
    scopes, node = lstm_node([model.graph], name)
    makers = {output: each for graph in scopes for each in graph.node for output in each.output}
    stored = {tensor.name: tensor for graph in scopes for tensor in graph.initializer}
    needed, initializers, waiting = [], {}, [node.input[k] for k in (1, 2, 3)]
    while waiting:
        value = waiting.pop(0)
        if value in stored:
            initializers[value] = stored[value]
        elif value and makers[value] not in needed:
            needed.append(makers[value])
            waiting += makers[value].input
    alone = onnx.NodeProto()
    alone.CopyFrom(node)
    for k, value in ((0, "x"), (5, "h"), (6, "c")):
        alone.input[k] = value
    ordered = [each for graph in scopes for each in graph.node if each in needed]
    infos = [
        [onnx.helper.make_tensor_value_info(value, onnx.TensorProto.FLOAT, None) for value in values]
        for values in (("x", "h", "c"), alone.output)
    ]
    graph = onnx.helper.make_graph([*ordered, alone], "alone", *infos, list(initializers.values()))
    return onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)


def lstm_node(scopes, name):
    """Return the graphs around the LSTM node of that name, the outermost first, and the node."""
    for node in scopes[-1].node:
        if node.op_type == "LSTM" and node.name == name:
            return scopes, node
        for attribute in node.attribute:
            found = lstm_node([*scopes, attribute.g], name) if attribute.HasField("g") else None
            if found is not None:
                return found
    return None


@pytest.mark.parametrize("file", ONNX)
def test_onnx_of_silero(file, silero):
    """The node runs on onnxruntime, with what its weights hang on, folded there."""
    onnxruntime = pytest.importorskip("onnxruntime")
    name = ONNX[file]
    session = onnxruntime.InferenceSession(node_alone(onnx.load(silero / file), name).SerializeToString())
    x, state = random_problem(128, 128)
    y, h, c = session.run(None, {"x": x.swapaxes(0, 1), "h": state[0].h, "c": state[0].c})
    assert_runs_like(load(silero / file, name=name), x, state, y[:, 0].swapaxes(0, 1), h, c)


@pytest.mark.parametrize("file", [file for file in ONNX if "half" not in file])
def test_all_of_silero_have_the_same_weights(file, silero):
    assert_same(load(silero / file, name=ONNX[file]), load(silero / "silero_vad.jit", name=JIT))


def test_the_half_model_of_silero_was_trained_apart(silero):
    """So that its name is no promise: it is stored in float32, and agrees with no other file."""
    half, other = (
        load(silero / f, name=n)
        for f, n in (("silero_vad_half.onnx", ONNX["silero_vad_half.onnx"]), ("silero_vad.jit", JIT))
    )
    difference = np.abs(half.layers[0].forward.weight_hh - other.layers[0].forward.weight_hh)
    assert np.max(difference) > 1


def test_a_model_of_silero_without_an_lstm_node(silero):
    with pytest.raises(ValueError, match=r"has no LSTM node; the cell may be spelled out in others, such as Gemm"):
        load(silero / "silero_vad_op18_ifless.onnx")


def test_safetensors_of_silero(silero):
    """Against PyTorch's cell, as this snapshot is another one than the other files."""
    path = silero / "silero_vad_16k.safetensors"
    (entry,) = inspect(path)
    assert entry.name == "lstm_cell"
    tensors = pytest.importorskip("safetensors.torch").load_file(path)
    peer = torch.nn.LSTMCell(128, 128)
    peer.load_state_dict({name: tensors[f"lstm_cell.{name}"] for name in peer.state_dict()})
    x, state = random_problem(128, 128)
    y, h, c = over_time(peer, x, state)
    assert_runs_like(entry.model, x, state, y, h, c)


# Resemblyzer


def test_resemblyzer(downloaded):
    path = downloaded(RESEMBLYZER) / "resemblyzer" / "pretrained.pt"
    peer = torch.nn.LSTM(40, 256, 3, batch_first=True)
    tensors = torch.load(path, map_location="cpu", weights_only=True)["model_state"]
    peer.load_state_dict({name: tensors[f"lstm.{name}"] for name in peer.state_dict()})
    x, state = random_problem(40, 256, layers=3)
    h0, c0 = (torch.tensor(np.concatenate(arrays)) for arrays in zip(*state, strict=True))
    with torch.no_grad():
        y, (h, c) = peer(torch.tensor(x), (h0, c0))
    assert [entry.name for entry in inspect(path)] == ["model_state.lstm"]
    assert_runs_like(load(path), x, state, y, h, c)
