"""The one import of array_api_compat: namespace and device of the inputs."""

from typing import Any, TypeAlias

from array_api_compat import (
    array_namespace,
    is_cupy_namespace,
    is_jax_namespace,
    is_numpy_namespace,
    is_torch_namespace,
)

__all__ = [
    "Array",
    "Namespace",
    "array_namespace",
    "device",
    "is_cupy_namespace",
    "is_jax_namespace",
    "is_numpy_namespace",
    "is_torch_namespace",
    "library_name",
]

# An array of any library; the standard has no common base class to name.
Array: TypeAlias = Any
Namespace: TypeAlias = Any


def device(x: Array) -> Any:
    """Return where `x` lives, or None where the library does not say."""
    # Not array_api_compat.device: it fails on arrays without the attribute (MLX, Dask, NumPy 1, traced JAX).
    return getattr(x, "device", None)


def library_name(xp: Namespace) -> str:
    """Return the name a person knows the namespace by."""
    name: str = xp.__name__.removeprefix("array_api_compat.")
    return name.split(".")[0]
