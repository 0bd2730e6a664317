"""The sides of the sequence layer: `lstm` and `LSTM.step`, batch first, and the layers of other libraries.

The letters of `Size` stand for T, B, I and H. A library is imported by the side that runs it.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

import lstm_xp
from lstm_xp._equations.records import Engine, Layers, State
from lstm_xp._seams.namespace import to_numpy
from lstm_xp._seams.scan import BLOCK
from lstm_xp._seams.trees import leaves
from lstm_xp.formats import torch as torch_format

from .problem import Size, joined, make
from .timing import Task

STEPS = 400


class _Problem(NamedTuple):
    """Arrays of one library: x (B, T, I), the weights as torch keeps them, the first h and c, the gradient of y."""

    x: Any
    W: Any
    R: Any
    b: Any
    h: Any
    c: Any
    dy: Any

    @property
    def layers(self) -> Layers:
        return (lstm_xp.Layer(lstm_xp.LSTMWeights(self.W, self.R, self.b)),)

    @property
    def state(self) -> State:
        return (lstm_xp.LSTMState(self.h, self.c),)


def _make(size: Size, array: Callable[[np.ndarray], Any] = np.asarray, directions: int = 1) -> _Problem:
    problem = make(size)
    x, dy = (a.transpose(1, 2, 0) for a in (problem.x, problem.da))
    h = problem.a0.T[None]
    arrays = (x, *joined(problem.parameters, size), h, np.zeros_like(h), np.concatenate([dy] * directions, axis=2))
    return _Problem(*(array(np.ascontiguousarray(a)) for a in arrays))


def _numbers(result: Any) -> tuple[np.ndarray, ...]:
    """Return y, h and c of what `lstm` returns."""
    y, ((h, c),) = result
    return tuple(map(to_numpy, (y, h, c)))


# NumPy


def numpy_layer(size: Size) -> Task:
    p = _make(size)
    return Task(lambda: lstm_xp.lstm(p.x, p.layers), _numbers)


def numpy_layer_train(size: Size, checkpoint: int | None = None) -> Task:
    """Forward pass and gradient; its numbers are y, dx and the gradients of W, R and b."""
    p = _make(size)

    def train() -> tuple[Any, ...]:
        (y, _), vjp = lstm_xp.lstm_vjp(p.x, p.layers, checkpoint=checkpoint)
        dx, (layer,), _ = vjp(p.dy)
        return y, dx, *layer.forward[:3]

    return Task(train, lambda result: result)


def numpy_products(size: Size) -> Task:
    """Only the products of `lstm`; it has no numbers to compare."""
    T, B, I, *_ = size  # noqa: E741 -- the letter of the equations
    p = _make(size)
    columns = np.ascontiguousarray(p.x.transpose(2, 1, 0)).reshape(I, T * B)
    blocks = [columns[:, t * B : (t + BLOCK) * B].copy() for t in range(0, T, BLOCK)]
    h = p.dy[:, 0, :].T.copy()

    def products() -> None:
        for block in blocks:
            p.W @ block
            for _ in range(block.shape[1] // B):
                p.R @ h

    return Task(products)


def numpy_step(size: Size) -> Task:
    """One step of a model from a given state."""
    p = _make(size)
    model, x, state = lstm_xp.LSTM(p.layers), p.x[:, 0, :].copy(), p.state
    return Task(lambda: model.step(x, state), _numbers)


def numpy_sessions(size: Size) -> Task:
    """One step of many sessions with a state each: joined, run as one batch, and parted."""
    p = _make(size)
    model, x = lstm_xp.LSTM(p.layers), p.x[:, 0, :].copy()
    states = lstm_xp.scatter_states(p.state)

    def step() -> Any:
        y, state = model.step(x, lstm_xp.gather_states(states))
        return y, lstm_xp.scatter_states(state)

    return Task(step, _of_sessions)


def numpy_session_by_session(size: Size) -> Task:
    """The same, each session by itself."""
    p = _make(size)
    model, xs = lstm_xp.LSTM(p.layers), [x.copy() for x in p.x[:, None, 0, :]]
    states = lstm_xp.scatter_states(p.state)

    def step() -> Any:
        ys, after = zip(*map(model.step, xs, states), strict=True)
        return np.concatenate(ys), after

    return Task(step, _of_sessions)


def _of_sessions(result: Any) -> tuple[np.ndarray, ...]:
    y, states = result
    return _numbers((y, lstm_xp.gather_states(states)))


def numpy_steps(size: Size, threads: int) -> Task:
    """As many steps of one model, by so many threads together."""
    p = _make(size)
    model, x, state = lstm_xp.LSTM(p.layers), p.x[:, 0, :].copy(), p.state
    pool = ThreadPoolExecutor(threads)

    def steps(count: int) -> Any:
        for _ in range(count):
            result = model.step(x, state)
        return result

    return Task(lambda: list(pool.map(steps, [STEPS // threads] * threads))[-1], _numbers)


def onnxruntime_step(size: Size) -> Task:
    """The same step as a model of one LSTM node, the state among its inputs and outputs."""
    import onnxruntime

    p = _make(size)
    session = onnxruntime.InferenceSession(_onnx_step(p, size), providers=["CPUExecutionProvider"])
    feed = {"x": p.x[:, :1, :].transpose(1, 0, 2).copy(), "h": p.h, "c": p.c}

    def numbers(result: Any) -> tuple[np.ndarray, ...]:
        h, c = result
        return h[0], h, c  # a step's y is its h

    return Task(lambda: session.run(("h_next", "c_next"), feed), numbers)


def _onnx_step(p: _Problem, size: Size) -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    def ordered(rows: np.ndarray) -> np.ndarray:
        i, f, g, o = np.split(rows, 4)
        return np.concatenate((i, o, f, g))[None]

    def described(name: str, *shape: int) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    _, B, I, H, *_ = size  # noqa: E741 -- the letter of the equations
    weights = {"W": ordered(p.W), "R": ordered(p.R), "b": ordered(p.b)}
    weights["b"] = np.concatenate((weights["b"], np.zeros_like(weights["b"])), axis=1)
    graph = helper.make_graph(
        # The empty names: no lengths, and no sequence of outputs.
        [helper.make_node("LSTM", ["x", "W", "R", "b", "", "h", "c"], ["", "h_next", "c_next"], hidden_size=H)],
        "step",
        [described("x", 1, B, I), described("h", 1, B, H), described("c", 1, B, H)],
        [described("h_next", 1, B, H), described("c_next", 1, B, H)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    return model.SerializeToString()


# Dask, in four blocks of the batch


def _on_dask(size: Size) -> tuple[_Problem, Any]:
    import dask.array

    p = _make(size)
    return p, dask.array.from_array(p.x, chunks=(-(-size.m // 4), size.T, size.n_x))


def dask_layer(size: Size) -> Task:
    import dask

    p, x = _on_dask(size)
    return Task(lambda: dask.compute(*lstm_xp.lstm(x, p.layers)), _numbers)


def dask_by_hand(size: Size) -> Task:
    """One function of a block; its y, h and c are one array, as `map_blocks` gives one."""
    p, x = _on_dask(size)
    layers = p.layers

    def run(block: np.ndarray) -> np.ndarray:
        y, ((h, c),) = lstm_xp.lstm(block, layers)
        return np.concatenate((y, h[0][:, None], c[0][:, None]), axis=1)

    def mapped() -> Any:
        chunks = (x.chunks[0], (size.T + 2,), (size.n_a,))
        return x.map_blocks(run, chunks=chunks, dtype=x.dtype, meta=p.x[:0]).compute()

    return Task(mapped, lambda both: (both[:, :-2], both[None, :, -2], both[None, :, -1]))


# torch


def _on_torch(size: Size, directions: int = 1) -> _Problem:
    import torch

    return _make(size, lambda array: torch.from_numpy(array).to(_torch_device(size)), directions)


def _torch_device(size: Size) -> str:
    return {"cpu": "cpu", "gpu": "cuda"}[size.device]


def _torch_task(function: Callable[[], Any], numbers: Callable[[Any], Any], size: Size) -> Task:
    import torch

    return Task(function, numbers, lambda result: torch.cuda.synchronize() if size.device == "gpu" else None)


def torch_layer(size: Size) -> Task:
    import torch

    p = _on_torch(size)
    return _torch_task(torch.no_grad()(lambda: lstm_xp.lstm(p.x, p.layers)), _numbers, size)


def torch_step(size: Size) -> Task:
    """A sequence of one step from a given state."""
    import torch

    p = _on_torch(size)
    x, layers, state = p.x[:, :1, :].contiguous(), p.layers, p.state
    return _torch_task(torch.no_grad()(lambda: lstm_xp.lstm(x, layers, state)), _one_step, size)


def _one_step(result: Any) -> tuple[np.ndarray, ...]:
    y, h, c = _numbers(result)
    return y[:, 0, :], h, c


def _nn_lstm(p: _Problem, size: Size) -> Any:
    import torch

    lstm = torch.nn.LSTM(size.n_x, size.n_a, batch_first=True, device=_torch_device(size))
    with torch.no_grad():
        for weight, array in zip(lstm.parameters(), (p.W, p.R, p.b, torch.zeros_like(p.b)), strict=True):
            weight.copy_(array)
    return lstm


def torch_nn_layer(size: Size) -> Task:
    import torch

    p = _on_torch(size)
    lstm = _nn_lstm(p, size).eval()

    def numbers(result: Any) -> tuple[np.ndarray, ...]:
        y, state = result
        return _numbers((y, (state,)))

    return _torch_task(torch.no_grad()(lambda: lstm(p.x)), numbers, size)


def torch_nn_step(size: Size) -> Task:
    """A sequence of one step from a given state."""
    import torch

    p = _on_torch(size)
    lstm, x, state = _nn_lstm(p, size).eval(), p.x[:, :1, :].contiguous(), (p.h, p.c)

    def numbers(result: Any) -> tuple[np.ndarray, ...]:
        y, state = result
        return _one_step((y, (state,)))

    return _torch_task(torch.no_grad()(lambda: lstm(x, state)), numbers, size)


def _torch_training(forward: Callable[[Any], Any], p: _Problem, weights: list[Any], size: Size) -> Task:
    """Forward pass, and the gradient of sum(dy * y); its numbers are y, dx and the gradients of W, R and b."""
    import torch

    p.x.requires_grad_()

    def train() -> tuple[Any, ...]:
        y, _ = forward(p.x)
        return y, *torch.autograd.grad(y, (p.x, *weights), p.dy)

    return _torch_task(train, lambda result: tuple(map(to_numpy, result[:5])), size)


def torch_layer_train(size: Size) -> Task:
    p = _on_torch(size)
    weights = [weight.requires_grad_() for weight in (p.W, p.R, p.b)]
    return _torch_training(lambda x: lstm_xp.lstm(x, p.layers), p, weights, size)


def torch_masked_train(size: Size, engine: Engine = "auto") -> Task:
    """With steps left out here and there, which no kernel takes."""
    p = _on_torch(size)
    weights = [weight.requires_grad_() for weight in (p.W, p.R, p.b)]
    mask = p.x[:, :, 0] > -1
    return _torch_training(lambda x: lstm_xp.lstm(x, p.layers, mask=mask, engine=engine), p, weights, size)


def torch_layer_train_compiled(size: Size) -> Task:
    import torch

    p = _on_torch(size)
    weights = [weight.requires_grad_() for weight in (p.W, p.R, p.b)]
    compiled = torch.compile(lambda x: lstm_xp.lstm(x, p.layers), fullgraph=True)
    return _torch_training(compiled, p, weights, size)


def torch_nn_layer_train(size: Size) -> Task:
    p = _on_torch(size)
    lstm = _nn_lstm(p, size)
    return _torch_training(lstm, p, list(lstm.parameters()), size)


def torch_nn_layer_gradient(size: Size) -> Task:
    """The same; of its numbers all but y, as a gradient in JAX returns them."""
    task = torch_nn_layer_train(size)
    return replace(task, numbers=lambda result: task.numbers(result)[1:])


def _model(size: Size, num_layers: int) -> lstm_xp.LSTM:
    """Return one layer that runs forward, or several that run both ways."""
    both = num_layers > 1
    return lstm_xp.LSTM.init(size.n_x, size.n_a, num_layers=num_layers, bidirectional=both, rng=0, dtype=np.float32)


def _torch_pair(size: Size, num_layers: int) -> tuple[_Problem, lstm_xp.LSTM, Any]:
    """Return a problem, and such layers, ours and torch's, of the same weights."""
    import torch

    both = num_layers > 1
    p = _on_torch(size, 1 + both)
    model = _model(size, num_layers).to(torch, device=p.x.device)
    lstm = torch.nn.LSTM(size.n_x, size.n_a, num_layers, bidirectional=both, batch_first=True, device=p.x.device)
    lstm.load_state_dict(torch_format.to_params(model))
    return p, model, lstm


