"""The functions of the notebook, on every library."""

import json
from fractions import Fraction
from functools import cache
from math import exp
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest

import lstm_xp
from lstm_xp._seams.namespace import to_numpy
from lstm_xp.cli import reference as _reference
from tests.support.backends import params, quick
from tests.support.problems import N_A, N_X, N_Y, PARAMETERS, problem

FIGURES = json.loads((Path(__file__).parents[1] / "data" / "coursera_lstm.json").read_text())

# Largest absolute difference on unit-scale inputs; the gradients are sums over time and batch.
FORWARD = {"float64": 1e-12, "float32": 1e-5}
GRADIENT = {"float64": 1e-11, "float32": 2e-4}
COARSE_EXP = 1e-6


def tolerance(bench, table, name):
    """Return the tolerance for one output; what passed through a coarse exp gets its own."""
    coarse = bench.backend.coarse_exp and name in {"y", "through softmax"}
    return max(table[bench.dtype], COARSE_EXP if coarse else 0)


def parameters_of(inputs):
    return {key: inputs[key] for key in PARAMETERS if key in inputs}


def published(group):
    """Return a group's inputs; where the notebook has no softmax head, one that does not matter."""
    inputs = {name: np.asarray(x) for name, x in FIGURES[group]["inputs"].items()}
    n_a = inputs["Wf"].shape[0]
    return {"Wy": np.zeros((1, n_a)), "by": np.zeros((1, 1))} | inputs


def assert_figures(bench, results, figures):
    """Compare with figures printed as ``name[index]...``."""
    assert figures
    for place, wanted in figures.items():
        name, *indices = place.replace("]", "").split("[")
        got = to_numpy(results[name])[tuple(int(k) for k in indices)]
        digits = 1e-6 if name in {"y", "yt"} and bench.backend.coarse_exp else 6e-9
        np.testing.assert_allclose(np.squeeze(got), wanted, rtol=0, atol=digits, err_msg=place)


def forward(x, a0, c0, parameters):
    return lstm_xp.lstm_forward(x, a0, parameters, c0=c0)


def cell_backward(*args):
    return lstm_xp.lstm_cell_backward(*args)


def backward(da, caches, dy, dc):
    return lstm_xp.lstm_backward(da, caches, dy=dy, dc=dc)


# Numbers that nobody here wrote


@pytest.mark.parametrize("float64", params(("float64",), slow=False), indirect=True)
def test_published_cell(float64):
    inputs = float64.arrays(published("cell"))
    state = (inputs["xt"], inputs["a_prev"], inputs["c_prev"], parameters_of(inputs))
    a_next, c_next, yt, cache = float64.call(lstm_xp.lstm_cell, *state)
    figures = FIGURES["cell"]
    assert_figures(float64, {"a_next": a_next, "c_next": c_next, "yt": yt}, figures["published_forward"])
    gradients = float64.call(lstm_xp.lstm_cell_backward, inputs["da_next"], inputs["dc_next"], cache)
    assert_figures(float64, gradients, figures["published_backward_true_gradient"])


def test_published_forward(float64):
    inputs = float64.arrays(published("lstm_forward"))
    a, y, c, (steps, x) = float64.call(lstm_xp.lstm_forward, inputs["x"], inputs["a0"], parameters_of(inputs))
    assert_figures(float64, {"a": a, "y": y, "c": c, "x": x}, FIGURES["lstm_forward"]["published"])
    assert_figures(float64, {"a": a}, {"a[4][3][6]": 0.17211776753291672})
    assert len(steps) == 7


def test_published_backward(float64):
    inputs = float64.arrays(published("lstm_backward"))
    *_, caches = float64.call(lstm_xp.lstm_forward, inputs["x"], inputs["a0"], parameters_of(inputs))
    gradients = float64.call(lstm_xp.lstm_backward, inputs["da"], caches)
    printed = FIGURES["lstm_backward"]["published"]["v3a and later (current table)"]["values"]
    for wanted in (printed, FIGURES["lstm_backward"]["true_gradient_torch_f64"]):
        assert_figures(float64, gradients, wanted)
    assert gradients["dx"].shape == (3, 10, 4)


# The oracle: first that it is right itself, then everything against it


def test_oracle_has_the_published_numbers():
    inputs = published("lstm_forward")
    zeros = np.zeros_like(inputs["a0"])
    nested = {name: value.tolist() for name, value in inputs.items()}
    a, y, c = (np.asarray(v) for v in _reference.lstm_forward(nested["x"], nested["a0"], zeros.tolist(), nested))
    assert abs(a[4][3][6] - 0.17211776753291672) < 1e-14
    assert abs(y[1][4][3] - FIGURES["lstm_forward"]["published"]["y[1][4][3]"]) < 1e-9
    assert abs(c[1][2][1] - FIGURES["lstm_forward"]["published"]["c[1][2][1]"]) < 1e-9


