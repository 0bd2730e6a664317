"""A call of a form that has passed the checks goes without them, and nothing else of it is kept."""

import gc
import weakref

import jax
import numpy as np
import pytest
import torch

from lstm_xp import LSTM, _forms, _step, lstm, textbook
from lstm_xp import layers as _network
from lstm_xp._checks import call as _problem
from tests.support import problems
from tests.support.layers import STACKS, leaves, mapped, problem


@pytest.fixture
def passed(monkeypatch):
    """Return the forms that `lstm` has noted: none yet."""
    forms = {}
    monkeypatch.setattr(_network, "_PASSED", forms)
    return forms


def refuse(*_, **__):
    raise AssertionError("checked again")


def test_each_form_is_checked_once(bench, passed, monkeypatch):
    if bench.backend.jit:
        pytest.skip("a second call is not even traced")
    model = LSTM.init(2, 3, rng=0)
    x, layers = mapped(bench.array, (np.ones((2, 1, 2)), model.layers))
    model = LSTM(layers)
    y, state = lstm(x, layers)
    model.step(x[:, 0, :])
    monkeypatch.setattr(_problem, "problem_of", refuse)
    monkeypatch.setattr(_step.Step, "_checked", refuse)
    again, _ = lstm(x, list(layers))
    bench.assert_close(again, bench.place.asnumpy(y), atol=0)
    model.step(x[:, 0, :])
    for other in (
        lambda: lstm(x, layers, state),
        lambda: lstm(x, layers, time_major=True),
        lambda: lstm(x, layers, trace=True),
        lambda: lstm(x[:1, ...], layers),
        lambda: model.step(x[:, 0, :], state),
    ):
        with pytest.raises(AssertionError, match="checked again"):
            other()


def test_each_form_of_the_textbook_functions_is_checked_once(bench, monkeypatch):
    if bench.backend.jit:
        pytest.skip("a second call is not even traced")
    monkeypatch.setattr(textbook, "_PASSED", {})
    inputs, parameters, _ = problems.problem(1, 2)
    x, a0, parameters = bench.array(inputs["x"]), bench.array(inputs["a0"]), bench.arrays(parameters)
    textbook.lstm_forward(x, a0, parameters)
    textbook.lstm_cell(x[:, :, 0], a0, a0, parameters)
    monkeypatch.setattr(textbook, "_check_arrays", refuse)
    textbook.lstm_forward(x, a0, dict(reversed(parameters.items())))
    textbook.lstm_cell(x[:, :, 0], a0, a0, parameters)
    for other in (
        lambda: textbook.lstm_forward(x, a0, parameters, c0=a0),
        lambda: textbook.lstm_forward(x[:, :1, :], a0, parameters),
        lambda: textbook.lstm_cell(x[:, :, 0], a0, a0[:, :1], parameters),
        lambda: textbook.lstm_cell(a0, a0, a0, parameters),
    ):
        with pytest.raises(AssertionError, match="checked again"):
            other()


@pytest.mark.parametrize("make", [np.asarray, torch.asarray, jax.numpy.asarray], ids=["numpy", "torch", "jax"])
def test_no_array_is_kept(make, passed):
    x, layers, state, _ = problem(STACKS["uniform"])
    arrays = mapped(make, (x + 0, layers, state))
    lstm(*arrays)
    assert len(passed) == 1
    alive = [weakref.ref(a) for a in leaves(arrays)]
    del arrays, x, layers, state
    gc.collect()
    assert not [ref for ref in alive if ref() is not None]


def test_the_device_belongs_to_the_form():
    model = LSTM.init(2, 3, rng=0, xp=torch)
    x = torch.ones(1, 2, 2)
    model(x)
    model.step(x[:, 0])
    for call, other in ((model, x.to("meta")), (model.step, x[:, 0].to("meta"))):
        with pytest.raises(TypeError, match=r"must be on the device of .*, (cpu|meta); got (cpu|meta)"):
            call(other)


def test_a_stream_of_lengths_does_not_fill_the_memory(passed, monkeypatch):
    monkeypatch.setattr(_forms, "MOST", 3)
    model = LSTM.init(2, 3, rng=0)
    for T in range(10):
        model(np.ones((1, T, 2), dtype="float32"))
        model.step(np.ones((T, 2), dtype="float32"))
        assert len(passed) <= 3
        assert len(model._step._passed) <= 3


@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")
def test_what_is_known_of_other_libraries_does_not_stop_torch_compile():
    """It cannot follow the hash of an MLX dtype: it must not look at what is kept."""
    import mlx.core as mx

    inputs, parameters, _ = problems.problem(2, 2)
    model, x = LSTM.init(2, 3, rng=0), np.ones((2, 3, 2), dtype="float32")
    for make in (mx.array, torch.asarray):
        x0, a0, *values = map(make, (inputs["x"].astype("f"), inputs["a0"].astype("f"), *parameters.values()))
        values = [v.astype(mx.float32) if make is mx.array else v.float() for v in values]
        textbook.lstm_forward(x0, a0, dict(zip(parameters, values, strict=True)))
        made = LSTM(mapped(make, model.layers))
        made(make(x))
        made.step(make(x)[:, 0])
    x = torch.asarray(x)
    torch.compiler.reset()

    def all_of_them(x, x0, a0, *values):
        y, state = lstm(x, made.layers)
        return y, made.step(x[:, 0], state)[0], textbook.lstm_forward(x0, a0, dict(zip(parameters, values)))[0]  # noqa: B905

    got = torch.compile(all_of_them, fullgraph=True, backend="eager")(x, x0, a0, *values)
    for a, b in zip(got, all_of_them(x, x0, a0, *values), strict=True):
        torch.testing.assert_close(a, b)
