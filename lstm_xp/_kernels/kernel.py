"""What a kernel is: a library's own way to run a whole call."""

from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeAlias

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


def every_weights(layers: Layers) -> list[LSTMWeights]:
    """Return the weights of all directions of all layers."""
    return [weights for layer in layers for weights in layer if weights is not None]


def uniform(layers: Layers) -> bool:
    """Tell whether all layers have the same sizes and directions; a tracer's sizes can be compared, but not hashed."""
    first = sizes_of(layers[0])
    return all(sizes_of(layer) == first for layer in layers)
