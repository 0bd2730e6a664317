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


def test_each_read_counts(monkeypatch):
    """Its bytes and sixteen more, against what one object may take and against what a file of this size may."""
    monkeypatch.setattr(ours._hdf5, "_OBJECT", 100)
    source = ours._hdf5._Source(bytes(50))  # 300 in all
    source.begin("it", 100)
    assert len(source.read()) == 50
    source.spend(18)
    source.read(0)
    with pytest.raises(ValueError, match="it takes more than 100 bytes to read, the limit of one object"):
        source.spend(1)
    source.begin("another", 1000)
    source.spend(199)
    with pytest.raises(ValueError, match="its objects take more than 300 bytes to read, the limit of a file"):
        source.spend(1)


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
        file["layers"].attrs.update({"name": "a text", "another": "text"})
        file.create_group("layers/dense")
        for k, array in enumerate(arrays):
            file[f"layers/lstm/cell/vars/{k}"] = array
        file.attrs.update(texts)
    model = lstm_xp.load(path)
    assert model.cell == Cell("sigmoid", "relu", "relu")
    np.testing.assert_array_equal(model.layers[0].forward.weight_ih, arrays[0].T)


RECORDS = [("n", "i4"), ("t", "S3")]
SEQUENCES = np.empty(1, h5py.vlen_dtype(np.dtype(RECORDS)))
SEQUENCES[0] = np.zeros(2, RECORDS)


@pytest.mark.parametrize("libver", ["earliest", "latest"])
@pytest.mark.parametrize(
    "value",
    [
        h5py.Empty("S5"),
        np.zeros((3, 2)),
        np.asarray([b"one", b"two"], object),
        3,
        np.zeros(1, RECORDS[:1]),
        SEQUENCES,
        np.asarray([None], h5py.ref_dtype),
        np.asarray([1], ">u2"),
    ],
    ids=["empty", "numbers", "texts", "number", "records", "sequences", "references", "other order"],
)
def test_attributes_of_any_kind(value, libver, tmp_path):
    """What else there is beside a text, before and behind it, and under its name."""
    path = tmp_path / "m.weights.h5"
    text = np.bytes_(json.dumps({"class_name": "Sequential", "config": {"layers": [node("LSTM", "named")]}}))
    with h5py.File(path, "w", libver=libver) as file:
        for k, array in enumerate(parts(I, 5)):
            file[f"layers/lstm/cell/vars/{k}"] = array
        file.attrs["a"] = value
        file.attrs["model_config"] = text  # of a fixed length, which those that h5py writes by itself have not
        file.attrs["z"] = value
        file["layers/lstm/cell/vars"].attrs["name"] = value
    (entry,) = lstm_xp.inspect(path)
    assert (entry.name, entry.problem) == ("named", None)


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


@pytest.mark.parametrize(("size", "said"), [(2, "bfloat16"), (2, "other"), (2, None), (3, "bfloat16")])
def test_bytes_that_are_said_to_be_numbers(size, said, tmp_path):
    """As Keras writes bfloat16, which HDF5 has not."""
    halves = (draw(5, 20).astype("f4").view("u4") >> 16).astype("<u2")
    content = halves.view("V2") if size == 2 else np.zeros((5, 20), "V3")

    def change(group):
        del group["1"]
        group["1"] = content
        group["1"].attrs.update({} if said is None else {"dtype": said})

    bare_file(tmp_path / "m.weights.h5", change)
    if (size, said) == (2, "bfloat16"):
        problem = lstm_xp.inspect(tmp_path / "m.weights.h5")[0].problem
        assert "must have the dtype of" in problem  # the others have another one
    else:
        refused(tmp_path / "m.weights.h5", "floating dtype of 2, 4 or 8 bytes; got a type of class 5")


def test_numbers_that_are_said_to_be_others(tmp_path):
    """What HDF5 says of them counts."""
    with h5py.File(tmp_path / "m.weights.h5", "w") as file:
        for k, array in enumerate(parts(I, 5)):
            file[f"layers/lstm/cell/vars/{k}"] = array.astype("f2")
            file[f"layers/lstm/cell/vars/{k}"].attrs["dtype"] = "bfloat16"
    np.testing.assert_array_equal(
        lstm_xp.load(tmp_path / "m.weights.h5").layers[0].forward.bias, parts(I, 5)[2].astype("f2")
    )


def test_records_that_look_like_numbers(tmp_path):
    """The name of a field stands where of a number there is how many bits its exponent has."""

    def change(group):
        del group["1"]
        group["1"] = np.zeros((5, 20), [("aaaaa\b", "f4")])

    bare_file(tmp_path / "m.weights.h5", change)
    refused(tmp_path / "m.weights.h5", "floating dtype of 2, 4 or 8 bytes; got a type of class 6")


