"""LSTMs of Keras, alive and from every kind of file, and files that live Keras takes back."""

import io
import json
import struct
import subprocess
import sys
import time
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest

import lstm_xp
from lstm_xp import LSTM, Cell, Layer, LSTMWeights, lstm
from lstm_xp.formats import keras as ours

h5py = pytest.importorskip("h5py")
pytest.importorskip("pyfive")

# Keras' own variables give this one.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")

# Inputs, batch and time, all different.
I, B, T = 3, 4, 6  # noqa: E741 -- the field's letter for the input size
HARD = ("hard_sigmoid", 1 / 6, 0.5)

WAIT = 300  # seconds for a process that is done in one, on the busiest machine


@pytest.fixture(scope="module")
def keras():
    """Keras on PyTorch: `conftest.py` says where it runs."""
    keras = pytest.importorskip("keras")
    assert keras.backend.backend() == "torch"
    return keras


def draw(*shape, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, shape)


def randomised(model, seed=1):
    """Return a layer or model with random numbers in all its weights."""
    rng = np.random.default_rng(seed)
    model.set_weights([rng.uniform(-1, 1, w.shape) for w in model.get_weights()])
    return model


def sequential(keras, *layers, size=I):
    return keras.Sequential([keras.Input((None, size), dtype="float64"), *layers])


def builders(keras):
    """Return models that are nothing but LSTMs, by names; they need not be one LSTM each."""
    layers = keras.layers

    def layer(units=5, **options):
        return layers.LSTM(units, dtype="float64", **({"return_sequences": True} | options))

    def cell(units, **options):
        return layers.LSTMCell(units, dtype="float64", **options)

    def rnn(cells, **options):
        return layers.RNN(cells, dtype="float64", **({"return_sequences": True} | options))

    def both(*args, **options):
        return layers.Bidirectional(*args, dtype="float64", **options)

    def functional():
        first = keras.Input((None, I), dtype="float64")
        inner = sequential(keras, layer(4), layer(6))
        return keras.Model(first, layer(4)(layer(7, name="renamed")(inner(first))))

    idle = {"dtype": "float64"}
    other = layer(5, use_bias=False, activation="relu", go_backwards=True, name="other")
    own_cells = [cell(4, name="b", activation="softsign"), cell(5, name="a")]
    return {
        "plain": lambda: sequential(keras, layer()),
        "no bias": lambda: sequential(keras, layer(use_bias=False)),
        "last": lambda: sequential(keras, layer(), layer(4, return_sequences=False)),
        "backwards": lambda: sequential(keras, layer(go_backwards=True)),
        "bidirectional": lambda: sequential(keras, both(layer())),
        "own backward layer": lambda: sequential(keras, both(layer(), backward_layer=other)),
        "cell": lambda: sequential(keras, rnn(cell(4, recurrent_activation="hard_sigmoid"))),
        "bidirectional cell": lambda: sequential(keras, both(rnn(cell(4)))),
        "cells": lambda: sequential(keras, rnn([cell(4), cell(6, use_bias=False), cell(5)])),
        "named cells": lambda: sequential(keras, rnn(own_cells)),
        "cells backwards": lambda: sequential(keras, rnn([cell(4), cell(6)], go_backwards=True)),
        "three": lambda: sequential(keras, layer(4), layer(7, recurrent_activation="hard_sigmoid"), layer(5)),
        "stack": lambda: sequential(
            keras,
            layers.Masking(mask_value=9.0, **idle),
            layer(4),
            layers.Dropout(0.5, **idle),
            both(layer(5)),
            layers.SpatialDropout1D(0.5, **idle),
            rnn([cell(4), cell(6)]),
        ),
        "broken stack": lambda: sequential(keras, layer(4), layer(5, go_backwards=True), layer(6), both(layer(3))),
        "functional": functional,
        "nested": lambda: sequential(keras, layer(4), sequential(keras, layer(5), layer(3), size=4), layer(6)),
    }


NAMES = sorted([
    "plain", "no bias", "last", "backwards", "bidirectional", "own backward layer", "cell", "bidirectional cell",
    "cells", "named cells", "cells backwards", "three", "stack", "broken stack", "functional", "nested",
])  # fmt: skip


def entries_of(model, way, folder):
    """Return the LSTMs of a model, alive or through a file."""
    if way == "alive":
        found = ours._layers.described(ours._alive(model))
        return ours._layers.entries(found, ours._of_layer, 3, "Keras")
    path = folder / f"model{way}"
    model.save_weights(path) if way == ".weights.h5" else model.save(path)
    return lstm_xp.inspect(path)


def computed(entries, x):
    """Return what LSTMs give that are run one after the other; Keras flips what goes backwards."""
    for entry in entries:
        assert entry.problem is None, entry
        x, _ = lstm(x, entry.model.layers, cell=entry.model.cell)
        x = x[:, ::-1] if entry.model.layers[-1].forward is None else x
    return x


