"""Layers and directions, forward and backward: pure functions of a checked call, staged where the library compiles."""

import operator
from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import Any, TypeAlias, TypeVar

from .._seams.namespace import Array, Namespace, on_device_of
from .._seams.ops import copier
from .._seams.scan import both_ways
from .._seams.transforms import aligned, takes_gradients, wants_gradient, with_gradient
from . import segments, sequence
from .activations import has_slope
from .marks import Carry, Marks
from .records import (
    Call,
    Layer,
    Layers,
    LSTMState,
    LSTMWeights,
    Plan,
    State,
    Trace,
    Traces,
    directions_of,
    only_forward,
)
from .sequence import Direction, Kept

Results: TypeAlias = tuple[Array, State] | tuple[Array, State, Traces]
KeptLayers: TypeAlias = tuple[tuple[Any, ...], ...]  # of every direction of every layer
Ran: TypeAlias = tuple[Array, Carry]  # y and the last state of one direction
T = TypeVar("T")


def forward(call: Call, *, plan: Plan) -> Results:
    """Return what `lstm` returns."""
    if plan.trace:
        return forward_and_keep(call, plan=plan)[0]
    if plan.steps_and_batch(call.x)[0] == 1 and not call.marked and only_forward(call.layers):
        y, last = step(call.x[0, ...] if plan.time_major else call.x[:, 0, :], call.layers, call.state, plan=plan)
        return y[None, ...] if plan.time_major else y[:, None, :], last
    slopes = (has_slope(activation) for cell in plan.every_cell for activation in cell.activations.values())
    written = plan.engine != "xp" and takes_gradients(call, plan.xp) and all(slopes)
    by_hand = partial(_run_with_written_gradient, length=plan.checkpoint)
    y, last, _ = _through(call, plan, by_hand if written else segments.run)
    return y, last


def step(x: Array, layers: Layers, state: State | None, *, plan: Plan) -> tuple[Array, State]:
    """Return y (batch, R) and the state after one step from x (batch, I), for layers that only run forward."""
    xp, h, last = plan.xp, x.T, []
    for k, (layer, (cell,)) in enumerate(zip(layers, plan.cells, strict=True)):
        assert layer.forward is not None
        direction = Direction(layer.forward, cell, compilable=plan.engine != "xp")
        start = _start(state, k, 0) or _zeros(h[:, None, :], direction, xp=xp)
        h, c = sequence.step(h, start, direction, xp=xp)
        last.append(LSTMState(h.T[None, ...], c.T[None, ...]))
    return copier(xp)(h.T), tuple(last)


def forward_and_keep(call: Call, *, plan: Plan) -> tuple[Results, KeptLayers]:
    """Return what `lstm` returns, and for each direction what its gradient needs."""
    y, last, kept = _through(call, plan, partial(segments.forward, length=plan.checkpoint))
    y = copier(plan.xp)(y) if plan.checkpoint is None else y
    if not plan.trace:
        return (y, last), kept
    traces = tuple(
        tuple(_trace(k, d, plan) for k, d in zip(layer, directions, strict=True))
        for layer, directions in zip(kept, _directions(call.layers, plan), strict=True)
    )
    return (y, last, traces), kept


def backward(
    dy: Array, dstate: State | None, layers: Layers, kept: KeptLayers, *, plan: Plan
) -> tuple[Array, Layers, State]:
    """Return the gradients of x, of the layers and of the first state."""
    xp = plan.xp
    dy = _features_first(dy, plan)
    dlayers: list[Layer] = []
    dstates: list[LSTMState] = []
    for k, directions in reversed(list(enumerate(_directions(layers, plan)))):
        R = directions[0].weights.weight_hh.shape[1]
        given = [(dy[d * R : (d + 1) * R, ...], _start(dstate, k, d), each) for d, each in enumerate(kept[k])]
        found = _of_each(partial(segments.backward, length=plan.checkpoint, xp=xp), directions, given, xp=xp)
        dweights = {d.reverse: g.dweights for d, g in zip(directions, found, strict=True)}
        dlayers.insert(0, Layer(dweights.get(False), dweights.get(True)))
        dstates.insert(0, _stacked([g.dstart for g in found], xp=xp))
        dy = reduce(operator.add, [g.dx for g in found])
    return _features_last(dy, plan), tuple(dlayers), tuple(dstates)


def _run_with_written_gradient(
    x: Array, start: Carry, marks: Marks, *, direction: Direction, length: int | None, xp: Namespace
) -> tuple[Array, Carry, None]:
    """Let the library take the hand-written gradient."""
    with_dx = wants_gradient(x, xp)

    def plain(weights: LSTMWeights, start: Carry, x: Array, marks: Marks) -> Ran:
        y, last, _ = segments.run(x, start, marks, direction=direction._replace(weights=weights), xp=xp)
        return y, last

    def forward(weights: LSTMWeights, start: Carry, x: Array, marks: Marks) -> Any:
        weighted = direction._replace(weights=weights)
        y, last, kept = segments.forward(x, start, marks, direction=weighted, length=length, xp=xp)
        return (y, last), (weights, kept)

    def backward(residuals: tuple[LSTMWeights, Any], d: Ran) -> tuple[LSTMWeights, Carry, Array | None, Marks]:
        weights, kept = residuals
        weighted = direction._replace(weights=weights)
        found = segments.backward(*d, kept, direction=weighted, length=length, with_dx=with_dx, xp=xp)
        return found.dweights, found.dstart, found.dx, Marks()

    function = with_gradient(plain, forward, backward, results=(True, (True, True)), xp=xp)
    return *function(direction.weights, start, x, marks), None


