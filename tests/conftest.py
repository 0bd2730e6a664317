"""Fixtures: one library on one device with one dtype; and the rule that required libraries did run."""

import os

# Keras asks where to run and what the user has set when it is first imported, in whichever test that is: on JAX its
# tanh makes float64 float32. There is no folder of settings.
os.environ |= {"KERAS_BACKEND": "torch", "KERAS_HOME": os.devnull}
if "PYTEST_XDIST_WORKER" in os.environ:
    # One core for each test at a time: threads of two processes on the same cores spin and wait for each other.
    os.environ |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    # Otherwise the first process takes most of a GPU's memory.
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"

from collections import Counter
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

from lstm_xp._seams import compilers
from lstm_xp._seams.namespace import to_numpy
from lstm_xp.cli.places import Place
from tests.support.backends import BACKENDS, REQUIRE_ALL, Backend, params
from tests.support.layers import mapped

collect_ignore = ["house/uses.py"]  # for a type checker alone


def pytest_configure(config):
    """Set what belongs to a process, before the first test of whatever order."""
    # A module is collected for its examples: without the library that it needs there are none.
    config.option.doctest_ignore_import_errors |= not REQUIRE_ALL
    if config.getoption("numprocesses", 0) and not hasattr(config, "workerinput"):
        return  # the workers run the tests
    # Otherwise each process compiles for a second whatever cell and dtype is new to it: test_compilers.py lets it in.
    compilers.importable = lambda: False
    if find_spec("jax"):
        import jax

        # Otherwise float64 becomes float32 without a word.
        jax.config.update("jax_enable_x64", True)
        # Otherwise a GPU multiplies float32 with the precision of half as many bits.
        jax.config.update("jax_default_matmul_precision", "highest")
        # Most of the time of JAX's tests is XLA compiling what runs once, and this saves a third of it. `.ci/run` has
        # `lstm-xp check`, and the benchmark compares too: the same numbers as a user's XLA makes them.
        jax.config.update("jax_disable_most_optimizations", True)
    if find_spec("torch"):
        import torch

        # The same: cuDNN does so unless told.
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False


def pytest_collection_modifyitems(config, items):
    """Leave out what takes many minutes, unless it is asked for by its mark."""
    if "soak" not in config.option.markexpr:
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("soak")])
        items[:] = [item for item in items if not item.get_closest_marker("soak")]


@dataclass(frozen=True)
class Bench:
    """A workbench: makes a library's arrays, calls functions on them, and looks at what comes back."""

    backend: Backend
    place: Place
    dtype: str

    def array(self, x: Any) -> Any:
        """Make an array of this library, dtype and device."""
        return self.place.asarray(np.array(x, dtype=self.dtype))

    def arrays(self, tree: Any) -> Any:
        """Make every array of a mapping."""
        return {name: self.array(x) for name, x in tree.items()}

    def tree(self, tree: Any) -> Any:
        """Move nested tuples and mappings of NumPy: reals in this dtype, marks and lengths as they are."""
        return mapped(lambda a: self.array(a) if a.dtype.kind == "f" else self.place.asarray(np.array(a)), tree)

    def call(self, function: Any, *args: Any) -> Any:
        """Call a function of arrays the way this backend does."""
        if self.backend.jit:
            import jax

            return jax.jit(function)(*args)
        return function(*args)

    def assert_close(self, got: Any, wanted: Any, *, atol: float) -> None:
        """Hold library, dtype, device and shape, and then the values, against what was wanted."""
        like = self.array(0.0)
        assert type(got) is type(like)
        assert got.dtype == like.dtype
        assert getattr(got, "device", None) == getattr(like, "device", None)
        wanted = np.asarray(wanted)
        assert tuple(got.shape) == wanted.shape
        np.testing.assert_allclose(to_numpy(got), wanted, rtol=0, atol=atol)


def _open(request: pytest.FixtureRequest) -> Bench:
    backend, dtype = request.param
    place = backend.here()
    if dtype not in place.dtypes:
        pytest.skip(f"{place.device} has no {dtype}")
    request.node.user_properties.append(("backend", backend.name))
    return Bench(backend, place, dtype)


@pytest.fixture(params=params())
def bench(request):
    """Every library, device and dtype."""
    return _open(request)


@pytest.fixture(params=params(("float64",)))
def float64(request):
    """Every library and device that has float64."""
    return _open(request)


@pytest.fixture
def compilations():
    """Count what XLA compiles."""
    import jax

    counted = []

    def listen(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            counted.append(duration)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield counted
    jax.monitoring.unregister_event_duration_listener(listen)


_PASSED: Counter[str] = Counter()


def pytest_runtest_logreport(report):
    """Count the tests that each backend passed."""
    if report.when == "call" and report.passed:
        _PASSED.update(value for name, value in report.user_properties if name == "backend")


def pytest_sessionfinish(session, exitstatus):
    """Fail a run in which a required backend passed nothing: a skip is not a pass.

    They are those that `LSTM_XP_REQUIRE` names, and with `LSTM_XP_REQUIRE_ALL` all of them, in a whole run.
    """
    config = session.config
    whole = config.args == config.getini("testpaths") and not (config.option.keyword or config.option.markexpr)
    required = os.environ.get("LSTM_XP_REQUIRE", "").split()
    if REQUIRE_ALL and whole:
        required += [backend.name for backend in BACKENDS if backend.required]
    if hasattr(config, "workerinput") or config.option.collectonly:
        return
    idle = [name for name in required if not _PASSED[name]]
    if idle and exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        config.get_terminal_writer().line(f"required, but did not run: {', '.join(idle)}", red=True)