def oracle_gradients(inputs, parameters, weights):
    """Return every element of every gradient, one complex step each."""
    nested = {name: value.tolist() for name, value in (inputs | parameters).items()}
    nested_weights = {name: value.tolist() for name, value in weights.items()}
    gradients = {}
    for name, value in (inputs | parameters).items():
        flat = np.zeros(value.size)
        for k in range(value.size):
            direction = np.zeros(value.size)
            direction[k] = 1.0
            direction = direction.reshape(value.shape).tolist()
            flat[k] = _reference.directional_derivative(nested, nested_weights, name, direction)
        gradients["d" + name] = flat.reshape(value.shape)
    return gradients


@cache
def solved(T_x):
    """Return a problem, its outputs, and its gradients of a loss on all steps but the last, by the oracle."""
    inputs, parameters, weights = problem(T_x, m=2)
    weights = {name: value[:, :, :-1] for name, value in weights.items()}
    nested = {name: value.tolist() for name, value in (inputs | parameters).items()}
    a, y, c = _reference.lstm_forward(nested["x"], nested["a0"], nested["c0"], nested)
    outputs = {name: np.real(value) for name, value in (("a", a), ("y", y), ("c", c))}
    return inputs, parameters, weights, outputs, oracle_gradients(inputs, parameters, weights)


LONG = 18  # more than a block of time


def test_against_the_oracle(bench):
    """And the inputs are left alone."""
    inputs, parameters, weights, outputs, gradients = solved(3 if bench.backend.lazy else LONG)
    given, parameters_here, weights_here = map(bench.arrays, (inputs, parameters, weights))
    a, y, c, caches = bench.call(forward, given["x"], given["a0"], given["c0"], parameters_here)
    for name, got in (("a", a), ("y", y), ("c", c)):
        bench.assert_close(got, outputs[name], atol=tolerance(bench, FORWARD, name))
    got = bench.call(backward, weights_here["da"], caches, weights_here["dy"], weights_here["dc"])
    assert set(got) == {"dx", "da0", "dc0", *("d" + key for key in PARAMETERS)}
    for name, wanted in gradients.items():
        wanted = wanted[:, :, :-1] if name == "dx" else wanted
        bench.assert_close(got[name], wanted, atol=tolerance(bench, GRADIENT, "through softmax"))
    for before, after in ((inputs, given), (parameters, parameters_here), (weights, weights_here)):
        for name, value in before.items():
            bench.assert_close(after[name], value.astype(bench.dtype), atol=0)


def test_a_loss_on_the_first_steps_only_differentiates_those():
    inputs, parameters, weights, _, gradients = solved(LONG)
    assert np.all(gradients["dx"][:, :, -1] == 0)
    *_, caches = lstm_xp.lstm_forward(inputs["x"], inputs["a0"], parameters, c0=inputs["c0"])
    short = lstm_xp.lstm_backward(weights["da"], caches, dy=weights["dy"], dc=weights["dc"])
    padded = {name: np.pad(value, ((0, 0), (0, 0), (0, 1))) for name, value in weights.items()}
    whole = lstm_xp.lstm_backward(padded["da"], caches, dy=padded["dy"], dc=padded["dc"])
    for name in short:
        wanted = whole[name][:, :, :-1] if name == "dx" else whole[name]
        np.testing.assert_allclose(short[name], wanted, rtol=0, atol=1e-13)


# Shapes


@pytest.mark.parametrize(("T_x", "m"), [(0, 2), (3, 0), (1, 1)], ids=str)
def test_sizes(bench, T_x, m):
    """Every size has the shapes and the numbers of a loop over `lstm_cell`, which NumPy runs in float64."""
    T_x = min(T_x, 1) if bench.backend.lazy else T_x
    inputs, parameters, weights = problem(T_x, m)
    given = bench.arrays(inputs)
    a, y, c, caches = bench.call(forward, given["x"], given["a0"], given["c0"], bench.arrays(parameters))
    wanted = by_hand(inputs, parameters)
    for name, got in (("a", a), ("y", y), ("c", c)):
        bench.assert_close(got, wanted[name], atol=tolerance(bench, FORWARD, name))
    assert len(caches.steps) == T_x
    weights_here = bench.arrays(weights)
    got = bench.call(backward, weights_here["da"], caches, weights_here["dy"], weights_here["dc"])
    for name, gradient in by_hand_backward(inputs, parameters, weights).items():
        bench.assert_close(got[name], gradient, atol=tolerance(bench, GRADIENT, "through softmax"))


