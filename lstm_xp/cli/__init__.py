"""The command line: `lstm-xp`."""

import argparse
import os
import sys
from collections.abc import Sequence

from .. import __version__
from . import convert, demo, info, run, selfcheck
from .console import CommandError

# Each command is a module with `HELP`, `add_arguments(parser)` and `run(arguments) -> exit status`.
_COMMANDS = {"demo": demo, "check": selfcheck, "info": info, "convert": convert, "run": run}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments; those of the process by default.

    Returns
    -------
    int
        The exit status: 0, 1 after a failure or a disagreement, 130 after Ctrl-C.

    Raises
    ------
    SystemExit
        From argparse: status 2 after a wrong argument, 0 after ``--help`` and ``--version``.
    """
    parser = _parser()
    arguments = parser.parse_args(argv)
    try:
        status = _execute(parser, arguments)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except CommandError as error:
        return _fail(str(error), 1)
    except OSError as error:
        _abandon_stdout()
        return _fail(error.strerror or str(error), 1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lstm-xp", description="The LSTM, written once for every array library.")
    parser.add_argument("--version", action="version", version=f"lstm-xp {__version__}")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="command")
    for name, command in _COMMANDS.items():
        command.add_arguments(commands.add_parser(name, help=command.HELP, description=command.HELP))
    return parser


def _execute(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> int:
    if arguments.command is None:
        print(parser.format_help(), end="")  # argparse's own print hides a full disk
        return 0
    status: int = _COMMANDS[arguments.command].run(arguments)
    return status


def _fail(message: str, status: int) -> int:
    print(f"lstm-xp: {message}", file=sys.stderr)
    return status


def _abandon_stdout() -> None:
    """Drop what standard output could not take, or Python fails on it once more as it exits."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
