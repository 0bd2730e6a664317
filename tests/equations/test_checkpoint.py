"""What `checkpoint` keeps, where it does nothing, and where it is refused. Its numbers are held with all options."""

import tracemalloc

import numpy as np
import pytest

import lstm_xp
from lstm_xp import LSTM, Cell, lstm, lstm_vjp
from tests.support.layers import leaves, mapped

T, B, H, K = 4000, 8, 64, 64
MODEL = LSTM.init(H, H, rng=0)
X = np.random.default_rng(0).standard_normal((B, T, H)).astype(np.float32)
MASK = np.random.default_rng(1).random((B, T)) > 0.1


def test_memory_on_numpy():
    """What is taken beside y, its gradient and that of x."""
    peaks = []
    for checkpoint in (None, K):
        tracemalloc.start()
        (y, _), vjp = lstm_vjp(X, MODEL.layers, checkpoint=checkpoint)
        vjp(np.ones_like(y))
        peaks.append(tracemalloc.get_traced_memory()[1] - 3 * X.nbytes)
        tracemalloc.stop()
    assert peaks[1] < peaks[0] / 10


@pytest.mark.parametrize("marks", [{}, {"mask": MASK}], ids=["plain", "mask"])
def test_memory_on_jax(marks):
    """What the compiled program takes beside y and its gradient."""
    jax = pytest.importorskip("jax")

    def loss(layers, x, checkpoint):
        return lstm(x, layers, checkpoint=checkpoint, **mapped_marks)[0].sum()

    mapped_marks = {name: jax.numpy.asarray(mark) for name, mark in marks.items()}
    layers, x = MODEL.to(jax.numpy).layers, jax.numpy.asarray(X)
    programs = [jax.jit(jax.grad(loss), static_argnums=2).lower(layers, x, k).compile() for k in (None, K)]
    plain, segments = (program.memory_analysis().temp_size_in_bytes - 2 * X.nbytes for program in programs)
    assert segments < plain / 10


def test_the_loops_of_jax_are_as_many_for_any_number_of_segments():
    jax = pytest.importorskip("jax")
    layers = MODEL.to(jax.numpy).layers
    programs = [
        jax.make_jaxpr(jax.grad(lambda layers, x: lstm(x, layers, checkpoint=4)[0].sum()))(layers, X[:, :steps])
        for steps in (10, 402)
    ]
    short, long = (str(program).count("scan[") for program in programs)
    assert long == short


@pytest.mark.parametrize("marks", [{}, {"mask": MASK}], ids=["kernel", "mask"])
def test_memory_on_torch(marks):
    """What autograd saves beside x."""
    torch = pytest.importorskip("torch")
    layers = mapped(lambda a: torch.tensor(a, requires_grad=True), MODEL.layers)
    x, marks = torch.tensor(X), {name: torch.tensor(mark) for name, mark in marks.items()}
    sums = []
    for checkpoint in (None, K):
        saved = {}

        def pack(a, saved=saved):
            saved[a.untyped_storage().data_ptr()] = a.untyped_storage().nbytes()
            return a

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda a: a):
            y, _ = lstm(x, layers, checkpoint=checkpoint, **marks)
        saved.pop(x.untyped_storage().data_ptr(), None)
        sums.append(sum(saved.values()))
        del y
    assert sums[1] < sums[0] / 10


@pytest.mark.parametrize("library", ["torch", "jax.numpy", "dask.array", "mlx.core"])
def test_it_changes_no_number(library):
    """The kernel of PyTorch and the blocks of Dask are no part of what is held with all options."""
    xp = pytest.importorskip(library)
    model, x = LSTM.init(3, 4, num_layers=2, rng=0).to(xp), xp.asarray(X[:2, :11, :3])
    found = []
    for checkpoint in (None, 4):
        result, vjp = lstm_vjp(x, model.layers, checkpoint=checkpoint)
        found.append(leaves((result, vjp(result[0]), model(x, checkpoint=checkpoint))))
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=0, atol=1e-5)


@pytest.mark.parametrize("time_major", [True, False])
@pytest.mark.parametrize("marked", [True, False])
def test_the_kernel_of_torch_in_segments(time_major, marked):
    """With a state, lengths and the gradients of all of them; also where none is wanted."""
    torch = pytest.importorskip("torch")
    layers = LSTM.init(3, 4, num_layers=2, rng=0, xp=torch, dtype=torch.float64).layers
    x = torch.rand((11, 4, 3) if time_major else (4, 11, 3), dtype=torch.float64)
    state = lstm(x, layers, time_major=time_major)[1]
    marks = {"lengths": torch.tensor([11, 0, 6, 4])} if marked else {}
    tree = mapped(lambda a: a.clone().requires_grad_(), (x, layers, state))
    found = []
    for checkpoint in (None, 4):
        options = {"time_major": time_major, "engine": "native", "checkpoint": checkpoint} | marks
        result = lstm(*tree, **options)
        found.append([*leaves(result), *torch.autograd.grad(sum((a**2).sum() for a in leaves(result)), leaves(tree))])
        with torch.no_grad():
            found[-1] += leaves(lstm(*tree, **options))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_what_the_kernel_of_torch_leaves_to_the_equations():
    torch = pytest.importorskip("torch")
    model = LSTM.init(3, 4, bidirectional=True, rng=0, xp=torch)
    with pytest.raises(ValueError, match="no kernel for this call: with `checkpoint` it takes layers that only run"):
        model(torch.ones(2, 5, 3), checkpoint=2, engine="native")


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "4"])
@pytest.mark.parametrize("function", [lstm, lstm_vjp])
def test_a_wrong_number(function, value):
    with pytest.raises(ValueError, match=rf"{function.__name__}: `checkpoint` must be an integer of at least 1; got"):
        function(X[:, :5], MODEL.layers, checkpoint=value)


