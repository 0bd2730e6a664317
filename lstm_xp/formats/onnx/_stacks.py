"""Which LSTM nodes of a graph are the layers of one LSTM.

A node is a layer, and its input is whatever a network before it makes. Where the steps are turned round in between, it
is a layer of the other direction; where some are picked, or mixed, it is refused. Nodes in a row, with nothing in
between but another form of the same numbers, are the layers of one LSTM, which has the name of the first one.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from ..._equations.cell import Cell
from ..._equations.records import Layer, directions_of, width_of
from ..._seams.namespace import to_numpy
from ...model import LSTM
from .. import _model
from .._model import Entry
from . import _graph, _node
from ._constants import Constants
from ._graph import PICKS, ROUNDS, Key, Model, Node, Scope, is_op

NAME = "ONNX"
_INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")


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


def entries(model: Model, constants: Constants) -> list[Entry]:
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
        targets = _targets(before, found, constants, given)
        for time, batch in ((5, 7), (11, 3)):  # two, as sizes that are fixed in the file may be those of one
            wanted = np.arange(1.0 * time * batch * features).reshape(time, batch, features)
            example = dict.fromkeys(targets, np.asarray(wanted.shape))
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
        return Entry(name, NAME, None, stack)
    layers = tuple(Layer(*found.layer[:: -1 if found.turned else 1]) for found in stack)
    cells = tuple(found.cells for found in stack)
    return _model.entry_of(name, NAME, partial(LSTM, layers, _model.shortest(cells)))