@pytest.mark.parametrize("what", ["group", "empty", "row"])
def test_what_is_no_weight(what, tmp_path):
    """In the place of one: then the group is none of an LSTM."""

    def change(group):
        del group["1"]
        if what == "group":
            group.create_group("1")
        else:
            group["1"] = h5py.Empty("f8") if what == "empty" else draw(20)

    bare_file(tmp_path / "m.weights.h5", change)
    assert not lstm_xp.inspect(tmp_path / "m.weights.h5")


@pytest.mark.parametrize(
    ("beside", "problem"), [([], None), (["gru_cell"], "it must have the weights of 2 cells; got 1.")]
)
def test_one_cell_of_a_stack(beside, problem, tmp_path):
    """The others are of another kind; how many there are is all that is known."""
    with h5py.File(tmp_path / "m.weights.h5", "w") as file:
        for k, array in enumerate(parts(I, 5)):
            file[f"layers/rnn/cell/cells/lstm_cell/vars/{k}"] = array
        for name in beside:
            file[f"layers/rnn/cell/cells/{name}/vars/0"] = draw(3, 15)
    (entry,) = lstm_xp.inspect(tmp_path / "m.weights.h5")
    assert (entry.name, entry.problem) == ("rnn", problem)


@pytest.mark.parametrize(
    ("shapes", "fit"),
    [
        (((3, 20), (5, 20)), True),
        (((3, 4), (1, 4), (4,)), True),
        (((3, 20), (5, 20), (1, 20)), False),
        (((20,), (5, 20), (20,)), False),
        (((3, 20), (20,), (20,)), False),
        (((3, 20, 1), (5, 20), (20,)), False),
        (((3, 15), (5, 15), (15,)), False),
        (((3, 20), (4, 20), (20,)), False),
        (((3, 16), (5, 20), (20,)), False),
        (((3, 0), (0, 0), (0,)), False),
    ],
    ids=str,
)
def test_shapes_of_an_lstm(shapes, fit):
    assert ours._hdf5._are_of_lstm(*shapes) == fit


def test_the_name_that_is_noted_beside_the_weights(tmp_path):
    """In an empty group of the layer's own weights; an LSTM's group may have any text."""

    def change(group):
        group.attrs["name"] = "not this"
        group.attrs["lstm_xp"] = group.parent.attrs["model_config"] = "not at the root"
        group.file.create_group("layers/lstm/vars").attrs["name"] = "noted"
        group.file.create_group("layers/lstm/other").attrs["name"] = "nor this"

    bare_file(tmp_path / "m.weights.h5", change)
    assert [entry.name for entry in lstm_xp.inspect(tmp_path / "m.weights.h5")] == ["noted"]


@pytest.mark.parametrize("libver", ["earliest", ("v108", "v108"), "latest"])
def test_links_among_groups(libver, tmp_path):
    """Those to the same file and to others are passed over, in each form of HDF5; and weights have no groups."""
    with h5py.File(tmp_path / "m.weights.h5", "w", libver=libver) as file:
        for k, array in enumerate(parts(I, 5)):
            file[f"layers/lstm/cell/vars/{k}"] = array
        file.create_group("layers/" + "n" * 300)
        file["layers/soft"] = h5py.SoftLink("/layers/lstm")
        file["layers/far"] = h5py.ExternalLink("other.h5", "/")
        file["layers/again"] = file["layers"]
        for k, array in enumerate(parts(I, 6)):
            file[f"layers/other/vars/lstm/cell/vars/{k}"] = array
    (entry,) = lstm_xp.inspect(tmp_path / "m.weights.h5")
    assert (entry.name, entry.model.output_size) == ("lstm", 5)


def test_a_long_text(tmp_path):
    """The configuration of a large model."""
    path = tmp_path / "m.h5"
    keras_2_file(path, [node("LSTM", "lstm")], kernels("lstm/cell", I, 5))
    with h5py.File(path, "r+") as file:
        file.attrs["model_config"] = file.attrs["model_config"] + " " * 5_000_000
    assert lstm_xp.load(path).output_size == 5


def test_the_order_of_paths():
    wanted = [
        "",
        "a",
        "a/b",
        "a_0",
        "a_1",
        "a_2",
        "a_2/b",
        "a_10",
        "a_10/b_9",
        "a_10/b_10",
        "ab",
        "b_1234567890",
        "b_x",
    ]
    assert (
        sorted(sorted(wanted), key=ours._hdf5._natural) == sorted(reversed(wanted), key=ours._hdf5._natural) == wanted
    )


