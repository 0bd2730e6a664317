"""Odd cases of ONNX, each by the smallest graph that has it, and the bounds of what a graph may ask for."""

import numpy as np
import pytest

from lstm_xp import Cell
from lstm_xp.formats.onnx import _constants, _graph, entries, from_params, to_params
from tests.formats.test_onnx import (
    W,
    a_model,
    assert_same,
    branch,
    call,
    constant,
    exact,
    function,
    helper,
    inspected,
    ints,
    node,
    nothing,
    onnx,
    op,
    proto,
    tensors_of,
    the_problem,
    with_reference,
)

MODEL = exact(a_model())
TENSORS = tensors_of(MODEL)
REST = {part: array for part, array in TENSORS.items() if part != "W"}


def test_the_form_of_a_file_that_is_written():
    made = to_params(MODEL)
    assert made.doc_string == "An LSTM, batch first."
    assert (made.ir_version, [(each.domain, each.version) for each in made.opset_import]) == (8, [("", 17)])


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        (Cell(), {"hidden_size": 3, "direction": b"forward"}),
        (
            Cell(coupled="forget", clip=0.5),
            {"input_forget": 1, "clip": 0.5, "activations": [b"Sigmoid", b"Tanh", b"Tanh"]},
        ),
    ],
    ids=["plain", "coupled"],
)
def test_what_is_said_of_a_cell(cell, said):
    (lstm,) = (each for each in to_params(a_model(cell=cell)).graph.node if each.op_type == "LSTM")
    attributes = {each.name: helper.get_attribute_value(each) for each in lstm.attribute}
    assert attributes == {"hidden_size": 3, "direction": b"forward"} | said


def test_the_sizes_of_what_goes_in_and_out():
    made = to_params(a_model(bidirectional=True))
    sizes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*made.graph.input, *made.graph.output)
    }
    state = [2, "batch", 3]
    assert sizes == {
        "x": ["batch", "time", 2],
        "lengths": ["batch or 1"],
        "y": ["batch", "time", 6],
        **dict.fromkeys(("h0_0", "c0_0", "h_0", "c_0"), state),
    }


# Bounds


@pytest.mark.parametrize("count", [3, 4])
def test_as_many_nodes_as_are_computed(count, monkeypatch, tmp_path):
    monkeypatch.setattr(_constants, "_FOLDED", 3)
    nodes = [op("Transpose", [f"w{k}"], outputs=[f"w{k + 1}"], perm=[0, 1, 2]) for k in range(count)]
    made = proto([*nodes, node("X", f"w{count}", "R", "B")], REST | {"w0": W})
    if count == 3:
        assert_same(from_params(made), MODEL)
    else:
        assert the_problem(tmp_path, made) == "its weights hang on more than 3 nodes."


@pytest.mark.parametrize("count", [2, 3])
def test_as_many_nodes_as_may_be_between_layers(count, monkeypatch, tmp_path):
    monkeypatch.setattr(_graph, "_BEHIND", 3)
    nodes = [op("Squeeze", [f"x{k}", "n"], outputs=[f"x{k + 1}"]) for k in range(count)]
    made = proto([*nodes, node(f"x{count}", "W", "R", "B")], TENSORS, inputs=("x0", "n"))
    if count == 2:
        assert_same(from_params(made), MODEL)
    else:
        assert the_problem(tmp_path, made) == "the graph is cyclic, or 'x3' hangs on 3 nodes in a row."


@pytest.mark.parametrize("count", [2, 3])
def test_as_many_nodes_as_may_be_behind_a_state(count, monkeypatch, tmp_path):
    monkeypatch.setattr(_constants, "_REPEATED", 3)
    nodes = [op("Cast", [f"h{k}"], outputs=[f"h{k + 1}"], to=1) for k in range(count)]
    made = proto([*nodes, node("X", "W", "R", "B", "", f"h{count}")], TENSORS | {"h0": np.zeros((1, 3, 3), np.float32)})
    if count == 2:
        assert_same(from_params(made), MODEL)
    else:
        assert the_problem(tmp_path, made) == "'h3' hangs on more than 3 nodes."


@pytest.mark.parametrize("depth", [2, 3])
def test_as_deep_as_graphs_may_lie(depth, monkeypatch, tmp_path):
    monkeypatch.setattr(_graph, "_DEPTH", 2)
    inner = branch([node(outputs=["Y"])])
    for _ in range(depth - 1):
        inner = branch([helper.make_node("If", ["which"], ["Y"], then_branch=inner, else_branch=nothing())])
    made = proto(
        [helper.make_node("If", ["which"], ["Y"], then_branch=inner, else_branch=nothing())],
        TENSORS,
        inputs=("X", "which"),
    )
    if depth == 2:
        assert_same(from_params(made), MODEL)
    else:
        with pytest.raises(ValueError, match="must lie at most 2 deep"):
            from_params(made)


