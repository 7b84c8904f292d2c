"""`ntt sweep`: many runs that share expensive work, here or on a cluster."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ntt.base.project import OUTPUT_ROOT
from ntt.cli.options import FORMAT, PATH, overrides_argument
from ntt.errors import ConfigError, counted

if TYPE_CHECKING:
    from ntt.reports.tables import Format
    from ntt.sweeps.plan import Plan
    from ntt.sweeps.state import SweepFolder

_sweep_argument = click.argument("sweep", metavar="SWEEP")
_name_option = click.option("--name", metavar="NAME", help="Of the sweep, instead of the file's.")
_root_option = click.option(
    "--output-root",
    type=PATH,
    default=OUTPUT_ROOT,
    metavar="FOLDER",
    help="Folder to search for sweeps by name: runtime.output_root of their points.",
)
_processes_option = click.option(
    "--processes", type=click.IntRange(min=1), default=1, metavar="N", help="On this machine."
)
_cluster_option = click.option("--cluster", metavar="PROFILE", help="Cluster profile, instead of the file's.")
_set_option = click.option(
    "--set",
    "cluster_overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a value of the cluster profile, such as partition=long; may be repeated.",
)


@click.group()
def sweep() -> None:
    """Many runs that share expensive work, here or on a cluster.

    SWEEP is a sweep file, or the name or folder of an existing sweep. KEY=VALUE are settings of all points.

    \b
    ntt sweep plan sweeps/demo_small.yaml               what it would do
    ntt sweep run sweeps/demo_small.yaml --processes 4  run it here; repeated, it resumes where it stopped
    ntt sweep submit sweeps/seeds_shots.yaml dataset.root=/data/my_set --cluster gpu_a100
    ntt sweep status demo_small                         points by state, time elapsed and left
    ntt sweep retry demo_small                          repeat what failed or was lost
    ntt sweep collect demo_small                        the tables
    """


@sweep.command()
@_sweep_argument
@overrides_argument
@_name_option
def plan(sweep: str, overrides: tuple[str, ...], name: str | None) -> None:
    """Print points, shared work, existing results, jobs and hours."""
    from ntt.sweeps.plan import plan_file
    from ntt.sweeps.status import plan_text

    click.echo(plan_text(*plan_file(Path(sweep), overrides, name=name)))


@sweep.command()
@_sweep_argument
@overrides_argument
@_name_option
@_root_option
@_processes_option
def run(sweep: str, overrides: tuple[str, ...], name: str | None, output_root: Path, processes: int) -> int:
    """Run a sweep on this machine. After an interruption, the same command resumes."""
    return _run_here(*_open(sweep, overrides, name, output_root), processes)


@sweep.command()
@_sweep_argument
@overrides_argument
@_name_option
@_root_option
@_cluster_option
@_set_option
@click.option("--dry-run", is_flag=True, help="Print the sbatch scripts and submit nothing.")
def submit(
    sweep: str,
    overrides: tuple[str, ...],
    name: str | None,
    output_root: Path,
    cluster: str | None,
    cluster_overrides: tuple[str, ...],
    dry_run: bool,
) -> None:
    """Send a sweep to a SLURM cluster and return."""
    from ntt.sweeps import slurm

    planned = _open(sweep, overrides, name, output_root, writes=not dry_run)
    if dry_run:
        scripts = slurm.dry_run(*planned, cluster=cluster, overrides=cluster_overrides)
        click.echo("\n".join(scripts) or "Nothing to submit: everything is done.")
    else:
        _submit(*planned, cluster, cluster_overrides)


@sweep.command()
@_sweep_argument
@_root_option
@click.option("--verbose", is_flag=True, help="Tracebacks and finished points, too.")
def status(sweep: str, output_root: Path, verbose: bool) -> None:
    """Print points by state, time elapsed and left."""
    from ntt.sweeps.plan import open_sweep, read_plan
    from ntt.sweeps.status import status_text, sweep_status

    folder = open_sweep(sweep, output_root)
    plan = read_plan(folder)
    try:
        status = sweep_status(folder, plan)
    except ConfigError as error:  # submitting needs the queue, a mere status does not
        click.echo(f"The queue cannot be queried, so this is only what the jobs themselves have written: {error}\n")
        status = sweep_status(folder, plan, asks_queue=False)
    click.echo(status_text(folder, plan, status, verbose=verbose))


@sweep.command()
@_sweep_argument
@_root_option
@click.option("--metric", default="bbox/AP", help="Of the table of single points.")
@click.option("--format", "table_format", type=FORMAT, default="markdown", help="Of the tables.")
def collect(sweep: str, output_root: Path, metric: str, table_format: "Format") -> None:
    """Print the tables of a sweep, and what is missing from them."""
    from ntt.cli.report_files import report_tables, write_files
    from ntt.reports.tables import render
    from ntt.sweeps.plan import open_sweep
    from ntt.sweeps.records import read_runs

    folder = open_sweep(sweep, output_root)
    runs = read_runs([folder.root])
    tables = report_tables(runs, metric, compare=(), expected=False)
    click.echo("\n".join(render(table, table_format) for table in tables).rstrip())
    for suffix in ("md", "csv"):
        (folder.tables / f"missing.{suffix}").unlink(missing_ok=True)  # of an earlier call
    write_files(folder.tables, tables, runs, metric, "markdown", plots=())
    write_files(folder.tables, tables, runs, metric, "csv", plots=())
    click.echo(f"\nAll tables, also of single points: {folder.tables}")


@sweep.command()
@_sweep_argument
@_root_option
@_cluster_option
@_set_option
@_processes_option
def retry(
    sweep: str, output_root: Path, cluster: str | None, cluster_overrides: tuple[str, ...], processes: int
) -> int:
    """Repeat what failed, was cancelled or was lost. On the machine or cluster used before."""
    from ntt.sweeps.plan import open_sweep, refresh

    folder = open_sweep(sweep, output_root)
    plan = refresh(folder)
    if folder.jobs.is_file() or cluster is not None:
        _submit(folder, plan, cluster, cluster_overrides)
        return 0
    return _run_here(folder, plan, processes)


@sweep.command()
@_sweep_argument
@_root_option
def cancel(sweep: str, output_root: Path) -> None:
    """End the jobs of a sweep on a cluster; what is finished stays."""
    from ntt.sweeps import slurm
    from ntt.sweeps.plan import open_sweep

    folder = open_sweep(sweep, output_root)
    if not folder.jobs.is_file():
        raise ConfigError(
            f"{folder.root.name} was not submitted to a cluster. A sweep that runs here is ended with Ctrl-C where it "
            "was started."
        )
    jobs = slurm.cancel(folder)
    click.echo(f"Ended {counted(len(jobs), 'job')}." if jobs else "No job of this sweep waits or runs.")


def _open(
    sweep: str, overrides: Sequence[str], name: str | None, output_root: Path, *, writes: bool = True
) -> "tuple[SweepFolder, Plan]":
    """Plan a sweep file and write the plan, or update that of an existing sweep; unless it `writes`, only read it."""
    from ntt.sweeps.plan import is_sweep_file, keep_plan, open_sweep, plan_file, read_plan, refresh

    if is_sweep_file(sweep):
        folder, plan = plan_file(Path(sweep), overrides, name=name)
        change = keep_plan(folder, plan) if writes else None
        if change is not None:
            click.echo(change)
        return folder, plan
    if overrides or name:
        raise ConfigError(
            f"{sweep} is a sweep that was planned before, so its settings are fixed. Give the sweep file to plan with "
            "other settings."
        )
    folder = open_sweep(sweep, output_root)
    return folder, refresh(folder) if writes else read_plan(folder)


def _submit(folder: "SweepFolder", plan: "Plan", cluster: str | None, overrides: Sequence[str]) -> None:
    from ntt.sweeps import slurm

    arrays, queued = slurm.submit(folder, plan, cluster=cluster, overrides=overrides)
    for array in arrays:
        click.echo(f"submitted {array.stage:<11} job {array.job_id}, {counted(len(array.jobs), 'task')}")
    if not arrays:
        click.echo("Nothing to submit: everything is done or in the queue.")
    elif queued:
        click.echo(f"In the queue already and left alone: {counted(len(queued), 'task')}.")
    click.echo(f"See how it is with: ntt sweep status {folder.argument}")


def _run_here(folder: "SweepFolder", plan: "Plan", processes: int) -> int:
    from tqdm import tqdm

    from ntt.sweeps.local import run_local
    from ntt.sweeps.status import status_text, sweep_status

    with tqdm(bar_format="{desc}", disable=None) as line:  # of a terminal; elsewhere each change is a line of its own
        show = partial(click.echo, err=True) if line.disable else line.set_description_str
        run_local(folder, plan, processes=processes, on_change=show)
    status = sweep_status(folder, plan)
    click.echo(status_text(folder, plan, status))
    unfinished = len(plan.points) - status.counts["done"]
    if unfinished:
        click.echo(f"{unfinished} of {counted(len(plan.points), 'point')} without a result.")
        click.echo(f"Again: ntt sweep retry {folder.argument}")
    else:
        click.echo(f"The tables: ntt sweep collect {folder.argument}")
    return 1 if unfinished else 0