# Files of Keras 2


def cells_of_keras_2(*names):
    cells = [node("LSTMCell", name, units=units) for name, units in zip(names, (4, 5), strict=True)]
    arrays = kernels(f"rnn/{names[0]}", I, 4) | kernels(f"rnn/{names[1]}", 4, 5, 10)
    return node("RNN", "rnn", cell={"class_name": "StackedRNNCells", "config": {"cells": cells}}), arrays


@pytest.mark.parametrize("names", [("b", "a"), ("a", "b"), ("lstm_cell", "lstm_cell_1")], ids=str)
def test_cells_by_their_names(names, tmp_path):
    """In the order of the configuration, which need not be that of the file."""
    layer, arrays = cells_of_keras_2(*names)
    keras_2_file(tmp_path / "m.h5", [layer], arrays)
    first, second = lstm_xp.load(tmp_path / "m.h5").layers
    same_weights(first.forward, weights_of(arrays, f"rnn/{names[0]}"))
    same_weights(second.forward, weights_of(arrays, f"rnn/{names[1]}"))


def test_cells_of_weights_alone(tmp_path):
    layer, arrays = cells_of_keras_2("lstm_cell", "lstm_cell_1")
    keras_2_file(tmp_path / "m.h5", [layer], arrays, bare=True)
    assert lstm_xp.inspect(tmp_path / "m.h5")[0].format == "Keras HDF5"
    assert [layer.forward.weight_hh.shape[1] for layer in lstm_xp.load(tmp_path / "m.h5").layers] == [4, 5]


def test_weights_that_have_another_name_than_their_layer(tmp_path):
    """As those of a layer that was renamed."""
    arrays = kernels("lstm/lstm_cell", I, 5)
    keras_2_file(tmp_path / "m.h5", [node("LSTM", "lstm")], arrays)
    with h5py.File(tmp_path / "m.h5", "r+") as file:
        file.move("model_weights/lstm/lstm", "model_weights/lstm/old")
    same_weights(lstm_xp.load(tmp_path / "m.h5").layers[0].forward, weights_of(arrays, "lstm/lstm_cell"))


def test_weights_alone_in_the_order_of_their_layers(tmp_path):
    """By the names of the layers; the weights may have others."""
    layers = [node("LSTM", name) for name in ("b", "a")]
    keras_2_file(tmp_path / "m.h5", layers, kernels("b/cell", I, 5) | kernels("a/cell", I, 6), bare=True)
    with h5py.File(tmp_path / "m.h5", "r+") as file:
        file.move("b/b", "b/z")
        file.move("a/a", "a/y")
    assert [entry.model.output_size for entry in lstm_xp.inspect(tmp_path / "m.h5")] == [5, 6]


@pytest.mark.parametrize("name", ["zz", "z\nz"])
def test_directions_of_weights_alone(name, tmp_path):
    arrays = kernels(f"both/forward_{name}/cell", I, 5) | kernels(f"both/backward_{name}/cell", I, 5, 10)
    keras_2_file(tmp_path / "m.h5", [node("Bidirectional", "both")], arrays, bare=True)
    (entry,) = lstm_xp.inspect(tmp_path / "m.h5")
    same_weights(entry.model.layers[0].forward, weights_of(arrays, f"both/forward_{name}/cell"))
    same_weights(entry.model.layers[0].backward, weights_of(arrays, f"both/backward_{name}/cell"))


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


def seq(name, **config):
    return node("LSTM", name, return_sequences=True, **config)


def model(kind, *layers):
    return {"class_name": kind, "config": {"name": kind.lower(), "layers": list(layers)}}


