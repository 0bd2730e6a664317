"""What `lstm` is asked to do, checked: layers, state, cells and marks, and the words of their errors.

Everything that can be checked without looking at a value. Sizes along time and batch are compared, and nothing else is
done with them: while a library traces a program they need not be numbers.
"""

from .._equations.activations import has_slope
from .._equations.cell import Cell
from .._equations.records import (
    Call,
    DirectionCells,
    Layer,
    Layers,
    LSTMState,
    LSTMWeights,
    Plan,
    State,
    cells_by_direction,
    directions_of,
    sizes_of,
)
from .._seams.namespace import Array, Namespace, array_namespace, beside
from .._seams.transforms import concrete, takes_gradients, why_not_by_hand
from . import arrays
from .arrays import refusal

WEIGHT_SYMBOLS = {"weight_ih": "4H, I", "weight_hh": "4H, R", "bias": "4H", "weight_hr": "R, H", "peephole": "3H"}


# Layers and cells: checked when an `LSTM` is made, or `lstm` is called.


def check_stack(function: str, layers: object, cell: object) -> tuple[Layers, DirectionCells]:
    """Require layers that fit each other, of one library, dtype and device, and cells that fit them."""
    checked = check_layers(function, layers)
    arrays.arrays(function, named_weights(checked))
    check_weights(function, checked)
    return checked, cells_of(function, checked, cell)


def check_layers(function: str, layers: object) -> Layers:
    """Require the structure; of arrays nothing yet."""
    if isinstance(layers, Layer) or not isinstance(layers, tuple | list):
        got, hint = type(layers).__name__, "A single one goes into a tuple, `(layer,)`; an `LSTM` has `layers`."
        raise TypeError(refusal(function, "layers", "be a sequence of Layer", got, hint=hint))
    if not layers:
        raise ValueError(refusal(function, "layers", "have at least one Layer", "none"))
    for k, layer in enumerate(layers):
        arrays.instance(function, f"layers[{k}]", layer, Layer, "a Layer", hint="Write `Layer(weights)`.")
        directions = _directions(k, layer)
        for name, weights in directions:
            arrays.instance(function, name, weights, LSTMWeights, "LSTMWeights or None")
        if not directions:
            raise ValueError(refusal(function, f"layers[{k}]", "have a direction", "None for both"))
    return tuple(layers)


def _directions(k: int, layer: Layer) -> list[tuple[str, LSTMWeights]]:
    """Return the weights of each direction of layer k, by the name that an error gives them."""
    named = zip(layer._fields, layer, strict=True)
    return [(f"layers[{k}].{direction}", weights) for direction, weights in named if weights is not None]


def named_weights(layers: Layers) -> dict[str, Array]:
    """Return each weight by the name that an error gives it."""
    return {
        f"{name}.{part}": array
        for k, layer in enumerate(layers)
        for name, weights in _directions(k, layer)
        for part, array in zip(weights._fields, weights, strict=True)
        if array is not None or part in ("weight_ih", "weight_hh")
    }


def check_weights(function: str, layers: Layers) -> None:
    """Require weights that fit each other, layer after layer."""
    name, first = first_weight(layers)
    arrays.rank(function, name, first, WEIGHT_SYMBOLS["weight_ih"])
    width = first.shape[1]
    for k, layer in enumerate(layers):
        source = "the other direction takes" if k == 0 else f"layer {k - 1} gives"
        directions = _directions(k, layer)
        sizes = [_check_direction(function, name, weights, width, source) for name, weights in directions]
        if sizes[0] != sizes[-1]:
            rule = "have directions of one size, as their states are one array"
            raise ValueError(refusal(function, f"layers[{k}]", rule, f"(R, H) = {sizes[0]} and {sizes[1]}"))
        width = sizes[0][0] * len(sizes)


def _check_direction(function: str, where: str, weights: LSTMWeights, width: int, source: str) -> tuple[int, int]:
    """Require weights that fit each other and the features that come in, and return R and H."""
    for part in ("weight_ih", "weight_hh"):
        arrays.rank(function, f"{where}.{part}", getattr(weights, part), WEIGHT_SYMBOLS[part])
    rows, R = weights.weight_hh.shape
    H, I = rows // 4, weights.weight_ih.shape[1]  # noqa: E741 -- the field's letter
    if rows % 4 or H < 1 or R < 1:
        rule = "have shape (4H, R) with H and R at least 1"
        raise ValueError(refusal(function, f"{where}.weight_hh", rule, (rows, R)))
    if weights.weight_hr is None and R != H:
        rule = f"have shape (4H, H) = {(rows, H)} without a `weight_hr`"
        raise ValueError(refusal(function, f"{where}.weight_hh", rule, (rows, R)))
    if width != I:
        rule = f"have shape (4H, I) = {(rows, width)}, as {source} I = {width}"
        raise ValueError(refusal(function, f"{where}.weight_ih", rule, tuple(weights.weight_ih.shape)))
    for part, size in {"weight_ih": (rows, I), "bias": (rows,), "weight_hr": (R, H), "peephole": (3 * H,)}.items():
        array = getattr(weights, part)
        if array is not None:
            arrays.shape(function, f"{where}.{part}", array, WEIGHT_SYMBOLS[part], size)
    return R, H


