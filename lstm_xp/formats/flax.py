"""Flax: the parameter trees of `LSTMCell`, `OptimizedLSTMCell`, `RNN` and `Bidirectional`, of linen and of nnx.

A cell has one kernel a gate, ``ii (I, H)`` to ``ho (H, H)``, transposed against this package, and the bias with the
recurrent ones; the `OptimizedLSTMCell` of nnx has them joined. The trees say neither which functions the gates are nor
the direction of an `RNN`. Flax keeps the carry as (c, h).
"""

import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Literal, TypeAlias

import numpy as np

from .._equations.records import Layer, LSTMWeights, width_of
from .._seams.namespace import to_numpy
from ..model import LSTM
from ._model import Format, bias_of, chosen, entry_of
from ._one_cell import unstacked

FORMAT = Format("Flax")

Kind: TypeAlias = Literal["linen", "nnx.LSTMCell", "nnx.OptimizedLSTMCell"]
Path: TypeAlias = tuple[str, ...]
Tree: TypeAlias = Mapping[Any, Any]  # of mappings by names or numbers, with arrays at its ends

_GATES = "ifgo"
_SIDES = ("forward_rnn", "backward_rnn")


def from_params(tree: Tree, *, name: str | None = None) -> LSTM:
    """Return the LSTM of a tree of parameters, in NumPy's arrays.

    Parameters
    ----------
    tree : mapping
        Of linen, what `init` returns, or its ``"params"``; of nnx, ``nnx.state(module)``. With a cell anywhere in it,
        of a `Bidirectional` with two, or of a `Sequential` with one after the other; or `lstm_xp.modules.flax.LSTM`.
    name : str, optional
        Which of several, by the path to it, joined by dots.

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
    stacks = _stacked(_layers(dict(_cell_weights(tree))))
    entries = [entry_of(".".join(path) or ".", FORMAT.name, partial(LSTM, stack)) for path, stack in stacks.items()]
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
    layers = unstacked(FORMAT.name, model, lambda weights: {"cell": _PACK[kind](weights)})
    trees = [layer if isinstance(layer, Mapping) else dict(zip(_SIDES, layer, strict=True)) for layer in layers]
    if len(trees) == 1:
        return trees[0]
    return {f"layers_{k}": t for k, t in enumerate(trees)} if kind == "linen" else {"layers": dict(enumerate(trees))}


def _cell_weights(tree: object, path: Path = ()) -> Iterator[tuple[Path, LSTMWeights]]:
    """Yield the weights of every LSTM cell of a tree, by the path to it or to the `RNN` that it is in."""
    if not isinstance(tree, Mapping):
        return
    weights = _weights(tree)
    if weights is not None:
        yield path[:-1] if path[-1:] == ("cell",) else path, weights
        return
    for key, item in tree.items():
        yield from _cell_weights(item, (*path, str(key)))


def _weights(cell: Tree) -> LSTMWeights | None:
    """Return the weights of an LSTM's cell, None for any other part of a tree."""
    forget = "if_" if "if_" in cell else "if"
    if cell.keys() >= {"ii", forget, "ig", "io", "hi", "hf", "hg", "ho"}:
        inner = [cell[forget if gate == "f" else "i" + gate] for gate in _GATES]
        recurrent = [cell["h" + gate] for gate in _GATES]
    elif cell.keys() >= {"dense_i", "dense_h"}:
        inner, recurrent = [cell["dense_i"]], [cell["dense_h"]]
        kernel = _leaf(recurrent[0], "kernel")
        if "proj" not in cell and kernel.shape[1:] != (4 * len(kernel),):  # a GRU's, of the same names
            return None
    else:
        return None
    W, R = (np.concatenate([_leaf(dense, "kernel").T for dense in side]) for side in (inner, recurrent))
    has_bias = any("bias" in dense for dense in recurrent)
    b = np.concatenate([_leaf(dense, "bias") for dense in recurrent]) if has_bias else None
    proj = _leaf(cell["proj"], "kernel").T if "proj" in cell else None
    return LSTMWeights(W, R, b, proj, _leaf(cell, "peephole") if "peephole" in cell else None)


def _leaf(dense: Tree, name: str) -> np.ndarray:
    """Return an array, which nnx keeps in a variable that looks like one."""
    if not isinstance(dense, Mapping) or name not in dense:
        raise ValueError(f"from_params: each part of a cell must be a mapping with {name!r}; got {str(dense)[:80]}.")
    return to_numpy(dense[name])


def _layers(cells: Mapping[Path, LSTMWeights]) -> dict[Path, Layer]:
    """Return a layer for each cell, but one for the two of a `Bidirectional`."""
    layers: dict[Path, Layer] = {}
    for path, weights in cells.items():
        sides = [cells.get((*path[:-1], side)) for side in _SIDES]
        if None not in sides and path[-1] in _SIDES:
            layers[path[:-1]] = Layer(*sides)
        else:
            layers[path] = Layer(weights)
    return layers


def _stacked(layers: Mapping[Path, Layer]) -> dict[Path, tuple[Layer, ...]]:
    """Return one stack for the numbered layers of a `Sequential` if each takes what the one before gives."""
    groups: dict[Path, dict[int, Path]] = {}
    for path in layers:
        match = re.fullmatch(r"(?:.*\.)?(layers[._](\d+))", ".".join(path))
        if match is not None:
            groups.setdefault(path[: -len(match[1].split("."))], {})[int(match[2])] = path
    stacks: dict[Path, tuple[Layer, ...]] = {path: (layer,) for path, layer in layers.items()}
    for prefix, paths in groups.items():
        stack = tuple(layers[paths[k]] for k in sorted(paths))
        inputs = [layer.forward.weight_ih.shape[1] for layer in stack if layer.forward is not None]
        fits = [width_of(layer) for layer in stack[:-1]] == inputs[1:]
        if len(stack) > 1 and sorted(paths) == list(range(len(paths))) and fits:
            for path in paths.values():
                del stacks[path]
            stacks[prefix] = stack
    return stacks


def _pack_gates(weights: LSTMWeights, forget_input: str) -> Tree:
    split = (np.split(a, 4) for a in (weights.weight_ih, weights.weight_hh, bias_of(weights)))
    cell: dict[str, Tree] = {}
    for gate, W, R, b in zip(_GATES, *split, strict=True):
        cell[forget_input if gate == "f" else "i" + gate] = {"kernel": W.T}
        cell["h" + gate] = {"kernel": R.T, "bias": b}
    return cell


def _pack_joined(weights: LSTMWeights) -> Tree:
    return {
        "dense_i": {"kernel": weights.weight_ih.T},
        "dense_h": {"kernel": weights.weight_hh.T, "bias": bias_of(weights)},
    }


_PACK: dict[str, Callable[[LSTMWeights], Tree]] = {
    "linen": partial(_pack_gates, forget_input="if"),
    "nnx.LSTMCell": partial(_pack_gates, forget_input="if_"),
    "nnx.OptimizedLSTMCell": _pack_joined,
}
