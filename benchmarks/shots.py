"""Matchers by shots as one table: means over data sets, and differences to `ntt` paired by data set.

    NTT_DATA=FOLDER ntt sweep run sweeps/shots.yaml visualisation.enabled=false --processes 2
    python -m benchmarks.shots outputs

A value of a data set is the mean over its seeds. A difference is given with its standard error over data sets, and
with the number of sets on which it is better and worse by more than 0.1.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from ntt.base.files import read_json
from ntt.reports.records import find_run_directories, read_run
from ntt.reports.summary import runs_frame
from ntt.reports.tables import Table, render
from ntt.run.rundir import RunDirectory

BASE = "ntt"
NOTICEABLE = 0.1
METRICS = {
    "bbox/AP": "box AP",
    "segm/AP": "mask AP",
    "F1/fixed": "F1 at 0.4",
    "F1/proposed": "F1 proposed",
    "F1/best": "F1 best",
}


def load(folder: Path) -> pd.DataFrame:
    """Return one row per finished run: data set, shots, seed, matcher, metrics."""
    runs = runs_frame([read_run(path) for path in find_run_directories(folder)])
    runs = runs[runs.counted].copy()
    runs["matcher"] = [config["matcher"]["name"] for config in runs.config]
    directories = [RunDirectory(Path(path)) for path in runs.path]
    points = [read_json(each.thresholds).get("", {}) if each.thresholds.is_file() else {} for each in directories]
    for kind in ("fixed", "proposed", "best"):
        runs[f"F1/{kind}"] = [of_run[kind]["f1"] if kind in of_run else np.nan for of_run in points]
    return runs


def summarise(values: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return per shots and matcher the mean over data sets and the paired difference; `values` has one per data set."""
    rows = []
    for shots, of_shots in values.groupby("shots"):
        table = of_shots.pivot(index="dataset", columns="matcher", values=metric).dropna()
        for matcher in table:
            row = {"shots": shots, "matcher": matcher, "sets": len(table), "mean": table[matcher].mean()}
            if matcher != BASE and BASE in table and len(table) > 1:
                difference = table[matcher] - table[BASE]
                row |= {"difference": difference.mean(), "error": difference.std(ddof=1) / len(table) ** 0.5}
                row |= {"better": int((difference > NOTICEABLE).sum()), "worse": int((difference < -NOTICEABLE).sum())}
            rows.append(row)
    return pd.DataFrame(rows)


def text(row: pd.Series) -> str:
    """Return a cell: mean, difference ± standard error, sets better/worse."""
    if pd.isna(row.get("difference")):
        return f"{row['mean']:.1f}"
    return f"{row['mean']:.1f} ({row.difference:+.1f} ± {row.error:.1f}, {row.better:.0f}/{row.worse:.0f})"


def main() -> None:
    """Print the tables as markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the runs")
    runs = load(parser.parse_args().folder)
    metrics = [metric for metric in METRICS if metric in runs]
    values = runs.groupby(["dataset", "shots", "matcher"], as_index=False)[metrics].mean()
    order = [BASE, *sorted(set(values.matcher) - {BASE})]
    for metric in metrics:
        summary = summarise(values, metric)
        summary["cell"] = [text(row) for _, row in summary.iterrows()]
        table = summary.pivot(index="matcher", columns="shots", values="cell").reindex(order)
        sets = ", ".join(f"{shots}: {count}" for shots, count in summary.groupby("shots").sets.first().items())
        show(
            METRICS[metric],
            table,
            f"Mean over data sets (difference to {BASE} ± standard error, sets better/worse).",
            sets,
        )
    box = values.pivot_table(index=["dataset", "matcher"], columns="shots", values="bbox/AP")
    show("box AP of each data set", box)
    values["gain"] = values["F1/proposed"] - values["F1/fixed"]
    gain = values.pivot_table(index="matcher", columns="dataset", values="gain")
    show("F1 proposed minus F1 at 0.4, mean over shots", gain.reindex(order))
    chosen = runs[runs.matcher == "auto"].groupby(["dataset", "shots"]).scoring.agg(", ".join)
    show("Chosen by the references", chosen.unstack())


def show(title: str, table: pd.DataFrame, *notes: str) -> None:
    """Print one table."""
    frame = table.rename(columns=str).reset_index()
    print(render(Table("shots", title, frame, notes), "markdown"))


if __name__ == "__main__":
    main()
