"""The record `LSTM`: checked when it is made and never again, whatever was imported or called before."""

import copy
import pickle
import subprocess
import sys
from dataclasses import FrozenInstanceError

import numpy as np
import pytest

from lstm_xp import LSTM, Cell, Layer, lstm, lstm_vjp, scatter_states, sigmoid, softmax
from tests.support.layers import STACKS, leaves, mapped, model_of
from tests.support.problems import layer_problem


def python(code):
    """Run a program in a process of its own, and return what it printed."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda m: LSTM(3, 4), TypeError, "`layers` must be a sequence of Layer; got int"),
        (lambda m: LSTM(()), ValueError, "`layers` must have at least one Layer"),
        (lambda m: LSTM(m.layers[0]), TypeError, r"`layers` must be a sequence of Layer; got Layer. .* `\(layer,\)`"),
        (lambda m: LSTM((m.layers[0].forward,)), TypeError, r"be a Layer; got LSTMWeights. Write `Layer\(weights\)`"),
        (lambda m: LSTM((m.layers[0], m.layers[0])), ValueError, r"`layers\[1\].forward.weight_ih` must have shape"),
        (lambda m: LSTM((Layer(m.layers[0].forward._replace(weight_hh=None)),)), TypeError, "weight_hh` must be an"),
        (lambda m: LSTM((tuple(m.layers[0]),)), TypeError, r"`layers\[0\]` must be a Layer; got tuple"),
        (lambda m: LSTM((Layer(tuple(m.layers[0].forward)),)), TypeError, "must be LSTMWeights or None; got tuple"),
        (lambda m: LSTM(m.layers, Cell(proj_clip=1.0)), ValueError, r"`cell\[0\].proj_clip` bounds a projection"),
        (lambda m: LSTM(m.layers, "plain"), TypeError, "`cell` must be a Cell"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_when_it_is_made(make, error, words):
    with pytest.raises(error, match="^LSTM: .*" + words):
        make(LSTM.init(3, 4, rng=0))


@pytest.mark.parametrize("layers", [(), [], lambda m: (tuple(m.layers[0]),)])
def test_a_good_call_hides_nothing(layers):
    """Of `lstm`, which checks the layers at every call."""
    model = LSTM.init(3, 4, rng=0)
    x = np.ones((2, 5, 3), dtype="float32")
    lstm(x, model.layers)
    model(x)
    given = layers(model) if callable(layers) else layers
    with pytest.raises((TypeError, ValueError), match=r"^lstm: `layers"):
        lstm(x, given)
    with pytest.raises((TypeError, ValueError), match=r"^lstm: `state` must have one LSTMState a layer, 1; got 0"):
        model(x, ())


def test_a_record_does_not_change():
    layers = list(LSTM.init(3, 4, num_layers=2, rng=0).layers)
    model = LSTM(layers, [Cell(), Cell(clip=1.0)])
    layers.clear()
    assert type(model.layers) is type(model.cell) is tuple
    assert model.num_layers == 2
    with pytest.raises(FrozenInstanceError):
        model.layers = ()


@pytest.mark.parametrize("library", ["numpy", "jax.numpy"])
def test_a_record_does_not_change_with_the_lists_it_was_made_of(library):
    xp = pytest.importorskip(library)
    layers = LSTM.init(3, 4, rng=0, xp=xp).layers
    pair, cells = [Cell(clip=1.0)], [Cell(cell_clip=0.1)]
    x = xp.ones((2, 1, 3), dtype=xp.float32)
    model, other = LSTM(list(layers), [pair]), LSTM(layers, cells)
    wanted = model(x)[0], other(x)[0]
    pair[0] = cells[0] = Cell(clip=0.001)
    for each, y in zip((model, other), wanted, strict=True):
        np.testing.assert_array_equal(each(x)[0], y)
        np.testing.assert_allclose(each.step(x[:, 0, :])[0], y[:, 0, :], rtol=1e-6)
        hash(each.cell)


def test_sizes_and_the_zero_state():
    for name, width in (("sizes", 2), ("projected", 4)):
        model, x, _, _ = model_of(name)
        assert (model.input_size, model.output_size, model.num_layers) == (3, width, len(model.layers))
        zeros = model.zero_state(3)
        assert not any(map(np.any, leaves(zeros)))
        for a, b in zip(leaves(model(x, zeros)), leaves(model(x)), strict=True):
            np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match=r"^LSTM.zero_state: `batch` must be an integer of at least 0; got -1"):
        model.zero_state(-1)


@pytest.mark.parametrize("kind", [np.int64, np.uint8])
def test_an_integer_of_numpy_is_as_good(kind):
    sizes = {"num_layers": kind(2), "proj_size": kind(2)}
    x = np.ones((2, 5, 3), dtype="float32")
    model = LSTM.init(kind(3), kind(4), rng=0, **sizes)
    for a, b in zip(leaves(model), leaves(LSTM.init(3, 4, num_layers=2, proj_size=2, rng=0)), strict=True):
        np.testing.assert_array_equal(a, b)
    for scheme in ("torch", "keras"):  # four times the size is more than some of them hold
        wide = LSTM.init(kind(100), kind(100), scheme=scheme, rng=0)
        np.testing.assert_array_equal(
            wide.layers[0].forward[0], LSTM.init(100, 100, scheme=scheme, rng=0).layers[0][0][0]
        )
    state = model.zero_state(kind(2))
    assert [s[1].c.shape for s in scatter_states(state, [kind(1), kind(1)])] == [(1, 1, 4)] * 2
    np.testing.assert_array_equal(softmax(x, axis=kind(2)), softmax(x, axis=2))
    _, vjp = lstm_vjp(x, model.layers, state, checkpoint=kind(2))
    for a, b in zip(leaves(vjp(x[..., :2])), leaves(lstm_vjp(x, model.layers)[1](x[..., :2])), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)
    there = model.to(pytest.importorskip("jax.numpy"))  # it hashes what is no array
    assert there(there.layers[0].forward.weight_ih[None, :, :], checkpoint=kind(2))[0].shape == (1, 16, 2)


@pytest.mark.parametrize("library", ["numpy", "torch", "jax"])
def test_a_record_is_copied_and_pickled_whatever_was_called(library):
    xp = pytest.importorskip("jax.numpy" if library == "jax" else library)
    model = LSTM.init(3, 4, rng=0, xp=xp, cell=Cell(clip=2.0))
    x = xp.ones((2, 3), dtype=xp.float32)
    y, state = model.step(x)
    model(x[:, None, :], state)
    for other in (copy.copy(model), copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other != model
        assert other.cell == model.cell
        np.testing.assert_array_equal(np.asarray(other.step(x)[0]), np.asarray(y))
    assert model == model
    assert len({model, model}) == 1


def test_an_equal_cell_is_as_good_as_the_plain_one(monkeypatch):
    torch = pytest.importorskip("torch")
    from lstm_xp import layers

    names = []
    choose = layers.kernel_for
    monkeypatch.setattr(layers, "kernel_for", lambda *a: names.append(choose(*a)) or names[-1])
    plain = LSTM.init(3, 4, rng=0, xp=torch)
    y, _ = LSTM(plain.layers, pickle.loads(pickle.dumps(plain.cell)))(torch.ones(2, 5, 3))
    assert [kernel.name for kernel in names] == ["torch.lstm"]
    torch.testing.assert_close(y, plain(torch.ones(2, 5, 3))[0])


# Trees: it does not matter what was imported or made before


USES = {
    "jax": "print(type(jax.tree.map(lambda a: a, model)).__name__, jax.jit(lambda m, x: m(x)[0])(model, x).shape[2],"
    " len(jax.tree.leaves(jax.device_put(model))))",
    "torch": "t = model.to(torch); print(type(torch.utils._pytree.tree_map(lambda a: a, t)).__name__,"
    " torch.func.vmap(lambda m: m(torch.ones(2, 5, 3))[0], out_dims=1)(torch.utils._pytree.tree_map("
    "lambda a: a[None], t)).shape[3], len(torch.utils._pytree.tree_leaves(model)))",
}


@pytest.mark.slow
@pytest.mark.parametrize("library", ["jax", "torch"])
@pytest.mark.parametrize(
    "order",
    [
        ("import {0}", "from lstm_xp import LSTM", "model = LSTM.init(3, 4, rng=0)"),
        ("from lstm_xp import LSTM", "import {0}", "model = LSTM.init(3, 4, rng=0)"),
        ("from lstm_xp import LSTM", "model = LSTM.init(3, 4, rng=0)", "import {0}"),
        ("import importlib.util", "from lstm_xp import LSTM", "importlib.util.find_spec('{0}')",
         "model = LSTM.init(3, 4, rng=0)", "import {0}", "import pickle", "model = pickle.loads(pickle.dumps(model))"),
    ],
    ids=["library first", "package first", "record first", "only looked for"],
)  # fmt: skip
def test_a_record_of_numpy_is_a_tree_in_any_order(library, order):
    pytest.importorskip(library)
    lines = ["import numpy", *order, "x = numpy.ones((2, 5, 3), 'f')", USES[library]]
    assert python("\n".join(lines).format(library)) == ["LSTM", "4", "3"]


def test_the_wait_for_a_library_disturbs_nobody():
    """Finders of the old kind, and programs that hold finders or put the list of them back."""
    code = """
