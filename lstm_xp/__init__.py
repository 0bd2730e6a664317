"""The LSTM, written once for every array library."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._equations.records import Trace
from .layers import lstm, lstm_vjp
from .model import LSTM, Cell, Layer, LSTMState, LSTMWeights
from .states import gather_states, scatter_states
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

if TYPE_CHECKING:
    from .formats import Entry, inspect, load, save

__version__ = "0.6.2"

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
    "gather_states",
    "inspect",
    "load",
    "lstm",
    "lstm_backward",
    "lstm_cell",
    "lstm_cell_backward",
    "lstm_forward",
    "lstm_vjp",
    "save",
    "scatter_states",
    "sigmoid",
    "softmax",
]


def __getattr__(name: str) -> Any:
    """Import what reads and writes files when it is asked for: it takes as long as all the rest."""
    if name in ("formats", "Entry", "inspect", "load", "save"):
        formats = import_module(f"{__name__}.formats")
        return formats if name == "formats" else getattr(formats, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
