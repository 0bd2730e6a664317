"""ONNX: what is written against onnxruntime, and graphs of every kind against the weights that went in."""

import os
import time
import warnings
from types import SimpleNamespace

import numpy as np
import pytest

import lstm_xp
from lstm_xp import LSTM, Cell, Layer, LSTMState
from lstm_xp._equations.activations import NAMED
from lstm_xp.formats import onnx as formats_onnx
from tests.equations.test_published import cases_of, corrected, each, half_digit, onnx_outputs, onnx_problem

onnx = pytest.importorskip("onnx")
helper, numpy_helper = onnx.helper, onnx.numpy_helper
from_params, to_params = formats_onnx.from_params, formats_onnx.to_params

CAMEL = {name: "".join(part.capitalize() for part in name.split("_")) for name in NAMED}
WITH_ALPHA = {"affine", "leaky_relu", "thresholded_relu", "scaled_tanh", "hard_sigmoid", "elu"}
WITH_BETA = {"affine", "scaled_tanh", "hard_sigmoid"}
PLACES = ("gate_activation", "candidate_activation", "output_activation")

# Of onnxruntime, which computes in single precision, on numbers of order one.
SINGLE = 2e-6


def a_model(H=3, I=2, *, seed=0, dtype=np.float32, **options):  # noqa: E741 -- the field's letter
    """Return a model that has in every place a number of its own."""
    return LSTM.init(I, H, rng=seed, **options).to(dtype=dtype)


def assert_same(got, wanted):
    """Hold layers and cells against each other, bit for bit."""
    assert len(got.layers) == len(wanted.layers)
    for a, b in zip(got.layers, wanted.layers, strict=True):
        for one, other in zip(a, b, strict=True):
            assert (one is None) == (other is None)
            for x, y in zip(one or (), other or (), strict=True):
                assert (x is None) == (y is None)
                if x is not None:
                    assert x.dtype == y.dtype
                    np.testing.assert_array_equal(x, y)
    assert got.cell == wanted.cell


# A graph by hand


def tensors_of(model, k=0):
    """Return W, R, B, P of a layer, in the order of ONNX: written out here, and not by what is tested."""

    def rows(array, order):
        H = array.shape[0] // len(order)
        return np.concatenate([array[n * H : (n + 1) * H] for n in order])

    each = [weights for weights in model.layers[k] if weights is not None]
    found = {
        "W": np.stack([rows(w.weight_ih, (0, 3, 1, 2)) for w in each]),
        "R": np.stack([rows(w.weight_hh, (0, 3, 1, 2)) for w in each]),
    }
    if each[0].bias is not None:  # as two, of which neither is zero
        halves = [(rows(w.bias, (0, 3, 1, 2)) - 0.5, np.full_like(w.bias, 0.5)) for w in each]
        found["B"] = np.stack([np.concatenate(pair) for pair in halves])
    if each[0].peephole is not None:
        found["P"] = np.stack([rows(w.peephole, (0, 2, 1)) for w in each])
    return found


def exact(model):
    """Return the model with a bias that is the sum of the two halves, as they round."""

    def halved(weights):
        if weights is None or weights.bias is None:
            return weights
        return weights._replace(bias=(weights.bias - weights.bias.dtype.type(0.5)) + weights.bias.dtype.type(0.5))

    return LSTM(tuple(Layer(*map(halved, layer)) for layer in model.layers), model.cell)


def node(*names, outputs=("Y", "Y_h", "Y_c"), name="lstm", **attributes):
    """Return an LSTM node; by default of X, W, R and B."""
    return helper.make_node("LSTM", names or ["X", "W", "R", "B"], outputs, name=name, **attributes)


def graph(nodes, tensors, inputs=("X",), outputs=("Y",), name="graph"):
    infos = [
        [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in names] for names in (inputs, outputs)
    ]
    return helper.make_graph(nodes, name, *infos, [numpy_helper.from_array(a, n) for n, a in tensors.items()])


def proto(nodes, tensors, *, opset=17, functions=(), domains=(), **names):
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph(nodes, tensors, **names), opset_imports=imports, functions=functions, ir_version=8)


def inspected(tmp_path, model):
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    return lstm_xp.inspect(tmp_path / "model.onnx")


def the_problem(tmp_path, model):
    (entry,) = inspected(tmp_path, model)
    assert entry.model is None
    return entry.problem


# Writing


HELD = {
    "plain": a_model(),
    "no bias": a_model(bias=False),
    "three layers": a_model(num_layers=3),
    "both": a_model(bidirectional=True, num_layers=3),
    "reverse": LSTM((Layer(None, a_model().layers[0].forward),)),
    "sizes": LSTM(tuple(a_model(*sizes).layers[0] for sizes in ((5, 2), (3, 5), (4, 3)))),
    "peephole": a_model(peephole=True, bidirectional=True),
    "clip": a_model(cell=Cell(clip=0.3)),
    "coupled": a_model(peephole=True, cell=Cell(coupled="forget")),
    "a cell a layer": a_model(num_layers=2, cell=(Cell(clip=0.3), Cell(gate_activation=("hard_sigmoid", 0.25, 0.4)))),
    "a cell a direction": a_model(
        bidirectional=True,
        cell=(
            (
                Cell("hard_sigmoid", ("scaled_tanh", 1.2, 0.8), "softsign", clip=0.9),
                Cell(("affine", 0.5, 0.4), "tanh", ("leaky_relu", 0.2, 0.0), clip=0.9),
            ),
        ),
    ),
    "everything": a_model(
        num_layers=3,
        bidirectional=True,
        peephole=True,
        cell=Cell(("hard_sigmoid", 0.3, 0.45), "softsign", "elu", clip=0.8, coupled="forget"),
    ),
}
on_each_model = pytest.mark.parametrize("model", HELD.values(), ids=[name.replace(" ", "-") for name in HELD])


@on_each_model
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_there_and_back(model, dtype, tmp_path):
    model = model.to(dtype=dtype)
    lstm_xp.save(tmp_path / "model.onnx", model)
    assert_same(lstm_xp.load(tmp_path / "model.onnx"), model)
    (entry,) = lstm_xp.inspect(tmp_path / "model.onnx")
    assert entry[:2] == ("lstm_0", "ONNX")


@on_each_model
def test_the_checker_accepts(model):
    made = to_params(model)
    onnx.checker.check_model(made, full_check=True)
    assert made.producer_name == "lstm_xp"
    assert made.graph.output[0].type.tensor_type.shape.dim[2].dim_value == sum(
        weights.weight_hh.shape[1] for weights in model.layers[-1] if weights is not None
    )


def peer(made, x, state, **lengths):
    """Return y and the last states of onnxruntime."""
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {"x": x} | {f"{part}0_{k}": getattr(s, part) for k, s in enumerate(state) for part in ("h", "c")}
    y, *rest = session.run(None, feeds | lengths)
    return y, tuple(LSTMState(*rest[k : k + 2]) for k in range(0, len(rest), 2))


def inputs_of(model, *, B=3, T=5, seed=0):
    """Return x and states that are not zero."""
    rng = np.random.default_rng(seed)
    draw = lambda *shape: rng.uniform(-0.5, 0.5, shape).astype(np.float32)  # noqa: E731 -- of one line
    each = [[weights for weights in layer if weights is not None] for layer in model.layers]
    sizes = [(len(layer), B, layer[0].weight_hh.shape[1]) for layer in each]
    return 2 * draw(B, T, each[0][0].weight_ih.shape[1]), tuple(LSTMState(draw(*n), draw(*n)) for n in sizes)


def assert_as_peer(model, lengths=None, **sizes):
    x, state = inputs_of(model, **sizes)
    given = {} if lengths is None else {"lengths": np.asarray(lengths)}
    y, last = model(x, state, **{name: np.where(steps < 0, x.shape[1], steps) for name, steps in given.items()})
    theirs, theirs_last = peer(to_params(model), x, state, **given)
    np.testing.assert_allclose(theirs, y, rtol=0, atol=SINGLE)
    for got, wanted in zip(theirs_last, last, strict=True):
        np.testing.assert_allclose(got.h, wanted.h, rtol=0, atol=SINGLE)
        np.testing.assert_allclose(got.c, wanted.c, rtol=0, atol=SINGLE)


@on_each_model
@pytest.mark.parametrize(("B", "T"), [(3, 5), (1, 5), (3, 1), (1, 1)])
def test_onnxruntime_computes_the_same(model, B, T):
    assert_as_peer(model, B=B, T=T)


@on_each_model
@pytest.mark.parametrize("lengths", [[5, 0, 2], [-1, 1, 0], [0, 0, 0]], ids=str)
def test_onnxruntime_computes_the_same_of_each_length(model, lengths):
    """Also where there is no step at all: the last state is the first one then."""
    assert_as_peer(model, lengths=lengths)


def test_a_padded_batch_of_numbers_that_are_none():
    model = a_model(num_layers=2, bidirectional=True)
    (x, state), lengths = inputs_of(model), np.asarray([2, 5, 5])
    x[0, 2:] = np.nan
    y, last = peer(to_params(model), x, state, lengths=lengths)
    assert np.isfinite(y).all()
    np.testing.assert_allclose(last[1].h, model(x, state, lengths=lengths)[1][1].h, rtol=0, atol=SINGLE)


def test_more_steps_than_there_are():
    model = a_model()
    x, state = inputs_of(model)
    with pytest.raises(Exception, match="sequence_lens"):
        peer(to_params(model), x, state, lengths=np.asarray([5, 6, 5]))


@pytest.mark.parametrize("place", ["gate_activation", "candidate_activation", "output_activation"])
@pytest.mark.parametrize("name", NAMED)
def test_each_activation_in_each_place(name, place):
    """Also those with an alpha that is not the default, next to others that have one."""
    assert_as_peer(a_model(cell=Cell(**{place: name})))
    pair = (0.7 if name in WITH_ALPHA else NAMED[name].alpha, 0.3 if name in WITH_BETA else NAMED[name].beta)
    mixed = Cell(("hard_sigmoid", 0.3, 0.4), ("scaled_tanh", 0.9, 0.8), ("elu", 0.6, 0.0))
    cell = Cell(**{**{key: getattr(mixed, key) for key in PLACES}, place: (name, *pair)})
    assert_as_peer(a_model(bidirectional=True, cell=((cell, mixed),)))
    got = from_params(to_params(a_model(bidirectional=True, cell=((cell, mixed),)))).cell
    assert got == ((Cell(**{**{key: getattr(cell, key) for key in PLACES}, place: _short(name, pair)}), mixed),)


def _short(name, pair):
    return name if pair == (NAMED[name].alpha, NAMED[name].beta) else (name, *pair)


def test_float16_runs_in_onnxruntime():
    model = a_model(dtype=np.float16)
    x, state = inputs_of(model)
    x, state = x.astype(np.float16), tuple(LSTMState(*(a.astype(np.float16) for a in s)) for s in state)
    y, _ = peer(to_params(model), x, state)
    assert y.dtype == np.float16
    np.testing.assert_allclose(y, model(x, state)[0], rtol=0, atol=2e-3)


def test_float64_is_what_onnxruntime_refuses():
    """When this fails, the docstring of `to_params` has to change."""
    x, state = inputs_of(a_model())
    x, state = x.astype(np.float64), tuple(LSTMState(*(a.astype(np.float64) for a in s)) for s in state)
    with pytest.raises(Exception, match="does not support double"):
        peer(to_params(a_model(dtype=np.float64)), x, state)


