"""The console script `ntt`."""

import errno
from collections.abc import Sequence

import click

from ntt import __version__
from ntt.base.garbage import leave_quickly
from ntt.base.log import lenient_stdout
from ntt.cli.backbone import backbone
from ntt.cli.data import data
from ntt.cli.export import export
from ntt.cli.references import references
from ntt.cli.report import report
from ntt.cli.run import run
from ntt.cli.store import store
from ntt.cli.sweep import sweep
from ntt.cli.weights import weights
from ntt.errors import EXIT_INTERRUPTED, EXIT_USER_ERROR, NttError, printable

# A disk or its owner refuses; commands may meet this with any file.
_REFUSALS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.ENAMETOOLONG)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120, "show_default": True})
@click.version_option(__version__, prog_name="ntt", message="%(prog)s %(version)s")
def ntt() -> None:
    """Training-free, reference-based instance segmentation.

    Completion on <TAB>: eval "$(ntt run -sc install=bash)", or zsh, or fish.
    """


for command in (backbone, data, export, references, report, run, store, sweep, weights):
    ntt.add_command(command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command, by default that of this process's command line, and return the exit status.

    0; 1 for a check that found something; 2 for a user's error; 130 for Ctrl-C.
    """
    leave_quickly()
    lenient_stdout()
    try:
        return ntt.main(arguments, prog_name="ntt", standalone_mode=False) or 0
    except click.Abort:
        click.echo("Interrupted. Run the same command again to resume.", err=True)
        return EXIT_INTERRUPTED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except NttError as error:
        click.echo(f"Error: {error}", err=True)
        return EXIT_USER_ERROR
    except OSError as error:
        path = error.filename2 or error.filename  # of a copy, the target
        if error.errno not in _REFUSALS or path is None:
            raise
        reason = f"{printable(str(path))} cannot be used: {error.strerror}"
        click.echo(f"Error: {reason}. Change that, or name another folder.", err=True)
        return EXIT_USER_ERROR
