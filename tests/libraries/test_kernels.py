"""The kernels: what each computes, which call takes which, and the words of what none can do."""

from functools import partial
from importlib import import_module

import numpy as np
import pytest

from lstm_xp import LSTM, Layer, layers, lstm
from lstm_xp._kernels import torch_lstm as kernel
from tests.support.layers import leaves, mapped, model_of

torch = pytest.importorskip("torch")


@pytest.fixture
def ran(monkeypatch):
    """Return the names of the kernels that ran."""
    names = []
    choose = layers.kernel_for

    def noted(*arguments):
        kernel = choose(*arguments)
        if kernel is not None:
            names.append(kernel.name)
        return kernel

    monkeypatch.setattr(layers, "kernel_for", noted)
    return names


# PyTorch


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
        ((x,), {"lengths": torch.tensor([0, 4])}, "torch.lstm"),
        ((x[:, :1],), {"lengths": torch.tensor([0, 1])}, None),
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
    assert not ran


@pytest.mark.parametrize("time_major", [True, False])
@pytest.mark.parametrize(("name", "with_state"), [("plain", True), ("uniform", False), ("projected", False)])
def test_lengths_in_the_kernel(ran, name, with_state, time_major):
    """The options in pairs take it too; here the padding is not a number, the integers are narrow, and the state 0."""
    model, x, state, _ = on_torch(name)
    lengths = torch.tensor([5, 0, 3], dtype=torch.uint8)
    x[torch.arange(5) >= lengths[:, None]] = torch.nan
    x = x.mT.permute(2, 0, 1) if time_major else x
    x, layers, state = mapped(torch.Tensor.requires_grad_, (x, model.layers, state if with_state else None))
    results = []
    for engine in ("auto", "xp"):
        y, last = lstm(x, layers, state, lengths=lengths, time_major=time_major, engine=engine)
        loss = sum((k * a.sin()).sum() for k, a in enumerate(leaves((y, last)), 1))
        results.append([*leaves((y, last)), *torch.autograd.grad(loss, leaves((x, layers, state)))])
    assert ran == ["torch.lstm"]
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_padding_changes_nothing_in_any_dtype(ran, dtype):
    """However much a gate adds up to: a sequence gives the same with padding and without."""
    model = LSTM.init(3, 4, rng=0, xp=torch, dtype=getattr(torch, dtype))
    model = LSTM(mapped(lambda a: 3000 * a, model.layers))
    x = torch.ones(1, 6, 3, dtype=getattr(torch, dtype))
    y, ((h, c),) = model(x, lengths=torch.tensor([2]))
    wanted, ((h_wanted, c_wanted),) = model(x[:, :2])
    assert ran == ["torch.lstm"] * 2
    for a, b in ((y[:, :2], wanted), (h, h_wanted), (c, c_wanted)):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert not y[:, 2:].any()


class Elsewhere(torch.Tensor):
    """A tensor whose values are not looked at, as they may be elsewhere."""


