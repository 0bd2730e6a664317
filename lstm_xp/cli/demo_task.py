"""Learning to write names, letter by letter: the data, the loss, the optimiser, the file of weights. NumPy alone.

Every name begins and ends with a full stop, so one alphabet serves as input and as output. Arrays are those of
`lstm_xp.textbook`: features first, then names, then time.
"""

from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..formats._files import writing
from ..textbook import lstm_backward, lstm_cell, lstm_forward
from .console import read_arrays

ALPHABET = ".abcdefghijklmnopqrstuvwxyz"
STEPS = 1500
_N = len(ALPHABET)
_N_A = 96
_BATCH = 64
_RATE = 5e-3
_MAX_NORM = 1.0
_LONGEST = 20
_FORMAT = "lstm_xp names 1"

Parameters = dict[str, np.ndarray]
Names = tuple[list[str], list[str]]  # to learn from, and held out

SHAPES = {
    **{"W" + gate: (_N_A, _N_A + _N) for gate in "fico"},
    **{"b" + gate: (_N_A, 1) for gate in "fico"},
    "Wy": (_N, _N_A),
    "by": (_N, 1),
}


class Batch(NamedTuple):
    """Names as one-hot columns; past the end of a name its target is all zeros, and so is its loss."""

    x: np.ndarray  # (n_x, m, T_x)
    target: np.ndarray  # (n_y, m, T_x)


def read_names() -> Names:
    """Return the names to learn from and the held-out ones, every tenth."""
    names = resources.files("lstm_xp").joinpath("data", "names.txt").read_text(encoding="ascii").split()
    held_out = names[::10]
    return sorted(set(names) - set(held_out)), held_out


def encode(names: Sequence[str]) -> Batch:
    """Return the letters of the names and, for each of them, the letter that follows."""
    T_x = max(map(len, names)) + 1
    codes = np.array([[ALPHABET.index(letter) for letter in f".{name}.".ljust(T_x + 1, ".")] for name in names])
    counts = np.arange(T_x) <= np.array([[len(name)] for name in names])  # (m, T_x)
    return Batch(_one_hot(codes[:, :-1]), _one_hot(codes[:, 1:]) * counts)


def _one_hot(codes: np.ndarray) -> np.ndarray:
    # float64, because the gradient holds 1 / y, and y of an unlikely letter is small.
    return np.moveaxis(np.eye(_N)[codes], -1, 0)


def initial_parameters(rng: np.random.Generator) -> Parameters:
    """Return random matrices and zero biases, but ones for the forget gate: at first it remembers."""
    parameters = {
        key: np.zeros(shape) if key.startswith("b") else rng.normal(0, shape[1] ** -0.5, shape)
        for key, shape in SHAPES.items()
    }
    parameters["bf"] += 1
    return parameters


def predict(parameters: Parameters, batch: Batch) -> np.ndarray:
    """Return the probabilities (n_y, m, T_x) of the letter that follows."""
    a0 = np.zeros((_N_A, batch.x.shape[1]))
    return np.asarray(lstm_forward(batch.x, a0, parameters)[1])


def mean_loss(parameters: Parameters, batch: Batch) -> float:
    """Return the cross-entropy of the predictions."""
    return cross_entropy(predict(parameters, batch), batch.target)


def cross_entropy(y: np.ndarray, target: np.ndarray) -> float:
    """Return the mean of -log(y) of the letters that did follow: nats per letter, the final stop included."""
    return -float(np.mean(np.log(np.broadcast_to(y, target.shape)[target > 0])))


def letter_frequencies(names: Sequence[str]) -> np.ndarray:
    """Return how often each letter occurs (n_y, 1, 1): the prediction to beat."""
    counts = encode(names).target.sum(axis=(1, 2), keepdims=True)
    return np.asarray(counts / counts.sum())


def loss_and_gradients(parameters: Parameters, batch: Batch) -> tuple[float, Parameters]:
    """Return the cross-entropy and its gradients, by the names of the parameters."""
    a0 = np.zeros((_N_A, batch.x.shape[1]))
    a, y, _, caches = lstm_forward(batch.x, a0, parameters)
    dy = -batch.target / y / batch.target.sum()
    gradients = lstm_backward(np.zeros_like(a), caches, dy=dy)
    return cross_entropy(y, batch.target), {key: gradients["d" + key] for key in parameters}


def train(parameters: Parameters, names: Sequence[str], steps: int, rng: np.random.Generator) -> Iterator[float]:
    """Move the parameters in place, at a rate that falls to zero; yield the loss of every step.

    It is Adam (Kingma and Ba, 2015), after clipping the gradients to a joint norm.
    """
    beta1, beta2, epsilon = 0.9, 0.999, 1e-8
    means, squares = ({key: np.zeros_like(w) for key, w in parameters.items()} for _ in range(2))
    for t in range(1, steps + 1):
        batch = encode([names[k] for k in rng.integers(len(names), size=_BATCH)])
        loss, gradients = loss_and_gradients(parameters, batch)
        rate = _RATE * (1 - (t - 1) / steps)
        norm = np.sqrt(sum(np.sum(g * g) for g in gradients.values()))
        for key, g in gradients.items():
            g = g * min(1.0, _MAX_NORM / (norm + epsilon))
            means[key] += (1 - beta1) * (g - means[key])
            squares[key] += (1 - beta2) * (g * g - squares[key])
            mean, square = means[key] / (1 - beta1**t), squares[key] / (1 - beta2**t)
            parameters[key] -= rate * mean / (np.sqrt(square) + epsilon)
        yield loss


def invent(parameters: Parameters, count: int, rng: np.random.Generator) -> list[str]:
    """Draw names, letter after letter."""
    a, c = np.zeros((2, _N_A, count))
    codes = [np.zeros(count, dtype=int)]
    for _ in range(_LONGEST):
        a, c, y, _ = lstm_cell(_one_hot(codes[-1]), a, c, parameters)
        codes.append(np.argmax(np.cumsum(y, axis=0) > rng.random(count), axis=0))
    texts = ["".join(ALPHABET[code] for code in row) for row in np.transpose(codes[1:])]
    return [text.split(".")[0] for text in texts]


def save(path: Path, parameters: Parameters) -> None:
    """Write the weights into an `.npz` that appears whole or not at all."""
    content: dict[str, Any] = {"format": np.array(_FORMAT), "alphabet": np.array(ALPHABET), **parameters}
    with writing(path) as file:
        np.savez(file, **content)


def load(path: Path) -> Parameters:
    """Read weights that `save` wrote."""
    arrays = read_arrays(path)
    if str(arrays.get("format")) != _FORMAT or str(arrays.get("alphabet")) != ALPHABET:
        raise ValueError(f"cannot use {path}: not a file that `lstm-xp demo --save` wrote")
    for key, shape in SHAPES.items():
        if key not in arrays:
            raise ValueError(f"cannot use {path}: {key} is missing")
        array = arrays[key]
        if array.dtype != np.float64 or array.shape != shape:
            raise ValueError(f"cannot use {path}: {key} must be float64 {shape}; got {array.dtype} {array.shape}")
        if not np.all(np.isfinite(array)):
            raise ValueError(f"cannot use {path}: {key} must be finite")
    return {key: arrays[key] for key in SHAPES}
