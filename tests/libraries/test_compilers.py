"""What compiles the equations: which calls it takes, and that the numbers are those of the equations as they are."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from lstm_xp import LSTM, Cell, lstm, lstm_backward, lstm_forward, lstm_vjp
from lstm_xp._equations import cell as equations
from lstm_xp._equations import sequence
from lstm_xp._equations.activations import NAMED
from lstm_xp._seams import compilers as room
from lstm_xp._seams.namespace import to_numpy
from tests.support import cpp
from tests.support.backends import BACKENDS
from tests.support.layers import STACKS, leaves, mapped, model_of, problem
from tests.support.problems import problem as textbook_problem

numba = pytest.importorskip("numba")

TOLERANCE = {"float32": 1e-6, "float64": 1e-14}

# Compiling takes about a second for each of these and each cell, so what follows has few cells.
STATES, GRADIENT = (equations.forward, (4, 1)), (equations.gradient, (1, 1, 4, 1, 1))


@pytest.fixture(autouse=True)
def _let_in(monkeypatch):
    """Elsewhere in the tests numba is kept out."""
    monkeypatch.setattr(room, "importable", lambda: True)


@pytest.fixture
def ran(monkeypatch):
    """Return the names of the equations that the compiler was asked for."""
    names = []
    compiled = sequence.compiled

    def noted(compiler, equation, *arguments, **options):
        names.append(equation.__name__)
        return compiled(compiler, equation, *arguments, **options)

    monkeypatch.setattr(sequence, "compiled", noted)
    return names


@pytest.fixture(params=["numba", "cupy"])
def compiler(request, monkeypatch):
    """What compiles, and that for CuPy without its GPU: a kernel in C++."""
    if request.param == "numba":
        return room.by_numba
    if cpp.COMPILER is None:
        pytest.skip("no compiler of C++")
    monkeypatch.setitem(sys.modules, "cupy", cpp)
    return room.by_cupy


def both(compiler, of, *arrays, cell=equations.PLAIN, exact=None):
    """Return the arrays that an equation gives, compiled and as it is; as it is in another dtype, if one is named."""
    equation, rows = of
    got = room.compiled(compiler, equation, rows, arrays[0].dtype, cell=cell)(*arrays)
    wanted = equation(*(a.astype(exact or a.dtype) for a in arrays), cell=cell, xp=np)
    return list(zip(got, (a for a in wanted if isinstance(a, np.ndarray)), strict=True))


def random(*rows, columns=3):
    rng = np.random.default_rng(0)
    return [rng.standard_normal((4 * blocks, columns)) for blocks in rows]


# The numbers


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("of", [STATES, GRADIENT], ids=["states", "gradient"])
def test_a_step_far_out_and_next_to_nothing(of, dtype, compiler):
    tiny, top = float(np.finfo(dtype).smallest_subnormal), 1e4
    far = [s * n for s in (1, -1) for n in (0.0, tiny, 1e-30, 1e-9, *np.linspace(0.01, 20, 400), 88.0, 710.0, top)]
    z = np.asarray([far] * 4, dtype)
    c = np.roll(z[:1], 7, axis=1)
    arrays = (z, c) if of is STATES else (np.ones_like(c), np.ones_like(c), z, c, np.roll(c, 7, axis=1))
    with np.errstate(all="raise"):
        found = both(compiler, of, *arrays, exact=np.longdouble)
    for got, wanted in found:
        assert got.dtype == dtype
        assert np.all(np.abs(got - wanted) <= TOLERANCE[dtype] * np.maximum(1, np.abs(c)))
    if of is STATES:
        assert np.max(np.abs(found[0][0])) <= 1


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_what_is_no_number_stays_none(dtype, compiler):
    odd = np.asarray([np.nan, np.inf, -np.inf, 0.5], dtype)
    z, c = np.repeat(odd[None, :], 16, axis=0), np.tile(odd[:, None], (1, 4))
    with np.errstate(invalid="ignore"):  # of NumPy: infinity times 0
        found = both(compiler, STATES, z, c) + both(compiler, GRADIENT, c, c, z, c, c)
    for got, wanted in found:
        np.testing.assert_allclose(got, wanted, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


def test_a_denormal_number_passes_by_the_hyperbolic_tangent(compiler):
    x = np.asarray([[5e-324, -1e-310, 1e-200, -0.0]])

    def out(z, *, xp):
        return (xp.tanh(z),)

    np.testing.assert_array_equal(room.compiled(compiler, out, (1,), x.dtype)(x)[0], x)


@pytest.mark.parametrize("first", range(0, len(NAMED), 3))
def test_every_named_activation(first, compiler):
    names = (list(NAMED) * 2)[first : first + 3]
    cell = Cell(**dict(zip(equations.PLAIN.activations, names, strict=True)))
    dh, dc, z, c, c_next = random(1, 1, 4, 1, 1)
    for got, wanted in both(compiler, STATES, z, c, cell=cell) + both(
        compiler, GRADIENT, dh, dc, z, c, c_next, cell=cell
    ):
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-13)


@pytest.mark.parametrize("alpha", [0.5, 0.25])
def test_cells_that_differ_in_a_number_alone(alpha, compiler):
    """What is kept on the disk of the one must not be found for the other."""
    z, c = random(4, 1)
    for got, wanted in both(compiler, STATES, z, c, cell=Cell(*[("affine", alpha, 0.0)] * 3)):
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-14)


def in_full(x, layers, state, options, engine):
    """Return the results of `lstm`, and of `lstm_vjp` with a trace and its gradient, as one list."""
    (y, last, trace), vjp = lstm_vjp(x, layers, state, trace=True, engine=engine, **options)
    return leaves((lstm(x, layers, state, engine=engine, **options), y, last, trace, vjp(y, last)))


# Each option of a cell once, and those of a call with the plain one.
CALLS = [
    *((name, "float64") for name, stack in STACKS.items() if stack.cell is equations.PLAIN and not stack.peephole),
    *((name, "float64") for name in ("coupled forget", "coupled input")),
    *((name, "float32") for name in ("plain", "everything")),
]


@pytest.mark.parametrize(("name", "dtype"), CALLS)
def test_a_call_and_its_gradient(name, dtype, compiler, ran, monkeypatch):
    monkeypatch.setattr(sequence, "compiler_for", lambda *_, **__: compiler)
    check_a_call(name, dtype, np.asarray, ran)


@pytest.mark.gpu
@pytest.mark.parametrize(("name", "dtype"), CALLS)
def test_a_call_and_its_gradient_on_a_gpu(name, dtype, ran):
    (backend,) = (backend for backend in BACKENDS if backend.name == "cupy")
    check_a_call(name, dtype, backend.here().asarray, ran)


def check_a_call(name, dtype, asarray, ran):
    arguments = mapped(lambda a: asarray(a.astype(dtype) if a.dtype.kind == "f" else a), problem(STACKS[name]))
    wanted = in_full(*arguments, "xp")
    assert not ran
    got = in_full(*arguments, "auto")
    directions = sum(weights is not None for layer in arguments[1] for weights in layer)
    assert sorted(ran) == ["forward"] * 2 * directions + ["gradient"] * directions
    for a, b in zip(map(to_numpy, got), map(to_numpy, wanted), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=0, atol=20 * TOLERANCE[dtype] * max(1, np.max(np.abs(b), initial=0)))


def test_the_gradient_is_that_of_finite_differences(compiler):
    z, c, dh, dc, *moves = random(4, 1, 1, 1, 4, 1)
    states, gradient = (
        room.compiled(room.by_numba, equation, rows, z.dtype, cell=equations.PLAIN)
        for equation, rows in (STATES, GRADIENT)
    )

    def loss(step):
        h, c_next = states(z + step * moves[0], c + step * moves[1])
        return np.sum(dh * h) + np.sum(dc * c_next)

    dz, dc_prev = gradient(dh, dc, z, c, states(z, c)[1])
    exact = np.sum(dz * moves[0]) + np.sum(dc_prev * moves[1])
    assert (loss(1e-6) - loss(-1e-6)) / 2e-6 == pytest.approx(exact, rel=1e-8)


# Which calls


def test_the_step_of_a_record_and_the_functions_of_the_textbook(ran):
    model, x, state, _ = model_of("plain")
    y, _ = model(x, state, engine="xp")
    model(x[:, :1], state, engine="xp")
    assert not ran
    y_t, _ = model.step(x[:, 0], state)
    np.testing.assert_allclose(y_t, y[:, 0], rtol=0, atol=1e-14)
    inputs, parameters, d = textbook_problem(5, 3)
    lstm_backward(d["da"], lstm_forward(inputs["x"], inputs["a0"], parameters)[3])
    assert ran == ["forward", "forward", "gradient"]


class Cubic:
    """A function of a user."""

    def __call__(self, x, xp):
        return x - x**3 / 3

    def derivative(self, x, xp):
        return 1 - x**2


def test_half_precision_takes_the_compiled_steps_of_float32(ran):
    model, x, _, _ = model_of("plain", lambda a: a.astype(np.float16))
    assert model(x)[0].dtype == np.float16
    assert ran


def test_a_function_of_a_user_is_not_compiled(ran):
    x, layers, state, options = problem(STACKS["plain"])
    for option in equations.PLAIN.activations:
        options["cell"] = Cell(**{option: Cubic()})
        in_full(x, layers, state, options, "auto")
    assert not ran


def test_another_library_is_not_compiled(ran):
    strict = pytest.importorskip("array_api_strict")
    model, x, _, _ = model_of("plain", strict.asarray)
    model(x)
    assert not ran


def test_extended_precision_is_not_compiled(ran):
    model, x, _, _ = model_of("plain", lambda a: a.astype(np.longdouble))
    assert model(x)[0].dtype == np.longdouble
    assert not ran


@pytest.mark.parametrize(("dtype", "wanted"), [("float32", room.by_cupy), ("float64", room.by_cupy), ("float16", None)])
def test_what_compiles_for_cupy(dtype, wanted):
    like = SimpleNamespace(dtype=np.dtype(dtype))
    assert room.compiler_for(like, xp=ModuleType("cupy")) is wanted


def test_arrays_however_they_lie_in_memory():
    model, x, state, _ = model_of("plain")
    x, state = x[:1], mapped(lambda a: a[:, :1], state)  # of one sequence nothing is copied on the way
    wanted = leaves(model(x, state))
    still, apart, odd = (mapped(make, (x, state)) for make in (read_only, lying_apart, unaligned))
    for x, state in (still, apart, odd):
        for a, b in zip(leaves(model(x, state)), wanted, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-14)


def read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


def lying_apart(a):
    return np.repeat(a, 2, axis=-1)[..., ::2]


def unaligned(a):
    result = np.empty(a.nbytes + 1, np.uint8)[1:].view(a.dtype).reshape(a.shape)
    result[...] = a
    return result


@pytest.mark.parametrize("shape", [(0, 5, 3), (2, 0, 3)])
def test_no_sequence_and_no_step(shape):
    model = LSTM.init(3, 4, rng=0)
    (y, _), vjp = lstm_vjp(np.ones(shape, np.float32), model.layers)
    assert y.shape == (*shape[:2], 4)
    assert all(np.all(np.isfinite(a)) for a in leaves(vjp(y)))


# The compiler


def run_apart(code, **environment):
    """Run code in a fresh interpreter; return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **environment},
    )
    assert not done.stderr
    return done.stdout.split()


