"""The LSTMs of other systems, alive, on random weights: three layers, batches, initial states, unequal lengths."""

from functools import partial

import numpy as np
import pytest

from lstm_xp import lstm, lstm_vjp
from lstm_xp.model import Cell, Layer, LSTMState, LSTMWeights
from tests.support.problems import drawing

torch = pytest.importorskip("torch")

# Inputs, units, batch, time and layers, all different; the first sequence has all its steps.
I, H, B, T, L = 3, 5, 4, 6, 3  # noqa: E741 -- the field's letter for the input size
LENGTHS = np.asarray([6, 1, 4, 2])
INSIDE = np.arange(T) < LENGTHS[:, None]  # (B, T)


def numpy_of(a):
    return a.detach().numpy() if isinstance(a, torch.Tensor) else np.asarray(a)


def assert_close(got, wanted, *, atol=1e-12):
    got, wanted = numpy_of(got), numpy_of(wanted)
    assert got.shape == wanted.shape
    np.testing.assert_allclose(got, wanted, rtol=0, atol=atol)


def random_state(draw, D, R=H, layers=L):
    return tuple(LSTMState(draw(D, B, R), draw(D, B, H)) for _ in range(layers))


def joined(state):
    """Return h and c of all layers, numbered as by torch: direction d of layer k is k * D + d."""
    return [np.concatenate([numpy_of(a) for a in arrays]) for arrays in zip(*state, strict=True)]


def tensors(tree):
    """Return a tree of the records with tensors."""
    if tree is None or isinstance(tree, torch.Tensor):
        return tree
    if isinstance(tree, tuple):
        children = [tensors(child) for child in tree]
        return type(tree)(*children) if hasattr(tree, "_fields") else tuple(children)
    return torch.tensor(tree)


# torch.nn.LSTM


def torch_peer(bidirectional, proj_size, seed=0):
    """Return a module whose weights are all random, and its parameters in NumPy's arrays by name."""
    draw = drawing(seed)
    peer = torch.nn.LSTM(I, H, L, batch_first=True, bidirectional=bidirectional, proj_size=proj_size).double()
    for p in peer.parameters():
        p.data = torch.tensor(draw(*p.shape))
    return peer, {name: p.detach().numpy() for name, p in peer.named_parameters()}


def torch_weights(named, suffix):
    """Return one direction; the two biases are one of ours."""
    parts = {part: named.get(f"{part}_{suffix}") for part in ("weight_ih", "weight_hh", "weight_hr")}
    return LSTMWeights(bias=named[f"bias_ih_{suffix}"] + named[f"bias_hh_{suffix}"], **parts)


def torch_layers(named, bidirectional):
    return tuple(
        Layer(torch_weights(named, f"l{k}"), torch_weights(named, f"l{k}_reverse") if bidirectional else None)
        for k in range(L)
    )


def torch_names(dlayers):
    """Return gradients by the names of the peer; each of its two biases has that of their sum."""
    named = {}
    for k, layer in enumerate(dlayers):
        for suffix, d in zip((f"l{k}", f"l{k}_reverse"), layer, strict=True):
            if d is not None:
                named |= {f"{part}_{suffix}": a for part, a in d._asdict().items() if part != "bias" and a is not None}
                named |= {f"bias_ih_{suffix}": d.bias, f"bias_hh_{suffix}": d.bias}
    return named


def torch_run(peer, x, h0, c0, lengths):
    """Return y, h and c of the peer, by a packed sequence if there are lengths."""
    if lengths is None:
        y, (h, c) = peer(x, (h0, c0))
        return y, h, c
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, torch.tensor(lengths), batch_first=True, enforce_sorted=False)
    y, (h, c) = peer(packed, (h0, c0))
    return torch.nn.utils.rnn.pad_packed_sequence(y, batch_first=True, total_length=T)[0], h, c


