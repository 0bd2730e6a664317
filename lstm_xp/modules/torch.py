"""PyTorch: a module in the place of `torch.nn.LSTM`. To call it is to call `lstm`, with the parameters for layers."""

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from .._checks import arrays
from .._checks.call import check_input, check_stack
from .._equations.cell import PLAIN
from .._equations.records import Cells, Layer, Layers, LSTMState, LSTMWeights, State, cells_by_direction
from .._seams.namespace import beside
from ..formats.torch import PARTS
from ..layers import lstm


class LSTM(nn.Module):
    """A module with the parameters, the call and the results of `torch.nn.LSTM`, that runs all that `lstm` does.

    Its state dict has the same names and shapes: either loads what the other saved. The two biases act as their sum.

    Parameters
    ----------
    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size, device, dtype
        As `torch.nn.LSTM` takes them: by default time comes first, and `dropout` acts between layers, in training.
    cell : Cell, or tuple with one a layer
        The variant of the equations; a bidirectional layer's may be a pair.
    peephole : bool
        Whether each direction has peephole weights too, ``weight_peephole_l0 (3H,)`` and so on.

    Raises
    ------
    ValueError, TypeError
        If an option is out of its range, or of another type.

    Examples
    --------
    >>> layer = LSTM(3, 4, num_layers=2)
    >>> layer.load_state_dict(nn.LSTM(3, 4, num_layers=2).state_dict())
    <All keys matched successfully>
    >>> y, (h, c) = layer(torch.ones(5, 2, 3), lengths=torch.tensor([5, 3]))
    >>> y.shape, h.shape
    (torch.Size([5, 2, 4]), torch.Size([2, 2, 4]))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        cell: Cells = PLAIN,
        peephole: bool = False,
    ) -> None:
        """Make the parameters."""
        super().__init__()
        named = {"input_size": input_size, "num_layers": num_layers, "hidden_size": hidden_size}
        proj_size, input_size, num_layers, hidden_size = arrays.sizes("LSTM", proj_size, **named)
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.bias, self.batch_first, self.dropout, self.bidirectional = bias, batch_first, dropout, bidirectional
        self.proj_size, self.cell, self.peephole = proj_size, cell, peephole
        arrays.rate("LSTM", "dropout", dropout)
        for name in ("bias", "batch_first", "bidirectional", "peephole"):
            arrays.instance("LSTM", name, getattr(self, name), bool, "True or False")
        if dropout and num_layers == 1:
            warnings.warn(f"LSTM: `dropout` acts between layers, and there is one; got {dropout}.", stacklevel=2)
        H, R, D = hidden_size, proj_size or hidden_size, 1 + bidirectional
        self._suffixes = [[f"_l{k}", f"_l{k}_reverse"][:D] for k in range(num_layers)]
        shapes = {"weight_hh": (4 * H, R), "weight_hr": (R, H), "weight_peephole": (3 * H,)}
        for k, suffix in [(k, suffix) for k, layer in enumerate(self._suffixes) for suffix in layer]:
            shapes["weight_ih"] = (4 * H, D * R if k else input_size)
            for part, wanted in zip(PARTS, (True, True, bias, bias, proj_size, peephole), strict=True):
                empty = torch.empty(shapes.get(part, (4 * H,)), device=device, dtype=dtype)
                self.register_parameter(part + suffix, nn.Parameter(empty) if wanted else None)
        check_stack("LSTM", self._layers(), cell)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters, uniform within ``1 / sqrt(hidden_size)``: the numbers of `torch.nn.LSTM`."""
        k = self.hidden_size**-0.5
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -k, k)

    def flatten_parameters(self) -> None:
        """Do nothing: programs call it."""

    @property
    def all_weights(self) -> list[list[nn.Parameter]]:
        """The parameters of each direction of each layer."""
        each = (suffix for layer in self._suffixes for suffix in layer)
        return [[a for part in PARTS if (a := getattr(self, part + suffix)) is not None] for suffix in each]

    def extra_repr(self) -> str:
        """Show the sizes, and what else is not as by default."""
        usual: dict[str, Any] = {"proj_size": 0, "num_layers": 1, "bias": True, "batch_first": False, "dropout": 0}
        usual |= {"bidirectional": False, "cell": PLAIN, "peephole": False}
        changed = [f"{name}={getattr(self, name)}" for name, value in usual.items() if getattr(self, name) != value]
        return ", ".join([f"{self.input_size}, {self.hidden_size}", *changed])

    def forward(
        self,
        input: Any,
        hx: tuple[Tensor, Tensor] | None = None,
        *,
        lengths: Tensor | None = None,
        mask: Tensor | None = None,
        reset: Tensor | None = None,
    ) -> Any:
        """Run the layers; what does not fit is an error as of `lstm`.

        Parameters
        ----------
        input : tensor or PackedSequence
            ``(time, batch, I)``; ``(batch, time, I)`` with `batch_first`; ``(time, I)`` for one sequence.
        hx : tuple of two tensors, optional
            The state before the first step: ``h (layers * directions, batch, R)`` and ``c (layers * directions, batch,
            H)``, without the batch for one sequence; zeros by default.
        lengths, mask, reset : tensor, optional
            As `lstm` takes them, their axes those of `input`. Not with a PackedSequence, which has lengths of its own.

        Returns
        -------
        output : tensor or PackedSequence
            The last layer's hidden states, like `input`.
        hx : tuple of two tensors
            The state after the last step.
        """
        marks = {"lengths": lengths, "mask": mask, "reset": reset}
        if isinstance(input, PackedSequence):
            return self._run_packed(input, hx, marks)
        input, layers = beside(input, (input, self._layers()))
        batch, symbols = (0, "batch, time, I") if self.batch_first else (1, "time, batch, I")
        one = isinstance(input, Tensor) and input.ndim == 2
        check_input("LSTM", "input", input, layers, "time, I" if one else symbols)
        state = None if hx is None else self._state(hx, input, () if one else (input.shape[batch],))
        if not one:
            return self._run(input, state, layers, time_major=not self.batch_first, **marks)
        marks = {k: a.unsqueeze(a.ndim and batch) if isinstance(a, Tensor) else a for k, a in marks.items()}
        y, (h, c) = self._run(input.unsqueeze(batch), state, layers, time_major=not self.batch_first, **marks)
        return y.squeeze(batch), (h.squeeze(1), c.squeeze(1))

    def _run_packed(self, packed: PackedSequence, hx: Any, marks: dict[str, Any]) -> Any:
        """Run the sequences in the order in which they are packed, the longest first."""
        _, sizes, order, back = packed
        data, layers = beside(packed.data, (packed.data, self._layers()))
        check_input("LSTM", "input.data", data, layers, "steps, I")
        for name, mark in marks.items():
            if mark is not None:
                raise ValueError(arrays.refusal("LSTM", name, "be None with a PackedSequence", type(mark).__name__))
        state = None if hx is None else self._state(hx, data, (int(sizes[0]),), order)
        x, lengths = pad_packed_sequence(PackedSequence(data, sizes))
        y, (h, c) = self._run(x, state, layers, time_major=True, lengths=lengths.to(x.device))
        output = PackedSequence(pack_padded_sequence(y, lengths).data, sizes, order, back)
        return output, (h, c) if back is None else (h.index_select(1, back), c.index_select(1, back))

    def _state(self, hx: Any, x: Tensor, batch: tuple[int, ...], order: Tensor | None = None) -> State:
        """Return the state of each layer, the sequences in another order."""
        if not isinstance(hx, tuple | list) or len(hx) != 2:
            raise TypeError(arrays.refusal("LSTM", "hx", "be a tuple of two tensors, h and c", type(hx).__name__))
        hx = beside(x, tuple(hx))
        D, symbols = len(self._suffixes[0]), f"layers * directions, {'batch, ' if batch else ''}hidden"
        parts = []
        for k, size in enumerate((self.proj_size or self.hidden_size, self.hidden_size)):
            arrays.agree("LSTM", f"hx[{k}]", hx[k], "input", x)
            arrays.shape("LSTM", f"hx[{k}]", hx[k], symbols, (D * self.num_layers, *batch, size))
            part = hx[k] if batch else hx[k].unsqueeze(1)
            parts.append(torch.split(part if order is None else part.index_select(1, order), D))
        return tuple(map(LSTMState, *parts))

    def _run(self, x: Tensor, state: State | None, layers: Layers, **options: Any) -> tuple[Tensor, Any]:
        """Run all layers at once, or with dropout between them one after the other."""
        cells: Any = cells_by_direction(layers, self.cell)
        last: State = ()
        count = 1 if self.training and self.dropout else len(layers)
        for k in range(0, len(layers), count):
            x = nn.functional.dropout(x, self.dropout) if k else x
            part = slice(k, k + count)
            x, end = lstm(x, layers[part], None if state is None else state[part], cell=cells[part], **options)
            last += end
        h, c = zip(*last, strict=True)
        return x, (torch.cat(h), torch.cat(c)) if len(h) > 1 else (h[0], c[0])

    def _layers(self) -> Layers:
        """Return the parameters as `lstm` takes them: anew at every call, as they may be others."""
        return tuple(Layer(*map(self._weights, suffixes)) for suffixes in self._suffixes)

    def _weights(self, suffix: str) -> LSTMWeights:
        W, R, b, b_hh, P, p = (getattr(self, part + suffix) for part in PARTS)
        return LSTMWeights(W, R, None if b is None else b + b_hh, P, p)
