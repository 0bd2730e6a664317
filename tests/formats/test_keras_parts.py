"""Odd cases of Keras, each by the smallest file or layer that has it, and none by Keras itself."""

import io
import json
import zipfile

import numpy as np
import pytest

import lstm_xp
from lstm_xp import LSTM, Cell
from lstm_xp.formats import keras as ours
from tests.formats.test_keras import (
    I,
    archive_file,
    bare_file,
    draw,
    keras_2_file,
    kernels,
    node,
    refused,
    same_weights,
    weights_of,
)

h5py = pytest.importorskip("h5py")
pytest.importorskip("pyfive")


def alive(kind, config, arrays, **fields):
    """Return a layer that says this of itself."""

    class Layer:
        def get_config(self):
            return config

        def get_weights(self):
            return arrays

    return type(kind, (Layer,), {"name": "layer"} | fields)()


def inspected(tmp_path, layers, paths, **options):
    """Return what a model of layers has whose weights stand at paths, as numbers from 0."""
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        for path, arrays in paths.items():
            for k, array in enumerate(arrays):
                file[f"{path}/vars/{k}"] = array
    archive_file(tmp_path / "m.keras", {"class_name": "Sequential", "config": {"layers": layers}}, content, **options)
    return lstm_xp.inspect(tmp_path / "m.keras")


def parts(n, H, seed=0):
    return list(kernels("", n, H, seed).values())


# Files of HDF5


@pytest.mark.parametrize("length", [4096, 4097])
def test_the_longest_name(length, tmp_path):
    bare_file(tmp_path / "m.weights.h5", lambda group: group.file.create_group("a" * length))
    if length == 4096:
        assert lstm_xp.load(tmp_path / "m.weights.h5").output_size == 5
    else:
        refused(tmp_path / "m.weights.h5", "'/' has a name of more than 4096 bytes")


@pytest.mark.parametrize("order", [0, 1, 3], ids=["none", "tracked", "indexed"])
def test_groups_that_note_the_order_of_their_members(order, tmp_path):
    """As the later forms of HDF5 do; their attributes have names and texts elsewhere, too."""
    path = tmp_path / "m.weights.h5"
    lstm_xp.save(path, LSTM.init(3, 4, rng=0, cell=Cell("sigmoid", "relu", "relu")))
    with h5py.File(path) as file:
        texts, arrays = dict(file.attrs), [each[()] for each in file["layers/lstm/cell/vars"].values()]
    with h5py.File(path, "w", libver="latest") as file:
        kind = h5py.h5p.create(h5py.h5p.GROUP_CREATE)
        kind.set_link_creation_order(order)
        kind.set_attr_creation_order(order)
        h5py.h5g.create(file.id, b"layers", gcpl=kind)
        file["layers"].attrs["name"] = "a text"
        for k, array in enumerate(arrays):
            file[f"layers/lstm/cell/vars/{k}"] = array
        file.attrs.update(texts)
    model = lstm_xp.load(path)
    assert model.cell == Cell("sigmoid", "relu", "relu")
    np.testing.assert_array_equal(model.layers[0].forward.weight_ih, arrays[0].T)


@pytest.mark.parametrize("libver", ["earliest", "latest"])
@pytest.mark.parametrize(
    "value",
    [
        h5py.Empty("S5"),
        np.zeros((3, 2)),
        np.asarray([b"one", b"two"], object),
        3,
        np.asarray([(1, b"a")], [("n", "i4"), ("t", "S3")]),
    ],
    ids=["empty", "numbers", "texts", "number", "records"],
)
def test_attributes_of_any_kind(value, libver, tmp_path):
    """What else there is beside a text, before and behind it, and under its name."""
    path = tmp_path / "m.weights.h5"
    text = np.bytes_(json.dumps({"class_name": "Sequential", "config": {"layers": [node("LSTM", "lstm", units=5)]}}))
    with h5py.File(path, "w", libver=libver) as file:
        for k, array in enumerate(parts(I, 5)):
            file[f"layers/lstm/cell/vars/{k}"] = array
        file.attrs["a"] = value
        file.attrs["lstm_xp"] = text  # of a fixed length, which those that h5py writes by itself have not
        file.attrs["z"] = value
        file["layers/lstm/cell/vars"].attrs["name"] = value
    (entry,) = lstm_xp.inspect(path)
    assert (entry.name, entry.problem) == ("lstm", None)


