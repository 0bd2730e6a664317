"""How weights, layers and states are grouped: plain named tuples, trees of arrays to every library."""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from .._seams.namespace import Array
from .cell import Cell


class LSTMWeights(NamedTuple):
    """The weights of one direction of one layer; row blocks i, f, g, o, as PyTorch, cuDNN, Keras and Flax have them.

    ``weight_ih (4H, I)``, ``weight_hh (4H, R)``, ``bias (4H,)``, the projection ``weight_hr (R, H)``, and the
    ``peephole (3H,)`` weights in the order i, f, o. R is H without a projection. All of one real floating dtype.
    """

    weight_ih: Array
    weight_hh: Array
    bias: Array | None = None
    weight_hr: Array | None = None
    peephole: Array | None = None


class Layer(NamedTuple):
    """One layer: forward, bidirectional with `backward` too, or reverse-only with ``forward=None``."""

    forward: LSTMWeights | None
    backward: LSTMWeights | None = None


class LSTMState(NamedTuple):
    """The state of one layer: ``h (D, batch, R)`` and ``c (D, batch, H)``, D directions."""

    h: Array
    c: Array


class Trace(NamedTuple):
    """Every step of one direction: gates, candidate and cell state ``(batch, time, H)``, h ``(batch, time, R)``.

    At a masked step the gates are 0, and h and c the states carried over. With ``time_major=True`` time comes first.
    """

    i: Array
    f: Array
    g: Array
    o: Array
    c: Array
    h: Array


Layers: TypeAlias = tuple[Layer, ...]
State: TypeAlias = tuple[LSTMState, ...]
Cells: TypeAlias = Cell | tuple[Cell | tuple[Cell, Cell], ...]  # as a caller gives them
DirectionCells: TypeAlias = tuple[tuple[Cell, ...], ...]  # one a direction, of every layer


def directions_of(layer: Layer) -> list[tuple[bool, LSTMWeights]]:
    """Return the layer's directions, forward first: whether it is the reverse one, and its weights."""
    both = ((False, layer.forward), (True, layer.backward))
    return [(reverse, weights) for reverse, weights in both if weights is not None]


def mapped(function: Callable[[Array], Array], layers: Layers) -> Layers:
    """Return the layers with `function` of each array; what is None stays None."""

    def each(weights: LSTMWeights | None) -> LSTMWeights | None:
        return None if weights is None else LSTMWeights(*(None if a is None else function(a) for a in weights))

    return tuple(Layer(*map(each, layer)) for layer in layers)


def sizes_of(layer: Layer) -> tuple[int, int, int]:
    """Return D, R and H of a layer, whose state is h (D, batch, R) and c (D, batch, H)."""
    weights = [w for w in layer if w is not None]
    rows, R = weights[0].weight_hh.shape
    return len(weights), int(R), int(rows) // 4


def width_of(layer: Layer) -> int:
    """Return the features of the layer's output, D * R."""
    return sum(int(weights.weight_hh.shape[1]) for _, weights in directions_of(layer))


def kind_of(layer: Layer) -> str:
    """Return the layer's widths and directions in words."""
    sizes = [str(w.weight_hh.shape[1]) for _, w in directions_of(layer)]
    if len(sizes) == 2:
        return f"{sizes[0]} + {sizes[1]} both"
    return sizes[0] if layer.forward is not None else f"{sizes[0]} reverse"
