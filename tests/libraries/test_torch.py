"""What PyTorch does to functions, done to ours: against the plain result, the gradient of NumPy, or differences."""

import numpy as np
import pytest

import lstm_xp
from tests.support.problems import problem
from tests.support.transforms import case_of, numpy_gradients

torch = pytest.importorskip("torch")
pytestmark = [
    # From array-api-compat, which looks a namespace up in a cache: PyTorch traces through it and says so.
    pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`"),
    # From PyTorch itself, at the first forward-mode derivative or compilation.
    pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning"),
]

case = case_of("PyTorch")


def loss(inputs, parameters, weights):
    a, y, c, _ = lstm_xp.lstm_forward(inputs["x"], inputs["a0"], parameters, c0=inputs["c0"])
    return (a * weights["da"]).sum() + (y * weights["dy"]).sum() + (c * weights["dc"]).sum()


def numpy_of(group):
    return {name: value.detach().cpu().numpy() for name, value in group.items()}


def hand_written(inputs, parameters, weights):
    """Return the gradients of `loss` from NumPy's `lstm_backward`."""
    return numpy_gradients(numpy_of(inputs), numpy_of(parameters), numpy_of(weights))


def assert_gradients(got, wanted):
    for name, gradient in got.items():
        np.testing.assert_allclose(gradient.detach().cpu(), wanted["d" + name], rtol=1e-9, atol=1e-11)


def test_autograd(case):
    inputs, parameters, weights = case
    leaves = {name: value.requires_grad_() for name, value in (inputs | parameters).items()}
    loss(inputs, parameters, weights).backward()
    wanted = hand_written(inputs, parameters, weights)
    assert_gradients({name: value.grad for name, value in leaves.items()}, wanted)


def test_lstm_backward_agrees_with_autograd(case):
    inputs, parameters, weights = case
    *_, caches = lstm_xp.lstm_forward(inputs["x"], inputs["a0"], parameters, c0=inputs["c0"])
    got = lstm_xp.lstm_backward(weights["da"], caches, dy=weights["dy"], dc=weights["dc"])
    leaves = {name: value.clone().requires_grad_() for name, value in (inputs | parameters).items()}
    loss(leaves, leaves, weights).backward()
    for name, leaf in leaves.items():
        np.testing.assert_allclose(got["d" + name].cpu(), leaf.grad.cpu(), rtol=1e-9, atol=1e-11)


def test_parameters_of_a_module(case):
    """`torch.nn.Parameter` is a type of its own, next to plain tensors."""
    inputs, parameters, weights = case
    module = torch.nn.ParameterDict(parameters)
    loss(inputs, dict(module.items()), weights).backward()
    assert_gradients({name: p.grad for name, p in module.items()}, hand_written(inputs, parameters, weights))


def test_double_backward(case):
    device = case[0]["x"].device
    small, small_parameters, _ = problem(2, 1, n_x=1, n_a=2, n_y=2)
    tensors = [torch.tensor(v, device=device, requires_grad=True) for v in (small | small_parameters).values()]

    def run(x, a0, c0, *values):
        return lstm_xp.lstm_forward(x, a0, dict(zip(small_parameters, values, strict=True)), c0=c0)[:3]

    assert torch.autograd.gradcheck(run, tensors)
    assert torch.autograd.gradgradcheck(run, tensors)


def test_grad(case):
    inputs, parameters, weights = case
    d_inputs, d_parameters = torch.func.grad(loss, argnums=(0, 1))(inputs, parameters, weights)
    assert_gradients(d_inputs | d_parameters, hand_written(inputs, parameters, weights))


def test_vmap(case):
    """A batch of sequences with caches and gradients, and a batch of parameters, each against a loop."""
    inputs, parameters, _ = case
    xs = torch.stack([inputs["x"], -inputs["x"], 2 * inputs["x"]])
    forward = torch.func.vmap(lstm_xp.lstm_forward, in_dims=(0, None, None))
    a, y, c, caches = forward(xs, inputs["a0"], parameters)
    d_many = torch.func.vmap(lstm_xp.lstm_backward)(a, caches)
    for k, x in enumerate(xs):
        *wanted, caches_k = lstm_xp.lstm_forward(x, inputs["a0"], parameters)
        for got, value in zip((a, y, c), wanted, strict=True):
            torch.testing.assert_close(got[k], value, rtol=0, atol=1e-13)
        for name, gradient in lstm_xp.lstm_backward(wanted[0], caches_k).items():
            torch.testing.assert_close(d_many[name][k], gradient, rtol=1e-11, atol=1e-12)
    many = {name: torch.stack([p, 2 * p]) for name, p in parameters.items()}
    a_many = torch.func.vmap(lambda p: lstm_xp.lstm_forward(inputs["x"], inputs["a0"], p)[0])(many)
    doubled = {name: 2 * value for name, value in parameters.items()}
    wanted_a = lstm_xp.lstm_forward(inputs["x"], inputs["a0"], doubled)[0]
    torch.testing.assert_close(a_many[1], wanted_a, rtol=0, atol=1e-13)
    # Biases alone: a batch of them has no room in one product.
    biases = {name: p for name, p in many.items() if name[0] == "b"}
    a_many = torch.func.vmap(lambda b: lstm_xp.lstm_forward(inputs["x"], inputs["a0"], parameters | b)[0])(biases)
    wanted_a = lstm_xp.lstm_forward(
        inputs["x"], inputs["a0"], doubled | {k: parameters[k] for k in parameters if k[0] == "W"}
    )[0]
    torch.testing.assert_close(a_many[1], wanted_a, rtol=0, atol=1e-13)


def test_vmap_of_grad(case):
    """Gradients of each example by itself: what per-example clipping needs."""
    inputs, parameters, weights = case
    xs = torch.stack([inputs["x"], -inputs["x"]])
    per_example = torch.func.vmap(torch.func.grad(lambda p, x: loss(inputs | {"x": x}, p, weights)), in_dims=(None, 0))(
        parameters, xs
    )
    for k, x in enumerate(xs):
        wanted = hand_written(inputs | {"x": x}, parameters, weights)
        assert_gradients({name: value[k] for name, value in per_example.items()}, wanted)


def test_jvp(case):
    inputs, parameters, weights = case
    tangent = {name: torch.flip(value, dims=(0, 1)) for name, value in inputs.items()}
    _, got = torch.func.jvp(lambda i: loss(i, parameters, weights), (inputs,), (tangent,))
    wanted = hand_written(inputs, parameters, weights)
    along = sum(float(np.sum(wanted["d" + k] * tangent[k].cpu().numpy())) for k in tangent)
    assert float(got) == pytest.approx(along, rel=1e-10)


def test_hessian(case):
    inputs, parameters, weights = case

    def of_bias(bf):
        return loss(inputs, parameters | {"bf": bf}, weights)

    hessian = torch.func.hessian(of_bias)(parameters["bf"])[:, 0, :, 0]
    step = 1e-5
    for k in range(hessian.shape[0]):
        shift = torch.zeros_like(parameters["bf"])
        shift[k, 0] = step
        ahead = hand_written(inputs, parameters | {"bf": parameters["bf"] + shift}, weights)["dbf"]
        behind = hand_written(inputs, parameters | {"bf": parameters["bf"] - shift}, weights)["dbf"]
        wanted = ((ahead - behind) / (2 * step))[:, 0]
        np.testing.assert_allclose(hessian[k].cpu(), wanted, rtol=1e-6, atol=1e-8)


# Inductor writes and compiles every step: it gets few.
@pytest.mark.parametrize(("backend", "T"), [("eager", 18), pytest.param("inductor", 3, marks=pytest.mark.slow)])
def test_compile(case, backend, T):
    """`fullgraph` forbids a graph break; forward, caches and both gradients come out the same."""
    inputs, parameters, weights = case
    inputs = inputs | {"x": inputs["x"][:, :, :T].contiguous()}
    weights = {name: weight[:, :, :T].contiguous() for name, weight in weights.items()}
    torch.compiler.reset()

    def both(inputs, parameters, weights):
        a, y, c, caches = lstm_xp.lstm_forward(inputs["x"], inputs["a0"], parameters, c0=inputs["c0"])
        return a, y, c, lstm_xp.lstm_backward(weights["da"], caches, dy=weights["dy"], dc=weights["dc"])

    *got, got_d = torch.compile(both, fullgraph=True, backend=backend)(inputs, parameters, weights)
    *wanted, wanted_d = both(inputs, parameters, weights)
    for left, right in zip(got, wanted, strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=1e-12)
    for name, gradient in wanted_d.items():
        torch.testing.assert_close(got_d[name], gradient, rtol=0, atol=1e-11)


@pytest.mark.slow
def test_compile_of_autograd(case):
    inputs, parameters, weights = case
    torch.compiler.reset()
    leaves = {name: value.requires_grad_() for name, value in parameters.items()}
    torch.compile(loss, fullgraph=True, backend="aot_eager")(inputs, leaves, weights).backward()
    wanted = hand_written(inputs, parameters, weights)
    assert_gradients({name: value.grad for name, value in leaves.items()}, wanted)


class Model(torch.nn.Module):
    """A module around `lstm_forward`."""

    def __init__(self, parameters):
        super().__init__()
        self.parameters_of_the_cell = torch.nn.ParameterDict(parameters)

    def forward(self, x, a0):
        a, y, c, _ = lstm_xp.lstm_forward(x, a0, dict(self.parameters_of_the_cell.items()))
        return a, y, c


@pytest.mark.parametrize("strict", [pytest.param(True, marks=pytest.mark.slow), False])
# From PyTorch, of how it traces a loop.
@pytest.mark.filterwarnings("ignore:torch.compile is ignored when called inside torch.export region")
def test_export(case, strict):
    inputs, parameters, _ = case
    model = Model(parameters)
    torch.compiler.reset()
    program = torch.export.export(model, (inputs["x"], inputs["a0"]), strict=strict)
    x = -inputs["x"]
    for got, wanted in zip(program.module()(x, inputs["a0"]), model(x, inputs["a0"]), strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)
