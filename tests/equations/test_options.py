"""All options of `lstm` and `lstm_vjp` together, in pairs, forward and gradient, on every library."""

import numpy as np
import pytest

from tests.support.backends import params
from tests.support.layers import leaves, mapped
from tests.support.options import FOR_KERNELS, OF_ONE_STEP, OPTIONS, SHORT, covering, shares
from tests.support.ways import hold, oracle, posed, solved

SEQUENCES, KERNELS, STEPS = map(covering, (OPTIONS, FOR_KERNELS, OF_ONE_STEP))
(SHORTS,) = shares(covering(SHORT), 1)
ROWS = list(dict.fromkeys((*SEQUENCES, *KERNELS, *STEPS)))


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
    hold(bench, row)