def test_an_attribute_that_says_it_is_huge(tmp_path):
    """Its sizes, of which there is no more than the number: what cannot be there is left out."""
    path = tmp_path / "m.weights.h5"
    bare_file(path, lambda group: group.file.attrs.__setitem__("name", np.asarray([b"x" * 7] * 5)))
    content = path.read_bytes()
    assert content.count((5).to_bytes(8, "little") * 2) == 1  # as it is and as it may be
    path.write_bytes(content.replace((5).to_bytes(8, "little") * 2, (1 << 40).to_bytes(8, "little") * 2))
    assert lstm_xp.load(path).output_size == 5


@pytest.mark.parametrize(
    ("path", "name"),
    [("", "."), ("cell/", "."), ("forward_net/layers/lstm/cell/", "lstm"), ("net/backward_1/lstm/cell/", "lstm")],
)
def test_weights_at_any_place(path, name, tmp_path):
    """At the root, and below what has a name like one side of `Bidirectional`."""
    with h5py.File(tmp_path / "m.weights.h5", "w") as file:
        for k, array in enumerate(parts(I, 5)):
            file[f"{path}vars/{k}"] = array
    (entry,) = lstm_xp.inspect(tmp_path / "m.weights.h5")
    assert (entry.name, entry.model.output_size) == (name, 5)


def test_two_nets_of_a_users_own_are_not_two_directions(tmp_path):
    with h5py.File(tmp_path / "m.weights.h5", "w") as file:
        for side in ("forward", "backward"):
            for k, array in enumerate(parts(I, 5)):
                file[f"{side}_net/layers/lstm/cell/vars/{k}"] = array
    entries = lstm_xp.inspect(tmp_path / "m.weights.h5")
    assert [entry.name for entry in entries] == ["backward_net/lstm", "forward_net/lstm"]
    assert all(entry.model.layers[0].backward is None for entry in entries)


# Configurations


def test_a_reverse_layer_of_one_unit_before_one_input(tmp_path):
    """What it gives is flipped in time, so that the next one is another LSTM."""
    layers = [node("LSTM", "one", units=1, go_backwards=True, return_sequences=True), node("LSTM", "two")]
    paths = {"layers/lstm/cell": parts(I, 1), "layers/lstm_1/cell": parts(1, 5)}
    assert [entry.name for entry in inspected(tmp_path, layers, paths)] == ["one", "two"]


BOTH = [f"layers/bidirectional/{side}_layer/cell" for side in ("forward", "backward")]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({}, None),
        ({"backward_layer": node("LSTM", "b", go_backwards=True)}, None),
        ({"backward_layer": None}, "its second layer must go backwards; got go_backwards=False."),
        ({"backward_layer": node("LSTM", "b")}, "its second layer must go backwards; got go_backwards=False."),
        ({"merge_mode": None}, None),
        ({"merge_mode": "ave"}, "its directions must stay side by side; got merge_mode='ave'."),
    ],
    ids=str,
)
def test_bidirectional(options, problem, tmp_path):
    layers = [node("Bidirectional", "both", layer=node("LSTM", "f"), **options)]
    (entry,) = inspected(tmp_path, layers, {BOTH[0]: parts(I, 5, 1), BOTH[1]: parts(I, 5, 2)})
    assert entry.problem == problem
    if problem is None:
        np.testing.assert_array_equal(entry.model.layers[0].backward.weight_ih, parts(I, 5, 2)[0].T)


# Layers alive


