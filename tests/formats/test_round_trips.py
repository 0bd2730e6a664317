"""From every format to every other: exactly what went in, or a refusal that names what the other cannot hold."""

import itertools

import pytest

from lstm_xp import LSTM, Cell, formats, load, save
from lstm_xp.formats import keras
from tests.support import format_table
from tests.support.format_table import IN_MEMORY, SUFFIXES
from tests.support.stacks import MODELS, assert_same

FORMATS = (*SUFFIXES, *IN_MEMORY)
# What all of them hold, but a missing bias may come back as zeros.
MOVED = ("both", "no bias")
# These take a forget bias out and put it back, which costs a rounding.
ROUNDING = {"haiku", "tensorflow1"}


def through(format, model, folder):
    """Return the model after it has been in the format."""
    if format in IN_MEMORY:
        module = getattr(formats, format)
        return module.from_params(module.to_params(model))
    save(folder / f"model{format}", model)
    return load(folder / f"model{format}")


@pytest.mark.parametrize(("first", "second"), list(itertools.permutations(FORMATS, 2)))
def test_every_pair(first, second, tmp_path):
    for name in MOVED:
        model = MODELS[name]
        moved = through(second, through(first, model, tmp_path), tmp_path)
        assert_same(moved, model, atol=3e-7 if {first, second} & ROUNDING else 0.0)


@pytest.mark.parametrize(("first", "second"), list(itertools.permutations((".npz", ".safetensors", ".pt", "torch"), 2)))
def test_projections_where_the_format_has_them(first, second, tmp_path):
    moved = through(second, through(first, MODELS["projection"], tmp_path), tmp_path)
    assert_same(moved, MODELS["projection"])


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("format", FORMATS)
def test_held_or_refused_by_name(format, name, tmp_path):
    """A format gives back what it was given, or says what it lacks: there is nothing in between."""
    model = MODELS[name]
    refusal = None
    try:
        moved = through(format, model, tmp_path)
    except ValueError as error:
        refusal = str(error)
    if refusal is not None:
        assert "cannot hold" in refusal
        assert not list(tmp_path.iterdir())
        return
    if format == "tensorflow1":
        moved = LSTM(moved.layers, model.cell)  # its constructor takes what the cell has
    rounding = 1e-3 if name == "half" else 3e-7
    assert_same(moved, model, atol=rounding if format in ROUNDING else 0.0)


@pytest.mark.parametrize("suffix", [".pt", ".keras", ".weights.h5", ".onnx"])
def test_a_function_as_activation_is_refused_everywhere(suffix, tmp_path):
    model = LSTM(MODELS["plain"].layers, Cell(output_activation=lambda x, xp: x))
    with pytest.raises(ValueError, match="cannot hold"):
        save(tmp_path / f"model{suffix}", model)
    assert not list(tmp_path.iterdir())


def test_keras_gives_what_set_weights_takes():
    """Its lists have no structure of their own, so that they come back by a layer only."""
    arrays = keras.to_params(MODELS["both"])
    assert [a.shape for a in arrays[0]] == [(3, 16), (4, 16), (16,)] * 2


def test_the_table_of_formats_is_current():
    assert format_table.table() in format_table.PAGE.read_text(), "run `python -m tests.support.format_table`"
