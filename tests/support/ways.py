"""The ways from inputs to results and gradients that a library has, and a row of options held to the oracle by each."""

from functools import lru_cache

import numpy as np

from lstm_xp import LSTM, lstm, lstm_vjp
from tests.support import layer_oracle
from tests.support.layers import leaves, mapped
from tests.support.options import problem_of, swapped

FORWARD = {"float64": 1e-12, "float32": 2e-5}
GRADIENT = {"float64": 1e-11, "float32": 2e-4}


def oracle(row, inputs, options):
    """Return what `lstm` has to return, the trace only where the row has it."""
    y, last, traces = layer_oracle.lstm(*inputs, **options)
    return (y, last, traces) if row.trace == "yes" else (y, last)


@lru_cache(128)
def posed(row, seed=0):
    """Return the arrays of a problem, its options, and gradients of y and of the last state to feed back."""
    *inputs, options = problem_of(row, seed)
    y, last = oracle(row, inputs, options)[:2]
    rng = np.random.default_rng(seed + 1)
    dy, dlast = mapped(lambda a: rng.standard_normal(a.shape), (y, last))
    return tuple(inputs), options, dy, dlast if row.last == "yes" else mapped(np.zeros_like, dlast)


@lru_cache(128)
def solved(row, seed=0):
    """Return what `lstm` has to give, from the oracle, and the gradients of the inputs on NumPy in float64."""
    inputs, options, dy, dlast = posed(row, seed)
    _, vjp = lstm_vjp(*inputs, **options)
    return oracle(row, inputs, options), vjp(dy, dlast)


# Each takes the inputs, the gradients to feed back and the options of the call, and returns what `lstm` gives, and the
# gradients of the inputs if the way has some.


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
    return torch_autograd(inputs, dy, dlast, options | {"engine": "xp", "checkpoint": None})


def jax_autograd(inputs, dy, dlast, options):
    import jax

    def run(*inputs):
        result = lstm(*inputs, **options)
        return result[:2], result

    (_, last), vjp, result = jax.vjp(run, *inputs, has_aux=True)
    return result, vjp((dy, mapped(jax.numpy.zeros_like, last) if dlast is None else dlast))


_WAYS = {
    "PyTorch": (plain, written_gradient, torch_autograd, torch_autograd_of_the_equations),
    "JAX": (plain, written_gradient),
    "jax-jit": (jax_autograd,),
}


def hold(bench, row, *, seed=0, gradients=True):
    """Hold what a library gives for a row, by each of its ways, to the oracle; and its gradients, to those of NumPy."""
    (x, layers, state), options, dy, dlast = posed(row, seed)
    (y, last, *trace), (dx, *others) = solved(row, seed)
    cell, marks = options["cell"], {name: mark for name, mark in options.items() if name != "cell"}
    if row.time == "first":
        x, y, dy, trace, dx = mapped(swapped, (x, y, dy, tuple(trace), dx))
        marks = {name: mark if name == "lengths" else swapped(mark) for name, mark in marks.items()}
    how = {"cell": cell, "time_major": row.time == "first", "trace": row.trace == "yes"}
    if row.checkpoint == "yes" and not trace:
        how["checkpoint"] = 1 + row.steps // 3  # the last segment is shorter than the others
    arrays = bench.tree(((x, layers, state), dy, dlast if row.last == "yes" else None, marks))
    inexact = bench.backend.coarse_exp and row.activations in ("others", "callable")
    precision = "float32" if inexact else bench.dtype
    ways = _WAYS.get(bench.backend.name, _WAYS.get(bench.backend.library, (plain, written_gradient)))
    short = row.steps == 1 and row.directions == "forward" and not marks and not trace
    for way in (*ways, *[step] * short):
        result, found = bench.call(lambda i, dy, dlast, m, way=way: way(i, dy, dlast, m | how), *arrays)
        _close(bench, result, (y, last, *trace), FORWARD[precision])
        if found is not None and gradients:
            whole = state is not None or way is written_gradient
            _close(bench, found, (dx, *others) if whole else (dx, others[0]), GRADIENT[precision])


def _close(bench, got, wanted, atol):
    for a, b in zip(leaves(tuple(got)), leaves(wanted), strict=True):
        bench.assert_close(a, b, atol=atol * max(1.0, np.max(np.abs(b), initial=0.0)))
