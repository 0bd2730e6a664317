"""The LSTM, written once for every array library."""

from ._network import lstm, lstm_vjp
from ._structure import Trace
from .formats import Entry, inspect, load, save
from .model import LSTM, Cell, Layer, LSTMState, LSTMWeights
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

__version__ = "0.2.0"

__all__ = [
    "LSTM",
    "Cell",
    "Entry",
    "LSTMCache",
    "LSTMCaches",
    "LSTMState",
    "LSTMSteps",
    "LSTMWeights",
    "Layer",
    "Trace",
    "inspect",
    "load",
    "lstm",
    "lstm_backward",
    "lstm_cell",
    "lstm_cell_backward",
    "lstm_forward",
    "lstm_vjp",
    "save",
    "sigmoid",
    "softmax",
]
