"""`ntt report`: tables, plots and a page of finished runs, and what is missing."""

import argparse
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from ntt.base.files import write_text
from ntt.cli.output import echo
from ntt.errors import ConfigError
from ntt.reports.content import (
    classes_table,
    comparison_table,
    metric_label,
    missing_table,
    results_table,
    runs_table,
)
from ntt.reports.expected import expected_table
from ntt.reports.gallery import GalleryLimits, make_gallery
from ntt.reports.page import Page, render_page
from ntt.reports.plots import make_plots, save_plots
from ntt.reports.summary import metric_names
from ntt.reports.tables import SUFFIXES, Table, render
from ntt.sweeps.records import read_runs

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

_EPILOG = """
examples:
  ntt report outputs                                    every run below the folder
  ntt report outputs/sweeps/demo_small                  a sweep, with the points that are missing
  ntt report outputs --compare matcher.merging=hard matcher.merging=soft_semantic
  ntt report outputs --out report --plots --format latex
  ntt report outputs --html report.html
  ntt report outputs --expected                         beside the published values
"""


def add_report_command(subparsers: "Subparsers") -> None:
    """Add `report` to the commands of a parser."""
    report = subparsers.add_parser(
        "report",
        help="means over seeds, comparisons, plots and a page of finished runs",
        description=__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    report.add_argument("folders", type=Path, nargs="+", metavar="RUNS_OR_SWEEP")
    report.add_argument("--metric", default="bbox/AP", help="what comparisons and plots show (default: %(default)s)")
    report.add_argument(
        "--compare",
        nargs=2,
        action="append",
        default=[],
        metavar=("A", "B"),
        help="difference of two settings, KEY=VALUE each, paired over seeds; may be given several times",
    )
    report.add_argument("--expected", action="store_true", help="compare with the published values")
    report.add_argument(
        "--format", choices=tuple(SUFFIXES), default="markdown", help="of the tables (default: %(default)s)"
    )
    report.add_argument("--out", type=Path, metavar="DIR", help="write tables (and plots) into this folder")
    report.add_argument("--plots", action="store_true", help="draw plots, PNG and PDF, into the folder of --out")
    report.add_argument("--html", type=Path, metavar="FILE", help="write one self-contained page with a gallery")
    report.add_argument(
        "--gallery-images",
        type=int,
        default=GalleryLimits.images,
        metavar="N",
        help="of a data set (default: %(default)s)",
    )
    report.set_defaults(handler=_report)


def _report(args: argparse.Namespace) -> int:
    _check(args)
    runs = read_runs(args.folders)
    _check_metric(args.metric, runs)
    tables = _tables(args, runs)
    if args.out is None:
        echo("\n".join(render(table, args.format) for table in tables).rstrip())
    else:
        details = [classes_table(runs, args.metric), runs_table(runs, args.metric)]
        _write_files(args, [*tables, *details], runs)
    if args.html is not None:
        _write_page(args, tables, runs)
    return 0


def _check(args: argparse.Namespace) -> None:
    if args.plots and args.out is None:
        raise ConfigError("--plots draws into a folder: add --out DIR. A page with the plots in it: --html FILE.")
    if args.gallery_images < 0:
        raise ConfigError(
            f"--gallery-images {args.gallery_images} is not possible: allowed is 0 or more. 0: no gallery."
        )
    if args.html is not None and args.html.is_dir():
        raise ConfigError(f"--html {args.html} is a folder. Name a file, for example {args.html / 'report.html'}.")


def _check_metric(metric: str, runs: pd.DataFrame) -> None:
    known = metric_names(runs)
    if known and metric not in known:
        raise ConfigError(f"--metric {metric}: no run has it. Allowed is one of {', '.join(known)}. Choose one.")


def _tables(args: argparse.Namespace, runs: pd.DataFrame) -> list[Table]:
    tables = [results_table(runs, args.metric)]
    tables += [comparison_table(runs, first, second, args.metric) for first, second in args.compare]
    if args.expected:
        tables.append(expected_table(runs))
    missing = missing_table(runs)
    return tables if missing is None else [*tables, missing]


def _write_files(args: argparse.Namespace, tables: Sequence[Table], runs: pd.DataFrame) -> None:
    names: dict[str, int] = {}
    for table in tables:
        number = names[table.name] = names.get(table.name, 0) + 1
        stem = table.name if number == 1 else f"{table.name}_{number}"
        path = args.out / f"{stem}{SUFFIXES[args.format]}"
        write_text(path, render(table, args.format))
        echo(f"table          {path}")
    for path in save_plots(make_plots(runs, args.metric), args.out) if args.plots else ():
        echo(f"plot           {path}")


def _write_page(args: argparse.Namespace, tables: Sequence[Table], runs: pd.DataFrame) -> None:
    finished = (runs.state == "finished").sum()
    made = datetime.now(timezone.utc).isoformat(sep=" ", timespec="minutes").removesuffix("+00:00")
    details = [classes_table(runs, args.metric), runs_table(runs, args.metric)]
    page = Page(
        title=f"Report: {', '.join(folder.name or str(folder) for folder in args.folders)}",
        subtitle=f"{finished} of {len(runs)} runs finished; plots show {metric_label(args.metric)}; made {made} UTC",
        tables=[*tables, *(table for table in details if len(table.frame))],
        plots=make_plots(runs, args.metric),
        gallery=make_gallery(runs, GalleryLimits(images=args.gallery_images)),
    )
    write_text(args.html, render_page(page))
    echo(f"page           {args.html}")
