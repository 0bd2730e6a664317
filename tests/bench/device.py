"""The GPU that torch, JAX and CuPy find."""

from collections.abc import Callable
from importlib.util import find_spec


def _torch() -> str | None:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def _jax() -> str | None:
    import jax

    return next((device.device_kind for device in jax.devices() if device.platform == "gpu"), None)


def _cupy() -> str | None:
    import cupy

    return cupy.cuda.runtime.getDeviceProperties(0)["name"].decode() if cupy.cuda.is_available() else None


_LIBRARIES: dict[str, Callable[[], str | None]] = {"torch": _torch, "jax": _jax, "cupy": _cupy}


def lacks_gpu(library: str) -> bool:
    """Tell whether a library is here that could use a GPU, and finds none."""
    return library in _LIBRARIES and find_spec(library) is not None and _LIBRARIES[library]() is None


def gpu() -> str | None:
    """Return the name of the GPU, if there is one."""
    names = (name() for library, name in _LIBRARIES.items() if find_spec(library))
    return next((name for name in names if name), None)
