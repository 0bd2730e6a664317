"""Layers and directions: `lstm` and its gradient."""

import functools
from collections.abc import Callable
from typing import Any, Literal

from . import _forms
from ._checks import call as _problem
from ._equations import sequence as _sequence
from ._equations.cell import PLAIN, Cell, at_once
from ._equations.records import (
    Cells,
    DirectionCells,
    Layer,
    Layers,
    LSTMState,
    LSTMWeights,
    State,
    Trace,
    directions_of,
)
from ._equations.sequence import Marks, Weights
from ._kernels import choice as _native
from ._seams import scan as _scan
from ._seams.namespace import Array, Namespace, on_device_of

Engine = Literal["auto", "native", "xp"]


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
    form = None
    plain = cell is PLAIN and lengths is None and mask is None and reset is None and not trace
    if plain and isinstance(engine, str):
        form = _forms.form_of((x,), layers, state, bool(time_major), engine)

    def check() -> _Passed:
        problem = _problem.problem_of("lstm", x, layers, state, cell, lengths, mask, reset, time_major, engine)
        candidate = _native.candidate("lstm", problem, trace=trace, engine=engine)
        return problem.xp, problem.cells, problem.marked, candidate

    xp, cells, marked, candidate = _forms.once(_PASSED, form, check)
    state = None if state is None else tuple(state)
    problem = _problem.Problem(x, tuple(layers), state, cells, marked, time_major, xp)
    kernel = _native.chosen("lstm", candidate, problem, engine=engine)
    if kernel is not None:
        return kernel.run(problem)
    options = {"cells": cells, "time_major": time_major, "xp": xp}
    written = engine != "xp" and _scan.takes_gradients(xp) and not trace
    written = written and all(map(_problem.differentiable, problem.every_cell))
    arrays = (x, problem.layers, problem.state, lengths, mask, reset)
    return _scan.staged(_run, xp)(*arrays, trace=trace, hand_written=written, **options)


_Passed = tuple[Namespace, DirectionCells, bool, _native.Kernel | None]
_PASSED: dict[_forms.Form, _Passed] = {}


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
        last state, those with respect to `x`, to the weights, in their own container, and to the first state. It holds
        `x`, the weights and every step's states and gates: what came in must not be changed in its place before.

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
    problem = _problem.problem_of(function, x, layers, state, cell, lengths, mask, reset, time_major, engine)
    xp = problem.xp
    for each in problem.every_cell:
        _problem.require_slopes(function, each)
    options = {"cells": problem.cells, "time_major": time_major, "xp": xp}
    arrays = (x, problem.layers, problem.state, lengths, mask, reset)
    result, kept = _scan.staged(_run_and_keep, xp)(*arrays, trace=trace, **options)
    if trace:
        # The gradient needs the arrays that it is made of.
        mine = tuple(tuple(Trace(*map(_scan.copier(xp), path)) for path in layer) for layer in result[2])
        result = (*result[:2], mine)

    def vjp(dy: Array, dstate: State | None = None) -> tuple[Array, Layers, State]:
        dstate = _problem.check_gradients(dy, dstate, result, x)
        gradients: tuple[Array, Layers, State] = _scan.staged(_take_back, xp)(
            dy, dstate, problem.layers, kept, **options
        )
        return gradients

    return result, vjp


def one_step(
    x: Array, layers: Layers, state: State | None, *, cells: DirectionCells, xp: Namespace
) -> tuple[Array, State]:
    """Run one step without copies of the weights: to halve some of them would be most of the cost."""
    h = x.T
    new = []
    for k, ((weights, _), (cell,)) in enumerate(zip(layers, cells, strict=True)):
        assert weights is not None
        inside = _inside(weights)
        if state is None:
            before = _zero_state(inside, x, x.shape[0], xp=xp)
        else:
            before = state[k].h[0, ...].T, state[k].c[0, ...].T
        h, c = _sequence.step(h, before, inside, cell=cell, xp=xp)
        new.append(LSTMState(h.T[None, ...], c.T[None, ...]))
    return _scan.copier(xp)(h.T), tuple(new)


# The cores: pure functions of arrays, compiled where the library compiles.


def _run(
    x: Array,
    layers: Layers,
    state: State | None,
    lengths: Array | None,
    mask: Array | None,
    reset: Array | None,
    *,
    cells: DirectionCells,
    time_major: bool,
    trace: bool,
    hand_written: bool,
    xp: Namespace,
) -> Any:
    if trace:
        arrays = (x, layers, state, lengths, mask, reset)
        return _run_and_keep(*arrays, cells=cells, time_major=time_major, trace=True, xp=xp)[0]
    time = 0 if time_major else 1
    unmarked = lengths is None and mask is None and reset is None
    if (
        x.shape[time] == 1
        and unmarked
        and all(layer.forward is not None and layer.backward is None for layer in layers)
    ):
        first = xp.squeeze(x, axis=time)
        y, last = one_step(first, layers, state, cells=cells, xp=xp)
        return xp.expand_dims(y, axis=time), last

    def one(x: Array, before: _sequence.State, weights: Weights, marks: Marks, cell: Cell, reverse: bool) -> Any:
        if hand_written:
            return *_with_written_gradient(cell, reverse, xp)(x, before, weights, marks), None
        return *_sequence.outputs(x, before, weights, marks, cell=cell, reverse=reverse, xp=xp), None

    y, last, _ = _through(x, layers, state, lengths, mask, reset, cells, time_major, one, xp=xp)
    return y, last


