"""`lstm` and `lstm_vjp` on every library: against the oracle, against central differences, and by their properties."""

import dataclasses
from functools import cache

import numpy as np
import pytest

from lstm_xp import LSTM, Cell, lstm, lstm_vjp
from lstm_xp._seams import scan
from lstm_xp._seams.namespace import to_numpy
from tests.support import layer_oracle
from tests.support.backends import BOTH, params
from tests.support.layers import EVERYTHING, STACKS, Stack, given_marks, leaves, mapped, problem

FORWARD = {"float64": 1e-12, "float32": 2e-5}


def on(bench, tree):
    """Move numbers to the workbench's library: reals in its dtype, marks and lengths as they are."""
    return mapped(lambda a: bench.array(a) if a.dtype.kind == "f" else bench.place.asarray(np.array(a)), tree)


def expected(x, layers, state, options):
    cells = options["cell"] if isinstance(options["cell"], tuple) else (options["cell"],) * len(layers)
    return layer_oracle.lstm(x, layers, state, cells, *given_marks(options, *x.shape[:2]))


def _stacks(backend, dtype):
    """A lazy library runs one direction that has every line of the equations, and a length of two.

    JAX compiles each stack anew, so its four rounds share them.
    """
    if backend.lazy:
        return ["small"]
    if backend.library == "JAX":
        if dtype == "float32":
            return ["uniform"]
        return ["marks", "everything"] if backend.jit else ["sizes", "coupled input", "a cell each", "everything"]
    return list(STACKS)


def on_each(fixture, dtypes):
    """Return the decorator of a test that runs on each library with each of its stacks."""
    cases = []
    for param in params(dtypes):
        ((backend, dtype),) = param.values
        for name in _stacks(backend, dtype):
            slow = [pytest.mark.slow] * (backend.library == "JAX" and name != "coupled input")
            cases.append(pytest.param(*param.values, name, id=f"{param.id}-{name}", marks=[*param.marks, *slow]))
    return pytest.mark.parametrize((fixture, "name"), cases, indirect=[fixture])


def _length(bench):
    return 2 if bench.backend.lazy else 5


@cache
def solved(name, T):
    """Return a problem, and what the oracle gives for it: y, the last state and the trace."""
    arrays = problem(STACKS[name], T=T)
    return arrays, expected(*arrays)


@on_each("bench", BOTH)
def test_every_library_against_the_oracle(bench, name):
    (x, layers, state, options), (y, last, traces) = solved(name, _length(bench))
    cell, marks = options["cell"], {mark: array for mark, array in options.items() if mark != "cell"}

    def run(x, layers, state, marks, **how):
        return lstm(x, layers, state, cell=cell, **marks, **how)

    arrays = on(bench, (x, layers, state, marks))
    for engine in ("auto", "xp")[: 1 if bench.backend.lazy else 2]:
        got_y, got_last = bench.call(lambda *a, e=engine: run(*a, engine=e), *arrays)
        bench.assert_close(got_y, y, atol=FORWARD[bench.dtype])
        for got, wanted in zip(got_last, last, strict=True):
            for a, b in zip(got, wanted, strict=True):
                bench.assert_close(a, b, atol=FORWARD[bench.dtype])
    _, _, got_traces = bench.call(lambda *a: run(*a, trace=True), *arrays)
    for got_layer, layer in zip(got_traces, traces, strict=True):
        for got, trace in zip(got_layer, layer, strict=True):
            for part, a, wanted in zip("ifgoch", got, trace, strict=True):
                if part in "if" and cell not in (Cell(), EVERYTHING):
                    continue  # coupled gates: the trace shows the gate itself, see test_trace_of_coupled_gates
                bench.assert_close(a, wanted, atol=FORWARD[bench.dtype])


@pytest.mark.parametrize("name", [name for name, stack in STACKS.items() if stack.cell == Cell()])
def test_no_cell_is_the_plain_cell(name):
    """The default is recognised by its identity on the fast path; an equal cell must compute the same."""
    x, layers, state, options = problem(STACKS[name])
    del options["cell"]
    results = [lstm_vjp(x, layers, state, **options, **cell) for cell in ({}, {"cell": Cell()})]
    trees = [(result, vjp(result[0])) for result, vjp in results]
    for a, b in zip(*map(leaves, trees), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-14)


def _doubled(a):
    return 2.0 * a