def cells_of(function: str, layers: Layers, cell: object) -> DirectionCells:
    """Return one cell for each direction of each layer."""
    each = (cell,) * len(layers) if isinstance(cell, Cell) else cell
    if not isinstance(each, tuple | list) or len(each) != len(layers):
        got = f"{len(each)} of them" if isinstance(each, tuple | list) else type(each).__name__
        raise TypeError(refusal(function, "cell", f"be a Cell, or a tuple with one a layer, {len(layers)}", got))
    for k, (layer, item) in enumerate(zip(layers, each, strict=True)):
        directions = directions_of(layer)
        D = len(directions)
        cells = (item,) * D if isinstance(item, Cell) else item
        if not isinstance(cells, tuple | list) or len(cells) != D or not all(isinstance(c, Cell) for c in cells):
            raise TypeError(refusal(function, f"cell[{k}]", f"be a Cell, or one a direction, {D}", repr(item)))
        for c, (_, weights) in zip(cells, directions, strict=True):
            if c.proj_clip is not None and weights.weight_hr is None:
                got = f"layer {k} has none; got {c.proj_clip}. Leave it None."
                raise ValueError(f"{function}: `cell[{k}].proj_clip` bounds a projection, and {got}")
    return cells_by_direction(layers, tuple(each))


def _check_slopes(function: str, plan: Plan) -> None:
    """Require cells that the hand-written gradient takes."""
    for cell in plan.every_cell:
        for name, activation in cell.activations.items():
            if not has_slope(activation):
                rule = "have a method `derivative(x, xp)`, as the gradient is written by hand"
                hint = "PyTorch and JAX can differentiate `lstm` without it."
                raise ValueError(refusal(function, f"cell.{name}", rule, repr(activation), hint=hint))


# The rest of a call: checked at every call.


def check_call(function: str, call: Call, plan: Plan, *, by_hand: bool = False) -> tuple[Call, Plan]:
    """Require what comes in with layers that have been checked; return the call, and the plan for its namespace.

    `by_hand` says whether the caller takes the gradient that is written by hand whatever the library does.
    """
    if plan.engine not in ("auto", "native", "xp"):
        raise ValueError(refusal(function, "engine", "be 'auto', 'native' or 'xp'", repr(plan.engine)))
    if by_hand and plan.engine == "native":
        rule = "be 'auto' or 'xp', as the gradient is the package's own"
        raise ValueError(refusal(function, "engine", rule, repr(plan.engine)))
    time_major = plan.time_major
    (x, layers), state = beside(call.x, (call.x, call.layers)), call.state
    xp = check_input(function, "x", x, layers, "time, batch, I" if time_major else "batch, time, I")
    first, second = x.shape[:2]
    T, B = (first, second) if time_major else (second, first)
    arrays.known(function, "x", T)
    arrays.counted(function, "x", x)
    arrays.in_one_piece(function, "x", x, time=0 if time_major else 1, features=2)
    if state is not None:
        state = check_state(function, "state", state, layers, B)
    if call.marked:
        _check_marks(function, call, T, B, "time, batch" if time_major else "batch, time")
    call = Call(x, layers, state, *call[3:])
    plan = plan._replace(time_major=bool(time_major), trace=bool(plan.trace), xp=xp)
    if by_hand or plan.checkpoint is not None:
        _check_slopes(function, plan)
    if plan.checkpoint is not None:
        K = _check_checkpoint(function, call, plan, plan.checkpoint, by_hand)
        plan = plan._replace(checkpoint=None if isinstance(T, int) and K >= T else K)  # one segment is all
    return call, plan