def test_a_missing_half_is_zero():
    """One direction with a bias and peepholes, one without: the node has both, with zeros."""
    one, other = a_model(peephole=True).layers[0].forward, a_model(bias=False, seed=1).layers[0].forward
    model = LSTM((Layer(one, other),))
    back = from_params(to_params(model)).layers[0]
    np.testing.assert_array_equal(back.backward.bias, np.zeros(12))
    np.testing.assert_array_equal(back.backward.peephole, np.zeros(9))
    assert_as_peer(model)


def a_function(x, xp):
    return xp.tanh(x)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (a_model(proj_size=2), r"ONNX cannot hold a projection \(`weight_hr`\); got layers\[0\].forward"),
        (a_model(cell=Cell(cell_clip=1.0)), r"ONNX cannot hold `cell_clip`; got layers\[0\].forward"),
        (a_model(proj_size=2, cell=Cell(proj_clip=1.0)), "ONNX cannot hold a projection"),
        (a_model(cell=Cell(coupled="input")), 'ONNX cannot hold `coupled="input"`; got layers'),
        (a_model(cell=Cell(output_activation=a_function)), "ONNX cannot hold a function as `output_activation`"),
        (
            a_model(bidirectional=True, num_layers=2, cell=(Cell(), (Cell(clip=1.0), Cell()))),
            r"two directions that differ in `clip` or `coupled`; got layers\[1\].backward",
        ),
        (a_model(bidirectional=True, cell=((Cell(), Cell(coupled="forget")),)), "two directions that differ"),
    ],
    ids=lambda value: None if isinstance(value, LSTM) else value.split(";")[0][-20:],
)
def test_what_a_node_cannot_hold(model, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        lstm_xp.save(tmp_path / "model.onnx", model)
    assert not list(tmp_path.iterdir())


def test_two_gigabytes(monkeypatch):
    assert 2**30 < formats_onnx._LIMIT < 2**31  # which is what a protocol buffer may take
    size = sum(len(tensor.raw_data) for tensor in to_params(a_model()).graph.initializer)
    monkeypatch.setattr(formats_onnx, "_LIMIT", size)
    to_params(a_model())
    monkeypatch.setattr(formats_onnx, "_LIMIT", size - 1)
    with pytest.raises(ValueError, match="ONNX cannot hold 2 GB of weights or more"):
        to_params(a_model())


# Reading a node


@pytest.mark.parametrize("opset", [1, 7, 14, 17, 22])
def test_any_opset(opset):
    model = exact(a_model())
    options = {"output_sequence": 1} if opset == 1 else {}
    assert_same(from_params(proto([node(hidden_size=3, **options)], tensors_of(model), opset=opset)), model)


ATTRIBUTES = {
    "none": ({}, Cell()),
    "the defaults, said": ({"activations": ["Sigmoid", "Tanh", "Tanh"], "input_forget": 0, "layout": 0}, Cell()),
    "clip": ({"clip": 0.9}, Cell(clip=0.9)),
    "input_forget": ({"input_forget": 1}, Cell(coupled="forget")),
    "names": ({"activations": ["hardsigmoid", "RELU", "Softsign"]}, Cell("hard_sigmoid", "relu", "softsign")),
    "layout": ({"layout": 1}, Cell()),
    "alpha where it is taken": (
        {
            "activations": ["Sigmoid", "LeakyRelu", "HardSigmoid"],
            "activation_alpha": [0.1, 0.25],
            "activation_beta": [0.4],
        },
        Cell("sigmoid", ("leaky_relu", 0.1, 0.0), ("hard_sigmoid", 0.25, 0.4)),
    ),
    "alpha alone": (
        {"activations": ["HardSigmoid", "Tanh", "Elu"], "activation_alpha": [0.25]},
        Cell(("hard_sigmoid", 0.25, 0.5), "tanh", "elu"),
    ),
    "alpha that nobody takes": ({"activation_alpha": [0.1, 0.2], "activation_beta": [0.3]}, Cell()),
}


@pytest.mark.parametrize("case", ATTRIBUTES)
def test_attributes(case):
    attributes, cell = ATTRIBUTES[case]
    got = from_params(proto([node(**attributes)], tensors_of(a_model())))
    assert got.cell == cell


def test_the_lists_are_used_up_direction_by_direction():
    attributes = {
        "direction": "bidirectional",
        "activations": ["HardSigmoid", "Tanh", "LeakyRelu", "Affine", "ScaledTanh", "ThresholdedRelu"],
        "activation_alpha": [0.25, 0.1, 0.5, 1.2, 0.05],
        "activation_beta": [0.4, 0.3, 0.9],
    }
    got = from_params(proto([node(**attributes)], tensors_of(a_model(bidirectional=True))))
    one = Cell(("hard_sigmoid", 0.25, 0.4), "tanh", ("leaky_relu", 0.1, 0.0))
    other = Cell(("affine", 0.5, 0.3), ("scaled_tanh", 1.2, 0.9), ("thresholded_relu", 0.05, 0.0))
    assert got.cell == ((one, other),)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("parts", ["WR", "WRB", "WRP", "WRBP"])
def test_directions_and_inputs(direction, parts):
    made = a_model(bidirectional=direction == "bidirectional", bias="B" in parts, peephole="P" in parts)
    model = exact(LSTM((Layer(None, made.layers[0].forward),)) if direction == "reverse" else made)
    tensors = tensors_of(model)
    names = [
        "X",
        "W",
        "R",
        *(part if part in parts else "" for part in "B"),
        "",
        "",
        "",
        *("P" if "P" in parts else ""),
    ]
    assert_same(from_params(proto([node(*names, direction=direction)], tensors)), model)


WRONG = {
    "direction": (
        {"direction": "sideways"},
        r"`direction` must be one of forward, reverse, bidirectional; got 'sideways'",
    ),
    "directions": ({"direction": "bidirectional"}, r"`W` must have shape \(2, 12, 2\)"),
    "hidden_size": ({"hidden_size": 4}, "`hidden_size` must be that of `R`, 3; got 4"),
    "clip": ({"clip": 0.0}, "`clip` must be a positive number"),
    "type": ({"clip": 1}, "attribute 'clip'"),
    "types": ({"activations": [1.0, 2.0]}, "attribute 'activations'"),
    "unknown": ({"projection": 3}, "attribute 'projection'"),
    "few": ({"activations": ["Sigmoid"]}, "`activations` must be three for each direction, 3; got 1"),
    "no text": ({"direction": b"\xff"}, r"`direction` must be one of forward, .*; got '\ufffd'"),
    "name": ({"activations": ["Sigmoid", "Tanh", "Gelu"]}, "must be among Sigmoid, .*; got 'Gelu'"),
    "affine": (
        {"activations": ["Affine", "Tanh", "Tanh"], "activation_alpha": [1.0]},
        "Affine must have its alpha and beta",
    ),
    "threshold": ({"activations": ["ThresholdedRelu", "Tanh", "Tanh"]}, "ThresholdedRelu must have its alpha"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_attributes(case, tmp_path):
    attributes, words = WRONG[case]
    made = proto([node(**attributes)], tensors_of(a_model()))
    with pytest.raises(ValueError, match=words):
        from_params(made)
    assert "Traceback" not in the_problem(tmp_path, made)


@pytest.mark.parametrize("part", ["W", "R", "B", "P"])
def test_wrong_shapes(part):
    tensors = tensors_of(a_model(peephole=True))
    tensors[part] = tensors[part][:, :-1]
    with pytest.raises(ValueError, match=r"must (have shape|be that of)"):
        from_params(proto([node("X", "W", "R", "B", "", "", "", "P")], tensors))


def test_wrong_rank_and_missing_weights():
    tensors = tensors_of(a_model())
    with pytest.raises(ValueError, match=r"`W` must have three axes; got \(12, 2\)"):
        from_params(proto([node()], tensors | {"W": tensors["W"][0]}))
    with pytest.raises(ValueError, match="`R` must have three axes; got none"):
        from_params(proto([node("X", "W")], tensors))


def test_weights_that_are_not_constant(tmp_path):
    tensors = tensors_of(a_model())
    del tensors["R"]
    asked = proto([node()], tensors, inputs=("X", "R"))
    assert the_problem(tmp_path, asked) == "`R` must be constant; it hangs on the input 'R'."
    computed = proto([helper.make_node("Relu", ["X"], ["R"]), node()], tensors)
    assert the_problem(tmp_path, computed) == "`R` must be constant; it hangs on 'R', which a node Relu makes."
    assert the_problem(tmp_path, proto([node()], tensors)) == "nothing in the graph makes 'R'."


def test_old_files_list_their_weights_as_inputs():
    model = exact(a_model())
    assert_same(from_params(proto([node()], tensors_of(model), inputs=("X", "W", "R", "B"))), model)


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("name", ["float16", "double", "bfloat16"])
def test_dtypes(name, raw):
    """NumPy has no bfloat16, so that becomes float32."""
    model = a_model(bias=False)
    kind = getattr(onnx.TensorProto, name.upper())
    made = proto([node("X", "W", "R")], {})
    for part, array in tensors_of(model).items():
        halves = (array.view(np.uint32) >> 16).astype(np.uint16)
        content = halves if name == "bfloat16" else array.astype({"float16": np.float16, "double": np.float64}[name])
        if raw:
            made.graph.initializer.append(helper.make_tensor(part, kind, array.shape, content.tobytes(), raw=True))
        else:
            made.graph.initializer.append(helper.make_tensor(part, kind, array.shape, array.ravel()))
    (got,) = from_params(made).layers
    wanted = {"float16": np.float16, "double": np.float64, "bfloat16": np.float32}[name]
    assert got.forward.weight_ih.dtype == wanted
    tolerance = {"float16": 1e-3, "double": 0, "bfloat16": 8e-3}[name]
    np.testing.assert_allclose(got.forward.weight_ih, model.layers[0].forward.weight_ih, rtol=tolerance, atol=0)


def test_no_lstm(tmp_path):
    made = proto([helper.make_node("Sigmoid", ["X"], ["Y"])], {})
    with pytest.raises(
        ValueError, match="its graph has no LSTM node; the cell may be spelled out in others, such as Gemm"
    ):
        from_params(made)
    (tmp_path / "model.onnx").write_bytes(made.SerializeToString())
    with pytest.raises(ValueError, match=r"load: .*model.onnx: its graph has no LSTM node"):
        lstm_xp.load(tmp_path / "model.onnx")


def test_one_of_another_domain_is_not_one():
    made = proto(
        [helper.make_node("LSTM", ["X", "W", "R"], ["Y"], domain="mine")], tensors_of(a_model()), domains=["mine"]
    )
    with pytest.raises(ValueError, match="no LSTM node"):
        from_params(made)


# Published numbers


def published_proto(case):
    inputs = {name: np.asarray(x, np.float64) for name, x in case["inputs"].items()}
    attributes = dict(case["attributes"])
    if "activations" in attributes:
        attributes["activations"] = [CAMEL[name] for name in attributes["activations"]]
    order = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
    tensors = {name: inputs[name] for name in ("W", "R", "B", "P") if name in inputs}
    given = [name for name in order if name in inputs and name not in tensors]
    return proto([node(*(name if name in inputs else "" for name in order), **attributes)], tensors, inputs=given)


@each(cases_of("onnxruntime_lstm.json") + cases_of("onnx_node_lstm.json"))
def test_published(case):
    model, asked = from_params(published_proto(case)), onnx_problem(case)
    y, (last,) = model(asked.x.astype(np.float64), asked.state, **asked.options)
    got = {"Y": y, "Y_h": last.h, "Y_c": last.c}
    for name, figures in onnx_outputs(case).items():
        figures = corrected(case, figures)
        atol = half_digit(figures) + 2e-7 * max(1.0, np.max(np.abs(figures)))
        np.testing.assert_allclose(got[name], figures, rtol=0, atol=atol)


# Constants that are computed


def constant(name, array, **attributes):
    attributes = attributes or {"value": numpy_helper.from_array(array)}
    return helper.make_node("Constant", [], [name], **attributes)


def op(kind, inputs, *, outputs=("W",), **attributes):
    return helper.make_node(kind, inputs, outputs, **attributes)


def ints(*numbers):
    return np.asarray(numbers, np.int64)


W = tensors_of(exact(a_model()))["W"]  # (1, 12, 2)
FOLDS = {
    # What makes W: the nodes, the tensors, and the opset.
    "Constant": ([constant("W", W)], {}, 17),
    "Identity": ([op("Identity", ["w"], outputs=["v"]), op("Identity", ["v"])], {"w": W}, 17),
    "Slice": (
        [op("Slice", ["w", "a", "b", "n", "s"])],
        {"w": W[:, ::-1], "a": ints(-1), "b": ints(-99), "n": ints(1), "s": ints(-1)},
        17,
    ),
    "Slice-1": ([op("Slice", ["w"], axes=[1], starts=[0], ends=[12])], {"w": np.concatenate([W, W], 1)}, 9),
    "Slice of all axes": (
        [op("Slice", ["w", "a", "b", "", "s"])],
        {"w": np.concatenate([W, W], 1), "a": ints(0, 0, 0), "b": ints(1, 12, 2), "s": ints(1, 1, 1)},
        17,
    ),
    "Concat": ([op("Concat", ["a", "b"], axis=1)], {"a": W[:, :5], "b": W[:, 5:]}, 17),
    "Unsqueeze": ([op("Unsqueeze", ["w", "n"])], {"w": W[0], "n": ints(0)}, 17),
    "Unsqueeze-1": ([op("Unsqueeze", ["w"], axes=[0])], {"w": W[0]}, 7),
    "Squeeze": ([op("Squeeze", ["w", "n"])], {"w": W[None], "n": ints(0)}, 17),
    "Squeeze-1": ([op("Squeeze", ["w"], axes=[0])], {"w": W[None]}, 7),
    "Transpose": ([op("Transpose", ["w"], perm=[2, 0, 1])], {"w": W.transpose(1, 2, 0)}, 17),
    "Transpose and more": (
        [op("Transpose", ["w"], outputs=["W", "V"], perm=[2, 0, 1])],
        {"w": W.transpose(1, 2, 0)},
        17,
    ),
    "Reshape": ([constant("n", None, value_ints=[0, 12, -1]), op("Reshape", ["w", "n"])], {"w": W.reshape(1, 24)}, 17),
    "Cast": ([op("Cast", ["w"], to=onnx.TensorProto.FLOAT)], {"w": W.astype(np.float64)}, 17),
    "Expand": ([op("Expand", ["w", "n"])], {"w": W[:, :1, :1] * 0 + W[0, 0, 0], "n": ints(1, 12, 2)}, 17),
    "ConstantOfShape": (
        [op("ConstantOfShape", ["n"], value=numpy_helper.from_array(W[0, 0, :1]))],
        {"n": ints(1, 12, 2)},
        17,
    ),
    "value_float": (
        [constant("w", None, value_float=float(W[0, 0, 0])), op("Expand", ["w", "n"])],
        {"n": ints(1, 12, 2)},
        17,
    ),
    "value_floats": (
        [constant("w", None, value_floats=W.ravel().tolist()), op("Reshape", ["w", "n"])],
        {"n": ints(1, 12, 2)},
        17,
    ),
    "value_int": (
        [constant("n", None, value_int=0), op("Unsqueeze", ["n", "zero"], outputs=["N"]), op("Unsqueeze", ["w", "N"])],
        {"w": W[0], "zero": ints(0)},
        17,
    ),
    "DequantizeLinear": (
        [op("DequantizeLinear", ["w", "scale", "zero"])],
        {"w": (np.arange(24).reshape(1, 12, 2)).astype(np.uint8), "scale": np.float32(0.5), "zero": np.uint8(4)},
        17,
    ),
    "twice": ([op("Concat", ["w", "w"], axis=1)], {"w": W[:, :6]}, 17),
}
SAME = {"Expand": W * 0 + W[0, 0, 0], "DequantizeLinear": (np.arange(24.0, dtype=np.float32).reshape(1, 12, 2) - 4) / 2}
SAME |= {"ConstantOfShape": SAME["Expand"], "value_float": SAME["Expand"], "twice": np.concatenate([W[:, :6]] * 2, 1)}


@pytest.mark.parametrize("case", FOLDS)
def test_folding(case):
    """W comes out of nodes; the others are tensors."""
    nodes, tensors, opset = FOLDS[case]
    rest = tensors_of(exact(a_model()))
    plain = from_params(proto([node()], rest | {"W": SAME.get(case, W)}))
    del rest["W"]
    assert_same(from_params(proto([*nodes, node()], rest | tensors, opset=opset)), plain)


def in_slices(model):
    """Return a graph that joins the blocks of PyTorch's weights in the other order: what is left where nobody folds."""
    H = model.layers[0].forward.weight_hh.shape[1]
    own = {"W": model.layers[0].forward.weight_ih, "R": model.layers[0].forward.weight_hh}
    nodes, tensors = [], {"B": tensors_of(model)["B"], "zero": ints(0)}
    for part, array in own.items():
        tensors[f"own_{part}"] = array
        for block, start in {"i": 0, "o": 3 * H, "f": H, "c": 2 * H}.items():
            tensors |= {f"start_{start}": ints(start), f"end_{start}": ints(start + H)}
            nodes.append(
                op("Slice", [f"own_{part}", f"start_{start}", f"end_{start}", "zero"], outputs=[f"{part}_{block}"])
            )
        nodes.append(op("Concat", [f"{part}_{block}" for block in "iofc"], outputs=[f"all_{part}"], axis=0))
        nodes.append(op("Unsqueeze", [f"all_{part}", "zero"], outputs=[part]))
    return proto([*nodes, node()], tensors)


def test_weights_of_torch_before_they_are_folded(monkeypatch):
    """Also where the budget is half of what it is: graphs in use leave room."""
    model = exact(a_model(50))
    assert_same(from_params(in_slices(model)), model)
    monkeypatch.setattr(lstm_xp.formats._files, "_FLOOR", 1)
    monkeypatch.setattr(lstm_xp.formats._files, "_RATIO", 8)
    assert_same(from_params(in_slices(model)), model)
    monkeypatch.setattr(lstm_xp.formats._files, "_RATIO", 1)
    with pytest.raises(ValueError, match="bytes of memory, more than"):
        from_params(in_slices(model))


def test_folding_stops_at_what_is_not_constant(tmp_path):
    rest = tensors_of(a_model())
    del rest["W"]
    made = proto([op("Concat", ["w", "X"], axis=0, outputs=["v"]), op("Identity", ["v"]), node()], rest | {"w": W})
    assert the_problem(tmp_path, made) == "`W` must be constant; it hangs on the input 'X'."


# Scopes


def branch(nodes, tensors=None, name="branch"):
    return graph(nodes, tensors or {}, inputs=(), outputs=("Y",), name=name)


def chooser(then, other, name="If"):
    return helper.make_node("If", ["which"], ["Y"], name=name, then_branch=then, else_branch=other)


def nothing():
    return branch([helper.make_node("Identity", ["X"], ["Y"])])


def test_a_branch_sees_the_weights_outside(tmp_path):
    model = exact(a_model())
    deep = chooser(branch([node(outputs=["Y"])]), nothing(), "inner")
    made = proto([chooser(nothing(), branch([deep]))], tensors_of(model), inputs=("X", "which"))
    (entry,) = inspected(tmp_path, made)
    assert entry.name == "lstm"
    assert_same(entry.model, model)


def test_inner_names_hide_outer_ones(tmp_path):
    outer, inner = exact(a_model()), exact(a_model(seed=1))
    made = proto(
        [chooser(branch([node(outputs=["Y"])], tensors_of(inner)), branch([node(outputs=["Y"])])), node(outputs=["Z"])],
        tensors_of(outer),
        inputs=("X", "which"),
    )
    entries = {entry.name: entry.model for entry in inspected(tmp_path, made)}
    wanted = {"lstm": outer, "If.then_branch/lstm": inner, "If.else_branch/lstm": outer}
    assert set(entries) == set(wanted)
    for name, model in wanted.items():
        assert_same(entries[name], model)


def test_the_body_of_a_loop_has_inputs_of_its_own(tmp_path):
    """The name W is a weight outside, and inside what the loop carries along."""
    body = graph([node(outputs=["y"]), helper.make_node("Identity", ["go"], ["on"])], {}, inputs=("k", "go", "W"))
    loop = helper.make_node("Loop", ["", "", "W"], ["Y"], body=body)
    made = proto([loop], tensors_of(a_model()))
    assert the_problem(tmp_path, made) == "`W` must be constant; it hangs on the input 'W'."
    body.input.pop()
    made = proto([helper.make_node("Loop", ["", "", "W"], ["Y"], body=body)], tensors_of(exact(a_model())))
    assert_same(from_params(made), exact(a_model()))


def test_the_body_of_a_scan():
    body = graph([node("x", "W", "R", "B", outputs=["y"])], {}, inputs=("x",), outputs=("y",))
    scan = helper.make_node("Scan", ["X"], ["Y"], body=body, num_scan_inputs=1)
    assert_same(from_params(proto([scan], tensors_of(exact(a_model())))), exact(a_model()))


def test_names_are_unique(tmp_path):
    tensors = tensors_of(a_model())
    made = proto(
        [node(name="", outputs=["", "h"]), node(name="", outputs=[]), node(name="a"), node(name="a"), node(name="a#2")],
        tensors,
    )
    names = [entry.name for entry in inspected(tmp_path, made)]
    assert names == ["h", "LSTM", "a", "a#2", "a#2#2"]
    assert_same(lstm_xp.load(tmp_path / "model.onnx", name="h"), from_params(made, name="LSTM"))
    with pytest.raises(ValueError, match="`name` must say which LSTM"):
        from_params(made)


# Functions of the model


def function(nodes, inputs, outputs, attributes=(), opset=17):
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("mine", 1)]
    return helper.make_function("mine", "run", inputs, outputs, nodes, imports, attributes)


def call(*inputs, outputs=("Y",), name="call", **attributes):
    return helper.make_node("run", inputs, outputs, name=name, domain="mine", **attributes)


def with_reference(made, name, kind):
    """Add an attribute whose value the call gives."""
    attribute = made.attribute.add()
    attribute.name = attribute.ref_attr_name = name
    attribute.type = kind
    return made


def test_inside_of_functions(tmp_path):
    """Each call has weights and attributes of its own; the weights pass through a function of old opset, too."""
    one, other = exact(a_model(cell=Cell(clip=0.5))), exact(a_model(seed=1))
    inner = with_reference(node("x", "w", "R", "b", outputs=["y"]), "clip", onnx.AttributeProto.FLOAT)
    body = [op("Squeeze", ["W"], outputs=["w"], axes=[0]), op("Unsqueeze", ["B"], outputs=["b"], axes=[0]), inner]
    run = function(body, ["x", "W", "R", "B"], ["y"], ["clip"], opset=11)
    tensors = {}
    for k, model in enumerate((one, other)):
        tensors |= {f"{part}{k}": array for part, array in tensors_of(model).items()}
        tensors |= {f"W{k}": tensors[f"W{k}"][None], f"B{k}": tensors[f"B{k}"][0]}
    calls = [call("X", "W0", "R0", "B0", clip=0.5), call("X", "W1", "R1", "B1", outputs=["Z"], name="again")]
    entries = inspected(tmp_path, proto(calls, tensors, functions=[run], domains=["mine"]))
    assert [entry.name for entry in entries] == ["call/lstm", "again/lstm"]
    assert_same(entries[0].model, one)
    assert_same(entries[1].model, other)


def test_attributes_that_a_call_leaves_out():
    """They have the default of the function, or are not there."""
    run = function([with_reference(node("x", "W", "R", "B", outputs=["y"]), "clip", 1)], ["x", "W", "R", "B"], ["y"])
    run.attribute_proto.append(helper.make_attribute("clip", 0.5))
    calls = [call("X", "W", "R", "B"), call("X", "W", "R", "B", outputs=["Z"], clip=0.25, name="other")]
    tensors = tensors_of(a_model())
    made = proto(calls, tensors, functions=[run], domains=["mine"])
    assert from_params(made, name="call/lstm").cell == Cell(clip=0.5)
    assert from_params(made, name="other/lstm").cell == Cell(clip=0.25)
    inner = with_reference(node("x", "W", "R", "B", outputs=["y"], direction="reverse"), "clip", 1)
    run = function([inner], ["x", "W", "R", "B"], ["y"], ["clip"])
    model = from_params(proto(calls[:1], tensors, functions=[run], domains=["mine"]))
    assert (model.cell, model.layers[0].forward) == (Cell(), None)  # beside one that a call gives are the node's own


def test_weights_that_a_function_makes():
    run = function([helper.make_node("Identity", ["w"], ["W"])], ["w"], ["W"])
    tensors = tensors_of(exact(a_model()))
    tensors["w"] = tensors.pop("W")
    made = proto([call("w", outputs=["W"]), node()], tensors, functions=[run], domains=["mine"])
    assert_same(from_params(made), exact(a_model()))


@pytest.mark.parametrize("calls", [1, 2])
def test_functions_that_call_themselves(calls):
    run = function([call(f"x{k}", outputs=[f"x{k + 1}"]) for k in range(calls)], ["x0"], [f"x{calls}"])
    made = proto([call("X"), node()], tensors_of(a_model()), functions=[run], domains=["mine"])
    assert "must lie at most 100 deep" in quick(from_params, made)


def test_functions_that_call_each_other_often():
    """Seven levels of ten calls each."""
    nodes = [helper.make_node(f"f{k}", ["x"], ["y"], domain="mine") for k in range(7)]
    imports = [helper.make_opsetid("mine", 1)]
    levels = [helper.make_function("mine", f"f{k + 1}", ["x"], ["y"], nodes[k : k + 1] * 10, imports) for k in range(6)]
    made = proto([nodes[6], node()], tensors_of(a_model()), functions=levels, domains=["mine"])
    assert "with 100000 nodes in all that is called" in quick(from_params, made)


def test_a_function_that_gives_back_what_it_is_given():
    """A value that is itself, by way of a call."""
    tensors = tensors_of(a_model())
    del tensors["W"]
    run = function([], ["x"], ["x"])
    made = proto([call("W", outputs=["W"]), node()], tensors, functions=[run], domains=["mine"])
    assert "cyclic" in quick(from_params, made)


# Layers


def stack_of(model, forms, *, outputs=("Y",), opset=17, tensors=None, **attributes):
    """Return a graph of one LSTM node a layer, with the nodes in between that `forms` makes of k, y and x."""
    tensors, nodes = dict(tensors or {}), []
    for k, layer in enumerate(model.layers):
        tensors |= {f"{part}{k}": array for part, array in tensors_of(model, k).items()}
        direction = "bidirectional" if layer.backward is not None else "forward"
        names = [f"X{k}", *(f"{part}{k}" for part in "WRB")]
        nodes.append(node(*names, outputs=[f"Y{k}"], name=f"lstm{k}", direction=direction, **attributes))
        nodes += forms(f"Y{k}", f"X{k + 1}")
    return proto(nodes, tensors, opset=opset, inputs=("X0",))


FIXED = {
    "one": ints(1),
    "rows": ints(0, 0, -1),
    "flat": ints(0, -1, 3),
    "fixed": ints(6, 4, -1),
    "half": np.float32(0.5),
}
FORMS = {
    # Between layers: directions, the nodes from y to x, and whether they make a stack.
    "Squeeze": (1, lambda y, x: [op("Squeeze", [y, "one"], outputs=[x])], True),
    "Squeeze and Identity": (
        1,
        lambda y, x: [op("Identity", [y], outputs=[f"{y}i"]), op("Squeeze", [f"{y}i", "one"], outputs=[x])],
        True,
    ),
    "to batch and back": (
        1,
        lambda y, x: [
            op("Squeeze", [y, "one"], outputs=[f"{y}a"]),
            op("Transpose", [f"{y}a"], outputs=[f"{y}b"], perm=[1, 0, 2]),
            op("Transpose", [f"{y}b"], outputs=[x], perm=[1, 0, 2]),
        ],
        True,
    ),
    "Dropout": (
        1,
        lambda y, x: [op("Squeeze", [y, "one"], outputs=[f"{y}a"]), op("Dropout", [f"{y}a", "half"], outputs=[x])],
        True,
    ),
    "Reshape": (1, lambda y, x: [op("Reshape", [y, "flat"], outputs=[x])], True),
    "both": (
        2,
        lambda y, x: [
            op("Transpose", [y], outputs=[f"{y}a"], perm=[0, 2, 1, 3]),
            op("Reshape", [f"{y}a", "rows"], outputs=[x]),
        ],
        True,
    ),
    "batch and time exchanged": (
        1,
        lambda y, x: [
            op("Squeeze", [y, "one"], outputs=[f"{y}a"]),
            op("Transpose", [f"{y}a"], outputs=[x], perm=[1, 0, 2]),
        ],
        False,
    ),
    "directions not side by side": (2, lambda y, x: [op("Reshape", [y, "rows"], outputs=[x])], False),
    "directions exchanged": (
        2,
        lambda y, x: [
            op("Transpose", [y], outputs=[f"{y}a"], perm=[0, 2, 3, 1]),
            op("Reshape", [f"{y}a", "rows"], outputs=[x]),
        ],
        False,
    ),
    "fixed sizes": (
        2,
        lambda y, x: [
            op("Transpose", [y], outputs=[f"{y}a"], perm=[0, 2, 1, 3]),
            op("Reshape", [f"{y}a", "fixed"], outputs=[x]),
        ],
        False,
    ),
    "something else": (
        1,
        lambda y, x: [op("Squeeze", [y, "one"], outputs=[f"{y}a"]), op("Relu", [f"{y}a"], outputs=[x])],
        False,
    ),
    "the mask of Dropout": (
        1,
        lambda y, x: [
            op("Squeeze", [y, "one"], outputs=[f"{y}a"]),
            op("Dropout", [f"{y}a", "half"], outputs=[f"{y}b", x]),
        ],
        False,
    ),
    "another shape that the caller gives": (1, lambda y, x: [op("Reshape", [y, "X0"], outputs=[x])], False),
}


@pytest.mark.parametrize("case", FORMS)
def test_nodes_in_a_row(case, tmp_path):
    D, forms, row = FORMS[case]
    model = exact(a_model(num_layers=3, bidirectional=D == 2))
    entries = inspected(tmp_path, stack_of(model, forms, tensors=FIXED))
    if row:
        assert [entry.name for entry in entries] == ["lstm0"]
        assert_same(entries[0].model, model)
    else:
        assert [entry.name for entry in entries] == ["lstm0", "lstm1", "lstm2"]
        for entry, layer in zip(entries, model.layers, strict=True):
            assert_same(entry.model, LSTM((layer,)))


def test_batch_first_nodes_in_a_row(tmp_path):
    """With layout 1, directions come third and are side by side as they are."""
    model = exact(a_model(num_layers=2, bidirectional=True))
    made = stack_of(model, lambda y, x: [op("Reshape", [y, "rows"], outputs=[x])], tensors=FIXED, layout=1)
    assert_same(from_params(made), model)


def test_a_row_needs_fitting_sizes(tmp_path):
    model = SimpleNamespace(layers=(a_model().layers[0], a_model(I=4).layers[0]))
    forms = FORMS["Squeeze"][1]
    assert [entry.name for entry in inspected(tmp_path, stack_of(model, forms, tensors=FIXED))] == ["lstm0", "lstm1"]


def test_two_after_one(tmp_path):
    """The first goes on with the row; the other one stands alone."""
    model = exact(a_model(num_layers=2))
    made = stack_of(model, FORMS["Squeeze"][1], tensors=FIXED)
    made.graph.node.append(node("X1", "W1", "R1", "B1", outputs=["Z"], name="other"))
    entries = inspected(tmp_path, made)
    assert [entry.name for entry in entries] == ["lstm0", "other"]
    assert_same(entries[0].model, model)
    assert_same(entries[1].model, LSTM(model.layers[1:]))


def test_the_last_state_is_no_row(tmp_path):
    model = exact(a_model(num_layers=2))
    tensors = {f"{part}{k}": array for k in range(2) for part, array in tensors_of(model, k).items()}
    nodes = [node("X", "W0", "R0", "B0", name="first"), node("Y_h", "W1", "R1", "B1", outputs=["Z"], name="second")]
    assert len(inspected(tmp_path, proto(nodes, tensors))) == 2


def test_a_problem_hides_no_other(tmp_path):
    model = exact(a_model(num_layers=3))
    made = stack_of(model, FORMS["Squeeze"][1], tensors=FIXED)
    made.graph.node[2].attribute.add().CopyFrom(helper.make_attribute("clip", -1.0))
    first, second, third = inspected(tmp_path, made)
    assert_same(first.model, LSTM(model.layers[:1]))
    assert "`clip` must be a positive number" in second.problem
    assert_same(third.model, LSTM(model.layers[2:]))
    with pytest.raises(ValueError, match="LSTM 'lstm1': Cell: `clip` must be a positive number"):
        lstm_xp.load(tmp_path / "model.onnx", name="lstm1")


def test_cells_of_a_row():
    model = exact(a_model(num_layers=2))
    made = stack_of(model, FORMS["Squeeze"][1], tensors=FIXED, clip=0.5)
    assert from_params(made).cell == Cell(clip=0.5)
    (clip,) = (attribute for attribute in made.graph.node[0].attribute if attribute.name == "clip")
    made.graph.node[0].attribute.remove(clip)
    assert from_params(made).cell == (Cell(), Cell(clip=0.5))


# Sizes that a file fixes


def side_by_side(*sizes, perm=(0, 2, 1, 3)):
    """Return the nodes between two layers, and a target of Reshape in numbers, as of an export with nothing free."""
    nodes = [op("Transpose", ["Y0"], outputs=["a"], perm=perm), op("Reshape", ["a", "sizes"], outputs=["X1"])]
    return nodes, np.asarray(sizes)


def rows_of(sizes, batches):
    """Return nodes that pick the first sequences, once the directions lie side by side."""
    (transpose, reshape), target = side_by_side(*sizes)
    reshape.output[0] = "all"
    picked = op("Slice", ["all", "zero", "batches", "one"], outputs=["X1"])
    return [transpose, reshape, picked], target, {"zero": ints(0), "one": ints(1), "batches": ints(batches)}


STRAIGHT = [op("Reshape", ["Y0", "sizes"], outputs=["X1"])]
SIZED = {
    # Directions, time and batch, the nodes in between and their target; whether that is a stack, and is read as one.
    "one direction": (1, (6, 4), side_by_side(6, 4, 3), True, True),
    "both directions": (2, (6, 4), side_by_side(6, 4, 6), True, True),
    "one step": (2, (1, 4), side_by_side(1, 4, 6), True, True),
    "one sequence": (2, (6, 1), side_by_side(6, 1, 6), True, True),
    "one step of one sequence": (2, (1, 1), side_by_side(1, 1, 6), True, True),
    "as many steps as sequences": (2, (4, 4), side_by_side(4, 4, 6), True, True),
    "all sizes the same": (2, (6, 6), side_by_side(6, 6, 6), True, True),
    "straight": (1, (6, 4), (STRAIGHT, ints(6, 4, 3)), True, True),
    "the time is what is left": (2, (6, 4), side_by_side(-1, 4, 6), True, True),
    "the time is that before": (2, (6, 4), side_by_side(0, 4, 6), True, True),
    # One sequence has no order among others; as two LSTMs it is right as well.
    "straight for one sequence": (2, (6, 1), (STRAIGHT, ints(6, 1, 6)), True, False),
    "another order for one sequence": (2, (6, 1), side_by_side(6, 1, 6, perm=(2, 0, 1, 3)), True, False),
    "time and batch mixed": (2, (4, 6), side_by_side(6, 4, 6), False, False),
    "time and batch mixed, in the sizes of an example": (2, (7, 5), side_by_side(5, 7, 6), False, False),
    "time and batch mixed, in those of another": (2, (3, 11), side_by_side(11, 3, 6), False, False),
    "all in one step": (1, (6, 4), side_by_side(1, 24, 3), False, False),
    "all in one sequence": (1, (6, 4), side_by_side(24, 1, 3), False, False),
    "time and batch exchanged": (2, (4, 4), side_by_side(4, 4, 6, perm=(2, 0, 1, 3)), False, False),
    "batch and features mixed": (1, (6, 4), side_by_side(6, 4, 3, perm=(0, 3, 1, 2)), False, False),
    "batch and features of the same size mixed": (1, (6, 3), side_by_side(6, 3, 3, perm=(0, 3, 1, 2)), False, False),
    "time and features mixed": (1, (3, 4), side_by_side(3, 4, 3, perm=(3, 2, 1, 0)), False, False),
    "directions and features mixed": (2, (6, 4), side_by_side(6, 4, 6, perm=(0, 2, 3, 1)), False, False),
    "directions and batch mixed": (2, (6, 4), (STRAIGHT, ints(6, 4, 6)), False, False),
    "directions and as many sequences mixed": (2, (6, 2), (STRAIGHT, ints(6, 2, 6)), False, False),
    "some sequences picked": (2, (6, 10), rows_of((6, 10, 6), 7), False, False),
}


def sized(model, sizes, forms, *, start=True, **names):
    """Return a graph of two layers, the first one with an initial state of zeros, if it has one."""
    nodes, target, tensors = (*forms, {})[:3]
    D = 1 if model.layers[0].backward is None else 2
    tensors = {f"{part}{k}": array for k in range(2) for part, array in tensors_of(model, k).items()} | tensors
    tensors |= {"sizes": target} | ({"h": np.zeros((D, sizes[1], 3), "float32")} if start is True else {})
    way = {"direction": "forward" if D == 1 else "bidirectional", "hidden_size": 3}
    first = node("x", "W0", "R0", "B0", "", "h" if start else "", outputs=["Y0"], name="lstm0", **way)
    second = node("X1", "W1", "R1", "B1", outputs=["Y"], name="lstm1", **way)
    return proto([first, *nodes, second], tensors, **({"inputs": ("x",)} | names))


@pytest.mark.parametrize("case", SIZED)
def test_sizes_that_are_fixed(case, tmp_path):
    """Between layers these may be what lays directions side by side, or mix them: the numbers of onnxruntime tell."""
    D, sizes, forms, is_stack, row = SIZED[case]
    model = exact(a_model(num_layers=2, bidirectional=D == 2))
    made = sized(model, sizes, forms)
    x = np.random.default_rng(0).normal(size=(*sizes, 2)).astype(np.float32)
    wanted = np.concatenate(list(onnxruntime_outputs(made, x)[0].swapaxes(0, 1)), -1)
    y = model(x.swapaxes(0, 1))[0].swapaxes(0, 1)
    assert (wanted.shape == y.shape and np.allclose(wanted, y, rtol=0, atol=SINGLE)) == is_stack
    found = [entry.model for entry in inspected(tmp_path, made)]
    assert len(found) == (1 if row else 2)
    for got, layers in zip(found, [model.layers] if row else [model.layers[:1], model.layers[1:]], strict=True):
        assert_same(got, LSTM(layers))


@pytest.mark.parametrize("sizes", [(6, 4), (5, 7), (11, 3)])
def test_without_a_state_the_batch_is_free(sizes, tmp_path):
    """Then a target of fixed sizes mixes the numbers of all batches but one."""
    made = sized(exact(a_model(num_layers=2)), sizes, side_by_side(*sizes, 3), start=False)
    assert len(inspected(tmp_path, made)) == 2


STATES = {
    # The shape of an initial state that the caller gives, the nodes that make h of it, and whether they are a stack.
    "fixed": ([1, 4, 3], [], True),
    "fixed, of all layers": ([2, 4, 3], [op("Slice", ["given", "from", "to", "from"], outputs=["h"])], True),
    "another batch": ([1, 6, 3], [], False),
    "negative": ([1, -4, 3], [], False),
    "larger than any": ([2**40, 4, 2**40], [], False),
    "of more axes than any": ([1] * 100, [], False),
    "free": ([1, "batch", 3], [], False),
    "of a free number of layers": (["layers", 4, 3], [], False),
    "of no known shape": (None, [], False),
    "with more than is free": ([1, "batch", 3], [op("Concat", ["given", "zeros"], outputs=["h"], axis=1)], False),
    "with more than is of no known shape": (None, [op("Expand", ["given", "shape"], outputs=["h"])], False),
}


@pytest.mark.parametrize("case", STATES)
def test_states_that_the_caller_gives(case, tmp_path):
    """Their batch is known where the shape of the input is, which onnxruntime holds a caller to."""
    shape, nodes, row = STATES[case]
    model = exact(a_model(num_layers=2))
    between, target = side_by_side(6, 4, 3)
    more = {"from": ints(0), "to": ints(1), "shape": ints(1, 4, 3), "zeros": np.zeros((1, 4, 3), "float32")}
    nodes = nodes or [op("Identity", ["given"], outputs=["h"])]
    made = sized(model, (6, 4), ([*nodes, *between], target, more), start="given", inputs=("x", "given"))
    made.graph.input[1].CopyFrom(helper.make_tensor_value_info("given", onnx.TensorProto.FLOAT, shape))
    assert len(inspected(tmp_path, made)) == (1 if row else 2)


def test_what_hides_an_input_has_its_own_size(tmp_path):
    """A tensor of the name of an input is its default, whatever shape the input says."""
    forms, target = side_by_side(6, 4, 3)
    state = {"h": np.zeros((1, 6, 3), "float32")}
    made = sized(exact(a_model(num_layers=2)), (6, 4), (forms, target, state), start="h", inputs=("x", "h"))
    made.graph.input[1].CopyFrom(helper.make_tensor_value_info("h", onnx.TensorProto.FLOAT, [1, 4, 3]))
    assert len(inspected(tmp_path, made)) == 2


def test_onnxruntime_holds_a_caller_to_the_batch_of_the_state():
    """On this stands that a fixed size is the batch: with another one, there are no numbers to be wrong."""
    made = sized(exact(a_model(num_layers=2)), (6, 4), side_by_side(6, 4, 3))
    with pytest.raises(Exception, match=r"initial_h must have shape \{1,6,3\}"):
        onnxruntime_outputs(made, np.zeros((4, 6, 2), "float32"))


TARGETS = {
    "of two numbers, and back": [
        op("Reshape", ["Y0", "sizes"], outputs=["a"]),
        op("Reshape", ["a", "again"], outputs=["X1"]),
    ],
    "of two numbers": [op("Reshape", ["Y0", "sizes"], outputs=["X1"])],
    "of one number": [op("Reshape", ["Y0", "all"], outputs=["X1"])],
    "of no numbers": [op("Reshape", ["Y0", "none"], outputs=["X1"])],
    "without a shape": [op("Reshape", ["Y0"], outputs=["X1"])],
    "with the shape of opset 1": [op("Reshape", ["Y0"], outputs=["X1"], shape=[6, 4, 3])],
}


@pytest.mark.parametrize("case", TARGETS)
def test_targets_without_three_numbers(case, tmp_path):
    """These have no batch, known or not."""
    forms = (TARGETS[case], ints(24, 3), {"again": ints(0, -1, 3), "all": ints(72), "none": ints()})
    made = sized(exact(a_model(num_layers=2)), (6, 4), forms, start="h", inputs=("x", "h"))
    assert len(inspected(tmp_path, made)) == 2


def test_fixed_sizes_of_batch_first_nodes(tmp_path):
    """With layout 1 the second size of the initial state is that of the directions."""
    nodes = [
        op("Transpose", ["Y0"], outputs=["a"], perm=[1, 0, 2, 3]),
        op("Reshape", ["a", "sizes"], outputs=["b"]),
        op("Transpose", ["b"], outputs=["X1"], perm=[1, 0, 2]),
    ]
    state = {"h": np.zeros((4, 2, 3), "float32")}
    model = exact(a_model(num_layers=2, bidirectional=True))
    made = sized(model, (6, 4), (nodes, ints(12, 2, 6), state), start="h")
    for k in (0, -1):
        made.graph.node[k].attribute.append(helper.make_attribute("layout", 1))
    assert len(inspected(tmp_path, made)) == 2


# The order of steps


def reversal(x, y, *, time=1):
    """Return the nodes that tf2onnx writes for `go_backwards`, of whatever number of steps."""
    return [
        op("Shape", [x], outputs=[f"{y}_n"]),
        op("Gather", [f"{y}_n", "zero" if time else "one"], outputs=[f"{y}_batch"]),
        op("Gather", [f"{y}_n", "one" if time else "zero"], outputs=[f"{y}_steps"]),
        op("Expand", [f"{y}_steps", f"{y}_batch"], outputs=[f"{y}_lens"]),
        op("ReverseSequence", [x, f"{y}_lens"], outputs=[y], time_axis=time, batch_axis=1 - time),
    ]


def flip(x, y, axis="one"):
    """Return the node that PyTorch writes for `flip`."""
    return op("Slice", [x, "minus", "before", axis, "minus"], outputs=[y])


def swap(x, y):
    return op("Transpose", [x], outputs=[y], perm=[1, 0, 2])


NUMBERS = {
    "zero": ints(0),
    "one": ints(1),
    "two": ints(2),
    "three": ints(3),
    "minus": ints(-1),
    "before": ints(-(2**63) + 1),
    "end": ints(2**63 - 1),
    "first": np.asarray(0),
    "some": ints(4, 3, 2, 1, 0),
    "columns": ints(1, 0),
    "lens": ints(2000),
    "flat": ints(0, 0, -1),
    "alone": ints(-1, 1, 2),
    "elements": np.zeros((3, 5, 2), np.int64),
    "pairs": np.zeros((3, 5, 1), np.int64),
    "table": np.ones((5, 2), np.float32),
    "small": np.ones((5, 2), np.uint8),
    "half": np.float32(0.5),
    "square": np.ones((2, 2), np.float32),
}
BEFORE = {
    # Between an input x (batch, time, features) and r, of which X is the transpose: what it does to the steps.
    "nothing": ([op("Identity", ["x"], outputs=["r"])], "same"),
    "reversed": (reversal("x", "r"), "turned"),
    "reversed in time first": ([swap("x", "s"), *reversal("s", "t", time=0), swap("t", "r")], "turned"),
    "flipped": ([flip("x", "r")], "turned"),
    "flipped, rounded": ([flip("x", "s"), op("Cast", ["s"], outputs=["r"], to=1)], "turned"),
    "flipped, dropped": ([flip("x", "s"), op("Dropout", ["s", "half"], outputs=["r"])], "turned"),
    "flipped, in more axes": (
        [
            op("Unsqueeze", ["x", "one"], outputs=["s"]),
            flip("s", "t", "two"),
            op("Squeeze", ["t", "one"], outputs=["r"]),
        ],
        "turned",
    ),
    "shaped and flipped": ([op("Reshape", ["x", "flat"], outputs=["s"]), flip("s", "r")], "turned"),
    "an embedding, flipped twice": (
        [op("Gather", ["table", "x"], outputs=["s"]), flip("s", "t"), flip("t", "r")],
        "same",
    ),
    "an embedding of a Constant in time first": (
        [
            constant("numbers", np.ones((5, 2), np.float32)),
            op("Gather", ["numbers", "x"], outputs=["s"]),
            swap("s", "r"),
        ],
        "same",
    ),
    "flipped, in more axes and back": (
        [
            flip("x", "s"),
            op("Unsqueeze", ["s", "one"], outputs=["t"]),
            op("Squeeze", ["t", "one"], outputs=["r"]),
        ],
        "turned",
    ),
    "flipped, transposed": (
        [
            swap("x", "s"),
            op("Transpose", ["s"], outputs=["t"]),
            flip("t", "u", "two"),
            op("Transpose", ["u"], outputs=["v"]),
            swap("v", "r"),
        ],
        "turned",
    ),
    "flipped twice": ([flip("x", "s"), *reversal("s", "r")], "same"),
    "flipped before a network": ([flip("x", "s"), op("MatMul", ["s", "square"], outputs=["r"])], "same"),
    "batch flipped": ([flip("x", "r", "zero")], "same"),
    "features flipped": ([flip("x", "r", "two")], "same"),
    "some features": ([op("Slice", ["x", "two", "end", "two"], outputs=["r"])], "same"),
    "chosen features": ([op("Gather", ["x", "columns"], outputs=["r"], axis=2)], "same"),
    "one channel": ([op("Gather", ["x", "first"], outputs=["r"], axis=1)], "same"),
    "batch sorted": ([op("Gather", ["x", "order"], outputs=["r"], axis=0)], "same"),
    "batch sorted, by default": ([op("Gather", ["x", "order"], outputs=["r"])], "same"),
    "all steps": ([op("Slice", ["x", "zero", "end", "one", "one"], outputs=["r"])], "same"),
    "one step": ([op("Slice", ["x", "two", "three", "one"], outputs=["r"])], "same"),
    "one step of some": (
        [op("Gather", ["x", "some"], outputs=["s"], axis=1), op("Slice", ["s", "two", "three", "one"], outputs=["r"])],
        "same",
    ),
    "one step, as a row": (
        [op("Gather", ["x", "order"], outputs=["s"], axis=1), op("Reshape", ["s", "alone"], outputs=["r"])],
        "same",
    ),
    "the step of the caller": (
        [op("Gather", ["x", "order"], outputs=["s"], axis=1), op("Unsqueeze", ["s", "one"], outputs=["r"])],
        "same",
    ),
    "an embedding": ([op("Gather", ["table", "x"], outputs=["r"])], "same"),
    "an embedding, flipped": ([op("Gather", ["table", "x"], outputs=["s"]), flip("s", "r")], "turned"),
    "an embedding in time first": ([op("Gather", ["table", "x"], outputs=["s"]), swap("s", "r")], "same"),
    "an embedding of integers": (
        [
            op("DequantizeLinear", ["small", "half"], outputs=["floats"]),
            op("Gather", ["floats", "x"], outputs=["s"]),
            swap("s", "r"),
        ],
        "same",
    ),
    "reversed as far as the file says": (
        [op("ReverseSequence", ["x", "lens"], outputs=["r"], time_axis=1, batch_axis=0)],
        "ReverseSequence",
    ),
    "reversed as far as the caller says": (
        [op("ReverseSequence", ["x", "order"], outputs=["r"], time_axis=1, batch_axis=0)],
        "ReverseSequence",
    ),
    "the first cut off": ([op("Slice", ["x", "one", "end", "one"], outputs=["r"])], "Slice"),
    "more cut off than the example has": ([op("Slice", ["x", "lens", "end", "one"], outputs=["r"])], "Slice"),
    "the last cut off": ([op("Slice", ["x", "zero", "minus", "one"], outputs=["r"])], "Slice"),
    "every other one": ([op("Slice", ["x", "zero", "end", "one", "two"], outputs=["r"])], "Slice"),
    "cut by the caller": ([op("Slice", ["x", "zero", "order", "one"], outputs=["r"])], "Slice"),
    "steps by number": ([op("Gather", ["x", "some"], outputs=["r"], axis=1)], "Gather"),
    "steps of the caller": ([op("Gather", ["x", "order"], outputs=["r"], axis=1)], "Gather"),
    "steps one by one": ([op("GatherElements", ["x", "elements"], outputs=["r"], axis=1)], "GatherElements"),
    "steps as pairs": ([op("GatherND", ["x", "pairs"], outputs=["r"], batch_dims=1)], "GatherND"),
    "steps that count": ([op("Compress", ["x", "some"], outputs=["r"], axis=1)], "Compress"),
    "flipped behind a Reshape of the caller": (
        [flip("x", "s"), op("Reshape", ["s", "order"], outputs=["r"])],
        "Reshape",
    ),
    "flipped behind a Reshape": ([flip("x", "s"), op("Reshape", ["s", "flat"], outputs=["r"])], "Reshape"),
}


def numbered(nodes, tensors, **names):
    """Return a model with those of the numbers that its nodes take."""
    taken = {name for each in nodes for name in each.input}
    return proto(nodes, {name: a for name, a in (NUMBERS | tensors).items() if name in taken}, **names)


def onnxruntime_outputs(made, x):
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})


