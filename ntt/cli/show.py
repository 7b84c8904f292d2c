"""`ntt show`: the metrics of a finished run."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ntt.cli.output import echo
from ntt.errors import DataError
from ntt.run.artefacts import read_metrics
from ntt.run.rundir import RunDirectory
from ntt.run.table import metrics_table

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def add_show_command(subparsers: "Subparsers") -> None:
    """Add `show` to the commands of a parser."""
    show = subparsers.add_parser("show", help="print the metrics of a finished run", description=__doc__)
    show.add_argument("run", type=Path, metavar="RUN_DIRECTORY")
    show.set_defaults(handler=_show)


def _show(args: argparse.Namespace) -> int:
    directory = RunDirectory(args.run)
    if not directory.metrics.is_file():
        raise DataError(
            f"{args.run} holds no metrics.json, so it is not the folder of a finished run. Give the folder that "
            "`python main.py` names at its end, or start the run again to finish it."
        )
    echo(metrics_table(read_metrics(directory.metrics)))
    return 0
