"""Seam 1: fold a step over time, and stage a computation for libraries that compile.

Where libraries differ, they differ here: JAX must see one `scan` instead of an unrolled loop, inside one function
that stays the same object from call to call; PyTorch must see a sequence cut in one operation, or its gradient is
quadratic in time; NumPy and CuPy write every step straight into its place, so that no output is held twice.
"""

import dataclasses
import functools
import inspect
import operator
import sys
from collections.abc import Callable, Iterable
from typing import Any

from .namespace import (
    Array,
    Namespace,
    device,
    is_cupy_namespace,
    is_jax_namespace,
    is_ndonnx_namespace,
    is_numpy_namespace,
    is_torch_namespace,
    on_device_of,
)

# Steps prepared at a time: their block stays in cache, and memory does not grow with time.
BLOCK = 16

# Fewer of them where the states of a block would be more numbers than this.
_CACHED = 2**19

# Steps at a time where nothing is gained by a small block, and only memory must not grow.
LONG = 256

# Fewer columns than this make a product that is bound by reading its matrix.
_FEW = 8

Arrays = tuple[Array, ...]
Prepare = Callable[..., Arrays]
Step = Callable[..., tuple[Any, Arrays]]


def scan(
    step: Step, carry: Any, xs: Arrays, *, prepare: Prepare, xp: Namespace, reverse: bool = False
) -> tuple[Any, Arrays]:
    """Fold `step` over axis 1 of arrays (features, time, batch); return the last carry and the outputs.

    ``prepare(*xs)`` does what needs no carry, for many steps at once. ``step(carry, *rows)`` gets what it
    returned, cut to one step, and returns the carry and a tuple of outputs (features, batch).
    """
    if is_jax_namespace(xp):
        return _lax_scan(step, carry, xs, prepare, reverse, xp)
    if xs[0].shape[1] == 0:
        # Only a step tells the outputs' shapes: run one on zeros, and keep none of it.
        one = tuple(zeros((x.shape[0], 1, x.shape[2]), x, xp) for x in xs)
        _, ys = _loop(step, carry, one, prepare, reverse, xp)
        return carry, tuple(y[:, :0, :] for y in ys)
    return _loop(step, carry, xs, prepare, reverse, xp)


def _lax_scan(step: Step, carry: Any, xs: Arrays, prepare: Prepare, reverse: bool, xp: Namespace) -> tuple[Any, Arrays]:
    import jax

    # One product for all steps pays where a step's own is a matrix times a few columns; with more of them, XLA is
    # faster on what stays in cache.
    at_once = xs[0].shape[2] < _FEW
    rows = prepare(*xs) if at_once else xs
    rows = tuple(xp.moveaxis(z, 1, 0) for z in rows)

    def one(carry: Any, row: Arrays) -> tuple[Any, Arrays]:
        if not at_once:
            row = tuple(z[:, 0, :] for z in prepare(*(x[:, None, :] for x in row)))
        return step(carry, *row)

    carry, ys = jax.lax.scan(one, carry, rows, reverse=reverse)
    return carry, tuple(xp.moveaxis(y, 0, 1) for y in ys)


def _loop(step: Step, carry: Arrays, xs: Arrays, prepare: Prepare, reverse: bool, xp: Namespace) -> tuple[Any, Arrays]:
    length = xs[0].shape[1]
    in_place = writes_in_place(xp)
    columns: Any = None  # of each output: an array that takes its steps, or the list of them
    times = iter(reversed(range(length)) if reverse else range(length))
    steps = _steps_at_a_time(carry, xp)
    blocks = list(zip(*(_cut(x, steps, xp) for x in xs), strict=True))
    for block in reversed(blocks) if reverse else blocks:
        rows = list(zip(*(_unstack(z, xp) for z in prepare(*block)), strict=True))
        for row in reversed(rows) if reverse else rows:
            t = next(times)
            carry, ys = step(carry, *row)
            if columns is None:
                columns = [_room(y, length, xp) if in_place else [None] * length for y in ys]
            for column, y in zip(columns, ys):  # noqa: B905 -- at every step, a check here is measurable
                if in_place:
                    column[:, t, :] = y
                else:
                    column[t] = y
        # The next block takes their memory: new pages from the system cost more than what is computed into them.
        del row, rows
    return carry, tuple(column if in_place else xp.stack(column, axis=1) for column in columns)


