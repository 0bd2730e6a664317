"""Seam 2: the fused LSTMs of the libraries, each chosen by a predicate before the call and never by a failure.

`torch.lstm`, which `torch.nn.LSTM` calls, runs a uniform stack over time; `torch.lstm_cell`, which
`torch.nn.LSTMCell` calls, runs one step of one layer. `jax.experimental.rnn.lstm` is cuDNN's, for a uniform stack on
an NVIDIA GPU. All take the weights with their rows as they are, and a second bias, for the recurrent half.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from .._checks import call as _problem
from .._checks.call import Problem
from .._equations.cell import PLAIN
from .._equations.records import Layers, LSTMState, LSTMWeights, State, directions_of
from .._seams import scan as _scan
from .._seams.namespace import Array, Namespace, is_jax_namespace, is_torch_namespace, library_name


class Kernel(NamedTuple):
    """A library's own fused LSTM; `run` returns what `lstm` returns."""

    name: str
    uniform: bool  # whether it wants a stack of equal layers
    obstacle: Callable[[Problem], str | None]  # beside those of every kernel, asked at every call
    faster: Callable[[Problem], bool]  # whether it is known to be, and so what "auto" takes
    run: Callable[[Problem], tuple[Array, State]]


def candidate(function: str, problem: Problem, *, trace: bool, engine: str) -> Kernel | None:
    """Return the kernel for calls of this form; with ``engine="native"`` there must be one."""
    if engine == "xp":
        return None
    kernel = _kernel(problem)
    obstacle: str | None = None
    if kernel is None:
        obstacle = f"{library_name(problem.xp)} has none that this package knows"
    elif engine == "native" or kernel.faster(problem):
        obstacle = next(_obstacles(problem, trace, kernel.uniform), None)
        if obstacle is None:
            return kernel
    _go_without(function, obstacle, engine)
    return None


def chosen(function: str, kernel: Kernel | None, problem: Problem, *, engine: str) -> Kernel | None:
    """Return the candidate if it can run the call where and when it is made: devices, and transforms under way."""
    obstacle = None if kernel is None else kernel.obstacle(problem)
    if obstacle is None:
        return kernel
    _go_without(function, obstacle, engine)
    return None


def _go_without(function: str, obstacle: str | None, engine: str) -> None:
    if engine == "native":
        raise ValueError(f"{function}: `engine` = 'native' has no kernel for this call: {obstacle}.")


def _obstacles(problem: Problem, trace: bool, uniform: bool) -> Iterator[str]:
    """Yield what no kernel can do; with `uniform`, what no kernel for a whole stack can."""
    cells, every = problem.every_cell, problem.every_weights
    if trace:
        yield "`trace` wants the gates, which it keeps to itself"
    if problem.marked:
        yield "it knows no `lengths`, `mask` or `reset`"
    if cells.count(PLAIN) < len(cells):
        yield "`cell` is not the plain one"
    for weights in every:
        if weights.peephole is not None:
            yield "a layer has `peephole` weights"
    for layer in problem.layers:
        if layer.forward is None:
            yield "a layer is reverse-only"
    if uniform and not _uniform(problem):
        yield "the layers differ in size, in directions or in which weights they have"
    if 0 in problem.x.shape[:2]:
        yield f"time and batch must be at least 1, and `x` has shape {tuple(problem.x.shape)}"


def _uniform(problem: Problem) -> bool:
    every, layers = problem.every_weights, problem.layers
    for layer in layers[1:]:
        if (layer.backward is None) != (layers[0].backward is None):
            return False
    for weights in every[1:]:
        # Not the weights of the input: its features differ between layers.
        if any(not _same_form(a, b) for a, b in zip(weights[1:], every[0][1:], strict=True)):
            return False
    return True


def _same_form(a: Array | None, b: Array | None) -> bool:
    if a is None or b is None:
        return a is b
    return bool(a.shape == b.shape)


def _sizes(layers: Layers, weights: list[LSTMWeights]) -> tuple[int, int, int, int]:
    """Return the layers, the directions, R and H of a uniform stack."""
    rows, R = weights[0].weight_hh.shape
    return len(layers), len(weights) // len(layers), R, rows // 4


def _by_layer(h: Array, c: Array, L: int) -> State:
    """Return a state (layers * directions, batch, features) as one a layer."""
    if L == 1:
        return (LSTMState(h, c),)
    D = h.shape[0] // L
    return tuple(LSTMState(h[k * D : (k + 1) * D, ...], c[k * D : (k + 1) * D, ...]) for k in range(L))


# PyTorch


def _torch_obstacle(problem: Problem) -> str | None:
    import torch

    if torch.compiler.is_compiling():
        return "`torch.compile` cannot trace it"
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return "it is inside a transform of `torch.func`"
    if torch.autograd.forward_ad._current_level >= 0 and any(
        torch.autograd.forward_ad.unpack_dual(a).tangent is not None  # type: ignore[no-untyped-call] # torch's
        for a in (problem.x, *_problem.arrays_of(problem.layers, problem.state))
    ):
        return "it has no forward-mode gradient"
    if problem.x.device.type not in ("cpu", "cuda"):
        return f"`x` is on the device {problem.x.device}"
    return None