def _check_checkpoint(function: str, call: Call, plan: Plan, K: int, by_hand: bool) -> int:
    """Return the steps of a segment; require a gradient that is written by hand, which alone has them."""
    K = arrays.integer(function, "checkpoint", K, 1)
    why_not = None if by_hand else why_not_by_hand(call, plan.xp)
    if plan.trace:
        why_not = "`trace` keeps every step"
    elif plan.engine == "xp" and not by_hand:
        why_not = "with `engine` = 'xp' the library differentiates the equations by itself"
    elif not isinstance(plan.steps_and_batch(call.x)[0], int) and (by_hand or takes_gradients(call, plan.xp)):
        why_not = "the time of `x` is free, and segments are counted"
    if why_not is not None:
        raise ValueError(refusal(function, "checkpoint", "be None here", K, hint=f"It cannot be: {why_not}."))
    return K


def check_input(function: str, name: str, x: Array, layers: Layers, symbols: str) -> Namespace:
    """Require an input that the layers take, and return its namespace."""
    weight_name, weight = first_weight(layers)
    arrays.agree(function, name, x, weight_name, weight)
    arrays.rank(function, name, x, symbols)
    if x.shape[-1] != weight.shape[1]:
        rule = f"have shape ({symbols}) with I = {weight.shape[1]}, as the layers take"
        raise ValueError(refusal(function, name, rule, tuple(x.shape)))
    return array_namespace(x)


def first_weight(layers: Layers) -> tuple[str, Array]:
    """Return the weights of the first layer's input, and their name."""
    forward, backward = layers[0]
    if forward is not None:
        return "layers[0].forward.weight_ih", forward.weight_ih
    assert backward is not None
    return "layers[0].backward.weight_ih", backward.weight_ih


def check_state(function: str, name: str, state: object, layers: Layers, B: int) -> State:
    """Require h and c of every layer, for B sequences."""
    state = check_layer_states(function, name, state, len(layers))
    weight_name, weight = first_weight(layers)
    state = beside(weight, state)
    for k, (s, layer) in enumerate(zip(state, layers, strict=True)):
        D, R, H = sizes_of(layer)
        for part, array, size in (("h", s.h, (D, B, R)), ("c", s.c, (D, B, H))):
            if not arrays.alike(array, weight) or array.shape != size:  # to make the name of each takes as long
                arrays.agree(function, f"{name}[{k}].{part}", array, weight_name, weight)
                arrays.shape(function, f"{name}[{k}].{part}", array, "directions, batch, hidden", size)
            if hasattr(array, "placements"):
                arrays.in_one_piece(function, f"{name}[{k}].{part}", array, features=2)
    return state


def check_layer_states(function: str, name: str, state: object, layers: int) -> State:
    """Require an LSTMState a layer; of arrays nothing yet."""
    if isinstance(state, LSTMState) or not isinstance(state, tuple | list):
        got, hint = type(state).__name__, "A single one goes into a tuple, `(state,)`."
        raise TypeError(refusal(function, name, "be a sequence of LSTMState", got, hint=hint))
    if len(state) != layers:
        raise ValueError(refusal(function, name, f"have one LSTMState a layer, {layers}", len(state)))
    for k, s in enumerate(state):
        if not isinstance(s, LSTMState):
            raise TypeError(refusal(function, f"{name}[{k}]", "be an LSTMState", type(s).__name__))
    return tuple(state)


def _check_marks(function: str, call: Call, T: int, B: int, symbols: str) -> None:
    """Require marks of the sizes along time and batch, in the order of the symbols."""
    x = call.x
    for name, mark in (("mask", call.mask), ("reset", call.reset)):
        if mark is not None:
            arrays.companion(function, name, mark, "x", x, "bool")
            arrays.shape(function, name, mark, symbols, tuple(x.shape[:2]))
            arrays.in_one_piece(function, name, mark, time=int(symbols == "batch, time"))
    if call.lengths is not None:
        arrays.companion(function, "lengths", call.lengths, "x", x, "integral")
        arrays.shape(function, "lengths", call.lengths, "batch", (B,))
        # A list, as an operation on an array would be traced wherever a trace is under way.
        values = call.lengths.tolist() if concrete(call.lengths, array_namespace(x)) else []
        if values and not 0 <= min(values) <= max(values) <= T:
            got = f"values from {min(values)} to {max(values)}"
            raise ValueError(refusal(function, "lengths", f"lie between 0 and time = {T}", got))


def check_gradients(dy: Array, dstate: object, y: Array, layers: Layers, B: int) -> State | None:
    """Require gradients that fit what the call returned."""
    function = "vjp"
    arrays.agree(function, "dy", dy, "y", y)
    arrays.shape(function, "dy", dy, "the shape of y", tuple(y.shape))
    return None if dstate is None else check_state(function, "dstate", dstate, layers, B)
