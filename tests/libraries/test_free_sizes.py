"""Programs whose sizes are not numbers: exported once, run at any batch, and on JAX at any number of steps."""

import warnings

import numpy as np
import pytest

from lstm_xp import LSTM, lstm, lstm_vjp
from tests.support.layers import leaves, mapped, model_of
from tests.support.problems import drawing

STEPS = 2  # PyTorch and ndonnx trace each step anew
OTHER = drawing(1)(6, STEPS, 3)  # another batch than that of the stacks


@pytest.mark.parametrize("strict", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["plain", "marks", "everything"])
@pytest.mark.filterwarnings(
    "ignore:Dynamo detected a call to a `functools.lru_cache`", "ignore:`torch.jit.script:DeprecationWarning"
)
def test_torch_export_with_free_batch_and_time(name, strict):
    """One loop for each direction, however long the sequences: another batch and time, and the gradient too."""
    torch = pytest.importorskip("torch", minversion="2.13")  # before, the gradient of its loop is wrong
    model, x, state, marks = model_of(name, torch.tensor, T=STEPS)

    class Module(torch.nn.Module):
        def forward(self, x, state, marks):
            return model(x, state, **marks)

    batch, time = torch.export.Dim("batch"), torch.export.Dim("time")
    shapes = {
        "x": {0: batch, 1: time},
        "state": mapped(lambda a: {1: batch}, state),
        "marks": {mark: {0: batch} if mark == "lengths" else {0: batch, 1: time} for mark in marks},
    }
    torch.compiler.reset()
    exported = torch.export.export(Module(), (x, state, marks), dynamic_shapes=shapes, strict=strict)
    loops = [node for node in exported.graph.nodes if str(node.target) == "scan"]
    assert len(loops) == sum(w is not None for layer in model.layers for w in layer)
    state = mapped(lambda a: torch.cat([a, a], dim=1), state)
    for steps in (9, 1):
        x = torch.tensor(drawing(1)(6, steps, 3)).requires_grad_()
        marks = {mark: torch.ones(6, steps, dtype=torch.bool) for mark in marks} | (
            {"lengths": torch.tensor([steps, 1, 0, 1, steps, 1])} if "lengths" in marks else {}
        )
        got, wanted = exported.module()(x, state, marks), model(x, state, **marks)
        for a, b in zip(leaves(got), leaves(wanted), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
        a, b = (torch.autograd.grad((y[0] ** 2).sum(), x)[0] for y in (got, wanted))
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11)


# Symbols take seconds: what a kernel could run, and what none can. The export above has lengths.
@pytest.mark.parametrize(
    ("name", "mode"),
    [
        *((name, "fake") for name in ("uniform", "lengths", "peephole")),
        ("uniform", "symbolic"),
        ("peephole", "symbolic"),
    ],
)
def test_torch_traces_forward_and_gradient(name, mode):
    """With symbols in the place of sizes the program takes another batch."""
    torch = pytest.importorskip("torch")
    from torch.fx.experimental.proxy_tensor import make_fx

    model, x, state, marks = model_of(name, torch.tensor, T=STEPS)

    def run(model, x, state, marks):
        (y, last), vjp = lstm_vjp(x, model.layers, state, cell=model.cell, **marks)
        return leaves((model(x, state, **marks), model(x, state, engine="xp", **marks), vjp(y, last)))

    program = make_fx(run, tracing_mode=mode)(model, x, state, marks)
    if mode == "symbolic":
        x, marks = mapped(lambda a: torch.cat([a, a]), (x, marks))
        state = mapped(lambda a: torch.cat([a, a], dim=1), state)
    got, wanted = program(model, x, state, marks), run(model, x, state, marks)
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["uniform", "lengths", "peephole", "plain"])
def test_torch_computes_shapes_without_numbers(name):
    torch = pytest.importorskip("torch")
    from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

    with FakeTensorMode() as mode:
        model, x, state, marks = mapped(mode.from_tensor, model_of(name, torch.tensor))
        results = [*leaves(model(x, state, **marks)), *(leaves(model.step(x[:, 0])) if name == "plain" else ())]
    assert all(isinstance(a, FakeTensor) for a in results)
    assert results[0].shape == (3, 5, model.output_size)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["auto", "xp"])
@pytest.mark.parametrize("name", ["lengths", "projected"])
def test_jax_export_with_free_batch_and_time(name, engine):
    jax = pytest.importorskip("jax")
    from jax import export

    model, x, state, _ = model_of(name)
    batch, time = export.symbolic_shape("batch, time")

    def run(model, x, state, lengths):
        def loss(model):
            y, last = model(x, state, lengths=lengths, engine=engine)
            return sum((a**2).sum() for a in leaves((y, last))), (y, last)

        return jax.grad(loss, has_aux=True)(model)

    arguments = (
        jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), model),
        jax.ShapeDtypeStruct((batch, time, 3), x.dtype),
        mapped(lambda a: jax.ShapeDtypeStruct((a.shape[0], batch, a.shape[2]), a.dtype), state),
        jax.ShapeDtypeStruct((batch,), "int8"),
    )
    program = export.export(jax.jit(run), platforms=("cpu", "cuda"))(*arguments)
    for B, T in ((3, 5), (2, 140)):
        x, lengths = drawing(1)(B, T, 3), np.asarray([min(T, 100), 2, 0][:B], "int8")
        first = mapped(lambda a, B=B: a[:, :B], state)
        (y, last), vjp = lstm_vjp(x, model.layers, first, lengths=lengths)
        _, gradients, _ = vjp(2 * y, mapped(lambda a: 2 * a, last))
        got = program.call(*mapped(jax.numpy.asarray, (model, x, first, lengths)))
        for a, b in zip(jax.tree.leaves(got), leaves((gradients, y, last)), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-10)


