"""What JAX does to functions, done to ours: each against the plain result, the gradient of NumPy, or differences."""

import functools
import gc
import weakref

import numpy as np
import pytest

import lstm_xp
from lstm_xp._seams import scan, transforms
from tests.support.layers import STACKS, leaves, mapped
from tests.support.problems import layer_problem, problem
from tests.support.transforms import case_of, numpy_gradients

jax = pytest.importorskip("jax")
jnp = jax.numpy
case = case_of("JAX")


def loss(inputs, parameters, weights):
    a, y, c, _ = lstm_xp.lstm_forward(inputs["x"], inputs["a0"], parameters, c0=inputs["c0"])
    return jnp.sum(a * weights["da"]) + jnp.sum(y * weights["dy"]) + jnp.sum(c * weights["dc"])


def hand_written(inputs, parameters, weights):
    """Return the gradients of `loss` from NumPy's `lstm_backward`."""
    return numpy_gradients(*jax.tree.map(np.asarray, (inputs, parameters, weights)))


def test_jit(case):
    """Everything goes in and out of `jit`: the caches too, in one function and from one to another."""
    inputs, parameters, weights = case
    *plain, caches = lstm_xp.lstm_forward(inputs["x"], inputs["a0"], parameters)
    *jitted, caches_out = jax.jit(lstm_xp.lstm_forward)(inputs["x"], inputs["a0"], parameters)
    for got, wanted in zip(jitted, plain, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-13)
    assert isinstance(caches_out.steps, lstm_xp.LSTMSteps)
    wanted = lstm_xp.lstm_backward(weights["da"], caches)
    got = jax.jit(lstm_xp.lstm_backward)(weights["da"], caches_out)
    for name, gradient in wanted.items():
        np.testing.assert_allclose(got[name], gradient, rtol=0, atol=1e-12)


def test_grad(case):
    inputs, parameters, weights = case
    wanted = hand_written(inputs, parameters, weights)
    for transformed in (jax.grad(loss, argnums=(0, 1)), jax.jit(jax.grad(loss, argnums=(0, 1)))):
        d_inputs, d_parameters = transformed(inputs, parameters, weights)
        for name, gradient in (d_inputs | d_parameters).items():
            np.testing.assert_allclose(gradient, wanted["d" + name], rtol=1e-9, atol=1e-11)


@pytest.mark.slow
def test_grad_through_the_hand_written_gradient(case):
    """`lstm_backward` is itself differentiable: its derivative is a Hessian-vector product."""
    inputs, parameters, weights = case
    v = jnp.flip(inputs["a0"])

    def dot_v(a0):
        *_, caches = lstm_xp.lstm_forward(inputs["x"], a0, parameters, c0=inputs["c0"])
        gradients = lstm_xp.lstm_backward(weights["da"], caches, dy=weights["dy"], dc=weights["dc"])
        return jnp.sum(gradients["da0"] * v)

    def gradient(a0):
        return jax.grad(loss)(inputs | {"a0": a0}, parameters, weights)["a0"]

    got = jax.grad(dot_v)(inputs["a0"])
    step = 1e-5
    wanted = (gradient(inputs["a0"] + step * v) - gradient(inputs["a0"] - step * v)) / (2 * step)
    np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-8)


@pytest.mark.slow
def test_vmap(case):
    """A batch of sequences, and a batch of parameters, each against a loop."""
    inputs, parameters, _ = case
    xs = jnp.stack([inputs["x"], -inputs["x"], 2 * inputs["x"]])
    a, y, c, caches = jax.vmap(lstm_xp.lstm_forward, in_axes=(0, None, None))(xs, inputs["a0"], parameters)
    many = jax.tree.map(lambda p: jnp.stack([p, 2 * p]), parameters)
    a_many = jax.vmap(lambda p: lstm_xp.lstm_forward(inputs["x"], inputs["a0"], p)[0])(many)
    d_many = jax.vmap(lstm_xp.lstm_backward)(a, caches)
    for k, x in enumerate(xs):
        *wanted, caches_k = lstm_xp.lstm_forward(x, inputs["a0"], parameters)
        for got, value in zip((a, y, c), wanted, strict=True):
            np.testing.assert_allclose(got[k], value, rtol=0, atol=1e-13)
        for name, gradient in lstm_xp.lstm_backward(wanted[0], caches_k).items():
            np.testing.assert_allclose(d_many[name][k], gradient, rtol=1e-11, atol=1e-12)
    doubled = {name: 2 * value for name, value in parameters.items()}
    np.testing.assert_allclose(
        a_many[1], lstm_xp.lstm_forward(inputs["x"], inputs["a0"], doubled)[0], rtol=0, atol=1e-13
    )


