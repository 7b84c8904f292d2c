"""The console script `ntt`: everything that is not an experiment run. Experiments are run by `python main.py`."""

import argparse
import sys
from collections.abc import Sequence

from ntt import __version__
from ntt.base.standard_streams import reader_has_gone
from ntt.cli.backbone import add_backbone_commands
from ntt.cli.data import add_data_commands
from ntt.cli.parser import CommandParser
from ntt.cli.report import add_report_command
from ntt.cli.show import add_show_command
from ntt.cli.store import add_store_commands
from ntt.cli.sweep import add_sweep_commands
from ntt.cli.weights import add_weights_commands
from ntt.errors import EXIT_USER_ERROR, NttError

EXIT_READER_GONE = 141
"""What a shell reports of a program that SIGPIPE ended."""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; each command sets `handler`, which takes the parsed arguments."""
    parser: argparse.ArgumentParser = CommandParser(prog="ntt", description=__doc__)
    parser.add_argument("--version", action="version", version=f"ntt {__version__}")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    add_backbone_commands(subparsers)
    add_data_commands(subparsers)
    add_report_command(subparsers)
    add_show_command(subparsers)
    add_store_commands(subparsers)
    add_sweep_commands(subparsers)
    add_weights_commands(subparsers)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: the command line without the program's name; None: that of this process.

    Returns:
        The exit status: 0, 1 for a check that found something, 2 for an error of the user, 130 and 141 where the user
        or the reader of the output went away.
    """
    args = build_parser().parse_args(arguments)
    try:
        status: int = args.handler(args)
        sys.stdout.flush()
    except NttError as error:
        sys.stderr.write(f"\nError: {error}\n")
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        if not reader_has_gone(sys.stdout.fileno()):
            raise
        return EXIT_READER_GONE
    return status