import sys, types
from lstm_xp._seams.trees import when_imported
class Old:  # as older versions of six have
    def find_module(self, name, path=None): return None
found = []
when_imported("colorsys", found.append)
waiting = sys.meta_path[0]
sys.meta_path.append(Old())
spec, again = (waiting.find_spec("colorsys") for _ in range(2))
import colorsys
for each in spec, again:
    each.loader.exec_module(types.ModuleType("colorsys"))
print(found == [colorsys], waiting in sys.meta_path, waiting.find_spec("colorsys"))
"""
    assert python(code) == ["True", "False", "None"]


TREES = {
    "jax": ("jax.tree_util", ["register_pytree_with_keys", "register_dataclass"]),
    "torch": ("torch.utils._pytree", ["register_pytree_node"]),
}


@pytest.mark.slow
@pytest.mark.parametrize("library", ["jax", "torch"])
@pytest.mark.parametrize("first", ["library", "package"])
def test_threads_that_make_the_first_record_at_once(library, first):
    """The library registers slowly, so that who comes second does not find the first one ready."""
    pytest.importorskip(library)
    place, names = TREES[library]
    slowly = f"""
import {library}
def slow(register):
    return lambda *a, **k: time.sleep(0.1) or register(*a, **k)
for name in {names}:
    setattr({place}, name, slow(getattr({place}, name)))
