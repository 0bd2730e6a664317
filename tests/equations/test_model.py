"""The record `LSTM`, and what JAX and PyTorch do with it and with `lstm`."""

from dataclasses import dataclass
from sys import float_info

import numpy as np
import pytest

from lstm_xp import LSTM, Cell, Layer, lstm, lstm_vjp
from lstm_xp._equations import activations, sequence
from tests.support.layers import STACKS, leaves, mapped, model_of, problem

jax = pytest.importorskip("jax")
torch = pytest.importorskip("torch")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")
def test_torch_compile_with_lengths():
    model, x, state, marks = model_of("everything", torch.tensor)
    torch.compiler.reset()
    compiled = torch.compile(lambda x: model(x, state, **marks)[0], fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), model(x, state, **marks)[0])


# JAX


def jax_case(name):
    return model_of(name, jax.numpy.asarray)


def test_jax_uses_the_written_gradient(monkeypatch):
    model, x, state, marks = jax_case("coupled forget")
    called = []
    backward = sequence.backward
    monkeypatch.setattr(sequence, "backward", lambda *a, **k: called.append(1) or backward(*a, **k))
    jax.clear_caches()

    def loss(model, x, state, engine):
        y, last = model(x, state, engine=engine, **marks)
        return sum((a**2).sum() for a in leaves((y, last)))

    got = jax.jit(jax.grad(loss, (0, 1, 2)), static_argnums=3)(model, x, state, "auto")
    assert called
    called.clear()
    wanted = jax.jit(jax.grad(loss, (0, 1, 2)), static_argnums=3)(model, x, state, "xp")
    assert not called
    for a, b in zip(leaves(got), leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)


def test_jax_forward_mode():
    model, x, state, marks = jax_case("peephole")

    def loss(x, engine="auto"):
        return (model(x, state, engine=engine, **marks)[0] ** 2).sum()

    plain = lambda x: loss(x, "xp")  # noqa: E731 -- one expression, used as a function below
    _, tangent = jax.jvp(plain, (x,), (x,))
    np.testing.assert_allclose(tangent, (jax.grad(loss)(x) * x).sum(), atol=1e-12)
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(loss, (x,), (x,))


@pytest.mark.slow
def test_jax_hessian():
    model, x, state, marks = jax_case("peephole")
    small = x[:1, :2]
    one = {name: mark[:1, :2] if mark.ndim > 1 else jax.numpy.minimum(mark[:1], 2) for name, mark in marks.items()}
    start = mapped(lambda a: a[:, :1], state)

    def second(engine):
        return jax.jit(jax.hessian(lambda x: (model(x, start, engine=engine, **one)[0] ** 2).sum()))(small)

    np.testing.assert_allclose(second("auto"), second("xp"), atol=1e-11)


@pytest.mark.slow
def test_jax_vmap():
    model, x, state, marks = jax_case("peephole")

    def loss(x):
        return (model(x, state, **marks)[0] ** 2).sum()

    many = jax.numpy.stack([x, 2 * x])
    np.testing.assert_allclose(jax.vmap(loss)(many), [loss(x), loss(2 * x)], atol=1e-12)
    np.testing.assert_allclose(jax.vmap(jax.grad(loss))(many)[1], jax.grad(loss)(2 * x), atol=1e-12)


def test_marks_are_data_under_jit():
    model, x, state, marks = jax_case("marks")
    run = jax.jit(lambda marks: model(x, state, **marks)[0])
    np.testing.assert_allclose(run(marks), model(x, state, **marks)[0], atol=1e-14)
    other = marks | {"lengths": jax.numpy.asarray([1, 0, 4])}
    np.testing.assert_allclose(run(other), model(x, state, **other)[0], atol=1e-14)
    assert run._cache_size() == 1


@pytest.mark.slow
def test_a_second_call_on_jax_compiles_nothing(compilations):
    forward = LSTM.init(3, 4, rng=0, xp=jax.numpy, dtype="float64")

    def run():
        model, x, state, marks = jax_case("everything")
        jax.block_until_ready((x, model.layers, state, marks))
        before = len(compilations)
        model(x, state, **marks)
        forward.step(x[:, 0])
        (y, _), vjp = lstm_vjp(x, model.layers, state, cell=model.cell, **marks)
        jax.block_until_ready(vjp(y))
        return len(compilations) - before

    jax.clear_caches()
    assert run() > 0
    assert run() == 0