@pytest.mark.parametrize("depth", [2, 3])
def test_as_deep_as_functions_may_lie(depth, monkeypatch):
    monkeypatch.setattr(_graph, "_DEPTH", 2)
    names, functions = ["x", "W", "R", "B"], []
    inner = node(*names, outputs=["y"])
    for k in range(depth):
        imports = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
        functions.append(helper.make_function("mine", f"f{k}", names, ["y"], [inner], imports))
        inner = helper.make_node(f"f{k}", names, ["y"], domain="mine", name=f"call{k}")
    made = proto([inner], TENSORS, inputs=("x",), functions=functions, domains=["mine"])
    if depth == 2:
        assert_same(from_params(made), MODEL)
    else:
        with pytest.raises(ValueError, match="must lie at most 2 deep"):
            from_params(made)


@pytest.mark.parametrize("count", [3, 4])
def test_as_many_nodes_as_may_be_called(count, monkeypatch):
    """Those of the graph itself do not count."""
    monkeypatch.setattr(_graph, "_CALLED", 3)
    run = function([op("Identity", ["x"], outputs=["y"])], ["x"], ["y"])
    calls = [call("X", outputs=[f"y{k}"], name=f"call{k}") for k in range(count)]
    made = proto([*calls, node()], TENSORS, functions=[run], domains=["mine"])
    if count == 3:
        assert_same(from_params(made), MODEL)
    else:
        with pytest.raises(ValueError, match="with 3 nodes in all that is called"):
            from_params(made)


@pytest.mark.parametrize("dims", [(), (0,), (1,) * 32])
def test_sizes_of_arrays(dims):
    assert _constants._sizes(np.asarray(dims, np.int64)) == dims
    for wrong in ((*dims, -1), (1,) * 33):
        with pytest.raises(ValueError, match="an array must have at most 32 axes of sizes from 0"):
            _constants._sizes(wrong)


ROW = np.arange(6.0)
MADE = {
    # Nodes on doubles that make as much as they may.
    "ConstantOfShape": ({"value": onnx.numpy_helper.from_array(np.ones(1))}, [ints(3, 4)]),
    "Expand": ({}, [ROW, ints(4, 6)]),
    "Gather": ({}, [ROW[None], ints(0)]),
    "GatherND": ({}, [ROW[None], ints(0)]),
    "Mul": ({}, [ROW, ROW[:, None]]),
    "Concat": ({"axis": 0}, [ROW, ROW]),
    "Transpose": ({}, [ROW[:, None]]),
}


@pytest.mark.parametrize("kind", MADE)
def test_what_a_node_makes_is_known_before(kind):
    attributes, arrays = MADE[kind]
    made = op(kind, [f"x{k}" for k in range(len(arrays))], **attributes)
    assert _constants._bytes(made, arrays) == _constants._run(made, 17, arrays).nbytes
    if kind in ("Gather", "Mul"):
        empty = [arrays[0][:0], *arrays[1:]]
        assert _constants._bytes(made, empty) == 8 * arrays[1].size  # a size of zero does not hide the others


def test_what_is_made_may_be_no_number():
    """Without a warning: what is not finite is found later."""
    huge = np.full(1, 3e38, np.float32)
    assert np.isinf(_constants._run(op("Mul", ["a", "b"]), 17, [huge, huge]))


def test_biases_whose_sum_is_no_number(tmp_path):
    huge = np.full_like(TENSORS["B"], 3e38)
    assert "must be finite" in the_problem(tmp_path, proto([node()], TENSORS | {"B": huge}))


def test_what_is_made_counts_once():
    """The tensor, and what a node makes of it."""
    (scope,) = _graph.scopes(proto([op("Transpose", ["w"], perm=[0, 1, 2])], {"w": W}))
    constants = _constants.Constants(0)
    for _ in range(2):
        constants.value(scope, "W")
        assert constants._spent == 2 * W.nbytes


def test_what_is_read_counts():
    """The tensors, and two times as much for the layer that is made of them."""
    constants = _constants.Constants(0)
    entries(proto([node()], TENSORS), constants)
    assert constants._spent == 3 * sum(array.nbytes for array in TENSORS.values())


# Graphs


def test_the_graphs_of_a_list(tmp_path):
    """One attribute may have several."""
    bodies = [branch([node(outputs=["Y"], name=name)]) for name in ("one", "two")]
    made = proto([helper.make_node("Own", [], ["Y"], domain="mine", bodies=bodies)], TENSORS, domains=["mine"])
    assert [entry.name for entry in inspected(tmp_path, made)] == ["one", "two"]


