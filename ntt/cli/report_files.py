"""The work of `ntt report`."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ntt.base.files import remove_stale_temporaries, write_text
from ntt.errors import ConfigError
from ntt.reports.content import classes_table, missing_table, results_table, runs_table
from ntt.reports.expected import expected_table
from ntt.reports.plots import Plot, save_plots
from ntt.reports.significance import comparison_table
from ntt.reports.summary import metric_names
from ntt.reports.tables import SUFFIXES, Format, Table, render


def report_tables(
    runs: pd.DataFrame, metric: str, *, compare: Sequence[tuple[str, str]], expected: bool
) -> list[Table]:
    """Return the tables a report prints; `compare` has pairs of settings KEY=VALUE."""
    metrics = metric_names(runs)
    if metrics and metric not in metrics:
        raise ConfigError(f"--metric {metric}: no run has it. Allowed: one of {', '.join(metrics)}.")
    tables = [results_table(runs, metric)]
    tables += [comparison_table(runs, first, second, metric) for first, second in compare]
    tables += [expected_table(runs)] if expected else []
    missing = missing_table(runs)
    return tables if missing is None else [*tables, missing]


def write_files(
    folder: Path,
    tables: Sequence[Table],
    runs: pd.DataFrame,
    metric: str,
    table_format: Format,
    *,
    plots: Sequence[Plot],
) -> dict[Path, str]:
    """Write all tables, with those of single classes and runs, and the plots to a folder; return path -> kind."""
    remove_stale_temporaries(folder, recursive=False)  # of a report that was killed
    names: dict[str, int] = {}
    paths: dict[Path, str] = {}
    for table in [*tables, classes_table(runs, metric), runs_table(runs, metric)]:
        number = names[table.name] = names.get(table.name, 0) + 1
        stem = table.name if number == 1 else f"{table.name}_{number}"
        path = folder / f"{stem}{SUFFIXES[table_format]}"
        write_text(path, render(table, table_format))
        paths[path] = "table"
    return paths | dict.fromkeys(save_plots(plots, folder), "plot")
