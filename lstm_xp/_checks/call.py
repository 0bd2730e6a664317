"""What `lstm` is asked to do, checked: layers, state, cells and marks, and the words of their errors."""

from typing import Any, NamedTuple

from .._equations import activations as _activations
from .._equations.cell import Cell
from .._equations.records import Cells, DirectionCells, Layer, Layers, LSTMState, LSTMWeights, State, directions_of
from .._seams import scan as _scan
from .._seams.namespace import Array, Namespace, device
from . import arrays as _check


class Problem(NamedTuple):
    """A checked call."""

    x: Array
    layers: Layers
    state: State | None
    cells: DirectionCells
    marked: bool
    time_major: bool
    xp: Namespace

    @property
    def steps(self) -> int:
        """Return the size along time."""
        steps: int = self.x.shape[0 if self.time_major else 1]
        return steps

    @property
    def batch(self) -> int:
        """Return the number of sequences."""
        batch: int = self.x.shape[1 if self.time_major else 0]
        return batch

    @property
    def every_cell(self) -> list[Cell]:
        """Return the cells of all directions of all layers."""
        return [cell for layer in self.cells for cell in layer]

    @property
    def every_weights(self) -> list[LSTMWeights]:
        """Return the weights of all directions of all layers."""
        return [weights for layer in self.layers for weights in layer if weights is not None]


def problem_of(
    function: str,
    x: Array,
    layers: Layers,
    state: State | None,
    cell: Cells,
    lengths: Array | None,
    mask: Array | None,
    reset: Array | None,
    time_major: bool,
    engine: str,
) -> Problem:
    """Check everything that can be checked without a value, and return the call."""
    if engine not in ("auto", "native", "xp"):
        raise ValueError(f"{function}: `engine` must be 'auto', 'native' or 'xp'; got {engine!r}.")
    layers = check_layers(function, layers)
    cells = cells_of(function, layers, cell)
    state = state_of(function, state, len(layers))
    xp = _check.arrays(function, {"x": x})
    if not alike(x, arrays_of(layers, state)):
        _check.arrays(function, {"x": x} | named_weights(layers) | named_state(state))
    _check.rank(function, "x", x, "time, batch, I" if time_major else "batch, time, I")
    first, second, I = x.shape  # noqa: E741 -- the field's letter
    sizes = check_weights(function, layers, I)
    T, B = (first, second) if time_major else (second, first)
    if state is not None:
        check_state(function, state, sizes, B)
    symbols, size = ("time, batch", (T, B)) if time_major else ("batch, time", (B, T))
    for name, mark in (("mask", mask), ("reset", reset)):
        if mark is not None:
            _check.companion(function, name, mark, "x", x, "bool")
            _check.shape(function, name, mark, symbols, size)
    if lengths is not None:
        _check.companion(function, "lengths", lengths, "x", x, "integral")
        _check.shape(function, "lengths", lengths, "batch", (B,))
        # A list, as an operation on an array would be traced wherever a trace is under way.
        values = lengths.tolist() if _scan.concrete(lengths, xp) else []
        if values and not 0 <= min(values) <= max(values) <= T:
            raise ValueError(
                f"{function}: `lengths` must lie between 0 and time = {T}; "
                f"got values from {min(values)} to {max(values)}."
            )
    marked = any(mark is not None for mark in (lengths, mask, reset))
    return Problem(x, layers, state, cells, marked, time_major, xp)


def check_layers(function: str, layers: Any) -> Layers:
    """Require the structure; of arrays nothing yet."""
    if isinstance(layers, Layer) or not isinstance(layers, tuple | list):
        raise TypeError(f"{function}: `layers` must be a sequence of Layer; got {type(layers).__name__}.")
    if not layers:
        raise ValueError(f"{function}: `layers` must have at least one Layer; got none.")
    for k, layer in enumerate(layers):
        if not isinstance(layer, Layer):
            raise TypeError(f"{function}: `layers[{k}]` must be a Layer; got {type(layer).__name__}.")
        for direction, weights in zip(layer._fields, layer, strict=True):
            if weights is not None and not isinstance(weights, LSTMWeights):
                raise TypeError(
                    f"{function}: `layers[{k}].{direction}` must be LSTMWeights or None; got {type(weights).__name__}."
                )
        if layer.forward is None and layer.backward is None:
            raise ValueError(f"{function}: `layers[{k}]` must have a direction; got None for both.")
    return tuple(layers)