# The record


def test_a_step_follows_weights_that_are_trained_in_place():
    for xp in (np, torch):
        model = LSTM.init(3, 4, rng=0, xp=xp)
        x = xp.ones((2, 3), dtype=xp.float32)
        before, _ = model.step(x)
        with torch.no_grad():
            leaves(model)[0][...] *= 2
        after, _ = model.step(x)
        np.testing.assert_allclose(after, model(x[:, None], trace=True)[0][:, 0], atol=1e-6)
        assert np.max(np.abs(np.asarray(after) - np.asarray(before))) > 1e-2


def test_a_step_keeps_nothing_of_a_trace_or_of_a_graph():
    model = LSTM.init(3, 4, rng=0, xp=jax.numpy)
    x = jax.numpy.ones((2, 3), dtype="float32")
    inside, _ = jax.jit(lambda x: model.step(x))(x)
    np.testing.assert_allclose(model.step(x)[0], inside, atol=1e-6)

    model = mapped(lambda a: a.requires_grad_(), LSTM.init(3, 4, rng=0, xp=torch))
    for _ in range(2):
        model.step(torch.ones(2, 3))[0].sum().backward()


def test_the_record_in_optax():
    optax = pytest.importorskip("optax")
    model = LSTM.init(3, 4, rng=0, xp=jax.numpy)
    optimiser = optax.adam(1e-2)
    state = optimiser.init(model)
    x = jax.numpy.ones((2, 5, 3), dtype="float32")

    @jax.jit
    def step(model, state):
        loss, gradient = jax.value_and_grad(lambda m: ((m(x)[0] - 0.3) ** 2).mean())(model)
        updates, state = optimiser.update(gradient, state)
        return optax.apply_updates(model, updates), state, loss

    losses = []
    for _ in range(20):
        model, state, loss = step(model, state)
        losses.append(float(loss))
    assert isinstance(model, LSTM)
    assert losses[-1] < 0.5 * losses[0]


def test_the_record_in_equinox(tmp_path):
    """As a field of a module: its arrays are trained and saved, and the cell is left alone."""
    equinox = pytest.importorskip("equinox")

    class Module(equinox.Module):
        lstm: LSTM

    def made(seed):
        return Module(LSTM.init(3, 4, rng=seed, xp=jax.numpy, cell=Cell(clip=2.0)))

    x = jax.numpy.ones((2, 5, 3), dtype="float32")
    model = made(0)
    loss = equinox.filter_jit(equinox.filter_value_and_grad(lambda m: (m.lstm(x)[0] ** 2).mean()))
    before, gradient = loss(model)
    after, _ = loss(equinox.apply_updates(model, jax.tree.map(lambda g: -0.1 * g, gradient)))
    assert after < before
    assert gradient.lstm.cell == Cell(clip=2.0)
    equinox.tree_serialise_leaves(tmp_path / "a.eqx", model)
    assert loss(equinox.tree_deserialise_leaves(tmp_path / "a.eqx", made(1)))[0] == before