CALL = "import numpy as np, lstm_xp; m = lstm_xp.LSTM.init(3, 4, rng=0); x = np.ones((2, 5, 3), np.float32);"


def test_it_is_imported_by_the_first_call_that_uses_it():
    code = f"{CALL} import sys; m(x, engine='xp'); print('numba' in sys.modules); m(x); print('numba' in sys.modules)"
    assert run_apart(code) == ["False", "True"]


def test_without_it_nothing_is_compiled():
    code = f"import sys; sys.modules['numba'] = None; {CALL} print(np.array_equal(m(x)[0], m(x, engine='xp')[0]))"
    assert run_apart(code) == ["True"]


def test_a_machine_compiles_once(tmp_path):
    first, again = ([run_apart(f"{CALL} m(x)", NUMBA_CACHE_DIR=str(tmp_path)), stamps(tmp_path)] for _ in range(2))
    assert first == again
    assert len(first[1]) == 2  # an index, and the code


def stamps(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*.nb?")}


@pytest.mark.parametrize("broken", ["TemporaryFile", "save"], ids=["not writable", "full"])
def test_a_folder_that_cannot_be_written_does_not_fail(broken, monkeypatch, fresh, tmp_path):
    from numba.core import caching

    def refuse(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    if broken == "save":
        monkeypatch.setattr(caching.IndexDataCacheFile, "save", refuse)
    else:
        monkeypatch.setattr(caching.tempfile, "TemporaryFile", refuse)
    model, x, _, _ = model_of("plain")
    np.testing.assert_allclose(model(x)[0], model(x, engine="xp")[0], rtol=0, atol=1e-14)
    assert not stamps(tmp_path)


@pytest.fixture
def fresh():
    """Forget what this process has compiled, before and after."""
    room.compiled.cache_clear()
    yield
    room.compiled.cache_clear()


def test_one_model_in_many_threads(fresh):
    model, x, state, _ = model_of("plain")
    wanted = model.step(x[:, 0], state)
    with ThreadPoolExecutor(8) as pool:
        for got in pool.map(lambda _: model.step(x[:, 0], state), range(200), timeout=120):
            for a, b in zip(leaves(got), leaves(wanted), strict=True):
                np.testing.assert_array_equal(a, b)


def test_other_threads_go_on_while_it_computes():
    z, c = np.ones((2**22, 1)), np.ones((2**20, 1))
    states = room.compiled(
        room.by_numba, *STATES, c.dtype, cell=Cell("softplus", "softplus", "softplus")
    )  # the slowest
    began, turns = threading.Event(), 0

    def work():
        began.set()
        states(z, c)

    worker = threading.Thread(target=work)
    worker.start()
    began.wait(timeout=60)
    while worker.is_alive():
        turns += 1
        worker.join(timeout=1e-3)
    assert turns > 5  # otherwise one
