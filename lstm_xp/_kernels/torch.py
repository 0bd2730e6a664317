"""PyTorch's kernels.

`torch.lstm`, which `torch.nn.LSTM` calls, runs a uniform stack over time; `torch.lstm_cell`, which `torch.nn.LSTMCell`
calls, runs one step of one layer. Both take the weights with their rows as they are, and a second bias, for the
recurrent half. On a GPU they compute as `torch.backends.cudnn` says: in TF32 by default, so float32 to about 1e-4.
"""

from collections.abc import Iterator, Sequence

from .._equations.cell import PLAIN
from .._equations.records import (
    Call,
    Layer,
    Layers,
    LSTMState,
    LSTMWeights,
    Plan,
    State,
    directions_of,
    only_forward,
    sizes_of,
)
from .._seams.namespace import Array
from .._seams.ops import copier
from .._seams.transforms import is_traced, torch_transform
from .._seams.trees import leaves
from .kernel import Kernel, every_weights, uniform
from .torch_lstm import run


def _obstacles(call: Call, plan: Plan) -> Iterator[str]:
    """Yield what no kernel of PyTorch can do."""
    import torch

    x = call.x
    if plan.trace:
        yield "`trace` wants the gates, which it keeps to itself"
    if call.mask is not None or call.reset is not None:
        yield "it knows no `mask` or `reset`"
    if plan.every_cell.count(PLAIN) < len(plan.every_cell):
        yield "`cell` is not the plain one"
    if any(weights.peephole is not None for weights in every_weights(call.layers)):
        yield "a layer has `peephole` weights"
    if any(layer.forward is None for layer in call.layers):
        yield "a layer is reverse-only"
    if 0 in plan.steps_and_batch(x):
        yield f"time and batch must be at least 1, and `x` has shape {tuple(x.shape)}"
    transform = torch_transform(call)
    if transform is not None:
        yield transform
    if x.device.type not in ("cpu", "cuda"):
        yield f"`x` is on the device {x.device}"
    if hasattr(x, "device_mesh"):
        yield "`x` is a DTensor"
    if not all(isinstance(size, int | torch.Tensor) for size in x.shape):  # tensors in `torch.jit.trace`
        yield "its sizes are symbols, with which PyTorch before 2.13 traces it wrongly"


# A stack over time


def _stack_obstacles(call: Call, plan: Plan) -> Iterator[str]:
    yield from _obstacles(call, plan)
    every = every_weights(call.layers)
    if any(w.weight_hr is not None and w.weight_hr.shape[0] == w.weight_hr.shape[1] for w in every):
        yield "a projection is to as many features as before, which it takes for none"
    if plan.checkpoint is not None and not only_forward(call.layers):
        yield "with `checkpoint` it takes layers that only run forward"
    if call.lengths is not None:
        yield from _lengths_obstacles(call)
    elif not uniform(call.layers) or not _of_one_kind(every):
        yield "the layers differ in size, in directions or in which weights they have"


def _of_one_kind(every: Sequence[LSTMWeights]) -> bool:
    """Tell whether all have a bias or none, and a projection or none."""
    return len({(w.bias is None, w.weight_hr is None) for w in every}) == 1


def _run_stack(call: Call, plan: Plan) -> tuple[Array, State]:
    import torch

    if plan.checkpoint is not None and torch.is_grad_enabled():
        return _run_segments(call, plan, plan.checkpoint)
    if call.lengths is not None:
        return _run_lengths(call, call.lengths, plan)
    x, layers, state = call[:3]
    L, (D, _, _) = len(layers), sizes_of(layers[0])
    if state is None:
        start = _zeros(x, layers[0], plan, L)
    elif L == 1:
        start = state[0]
    else:
        start = LSTMState(*(torch.cat(arrays) for arrays in zip(*state, strict=True)))
    y, h, c = _fused(x, layers, start, plan)
    if L == 1:
        return y, (LSTMState(h, c),)
    return y, tuple(LSTMState(*pair) for pair in zip(torch.split(h, D), torch.split(c, D), strict=True))


def _fused(x: Array, layers: Layers, start: LSTMState, plan: Plan) -> tuple[Array, Array, Array]:
    """Return y, h and c of a uniform stack, whose states are those of its layers one behind the other."""
    import torch

    weights = leaves(layers)
    forward, _ = layers[0]
    biased = forward is not None and forward.bias is not None
    training = torch.is_grad_enabled() and any(a.requires_grad for a in (x, *start, *weights))
    training = training or is_traced()  # what is written down may be trained, whoever traces it
    x = x if plan.time_major else x.transpose(0, 1)
    if torch.compiler.is_compiling():
        y, h, c, _ = torch.ops.lstm_xp.lstm(x, *start, weights, biased, len(layers), training)
    else:
        y, h, c = run(x, *start, weights, biased, len(layers), training)
    return y if plan.time_major else y.transpose(0, 1), h, c


def _zeros(x: Array, layer: Layer, plan: Plan, L: int = 1) -> LSTMState:
    """Return the zero state of so many layers like this one."""
    D, R, H = sizes_of(layer)
    _, batch = plan.steps_and_batch(x)
    h = x.new_zeros((L * D, batch, R))
    return LSTMState(h, h if R == H else x.new_zeros((L * D, batch, H)))


