"""Flax: the parameter trees of `LSTMCell`, `OptimizedLSTMCell`, `RNN` and `Bidirectional`, of linen and of nnx.

A cell has one kernel a gate, ``ii (I, H)`` to ``ho (H, H)``, transposed against this package, and the bias with the
recurrent ones; the `OptimizedLSTMCell` of nnx has them joined. The trees say neither which functions the gates are nor
the direction of an `RNN`. Flax keeps the carry as (c, h).
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np

from .._equations.records import Layer, LSTMWeights, width_of
from ..model import LSTM
from ._model import Entry, as_numpy, bias_of, chosen, in_numpy, require_only

Kind = Literal["linen", "nnx.LSTMCell", "nnx.OptimizedLSTMCell"]
Path = tuple[str, ...]
Tree = dict[Any, Any]

_GATES = "ifgo"


def from_params(tree: Any, *, name: str | None = None) -> LSTM:
    """Return the LSTM of a tree of parameters.

    Parameters
    ----------
    tree : mapping
        Of linen, what `init` returns, or its ``"params"``; of nnx, ``nnx.state(module)``. With a cell anywhere in it,
        of a `Bidirectional` with two, or of a `Sequential` with one after the other.
    name : str, optional
        Which of several, by the path to it, joined by dots.

    Returns
    -------
    LSTM
        With NumPy's arrays.

    Raises
    ------
    ValueError
        If there is no LSTM, none of that name, or several and no name is given.

    Examples
    --------
    >>> from_params(to_params(LSTM.init(3, 4, num_layers=2, bidirectional=True, rng=0)))
    LSTM(3 -> 8, layers: 4 + 4 both, 4 + 4 both, 672 parameters, numpy float32)
    """
    if isinstance(tree, Mapping) and "params" in tree:
        tree = tree["params"]
    layers = _in_both_directions(dict(_cells(tree)))
    stacks = _stacked(layers)
    entries = [Entry(".".join(path) or ".", "Flax", LSTM(stack)) for path, stack in stacks.items()]
    return chosen("from_params", "tree", entries, name)


def to_params(model: LSTM, *, kind: Kind = "linen") -> Tree:
    """Return the parameters of an `RNN`, of a `Bidirectional`, or of a `Sequential` of these.

    A layer without a bias has zeros.

    Parameters
    ----------
    model : LSTM
        With plain cells.
    kind : {"linen", "nnx.LSTMCell", "nnx.OptimizedLSTMCell"}
        Whose cells; in linen both have the same parameters.

    Returns
    -------
    dict
        For linen what stands under ``"params"``; for nnx what `nnx.update` takes.

    Raises
    ------
    ValueError
        If the model has a projection, peepholes, a reverse-only layer, or another cell than the plain one.

    Examples
    --------
    >>> tree = to_params(LSTM.init(3, 4, rng=0))
    >>> tree["cell"]["ii"]["kernel"].shape, tree["cell"]["hf"]["bias"].shape
    ((3, 4), (4,))
    """
    if kind not in _PACK:
        raise ValueError(f"to_params: `kind` must be one of {', '.join(_PACK)}; got {kind!r}.")
    model = in_numpy(model)
    require_only("Flax", model, {"stack", "both"})

    def rnn(weights: LSTMWeights | None) -> Tree:
        assert weights is not None
        return {"cell": _PACK[kind](weights)}

    trees = [
        rnn(layer.forward)
        if layer.backward is None
        else {"forward_rnn": rnn(layer.forward), "backward_rnn": rnn(layer.backward)}
        for layer in model.layers
    ]
    if len(trees) == 1:
        return trees[0]
    return {f"layers_{k}": t for k, t in enumerate(trees)} if kind == "linen" else {"layers": dict(enumerate(trees))}


def _cells(tree: Any, path: Path = ()) -> Iterator[tuple[Path, LSTMWeights]]:
    """Yield the weights of every LSTM cell of a tree, by its path."""
    if not isinstance(tree, Mapping):
        return
    unpack = _unpacking(tree)
    if unpack is not None:
        yield path, unpack(tree)
        return
    for key, item in tree.items():
        yield from _cells(item, (*path, str(key)))


def _unpacking(tree: Mapping[Any, Any]) -> Any:
    if tree.keys() >= {"ii", "ig", "io", "hi", "hf", "hg", "ho"}:
        return _unpack_gates
    # A GRU cell has the same names, and three blocks.
    if tree.keys() >= {"dense_i", "dense_h"} and _leaf(tree["dense_h"], "kernel").shape[1:] == (
        4 * _leaf(tree["dense_h"], "kernel").shape[0],
    ):
        return _unpack_joined
    return None


def _unpack_gates(cell: Mapping[Any, Any]) -> LSTMWeights:
    inner = [cell["if_" if gate == "f" and "if_" in cell else "i" + gate] for gate in _GATES]
    recurrent = [cell["h" + gate] for gate in _GATES]
    return LSTMWeights(
        np.concatenate([_leaf(dense, "kernel").T for dense in inner]),
        np.concatenate([_leaf(dense, "kernel").T for dense in recurrent]),
        np.concatenate([_leaf(dense, "bias") for dense in recurrent]) if "bias" in recurrent[0] else None,
    )


def _unpack_joined(cell: Mapping[Any, Any]) -> LSTMWeights:
    bias = _leaf(cell["dense_h"], "bias") if "bias" in cell["dense_h"] else None
    return LSTMWeights(_leaf(cell["dense_i"], "kernel").T, _leaf(cell["dense_h"], "kernel").T, bias)


def _leaf(dense: Mapping[Any, Any], name: str) -> np.ndarray:
    """Return an array, out of the variable that nnx keeps it in."""
    leaf = dense[name]
    return as_numpy(leaf.get_value() if hasattr(leaf, "get_value") else leaf)


def _in_both_directions(cells: Mapping[Path, LSTMWeights]) -> dict[Path, Layer]:
    """Return a layer for each cell, but one for the two of a `Bidirectional`."""
    layers: dict[Path, Layer] = {}
    for path, weights in cells.items():
        path = path[:-1] if path[-1:] == ("cell",) else path
        if path[-1:] == ("backward_rnn",):
            forward = _at(cells, (*path[:-1], "forward_rnn"))
            if forward is not None:
                layers[path[:-1]] = Layer(forward, weights)
        elif path[-1:] != ("forward_rnn",) or _at(cells, (*path[:-1], "backward_rnn")) is None:
            layers[path] = Layer(weights)
    return layers


def _at(cells: Mapping[Path, LSTMWeights], path: Path) -> LSTMWeights | None:
    return cells.get(path, cells.get((*path, "cell")))


def _stacked(layers: Mapping[Path, Layer]) -> dict[Path, tuple[Layer, ...]]:
    """Return one stack for the numbered layers of a `Sequential` if each takes what the one before gives."""
    numbered: dict[Path, dict[int, Path]] = {}
    for path in layers:
        match = re.fullmatch(r"(?:.*\.)?(layers[._](\d+))", ".".join(path))
        if match is not None:
            numbered.setdefault(path[: -len(match[1].split("."))], {})[int(match[2])] = path
    stacks: dict[Path, tuple[Layer, ...]] = {path: (layer,) for path, layer in layers.items()}
    for prefix, paths in numbered.items():
        stack = tuple(layers[paths[k]] for k in sorted(paths))
        if len(stack) > 1 and sorted(paths) == list(range(len(paths))) and _fit(stack):
            for path in paths.values():
                del stacks[path]
            stacks[prefix] = stack
    return stacks


def _fit(stack: tuple[Layer, ...]) -> bool:
    widths = [width_of(layer) for layer in stack]
    inputs = [w.weight_ih.shape[1] for layer in stack if (w := layer.forward) is not None]
    return widths[:-1] == inputs[1:]


def _pack_gates(weights: LSTMWeights, forget_input: str) -> Tree:
    split = (np.split(a, 4) for a in (weights.weight_ih, weights.weight_hh, bias_of(weights)))
    cell: Tree = {}
    for gate, W, R, b in zip(_GATES, *split, strict=True):
        cell[forget_input if gate == "f" else "i" + gate] = {"kernel": W.T}
        cell["h" + gate] = {"kernel": R.T, "bias": b}
    return cell


def _pack_joined(weights: LSTMWeights) -> Tree:
    return {
        "dense_i": {"kernel": weights.weight_ih.T},
        "dense_h": {"kernel": weights.weight_hh.T, "bias": bias_of(weights)},
    }


_PACK = {
    "linen": lambda weights: _pack_gates(weights, "if"),
    "nnx.LSTMCell": lambda weights: _pack_gates(weights, "if_"),
    "nnx.OptimizedLSTMCell": _pack_joined,
}
