"""Random weights: drawn with NumPy, so that a seed gives the same ones in every library."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ._checks.arrays import refusal
from ._seams.namespace import Array

Shapes = dict[str, tuple[int, ...]]
Drawn = dict[str, Any]
DEFAULT = np  # the library of a model's arrays, if none is named


def drawing(scheme: str, rng: Any) -> Callable[[Shapes], Drawn]:
    """Return the function that draws the weights of one direction after another: those that have a shape."""
    try:
        generator = np.random.default_rng(rng)
    except (TypeError, ValueError) as error:
        rule = "be a `numpy.random.Generator` or a seed of one, e.g. a number like 0"
        raise TypeError(refusal("LSTM.init", "rng", rule, repr(rng))) from error
    return lambda shapes: SCHEMES[scheme](shapes, generator)


def _torch_scheme(shapes: Shapes, rng: Any) -> Drawn:
    k = 1 / math.sqrt(shapes["weight_hh"][0] // 4)

    def draw(name: str) -> Array:
        return rng.uniform(-k, k, shapes[name])

    return {name: draw(name) + draw(name) if name == "bias" else draw(name) for name in shapes}


def _keras_scheme(shapes: Shapes, rng: Any) -> Drawn:
    rows, _ = shapes["weight_hh"]
    q, r = np.linalg.qr(rng.standard_normal(shapes["weight_hh"]))
    fixed = {
        "weight_hh": q * np.sign(np.diagonal(r)),
        "bias": np.repeat([0.0, 1.0, 0.0, 0.0], rows // 4),
        "peephole": np.zeros(3 * rows // 4),
    }

    def glorot(name: str) -> Array:
        limit = math.sqrt(6 / sum(shapes[name]))
        return rng.uniform(-limit, limit, shapes[name])

    return {name: fixed[name] if name in fixed else glorot(name) for name in shapes}


SCHEMES = {"torch": _torch_scheme, "keras": _keras_scheme}
