"""The rules that keep the house liveable."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import lstm_xp
from tests.support import library_table
from tests.support.backends import BACKENDS

PACKAGE = Path(lstm_xp.__file__).parent
ROOT = Path(__file__).parents[2]
LIBRARIES = {"numpy", "torch", "jax", "cupy", "mlx", "dask", "ndonnx", "array_api_strict", "array_api_compat"}

CORE = sorted(
    [
        *PACKAGE.glob("_equations/*.py"),
        *PACKAGE.glob("_checks/*.py"),
        *(PACKAGE / name for name in ("layers.py", "model.py", "textbook.py")),
    ]
)


def imports(path):
    """Return the top-level modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.split(".")[0]


def names(path):
    """Return every identifier of a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.alias):
            yield node.name


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.name)
def test_the_core_names_no_library(path):
    assert not LIBRARIES & set(imports(path))
    assert not [name for name in names(path) if name.startswith("is_") and name.endswith("_namespace")]


def test_array_api_compat_is_imported_once():
    importing = [path.name for path in PACKAGE.rglob("*.py") if "array_api_compat" in imports(path)]
    assert importing == ["namespace.py"]


def test_the_oracle_shares_nothing():
    tree = ast.parse((PACKAGE / "cli" / "reference.py").read_text())
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level]
    assert set(imports(PACKAGE / "cli" / "reference.py")) == {"cmath", "collections", "typing"}


def run(code, **environment):
    env = {**os.environ, **environment}
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=env)
    return done.stdout.strip()


def test_importing_imports_no_array_library_but_numpy():
    """Not even NumPy, in fact: the arrays bring their library along."""
    loaded = run("import sys, lstm_xp; print(*{name.split('.')[0] for name in sys.modules})").split()
    assert not LIBRARIES - {"array_api_compat", "numpy"} & set(loaded) - {"array_api_compat", "numpy"}
    assert not {"rich", "argparse", "zipfile"} & set(loaded)


def test_importing_is_fast(tmp_path):
    """A generous bound on something small: a few milliseconds here, next to a hundred for NumPy.

    The first time compiles the modules, as an installation does; the others are counted.
    """
    code = "import time, numpy; t = time.perf_counter(); import lstm_xp; print(time.perf_counter() - t)"
    compiled = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(tmp_path)}
    assert min(float(run(code, **compiled)) for _ in range(4)) < 0.05


def test_namespace_is_asked_for_once(monkeypatch):
    from lstm_xp._checks import arrays as _check
    from tests.support.problems import problem

    asked = []
    original = _check.array_namespace
    monkeypatch.setattr(_check, "array_namespace", lambda x: asked.append(x) or original(x))
    inputs, parameters, _ = problem(3, 2)
    lstm_xp.lstm_forward(inputs["x"], inputs["a0"], parameters)
    assert len(asked) == 1


def test_version():
    from importlib.metadata import version

    assert lstm_xp.__version__ == version("lstm_xp")
    assert f"## {lstm_xp.__version__}" in (ROOT / "docs" / "changelog.md").read_text()


# The table of libraries


def test_the_table_of_libraries_is_current():
    page = (ROOT / "docs" / "libraries.md").read_text()
    assert library_table.table() in page, "run `python -m tests.support.library_table`"


@pytest.mark.parametrize("backend", [b for b in BACKENDS if b.transforms], ids=lambda backend: backend.name)
def test_every_transform_in_the_table_has_a_test(backend):
    module = {"JAX": "test_jax.py", "PyTorch": "test_torch.py"}[backend.library]
    tree = ast.parse((ROOT / "tests" / "libraries" / module).read_text())
    tests = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert {"test_" + transform.replace(" ", "_") for transform in backend.transforms} <= tests


def test_the_required_libraries_are_in_the_matrix():
    """All that install without a GPU: nobody drops one by editing a list."""
    required = {backend.library for backend in BACKENDS if backend.required}
    assert required == {"NumPy", "array-api-strict", "PyTorch", "JAX", "MLX", "Dask", "ndonnx"}
    optional = {backend.name for backend in BACKENDS if not backend.required}
    assert optional == {"torch-cuda", "jax-gpu", "cupy"}
