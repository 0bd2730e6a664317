"""What a kernel is: a library's own way to run a whole call."""

from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeAlias

from .._equations.cell import PLAIN
from .._equations.records import Call, Layers, LSTMWeights, Plan, State, sizes_of
from .._equations.stack import Results
from .._seams.namespace import Array

VJP: TypeAlias = Callable[..., tuple[Array, Layers, State]]


class Kernel(NamedTuple):
    """A library's own way to run a call: `run` returns what `lstm` returns."""

    name: str
    obstacles: Callable[[Call, Plan], Iterator[str]]  # what of the call it cannot do, first what costs least to see
    faster: Callable[[Call, Plan], bool]  # whether it is known to be, and so what "auto" takes
    run: Callable[[Call, Plan], Results]


def every_weights(call: Call) -> list[LSTMWeights]:
    """Return the weights of all directions of all layers."""
    return [weights for layer in call.layers for weights in layer if weights is not None]


def uniform(layers: Layers) -> bool:
    """Tell whether all layers have the same sizes and directions; a tracer's sizes can be compared, but not hashed."""
    first = sizes_of(layers[0])
    return all(sizes_of(layer) == first for layer in layers)


def common_obstacles(call: Call, plan: Plan) -> Iterator[str]:
    """Yield what no kernel can do."""
    if plan.trace:
        yield "`trace` wants the gates, which it keeps to itself"
    if call.mask is not None or call.reset is not None:
        yield "it knows no `mask` or `reset`"
    if plan.every_cell.count(PLAIN) < len(plan.every_cell):
        yield "`cell` is not the plain one"
    if any(weights.peephole is not None for weights in every_weights(call)):
        yield "a layer has `peephole` weights"
    if any(layer.forward is None for layer in call.layers):
        yield "a layer is reverse-only"
    if 0 in plan.steps_and_batch(call.x):
        yield f"time and batch must be at least 1, and `x` has shape {tuple(call.x.shape)}"
