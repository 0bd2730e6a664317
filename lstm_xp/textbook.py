"""The textbook LSTM: the notebook's functions, on every array library.

Arrays are features first: ``n_x`` input features, ``n_a`` hidden units, ``n_y`` outputs, ``m`` examples (columns),
``T_x`` time steps. `parameters` is a mapping with the keys

====================  ====================  ==========================================================
``Wf, Wi, Wc, Wo``    ``(n_a, n_a + n_x)``  forget, input (update), candidate and output gate, acting on
                                            ``concat([a_prev, xt])``: hidden first
``bf, bi, bc, bo``    ``(n_a, 1)``          their biases
``Wy, by``            ``(n_y, n_a)``,       the softmax head
                      ``(n_y, 1)``
====================  ====================  ==========================================================

All arrays of one call come from one library and have one real floating dtype and one device; so do the results.
The names and layouts are those of the programming assignment of the "Sequence Models" course (deeplearning.ai);
the equations are those of Gers, Schmidhuber and Cummins, "Learning to Forget" (2000).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, overload

from ._checks import arrays
from ._equations import cell, sequence
from ._equations.records import LSTMWeights
from ._equations.sequence import Direction, Kept, Path
from ._seams.namespace import Array, Namespace
from ._seams.ops import adder, by_blocks, product, weight_gradient
from ._seams.transforms import staged
from ._seams.trees import register

Parameters = Mapping[str, Array]

# The order of the rows inside: input gate, forget gate, candidate, output gate.
_W = ("Wi", "Wf", "Wc", "Wo")
_B = ("bi", "bf", "bc", "bo")
_KEYS = ("Wf", "bf", "Wi", "bi", "Wc", "bc", "Wo", "bo", "Wy", "by")
_NAMES = {key: f"parameters[{key!r}]" for key in _KEYS}

_SYMBOLS = {
    **{_NAMES[W]: "n_a, n_a + n_x" for W in _W},
    **{_NAMES[b]: "n_a, 1" for b in _B},
    _NAMES["Wy"]: "n_y, n_a",
    _NAMES["by"]: "n_y, 1",
    "x": "n_x, m, T_x",
    "xt": "n_x, m",
    **dict.fromkeys(("a0", "c0", "a_prev", "c_prev", "da_next", "dc_next"), "n_a, m"),
    **dict.fromkeys(("da", "dc"), "n_a, m, T"),
    "dy": "n_y, m, T",
}


class LSTMCache(NamedTuple):
    """What one step leaves for its gradient: states ``(n_a, m)``, gates ``(n_a, m)``, input ``(n_x, m)``."""

    a_next: Array
    c_next: Array
    a_prev: Array
    c_prev: Array
    ft: Array
    it: Array
    cct: Array
    ot: Array
    xt: Array
    parameters: Parameters


class LSTMCaches(NamedTuple):
    """What a sequence leaves for its gradient: `steps`, one `LSTMCache` a step, and the input `x`."""

    steps: "LSTMSteps"
    x: Array


@dataclass(frozen=True, eq=False)
class LSTMSteps(Sequence[LSTMCache]):
    """The caches of all steps: ``steps[t]`` is the `LSTMCache` of step ``t``.

    It holds the arrays that went into `lstm_forward` and came out of it, and no more: the gates of a step are
    computed when that step is asked for, and those of all steps inside `lstm_backward`. So the forward pass pays
    nothing for it. The arrays are shared, not copied: do not write into them before the backward pass.
    """

    x: Array
    a0: Array
    c0: Array
    a: Array
    c: Array
    y: Array
    parameters: Parameters

    def __len__(self) -> int:
        """Return T_x."""
        return int(self.x.shape[2])

    @overload
    def __getitem__(self, t: int) -> LSTMCache: ...
    @overload
    def __getitem__(self, t: slice) -> tuple[LSTMCache, ...]: ...
    def __getitem__(self, t: int | slice) -> LSTMCache | tuple[LSTMCache, ...]:
        """Return the cache of step t, with its gates computed anew."""
        if isinstance(t, slice):
            return tuple(self[k] for k in range(len(self))[t])
        t = range(len(self))[t]
        xt = self.x[:, :, t]
        a_prev = self.a[:, :, t - 1] if t else self.a0
        c_prev = self.c[:, :, t - 1] if t else self.c0
        xp = arrays.arrays("steps", {"xt": xt})
        _, _, _, (i, f, g, o) = staged(_cell_core, xp)(xt, a_prev, c_prev, self.parameters, xp=xp)
        return LSTMCache(self.a[:, :, t], self.c[:, :, t], a_prev, c_prev, f, i, g, o, xt, self.parameters)

    def __repr__(self) -> str:
        """Show sizes, not numbers."""
        n_x, m, T_x = self.x.shape
        return f"LSTMSteps(n_x={n_x}, n_a={self.a0.shape[0]}, m={m}, T_x={T_x})"


def sigmoid(x: Array, /) -> Array:
    """Return the logistic function ``1 / (1 + exp(-x))``, elementwise.

    Parameters
    ----------
    x : array, any shape
        Real floating dtype, float16 to float64; any device.

    Returns
    -------
    array, shape of `x`
        Between 0 and 1, in the dtype and on the device of `x`. Nothing overflows, and the result keeps its
        relative accuracy far out on the negative side, where it tends to ``exp(x)``.

    Raises
    ------
    TypeError
        If `x` is not an array, or not of a real floating dtype.

    Examples
    --------
    >>> import numpy as np
    >>> sigmoid(np.asarray([-1e4, 0.0, 1e4]))
    array([0. , 0.5, 1. ])
    """
    xp = arrays.arrays("sigmoid", {"x": x})
    # The tanh form of the gates is accurate next to 1 and smooth at 0; below, it would cancel.
    e = xp.exp(xp.where(x < 0, x, xp.zeros_like(x)))
    return xp.where(x < 0, e / (1 + e), 0.5 + 0.5 * xp.tanh(0.5 * x))


def softmax(x: Array, /, *, axis: int = 0) -> Array:
    """Return ``exp(x) / sum(exp(x))`` along `axis`.

    Parameters
    ----------
    x : array, at least one dimension
        Real floating dtype; any device.
    axis : int
        The axis that sums to one: 0, the features, by default.

    Returns
    -------
    array, shape of `x`
        In the dtype and on the device of `x`. The maximum is taken away from each column by itself, so a column
        far below another one stays finite.

    Raises
    ------
    TypeError
        If `x` is not an array, or not of a real floating dtype.
    ValueError
        If `x` has no such axis, or nothing along it.

    Examples
    --------
    >>> import numpy as np
    >>> softmax(np.asarray([[0.0, 1000.0], [0.0, 1000.0]]))
    array([[0.5, 0.5],
           [0.5, 0.5]])
    """
    xp = arrays.arrays("softmax", {"x": x})
    axis = arrays.axis("softmax", "x", x, axis)
    return _softmax(x, axis=axis, xp=xp)


def _softmax(x: Array, *, axis: int, xp: Namespace) -> Array:
    if 0 in x.shape:
        return x  # nothing to sum to one; and the maximum of an empty Dask array has a wrong shape
    e = xp.exp(x - xp.max(x, axis=axis, keepdims=True))
    return e / xp.sum(e, axis=axis, keepdims=True)


def lstm_cell(xt: Array, a_prev: Array, c_prev: Array, parameters: Parameters) -> tuple[Array, Array, Array, LSTMCache]:
    """Run one step of the LSTM.

    Parameters
    ----------
    xt : array, shape (n_x, m)
        Input at this step. Real floating dtype; same namespace, dtype and device as all the others.
    a_prev, c_prev : array, shape (n_a, m)
        Hidden state and cell state before the step.
    parameters : mapping
        The ten arrays of the module's table.

    Returns
    -------
    a_next, c_next : array, shape (n_a, m)
        Hidden state and cell state after the step.
    yt_pred : array, shape (n_y, m)
        The softmax of ``Wy @ a_next + by``.
    cache : LSTMCache
        For `lstm_cell_backward`: a named tuple in the order a_next, c_next, a_prev, c_prev, ft, it, cct, ot, xt,
        parameters.

    Raises
    ------
    ValueError
        If a shape does not fit the weights, or `parameters` lacks a key.
    TypeError
        If something is not an array, or differs in library, dtype or device.

    Examples
    --------
    With zero weights every gate is half open and the candidate is zero: the cell state is halved.

    >>> import numpy as np
    >>> parameters = {"W" + k: np.zeros((1, 2)) for k in "fico"} | {"b" + k: np.zeros((1, 1)) for k in "ficoy"}
    >>> parameters["Wy"] = np.zeros((1, 1))
    >>> a_next, c_next, yt_pred, cache = lstm_cell(np.ones((1, 1)), np.ones((1, 1)), np.ones((1, 1)), parameters)
    >>> c_next, cache.ft
    (array([[0.5]]), array([[0.5]]))
    """
    inputs = {"xt": xt, "a_prev": a_prev, "c_prev": c_prev}
    xp, parameters = _checked("lstm_cell", inputs, parameters)
    a_next, c_next, yt_pred, (i, f, g, o) = staged(_cell_core, xp)(xt, a_prev, c_prev, parameters, xp=xp)
    return a_next, c_next, yt_pred, LSTMCache(a_next, c_next, a_prev, c_prev, f, i, g, o, xt, parameters)


def _cell_core(
    xt: Array, a_prev: Array, c_prev: Array, parameters: Parameters, *, xp: Namespace
) -> tuple[Array, Array, Array, cell.Gates]:
    # Four products: joining the weights first, as a sequence does, costs more than it saves in one step.
    matmul, v = product(xp), xp.concat([a_prev, xt])
    z = adder(xp)(xp.concat([matmul(parameters[W], v) for W in _W]), xp.concat([parameters[b] for b in _B]))
    a_next, c_next, gates = cell.forward(z, c_prev, xp=xp)
    yt_pred = _softmax(matmul(parameters["Wy"], a_next) + parameters["by"], axis=0, xp=xp)
    return a_next, c_next, yt_pred, gates


def lstm_forward(
    x: Array, a0: Array, parameters: Parameters, *, c0: Array | None = None
) -> tuple[Array, Array, Array, LSTMCaches]:
    """Run the LSTM over a sequence.

    Parameters
    ----------
    x : array, shape (n_x, m, T_x)
        Input. Real floating dtype; same namespace, dtype and device as all the others.
    a0 : array, shape (n_a, m)
        Hidden state before the first step.
    parameters : mapping
        The ten arrays of the module's table.
    c0 : array, shape (n_a, m), optional
        Cell state before the first step; zeros by default.

    Returns
    -------
    a : array, shape (n_a, m, T_x)
        Hidden state of every step.
    y : array, shape (n_y, m, T_x)
        The softmax of ``Wy @ a + by`` at every step.
    c : array, shape (n_a, m, T_x)
        Cell state of every step.
    caches : LSTMCaches
        For `lstm_backward`. Unpacks as ``(steps, x)``; ``steps[t]`` is the `LSTMCache` of step ``t``. It holds the
        arrays above themselves: do not write into them before the backward pass.

    Raises
    ------
    ValueError
        If a shape does not fit the weights, or `parameters` lacks a key.
    TypeError
        If something is not an array, or differs in library, dtype or device.

    Examples
    --------
    With zero weights every gate is half open and the candidate is zero: each step halves the cell state.

    >>> import numpy as np
    >>> parameters = {"W" + k: np.zeros((1, 2)) for k in "fico"} | {"b" + k: np.zeros((1, 1)) for k in "ficoy"}
    >>> parameters["Wy"] = np.zeros((1, 1))
    >>> a, y, c, caches = lstm_forward(np.ones((1, 1, 3)), np.ones((1, 1)), parameters, c0=np.ones((1, 1)))
    >>> c
    array([[[0.5  , 0.25 , 0.125]]])
    """
    inputs = {"x": x, "a0": a0} if c0 is None else {"x": x, "a0": a0, "c0": c0}
    xp, parameters = _checked("lstm_forward", inputs, parameters)
    if c0 is None:
        c0 = xp.zeros_like(a0)
    a, y, c = staged(_forward_core, xp)(x, a0, c0, parameters, xp=xp)
    return a, y, c, LSTMCaches(LSTMSteps(x, a0, c0, a, c, y, parameters), x)


def _forward_core(
    x: Array, a0: Array, c0: Array, parameters: Parameters, *, xp: Namespace
) -> tuple[Array, Array, Array]:
    direction = Direction(_joined(parameters, xp=xp), cell.PLAIN)
    path, _ = sequence.forward(_swap(x, xp=xp), (a0, c0), direction, with_c=True, xp=xp)
    logits = xp.tensordot(parameters["Wy"], path.h, axes=1)
    logits = adder(xp)(logits, xp.expand_dims(parameters["by"], axis=2))
    y = by_blocks(partial(_softmax, axis=0, xp=xp), logits, xp=xp)
    return _swap(path.h, xp=xp), _swap(y, xp=xp), _swap(path.c, xp=xp)


def lstm_cell_backward(da_next: Array, dc_next: Array, cache: LSTMCache) -> dict[str, Array]:
    """Return the gradients of one step.

    Parameters
    ----------
    da_next, dc_next : array, shape (n_a, m)
        Gradients of the loss with respect to `a_next` and `c_next`, the latter without what reaches it through
        `a_next`. Same namespace, dtype and device as the step.
    cache : LSTMCache
        What `lstm_cell` returned.

    Returns
    -------
    dict
        ``dxt (n_x, m)``, ``da_prev (n_a, m)``, ``dc_prev (n_a, m)``, ``dWf, dWi, dWc, dWo (n_a, n_a + n_x)`` and
        ``dbf, dbi, dbc, dbo (n_a, 1)``.

    Raises
    ------
    ValueError
        If a shape differs from that of the step.
    TypeError
        If `cache` is not an `LSTMCache`, or something differs in library, dtype or device.

    Examples
    --------
    With zero weights the forget gate is one half: so much of the gradient goes back.

    >>> import numpy as np
    >>> parameters = {"W" + k: np.zeros((1, 2)) for k in "fico"} | {"b" + k: np.zeros((1, 1)) for k in "ficoy"}
    >>> parameters["Wy"] = np.zeros((1, 1))
    >>> *_, cache = lstm_cell(np.ones((1, 1)), np.ones((1, 1)), np.ones((1, 1)), parameters)
    >>> lstm_cell_backward(np.zeros((1, 1)), np.ones((1, 1)), cache)["dc_prev"]
    array([[0.5]])
    """
    function = "lstm_cell_backward"
    arrays.instance(function, "cache", cache, LSTMCache, "what `lstm_cell` returned")
    inputs = {"da_next": da_next, "dc_next": dc_next}
    xp = arrays.arrays(function, {**inputs, "cache.a_next": cache.a_next})
    _check_shapes(function, inputs, {"n_a, m": tuple(cache.a_next.shape)})
    return staged(_cell_backward_core, xp)(da_next, dc_next, cache, xp=xp)


def _cell_backward_core(da_next: Array, dc_next: Array, cache: LSTMCache, *, xp: Namespace) -> dict[str, Array]:
    gates = (cache.it, cache.ft, cache.cct, cache.ot)
    slopes = cell.linearise(gates, (None,) * 4, cache.c_prev, cache.c_next, xp=xp)
    dz, dc_prev = cell.backward(da_next, dc_next, slopes, xp=xp)
    W, R, *_ = _joined(cache.parameters, xp=xp)
    matmul = product(xp)
    return {
        "dxt": matmul(W.T, dz),
        "da_prev": matmul(R.T, dz),
        "dc_prev": dc_prev,
        **_split(matmul(dz, cache.xt.T), matmul(dz, cache.a_prev.T), xp.sum(dz, axis=1), xp=xp),
    }


def lstm_backward(
    da: Array, caches: LSTMCaches, *, dy: Array | None = None, dc: Array | None = None
) -> dict[str, Array]:
    """Return the gradients of a sequence.

    Parameters
    ----------
    da : array, shape (n_a, m, T)
        Gradient of the loss with respect to `a`, without what reaches it through later steps. ``T <= T_x``: a
        shorter one means a loss on the first T steps. Same namespace, dtype and device as the sequence.
    caches : LSTMCaches
        What `lstm_forward` returned.
    dy : array, shape (n_y, m, T), optional
        Gradient of the loss with respect to `y`: the softmax head is then differentiated too.
    dc : array, shape (n_a, m, T), optional
        Gradient of the loss with respect to `c`.

    Returns
    -------
    dict
        ``dx (n_x, m, T)``, ``da0 (n_a, m)``, ``dc0 (n_a, m)``, ``dWf, dWi, dWc, dWo (n_a, n_a + n_x)`` and
        ``dbf, dbi, dbc, dbo (n_a, 1)``; with `dy` also ``dWy (n_y, n_a)`` and ``dby (n_y, 1)``.

    Raises
    ------
    ValueError
        If a shape does not fit the sequence, or `da` is longer than it.
    TypeError
        If `caches` is not what `lstm_forward` returned, or something differs in library, dtype or device.

    Examples
    --------
    With zero weights the forget gate is one half at every step: a gradient that enters at the third step comes out
    at an eighth.

    >>> import numpy as np
    >>> parameters = {"W" + k: np.zeros((1, 2)) for k in "fico"} | {"b" + k: np.zeros((1, 1)) for k in "ficoy"}
    >>> parameters["Wy"] = np.zeros((1, 1))
    >>> a, y, c, caches = lstm_forward(np.ones((1, 1, 3)), np.ones((1, 1)), parameters)
    >>> lstm_backward(np.zeros_like(a), caches, dc=np.asarray([[[0.0, 0.0, 1.0]]]))["dc0"]
    array([[0.125]])
    """
    function = "lstm_backward"
    arrays.instance(function, "caches", caches, LSTMCaches, "what `lstm_forward` returned")
    steps = caches.steps
    arrays.instance(function, "caches.steps", steps, LSTMSteps, "what `lstm_forward` returned")
    optional = {name: array for name, array in {"dy": dy, "dc": dc}.items() if array is not None}
    inputs = {"da": da} | optional
    xp = arrays.arrays(function, {**inputs, "caches.x": steps.x})
    arrays.rank(function, "da", da, _SYMBOLS["da"])
    n_a, m, T_x = steps.a.shape
    T = da.shape[2]
    if T_x < T:
        rule = f"have shape (n_a, m, T) with T at most T_x = {T_x}"
        raise ValueError(arrays.refusal(function, "da", rule, tuple(da.shape)))
    _check_shapes(function, inputs, {"n_a, m, T": (n_a, m, T), "n_y, m, T": (steps.y.shape[0], m, T)})
    return staged(_backward_core, xp)(da, dy, dc, steps, xp=xp)


def _backward_core(
    da: Array, dy: Array | None, dc: Array | None, steps: LSTMSteps, *, xp: Namespace
) -> dict[str, Array]:
    T = da.shape[2]
    parameters = steps.parameters
    head = {}
    if dy is not None:
        y = steps.y[:, :, :T]
        dlogits = y * (dy - xp.sum(y * dy, axis=0, keepdims=True))
        head = {
            "dWy": weight_gradient(dlogits, steps.a[:, :, :T], parameters["Wy"], xp=xp),
            "dby": xp.expand_dims(xp.sum(dlogits, axis=(1, 2)), axis=1),
        }
        da = da + xp.tensordot(parameters["Wy"].T, dlogits, axes=1)
    path = Path(_swap(steps.a[:, :, :T], xp=xp), _swap(steps.c[:, :, :T], xp=xp))
    kept = Kept(_swap(steps.x[:, :, :T], xp=xp), (steps.a0, steps.c0), path)
    direction = Direction(_joined(parameters, xp=xp), cell.PLAIN)
    kept = kept._replace(path=path._replace(z=sequence.preactivations(kept, direction, xp=xp)))
    d = sequence.backward(_swap(da, xp=xp), None, kept, direction, dc=None if dc is None else _swap(dc, xp=xp), xp=xp)
    da0, dc0 = d.dstart
    return {"dx": _swap(d.dx, xp=xp), "da0": da0, "dc0": dc0, **_split(*d.dweights[:3], xp=xp), **head}


def _swap(x: Array, *, xp: Namespace) -> Array:
    """Turn (features, m, T) into (features, T, m), and back."""
    return xp.permute_dims(x, (0, 2, 1))


def _joined(parameters: Parameters, *, xp: Namespace) -> LSTMWeights:
    """Return the parameters as the weights of a sequence."""
    n_a = parameters["Wf"].shape[0]
    W = xp.concat([parameters[key][:, n_a:] for key in _W])  # (4 n_a, n_x)
    R = xp.concat([parameters[key][:, :n_a] for key in _W])  # (4 n_a, n_a)
    return LSTMWeights(W, R, xp.concat([parameters[key][:, 0] for key in _B]))


def _split(dW: Array, dR: Array, db: Array, *, xp: Namespace) -> dict[str, Array]:
    """Cut the gradients of `_joined` into those of the parameters."""
    dG = xp.concat([dR, dW], axis=1)
    n_a = dG.shape[0] // 4
    gradients = {}
    for k, (W, b) in enumerate(zip(_W, _B, strict=True)):
        gradients["d" + W] = dG[k * n_a : (k + 1) * n_a, :]
        gradients["d" + b] = db[k * n_a : (k + 1) * n_a, None]
    return gradients


def _checked(function: str, inputs: Mapping[str, Array], parameters: Parameters) -> tuple[Namespace, dict[str, Array]]:
    """Return the namespace and the ten parameters, after all checks; the first input is the sequence or its step."""
    arrays.mapping(function, "parameters", parameters, _KEYS)
    parameters = {key: parameters[key] for key in _KEYS}
    named = {**inputs, **dict(zip(_NAMES.values(), parameters.values(), strict=True))}
    xp = arrays.arrays(function, named)

    x_name, x = next(iter(inputs.items()))
    Wf, Wy = parameters["Wf"], parameters["Wy"]
    for name, array in ((x_name, x), (_NAMES["Wf"], Wf), (_NAMES["Wy"], Wy)):
        arrays.rank(function, name, array, _SYMBOLS[name])
    if x.ndim == 3:
        arrays.known(function, x_name, x.shape[2])
    # The weights say what n_a, n_x and n_y are, so an error names the data that does not fit them.
    n_a, columns = Wf.shape
    n_x = columns - n_a
    n_y = Wy.shape[0]
    arrays.at_least_one(function, _NAMES["Wf"], Wf, _SYMBOLS[_NAMES["Wf"]], n_a=n_a, n_x=n_x)
    arrays.at_least_one(function, _NAMES["Wy"], Wy, _SYMBOLS[_NAMES["Wy"]], n_y=n_y)
    m = x.shape[1]
    sizes = {"n_x, m": (n_x, m), "n_x, m, T_x": (n_x, *x.shape[1:]), "n_a, m": (n_a, m)}
    sizes |= {"n_a, n_a + n_x": (n_a, columns), "n_a, 1": (n_a, 1), "n_y, n_a": (n_y, n_a), "n_y, 1": (n_y, 1)}
    _check_shapes(function, named, sizes)
    return xp, parameters


def _check_shapes(function: str, named: Mapping[str, Array], sizes: Mapping[str, tuple[int, ...]]) -> None:
    """Require one exact shape of each array: its symbols by its name, the numbers by the symbols."""
    for name, array in named.items():
        size = sizes[_SYMBOLS[name]]
        if array.shape != size:
            arrays.shape(function, name, array, _SYMBOLS[name], size)


register(LSTMSteps)