def test_what_keeps_every_step():
    for function in (lstm, lstm_vjp):
        with pytest.raises(ValueError, match=r"`checkpoint` must be None here; got 2\. It cannot be: `trace` keeps"):
            function(X[:, :5], MODEL.layers, checkpoint=2, trace=True)
    with pytest.raises(ValueError, match="with `engine` = 'xp' the library differentiates the equations by itself"):
        lstm(X[:, :5], MODEL.layers, checkpoint=2, engine="xp")
    with pytest.raises(ValueError, match=r"`cell.gate_activation` must have a method `derivative"):
        lstm(X[:, :5], MODEL.layers, checkpoint=2, cell=Cell(lambda x, xp: xp.exp(-x * x)))


def test_the_gradient_of_this_package_has_segments_wherever_it_runs():
    """Also with the engine, and inside the transforms, that leave `lstm` to the library's own gradient."""
    torch = pytest.importorskip("torch")
    layers, x = mapped(torch.tensor, MODEL.layers), torch.tensor(X[:, :10])

    def gradient(x, **options):
        (y, _), vjp = lstm_vjp(x[None], layers, **options)
        return vjp(torch.ones_like(y))[0][0]

    wanted = torch.stack([gradient(each) for each in x])
    torch.testing.assert_close(torch.stack([gradient(each, engine="xp", checkpoint=4) for each in x]), wanted)
    torch.testing.assert_close(torch.vmap(lambda each: gradient(each, checkpoint=4))(x), wanted)


@pytest.mark.filterwarnings("ignore:Dynamo detected a call")
def test_where_pytorch_takes_no_gradient_written_by_hand():
    torch = pytest.importorskip("torch")
    model = LSTM.init(3, 4, rng=0, peephole=True, xp=torch)
    x = torch.ones(2, 5, 3)
    with pytest.raises(ValueError, match=r"`checkpoint` must be None here; got 2. .* `torch.func`"):
        torch.func.grad(lambda x: model(x, checkpoint=2)[0].sum())(x)
    compiled = torch.compile(lambda x: model(x, checkpoint=2)[0], fullgraph=True, backend="eager")
    with pytest.raises(
        Exception, match=r"`checkpoint` must be None here; got 2. .* `torch.compile` or `torch.export` t"
    ):
        compiled(x)
    with torch.no_grad():  # there is nothing that segments could spare
        torch.testing.assert_close(compiled(x), model(x)[0])


@pytest.mark.parametrize("checkpoint", [None, 2])
def test_double_backward_of_the_equations_on_torch(checkpoint):
    """What is written by hand is differentiated as it is: all at once, by autograd."""
    torch = pytest.importorskip("torch")
    model = LSTM.init(2, 2, bidirectional=True, peephole=True, rng=0, dtype=np.float64)
    mask = torch.tensor([[True, False, True], [True, True, True]])
    (forward, backward), *_ = mapped(lambda a: torch.tensor(a, requires_grad=True), model.layers)
    x = torch.rand(2, 3, 2, dtype=torch.float64)

    def run(x, weight, bias):
        layer = lstm_xp.Layer(forward._replace(weight_hh=weight), backward._replace(bias=bias))
        y, (state,) = lstm(x, (layer,), mask=mask, checkpoint=checkpoint)
        return y, state.c

    for first in (x, x.requires_grad_()):
        inputs = (first, forward.weight_hh.detach().requires_grad_(), backward.bias.detach().requires_grad_())
        assert torch.autograd.gradcheck(run, inputs)
        assert torch.autograd.gradgradcheck(run, inputs)
        wanted = [a for a in inputs if a.requires_grad]
        y, _ = run(*inputs)
        once, twice = (torch.autograd.grad(y.sum(), wanted, retain_graph=True, create_graph=k) for k in (False, True))
        for a, b in zip(once, twice, strict=True):
            torch.testing.assert_close(a, b)
            assert b.requires_grad


def test_what_is_changed_before_the_gradient_is_noticed():
    torch = pytest.importorskip("torch")
    model = LSTM.init(3, 4, rng=0, peephole=True, xp=torch)
    layers, x = mapped(lambda a: a.requires_grad_(), model.layers), torch.rand(2, 5, 3)
    y, _ = lstm(x, layers)
    x += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()
