"""The kernels of the libraries: what each computes, which call takes which, and the words of what none can do."""

from functools import partial

import jax
import numpy as np
import pytest
import torch
from jax.experimental import rnn

from lstm_xp import LSTM, Layer, LSTMState, lstm
from lstm_xp._kernels import choice as _native
from tests.support.backends import BACKENDS
from tests.support.layers import leaves, mapped, model_of


@pytest.fixture
def ran(monkeypatch):
    """Return the names of the kernels that ran."""
    names = []
    chosen = _native.chosen

    def choose(*arguments, **options):
        kernel = chosen(*arguments, **options)
        if kernel is not None:
            names.append(kernel.name)
        return kernel

    monkeypatch.setattr(_native, "chosen", choose)
    return names


def drawn(I, H, L, both, R, *, B, T, bias=True, dtype="float64"):  # noqa: E741 -- the field's letters
    """Return x, layers and a state on unit scale, as NumPy arrays."""
    model = LSTM.init(I, H, num_layers=L, bidirectional=both, proj_size=R, bias=bias, rng=0, dtype=np.dtype(dtype))
    rng = np.random.default_rng(0)

    def draw(*shape):
        return rng.standard_normal(shape).astype(dtype)

    D = 1 + both
    return draw(B, T, I), model.layers, tuple(LSTMState(draw(D, B, R or H), draw(D, B, H)) for _ in range(L))


# PyTorch


def torch_results(inputs, engine):
    """Return y and the last state, and the gradients of something of all of them."""
    y, last = lstm(*inputs, engine=engine)
    loss = sum((k * a.sin()).sum() for k, a in enumerate(leaves((y, last)), 1))
    return [*leaves((y, last)), *torch.autograd.grad(loss, leaves(inputs))]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("sizes", [(3, 4, 1, False, 0), (3, 4, 3, True, 0), (3, 4, 2, True, 2)])
@pytest.mark.parametrize("with_state", [True, False])
def test_the_kernel_and_the_equations_agree(ran, bias, sizes, with_state):
    x, layers, state = drawn(*sizes, B=2, T=5, bias=bias)
    inputs = mapped(lambda a: torch.tensor(a).requires_grad_(), (x, layers, state if with_state else None))
    results = [torch_results(inputs, engine) for engine in ("native", "xp")]
    assert ran == ["torch.lstm"]
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("with_state", [True, False])
@pytest.mark.parametrize("time_major", [True, False])
def test_the_kernel_of_one_step_and_the_equations_agree(ran, bias, with_state, time_major):
    x, layers, state = drawn(3, 4, 3, False, 0, B=2, T=1, bias=bias)
    x = x.swapaxes(0, 1) if time_major else x
    inputs = mapped(lambda a: torch.tensor(a).requires_grad_(), (x, layers, state if with_state else None))
    results = []
    for engine in ("auto", "native", "xp"):
        y, last = lstm(*inputs, time_major=time_major, engine=engine)
        first = torch.autograd.grad(sum((a**3).sum() for a in leaves((y, last))), leaves(inputs), create_graph=True)
        second = torch.autograd.grad(sum((a**2).sum() for a in first), leaves(inputs))
        results.append([*leaves((y, last)), *first, *second])
    assert ran == ["torch.lstm_cell"] * 2
    for a, b, c in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
        torch.testing.assert_close(a, c, rtol=0, atol=1e-11)