@pytest.mark.parametrize("values", [[-3, 9], [0, 5]])
def test_lengths_that_cannot_be_looked_at(ran, values):
    """As on a GPU: they are not fetched, and one beyond the steps counts as all of them."""
    model, x, _, _ = on_torch("plain")
    results = [
        model(x[:2], lengths=torch.tensor(values).as_subclass(Elsewhere), engine=engine) for engine in ("auto", "xp")
    ]
    assert ran == ["torch.lstm"]
    for a, b in zip(*map(leaves, results), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", ["plain", "uniform"])
def test_weights_in_one_buffer_are_the_same_weights(name):
    """As they are laid out on a GPU; that cuDNN then warns of nothing is seen where there is one."""
    model, x, state, _ = on_torch(name)
    layers = model.layers
    laid = kernel.as_cudnn_has_them(layers)
    every = [w for layer in laid for w in layer if w is not None]
    assert kernel._lies_as_cudnn(every)
    assert not kernel._lies_as_cudnn([w for layer in layers for w in layer if w is not None])
    assert len({a.untyped_storage().data_ptr() for a in leaves(laid)}) == 1
    for a, b in zip(leaves((laid, lstm(x, laid, state))), leaves((layers, lstm(x, layers, state))), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    for weights in every:
        torch.testing.assert_close(kernel._behind(weights.bias), torch.zeros_like(weights.bias), rtol=0, atol=0)
        weights.bias.requires_grad_()
        weights.weight_hh.mul_(2)  # to train one is no change of the others
    lstm(x, laid, state)[0].sum().backward()
    copied = mapped(lambda a: a.detach() + 0, laid)
    assert not kernel._lies_as_cudnn([w for layer in copied for w in layer if w is not None])


def test_weights_that_lie_elsewhere_than_in_one_buffer():
    """In another order, one of them in a storage of its own, or more behind them."""
    layers = kernel.as_cudnn_has_them(LSTM.init(4, 4, num_layers=2, rng=0, xp=torch).layers)
    first, second = (layer.forward for layer in layers)
    assert kernel._lies_as_cudnn([first, second])
    R = first.weight_hh
    alone = torch.empty(0).set_(R.untyped_storage().clone(), R.storage_offset(), R.shape, R.stride())
    for other in (
        first._replace(weight_ih=R, weight_hh=first.weight_ih),
        first._replace(weight_hh=alone),
        first._replace(weight_hh=alone, weight_ih=first.weight_ih.clone()),
    ):
        assert not kernel._lies_as_cudnn([other, second])
    (layer,) = kernel.as_cudnn_has_them(LSTM.init(4, 4, rng=0, xp=torch).layers)
    more = torch.cat([torch.empty(0).set_(layer.forward.bias.untyped_storage()), torch.zeros(3)])
    longer = mapped(lambda a: more.as_strided(a.shape, a.stride(), a.storage_offset()), layer.forward)
    assert kernel._lies_as_cudnn([layer.forward])
    assert not kernel._lies_as_cudnn([longer])
    assert not kernel._lies_as_cudnn([second, first])


def test_a_stack_that_does_not_fit_one_buffer_stays_as_it_is():
    for options in ({"bias": False}, {"proj_size": 2}, {"peephole": True}):
        layers = LSTM.init(3, 4, rng=0, xp=torch, **options).layers
        assert kernel.as_cudnn_has_them(layers) is layers
    layers = (*LSTM.init(3, 4, rng=0, xp=torch).layers, *LSTM.init(4, 5, rng=0, xp=torch).layers)
    assert kernel.as_cudnn_has_them(layers) is layers


# Inside `torch.compile`

DYNAMO = pytest.mark.filterwarnings(
    "ignore:Dynamo detected a call to a `functools.lru_cache`", "ignore:`torch.jit.script:DeprecationWarning"
)


def compiled_case(name):
    """Return a model that is trained, x, and a state or lengths."""
    model, x, state, marks = on_torch(name)
    mapped(torch.Tensor.requires_grad_, model.layers)
    return model, x, None if marks else state, torch.tensor([5, 0, 3]) if marks else None


def with_gradients(call, layers, x, state, lengths):
    x = x.clone().requires_grad_()
    y, last = call(x, state, lengths=lengths)
    loss = sum((k * a.sin()).sum() for k, a in enumerate(leaves((y, last)), 1))
    return [*leaves((y, last)), *torch.autograd.grad(loss, leaves((x, layers)))]


@DYNAMO
@pytest.mark.parametrize("name", ["plain", "uniform", "projected"])
def test_torch_compile_keeps_the_kernel(name):
    """As one node of the graph, however long the sequences; sizes that are left free compile nothing again."""
    model, x, state, lengths = compiled_case(name)
    graphs = []
    torch.compiler.reset()
    compiled = torch.compile(
        model, fullgraph=True, dynamic=True, backend=lambda graph, _: graphs.append(graph) or graph
    )
    # To begin with no two sizes are the same: PyTorch would take them for one.
    for batch, time in ((2, 1), (2, 3), (5, 1)):
        inputs = (
            torch.cat([torch.cat([x] * batch)] * time, dim=1),
            mapped(lambda a, batch=batch: torch.cat([a] * batch, dim=1), state),
            None if lengths is None else torch.cat([lengths] * batch),
        )
        got, wanted = (with_gradients(call, model.layers, *inputs) for call in (compiled, model))
        for a, b in zip(got, wanted, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    (graph,) = graphs
    kernels = [node for node in graph.graph.nodes if str(node.target) == "lstm_xp.lstm"]
    assert len(kernels) == (1 if lengths is None else len(model.layers))


@DYNAMO
@pytest.mark.slow
@pytest.mark.parametrize(("name", "dtype"), [("plain", "float32"), ("uniform", "float64"), ("projected", "float64")])
def test_inductor_takes_the_kernel(ran, name, dtype):
    """It writes into the place of arrays that it needs no more: of none that the kernel's gradient needs."""
    model, x, state, lengths = compiled_case(name)
    model = LSTM(mapped(lambda a: a.detach().to(getattr(torch, dtype)).requires_grad_(), model.layers))
    x, state = mapped(lambda a: a.to(getattr(torch, dtype)), (x, state))
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True)
    with torch.no_grad():
        untrained = leaves(compiled(x, state, lengths=lengths))
    assert ran == ["torch.lstm"]
    got, wanted = (with_gradients(call, model.layers, x, state, lengths) for call in (compiled, model))
    for a, b in zip((*untrained, *got), (*wanted[: len(untrained)], *wanted), strict=True):
        torch.testing.assert_close(a, b)


@DYNAMO
def test_one_step_is_traced(ran):
    """PyTorch takes its kernel of one step apart, into what can be compiled with what stands around it."""
    model, x, state, _ = compiled_case("plain")
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    got, wanted = (with_gradients(call, model.layers, x[:, :1], state, None) for call in (compiled, model))
    assert ran == ["torch.lstm_cell"] * 2
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


@DYNAMO
def test_what_is_compiled_takes_the_equations(ran):
    """Inside a transform, and where the program is written to a file."""
    model, x, _, _ = on_torch("plain")
    torch.compiler.reset()
    many = torch.stack([x, -x])
    got = torch.compile(torch.func.vmap(lambda x: model(x)[0]), fullgraph=True, backend="eager")(many)
    assert not ran
    torch.testing.assert_close(got, torch.stack([model(x, engine="xp")[0], model(-x, engine="xp")[0]]))
    with pytest.raises(Exception, match=r"`torch.compile` or `torch.export` cannot trace it"):
        torch.compile(torch.func.vmap(lambda x: model(x, engine="native")[0]), backend="eager", fullgraph=True)(many)

    class Module(torch.nn.Module):
        def forward(self, x):
            return model(x)[0]

    for strict in (True, False):
        torch.compiler.reset()
        program = torch.export.export(Module(), (x,), strict=strict)
        assert not [node for node in program.graph.nodes if "lstm_xp" in str(node.target)]
    assert not ran


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("name", "dtype"), [("plain", "float32"), ("uniform", "float64"), ("projected", "float64")])
def test_the_operator_for_torch_compile(name, dtype, training):
    """What PyTorch itself asks of an operator, and that what it keeps is nobody else's memory."""
    model, x, state, _ = model_of(name, partial(torch.tensor, dtype=getattr(torch, dtype)))
    h, c = (torch.cat(arrays) for arrays in zip(*state, strict=True))
    inputs = mapped(lambda a: a.requires_grad_(training), (x.transpose(0, 1), h, c, *leaves(model.layers)))
    arguments = (*inputs[:3], list(inputs[3:]), True, len(model.layers), training)
    operator = torch.ops.lstm_xp.lstm
    torch.library.opcheck(operator.default, arguments, test_utils=("test_schema", "test_faketensor"))
    *results, kept = operator(*arguments)
    if not training:
        return
    wanted = torch.autograd.grad(results, inputs, results, retain_graph=True)
    given, same = ([a.detach().clone() for a in arrays] for arrays in (results, inputs))
    for a in (*results, *inputs):
        a.data.fill_(torch.nan)  # which autograd does not see, as it does not see what Inductor writes
    for k in (kept, kept.clone()):  # and one that lost what was recorded, as it was saved elsewhere
        got = torch.ops.lstm_xp.lstm_gradient(k, *given, same, *arguments[4:6])
        for a, b in zip(got, wanted, strict=True):
            torch.testing.assert_close(a, b)


# What they cannot do


def on_torch(name):
    return model_of(name, torch.tensor)


def with_layers(case, change):
    model, x, state, marks = case
    return LSTM(change(model.layers)), x, state, marks


def without_a_bias(layers):
    ((weights, _),) = layers
    return (Layer(weights, weights._replace(bias=None)),)


def squarely_projected(layers):
    ((weights, _),) = layers
    return (Layer(weights._replace(weight_hr=torch.eye(4, dtype=torch.float64) / 2)),)


LENGTHS = {"lengths": torch.tensor([5, 0, 3])}

# The words, from how a library makes the named case: the case, and options.
SHARED = {
    "`trace` wants the gates": lambda make: (make("plain"), {"trace": True}),
    "no `mask` or `reset`": lambda make: (make("plain"), {"reset": make("plain")[1][:, :, 0] > 0}),
    "`cell` is not the plain one": lambda make: (make("coupled input"), {}),
    "`peephole` weights": lambda make: (with_layers(make("coupled input"), lambda layers: layers), {}),
    "reverse-only": lambda make: (with_layers(make("plain"), lambda layers: (Layer(None, layers[0].forward),)), {}),
    "the layers differ": lambda make: (with_layers((*make("sizes")[:2], None, {}), lambda layers: layers[:2]), {}),
    "to as many features as before": lambda make: (with_layers((*make("plain")[:2], None, {}), squarely_projected), {}),
    "starts from zeros": lambda make: ((*make("lengths")[:3], {}), LENGTHS),
    "directions of a layer differ": lambda make: (with_layers((*make("plain")[:2], None, {}), without_a_bias), LENGTHS),
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
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=1e-14)


@pytest.mark.parametrize("words", SHARED)
def test_each_condition_on_torch(ran, words):
    check_condition(words, *SHARED[words](on_torch))
    assert not ran


@pytest.mark.parametrize(("library", "name"), [("numpy", "numpy"), ("jax.numpy", "jax")])
def test_a_library_without_a_kernel(ran, library, name):
    check_condition(f"{name} has none that this package knows", model_of("plain", import_module(library).asarray), {})
    assert not ran


@pytest.mark.parametrize("T", [1, 5])
def test_a_device_that_has_no_kernel(ran, T):
    model, x, state, _ = model_of("plain", partial(torch.tensor, device="meta"))
    with pytest.raises(ValueError, match="no kernel for this call: `x` is on the device meta"):
        model(x[:, :T], state, engine="native")
    y, _ = model(x[:, :T], state)
    assert not ran
    assert (y.shape, y.device.type) == ((3, T, 4), "meta")


# torch's own forward mode compiles its decompositions with what it has deprecated.
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
@pytest.mark.parametrize(("name", "T", "kernel"), [("uniform", 5, "torch.lstm"), ("plain", 1, "torch.lstm_cell")])
@pytest.mark.parametrize("absent", [None, (torch._C._functorch, "peek_interpreter_stack")])
def test_kernel_and_torch_transforms(ran, monkeypatch, absent, name, T, kernel):
    """Each transform gets a path that can do it, also where PyTorch has moved what it keeps private."""
    if absent is not None:
        monkeypatch.delattr(*absent)
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


def test_the_private_names_of_torch():
    """Two save a step microseconds, with public ways behind them; without the third no record is a pytree.

    Without the last ones `torch.compile` takes the equations.
    """
    assert torch._C._functorch.peek_interpreter_stack() is None
    assert torch.autograd.forward_ad._current_level == -1
    assert callable(torch.utils._pytree.register_pytree_node)
    assert all(hasattr(torch._C, name) for name in ("_ForceDispatchKeyGuard", "_dispatch_tls_local_exclude_set"))