def assert_computes(model, entries):
    x = draw(B, T, I)
    wanted = model(x).detach().numpy()
    got = computed(entries, x)
    # Keras rounds to single precision on the way where it has cells.
    cells = any("cell" in str(layer.get_config()) for layer in model.layers)
    tolerance = 2e-6 if cells else 1e-11
    np.testing.assert_allclose(got[:, -1] if wanted.ndim == 2 else got, wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.filterwarnings("ignore:.*HDF5.*")
@pytest.mark.parametrize("way", ["alive", ".keras", ".h5"])
@pytest.mark.parametrize("name", NAMES)
def test_every_layer_from_everywhere(keras, tmp_path, name, way):
    model = randomised(builders(keras)[name]())
    entries = entries_of(model, way, tmp_path)
    assert_computes(model, entries)
    assert len(entries) == {"broken stack": 3, "functional": 3, "nested": 3}.get(name, 1)
    assert {entry.model.layers[0][0 if entry.model.layers[0].forward else 1].bias is None for entry in entries} == {
        name == "no bias"
    }


def test_names_of_every_builder(keras):
    assert sorted(builders(keras)) == NAMES


def test_entries_have_the_names_of_their_first_layers(keras, tmp_path):
    layers = keras.layers
    model = sequential(
        keras,
        layers.LSTM(4, return_sequences=True, name="one"),
        layers.LSTM(4, return_sequences=True, name="two"),
        layers.Dense(5),
        layers.LSTM(4, return_sequences=True, name="three"),
        layers.GRU(4, return_sequences=True),
        layers.SimpleRNN(4, return_sequences=True),
        layers.Bidirectional(layers.GRU(4, return_sequences=True)),
        layers.RNN([layers.GRUCell(4)], return_sequences=True),
        layers.LSTM(4, name="four"),
    )
    for way in ("alive", ".keras"):
        assert [(e.name, len(e.model.layers)) for e in entries_of(model, way, tmp_path)] == [
            ("one", 2), ("three", 1), ("four", 1),
        ]  # fmt: skip
    weights = entries_of(model, ".weights.h5", tmp_path)
    assert [(e.name, e.format, len(e.model.layers)) for e in weights] == [
        (name, "Keras weights", 1) for name in ("one", "two", "three", "four")
    ]
    path = tmp_path / "model.keras"
    assert repr(lstm_xp.load(path, name="one")) == repr(ours.from_params(model, name="one"))
    with pytest.raises(ValueError, match=r"`name` must say which LSTM of .*, one of 'one', 'three', 'four'; got None"):
        lstm_xp.load(path)


def test_layers_of_one_name_are_told_apart(keras, tmp_path):
    def inner():
        return sequential(keras, keras.layers.LSTM(3, return_sequences=True, name="lstm"), size=3)

    model = sequential(keras, inner(), keras.layers.Dense(3), inner())
    names = [layer.name for layer in model.layers]
    for way in ("alive", ".keras"):
        found = entries_of(model, way, tmp_path)
        assert [entry.name for entry in found] == [f"{names[0]}/lstm", f"{names[2]}/lstm"]
        wanted = ours.from_params(model.layers[2]).layers[0].forward.weight_ih
        np.testing.assert_array_equal(found[1].model.layers[0].forward.weight_ih, wanted)


def test_a_layer_alone(keras):
    layer = keras.layers.Bidirectional(keras.layers.LSTM(5, return_sequences=True, dtype="float64"), dtype="float64")
    with pytest.raises(ValueError, match="has no weights yet: call it"):
        ours.from_params(keras.layers.LSTM(5))
    layer.build((None, None, I))
    randomised(layer)
    x = draw(B, T, I)
    y, _ = ours.from_params(layer)(x)
    np.testing.assert_allclose(y, layer(x).detach().numpy(), rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match=f"must be one of the LSTMs of source, '{layer.name}'; got 'other'"):
        ours.from_params(layer, name="other")
    cell = keras.layers.LSTMCell(5, dtype="float64")
    cell.build((None, I))
    assert ours.from_params(cell).layers[0].forward.weight_hh.shape == (20, 5)


def test_a_model_of_the_users_own_class(keras, tmp_path):
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.encoder = keras.layers.LSTM(5, return_sequences=True, name="enc")
            self.decoders = [keras.layers.LSTM(n, return_sequences=True, name=f"dec{n}") for n in (4, 6)]

        def call(self, x):
            return self.decoders[1](self.decoders[0](self.encoder(x)))

    model = Own()
    model(draw(B, T, I))
    assert sorted(e.name for e in entries_of(model, "alive", tmp_path)) == ["dec4", "dec6", "enc"]
    assert [e.name for e in entries_of(model, ".weights.h5", tmp_path)] == ["dec4", "dec6", "enc"]
    refused = entries_of(model, ".keras", tmp_path)
    assert [entry.name for entry in refused] == ["decoders/lstm/cell", "decoders/lstm_1/cell", "encoder/cell"]
    assert {entry.problem for entry in refused} == {
        "it belongs to an object of a class that is unknown here, which may compute something else with it."
    }


# Activations

MAPPED = [
    "sigmoid",
    "tanh",
    "relu",
    "hard_sigmoid",
    "linear",
    "leaky_relu",
    "elu",
    "celu",
    "softsign",
    "softplus",
    None,
]


@pytest.mark.parametrize("activation", MAPPED)
def test_every_activation(keras, tmp_path, activation):
    model = sequential(
        keras,
        keras.layers.LSTM(5, activation=activation, return_sequences=True, dtype="float64"),
        keras.layers.LSTM(5, recurrent_activation=activation, return_sequences=True, dtype="float64"),
    )
    randomised(model)
    assert_computes(model, entries_of(model, ".keras", tmp_path))
    written = entries_of(model, "alive", tmp_path)[0].model
    lstm_xp.save(tmp_path / "again.keras", written)
    assert_same(lstm_xp.load(tmp_path / "again.keras"), written)
    assert_computes(keras.saving.load_model(tmp_path / "again.keras"), [lstm_xp.Entry("", "", written)])


def test_activations_that_nobody_has_here(keras, tmp_path):
    def own(x):
        raise AssertionError("a function of the file was called")

    for activation, shown in (("gelu", "'gelu'"), (own, "'own'"), (keras.layers.LeakyReLU(), "'LeakyReLU'")):
        model = sequential(
            keras,
            keras.layers.LSTM(4, activation=activation, name="odd"),
            keras.layers.Reshape((-1, 4)),
            keras.layers.LSTM(5, name="fine"),
        ) if activation == "gelu" else None  # fmt: skip
        layer = keras.layers.LSTM(4, activation=activation)
        layer.build((None, None, I))
        with pytest.raises(ValueError, match=f"`activation` must be one of sigmoid, tanh, .* here; got {shown}"):
            ours.from_params(layer)
        if model is not None:
            odd, fine = entries_of(model, ".keras", tmp_path)
            assert (odd.name, odd.model, fine.name, fine.problem) == ("odd", None, "fine", None)
            assert "'gelu'" in odd.problem


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"merge_mode": "sum"}, "its directions must stay side by side; got merge_mode='sum'"),
        ({"turned": True}, "its first layer must go forward"),
        ({"units": 5}, "its directions must have one size; got 4 and 5 units"),
    ],
)
def test_what_bidirectional_can_do_and_we_cannot(keras, options, reason):
    turned, units = options.pop("turned", False), options.pop("units", 4)
    inner = keras.layers.LSTM(4, go_backwards=turned)
    other = keras.layers.LSTM(units, go_backwards=not turned)
    layer = keras.layers.Bidirectional(inner, backward_layer=other, **options)
    layer.build((None, None, I))
    with pytest.raises(ValueError, match=reason):
        ours.from_params(layer)