def test_the_step_of_a_record_takes_the_kernel(ran):
    model, x, state, _ = on_torch("plain")
    for before in (state, None):
        got = model.step(x[:, 0], before)
        wanted, last = model(x[:, :1], before, engine="xp")
        assert ran == ["torch.lstm_cell"]
        for a, b in zip(leaves(got), leaves((wanted[:, 0], last)), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
        ran.clear()
    torch.func.vmap(lambda x: model.step(x, state))(torch.stack([x[:, 0]] * 2))
    model_of("plain")[0].step(np.ones((2, 3)))
    assert not ran


def test_one_step_of_layers_of_different_sizes(ran):
    layers = (*LSTM.init(3, 4, rng=0, xp=torch).layers, *LSTM.init(4, 2, bias=False, rng=1, xp=torch).layers)
    x = torch.ones(2, 1, 3)
    got, wanted = (lstm(x, layers, engine=engine) for engine in ("native", "xp"))
    assert ran == ["torch.lstm_cell"]
    for a, b in zip(leaves(got), leaves(wanted), strict=True):
        torch.testing.assert_close(a, b)


def test_auto_takes_the_kernel_where_it_is_faster(ran):
    model = LSTM.init(3, 4, rng=0, xp=torch)
    x = torch.ones(2, 5, 3)
    for arguments, options, name in (
        ((x,), {}, "torch.lstm"),
        ((x.mT.contiguous().mT,), {"time_major": True}, "torch.lstm"),
        ((x[:, :1],), {}, "torch.lstm_cell"),
        ((x[:1],), {"time_major": True}, "torch.lstm_cell"),
        ((x,), {"engine": "xp"}, None),
        ((x,), {"trace": True}, None),
        ((x[:, :1],), {"trace": True}, None),
        ((x,), {"mask": torch.ones(2, 5, dtype=torch.bool)}, None),
    ):
        model(*arguments, **options)
        assert ran == [name] * (name is not None)
        ran.clear()
    for options in ({"bidirectional": True}, {"proj_size": 2}):
        other = LSTM.init(3, 4, rng=0, xp=torch, dtype=torch.float64, **options)
        other(x[:, :1].double())  # the kernel of a stack can, but is slower for one step
        assert not ran
        other(x[:, :1].double(), engine="native")
        assert ran == ["torch.lstm"]
        ran.clear()
    LSTM.init(3, 4, rng=0)(np.ones((2, 5, 3), dtype="float32"))
    LSTM.init(3, 4, rng=0, xp=jax.numpy)(jax.numpy.ones((2, 5, 3), dtype="float32"))
    assert not ran


# JAX, without a GPU: the reference that JAX has of the same arguments, in the place of cuDNN.


@pytest.fixture
def reference(monkeypatch):
    """Let `lstm_ref` run where cuDNN would, on the CPU; return the list of its runs."""
    runs = []

    def lstm(x, h0, c0, weights, lengths, *sizes_and_options):
        I, H, L, dropout, both = sizes_and_options  # noqa: E741 -- the field's letters
        parts = rnn.unpack_lstm_weights(weights, I, H, L, both)
        runs.append(1)
        return rnn.lstm_ref(x, h0, c0, *parts, lengths, I, H, L, dropout, both)

    monkeypatch.setattr(rnn, "lstm", lstm)
    monkeypatch.setattr(_native, "on_nvidia", lambda device: True)
    jax.clear_caches()  # of what is staged with the kernel, before and after
    yield runs
    jax.clear_caches()


JAX_SIZES = {"one": (3, 4, 1, False), "both": (3, 4, 1, True), "deep": (3, 4, 3, False), "deep both": (3, 4, 2, True)}


def jax_results(inputs, run):
    """Return y and the last state, and the gradients of something of all of them."""

    def loss(inputs):
        result = run(*inputs)
        return sum((k * jax.numpy.sin(a)).sum() for k, a in enumerate(leaves(result), 1)), result

    gradients, result = jax.jit(jax.grad(loss, has_aux=True))(inputs)
    return [*leaves(result), *leaves(gradients)]


@pytest.mark.parametrize(
    ("name", "with_state", "bias", "dtype"),
    [
        *((name, True, True, "float64") for name in JAX_SIZES),
        ("both", False, False, "float64"),
        ("deep both", True, True, "float32"),
    ],
)
def test_what_cudnn_is_given_is_the_same_stack(reference, name, with_state, bias, dtype):
    """The packed weights, the states and the order of layers and directions, in values and in gradients."""
    x, layers, state = drawn(*JAX_SIZES[name], 0, B=2, T=5, bias=bias, dtype=dtype)
    inputs = mapped(jax.numpy.asarray, (x, layers, state if with_state else None))
    # Without the conditions, of which float32 is one.
    got = jax_results(inputs, partial(_native.jax_stack, time_major=False, xp=jax.numpy))
    assert reference
    for a, b in zip(got, jax_results(inputs, lstm), strict=True):
        assert a.dtype == dtype
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12 if dtype == "float64" else 2e-5)


def test_packed_weights_are_laid_out_as_jax_says():
    layers = mapped(jax.numpy.asarray, drawn(3, 4, 2, True, 0, B=1, T=1)[1])
    parts = rnn.unpack_lstm_weights(_native.packed(layers, xp=jax.numpy), 3, 4, 2, True)
    weights = [w for layer in layers for w in layer]
    for k, w in enumerate(weights):
        for part, wanted in zip(parts, (w.weight_ih, w.weight_hh, w.bias, 0 * w.bias), strict=True):
            np.testing.assert_array_equal(part[k], wanted)


