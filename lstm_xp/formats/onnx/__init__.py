"""ONNX: every LSTM node of a graph, and `.onnx`.

A node is a layer, and its input is whatever a network before it makes. Where the steps are turned round in between, it
is a layer of the other direction; where some are picked, or mixed, it is refused. Nodes in a row, with nothing in
between but another form of the same numbers, are the layers of one LSTM, which has the name of the first one.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from ..._equations.cell import Cell
from ..._equations.records import Layer, directions_of, sizes_of, width_of
from ..._seams.namespace import to_numpy
from ...model import LSTM
from .. import _model
from .._files import needed, size_of
from .._model import Direction, Entry, Files, Format, directions
from . import _graph, _node
from ._constants import Constants
from ._graph import PICKS, ROUNDS, Key, Model, Node, Scope, is_op

_INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
_OPSET, _IR = 17, 8
_LENGTHS = {"lengths": np.asarray([-1]), "zero": np.asarray(0), "one": np.asarray([1])}  # numbers for `_lengths`
_LIMIT = 2**31 - 2**20  # bytes of a protocol buffer, less what is not weights


def from_params(source: Model, *, name: str | None = None) -> LSTM:
    """Return the LSTM of a model, in NumPy's arrays.

    Parameters
    ----------
    source : onnx.ModelProto
        With its weights inside, as `onnx.load` gives it.
    name : str, optional
        Which of several, by the name of its first node.

    Raises
    ------
    ValueError
        If there is no LSTM node, none of that name, or several and no name is given; or if its weights are not
        constant, or its initial state is constant and not zero.

    Examples
    --------
    >>> from_params(to_params(LSTM.init(3, 4, num_layers=2, bidirectional=True, rng=0)))
    LSTM(3 -> 8, layers: 4 + 4 both, 4 + 4 both, 672 parameters, numpy float32)
    """
    return _model.chosen("from_params", "source", _found(source, Constants(source.ByteSize())), name)


def to_params(model: LSTM) -> Model:
    """Return a model of one LSTM node a layer.

    Its inputs are ``x (batch, time, I)`` and, for each layer k, ``h0_{k}`` and ``c0_{k} (D, batch, H)`` with D
    directions; its outputs ``y (batch, time, D * H)``, ``h_{k}`` and ``c_{k}``. Batch and time may have any size.
    The input ``lengths (batch,)`` of int64 may be left out: then, and where it is -1, a sequence has all the steps.

    Parameters
    ----------
    model : LSTM
        With arrays of any library, in float64, float32 or float16. The operator takes each of them; onnxruntime 1.32
        loads float64 and then refuses to run it, and runs float16 in single precision.

    Returns
    -------
    onnx.ModelProto
        Of opset 17.

    Raises
    ------
    ValueError
        If the model has what the operator lacks: a projection, `cell_clip`, ``coupled="input"``, a function as an
        activation, or two directions of a layer that differ in `clip` or `coupled`; or if it takes 2 GB or more.

    Examples
    --------
    >>> proto = to_params(LSTM.init(3, 4, rng=0))
    >>> [value.name for value in (*proto.graph.input, *proto.graph.output)]
    ['x', 'h0_0', 'c0_0', 'lengths', 'y', 'h_0', 'c_0']
    """
    helper = needed("onnx", "onnx").helper
    model = _model.in_numpy(model)
    _model.require_only(FORMAT.name, model, {"reverse", "peephole", "cell"})
    arrays: dict[str, np.ndarray] = dict(_LENGTHS)
    nodes = [helper.make_node("Transpose", ["x"], ["x_0"], perm=[1, 0, 2]), *_lengths()]
    for k, layer in enumerate(model.layers):
        arrays |= {f"{part}_{k}": array for part, array in _node.arrays_of(layer).items()}
        arrays[f"shape_{k}"] = np.asarray([0, 0, width_of(layer)])
        nodes += _nodes(k, [d for d in directions(model) if d.layer == k], arrays)
    nodes.append(helper.make_node("Transpose", [f"x_{len(model.layers)}"], ["y"], perm=[1, 0, 2]))
    if sum(array.nbytes for array in arrays.values()) > _LIMIT:
        raise ValueError("ONNX cannot hold 2 GB of weights or more in one file.")
    tensors = [helper.make_tensor(name, _kind(a), a.shape, a.tobytes(), raw=True) for name, a in arrays.items()]
    graph = helper.make_graph(nodes, "lstm", *_interface(model.layers), tensors)
    opset, about = helper.make_opsetid("", _OPSET), "An LSTM, batch first."
    return helper.make_model(graph, opset_imports=[opset], ir_version=_IR, producer_name="lstm_xp", doc_string=about)


def write(file: BinaryIO, model: LSTM) -> None:
    """Write the model that `to_params` makes."""
    file.write(to_params(model).SerializeToString())


def read(file: BinaryIO) -> Iterable[Entry]:
    """Return the LSTMs of a file."""
    model = needed("onnx", "onnx").load(file, load_external_data=False)
    return _found(model, Constants(size_of(file), Path(file.name).parent))


def _lengths() -> list[Node]:
    """Return the nodes that make the lengths of a batch of those that are given, or of the number of steps."""
    make = needed("onnx", "onnx").helper.make_node
    return [
        make("Shape", ["x_0"], ["time"], end=1),
        make("Shape", ["x_0"], ["batch"], start=1, end=2),
        make("Less", ["lengths", "zero"], ["whole"]),
        make("Where", ["whole", "time", "lengths"], ["steps"]),
        make("Expand", ["steps", "batch"], ["all_steps"]),
        make("Cast", ["all_steps"], ["sequence_lens"], to=needed("onnx", "onnx").TensorProto.INT32),
        make("Equal", ["all_steps", "zero"], ["is_empty"]),
        make("Unsqueeze", ["is_empty", "one"], ["empty"]),
    ]


def _nodes(k: int, layer: Sequence[Direction], arrays: dict[str, np.ndarray]) -> list[Node]:
    """Return the node of a layer, and those that lay its directions side by side."""
    helper = needed("onnx", "onnx").helper
    B, P = (f"{part}_{k}" if f"{part}_{k}" in arrays else "" for part in ("B", "P"))
    inputs = [f"x_{k}", f"W_{k}", f"R_{k}", B, "sequence_lens", f"h0_{k}", f"c0_{k}", P]
    outputs = [f"Y_{k}", f"h_last_{k}", f"c_last_{k}"]
    return [
        helper.make_node("LSTM", inputs, outputs, name=f"lstm_{k}", **_node.attributes_for(layer)),
        # The operator does not say what the last state of no steps is: in onnxruntime it is zero.
        *(helper.make_node("Where", ["empty", f"{s}0_{k}", f"{s}_last_{k}"], [f"{s}_{k}"]) for s in "hc"),
        helper.make_node("Transpose", [f"Y_{k}"], [f"rows_{k}"], perm=[0, 2, 1, 3]),  # (time, batch, D, H)
        helper.make_node("Reshape", [f"rows_{k}", f"shape_{k}"], [f"x_{k + 1}"]),  # (time, batch, D * H)
    ]


def _interface(layers: Sequence[Layer]) -> tuple[list[_graph.Info], list[_graph.Info]]:
    """Return the inputs and the outputs of a graph."""
    first = directions_of(layers[0])[0][1].weight_ih
    info = partial(needed("onnx", "onnx").helper.make_tensor_value_info, elem_type=_kind(first))
    inputs = [info("x", shape=["batch", "time", first.shape[1]])]
    outputs = [info("y", shape=["batch", "time", width_of(layers[-1])])]
    for k, layer in enumerate(layers):
        D, R, _ = sizes_of(layer)
        inputs += [info(f"{part}0_{k}", shape=[D, "batch", R]) for part in "hc"]
        outputs += [info(f"{part}_{k}", shape=[D, "batch", R]) for part in "hc"]
    return [*inputs, info("lengths", elem_type=_kind(_LENGTHS["lengths"]), shape=["batch or 1"])], outputs


def _kind(array: np.ndarray) -> int:
    return int(needed("onnx", "onnx").helper.np_dtype_to_tensor_dtype(array.dtype))


class _Found(NamedTuple):
    """One LSTM node, as a layer."""

    layer: Layer
    cells: tuple[Cell, ...]
    batch_first: bool
    x: Key
    start: Key  # the initial h, which has the batch of y
    source: Key  # what x is a form of
    passed: Sequence[tuple[Scope, Node]]  # the nodes in between, the last one first
    turned: bool  # the steps of x are those of the source from the last to the first


def _found(model: Model, constants: Constants) -> list[Entry]:
    """Return every LSTM of a model."""
    scopes = _graph.scopes(model)
    nodes = [(scope, node) for scope in scopes for node in scope.nodes if is_op(node, "LSTM")]
    if not nodes:
        raise ValueError("its graph has no LSTM node; the cell may be spelled out in others, such as Gemm and Sigmoid.")
    stacks: list[tuple[tuple[str, str], list[_Found] | str]] = []  # by the place of the first node, or its problem
    ends: dict[Key, list[_Found]] = {}  # by the outputs of the last one
    given = {(scopes[0], x.name): [n.dim_value for n in x.type.tensor_type.shape.dim] for x in model.graph.input}
    for scope, node in nodes:
        place = (scope.where, _graph.label(node))
        try:
            found = _one(scope, node, constants)
        except ValueError as error:
            stacks.append((place, str(error)))
            continue
        if found.source in ends and _follows(ends[found.source][-1], found, constants, given):
            stack = ends.pop(found.source)
            found = found._replace(turned=found.turned != stack[-1].turned)
        else:
            stack = []
            stacks.append((place, stack))
        stack.append(found)
        if node.output:
            ends[scope, node.output[0]] = stack
    names = _model.unique_names([place for place, _ in stacks])
    return [_entry(name, stack) for name, (_, stack) in zip(names, stacks, strict=True)]


def _one(scope: Scope, node: Node, constants: Constants) -> _Found:
    names = {part: name for part, name in zip(_INPUTS, node.input, strict=False) if name}
    attributes = _node.attributes_of(scope.resolved(node))
    arrays = {}
    for part in (each for each in "WRBP" if each in names):
        value = constants.value(scope, names[part])
        if isinstance(value, str):
            raise ValueError(f"`{part}` must be constant; it hangs on {value}.")
        arrays[part] = to_numpy(value)  # the package onnx has a bfloat16 of its own
    constants.spend(2 * sum(array.nbytes for array in arrays.values()))
    for part in ("initial_h", "initial_c"):
        if part in names and any(np.any(start != 0) for start in constants.starts(scope, names[part])):
            raise ValueError(f"`{part}` is constant and not zero; an LSTM of this package has no state of its own.")
    layer, cells = _node.layer_of(arrays, attributes), _node.cells_of_node(attributes)
    if "sequence_lens" in names and len(np.unique(constants.value(scope, names["sequence_lens"]))) > 1:
        raise ValueError("`sequence_lens` is constant and not all the same; a caller gives an LSTM its `lengths`.")
    batch_first = bool(attributes.get("layout"))
    x, start = (scope, names.get("X", "")), (scope, names.get("initial_h", ""))
    source, passed = _graph.behind(*x)
    turned = _turns(source, passed, batch_first, constants)
    if turned and (len(cells) == 2 or "sequence_lens" in names):
        raise ValueError("steps that are turned round must be those of one direction, and without `sequence_lens`.")
    return _Found(layer, cells, batch_first, x, start, source, passed, turned)


def _turns(source: Key, passed: Sequence[tuple[Scope, Node]], batch_first: bool, constants: Constants) -> bool:
    """Tell whether the nodes before X turn all steps round: by an example, followed back; raise if they mix them."""
    made = source[0].made[source[1]]
    picks = [place for place, (_, node) in enumerate(passed, 1) if is_op(node, *PICKS)]
    if hasattr(made, "dims") or is_op(made, "Constant"):  # the last one picks from a table: an embedding
        picks = picks[:-1]
    x = np.arange(1009.0).reshape((1, -1, 1) if batch_first else (-1, 1, 1))  # more steps than a file picks
    for scope, node in passed[: max(picks, default=0)]:
        if x.size > 1 and not is_op(node, *ROUNDS):
            x = _before(x, scope, node, constants)
    return bool(x.flat[0] > x.flat[-1])


def _before(x: np.ndarray, scope: Scope, node: Node, constants: Constants) -> np.ndarray:
    """Return what a node makes x of, with one step if that is all that it takes; raise if it mixes the steps."""
    own = {each.name: list(each.ints) or each.i for each in scope.resolved(node).attribute}
    second = constants.value(scope, node.input[1]) if "".join(node.input[1:2]) else own.get("axes", "")
    axes = np.ravel([] if isinstance(second, str) else second)
    time, axis = int(np.argmax(x.shape)), int(np.ravel(own.get("axis", 0))[0])
    match node.op_type:
        case "Transpose":
            return x.transpose(np.argsort(own.get("perm", range(x.ndim)[::-1])))
        case "Squeeze" if len(axes):
            return np.expand_dims(x, tuple(axes))
        case "Unsqueeze" if len(axes):
            return x.take([0], time) if time in axes % x.ndim else np.squeeze(x, tuple(axes))
        case "Reshape" if len(axes) == x.ndim and axes[time] == 1:
            return x.take([0], time)
        case "Gather" if np.shape(second) == () and len(axes):
            return np.expand_dims(x, axis)
        case "Compress" | "Gather" | "GatherElements" if axis % x.ndim != time:
            return x
        case "ReverseSequence" if len(axes):
            pass  # by a number of steps that the sequence need not have
        case "Gather" | "ReverseSequence" | "Slice":
            made = np.asarray(constants.value(scope, node.output[0], {scope.source(node.input[0]): x}))
            if made.shape == (1,) * x.ndim or any(np.array_equal(made, each) for each in (x, np.flip(x))):
                return made
            if made.size == 0 and made.shape[time] == x.size:  # features that the example has not
                return x
    raise ValueError(
        "`X` must have all steps of a sequence, in order or turned round, or one alone; "
        f"the node {_graph.label(node)!r} ({node.op_type}) before it makes others."
    )


def _follows(before: _Found, found: _Found, constants: Constants, given: Mapping[Key, Sequence[int]]) -> bool:
    """Tell whether a node takes the outputs of another, directions side by side: by examples, as forms vary."""
    D, features, place = len(before.cells), width_of(before.layer), 0 if before.batch_first else 1
    if directions_of(found.layer)[0][1].weight_ih.shape[1] != features or (before.turned and len(found.cells) == 2):
        return False
    if any(is_op(node, *ROUNDS) for _, node in found.passed):
        return False
    try:
        for time, batch in ((5, 7), (11, 3)):  # two, as sizes that are fixed in the file may be those of one
            wanted = np.arange(1.0 * time * batch * features).reshape(time, batch, features)
            example = dict.fromkeys(_targets(before, found, constants, given), np.asarray(wanted.shape))
            example[found.source] = wanted.reshape(time, batch, D, features // D).swapaxes(place, place + 1)
            wanted = wanted[:: -1 if found.turned else 1].swapaxes(0, 1 if found.batch_first else 0)
            if not np.array_equal(constants.value(*found.x, example), wanted):
                return False
    except ValueError:  # they need not be those of an example
        return False
    return True


def _targets(before: _Found, found: _Found, constants: Constants, given: Mapping[Key, Sequence[int]]) -> list[Key]:
    """Return the fixed shapes that are time, batch and features: the last two are those of y, so that time is left."""
    keys = [scope.source(node.input[1]) for scope, node in found.passed if is_op(node, "Reshape") and node.input[1:]]
    keys = [key for key in keys if np.shape(constants.value(*key)) == (3,)]
    if not keys or before.batch_first or not before.start[1] or any(is_op(node, *PICKS) for _, node in found.passed):
        return []
    zeros = {key: np.broadcast_to(0.0, n) for key, n in given.items() if n and all(n) and key[0].made[key[1]] is None}
    sizes = [*np.shape(constants.value(*before.start, zeros))[1:2], width_of(before.layer)]
    return [key for key in keys if [*constants.value(*key)[1:]] == sizes]


def _entry(name: str, stack: Sequence[_Found] | str) -> Entry:
    if isinstance(stack, str):
        return Entry(name, FORMAT.name, None, stack)
    layers = tuple(Layer(*found.layer[:: -1 if found.turned else 1]) for found in stack)
    cells = tuple(found.cells for found in stack)
    return _model.entry_of(name, FORMAT.name, partial(LSTM, layers, _model.shortest(cells)))


FORMAT = Format("ONNX", (Files("ONNX", read, write, (".onnx",), head=rb"\x08"),))
