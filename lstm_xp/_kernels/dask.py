"""Dask: a call as one task for each block of the batch, in which the equations run in the blocks' own library.

Sequences know nothing of each other, so blocks of the batch are all that Dask has to know of: time and features are in
one piece. The gradient of a block starts from what its task has kept on the way forward.
"""

import operator
from collections.abc import Callable
from functools import partial, reduce
from itertools import count
from typing import Any, TypeAlias

import numpy as np

from .._equations import stack
from .._equations.records import Call, Layers, LSTMState, Plan, State, Trace, sizes_of, width_of
from .._equations.stack import Results
from .._seams.namespace import Array, DType, array_namespace
from .._seams.ops import cast, is_half
from .._seams.trees import leaves, mapped
from .kernel import VJP, Kernel

# Trees of arrays, and the axis of the batch in them; None where every block needs all of them.
_Inputs: TypeAlias = list[tuple[Any, int | None]]
# What a task returns: arrays of its sequences, and last what belongs to none of them.
_Block: TypeAlias = tuple[Any, ...]


def _run(call: Call, plan: Plan) -> Results:
    return _results(_forward_blocks(_forward, call, plan), call, plan)


def run_and_keep(call: Call, plan: Plan) -> tuple[Results, VJP]:
    """Return what `lstm_vjp` returns."""
    kept = _forward_blocks(_forward_and_keep, call, plan)

    def vjp(dy: Array, dstate: State | None) -> tuple[Array, Layers, State]:
        from dask.array import reduction

        inputs = [(dy, int(plan.time_major)), (dstate, 1), (call.layers, None), (kept, 0)]
        blocks = _blocks(_backward, inputs, kept.chunks[0], plan)
        total = reduction(blocks, _last, _sum, axis=0, concatenate=False, dtype=dy.dtype, meta=dy)  # type: ignore[no-untyped-call] # Dask's
        dx, dstart = _entries(blocks, (_sequence(call.x.shape[2], call, plan), _states(call.layers)), dy)
        weights: Layers = mapped(lambda weight: list(weight.shape), call.layers)
        return dx, _entries(total, weights, dy), dstart

    return _results(kept, call, plan), vjp


# What is done with a block


def _forward(*arrays: Any, plan: Plan) -> _Block:
    return tuple(leaves(stack.forward(Call(*arrays), plan=plan)))


def _forward_and_keep(*arrays: Any, plan: Plan) -> _Block:
    results, kept = stack.forward_and_keep(Call(*arrays), plan=plan)
    return *leaves(results), kept


def _backward(dy: Array, dstate: State | None, layers: Layers, block: _Block, *, plan: Plan) -> _Block:
    dx, dlayers, dstart = stack.backward(dy, dstate, layers, block[-1], plan=plan)
    return *leaves((dx, dstart)), leaves(dlayers)


def _in_a_block(*pieces: Any, function: Callable[..., _Block], templates: list[Any], plan: Plan) -> _Block:
    arrays = tuple(map(_only, pieces))
    xp = array_namespace(arrays[0])
    rest = iter(cast(arrays, xp.float32) if is_half(arrays[0], xp=xp) else arrays)
    return function(*(mapped(lambda _: next(rest), tree) for tree in templates), plan=plan._replace(xp=xp))


def _only(piece: Any) -> Any:
    """Return the one array in the lists in lists that Dask makes of axes in one piece."""
    while isinstance(piece, list):
        (piece,) = piece
    # What comes from another process may lie at any address, and products with such weights take twice as long.
    return np.require(piece, requirements=["ALIGNED"]) if isinstance(piece, np.ndarray) else piece


def _entry(block: _Block, number: int, dtype: DType) -> Any:
    return block[number].astype(dtype, copy=False)


def _last(block: _Block, *, axis: Any, keepdims: bool) -> Any:
    return block[-1]


def _sum(parts: list[list[Array]], *, axis: Any, keepdims: bool) -> list[Array]:
    return [reduce(operator.add, arrays) for arrays in zip(*parts, strict=True)]


# How blocks are made of arrays, and arrays of blocks


def _forward_blocks(function: Callable[..., _Block], call: Call, plan: Plan) -> Array:
    axis = int(plan.time_major)
    inputs = list(zip(call, (axis, None, 1, 0, axis, axis), strict=True))
    return _blocks(function, inputs, call.x.chunks[axis], plan)


def _blocks(function: Callable[..., _Block], inputs: _Inputs, batch: tuple[int, ...], plan: Plan) -> Array:
    """Return an array of Dask, of one axis, the batch, in whose blocks is what the function gives for them."""
    from dask.array import blockwise

    # Dask has a name for each axis: that of the batch is 0, and no others are the same one.
    names, arguments = count(1), []
    for array, axis in ((array, axis) for tree, axis in inputs for array in leaves(tree)):
        arguments.append(array.rechunk({k: batch if k == axis else -1 for k in range(array.ndim)}))
        arguments.append([0 if k == axis else next(names) for k in range(array.ndim)])
    templates = [mapped(lambda _: True, tree) for tree, _ in inputs]
    task = partial(_in_a_block, function=function, templates=templates, plan=plan._replace(xp=None))
    return blockwise(task, [0], *arguments, dtype=arguments[0].dtype, meta=arguments[0])  # type: ignore[no-untyped-call] # Dask's


def _entries(blocks: Array, shapes: Any, like: Array) -> Any:
    """Return what is in the blocks, entry after entry, as a tree of their shapes: lists, in which None is the batch."""
    numbers, dtype = count(), like.dtype

    def entry(shape: list[int | None]) -> Array:
        new = [k for k, size in enumerate(shape) if size is not None]
        chunks = tuple(blocks.chunks[0] if size is None else (size,) for size in shape)
        return blocks.map_blocks(_entry, next(numbers), dtype, new_axis=new, chunks=chunks, dtype=dtype, meta=like)

    return mapped(entry, shapes)


def _results(blocks: Array, call: Call, plan: Plan) -> Results:
    shapes: Any = _sequence(width_of(call.layers[-1]), call, plan), _states(call.layers)
    if plan.trace:
        each = [(D, _sequence(R, call, plan), _sequence(H, call, plan)) for D, R, H in map(sizes_of, call.layers)]
        shapes = *shapes, tuple((Trace(c, c, c, c, c, h),) * D for D, h, c in each)
    return _entries(blocks, shapes, call.x)  # type: ignore[no-any-return]


def _sequence(width: int, call: Call, plan: Plan) -> list[int | None]:
    steps, _ = plan.steps_and_batch(call.x)
    return [steps, None, width] if plan.time_major else [None, steps, width]


def _states(layers: Layers) -> tuple[Any, ...]:
    return tuple(LSTMState([D, None, R], [D, None, H]) for D, R, H in map(sizes_of, layers))


KERNELS = (Kernel("dask.array.blockwise", lambda call, plan: iter(()), lambda call, plan: True, _run),)