@pytest.mark.parametrize("time_major", [True, False])
def test_native_on_jax(reference, ran, time_major):
    x, layers, state = drawn(3, 4, 2, True, 0, B=2, T=5, dtype="float32")
    x = x.swapaxes(0, 1) if time_major else x
    inputs = mapped(jax.numpy.asarray, (x, layers, state))
    run = partial(lstm, time_major=time_major)
    wanted = jax_results(inputs, run)
    assert not ran  # "auto" does not take it
    native = partial(run, engine="native")
    results = jax_results(inputs, native), leaves(native(*inputs))  # under `jit` and `grad`, and without
    assert ran == ["jax.experimental.rnn.lstm"] * 2
    assert reference
    for result in results:
        for a, b in zip(result, wanted, strict=False):
            np.testing.assert_allclose(a, b, rtol=0, atol=2e-5)


def test_a_traced_array_is_where_jax_computes_by_default(monkeypatch):
    """Under `jit` no array says where it is."""
    asked = []
    monkeypatch.setattr(_native, "on_nvidia", lambda device: asked.append(device))
    model, x, state, _ = model_of("plain", jax.numpy.asarray)
    for function in (jax.jit(partial(model, engine="native")), partial(model, engine="native")):
        with pytest.raises(ValueError, match="no kernel for this call: it runs on one NVIDIA GPU, and `x` is on cpu:0"):
            function(x, state)
    assert asked == [jax.devices()[0]] * 2


GPUS = [
    pytest.param(backend, id=backend.name, marks=pytest.mark.gpu)
    for backend in BACKENDS
    if backend.library == "JAX" and backend.gpu
]


@pytest.mark.parametrize("backend", GPUS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("with_state", [True, False])
@pytest.mark.parametrize("name", JAX_SIZES)
def test_cudnn_and_the_equations_agree(backend, ran, name, with_state, bias):
    place = backend.place()
    if place is None or not _native.on_nvidia(next(iter(place.asarray(np.zeros(1)).devices()))):
        pytest.skip("JAX has no NVIDIA GPU here")
    x, layers, state = drawn(*JAX_SIZES[name], 0, B=2, T=5, bias=bias, dtype="float32")
    inputs = mapped(place.asarray, (x, layers, state if with_state else None))
    wanted = jax_results(inputs, lstm)
    assert not ran
    for a, b in zip(jax_results(inputs, partial(lstm, engine="native")), wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-4)
    for a, b in zip(leaves(lstm(*inputs, engine="native")), wanted, strict=False):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-4)
    assert set(ran) == {"jax.experimental.rnn.lstm"}


# What they cannot do


def on_torch(name):
    return model_of(name, torch.tensor)


def on_jax(name, dtype="float32"):
    return model_of(name, partial(jax.numpy.asarray, dtype=dtype))


def with_layers(case, change):
    model, x, state, marks = case
    return LSTM(change(model.layers)), x, state, marks


# The words, from how a library makes the named case: the case, and options.
SHARED = {
    "`trace` wants the gates": lambda make: (make("plain"), {"trace": True}),
    "no `lengths`, `mask` or `reset`": lambda make: (make("plain"), {"reset": make("plain")[1][:, :, 0] > 0}),
    "`cell` is not the plain one": lambda make: (make("coupled input"), {}),
    "`peephole` weights": lambda make: (with_layers(make("coupled input"), lambda layers: layers), {}),
    "reverse-only": lambda make: (with_layers(make("plain"), lambda layers: (Layer(None, layers[0].forward),)), {}),
    "the layers differ": lambda make: (with_layers((*make("sizes")[:2], None, {}), lambda layers: layers[:2]), {}),
    "time and batch must be at least 1": lambda make: ((make("plain")[0], make("plain")[1][:, :0], None, {}), {}),
}  # fmt: skip


def check_condition(words, case, options):
    """`native` names the condition, `auto` takes the equations and gives what they give."""
    model, x, state, marks = case
    with pytest.raises(ValueError, match="`engine` = 'native' has no kernel for this call: .*" + words):
        model(x, state, engine="native", **marks, **options)
    got = model(x, state, **marks, **options)
    wanted = model(x, state, engine="xp", **marks, **options)
    for a, b in zip(leaves(got), leaves(wanted), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=1e-14 if x.dtype != jax.numpy.float32 else 1e-6)


