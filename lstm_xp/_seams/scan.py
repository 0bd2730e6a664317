"""A step folded over time: a loop, or one `lax.scan` where the library compiles.

JAX must see one scan instead of an unrolled loop; PyTorch must see a sequence cut in one operation, or its gradient is
quadratic in time; NumPy and CuPy write every step straight into its place, so that no output is held twice.

What goes in and comes out are named tuples of arrays (features, time, batch), and of such tuples: a field that is None
is absent. Here alone such fields are dropped.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from functools import partial
from itertools import repeat
from typing import Any, TypeVar

from .namespace import (
    Array,
    Namespace,
    device,
    is_jax_namespace,
    is_ndonnx_namespace,
    is_numpy_namespace,
    is_torch_namespace,
    zeros,
)
from .ops import FEW, copier, writes_in_place
from .transforms import is_exporting, is_for_onnx
from .trees import filled, leaves, mapped

# Steps prepared at a time: their block stays in cache, and memory does not grow with time.
BLOCK = 16

# Steps of one iteration on an accelerator, where to start one takes as long as a small step.
UNROLL = 8

# Fewer of them where the states of a block would be more numbers than this.
_CACHED = 2**19

Carry = TypeVar("Carry", bound=tuple[Array, ...])
Rows = TypeVar("Rows", bound=tuple[Any, ...])
Row = TypeVar("Row", bound=tuple[Any, ...])
Out = TypeVar("Out", bound=tuple[Any, ...])
T = TypeVar("T")
Prepare = Callable[[Rows], Row]
Step = Callable[[Carry, Row], tuple[Carry, Out]]


def scan(
    step: Step[Carry, Row, Out],
    carry: Carry,
    rows: Rows,
    *,
    prepare: Prepare[Rows, Row],
    xp: Namespace,
    reverse: bool = False,
) -> tuple[Carry, Out]:
    """Fold `step` over axis 1 of `rows`; return the last carry and the outputs of all steps.

    The first field of `rows` is never absent. ``prepare(rows)`` does what needs no carry, for many steps at once.
    ``step(carry, row)`` gets what it returned, cut to one step, and returns the carry and the outputs of the step,
    arrays (features, batch).
    """
    if is_jax_namespace(xp):
        return _lax_scan(step, carry, rows, prepare, reverse, xp)
    steps = rows[0].shape[1]
    if is_exporting(xp):
        if not is_for_onnx() or len(leaves(rows)) == 1:  # PyTorch cannot translate one with marks
            return _torch_scan(step, carry, rows, prepare, reverse)
        if not isinstance(steps, int):
            warnings.warn("lstm: a file for ONNX has one time with marks; `lstm_xp.save` leaves it free.", stacklevel=2)
    if steps == 0:
        # Only a step tells the outputs' shapes: run one on zeros, and keep none of it.
        one = mapped(lambda x: zeros((x.shape[0], 1, x.shape[2]), x, xp=xp), rows)
        _, out = step(carry, _at(0, prepare(one)))
        return mapped(copier(xp), carry), mapped(lambda y: zeros((y.shape[0], 0, y.shape[1]), y, xp=xp), out)
    return _loop(step, carry, rows, prepare, reverse, xp)


def _lax_scan(
    step: Step[Carry, Row, Out], carry: Carry, rows: Rows, prepare: Prepare[Rows, Row], reverse: bool, xp: Namespace
) -> tuple[Carry, Out]:
    import jax

    def folded(carry: Carry, rows: Rows, *, at_once: bool, unroll: int) -> tuple[Carry, Out]:
        def one(carry: Carry, row: Any) -> tuple[Carry, Out]:
            return step(carry, row if at_once else _at(0, prepare(mapped(lambda x: x[:, None, :], row))))

        time_first = mapped(lambda x: xp.moveaxis(x, 1, 0), prepare(rows) if at_once else rows)
        carry, out = jax.lax.scan(one, carry, time_first, reverse=reverse, unroll=unroll)
        return carry, mapped(lambda y: xp.moveaxis(y, 0, 1), out)

    _, steps, batch = rows[0].shape
    # An accelerator wants few and large kernels. On a CPU what stays in cache is faster, but for products bound by
    # reading their matrix, and unrolled steps only take longer to compile.
    on_cpu = partial(folded, at_once=isinstance(batch, int) and batch < FEW, unroll=1)
    elsewhere = partial(folded, at_once=True, unroll=UNROLL if isinstance(steps, int) else 1)
    return jax.lax.platform_dependent(carry, rows, cpu=on_cpu, default=elsewhere)  # type: ignore[no-any-return]


def _torch_scan(
    step: Step[Carry, Row, Out], carry: Carry, rows: Rows, prepare: Prepare[Rows, Row], reverse: bool
) -> tuple[Carry, Out]:
    import torch
    from torch._higher_order_ops.scan import scan as folded

    prepared = prepare(rows)
    _, out = step(carry, _at(0, prepared))  # for its absent fields alone

    def one(carry: Carry, row: list[Array]) -> tuple[Carry, list[Array]]:
        carry, made = step(carry, filled(prepared, row))
        return carry, [y.clone() for y in leaves(made)]  # nothing may come out twice

    start = mapped(lambda a: a.contiguous().clone(), carry)
    # It is compiled where the rest is not, and PyTorch warns of it: of nothing that the caller has written.
    quiet = nullcontext() if torch.compiler.is_dynamo_compiling() else warnings.catch_warnings(action="ignore")
    with quiet:
        last, columns = folded(one, start, [x.movedim(1, 0) for x in leaves(prepared)], reverse=reverse)
    return last, filled(out, [y.movedim(0, 1) for y in columns])


def fold(
    step: Callable[[Any, Any, Rows], tuple[Any, tuple[Any, Any]]],
    carry: T,
    rows: Rows,
    *,
    length: int,
    xp: Namespace,
    reverse: bool = False,
) -> tuple[T, tuple[Any, Any]]:
    """Fold ``step(carry, t, segment)`` over segments of so many steps of `rows`, the last one shorter; t is its first.

    It returns the carry, and two trees of outputs (features, ..., batch): of all steps of the segment, and of one for
    it. What one segment has made is gone before the next one.
    """
    in_place, steps = writes_in_place(xp), rows[0].shape[1]
    if is_jax_namespace(xp):
        step, length = _lax_fold(step, length, reverse, xp), steps // length * length
    segments = list(zip(range(0, steps, length), _cut(rows, length, xp), strict=True))
    outs, room = [], None
    for t, segment in reversed(segments) if reverse else segments:
        carry, (every, one) = step(carry, t, segment)
        if in_place:
            room = mapped(lambda y: _room(y, steps, xp), every) if room is None else room
            for column, y in zip(leaves(room), leaves(every), strict=True):
                column[:, t : t + y.shape[1], :] = y
        outs.append((None if in_place else every, one))
    every, one = _joined(outs[::-1] if reverse else outs, xp)
    return carry, (room if in_place else every, one)


def _lax_fold(step: Callable[..., Any], length: int, reverse: bool, xp: Namespace) -> Callable[..., Any]:
    """Return a step that takes all segments of the whole length as one, in which it scans them, and one behind them."""
    import jax

    def folded(carry: Any, t: int, rows: Any) -> Any:
        if t > 0:
            return step(carry, t, rows)
        count = rows[0].shape[1] // length

        def cut(x: Array) -> Array:
            return xp.moveaxis(xp.reshape(x, (x.shape[0], count, length, x.shape[2])), 1, 0)

        def uncut(y: Array) -> Array:
            return xp.reshape(xp.moveaxis(y, 0, 1), (y.shape[1], count * y.shape[2], y.shape[3]))

        timed = xp.arange(count) * length, mapped(cut, rows)
        carry, out = jax.lax.scan(lambda carry, row: step(carry, *row), carry, timed, reverse=reverse)
        return carry, mapped(uncut, out)

    return folded


def _joined(trees: list[T], xp: Namespace) -> T:
    """Return one tree, whose arrays are those of all trees, one behind the other."""
    columns = zip(*map(leaves, trees), strict=True)
    return filled(trees[0], [xp.concat(column, axis=1) if len(column) > 1 else column[0] for column in columns])


def both_ways(run: Callable[..., T], forth: tuple[Any, ...], back: tuple[Any, ...], *, xp: Namespace) -> tuple[T, T]:
    """Return ``run(*forth, reverse=False)`` and ``run(*back, reverse=True)``: in one scan where that is faster.

    In the trees of arrays that go in and come out, sequences have three axes, and nothing else has.
    """

    def apart(forth: tuple[Any, ...], back: tuple[Any, ...]) -> tuple[T, T]:
        return run(*forth, reverse=False), run(*back, reverse=True)

    def turned(tree: Any) -> Any:
        return mapped(lambda x: xp.flip(x, axis=1) if x.ndim == 3 else x, tree)

    def together(forth: tuple[Any, ...], back: tuple[Any, ...]) -> tuple[T, T]:
        both = jax.tree.map(lambda *pair: xp.stack(pair), forth, turned(back))
        out = jax.vmap(partial(run, reverse=False))(*both)
        return mapped(lambda x: x[0, ...], out), turned(mapped(lambda x: x[1, ...], out))

    shapes = partial(mapped, lambda x: tuple(x.shape))
    if not is_jax_namespace(xp) or shapes(forth) != shapes(back):
        return apart(forth, back)
    import jax

    return jax.lax.platform_dependent(forth, back, cpu=apart, default=together)  # type: ignore[no-any-return]


def _loop(
    step: Step[Carry, Row, Out], carry: Carry, rows: Rows, prepare: Prepare[Rows, Row], reverse: bool, xp: Namespace
) -> tuple[Carry, Out]:
    length = rows[0].shape[1]
    in_place = writes_in_place(xp)
    columns: Any = None  # of each output: an array that takes its steps, or the list of them
    times = iter(reversed(range(length)) if reverse else range(length))
    blocks = list(_cut(rows, _steps_at_a_time(carry, xp), xp))
    for block in reversed(blocks) if reverse else blocks:
        steps = list(_each(prepare(block), xp))
        for row in reversed(steps) if reverse else steps:
            t = next(times)
            carry, out = step(carry, row)
            if columns is None:
                columns = mapped(lambda y: _room(y, length, xp) if in_place else [None] * length, out)
            for column, y in zip(columns, out):  # noqa: B905 -- at every step, a check here is measurable
                if y is None:
                    continue
                if in_place:
                    column[:, t, :] = y
                else:
                    column[t] = y
        # The next block takes their memory: new pages from the system cost more than what is computed into them.
        del row, steps
    return carry, columns if in_place else mapped(lambda column: xp.stack(column, axis=1), columns)


def _steps_at_a_time(carry: tuple[Array, ...], xp: Namespace) -> int:
    if not is_numpy_namespace(xp):
        return BLOCK  # no library but NumPy was measured to gain from less
    numbers: int = sum(a.size for a in carry)
    return max(1, min(BLOCK, _CACHED // max(1, numbers)))


def _cut(rows: Rows, steps: int, xp: Namespace) -> Iterator[Rows]:
    """Cut into blocks of so many steps, the last one shorter."""
    if is_torch_namespace(xp):
        # In one operation: the gradient of each single slice would be an array as large as x.
        return _zipped(rows, lambda x: xp.split(x, steps, dim=1))
    length = rows[0].shape[1]
    return _zipped(rows, lambda x: [x[:, t : min(t + steps, length), :] for t in range(0, length, steps)])


def _each(block: Row, xp: Namespace) -> Iterator[Row]:
    """Cut a block into steps: not by index, whose gradient would be an array as large as the block for every step."""
    if is_torch_namespace(xp):
        return _zipped(block, lambda z: xp.unbind(z, dim=1))  # `unstack` is written with what vmap refuses
    if is_ndonnx_namespace(xp):
        # A slice takes it four times as long to write into the graph.
        return _zipped(
            block, lambda z: [xp.squeeze(xp.take(z, xp.asarray([t]), axis=1), axis=1) for t in range(z.shape[1])]
        )
    return _zipped(block, lambda z: xp.unstack(z, axis=1))


def _zipped(tree: Any, parts: Callable[[Array], Iterable[Array]]) -> Iterator[Any]:
    """Return the tree of the first part of each of its arrays, that of the second part, and so on."""
    if tree is None:
        return repeat(None)
    if not isinstance(tree, tuple):
        return iter(parts(tree))
    items = [_zipped(item, parts) for item in tree]
    make: Any = getattr(tree, "_make", tuple)
    return map(make, zip(*items))  # noqa: B905 -- what is absent has no end


def _at(t: int, rows: Row) -> Row:
    return mapped(lambda x: x[:, t, :], rows)


def _room(y: Array, length: int, xp: Namespace) -> Array:
    return xp.empty((y.shape[0], length, y.shape[-1]), dtype=y.dtype, device=device(y))