def torch_nn_stack_gradient(size: Size) -> Task:
    """The gradient of three layers; its numbers are dx and the gradient of the first W."""
    p, _, lstm = _torch_pair(size, 3)
    task = _torch_training(lstm, p, list(lstm.parameters()), size)
    return replace(task, numbers=lambda result: task.numbers(result)[1:3])


# Sequences of different lengths: between one step and all of them, one of which has all


def _lengths(size: Size) -> Any:
    import torch

    return torch.linspace(1, size.T, size.m).round().to(torch.int64)


def _y(result: Any) -> tuple[np.ndarray, ...]:
    return (to_numpy(result[0]),)


def torch_lengths(size: Size, num_layers: int = 1) -> Task:
    import torch

    p, model, _ = _torch_pair(size, num_layers)
    lengths = _lengths(size).to(p.x.device)
    return _torch_task(torch.no_grad()(lambda: model(p.x, lengths=lengths)), _y, size)


def torch_nn_without_lengths(size: Size, num_layers: int = 1) -> Task:
    import torch

    p, _, lstm = _torch_pair(size, num_layers)
    return _torch_task(torch.no_grad()(lambda: lstm(p.x)), _y, size)


def _packed(lstm: Any, size: Size) -> Callable[[Any], Any]:
    """Return the layer of torch on packed sequences, padded again."""
    from torch.nn.utils import rnn

    lengths = _lengths(size)

    def forward(x: Any) -> Any:
        y, state = lstm(rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False))
        return rnn.pad_packed_sequence(y, batch_first=True, total_length=size.T)[0], state

    return forward