@pytest.mark.parametrize(("T_x", "m"), [(15, 1), (16, 1), (33, 2)], ids=str)
@pytest.mark.parametrize("library", ["numpy", "torch", pytest.param("jax.numpy", marks=pytest.mark.slow)])
def test_lengths_around_a_block_of_time(library, T_x, m):
    xp = pytest.importorskip(library)
    inputs, parameters, weights = problem(T_x, m)
    given, parameters_here = ({k: xp.asarray(v) for k, v in group.items()} for group in (inputs, parameters))
    a, *_, caches = lstm_xp.lstm_forward(given["x"], given["a0"], parameters_here, c0=given["c0"])
    np.testing.assert_allclose(np.asarray(a), by_hand(inputs, parameters)["a"], rtol=0, atol=1e-12)
    weights_here = {k: xp.asarray(v) for k, v in weights.items()}
    got = lstm_xp.lstm_backward(weights_here["da"], caches, dy=weights_here["dy"], dc=weights_here["dc"])
    for name, gradient in by_hand_backward(inputs, parameters, weights).items():
        np.testing.assert_allclose(np.asarray(got[name]), gradient, rtol=0, atol=1e-11)


def by_hand(inputs, parameters):
    """Loop over `lstm_cell` the way a student would."""
    a_t, c_t = inputs["a0"], inputs["c0"]
    m, T_x = inputs["x"].shape[1:]
    out = {"a": np.zeros((N_A, m, T_x)), "y": np.zeros((N_Y, m, T_x)), "c": np.zeros((N_A, m, T_x)), "caches": []}
    for t in range(T_x):
        a_t, c_t, y_t, cache = lstm_xp.lstm_cell(inputs["x"][:, :, t], a_t, c_t, parameters)
        out["a"][:, :, t], out["y"][:, :, t], out["c"][:, :, t] = a_t, y_t, c_t
        out["caches"].append(cache)
    return out


def by_hand_backward(inputs, parameters, weights):
    """Loop over `lstm_cell_backward` in reverse, and differentiate the softmax with its full Jacobian."""
    out = by_hand(inputs, parameters)
    m, T_x = inputs["x"].shape[1:]
    total = {"d" + key: np.zeros_like(value) for key, value in parameters.items()}
    total["dx"] = np.zeros((N_X, m, T_x))
    da, dc = np.zeros((N_A, m)), np.zeros((N_A, m))
    for t in reversed(range(T_x)):
        y, dy = out["y"][:, :, t], weights["dy"][:, :, t]
        jacobian = np.einsum("im,ij->ijm", y, np.eye(N_Y)) - np.einsum("im,jm->ijm", y, y)
        dlogits = np.einsum("ijm,im->jm", jacobian, dy)
        total["dWy"] += dlogits @ out["a"][:, :, t].T
        total["dby"] += dlogits.sum(axis=1, keepdims=True)
        da = da + weights["da"][:, :, t] + parameters["Wy"].T @ dlogits
        step = lstm_xp.lstm_cell_backward(da, dc + weights["dc"][:, :, t], out["caches"][t])
        da, dc, total["dx"][:, :, t] = step["da_prev"], step["dc_prev"], step["dxt"]
        for key in total.keys() & step.keys():
            total[key] += step[key]
    return total | {"da0": da, "dc0": dc}


def test_c0_is_zero_by_default(bench):
    inputs, parameters, _ = problem(1 if bench.backend.lazy else 3, 2)
    given, parameters = bench.arrays(inputs), bench.arrays(parameters)
    default = bench.call(lstm_xp.lstm_forward, given["x"], given["a0"], parameters)
    explicit = bench.call(forward, given["x"], given["a0"], bench.array(np.zeros((N_A, 2))), parameters)
    bench.assert_close(default[0], to_numpy(explicit[0]), atol=0)


# Caches


def test_cache_of_a_step_is_the_cache_of_the_cell(bench):
    T_x = 2 if bench.backend.lazy else 3
    inputs, parameters, _ = problem(T_x, 2)
    given, parameters_here = bench.arrays(inputs), bench.arrays(parameters)
    *_, caches = bench.call(forward, given["x"], given["a0"], given["c0"], parameters_here)
    steps, x = caches
    assert len(steps) == T_x
    assert x.shape == (N_X, 2, T_x)
    wanted = by_hand(inputs, parameters)["caches"]
    for t in (-1,) if bench.backend.lazy else (0, 2, -1):
        for got, cell in zip(steps[t][:-1], wanted[t][:-1], strict=True):
            bench.assert_close(got, cell, atol=FORWARD[bench.dtype])
        assert set(steps[t].parameters) == set(PARAMETERS)