@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("layout", [0, 1])
@pytest.mark.parametrize("case", BEFORE)
def test_steps_before_a_node(case, layout, direction, tmp_path):
    """In their order, or all of them turned round, or one alone; else the node is named and the file refused."""
    nodes, steps = BEFORE[case]
    model = exact(a_model())
    ways = {"forward": model, "reverse": LSTM((Layer(None, model.layers[0].forward),))}
    to_X = op("Identity", ["r"], outputs=["X"]) if layout else swap("r", "X")
    nodes = [*nodes, to_X, node(direction=direction, layout=layout)]
    made = numbered(nodes, tensors_of(model), inputs=("x", "order"))
    (entry,) = inspected(tmp_path, made)
    if steps not in ("same", "turned"):
        assert f"({steps}) before it makes others" in entry.problem
        with pytest.raises(
            ValueError, match="must have all steps of a sequence, in order or turned round, or one alone"
        ):
            lstm_xp.load(tmp_path / "model.onnx")
        return
    turned = {"forward": "reverse", "reverse": "forward"}
    assert_same(entry.model, ways[direction if steps == "same" else turned[direction]])


FLIPS = {
    "reversed": lambda x, y: reversal(x, y, time=0),
    "flipped": lambda x, y: [flip(x, y, "zero")],
    "neither": lambda x, y: [op("Identity", [x], outputs=[y])],
    "rectified": lambda x, y: [op("Relu", [x], outputs=[y])],
    "rounded": lambda x, y: [op("Cast", [x], outputs=[y], to=1)],
    "shaped": lambda x, y: [op("Reshape", [x, "flat"], outputs=[y])],
    "cut": lambda x, y: [op("Slice", [x, "one", "end", "zero"], outputs=[y])],
    "last": lambda x, y: [op("Slice", [x, "minus", "end", "zero"], outputs=[y])],
    # As PyTorch writes it since 2.9: the size of the directions side by side is computed.
    "sized": lambda x, y: [
        op("Unsqueeze", [x, "two"], outputs=["u"]),
        op("Shape", ["u"], outputs=["n"]),
        op("Slice", ["n", "zero", "two"], outputs=["rows"]),
        op("Gather", ["n", "two"], outputs=["D"]),
        op("Gather", ["n", "minus"], outputs=["H"]),
        op("Mul", ["D", "H"], outputs=["DH"]),
        op("Concat", ["rows", "DH"], outputs=["sizes"], axis=0),
        op("Reshape", ["u", "sizes"], outputs=[y]),
    ],
}
F, R = "forward", "reverse"
ROWS = {
    # What stands before the first node, between the two, and after: the directions of the layers found, a tuple for
    # each LSTM, and whether y has the order of processing.
    ("neither", "neither", "neither"): ([(F, F)], False),
    ("neither", "sized", "neither"): ([(F, F)], False),
    ("neither", "neither", "reversed"): ([(F, F)], True),
    ("neither", "reversed", "neither"): ([(F, R)], True),
    ("neither", "flipped", "flipped"): ([(F, R)], False),
    ("reversed", "neither", "neither"): ([(R, R)], True),
    ("flipped", "reversed", "neither"): ([(R, F)], False),
    ("reversed", "neither", "flipped"): ([(R, R)], False),
    ("neither", "rectified", "neither"): ([(F,), (F,)], None),
    ("neither", "rounded", "neither"): ([(F,), (F,)], None),
    ("neither", "last", "neither"): ([(F,), (F,)], None),
    ("reversed", "rectified", "neither"): ([(R,), (F,)], None),
    ("neither", "cut", "neither"): ([(F,), None], None),
    ("cut", "neither", "neither"): ([None, (F,)], None),
    ("neither", "neither", "last"): ([(F, F)], None),
    ("neither", "neither", "cut"): ([(F, F)], None),
}


