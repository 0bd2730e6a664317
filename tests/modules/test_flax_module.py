"""`lstm_xp.modules.flax.LSTM` next to the layers of Flax that it stands for, and under the transforms of nnx."""

import pickle
import subprocess
import sys

import numpy as np
import pytest

import lstm_xp
from lstm_xp import Cell, LSTMState, formats
from tests.support.layers import leaves
from tests.support.problems import drawing

nnx = pytest.importorskip("flax.nnx")
jax = pytest.importorskip("jax")
jnp = jax.numpy

from lstm_xp.modules.flax import LSTM  # noqa: E402 -- it needs Flax

# Inputs, units, batch and time, all different; the first sequence has all its steps.
I, H, B, T = 3, 5, 4, 6  # noqa: E741 -- the field's letter for the input size
LENGTHS = np.asarray([6, 1, 4, 2])
INSIDE = np.arange(T) < LENGTHS[:, None]  # (B, T)
X = drawing()(B, T, I)


def made(seed=0, **options):
    """Return a module of double precision, all its parameters random."""
    return randomised(LSTM(I, H, param_dtype=np.float64, rngs=nnx.Rngs(seed), **options))


def randomised(module, seed=1):
    draw = drawing(seed)
    for _, node in nnx.iter_graph(module):
        if isinstance(node, nnx.Param):
            node[...] = draw(*node.shape, scale=0.5)
    return module


def close(got, wanted, atol=1e-12):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=0, atol=atol)


def peer(width, bidirectional, seed=0):
    """Return a layer of Flax."""

    def rnn():
        kind = {"dtype": np.float64, "param_dtype": np.float64}
        return nnx.RNN(nnx.OptimizedLSTMCell(width, H, **kind, rngs=nnx.Rngs(seed)), return_carry=True)

    return randomised(nnx.Bidirectional(rnn(), rnn(), return_carry=True) if bidirectional else rnn(), seed)


def carried(state, bidirectional):
    """Return the carry of a layer as Flax has it: c first, a pair for each direction."""
    pairs = tuple((state.c[d], state.h[d]) for d in range(1 + bidirectional))
    return pairs if bidirectional else pairs[0]


@pytest.mark.parametrize(
    ("bidirectional", "lengths"),
    [
        (False, None),
        pytest.param(False, LENGTHS, marks=pytest.mark.slow),
        pytest.param(True, None, marks=pytest.mark.slow),
        (True, LENGTHS),
    ],
    ids=["forward-whole", "forward-lengths", "both-whole", "both-lengths"],
)
def test_numbers_and_gradients_of_flax(bidirectional, lengths):
    """Two layers with initial states; what stands after the end of a sequence is not compared."""
    draw, D = drawing(2), 1 + bidirectional
    peers = nnx.List([peer(I, bidirectional), peer(D * H, bidirectional, seed=1)])
    state = tuple(LSTMState(draw(D, B, H), draw(D, B, H)) for _ in peers)
    model, dy = made(num_layers=2, bidirectional=bidirectional), draw(B, T, D * H) * INSIDE[:, :, None]
    nnx.update(model, {"layers": {k: nnx.state(layer, nnx.Param) for k, layer in enumerate(peers)}})

    def ours(model):
        carry, y = model(X, state, seq_lengths=lengths, return_carry=True)
        ends = [carried(end, bidirectional) for end in carry]
        return (y * dy).sum(), (y * INSIDE[:, :, None], ends)

    def theirs(peers):
        y, ends = X, []
        for layer, before in zip(peers, state, strict=True):
            end, y = layer(y, initial_carry=carried(before, bidirectional), seq_lengths=lengths)
            ends.append(end)
        return (y * dy).sum(), (y * INSIDE[:, :, None], ends)

    got, results = nnx.jit(nnx.grad(ours, has_aux=True))(model)
    wanted, peer_results = nnx.jit(nnx.grad(theirs, has_aux=True))(peers)
    close(results, peer_results)
    close(got["layers"], wanted, atol=1e-11)


def test_a_model_of_another_format_goes_in_and_out():
    """By the tree that `formats.flax` knows."""
    record = lstm_xp.LSTM.init(I, H, num_layers=2, bidirectional=True, rng=0, dtype=np.float64)
    model = made(num_layers=2, bidirectional=True)
    nnx.update(model, formats.flax.to_params(record, kind="nnx.OptimizedLSTMCell"))
    close(model(X), record(X)[0])
    back = formats.flax.from_params(nnx.state(model))
    assert all(np.array_equal(a, b) for a, b in zip(leaves(back.layers), leaves(record.layers), strict=True))


