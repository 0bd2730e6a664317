"""Elementwise equations on NumPy, compiled by numba: one loop over all arrays, instead of one for each operation."""

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .namespace import Array
from .program import source

Equation = Callable[..., tuple[Any, ...]]


def compiles(like: Array) -> bool:
    """Tell whether `compiled` takes arrays of the library and dtype of one."""
    return isinstance(like, np.ndarray) and importable() and like.dtype in (np.float32, np.float64)


@functools.lru_cache(maxsize=1)
def importable() -> bool:
    """Tell whether numba is there, and takes this NumPy: it is imported when somebody asks first."""
    try:
        import numba  # noqa: F401
    except ImportError:
        return False
    return True


# What numba has compiled is kept while its function is there: here the 128 last used, as for JAX.
@functools.lru_cache(maxsize=128)
def compiled(equation: Equation, rows: tuple[int, ...], dtype: np.dtype, **options: Any) -> Equation:
    """Return an equation with its options, as the function of arrays that `program.source` writes."""
    import hashlib

    import numba

    text = source(equation, rows, dtype.name, **options)
    # numba finds by name and file what it has compiled before, and by the file's content whether that is current.
    name = f"fused_{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    known = {"__name__": __name__, "dtype": dtype.type, "empty": np.empty, **vars(math)}
    exec(compile(text.replace("fused", name, 1), __file__, "exec"), known)
    signature = (numba.types.Array(numba.from_dtype(dtype), 2, "C", readonly=True, aligned=False),) * len(rows)
    jit = functools.partial(numba.njit, signature, nogil=True, error_model="numpy", fastmath={"contract"})
    try:
        loop = jit(cache=True)(known[name])
    except (OSError, RuntimeError):  # no folder can be written
        loop = jit()(known[name])
    return lambda *arrays: loop(*map(np.ascontiguousarray, arrays))