@pytest.mark.parametrize("places", ROWS, ids=", ".join)
def test_steps_at_each_place(places, tmp_path):
    wanted, turned = ROWS[places]
    model = exact(a_model(num_layers=2))
    before, between, after = (FLIPS[place] for place in places)
    weights = {f"{part}{k}": array for k in range(2) for part, array in tensors_of(model, k).items()}
    nodes = [
        swap("x", "s"),
        *before("s", "X"),
        node("X", "W0", "R0", "B0", outputs=["Y0"], name="one", hidden_size=3),
        op("Squeeze", ["Y0", "one"], outputs=["y0"]),
        *between("y0", "x1"),
        node("x1", "W1", "R1", "B1", outputs=["Y1"], name="two", hidden_size=3),
        op("Squeeze", ["Y1", "one"], outputs=["y1"]),
        *after("y1", "r"),
        swap("r", "y"),
    ]
    made = numbered(nodes, weights, inputs=("x",), outputs=("y",))
    entries = inspected(tmp_path, made)
    found = [
        entry.model and tuple(R if layer.forward is None else F for layer in entry.model.layers) for entry in entries
    ]
    assert found == wanted
    assert all((entry.model is None) == ("before it makes others" in (entry.problem or "")) for entry in entries)
    if turned is not None:
        x = np.random.default_rng(0).standard_normal((3, 5, 2)).astype(np.float32)
        (theirs,) = onnxruntime_outputs(made, x)
        y = lstm_xp.load(tmp_path / "model.onnx")(x)[0]
        np.testing.assert_allclose(theirs, y[:, ::-1] if turned else y, rtol=0, atol=SINGLE)