def _steps_at_a_time(carry: Arrays, xp: Namespace) -> int:
    if not is_numpy_namespace(xp):
        return BLOCK  # no library but NumPy was measured to gain from less
    numbers: int = sum(a.size for a in carry)
    return max(1, min(BLOCK, _CACHED // max(1, numbers)))


def writes_in_place(xp: Namespace) -> bool:
    """Tell whether no transform of the library can see an array, so that a fresh one may be written into."""
    return is_numpy_namespace(xp) or is_cupy_namespace(xp)


@functools.cache
def copier(xp: Namespace) -> Callable[[Array], Array]:
    """Return the function that gives a result memory of its own: to change it in its place must change nothing else."""
    if is_jax_namespace(xp):
        return lambda x: x  # its arrays never change
    if is_torch_namespace(xp):
        import torch

        return torch.clone  # `asarray` would cut the gradient off
    if writes_in_place(xp):
        return xp.array  # type: ignore[no-any-return] # faster than their `asarray`
    return functools.partial(xp.asarray, copy=True)


@functools.cache
def adder(xp: Namespace) -> Callable[[Array, Array], Array]:
    """Return the function fresh + x, in the place of `fresh` where that is safe: the caller has just made it.

    It must not be what an operation keeps for its gradient, as tanh keeps its result.
    """
    if is_torch_namespace(xp):
        return _add_torch
    return operator.iadd if writes_in_place(xp) else operator.add


def _add_torch(fresh: Array, x: Array) -> Array:
    import torch

    # One batched by vmap does not fit into the place of one that is not.
    if torch.compiler.is_compiling() or torch._C._functorch.is_functorch_wrapped_tensor(x):
        return fresh + x
    return fresh.add_(x)


@functools.cache
def own_sigmoid(dtype: Any, xp: Namespace) -> Callable[[Array], Array] | None:
    """Return the sigmoid of a library where it is faster than a tanh: the standard has none."""
    if is_torch_namespace(xp):
        import torch

        return torch.sigmoid
    if is_numpy_namespace(xp) and dtype == xp.float64:
        # Without AVX-512 its tanh takes three times as long as its exp; in float32 twice, which gains nothing.
        return functools.partial(_sigmoid_by_exp, xp=xp)
    return None


def _sigmoid_by_exp(x: Array, *, xp: Namespace) -> Array:
    # Beyond 709 the exponential would overflow; from 37 on the sigmoid is 1.
    e = xp.exp(xp.minimum(x, 700.0))
    e /= e + 1
    return e


@functools.cache
def product(xp: Namespace) -> Callable[[Array, Array], Array]:
    """Return the function a @ b of two matrices."""
    if is_ndonnx_namespace(xp):
        # Its `@` writes a branch for empty arrays into the graph, and takes two hundred times as long to write it.
        return functools.partial(xp.tensordot, axes=1)
    return operator.matmul


def each_times(matrix: Array, x: Array, *, xp: Namespace) -> Array:
    """Apply one matrix to each step of (features, time, batch), so that the steps can be read one by one."""
    if is_numpy_namespace(xp) and not 1 < x.shape[2] < _FEW:
        # A product a step leaves the rows of each next to each other. NumPy would copy what lies apart step by step.
        steps = xp.ascontiguousarray(xp.permute_dims(x, (1, 0, 2)))
        return xp.permute_dims(xp.matmul(matrix, steps), (1, 0, 2))
    return xp.tensordot(matrix, x, axes=1)


def by_blocks(function: Callable[[Array], Array], fresh: Array, *, xp: Namespace) -> Array:
    """Return function(fresh), which keeps the shape (features, time, batch) and takes each step by itself.

    Where the caller's fresh array may be written into, it takes the results: what the function needs on its way does
    then not grow with time.
    """
    if not writes_in_place(xp):
        return function(fresh)
    for t in range(0, fresh.shape[1], LONG):
        block = fresh[:, t : t + LONG, :]
        block[...] = function(block)
    return fresh


def _room(y: Array, length: int, xp: Namespace) -> Array:
    return xp.empty((y.shape[0], length, y.shape[1]), dtype=y.dtype, device=device(y))


def _cut(x: Array, steps: int, xp: Namespace) -> list[Array]:
    """Cut (features, time, batch) into blocks of so many steps, the last one shorter."""
    if is_torch_namespace(xp):
        # In one operation: the gradient of each single slice would be an array as large as x.
        return list(xp.split(x, steps, dim=1))
    length = x.shape[1]
    return [x[:, t : min(t + steps, length), :] for t in range(0, length, steps)]


def zeros(shape: tuple[int, ...], like: Array, xp: Namespace) -> Array:
    return xp.zeros(shape, dtype=like.dtype, **on_device_of(like))


def _unstack(z: Array, xp: Namespace) -> Iterable[Array]:
    """Cut a block into steps: not by index, whose gradient would be an array as large as z for every step."""
    if is_torch_namespace(xp):
        return xp.unbind(z, dim=1)  # type: ignore[no-any-return] # `unstack` is written with what vmap refuses
    if is_ndonnx_namespace(xp):
        # A slice takes it four times as long to write into the graph.
        return [xp.squeeze(xp.take(z, xp.asarray([t]), axis=1), axis=1) for t in range(z.shape[1])]
    return xp.unstack(z, axis=1)  # type: ignore[no-any-return]


def staged(core: Callable[..., Any], xp: Namespace) -> Callable[..., Any]:
    """Return `core`, compiled where the library compiles.

    Its arrays are positional and its options keyword-only: the options are static.
    """
    return _jitted(core) if is_jax_namespace(xp) else core


@functools.cache
def _jitted(core: Callable[..., Any]) -> Callable[..., Any]:
    import jax

    parameters = inspect.signature(core).parameters.values()
    static = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    return jax.jit(core, static_argnames=static)


def takes_gradients(xp: Namespace) -> bool:
    """Tell whether a hand-written gradient is worth giving to the library: where it would differentiate the scan."""
    return is_jax_namespace(xp)


def with_gradient(function: Callable[..., Any], forward: Callable[..., Any], backward: Callable[..., Any]) -> Any:
    """Return a JAX function whose reverse-mode gradient is `backward`: forward-mode is then refused.

    ``forward(*arrays)`` returns the results and what ``backward(kept, gradients)`` needs of it.
    """
    import jax

    wrapped = jax.custom_vjp(function)
    wrapped.defvjp(forward, backward)
    return wrapped


def register_tree(record: type, xp: Namespace, *, static: tuple[str, ...] = ()) -> None:
    """Let a frozen dataclass of arrays pass through the library's transforms; the `static` fields hold no arrays."""
    if is_jax_namespace(xp):
        _register_jax(record, static)
    elif is_torch_namespace(xp):
        _register_torch(record, static)


def _data_fields(record: type, static: tuple[str, ...]) -> list[str]:
    return [field.name for field in dataclasses.fields(record) if field.name not in static]


@functools.cache
def _register_jax(record: type, static: tuple[str, ...]) -> None:
    import jax

    jax.tree_util.register_dataclass(record, _data_fields(record, static), list(static))


def _register_torch(record: type, static: tuple[str, ...]) -> None:
    import torch

    if record in _REGISTERED_TORCH or torch.compiler.is_compiling():
        return
    _REGISTERED_TORCH.add(record)
    if not static:
        torch.export.register_dataclass(record)
        return
    data = _data_fields(record, static)
    pytree = torch.utils._pytree

    def flatten(x: Any) -> tuple[list[Any], Any]:
        values, tree = pytree.tree_flatten([getattr(x, name) for name in data])
        absent = tuple(value is None for value in values)  # what torch takes for a leaf, and its transforms refuse
        return [value for value in values if value is not None], (tree, absent, [getattr(x, name) for name in static])

    def unflatten(values: Iterable[Any], context: Any) -> Any:
        tree, absent, options = context
        rest = iter(values)
        fields = pytree.tree_unflatten([None if none else next(rest) for none in absent], tree)
        return record(**dict(zip(data, fields, strict=True)), **dict(zip(static, options, strict=True)))

    pytree.register_pytree_node(record, flatten, unflatten)


_REGISTERED_TORCH: set[type] = set()


def is_compiling() -> bool:
    """Tell whether PyTorch compiles the call: it would hold what is kept from call to call for a constant."""
    torch = sys.modules.get("torch")
    return torch is not None and torch.compiler.is_compiling()


def concrete(x: Array, xp: Namespace) -> bool:
    """Tell whether the values of x can be looked at: not inside a transform, and without computing a lazy array."""
    if is_jax_namespace(xp):
        import jax

        return not isinstance(x, jax.core.Tracer)
    if is_torch_namespace(xp):
        import torch

        # Looking at a GPU's array would stop and wait for it.
        return not torch.compiler.is_compiling() and not torch._C._functorch.is_functorch_wrapped_tensor(x) and x.is_cpu
    return is_numpy_namespace(xp)