def alike(like: Array, arrays: list[Array]) -> bool:
    """Tell whether all have the type, dtype and device of `like`: else `_check.arrays` finds words, or exceptions."""
    kind, dtype, place = type(like), like.dtype, device(like)
    for a in arrays:  # noqa: SIM110 -- at every call, a generator is measurable
        if not isinstance(a, kind) or a.dtype != dtype or device(a) != place:
            return False
    return True


def arrays_of(layers: Layers, state: State | None) -> list[Array]:
    """Return each weight and each array of the state."""
    arrays = [a for layer in layers for weights in layer if weights is not None for a in weights if a is not None]
    return arrays if state is None else arrays + [a for s in state for a in s]


Sizes = list[tuple[int, int]]  # R and H of each direction of a layer


def check_weights(function: str, layers: Layers, I: int) -> list[Sizes]:  # noqa: E741 -- the field's letter
    """Require weights that fit each other, layer after layer, and return their sizes."""
    sizes = []
    for k, layer in enumerate(layers):
        each = [
            _check_direction(function, k, direction, weights, I)
            for direction, weights in zip(layer._fields, layer, strict=True)
            if weights is not None
        ]
        if each[0] != each[-1]:
            raise ValueError(
                f"{function}: `layers[{k}]` must have directions of one size, as their states are one array; "
                f"got (R, H) = {each[0]} and {each[1]}."
            )
        sizes.append(each)
        I = each[0][0] * len(each)  # noqa: E741 -- the field's letter
    return sizes


def _check_direction(
    function: str,
    k: int,
    direction: str,
    weights: LSTMWeights,
    I: int,  # noqa: E741 -- the field's letter
) -> tuple[int, int]:
    """Require weights that fit I features and each other, and return R and H; names are made for errors only."""
    W, U, b, P, p = weights
    if W.ndim != 2 or U.ndim != 2 or set(map(type, (*W.shape, *U.shape))) != {int}:
        for part in ("weight_ih", "weight_hh"):
            _check.rank(function, f"layers[{k}].{direction}.{part}", getattr(weights, part), WEIGHT_SYMBOLS[part])
    rows, R = U.shape
    H = rows // 4
    if rows % 4 or H < 1 or R < 1:
        raise ValueError(
            f"{function}: `layers[{k}].{direction}.weight_hh` must have shape (4H, R) with H and R at least 1; "
            f"got {(rows, R)}."
        )
    if P is None and R != H:
        raise ValueError(
            f"{function}: `layers[{k}].{direction}.weight_hh` must have shape (4H, H) = {(rows, H)} "
            f"without a `weight_hr`; got {(rows, R)}."
        )
    if W.shape[1] != I:
        source = f"`x` has I = {I}" if k == 0 else f"layer {k - 1} gives I = {I}"
        raise ValueError(
            f"{function}: `layers[{k}].{direction}.weight_ih` must have shape (4H, I) = {(rows, I)}, as {source}; "
            f"got {tuple(W.shape)}."
        )
    for part, array, size in (
        ("weight_ih", W, (rows, I)),
        ("bias", b, (rows,)),
        ("weight_hr", P, (R, H)),
        ("peephole", p, (3 * H,)),
    ):
        if array is not None and array.shape != size:
            _check.shape(function, f"layers[{k}].{direction}.{part}", array, WEIGHT_SYMBOLS[part], size)
    return R, H


WEIGHT_SYMBOLS = {"weight_ih": "4H, I", "weight_hh": "4H, R", "bias": "4H", "weight_hr": "R, H", "peephole": "3H"}


def named_weights(layers: Layers) -> dict[str, Array]:
    """Return each weight by the name that an error gives it."""
    return {
        f"layers[{k}].{direction}.{part}": array
        for k, layer in enumerate(layers)
        for direction, weights in zip(layer._fields, layer, strict=True)
        if weights is not None
        for part, array in zip(weights._fields, weights, strict=True)
        if array is not None
    }