def test_a_file_of_keras_that_goes_backwards():
    """As tf2onnx writes it, states and all: a reverse-only layer, whose y the file has in the order of processing."""
    model = exact(a_model())
    states = [
        op("Shape", ["x"], outputs=["size"]),
        op("Slice", ["size", "zero", "one"], outputs=["batch"]),
        op("Concat", ["batch", "units"], outputs=["shape"], axis=0),
        op("ConstantOfShape", ["shape"], outputs=["zeros"]),
        op("Unsqueeze", ["zeros", "zero"], outputs=["h"]),
    ]
    nodes = [
        *states,
        swap("x", "s"),
        *reversal("s", "X", time=0),
        node("X", "W", "R", "B", "", "h", "h", hidden_size=3),
    ]
    made = numbered(nodes, tensors_of(model) | {"units": ints(3)}, inputs=("x",), outputs=("Y", "Y_h", "Y_c"))
    x = np.random.default_rng(0).standard_normal((3, 5, 2)).astype(np.float32)
    theirs, h, c = onnxruntime_outputs(made, x)
    y, (last,) = from_params(made)(x)
    np.testing.assert_allclose(theirs[:, 0].swapaxes(0, 1), y[:, ::-1], rtol=0, atol=SINGLE)
    np.testing.assert_allclose(h, last.h, rtol=0, atol=SINGLE)
    np.testing.assert_allclose(c, last.c, rtol=0, atol=SINGLE)