DENSE = {"class_name": "Dense", "config": {"name": "dense"}}
DROPOUT = {"class_name": "Dropout", "config": {}}
TWO = {"lstm": (I, 5), "lstm_1": (5, 5)}
SIDES = {f"bidirectional/{side}_layer": (I, 5) for side in ("forward", "backward")}
BEHIND = SIDES | {"lstm": (10, 5)}
ROWS = {
    # Layers, the sizes of the weights of each by its place, and the names of the LSTMs.
    "two": ([seq("a"), node("LSTM", "b")], TWO, ["a"]),
    "the last step": ([node("LSTM", "a"), seq("b")], TWO, ["a", "b"]),
    "nothing between": ([seq("a"), DROPOUT, DROPOUT, seq("b")], TWO, ["a"]),
    "nothing before": ([DROPOUT, seq("a")], {"lstm": (I, 5)}, ["a"]),
    "something between": ([seq("a"), DENSE, seq("b")], TWO, ["a", "b"]),
    "something and nothing between": ([seq("a"), DENSE, DROPOUT, seq("b")], TWO, ["a", "b"]),
    "something after": ([seq("a"), seq("b"), DENSE], TWO, ["a"]),
    "other sizes": ([seq("a"), seq("b")], {"lstm": (I, 5), "lstm_1": (6, 5)}, ["a", "b"]),
    "backwards first": ([seq("a", go_backwards=True), seq("b")], TWO, ["a", "b"]),
    "backwards second": ([seq("a"), seq("b", go_backwards=True)], TWO, ["a", "b"]),
    "both first": ([node("Bidirectional", "a", layer=seq("f")), seq("b")], BEHIND, ["a"]),
    "the last of both": ([node("Bidirectional", "a", layer=node("LSTM", "f")), seq("b")], BEHIND, ["a", "b"]),
    "both not merged": (
        [node("Bidirectional", "a", layer=seq("f"), merge_mode=None), seq("b")],
        BEHIND,
        ["a", "b"],
    ),
    "both behind": (
        [seq("a"), node("Bidirectional", "b", layer=seq("f"))],
        {"lstm": (I, 5)} | dict.fromkeys(SIDES, (5, 5)),
        ["a"],
    ),
    "both backwards": (
        [seq("a"), node("Bidirectional", "b", layer=seq("f"), go_backwards=True)],
        {"lstm": (I, 5)} | dict.fromkeys(SIDES, (5, 5)),
        ["a"],
    ),
    "a problem first": ([seq("a", activation="gelu"), seq("b")], TWO, ["a", "b"]),
    "a problem second": ([seq("a"), seq("b", activation="gelu")], TWO, ["a", "b"]),
    "a graph": (
        [model("Functional", seq("a"), seq("b"))],
        {"functional/layers/lstm": (I, 5), "functional/layers/lstm_1": (5, 5)},
        ["a", "b"],
    ),
    "one name": ([model("Model", seq("a")), model("Model", seq("a"))], {}, ["model/a", "model/a#2"]),
    "no name": ([{"class_name": "LSTM", "config": {"return_sequences": True}}], {"lstm": (I, 5)}, ["lstm"]),
    "a name beside": ([{"class_name": "LSTM", "name": "c", "config": {}}], {"lstm": (I, 5)}, ["c"]),
    "no activation": ([seq("a", activation=None)], {"lstm": (I, 5)}, ["a"]),
    "another kind of a cell": (
        [{"class_name": "Own", "config": {"cell": node("LSTMCell", "c")}}, seq("a")],
        {"lstm": (I, 5)},
        ["a"],
    ),
    "the name of a group": ([seq("layers"), DENSE, seq("b")], TWO, ["layers", "b"]),
    "ours": ([seq("a") | {"registered_name": "lstm_xp>LSTM"}], {"lstm": (I, 5)}, ["a"]),
    "no layers": ([{"class_name": "Sequential", "config": {}}, seq("a")], {"lstm": (I, 5)}, ["a"]),
    "no settings": ([{"class_name": "LSTM", "config": 3}], {"lstm": (I, 5)}, ["lstm"]),
    "both without a layer": ([{"class_name": "Bidirectional", "config": {}}, seq("a")], {"lstm": (I, 5)}, ["a"]),
    "cells that are no list": (
        [node("RNN", "r", cell={"class_name": "StackedRNNCells", "config": {"cells": 3}}), seq("a")],
        {"lstm": (I, 5)},
        ["a"],
    ),
}


@pytest.mark.parametrize("case", ROWS)
def test_layers_in_a_row(case, tmp_path):
    layers, sizes, names = ROWS[case]
    paths = {f"layers/{place}/cell": parts(*size) for place, size in sizes.items()}
    entries = inspected(tmp_path, layers, paths)
    assert [entry.name for entry in entries] == names
    if sizes:
        assert sum(entry.problem is not None for entry in entries) == sum("gelu" in str(layer) for layer in layers)


def test_a_cell_as_a_layer(tmp_path):
    (entry,) = inspected(tmp_path, [node("LSTMCell", "c")], {"layers/lstm_cell": parts(I, 5)})
    assert (entry.name, entry.problem) == ("c", None)


