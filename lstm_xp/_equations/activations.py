"""The activations of the ONNX operator LSTM, by name, each with its derivative.

The names are those of the operator in snake case, and so are the defaults of alpha and beta. A derivative is a
function of the argument and of the value, so that what the forward pass computed is used.
"""

from collections.abc import Callable
from dataclasses import dataclass
from sys import float_info
from typing import Any, Protocol, TypeAlias

from .._seams.namespace import Array, Namespace
from .._seams.ops import sigmoid


class ActivationFunction(Protocol):
    """A function of an array and its namespace; with a method `derivative` of the same form, `lstm_vjp` takes it."""

    def __call__(self, x: Array, xp: Namespace, /) -> Array:
        """Return the activation of x, elementwise."""


# As a user gives it: a name, a name with alpha and beta, or a function.
Activation: TypeAlias = str | tuple[str, float, float] | ActivationFunction


@dataclass(frozen=True)
class _Named:
    """`value(x, a, b, xp)` and `slope(x, y, a, b, xp)`, with y the value at x; alpha and beta by default."""

    value: Callable[..., Array]
    slope: Callable[..., Array]
    alpha: float = 1.0
    beta: float = 0.0


def _indicator(x: Array, condition: Array, xp: Namespace) -> Array:
    """Return 1 where the condition holds, and 0 elsewhere."""
    return xp.where(condition, xp.ones_like(x), xp.zeros_like(x))


def between(x: Array, low: float, high: float, *, xp: Namespace) -> Array:
    """Bound x on both sides."""
    x = xp.where(x < low, xp.full_like(x, low), x)
    return xp.where(x > high, xp.full_like(x, high), x)


def _positive(x: Array, xp: Namespace) -> Array:
    return xp.where(x > 0, x, xp.zeros_like(x))


def _negative(x: Array, xp: Namespace) -> Array:
    return xp.where(x > 0, xp.zeros_like(x), x)


NAMED = {
    "sigmoid": _Named(lambda x, a, b, xp: sigmoid(x, xp=xp), lambda x, y, a, b, xp: y * (1 - y)),
    "tanh": _Named(lambda x, a, b, xp: xp.tanh(x), lambda x, y, a, b, xp: 1 - y * y),
    "relu": _Named(lambda x, a, b, xp: _positive(x, xp), lambda x, y, a, b, xp: _indicator(x, x > 0, xp)),
    "hard_sigmoid": _Named(
        lambda x, a, b, xp: between(a * x + b, 0.0, 1.0, xp=xp),
        lambda x, y, a, b, xp: a * (_indicator(y, y > 0, xp) * _indicator(y, y < 1, xp)),
        0.2,
        0.5,
    ),
    "affine": _Named(lambda x, a, b, xp: a * x + b, lambda x, y, a, b, xp: a * xp.ones_like(x)),
    "leaky_relu": _Named(
        lambda x, a, b, xp: xp.where(x > 0, x, a * x),
        lambda x, y, a, b, xp: xp.where(x > 0, xp.ones_like(x), a * xp.ones_like(x)),
        0.01,
    ),
    "thresholded_relu": _Named(
        lambda x, a, b, xp: xp.where(x > a, x, xp.zeros_like(x)), lambda x, y, a, b, xp: _indicator(x, x > a, xp)
    ),
    "scaled_tanh": _Named(
        lambda x, a, b, xp: a * xp.tanh(b * x),
        lambda x, y, a, b, xp: a * b * (1 - xp.tanh(b * x) ** 2),
        1.0,
        1.0,
    ),
    # The exponential is taken of negative numbers only: the side that `where` drops must not overflow.
    "elu": _Named(
        lambda x, a, b, xp: xp.where(x > 0, x, a * xp.expm1(_negative(x, xp))),
        lambda x, y, a, b, xp: xp.where(x > 0, xp.ones_like(x), a * xp.exp(_negative(x, xp))),
    ),
    "softsign": _Named(
        lambda x, a, b, xp: x / (1 + xp.abs(x)),
        lambda x, y, a, b, xp: 1 / (1 + xp.abs(x)) ** 2,
    ),
    "softplus": _Named(
        lambda x, a, b, xp: _positive(x, xp) + xp.log1p(xp.exp(-xp.abs(x))),
        lambda x, y, a, b, xp: sigmoid(x, xp=xp),
    ),
}


def value(activation: Activation, x: Array, *, xp: Namespace) -> Array:
    """Return the activation of x."""
    if callable(activation):
        return activation(x, xp)
    named, alpha, beta = _lookup(activation)
    return named.value(x, alpha, beta, xp)


def slope(activation: Activation, x: Array, y: Array, *, xp: Namespace) -> Array:
    """Return the derivative of the activation at x, where its value is y."""
    if callable(activation):
        return activation.derivative(x, xp)  # type: ignore[attr-defined] # `lstm_vjp` has looked for it
    named, alpha, beta = _lookup(activation)
    return named.slope(x, y, alpha, beta, xp)


def has_slope(activation: Activation) -> bool:
    """Tell whether `slope` takes the activation."""
    return not callable(activation) or hasattr(activation, "derivative")


def checked(argument: str, activation: Any) -> Activation:
    """Require an activation in one of its three forms; return it with Python's numbers: NumPy's would widen arrays."""
    if callable(activation):
        try:
            hash(activation)
        except TypeError:
            rule = "have a hash, as JAX compiles once for each Cell: freeze its dataclass"
            raise ValueError(f"Cell: `{argument}` must {rule}; got {activation!r}.") from None
        return activation  # type: ignore[no-any-return] # as far as can be seen
    name = activation[0] if isinstance(activation, tuple) and activation else activation
    if not isinstance(name, str) or name not in NAMED:
        raise ValueError(
            f"Cell: `{argument}` must be one of {', '.join(NAMED)}, a tuple (name, alpha, beta), "
            f"or a function of (x, xp); got {activation!r}."
        )
    if isinstance(activation, str):
        return activation
    if not (len(activation) == 3 and all(map(is_number, activation[1:]))):
        rule = "be (name, alpha, beta) with two finite numbers"
        raise ValueError(f"Cell: `{argument}` must {rule}; got {activation!r:.60}.")
    return name, float(activation[1]), float(activation[2])


def is_number(value: object) -> bool:
    """Tell whether a value is a number of Python, and one that a float can hold."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= float_info.max


def _lookup(activation: str | tuple[str, float, float]) -> tuple[_Named, float, float]:
    if isinstance(activation, str):
        named = NAMED[activation]
        return named, named.alpha, named.beta
    name, alpha, beta = activation
    return NAMED[name], alpha, beta
