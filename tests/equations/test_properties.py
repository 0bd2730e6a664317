"""Properties of `lstm` and `lstm_vjp` that hold whatever the numbers are."""

import numpy as np
import pytest

from lstm_xp import Layer, LSTMState, lstm, lstm_vjp
from tests.support.layers import STACKS, Stack, given_marks, leaves, mapped, problem

pytest.importorskip("hypothesis")

from hypothesis import given, settings
from hypothesis import strategies as st

MARKED = STACKS["everything"]


@settings(max_examples=25, deadline=None)
@given(cut=st.integers(0, 6), seed=st.integers(0, 2**16))
def test_a_sequence_cut_and_resumed_equals_the_whole(cut, seed):
    stack = Stack(((3, 2, 1), (2, 0, 1)), peephole=True, mask=True, reset=True)
    x, layers, state, options = problem(stack, T=6, seed=seed)
    cell = options.pop("cell")
    whole, last = lstm(x, layers, state, cell=cell, **options)
    parts = []
    for piece in (slice(None, cut), slice(cut, None)):
        y, state = lstm(x[:, piece], layers, state, cell=cell, **{k: m[:, piece] for k, m in options.items()})
        parts.append(y)
    np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, atol=1e-14)
    for a, b in zip(leaves(state), leaves(last), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-14)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**16), bad=st.sampled_from([np.nan, np.inf, 1e300]))
def test_padding_never_matters(seed, bad):
    x, layers, state, options = problem(MARKED, seed=seed)
    mask, reset = given_marks(options, *x.shape[:2])
    (y, last), vjp = lstm_vjp(x, layers, state, **options)
    dirty = np.where(mask[:, :, None], x, bad)
    other = options | {"reset": np.where(mask, reset, ~reset)}
    (y2, last2), vjp2 = lstm_vjp(dirty, layers, state, **other)
    assert np.all(y[~mask] == 0)
    dy = np.where(mask[:, :, None], np.ones_like(y), bad)
    for a, b in zip(leaves((y, last, vjp(np.ones_like(y)))), leaves((y2, last2, vjp2(dy))), strict=True):
        np.testing.assert_array_equal(a, b)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**16))
def test_permuting_hidden_units_permutes_the_output(seed):
    x, layers, state, _ = problem(Stack(((4, 0, 1),), peephole=True), seed=seed)
    p = np.random.default_rng(seed).permutation(4)
    w, s = layers[0].forward, state[0]
    rows = np.concatenate([p + 4 * k for k in range(4)])
    permuted = w._replace(
        weight_ih=w.weight_ih[rows],
        weight_hh=w.weight_hh[rows][:, p],
        bias=w.bias[rows],
        peephole=w.peephole[rows[:12]],
    )
    y, _ = lstm(x, layers, state)
    y2, _ = lstm(x, (Layer(permuted),), (LSTMState(s.h[:, :, p], s.c[:, :, p]),))
    np.testing.assert_allclose(y2, y[:, :, p], atol=1e-14)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**16))
def test_batching_equals_stacking(seed):
    x, layers, state, options = problem(MARKED, seed=seed)
    y, _ = lstm(x, layers, state, **options)
    cell = options.pop("cell")
    for b in range(x.shape[0]):
        one = {name: mark[b : b + 1] for name, mark in options.items()}
        alone, _ = lstm(x[b : b + 1], layers, mapped(lambda a, b=b: a[:, b : b + 1], state), cell=cell, **one)
        np.testing.assert_allclose(alone[0], y[b], atol=1e-14)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**16))
def test_reversing_twice_is_the_identity(seed):
    x, layers, state, options = problem(Stack(((3, 2, 1),), mask=True, reset=True), seed=seed)
    y, last = lstm(x, layers, state, **options)
    flipped = {name: mark[:, ::-1] for name, mark in options.items() if name != "cell"}
    y2, last2 = lstm(x[:, ::-1], (Layer(None, layers[0].forward),), state, **flipped)
    np.testing.assert_array_equal(y2[:, ::-1], y)
    np.testing.assert_array_equal(last2[0].h, last[0].h)