def test_jvp(case):
    inputs, parameters, weights = case
    tangent = jax.tree.map(jnp.flip, inputs)
    _, got = jax.jvp(lambda i: loss(i, parameters, weights), (inputs,), (tangent,))
    wanted = hand_written(inputs, parameters, weights)
    assert float(got) == pytest.approx(sum(float(np.sum(wanted["d" + k] * tangent[k])) for k in tangent), rel=1e-10)


@pytest.mark.slow
def test_hessian(case):
    """Against differences of the hand-written gradient, and symmetric."""
    inputs, parameters, weights = case

    def of_bias(bf):
        return loss(inputs, parameters | {"bf": bf}, weights)

    bf = parameters["bf"]
    hessian = jax.hessian(of_bias)(bf)[:, 0, :, 0]
    np.testing.assert_allclose(hessian, hessian.T, rtol=0, atol=1e-11)
    step = 1e-5
    for k in range(bf.shape[0]):
        ahead = hand_written(inputs, parameters | {"bf": bf.at[k, 0].add(step)}, weights)["dbf"]
        behind = hand_written(inputs, parameters | {"bf": bf.at[k, 0].add(-step)}, weights)["dbf"]
        np.testing.assert_allclose(hessian[k], ((ahead - behind) / (2 * step))[:, 0], rtol=1e-6, atol=1e-8)


@pytest.mark.slow
def test_a_second_call_outside_jit_compiles_nothing(compilations):
    def run(seed):
        inputs, parameters, weights = jax.tree.map(jnp.asarray, problem(5, 3, n_a=7, seed=seed))
        state = (inputs["x"][:, :, 0], inputs["a0"], inputs["c0"], parameters)
        jax.block_until_ready(state)
        before = len(compilations)
        *_, cache = lstm_xp.lstm_cell(*state)
        lstm_xp.lstm_cell_backward(inputs["a0"], inputs["c0"], cache)
        a, *_, caches = lstm_xp.lstm_forward(inputs["x"], inputs["a0"], parameters)
        lstm_xp.lstm_backward(weights["da"], caches, dy=weights["dy"])
        lstm_xp.lstm(x, both.layers)
        (y, _), vjp = lstm_xp.lstm_vjp(x, both.layers)
        jax.block_until_ready((a, vjp(y)))
        return len(compilations) - before

    both, x = lstm_xp.LSTM.init(3, 4, bidirectional=True, rng=0, xp=jnp), jnp.ones((2, 5, 3), "float32")

    jax.clear_caches()
    assert run(seed=0) > 0
    assert run(seed=1) == 0


def test_what_is_compiled_for_cells_does_not_stay(monkeypatch):
    """For those that were made last it does, as a program that makes a cell at every call would grow and grow."""
    monkeypatch.setattr(transforms, "_jitted", functools.lru_cache(maxsize=2)(transforms._jitted.__wrapped__))
    model, x = lstm_xp.LSTM.init(3, 4, rng=0, xp=jnp), jnp.ones((2, 5, 3), dtype="float32")
    alive = []
    for factor in range(1, 6):

        def activation(x, xp, factor=factor):
            return factor * xp.tanh(x)

        alive.append(weakref.ref(activation))
        lstm_xp.lstm(x, model.layers, cell=lstm_xp.Cell(candidate_activation=activation))
        del activation
        gc.collect()
    assert [kept() is not None for kept in alive] == [False, False, False, True, True]


def test_the_compiled_that_stay_are_bounded():
    assert transforms._jitted.cache_info().maxsize == 128


def test_the_program_does_not_grow_with_time():
    def lines(T_x):
        inputs, parameters, _ = jax.tree.map(jnp.asarray, problem(T_x, 1))
        program = jax.make_jaxpr(lambda x: lstm_xp.lstm_forward(x, inputs["a0"], parameters)[:3])(inputs["x"])
        return str(program).count("\n")

    lines(1)  # the first call of a process may do what later ones need not
    assert lines(1000) == lines(10)


