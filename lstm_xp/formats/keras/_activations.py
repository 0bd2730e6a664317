"""The activations that Keras and this package share, by their names in Keras."""

from collections.abc import Mapping

from ..._equations.activations import NAMED, Activation
from .._files import Json

# As Keras 3 has them; None computes the same as "linear".
_ACTIVATIONS: dict[str, Activation] = {
    "sigmoid": "sigmoid",
    "tanh": "tanh",
    "relu": "relu",
    "hard_sigmoid": ("hard_sigmoid", 1 / 6, 0.5),
    "linear": ("affine", 1.0, 0.0),
    "leaky_relu": ("leaky_relu", 0.2, 0.0),
    "elu": "elu",
    "celu": "elu",
    "softsign": "softsign",
    "softplus": "softplus",
}
_OF_KERAS_2: dict[str, Activation] = {"hard_sigmoid": "hard_sigmoid"}


def activation(name: Json, version: int, argument: str = "`activation`") -> Activation:
    """Return the activation that a configuration of that version of Keras names as an argument."""
    known = _ACTIVATIONS if version >= 3 else _ACTIVATIONS | _OF_KERAS_2
    if name is None:
        name = "linear"
    if not isinstance(name, str) or name not in known:
        if isinstance(name, Mapping):
            name = name["config"] if isinstance(name.get("config"), str) else name.get("class_name")
        raise ValueError(f"{argument} must be one of {', '.join(known)} here; got {repr(name)[:60]}.")
    return known[name]


def activation_name(activation: Activation, where: str) -> str:
    """Return the name that Keras 3 has for an activation of the direction that stands there."""
    for name, ours in _ACTIVATIONS.items():
        if _said_in_full(ours) == _said_in_full(activation):
            return name
    raise ValueError(f"Keras cannot hold the activation {activation!r}, which has no name in Keras 3; got {where}.")


def _said_in_full(activation: Activation) -> Activation:
    if not isinstance(activation, str):
        return activation
    return activation, NAMED[activation].alpha, NAMED[activation].beta