class TorchProblem:
    """A peer with inputs, what it gives for them, and the gradients of a random projection of all its outputs."""

    def __init__(self, bidirectional, proj_size, lengths):
        draw = drawing(1)
        D, R = 1 + bidirectional, proj_size or H
        self.peer, named = torch_peer(bidirectional, proj_size)
        self.layers = torch_layers(named, bidirectional)
        self.x, self.state, self.lengths = draw(B, T, I), random_state(draw, D, R), lengths
        self.dy, self.dstate = draw(B, T, D * R), random_state(draw, D, R)
        leaves = [torch.tensor(a, requires_grad=True) for a in (self.x, *joined(self.state))]
        self.y, self.h, self.c = torch_run(self.peer, *leaves, lengths)
        dh, dc = (torch.tensor(a) for a in joined(self.dstate))
        ((self.y * torch.tensor(self.dy)).sum() + (self.h * dh).sum() + (self.c * dc).sum()).backward()
        self.dx, self.dh0, self.dc0 = (leaf.grad for leaf in leaves)

    def arguments(self, convert=lambda tree: tree):
        return [convert(tree) for tree in (self.x, self.layers, self.state)]

    def marks(self, convert=lambda array: array):
        return {} if self.lengths is None else {"lengths": convert(self.lengths)}

    def assert_values(self, y, state):
        for got, wanted in zip((y, *joined(state)), (self.y, self.h, self.c), strict=True):
            assert_close(got, wanted)

    def assert_gradients(self, dx, dlayers, dstate):
        for got, wanted in zip((dx, *joined(dstate)), (self.dx, self.dh0, self.dc0), strict=True):
            assert_close(got, wanted, atol=1e-11)
        named = torch_names(dlayers)
        parameters = dict(self.peer.named_parameters())
        assert named.keys() == parameters.keys()
        for name, p in parameters.items():
            assert_close(named[name], p.grad, atol=1e-11)


whole_and_packed = pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["whole", "packed"])
projections = pytest.mark.parametrize("proj_size", [0, 2], ids=["plain", "projected"])
directions = pytest.mark.parametrize("bidirectional", [False, True], ids=["forward", "both"])
conversions = pytest.mark.parametrize("convert", [lambda tree: tree, tensors], ids=["numpy", "torch"])


@whole_and_packed
@projections
@directions
@conversions
def test_torch(bidirectional, proj_size, lengths, convert):
    """Values, and the hand-written gradient against that of the peer."""
    problem = TorchProblem(bidirectional, proj_size, lengths)
    arguments, marks = problem.arguments(convert), problem.marks(convert)
    problem.assert_values(*lstm(*arguments, **marks))
    result, vjp = lstm_vjp(*arguments, **marks)
    problem.assert_values(*result)
    problem.assert_gradients(*vjp(convert(problem.dy), convert(problem.dstate)))


@pytest.mark.parametrize(
    ("engine", "lengths"),
    [("xp", None), ("xp", LENGTHS), ("native", None)],  # the kernel knows no lengths
    ids=["xp-whole", "xp-packed", "native-whole"],
)
@projections
@directions
def test_torch_engines_and_autograd(bidirectional, proj_size, lengths, engine):
    """Both engines on tensors, with the gradients of PyTorch through them."""
    problem = TorchProblem(bidirectional, proj_size, lengths)
    arguments = problem.arguments(tensors)
    leaves, tree = torch.utils._pytree.tree_flatten(arguments)
    leaves = [leaf if leaf is None else leaf.requires_grad_() for leaf in leaves]
    y, state = lstm(*arguments, engine=engine, **problem.marks(torch.tensor))
    problem.assert_values(y, state)
    outputs = [y, *(a for s in state for a in s)]
    gradients = [torch.tensor(problem.dy), *(torch.tensor(a) for s in problem.dstate for a in s)]
    torch.autograd.backward(outputs, gradients)
    grads = torch.utils._pytree.tree_unflatten([leaf if leaf is None else leaf.grad for leaf in leaves], tree)
    problem.assert_gradients(*grads)


# onnxruntime, which has single precision only


def onnx_rows(rows, order=(0, 3, 1, 2)):
    """Reorder the gates of one array from i, f, g, o to i, o, f, c."""
    parts = np.split(rows, len(order))
    return np.concatenate([parts[k] for k in order])


