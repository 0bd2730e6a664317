"""Layers and directions: `lstm`, its gradient, and one step of it."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from . import _activations, _check, _native, _scan, _sequence
from ._cell import PLAIN, Cell
from ._namespace import Array, Namespace, device
from ._sequence import Marks, Weights
from ._structure import Cells, Layer, Layers, LSTMState, LSTMWeights, State, Trace, directions_of

Engine = Literal["auto", "native", "xp"]

# One cell a direction, of every layer.
_Cells = tuple[tuple[Cell, ...], ...]


def lstm(
    x: Array,
    layers: Layers,
    state: State | None = None,
    /,
    *,
    cell: Cells = PLAIN,
    lengths: Array | None = None,
    mask: Array | None = None,
    reset: Array | None = None,
    time_major: bool = False,
    trace: bool = False,
    engine: Engine = "auto",
) -> Any:
    """Run a stack of LSTM layers over a batch of sequences.

    Parameters
    ----------
    x : array, shape (batch, time, I)
        Input; ``(time, batch, I)`` with ``time_major=True``. Real floating dtype; all arrays of one library, dtype
        and device.
    layers : sequence of Layer
        The weights; sizes may differ between layers and directions.
    state : sequence of LSTMState, optional
        The state before the first step, one a layer: ``h (D, batch, R)``, ``c (D, batch, H)``; zeros by default.
    cell : Cell, or tuple with one a layer
        The variant of the equations; a bidirectional layer's may be a pair.
    lengths : array, shape (batch,), optional
        Integers: the steps of each sequence, from its start. The same as a mask of its first steps.
    mask : array, shape (batch, time), optional
        Booleans, of any pattern: where false, the state is carried over unchanged and `y` is 0. What stands there in
        `x` and `reset` does not matter. ``(time, batch)`` with ``time_major=True``.
    reset : array, shape (batch, time), optional
        Booleans: where true, the state is zeroed before the step, by each direction in its own order. Like `mask`.
    time_major : bool
        Whether time is the first axis of `x`, `mask`, `reset`, `y` and the trace.
    trace : bool
        Whether to return every step's gates and states too.
    engine : {"auto", "native", "xp"}
        ``"xp"``: the equations of this package. ``"native"``: the library's own fused kernel, or an error that names
        what it cannot do. ``"auto"``: the kernel where it is known to be faster, and on JAX the hand-written
        gradient, which has no forward mode: `jax.jvp` needs ``"xp"``.

    Returns
    -------
    y : array, shape (batch, time, D * R)
        The last layer's hidden states, the forward direction's features first; 0 where masked.
    state : tuple of LSTMState
        The state after the last step that is not masked: what `state` takes to go on.
    trace : tuple of tuples of Trace
        With ``trace=True``: for each layer and direction, the gates i, f, o, the candidate g, and c and h.

    Raises
    ------
    ValueError
        If a shape does not fit the weights, or an option another.
    TypeError
        If something is not an array, or differs in library, dtype or device.

    Examples
    --------
    With zero weights every gate is half open and the candidate is zero: each step halves the cell state, but a
    masked one.

    >>> import numpy as np
    >>> layer = Layer(LSTMWeights(np.zeros((4, 1)), np.zeros((4, 1))))
    >>> state = LSTMState(np.ones((1, 2, 1)), np.ones((1, 2, 1)))
    >>> y, state = lstm(np.ones((2, 3, 1)), (layer,), (state,), lengths=np.asarray([3, 2]))
    >>> state[0].c
    array([[[0.125],
            [0.25 ]]])
    """
    problem = _problem("lstm", x, layers, state, cell, lengths, mask, reset, time_major, engine)
    xp, options = problem.xp, {"cells": problem.cells, "time_major": time_major, "xp": problem.xp}
    if _native.chosen(
        "lstm",
        x,
        problem.layers,
        problem.state,
        problem.cells,
        marked=problem.marked,
        trace=trace,
        time_major=time_major,
        engine=engine,
    ):
        return _native.run(x, problem.layers, problem.state, time_major=time_major)
    written = engine != "xp" and _scan.takes_gradients(xp) and not trace
    written = written and all(map(_differentiable, _every(problem.cells)))
    arrays = (x, problem.layers, problem.state, lengths, mask, reset)
    return _scan.staged(_run, xp)(*arrays, trace=trace, hand_written=written, **options)


def lstm_vjp(
    x: Array,
    layers: Layers,
    state: State | None = None,
    /,
    *,
    cell: Cells = PLAIN,
    lengths: Array | None = None,
    mask: Array | None = None,
    reset: Array | None = None,
    time_major: bool = False,
    trace: bool = False,
    engine: Engine = "auto",
) -> tuple[Any, Callable[..., tuple[Array, Layers, State]]]:
    """Run `lstm`, and return the function that takes gradients back through it: hand-written, for every library.

    Parameters
    ----------
    x, layers, state, cell, lengths, mask, reset, time_major, trace
        As `lstm` takes them.
    engine : {"auto", "xp"}
        The gradient is that of this package; no fused kernel has one for NumPy.

    Returns
    -------
    result : tuple
        What `lstm` returns.
    vjp : callable
        ``vjp(dy, dstate=None) -> (dx, dlayers, dstate0)``: from the gradients of a loss with respect to `y` and to the
        last state, those with respect to `x`, to the weights, in their own container, and to the first state.

    Raises
    ------
    ValueError, TypeError
        As `lstm`; and `vjp` if `dy` or `dstate` does not fit.

    Examples
    --------
    With zero weights the forget gate is one half at every step: so much of the gradient goes back.

    >>> import numpy as np
    >>> layer = Layer(LSTMWeights(np.zeros((4, 1)), np.zeros((4, 1))))
    >>> (y, state), vjp = lstm_vjp(np.ones((1, 3, 1)), (layer,))
    >>> dx, dlayers, dstate0 = vjp(np.zeros_like(y), (LSTMState(np.zeros((1, 1, 1)), np.ones((1, 1, 1))),))
    >>> dstate0[0].c
    array([[[0.125]]])
    """
    function = "lstm_vjp"
    if engine == "native":
        raise ValueError(
            f"{function}: `engine` must be 'auto' or 'xp': the gradient is the package's own; got 'native'."
        )
    problem = _problem(function, x, layers, state, cell, lengths, mask, reset, time_major, engine)
    xp = problem.xp
    for cell in _every(problem.cells):
        _require_slopes(function, cell)
    options = {"cells": problem.cells, "time_major": time_major, "xp": xp}
    arrays = (x, problem.layers, problem.state, lengths, mask, reset)
    result, kept = _scan.staged(_run_and_keep, xp)(*arrays, trace=trace, **options)

    def vjp(dy: Array, dstate: State | None = None) -> tuple[Array, Layers, State]:
        _check_gradients(dy, dstate, result, x)
        gradients: tuple[Array, Layers, State] = _scan.staged(_take_back, xp)(
            dy, dstate, problem.layers, problem.state, kept, **options
        )
        return gradients

    return result, vjp


class Step:
    """One step of a checked stack of forward layers; what the weights decide is decided once."""

    def __init__(self, layers: Layers, cell: Cells) -> None:
        """Check the layers, and turn their weights."""
        function = "LSTM.step"
        _check_layers(function, layers)
        cells = _cells_of(function, layers, cell)
        for k, layer in enumerate(layers):
            if len(directions_of(layer)) != 1 or layer.forward is None:
                raise ValueError(
                    f"{function}: `layers[{k}]` must have a forward direction only, as a step has no later ones; "
                    "run the whole sequence with `lstm` instead."
                )
        named = {name: a for name, a in _named_weights(layers).items() if a is not None}
        self._xp = xp = _check.arrays(function, named)
        self._layers, self._cells = layers, tuple(direction[0] for direction in cells)
        self._weight_name, self._weight = next(iter(named.items()))
        _check.rank(function, self._weight_name, self._weight, _WEIGHTS["weight_ih"])
        _check_weights(function, layers, self._weight.shape[1])
        self._sizes = _sizes_of(layers)
        self._type, self._dtype, self._device = type(self._weight), self._weight.dtype, device(self._weight)
        self._ready = _scan.staged(_turned_stack, xp)(layers, xp=xp)

    def __call__(self, x: Array, state: State | None) -> tuple[Array, State]:
        """Return the output and the next state."""
        xp, function = self._xp, "LSTM.step"
        I = self._weight.shape[1]  # noqa: E741 -- the field's letter for the input size
        arrays = [x] if state is None else [x, *(a for layer in state for a in layer)]
        for a in arrays:
            if type(a) is not self._type or a.dtype != self._dtype or device(a) != self._device:
                named = {self._weight_name: self._weight, "x_t": x} | _named_state(state)
                _check.arrays(function, named)
                break
        if len(x.shape) != 2 or x.shape[1] != I:
            raise ValueError(f"{function}: `x_t` must have shape (batch, I) = (batch, {I}); got {tuple(x.shape)}.")
        if state is not None:
            _check_state(function, state, self._sizes, x.shape[0])
        y, new = _scan.staged(_step, xp)(x, state, self._ready, cells=self._cells, xp=xp)
        return y, new


def _turned_stack(layers: Layers, *, xp: Namespace) -> tuple[Weights, ...]:
    return tuple(_turned(layer.forward, xp=xp) for layer in layers if layer.forward is not None)


def _step(
    x: Array,
    state: State | None,
    stack: tuple[Weights, ...],
    *,
    cells: tuple[Cell, ...],
    ordered: Callable[[Array], Array] | None = None,
    xp: Namespace,
) -> tuple[Array, State]:
    h = x.T
    new = []
    for k, (weights, cell) in enumerate(zip(stack, cells, strict=True)):
        if state is None:
            before = _zero_state(weights, x, x.shape[0], xp=xp)
        else:
            before = state[k].h[0, ...].T, state[k].c[0, ...].T
        h, c = _sequence.step(h, before, weights, cell=cell, ordered=ordered, xp=xp)
        new.append(LSTMState(h.T[None, ...], c.T[None, ...]))
    return h.T, tuple(new)


def _run_one_step(
    x: Array, layers: Layers, state: State | None, cells: _Cells, time_major: bool, *, xp: Namespace
) -> tuple[Array, State]:
    """Run a sequence of one step: without a loop, and without copies of the weights: most of the cost."""
    as_they_are = tuple(
        Weights(
            W, R, None if b is None else xp.expand_dims(b, axis=1), P, None if p is None else xp.expand_dims(p, axis=1)
        )
        for W, R, b, P, p in (w for layer in layers for w in layer if w is not None)
    )
    time = 0 if time_major else 1
    first = x[0, ...] if time_major else x[:, 0, :]
    flat = tuple(cell for (cell,) in cells)
    y, last = _step(first, state, as_they_are, cells=flat, ordered=lambda z: _swap_g_o(z, xp=xp), xp=xp)
    return xp.expand_dims(y, axis=time), last


class _Problem(NamedTuple):
    """A checked call."""

    xp: Namespace
    layers: Layers
    state: State | None
    cells: _Cells
    marked: bool


def _problem(
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
) -> _Problem:
    if engine not in ("auto", "native", "xp"):
        raise ValueError(f"{function}: `engine` must be 'auto', 'native' or 'xp'; got {engine!r}.")
    layers = _check_layers(function, layers)
    cells = _cells_of(function, layers, cell)
    state = _state_of(function, state, layers)
    weights = _named_weights(layers)
    named = {"x": x} | {name: a for name, a in weights.items() if a is not None} | _named_state(state)
    xp = _check.arrays(function, named)
    symbols = "time, batch, I" if time_major else "batch, time, I"
    _check.rank(function, "x", x, symbols)
    _check_weights(function, layers, x.shape[2])
    T, B = (x.shape[0], x.shape[1]) if time_major else (x.shape[1], x.shape[0])
    if state is not None:
        _check_state(function, state, _sizes_of(layers), B)
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
    return _Problem(xp, layers, state, cells, any(mark is not None for mark in (lengths, mask, reset)))


def _check_layers(function: str, layers: Any) -> Layers:
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


def _check_weights(function: str, layers: Layers, I: int) -> None:  # noqa: E741 -- the field's letter
    for k, layer in enumerate(layers):
        source = f"`x` has I = {I}" if k == 0 else f"layer {k - 1} gives I = {I}"
        widths, sizes_here = [], []
        for direction, weights in zip(layer._fields, layer, strict=True):
            if weights is None:
                continue
            name = f"layers[{k}].{direction}"
            for part in ("weight_ih", "weight_hh"):
                _check.rank(function, f"{name}.{part}", getattr(weights, part), _WEIGHTS[part])
            rows, R = weights.weight_hh.shape
            H = rows // 4
            if rows % 4 or H < 1 or R < 1:
                raise ValueError(
                    f"{function}: `{name}.weight_hh` must have shape (4H, R) with H and R at least 1; got {(rows, R)}."
                )
            if weights.weight_hr is None and R != H:
                raise ValueError(
                    f"{function}: `{name}.weight_hh` must have shape (4H, H) = {(rows, H)} without a `weight_hr`; "
                    f"got {(rows, R)}."
                )
            if weights.weight_ih.shape[1] != I:
                raise ValueError(
                    f"{function}: `{name}.weight_ih` must have shape (4H, I) = {(rows, I)}, as {source}; "
                    f"got {tuple(weights.weight_ih.shape)}."
                )
            sizes = {"weight_ih": (rows, I), "bias": (rows,), "weight_hr": (R, H), "peephole": (3 * H,)}
            for part, size in sizes.items():
                array = getattr(weights, part)
                if array is not None:
                    _check.shape(function, f"{name}.{part}", array, _WEIGHTS[part], size)
            widths.append(R)
            sizes_here.append((R, H))
        if len(set(sizes_here)) > 1:
            raise ValueError(
                f"{function}: `layers[{k}]` must have directions of one size, as their states are one array; "
                f"got (R, H) = {sizes_here[0]} and {sizes_here[1]}."
            )
        I = sum(widths)  # noqa: E741 -- the field's letter


_WEIGHTS = {"weight_ih": "4H, I", "weight_hh": "4H, R", "bias": "4H", "weight_hr": "R, H", "peephole": "3H"}


def _named_weights(layers: Layers) -> dict[str, Array]:
    return {
        f"layers[{k}].{direction}.{part}": array
        for k, layer in enumerate(layers)
        for direction, weights in zip(layer._fields, layer, strict=True)
        if weights is not None
        for part, array in zip(weights._fields, weights, strict=True)
    }


def _named_state(state: State | None) -> dict[str, Array]:
    if state is None:
        return {}
    return {f"state[{k}].{part}": a for k, s in enumerate(state) for part, a in zip(s._fields, s, strict=True)}


def _state_of(function: str, state: Any, layers: Layers) -> State | None:
    if state is None:
        return None
    if isinstance(state, LSTMState) or not isinstance(state, tuple | list):
        raise TypeError(f"{function}: `state` must be a sequence of LSTMState; got {type(state).__name__}.")
    if len(state) != len(layers):
        raise ValueError(f"{function}: `state` must have one LSTMState a layer, {len(layers)}; got {len(state)}.")
    for k, s in enumerate(state):
        if not isinstance(s, LSTMState):
            raise TypeError(f"{function}: `state[{k}]` must be an LSTMState; got {type(s).__name__}.")
    return tuple(state)


def _sizes_of(layers: Layers) -> list[list[tuple[int, int]]]:
    """Return R and H of each direction of each layer."""
    return [[(w.weight_hh.shape[1], w.weight_hh.shape[0] // 4) for _, w in directions_of(layer)] for layer in layers]


def _check_state(function: str, state: State, sizes: list[list[tuple[int, int]]], B: int, name: str = "state") -> None:
    """Require h and c of every layer; `sizes` are (R, H) of its directions."""
    if len(state) != len(sizes):
        raise ValueError(f"{function}: `{name}` must have one LSTMState a layer, {len(sizes)}; got {len(state)}.")
    for k, (s, directions) in enumerate(zip(state, sizes, strict=True)):
        (R, H), D = directions[0], len(directions)
        if s.h.shape != (D, B, R):
            _check.shape(function, f"{name}[{k}].h", s.h, "directions, batch, hidden", (D, B, R))
        if s.c.shape != (D, B, H):
            _check.shape(function, f"{name}[{k}].c", s.c, "directions, batch, hidden", (D, B, H))


def _check_gradients(dy: Array, dstate: State | None, result: Any, x: Array) -> None:
    function = "vjp"
    y, state = result[:2]
    if dstate is not None and (isinstance(dstate, LSTMState) or not isinstance(dstate, tuple | list)):
        raise TypeError(f"{function}: `dstate` must be a sequence of LSTMState; got {type(dstate).__name__}.")
    _check.arrays(function, {"x": x, "dy": dy} | {f"d{name}": a for name, a in _named_state(dstate).items()})
    _check.shape(function, "dy", dy, "the shape of y", tuple(y.shape))
    if dstate is not None:
        B = state[0].h.shape[1]
        sizes = [[(s.h.shape[2], s.c.shape[2])] * s.h.shape[0] for s in state]
        _check_state(function, tuple(dstate), sizes, B, "dstate")


def _cells_of(function: str, layers: Layers, cell: Any) -> _Cells:
    """Return one cell for each direction of each layer."""
    each = (cell,) * len(layers) if isinstance(cell, Cell) else cell
    if not isinstance(each, tuple | list) or len(each) != len(layers):
        got = f"{len(each)} of them" if isinstance(each, tuple | list) else type(each).__name__
        raise TypeError(f"{function}: `cell` must be a Cell, or a tuple with one a layer, {len(layers)}; got {got}.")
    cells = []
    for k, (layer, item) in enumerate(zip(layers, each, strict=True)):
        D = len(directions_of(layer))
        pair = (item,) * D if isinstance(item, Cell) else item
        if not isinstance(pair, tuple | list) or len(pair) != D or not all(isinstance(c, Cell) for c in pair):
            raise TypeError(f"{function}: `cell[{k}]` must be a Cell, or one a direction, {D}; got {item!r}.")
        cells.append(tuple(pair))
        for c, (_, weights) in zip(pair, directions_of(layer), strict=True):
            if c.proj_clip is not None and weights.weight_hr is None:
                raise ValueError(f"{function}: `cell[{k}].proj_clip` bounds a projection, and layer {k} has none.")
    return tuple(cells)


def _every(cells: _Cells) -> list[Cell]:
    return [cell for layer in cells for cell in layer]


_ACTIVATIONS = ("gate_activation", "candidate_activation", "output_activation")


def _differentiable(cell: Cell) -> bool:
    return all(_activations.has_slope(getattr(cell, name)) for name in _ACTIVATIONS)


def _require_slopes(function: str, cell: Cell) -> None:
    for name in _ACTIVATIONS:
        if not _activations.has_slope(getattr(cell, name)):
            raise ValueError(
                f"{function}: `cell.{name}` must have a method `derivative(x, xp)`, as the gradient is written by "
                f"hand; got {getattr(cell, name)!r}. PyTorch and JAX can differentiate `lstm` without it."
            )


# The cores: pure functions of arrays, compiled where the library compiles.


def _run(
    x: Array,
    layers: Layers,
    state: State | None,
    lengths: Array | None,
    mask: Array | None,
    reset: Array | None,
    *,
    cells: _Cells,
    time_major: bool,
    trace: bool,
    hand_written: bool,
    xp: Namespace,
) -> Any:
    marked = any(mark is not None for mark in (lengths, mask, reset))
    if x.shape[0 if time_major else 1] == 1 and not trace and not marked and all(len(c) == 1 for c in cells):
        return _run_one_step(x, layers, state, cells, time_major, xp=xp)

    def one(x: Array, before: _sequence.State, weights: Weights, marks: Marks, cell: Cell, reverse: bool) -> Any:
        if trace:
            path, last = _sequence.states(x, before, weights, marks, cell=cell, reverse=reverse, with_gates=True, xp=xp)
            return _sequence.masked(path.h, marks.mask, xp=xp), last, path
        run = _with_written_gradient(cell, reverse, xp) if hand_written else None
        if run is not None:
            return *run(x, before, weights, marks), None
        return *_sequence.outputs(x, before, weights, marks, cell=cell, reverse=reverse, xp=xp), None

    y, last, paths = _through(x, layers, state, lengths, mask, reset, cells, time_major, one, xp=xp)
    if not trace:
        return y, last
    return y, last, tuple(tuple(_trace(path, time_major, xp=xp) for path in layer) for layer in paths)


def _with_written_gradient(cell: Cell, reverse: bool, xp: Namespace) -> Any:
    """Return `_sequence.outputs` of one direction, whose gradient on JAX is `_sequence.backward`."""

    def outputs(x: Array, before: Any, weights: Weights, marks: Marks) -> Any:
        return _sequence.outputs(x, before, weights, marks, cell=cell, reverse=reverse, xp=xp)

    def forward(x: Array, before: Any, weights: Weights, marks: Marks) -> Any:
        path, last = _sequence.states(x, before, weights, marks, cell=cell, reverse=reverse, xp=xp)
        y = _sequence.masked(path.h, marks.mask, xp=xp)
        return (y, last), (x, before, path.h, path.c, weights, marks)

    def backward(kept: Any, gradients: Any) -> Any:
        dy, dlast = gradients
        d = _sequence.backward(dy, None, dlast, *kept, cell=cell, reverse=reverse, xp=xp)
        return d.dx, (d.dh0, d.dc0), d.dweights, Marks()

    return _scan.with_gradient(outputs, forward, backward)


def _run_and_keep(
    x: Array,
    layers: Layers,
    state: State | None,
    lengths: Array | None,
    mask: Array | None,
    reset: Array | None,
    *,
    cells: _Cells,
    time_major: bool,
    trace: bool,
    xp: Namespace,
) -> Any:
    """Return what `lstm` returns, and for each direction what its gradient needs."""

    def one(x: Array, before: _sequence.State, weights: Weights, marks: Marks, cell: Cell, reverse: bool) -> Any:
        path, last = _sequence.states(x, before, weights, marks, cell=cell, reverse=reverse, with_gates=trace, xp=xp)
        return _sequence.masked(path.h, marks.mask, xp=xp), last, (path, x, before, marks)

    y, last, kept = _through(x, layers, state, lengths, mask, reset, cells, time_major, one, xp=xp)
    result: tuple[Any, ...] = (y, last)
    if trace:
        result += (tuple(tuple(_trace(path, time_major, xp=xp) for path, *_ in layer) for layer in kept),)
    kept = tuple(tuple((path.h, path.c, x, before, marks) for path, x, before, marks in layer) for layer in kept)
    return result, kept


def _take_back(
    dy: Array, dstate: State | None, layers: Layers, state: State | None, kept: Any, *, cells: _Cells,
    time_major: bool, xp: Namespace,
) -> tuple[Array, Layers, State]:  # fmt: skip
    dy = _features_first(dy, time_major, xp=xp)
    dlayers: list[Layer] = []
    dstates: list[LSTMState] = []
    for k in reversed(range(len(layers))):
        row, grads, dbefore, dx = 0, {}, [], None
        for d, ((reverse, weights), cell) in enumerate(zip(directions_of(layers[k]), cells[k], strict=True)):
            h, c, x, before, marks = kept[k][d]
            dh = dy[row : row + h.shape[0], ...]
            row += h.shape[0]
            dlast = None if dstate is None else (dstate[k].h[d, ...].T, dstate[k].c[d, ...].T)
            turned = _turned(weights, xp=xp)
            g = _sequence.backward(dh, None, dlast, x, before, h, c, turned, marks, cell=cell, reverse=reverse, xp=xp)
            dx = g.dx if dx is None else dx + g.dx
            grads["backward" if reverse else "forward"] = _turned_back(g.dweights, xp=xp)
            dbefore.append((g.dh0, g.dc0))
        dlayers.insert(0, Layer(grads.get("forward"), grads.get("backward")))
        dstates.insert(0, _stacked(dbefore, xp=xp))
        dy = dx
    return _features_last(dy, time_major, xp=xp), tuple(dlayers), tuple(dstates)


def _through(
    x: Array,
    layers: Layers,
    state: State | None,
    lengths: Array | None,
    mask: Array | None,
    reset: Array | None,
    cells: _Cells,
    time_major: bool,
    one: Callable[..., Any],
    *,
    xp: Namespace,
) -> tuple[Array, State, tuple[tuple[Any, ...], ...]]:
    """Take x through all layers; `one` runs a direction and returns y, its last state, and something to collect."""
    h = _features_first(x, time_major, xp=xp)
    marks = _marks(h, lengths, mask, reset, time_major, xp=xp)
    last, collected = [], []
    for k, layer in enumerate(layers):
        ys, ends, items = [], [], []
        for d, ((reverse, weights), cell) in enumerate(zip(directions_of(layer), cells[k], strict=True)):
            turned = _turned(weights, xp=xp)
            if state is None:
                before = _zero_state(turned, x, h.shape[2], xp=xp)
            else:
                before = (state[k].h[d, ...].T, state[k].c[d, ...].T)
            y, end, item = one(h, before, turned, marks, cell, reverse)
            ys.append(y)
            ends.append(end)
            items.append(item)
        h = ys[0] if len(ys) == 1 else xp.concat(ys)
        last.append(_stacked(ends, xp=xp))
        collected.append(tuple(items))
    return _features_last(h, time_major, xp=xp), tuple(last), tuple(collected)


def _zero_state(weights: Weights, like: Array, B: int, *, xp: Namespace) -> _sequence.State:
    R, H = weights.R.shape[1], weights.R.shape[0] // 4
    return _scan.zeros((R, B), like, xp), _scan.zeros((H, B), like, xp)


def _marks(
    x: Array, lengths: Array | None, mask: Array | None, reset: Array | None, time_major: bool, *, xp: Namespace
) -> Marks:
    """Return what is said about single steps as (1, time, batch)."""
    mask, reset = (
        None if mark is None else xp.expand_dims(mark if time_major else mark.T, axis=0) for mark in (mask, reset)
    )
    if lengths is not None:
        place = device(lengths)
        times = xp.arange(x.shape[1], dtype=lengths.dtype, **({} if place is None else {"device": place}))
        inside = xp.expand_dims(xp.expand_dims(times, axis=1) < xp.expand_dims(lengths, axis=0), axis=0)
        mask = inside if mask is None else xp.logical_and(inside, mask)
    return Marks(mask, reset)


def _features_first(x: Array, time_major: bool, *, xp: Namespace) -> Array:
    return xp.permute_dims(x, (2, 0, 1) if time_major else (2, 1, 0))


def _features_last(x: Array, time_major: bool, *, xp: Namespace) -> Array:
    return xp.permute_dims(x, (1, 2, 0) if time_major else (2, 1, 0))


def _trace(path: _sequence.Trajectory, time_major: bool, *, xp: Namespace) -> Trace:
    assert path.gates is not None
    i, f, o, g = path.gates
    return Trace(*(_features_last(a, time_major, xp=xp) for a in (i, f, g, o, path.c, path.h)))


def _stacked(states: list[_sequence.State], *, xp: Namespace) -> LSTMState:
    """Return the states (features, batch) of a layer's directions as one."""
    h, c = zip(*states, strict=True)
    return LSTMState(xp.stack([a.T for a in h]), xp.stack([a.T for a in c]))


def _turned(weights: LSTMWeights, *, xp: Namespace) -> Weights:
    """Return the weights with their rows i, f, g, o ordered i, f, o, g, and the vectors as columns."""
    W, R, b, P, p = weights
    return Weights(
        _swap_g_o(W, xp=xp),
        _swap_g_o(R, xp=xp),
        None if b is None else xp.expand_dims(_swap_g_o(b, xp=xp), axis=1),
        P,
        None if p is None else xp.expand_dims(p, axis=1),
    )


def _turned_back(weights: Weights, *, xp: Namespace) -> LSTMWeights:
    W, R, b, P, p = weights
    return LSTMWeights(
        _swap_g_o(W, xp=xp),
        _swap_g_o(R, xp=xp),
        None if b is None else _swap_g_o(b[:, 0], xp=xp),
        P,
        None if p is None else p[:, 0],
    )


def _swap_g_o(rows: Array, *, xp: Namespace) -> Array:
    H = rows.shape[0] // 4
    return xp.concat([rows[: 2 * H, ...], rows[3 * H :, ...], rows[2 * H : 3 * H, ...]])
