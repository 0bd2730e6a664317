"""Where the tests run, and what passes through each library: one declaration for the tests and for the docs."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from lstm_xp.cli import places as _libraries
from lstm_xp.cli.places import BOTH, Place

# Set by `.ci/run`: a required library that is not there has failed. Elsewhere it is skipped.
REQUIRE_ALL = bool(os.environ.get("LSTM_XP_REQUIRE_ALL"))


@dataclass(frozen=True)
class Backend:
    """A library under test: `places` finds it, `required` says that a run of everything without it has failed."""

    name: str
    library: str
    places: Callable[[], Iterator[Place]]
    note: str = ""
    required: bool = True
    gpu: bool = False
    dtypes: tuple[str, ...] = BOTH
    jit: bool = False
    transforms: tuple[str, ...] = ()
    # Its exp is accurate to single precision only, in float64 too, and the softmax inherits that.
    coarse_exp: bool = False
    # It makes a graph of every operation, and an operation takes milliseconds: it gets short problems.
    lazy: bool = False
    # What the quick loop leaves out, but for the tests that are quick here too.
    slow: tuple[str, ...] = ()

    def place(self) -> Place | None:
        """Return the first device that fits; None where there is none, or the library is not installed."""
        try:
            return next(iter(self.places()), None)
        except ModuleNotFoundError:
            return None

    def here(self) -> Place:
        """Return the first device that fits, or skip the test: fail it where all that is required must be there."""
        place = self.place()
        if place is None:
            assert not (REQUIRE_ALL and self.required), f"{self.name} is required and has no device here"
            pytest.skip(f"no device for {self.name}")
        return place

    def marks(self, *, slow: bool) -> list[pytest.MarkDecorator]:
        """Return the marks of a test that runs here, slowly or not."""
        return [pytest.mark.gpu] * self.gpu + [pytest.mark.slow] * slow


def _on(library: Callable[[], Iterator[Place]], kind: str) -> Callable[[], Iterator[Place]]:
    return lambda: (place for place in library() if place.device.split(":")[0] == kind)


def _read_only() -> Iterator[Place]:
    def freeze(x: np.ndarray) -> np.ndarray:
        x = np.array(x)
        x.flags.writeable = False
        return x

    yield replace(*_libraries._LIBRARIES["numpy"](), asarray=freeze)


def _strict_device(name: str) -> Iterator[Place]:
    import array_api_strict as xp

    (place,) = _libraries._LIBRARIES["array_api_strict"]()
    asarray = partial(xp.asarray, device=xp.Device(name))
    yield replace(place, device=name, asarray=asarray)


def _gpu_only(library: Callable[[], Iterator[Place]]) -> Callable[[], Iterator[Place]]:
    return lambda: (place for place in library() if not place.device.startswith("cpu"))


_JAX = ("jit", "grad", "vmap", "jvp", "hessian")
_TORCH = ("grad", "vmap", "jvp", "double backward", "compile", "export")

BACKENDS = (
    Backend("numpy", "NumPy", _libraries._LIBRARIES["numpy"]),
    Backend("numpy-readonly", "NumPy", _read_only, note="read-only arrays"),
    Backend("strict", "array-api-strict", _libraries._LIBRARIES["array_api_strict"]),
    Backend("strict-device", "array-api-strict", partial(_strict_device, "device1"), note="second device"),
    Backend(
        "strict-no-float64",
        "array-api-strict",
        partial(_strict_device, "no_float64"),
        note="device without float64",
        dtypes=("float32",),
    ),
    Backend("torch", "PyTorch", _on(_libraries._torch, "cpu"), transforms=_TORCH),
    Backend("jax", "JAX", _on(_libraries._jax, "cpu"), transforms=_JAX, slow=("float32",)),
    Backend("jax-jit", "JAX", _on(_libraries._jax, "cpu"), note="inside `jax.jit`", jit=True, slow=BOTH),
    Backend("mlx", "MLX", _libraries._mlx, coarse_exp=True),
    Backend("dask", "Dask", _libraries._LIBRARIES["dask"], lazy=True, slow=BOTH),
    Backend("ndonnx", "ndonnx", _libraries._LIBRARIES["ndonnx"], lazy=True, slow=BOTH),
    Backend("torch-cuda", "PyTorch", _gpu_only(_libraries._torch), required=False, gpu=True, transforms=_TORCH),
    Backend("jax-gpu", "JAX", _gpu_only(_libraries._jax), required=False, gpu=True, transforms=_JAX),
    Backend("cupy", "CuPy", _libraries._cupy, required=False, gpu=True),
)


def params(dtypes: tuple[str, ...] = BOTH, *, slow: bool = True) -> list[Any]:
    """Return the parameters of the fixture `bench`: every library and device with each dtype."""
    return [
        pytest.param(
            (backend, dtype), id=f"{backend.name}-{dtype}", marks=backend.marks(slow=slow and dtype in backend.slow)
        )
        for backend in BACKENDS
        for dtype in backend.dtypes
        if dtype in dtypes
    ]


# For a test that is quick on every library.
quick = pytest.mark.parametrize("bench", params(slow=False), indirect=True)
