"""Weights, layers, states, and a checked call: named tuples of arrays, which every library takes for trees."""

from typing import Literal, NamedTuple, TypeAlias

from .._seams.namespace import Array, Namespace
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
Traces: TypeAlias = tuple[tuple[Trace, ...], ...]  # one a direction, of every layer
Cells: TypeAlias = Cell | tuple[Cell | tuple[Cell, Cell], ...]  # as a caller gives them
DirectionCells: TypeAlias = tuple[tuple[Cell, ...], ...]  # one a direction, of every layer
Engine: TypeAlias = Literal["auto", "native", "xp"]


class Call(NamedTuple):
    """The arrays of a call, as the caller gives them."""

    x: Array
    layers: Layers
    state: State | None = None
    lengths: Array | None = None
    mask: Array | None = None
    reset: Array | None = None

    @property
    def marked(self) -> bool:
        """Whether something is said about single steps."""
        return not (self.lengths is None and self.mask is None and self.reset is None)


class Plan(NamedTuple):
    """How a call is to be run: all of it that is not an array. It can be hashed, so that JAX compiles once for it."""

    cells: DirectionCells
    time_major: bool = False
    trace: bool = False
    checkpoint: int | None = None
    engine: Engine = "auto"
    xp: Namespace = None

    @property
    def every_cell(self) -> list[Cell]:
        """The cells of all directions of all layers."""
        return [cell for layer in self.cells for cell in layer]

    def steps_and_batch(self, x: Array) -> tuple[int, int]:
        """Return the sizes of x along time and batch; a library may not know a size before it runs."""
        return (x.shape[0], x.shape[1]) if self.time_major else (x.shape[1], x.shape[0])


def directions_of(layer: Layer) -> list[tuple[bool, LSTMWeights]]:
    """Return the layer's directions, forward first: whether it is the reverse one, and its weights."""
    both = ((False, layer.forward), (True, layer.backward))
    return [(reverse, weights) for reverse, weights in both if weights is not None]


def only_forward(layers: Layers) -> bool:
    """Tell whether no layer has a reverse direction."""
    return not any(layer.backward is not None or layer.forward is None for layer in layers)


def cells_by_direction(layers: Layers, cell: Cells) -> DirectionCells:
    """Return one cell for each direction of each layer."""
    directions = [1 + (None not in layer) for layer in layers]
    if isinstance(cell, Cell):
        return tuple([(cell,) * D for D in directions])
    return tuple(
        (item,) * D if isinstance(item, Cell) else tuple(item) for item, D in zip(cell, directions, strict=True)
    )


def sizes_of(layer: Layer) -> tuple[int, int, int]:
    """Return D, R and H of a layer, whose state is h (D, batch, R) and c (D, batch, H)."""
    weights = layer.forward or layer.backward
    assert weights is not None
    rows, R = weights.weight_hh.shape
    return 2 - layer.count(None), R, rows // 4


def width_of(layer: Layer) -> int:
    """Return the features of the layer's output, D * R."""
    return sum(int(weights.weight_hh.shape[1]) for _, weights in directions_of(layer))


def kind_of(layer: Layer) -> str:
    """Return the layer's widths and directions in words."""
    D, R, _ = sizes_of(layer)
    if D == 2:
        return f"{R} + {R} both"
    return str(R) if layer.forward is not None else f"{R} reverse"
