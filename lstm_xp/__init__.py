"""The LSTM, written once for every array library."""

from .textbook import (
    LSTMCache,
    LSTMCaches,
    LSTMSteps,
    lstm_backward,
    lstm_cell,
    lstm_cell_backward,
    lstm_forward,
    sigmoid,
    softmax,
)

__version__ = "0.1.0"

__all__ = [
    "LSTMCache",
    "LSTMCaches",
    "LSTMSteps",
    "lstm_backward",
    "lstm_cell",
    "lstm_cell_backward",
    "lstm_forward",
    "sigmoid",
    "softmax",
]
