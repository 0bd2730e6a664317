"""Keras: LSTMs alive, in `.keras`, in `.weights.h5`, and in the `.h5` and `.hdf5` of Keras 2.

The row blocks are those of this package; Keras' matrices are transposed, and there is one bias. `hard_sigmoid` is
``clip(0.2 x + 0.5)`` in Keras 1 and 2 and ``clip(x / 6 + 0.5)`` in Keras 3: the version of the file, or of the package
that a layer comes from, decides.

A layer has the name that it has in Keras. Layers of a `Sequential` model that follow each other, with
``return_sequences=True`` on all but the last, are one LSTM with the name of the first; so are the cells of
`StackedRNNCells`. A layer with ``go_backwards=True`` is a reverse-only layer by itself. Its output is in the order of
the input, where Keras gives it in the order of processing: flipped in time.

A `.weights.h5` of Keras says nothing but the weights: every layer is taken for a forward one (or `Bidirectional`) with
the plain cell. One that is written here also says the rest, in an attribute that Keras does not look at.
"""

import json
import re
import sys
import zipfile
from collections.abc import Iterable
from itertools import islice
from typing import Any, BinaryIO, TypeAlias

import numpy as np

from ..._seams.namespace import to_numpy
from ...model import LSTM
from .._files import opened_zip, parsed, size_of, unpacked_member
from .._model import Entry, Files, Format, chosen
from . import _hdf5, _layers, _stored, _written
from ._hdf5 import Arrays
from ._layers import Config, Described

_WEIGHTS = "model.weights.h5"

Live: TypeAlias = Any  # a layer or a model, of whichever package of Keras


def from_params(source: Live, *, name: str | None = None) -> LSTM:
    """Return the LSTM of a layer or of a model, in NumPy's arrays.

    Parameters
    ----------
    source : keras.Layer or keras.Model
        An `LSTM`, a `Bidirectional` of one, an `RNN` of an `LSTMCell` or of several, or a model with such layers.
    name : str, optional
        Which of several, by the name of its layer, or of its first one.

    Raises
    ------
    ValueError
        If there is no LSTM, none of that name, several and no name is given, or if it has no weights yet or an
        activation that is unknown here.

    Examples
    --------
    A layer is whatever has the methods of one:

    >>> class LSTM:
    ...     name = "lstm"
    ...     def get_config(self):
    ...         return {"name": "lstm", "units": 4, "recurrent_activation": "hard_sigmoid"}
    ...     def get_weights(self):
    ...         return [np.ones((3, 16)), np.ones((4, 16)), np.ones(16)]
    >>> model = from_params(LSTM())
    >>> model.layers[0].forward.weight_ih.shape
    (16, 3)
    >>> model.cell.gate_activation
    ('hard_sigmoid', 0.16666666666666666, 0.5)
    """
    found = _layers.described(_alive(source))
    return chosen("from_params", "source", _layers.entries(found, _of_layer, _version_of(source), "Keras"), name)


def to_params(model: LSTM) -> list[list[np.ndarray]]:
    """Return for each layer what ``layer.set_weights`` takes.

    For an `LSTM` layer of Keras these are kernel ``(I, 4H)``, recurrent kernel ``(H, 4H)`` and bias ``(4H,)``, if there
    is one; for a `Bidirectional` one those of the forward direction, then those of the reverse one.

    Raises
    ------
    ValueError
        If the model has what Keras lacks: a projection, peepholes, bounds or coupled gates, another activation of the
        candidate than of the output, an activation without a name in Keras 3, or a reverse-only layer among others.

    Examples
    --------
    >>> model = LSTM.init(3, 4, num_layers=2, bidirectional=True, rng=0)
    >>> [[array.shape for array in arrays] for arrays in to_params(model)]
    [[(3, 16), (4, 16), (16,), (3, 16), (4, 16), (16,)], [(8, 16), (4, 16), (16,), (8, 16), (4, 16), (16,)]]
    """
    return [[array for arrays in layer.cells.values() for array in arrays] for layer in _written.layers_of(model)]


