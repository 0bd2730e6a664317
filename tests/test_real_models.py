"""Trained models that other people publish, read here and run on three libraries, against the frameworks they are for.

They are downloaded from the package registry, and never imported or run.
"""

import re
import subprocess
import sys
import zipfile

import jax
import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from lstm_xp import LSTMState, inspect, load

pytestmark = pytest.mark.models

SILERO = "silero-vad==6.2.3"  # MIT; voice activity, one layer of 128 units
RESEMBLYZER = "Resemblyzer==0.1.4"  # Apache 2.0; speaker embedding, three layers of 256 units
UNREACHABLE = re.compile("NewConnectionError|ConnectTimeout|ReadTimeout|name resolution|Connection refused")

LIBRARIES = {"numpy": np, "torch": torch, "jax": jax.numpy}


@pytest.fixture(scope="module")
def downloaded(tmp_path_factory):
    """Return a function that fetches a distribution and returns the folder with its files."""
    folders = {}

    def fetch(requirement):
        if requirement not in folders:
            folder = tmp_path_factory.mktemp("download")
            command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "-d", str(folder), requirement]
            done = subprocess.run(command, capture_output=True, text=True)
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


# silero-vad

JIT = "_model.decoder.rnn"  # of 16 kHz; the archive has another one of 8 kHz
# The LSTM of 16 kHz in each file; None where the file has only one.
ONNX = {
    "silero_vad.onnx": None,
    "silero_vad_16k_op15.onnx": None,
    "silero_vad_16k_sequence.onnx": None,
    "silero_vad_half.onnx": None,
    "silero_vad_openvino_16k.onnx": None,
}


def test_torchscript_of_silero(silero):
    path = silero / "silero_vad.jit"
    assert [entry.name for entry in inspect(path)] == [JIT, "_model_8k.decoder.rnn"]
    x, state = random_problem(128, 128)
    cell = torch.jit.load(path)._model.decoder.rnn
    h, c = (torch.tensor(a[0]) for a in state[0])
    outputs = []
    with torch.no_grad():
        for t in range(x.shape[1]):
            h, c = cell(torch.tensor(x[:, t]), (h, c))
            outputs.append(h)
    y = torch.stack(outputs, dim=1)
    assert_runs_like(load(path, name=JIT), x, state, y, h[None], c[None])


def node_alone(model):
    """Return a model of the first LSTM node, with x, h and c as inputs, and the nodes that its weights hang on."""
    scopes, node = lstm_node([model.graph])
    makers = {output: each for graph in scopes for each in graph.node for output in each.output}
    stored = {tensor.name: tensor for graph in scopes for tensor in graph.initializer}
    needed, initializers, waiting = [], [], [node.input[k] for k in (1, 2, 3)]
    while waiting:
        name = waiting.pop(0)
        if name in stored:
            initializers.append(stored[name])
        elif name and makers[name] not in needed:
            needed.append(makers[name])
            waiting += makers[name].input
    alone = onnx.NodeProto()
    alone.CopyFrom(node)
    for k, name in ((0, "x"), (5, "h"), (6, "c")):
        alone.input[k] = name
    ordered = [each for graph in scopes for each in graph.node if each in needed]
    infos = [
        [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names]
        for names in (("x", "h", "c"), alone.output)
    ]
    unique = list({tensor.name: tensor for tensor in initializers}.values())
    graph = onnx.helper.make_graph([*ordered, alone], "alone", *infos, unique)
    return onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)


def lstm_node(scopes):
    """Return the graphs around the first LSTM node, the outermost first, and the node."""
    for node in scopes[-1].node:
        if node.op_type == "LSTM":
            return scopes, node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                found = lstm_node([*scopes, attribute.g])
                if found is not None:
                    return found
    return None


@pytest.mark.parametrize("file", ONNX)
def test_onnx_of_silero(file, silero):
    """The node runs on onnxruntime, with what its weights hang on, folded there."""
    session = onnxruntime.InferenceSession(node_alone(onnx.load(silero / file)).SerializeToString())
    x, state = random_problem(128, 128)
    y, h, c = session.run(None, {"x": x.swapaxes(0, 1), "h": state[0].h, "c": state[0].c})
    name = inspect(silero / file)[0].name
    assert_runs_like(load(silero / file, name=name), x, state, y[:, 0].swapaxes(0, 1), h, c)
