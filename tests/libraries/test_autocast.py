"""`torch.autocast`: a call gives what it gives of arrays in its dtype, whatever path runs."""

from itertools import product

import pytest

from lstm_xp import LSTM, lstm_backward, lstm_forward, lstm_vjp
from tests.support.layers import STACKS, leaves, mapped, model_of
from tests.support.problems import problem

torch = pytest.importorskip("torch")
NARROW = torch.bfloat16


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU here")
    return request.param


def to(dtype, tree):
    return mapped(lambda a: a.to(dtype) if a.is_floating_point() else a, tree)


def problem_on(name, device, **sizes):
    return to(torch.float32, model_of(name, lambda a: torch.tensor(a, device=device), **sizes))


@pytest.mark.parametrize(("name", "T"), [*product(STACKS, (5,)), ("plain", 1), ("sizes", 1)])
@pytest.mark.parametrize("engine", ["auto", "xp"])
def test_every_path_gives_the_dtype(name, T, engine, device):
    model, x, state, marks = problem_on(name, device, T=T)
    narrow, *inputs = to(NARROW, (model, x, state))
    wanted = leaves(narrow(*inputs, engine=engine, **marks))
    for given in (x, x.to(NARROW)):
        with torch.autocast(device, dtype=NARROW):
            got = model(given, state, engine=engine, **marks)
            model(given, got[1], engine=engine, **marks)  # what comes out goes back in
            model(given, [*got[1]], engine=engine, **marks)
        for a, b in zip(leaves(got), wanted, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)
            assert a.dtype == NARROW


def test_one_step_after_another(device):
    model, x, state, _ = problem_on("sizes", device)
    model = LSTM(model.layers[:1])
    state = state[:1]
    with torch.autocast(device, dtype=NARROW):
        y, state = model.step(x[:, 0], state)
        y, state = model.step(x[:, 1].to(NARROW), state)
    assert {a.dtype for a in leaves((y, state))} == {NARROW}


@pytest.mark.parametrize("inside", [True, False])
def test_gradients_have_the_dtypes_of_the_inputs(inside, device):
    """By hand and by autograd, whether they are asked for inside or outside."""
    model, x, state, marks = problem_on("marks", device)
    inputs = mapped(torch.Tensor.requires_grad_, (x, model.layers, state))
    with torch.autocast(device, dtype=NARROW):
        (y, last), vjp = lstm_vjp(*mapped(torch.Tensor.detach, inputs), **marks)
        tracked, _ = model(*inputs[::2], **marks)
        if inside:
            found = vjp(torch.ones_like(y), last), torch.autograd.grad(tracked.sum(), leaves(inputs), allow_unused=True)
    if not inside:
        found = vjp(torch.ones_like(y), last), torch.autograd.grad(tracked.sum(), leaves(inputs), allow_unused=True)
    assert {a.dtype for gradients in found for a in leaves(gradients)} == {torch.float32}


def test_float64_stays(device):
    model, x, state, marks = model_of("marks", lambda a: torch.tensor(a, device=device))
    with torch.autocast(device, dtype=NARROW):
        got = model(x, state, **marks)
    for a, b in zip(leaves(got), leaves(model(x, state, **marks)), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_the_textbook_computes_in_the_dtype_of_its_arrays(device):
    inputs, parameters, _ = (
        {name: torch.tensor(a, dtype=torch.float32, device=device) for name, a in group.items()}
        for group in problem(3, 2)
    )

    def run():
        a, y, c, caches = lstm_forward(inputs["x"], inputs["a0"], parameters)
        return [a, y, c, *lstm_backward(a, caches).values()]

    with torch.autocast(device, dtype=NARROW):
        got = run()
    for a, b in zip(got, run(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
        assert a.dtype == torch.float32


def test_a_device_that_has_no_autocast():
    model, x, _, _ = problem_on("plain", "meta")
    assert model(x, engine="xp")[0].shape == (3, 5, 4)
