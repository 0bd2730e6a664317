"""The trained network as a record: weights, layers, states, and the `LSTM` that calls `lstm` on them."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Unpack, overload

from . import _init
from ._checks import arrays, call
from ._equations import records
from ._equations.cell import PLAIN, Cell
from ._equations.records import Call, Cells, Layer, Layers, LSTMState, LSTMWeights, State
from ._equations.stack import Results
from ._kernels.choice import laid_out
from ._seams import namespace
from ._seams.namespace import Array, Device, DType, Namespace
from ._seams.trees import leaves, mapped, register
from .layers import Options, run, run_step

__all__ = ["LSTM", "Cell", "LSTMState", "LSTMWeights", "Layer"]


@dataclass(frozen=True, eq=False, repr=False)
class LSTM:
    """Layers and their cell: a record that adds no mathematics to `lstm`.

    It is checked when it is made, and a call checks only what comes in. It is a JAX pytree and a torch pytree: its
    arrays are leaves, `cell` is static. Two of them are equal if they are the same one.

    Parameters
    ----------
    layers : tuple of Layer
        The weights, all of one library, dtype and device.
    cell : Cell, or tuple with one a layer
        As `lstm` takes it.

    Raises
    ------
    ValueError
        If the shapes of the weights do not fit each other, or a cell does not fit its layer.
    TypeError
        If something is not what it should be, or arrays differ in library, dtype or device.

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
        """Check the record, once and for all."""
        layers, _ = call.check_stack("LSTM", self.layers, self.cell)
        object.__setattr__(self, "layers", layers)
        if not isinstance(self.cell, Cell):
            cells = tuple(item if isinstance(item, Cell) else tuple(item) for item in self.cell)
            object.__setattr__(self, "cell", cells)

    @property
    def input_size(self) -> int:
        """Features of the input."""
        return int(call.first_weight(self.layers)[1].shape[1])

    @property
    def output_size(self) -> int:
        """Features of the output, D * R of the last layer."""
        return records.width_of(self.layers[-1])

    @property
    def num_layers(self) -> int:
        """Number of layers, each of one or two directions."""
        return len(self.layers)

    def zero_state(self, batch: int) -> State:
        """Return the state that a sequence starts from by default.

        Parameters
        ----------
        batch : int
            Number of sequences; in a program that is exported, ``x.shape[0]`` may be a symbol.

        Returns
        -------
        tuple of LSTMState
            One a layer: ``h (D, batch, R)`` and ``c (D, batch, H)``, in library, dtype and device of the weights.

        Raises
        ------
        ValueError
            If `batch` is not an integer of at least 0.

        Examples
        --------
        >>> LSTM.init(3, 4, rng=0).zero_state(2)[0].c.shape
        (1, 2, 4)
        """
        hint = "" if batch is not None else "Leave `state` out where the batch is free: it is zeros by default."
        batch = arrays.integer("LSTM.zero_state", "batch", batch, 0, hint=hint)
        like = call.first_weight(self.layers)[1]
        zeros = partial(namespace.zeros, like=like, xp=namespace.array_namespace(like))
        sizes = map(records.sizes_of, self.layers)
        return tuple(LSTMState(zeros((D, batch, R)), zeros((D, batch, H))) for D, R, H in sizes)

    @overload
    def __call__(
        self, x: Array, state: State | None = None, /, *, trace: Literal[False] = False, **options: Unpack[Options]
    ) -> tuple[Array, State]: ...
    @overload
    def __call__(
        self, x: Array, state: State | None = None, /, *, trace: Literal[True], **options: Unpack[Options]
    ) -> tuple[Array, State, records.Traces]: ...
    def __call__(
        self,
        x: Array,
        state: State | None = None,
        /,
        *,
        lengths: Array | None = None,
        mask: Array | None = None,
        reset: Array | None = None,
        time_major: bool = False,
        trace: bool = False,
        checkpoint: int | None = None,
        engine: records.Engine = "auto",
    ) -> Results:
        """Return ``lstm(x, model.layers, state, cell=model.cell, ...)``, with the options of `lstm`."""
        arguments = Call(x, self.layers, state, lengths, mask, reset)
        return run("lstm", arguments, records.Plan(self._cells, time_major, trace, checkpoint, engine))

    @property
    def _cells(self) -> records.DirectionCells:
        return records.cells_by_direction(self.layers, self.cell)

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
        if not records.only_forward(self.layers):
            k = next(k for k, layer in enumerate(self.layers) if not records.only_forward((layer,)))
            rule = "have a forward direction only, as a step has no later ones"
            raise ValueError(f"LSTM.step: `layers[{k}]` must {rule}; run the whole sequence with `lstm` instead.")
        return run_step(x_t, self.layers, state, self._cells)

    def to(self, xp: Namespace | None = None, /, *, device: Device = None, dtype: DType = None) -> "LSTM":
        """Return the same model in another library, on another device or in another dtype.

        Parameters
        ----------
        xp : namespace, optional
            The library to move to, e.g. ``numpy``, ``torch`` or ``jax.numpy``; the present one by default.
        device, dtype : optional
            Of that library. By default its own device, and the dtype of the same name: but NumPy has no bfloat16, which
            becomes float32, and JAX without ``jax_enable_x64`` has no float64: it warns, and gives float32.

        Returns
        -------
        LSTM
            With copies of the arrays, on PyTorch detached. Between two libraries they go through NumPy.

        Raises
        ------
        TypeError
            If `xp` is no array library, or it has no such device or no such real floating dtype.

        Examples
        --------
        >>> import numpy as np
        >>> LSTM.init(3, 4, rng=0).to(dtype=np.float64)
        LSTM(3 -> 4, layers: 4, 128 parameters, numpy float64)
        """
        if xp is None:
            xp = namespace.array_namespace(call.first_weight(self.layers)[1])
        there, options = arrays.destination("LSTM.to", xp, dtype, device)
        layers = mapped(lambda array: namespace.moved(array, there, options), self.layers)
        return LSTM(laid_out(layers), self.cell)

    def __repr__(self) -> str:
        """Show sizes, layers, directions, the number of parameters and the library."""
        if not all(map(namespace.namespace_of, leaves(self.layers))):  # a transform may put anything in their place
            return f"LSTM(layers={self.layers!r}, cell={self.cell!r})"
        first = call.first_weight(self.layers)[1]
        parts = [
            f"{self.input_size} -> {self.output_size}",
            "layers: " + ", ".join(map(records.kind_of, self.layers)),
            f"{sum(math.prod(array.shape) for array in leaves(self.layers))} parameters",
            f"{namespace.library_name(namespace.namespace_of(first))} {namespace.dtype_name(first)}",
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
        dtype: DType = None,
        device: Device = None,
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
        TypeError
            If `rng` is no seed, or `xp` no array library, or it has no such device or no such real floating dtype.

        Examples
        --------
        >>> LSTM.init(3, 4, forget_bias=1.0, rng=0).layers[0].forward.bias[4:8]
        array([1., 1., 1., 1.], dtype=float32)
        """
        named = {"input_size": input_size, "num_layers": num_layers, "hidden_size": hidden_size}
        proj_size, input_size, num_layers, hidden_size = arrays.sizes("LSTM.init", proj_size, **named)
        if scheme not in list(_init.SCHEMES):
            raise ValueError(f"LSTM.init: `scheme` must be one of {', '.join(_init.SCHEMES)}; got {scheme!r}.")
        there, options = arrays.destination("LSTM.init", _init.DEFAULT if xp is None else xp, dtype, device)
        options.setdefault("dtype", there.float32)
        draw = _init.drawing(scheme, rng)
        H, R = hidden_size, proj_size or hidden_size
        optional = {"bias": (bias, (4 * H,)), "weight_hr": (proj_size, (R, H)), "peephole": (peephole, (3 * H,))}
        fixed = {"weight_hh": (4 * H, R)} | {name: shape for name, (wanted, shape) in optional.items() if wanted}

        def direction(width: int) -> LSTMWeights:
            drawn = draw({"weight_ih": (4 * H, width), **fixed})
            if bias and forget_bias is not None:
                drawn["bias"][H : 2 * H] = forget_bias
            return LSTMWeights(**{name: namespace.moved(a, there, options) for name, a in drawn.items()})

        widths = [input_size] + [R * (2 if bidirectional else 1)] * (num_layers - 1)
        layers = tuple(Layer(direction(n), direction(n) if bidirectional else None) for n in widths)
        return LSTM(laid_out(layers), cell)


# So that it does not matter which record a process makes first, nor with which library.
register(LSTM, static=("cell",))
