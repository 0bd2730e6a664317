"""Elementwise equations, compiled: one loop over all arrays, instead of one for each operation.

On NumPy it is numba's, where that is installed; on CuPy it is a kernel of the GPU.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from .namespace import Array, Namespace, is_cupy_namespace
from .program import Language, Program, written

Equation: TypeAlias = Callable[..., tuple[Any, ...]]
Compiler: TypeAlias = Callable[..., Equation]  # of the equation, row blocks, dtype and options

_PYTHON = Language("", "{}[{}, i]", "{1} if {0} else {2}", "min(max({0}, -{1}), {1})")
# The least of two numbers, as CUDA has it, is no NaN.
_CPP = Language("const auto ", "{}[{} * size + i]", "{0} ? {1} : {2}", "{0} < -{1} ? -{1} : {0} > {1} ? {1} : {0}")


def compiler_for(like: Array, *, xp: Namespace) -> Compiler | None:
    """Return what compiles for arrays of the library and dtype of one, if anything does."""
    if isinstance(like, np.ndarray):
        compiler = by_numba if importable() else None
    else:
        compiler = by_cupy if is_cupy_namespace(xp) else None
    return compiler if compiler and like.dtype in (np.float32, np.float64) else None


@functools.lru_cache(maxsize=1)
def importable() -> bool:
    """Tell whether numba is there, and takes this NumPy: it is imported when somebody asks first."""
    try:
        import numba  # noqa: F401
    except ImportError:
        return False
    return True


# What a compiler has made is kept while its function is there: here the 128 last used, as for JAX.
@functools.lru_cache(maxsize=128)
def compiled(
    compiler: Compiler, equation: Equation, rows: tuple[int, ...], dtype: np.dtype, **options: Any
) -> Equation:
    """Return an equation with its options, as a function of arrays (features, batch) of so many row blocks each.

    One of them has one row block. Of the equation's results it returns those that are arrays.
    """
    return compiler(equation, rows, dtype, **options)


def by_numba(equation: Equation, rows: Sequence[int], dtype: np.dtype, **options: Any) -> Equation:
    """Compile for NumPy, once on a machine."""
    import hashlib

    import numba

    text = _python(written(equation, rows, dtype.name, _PYTHON, **options), f"x{rows.index(1)}")
    # numba finds by name and file what it has compiled before, and by the file's content whether that is current.
    name = f"fused_{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    known = {"__name__": __name__, "T": dtype.type, "empty": np.empty, **vars(math)}
    exec(compile(text.replace("fused", name, 1), __file__, "exec"), known)
    signature = (numba.types.Array(numba.from_dtype(dtype), 2, "C", readonly=True, aligned=False),) * len(rows)
    jit = functools.partial(numba.njit, signature, nogil=True, error_model="numpy", fastmath={"contract"})
    try:
        loop = jit(cache=True)(known[name])
    except (OSError, RuntimeError):  # no folder can be written
        loop = jit()(known[name])
    return lambda *arrays: loop(*map(np.ascontiguousarray, arrays))


def _python(program: Program, like: str) -> str:
    """Return the text of the function; one of its arrays has a single row block."""
    results = program.results.items()
    text = (
        f"def fused({', '.join(program.inputs)}):",
        f"    H, batch = {like}.shape",
        *(f"    {x} = {x}.reshape({blocks}, H * batch)" for x, blocks in program.inputs.items()),
        *(f"    {y} = empty(({len(names)}, H * batch), T)" for y, names in results),
        "    for i in range(H * batch):",
        *(f"        {statement}" for statement in program.statements()),
        "    return " + "".join(f"{y}.reshape({len(names)} * H, batch), " for y, names in results),
    )
    return "\n".join(text)


def by_cupy(equation: Equation, rows: Sequence[int], dtype: np.dtype, **options: Any) -> Equation:
    """Compile for CuPy: at the first call, and once on a machine."""
    import cupy

    program = written(equation, rows, dtype.name, _CPP, **options)
    given, made = (", ".join(f"raw T {x}" for x in names) for names in (program.inputs, program.results))
    text = ";\n".join(["const ptrdiff_t size = _ind.size()", *program.statements()])
    kernel = cupy.ElementwiseKernel(given, made, text, f"lstm_xp_{equation.__name__}")

    def run(*arrays: Array) -> tuple[Array, ...]:
        H, batch = arrays[rows.index(1)].shape
        results = tuple(cupy.empty((len(names) * H, batch), dtype) for names in program.results.values())
        kernel(*arrays, *results, size=H * batch)
        return results

    return run