def test_cells_of_several_kinds(keras, tmp_path):
    layers = keras.layers
    model = sequential(keras, layers.RNN([layers.LSTMCell(4), layers.GRUCell(4)], name="mixed"))
    (entry,) = entries_of(model, ".keras", tmp_path)
    assert (entry.name, entry.problem) == ("mixed", "its cells must all be LSTMCell; got 'GRUCell'.")
    (entry,) = entries_of(model, ".weights.h5", tmp_path)
    assert (entry.name, entry.problem) == ("mixed", "it must have the weights of 2 cells; got 1.")


def test_other_layers_are_no_lstms(keras, tmp_path):
    layers = keras.layers
    model = sequential(keras, layers.GRU(4, return_sequences=True), layers.SimpleRNN(4, return_sequences=True))
    video = keras.Sequential([keras.Input((None, 8, 8, 2)), layers.ConvLSTM2D(3, 2)])
    timed = keras.Sequential([keras.Input((None, 5, 2)), layers.TimeDistributed(layers.LSTM(3))])
    for other in (model, video):
        for way in (".keras", ".weights.h5"):
            assert not entries_of(other, way, tmp_path)
        with pytest.raises(ValueError, match="source has no LSTM"):
            ours.from_params(other)
    (entry,) = entries_of(timed, ".keras", tmp_path)
    assert "an object of a class that is unknown here" in entry.problem


def test_weights_files_in_their_natural_order(keras, tmp_path):
    model = sequential(keras, *(keras.layers.LSTM(k + 2, return_sequences=True) for k in range(12)))
    path = tmp_path / "model.weights.h5"
    model.save_weights(path)
    found = lstm_xp.inspect(path)
    assert [entry.model.layers[0].forward.weight_hh.shape[1] for entry in found] == list(range(2, 14))
    assert [entry.name for entry in found] == [layer.name for layer in model.layers]
    with h5py.File(path, "r+") as file:  # earlier versions of Keras 3 do not note the names
        for k in range(12):
            del file[f"layers/lstm_{k}/vars" if k else "layers/lstm/vars"].attrs["name"]
    assert [entry.name for entry in lstm_xp.inspect(path)] == ["lstm"] + [f"lstm_{k}" for k in range(1, 12)]


@pytest.mark.parametrize("name", ["plain", "no bias", "bidirectional", "bidirectional cell", "cells"])
def test_weights_files_of_keras(keras, tmp_path, name):
    model = randomised(builders(keras)[name]())
    assert_computes(model, entries_of(model, ".weights.h5", tmp_path))


def test_bfloat16_becomes_float32(keras, tmp_path):
    layer = keras.layers.LSTM(4, dtype="bfloat16", recurrent_initializer="glorot_uniform")
    model = randomised(keras.Sequential([keras.Input((None, I)), layer]))
    wanted = LSTMWeights(*(np.asarray(w, "f4").T for w in model.get_weights()))
    for entry in [e for way in ("alive", ".keras", ".weights.h5") for e in entries_of(model, way, tmp_path)]:
        same_weights(entry.model.layers[0].forward, wanted)
        assert entry.model.layers[0].forward.weight_ih.dtype == np.float32


@pytest.mark.parametrize("dtype", [">f4", ">f8"])
def test_the_other_byte_order(tmp_path, dtype):
    """The model that was read computes what one from a file in the usual order does."""
    for order in "<>":
        with h5py.File(tmp_path / f"{order}.weights.h5", "w") as file:
            for k, array in enumerate(kernels("", I, 5).values()):
                file[f"layers/lstm/cell/vars/{k}"] = array.astype(dtype.replace(">", order))
    usual, other = (lstm_xp.load(tmp_path / f"{order}.weights.h5") for order in "<>")
    assert other.layers[0].forward.weight_ih.dtype.isnative
    assert_same(other, usual)
    x = draw(B, T, I).astype(dtype[1:])
    np.testing.assert_array_equal(other(x)[0], usual(x)[0])


# Keras 2


def node(kind, name, **config):
    return {"class_name": kind, "config": {"name": name, "units": 5} | config}


def keras_2_file(path, layers, arrays, version="2.4.0", bare=False):
    """Write what Keras 2 writes: arrays by their names, which begin with the layer's, twice in the path."""
    with h5py.File(path, "w") as file:
        root = file if bare else file.create_group("model_weights")
        for place in {file, root}:
            place.attrs["keras_version"] = version.encode()
            place.attrs["backend"] = b"tensorflow"
        if not bare:
            file.attrs["model_config"] = json.dumps(
                {"class_name": "Sequential", "config": {"name": "sequential", "layers": layers}}
            ).encode()
        root.attrs["layer_names"] = [layer["config"]["name"].encode() for layer in layers]
        for layer in layers:
            group = root.create_group(layer["config"]["name"])
            own = {k: a for k, a in arrays.items() if k.split("/")[0] == layer["config"]["name"]}
            group.attrs["weight_names"] = [f"{name}:0".encode() for name in own]
            for name, array in own.items():
                group[f"{name}:0"] = array


def kernels(where, n, H, seed=0):
    shapes = {"kernel": (n, 4 * H), "recurrent_kernel": (H, 4 * H), "bias": (4 * H,)}
    return {f"{where}/{part}": draw(*shape, seed=seed + k) for k, (part, shape) in enumerate(shapes.items())}


def weights_of(arrays, where):
    return LSTMWeights(
        arrays[f"{where}/kernel"].T, arrays[f"{where}/recurrent_kernel"].T, arrays.get(f"{where}/bias")
    )  # fmt: skip