def test_an_attribute_of_another_name_than_the_call_gives():
    inner = with_reference(node("x", "W", "R", "B", outputs=["y"]), "clip", onnx.AttributeProto.FLOAT)
    inner.attribute[-1].ref_attr_name = "bound"
    run = function([inner], ["x", "W", "R", "B"], ["y"], ["bound"])
    made = proto([call("X", "W", "R", "B", bound=0.5)], TENSORS, functions=[run], domains=["mine"])
    assert from_params(made).cell == Cell(clip=0.5)


def test_a_node_before_the_weights_whose_attribute_a_call_gives():
    turn = with_reference(op("Transpose", ["w"], outputs=["W"]), "perm", onnx.AttributeProto.INTS)
    run = function([turn], ["w"], ["W"], ["perm"])
    made = proto(
        [call("w", outputs=["W"], perm=[2, 0, 1]), node()],
        REST | {"w": W.transpose(1, 2, 0)},
        functions=[run],
        domains=["mine"],
    )
    assert_same(from_params(made), MODEL)


def test_an_activation_that_is_no_text(tmp_path):
    made = proto([node(activations=[b"\xff", b"Tanh", b"Tanh"])], TENSORS)
    assert the_problem(tmp_path, made).endswith("; got '\ufffd'.")


@pytest.mark.parametrize(
    "attribute",
    [helper.make_attribute("other", onnx.numpy_helper.from_array(W)), helper.make_attribute("value", 1.0)],
    ids=lambda a: a.name,
)
def test_a_constant_that_holds_no_numbers(attribute, tmp_path):
    made = constant("W", W)
    made.attribute[0].CopyFrom(attribute)
    assert the_problem(tmp_path, proto([made, node()], REST)) == "the node 'W' (Constant) must hold numbers."


def test_which_lstm_of_a_model():
    made = proto([node(), node(name="other")], TENSORS)
    assert_same(from_params(made, name="other"), MODEL)
    with pytest.raises(
        ValueError, match="from_params: `name` must be one of the LSTMs of source, 'lstm', 'other'; got"
    ):
        from_params(made, name="none")


def test_weights_that_are_made_coarse(tmp_path):
    made = proto(
        [op("QuantizeLinear", ["w", "s", "z"]), node()], REST | {"w": W, "s": np.float32(0.1), "z": np.uint8(4)}
    )
    assert the_problem(tmp_path, made) == "`W` must be constant; it hangs on 'W', which a node QuantizeLinear makes."


def test_a_node_of_nothing(tmp_path):
    for kind in ("Identity", "Dropout"):
        made = proto([op(kind, []), node()], REST)
        assert the_problem(tmp_path, made) == f"`W` must be constant; it hangs on 'W', which a node {kind} makes."
        assert_same(from_params(proto([op(kind, ["X"], outputs=[]), node()], TENSORS)), MODEL)
    assert_same(from_params(proto([op("Squeeze", [], outputs=["X"]), node()], TENSORS, inputs=())), MODEL)
    made = proto([node("", "W", "R", "B", outputs=["", "h"])], TENSORS)
    assert the_problem(tmp_path, made) == "nothing in the graph makes ''."


def test_another_output_than_the_first_is_no_form(tmp_path):
    model = exact(a_model(num_layers=2))
    weights = {f"{part}{k}": array for k in range(2) for part, array in tensors_of(model, k).items()}
    nodes = [
        node("X", "W0", "R0", "B0", outputs=["y"], name="one"),
        op("Squeeze", ["y", "n"], outputs=["a", "b"]),
        node("b", "W1", "R1", "B1", outputs=["Y"], name="two"),
    ]
    assert [entry.name for entry in inspected(tmp_path, proto(nodes, weights | {"n": ints(1)}))] == ["one", "two"]


@pytest.mark.parametrize("offset", [None, "", "8"])
@pytest.mark.parametrize("length", [None, "", "96"])
def test_where_weights_lie_beside_the_model(offset, length, tmp_path):
    """What is not said is the beginning of the file, and as much as the tensor takes."""
    (tmp_path / "w.bin").write_bytes(bytes(int(offset or 0)) + W.tobytes())
    made = proto([node()], REST)
    tensor = made.graph.initializer.add(name="W", dims=W.shape, data_type=1, data_location=1)
    for key, value in {"location": "w.bin", "offset": offset, "length": length}.items():
        if value is not None:
            tensor.external_data.add(key=key, value=value)
    (entry,) = inspected(tmp_path, made)
    assert_same(entry.model, MODEL)


def test_numbers_of_a_constant_by_its_other_names():
    """What is no number is passed over."""
    made = constant("w", None, value_floats=W.ravel().tolist())
    made.attribute.insert(0, helper.make_attribute("value_string", "a"))
    nodes = [made, op("Reshape", ["w", "n"]), node()]
    assert_same(from_params(proto(nodes, REST | {"n": ints(1, 12, 2)})), MODEL)
