"""What the program asks of its process, and gives back: streams that take every text, signals that let it clean up."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import TextIOWrapper
from types import FrameType
from typing import TextIO

_STOPS = {"SIGINT": "interrupted", "SIGTERM": "terminated", "SIGHUP": "hung up"}
_USUAL = (signal.SIG_DFL, signal.default_int_handler)  # neither ignored, as by nohup, nor somebody else's


@contextmanager
def standard_streams() -> Iterator[None]:
    """Let streams that are closed lead nowhere, and escape what the encoding of standard output lacks."""
    with ExitStack() as stack:
        for name in ("stdin", "stdout", "stderr"):  # in this order: a file would take the number of a closed one
            if getattr(sys, name) is None:
                stack.callback(setattr, sys, name, None)
                setattr(sys, name, stack.enter_context(open(os.devnull, "w")))
        if isinstance(sys.stdout, TextIOWrapper):  # standard error does it by itself
            stack.callback(sys.stdout.reconfigure, errors=sys.stdout.errors)
            sys.stdout.reconfigure(errors="backslashreplace")
        for stream in (sys.stdout, sys.stderr):
            stack.callback(_abandon, stream)
        yield


def _abandon(stream: TextIO) -> None:
    """Drop what a stream could not take, or Python fails on it once more as it exits."""
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextmanager
def stop_signals() -> Iterator[None]:
    """Let what stops a program raise KeyboardInterrupt(number), so that everything is cleaned up as after Ctrl-C."""
    with ExitStack() as stack:
        for number in signal.Signals:
            usual = number.name in _STOPS and signal.getsignal(number) in _USUAL
            if usual and threading.current_thread() is threading.main_thread():
                stack.callback(signal.signal, number, signal.signal(number, _stop))
        yield


def _stop(number: int, _: FrameType | None) -> None:
    if stop_behind(sys.exception()) is None:  # else one is on its way, and what cleans up must come to its end
        raise KeyboardInterrupt(number)


def stop_behind(error: BaseException | None) -> KeyboardInterrupt | None:
    """Return what a signal has raised, where an error is that, or came up while that was on its way."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error


def verdict(error: BaseException) -> tuple[str, int]:
    """Return what to say of an error, and the exit status."""
    stop = stop_behind(error)
    if stop is None:
        return words(error), 1
    number = signal.Signals(stop.args[0] if stop.args else signal.SIGINT)
    return _STOPS[number.name], 128 + number


def words(error: BaseException) -> str:
    """Return what to say of an error."""
    if not isinstance(error, OSError):
        return " ".join(str(error).split())
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}"