# From PyTorch's own modules, and from onnxruntime.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("free", [False, True])
def test_torch_says_that_an_onnx_file_with_marks_fixes_time(free, tmp_path):
    """Of a model that is trained in segments: without gradients there are none."""
    torch = pytest.importorskip("torch", minversion="2.13")
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    model = mapped(lambda a: a.requires_grad_(), LSTM.init(3, 4, num_layers=2, rng=0, xp=torch))

    class Module(torch.nn.Module):
        def forward(self, x, mask):
            return model(x, mask=mask, checkpoint=2)[0]

    x, mask = torch.tensor(OTHER, dtype=torch.float32), torch.arange(6 * STEPS).reshape(6, STEPS) % 5 > 0
    sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("time") if free else STEPS}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        options = {"dynamo": True, "dynamic_shapes": (sizes, sizes), "verbose": False}
        with torch.no_grad():
            torch.onnx.export(Module(), (x[:2], mask[:2]), tmp_path / "m.onnx", **options)
    said = [str(each.message) for each in caught if str(each.message).startswith("lstm: ")]
    assert len(said) == free
    assert not free or "a file for ONNX has one time with marks; `lstm_xp.save` leaves it free" in said[0]
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    given = {slot.name: array.numpy() for slot, array in zip(session.get_inputs(), (x, mask), strict=True)}
    np.testing.assert_allclose(session.run(None, given)[0], model(x, mask=mask)[0].detach(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("strict", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")
def test_torch_exports_the_zero_state_of_a_free_batch(strict):
    torch = pytest.importorskip("torch", minversion="2.13")
    model = LSTM.init(3, 4, num_layers=2, proj_size=2, rng=0, xp=torch)

    class Module(torch.nn.Module):
        def forward(self, x):
            return model(x, model.zero_state(x.shape[0]))[0]

    torch.compiler.reset()
    shapes = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(Module(), (torch.ones(2, STEPS, 3),), dynamic_shapes=shapes, strict=strict).module()
    x = torch.tensor(OTHER, dtype=torch.float32)
    torch.testing.assert_close(program(x), model(x)[0])


def test_jax_exports_the_zero_state_of_a_free_batch():
    jax = pytest.importorskip("jax")
    from jax import export

    model = LSTM.init(3, 4, num_layers=2, proj_size=2, rng=0, xp=jax.numpy)
    x = jax.numpy.asarray(OTHER, "float32")
    shape = jax.ShapeDtypeStruct((*export.symbolic_shape("batch"), STEPS, 3), x.dtype)
    program = export.export(jax.jit(lambda x: model(x, model.zero_state(x.shape[0]))[0]))(shape)
    np.testing.assert_allclose(program.call(x), model(x)[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("function", [lstm, lstm_vjp])
def test_segments_of_a_free_time_cannot_be_counted(function):
    jax = pytest.importorskip("jax")
    from jax import export

    model = LSTM.init(3, 4, rng=0, xp=jax.numpy)
    shape = jax.ShapeDtypeStruct(export.symbolic_shape("batch, time, 3"), "float32")
    with pytest.raises(ValueError, match=r"`checkpoint` must be None here; got 2.* the time of `x` is free"):
        jax.eval_shape(lambda x: function(x, model.layers, checkpoint=2)[0], shape)


@pytest.mark.slow
def test_ndonnx_with_a_free_batch():
    ndonnx, onnxruntime = pytest.importorskip("ndonnx"), pytest.importorskip("onnxruntime")
    model = LSTM.init(3, 4, bidirectional=True, rng=0, dtype=np.float32)
    x = ndonnx.argument(shape=("batch", STEPS, 3), dtype=ndonnx.float32)
    y, _ = model.to(ndonnx)(x)
    program = onnxruntime.InferenceSession(ndonnx.build({"x": x}, {"y": y}).SerializeToString())
    batch, *others = program.get_outputs()[0].shape
    assert (isinstance(batch, int), others) == (False, [STEPS, 8])
    for B in (1, 6):
        given = OTHER[:B].astype("float32")
        (got,) = program.run(None, {program.get_inputs()[0].name: given})
        np.testing.assert_allclose(got, model(given)[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", [("batch", "time", 3), (2, "time", 3)])
def test_ndonnx_says_that_time_cannot_be_free(shape):
    ndonnx = pytest.importorskip("ndonnx")
    x = ndonnx.argument(shape=shape, dtype=ndonnx.float32)
    model = LSTM.init(3, 4, rng=0).to(ndonnx)
    with pytest.raises(ValueError, match=r"^lstm: `x` must have a known size along time, as the loop"):
        model(x)
    if shape[0] == "batch":
        with pytest.raises(ValueError, match=r"got None\. Leave `state` out where the batch is free"):
            model.zero_state(x.shape[0])