def named_state(state: State | None, name: str = "state") -> dict[str, Array]:
    """Return each array of a state by the name that an error gives it."""
    if state is None:
        return {}
    return {f"{name}[{k}].{part}": a for k, s in enumerate(state) for part, a in zip(s._fields, s, strict=True)}


def state_of(function: str, state: Any, layers: int, name: str = "state") -> State | None:
    """Require the structure; of arrays nothing yet."""
    if state is None:
        return None
    if isinstance(state, LSTMState) or not isinstance(state, tuple | list):
        raise TypeError(f"{function}: `{name}` must be a sequence of LSTMState; got {type(state).__name__}.")
    if len(state) != layers:
        raise ValueError(f"{function}: `{name}` must have one LSTMState a layer, {layers}; got {len(state)}.")
    for k, s in enumerate(state):
        if not isinstance(s, LSTMState):
            raise TypeError(f"{function}: `{name}[{k}]` must be an LSTMState; got {type(s).__name__}.")
    return tuple(state)


def check_state(function: str, state: State, sizes: list[Sizes], B: int, name: str = "state") -> None:
    """Require h and c of every layer; `sizes` are (R, H) of its directions."""
    for k, (s, directions) in enumerate(zip(state, sizes, strict=True)):
        (R, H), D = directions[0], len(directions)
        for part, array, size in (("h", s.h, (D, B, R)), ("c", s.c, (D, B, H))):
            if array.shape != size:  # here, as the name of each costs more than to compare it
                _check.shape(function, f"{name}[{k}].{part}", array, "directions, batch, hidden", size)


def check_gradients(dy: Array, dstate: Any, result: Any, x: Array) -> State | None:
    """Require gradients that fit the result, and return that of the state."""
    function = "vjp"
    y, state = result[:2]
    checked = state_of(function, dstate, len(state), "dstate")
    _check.arrays(function, {"x": x, "dy": dy} | named_state(checked, "dstate"))
    _check.shape(function, "dy", dy, "the shape of y", tuple(y.shape))
    if checked is not None:
        B = state[0].h.shape[1]
        sizes = [[(s.h.shape[2], s.c.shape[2])] * s.h.shape[0] for s in state]
        check_state(function, checked, sizes, B, "dstate")
    return checked


def cells_of(function: str, layers: Layers, cell: Any) -> DirectionCells:
    """Return one cell for each direction of each layer."""
    if isinstance(cell, Cell) and cell.proj_clip is None:  # fits every layer
        return tuple((cell,) * len(directions_of(layer)) for layer in layers)
    each = (cell,) * len(layers) if isinstance(cell, Cell) else cell
    if not isinstance(each, tuple | list) or len(each) != len(layers):
        got = f"{len(each)} of them" if isinstance(each, tuple | list) else type(each).__name__
        raise TypeError(f"{function}: `cell` must be a Cell, or a tuple with one a layer, {len(layers)}; got {got}.")
    cells = []
    for k, (layer, item) in enumerate(zip(layers, each, strict=True)):
        directions = directions_of(layer)
        D = len(directions)
        if isinstance(item, Cell):
            item = (item,) * D
        elif not isinstance(item, tuple | list) or len(item) != D or not all(isinstance(c, Cell) for c in item):
            raise TypeError(f"{function}: `cell[{k}]` must be a Cell, or one a direction, {D}; got {item!r}.")
        cells.append(tuple(item))
        for c, (_, weights) in zip(item, directions, strict=True):
            if c.proj_clip is not None and weights.weight_hr is None:
                raise ValueError(f"{function}: `cell[{k}].proj_clip` bounds a projection, and layer {k} has none.")
    return tuple(cells)


_ACTIVATIONS = ("gate_activation", "candidate_activation", "output_activation")


def differentiable(cell: Cell) -> bool:
    """Tell whether the hand-written gradient takes the cell."""
    return all(_activations.has_slope(getattr(cell, name)) for name in _ACTIVATIONS)


def require_slopes(function: str, cell: Cell) -> None:
    """Require a cell that the hand-written gradient takes."""
    for name in _ACTIVATIONS:
        if not _activations.has_slope(getattr(cell, name)):
            raise ValueError(
                f"{function}: `cell.{name}` must have a method `derivative(x, xp)`, as the gradient is written by "
                f"hand; got {getattr(cell, name)!r}. PyTorch and JAX can differentiate `lstm` without it."
            )
