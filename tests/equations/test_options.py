"""All options of `lstm` and `lstm_vjp` together, in pairs, forward and gradient, on every library."""

from functools import cache

import numpy as np
import pytest

from lstm_xp import LSTM, lstm, lstm_vjp
from tests.support import layer_oracle
from tests.support.backends import params
from tests.support.layers import leaves, mapped
from tests.support.options import FOR_KERNELS, OF_ONE_STEP, OPTIONS, SHORT, covering, problem_of, shares, swapped

SEQUENCES, KERNELS, STEPS = map(covering, (OPTIONS, FOR_KERNELS, OF_ONE_STEP))
(SHORTS,) = shares(covering(SHORT), 1)
ROWS = list(dict.fromkeys((*SEQUENCES, *KERNELS, *STEPS)))

FORWARD = {"float64": 1e-12, "float32": 2e-5}
GRADIENT = {"float64": 1e-11, "float32": 2e-4}


def oracle(row, inputs, options):
    """Return what `lstm` has to return, the trace only where the row has it."""
    y, last, traces = layer_oracle.lstm(*inputs, **options)
    return (y, last, traces) if row.trace == "yes" else (y, last)


@cache
def posed(row):
    """Return the arrays of a problem, its options, and gradients of y and of the last state to feed back."""
    *inputs, options = problem_of(row)
    y, last = oracle(row, inputs, options)[:2]
    rng = np.random.default_rng(1)
    dy, dlast = mapped(lambda a: rng.standard_normal(a.shape), (y, last))
    return tuple(inputs), options, dy, dlast if row.last == "yes" else mapped(np.zeros_like, dlast)


@cache
def solved(row):
    """Return what `lstm` has to give, from the oracle, and the gradients of the inputs on NumPy in float64."""
    inputs, options, dy, dlast = posed(row)
    _, vjp = lstm_vjp(*inputs, **options)
    return oracle(row, inputs, options), vjp(dy, dlast)


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_the_gradient_is_that_of_the_oracle(row):
    """Along one direction in the space of all inputs: by central differences of what has no gradient of its own."""
    inputs, options, dy, dlast = posed(row)
    rng = np.random.default_rng(2)
    direction = mapped(lambda a: rng.standard_normal(a.shape), inputs)

    def loss(step):
        moved = iter([a + step * v for a, v in zip(leaves(inputs), leaves(direction), strict=True)])
        y, last = oracle(row, mapped(lambda _: next(moved), inputs), options)[:2]
        return sum(np.sum(a * d) for a, d in zip(leaves((y, last)), leaves((dy, dlast)), strict=True))

    _, (dx, dlayers, dstate) = solved(row)
    gradients = leaves((dx, dlayers, dstate if inputs[2] is not None else None))
    exact = sum(np.sum(g * v) for g, v in zip(gradients, leaves(direction), strict=True))
    assert exact == pytest.approx((loss(1e-6) - loss(-1e-6)) / 2e-6, rel=1e-7, abs=1e-7)


# The ways: each takes the inputs, the gradients to feed back and the options of the call, and returns what `lstm` gives
# and the gradients of the inputs, if the way has some.


def plain(inputs, dy, dlast, options):
    return lstm(*inputs, **options), None


def written_gradient(inputs, dy, dlast, options):
    result, vjp = lstm_vjp(*inputs, **options)
    return result, vjp(dy, dlast)


def step(inputs, dy, dlast, options):
    x, layers, state = inputs
    time = 0 if options["time_major"] else 1
    y, last = LSTM(layers, options["cell"]).step(x[0, :, :] if time == 0 else x[:, 0, :], state)
    return (y[None, :, :] if time == 0 else y[:, None, :], last), None


def torch_autograd(inputs, dy, dlast, options):
    import torch

    inputs = mapped(lambda a: a.clone().requires_grad_(), inputs)
    result = lstm(*inputs, **options)
    weights = [dy, *leaves(mapped(torch.zeros_like, result[1]) if dlast is None else dlast)]
    gradients = iter(torch.autograd.grad(leaves(result[:2]), leaves(inputs), weights))
    return mapped(torch.Tensor.detach, tuple(result)), mapped(lambda _: next(gradients), inputs)


def torch_autograd_of_the_equations(inputs, dy, dlast, options):
    return torch_autograd(inputs, dy, dlast, options | {"engine": "xp"})


def jax_autograd(inputs, dy, dlast, options):
    import jax

    def run(*inputs):
        result = lstm(*inputs, **options)
        return result[:2], result

    (_, last), vjp, result = jax.vjp(run, *inputs, has_aux=True)
    return result, vjp((dy, mapped(jax.numpy.zeros_like, last) if dlast is None else dlast))


WAYS = {
    "PyTorch": (plain, written_gradient, torch_autograd, torch_autograd_of_the_equations),
    "JAX": (plain, written_gradient),
    "jax-jit": (jax_autograd,),
}


def on_each():
    """Return the decorator of a test that gets each library with its rows.

    Each sees each value, and those that are quick each pair. JAX compiles each row anew: it sees others inside `jit`.
    """
    once, others = shares(SEQUENCES, 2)
    of = {"numpy": ROWS, "torch": ROWS, "strict": SEQUENCES + STEPS, "mlx": SEQUENCES + STEPS, "jax-jit": others}
    cases = []
    for param in params():
        ((backend, dtype),) = param.values
        rows = SHORTS if backend.lazy else of.get(backend.name, once)
        marks = [*param.marks, *[pytest.mark.slow] * (backend.library == "JAX")]
        cases += [
            pytest.param(*param.values, row, id=f"{backend.name} {row}", marks=marks)
            for row in rows
            if row.dtype == dtype or len(backend.dtypes) == 1
        ]
    return pytest.mark.parametrize(("bench", "row"), cases, indirect=["bench"])


@on_each()
def test_every_library_on_every_option(bench, row):
    inputs, options, dy, dlast = posed(row)
    (y, last, *trace), gradients = solved(row)
    cell, marks = options["cell"], {name: mark for name, mark in options.items() if name != "cell"}
    x, layers, state = inputs
    if row.time == "first":
        x, y, dy, trace, dx = mapped(swapped, (x, y, dy, tuple(trace), gradients[0]))
        marks = {name: mark if name == "lengths" else swapped(mark) for name, mark in marks.items()}
        gradients = (dx, *gradients[1:])
    how = {"cell": cell, "time_major": row.time == "first", "trace": row.trace == "yes"}
    arrays = bench.tree(((x, layers, state), dy, dlast if row.last == "yes" else None, marks))
    inexact = bench.backend.coarse_exp and row.activations in ("others", "callable")
    precision = "float32" if inexact else bench.dtype
    ways = WAYS.get(bench.backend.name, WAYS.get(bench.backend.library, (plain, written_gradient)))
    for way in (*ways, *[step] * (row.steps == 1 and row.directions == "forward" and not marks and not trace)):
        result, found = bench.call(lambda i, dy, dlast, m, way=way: way(i, dy, dlast, m | how), *arrays)
        assert len(leaves(tuple(result))) == len(leaves((y, last, *trace)))
        for a, b in zip(leaves(tuple(result)), leaves((y, last, *trace)), strict=True):
            bench.assert_close(a, b, atol=FORWARD[precision])
        if found is not None:
            wanted = gradients if state is not None or way is written_gradient else gradients[:2]
            for a, b in zip(leaves(found), leaves(wanted), strict=True):
                bench.assert_close(a, b, atol=GRADIENT[precision])
