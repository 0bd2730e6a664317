"""Nothing is taken for granted of another library's dtypes, devices and arrays but that `==` compares them."""

import sys

import numpy as np
import pytest

import lstm_xp
from lstm_xp import LSTM, lstm, lstm_vjp
from lstm_xp._checks.arrays import alike
from tests.support import refusing
from tests.support.layers import STACKS, leaves, mapped
from tests.support.problems import layer_problem, problem


def everything(make):
    """Return all that each public function computes, from arrays as `make` makes them."""
    results = []
    for name in ("plain", "marks", "everything"):
        x, layers, state, options = mapped(make, layer_problem(STACKS[name]))
        cell = options.pop("cell")
        (y, last, trace), vjp = lstm_vjp(x, layers, state, cell=cell, trace=True, **options)
        results += [y, last, trace, vjp(y, last), lstm(x, layers, cell=cell, **options), LSTM(layers, cell)(x)]
    results.append(LSTM(mapped(make, layer_problem(STACKS["plain"])[1])).step(x[:, 0, :]))
    inputs, parameters, gradients = (mapped(make, group) for group in problem(3, 2))
    a, y, c, caches = lstm_xp.lstm_forward(inputs["x"], inputs["a0"], parameters)
    results += [a, y, c, lstm_xp.lstm_backward(gradients["da"], caches, dy=gradients["dy"])]
    *out, cache = lstm_xp.lstm_cell(inputs["x"][:, :, 0], inputs["a0"], inputs["c0"], parameters)
    results += [*out, lstm_xp.lstm_cell_backward(inputs["a0"], inputs["c0"], cache), lstm_xp.softmax(a)]
    return leaves(tuple(results))


def hold(got, wanted, asnumpy):
    assert len(got) == len(wanted)
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_allclose(asnumpy(a), b, rtol=0, atol=1e-12)


def test_dtypes_and_devices_without_hash_order_or_truth():
    hold(everything(refusing.Array), everything(np.asarray), lambda a: a.value)
    model = LSTM(mapped(refusing.Array, layer_problem(STACKS["plain"])[1]))
    with pytest.raises(TypeError, match="`x` must have the dtype of `layers"):
        model(refusing.Array(np.ones((2, 5, 3), dtype="float32")))


def test_devices_without_a_hash(monkeypatch):
    """As CuPy's; array-api-strict itself needs the hash of its own."""
    strict = pytest.importorskip("array_api_strict")
    hashed = strict.Device.__hash__

    def guarded(device):
        if sys._getframe(1).f_globals["__name__"].startswith("lstm_xp"):
            raise TypeError("unhashable type: 'Device'")
        return hashed(device)

    monkeypatch.setattr(strict.Device, "__hash__", guarded)
    hold(everything(strict.asarray), everything(np.asarray), np.asarray)


@pytest.mark.parametrize("library", ["numpy", "torch", "jax.numpy"])
def test_arrays_that_are_alike_are_seen_to_be(library):
    """Or each of them is compared in all that it has, at every step."""
    xp = pytest.importorskip(library)
    assert alike(xp.zeros((2, 3), dtype=xp.float32), xp.ones(4, dtype=xp.float32))
    assert not alike(xp.zeros(2, dtype=xp.float32), xp.zeros(2, dtype=xp.int32))
