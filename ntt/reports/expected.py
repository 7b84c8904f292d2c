"""Our results next to those of the method's authors.

Published numbers, in percent, are in the files of `experiments/experiment/` with the settings they belong to: under
`published`, one row per command line. `source` names the entry of the reference numbers that a value was copied from
(the authors' project page and repository, July 2025). null: not published there. `tolerance` is the difference
allowed; for a mean over seeds it is the published standard deviation.
"""

from collections import Counter
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import yaml

from ntt.base.project import CONFIG_ROOT
from ntt.config.compose import compose_many
from ntt.config.identity import experiment_settings, run_settings
from ntt.config.schema import ExperimentConfig
from ntt.reports.content import metric_label
from ntt.reports.tables import Table

_ABOUT_ROW = ("overrides", "tolerance", "source")
_ROUNDING = 1e-9
_COLUMNS = [
    *("table", "experiment", "metric", "images", "ours mean", "ours std", "ours n"),
    *("theirs", "tolerance", "difference", "verdict"),
]


@dataclass(frozen=True, kw_only=True)
class ExpectedResult:
    """One published number.

    Attributes:
        overrides: the rest of the row's command line, such as "shots=5shot".
        table: the table the row belongs to, such as "cdfsod"; `sweeps/table_TABLE.yaml` runs all its rows.
        value: percent; the mean over `seeds` if there are several. None: the row exists, but no number was published.
        tolerance: allowed difference from `value`, percentage points; None if `value` is.
        seeds: the seeds to average over; a single seed is set by the experiment.
    """

    experiment: str
    overrides: tuple[str, ...] = ()
    table: str
    metric: str
    value: float | None
    tolerance: float | None
    seeds: tuple[int, ...]
    dataset: str

    @property
    def row(self) -> str:
        """Name of the row: the experiment and its overrides."""
        return " ".join((self.experiment, *self.overrides))

    @property
    def command_line(self) -> tuple[str, ...]:
        """The settings of a run with the first seed."""
        return (f"experiment={self.experiment}", *self.overrides)


@cache
def load_expected() -> tuple[ExpectedResult, ...]:
    """Read every published number, by experiment."""
    results = []
    for path in sorted((CONFIG_ROOT / "experiments" / "experiment").glob("*.yaml")):
        published = yaml.safe_load(path.read_text(encoding="utf-8")).get("published", {"rows": []})
        for row in published["rows"]:
            datasets = [line.removeprefix("dataset=") for line in row["overrides"] if line.startswith("dataset=")]
            for metric in [name for name in row if name not in _ABOUT_ROW]:
                number = row[metric] if isinstance(row[metric], dict) else {"value": row[metric]}
                tolerance = number.get("std", row.get("tolerance", published.get("tolerance")))
                result = ExpectedResult(
                    experiment=path.stem,
                    overrides=tuple(row["overrides"]),
                    table=published["table"],
                    metric=metric,
                    value=number["value"],
                    tolerance=None if number["value"] is None else tolerance,
                    seeds=tuple(published["seeds"]),
                    dataset=datasets[0] if datasets else published["dataset"],
                )
                results.append(result)
    return tuple(results)


def expected_table(runs: pd.DataFrame) -> Table:
    """One row per published number: ours, theirs, the difference and a verdict.

    A run counts for an experiment if it has all of the experiment's settings, wherever the data are stored, whatever it
    ran on and however it was started. The verdict needs all seeds of the row.
    """
    expected = load_expected()
    finished = runs[runs.state == "finished"]
    finished = finished.assign(comparable=[experiment_settings(settings) for settings in finished.settings])
    # Composing takes most of the time here, and an experiment on a data set without runs cannot match any.
    present = {settings["dataset.name"] for settings in finished.settings}
    lines = list(dict.fromkeys(result.command_line for result in expected if result.dataset in present))
    configs = dict(zip(lines, compose_many(lines), strict=True))
    rows = [_row(result, configs.get(result.command_line), finished) for result in expected]
    verdicts = [row["verdict"].partition(":")[0] for row in rows if row["theirs"] is not None]
    counts = ", ".join(f"{verdict} {count}" for verdict, count in Counter(verdicts).items())
    notes = (
        "Percent; ours is mean ± sample standard deviation over seeds (number of runs). Within tolerance means that "
        "the difference is no larger than the tolerance; where each tolerance comes from: experiments/experiment/.",
        f"{len(verdicts)} published numbers: {counts or 'none'}. Rows without one: {len(rows) - len(verdicts)}.",
    )
    frame = pd.DataFrame(rows, columns=_COLUMNS, dtype=object)
    return Table("expected", "Ours and the published values", frame, notes)


def _row(result: ExpectedResult, config: ExperimentConfig | None, runs: pd.DataFrame) -> dict[str, Any]:
    experiment = None if config is None else experiment_settings(run_settings(config))
    fits = np.array([comparable == experiment for comparable in runs.comparable], dtype=bool)
    fitting = runs[fits & runs.seed.isin(result.seeds)]
    # Of runs with the same seed, the last one read counts.
    ours = fitting.reindex(columns=["seed", "images", result.metric]).dropna(subset=[result.metric])
    values = ours.drop_duplicates("seed", keep="last")[result.metric].astype(float)
    row: dict[str, Any] = {
        "table": result.table,
        "experiment": result.row,
        "metric": metric_label(result.metric),
        "images": ", ".join(map(str, sorted(fitting.images.unique()))) or None,
        "theirs": result.value,
        "tolerance": result.tolerance,
        "verdict": _verdict(result, values),
    }
    if len(values):
        row |= {"ours mean": float(values.mean()), "ours std": float(values.std()), "ours n": len(values)}
        if result.value is not None:
            row["difference"] = f"{values.mean() - result.value:+.1f}".replace("-", "−")
    return row


def _verdict(result: ExpectedResult, values: "pd.Series[float]") -> str:
    if not len(values):
        return "not run"
    if len(values) < len(result.seeds):
        return f"incomplete: {len(values)} of {len(result.seeds)} seeds"
    if result.value is None or result.tolerance is None:
        return "nothing published"
    difference = values.mean() - result.value
    if abs(difference) <= result.tolerance + _ROUNDING:
        return "within tolerance"
    return "below" if difference < 0 else "above"
