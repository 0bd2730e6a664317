"""The array libraries that are installed here, with their devices: where the command line and the tests run.

Nothing of the LSTM itself imports this room.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import import_module, metadata
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np

from .._seams.namespace import Array

BOTH = ("float64", "float32")


@dataclass(frozen=True)
class Place:
    """One library on one of its devices, and the way there; the way back is `to_numpy` for all of them."""

    library: str
    distribution: str
    device: str
    asarray: Callable[[np.ndarray], Array]
    dtypes: tuple[str, ...] = BOTH

    @property
    def version(self) -> str:
        """The version that is installed."""
        return metadata.version(self.distribution)


class Trial(NamedTuple):
    """How far one library, in one dtype on one device, is from what is wanted, and whether that is near enough."""

    library: str
    version: str
    device: str
    dtype: str
    forward: float | None
    gradient: float | None
    seconds: float
    ok: bool
    note: str


def installed(library: str | None = None) -> Iterator[Place]:
    """Yield every device of every library that is installed, or of the one that a module's name stands for."""
    for module, devices in _LIBRARIES.items():
        if library in (None, module) and find_spec(module) is not None:
            yield from devices()


def missing() -> list[str]:
    """Return the modules of the known libraries that are not installed."""
    return [module for module in _LIBRARIES if find_spec(module) is None]


def trials(judge: Callable[[Place, str], tuple[float | None, float | None, bool, str]]) -> Iterator[Trial]:
    """Try every dtype on every device that is installed; `judge` returns the fields forward, gradient, ok and note."""
    for place in installed():
        for dtype in place.dtypes:
            start = time.perf_counter()
            try:
                forward, gradient, ok, note = judge(place, dtype)
            except Exception as error:  # whatever a library raises, the others still run
                forward, gradient, ok, note = None, None, False, f"{type(error).__name__}: {error}"
            seconds = time.perf_counter() - start
            yield Trial(place.library, place.version, place.device, dtype, forward, gradient, seconds, ok, note)


def _on_cpu(library: str, module: str, asarray: str = "asarray") -> Iterator[Place]:
    """Yield the one place of a library that knows one device here, and is distributed under its own name."""
    yield Place(library, library.lower(), "cpu", getattr(import_module(module), asarray))


def _torch() -> Iterator[Place]:
    import torch

    for device in ("cpu", *(f"cuda:{k}" for k in range(torch.cuda.device_count()))):
        yield Place("PyTorch", "torch", device, partial(torch.tensor, device=device))


def _jax() -> Iterator[Place]:
    import jax

    # Otherwise float64 becomes float32 without a word.
    jax.config.update("jax_enable_x64", True)  # type: ignore[no-untyped-call] # JAX has no types for it
    # Otherwise a GPU multiplies float32 with the precision of half as many bits.
    jax.config.update("jax_default_matmul_precision", "highest")  # type: ignore[no-untyped-call] # as above
    for backend in dict.fromkeys(("cpu", jax.default_backend())):
        for k, device in enumerate(jax.devices(backend)):
            yield Place("JAX", "jax", f"{backend}:{k}", partial(jax.device_put, device=device))


def _cupy() -> Iterator[Place]:
    import cupy

    def on_device(k: int, x: np.ndarray) -> Array:
        with cupy.cuda.Device(k):
            return cupy.asarray(x)

    for k in range(cupy.cuda.runtime.getDeviceCount() if cupy.is_available() else 0):
        name = metadata.packages_distributions()["cupy"][0]  # it has one for each CUDA version
        yield Place("CuPy", name, f"cuda:{k}", partial(on_device, k))


def _mlx() -> Iterator[Place]:
    import mlx.core as mx

    def array(x: np.ndarray) -> Array:
        # Its own name of the type of marks has an underscore.
        return mx.array(x, dtype=getattr(mx, "bool_" if x.dtype == bool else x.dtype.name))

    gpu = mx.default_device().type == mx.gpu
    device, dtypes = ("gpu", ("float32",)) if gpu else ("cpu", BOTH)  # its GPUs have no float64
    yield Place("MLX", "mlx", device, array, dtypes=dtypes)


_LIBRARIES: dict[str, Callable[[], Iterator[Place]]] = {
    "numpy": partial(_on_cpu, "NumPy", "numpy"),
    "array_api_strict": partial(_on_cpu, "array-api-strict", "array_api_strict"),
    "torch": _torch,
    "jax": _jax,
    "cupy": _cupy,
    "mlx": _mlx,
    "dask": partial(_on_cpu, "Dask", "dask.array", "from_array"),
    "ndonnx": partial(_on_cpu, "ndonnx", "ndonnx"),
}