@on_each("float64", ("float64",))
def test_every_library_has_the_gradient(float64, name):
    """The gradient on NumPy stands against central differences below; here the others stand against NumPy."""
    x, layers, state, options = problem(STACKS[name], T=_length(float64))
    cell = options.pop("cell")

    def run(x, layers, state, marks):
        (y, last), vjp = lstm_vjp(x, layers, state, cell=cell, **marks)
        return vjp(2.0 * y, mapped(_doubled, last))

    wanted = run(x, layers, state, options)
    got = float64.call(run, *on(float64, (x, layers, state, options)))
    for a, b in zip(leaves(got), leaves(wanted), strict=True):
        # The slope of elu is an exponential.
        coarse = float64.backend.coarse_exp and name == "a cell each"
        float64.assert_close(a, b, atol=1e-7 if coarse else 1e-11)


@pytest.mark.parametrize("name", STACKS)
@pytest.mark.parametrize("coupled", [None, "forget", "input"])
def test_gradient_against_central_differences(name, coupled):
    x, layers, state, options = problem(STACKS[name])
    if coupled:
        if isinstance(options["cell"], tuple):
            pytest.skip("one cell is enough to vary")
        options["cell"] = dataclasses.replace(options["cell"], coupled=coupled)
    rng = np.random.default_rng(1)
    inputs = (x, layers, state)
    (y, last), vjp = lstm_vjp(*inputs, **options)
    dy, dlast = mapped(lambda a: rng.standard_normal(a.shape), (y, last))
    direction = mapped(lambda a: rng.standard_normal(a.shape), inputs)

    def loss(step):
        moved = iter([a + step * v for a, v in zip(leaves(inputs), leaves(direction), strict=True)])
        y, last = lstm(*mapped(lambda _: next(moved), inputs), **options)
        return sum(np.sum(a * d) for a, d in zip(leaves((y, last)), leaves((dy, dlast)), strict=True))

    step = 1e-6
    numeric = (loss(step) - loss(-step)) / (2 * step)
    exact = sum(np.sum(g * v) for g, v in zip(leaves(vjp(dy, dlast)), leaves(direction), strict=True))
    assert exact == pytest.approx(numeric, rel=1e-7, abs=1e-8)


ACTIVATIONS = (
    "sigmoid",
    "tanh",
    "relu",
    "hard_sigmoid",
    ("hard_sigmoid", 1 / 6, 0.5),
    ("affine", 0.5, 0.1),
    "leaky_relu",
    ("thresholded_relu", 0.3, 0.0),
    ("scaled_tanh", 1.7, 0.6),
    ("elu", 0.7, 0.0),
    "softsign",
    "softplus",
)


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
@pytest.mark.parametrize("place", ["gate_activation", "candidate_activation", "output_activation"])
def test_activations(place, activation):
    """Values against the definitions, and the gradient against torch's autograd."""
    torch = pytest.importorskip("torch")
    stack = Stack(((3, 0, 1),), Cell(**{place: activation}))
    x, layers, state, options = problem(stack)
    y, _, _ = expected(x, layers, state, options)
    (got, _), vjp = lstm_vjp(x, layers, state, **options)
    np.testing.assert_allclose(got, y, atol=1e-12)
    tensors = mapped(lambda a: torch.tensor(a, requires_grad=True), (x, layers, state))
    y, _ = lstm(*tensors, **options)
    gradients = torch.autograd.grad((y**2).sum(), leaves(tensors))
    for a, b in zip(leaves(vjp(2 * got)), gradients, strict=True):
        np.testing.assert_allclose(a, b.numpy(), atol=1e-12)


class Cube:
    """A function of a user, with its derivative."""

    def __call__(self, x, xp):
        return xp.tanh(x * x * x)

    def derivative(self, x, xp):
        return 3 * x * x * (1 - xp.tanh(x * x * x) ** 2)


def test_activation_of_the_user():
    x, layers, state, options = problem(Stack(((3, 0, 1),), Cell(candidate_activation=Cube())))
    (y, _), vjp = lstm_vjp(x, layers, state, **options)
    dx, _, _ = vjp(2 * y)
    step = 1e-6 * np.eye(x.size)[4].reshape(x.shape)
    up, down = (np.sum(lstm(x + s, layers, state, **options)[0] ** 2) for s in (step, -step))
    assert dx.flatten()[4] == pytest.approx((up - down) / 2e-6, rel=1e-6)
    with pytest.raises(ValueError, match=r"`cell.output_activation` must have a method `derivative\(x, xp\)`"):
        lstm_vjp(x, layers, state, cell=Cell(output_activation=lambda x, xp: xp.sin(x)))


