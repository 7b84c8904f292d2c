"""`ntt sweep`: many runs that share what is expensive, here or on a cluster."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ntt.cli.output import echo
from ntt.errors import ConfigError
from ntt.reports.tables import SUFFIXES, render
from ntt.sweeps import slurm
from ntt.sweeps.collect import collect_tables, write_tables
from ntt.sweeps.desk import (
    DEFAULT_ROOT,
    all_sweeps,
    is_sweep_file,
    keep_plan,
    look_again,
    observer_of,
    open_sweep,
    plan_file,
)
from ntt.sweeps.local import run_local
from ntt.sweeps.plan import Plan, read_plan
from ntt.sweeps.state import SweepFolder
from ntt.sweeps.status import SweepStatus, sweep_status
from ntt.sweeps.text import counted, list_text, plan_text, status_text

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

_EPILOG = """
examples:
  ntt sweep plan sweeps/demo_small.yaml                 what it would do
  ntt sweep run sweeps/demo_small.yaml --processes 4    do it here; the same again goes on where it stopped
  ntt sweep submit sweeps/seeds_shots.yaml dataset.root=/data/my_set --cluster gpu_a100
  ntt sweep status demo_small                           points by state, time gone and left
  ntt sweep retry demo_small                            again what failed or got lost
  ntt sweep collect demo_small                          the tables
