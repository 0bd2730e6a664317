"""The parameters of other libraries' cells, in memory: against the live cells, and back."""

import numpy as np
import pytest

from lstm_xp import LSTM, Cell
from lstm_xp.formats import equinox, flax, haiku, mlx, tensorflow1
from tests.support.layers import mapped
from tests.support.stacks import MODELS, assert_same, cast

jax = pytest.importorskip("jax")

X = np.random.default_rng(0).standard_normal((2, 5, 3)).astype(np.float32)  # batch, time, features


def randomised(tree, seed=0):
    """Return a tree with random numbers in place of its own, zero biases among them."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda a: rng.uniform(-1, 1, a.shape).astype(np.float32), tree)


def assert_computes(model, y):
    np.testing.assert_allclose(model(X)[0], np.asarray(y), rtol=0, atol=1e-6)


# Flax

LINEN = {
    "rnn": lambda linen, cell: linen.RNN(cell(4)),
    "both": lambda linen, cell: linen.Bidirectional(linen.RNN(cell(4)), linen.RNN(cell(4))),
    "stack": lambda linen, cell: linen.Sequential([linen.RNN(cell(4)), linen.RNN(cell(6))]),
}
NNX = {
    "rnn": lambda nnx, cell, r: nnx.RNN(cell(3, 4, rngs=r)),
    "both": lambda nnx, cell, r: nnx.Bidirectional(nnx.RNN(cell(3, 4, rngs=r)), nnx.RNN(cell(3, 4, rngs=r))),
    "stack": lambda nnx, cell, r: nnx.Sequential(
        nnx.RNN(cell(3, 4, rngs=r)), nnx.Bidirectional(nnx.RNN(cell(4, 6, rngs=r)), nnx.RNN(cell(4, 6, rngs=r)))
    ),
}


@pytest.fixture
def linen():
    return pytest.importorskip("flax.linen")


@pytest.fixture
def nnx():
    return pytest.importorskip("flax.nnx")


@pytest.mark.parametrize("cell", ["LSTMCell", "OptimizedLSTMCell"])
@pytest.mark.parametrize("kind", LINEN)
def test_linen(linen, kind, cell):
    peer = LINEN[kind](linen, getattr(linen, cell))
    variables = randomised(peer.init(jax.random.key(0), X))
    ours = flax.from_params(variables)
    assert_computes(ours, peer.apply(variables, X))
    assert_same(flax.from_params(variables["params"]), ours)
    jax.tree.map(np.testing.assert_array_equal, flax.to_params(ours), dict(variables["params"]))


@pytest.mark.parametrize("cell", ["LSTMCell", "OptimizedLSTMCell"])
@pytest.mark.parametrize("kind", NNX)
def test_nnx(nnx, kind, cell):
    peer = NNX[kind](nnx, getattr(nnx, cell), nnx.Rngs(0))
    weights = nnx.state(peer, nnx.Param)
    nnx.update(peer, randomised(weights))
    ours = flax.from_params(nnx.state(peer))
    assert_computes(ours, peer(X))
    assert_same(flax.from_params(nnx.to_pure_dict(nnx.state(peer))), ours)
    changed = mapped(lambda a: 0.5 * a, ours)
    nnx.update(peer, flax.to_params(changed, kind=f"nnx.{cell}"))
    assert_computes(changed, peer(X))


def test_several_cells_of_flax():
    cells = {name: flax.to_params(MODELS[name]) for name in ("plain", "both")}
    for tree in (cells, {"params": cells}):  # as `init` returns them
        assert_same(flax.from_params(tree, name="both"), MODELS["both"])
    for tree in (cells, cells | {"both": flax.to_params(MODELS["both"], kind="nnx.LSTMCell")}):
        assert_same(flax.from_params({"net": tree}, name="net.both"), MODELS["both"])
    with pytest.raises(ValueError, match=r"`name` must say which LSTM of tree, one of 'plain', 'both'; got None"):
        flax.from_params(cells)
    for tree in ({"dense": {"kernel": X}}, {}, 3):
        with pytest.raises(ValueError, match=r"tree has no LSTM"):
            flax.from_params(tree)


def test_numbered_layers_that_do_not_fit_are_no_stack():
    layers = flax.to_params(MODELS["stack"])
    del layers["layers_1"]
    with pytest.raises(ValueError, match=r"one of 'layers_0', 'layers_2'"):
        flax.from_params(layers)


@pytest.mark.parametrize(
    "names",
    [["forward_rnn"], ["backward_rnn"], ["layers_0"], ["layers_0", "layers_1"], ["layers_0", "layers_2"], ["layers"]],
)
def test_names_of_flax_that_do_not_go_together(names):
    """One direction or one layer of several is an LSTM by itself, and keeps its name."""
    cell = flax.to_params(MODELS["plain"])
    for name in names:
        assert_same(flax.from_params({name: cell for name in names}, name=name), MODELS["plain"])


def test_two_directions_and_another_cell_beside_them():
    tree = flax.to_params(MODELS["both"])["layers_0"] | {"other": flax.to_params(MODELS["plain"])}
    assert_same(flax.from_params(tree, name="."), LSTM(MODELS["both"].layers[:1]))
    assert_same(flax.from_params(tree, name="other"), MODELS["plain"])


@pytest.mark.parametrize("bias", [True, False])
def test_what_the_module_for_flax_has_beyond_it(bias):
    """A projection and peepholes, beside the joined matrices."""
    model = LSTM.init(3, 5, proj_size=2, peephole=True, bias=bias, rng=0)
    weights = model.layers[0].forward
    recurrent = {"kernel": weights.weight_hh.T} | ({"bias": weights.bias} if bias else {})
    cell = {"dense_i": {"kernel": weights.weight_ih.T}, "dense_h": recurrent, "peephole": weights.peephole}
    assert_same(flax.from_params(cell | {"proj": {"kernel": weights.weight_hr.T}}), model)


def test_other_cells_of_flax_are_no_lstm(nnx):
    gru = nnx.state(nnx.GRUCell(3, 4, rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match=r"tree has no LSTM"):
        flax.from_params(gru)


@pytest.mark.parametrize("kind", ["linen", "nnx.LSTMCell", "nnx.OptimizedLSTMCell"])
def test_a_tree_of_flax_that_lacks_one_name(kind):
    """It is no LSTM, or what lacks is named."""
    cell = flax.to_params(MODELS["plain"], kind=kind)["cell"]
    for name in cell:
        with pytest.raises(ValueError, match=r"tree has no LSTM"):
            flax.from_params({key: item for key, item in cell.items() if key != name})
    for name, dense in cell.items():
        wrong = [("kernel", 3.0), ("kernel", {"bias": 0.0})]
        if "bias" in dense and kind != "nnx.OptimizedLSTMCell":  # there it stands once, and may be left out
            wrong.append(("bias", {"kernel": dense["kernel"]}))
        for part, other in wrong:
            with pytest.raises(ValueError, match=f"must be a mapping with '{part}'; got"):
                flax.from_params(cell | {name: other})


def test_the_kind_of_flax():
    with pytest.raises(ValueError, match=r"to_params: `kind` must be one of linen, nnx.LSTMCell.*; got 'nnx'"):
        flax.to_params(MODELS["plain"], kind="nnx")


# Equinox, MLX, Haiku


def test_equinox():
    equinox_nn = pytest.importorskip("equinox.nn")
    peer = equinox_nn.LSTMCell(3, 4, dtype=np.float32, key=jax.random.key(0))
    ours = equinox.from_params(vars(peer))
    h = c = np.zeros((2, 4), np.float32)
    for t in range(5):
        h, c = jax.vmap(peer)(X[:, t], (h, c))
    np.testing.assert_allclose(ours(X)[0][:, -1], h, rtol=0, atol=1e-6)
    without = equinox_nn.LSTMCell(3, 4, use_bias=False, key=jax.random.key(0))
    assert equinox.from_params(vars(without)).layers[0].forward.bias is None


def test_mlx():
    mlx_nn, mx = pytest.importorskip("mlx.nn"), pytest.importorskip("mlx.core")
    peer = mlx_nn.LSTM(3, 4)
    peer.bias = mx.random.normal((16,))
    assert_computes(mlx.from_params(peer.parameters()), peer(mx.array(X))[0])
    (params,) = mlx.to_params(MODELS["plain"])
    peer.update({name: mx.array(array) for name, array in params.items()})
    assert_computes(MODELS["plain"], peer(mx.array(X))[0])


def test_haiku():
    haiku_peer = pytest.importorskip("haiku")

    def unrolled(x):
        core = haiku_peer.LSTM(4)
        return haiku_peer.dynamic_unroll(core, x, core.initial_state(x.shape[1]))[0]

    peer = haiku_peer.transform(unrolled)
    time_major = X.swapaxes(0, 1)
    params = randomised(peer.init(jax.random.key(0), time_major))
    ours = haiku.from_params(params["lstm/linear"])
    assert_computes(ours, peer.apply(params, None, time_major).swapaxes(0, 1))
    (back,) = haiku.to_params(ours)
    again = peer.apply({"lstm/linear": back}, None, time_major)
    assert_computes(ours, again.swapaxes(0, 1))


# TensorFlow 1: by its documented equations, as it does not run here


def tensorflow1_cell(params, x, *, forget_bias, cell_clip=None, proj_clip=None):
    """Run an `LSTMCell`: columns i, j, f, o; peepholes of i and f on the old cell state, of o on the new one."""

    def sigmoid(z):
        return 1 / (1 + np.exp(-z))

    def clipped(a, bound):
        return a if bound is None else np.clip(a, -bound, bound)

    P = params.get("projection/kernel", np.eye(params["kernel"].shape[1] // 4))
    w_i, w_f, w_o = (params.get(f"w_{gate}_diag", 0) for gate in "ifo")
    h, c, outputs = np.zeros((x.shape[0], P.shape[1])), np.zeros((x.shape[0], P.shape[0])), []
    for t in range(x.shape[1]):
        z = np.concatenate([x[:, t], h], axis=1) @ params["kernel"] + params["bias"]
        i, j, f, o = np.split(z, 4, axis=1)
        c = sigmoid(f + forget_bias + w_f * c) * c + sigmoid(i + w_i * c) * np.tanh(j)
        c = clipped(c, cell_clip)
        h = clipped((sigmoid(o + w_o * c) * np.tanh(c)) @ P, proj_clip)
        outputs.append(h)
    return np.stack(outputs, axis=1)


@pytest.mark.parametrize("forget_bias", [1.0, 0.0, 0.5])
@pytest.mark.parametrize("options", [{}, {"cell_clip": 0.3}, {"cell_clip": 0.3, "proj_clip": 0.1}], ids=str)
def test_tensorflow1(options, forget_bias):
    rng = np.random.default_rng(0)
    params = {"kernel": rng.standard_normal((3 + 2, 16)), "bias": rng.standard_normal(16)}
    params |= {f"w_{gate}_diag": rng.standard_normal(4) for gate in "ifo"}
    params["projection/kernel"] = rng.standard_normal((4, 2))
    ours = tensorflow1.from_params(params, forget_bias=forget_bias, **options)
    x = X.astype(float)
    y = tensorflow1_cell(params, x, forget_bias=forget_bias, **options)
    np.testing.assert_allclose(ours(x)[0], y, rtol=0, atol=1e-12)
    (back,) = tensorflow1.to_params(ours, forget_bias=forget_bias)
    assert back.keys() == params.keys()
    for name, array in params.items():
        np.testing.assert_allclose(back[name], array, rtol=0, atol=1e-15)


def test_tensorflow1_without_peepholes_and_projection():
    params = {"kernel": np.random.default_rng(0).standard_normal((7, 16)), "bias": np.ones(16)}
    y = tensorflow1_cell(params, X.astype(float), forget_bias=1.0)
    np.testing.assert_allclose(tensorflow1.from_params(params)(X.astype(float))[0], y, rtol=0, atol=1e-12)


# All of them: back and forth, and what they refuse

CELLS = {"equinox": equinox, "mlx": mlx, "haiku": haiku, "tensorflow1": tensorflow1}
HELD = ("plain", "stack", "both", "no bias", "sizes", "double")


@pytest.mark.parametrize("name", HELD)
@pytest.mark.parametrize("format", [flax, *CELLS.values()], ids=["flax", *CELLS])
def test_there_and_back(format, name):
    """Exact, but where a forget bias is taken out and put back: that costs a rounding."""
    rounding = 2e-7 if format in (haiku, tensorflow1) else 0.0
    assert_same(format.from_params(format.to_params(MODELS[name])), MODELS[name], atol=rounding)


@pytest.mark.parametrize("name", ["projection", "peephole", "reverse", "coupled", "activations"])
@pytest.mark.parametrize("format", [flax, *CELLS.values()], ids=["flax", *CELLS])
def test_what_they_cannot_hold_is_named(format, name):
    said = {"projection": "a projection", "peephole": "`peephole` weights", "reverse": "a reverse-only layer"}
    if format is tensorflow1 and name in ("projection", "peephole"):
        assert_same(format.from_params(format.to_params(MODELS[name])), MODELS[name], atol=2e-7)
        return
    with pytest.raises(ValueError, match=rf"cannot hold ({said.get(name, '(a `cell` other|the cell of)')})"):
        format.to_params(MODELS[name])


@pytest.mark.parametrize("gate", "ifo")
def test_a_missing_peephole_of_tensorflow1(gate):
    (params,) = tensorflow1.to_params(LSTM.init(3, 4, peephole=True, rng=0))
    del params[f"w_{gate}_diag"]
    with pytest.raises(ValueError, match=r"peephole` must have shape \(3H\)"):
        tensorflow1.from_params(params)


def test_the_clips_of_tensorflow1_are_the_constructors():
    model = MODELS["clips"]
    back = tensorflow1.from_params(tensorflow1.to_params(model), cell_clip=0.5, proj_clip=0.1)
    assert_same(back, model, atol=2e-7)
    assert back.cell == model.cell == Cell(cell_clip=0.5, proj_clip=0.1)


@pytest.mark.parametrize(("format", "key"), [(equinox, "weight_hh"), (mlx, "Wh"), (haiku, "b"), (tensorflow1, "bias")])
def test_a_missing_parameter_is_named(format, key):
    (params,) = format.to_params(MODELS["plain"])
    del params[key]
    with pytest.raises(ValueError, match=rf"from_params: `params\[0\]` must be a mapping with .*{key}"):
        format.from_params(params)
    with pytest.raises(ValueError, match=r"must have at least one layer; got none"):
        format.from_params([])
    with pytest.raises(ValueError, match=r"`params\[0\]` must be a mapping"):
        format.from_params([3.0])


def test_arrays_of_other_libraries_and_dtypes():
    wanted = cast(MODELS["both"], np.float32)
    assert isinstance(wanted, LSTM)
    params = jax.tree.map(jax.numpy.asarray, flax.to_params(wanted))
    assert_same(flax.from_params(params), wanted)
    rounded = jax.tree.map(lambda a: a.astype("bfloat16"), params)
    assert_same(flax.from_params(rounded), flax.from_params(jax.tree.map(lambda a: a.astype("float32"), rounded)))
