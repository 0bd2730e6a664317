"""The sides of the comparisons: each function makes a problem and returns the task on it.

A library is imported by the side that runs it, so that a worker process loads no other one.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

import lstm_xp

from . import notebook
from .problem import Problem, Size, joined, make
from .timing import Task


def _forward_numbers(result: Any) -> tuple[np.ndarray, ...]:
    return tuple(np.asarray(array) for array in result[:3])


def _sequence(forward: Callable[..., Any], problem: Problem) -> Task:
    x, a0, parameters, _ = problem
    return Task(lambda: forward(x, a0, parameters), _forward_numbers)


def numpy_forward(size: Size, dtype: type = np.float32) -> Task:
    return _sequence(lstm_xp.lstm_forward, make(size, dtype))


def notebook_forward(size: Size, dtype: type = np.float32) -> Task:
    return _sequence(notebook.lstm_forward, make(size, dtype))


def _cell(cell: Callable[..., Any], size: Size) -> Task:
    x, a0, parameters, _ = make(size)
    xt, c0 = np.ascontiguousarray(x[:, :, 0]), np.zeros_like(a0)
    return Task(lambda: cell(xt, a0, c0, parameters), _forward_numbers)


def numpy_cell(size: Size) -> Task:
    return _cell(lstm_xp.lstm_cell, size)


def notebook_cell(size: Size) -> Task:
    return _cell(notebook.lstm_cell_forward, size)


def _on_torch(problem: Problem, *, requires_grad: bool = False) -> Problem:
    import torch

    def tensor(array: np.ndarray) -> Any:
        return torch.from_numpy(array).requires_grad_(requires_grad)

    x, a0, parameters, da = problem
    return Problem(tensor(x), tensor(a0), {key: tensor(w) for key, w in parameters.items()}, torch.from_numpy(da))


def _torch_sequence(forward: Callable[..., Any], size: Size) -> Task:
    import torch

    return _sequence(torch.no_grad()(forward), _on_torch(make(size)))


def torch_forward(size: Size) -> Task:
    return _torch_sequence(lstm_xp.lstm_forward, size)


def port_forward(size: Size) -> Task:
    from . import port

    return _torch_sequence(port.lstm_forward, size)


def kinder_port_forward(size: Size) -> Task:
    from . import port

    return _torch_sequence(port.kinder_lstm_forward, size)


def numpy_train(size: Size) -> Task:
    """Forward and backward pass; its numbers are a, dx and the gradients of W_ih, W_hh, b in torch's order."""
    x, a0, parameters, da = make(size)

    def train() -> tuple[np.ndarray, dict[str, np.ndarray]]:
        a, _, _, caches = lstm_xp.lstm_forward(x, a0, parameters)
        return a, lstm_xp.lstm_backward(da, caches)

    def numbers(result: Any) -> tuple[np.ndarray, ...]:
        a, d = result
        return a, d["dx"], *joined({key[1:]: gradient for key, gradient in d.items()}, size)

    return Task(train, numbers)


def torch_nn_train(size: Size) -> Task:
    """Forward and backward pass of torch.nn.LSTM, time first, as torch prefers it."""
    import torch

    problem = make(size)
    lstm = torch.nn.LSTM(size.n_x, size.n_a)
    weights = [lstm.weight_ih_l0, lstm.weight_hh_l0, lstm.bias_ih_l0, lstm.bias_hh_l0]
    W, R, b = joined(problem.parameters, size)
    with torch.no_grad():
        for weight, array in zip(weights, (W, R, b, np.zeros_like(b)), strict=True):
            weight.copy_(torch.from_numpy(array))
    x, da = (torch.from_numpy(array).permute(2, 1, 0).contiguous() for array in (problem.x, problem.da))
    x.requires_grad_()
    state = torch.from_numpy(problem.a0)[None].mT.contiguous()
    states = state, torch.zeros_like(state)

    def train() -> tuple[Any, ...]:
        a, _ = lstm(x, states)
        return a, *torch.autograd.grad(a, (x, *weights), da)

    def numbers(result: Any) -> tuple[np.ndarray, ...]:
        a, dx, dW, dR, db, _ = (array.detach() for array in result)
        return tuple(array.numpy() for array in (a.permute(2, 1, 0), dx.permute(2, 1, 0), dW, dR, db))

    return Task(train, numbers)


def torch_autograd(size: Size) -> Task:
    """Forward pass of lstm_xp and torch's gradient of sum(da * a)."""
    import torch

    x, a0, parameters, da = _on_torch(make(size), requires_grad=True)
    leaves = [x, *(array for key, array in parameters.items() if "y" not in key)]

    def train() -> tuple[Any, ...]:
        a, *_ = lstm_xp.lstm_forward(x, a0, parameters)
        return torch.autograd.grad(a, leaves, da)

    return Task(train)


def jax_compile(size: Size) -> Task:
    import jax

    x, a0, parameters, _ = jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype), make(size))
    return Task(lambda: jax.jit(lstm_xp.lstm_forward).lower(x, a0, parameters).compile())
