"""One LSTM node of ONNX, as a layer and back: row blocks, attributes, and the cell that they describe.

The row blocks of a node are i, o, f, c, its peepholes i, o, f, and of its two biases only the sum counts. All numbers
of an attribute are single precision.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np

from ..._equations.activations import NAMED, Activation
from ..._equations.cell import PLAIN, Cell
from ..._equations.records import Layer, LSTMWeights, directions_of
from .._files import needed
from .._model import Direction, bias_of, blocks
from ._graph import Node

Attributes: TypeAlias = dict[str, Any]  # numbers, texts and lists, by their names

DIRECTIONS = {"forward": 1, "reverse": 1, "bidirectional": 2}

_GATES = (0, 2, 3, 1)  # i, o, f, c as i, f, g, o
_GATES_BACK = (0, 3, 1, 2)
_PEEPHOLES = (0, 2, 1)  # i, o, f as i, f, o, and back

_OPERATORS = {name: "".join(part.capitalize() for part in name.split("_")) for name in NAMED}
_NAMES = {operator.lower(): name for name, operator in _OPERATORS.items()}
_WITH_ALPHA = {"affine", "leaky_relu", "thresholded_relu", "scaled_tanh", "hard_sigmoid", "elu"}
_WITH_BETA = {"affine", "scaled_tanh", "hard_sigmoid"}
# The operators Affine and ScaledTanh have none; for ThresholdedRelu it is 1, and onnxruntime 1.32 takes 0 for all.
_NO_DEFAULT = {"affine", "scaled_tanh", "thresholded_relu"}
_DEFAULT = (b"Sigmoid", b"Tanh", b"Tanh")
_PLACES = ("gate_activation", "candidate_activation", "output_activation")


def attributes_of(node: Node) -> Attributes:
    """Return the attributes of a node by name, each of its type."""
    onnx = needed("onnx", "onnx")
    types = onnx.AttributeProto
    kinds = {"direction": types.STRING, "activations": types.STRINGS, "clip": types.FLOAT}
    kinds |= dict.fromkeys(("activation_alpha", "activation_beta"), types.FLOATS)
    # `layout` is of the data, not of the weights; `output_sequence` was there before opset 7.
    kinds |= dict.fromkeys(("hidden_size", "input_forget", "layout", "output_sequence"), types.INT)
    found: Attributes = {}
    for attribute in node.attribute:
        if attribute.type != kinds.get(attribute.name):
            raise ValueError(f"its attribute {attribute.name!r} must be one of {', '.join(kinds)}, of their types.")
        found[attribute.name] = onnx.helper.get_attribute_value(attribute)
    found["direction"] = found.get("direction", b"forward").decode(errors="replace")
    if found["direction"] not in DIRECTIONS:
        raise ValueError(f"`direction` must be one of {', '.join(DIRECTIONS)}; got {found['direction']!r}.")
    return found


def layer_of(arrays: Mapping[str, np.ndarray], attributes: Attributes) -> Layer:
    """Return the layer of a node, from its inputs W, R, B and P."""
    direction = attributes["direction"]
    _require_shapes(arrays, DIRECTIONS[direction], attributes.get("hidden_size"))
    weights = [_weights(arrays, d) for d in range(DIRECTIONS[direction])]
    return Layer(None, *weights) if direction == "reverse" else Layer(*weights)


def _require_shapes(arrays: Mapping[str, np.ndarray], D: int, hidden_size: int | None) -> None:
    for part in ("W", "R"):
        if part not in arrays or arrays[part].ndim != 3:
            got = arrays[part].shape if part in arrays else "none"
            raise ValueError(f"`{part}` must have three axes; got {got}.")
    I, H = arrays["W"].shape[2], arrays["R"].shape[2]  # noqa: E741 -- the field's letter for the input size
    if hidden_size not in (None, H):
        raise ValueError(f"`hidden_size` must be that of `R`, {H}; got {hidden_size}.")
    for part, shape in {"W": (D, 4 * H, I), "R": (D, 4 * H, H), "B": (D, 8 * H), "P": (D, 3 * H)}.items():
        if part in arrays and arrays[part].shape != shape:
            raise ValueError(f"`{part}` must have shape {shape}, as D = {D} and H = {H}; got {arrays[part].shape}.")


def _weights(arrays: Mapping[str, np.ndarray], d: int) -> LSTMWeights:
    B, P = arrays.get("B"), arrays.get("P")
    with np.errstate(all="ignore"):  # what is not finite is found later, and said
        bias = None if B is None else blocks(np.add(*np.split(B[d], 2)), _GATES)
    return LSTMWeights(
        blocks(arrays["W"][d], _GATES),
        blocks(arrays["R"][d], _GATES),
        bias,
        peephole=None if P is None else blocks(P[d], _PEEPHOLES),
    )


def arrays_of(layer: Layer) -> dict[str, np.ndarray]:
    """Return the inputs W, R, B and P of a layer's node; the last two only where the layer has them."""
    each = [weights for _, weights in directions_of(layer)]
    arrays = {
        "W": np.stack([blocks(w.weight_ih, _GATES_BACK) for w in each]),
        "R": np.stack([blocks(w.weight_hh, _GATES_BACK) for w in each]),
    }
    if any(w.bias is not None for w in each):
        biases = [blocks(bias_of(w), _GATES_BACK) for w in each]
        arrays["B"] = np.stack([np.concatenate([bias, np.zeros_like(bias)]) for bias in biases])
    if any(w.peephole is not None for w in each):
        none = np.zeros(3 * each[0].weight_hh.shape[1], each[0].weight_hh.dtype)
        arrays["P"] = np.stack([none if w.peephole is None else blocks(w.peephole, _PEEPHOLES) for w in each])
    return arrays


