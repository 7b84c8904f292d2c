"""The results of a sweep as tables, and what is missing from them."""

from collections.abc import Sequence
from pathlib import Path

from ntt.base.files import write_text
from ntt.errors import ConfigError
from ntt.reports.content import missing_table, results_table, runs_table
from ntt.reports.summary import metric_names, runs_frame
from ntt.reports.tables import SUFFIXES, Table, render
from ntt.sweeps.records import read_sweep
from ntt.sweeps.state import SweepFolder


def collect_tables(folder: SweepFolder, *, metric: str) -> list[Table]:
    """Return the means over seeds, the single points, and, where points lack a result, which and why.

    Args:
        folder: the sweep's.
        metric: flat name of the metric of the table of single points, such as "bbox/AP".

    Raises:
        ConfigError: if no point has that metric.
    """
    runs = runs_frame(read_sweep(folder.root))
    known = metric_names(runs)
    if known and metric not in known:
        raise ConfigError(f"--metric {metric}: no point has it. Allowed is one of {', '.join(known)}. Choose one.")
    tables = [results_table(runs, metric), runs_table(runs, metric)]
    missing = missing_table(runs)
    return tables if missing is None else [*tables, missing]


def write_tables(folder: SweepFolder, tables: Sequence[Table]) -> list[Path]:
    """Write tables as markdown and as CSV into the sweep's folder; tables of an earlier call are replaced."""
    place = folder.root / "tables"
    paths = []
    for form in ("markdown", "csv"):
        for table in tables:
            paths.append(place / f"{table.name}{SUFFIXES[form]}")
            write_text(paths[-1], render(table, form))
    names = {path.name for path in paths}
    for outdated in place.iterdir():
        if outdated.name not in names:
            outdated.unlink()
    return paths