def torch_nn_packed(size: Size, num_layers: int = 1) -> Task:
    import torch

    p, _, lstm = _torch_pair(size, num_layers)
    forward = _packed(lstm, size)
    return _torch_task(torch.no_grad()(lambda: forward(p.x)), _y, size)


def torch_lengths_train(size: Size, num_layers: int = 1) -> Task:
    p, model, _ = _torch_pair(size, num_layers)
    lengths = _lengths(size).to(p.x.device)
    weights = [array.requires_grad_() for array in leaves(model.layers)]
    return _torch_training(lambda x: model(x, lengths=lengths), p, weights, size)


def torch_nn_packed_train(size: Size, num_layers: int = 1) -> Task:
    p, _, lstm = _torch_pair(size, num_layers)
    return _torch_training(_packed(lstm, size), p, list(lstm.parameters()), size)


# JAX


def _on_jax(size: Size) -> _Problem:
    import jax

    return _make(size, lambda array: jax.device_put(array, jax.devices(size.device)[0]))


def _jax_task(function: Callable[..., Any], arguments: tuple[Any, ...], numbers: Callable[[Any], Any]) -> Task:
    import jax

    return Task(lambda: function(*arguments), numbers, jax.block_until_ready)


def jax_layer(size: Size) -> Task:
    import jax

    p = _on_jax(size)
    return _jax_task(jax.jit(lstm_xp.lstm), (p.x, p.layers), _numbers)


