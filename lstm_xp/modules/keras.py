"""The layer of Keras: `keras.layers.LSTM` in all but the loop over time, which is this package's."""

from typing import Any

from .._checks.arrays import refusal
from .._seams.namespace import Array
from ..formats._files import needed
from ..formats.keras._activations import activation
from ..layers import lstm
from ..model import Cell, Layer, LSTMState, LSTMWeights

keras: Any = needed("keras", "keras-layer")
ops = keras.ops


@keras.saving.register_keras_serializable("lstm_xp")
class LSTM(keras.layers.LSTM):  # type: ignore[misc] # the type of what `needed` imports is not known
    """An LSTM in the place of `keras.layers.LSTM`: the same arguments, weights, results and files.

    Parameters
    ----------
    units, *args, **kwargs
        As `keras.layers.LSTM` takes them, but no `recurrent_dropout`, `unroll`, ``use_cudnn=True`` nor another
        `implementation` than 2, and of the activations those that `lstm_xp.Cell` has by name too.

    Raises
    ------
    ValueError
        If an option is one that this layer does not have, or Keras runs on another backend.

    Examples
    --------
    >>> import keras
    >>> layer = LSTM(4, return_sequences=True)
    >>> y = layer(keras.ops.ones((2, 5, 3)))
    >>> tuple(y.shape), [w.name for w in layer.weights]
    ((2, 5, 4), ['kernel', 'recurrent_kernel', 'bias'])
    """

    def __init__(self, units: int, *args: Any, **kwargs: Any) -> None:
        """Make the layer; it has no weights before it is built."""
        backend = keras.backend.backend()
        if backend not in ("jax", "numpy", "torch"):
            raise ValueError(refusal("LSTM", "keras.backend.backend()", "be jax, numpy or torch", backend))
        super().__init__(units, *args, **kwargs)
        for name, got, only in (
            ("recurrent_dropout", self.recurrent_dropout, 0.0),
            ("unroll", self.unroll, False),
            ("implementation", self.cell.implementation, 2),
            ("use_cudnn", self.use_cudnn is True, False),
        ):
            if got != only:
                raise ValueError(refusal("LSTM", name, f"be {only}; `keras.layers.LSTM` has others", repr(got)))
        self.use_cudnn: bool = False  # otherwise `keras.layers.Bidirectional` would pass the layer by
        gate = activation(_name_of(self.recurrent_activation), 3, "LSTM: `recurrent_activation`")
        candidate = activation(_name_of(self.activation), 3, "LSTM: `activation`")
        self._equations = Cell(gate, candidate, candidate)

    def inner_loop(self, sequences: Array, initial_state: Any, mask: Array | None, training: bool) -> Any:
        """Return the last output, all outputs and the last state: what `keras.layers.LSTM` asks of a loop over time."""
        sequences = ops.cast(sequences, self.compute_dtype)
        if training and self.dropout:
            sequences = sequences * ops.expand_dims(self.cell.get_dropout_mask(sequences[:, 0, :]), 1)
        mask = None if mask is None else ops.cast(mask, "bool")
        if self.go_backwards:
            sequences, mask = (None if a is None else ops.flip(a, 1) for a in (sequences, mask))
        parts = [ops.transpose(self.cell.kernel), ops.transpose(self.cell.recurrent_kernel)]
        if self.cell.use_bias:
            parts.append(ops.convert_to_tensor(self.cell.bias))
        # What Keras draws on NumPy is float32, whatever dtype it is said to have.
        weights = LSTMWeights(*(ops.cast(part, self.compute_dtype) for part in parts))
        if len(initial_state) != 2:
            raise ValueError(refusal("LSTM", "initial_state", "have two arrays, h and c", len(initial_state)))
        state = LSTMState(*(ops.expand_dims(part, 0) for part in initial_state))
        y, (last,) = lstm(sequences, (Layer(weights),), (state,), cell=self._equations, mask=mask)
        if mask is not None and not self.zero_output_for_mask:
            y = _held(y, mask)
        return y[:, -1], y, [last.h[0], last.c[0]]


def _name_of(function: Any) -> str:
    """Return the name of a function of Keras, and more of one's own, which may have the same name."""
    name = getattr(function, "__name__", type(function).__name__)
    return name if getattr(keras.activations, name, None) is function else f"another {name}"


def _held(y: Array, mask: Array) -> Array:
    """Return the outputs, at masked steps the one before: 0 before the first step that is not masked, as y is there."""
    # Looked back at, twice as many steps each time, by operations that an ONNX file can have.
    held, steps = ops.concatenate([y, ops.cast(ops.expand_dims(mask, 2), y.dtype)], axis=2), 1
    while steps < y.shape[1]:
        before = ops.concatenate([ops.zeros_like(held[:, :steps]), held[:, :-steps]], axis=1)
        held, steps = ops.where(held[:, :, -1:] > 0, held, before), 2 * steps
    return held[:, :, :-1]
