"""The command line: `lstm-xp`."""

import argparse
import sys
from collections.abc import Sequence
from contextlib import suppress

from .. import __version__
from . import convert, demo, info, run, selfcheck
from .console import printable
from .process import standard_streams, stop_signals, verdict

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
        The exit status: 0, 1 after a failure or a disagreement, 128 + n after the signal n: 130 after Ctrl-C.

    Raises
    ------
    SystemExit
        From argparse: status 2 after a wrong argument, 0 after ``--help`` and ``--version``.
    """
    with standard_streams():
        try:
            with stop_signals():
                try:
                    arguments = _parser().parse_args(argv)
                    return int(arguments.run(arguments))
                finally:
                    sys.stdout.flush()
        except (KeyboardInterrupt, ValueError, ModuleNotFoundError, OSError) as error:  # what a person can put right
            message, status = verdict(error)
        with suppress(OSError):
            print(f"lstm-xp: {printable(message)}", file=sys.stderr)
        return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lstm-xp", description="The LSTM, written once for every array library.")
    parser.add_argument("--version", action="version", version=f"lstm-xp {__version__}")

    def show_help(_: argparse.Namespace) -> int:
        print(parser.format_help(), end="")  # argparse's own print hides a full disk
        return 0

    parser.set_defaults(run=show_help)  # without a command
    commands = parser.add_subparsers(title="commands", metavar="command")
    for name, command in _COMMANDS.items():
        subparser = commands.add_parser(name, help=command.HELP, description=command.HELP)
        subparser.set_defaults(run=command.run)
        command.add_arguments(subparser)
    return parser
