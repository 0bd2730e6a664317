"""Models to move between formats, and what it means that they are the same."""

import numpy as np

from lstm_xp import LSTM, Cell, Layer, lstm
from tests.support.layers import leaves, mapped

# Each with everything random; what a format may lack is in the name.
MODELS = {
    "plain": LSTM.init(3, 4, rng=0),
    "stack": LSTM.init(3, 4, num_layers=3, rng=1),
    "both": LSTM.init(3, 4, num_layers=2, bidirectional=True, rng=2),
    "no bias": LSTM.init(3, 4, num_layers=2, bias=False, rng=3),
    "projection": LSTM.init(3, 5, num_layers=2, proj_size=2, bidirectional=True, rng=4),
    "peephole": LSTM.init(3, 4, peephole=True, bidirectional=True, rng=5),
    "sizes": LSTM(LSTM.init(3, 4, bidirectional=True, rng=6).layers + LSTM.init(8, 5, rng=7).layers),
    "reverse": LSTM((Layer(None, LSTM.init(3, 4, rng=8).layers[0].forward),)),
    "activations": LSTM(LSTM.init(3, 4, rng=9).layers, Cell("hard_sigmoid", "softsign", "softsign")),
    "candidate": LSTM(LSTM.init(3, 4, rng=16).layers, Cell("sigmoid", "relu", "relu")),
    "clips": LSTM(LSTM.init(3, 5, proj_size=2, rng=10).layers, Cell(cell_clip=0.5, proj_clip=0.1)),
    "coupled": LSTM(LSTM.init(3, 4, rng=11).layers, Cell(coupled="forget", clip=0.7)),
    "cells": LSTM(
        LSTM.init(3, 4, num_layers=2, bidirectional=True, rng=12).layers,
        ((Cell(candidate_activation=("elu", 0.5, 0.0)), Cell()), Cell(clip=1.5)),
    ),
    "double": LSTM.init(3, 4, num_layers=2, rng=13, dtype=np.float64),
    "half": LSTM.init(3, 4, rng=14, dtype=np.float16),
}


def assert_same(got, wanted, *, atol=0.0):
    """Hold arrays, dtypes, structure and cells against what was wanted; a missing bias may have become zeros."""
    assert isinstance(got, LSTM)
    assert len(got.layers) == len(wanted.layers)
    for here, there in zip(got.layers, wanted.layers, strict=True):
        for mine, theirs in zip(here, there, strict=True):
            assert (mine is None) == (theirs is None)
            if mine is None:
                continue
            for part, a, b in zip(mine._fields, mine, theirs, strict=True):
                if part == "bias" and b is None and a is not None:
                    b = np.zeros_like(a)
                assert (a is None) == (b is None), part
                if a is not None:
                    assert type(a) is np.ndarray
                    assert a.dtype == b.dtype
                    np.testing.assert_allclose(a, b, rtol=0, atol=atol, err_msg=part)
    assert run(got) is not None
    np.testing.assert_allclose(run(got), run(wanted), rtol=0, atol=10 * atol)


def run(model, *, seed=0):
    """Return y of random input."""
    first = leaves(model)[0]
    x = np.random.default_rng(seed).standard_normal((2, 5, first.shape[1])).astype(first.dtype)
    return lstm(x, model.layers, cell=model.cell)[0]


def cast(model, dtype):
    """Return the model in another dtype of NumPy."""
    return mapped(lambda a: a.astype(dtype), model)
