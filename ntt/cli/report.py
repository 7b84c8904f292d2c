"""`ntt report`: tables, plots and a page of finished runs, and a list of missing ones."""

from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ntt.cli.options import FORMAT, PATH
from ntt.errors import ConfigError

if TYPE_CHECKING:
    from ntt.reports.tables import Format


@click.command()
@click.argument("folders", nargs=-1, required=True, type=PATH, metavar="RUNS_OR_SWEEP...")
@click.option("--metric", default="bbox/AP", help="What comparisons and plots show.")
@click.option(
    "--compare",
    type=(str, str),
    multiple=True,
    metavar="A B",
    help="Difference of two settings, KEY=VALUE each, paired over seeds; may be repeated.",
)
@click.option("--expected", is_flag=True, help="Compare with the published values.")
@click.option("--format", "table_format", type=FORMAT, default="markdown", help="Of the tables.")
@click.option("--out", type=PATH, metavar="FOLDER", help="Write tables (and plots) into this folder.")
@click.option("--plots", is_flag=True, help="Draw plots, PNG and PDF, into the folder of --out.")
@click.option("--html", type=PATH, metavar="FILE", help="Write one self-contained page with a gallery.")
@click.option("--gallery-images", type=click.IntRange(min=0), default=24, metavar="N", help="Per data set.")
def report(
    folders: tuple[Path, ...],
    metric: str,
    compare: tuple[tuple[str, str], ...],
    expected: bool,
    table_format: "Format",
    out: Path | None,
    plots: bool,
    html: Path | None,
    gallery_images: int,
) -> None:
    """Compare finished runs: tables, plots and a page.

    \b
    ntt report outputs                                every run below the folder
    ntt report outputs/sweeps/demo_small              a sweep, with the points that are missing
    ntt report outputs --compare matcher.merging=hard matcher.merging=soft_semantic
    ntt report outputs --out report --plots --format latex
    ntt report outputs --html report.html
    ntt report outputs --expected                     next to the published values
    """
    from ntt.base.files import remove_stale_temporaries, write_bytes
    from ntt.cli.report_files import report_tables, write_files
    from ntt.reports.content import classes_table, metric_label, runs_table
    from ntt.reports.detected import read_detected, thresholds_table
    from ntt.reports.page import make_gallery, render_page
    from ntt.reports.plots import make_plots
    from ntt.reports.tables import render
    from ntt.sweeps.records import read_runs

    if plots and out is None:
        raise ConfigError("--plots draws into a folder: add --out FOLDER. A page with the plots in it: --html FILE.")
    if html is not None and html.is_dir():
        raise ConfigError(f"--html {html} is a folder. Name a file, for example {html / 'report.html'}.")
    runs = read_runs(folders)
    tables = report_tables(runs, metric, compare=compare, expected=expected)
    detected, notes = read_detected(runs) if plots or html is not None else ([], [])
    drawn = make_plots(runs, metric, detected) if plots or html is not None else []
    thresholds = thresholds_table(detected)
    tables += [thresholds] if len(thresholds.frame) else []
    if out is None:
        click.echo("\n".join(render(table, table_format) for table in tables).rstrip())
    else:
        for path, kind in write_files(out, tables, runs, metric, table_format, plots=drawn if plots else ()).items():
            click.echo(f"{kind:<15}{path}")
    if html is not None:
        title = f"Report: {', '.join(folder.name or str(folder) for folder in folders)}"
        gallery = make_gallery(detected, notes, images=gallery_images)
        details = [classes_table(runs, metric), runs_table(runs, metric)]
        finished = f"{(runs.state == 'finished').sum()} of {len(runs)} runs finished"
        date = f"made {datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC"
        page = render_page(
            title,
            f"{finished}; plots show {metric_label(metric)}; {date}",
            tables=[*tables, *(table for table in details if len(table.frame))],
            plots=drawn,
            gallery=gallery,
        )
        remove_stale_temporaries(html.parent, recursive=False)
        write_bytes(html, page.encode(errors="replace"))  # names of folders need not be text
        click.echo(f"page           {html}")
