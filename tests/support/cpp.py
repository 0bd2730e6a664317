"""CuPy's kernels without a GPU: what its compiler is given is C++, which any other takes too."""

import ctypes
import re
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path

import numpy as np

COMPILER = shutil.which("c++")

_PROGRAM = """
#include <cmath>
#include <cstddef>
using namespace std;
typedef {T} T;
struct Indexer {{ ptrdiff_t n; ptrdiff_t size() const {{ return n; }} }};
extern "C" void run(ptrdiff_t n, {arguments}) {{
    Indexer _ind = {{n}};
    for (ptrdiff_t i = 0; i < n; ++i) {{
        {operation};
    }}
}}
"""


class ElementwiseKernel:
    """What CuPy's class of this name does, of it what `lstm_xp` asks for: all arguments of one dtype, and raw."""

    def __init__(self, given, made, operation, name):
        """Take what CuPy takes."""
        assert re.fullmatch(r"[A-Za-z_]\w*", name)
        named = [re.fullmatch(r"raw T (\w+)", each) for each in f"{given}, {made}".split(", ")]
        assert all(named)
        self.arguments, self.operation = [each[1] for each in named], operation

    def __call__(self, *arrays, size):
        """Run over so many elements, whose order is that of C wherever they lie."""
        (dtype,) = {a.dtype for a in arrays}
        assert len(arrays) == len(self.arguments)
        text = _PROGRAM.format(
            T={"float32": "float", "float64": "double"}[dtype.name],
            arguments=", ".join(f"T* {name}" for name in self.arguments),
            operation=self.operation,
        )
        arrays = [np.ascontiguousarray(a) for a in arrays]  # those that it writes are fresh, and stay what they are
        _compiled(text).run(ctypes.c_ssize_t(size), *(ctypes.c_void_p(a.ctypes.data) for a in arrays))


@lru_cache
def _compiled(text):
    options = ["-std=c++17", "-O1", "-shared", "-fPIC", "-Wall", "-Werror", "-Wno-unused-variable"]
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, "kernel.cpp"), Path(folder, "kernel.so")
        source.write_text(text)
        subprocess.run([COMPILER, *options, source, "-o", library], check=True, timeout=120)
        return ctypes.CDLL(str(library))


empty = np.empty