@pytest.mark.parametrize(
    ("shapes", "problem"),
    [
        ([(3, 16), (4, 16), (16,)], None),
        ([(3, 16), (4, 16), (32,)], None),
        ([(3, 16), (4, 16), (15,)], r"the bias must have shape \(16,\); got \(15,\)"),
        ([(3, 16), (4, 16), (1, 16)], r"the bias must have shape \(16,\); got \(1, 16\)"),
        ([(3, 15), (4, 16), (16,)], r"4 \* units columns; got shapes \(3, 15\) and \(4, 16\)"),
        ([(3, 16), (4, 15), (16,)], r"4 \* units columns; got shapes \(3, 16\) and \(4, 15\)"),
        ([(3, 12), (4, 12), (12,)], r"4 \* units columns; got shapes \(3, 12\) and \(4, 12\)"),
        ([(3, 16, 1), (4, 16), (16,)], r"4 \* units columns; got shapes \(3, 16, 1\) and \(4, 16\)"),
        ([(3, 16), (4, 16, 1), (16,)], r"4 \* units columns; got shapes \(3, 16\) and \(4, 16, 1\)"),
        ([(16,), (4, 16), (16,)], r"4 \* units columns; got shapes \(16,\) and \(4, 16\)"),
        ([], "it has no weights yet"),
    ],
    ids=str,
)
def test_shapes_of_a_live_layer(shapes, problem):
    layer = alive("LSTM", {"name": "layer"}, [draw(*shape) for shape in shapes])
    if problem is None:
        assert ours.from_params(layer).output_size == 4
    else:
        with pytest.raises(ValueError, match=problem):
            ours.from_params(layer)


@pytest.mark.parametrize(
    ("config", "arrays"),
    [({"units": 4}, 3), ({"use_bias": True}, 3), ({"use_bias": False}, 2), ({"units": 4, "use_bias": False}, 2)],
    ids=str,
)
def test_settings_that_fit_and_others(config, arrays):
    weights = [draw(3, 16), draw(4, 16), draw(16)][:arrays]
    assert ours.from_params(alive("LSTM", config, weights)).layers[0].forward.bias is (
        None if arrays == 2 else weights[2]
    )
    if "units" in config:
        with pytest.raises(ValueError, match="must fit `units` and `use_bias`"):
            ours.from_params(alive("LSTM", config | {"units": 5}, weights))


def test_versions_of_files(tmp_path):
    layers, arrays = [node("LSTM", "lstm", recurrent_activation="hard_sigmoid")], kernels("lstm/cell", I, 5)
    keras_2_file(tmp_path / "m.h5", layers, arrays, "none")
    assert lstm_xp.load(tmp_path / "m.h5").cell.gate_activation == "hard_sigmoid"
    same_weights(lstm_xp.load(tmp_path / "m.h5").layers[0].forward, weights_of(arrays, "lstm/cell"))
    (entry,) = inspected(tmp_path, layers, {"layers/lstm/cell": parts(I, 5)}, version=3)  # a number, and no text
    assert entry.model.cell.gate_activation == "hard_sigmoid"


# Writing


def said(kind, **config):
    module = "keras" if kind == "Sequential" else "keras.layers"
    return {"module": module, "class_name": kind, "config": config, "registered_name": None}


def test_the_configuration_that_is_written(tmp_path):
    model = LSTM(LSTM.init(3, 4, bidirectional=True, rng=0).layers + LSTM.init(8, 5, bias=False, rng=0).layers)
    lstm_xp.save(tmp_path / "m.keras", model)
    with zipfile.ZipFile(tmp_path / "m.keras") as archive:
        config, metadata = (json.loads(archive.read(f"{name}.json")) for name in ("config", "metadata"))
        assert {member.date_time for member in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}

    def layer(name, units, *, reverse=False, bias=True):
        settings = {"units": units, "activation": "tanh", "recurrent_activation": "sigmoid", "use_bias": bias}
        return said("LSTM", name=name, dtype="float32", return_sequences=True, go_backwards=reverse, **settings)

    sides = {
        "layer": layer("forward_bidirectional", 4),
        "backward_layer": layer("backward_bidirectional", 4, reverse=True),
    }
    layers = [
        said("InputLayer", name="input_layer", batch_shape=[None, None, 3], dtype="float32"),
        said("Bidirectional", name="bidirectional", dtype="float32", merge_mode="concat", **sides),
        layer("lstm", 5, bias=False),
    ]
    assert config == said("Sequential", name="sequential", trainable=True, dtype="float32", layers=layers)
    assert metadata == {"keras_version": "3.0.0"}
