"""What formats share of models and their names, one function at a time."""

import numpy as np
import pytest

from lstm_xp import LSTM, Cell
from lstm_xp.formats import _model, _one_cell
from lstm_xp.formats._model import Entry, Files


@pytest.mark.parametrize(
    ("places", "names"),
    [
        ([("a/", "x"), ("b/", "y")], ["x", "y"]),
        ([("a/", "x"), ("b/", "x")], ["a/x", "b/x"]),
        ([("", "x"), ("", "x"), ("", "x")], ["x", "x#2", "x#3"]),
        ([("a/", "x"), ("a/", "x"), ("", "a/x")], ["a/x", "a/x#2", "a/x#3"]),
    ],
    ids=str,
)
def test_names_are_told_apart(places, names):
    assert _model.unique_names(places) == names


def test_which_entry_is_chosen():
    model = LSTM.init(3, 4, rng=0)
    one, two, odd = Entry("one", "", model), Entry("two", "", model), Entry("odd", "", None, "the problem")
    assert _model.chosen("load", "it", [one], None) is _model.chosen("load", "it", [odd, one], "one") is model
    assert _model.chosen("load", "it", [one, two], "two") is model
    for entries, name, words in (
        ([], None, "load: it has no LSTM"),
        ([], "one", "load: it has no LSTM"),
        ([one, two], None, "load: `name` must say which LSTM of it, one of 'one', 'two'; got None"),
        ([one], "", "load: `name` must be one of the LSTMs of it, 'one'; got ''"),
        ([one, odd], "odd", "load: it, LSTM 'odd': the problem"),
        ([odd], None, "load: it, LSTM 'odd': the problem"),
    ):
        with pytest.raises(ValueError, match=words):
            _model.chosen("load", "it", entries, name)


def test_a_kind_of_files_is_known_by_its_head_or_its_members():
    head, member = Files("", None, head=b".\x80\n"), Files("", None, member=r"^a\.x|\.npy")
    assert head.have(b"\n\x80\nrest", [])
    assert not head.have(b"rest\n\x80\n", [])
    assert not head.have(b"\n\x80\n", ["a"])
    assert member.have(b"", ["b", "c.npy"])
    assert not member.have(b"", ["c.npy.x"])
    assert not member.have(b"", [])
    assert member.have(b"", ["a.x"])
    assert not member.have(b"", ["b/a.x"])


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind", ["float16", "f4", "float64", "bfloat16"])
def test_bytes_as_numbers(kind, order):
    wanted = np.asarray([1.0, -2.5, 0.0, 3.0])
    if kind == "bfloat16":
        content = (wanted.astype("f4").view("u4") >> 16).astype(f"{order}u2").tobytes()
    else:
        content = wanted.astype(np.dtype(kind).newbyteorder(order)).tobytes()
    got = _model.unpacked(content, f"{order}{kind}", (2, 2))
    assert got.dtype == {"bfloat16": "f4"}.get(kind, kind)
    assert got.dtype.isnative
    assert got.flags.owndata
    assert got.flags.writeable
    np.testing.assert_array_equal(got, wanted.reshape(2, 2))


@pytest.mark.parametrize(
    ("numbers", "fits"), [([0], True), ([0, 1], True), ([1], False), ([0, 2], False), ([], False)], ids=str
)
def test_numbers_of_layers(numbers, fits):
    directions = {(k, reverse): f"{k}{reverse}" for k in numbers for reverse in (True, False) if k or not reverse}
    if fits:
        assert _model.numbered(directions) == [("0False", None), ("1False", "1True")][: len(numbers)]
    else:
        with pytest.raises(ValueError, match="must be numbered from 0 without a gap"):
            _model.numbered(directions)


ONE, TWO = Cell(), Cell(clip=1.0)


@pytest.mark.parametrize(
    ("cells", "short"),
    [
        (((ONE,),), ONE),
        (((ONE, ONE),), ONE),
        (((ONE,), (ONE, ONE)), ONE),
        (((ONE,), (TWO,)), (ONE, TWO)),
        (((ONE, TWO),), ((ONE, TWO),)),
        (((ONE, TWO), (ONE, TWO)), ((ONE, TWO), (ONE, TWO))),
        (((ONE, TWO), (TWO, TWO)), ((ONE, TWO), TWO)),
    ],
)
def test_cells_as_short_as_they_can_be_said(cells, short):
    assert _model.shortest(cells) == short


def test_the_words_of_a_problem_are_without_the_function():
    def make(error):
        raise error

    for error in (ValueError("LSTM: `layers` must be"), TypeError("`layers` must be")):
        assert _model.entry_of("a", "f", lambda error=error: make(error)) == ("a", "f", None, "`layers` must be")
    with pytest.raises(KeyError):
        _model.entry_of("a", "f", lambda: make(KeyError()))


def test_a_missing_bias_is_zeros_of_the_right_kind():
    weights = LSTM.init(3, 5, proj_size=2, bias=False, dtype=np.float64, rng=0).layers[0].forward
    bias = _model.bias_of(weights)
    assert (bias.shape, bias.dtype, bias.any()) == ((20,), np.float64, False)


def test_a_forget_bias_is_added_to_its_block_alone():
    bias = np.arange(8, dtype=np.float32)
    got = _one_cell._with_forget_bias(bias, 0.5)
    assert (got.dtype, got.tolist()) == (np.float32, [0, 1, 2.5, 3.5, 4, 5, 6, 7])


@pytest.mark.parametrize("pair", [tuple, list])
def test_what_is_a_pair_of_directions(pair):
    """A sequence of two; what a cell has as None is not there."""
    seen = []

    def unpack(params):
        seen.append({key: len(array) for key, array in params.items()})
        return LSTM.init(3, 4, rng=0).layers[0].forward

    one, two = ({"w": np.ones(n), "none": None} for n in (1, 2))
    (layer,) = _one_cell.stacked([pair((one, two))], unpack, ("w",), TWO).layers
    assert layer.backward is not None
    assert seen == [{"w": 1}, {"w": 2}]
    (layer,) = _one_cell.stacked(one, unpack, ("w",)).layers
    assert layer.backward is None
    for wrong in (pair((one,)), pair((one, two, one))):
        with pytest.raises(ValueError, match=r"`params\[0\]` must be a mapping with w; got (list|tuple)"):
            _one_cell.stacked([wrong], unpack, ("w",))
    with pytest.raises(ValueError, match=r"`params\[0\]` must be a mapping with w, b; got w, none"):
        _one_cell.stacked(one, unpack, ("w", "b"))