"""
    code = f"""
import sys, threading, time
sys.setswitchinterval(1e-5)
{slowly if first == "library" else "import lstm_xp"}
barrier, results = threading.Barrier(8), []
def make():
    barrier.wait()
    import {library}{".numpy" if library == "jax" else ""} as xp
    from lstm_xp import LSTM
    model = LSTM.init(3, 4, rng=0, xp=xp)
    results.append(len(sys.modules["{place}"].tree_leaves(model)))
threads = [threading.Thread(target=make) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(*results)
"""
    assert python(code) == ["3"] * 8


def test_a_transform_may_put_anything_in_the_place_of_an_array():
    jax = pytest.importorskip("jax")
    model = LSTM.init(3, 4, rng=0)
    shapes = jax.tree.map(lambda a: a.shape, model)
    assert shapes.layers[0].forward.weight_ih == (16, 3)
    assert "(16, 3)" in repr(shapes)


# Arithmetic in a dtype of the caller's


@pytest.mark.parametrize("library", ["numpy", "torch", "jax.numpy", "array_api_strict"])
@pytest.mark.parametrize(
    ("dtype", "T"),
    [("int8", 130), ("uint8", 260), *((dtype, 130) for dtype in ("int16", "uint16", "uint32", "uint64", "int64"))],
)
def test_lengths_of_a_narrow_dtype_count_all_steps(library, dtype, T):
    xp = pytest.importorskip(library)
    model, x, state, _ = model_of("plain", xp.asarray)
    x = xp.concat([x] * (T // x.shape[1] + 1), axis=1)[:, :T, :]
    numbers = [T if T < 128 else 100, 3, 0]
    wanted = model(x, state, lengths=xp.asarray(numbers))
    run = model
    if library == "jax.numpy":
        import jax

        run = jax.jit(model.__call__)
    for each in {model, run}:
        got = each(x, state, lengths=xp.asarray(numbers, dtype=getattr(xp, dtype)))
        for a, b in zip(leaves(got), leaves(wanted), strict=True):
            np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


# The byte order of another machine


@pytest.mark.parametrize("dtype", [">f8", ">f4"])
def test_another_byte_order_is_refused(dtype):
    x, layers, _, _ = layer_problem(STACKS["plain"])
    model = LSTM(layers).to(dtype=np.dtype(dtype).newbyteorder("="))
    swapped = model.layers[0].forward.weight_ih.astype(dtype)
    words = "must have the byte order of this machine; got dtype >"
    with pytest.raises(TypeError, match=rf"^LSTM: `layers.*weight_ih` {words}"):
        LSTM((Layer(model.layers[0].forward._replace(weight_ih=swapped)),))
    with pytest.raises(TypeError, match=r"^lstm: `x` must have the dtype of .*; got >"):
        model(x.astype(dtype))
    with pytest.raises(TypeError, match=rf"^sigmoid: `x` {words}"):
        sigmoid(x.astype(dtype))


# What NumPy may raise


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("scale", [1e4, 1e30])
def test_nothing_is_raised_at_saturated_gates(dtype, scale):
    x, layers, state, _ = layer_problem(STACKS["plain"], T=20)
    model = LSTM(layers).to(dtype=dtype)
    x, state = mapped(lambda a: a.astype(dtype), (scale * np.sign(x), state))
    with np.errstate(all="raise"):
        (y, last), vjp = lstm_vjp(x, model.layers, state)
        results = leaves((y, last, model(x, state), model.step(x[:, 0], state), vjp(np.ones_like(y), last)))
    assert all(map(np.all, map(np.isfinite, results)))