def _run_segments(call: Call, plan: Plan, length: int) -> tuple[Array, State]:
    """Run segments of so many steps one after the other, each of which is run again for its gradient."""
    import torch
    from torch.utils.checkpoint import checkpoint

    time, t, state, ys = 0 if plan.time_major else 1, 0, call.state, []
    for x in torch.split(call.x, length, dim=time):
        lengths = None if call.lengths is None else torch.clamp(call.lengths - t, 0, x.shape[time])
        segment = call._replace(x=x, state=state, lengths=lengths)
        y, state = checkpoint(_run_stack, segment, plan._replace(checkpoint=None), use_reentrant=False)
        ys.append(y)
        t += x.shape[time]
    assert state is not None
    return torch.cat(ys, dim=time), state


# Sequences of different lengths


def _lengths_obstacles(call: Call) -> Iterator[str]:
    if call.state is not None and not only_forward(call.layers):
        yield "a reverse direction with `lengths` starts from zeros, and there is a `state`"
    if not all(_of_one_kind([weights for weights in layer if weights is not None]) for layer in call.layers):
        yield "the directions of a layer differ in which weights they have"


def _run_lengths(call: Call, lengths: Array, plan: Plan) -> tuple[Array, State]:
    """Run layer by layer, with the padding as one more feature of the input.

    Its weights shut the input gate and open the forget gate: i is 0 and f is 1, so that c is carried as it is. A
    reverse direction begins in the padding, where c stays 0 and so h. Behind a forward one h is taken from its last
    step.
    """
    import torch

    x, layers, state = call[:3]
    time = 0 if plan.time_major else 1
    steps = torch.arange(x.shape[time], device=x.device)
    lengths = lengths.to(steps.dtype)  # the library's own integers, as in `stack.py`
    padding = (steps.unsqueeze(1 - time) >= lengths.unsqueeze(time)).unsqueeze(2)
    # Within the steps whatever they say, as values are not looked at on a GPU.
    end = torch.minimum((lengths - 1).clamp(min=0), steps[-1]).unsqueeze(time).unsqueeze(2)
    y, last = x.masked_fill(padding, 0), []  # not even a NaN of the padding gets into a product
    for k, layer in enumerate(layers):
        start = _zeros(x, layer, plan) if state is None else state[k]
        gated = Layer(*(None if w is None else w._replace(weight_ih=_with_padding(w.weight_ih)) for w in layer))
        y, h, c = _fused(torch.cat([y, padding.to(y.dtype)], dim=2), (gated,), start, plan)
        y = y.masked_fill(padding, 0)
        forward = torch.gather(y, time, end.expand(-1, -1, h.shape[2])).squeeze(time)
        forward = torch.where(lengths.unsqueeze(1) > 0, forward, start.h[0])
        last.append(LSTMState(torch.cat([forward.unsqueeze(0), h[1:]]), c))
    return y, tuple(last)


def _with_padding(W: Array) -> Array:
    """Return the weights of the input with those of the padding behind them: rows i, f, g, o."""
    import torch

    # So large that nothing that a gate adds to it matters, in any dtype.
    shut = min(1e15, torch.finfo(W.dtype).max / 2)
    column = torch.tensor([-shut, shut, 0.0, 0.0], dtype=W.dtype, device=W.device)
    return torch.cat([W, column.repeat_interleave(W.shape[0] // 4).unsqueeze(1)], dim=1)


# One step


def _step_obstacles(call: Call, plan: Plan) -> Iterator[str]:
    steps, _ = plan.steps_and_batch(call.x)
    if steps != 1:
        yield "it runs one step"
    if call.lengths is not None:
        yield "it knows no `lengths`"
    if any(len(directions_of(layer)) != 1 for layer in call.layers):
        yield "a layer is bidirectional"
    if any(weights.weight_hr is not None for weights in every_weights(call.layers)):
        yield "a layer has a projection"
    yield from _obstacles(call, plan)


def _run_step(call: Call, plan: Plan) -> tuple[Array, State]:
    import torch

    time = 0 if plan.time_major else 1
    h = call.x.squeeze(time)
    last = []
    for k, (W, U, b, _, _) in enumerate(every_weights(call.layers)):
        if call.state is None:
            before = (h.new_zeros((h.shape[0], U.shape[1])),) * 2
        else:
            before = call.state[k].h.squeeze(0), call.state[k].c.squeeze(0)
        # On a GPU it takes both biases or none; elsewhere one will do.
        second = torch.zeros_like(b) if b is not None and b.is_cuda else None
        h, c = torch.lstm_cell(h, before, W, U, b, second)
        last.append(LSTMState(h.unsqueeze(0), c.unsqueeze(0)))
    return copier(plan.xp)(h.unsqueeze(time)), tuple(last)


KERNELS = (
    Kernel("torch.lstm_cell", _step_obstacles, lambda call, plan: True, _run_step),
    # For one step it costs more to set up than to compute.
    Kernel("torch.lstm", _stack_obstacles, lambda call, plan: plan.steps_and_batch(call.x)[0] > 1, _run_stack),
)