# What is chosen by where a program will run


def loss_of_layers(model, x, state, marks, engine):
    y, last = model(x, state, engine=engine, **marks)
    return sum(jnp.sum(a**2) for a in leaves((y, last)))


@pytest.fixture
def as_on_an_accelerator(monkeypatch):
    """Let this machine compute what is written for others: fewer steps in one iteration, which compile sooner."""
    jax.clear_caches()
    monkeypatch.setattr(scan, "UNROLL", 2)
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda *arrays, cpu, default: default(*arrays))
    yield
    jax.clear_caches()


@pytest.mark.parametrize("name", ["marks", pytest.param("everything", marks=pytest.mark.slow)])
@pytest.mark.usefixtures("as_on_an_accelerator")
def test_an_accelerator_computes_the_same(name):
    """With a step left over from the unrolled ones."""
    given = layer_problem(STACKS[name], T=5)
    results = []
    for make in (np.asarray, jnp.asarray):
        x, layers, state, options = mapped(make, given)
        (*result, trace), vjp = lstm_xp.lstm_vjp(x, layers, state, trace=True, **options)
        results.append(leaves((tuple(result), trace, vjp(*mapped(lambda a: 2 * a, tuple(result))))))
    marks = {key: mark for key, mark in options.items() if key != "cell"}
    model = lstm_xp.LSTM(layers, options["cell"])
    gradient = jax.jit(jax.grad(loss_of_layers, argnums=(1, 0, 2)), static_argnums=4)
    dx, d_model, dstate = gradient(model, x, state, marks, "auto")
    wanted, got = results
    again = leaves((dx, d_model.layers, dstate))
    for a, b in zip((*got, *again), (*wanted, *wanted[-len(again) :]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)
    slope_of = jax.jit(lambda x, v: jax.jvp(lambda x: loss_of_layers(model, x, state, marks, "xp"), (x,), (v,))[1])
    assert float(slope_of(x, jnp.ones_like(x))) == pytest.approx(float(jnp.sum(dx)), rel=1e-9)


@pytest.mark.slow
@pytest.mark.usefixtures("as_on_an_accelerator")
def test_vmap_and_hessian_of_two_directions_in_one_scan():
    x, layers, state, _ = mapped(jnp.asarray, layer_problem(STACKS["uniform"]))
    model, xs = lstm_xp.LSTM(layers[:1]), jnp.stack([x, -x])
    y, _ = jax.vmap(model, in_axes=(0, None))(xs, state[:1])
    np.testing.assert_allclose(y[1], model(-x, state[:1])[0], rtol=0, atol=1e-13)
    of_cells = {
        engine: jax.hessian(lambda h, e=engine: loss_of_layers(model, x, (state[0]._replace(h=h),), {}, e))(state[0].h)
        for engine in ("auto", "xp")
    }
    np.testing.assert_allclose(of_cells["auto"], of_cells["xp"], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("platform", "scans"), [("cpu", 2), ("cuda", 1)])
def test_two_directions_are_one_scan_on_an_accelerator(platform, scans):
    """Lowered for devices that need not be here; the program is as long at any number of steps."""

    def lowered(function, T):
        traced = jax.jit(function).trace(model, jnp.ones((9, T, 3), "float32"))
        return traced.lower(lowering_platforms=(platform,)).as_text()

    both = lstm_xp.LSTM.init(3, 4, bidirectional=True, rng=0, xp=jnp).layers[0]
    biased = both._replace(backward=both.backward._replace(bias=None))
    cells = ((lstm_xp.Cell(), lstm_xp.Cell(clip=1.0)),)
    for layer, cell, wanted in ((both, lstm_xp.Cell(), scans), (biased, lstm_xp.Cell(), 2), (both, cells, 2)):
        model = lstm_xp.LSTM((layer,), cell)
        ways = (lambda model, x: model(x)[0], jax.grad(lambda model, x: jnp.sum(model(x)[0])))
        for way, times in zip(ways, (1, 2), strict=True):
            program = lowered(way, 16)
            assert program.count("stablehlo.while") == wanted * times
            assert program.count("\n") == lowered(way, 1600).count("\n")