def test_cache_order():
    names = ("a_next", "c_next", "a_prev", "c_prev", "ft", "it", "cct", "ot", "xt", "parameters")
    assert lstm_xp.LSTMCache._fields == names


def test_steps_are_a_sequence():
    inputs, parameters, _ = problem(3, 2)
    *_, (steps, _) = lstm_xp.lstm_forward(inputs["x"], inputs["a0"], parameters)
    assert len(list(steps)) == 3
    assert len(steps[1:]) == 2
    np.testing.assert_array_equal(steps[1:][0].xt, inputs["x"][:, :, 1])
    with pytest.raises(IndexError):
        steps[3]
    assert repr(steps) == "LSTMSteps(n_x=3, n_a=4, m=2, T_x=3)"


def test_parameters_may_be_any_mapping_and_hold_more():
    inputs, parameters, _ = problem(2, 2)
    plain = lstm_xp.lstm_forward(inputs["x"], inputs["a0"], parameters)[0]
    more = MappingProxyType(parameters | {"epoch": 3})
    np.testing.assert_array_equal(lstm_xp.lstm_forward(inputs["x"], inputs["a0"], more)[0], plain)


# Whatever the layout of the inputs


LAYOUTS = {
    "fortran": lambda x: x.T.copy().T,
    "strided": lambda x: np.repeat(x, 2, axis=-1)[..., ::2],
    "reversed": lambda x: np.flip(np.flip(x).copy()),
}


@pytest.mark.parametrize(
    ("library", "layout"), [("numpy", "fortran"), ("numpy", "strided"), ("numpy", "reversed"), ("torch", "fortran")]
)
def test_non_contiguous_inputs(library, layout):
    inputs, parameters, weights = problem(17, 3)
    wanted = lstm_xp.lstm_forward(inputs["x"], inputs["a0"], parameters, c0=inputs["c0"])
    wanted_d = lstm_xp.lstm_backward(weights["da"], wanted[-1], dy=weights["dy"], dc=weights["dc"])

    def lay(x):
        x = LAYOUTS[layout](x)
        assert not x.flags.c_contiguous or 1 in x.shape
        if library == "numpy":
            return x
        return pytest.importorskip("torch").from_numpy(x)  # keeps the strides

    x, a0, c0 = (lay(inputs[name]) for name in ("x", "a0", "c0"))
    got = lstm_xp.lstm_forward(x, a0, {key: lay(value) for key, value in parameters.items()}, c0=c0)
    da, dy, dc = (lay(weights[name]) for name in ("da", "dy", "dc"))
    got_d = lstm_xp.lstm_backward(da, got[-1], dy=dy, dc=dc)
    for k in range(3):
        np.testing.assert_allclose(np.asarray(got[k]), wanted[k], rtol=0, atol=1e-13)
    for name, value in wanted_d.items():
        np.testing.assert_allclose(np.asarray(got_d[name]), value, rtol=0, atol=1e-12)


# Numerics


SUBNORMAL = {"float64": 5e-324, "float32": 1e-40}


@pytest.mark.parametrize("scale", [1e4, 0.0, SUBNORMAL], ids=["1e4", "0.0", "subnormal"])
def test_extreme_inputs_are_finite_and_silent(bench, scale):
    """Warnings are errors in this suite, so silence is checked too."""
    scale = SUBNORMAL[bench.dtype] if scale is SUBNORMAL else scale
    inputs, parameters, weights = problem(1 if bench.backend.lazy else 3, 2)
    given = {name: bench.array(scale * np.sign(value)) for name, value in inputs.items()}
    parameters_here = {name: bench.array(scale * np.sign(value)) for name, value in parameters.items()}
    a, y, c, caches = bench.call(forward, given["x"], given["a0"], given["c0"], parameters_here)
    weights_here = bench.arrays(weights)
    gradients = bench.call(backward, weights_here["da"], caches, weights_here["dy"], weights_here["dc"])
    for value in (a, y, c, *gradients.values()):
        assert np.all(np.isfinite(to_numpy(value)))
    assert np.all(np.abs(to_numpy(a)) <= 1)