def _with_written_gradient(cell: Cell, reverse: bool, xp: Namespace) -> Any:
    """Return `_sequence.outputs` of one direction, whose gradient on JAX is `_sequence.backward`."""

    def outputs(x: Array, before: Any, weights: Weights, marks: Marks) -> Any:
        return _sequence.outputs(x, before, weights, marks, cell=cell, reverse=reverse, xp=xp)

    def forward(x: Array, before: Any, weights: Weights, marks: Marks) -> Any:
        y, last, (_, kept) = _with_kept(x, before, weights, marks, cell, reverse, xp=xp)
        return (y, last), (weights, *kept)

    def backward(kept: Any, gradients: Any) -> Any:
        dy, dlast = gradients
        d = _sequence.backward(dy, None, dlast, *kept, cell=cell, reverse=reverse, xp=xp)
        return d.dx, (d.dh0, d.dc0), d.dweights, Marks()

    return _scan.with_gradient(outputs, forward, backward)


def _with_kept(
    x: Array,
    before: _sequence.State,
    weights: Weights,
    marks: Marks,
    cell: Cell,
    reverse: bool,
    *,
    trace: bool = False,
    xp: Namespace,
) -> tuple[Array, _sequence.State, tuple[_sequence.Trajectory, tuple[Any, ...]]]:
    """Return y, the last state, every step's states, and what `_sequence.backward` takes after the weights.

    Where the gradient can start from the gates they are kept: to compute them again is a fourth of all products.
    """
    keep = at_once(weights.p, cell)
    path, last = _sequence.states(
        x, before, weights, marks, cell=cell, reverse=reverse, with_gates=trace or keep, xp=xp
    )
    kept = (x, before, path.h, path.c, marks, path.gates if keep else None)
    return _sequence.masked(path.h, marks.mask, xp=xp), last, (path, kept)


def _run_and_keep(
    x: Array,
    layers: Layers,
    state: State | None,
    lengths: Array | None,
    mask: Array | None,
    reset: Array | None,
    *,
    cells: DirectionCells,
    time_major: bool,
    trace: bool,
    xp: Namespace,
) -> Any:
    """Return what `lstm` returns, and for each direction what its gradient needs."""
    one = functools.partial(_with_kept, trace=trace, xp=xp)
    y, last, kept = _through(x, layers, state, lengths, mask, reset, cells, time_major, one, xp=xp)
    result: tuple[Any, ...] = (_scan.copier(xp)(y), last)
    if trace:
        result += (tuple(tuple(_trace(path, time_major, xp=xp) for path, _ in layer) for layer in kept),)
    kept = tuple(tuple(needed for _, needed in layer) for layer in kept)
    return result, kept


def _take_back(
    dy: Array,
    dstate: State | None,
    layers: Layers,
    kept: Any,
    *,
    cells: DirectionCells,
    time_major: bool,
    xp: Namespace,
) -> tuple[Array, Layers, State]:
    dy = _features_first(dy, time_major, xp=xp)
    dlayers: list[Layer] = []
    dstates: list[LSTMState] = []
    for k in reversed(range(len(layers))):
        row, grads, dbefore, dx = 0, {}, [], None
        for d, ((reverse, weights), cell) in enumerate(zip(directions_of(layers[k]), cells[k], strict=True)):
            R = weights.weight_hh.shape[1]
            dh = dy[row : row + R, ...]
            row += R
            dlast = None if dstate is None else (dstate[k].h[d, ...].T, dstate[k].c[d, ...].T)
            inside = _inside(weights)
            g = _sequence.backward(dh, None, dlast, inside, *kept[k][d], cell=cell, reverse=reverse, xp=xp)
            dx = g.dx if dx is None else dx + g.dx
            grads["backward" if reverse else "forward"] = _outside(g.dweights)
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
    cells: DirectionCells,
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
            inside = _inside(weights)
            if state is None:
                before = _zero_state(inside, x, h.shape[2], xp=xp)
            else:
                before = (state[k].h[d, ...].T, state[k].c[d, ...].T)
            y, end, item = one(h, before, inside, marks, cell, reverse)
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
        times = xp.arange(x.shape[1], dtype=lengths.dtype, **on_device_of(lengths))
        inside = xp.expand_dims(xp.expand_dims(times, axis=1) < xp.expand_dims(lengths, axis=0), axis=0)
        mask = inside if mask is None else xp.logical_and(inside, mask)
    return Marks(mask, reset)


def _features_first(x: Array, time_major: bool, *, xp: Namespace) -> Array:
    return xp.permute_dims(x, (2, 0, 1) if time_major else (2, 1, 0))


def _features_last(x: Array, time_major: bool, *, xp: Namespace) -> Array:
    return xp.permute_dims(x, (1, 2, 0) if time_major else (2, 1, 0))


def _trace(path: _sequence.Trajectory, time_major: bool, *, xp: Namespace) -> Trace:
    assert path.gates is not None
    i, f, g, o = path.gates
    return Trace(*(_features_last(a, time_major, xp=xp) for a in (i, f, g, o, path.c, path.h)))


def _stacked(states: list[_sequence.State], *, xp: Namespace) -> LSTMState:
    """Return the states (features, batch) of a layer's directions as one."""
    h, c = zip(*states, strict=True)
    return LSTMState(xp.stack([a.T for a in h]), xp.stack([a.T for a in c]))


def _inside(weights: LSTMWeights) -> Weights:
    """Return the weights as a sequence takes them: the vectors are columns, and nothing is copied."""
    W, R, b, P, p = weights
    return Weights(W, R, None if b is None else b[:, None], P, None if p is None else p[:, None])


def _outside(weights: Weights) -> LSTMWeights:
    W, R, b, P, p = weights
    return LSTMWeights(W, R, None if b is None else b[:, 0], P, None if p is None else p[:, 0])
