"""An oracle that shares nothing with the rest: the textbook equations in plain Python numbers.

Nested lists in, nested lists out, no array library. Because only analytic functions are used, the same code runs on
complex numbers, and a complex step gives derivatives to machine precision with no gradient written by anybody:
f'(x) = Im f(x + ih) / h (Squire and Trapp, 1998).
"""

import cmath
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

Vector: TypeAlias = Sequence[complex]
Matrix: TypeAlias = Sequence[Vector]
Cube: TypeAlias = Sequence[Matrix]
Nested: TypeAlias = Any  # a matrix or a cube: which of them, a name says
Named: TypeAlias = Mapping[str, Nested]
_STEP = 1e-100


def lstm_forward(x: Cube, a0: Matrix, c0: Matrix, parameters: Named) -> tuple[Cube, Cube, Cube]:
    """Return a, y and c as nested lists (features, m, T_x), from x (n_x, m, T_x), a0 and c0 (n_a, m)."""
    m, T_x = len(a0[0]), len(x[0][0])
    a = [[[0j] * T_x for _ in range(m)] for _ in a0]
    c = [[[0j] * T_x for _ in range(m)] for _ in a0]
    y = [[[0j] * T_x for _ in range(m)] for _ in parameters["by"]]
    for example in range(m):
        a_t: Vector = [row[example] for row in a0]
        c_t: Vector = [row[example] for row in c0]
        for t in range(T_x):
            a_t, c_t, y_t = _step([row[example][t] for row in x], a_t, c_t, parameters)
            for whole, step in ((a, a_t), (c, c_t), (y, y_t)):
                for k, value in enumerate(step):
                    whole[k][example][t] = value
    return a, y, c


def _step(x_t: Vector, a_prev: Vector, c_prev: Vector, parameters: Named) -> tuple[Vector, Vector, Vector]:
    v = [*a_prev, *x_t]
    forget = [_sigmoid(z) for z in _affine(parameters["Wf"], v, parameters["bf"])]
    update = [_sigmoid(z) for z in _affine(parameters["Wi"], v, parameters["bi"])]
    output = [_sigmoid(z) for z in _affine(parameters["Wo"], v, parameters["bo"])]
    candidate = [cmath.tanh(z) for z in _affine(parameters["Wc"], v, parameters["bc"])]
    c = [f * old + i * new for f, old, i, new in zip(forget, c_prev, update, candidate, strict=True)]
    a = [o * cmath.tanh(value) for o, value in zip(output, c, strict=True)]
    powers = [cmath.exp(z) for z in _affine(parameters["Wy"], a, parameters["by"])]
    return a, c, [power / sum(powers) for power in powers]


def _affine(W: Matrix, v: Vector, b: Matrix) -> Vector:
    return [sum(w * u for w, u in zip(row, v, strict=True)) + bias[0] for row, bias in zip(W, b, strict=True)]


def _sigmoid(z: complex) -> complex:
    return 1 / (1 + cmath.exp(-z))


def loss(inputs: Named, cotangents: Mapping[str, Cube]) -> complex:
    """Return sum(da * a) + sum(dy * y) + sum(dc * c).

    `inputs` holds x, a0, c0 and the parameters; `cotangents` any of da, dy, dc, in the shapes of a, y and c, or
    shorter in time.
    """
    a, y, c = lstm_forward(inputs["x"], inputs["a0"], inputs["c0"], inputs)
    outputs = {"da": a, "dy": y, "dc": c}
    return sum(_inner(cotangent, outputs[name]) for name, cotangent in cotangents.items())


def directional_derivative(inputs: Named, cotangents: Mapping[str, Cube], name: str, direction: Nested) -> float:
    """Return how fast `loss` changes as ``inputs[name]`` moves along `direction`: sum(gradient * direction)."""
    moved = {**inputs, name: _move(inputs[name], direction)}
    return loss(moved, cotangents).imag / _STEP


def _move(value: Nested, direction: Nested) -> Nested:
    if isinstance(value, list):
        return [_move(v, d) for v, d in zip(value, direction, strict=True)]
    return value + 1j * _STEP * direction


def _inner(cotangent: Cube, output: Cube) -> complex:
    rows = (pair for both in zip(cotangent, output, strict=True) for pair in zip(*both, strict=True))
    # A cotangent shorter in time than the output is a loss on the first steps.
    return sum(d * value for pair in rows for d, value in zip(*pair))  # noqa: B905
