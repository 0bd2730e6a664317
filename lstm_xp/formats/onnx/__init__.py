"""ONNX: every LSTM of a graph, a node a layer, and `.onnx`."""

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..._equations.records import Layer, directions_of, sizes_of, width_of
from ...model import LSTM
from .. import _model
from .._files import needed, size_of
from .._model import Direction, Entry, Files, Format, directions
from . import _graph, _node
from ._constants import Constants
from ._graph import Model, Node
from ._stacks import NAME, entries

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
    return _model.chosen("from_params", "source", entries(source, Constants(source.ByteSize())), name)


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
    return entries(model, Constants(size_of(file), Path(file.name).parent))


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


FORMAT = Format(NAME, (Files("ONNX", read, write, (".onnx",), head=rb"\x08"),))