OPTIONS = {
    "no bias": {"use_bias": False},
    "projection": {"proj_size": 2, "num_layers": 2, "bidirectional": True},
    "peephole": {"peephole": True, "bidirectional": True},
    "cell": {"cell": (Cell(cell_clip=0.3), Cell(coupled="forget")), "num_layers": 2},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_what_flax_has_not(name):
    """Marks, projections, peepholes and other cells, as `lstm` computes them; `formats.flax` reads all parameters."""
    options = OPTIONS[name]
    model = made(**options)
    record = lstm_xp.LSTM(formats.flax.from_params(nnx.state(model)).layers, options.get("cell", Cell()))
    assert sum(map(np.size, leaves(record.layers))) == sum(map(np.size, jax.tree.leaves(nnx.state(model, nnx.Param))))
    rng = np.random.default_rng(0)
    marks = {"mask": rng.random((B, T)) < 0.7, "reset": rng.random((B, T)) < 0.3}
    wanted, ends = record(X, **marks)
    assert wanted.shape[-1] == (1 + ("bidirectional" in options)) * options.get("proj_size", H)
    close(model(X, return_carry=True, **marks), (ends, wanted))


def test_the_first_parameters_are_those_of_flax():
    ours = nnx.state(LSTM(I, H, rngs=nnx.Rngs(0)), nnx.Param)
    recurrent = nnx.nn.recurrent.modified_orthogonal  # that of `nnx.LSTMCell`, and the same in single precision
    theirs = nnx.state(nnx.OptimizedLSTMCell(I, H, recurrent_kernel_init=recurrent, rngs=nnx.Rngs(0)), nnx.Param)
    close(ours["layers"][0]["cell"], theirs, atol=0)
    assert not np.any(LSTM(I, H, peephole=True, rngs=nnx.Rngs(0)).layers[0].cell.peephole[...])
    ones = {"kernel_init": nnx.initializers.ones, "bias_init": nnx.initializers.ones}
    half = LSTM(I, H, proj_size=2, param_dtype=jnp.bfloat16, **ones, rngs=nnx.Rngs(0))
    assert {p.dtype.name for p in jax.tree.leaves(nnx.state(half, nnx.Param))} == {"bfloat16"}
    assert np.all(half.layers[0].cell.proj.kernel[...] == 1)
    assert np.all(half.layers[0].cell.dense_h.bias[...] == 1)


@pytest.mark.parametrize(
    ("dtype", "param_dtype", "x", "wanted"),
    [
        (None, np.float32, np.float16, "float32"),
        (None, np.float32, np.int32, "float32"),
        (np.float16, np.float32, np.float32, "float16"),
        (None, jnp.bfloat16, jnp.bfloat16, "bfloat16"),
    ],
)
def test_dtypes(dtype, param_dtype, x, wanted):
    model = LSTM(I, H, dtype=dtype, param_dtype=param_dtype, rngs=nnx.Rngs(0))
    carry, y = model(jnp.ones((B, T, I), x), return_carry=True)
    assert {a.dtype.name for a in jax.tree.leaves((carry, y))} == {wanted}
    assert model(jnp.ones((B, T, I), x), carry).dtype.name == wanted


def test_split_merge_and_files():
    """A module that was taken apart computes the same, and so does another one with its state."""
    model = made(num_layers=2, bidirectional=True, peephole=True, dropout_rate=0.5)
    wanted = model(X, deterministic=True)
    close(nnx.merge(*nnx.split(model))(X, deterministic=True), wanted)
    content = pickle.dumps(nnx.to_pure_dict(nnx.state(model, nnx.Param)))
    other = LSTM(I, H, num_layers=2, bidirectional=True, peephole=True, param_dtype=np.float64, rngs=nnx.Rngs(1))
    nnx.update(other, pickle.loads(content))
    close(other(X), wanted)


def test_an_ensemble():
    """Made and run by `nnx.vmap`."""
    make = nnx.split_rngs(splits=2)(nnx.vmap(lambda rngs: LSTM(I, H, param_dtype=np.float64, rngs=rngs)))
    models = make(nnx.Rngs(0))
    y = nnx.vmap(lambda model, x: model(x), in_axes=(0, None))(models, X)
    for k in range(2):
        one = jax.tree.map(lambda a, k=k: a[k], models)
        close(y[k], one(X))
    assert not np.allclose(y[0], y[1])


def test_dropout_is_between_the_layers():
    model, key = made(num_layers=2, dropout_rate=0.5), jax.random.key(0)
    first, second = formats.flax.from_params(nnx.state(model)).layers
    between = nnx.Dropout(0.5)(jnp.asarray(lstm_xp.lstm(X, (first,))[0]), rngs=key)
    close(model(X, rngs=key), lstm_xp.lstm(np.asarray(between), (second,))[0])
    whole = lstm_xp.lstm(X, (first, second))[0]
    assert not np.allclose(model(X), whole)
    assert not np.allclose(model(X), model(X))
    close(model(X, deterministic=True), whole)
    model.eval()
    close(model(X), whole)
    model.train()
    assert not np.allclose(model(X), whole)
    assert not jax.tree.leaves(nnx.state(made(num_layers=2), nnx.RngState))


def test_a_training_step_lowers_the_loss():
    optax = pytest.importorskip("optax")
    model = made(num_layers=2, bidirectional=True, dropout_rate=0.1)
    optimizer = nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        loss, gradients = nnx.value_and_grad(lambda model: (model(X, seq_lengths=LENGTHS) ** 2).mean())(model)
        optimizer.update(model, gradients)
        return loss

    losses = [float(step(model, optimizer)) for _ in range(20)]
    assert losses[-1] < 0.7 * losses[0]


def test_sizes_of_numpy():
    model = LSTM(np.uint8(I), np.uint8(100), num_layers=np.uint8(2), proj_size=np.uint8(2), rngs=nnx.Rngs(0))
    assert model(X).shape == (*X.shape[:2], 2)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"in_features": 0}, "`in_features` must be an integer of at least 1; got 0"),
        ({"hidden_features": 2.0}, "`hidden_features` must be an integer of at least 1; got 2.0"),
        ({"num_layers": True}, "`num_layers` must be an integer of at least 1; got True"),
        ({"proj_size": H}, "`proj_size` must be below hidden_features = 5; got 5"),
        ({"dropout_rate": 1.5}, "`dropout_rate` must be a number from 0 to 1; got 1.5"),
        ({"dropout_rate": "0.1"}, "`dropout_rate` must be a number from 0 to 1; got '0.1'"),
        ({"rngs": 0}, "`rngs` must be an `nnx.Rngs`; got int"),
        ({"cell": (Cell(), Cell())}, "`cell` must be a Cell, or a tuple with one a layer, 1; got 2 of them"),
        ({"cell": Cell(proj_clip=1.0)}, r"`cell\[0\].proj_clip` bounds a projection"),
        ({"param_dtype": np.int32, "kernel_init": nnx.initializers.ones}, "have a real floating dtype"),
    ],
)
def test_options_that_do_not_fit(options, words):
    with pytest.raises((TypeError, ValueError), match=f"^LSTM: .*{words}"):
        LSTM(**{"in_features": I, "hidden_features": H, "rngs": nnx.Rngs(0)} | options)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"inputs": X[0]}, r"`inputs` must have 3 dimensions \(batch, time, I\); got shape \(6, 3\)"),
        ({"inputs": X[:, :, :2]}, r"`inputs` must have shape \(batch, time, I\) with I = 3"),
        ({"initial_carry": (np.zeros((B, H)),) * 2}, "`initial_carry` must have one LSTMState a layer, 1; got 2"),
        ({"initial_carry": [(np.zeros((B, H)),) * 2]}, r"`initial_carry\[0\]` must be an LSTMState; got tuple"),
        ({"seq_lengths": [1, 2, 3, 7]}, "`lengths` must lie between 0 and time = 6"),
        ({"mask": np.ones((T, B), bool)}, r"`mask` must have shape \(batch, time\) = \(4, 6\); got \(6, 4\)"),
        ({"reset": np.ones((B, T))}, "`reset` must have dtype bool"),
    ],
)
def test_a_call_that_does_not_fit(arguments, words):
    with pytest.raises((TypeError, ValueError), match=words):
        made()(**{"inputs": X} | arguments)


@pytest.mark.parametrize(("module", "package", "extra"), [("flax", "flax", "flax"), ("keras", "keras", "keras-layer")])
def test_a_missing_package_is_named(module, package, extra):
    code = f"import sys; sys.modules['{package}'] = None; import lstm_xp.modules.{module}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stderr.splitlines()[-1] == (
        f'ModuleNotFoundError: this needs {package}: pip install "lstm_xp[{extra}]"'
    )
