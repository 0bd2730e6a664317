"""The few operations that a library does better, or only, in a way of its own."""

import operator
from collections.abc import Callable
from functools import partial

from .namespace import (
    Array,
    DType,
    Namespace,
    is_cupy_namespace,
    is_jax_namespace,
    is_ndonnx_namespace,
    is_numpy_namespace,
    is_torch_namespace,
)
from .transforms import is_batched
from .trees import Tree, leaves, mapped

# Fewer columns than this make a product that is bound by reading its matrix.
FEW = 8

# Steps at a time where nothing is gained by a small block, and only memory must not grow.
_LONG = 256


def writes_in_place(xp: Namespace) -> bool:
    """Tell whether no transform of the library can see an array, so that a fresh one may be written into."""
    return is_numpy_namespace(xp) or is_cupy_namespace(xp)


def is_half(x: Array, *, xp: Namespace) -> bool:
    """Tell whether x is better computed with in float32: NumPy's products of float16 take hundreds of times as long."""
    return is_numpy_namespace(xp) and bool(x.dtype == xp.float16)


def cast(tree: Tree, dtype: DType) -> Tree:
    """Return a tree of NumPy's arrays with all that are real in one dtype."""
    return mapped(lambda a: a.astype(dtype, copy=False) if a.dtype.kind == "f" else a, tree)


def in_dtypes_of(like: object, tree: Tree, *, xp: Namespace) -> Tree:
    """Return a tree in the dtypes of another one, whose last arrays may be absent."""
    dtypes = iter([x.dtype for x in leaves(like)])

    def cast_back(a: Array) -> Array:
        dtype = next(dtypes, a.dtype)
        return a if a.dtype == dtype else xp.astype(a, dtype)

    return mapped(cast_back, tree)


def sigmoid(x: Array, *, xp: Namespace) -> Array:
    """Return the logistic function of x: as a tanh of half the argument, which cannot overflow."""
    if is_torch_namespace(xp):
        import torch

        return torch.sigmoid(x)  # half the time of a tanh; the standard has none
    s = 0.5 * xp.tanh(0.5 * x)
    s += 0.5
    return s


def gates(z: Array, *, xp: Namespace) -> tuple[Array, Array, Array, Array]:
    """Return sigmoid, sigmoid, tanh, sigmoid of the row blocks i, f, g, o: each in as few operations as will do."""
    H = z.shape[0] // 4
    # The rows g of s go unused: the three gates are not neighbours, and one operation takes less time than two.
    s = sigmoid(z, xp=xp)
    return s[:H, ...], s[H : 2 * H, ...], xp.tanh(z[2 * H : 3 * H, ...]), s[3 * H :, ...]


def copier(xp: Namespace) -> Callable[[Array], Array]:
    """Return the function that gives a result memory of its own: to change it in its place must change nothing else."""
    if is_jax_namespace(xp):
        return lambda x: x  # its arrays never change
    if is_torch_namespace(xp):
        import torch

        return torch.clone  # `asarray` would cut the gradient off
    if writes_in_place(xp):
        return xp.array  # type: ignore[no-any-return] # faster than their `asarray`
    return partial(xp.asarray, copy=True)


def adder(xp: Namespace) -> Callable[[Array, Array], Array]:
    """Return the function fresh + x, in the place of `fresh` where that is safe: the caller has just made it.

    It must not be what an operation keeps for its gradient, as tanh keeps its result.
    """
    return _add_torch if is_torch_namespace(xp) else operator.iadd


def _add_torch(fresh: Array, x: Array) -> Array:
    # One batched by vmap does not fit into the place of one that is not.
    return fresh + x if is_batched(x) else fresh.add_(x)


def product(xp: Namespace) -> Callable[[Array, Array], Array]:
    """Return the function a @ b of two matrices."""
    if is_ndonnx_namespace(xp):
        # Its `@` writes a branch for empty arrays into the graph, and takes two hundred times as long to write it.
        return partial(xp.tensordot, axes=1)
    if is_numpy_namespace(xp):
        return xp.dot  # type: ignore[no-any-return] # quicker to call than `@`
    return operator.matmul


def each_times(matrix: Array, x: Array, *, xp: Namespace) -> Array:
    """Apply one matrix to each step of (features, time, batch), so that the steps can be read one by one."""
    if is_numpy_namespace(xp) and x.shape[2] == 1:
        # One product. Its columns lie apart: copied, they cost every step less.
        return xp.ascontiguousarray(xp.matmul(matrix, x[:, :, 0]).T).T[:, :, None]
    if is_numpy_namespace(xp) and x.shape[2] >= FEW:
        # A product a step leaves the rows of each next to each other. NumPy would copy what lies apart step by step.
        steps = xp.ascontiguousarray(xp.permute_dims(x, (1, 0, 2)))
        return xp.permute_dims(xp.matmul(matrix, steps), (1, 0, 2))
    return xp.tensordot(matrix, x, axes=1)


def column(b: Array, batch: int, *, xp: Namespace) -> Array:
    """Return a vector that can be added to every step of (features, time, batch)."""
    b = b[:, None, None]
    # NumPy adds a row of a few numbers after the other where it has to repeat one for all sequences.
    return xp.ascontiguousarray(xp.broadcast_to(b, (b.shape[0], 1, batch))) if is_numpy_namespace(xp) else b


def weight_gradient(dz: Array, x: Array, matrix: Array, *, xp: Namespace) -> Array:
    """Return the gradient of the matrix in ``z = matrix @ x``, over all steps and all sequences: one product."""
    each_step = ((1, 2), (1, 2))
    if is_jax_namespace(xp):
        import jax

        # On a mesh with explicit axes, over which the sequences are split, it has to be told that the matrix is not.
        # The mesh is that of dz, as the matrix may have been made outside of it.
        placed = jax.sharding.NamedSharding(jax.typeof(dz).sharding.mesh, jax.typeof(matrix).sharding.spec)
        return xp.tensordot(dz, x, axes=each_step, out_sharding=placed)
    return xp.tensordot(dz, x, axes=each_step)


def by_blocks(function: Callable[[Array], Array], fresh: Array, *, xp: Namespace) -> Array:
    """Return function(fresh), which keeps the shape (features, time, batch) and takes each step by itself.

    Where the caller's fresh array may be written into, it takes the results: what the function needs on its way does
    then not grow with time.
    """
    if not writes_in_place(xp):
        return function(fresh)
    for t in range(0, fresh.shape[1], _LONG):
        block = fresh[:, t : t + _LONG, :]
        block[...] = function(block)
    return fresh
