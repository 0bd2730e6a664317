"""Random weights: drawn with NumPy, so that a seed gives the same ones in every library."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ._checks.arrays import refusal
from ._seams.namespace import Array

Drawn = dict[str, Any]
DEFAULT = np  # the library of a model's arrays, if none is named


class Sizes(NamedTuple):
    """One direction of a layer: its sizes, and which weights it has."""

    I: int  # noqa: E741 -- the field's letter for the input size
    H: int
    R: int
    projected: bool
    bias: bool
    peephole: bool


def drawing(scheme: str, rng: Any) -> Callable[[Sizes], Drawn]:
    """Return the function that draws the weights of one direction after another."""
    try:
        generator = np.random.default_rng(rng)
    except (TypeError, ValueError) as error:
        rule = "be a `numpy.random.Generator` or a seed of one, e.g. a number like 0"
        raise TypeError(refusal("LSTM.init", "rng", rule, repr(rng))) from error
    return lambda sizes: SCHEMES[scheme](sizes, generator)


def _torch_scheme(sizes: Sizes, rng: Any) -> Drawn:
    I, H, R, projected, bias, peephole = sizes  # noqa: E741 -- the field's letter for the input size
    k = 1 / math.sqrt(H)

    def draw(*shape: int) -> Array:
        return rng.uniform(-k, k, shape)

    drawn = {"weight_ih": draw(4 * H, I), "weight_hh": draw(4 * H, R)}
    if bias:
        drawn["bias"] = draw(4 * H) + draw(4 * H)
    if projected:
        drawn["weight_hr"] = draw(R, H)
    if peephole:
        drawn["peephole"] = draw(3 * H)
    return drawn


def _keras_scheme(sizes: Sizes, rng: Any) -> Drawn:
    I, H, R, projected, bias, peephole = sizes  # noqa: E741 -- the field's letter for the input size

    def glorot(*shape: int) -> Array:
        limit = math.sqrt(6 / sum(shape))
        return rng.uniform(-limit, limit, shape)

    q, r = np.linalg.qr(rng.standard_normal((4 * H, R)))
    drawn = {"weight_ih": glorot(4 * H, I), "weight_hh": q * np.sign(np.diagonal(r))}
    if bias:
        drawn["bias"] = np.repeat([0.0, 1.0, 0.0, 0.0], H)
    if projected:
        drawn["weight_hr"] = glorot(R, H)
    if peephole:
        drawn["peephole"] = np.zeros(3 * H)
    return drawn


SCHEMES = {"torch": _torch_scheme, "keras": _keras_scheme}