def _run_torch_stack(problem: Problem) -> tuple[Array, State]:
    import torch

    x, layers, state, *_ = problem
    every = problem.every_weights
    L, D, R, H = _sizes(layers, every)
    flat: list[Any] = []
    for W, U, b, P, _ in every:
        flat += (W, U) if b is None else (W, U, b, torch.zeros_like(b))
        if P is not None:
            flat.append(P)
    if state is None:
        h0 = x.new_zeros((L * D, problem.batch, R))
        c0 = h0 if R == H else x.new_zeros((L * D, problem.batch, H))
    elif L == 1:
        h0, c0 = state[0]
    else:
        h0, c0 = (torch.cat(arrays) for arrays in zip(*state, strict=True))
    biased = every[0].bias is not None
    training = torch.is_grad_enabled() and any(a.requires_grad for a in (x, h0, c0, *flat))
    y, h, c = torch.lstm(x, (h0, c0), flat, biased, L, 0.0, training, D == 2, not problem.time_major)
    return y, _by_layer(h, c, L)


def _one_step_forward(problem: Problem) -> bool:
    if problem.steps != 1:
        return False
    forward = all(layer.forward is not None and layer.backward is None for layer in problem.layers)
    return forward and all(weights.weight_hr is None for weights in problem.every_weights)


def _run_torch_cell(problem: Problem) -> tuple[Array, State]:
    import torch

    time = 0 if problem.time_major else 1
    h = problem.x.squeeze(time)
    last = []
    for k, (W, U, b, _, _) in enumerate(problem.every_weights):
        if problem.state is None:
            before = (h.new_zeros((problem.batch, U.shape[1])),) * 2
        else:
            before = problem.state[k].h.squeeze(0), problem.state[k].c.squeeze(0)
        # On a GPU it takes both biases or none; elsewhere one will do.
        second = torch.zeros_like(b) if b is not None and b.is_cuda else None
        h, c = torch.lstm_cell(h, before, W, U, b, second)
        last.append(LSTMState(h.unsqueeze(0), c.unsqueeze(0)))
    return _scan.copier(problem.xp)(h.unsqueeze(time)), tuple(last)


# JAX


def _jax_obstacle(problem: Problem) -> str | None:
    device = _jax_device(problem.x)
    if not on_nvidia(device):
        return f"it runs on one NVIDIA GPU, and `x` is on {device}"
    if any(weights.weight_hr is not None for weights in problem.every_weights):
        return "a layer has a projection"
    if problem.x.dtype != problem.xp.float32:
        return f"it takes float32 only, and `x` has dtype {problem.x.dtype}"
    return None


def _jax_device(x: Array) -> Any:
    """Return the device of x, or several; a traced x says none, and then it is where JAX computes by default."""
    import jax

    if isinstance(x, jax.core.Tracer):
        return jax.config.jax_default_device or jax.devices()[0]  # type: ignore[attr-defined] # set at run time
    devices = x.devices()
    return next(iter(devices)) if len(devices) == 1 else devices


def on_nvidia(device: Any) -> bool:
    """Tell whether a device of JAX is an NVIDIA GPU."""
    return hasattr(device, "client") and "cuda" in device.client.platform_version


def _run_jax(problem: Problem) -> tuple[Array, State]:
    run = _scan.staged(jax_stack, problem.xp)
    result: tuple[Array, State] = run(
        problem.x, problem.layers, problem.state, time_major=problem.time_major, xp=problem.xp
    )
    return result


def jax_stack(x: Array, layers: Layers, state: State | None, *, time_major: bool, xp: Namespace) -> tuple[Array, State]:
    """Run cuDNN's kernel; its own gradient is reverse-mode only, and once only."""
    from jax.experimental import rnn

    problem = Problem(x, layers, state, (), False, time_major, xp)
    L, D, R, _ = _sizes(layers, problem.every_weights)
    if state is None:
        h0 = c0 = _scan.zeros((L * D, problem.batch, R), x, xp)
    else:
        h0, c0 = (xp.concat(arrays) for arrays in zip(*state, strict=True))
    lengths = xp.full((problem.batch,), problem.steps, dtype=xp.int32)
    batch_first = xp.permute_dims(x, (1, 0, 2)) if time_major else x
    y, h, c = rnn.lstm(batch_first, h0, c0, packed(layers, xp=xp), lengths, x.shape[2], R, L, 0.0, D == 2)
    return xp.permute_dims(y, (1, 0, 2)) if time_major else y, _by_layer(h, c, L)


def packed(layers: Layers, *, xp: Namespace) -> Array:
    """Return the weights as cuDNN's vector: the matrices of every direction, then the two biases of every direction."""
    every = [weights for layer in layers for _, weights in directions_of(layer)]
    matrices = [xp.reshape(matrix, (-1,)) for weights in every for matrix in (weights.weight_ih, weights.weight_hh)]
    none = xp.zeros_like(every[0].weight_hh[:, 0])
    biases = [bias for weights in every for bias in (none if weights.bias is None else weights.bias, none)]
    return xp.concat(matrices + biases)


_TORCH_CELL = Kernel("torch.lstm_cell", False, _torch_obstacle, lambda problem: True, _run_torch_cell)
# For one step it costs more to set up than to compute.
_TORCH_STACK = Kernel("torch.lstm", True, _torch_obstacle, lambda problem: problem.steps > 1, _run_torch_stack)
# Not known to be: it has not been measured.
_JAX_STACK = Kernel("jax.experimental.rnn.lstm", True, _jax_obstacle, lambda problem: False, _run_jax)


def has_one_for_a_step(xp: Namespace) -> bool:
    """Tell whether `chosen` may return a kernel for one step: where it never does, a step need not ask."""
    return is_torch_namespace(xp)


def _kernel(problem: Problem) -> Kernel | None:
    """Return the kernel that would run the call, if it can."""
    if is_torch_namespace(problem.xp):
        return _TORCH_CELL if _one_step_forward(problem) else _TORCH_STACK
    return _JAX_STACK if is_jax_namespace(problem.xp) else None
