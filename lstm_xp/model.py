"""The trained network as a record: weights, layers, states, and the `LSTM` that calls `lstm` on them."""

import math
from dataclasses import dataclass
from typing import Any, Literal

from . import _init, _step
from . import layers as _network
from ._checks import arrays as _check
from ._equations.cell import PLAIN, Cell
from ._equations.records import Cells, Layer, Layers, LSTMState, LSTMWeights, State, directions_of, kind_of
from ._seams.namespace import Array, Namespace, dtype_name, library_name, moved, namespace_of
from ._seams.scan import register_tree

__all__ = ["LSTM", "Cell", "LSTMState", "LSTMWeights", "Layer"]


@dataclass(frozen=True, eq=False, repr=False)
class LSTM:
    """Layers and their cell: a record that adds no mathematics to `lstm`.

    It is a JAX pytree and a torch pytree: its arrays are leaves, `cell` is static.

    Parameters
    ----------
    layers : tuple of Layer
        The weights, all of one library, dtype and device.
    cell : Cell, or tuple with one a layer
        As `lstm` takes it.

    Examples
    --------
    >>> import numpy as np
    >>> model = LSTM.init(3, 4, num_layers=2, bidirectional=True, rng=0)
    >>> model
    LSTM(3 -> 8, layers: 4 + 4 both, 4 + 4 both, 672 parameters, numpy float32)
    >>> y, state = model(np.ones((2, 5, 3), dtype=np.float32))
    >>> y.shape
    (2, 5, 8)
    """

    layers: Layers
    cell: Cells = PLAIN

    def __post_init__(self) -> None:
        """Let the record pass through the transforms of the library of its arrays."""
        xp = _library(self.layers)
        if xp is not None:
            register_tree(LSTM, xp, static=("cell",))

    def __call__(self, x: Array, state: State | None = None, /, **options: Any) -> Any:
        """Return ``lstm(x, model.layers, state, cell=model.cell, **options)``."""
        return _network.lstm(x, self.layers, state, cell=self.cell, **options)

    def step(self, x_t: Array, state: State | None = None, /) -> tuple[Array, State]:
        """Run one step.

        Parameters
        ----------
        x_t : array, shape (batch, I)
            Input at this step; library, dtype and device of the weights.
        state : tuple of LSTMState, optional
            One a layer, as `lstm` returns it; zeros by default.

        Returns
        -------
        y_t : array, shape (batch, R)
            Output of this step.
        state : tuple of LSTMState
            The state for the next step.

        Raises
        ------
        ValueError
            If a layer has a reverse direction, or a shape does not fit.
        TypeError
            If library, dtype or device differ.

        Examples
        --------
        >>> import numpy as np
        >>> model = LSTM.init(3, 4, rng=0)
        >>> x = np.ones((2, 5, 3), dtype=np.float32)
        >>> state = None
        >>> for t in range(5):
        ...     y_t, state = model.step(x[:, t, :], state)
        >>> np.allclose(y_t, model(x)[0][:, -1, :])
        True
        """
        checked = self.__dict__.get("_step")
        if checked is None:
            checked = _step.Step(self.layers, self.cell)
            # The record cannot change, so what was checked once holds.
            object.__setattr__(self, "_step", checked)
        return checked(x_t, state)

    def to(self, xp: Namespace | None = None, /, *, device: Any = None, dtype: Any = None) -> "LSTM":
        """Return the same model in another library, on another device or in another dtype.

        Parameters
        ----------
        xp : namespace, optional
            The library to move to, e.g. ``numpy``, ``torch`` or ``jax.numpy``; the present one by default.
        device, dtype : optional
            Of that library. By default its own device, and the dtype of the same name.

        Returns
        -------
        LSTM
            With copies of the arrays. Between two libraries they move by DLPack where both speak it.

        Examples
        --------
        >>> import numpy as np
        >>> LSTM.init(3, 4, rng=0).to(dtype=np.float64)
        LSTM(3 -> 4, layers: 4, 128 parameters, numpy float64)
        """

        def move(array: Array | None) -> Array | None:
            return None if array is None else moved(array, xp, device=device, dtype=dtype)

        def each(weights: LSTMWeights | None) -> LSTMWeights | None:
            return None if weights is None else LSTMWeights(*(move(array) for array in weights))

        return LSTM(tuple(Layer(*(each(weights) for weights in layer)) for layer in self.layers), self.cell)

    def __repr__(self) -> str:
        """Show sizes, layers, directions, the number of parameters and the library."""
        xp = _library(self.layers)
        if xp is None:
            return f"LSTM(layers={self.layers!r}, cell={self.cell!r})"
        arrays = [array for layer in self.layers for w in layer if w is not None for array in w if array is not None]
        widths = [tuple(w.weight_hh.shape[1] for _, w in directions_of(layer)) for layer in self.layers]
        kinds = [kind_of(layer) for layer in self.layers]
        first = directions_of(self.layers[0])[0][1].weight_ih
        parts = [
            f"{first.shape[1]} -> {sum(widths[-1])}",
            "layers: " + ", ".join(kinds),
            f"{sum(math.prod(array.shape) for array in arrays)} parameters",
            f"{library_name(xp)} {dtype_name(first)}",
        ]
        if self.cell != PLAIN:
            parts.append(f"cell={self.cell!r}")
        return f"LSTM({', '.join(parts)})"

    @staticmethod
    def init(
        input_size: int,
        hidden_size: int,
        *,
        num_layers: int = 1,
        bidirectional: bool = False,
        proj_size: int = 0,
        peephole: bool = False,
        bias: bool = True,
        forget_bias: float | None = None,
        scheme: Literal["torch", "keras"] = "torch",
        rng: Any = None,
        xp: Namespace | None = None,
        dtype: Any = None,
        device: Any = None,
        cell: Cells = PLAIN,
    ) -> "LSTM":
        """Return a model with random weights.

        Parameters
        ----------
        input_size, hidden_size : int
            Features of the input, and units of each direction of each layer.
        num_layers : int
            Layers, each on the outputs of the one before.
        bidirectional : bool
            Whether each layer also has a reverse direction.
        proj_size : int
            Size R of the projected hidden state; 0 for none.
        peephole, bias : bool
            Whether the weights have them.
        forget_bias : float, optional
            Bias of the forget gate; by default what the scheme gives it.
        scheme : {"torch", "keras"}
            ``"torch"``: everything uniform within ``1 / sqrt(hidden_size)``, the bias a sum of two such numbers, as
            `torch.nn.LSTM` has two biases. ``"keras"``: Glorot uniform input weights and projection, orthogonal
            recurrent weights, zero bias and peepholes, and 1 as the forget gate's bias.
        rng : numpy.random.Generator or seed, optional
            Where the numbers come from: the same ones in every library.
        xp : namespace, optional
            Library of the arrays; NumPy by default.
        dtype, device : optional
            Of that library; float32 and its own device by default.
        cell : Cell, or tuple with one a layer
            As `lstm` takes it.

        Returns
        -------
        LSTM

        Raises
        ------
        ValueError
            If a size is not positive, `proj_size` is not below `hidden_size`, or the scheme has another name.

        Examples
        --------
        >>> LSTM.init(3, 4, forget_bias=1.0, rng=0).layers[0].forward.bias[4:8]
        array([1., 1., 1., 1.], dtype=float32)
        """
        for name, size, least in (
            ("input_size", input_size, 1),
            ("hidden_size", hidden_size, 1),
            ("num_layers", num_layers, 1),
            ("proj_size", proj_size, 0),
        ):
            _check.integer("LSTM.init", name, size, least)
        if proj_size >= hidden_size:
            raise ValueError(f"LSTM.init: `proj_size` must be below hidden_size = {hidden_size}; got {proj_size}.")
        if scheme not in _init.SCHEMES:
            raise ValueError(f"LSTM.init: `scheme` must be one of {', '.join(_init.SCHEMES)}; got {scheme!r}.")
        draw = _init.drawing(scheme, rng)
        R = proj_size or hidden_size

        def direction(I: int) -> LSTMWeights:  # noqa: E741 -- the field's letter for the input size
            drawn = draw(_init.Sizes(I, hidden_size, R, proj_size > 0, bias, peephole))
            if bias and forget_bias is not None:
                drawn["bias"][hidden_size : 2 * hidden_size] = forget_bias
            return LSTMWeights(**{name: _init.given(a, xp, dtype, device) for name, a in drawn.items()})

        sizes = [input_size] + [R * (1 + bidirectional)] * (num_layers - 1)
        layers = tuple(Layer(direction(n), direction(n) if bidirectional else None) for n in sizes)
        return LSTM(layers, cell)


def _library(layers: Any) -> Namespace | None:
    """Return the namespace of the weights; None for a tree of something else, as transforms make them."""
    first = next((w.weight_ih for layer in layers for w in layer if w is not None), None)
    return namespace_of(first)