@quick
def test_sigmoid(bench):
    x = np.asarray([-1e4, -700.0, -30.0, -1.0, -1e-8, 0.0, 1.0, 40.0, 1e4])
    wanted = [_exact_sigmoid(v) for v in np.asarray(x, dtype=bench.dtype).astype(float).tolist()]
    got = lstm_xp.sigmoid(bench.array(x))
    bench.assert_close(got, wanted, atol=1e-6 if bench.backend.coarse_exp else FORWARD[bench.dtype])
    tail = to_numpy(got)[2] / wanted[2]
    assert abs(tail - 1) < (1e-5 if bench.dtype == "float32" or bench.backend.coarse_exp else 1e-13)


def test_gates_of_numpy_are_silent_and_right_at_the_edges(bench):
    """Not even what NumPy calls an underflow, wherever an argument of an exponential could be."""
    if bench.backend.library != "NumPy":
        pytest.skip("no other library raises at what it computes")
    edges = [745.0, 710.0, 709.0, 700.0, 1e4, np.inf]
    z = np.asarray([*edges, *(-e for e in edges), 1e-8, -1e-8, *np.linspace(-40, 40, 32)])
    n_a = z.size
    # Each gate has the same numbers on other rows.
    parameters = {f"W{k}": np.zeros((n_a, n_a + 1)) for k in "fico"} | {f"b{k}": z[:, None] for k in "fico"}
    parameters |= {"Wy": np.zeros((1, n_a)), "by": np.zeros((1, 1))}
    zeros = np.zeros((n_a, 1))
    with np.errstate(all="raise"):
        _, _, _, cache = lstm_xp.lstm_cell(
            *(bench.array(v) for v in (zeros[:1], zeros, zeros)), bench.arrays(parameters)
        )
    exact = np.asarray([_exact_sigmoid(v) for v in z])[:, None]
    for gate in (cache.ft, cache.it, cache.ot):
        bench.assert_close(gate, exact, atol=2e-16 if bench.dtype == "float64" else 1e-7)
    bench.assert_close(cache.cct, np.tanh(z)[:, None], atol=2e-16 if bench.dtype == "float64" else 1e-7)


def _exact_sigmoid(v):
    e = Fraction(exp(-abs(v)))
    return float(1 / (1 + e)) if v >= 0 else float(e / (1 + e))


@quick
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_softmax(bench, axis):
    x = np.asarray([[0.0, 1.0, -1e4, 3.0], [1.0, 1.0, -1e4, -3.0], [2.0, 1.0, -1e4, 0.5]])
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    got = lstm_xp.softmax(bench.array(x), axis=axis)
    bench.assert_close(got, e / e.sum(axis=axis, keepdims=True), atol=tolerance(bench, FORWARD, "y"))


@quick
def test_softmax_of_a_column_far_below_another_one_stays_finite(bench):
    got = lstm_xp.softmax(bench.array([[1e4, -1e4], [1e4, -1e4]]))
    bench.assert_close(got, [[0.5, 0.5], [0.5, 0.5]], atol=1e-6)


HALVES = [
    ("numpy", "float16"),
    ("torch", "float16"),
    ("torch", "bfloat16"),
    pytest.param("jax.numpy", "float16", marks=pytest.mark.slow),
    pytest.param("jax.numpy", "bfloat16", marks=pytest.mark.slow),
    ("mlx.core", "float16"),
    ("mlx.core", "bfloat16"),
]


@pytest.mark.parametrize(("library", "dtype"), HALVES)
def test_half_precision_in_half_precision_out(library, dtype):
    xp = pytest.importorskip(library)
    cast = (lambda x, to: x.to(to)) if library == "torch" else (lambda x, to: x.astype(to))
    inputs, parameters, weights = problem(4, 2)
    wanted = lstm_xp.lstm_forward(inputs["x"], inputs["a0"], parameters)
    wanted_d = lstm_xp.lstm_backward(weights["da"], wanted[-1])

    def half(x):
        return cast(xp.asarray(x.astype("float32")), getattr(xp, dtype))

    def single(x):
        return np.asarray(cast(x, xp.float32))

    x, a0 = half(inputs["x"]), half(inputs["a0"])
    a, y, c, caches = lstm_xp.lstm_forward(x, a0, {key: half(value) for key, value in parameters.items()})
    gradients = lstm_xp.lstm_backward(half(weights["da"]), caches)
    assert {value.dtype for value in (a, y, c, *gradients.values())} == {x.dtype}
    coarse = 0.05 if dtype == "bfloat16" else 0.01
    np.testing.assert_allclose(single(a), wanted[0], rtol=0, atol=coarse)
    np.testing.assert_allclose(single(gradients["dWf"]), wanted_d["dWf"], rtol=0, atol=10 * coarse)
