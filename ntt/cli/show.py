"""`ntt show`: the metrics of a finished run."""

from pathlib import Path

import click

from ntt.cli.options import PATH
from ntt.errors import DataError


@click.command()
@click.argument("run", type=PATH, metavar="RUN_DIRECTORY")
def show(run: Path) -> None:
    """Print the metrics of a finished run."""
    from ntt.run.artefacts import read_metrics
    from ntt.run.rundir import RunDirectory
    from ntt.run.table import metrics_table

    directory = RunDirectory(run)
    if not directory.metrics.is_file():
        raise DataError(
            f"{run} has no metrics.json, so it is not the folder of a finished run. Give the folder that the run "
            "named at its end, or start the run again to finish it."
        )
    click.echo(metrics_table(read_metrics(directory.metrics)))
