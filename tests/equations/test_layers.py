"""`lstm` and `lstm_vjp`: activations, sizes and dtypes, and whose the results are; test_options.py has the rest."""

import numpy as np
import pytest

from lstm_xp import LSTM, Cell, lstm, lstm_vjp
from lstm_xp._equations import stack
from lstm_xp._seams import scan
from tests.support import layer_oracle
from tests.support.layers import STACKS, Stack, leaves, mapped, model_of, problem

FORWARD = {"float64": 1e-12, "float32": 2e-5}


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
    y, _, _ = layer_oracle.lstm(x, layers, state, **options)
    (got, _), vjp = lstm_vjp(x, layers, state, **options)
    np.testing.assert_allclose(got, y, atol=1e-12)
    tensors = mapped(lambda a: torch.tensor(a, requires_grad=True), (x, layers, state))
    y, _ = lstm(*tensors, **options)
    gradients = torch.autograd.grad((y**2).sum(), leaves(tensors))
    for a, b in zip(leaves(vjp(2 * got)), gradients, strict=True):
        np.testing.assert_allclose(a, b.numpy(), atol=1e-12)


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


@pytest.mark.parametrize(("B", "T"), [(0, 3), (2, 0), (0, 0), (1, 1)])
def test_empty_and_single(bench, B, T):
    slow = bench.backend.name == "ndonnx"
    if slow and T > 1:
        pytest.skip("slow, and the sizes are the same")
    x, layers, state, _ = problem(STACKS["plain" if slow else "uniform"], B=B, T=T)
    y, last, _ = layer_oracle.lstm(x, layers, state)
    got, got_last = bench.call(lambda *a: lstm(*a), *bench.tree((x, layers, state)))
    bench.assert_close(got, y, atol=FORWARD[bench.dtype])
    bench.assert_close(got_last[-1].c, last[-1][1], atol=FORWARD[bench.dtype])
    if bench.dtype == "float64" and not slow:

        def gradients(x, layers, state):
            (y, _), vjp = lstm_vjp(x, layers, state)
            return vjp(y)

        got = leaves(bench.call(gradients, *bench.tree((x, layers, state))))
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


@pytest.mark.parametrize("name", ["plain", "everything"])
def test_float16_of_numpy_is_computed_in_float32(name):
    """Results are those of float32, rounded once."""
    model, x, state, marks = model_of(name, lambda a: a.astype("float16") if a.dtype.kind == "f" else a)
    single = mapped(lambda a: a.astype("float32"), (model, x, state))

    def results(model, x, state):
        result, vjp = lstm_vjp(x, model.layers, state, cell=model.cell, trace=True, **marks)
        dy, dlast = mapped(lambda a: np.ones_like(a) / 4, result[:2])
        step = model.step(x[:, 0], state) if name == "plain" else None
        return leaves((model(x, state, **marks), tuple(result), vjp(dy), vjp(dy, dlast), step))

    for got, wanted in zip(results(model, x, state), results(*single), strict=True):
        assert got.dtype == np.float16
        np.testing.assert_array_equal(got, wanted.astype("float16"))


def test_one_step_takes_the_short_way(monkeypatch):
    """What a sequence prepares for its steps would be most of its cost."""
    ran = []
    step = stack.step
    monkeypatch.setattr(stack, "step", lambda *a, **k: ran.append(1) or step(*a, **k))
    for name, T, marks, short in (
        ("plain", 1, {}, True),
        ("plain", 2, {}, False),
        ("plain", 1, {"reset": np.ones((3, 1), dtype=bool)}, False),
        ("uniform", 1, {}, False),
    ):
        x, layers, state, _ = problem(STACKS[name], T=T)
        for time_major in (False, True):
            turned = [a.swapaxes(0, 1) if time_major else a for a in (x, *marks.values())]
            lstm(turned[0], layers, state, **dict(zip(marks, turned[1:], strict=True)), time_major=time_major)
            assert ran == [1] * short
            ran.clear()


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