def same_weights(got, wanted):
    for a, b in zip(got, wanted, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("version", "gates"), [("2.2.4-tf", "hard_sigmoid"), ("1.2.0", "hard_sigmoid"), ("3.1.0", HARD)]
)
def test_the_version_says_which_hard_sigmoid(tmp_path, version, gates):
    layers = [node("LSTM", "lstm_1", recurrent_activation="hard_sigmoid", activation="tanh", use_bias=True)]
    arrays = kernels("lstm_1/lstm_cell_3", I, 5)
    keras_2_file(tmp_path / "model.h5", layers, arrays, version)
    model = lstm_xp.load(tmp_path / "model.h5")
    assert model.cell == Cell(gate_activation=gates)
    same_weights(model.layers[0].forward, weights_of(arrays, "lstm_1/lstm_cell_3"))


def both_file(path, bare):
    layers = [
        node("Masking", "masking"),
        node("Bidirectional", "second", layer=node("LSTM", "zz", return_sequences=True), merge_mode="concat"),
        node("LSTM", "lstm_10", return_sequences=True),
        node("LSTM", "lstm_9", go_backwards=True),
    ]
    arrays = kernels("second/forward_zz/lstm_cell_2", I, 5, 10) | kernels("second/backward_zz/lstm_cell_3", I, 5, 20)
    arrays |= kernels("lstm_10/lstm_cell", 10, 5, 30) | kernels("lstm_9", 5, 5, 40)
    keras_2_file(path, layers, arrays, bare=bare)
    return [
        Layer(
            *(weights_of(arrays, f"second/{side}") for side in ("forward_zz/lstm_cell_2", "backward_zz/lstm_cell_3"))
        ),
        Layer(weights_of(arrays, "lstm_10/lstm_cell")),
        Layer(None, weights_of(arrays, "lstm_9")),
    ]