def test_trace_of_coupled_gates():
    """What the trace shows is what the equation used: i + f = 1."""
    for coupled in ("forget", "input"):
        x, layers, state, _ = problem(STACKS["uniform"])
        _, _, trace = lstm(x, layers, state, cell=Cell(coupled=coupled), trace=True)
        np.testing.assert_allclose(trace[0][1].i + trace[0][1].f, 1, atol=1e-15)


@pytest.mark.parametrize("library", ["torch", pytest.param("jax.numpy", marks=pytest.mark.slow)])
def test_ten_steps_of_training_end_at_the_same_weights(library):
    asarray = pytest.importorskip(library).asarray
    x, layers, state, options = problem(STACKS["everything"])

    def train(arrays):
        x, layers, state, marks = arrays
        for _ in range(10):
            (y, _), vjp = lstm_vjp(x, layers, state, cell=options["cell"], **marks)
            _, gradients, _ = vjp(2 * (y - 0.1))
            descended = iter([w - 0.1 * g for w, g in zip(leaves(layers), leaves(gradients), strict=True)])
            layers = mapped(lambda _, new=descended: next(new), layers)
        return leaves(layers)

    marks = {name: mark for name, mark in options.items() if name != "cell"}
    problem_ = (x, layers, state, marks)
    wanted = train(problem_)
    assert max(np.max(np.abs(a - b)) for a, b in zip(wanted, leaves(layers), strict=True)) > 1e-2
    for a, b in zip(train(mapped(asarray, problem_)), wanted, strict=True):
        np.testing.assert_allclose(np.asarray(a), b, atol=1e-12)


# Properties

MARKED = STACKS["everything"]


@pytest.mark.parametrize("name", ["plain", "everything"])
def test_fewer_steps_at_a_time_change_no_number(monkeypatch, name):
    """NumPy prepares fewer of them the larger a state is."""
    x, layers, state, options = problem(STACKS[name], T=34)

    def run():
        (y, last), vjp = lstm_vjp(x, layers, state, **options)
        return leaves((y, last, vjp(np.cos(y), last)))

    seen = []
    cut = scan._cut
    monkeypatch.setattr(scan, "_cut", lambda x, steps, xp: seen.append(steps) or cut(x, steps, xp))
    wanted = run()
    numbers = sum(a.size for a in (state[0].h[0], state[0].c[0]))
    monkeypatch.setattr(scan, "_CACHED", 3 * numbers)
    for a, b in zip(run(), wanted, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-13)
    assert set(seen) == {scan.BLOCK, 3}