"""


def add_sweep_commands(subparsers: "Subparsers") -> None:
    """Add `sweep plan|run|submit|status|collect|retry|cancel|list` to the commands of a parser."""
    sweep = subparsers.add_parser(
        "sweep",
        help="many runs that share what is expensive, here or on a cluster",
        description=__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = sweep.add_subparsers(required=True, metavar="ACTION")
    _add_plan(actions)
    _add_run(actions)
    _add_submit(actions)
    _add_status(actions)
    _add_others(actions)


def _add_plan(actions: "Subparsers") -> None:
    plan = actions.add_parser("plan", help="print points, shared work, what is there already, jobs and hours")
    _add_file(plan, "sweep file")
    plan.set_defaults(handler=_plan)


def _add_run(actions: "Subparsers") -> None:
    run = actions.add_parser("run", help="do a sweep on this machine; interrupted, it goes on when called again")
    _add_file(run, "sweep file, or the name of a sweep that was planned before")
    run.add_argument("--processes", type=int, default=1, metavar="N", help="processes (default: %(default)s)")
    run.set_defaults(handler=_run)


def _add_submit(actions: "Subparsers") -> None:
    submit = actions.add_parser("submit", help="send a sweep to a SLURM cluster and return")
    _add_file(submit, "sweep file, or the name of a sweep that was planned before")
    _add_cluster(submit)
    submit.add_argument("--dry-run", action="store_true", help="print the sbatch scripts and submit nothing")
    submit.set_defaults(handler=_submit)


def _add_status(actions: "Subparsers") -> None:
    status = actions.add_parser("status", help="print points by state, time gone and left")
    _add_name(status)
    status.add_argument("--verbose", action="store_true", help="tracebacks and finished points, too")
    status.set_defaults(handler=_status)


def _add_others(actions: "Subparsers") -> None:
    collect = actions.add_parser("collect", help="print the tables of a sweep, and what is missing from them")
    _add_name(collect)
    collect.add_argument("--metric", default="bbox/AP", help="of the table of single points (default: %(default)s)")
    collect.add_argument("--format", choices=tuple(SUFFIXES), default="markdown")
    collect.set_defaults(handler=_collect)
    retry = actions.add_parser(
        "retry", help="do again what failed, was cancelled or got lost, where it was done before"
    )
    _add_name(retry)
    _add_cluster(retry)
    retry.add_argument("--processes", type=int, default=1, metavar="N", help="of a sweep on this machine (default: 1)")
    retry.set_defaults(handler=_retry)
    cancel = actions.add_parser("cancel", help="end the jobs of a sweep on a cluster; what is finished stays")
    _add_name(cancel)
    cancel.set_defaults(handler=_cancel)
    names = actions.add_parser("list", help="print all sweeps and how far they are")
    _add_root(names)
    names.set_defaults(handler=_list)


def _add_file(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("sweep", metavar="SWEEP", help=what)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings of all points, as for main.py")
    parser.add_argument("--name", help="of the sweep, instead of the file's")
    _add_root(parser)


def _add_name(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sweep", metavar="SWEEP", help="name of a sweep, its folder, or its file")
    _add_root(parser)


def _add_root(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output-root",
        type=Path,
        default=DEFAULT_ROOT,
        metavar="FOLDER",
        help="where sweeps are looked for by name: runtime.output_root of their points (default: %(default)s)",
    )


def _add_cluster(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cluster", metavar="PROFILE", help="cluster profile, instead of the file's")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a value of the cluster profile, such as partition=long; may be given several times",
    )


def _plan(args: argparse.Namespace) -> int:
    folder, plan = plan_file(Path(args.sweep), args.overrides, name=args.name)
    echo(plan_text(folder, plan))
    return 0


def _run(args: argparse.Namespace) -> int:
    folder, plan = _open(args)
    return _do_here(folder, plan, args.processes)


def _submit(args: argparse.Namespace) -> int:
    if args.dry_run:
        folder, plan = plan_file(Path(args.sweep), args.overrides, name=args.name)
        echo("\n".join(slurm.dry_run(folder, plan, cluster=args.cluster, overrides=args.set)))
        return 0
    folder, plan = _open(args)
    return _send(folder, plan, args)


def _status(args: argparse.Namespace) -> int:
    folder = open_sweep(args.sweep, args.output_root)
    plan = read_plan(folder)
    try:
        status = sweep_status(folder, plan, observe=observer_of(folder))
    except ConfigError as error:  # whoever submits must know the queue; who only looks can do without
        echo(f"The queue cannot be asked, so this is what the jobs themselves have written: {error}\n")
        status = sweep_status(folder, plan)
    echo(status_text(folder, plan, status, verbose=args.verbose))
    return 0


def _collect(args: argparse.Namespace) -> int:
    folder = open_sweep(args.sweep, args.output_root)
    tables = collect_tables(folder, metric=args.metric)
    written = write_tables(folder, tables)
    shown = [table for table in tables if table.name != "runs"]
    echo("\n".join(render(table, args.format) for table in shown).rstrip())
    echo(f"\nAll tables, also of single points: {written[0].parent}")
    return 0


def _retry(args: argparse.Namespace) -> int:
    folder = open_sweep(args.sweep, args.output_root)
    plan = look_again(folder)
    if folder.jobs.is_file() or args.cluster is not None:
        return _send(folder, plan, args)
    return _do_here(folder, plan, args.processes)


def _cancel(args: argparse.Namespace) -> int:
    folder = open_sweep(args.sweep, args.output_root)
    if not folder.jobs.is_file():
        raise ConfigError(
            f"{folder.root.name} was not submitted to a cluster. A sweep that runs here is ended with Ctrl-C where it "
            "was started."
        )
    ended = slurm.cancel(folder)
    echo(f"Ended {counted(len(ended), 'job')}." if ended else "No job of this sweep waits or runs.")
    return 0


def _list(args: argparse.Namespace) -> int:
    rows = [(folder, read_plan(folder), _status_of(folder)) for folder in all_sweeps(args.output_root)]
    echo(list_text(rows, args.output_root))
    return 0


def _open(args: argparse.Namespace) -> tuple[SweepFolder, Plan]:
    """Plan a sweep file and keep the plan, or look at a known sweep again."""
    if is_sweep_file(args.sweep):
        folder, plan = plan_file(Path(args.sweep), args.overrides, name=args.name)
        change = keep_plan(folder, plan)
        if change is not None:
            echo(change)
        return folder, plan
    if args.overrides or args.name:
        raise ConfigError(
            f"{args.sweep} is a sweep that was planned before, so its settings are fixed. Give the sweep file to plan "
            "with other settings."
        )
    folder = open_sweep(args.sweep, args.output_root)
    return folder, look_again(folder)


def _send(folder: SweepFolder, plan: Plan, args: argparse.Namespace) -> int:
    made = slurm.submit(folder, plan, cluster=args.cluster, overrides=args.set)
    for array in made.arrays:
        echo(f"submitted {array.stage:<11} job {array.job_id}, {counted(len(array.jobs), 'task')}")
    if not made.arrays:
        echo("Nothing to submit: everything is done or in the queue.")
    elif made.left_alone:
        echo(f"In the queue already and left alone: {counted(len(made.left_alone), 'task')}.")
    echo(f"See how it is with: ntt sweep status {folder.root.name}")
    return 0


def _do_here(folder: SweepFolder, plan: Plan, processes: int) -> int:
    if processes < 1:
        raise ConfigError(f"--processes {processes} is not possible: allowed is 1 or more. Leave it out for 1.")
    with _ProgressLine() as line:
        run_local(folder, plan, processes=processes, on_change=line.show)
    status = _status_of(folder)
    echo(status_text(folder, plan, status))
    unfinished = len(plan.points) - status.counts["done"]
    if unfinished:
        echo(f"{unfinished} of {counted(len(plan.points), 'point')} without a result.")
        echo(f"Again: ntt sweep retry {folder.root.name}")
    else:
        echo(f"The tables: ntt sweep collect {folder.root.name}")
    return 1 if unfinished else 0


def _status_of(folder: SweepFolder) -> SweepStatus:
    return sweep_status(folder, read_plan(folder), observe=observer_of(folder))


class _ProgressLine:
    """One line that is renewed on a terminal; elsewhere a line whenever something has changed."""

    def __enter__(self) -> "_ProgressLine":
        """Begin with nothing shown."""
        self._last = ""
        return self

    def __exit__(self, *error: object) -> None:
        """Leave the last line standing."""
        if sys.stderr.isatty() and self._last:
            sys.stderr.write("\n")

    def show(self, text: str) -> None:
        """Show how far everything is."""
        if text == self._last:
            return
        self._last = text
        sys.stderr.write(f"\r\033[K{text}" if sys.stderr.isatty() else f"{text}\n")
        sys.stderr.flush()