def test_layers_of_keras_2(tmp_path):
    wanted = both_file(tmp_path / "model.hdf5", bare=False)
    first, second = lstm_xp.inspect(tmp_path / "model.hdf5")
    assert (first.name, second.name, first.format) == ("second", "lstm_9", "Keras HDF5")
    for got, layer in zip(first.model.layers + second.model.layers, wanted, strict=True):
        for a, b in zip(got, layer, strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                same_weights(a, b)


def test_a_layer_with_the_name_of_a_side(tmp_path):
    """Which cell goes forward is said behind the layer's own name."""
    layers = [node("Bidirectional", "forward_both", layer=node("LSTM", "zz"))]
    sides = [f"forward_both/{side}_zz/lstm_cell" for side in ("forward", "backward")]
    arrays = kernels(sides[0], I, 5, 10) | kernels(sides[1], I, 5, 20)
    keras_2_file(tmp_path / "model.h5", layers, arrays)
    for got, side in zip(lstm_xp.load(tmp_path / "model.h5").layers[0], sides, strict=True):
        same_weights(got, weights_of(arrays, side))


def test_a_layer_behind_one_that_nobody_has_here(tmp_path):
    layers = [node("LSTM", "odd", activation="gelu", return_sequences=True), node("LSTM", "good")]
    keras_2_file(tmp_path / "model.h5", layers, kernels("odd/cell", I, 5) | kernels("good/cell", 5, 5))
    odd, good = lstm_xp.inspect(tmp_path / "model.h5")
    assert "got 'gelu'" in odd.problem
    assert (good.problem, good.model.output_size) == (None, 5)


def test_what_else_lies_beside_weights(tmp_path):
    """Numbered weights are an LSTM's if there are no more than it has; named ones are known by their names."""
    bare_file(tmp_path / "m.weights.h5", lambda group: group.__setitem__("3", draw(20)))
    assert not lstm_xp.inspect(tmp_path / "m.weights.h5")
    arrays = kernels("lstm/cell", I, 5)
    keras_2_file(tmp_path / "m.h5", [node("LSTM", "lstm")], arrays | {"lstm/cell/count": draw(1)})
    same_weights(lstm_xp.load(tmp_path / "m.h5").layers[0].forward, weights_of(arrays, "lstm/cell"))


def test_weights_of_keras_2_without_a_model(tmp_path):
    wanted = both_file(tmp_path / "weights.h5", bare=True)
    found = lstm_xp.inspect(tmp_path / "weights.h5")
    assert [entry.name for entry in found] == ["second", "lstm_10", "lstm_9"]
    for got, weights in zip(found[0].model.layers[0], wanted[0], strict=True):
        same_weights(got, weights)
    same_weights(found[1].model.layers[0].forward, wanted[1].forward)
    same_weights(found[2].model.layers[0].forward, wanted[2].backward)  # nothing says that it goes backwards


def cudnn(kernel, recurrent, bias):
    """Return the arrays of CuDNNLSTM that compute what these of an LSTM do, number by number."""
    (n, columns), H = kernel.shape, len(recurrent)
    stored, hidden = np.zeros((n, columns)), np.zeros((H, columns))
    for gate in range(4):
        flat = [kernel[i, gate * H + h] for h in range(H) for i in range(n)]  # a matrix (out, in), row by row
        for k, number in enumerate(flat):
            stored[k // H, gate * H + k % H] = number
        for row in range(H):
            for column in range(H):
                hidden[row, gate * H + column] = recurrent[column, gate * H + row]
    half = draw(4 * H, seed=99)
    return stored, hidden, np.concatenate([half, bias - half])


def test_cudnn_lstm(tmp_path):
    arrays = kernels("cu_dnnlstm/lstm_cell", I, 5)
    wanted = weights_of(arrays, "cu_dnnlstm/lstm_cell")
    parts = dict(zip(("kernel", "recurrent_kernel", "bias"), cudnn(*arrays.values()), strict=True))
    parts = {f"cu_dnnlstm/{part}": array for part, array in parts.items()}
    keras_2_file(tmp_path / "model.h5", [node("CuDNNLSTM", "cu_dnnlstm", return_sequences=True)], parts)
    for bare in (False, True):
        keras_2_file(tmp_path / "model.h5", [node("CuDNNLSTM", "cu_dnnlstm")], parts, bare=bare)
        x, model = draw(B, T, I), lstm_xp.load(tmp_path / "model.h5")
        np.testing.assert_allclose(model(x)[0], lstm(x, (Layer(wanted),))[0], rtol=0, atol=1e-14)


def test_keras_2_before_its_version_2_2_3_lists_layers_alone(tmp_path):
    arrays = kernels("lstm/lstm_cell", I, 5)
    keras_2_file(tmp_path / "model.h5", [node("LSTM", "lstm")], arrays)
    with h5py.File(tmp_path / "model.h5", "r+") as file:
        file.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": [node("LSTM", "lstm")]})
    same_weights(lstm_xp.load(tmp_path / "model.h5").layers[0].forward, weights_of(arrays, "lstm/lstm_cell"))


@pytest.mark.parametrize("between", ["/", "\\"])
def test_archives_of_keras_2(tmp_path, between):
    """Keras 2.12 counts each layer with weights twice; on Windows it joins names with backslashes."""
    content = io.BytesIO()
    arrays = [kernels("", n, 5, 10 * n) for n in (I, 5)]
    with h5py.File(content, "w") as file:
        for name, own in zip(("lstm", "lstm_2"), arrays, strict=True):
            group = file.create_group(between.join(["_layer_checkpoint_dependencies", name, "cell"]) + "/vars")
            for k, array in enumerate(own.values()):
                group[str(k)] = array
    layers = [node("LSTM", name, return_sequences=True, recurrent_activation="hard_sigmoid") for name in ("a", "b")]
    archive_file(
        tmp_path / "model.keras", {"class_name": "Sequential", "config": {"layers": layers}}, content, "2.12.0"
    )
    model = lstm_xp.load(tmp_path / "model.keras")
    assert model.cell.gate_activation == "hard_sigmoid"
    for layer, own in zip(model.layers, arrays, strict=True):
        same_weights(layer.forward, weights_of(own, ""))


def archive_file(path, config, weights=None, version="3.0.0"):
    text = config if isinstance(config, str) else json.dumps(config)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", text)
        archive.writestr("metadata.json", json.dumps({"keras_version": version}))
        if weights is not None:
            archive.writestr("model.weights.h5", weights if isinstance(weights, bytes) else weights.getvalue())


def test_a_live_layer_of_keras_2(monkeypatch):
    package = types.ModuleType("tf_keras")
    package.__version__ = "2.18.0"
    monkeypatch.setitem(sys.modules, "tf_keras", package)
    arrays = kernels("lstm", I, 5)

    class Stand:
        name = "lstm"

        def get_config(self):
            return {"name": "lstm", "units": 5, "recurrent_activation": "hard_sigmoid"}

        def get_weights(self):
            return list(arrays.values())

    layer = type("LSTM", (Stand,), {"__module__": "tf_keras.src.layers"})()
    model = ours.from_params(layer)
    assert model.cell == Cell(gate_activation="hard_sigmoid")
    same_weights(model.layers[0].forward, weights_of(arrays, "lstm"))


# Writing


def assert_same(got, wanted):
    assert got.cell == wanted.cell
    assert len(got.layers) == len(wanted.layers)
    for a, b in zip(got.layers, wanted.layers, strict=True):
        for direction, other in zip(a, b, strict=True):
            assert (direction is None) == (other is None)
            if direction is not None:
                same_weights(direction, other)
                assert direction.weight_ih.dtype == other.weight_ih.dtype


def written_models(dtype):
    """Return models of every shape that Keras has."""

    def model(**options):
        drawn = LSTM.init(I, 5, rng=0, dtype=dtype, **options)
        rng = np.random.default_rng(3)
        each = [
            Layer(*(w and LSTMWeights(*(None if a is None else rng.uniform(-1, 1, a.shape).astype(dtype) for a in w))
                    for w in layer))
            for layer in drawn.layers
        ]  # fmt: skip
        return LSTM(tuple(each), drawn.cell)

    one, two, three = model(), model(bidirectional=True), model(num_layers=3)
    bare = one.layers[0].forward._replace(bias=None)
    cells = (Cell(gate_activation=HARD), (Cell(), Cell("sigmoid", "relu", "relu")))
    return {
        "one": one,
        "no bias": model(bias=False, num_layers=2),
        "bidirectional": model(bidirectional=True, num_layers=2),
        "three": three,
        "reverse": LSTM((Layer(None, one.layers[0].forward),)),
        "one bias": LSTM((Layer(two.layers[0].forward, bare),)),
        "cells": LSTM((two.layers[0], model(bidirectional=True, num_layers=2).layers[1]), cells),
    }


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["one", "no bias", "bidirectional", "three", "reverse", "one bias", "cells"])
def test_files_that_keras_takes(keras, tmp_path, name, dtype):
    model = written_models(dtype)[name]
    for suffix in (".keras", ".weights.h5"):
        lstm_xp.save(tmp_path / f"m{suffix}", model)
        (entry,) = lstm_xp.inspect(tmp_path / f"m{suffix}")
        assert_same(entry.model, model)
    peer = keras.saving.load_model(tmp_path / "m.keras")
    assert isinstance(peer, keras.Sequential)
    x = draw(B, T, I).astype(dtype)
    y, _ = model(x)
    y = y[:, ::-1] if name == "reverse" else y
    tolerance = {"float32": 2e-6, "float64": 1e-12}[dtype]
    np.testing.assert_allclose(peer(x).detach().numpy(), y, rtol=0, atol=tolerance)
    assert peer(x).detach().numpy().dtype == dtype
    right = peer.get_weights()
    randomised(peer, seed=5)
    peer.load_weights(tmp_path / "m.weights.h5")
    for a, b in zip(peer.get_weights(), right, strict=True):
        np.testing.assert_array_equal(a, b)
    randomised(peer, seed=5)
    for layer, arrays in zip(peer.layers, ours.to_params(model), strict=True):
        layer.set_weights(arrays)
    np.testing.assert_allclose(peer(x).detach().numpy(), y, rtol=0, atol=tolerance)
    assert_same(ours.from_params(peer), model)


def test_the_same_model_gives_the_same_bytes(tmp_path):
    model = LSTM.init(3, 4, bidirectional=True, rng=0)
    for suffix in (".keras", ".weights.h5"):
        lstm_xp.save(tmp_path / f"one{suffix}", model)
        lstm_xp.save(tmp_path / f"two{suffix}", model)
        assert (tmp_path / f"one{suffix}").read_bytes() == (tmp_path / f"two{suffix}").read_bytes()


def test_a_long_stack_and_a_model_of_another_library(tmp_path):
    torch = pytest.importorskip("torch")
    model = LSTM.init(2, 2, num_layers=300, rng=0, xp=torch, dtype=torch.float64)
    lstm_xp.save(tmp_path / "m.weights.h5", model)
    assert_same(lstm_xp.load(tmp_path / "m.weights.h5"), model.to(np))


REFUSED = {
    r"a projection \(`weight_hr`\)": {"proj_size": 2},
    "`peephole` weights": {"peephole": True},
    "a cell with `clip`": {"cell": Cell(clip=1.0)},
    "a cell with `cell_clip`": {"cell": Cell(cell_clip=1.0)},
    "a cell with `coupled`": {"cell": Cell(coupled="forget")},
    "candidate and output activations differ": {"cell": Cell(candidate_activation="relu")},
    r"cannot hold the activation \('leaky_relu', 0.3, 0.0\)": {"cell": Cell(("leaky_relu", 0.3, 0.0))},
    "cannot hold the activation 'hard_sigmoid'": {"cell": Cell("hard_sigmoid")},
    "cannot hold the activation <function": {"cell": Cell(lambda x, xp: x)},
}


@pytest.mark.parametrize("reason", REFUSED)
@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
def test_what_keras_cannot_hold(tmp_path, suffix, reason):
    model = LSTM.init(3, 4, rng=0, **REFUSED[reason])
    with pytest.raises(ValueError, match=rf"save: .*Keras.*{reason}.*; got layers\[0\]\.forward\."):
        lstm_xp.save(tmp_path / f"m{suffix}", model)
    assert not list(tmp_path.iterdir())


def test_keras_cannot_hold_a_reverse_layer_among_others():
    first, second = LSTM.init(3, 4, num_layers=2, rng=0).layers
    for layers in ((first, Layer(None, second.forward)), (Layer(None, first.forward), second)):
        with pytest.raises(ValueError, match="Keras cannot hold a reverse-only layer among others"):
            ours.to_params(LSTM(layers))


# Hostile files


def refused(path, match):
    """Hold a file against the words of its refusal; this thread has little to do for it, whatever the machine does."""
    start = time.thread_time()
    with pytest.raises(ValueError, match=match):
        lstm_xp.load(path)
    assert time.thread_time() - start < 5


def bare_file(path, change):
    """Write the weights of one cell, and let a function change the group."""
    with h5py.File(path, "w") as file:
        group = file.create_group("layers/lstm/cell/vars")
        for k, array in enumerate(kernels("", I, 5).values()):
            group[str(k)] = array
        change(group)


def replaced(name, make):
    def change(group):
        del group[name]
        make(group)

    return change


def virtual(group):
    layout = h5py.VirtualLayout((5, 20), "f8")
    layout[:] = h5py.VirtualSource("other.h5", "x", (5, 20))
    group.create_virtual_dataset("1", layout)


def external(group):
    group.create_dataset("1", (5, 20), "f8", external=[("secret.bin", 0, 800)])


HOSTILE = {
    "weights behind a link": replaced("1", lambda g: g.__setitem__("1", h5py.ExternalLink("other.h5", "/x"))),
    "behind a link": replaced("1", lambda g: g.__setitem__("1", h5py.SoftLink("/layers/lstm/cell/vars/0"))),
    "numbers in other files": replaced("1", external),
    "in other files, which are not opened": replaced("1", virtual),
    "is compressed": replaced("1", lambda g: g.create_dataset("1", data=np.zeros((5, 20)), compression="gzip")),
    "is cut into chunks": replaced("1", lambda g: g.create_dataset("1", data=np.zeros((5, 20)), chunks=(2, 20))),
    "floating dtype of 2, 4 or 8 bytes; got a type of class 6": replaced(
        "1", lambda g: g.create_dataset("1", data=np.zeros((5, 20), [("a", "f4"), ("b", "f4")]))
    ),
    "floating dtype of 2, 4 or 8 bytes; got int64": replaced(
        "1", lambda g: g.create_dataset("1", data=np.zeros((5, 20), "i8"))
    ),
    "it takes 160000000960 bytes of memory, more than a file of [0-9]+ bytes can hold": replaced(
        "0", lambda g: g.create_dataset("0", (10**9, 20), "f8", chunks=(1024, 20))
    ),
}


@pytest.mark.parametrize("match", HOSTILE)
def test_hostile_datasets(tmp_path, monkeypatch, match):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret.bin").write_bytes(draw(100).tobytes())
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = draw(5, 20)
    bare_file(tmp_path / "m.weights.h5", HOSTILE[match])
    refused(tmp_path / "m.weights.h5", match)


def test_cycles_and_links_to_groups_are_not_followed(tmp_path):
    def change(group):
        group["again"] = group.file
        group.file["layers/outside"] = h5py.ExternalLink("other.h5", "/")
        group.file["layers/lstm/loop"] = group.file["layers"]
        group.file["soft"] = h5py.SoftLink("/layers")
        del group["again"]

    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["cell/vars/0"] = draw(3, 20)
        file["cell/vars/1"] = draw(5, 20)
    bare_file(tmp_path / "m.weights.h5", change)
    assert [entry.name for entry in lstm_xp.inspect(tmp_path / "m.weights.h5")] == ["lstm"]


def test_damaged_files(tmp_path):
    path = tmp_path / "m.weights.h5"
    lstm_xp.save(path, LSTM.init(3, 4, rng=0))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    refused(path, "it is damaged, or no file of Keras: .*truncated")
    path.write_bytes(content[:8] + np.random.default_rng(0).bytes(4000))
    refused(path, "it is damaged")
    bare_file(path, lambda group: group["0"].__setitem__((0, 0), np.nan))
    refused(path, "must be finite; got NaN")


def small_file(kind, content, count=1):
    """Return the first bytes of a file, whose root group has a message of this kind, and says how many there are."""
    message = struct.pack("<HHB3x", kind, len(content), 0) + content
    nowhere = 2**64 - 1
    sizes = struct.pack("<8sBBBBBBBxHHI", b"\x89HDF\r\n\x1a\n", 0, 0, 0, 0, 0, 8, 8, 4, 16, 0)
    places = struct.pack("<QQQQ", 0, nowhere, 0, nowhere) + struct.pack("<QQII16x", 0, 96, 0, 0)
    return sizes + places + struct.pack("<BxHIII", 1, count, 1, len(message), 0) + message


def header_without_end():
    """Return a file with a header that goes on where it begins, 60000 times."""
    nothing = struct.pack("<HHB3x", 0, 65528, 0) + bytes(65528)
    return small_file(0x10, struct.pack("<QQ", 112, 24 + len(nothing)), 60000) + nothing


def tree_without_end():
    """Return a file with a tree of names, each level of which leads to the same one below, 200 times."""
    heap = 136 + 61 * (24 + 16 * 200 + 8)
    content = small_file(0x11, struct.pack("<QQ", 136, heap))
    for level in range(60, -1, -1):
        below = len(content) + 24 + 16 * 200 + 8
        content += struct.pack("<4sBBHQQ", b"TREE", 0, level, 200, 0, 0) + struct.pack("<QQ", 0, below) * 200 + bytes(8)
    return content + struct.pack("<4s4xQQQ8x", b"HEAP", 8, 0, heap + 32)


def names_without_end():
    """Return a file with 60000 names of a megabyte each, which overlap."""
    content = small_file(0x11, struct.pack("<QQ", 136, 192))
    content += struct.pack("<4sBBHQQQQQ", b"TREE", 0, 0, 1, 0, 0, 0, 224 + (1 << 20), 0)
    content += bytes(192 - len(content)) + struct.pack("<4s4xQQQ", b"HEAP", 1 << 20, 0, 224) + b"a" * (1 << 20)
    return content[:-1] + struct.pack("<x4sBxH", b"SNOD", 1, 60000) + struct.pack("<QQ24x", 0, 96) * 60000


def texts_without_end():
    """Return a file with a thousand attributes that are all the same text, of a megabyte."""
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        file.attrs["a"] = "x" * (1 << 20)
    found = content.getvalue()
    place = found.index(struct.pack("<Q", found.index(b"GCOL")))  # of the text, between its length and its number
    attribute = found[place - 52 : place + 12]
    messages = (struct.pack("<HHB3x", 0x0C, len(attribute), 0) + attribute) * 1000
    header = struct.pack("<BxHIII", 1, 1000, 1, len(messages), 0) + messages
    return found[:64] + struct.pack("<Q", len(found)) + found[72:] + header


def groups_without_end():
    """Return a file with groups in each other, deeper than Keras nests layers."""
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        file.create_group("/".join(["group"] * 65))
    return content.getvalue()


def header_of_zeros():
    """Return a file with an object that is larger than the limit of one."""
    messages = (struct.pack("<HHB3x", 0, 65528, 0) + bytes(65528)) * 70
    sizes = small_file(0, b"")[:96] + struct.pack("<BxHIII", 1, 70, 1, len(messages), 0)
    return sizes + messages


WITHOUT_END = {
    header_without_end: "'/' takes more than 4194304 bytes to read, the limit of one object",
    tree_without_end: "'/' takes more than 4194304 bytes to read, the limit of one object",
    names_without_end: "'/' has a name of more than 4096 bytes",
    texts_without_end: "its objects take more than 8680384 bytes to read, the limit of a file of its size",
    groups_without_end: "its groups lie more than 64 deep in each other: 'group/group/",
    header_of_zeros: "'/' takes more than 4194304 bytes to read, the limit of one object",
}


@pytest.mark.parametrize("make", WITHOUT_END)
def test_what_is_read_without_end(tmp_path, make):
    """What is too much is said with its name, and how much it may be."""
    path = tmp_path / "m.weights.h5"
    path.write_bytes(make())
    refused(path, WITHOUT_END[make])


def test_the_deepest_groups(tmp_path):
    bare_file(tmp_path / "m.weights.h5", lambda group: group.file.create_group("/".join(["group"] * 64)))
    assert lstm_xp.load(tmp_path / "m.weights.h5").output_size == 5


def test_thousands_of_layers(tmp_path):
    model = LSTM.init(2, 2, num_layers=3000, rng=0)
    lstm_xp.save(tmp_path / "m.keras", model)
    got = lstm_xp.load(tmp_path / "m.keras")
    assert len(got.layers) == 3000
    np.testing.assert_array_equal(got.layers[2999].forward.weight_ih, model.layers[2999].forward.weight_ih)


@pytest.mark.parametrize("count", [100, 30_000])
def test_many_groups(tmp_path, count):
    """As many as a model with that many layers has, of which some are LSTMs."""

    def change(group):
        for k in range(count):
            group.file.create_group(f"layers/dense_{k}")

    bare_file(tmp_path / "m.weights.h5", change)
    assert lstm_xp.load(tmp_path / "m.weights.h5").output_size == 5


def test_names_in_a_heap_with_a_tree(tmp_path):
    with h5py.File(tmp_path / "m.weights.h5", "w", libver="latest") as file:
        for k in range(20):
            file.create_group(str(k))
    refused(tmp_path / "m.weights.h5", "it has names or attributes in a heap with a tree, as Keras never does")


def test_numbers_of_an_odd_form(tmp_path):
    """Two bytes as those of bfloat16 are, in a type of HDF5's own."""
    kind = h5py.h5t.IEEE_F16LE.copy()
    kind.set_fields(15, 7, 8, 0, 7)
    kind.set_ebias(127)

    def make(group):
        space = h5py.h5s.create_simple((5, 20))
        h5py.h5d.create(group.id, b"1", kind, space)

    bare_file(tmp_path / "m.weights.h5", replaced("1", make))
    refused(tmp_path / "m.weights.h5", "floating dtype of 2, 4 or 8 bytes; got float16")


def test_numbers_that_were_never_written(tmp_path):
    bare_file(tmp_path / "m.weights.h5", replaced("1", lambda g: g.create_dataset("1", (5, 20), "f8")))
    assert not np.any(lstm_xp.load(tmp_path / "m.weights.h5").layers[0].forward.weight_hh)


def test_numbers_within_the_header(tmp_path):
    numbers = draw(5, 20)

    def make(group):
        where = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        where.set_layout(h5py.h5d.COMPACT)
        h5py.h5d.create(group.id, b"1", h5py.h5t.NATIVE_DOUBLE, h5py.h5s.create_simple((5, 20)), where)
        group["1"][...] = numbers

    bare_file(tmp_path / "m.weights.h5", replaced("1", make))
    found = lstm_xp.load(tmp_path / "m.weights.h5").layers[0].forward
    np.testing.assert_array_equal(found.weight_hh, numbers.T)


def test_many_numbers(tmp_path):
    """More than a reader of files elsewhere would take at a time."""
    model = LSTM.init(700, 701, rng=0)
    lstm_xp.save(tmp_path / "m.weights.h5", model)
    assert_same(lstm_xp.load(tmp_path / "m.weights.h5"), model)


def test_a_program_in_one_archive_reads_without_another_process(tmp_path):
    """As a frozen program does, whose interpreter is the program itself; and h5py is for writing alone."""
    root = Path(lstm_xp.__file__).parent
    with zipfile.ZipFile(tmp_path / "program.pyz", "w") as archive:
        for path in root.rglob("*.py"):
            archive.write(path, path.relative_to(root.parent))
        archive.writestr(
            "__main__.py",
            """import sys

def hook(event, arguments):
    if event.startswith(("os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.system", "subprocess.Popen")):
        raise AssertionError(event)

sys.modules["h5py"] = None
import numpy.testing  # older versions ask another process what the machine can do
sys.addaudithook(hook)
sys.executable = sys.argv[0]
import lstm_xp
print(".pyz" in lstm_xp.__file__, *map(lstm_xp.load, sys.argv[1:]))
""",
        )
    model = LSTM.init(3, 4, rng=0)
    paths = [tmp_path / "m.keras", tmp_path / "m.weights.h5"]
    for path in paths:
        lstm_xp.save(path, model)
    argv = [sys.executable, str(tmp_path / "program.pyz"), *map(str, paths)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=WAIT, cwd=tmp_path)
    assert done.stdout.strip() == f"True {model} {model}"


CONFIGS = {
    "must have objects with a `class_name`; got \\[\\]": [],
    "must have objects with a `class_name`; got \\{'class_name': 3\\}": {"class_name": 3},
    "must have a list of layers; got 'x'": {"class_name": "Sequential", "config": {"layers": "x"}},
    "`class_name`; got 7": {"class_name": "Sequential", "config": {"layers": [7]}},
    "`class_name`; got 'x'": {
        "class_name": "Sequential",
        "config": {"layers": [node("Bidirectional", "b", layer="x")]},
    },
    "has no LSTM": {"class_name": "Sequential", "config": {"layers": [node("RNN", "r")]}},
    "weights of 1 cells; got 0": {"class_name": "Sequential", "config": {"layers": [node("LSTM", "l")]}},
    "it belongs to an object of a class that is unknown here": node("Lambda", "l", function=["code"]),
    "which may compute something else": {
        "class_name": "Sequential",
        "config": {"layers": [node("LSTM", "lstm") | {"module": "own", "registered_name": "own>LSTM"}]},
    },
    "must fit `units` and `use_bias`": {"class_name": "Sequential", "config": {"layers": [node("LSTM", "l", units=6)]}},
    "Expecting property name": "{",
    "recursion": "[" * 100_000,
    "is not a readable Keras file|recursion": '{"class_name": "Sequential", "config": {"layers": [' * 400 + "]}}" * 400,
}


@pytest.mark.parametrize("match", CONFIGS)
def test_hostile_configurations(tmp_path, match):
    content = io.BytesIO()
    bare_file(content, lambda group: None)
    empty = io.BytesIO()
    h5py.File(empty, "w").close()
    nothing = match in ("has no LSTM", "weights of 1 cells; got 0")
    archive_file(tmp_path / "m.keras", CONFIGS[match], empty if nothing else content)
    refused(tmp_path / "m.keras", match)


@pytest.mark.parametrize("depth", [10, 600])
def test_how_deep_a_configuration_nests_does_not_hang_on_the_caller(tmp_path, depth):
    """Python's own limit does."""

    def deeper(levels):
        return lstm_xp.load(tmp_path / "m.keras", name="lstm") if levels == 0 else deeper(levels - 1)

    content = io.BytesIO()
    bare_file(content, lambda group: None)
    models = node("LSTM", "lstm", activation="tanh")
    for _ in range(30):
        models = {"class_name": "Sequential", "config": {"name": "[", "layers": [models]}}
    archive_file(tmp_path / "m.keras", models, content)
    with pytest.raises(ValueError, match="weights of 1 cells; got 0"):  # which are elsewhere in the file
        deeper(depth)
    for _ in range(10):
        models = {"class_name": "Sequential", "config": {"layers": [models]}}
    archive_file(tmp_path / "m.keras", models, content)
    with pytest.raises(ValueError, match="its JSON has a recursion of brackets, more than 100 deep"):
        deeper(depth)


def test_hostile_archives(tmp_path):
    path = tmp_path / "m.keras"
    archive_file(path, {"class_name": "Sequential", "config": {}})
    refused(path, "must have its weights as model.weights.h5; it has config.json, metadata.json")
    archive_file(path, {"class_name": "Sequential", "config": {}}, b"no HDF5 at all")
    refused(path, "it is damaged, or no file of Keras")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", b"[" + b" " * (1 << 27))
    refused(path, "its contents takes|its contents take")
    archive_file(path, {"class_name": "Sequential", "config": {}}, b"")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("metadata.json", "[]")
    refused(path, "metadata.json must hold an object")


def test_names_that_are_no_text(tmp_path):
    content = io.BytesIO()
    bare_file(content, lambda group: None)
    config = {"class_name": "Sequential", "config": {"layers": [node("LSTM", "\ud800")]}}
    archive_file(tmp_path / "m.keras", config, content)
    assert lstm_xp.inspect(tmp_path / "m.keras")[0].name == "\\ud800"


def test_reading_imports_no_keras(tmp_path):
    lstm_xp.save(tmp_path / "m.keras", LSTM.init(3, 4, rng=0))
    code = f"import sys, lstm_xp; lstm_xp.load({str(tmp_path / 'm.keras')!r}); print('keras' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=WAIT)
    assert done.stdout.strip() == "False"