@pytest.mark.parametrize(("names", "directions"), [(["X", "W", "R", "B"], 2), (["X", "W", "R", "B", "lens"], 1)])
def test_what_is_turned_round_and_more(names, directions, tmp_path):
    """The halves of y would change places, and steps that are left out would come first."""
    model = a_model(bidirectional=directions == 2)
    nodes = [*reversal("x", "X", time=0), node(*names, direction="forward" if directions == 1 else "bidirectional")]
    made = numbered(nodes, tensors_of(model), inputs=("x",))
    assert "must be those of one direction, and without `sequence_lens`" in the_problem(tmp_path, made)


def test_turned_round_and_then_both_directions(tmp_path):
    """The second has another input than the y of the first, and stands alone."""
    one, two = exact(a_model()), exact(a_model(I=3, bidirectional=True))
    weights = {f"{part}{k}": a for k, each in enumerate((one, two)) for part, a in tensors_of(each).items()}
    nodes = [
        *reversal("x", "X", time=0),
        node("X", "W0", "R0", "B0", outputs=["Y0"], name="one", hidden_size=3),
        op("Squeeze", ["Y0", "one"], outputs=["x1"]),
        node("x1", "W1", "R1", "B1", name="two", direction="bidirectional"),
    ]
    first, second = inspected(tmp_path, numbered(nodes, weights, inputs=("x",)))
    assert_same(first.model, LSTM((Layer(None, one.layers[0].forward),)))
    assert_same(second.model, two)