def test_lengths_are_the_mask_of_the_first_steps():
    x, layers, state, options = problem(STACKS["lengths"])
    mask, _ = given_marks(options, *x.shape[:2])
    for a, b in zip(leaves(lstm(x, layers, state, **options)), leaves(lstm(x, layers, state, mask=mask)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_time_major():
    x, layers, state, options = problem(MARKED)
    swapped = {name: np.swapaxes(mark, 0, 1) if name in ("mask", "reset") else mark for name, mark in options.items()}
    a = lstm(x, layers, state, **options, trace=True)
    b = lstm(np.swapaxes(x, 0, 1), layers, state, **swapped, trace=True, time_major=True)
    np.testing.assert_array_equal(a[0], np.swapaxes(b[0], 0, 1))
    np.testing.assert_array_equal(a[2][1][0].c, np.swapaxes(b[2][1][0].c, 0, 1))
    (y, _), vjp = lstm_vjp(x, layers, state, **options)
    (y2, _), vjp2 = lstm_vjp(np.swapaxes(x, 0, 1), layers, state, **swapped, time_major=True)
    np.testing.assert_allclose(vjp(y)[0], np.swapaxes(vjp2(y2)[0], 0, 1), atol=1e-15)


@pytest.mark.parametrize(("B", "T"), [(0, 3), (2, 0), (0, 0), (1, 1)])
def test_empty_and_single(bench, B, T):
    slow = bench.backend.name == "ndonnx"
    if slow and T > 1:
        pytest.skip("slow, and the sizes are the same")
    x, layers, state, _ = problem(STACKS["plain" if slow else "uniform"], B=B, T=T)
    y, last, _ = expected(x, layers, state, {"cell": Cell()})
    got, got_last = bench.call(lambda *a: lstm(*a), *on(bench, (x, layers, state)))
    bench.assert_close(got, y, atol=FORWARD[bench.dtype])
    bench.assert_close(got_last[-1].c, last[-1][1], atol=FORWARD[bench.dtype])
    if bench.dtype == "float64" and not slow:

        def gradients(x, layers, state):
            (y, _), vjp = lstm_vjp(x, layers, state)
            return vjp(y)

        got = leaves(bench.call(gradients, *on(bench, (x, layers, state))))
        for g, a in zip(got, leaves((x, layers, state)), strict=True):
            assert tuple(g.shape) == a.shape


@pytest.mark.parametrize(("library", "dtype"), [
    ("numpy", "float16"), ("torch", "float16"), ("torch", "bfloat16"),
    pytest.param("jax", "float16", marks=pytest.mark.slow), pytest.param("jax", "bfloat16", marks=pytest.mark.slow),
])  # fmt: skip
def test_half_precision_stays(library, dtype):
    xp = pytest.importorskip({"jax": "jax.numpy"}.get(library, library))
    model = LSTM.init(3, 4, num_layers=2, bidirectional=True, rng=0)
    half = model.to(xp, dtype=getattr(xp, dtype))
    x = np.random.default_rng(0).standard_normal((2, 5, 3)).astype("float32")
    x_half = half.layers[0].forward.weight_ih
    x_half = xp.asarray(x).to(x_half.dtype) if library == "torch" else xp.asarray(x, dtype=x_half.dtype)
    wanted, _ = model(x)
    for engine in ("auto", "xp"):
        y, state = half(x_half, engine=engine)
        assert {a.dtype for a in leaves((y, state))} == {x_half.dtype}
        got = y.float().detach().numpy() if library == "torch" else np.asarray(y).astype("float32")
        np.testing.assert_allclose(got, wanted, atol=3e-2 if dtype == "bfloat16" else 4e-3)


def test_step_is_one_step(bench):
    if bench.backend.jit:
        pytest.skip("the step inside jit is tested with the record")
    stack = Stack(((3, 2, 1), (4, 0, 1)), EVERYTHING, peephole=True)
    T = 1 if bench.backend.lazy else 2
    x, layers, state, _ = problem(stack, T=T)
    cell = (EVERYTHING, dataclasses.replace(EVERYTHING, proj_clip=None))
    x, layers, state = on(bench, (x, layers, state))
    model = LSTM(layers, cell)
    y, last = lstm(x, layers, state, cell=cell)
    for t in range(T):
        y_t, state = model.step(x[:, t, :], state)
        bench.assert_close(y_t, to_numpy(y[:, t, :]), atol=FORWARD[bench.dtype])
    for a, b in zip(leaves(state), leaves(last), strict=True):
        bench.assert_close(a, to_numpy(b), atol=FORWARD[bench.dtype])


def test_inputs_are_not_written_into():
    arrays = problem(MARKED)
    before = mapped(np.copy, arrays[:3])
    (y, _), vjp = lstm_vjp(*arrays[:3], **arrays[3])
    vjp(y)
    for a, b in zip(leaves(arrays[:3]), leaves(before), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("library", ["numpy", "torch", "array_api_strict"])
@pytest.mark.parametrize(
    ("name", "T"), [(name, T) for name in STACKS for T in (0, 1, 5) if T or not STACKS[name].lengths]
)
def test_results_are_the_callers_own(name, T, library):
    """To change one in its place changes no other one, no input, and no gradient."""
    asarray = pytest.importorskip(library).asarray
    x, layers, state, options = problem(STACKS[name], T=T)
    cell, marks = options.pop("cell"), mapped(asarray, options)
    inputs = mapped(asarray, (x, layers, state))
    results = [lstm(*inputs, cell=cell, **marks, **how) for how in ({}, {"engine": "xp"}, {"trace": True})]
    if T == 1 and not marks and all(layer.forward is not None and layer.backward is None for layer in layers):
        results.append(LSTM(inputs[1], cell).step(inputs[0][:, 0, :], inputs[2]))
    result, vjp = lstm_vjp(*inputs, cell=cell, **marks, trace=True)
    dy = asarray(np.ones(tuple(result[0].shape)))
    gradients = vjp(dy)
    for each in (*results, (result, gradients)):
        mine = [np.asarray(a) for a in leaves(each)]
        given = [np.asarray(a) for a in leaves((inputs, marks))]
        for k, a in enumerate(mine):
            assert not any(np.shares_memory(a, b) for b in mine[k + 1 :] + given)
    for a in leaves(result):
        a[...] = 7.0
    for a, b in zip(leaves(vjp(dy)), leaves(gradients), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