def write_hdf5(file: BinaryIO, model: LSTM) -> None:
    """Write the weights, as ``load_weights`` of a `Sequential` model of these layers takes them."""
    layers = _written.layers_of(model)
    file.write(_written.weights_file(layers, {"lstm_xp": _written.configuration(layers)}))


def write_archive(file: BinaryIO, model: LSTM) -> None:
    """Write a `Sequential` model, as ``keras.saving.load_model`` takes it.

    All layers have ``return_sequences=True``, so the model gives what `lstm` gives as y, but flipped in time for a
    reverse-only layer.
    """
    layers = _written.layers_of(model)
    members: dict[str, str | bytes] = {
        "metadata.json": json.dumps({"keras_version": _written.VERSION}),
        "config.json": _written.configuration(layers),
        _WEIGHTS: _written.weights_file(layers, {}),
    }
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content)  # without the time: the same model, the same bytes


def read_archive(file: BinaryIO) -> Iterable[Entry]:
    """Return the LSTMs of a `.keras`."""
    with opened_zip(file) as archive:
        config, metadata = (parsed(unpacked_member(archive, name)) for name in ("config.json", "metadata.json"))
        if not isinstance(metadata, dict):
            raise ValueError("metadata.json must hold an object.")
        if _WEIGHTS not in archive.namelist():
            raise ValueError(f"it must have its weights as {_WEIGHTS}; it has {', '.join(archive.namelist())}.")
        stored = _hdf5.read(unpacked_member(archive, _WEIGHTS), size_of(file))
    return _stored.configured(stored, config, _version(metadata.get("keras_version")), "Keras archive")


def read_hdf5(file: BinaryIO) -> Iterable[Entry]:
    """Return the LSTMs of a `.weights.h5`, or of an `.h5` or `.hdf5` of Keras 2."""
    stored = _hdf5.read(file.read(), size_of(file))
    own = _version(stored.texts.get("keras_version"))
    for text, version, format in (("lstm_xp", 3, "Keras weights"), ("model_config", own, "Keras HDF5")):
        if text in stored.texts:
            return _stored.configured(stored, parsed(stored.texts[text]), version, format)
    return _stored.bare(stored)


def _alive(layer: Live) -> Config:
    """Return a layer or model as a configuration, which also has the layers themselves."""
    kind = type(layer).__name__
    if hasattr(layer, "layers"):
        inner = {"name": layer.name, "layers": [_alive(one) for one in layer.layers]}
        return {"class_name": kind if kind == "Sequential" else "Model", "config": inner}
    known = kind in ("LSTM", "LSTMCell", "RNN", "Bidirectional")
    config = layer.get_config() if known else {"name": getattr(layer, "name", "")}
    return {"class_name": kind, "config": config, "alive": layer}


def _of_layer(layer: Described) -> list[Arrays]:
    """Return the weights of a live layer, cell by cell."""
    arrays = [to_numpy(array) for array in layer.node["alive"].get_weights()]
    if not arrays:
        raise ValueError("it has no weights yet: call it, or its method `build`.")
    rest = iter(arrays)
    cells = _layers.settings_of(layer.kind, layer.config)
    return [list(islice(rest, 3 if settings.get("use_bias", True) else 2)) for settings in cells]


def _version_of(source: object) -> int:
    """Return the first number of the version of the package that a layer comes from."""
    for kind in type(source).__mro__:
        package = kind.__module__.split(".")[0]
        if package in ("keras", "tf_keras", "tensorflow"):
            return _version(sys.modules[package].__version__)
    return 3


def _version(text: object) -> int:
    """Return the first number of a version; files that have none are older than 3."""
    match = re.match(r"\d+", text) if isinstance(text, str) else None
    return 2 if match is None else int(match[0][:3])


_ARCHIVE = Files("Keras", read_archive, write_archive, (".keras",), member=r"^config\.json")
_HDF5 = Files("HDF5", read_hdf5, write_hdf5, (".weights.h5",), head=rb"\x89HDF\r\n\x1a\n")
FORMAT = Format("Keras", (_ARCHIVE, _HDF5))