def test_lengths_of_the_file(tmp_path):
    """Those of the caller are an argument; the same for all say that the batch and the time are fixed."""
    tensors = tensors_of(exact(a_model()))
    names = ["X", "W", "R", "B", "lens"]
    assert "`sequence_lens` is constant" in the_problem(
        tmp_path, proto([node(*names)], tensors | {"lens": ints(5, 3, 1)})
    )
    for made in (
        proto([node(*names)], tensors, inputs=("X", "lens")),
        proto([node(*names)], tensors | {"lens": ints(5, 5)}),
    ):
        assert_same(from_params(made), exact(a_model()))


# The initial state


FILL = numpy_helper.from_array(np.ones(1, np.float32))
STARTS = {
    # What makes h, and whether it is a state that the model would lose.
    "asked for": ([], {}, False),
    "zeros": ([], {"h": np.zeros((1, 3, 3), np.float32)}, False),
    "numbers": ([], {"h": np.ones((1, 3, 3), np.float32)}, True),
    "zeros of the batch": ([op("ConstantOfShape", ["n"], outputs=["h"])], {}, False),
    "ones of the batch": ([op("ConstantOfShape", ["n"], outputs=["h"], value=FILL)], {}, True),
    "zeros, expanded": ([op("Expand", ["a", "n"], outputs=["h"])], {"a": np.zeros((1, 1, 3), np.float32)}, False),
    "zeros, as often as the file says": (
        [op("Expand", ["a", "m"], outputs=["h"])],
        {"a": np.zeros((1, 1, 3), np.float32), "m": ints(1, 3, 3)},
        False,
    ),
    "learned": ([op("Expand", ["a", "n"], outputs=["h"])], {"a": np.ones((1, 1, 3), np.float32)}, True),
    "learned, as a Constant": ([constant("a", W), op("Tile", ["a", "n"], outputs=["h"])], {}, True),
    "half learned": ([op("Concat", ["n", "a"], outputs=["h"], axis=0)], {"a": np.ones((1, 3, 3), np.float32)}, True),
    "computed": ([op("Relu", ["n"], outputs=["h"])], {}, False),
    "a slice": ([op("Slice", ["n", "a", "b"], outputs=["h"])], {"a": ints(0), "b": ints(1)}, False),
    "huge zeros": ([op("ConstantOfShape", ["a"], outputs=["h"])], {"a": ints(1, 1 << 40, 3)}, False),
}


@pytest.mark.parametrize("part", ["initial_h", "initial_c"])
@pytest.mark.parametrize("case", STARTS)
def test_initial_states(case, part, tmp_path):
    nodes, tensors, lost = STARTS[case]
    model = exact(a_model())
    names = ["X", "W", "R", "B", "", *(("h",) if part == "initial_h" else ("", "h"))]
    asked = ("X", "n") if nodes or tensors else ("X", "n", "h")
    (entry,) = inspected(tmp_path, proto([*nodes, node(*names)], tensors_of(model) | tensors, inputs=asked))
    if lost:
        assert entry.problem.startswith(f"`{part}` is constant and not zero")
    else:
        assert_same(entry.model, model)


# Weights beside the model


def with_data_beside(tmp_path, *, location="weights.bin", **options):
    """Write a model whose large tensors lie in another file, and return it as it stands in its own."""
    model = exact(a_model(H=20))
    made = proto([node()], tensors_of(model))
    onnx.save(made, tmp_path / "model.onnx", save_as_external_data=True, location=location, size_threshold=0, **options)
    return model, onnx.load(tmp_path / "model.onnx", load_external_data=False)


def test_weights_beside_the_model(tmp_path):
    model, made = with_data_beside(tmp_path)
    assert (tmp_path / "weights.bin").exists()
    assert_same(lstm_xp.load(tmp_path / "model.onnx"), model)
    with pytest.raises(ValueError, match=r"weights lie in another file, 'weights.bin': read it with `lstm_xp.load`"):
        from_params(made)


def test_the_files_beside_count(tmp_path, monkeypatch):
    """Weights may be much larger than the file that names them."""
    monkeypatch.setattr(lstm_xp.formats._files, "_FLOOR", 1)
    model, _ = with_data_beside(tmp_path)
    weights = (tmp_path / "weights.bin").stat().st_size
    lstm_xp.load(tmp_path / "model.onnx")
    assert weights > 5 * (tmp_path / "model.onnx").stat().st_size
    model = a_model(H=100)
    onnx.save(to_params(model), tmp_path / "big.onnx", save_as_external_data=True, location="big.bin")
    assert (tmp_path / "big.bin").stat().st_size > 16 * (tmp_path / "big.onnx").stat().st_size
    assert_same(lstm_xp.load(tmp_path / "big.onnx"), model)


def test_only_the_weights_that_are_needed(tmp_path):
    """Tensors of other nodes may lie in a file that is gone."""
    model, made = with_data_beside(tmp_path)
    made.graph.initializer.add().CopyFrom(made.graph.initializer[0])
    made.graph.initializer[-1].name = "other"
    made.graph.initializer[-1].external_data[0].value = "gone.bin"
    (tmp_path / "model.onnx").write_bytes(made.SerializeToString())
    assert_same(lstm_xp.load(tmp_path / "model.onnx"), model)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("location", "../weights.bin", "must lie inside of the model's folder"),
        ("location", "in/../../weights.bin", "must lie inside of the model's folder"),
        ("location", "..\\weights.bin", "must lie inside of the model's folder"),
        ("location", "/etc/hostname", "must lie inside of the model's folder"),
        ("location", "C:\\weights.bin", "must lie inside of the model's folder"),
        ("location", "//host/share/weights.bin", "must lie inside of the model's folder"),
        ("location", "link.bin", "must lie inside of the model's folder"),
        ("location", "in/weights.bin", "must lie inside of the model's folder"),
        ("location", "gone.bin", "'gone.bin', which is not there"),
        ("location", "", "'', which is not there"),
        ("location", "pipe", "'pipe', which is not there"),
        ("location", "a\0b", "null"),
        ("offset", "100000000", "must hold 640 bytes for the tensor 'W', from 100000000"),
        ("offset", "-1", "must hold 640 bytes"),
        ("offset", "many", "invalid literal"),
        ("length", "10", "must hold 640 bytes"),
    ],
)
def test_weights_elsewhere(key, value, words, tmp_path):
    inside = tmp_path / "models"
    (tmp_path / "out").mkdir()
    inside.mkdir()
    _, made = with_data_beside(inside)
    for folder in (tmp_path, tmp_path / "out"):
        (folder / "weights.bin").write_bytes((inside / "weights.bin").read_bytes())
    (inside / "link.bin").symlink_to(tmp_path / "weights.bin")
    (inside / "in").symlink_to(tmp_path / "out")
    os.mkfifo(inside / "pipe")
    (tensor,) = (tensor for tensor in made.graph.initializer if tensor.name == "W")
    for entry in tensor.external_data:
        if entry.key == key:
            entry.value = value
    assert words in the_problem(inside, made)


def test_one_large_tensor_named_often(tmp_path):
    """All that is read counts, against the size of the files."""
    np.zeros(1 << 20, np.uint8).tofile(tmp_path / "weights.bin")
    made = proto([], {})
    for k in range(200):
        for part, shape in {"W": (1, 256, 960), "R": (1, 256, 64)}.items():
            tensor = made.graph.initializer.add(name=f"{part}{k}", dims=shape, data_type=onnx.TensorProto.FLOAT)
            tensor.data_location = onnx.TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value="weights.bin")
        made.graph.node.append(node("X", f"W{k}", f"R{k}", outputs=[f"Y{k}"], name=f"lstm{k}"))
    entries = inspected(tmp_path, made)
    assert entries[0].problem is None
    assert "more than" in entries[-1].problem