@pytest.mark.parametrize("words", SHARED)
def test_each_condition_on_torch(ran, words):
    check_condition(words, *SHARED[words](on_torch))
    assert not ran


@pytest.mark.parametrize("words", SHARED)
def test_each_condition_on_jax(reference, ran, words):
    check_condition(words, *SHARED[words](on_jax))
    assert not ran
    assert not reference


def test_conditions_of_jax_alone(reference, ran):
    projected = LSTM.init(3, 4, proj_size=2, rng=0, xp=jax.numpy), jax.numpy.ones((2, 5, 3), dtype="float32"), None, {}
    check_condition("a layer has a projection", projected, {})
    check_condition("it takes float32 only, and `x` has dtype float64", on_jax("plain", "float64"), {})
    assert not ran
    assert not reference


def test_libraries_and_devices_without_a_kernel(ran):
    check_condition("numpy has none that this package knows", model_of("plain"), {})
    check_condition("it runs on one NVIDIA GPU, and `x` is on cpu:0", on_jax("plain"), {})
    assert not ran


@pytest.mark.parametrize("T", [1, 5])
def test_a_device_that_has_no_kernel(ran, T):
    model, x, state, _ = model_of("plain", partial(torch.tensor, device="meta"))
    with pytest.raises(ValueError, match="no kernel for this call: `x` is on the device meta"):
        model(x[:, :T], state, engine="native")
    y, _ = model(x[:, :T], state)
    assert not ran
    assert (y.shape, y.device.type) == ((3, T, 4), "meta")


@pytest.mark.parametrize("T", [1, 5])
@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")
def test_torch_compile_takes_the_equations(ran, T):
    model, x, state, _ = on_torch("plain")
    x = x[:, :T]
    torch.compiler.reset()
    compiled = torch.compile(lambda x, **options: model(x, state, **options)[0], fullgraph=True, backend="eager")
    got = compiled(x)
    assert not ran
    torch.testing.assert_close(got, model(x, state, engine="xp")[0])
    with pytest.raises(Exception, match=r"`torch.compile` cannot trace it"):
        compiled(x, engine="native")


# torch's own forward mode compiles its decompositions with what it has deprecated.
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
@pytest.mark.parametrize(("name", "T", "kernel"), [("uniform", 5, "torch.lstm"), ("plain", 1, "torch.lstm_cell")])
def test_kernel_and_torch_transforms(ran, name, T, kernel):
    """Each transform gets a path that can do it."""
    model, x, state, _ = on_torch(name)
    x = x[:, :T]

    def loss(x, engine="auto"):
        return (lstm(x, model.layers, state, engine=engine)[0] ** 2).sum()

    x = x.requires_grad_()
    first = [torch.autograd.grad(loss(x, e), x, create_graph=True)[0] for e in ("auto", "xp")]
    assert ran == [kernel]
    second = [torch.autograd.grad((g**2).sum(), x)[0] for g in first]
    torch.testing.assert_close(*second, rtol=0, atol=1e-10)

    x, first = x.detach(), [g.detach() for g in first]
    many = torch.stack([x, 2 * x])
    torch.testing.assert_close(torch.func.vmap(loss)(many), torch.stack([loss(x), loss(2 * x)]))
    torch.testing.assert_close(torch.func.grad(loss)(x), first[0])
    _, tangent = torch.func.jvp(loss, (x,), (x,))
    assert tangent == pytest.approx(float((first[0] * x).sum()))
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, x)
        assert torch.autograd.forward_ad.unpack_dual(loss(dual)).tangent == pytest.approx(float(tangent))
        with pytest.raises(ValueError, match="it has no forward-mode gradient"):
            loss(dual, "native")
    with pytest.raises(ValueError, match=r"inside a transform of `torch.func`"):
        torch.func.vmap(lambda x: loss(x, "native"))(many)


def test_an_array_on_several_devices(monkeypatch):
    """Which only a machine with several can make: here it says so."""
    model, x, state, _ = on_jax("plain")
    monkeypatch.setattr(_native, "_jax_device", lambda x: set(jax.devices()) | {"another"})
    with pytest.raises(ValueError, match=r"it runs on one NVIDIA GPU, and `x` is on \{"):
        model(x, state, engine="native")
