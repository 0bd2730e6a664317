"""The rules that keep the house liveable."""

import ast
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import lstm_xp
from tests.support import library_table, pages
from tests.support.backends import BACKENDS, REQUIRE_ALL

PACKAGE = Path(lstm_xp.__file__).parent
ROOT = Path(__file__).parents[2]
LIBRARIES = {"numpy", "torch", "jax", "cupy", "mlx", "dask", "ndonnx", "array_api_strict", "array_api_compat", "numba"}

# What each room of the top floor may import: the lines below its own. Rooms of one line do not know each other.
FLOORS = [
    ("__main__", "__init__"),
    ("cli",),
    ("modules",),
    ("formats",),
    ("model",),
    ("layers", "textbook", "states", "_init"),
    ("_kernels", "_checks"),
    ("_equations",),
    ("_seams",),
]
NAME_LIBRARIES = {"_seams", "_kernels", "_init", "formats", "modules", "cli"}
FILES = sorted(PACKAGE.rglob("*.py"))


def room_of(path):
    """Return the room of the top floor that a file of the package stands in."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path):
    """Return what a file imports, anywhere in it: modules by their whole names."""
    package = ("lstm_xp", *path.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, (base, node.module)))
            yield from [module] if node.module or not node.level else (f"{module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_knows_only_the_lines_below_it(path):
    here = room_of(path)
    line = next(number for number, rooms in enumerate(FLOORS) if here in rooms)
    below = {room for rooms in FLOORS[line + 1 :] for room in rooms} | {here}
    known = set(imports(path))
    assert {name.split(".")[1] for name in known if name.startswith("lstm_xp.")} <= below | {"__version__"}
    named = {name.split(".")[0] for name in known} | set(re.findall(r"is_\w+_namespace", path.read_text()))
    assert here in NAME_LIBRARIES or not {name for name in named if name in LIBRARIES or name.startswith("is_")}
    assert path.name == "namespace.py" or "array_api_compat" not in named


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_is_remembered_from_call_to_call(path):
    """No cache but those of what a compiler has made, and nothing at the level of a module that grows."""
    tree = ast.parse(path.read_text())
    empty = [
        node
        for node in tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        and isinstance(node.value, ast.Dict | ast.List | ast.Set | ast.Call)
        and (ast.unparse(node.value) in ("{}", "[]", "set()", "dict()", "list()"))
    ]
    cached = [
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and any("cache" in ast.unparse(line) for line in node.decorator_list)
    ]
    assert not empty
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Global)]
    assert cached == {"transforms.py": ["_jitted"], "compilers.py": ["importable", "compiled"]}.get(path.name, [])


def test_the_oracle_shares_nothing():
    tree = ast.parse((PACKAGE / "cli" / "reference.py").read_text())
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level]
    known = {name.split(".")[0] for name in imports(PACKAGE / "cli" / "reference.py")}
    assert known == {"cmath", "collections", "typing"}


def loaded_by(code, before="pass"):
    """Return the modules that a fresh interpreter has after some code, and had not before it."""
    code = f"import sys; {before}; had = set(sys.modules); {code}; print(*sys.modules.keys() - had)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=120)
    return set(done.stdout.split())


def test_importing_imports_no_array_library_but_numpy():
    """The arrays bring their library along."""
    loaded = {name.split(".")[0] for name in loaded_by("import lstm_xp")}
    assert "lstm_xp" in loaded
    assert not (LIBRARIES - {"array_api_compat", "numpy"}) & loaded


def test_importing_costs_little():
    """Next to NumPy, a few modules of its own, and of others what is small: no file format and no command line."""
    loaded = loaded_by("import lstm_xp", before="import numpy, array_api_compat")
    own = {name for name in loaded if name.split(".")[0] == "lstm_xp"}
    assert loaded - own <= {"copy", "dataclasses", "fractions", "inspect", "typing", "weakref"}
    assert not {name for name in own if name.startswith(("lstm_xp.formats", "lstm_xp.cli", "lstm_xp.modules"))}
    assert "lstm_xp.formats" in loaded_by("import lstm_xp; lstm_xp.load")


def test_namespace_is_asked_for_once(monkeypatch):
    from lstm_xp._checks import arrays as _check
    from tests.support.problems import problem

    asked = []
    original = _check.array_namespace
    monkeypatch.setattr(_check, "array_namespace", lambda x: asked.append(x) or original(x))
    inputs, parameters, _ = problem(3, 2, n_x=11, n_a=13)  # sizes of no other test
    lstm_xp.lstm_forward(inputs["x"], inputs["a0"], parameters)
    assert len(asked) == 1


def test_version():
    from importlib.metadata import version

    assert lstm_xp.__version__ == version("lstm_xp")
    assert f"## {lstm_xp.__version__}" in (ROOT / "docs" / "changelog.md").read_text()


# The pages


def test_a_generated_text_takes_the_place_of_the_last_one(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- generated -->\nold\n<!-- /generated -->\nafter\n")
    for _ in range(2):
        pages.write(page, pages.markdown([("a", "b"), ("1", "2")]))
        table = "| a | b |\n| --- | --- |\n| 1 | 2 |"
        assert page.read_text() == f"before\n<!-- generated -->\n{table}\n<!-- /generated -->\nafter\n"
    with pytest.raises(ValueError, match="must have '<!-- measured -->"):
        pages.write(page, "new", marker="measured")


def test_the_table_of_libraries_is_current():
    page = (ROOT / "docs" / "libraries.md").read_text()
    for table in (library_table.table(), library_table.versions()):
        assert table in page, "run `python -m tests.support.library_table`"


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


PEERS = (
    "equinox",
    "flax",
    "h5py",
    "haiku",
    "hypothesis",
    "keras",
    "numba",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "optax",
    "pyfive",
    "safetensors",
    "zarr",
)


@pytest.mark.skipif(not REQUIRE_ALL, reason="where a library is missing, the tests that use it are skipped")
@pytest.mark.parametrize("module", PEERS)
def test_what_else_the_tests_use_is_installed(module):
    assert find_spec(module)