def test_the_record_in_torch_func():
    model = LSTM.init(3, 4, rng=0, xp=torch, dtype=torch.float64, cell=Cell(clip=2.0))
    x = torch.ones(2, 5, 3, dtype=torch.float64)
    gradient = torch.func.grad(lambda m: (m(x)[0] ** 2).sum())(model)
    (y, _), vjp = lstm_vjp(x, model.layers, cell=model.cell)
    _, wanted, _ = vjp(2 * y)
    assert gradient.cell == model.cell
    for a, b in zip(leaves(gradient.layers), leaves(wanted), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_the_record_is_a_jax_tree():
    model = LSTM.init(3, 4, num_layers=2, peephole=True, rng=0, xp=jax.numpy)
    arrays, tree = jax.tree.flatten(model)
    assert len(arrays) == 8
    assert jax.tree.unflatten(tree, arrays).cell is model.cell
    step = jax.jit(lambda m, x, s: m.step(x, s))
    x = jax.numpy.ones((2, 3), dtype="float32")
    y, state = step(model, x, None)
    np.testing.assert_allclose(y, model(x[:, None])[0][:, 0], atol=1e-6)
    np.testing.assert_allclose(step(model, x, state)[0], model.step(x, state)[0], atol=1e-6)


@pytest.mark.parametrize("library", ["numpy", "torch", "jax.numpy", "array_api_strict", "dask.array", "mlx.core"])
def test_the_record_moves(library):
    model = LSTM.init(3, 4, num_layers=2, bidirectional=True, proj_size=2, rng=0)
    there = model.to(pytest.importorskip(library))
    back = there.to(torch).to(jax.numpy).to(np) if library == "torch" else there.to(np)
    for a, b in zip(leaves(back), leaves(model), strict=True):
        assert type(a) is np.ndarray
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_what_has_moved_is_a_copy():
    model = LSTM.init(3, 4, num_layers=2, bidirectional=True, proj_size=2, rng=0)
    copied = model.to(torch)
    leaves(copied)[0].zero_()
    assert np.any(leaves(model)[0])
    assert leaves(model.to(dtype=np.float64))[0].dtype == np.float64


@pytest.mark.parametrize("scheme", ["torch", "keras"])
def test_init_draws_what_the_scheme_says(scheme):
    model = LSTM.init(50, 100, num_layers=2, peephole=True, scheme=scheme, rng=0, dtype=np.float64)
    w = model.layers[0].forward
    if scheme == "torch":
        layer = torch.nn.LSTM(50, 100, dtype=torch.float64)
        assert np.abs(w.weight_ih).max() == pytest.approx(0.1, rel=1e-2)
        assert np.std(w.weight_hh) == pytest.approx(float(layer.weight_hh_l0.detach().std()), rel=2e-2)
        assert np.std(w.bias) == pytest.approx(float((layer.bias_ih_l0 + layer.bias_hh_l0).detach().std()), rel=0.15)
    else:
        np.testing.assert_allclose(w.weight_hh.T @ w.weight_hh, np.eye(100), atol=1e-12)
        assert np.abs(w.weight_ih).max() == pytest.approx(np.sqrt(6 / 450), rel=1e-2)
        np.testing.assert_array_equal(w.bias, np.repeat([0, 1, 0, 0], 100))
    again = LSTM.init(50, 100, num_layers=2, peephole=True, scheme=scheme, rng=0, xp=torch, dtype=torch.float64)
    for a, b in zip(leaves(model), leaves(again), strict=True):
        np.testing.assert_array_equal(a, b.numpy())
    biased = LSTM.init(3, 4, forget_bias=2.0, scheme=scheme, rng=0)
    np.testing.assert_array_equal(biased.layers[0].forward.bias[4:8], 2)


def test_repr():
    model = LSTM.init(3, 4, num_layers=2, proj_size=2, rng=0, xp=torch, cell=Cell(clip=1.0))
    text = repr(model)
    assert text.startswith("LSTM(3 -> 2, layers: 2, 2, 192 parameters, torch float32, cell=Cell(")
    reverse = LSTM((Layer(None, model.layers[0].forward),))
    assert "2 reverse" in repr(reverse)
    assert repr(LSTM.init(1, 1, bidirectional=True, rng=0)).startswith("LSTM(1 -> 2, layers: 1 + 1 both, 24 parameters")


# Bad input


# One case a line: its name, what it changes, the error and its words.
# ruff: noqa: E501
BAD = {
    "x rank": (lambda p: {"x": p["x"][0]}, ValueError, r"`x` must have 3 dimensions \(batch, time, I\); got shape \(5, 3\)"),
    "x rank, time first": (lambda p: {"x": p["x"][0], "time_major": True}, ValueError, r"`x` must have 3 dimensions \(time, batch, I\); got shape \(5, 3\)"),
    "x width": (lambda p: {"x": p["x"][:, :, :2]}, ValueError, r"`x` must have shape \(batch, time, I\) with I = 3, as the layers take; got \(3, 5, 2\)"),
    "x integer": (lambda p: {"x": p["x"].astype(int)}, TypeError, r"`x` must have the dtype of `layers\[0\].forward.weight_ih`, float64; got int64"),
    "x list": (lambda p: {"x": p["x"].tolist()}, TypeError, "`x` must be an array of a library"),
    "x dtype": (lambda p: {"x": p["x"].astype("float32")}, TypeError, r"`x` must have the dtype of `layers\[0\].forward.weight_ih`, float64; got float32"),
    "x library": (lambda p: {"x": torch.tensor(p["x"])}, TypeError, r"`x` must come from the library of `layers\[0\].forward.weight_ih`, numpy; got torch"),
    "state dask": (lambda p: {"state": mapped(pytest.importorskip("dask.array").asarray, p["state"])}, TypeError, r"`state\[0\].h` must come from the library of `layers\[0\].forward.weight_ih`, numpy; got dask"),
    "layers empty": (lambda p: {"layers": ()}, ValueError, "`layers` must have at least one Layer"),
    "layers one": (lambda p: {"layers": p["layers"][0]}, TypeError, "`layers` must be a sequence of Layer; got Layer"),
    "layers generator": (lambda p: {"layers": iter(p["layers"])}, TypeError, "`layers` must be a sequence of Layer; got tuple_iterator"),
    "layers item": (lambda p: {"layers": (p["layers"][0].forward,)}, TypeError, r"`layers\[0\]` must be a Layer; got LSTMWeights"),
    "layers none": (lambda p: {"layers": (Layer(None),)}, ValueError, r"`layers\[0\]` must have a direction"),
    "layers weights": (lambda p: {"layers": (Layer((1, 2)),)}, TypeError, r"`layers\[0\].forward` must be LSTMWeights or None; got tuple"),
    "layers list": (lambda p: change(p, 0, weight_ih=p["layers"][0].forward.weight_ih.tolist()), TypeError, r"`layers\[0\].forward.weight_ih` must be an array of a library"),
    "layers integer": (lambda p: change(p, 2, bias=np.ones(16, dtype=int)), TypeError, r"`layers\[2\].forward.bias` must have the dtype of `layers\[0\].forward.weight_ih`, float64; got int64"),
    "bias": (lambda p: change(p, 1, bias=np.zeros(15)), ValueError, r"`layers\[1\].forward.bias` must have shape \(4H\) = \(16,\); got \(15,\)"),
    "hh": (lambda p: change(p, 0, weight_hh=np.zeros((16, 3))), ValueError, r"`layers\[0\].forward.weight_hh` must have shape \(4H, H\) = \(16, 4\) without a `weight_hr`"),
    "ih rank": (lambda p: change(p, 0, weight_ih=np.zeros(16)), ValueError, r"`layers\[0\].forward.weight_ih` must have 2 dimensions \(4H, I\); got shape \(16,\)"),
    "hh rank": (lambda p: change(p, 1, weight_hh=np.zeros(16)), ValueError, r"`layers\[1\].forward.weight_hh` must have 2 dimensions \(4H, R\); got shape \(16,\)"),
    "hh none": (lambda p: change(p, 1, weight_hh=None), TypeError, r"`layers\[1\].forward.weight_hh` must be an array of a library .*; got NoneType"),
    "hh empty": (lambda p: change(p, 0, weight_hh=np.zeros((16, 0))), ValueError, r"must have shape \(4H, R\) with H and R at least 1; got \(16, 0\)"),
    "hh no rows": (lambda p: change(p, 0, weight_hh=np.zeros((0, 4))), ValueError, r"must have shape \(4H, R\) with H and R at least 1; got \(0, 4\)"),
    "hh rows": (lambda p: change(p, 0, weight_hh=np.zeros((15, 4))), ValueError, r"must have shape \(4H, R\) with H and R at least 1; got \(15, 4\)"),
    "chain": (lambda p: change(p, 1, weight_ih=np.zeros((16, 4))), ValueError, r"`layers\[1\].forward.weight_ih` must have shape \(4H, I\) = \(16, 8\), as layer 0 gives I = 8; got \(16, 4\)"),
    "hr": (lambda p: change(p, 0, weight_hr=np.zeros((3, 4))), ValueError, r"`layers\[0\].forward.weight_hr` must have shape \(R, H\) = \(4, 4\); got \(3, 4\)"),
    "peephole": (lambda p: change(p, 0, peephole=np.zeros(4)), ValueError, r"`layers\[0\].forward.peephole` must have shape \(3H\) = \(12,\)"),
    "input of directions": (lambda p: {"layers": (p["layers"][0]._replace(backward=p["layers"][0].backward._replace(weight_ih=np.zeros((16, 5)))), *p["layers"][1:])}, ValueError, r"`layers\[0\].backward.weight_ih` must have shape \(4H, I\) = \(16, 3\), as the other direction takes I = 3; got \(16, 5\)"),
    "directions": (lambda p: {"layers": (Layer(p["layers"][0].forward, small()), *p["layers"][1:])}, ValueError, r"`layers\[0\]` must have directions of one size"),
    "state type": (lambda p: {"state": p["state"][0]}, TypeError, "`state` must be a sequence of LSTMState; got LSTMState"),
    "state count": (lambda p: {"state": p["state"][:2]}, ValueError, "`state` must have one LSTMState a layer, 3; got 2"),
    "state item": (lambda p: {"state": (1, 2, 3)}, TypeError, r"`state\[0\]` must be an LSTMState; got int"),
    "state h": (lambda p: {"state": (p["state"][0]._replace(h=np.zeros((2, 3, 5))), *p["state"][1:])}, ValueError, r"`state\[0\].h` must have shape \(directions, batch, hidden\) = \(2, 3, 4\); got \(2, 3, 5\)"),
    "state dtype": (lambda p: {"state": (p["state"][0]._replace(c=np.zeros((2, 3, 4), dtype="float32")), *p["state"][1:])}, TypeError, r"`state\[0\].c` must have the dtype of `layers\[0\].forward.weight_ih`"),
    "mask dtype": (lambda p: {"mask": np.ones((3, 5))}, TypeError, "`mask` must have dtype bool; got float64"),
    "mask shape": (lambda p: {"mask": np.ones((5, 3), dtype=bool)}, ValueError, r"`mask` must have shape \(batch, time\) = \(3, 5\); got \(5, 3\)"),
    "mask shape, time first": (lambda p: {"x": p["x"].swapaxes(0, 1), "mask": np.ones((3, 5), dtype=bool), "time_major": True}, ValueError, r"`mask` must have shape \(time, batch\) = \(5, 3\); got \(3, 5\)"),
    "reset library": (lambda p: {"reset": torch.ones(3, 5, dtype=torch.bool)}, TypeError, "`reset` must come from the library of `x`, numpy; got torch"),
    "lengths dtype": (lambda p: {"lengths": np.ones(3)}, TypeError, "`lengths` must have dtype integral; got float64"),
    "lengths shape": (lambda p: {"lengths": np.ones(2, dtype=int)}, ValueError, r"`lengths` must have shape \(batch\) = \(3,\); got \(2,\)"),
    "lengths value": (lambda p: {"lengths": np.asarray([1, 6, -1])}, ValueError, "`lengths` must lie between 0 and time = 5; got values from -1 to 6"),
    "engine": (lambda p: {"engine": "fast"}, ValueError, "`engine` must be 'auto', 'native' or 'xp'; got 'fast'"),
    "engine list": (lambda p: {"engine": ["xp"]}, ValueError, "`engine` must be 'auto', 'native' or 'xp'"),
    "cell": (lambda p: {"cell": (Cell(),)}, TypeError, "`cell` must be a Cell, or a tuple with one a layer, 3; got 1 of them"),
    "cell none": (lambda p: {"cell": 3}, TypeError, "`cell` must be a Cell, or a tuple with one a layer, 3; got int"),
    "cell string": (lambda p: {"cell": (Cell(), Cell(), ("tanh",))}, TypeError, r"`cell\[2\]` must be a Cell, or one a direction"),
    "cell number": (lambda p: {"cell": (Cell(), 3, Cell())}, TypeError, r"`cell\[1\]` must be a Cell, or one a direction"),
    "state number": (lambda p: {"state": 3}, TypeError, "`state` must be a sequence of LSTMState; got int"),
    "cell pair": (lambda p: {"cell": (Cell(), Cell(), (Cell(),))}, TypeError, r"`cell\[2\]` must be a Cell, or one a direction, 2"),
    "proj_clip": (lambda p: {"cell": Cell(proj_clip=1.0)}, ValueError, r"`cell\[0\].proj_clip` bounds a projection, and layer 0 has none"),
}  # fmt: skip


def change(p, k, **weights):
    layers = list(p["layers"])
    layers[k] = layers[k]._replace(forward=layers[k].forward._replace(**weights))
    return {"layers": tuple(layers)}


def small():
    return LSTM.init(3, 2, rng=0, dtype=np.float64).layers[0].forward


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("function", [lstm, lstm_vjp], ids=lambda f: f.__name__)
def test_bad_input(function, case):
    edit, error, words = BAD[case]
    x, layers, state, _ = problem(STACKS["uniform"])
    function(x, layers, state)  # what has passed the checks hides nothing
    arguments = {"x": x, "layers": layers, "state": state}
    arguments |= edit(arguments)
    first = [arguments.pop(name) for name in ("x", "layers", "state")]
    with pytest.raises(error, match=f"^{function.__name__}: .*{words}"):
        function(*first, **arguments)


@dataclass
class Unhashable:
    """A function that compares by its fields, so that Python takes its hash away."""

    factor: float = 1.0

    def __call__(self, x, xp):
        return self.factor * xp.tanh(x)


@pytest.mark.parametrize(("options", "words"), [
    ({"gate_activation": "swish"}, "`gate_activation` must be one of sigmoid, .*; got 'swish'"),
    ({"gate_activation": ()}, r"`gate_activation` must be one of sigmoid, .*; got \(\)"),
    ({"gate_activation": ["tanh"]}, "`gate_activation` must be one of sigmoid, .*; got .'tanh'."),
    ({"output_activation": ("elu", 1.0)}, r"`output_activation` must be \(name, alpha, beta\) with two finite numbers"),
    *[({"gate_activation": ("hard_sigmoid", *numbers)}, r"`gate_activation` must be \(name, alpha, beta\) with two finite")
      for numbers in ((0.2, "b"), (0.2, np.nan), (np.inf, 0.5), (True, 0.5), (10**400, 0.5), (np.asarray(0.2), 0.5), (0.2, 0.5, 0))],
    ({"candidate_activation": Unhashable()}, "`candidate_activation` must have a hash, .*; got Unhashable"),
    ({"clip": np.nan}, "`clip` must be a positive number or None; got nan"),
    ({"clip": torch.tensor(1.0)}, "`clip` must be a positive number or None; got tensor"),
    ({"clip": 0.0}, "`clip` must be a positive number or None; got 0.0"),
    ({"cell_clip": "1"}, "`cell_clip` must be a positive number"),
    ({"proj_clip": True}, "`proj_clip` must be a positive number"),
    ({"clip": float("nan")}, "`clip` must be a positive number or None; got nan"),
    ({"cell_clip": float("inf")}, "`cell_clip` must be a positive number or None; got inf"),
    ({"clip": 10**4000}, "`clip` must be a positive number or None; got 1000"),
    ({"gate_activation": ("elu", True, 0.0)}, r"`gate_activation` must be .* numbers; got \('elu', True, 0.0\)"),
    ({"gate_activation": ("elu", float("nan"), 0.0)}, r"`gate_activation` must be .* numbers; got \('elu', nan, 0.0\)"),
    ({"coupled": "both"}, "`coupled` must be None, 'forget' or 'input'; got 'both'"),
])  # fmt: skip
def test_bad_cell(options, words):
    with pytest.raises(ValueError, match="^Cell: " + words):
        Cell(**options)


def test_the_largest_bound():
    assert Cell(clip=float_info.max).clip == float_info.max


@pytest.mark.parametrize(
    ("name", "of_one", "slope"),
    [("affine", 1.0, 1.0), ("scaled_tanh", np.tanh(1), 1 - np.tanh(1) ** 2), ("hard_sigmoid", 0.7, 0.2)],
)
def test_a_name_without_its_numbers(name, of_one, slope):
    """They are the ONNX operator's; of the scaled tanh, which has none, those that change nothing."""
    x = np.ones(1)
    np.testing.assert_allclose(activations.value(name, x, xp=np), of_one, rtol=1e-15)
    np.testing.assert_allclose(activations.slope(name, x, x * of_one, xp=np), slope, rtol=1e-15)


@pytest.mark.parametrize("name", ["hard_sigmoid", "affine", "leaky_relu", "thresholded_relu", "scaled_tanh", "elu"])
def test_scalars_of_numpy_widen_nothing(name):
    model = LSTM.init(3, 4, rng=0)
    plain, scalars = (
        Cell(gate_activation=(name, kind(0.2), kind(0.5)), clip=kind(2.0)) for kind in (float, np.float64)
    )
    assert plain == scalars
    (y, last), vjp = lstm_vjp(np.ones((2, 5, 3), dtype="float32"), model.layers, cell=scalars)
    assert {a.dtype for a in leaves((y, last, vjp(y)))} == {np.dtype("float32")}


def test_marks_on_another_device():
    strict = pytest.importorskip("array_api_strict")
    x, layers, state, _ = problem(STACKS["plain"])
    arrays = mapped(lambda a: strict.asarray(a, device=strict.Device("device1")), (x, layers, state))
    for mark in ({"mask": strict.ones((3, 5), dtype=strict.bool)}, {"lengths": strict.ones(3, dtype=strict.int64)}):
        with pytest.raises(TypeError, match=f"`{next(iter(mark))}` must be on the device of `x`"):
            lstm(*arrays, **mark)


def test_a_function_without_its_derivative():
    model, x, state, _ = model_of("plain")
    with pytest.raises(ValueError, match=r"`cell.output_activation` must have a method `derivative\(x, xp\)`"):
        lstm_vjp(x, model.layers, state, cell=Cell(output_activation=lambda x, xp: xp.sin(x)))


def test_jax_differentiates_a_function_without_its_derivative():
    model, x, state, _ = jax_case("plain")

    def gradient(cell):
        return jax.jit(jax.grad(lambda x: (lstm(x, model.layers, state, cell=cell)[0] ** 2).sum()))(x)

    np.testing.assert_allclose(gradient(Cell("sigmoid", lambda x, xp: xp.tanh(x))), gradient(Cell()), atol=1e-12)


def test_bad_gradients():
    model, x, state, _ = model_of("uniform")
    (y, last), vjp = lstm_vjp(x, model.layers, state)
    for error, words, arguments in (
        (ValueError, r"vjp: `dy` must have shape .* = \(3, 5, 8\); got \(3, 5, 7\)", (y[:, :, 1:],)),
        (TypeError, "vjp: `dy` must have the dtype of `y`", (y.astype("float32"),)),
        (TypeError, "vjp: `dy` must come from the library of `y`", (torch.tensor(y),)),
        (TypeError, "vjp: `dstate` must be a sequence of LSTMState; got LSTMState", (y, last[0])),
        (ValueError, r"vjp: `dstate` must have one LSTMState a layer, 3; got 1", (y, last[:1])),
        (ValueError, r"vjp: `dstate\[0\].c` must have shape", (y, (last[0]._replace(c=y), *last[1:]))),
    ):
        with pytest.raises(error, match=words):
            vjp(*arguments)
    with pytest.raises(ValueError, match=r"lstm_vjp: `engine` must be 'auto' or 'xp'"):
        lstm_vjp(x, model.layers, engine="native")


def test_bad_steps():
    model = LSTM.init(3, 4, rng=0)
    x = np.ones((2, 3), dtype="float32")
    _, state = model.step(x)
    for error, words, arguments in (
        (ValueError, r"`x_t` must have 2 dimensions \(batch, I\); got shape \(2, 5, 3\)", (np.ones((2, 5, 3), "f"),)),
        (TypeError, r"`x_t` must have the dtype of `layers\[0\].forward.weight_ih`, float32", (x.astype(float),)),
        (TypeError, r"`x_t` must come from the library of `layers\[0\].forward.weight_ih`, numpy", (torch.tensor(x),)),
        (ValueError, r"`state\[0\].h` must have shape", (x[:1], state)),
        (ValueError, "`state` must have one LSTMState a layer, 1; got 2", (x, state * 2)),
        (TypeError, "`state` must be a sequence of LSTMState; got LSTMState", (x, state[0])),
    ):
        with pytest.raises(error, match="^LSTM.step: " + words):
            model.step(*arguments)
    with pytest.raises(ValueError, match=r"`layers\[0\]` must have a forward direction only"):
        LSTM.init(3, 4, bidirectional=True, rng=0).step(x)


@pytest.mark.parametrize(("arguments", "words"), [
    ((0, 4, {}), "`input_size` must be an integer of at least 1; got 0"),
    ((3, 4.0, {}), "`hidden_size` must be an integer of at least 1; got 4.0"),
    ((3, True, {}), "`hidden_size` must be an integer of at least 1; got True"),
    ((3, np.float64(4), {}), r"`hidden_size` must be an integer of at least 1; got .*4.0"),
    ((3, np.asarray([4, 4]), {}), r"`hidden_size` must be an integer of at least 1; got array\(\[4, 4\]\)"),
    ((3, 4, {"num_layers": 0}), "`num_layers` must be"),
    ((3, 4, {"proj_size": 4}), "`proj_size` must be below hidden_size = 4; got 4"),
    ((3, 4, {"scheme": "he"}), "`scheme` must be one of torch, keras; got 'he'"),
])  # fmt: skip
def test_bad_init(arguments, words):
    *sizes, options = arguments
    with pytest.raises(ValueError, match=r"^LSTM.init: " + words):
        LSTM.init(*sizes, **options)