def test_numbered_cells_have_no_names(tmp_path):
    """What they are called in the configuration does not count, even where it looks like the place of another."""
    cells = [node("LSTMCell", "lstm_cell_1"), node("LSTMCell", "lstm_cell")]
    layers = [node("RNN", "r", cell={"class_name": "StackedRNNCells", "config": {"cells": cells}})]
    paths = {"layers/rnn/cell/cells/lstm_cell": parts(I, 5), "layers/rnn/cell/cells/lstm_cell_1": parts(5, 5, 10)}
    (entry,) = inspected(tmp_path, layers, paths)
    np.testing.assert_array_equal(entry.model.layers[0].forward.weight_ih, parts(I, 5)[0].T)


def test_places_are_counted_class_by_class(tmp_path):
    layers = [DENSE, model("Sequential", DENSE, seq("a")), DENSE, model("Sequential", seq("b")), seq("c")]
    places = ("layers/sequential/layers/lstm/cell", "layers/sequential_1/layers/lstm/cell", "layers/lstm/cell")
    entries = inspected(tmp_path, layers, {place: parts(I, 5, 10 * k) for k, place in enumerate(places)})
    assert [entry.name for entry in entries] == ["a", "b", "c"]
    for k, entry in enumerate(entries):
        np.testing.assert_array_equal(entry.model.layers[0].forward.weight_ih, parts(I, 5, 10 * k)[0].T)


def test_directions_whose_cells_differ(tmp_path):
    other = node("LSTM", "b", go_backwards=True, activation="relu")
    layers = [node("Bidirectional", "both", layer=node("LSTM", "f"), backward_layer=other)]
    (entry,) = inspected(tmp_path, layers, {BOTH[0]: parts(I, 5, 1), BOTH[1]: parts(I, 5, 2)})
    assert entry.model.cell == ((Cell(), Cell("sigmoid", "relu", "relu")),)


@pytest.mark.parametrize(
    ("name", "version", "activation"),
    [
        ("hard_sigmoid", 2, "hard_sigmoid"),
        ("hard_sigmoid", 3, ("hard_sigmoid", 1 / 6, 0.5)),
        ("linear", 3, ("affine", 1.0, 0.0)),
        (None, 2, ("affine", 1.0, 0.0)),
        ("leaky_relu", 3, ("leaky_relu", 0.2, 0.0)),
        ("celu", 2, "elu"),
    ],
)
def test_activations_by_their_names(name, version, activation):
    assert ours._layers.activation(name, version) == activation


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
        ([(3, 16)], "a cell must have kernel, recurrent kernel and perhaps a bias; got 1 arrays"),
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


def test_directions_of_several_cells():
    cells = {"class_name": "StackedRNNCells", "config": {"cells": [node("LSTMCell", "a"), node("LSTMCell", "b")]}}
    layer = alive("Bidirectional", {"layer": node("RNN", "r", cell=cells)}, [*parts(I, 5), *parts(5, 5)] * 2)
    with pytest.raises(ValueError, match="each of its directions must have one cell; got 4 for both"):
        ours.from_params(layer)


@pytest.mark.parametrize("depth", [2, 40])
def test_directions_inside_of_directions_are_no_lstm(depth, tmp_path):
    """Each would have twice as many cells as the one inside."""
    layer = seq("a")
    for _ in range(depth):
        layer = node("Bidirectional", "both", layer=layer)
    (entry,) = inspected(tmp_path, [layer], {"layers/bidirectional/forward_layer/cell": parts(I, 5)})
    assert "an object of a class that is unknown here" in entry.problem


def test_a_live_model_of_a_users_own():
    """What its layers are is known, and not what it does with them; other layers need not say what they are."""
    layers = [alive("LSTM", {"name": name, "return_sequences": True}, parts(I, 3)) for name in "ab"]
    layers.insert(0, type("Other", (), {"name": "other"})())
    for kind, names in (("Own", ["a", "b"]), ("Sequential", ["a"])):
        model = type(kind, (), {"name": "own", "layers": layers})()
        entries = ours._layers.entries(ours._layers.described(ours._alive(model)), ours._of_layer, 3, "Keras")
        assert [entry.name for entry in entries] == names


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


@pytest.mark.parametrize(
    ("activation", "name"),
    [
        ("elu", "elu"),
        (("elu", 1.0, 0.0), "elu"),
        (("hard_sigmoid", 1 / 6, 0.5), "hard_sigmoid"),
        (("tanh", 1.0, 0.0), "tanh"),
    ],
)
def test_the_name_of_an_activation(activation, name):
    """By what it computes, in whichever way it is said."""
    assert ours._written.activation_name(activation, "there") == name


def test_an_activation_without_a_name():
    with pytest.raises(ValueError, match="hold the activation 'hard_sigmoid', which has no name in Keras 3; got there"):
        ours._written.activation_name("hard_sigmoid", "there")


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
