"""Seam 2: a library's own fused LSTM, chosen by a predicate before the call and never by a failure.

PyTorch has one, `torch.lstm`, which `torch.nn.LSTM` calls: it takes a whole uniform stack, the weights as they are.
"""

from collections.abc import Iterator
from typing import Any

from ._cell import PLAIN
from ._namespace import Array, is_torch_namespace, library_name
from ._problem import Problem
from ._structure import LSTMState, State, directions_of


def chosen(function: str, problem: Problem, *, trace: bool, engine: str) -> bool:
    """Tell whether the kernel runs the call; with ``engine="native"`` it must."""
    if engine == "xp":
        return False
    if engine == "auto" and not (is_torch_namespace(problem.xp) and _faster(problem)):
        return False
    obstacle = next(_obstacles(problem, trace), None)
    if engine == "native" and obstacle is not None:
        raise ValueError(f"{function}: `engine` = 'native' has no kernel for this call: {obstacle}.")
    return obstacle is None


def _obstacles(problem: Problem, trace: bool) -> Iterator[str]:
    """Yield what the kernel cannot do."""
    x, layers, state, _, marked, _, xp = problem
    if not is_torch_namespace(xp):
        yield f"{library_name(xp)} has none that this package knows"
        return
    import torch

    if trace:
        yield "`trace` wants the gates, which it keeps to itself"
    if marked:
        yield "it knows no `lengths`, `mask` or `reset`"
    if any(cell != PLAIN for cell in problem.every_cell):
        yield "`cell` is not the plain one"
    weights = [w for layer in layers for _, w in directions_of(layer)]
    if any(w.peephole is not None for w in weights):
        yield "a layer has `peephole` weights"
    if any(layer.forward is None for layer in layers):
        yield "a layer is reverse-only"
    shapes = {tuple(None if a is None else tuple(a.shape) for a in w[1:]) for w in weights}
    if len(shapes) > 1 or len({len(directions_of(layer)) for layer in layers}) > 1:
        yield "the layers differ in size, in directions or in which weights they have"
    if 0 in x.shape[:2]:
        yield f"time and batch must be at least 1, and `x` has shape {tuple(x.shape)}"
    if torch.compiler.is_compiling():
        yield "`torch.compile` cannot trace it"
    if torch._C._functorch.peek_interpreter_stack() is not None:
        yield "it is inside a transform of `torch.func`"
    arrays = [x, *(a for w in weights for a in w if a is not None), *(a for s in state or () for a in s)]
    if torch.autograd.forward_ad._current_level >= 0 and any(
        torch.autograd.forward_ad.unpack_dual(a).tangent is not None  # type: ignore[no-untyped-call] # torch's
        for a in arrays
    ):
        yield "it has no forward-mode gradient"
    if x.device.type not in ("cpu", "cuda"):
        yield f"`x` is on the device {x.device}"


def _faster(problem: Problem) -> bool:
    """Tell whether it is known to be faster: not for one step, which costs more to set up than to compute."""
    return bool(problem.x.shape[0 if problem.time_major else 1] > 1)


def run(problem: Problem) -> tuple[Array, State]:
    """Return what `lstm` returns, from the kernel."""
    import torch

    x, layers, state, _, _, time_major, _ = problem
    first = directions_of(layers[0])
    D, L, B = len(first), len(layers), x.shape[1 if time_major else 0]
    weights = [w for layer in layers for _, w in directions_of(layer)]
    R, H = first[0][1].weight_hh.shape[1], first[0][1].weight_hh.shape[0] // 4
    biased = first[0][1].bias is not None
    flat: list[Any] = []
    for w in weights:
        flat += [w.weight_ih, w.weight_hh]
        if w.bias is not None:
            # It has a second bias, for the recurrent half.
            flat += [w.bias, torch.zeros_like(w.bias)]
        if w.weight_hr is not None:
            flat.append(w.weight_hr)
    if state is None:
        h0, c0 = x.new_zeros((L * D, B, R)), x.new_zeros((L * D, B, H))
    elif L == 1:
        h0, c0 = state[0]
    else:
        h0, c0 = (torch.cat(arrays) for arrays in zip(*state, strict=True))
    training = torch.is_grad_enabled() and any(a.requires_grad for a in (x, h0, c0, *flat))
    y, h, c = torch.lstm(x, (h0, c0), flat, biased, L, 0.0, training, D == 2, not time_major)
    return y, tuple(LSTMState(h[k * D : (k + 1) * D], c[k * D : (k + 1) * D]) for k in range(L))
