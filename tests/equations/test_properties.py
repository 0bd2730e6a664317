"""Properties of `lstm` and `lstm_vjp` that hold whatever the numbers are."""

import numpy as np
import pytest

from lstm_xp import lstm, lstm_vjp
from tests.support.layer_oracle import given_marks
from tests.support.layers import STACKS, Stack, leaves, problem

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
    mask, reset = given_marks(*x.shape[:2], **{name: mark for name, mark in options.items() if name != "cell"})
    (y, last), vjp = lstm_vjp(x, layers, state, **options)
    dirty = np.where(mask[:, :, None], x, bad)
    other = options | {"reset": np.where(mask, reset, ~reset)}
    (y2, last2), vjp2 = lstm_vjp(dirty, layers, state, **other)
    assert np.all(y[~mask] == 0)
    dy = np.where(mask[:, :, None], np.ones_like(y), bad)
    for a, b in zip(leaves((y, last, vjp(np.ones_like(y)))), leaves((y2, last2, vjp2(dy))), strict=True):
        np.testing.assert_array_equal(a, b)
