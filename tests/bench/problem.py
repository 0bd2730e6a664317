"""The same random problem for every side of a comparison, from one seed."""

from typing import NamedTuple

import numpy as np

from tests.support.problems import drawing


class Size(NamedTuple):
    """Steps, examples, input features, hidden units, outputs; and where they are."""

    T: int
    m: int
    n_x: int
    n_a: int
    n_y: int = 8
    device: str = "cpu"  # or "gpu", for torch, JAX and CuPy

    def __str__(self) -> str:
        """Show the letters of the equations."""
        return f"T={self.T}, m={self.m}, n_x={self.n_x}, n_a={self.n_a}"


class Problem(NamedTuple):
    """Arrays of NumPy, features first; `da` is the gradient of the loss with respect to `a`."""

    x: np.ndarray
    a0: np.ndarray
    parameters: dict[str, np.ndarray]
    da: np.ndarray


def make(size: Size, dtype: type = np.float32) -> Problem:
    """Draw a problem; weights of 1 / sqrt(fan-in), as networks start with, so that rounding does not grow in time."""
    T, m, n_x, n_a, n_y, _ = size
    normal = drawing(dtype=dtype)
    parameters = {f"W{k}": normal(n_a, n_a + n_x, scale=(n_a + n_x) ** -0.5) for k in "fico"}
    parameters |= {f"b{k}": normal(n_a, 1, scale=0.1) for k in "fico"}
    parameters |= {"Wy": normal(n_y, n_a, scale=n_a**-0.5), "by": normal(n_y, 1, scale=0.1)}
    return Problem(normal(n_x, m, T), normal(n_a, m, scale=0.1), parameters, normal(n_a, m, T))


def joined(parameters: dict[str, np.ndarray], size: Size) -> tuple[np.ndarray, ...]:
    """Return W_ih, W_hh and b as torch keeps them: rows i, f, g, o."""
    G = np.concatenate([parameters[f"W{k}"] for k in "ifco"])
    b = np.concatenate([parameters[f"b{k}"] for k in "ifco"])[:, 0]
    return G[:, size.n_a :], G[:, : size.n_a], b
