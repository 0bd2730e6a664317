"""The layer of Flax, a module of `flax.nnx`."""

from collections.abc import Callable
from functools import partial
from typing import Any

from .._checks import arrays
from .._checks.call import check_input, check_stack, check_state
from .._equations.cell import PLAIN
from .._equations.records import Cells, Layers, State
from .._seams.namespace import Array, DType
from .._seams.trees import leaves
from ..formats._files import needed
from ..layers import lstm
from ..model import Layer, LSTMWeights

nnx: Any = needed("flax.nnx", "flax")
jax: Any = needed("jax", "jax")
jnp = jax.numpy

_OF_FLAX = nnx.nn.recurrent
_SIDES = ("forward_rnn", "backward_rnn")  # as `nnx.Bidirectional` calls them


class LSTM(nnx.Module):  # type: ignore[misc] # the type of what `needed` imports is not known
    """LSTM layers in the place of `nnx.RNN` and `nnx.Bidirectional`, or of an `nnx.Sequential` of these.

    The parameters are those that `nnx.OptimizedLSTMCell` has there: `nnx.update` takes the state of one for the other.

    Parameters
    ----------
    in_features, hidden_features, num_layers : int
        Features of the input, units H of each direction of each layer, and layers, each on the outputs of the last.
    bidirectional, use_bias, peephole : bool
        Whether each layer also has a reverse direction, and each direction a bias, and ``peephole (3H,)`` weights in
        the order i, f, o, which are zeros at first.
    dropout_rate : float
        Of an `nnx.Dropout` between the layers: `train` and `eval` switch it, and at first it drops.
    proj_size : int
        Size R of the projected hidden state, by ``proj.kernel (H, R)``; 0 for none.
    cell : Cell, or tuple with one a layer
        As `lstm_xp.lstm` takes it.
    kernel_init, recurrent_kernel_init, bias_init : callable, optional
        Initialisers; by default those of `nnx.LSTMCell`.
    dtype, param_dtype : dtype, optional
        Of the computation, by default what inputs and parameters make together; and of the parameters, float32.
    rngs : nnx.Rngs
        Where parameters and dropout come from.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> LSTM(3, 4, num_layers=2, bidirectional=True, rngs=nnx.Rngs(0))(jnp.ones((2, 5, 3))).shape
    (2, 5, 8)
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        *,
        num_layers: int = 1,
        bidirectional: bool = False,
        use_bias: bool = True,
        dropout_rate: float = 0.0,
        proj_size: int = 0,
        peephole: bool = False,
        cell: Cells = PLAIN,
        kernel_init: Callable[..., Array] = _OF_FLAX.default_kernel_init,
        recurrent_kernel_init: Callable[..., Array] = _OF_FLAX.modified_orthogonal,
        bias_init: Callable[..., Array] = _OF_FLAX.default_bias_init,
        dtype: DType = None,
        param_dtype: DType = jnp.float32,
        rngs: Any,
    ) -> None:
        """Draw the parameters."""
        named = {"in_features": in_features, "num_layers": num_layers, "hidden_features": hidden_features}
        proj_size, in_features, num_layers, H = arrays.sizes("LSTM", proj_size, **named)
        R = proj_size or H
        arrays.rate("LSTM", "dropout_rate", dropout_rate)
        arrays.instance("LSTM", "rngs", rngs, nnx.Rngs, "an `nnx.Rngs`")
        linear = partial(nnx.Linear, bias_init=bias_init, param_dtype=param_dtype, rngs=rngs)
        kernel = partial(linear, use_bias=False, kernel_init=kernel_init)

        def direction(width: int) -> Any:
            hidden = {"use_bias": use_bias, "kernel_init": recurrent_kernel_init}
            parts = {"dense_i": kernel(width, 4 * H), "dense_h": linear(R, 4 * H, **hidden)}
            if proj_size:
                parts["proj"] = kernel(H, R)
            if peephole:
                parts["peephole"] = nnx.Param(jnp.zeros(3 * H, param_dtype))
            return nnx.Dict(cell=nnx.Dict(parts))

        def layer(width: int) -> Any:
            return nnx.Dict({side: direction(width) for side in _SIDES}) if bidirectional else direction(width)

        self.layers = nnx.List([layer(R * (1 + bool(bidirectional)) if k else in_features) for k in range(num_layers)])
        self.dropout = nnx.Dropout(dropout_rate, rngs=rngs if dropout_rate else None)
        self.dtype: DType = dtype
        self.cells: Any = check_stack("LSTM", tuple(map(_layer, self.layers)), cell)[1]

    def __call__(
        self,
        inputs: Array,
        initial_carry: State | None = None,
        *,
        seq_lengths: Array | None = None,
        mask: Array | None = None,
        reset: Array | None = None,
        return_carry: bool = False,
        deterministic: bool | None = None,
        rngs: Any = None,
    ) -> Any:
        """Return ``outputs (batch, time, D * R)``; with `return_carry` ``(carry, outputs)``, the order of `nnx.RNN`.

        ``inputs (batch, time, I)``; the carry is the state of `lstm_xp.lstm`. The marks are those of it too: where a
        step is masked the output is 0. `deterministic` and `rngs` are for `nnx.Dropout`.
        """
        layers: Layers = tuple(map(_layer, self.layers))
        dtype = nnx.nn.dtypes.canonicalize_dtype(inputs, *leaves(layers), dtype=self.dtype)
        y, layers, state = jax.tree.map(lambda a: jnp.asarray(a, dtype), (inputs, layers, initial_carry))
        check_input("LSTM", "inputs", y, layers, "batch, time, I")
        if state is not None:
            state = check_state("LSTM", "initial_carry", state, layers, y.shape[0])
        lengths, mask, reset = (None if mark is None else jnp.asarray(mark) for mark in (seq_lengths, mask, reset))
        carry: State = ()
        for k, (layer, cell) in enumerate(zip(layers, self.cells, strict=True)):
            y = self.dropout(y, deterministic=deterministic, rngs=rngs) if k > 0 else y
            before = None if state is None else (state[k],)
            y, last = lstm(y, (layer,), before, cell=(cell,), lengths=lengths, mask=mask, reset=reset)
            carry += last
        return (carry, y) if return_carry else y


def _layer(module: Any) -> Layer:
    rnns = [getattr(module, side) for side in _SIDES] if hasattr(module, _SIDES[0]) else [module]
    return Layer(*[_weights(rnn.cell) for rnn in rnns])


def _weights(cell: Any) -> LSTMWeights:
    i, h, proj = cell.dense_i, cell.dense_h, getattr(cell, "proj", None)
    arrays = (i.kernel, h.kernel, h.bias, proj and proj.kernel, getattr(cell, "peephole", None))
    return LSTMWeights(*[None if a is None else a[...].T for a in arrays])