def cells_of_node(attributes: Attributes) -> tuple[Cell, ...]:
    """Return the cell of each direction of a node."""
    D = DIRECTIONS[attributes["direction"]]
    operators = [name.decode(errors="replace") for name in attributes.get("activations", _DEFAULT * D)]
    if len(operators) != 3 * D:
        raise ValueError(f"`activations` must be three for each direction, {3 * D}; got {len(operators)}.")
    clip = _decimal(attributes["clip"]) if "clip" in attributes else None
    kinds = iter(_activations(operators, attributes))
    each = zip(kinds, kinds, kinds, strict=True)
    coupled: Literal["forget"] | None = "forget" if attributes.get("input_forget") else None
    return tuple(Cell(f, g, h, clip=clip, coupled=coupled) for f, g, h in each)


def _activations(operators: Sequence[str], attributes: Attributes) -> list[Activation]:
    """Return the activations; those with an alpha or a beta take the next one of the lists, or have their default."""
    kinds: list[Activation] = []
    alphas, betas = (iter(attributes.get(f"activation_{part}", ())) for part in ("alpha", "beta"))
    for operator in operators:
        name = _NAMES.get(operator.lower())
        if name is None:
            raise ValueError(f"`activations` must be among {', '.join(_OPERATORS.values())}; got {operator!r}.")
        alpha = next(alphas, None) if name in _WITH_ALPHA else NAMED[name].alpha
        beta = next(betas, None) if name in _WITH_BETA else NAMED[name].beta
        if name in _NO_DEFAULT and None in (alpha, beta):
            raise ValueError(f"{operator} must have its alpha and beta said, as what stands for none is not agreed on.")
        default = (NAMED[name].alpha, NAMED[name].beta)
        pair = (default[0] if alpha is None else _decimal(alpha), default[1] if beta is None else _decimal(beta))
        kinds.append(name if pair == default else (name, *pair))
    return kinds


def _decimal(number: float) -> float:
    """Return a number of single precision as it was meant: the shortest decimal one that rounds to it."""
    return float(str(np.float32(number)))


def attributes_for(layer: Sequence[Direction]) -> Attributes:
    """Return the attributes of a node from the directions of a layer, with their cells."""
    cells = [direction.cell for direction in layer]
    for direction in layer:
        _require_held(direction, cells[0])
    H = layer[0].weights.weight_hh.shape[1]
    ways = "bidirectional" if len(layer) == 2 else "reverse" if layer[0].reverse else "forward"
    attributes: Attributes = {"hidden_size": H, "direction": ways}
    if cells[0].clip is not None:
        attributes["clip"] = float(cells[0].clip)
    if cells[0].coupled is not None:
        attributes["input_forget"] = 1
    if any(cell != PLAIN for cell in cells):
        attributes |= _named([getattr(cell, place) for cell in cells for place in _PLACES])
    return attributes


def _named(kinds: Sequence[str | tuple[str, float, float]]) -> Attributes:
    """Return the attributes for activations; whatever takes an alpha or a beta is given one."""
    triples = [kind if isinstance(kind, tuple) else (kind, NAMED[kind].alpha, NAMED[kind].beta) for kind in kinds]
    attributes = {
        "activations": [_OPERATORS[name] for name, _, _ in triples],
        "activation_alpha": [float(alpha) for name, alpha, _ in triples if name in _WITH_ALPHA],
        "activation_beta": [float(beta) for name, _, beta in triples if name in _WITH_BETA],
    }
    return {name: items for name, items in attributes.items() if items}


def _require_held(direction: Direction, first: Cell) -> None:
    """Raise if a node cannot compute the cell of a direction."""
    cell = direction.cell
    no = {
        "a function as `{}`": next((place for place in _PLACES if callable(getattr(cell, place))), None),
        "`cell_clip`": cell.cell_clip,
        "`proj_clip`": cell.proj_clip,
        '`coupled="input"`': cell.coupled == "input" or None,
        "two directions that differ in `clip` or `coupled`": (cell.clip, cell.coupled) != (first.clip, first.coupled)
        or None,
    }
    for what, present in no.items():
        if present is not None:
            raise ValueError(f"ONNX cannot hold {what.format(present)}; got {direction.where}.")