# Damage


def quick(function, *args):
    """Return the error of a call that must fail, and soon."""
    start = time.thread_time()  # not the clock, which a busy machine moves
    with pytest.raises(ValueError) as caught:  # noqa: PT011 -- the words are for the caller to look at
        function(*args)
    assert time.thread_time() - start < 2
    return str(caught.value)


def test_cyclic_graphs():
    tensors = tensors_of(a_model())
    del tensors["W"]
    loop = [op("Concat", ["W", "w"], outputs=["v"], axis=0), op("Squeeze", ["v"])]
    assert "the graph is cyclic" in quick(from_params, proto([*loop, node()], tensors | {"w": W}))
    loop = [op("Identity", ["v"]), op("Identity", ["W"], outputs=["v"])]
    assert "the graph is cyclic" in quick(from_params, proto([*loop, node()], tensors))
    loop = [op("Squeeze", ["a"], outputs=["X"]), op("Squeeze", ["X"], outputs=["a"])]
    assert "the graph is cyclic" in quick(from_params, proto([*loop, node()], tensors | {"W": W}, inputs=()))
    chain = [op("Squeeze", [f"x{k}", "n"], outputs=[f"x{k + 1}"]) for k in range(300)]
    chained = proto([*chain, node("x300", "W", "R", "B")], tensors | {"W": W}, inputs=("x0", "n"))
    assert "hangs on 256 nodes in a row" in quick(from_params, chained)
    h = [op("Concat", [f"x{k}", f"x{k}"], outputs=[f"x{k + 1}"], axis=0) for k in range(300)]
    chained = proto([*h, node("X", "W", "R", "B", "", "x300")], tensors | {"W": W}, inputs=("X", "x0"))
    assert "hangs on more than 256 nodes" in quick(from_params, chained)
    loop = [op("Expand", ["a", "n"], outputs=["h"]), op("Expand", ["h", "n"], outputs=["a"])]
    made = proto([*loop, node("X", "W", "R", "B", "", "h")], tensors | {"W": W}, inputs=("X", "n"))
    assert from_params(made).layers


def test_what_doubles_without_end():
    """Forty times the concatenation of a value with itself."""
    tensors = tensors_of(a_model())
    tensors["w0"] = tensors.pop("W")
    nodes = [op("Concat", [f"w{k}", f"w{k}"], outputs=[f"w{k + 1}"], axis=1) for k in range(40)]
    words = quick(from_params, proto([*nodes, op("Identity", ["w40"]), node()], tensors))
    assert "bytes of memory, more than" in words


def test_all_that_is_made_counts(tmp_path, monkeypatch):
    """Each value fits, and all of them together do not."""
    monkeypatch.setattr(lstm_xp.formats._files, "_FLOOR", 100_000)
    monkeypatch.setattr(lstm_xp.formats._files, "_RATIO", 0)
    tensors = tensors_of(a_model()) | {
        "w": W[:, :1, :1],
        "n": ints(1, 12, 200),
        "start": ints(0),
        "end": ints(2),
        "axis": ints(2),
    }
    nodes = []
    for k in range(20):
        nodes.append(op("Expand", ["w", "n"], outputs=[f"v{k}"]))
        nodes.append(op("Slice", [f"v{k}", "start", "end", "axis"], outputs=[f"w{k}"]))
        nodes.append(node("X", f"w{k}", "R", "B", outputs=[f"Y{k}"], name=f"lstm{k}"))
    entries = inspected(tmp_path, proto(nodes, tensors))
    assert entries[0].problem is None
    assert "bytes of memory, more than" in entries[-1].problem


@pytest.mark.parametrize("shape", [(1, 1 << 40, 2), (1 << 62, 1 << 62, 1 << 62), (-1, 2), (1,) * 40])
@pytest.mark.parametrize("kind", ["ConstantOfShape", "Expand"])
def test_huge_shapes(kind, shape):
    tensors = tensors_of(a_model())
    del tensors["W"]
    nodes = [op(kind, ["w", "n"] if kind == "Expand" else ["n"])]
    assert "cannot be computed" in quick(
        from_params, proto([*nodes, node()], tensors | {"n": ints(*shape), "w": W[:, :1, :1]})
    )


def test_a_chain_of_many_nodes():
    tensors = tensors_of(a_model())
    tensors["w0"] = tensors.pop("W")
    nodes = [op("Transpose", [f"w{k}"], outputs=[f"w{k + 1}"], perm=[0, 1, 2]) for k in range(5000)]
    words = quick(from_params, proto([*nodes, op("Identity", ["w5000"]), node()], tensors))
    assert "its weights hang on more than 4096 nodes" in words


def test_identities_without_end():
    """They cost nothing."""
    tensors = tensors_of(exact(a_model()))
    tensors["w0"] = tensors.pop("W")
    nodes = [op("Identity", [f"w{k}"], outputs=[f"w{k + 1}"]) for k in range(20000)]
    assert_same(from_params(proto([*nodes, op("Identity", ["w20000"]), node()], tensors)), exact(a_model()))


@pytest.mark.parametrize("dims", [(1 << 40, 12, 2), (1, 12, 3), (-1, 12, 2), (1,) * 40])
@pytest.mark.parametrize("raw", [True, False])
def test_tensors_of_another_size(dims, raw):
    tensors = tensors_of(a_model())
    del tensors["W"]
    made = proto([node()], tensors)
    tensor = made.graph.initializer.add(name="W", dims=dims, data_type=onnx.TensorProto.FLOAT)
    if raw:
        tensor.raw_data = W.tobytes()
    else:
        tensor.float_data.extend(W.ravel())
    assert "W" in quick(from_params, made) or "axes" in quick(from_params, made)


def test_tensors_of_no_numbers(tmp_path):
    tensors = tensors_of(a_model())
    del tensors["W"]
    made = proto([node()], tensors)
    made.graph.initializer.add(name="W", dims=[1], data_type=onnx.TensorProto.STRING, string_data=[b"a"])
    assert "the tensor 'W' must hold numbers" in quick(from_params, made)
    made.graph.initializer[-1].data_type = 999
    assert the_problem(tmp_path, made)
    made.graph.initializer.pop()
    made.graph.node.insert(0, helper.make_node("Constant", [], ["W"], value_string="a"))
    assert "must hold numbers" in quick(from_params, made)


def test_numbers_that_are_none(tmp_path):
    tensors = tensors_of(a_model())
    tensors["W"] = tensors["W"] * np.float32(np.nan)
    assert "must be finite" in the_problem(tmp_path, proto([node()], tensors))


def test_integers_are_no_weights(tmp_path):
    tensors = {name: array.astype(np.int32) for name, array in tensors_of(a_model()).items()}
    assert "floating" in the_problem(tmp_path, proto([node()], tensors))


def test_nodes_that_cannot_be_computed():
    tensors = tensors_of(a_model())
    tensors["w"] = tensors.pop("W")
    for broken in (
        op("Transpose", ["w"], perm=[0, 0, 0]),
        op("Reshape", ["w", "B"]),
        op("Reshape", ["w"]),
        op("Slice", ["w", "n", "n", "n", "n"]),
        op("Cast", ["w"], to=999),
        op("Concat", ["w", "B"], axis=0),
        op("Squeeze", ["w", "B"]),
        op("Transpose", [], perm=[0]),
        op("ConstantOfShape", ["w"]),
    ):
        assert "cannot be computed" in quick(from_params, proto([broken, node()], tensors | {"n": ints(0)})), (
            broken.op_type
        )


def test_deep_nesting():
    """Protocol buffers themselves stop at some depth; in memory there may be more."""
    inner = branch([node(outputs=["Y"])])
    for _ in range(30):
        inner = branch([chooser(inner, nothing())])
    made = proto([chooser(inner, nothing())], tensors_of(exact(a_model())), inputs=("X", "which"))
    assert_same(from_params(made), exact(a_model()))


@pytest.mark.parametrize("length", [1, 10, 100, 500, -1])
def test_a_file_cut_short(length, tmp_path):
    path = tmp_path / "model.onnx"
    content = to_params(a_model()).SerializeToString()
    path.write_bytes(content[:length])
    assert str(path) in quick(lstm_xp.load, path)
    path.write_bytes(b"\x08" + np.random.default_rng(length % 100).bytes(1000))
    assert str(path) in quick(lstm_xp.load, path)


# What PyTorch exports


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize(
    "options", [{}, {"bidirectional": True}, {"bias": False}, {"batch_first": True}, {"dropout": 0.5}]
)
@pytest.mark.parametrize("states", [False, True])
def test_exported_by_torch(layers, options, states, tmp_path):
    torch = pytest.importorskip("torch")
    if layers == 1 and "dropout" in options:
        options = {}
    torch.manual_seed(0)
    module = torch.nn.LSTM(3, 4, num_layers=layers, **options).eval()
    D = 2 if options.get("bidirectional") else 1
    x = torch.randn(5, 5, 3)
    state = ((torch.randn(layers * D, 5, 4), torch.randn(layers * D, 5, 4)),) if states else ()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (x, *state), str(tmp_path / "model.onnx"), dynamo=False)
    (entry,) = lstm_xp.inspect(tmp_path / "model.onnx")
    assert entry.problem is None
    assert_same(entry.model, lstm_xp.formats.torch.from_params(module))


EXPORTS = {
    # What is written with nothing free: options of the module, time and batch, and options of the export.
    "one direction": ({}, (5, 2), {}),
    "both, batch first": ({"bidirectional": True, "batch_first": True}, (5, 2), {}),
    "three layers with dropout": ({"num_layers": 3, "bidirectional": True, "dropout": 0.5}, (5, 2), {}),
    "one step": ({"bidirectional": True}, (1, 2), {}),
    "one sequence": ({"batch_first": True, "num_layers": 3}, (5, 1), {}),
    "one step of one sequence": ({"bidirectional": True}, (1, 1), {}),
    "not optimized": ({"bidirectional": True}, (5, 2), {"optimize": False}),
    "with states": ({}, (5, 2), {}),
    "inside of a module": ({"bidirectional": True, "batch_first": True}, (5, 2), {}),
}


@pytest.mark.parametrize("case", EXPORTS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_exported_by_torch_with_nothing_free(case, tmp_path):
    torch, onnxruntime = pytest.importorskip("torch"), pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    options, (T, B), export = EXPORTS[case]
    torch.manual_seed(0)
    rnn = torch.nn.LSTM(3, 4, **({"num_layers": 2} | options)).eval()
    x = torch.randn(*((B, T) if rnn.batch_first else (T, B)), 3)
    state = (tuple(torch.zeros(2, B, 4) for _ in "hc"),) if "states" in case else ()
    module = torch.nn.Sequential(torch.nn.Identity(), rnn) if "inside" in case else rnn
    path = tmp_path / "model.onnx"
    torch.onnx.export(module, (x, *state), path, dynamo=True, verbose=False, **export)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    given = [array.numpy() for array in (x, *(state[0] if state else ()))]
    wanted = session.run(None, {i.name: array for i, array in zip(session.get_inputs(), given, strict=True)})[0]
    model = lstm_xp.load(path)
    assert len(model.layers) == rnn.num_layers
    swapped = (lambda a: a) if rnn.batch_first else (lambda a: a.swapaxes(0, 1))
    np.testing.assert_allclose(swapped(model(swapped(given[0]))[0]), wanted, rtol=0, atol=SINGLE)