def onnx_session(inputs, **attributes):
    """Return a session of one LSTM node, which takes the inputs given and no others."""
    onnxruntime, onnx = pytest.importorskip("onnxruntime"), pytest.importorskip("onnx")
    TensorProto, helper = onnx.TensorProto, onnx.helper
    order = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
    outputs = ("Y", "Y_h", "Y_c")
    node = helper.make_node("LSTM", [name if name in inputs else "" for name in order], outputs, **attributes)
    graph = helper.make_graph(
        [node],
        "lstm",
        [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
            for n, a in inputs.items()
        ],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


ONNX = {
    "plain": ({}, {}),
    "clip": ({"clip": 0.3}, {"clip": 0.3}),
    "input_forget": ({"input_forget": 1}, {"coupled": "forget"}),
    "activations": (
        {"activations": ["HardSigmoid", "Softsign", "Elu"] * 2, "activation_alpha": [0.3, 0.7] * 2,
         "activation_beta": [0.4] * 2},
        {"gate_activation": ("hard_sigmoid", 0.3, 0.4), "candidate_activation": "softsign",
         "output_activation": ("elu", 0.7, 0.0)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["whole", "lengths"])
@pytest.mark.parametrize("peephole", [False, True], ids=["plain", "peephole"])
@pytest.mark.parametrize("kind", ONNX)
def test_onnxruntime(kind, peephole, lengths):
    draw = drawing()
    attributes, cell = ONNX[kind]
    W, R, two_biases, P = draw(2, 4 * H, I), draw(2, 4 * H, H), draw(2, 2, 4 * H), draw(2, 3 * H)
    x, (state,) = draw(T, B, I), random_state(draw, 2, layers=1)
    weights = [
        LSTMWeights(W[d], R[d], two_biases[d].sum(axis=0), peephole=P[d] if peephole else None) for d in range(2)
    ]
    inputs = {
        "X": x,
        "W": np.stack([onnx_rows(w) for w in W]),
        "R": np.stack([onnx_rows(r) for r in R]),
        "B": np.stack([np.concatenate([onnx_rows(b) for b in pair]) for pair in two_biases]),
        "initial_h": state.h,
        "initial_c": state.c,
    }
    if peephole:
        inputs["P"] = np.stack([onnx_rows(p, (0, 2, 1)) for p in P])
    inputs = {name: a.astype(np.float32) for name, a in inputs.items()}
    options = {} if lengths is None else {"lengths": lengths}
    if lengths is not None:
        inputs["sequence_lens"] = lengths.astype(np.int32)
    session = onnx_session(inputs, direction="bidirectional", hidden_size=H, **attributes)
    Y, Y_h, Y_c = session.run(None, inputs)
    y, (last,) = lstm(x, (Layer(*weights),), (state,), cell=Cell(**cell), time_major=True, **options)
    assert_close(y, Y.swapaxes(1, 2).reshape(T, B, 2 * H), atol=2e-6)
    assert_close(last.h, Y_h, atol=2e-6)
    assert_close(last.c, Y_c, atol=2e-6)


# Keras


@pytest.fixture(scope="module")
def keras():
    """Keras on PyTorch: `conftest.py` says where it runs."""
    keras = pytest.importorskip("keras")
    assert keras.backend.backend() == "torch"
    return keras


def keras_draws(draw, n):
    """Return kernel, recurrent kernel and bias of one direction, as Keras has them."""
    return [draw(n, 4 * H), draw(H, 4 * H), draw(4 * H)]


def keras_weights(kernel, recurrent, bias):
    return LSTMWeights(kernel.T, recurrent.T, bias)


# Masked steps inside a sequence, at its start, everywhere and nowhere.
HOLES = np.asarray([[1, 0, 1, 1, 0, 1], [0, 0, 1, 1, 1, 0], [0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1]], dtype=bool)


@pytest.mark.parametrize("mask", [None, INSIDE, HOLES], ids=["whole", "lengths", "holes"])
@directions
def test_keras(keras, bidirectional, mask):
    # With a mask, Keras rounds to single precision on the way.
    atol = 1e-12 if mask is None else 5e-7
    draw, tensor = drawing(), partial(keras.ops.convert_to_tensor, dtype="float64")
    D = 1 + bidirectional
    x, state, layers = draw(B, T, I), random_state(draw, D), []
    y = tensor(x)
    ends = []
    for k in range(L):
        drawn = [keras_draws(draw, I if k == 0 else D * H) for _ in range(D)]
        layers.append(Layer(*(keras_weights(*w) for w in drawn)))
        layer = keras.layers.LSTM(
            H, return_sequences=True, return_state=True, zero_output_for_mask=True, dtype="float64"
        )
        if bidirectional:
            layer = keras.layers.Bidirectional(layer, dtype="float64")
        # Keras numbers states h forward, c forward, h backward, c backward.
        before = [tensor(a[d]) for d in range(D) for a in state[k]]
        layer.build(y.shape)
        layer.set_weights([w for direction in drawn for w in direction])
        y, *end = layer(y, initial_state=before, mask=None if mask is None else keras.ops.convert_to_tensor(mask))
        h, c = ([numpy_of(a) for a in end[k::2]] for k in range(2))
        ends.append(LSTMState(np.stack(h), np.stack(c)))
    got, last = lstm(x, tuple(layers), state, **({} if mask is None else {"mask": mask}))
    assert_close(got, y, atol=atol)
    for got, wanted in zip(last, ends, strict=True):
        assert_close(got.h, wanted.h, atol=atol)
        assert_close(got.c, wanted.c, atol=atol)


# Flax


def flax_cell(nnx, kind, n):
    """Return a cell in double precision."""
    return getattr(nnx, kind)(n, H, dtype=np.float64, param_dtype=np.float64, rngs=nnx.Rngs(0))


def flax_fill(nnx, cell, draw):
    """Draw every parameter of a cell, the biases too, which it makes zeros."""
    for _, node in nnx.iter_graph(cell):
        if isinstance(node, nnx.Param):
            node[...] = draw(*node.shape)


def flax_weights(cell):
    """Return the weights: of one matrix for all gates, or of one a gate; the bias is on the recurrent side."""
    if hasattr(cell, "dense_i"):
        parts = cell.dense_i.kernel, cell.dense_h.kernel, cell.dense_h.bias
        kernel, recurrent, bias = (np.asarray(a[...]) for a in parts)
        return LSTMWeights(kernel.T, recurrent.T, bias)
    inner, outer = (cell.ii, cell.if_, cell.ig, cell.io), (cell.hi, cell.hf, cell.hg, cell.ho)
    return LSTMWeights(
        np.concatenate([np.asarray(gate.kernel[...]).T for gate in inner]),
        np.concatenate([np.asarray(gate.kernel[...]).T for gate in outer]),
        np.concatenate([np.asarray(gate.bias[...]) for gate in outer]),
    )


@whole_and_packed
@directions
@pytest.mark.parametrize("kind", [pytest.param("LSTMCell", marks=pytest.mark.slow), "OptimizedLSTMCell"])
def test_flax(kind, bidirectional, lengths):
    """Its outputs after the end of a sequence are not 0: only those before it are compared."""
    nnx = pytest.importorskip("flax.nnx")
    draw = drawing()
    D = 1 + bidirectional
    x, state, layers, ends = draw(B, T, I), random_state(draw, D), [], []
    y = x
    for k in range(L):
        cells, ys, carries = [], [], []
        for d in range(D):
            cell = flax_cell(nnx, kind, I if k == 0 else D * H)
            flax_fill(nnx, cell, draw)
            rnn = nnx.RNN(cell, return_carry=True, reverse=d == 1, keep_order=True)
            before = (state[k].c[d], state[k].h[d])  # c first
            carry, out = rnn(y, initial_carry=before, seq_lengths=lengths)
            cells.append(flax_weights(cell))
            ys.append(out)
            carries.append(carry)
        layers.append(Layer(*cells))
        y = np.concatenate(ys, axis=-1)
        c, h = zip(*carries, strict=True)
        ends.append(LSTMState(np.stack(h), np.stack(c)))
    got, last = lstm(x, tuple(layers), state, **({} if lengths is None else {"lengths": lengths}))
    steps = np.ones((B, T), dtype=bool) if lengths is None else INSIDE
    assert_close(got[steps], y[steps])
    assert np.all(got[~steps] == 0)
    for got, wanted in zip(last, ends, strict=True):
        assert_close(got.h, wanted.h)
        assert_close(got.c, wanted.c)