def jax_layer_without_jit(size: Size) -> Task:
    p = _on_jax(size)
    return _jax_task(lstm_xp.lstm, (p.x, p.layers), _numbers)


def jax_layer_gradient(size: Size) -> Task:
    """The gradient of sum(dy * y); its numbers are dx and the gradients of W, R and b."""
    import jax

    def numbers(result: Any) -> tuple[np.ndarray, ...]:
        dx, (layer,) = result
        return tuple(map(to_numpy, (dx, *layer.forward[:3])))

    p = _on_jax(size)
    return _jax_task(jax.jit(jax.grad(_loss, argnums=(0, 1))), (p.x, p.layers, p.dy), numbers)


def _loss(x: Any, layers: Any, dy: Any) -> Any:
    return (lstm_xp.lstm(x, layers)[0] * dy).sum()


def _flax_rnn(p: _Problem, size: Size) -> tuple[Callable[..., Any], Any]:
    """Return a function of x and the parameters that returns the last (c, h) and y, and the parameters."""
    import jax.numpy as jnp
    from flax import nnx

    rnn = nnx.RNN(nnx.OptimizedLSTMCell(size.n_x, size.n_a, rngs=nnx.Rngs(0)), return_carry=True)
    graph, params, rest = nnx.split(rnn, nnx.Param, ...)
    cell = params["cell"]
    for param, array in (
        (cell["dense_i"]["kernel"], p.W.T),
        (cell["dense_h"]["kernel"], p.R.T),
        (cell["dense_h"]["bias"], p.b),
    ):
        param[...] = array

    def forward(x: Any, params: Any) -> Any:
        zeros = jnp.zeros((x.shape[0], size.n_a), x.dtype)
        return nnx.merge(graph, params, rest)(x, initial_carry=(zeros, zeros))

    return forward, params


