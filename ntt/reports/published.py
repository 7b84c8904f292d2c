"""What the method's authors published, row by row, for comparison with our own runs.

The numbers are in percent and stand in the files of `experiments/experiment/`, beside the settings they belong to:
under `published`, one row per command line. `source` names the entry of the reference numbers a value was copied from:
tables 1 to 5 and the ten-seed csv on the authors' project page and repository (July 2025). null was not published
there. `tolerance` says how far ours may be off; for a mean over seeds it is the published standard deviation.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import yaml

from ntt.base.project import CONFIG_ROOT

SECONDS_PER_IMAGE = 0.9292
"""What the authors state for their program on an A100, candidates and matching together."""

_ABOUT_ROW = ("overrides", "tolerance", "source")


@dataclass(frozen=True, kw_only=True)
class ExpectedResult:
    """One published number.

    Attributes:
        experiment: name of the file, as in `experiment=NAME`.
        overrides: what else the command line of the row has, such as "shots=5shot".
        table: the table the row belongs to, such as "cdfsod"; `sweeps/table_TABLE.yaml` runs all its rows.
        metric: flat name as in `ntt.run.artefacts.flat_metrics`, such as "bbox/AP", "segm/AP", "bbox/AP50" or
            "semantic/mIoU".
        value: percent; the mean over `seeds` where there are several. None: the row exists, no number was published.
        tolerance: how far ours may be from `value`, percentage points; None where `value` is.
        std: published standard deviation over `seeds`, percentage points; None: not published.
        seeds: the runs to average. One seed is what the experiment itself sets.
        dataset: option the row runs on.
        source: the entry of the reference numbers the value was copied from.
    """

    experiment: str
    overrides: tuple[str, ...] = ()
    table: str
    metric: str
    value: float | None
    tolerance: float | None
    std: float | None = None
    seeds: tuple[int, ...]
    dataset: str
    source: str

    @property
    def row(self) -> str:
        """The row of the table: the experiment and its overrides."""
        return " ".join((self.experiment, *self.overrides))

    @property
    def command_line(self) -> tuple[str, ...]:
        """The settings of a run with the first seed."""
        return (f"experiment={self.experiment}", *self.overrides)


@cache
def load_expected() -> tuple[ExpectedResult, ...]:
    """Read every published number, by experiment."""
    return tuple(result for experiment in _published() for result in _results(experiment))


def expected_tables() -> Mapping[str, tuple[str, ...]]:
    """Return the rows of each table: the table's name -> their names."""
    tables: dict[str, dict[str, None]] = {}
    for result in load_expected():
        tables.setdefault(result.table, {})[result.row] = None
    return {table: tuple(rows) for table, rows in tables.items()}


def _results(experiment: str) -> Iterator[ExpectedResult]:
    published = _published()[experiment]
    for row in published["rows"]:
        datasets = [line.removeprefix("dataset=") for line in row["overrides"] if line.startswith("dataset=")]
        for metric, entry in row.items():
            if metric in _ABOUT_ROW:
                continue
            number = entry if isinstance(entry, dict) else {"value": entry}
            tolerance = number.get("std", row.get("tolerance", published.get("tolerance")))
            yield ExpectedResult(
                experiment=experiment,
                overrides=tuple(row["overrides"]),
                table=published["table"],
                metric=metric,
                value=number["value"],
                tolerance=None if number["value"] is None else tolerance,
                std=number.get("std"),
                seeds=tuple(published["seeds"]),
                dataset=datasets[0] if datasets else published["dataset"],
                source=row.get("source", published["source"]),
            )


@cache
def _published() -> dict[str, dict[str, Any]]:
    """Return what the experiments say was published, by experiment; those that compare with nothing say nothing."""
    files = sorted((CONFIG_ROOT / "experiments" / "experiment").glob("*.yaml"))
    experiments = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in files}
    return {name: content["published"] for name, content in experiments.items() if "published" in content}
