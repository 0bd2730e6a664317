"""`torch.lstm`, called with weights that lie as they do, and for `torch.compile` an operator that calls it.

`torch.compile` would trace into it, step by step. An operator of one's own it takes as it is. What its gradient needs
is what autograd records while it runs: an attribute of an empty tensor, the last result.
"""

import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, TypeAlias

from .._equations.records import Layer, Layers, LSTMWeights
from .._seams.namespace import Array
from .._seams.transforms import recording
from .._seams.trees import leaves, when_imported
from .kernel import every_weights, uniform

Results: TypeAlias = tuple[Array, Array, Array]


def run(x: Array, h: Array, c: Array, weights: list[Array], biased: bool, layers: int, training: bool) -> Results:
    """Return y (time, batch, features), h and c of a stack from the weights of all its directions in a row."""
    import torch

    every = _every(weights, biased, h.shape[0])
    as_cudnn = x.is_cuda and _lies_as_cudnn(every)
    flat: list[torch.Tensor] = []
    for W, U, b, P, _ in every:
        flat += (W, U) if b is None else (W, U, b, _behind(b) if as_cudnn else torch.zeros_like(b))
        if P is not None:
            flat.append(P)
    # It warns of weights that it has to copy: whose they are has chosen so.
    copied = x.is_cuda and not as_cudnn
    with warnings.catch_warnings(action="ignore", category=UserWarning) if copied else nullcontext():
        return torch.lstm(x, (h, c), flat, biased, layers, 0.0, training, bool(h.shape[0] > layers), False)


def _every(weights: list[Array], biased: bool, directions: int) -> list[LSTMWeights]:
    """Return the weights of each direction."""
    size = len(weights) // directions
    each = (weights[k : k + size] for k in range(0, len(weights), size))
    return [LSTMWeights(W, U, *(rest if biased else (None, *rest))) for W, U, *rest in each]


# The operator

_LSTM, _GRADIENT = "lstm_xp::lstm", "lstm_xp::lstm_gradient"


def _recorded(inputs: Sequence[Array], biased: bool, layers: int) -> tuple[Results, list[Array]]:
    """Return the results with their graph, and what it begins with.

    All are copies, before and behind: what is compiled may write into the place of an array that it needs no more.
    """
    with recording():
        x, h, c, *weights = first = [a.detach().clone().requires_grad_() for a in inputs]
        return run(x, h, c, weights, biased, layers, True), first


def _forward(
    x: Array, h: Array, c: Array, weights: list[Array], biased: bool, layers: int, training: bool
) -> tuple[Array, ...]:
    kept = _nothing(x)
    if not training:
        return *(a.contiguous() for a in run(x, h, c, weights, biased, layers, False)), kept
    kept.graph = _recorded((x, h, c, *weights), biased, layers)
    return *(a.detach().contiguous().clone() for a in kept.graph[0]), kept


def _fake_forward(x: Array, h: Array, c: Array, weights: list[Array], *options: Any) -> tuple[Array, ...]:
    T, B, _ = x.shape
    y = x.new_empty((T, B, h.shape[0] // options[1] * h.shape[2]))
    return y, h.new_empty(h.shape), c.new_empty(c.shape), _nothing(x)


def _nothing(x: Array) -> Any:
    import torch

    return x.new_empty((0,), dtype=torch.uint8)  # a dtype without gradients


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Array, ...]) -> None:
    x, h, c, weights, *ctx.options = inputs
    ctx.save_for_backward(output[3], x, h, c, *weights)


def _backward(ctx: Any, dy: Array, dh: Array, dc: Array, _: None) -> tuple[Any, ...]:
    import torch

    kept, *inputs = ctx.saved_tensors
    dx, dh, dc, *dweights = torch.ops.lstm_xp.lstm_gradient(kept, dy, dh, dc, inputs, *ctx.options[:2])
    return dx, dh, dc, dweights, None, None, None


def _gradient(
    kept: Array, dy: Array, dh: Array, dc: Array, inputs: list[Array], biased: bool, layers: int
) -> list[Array]:
    import torch

    # Who saves tensors in a way of one's own, on another device say, brings back another tensor.
    results, first = getattr(kept, "graph", None) or _recorded(inputs, biased, layers)
    return [a.contiguous() for a in torch.autograd.grad(results, first, (dy, dh, dc), retain_graph=True)]


def _fake_gradient(kept: Array, dy: Array, dh: Array, dc: Array, inputs: list[Array], *_: Any) -> list[Array]:
    return [a.new_empty(a.shape) for a in inputs]


def _define(torch: Any) -> None:
    """Tell PyTorch of the operator, and of one for its gradient, which autograd cannot see either."""
    library, no_graph = torch.library, torch.Tag.cudagraph_unsafe  # which would run what is recorded but once
    given = "Tensor x, Tensor h, Tensor c, Tensor[] weights, bool biased, int layers, bool training"
    library.define(_LSTM, f"({given}) -> (Tensor, Tensor, Tensor, Tensor)", tags=no_graph)
    library.impl(_LSTM, "default", _forward)
    library.register_fake(_LSTM, _fake_forward)
    library.register_autograd(_LSTM, _backward, setup_context=_keep)
    given = "Tensor kept, Tensor dy, Tensor dh, Tensor dc, Tensor[] inputs, bool biased, int layers"
    library.define(_GRADIENT, f"({given}) -> Tensor[]", tags=no_graph)
    library.impl(_GRADIENT, "default", _gradient)
    library.register_fake(_GRADIENT, _fake_gradient)


when_imported("torch", _define)


# The weights in memory


def as_cudnn_has_them(layers: Layers) -> Layers:
    """Return the weights of a uniform stack with biases as parts of one buffer, so that cuDNN need not copy them.

    In its order: the matrices of all directions, then their biases, each with its second one, zeros, behind it. One
    number more than it needs says that these are zeros.
    """
    import torch

    every = every_weights(layers)
    if not uniform(layers) or any(w.bias is None or len(leaves(w)) > 3 for w in every):
        return layers
    parts = [matrix for w in every for matrix in w[:2]]
    parts += [bias for w in every if w.bias is not None for bias in (w.bias, torch.zeros_like(w.bias))]
    buffer = torch.cat([*(part.reshape(-1) for part in parts), parts[-1][:1]])
    # By `data`, so that to change one in its place is no change of the others.
    views = [
        rows.view(part.shape).data
        for part, rows in zip(parts, torch.split(buffer, [*(part.numel() for part in parts), 1]), strict=False)
    ]
    made = iter(zip(views[0 : 2 * len(every) : 2], views[1::2], views[2 * len(every) :: 2], strict=False))
    return tuple(Layer(*(None if w is None else LSTMWeights(*next(made)) for w in layer)) for layer in layers)


def _lies_as_cudnn(every: Sequence[LSTMWeights]) -> bool:
    """Tell whether the weights are such parts of one buffer."""
    parts = [matrix for w in every for matrix in w[:2]] + [w.bias for w in every if w.bias is not None]
    end, first = 0, parts[0].untyped_storage()
    for part in parts:
        if part.storage_offset() != end or part.untyped_storage().data_ptr() != first.data_ptr():
            return False
        end += part.numel() * (2 if part.ndim == 1 else 1)  # a bias, and the zeros behind it
    return bool(first.nbytes() == (end + 1) * parts[0].element_size())


def _behind(bias: Array) -> Array:
    """Return the zeros behind a bias in such a buffer."""
    return bias.detach().as_strided(bias.shape, bias.stride(), bias.storage_offset() + bias.numel())