def _through(call: Call, plan: Plan, run: Callable[..., tuple[Array, Carry, Any]]) -> tuple[Array, State, KeptLayers]:
    """Take x through all layers, each of their directions by `run`."""
    call = aligned(call, plan.xp)
    xp, h = plan.xp, _features_first(call.x, plan)
    marks = _marks(call, plan)
    last, collected = [], []
    for k, directions in enumerate(_directions(call.layers, plan)):
        given = []
        for d, direction in enumerate(directions):
            given.append((h, _start(call.state, k, d) or _zeros(h, direction, xp=xp), marks))
        ys, ends, kept = zip(*_of_each(partial(run, xp=xp), directions, given, xp=xp), strict=True)
        h = ys[0] if len(ys) == 1 else xp.concat(ys)
        last.append(_stacked(ends, xp=xp))
        collected.append(kept)
    return _features_last(h, plan), tuple(last), tuple(collected)


def _of_each(
    run: Callable[..., T], directions: list[Direction], given: list[tuple[Any, ...]], *, xp: Namespace
) -> Sequence[T]:
    """Return what `run` makes of the arrays given for each direction of a layer."""
    first = directions[0]
    if len(directions) == 1 or first.cell != directions[1].cell:
        return [run(*arrays, direction=d) for d, arrays in zip(directions, given, strict=True)]

    def one(weights: LSTMWeights, *arrays: Any, reverse: bool) -> T:
        return run(*arrays, direction=first._replace(weights=weights, reverse=reverse))

    forth, back = ((d.weights, *arrays) for d, arrays in zip(directions, given, strict=True))
    return both_ways(one, forth, back, xp=xp)


def _directions(layers: Layers, plan: Plan) -> list[list[Direction]]:
    """Return the directions of every layer."""
    return [
        [
            Direction(weights, cell, reverse, plan.engine != "xp")
            for cell, (reverse, weights) in zip(cells, directions_of(layer), strict=True)
        ]
        for layer, cells in zip(layers, plan.cells, strict=True)
    ]


def _start(state: State | None, k: int, d: int) -> Carry | None:
    """Return the state of one direction of layer k as a sequence has it, where there is one."""
    return None if state is None else (state[k].h[d, ...].T, state[k].c[d, ...].T)


def _zeros(x: Array, direction: Direction, *, xp: Namespace) -> Carry:
    """Return a zero state, made from the data and the weights: it lies where, and is split as, what they make does."""
    weights = direction.weights
    H = weights.weight_hh.shape[0] // 4
    each = xp.sum(xp.zeros_like(x[:1, ...]), axis=1)  # (1, batch)
    c = xp.zeros_like(weights.weight_hh[:H, :1]) * each
    h = c if weights.weight_hr is None else xp.zeros_like(weights.weight_hr[:, :1]) * each
    return h, c


def _marks(call: Call, plan: Plan) -> Marks:
    """Return what is said about single steps as (1, time, batch)."""
    xp = plan.xp
    mask, reset = (
        None if mark is None else xp.expand_dims(mark if plan.time_major else mark.T, axis=0)
        for mark in (call.mask, call.reset)
    )
    if call.lengths is not None:
        steps, _ = plan.steps_and_batch(call.x)
        times = xp.arange(steps, **on_device_of(call.lengths))
        # Compared as the library's own integers: those of the caller may be too narrow to count the steps.
        lengths = xp.astype(call.lengths, times.dtype)
        inside = xp.expand_dims(xp.expand_dims(times, axis=1) < xp.expand_dims(lengths, axis=0), axis=0)
        mask = inside if mask is None else xp.logical_and(inside, mask)
    return Marks(mask, reset)


def _features_first(x: Array, plan: Plan) -> Array:
    return plan.xp.permute_dims(x, (2, 0, 1) if plan.time_major else (2, 1, 0))


def _features_last(x: Array, plan: Plan) -> Array:
    return plan.xp.permute_dims(x, (1, 2, 0) if plan.time_major else (2, 1, 0))


def _trace(kept: Kept, direction: Direction, plan: Plan) -> Trace:
    """Return the gates and the states of every step; the gradient needs those it is made of, so these are copies."""
    gates = sequence.gates(kept, direction, xp=plan.xp)
    states = map(copier(plan.xp), (kept.path.c, kept.path.h))
    return Trace(*(_features_last(a, plan) for a in (*gates, *states)))


def _stacked(states: Sequence[Carry], *, xp: Namespace) -> LSTMState:
    """Return the states (features, batch) of a layer's directions as one."""
    if len(states) == 1:
        return LSTMState(*(a.T[None, ...] for a in states[0]))
    h, c = zip(*states, strict=True)
    return LSTMState(xp.stack([a.T for a in h]), xp.stack([a.T for a in c]))