def flax_layer(size: Size) -> Task:
    import jax

    def numbers(result: Any) -> tuple[np.ndarray, ...]:
        (c, h), y = result
        return tuple(np.asarray(array) for array in (y, h[None], c[None]))

    p = _on_jax(size)
    forward, params = _flax_rnn(p, size)
    return _jax_task(jax.jit(forward), (p.x, params), numbers)


def flax_layer_gradient(size: Size) -> Task:
    import jax

    p = _on_jax(size)
    forward, params = _flax_rnn(p, size)

    def loss(x: Any, params: Any, dy: Any) -> Any:
        return (forward(x, params)[1] * dy).sum()

    def numbers(result: Any) -> tuple[np.ndarray, ...]:
        dx, gradient = result
        cell = gradient["cell"]
        dW, dR = (cell[dense]["kernel"][...].T for dense in ("dense_i", "dense_h"))
        return tuple(np.asarray(array) for array in (dx, dW, dR, cell["dense_h"]["bias"][...]))

    return _jax_task(jax.jit(jax.grad(loss, argnums=(0, 1))), (p.x, params, p.dy), numbers)


def _on_jax_stack(size: Size) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Return the compiled gradient of sum(dy * y) of three layers, and its arguments."""
    import jax

    arguments = _model(size, 3).layers, _make(size, directions=2)
    layers, p = jax.device_put(arguments, jax.devices(size.device)[0])
    return jax.jit(jax.grad(_loss, argnums=(0, 1))), (p.x, layers, p.dy)


def jax_stack_gradient(size: Size) -> Task:
    """Its numbers are dx and the gradient of the first W."""
    gradient, arguments = _on_jax_stack(size)
    return _jax_task(gradient, arguments, lambda d: (to_numpy(d[0]), to_numpy(d[1][0].forward.weight_ih)))


def jax_stack_compile(size: Size) -> Task:
    """What compiles that gradient."""
    gradient, arguments = _on_jax_stack(size)
    return Task(lambda: gradient.lower(*arguments).compile())


# CuPy


def cupy_layer(size: Size) -> Task:
    import cupy

    p = _make(size, cupy.asarray)
    return Task(
        lambda: lstm_xp.lstm(p.x, p.layers), _numbers, lambda result: cupy.cuda.get_current_stream().synchronize()
    )
