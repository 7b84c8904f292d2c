"""What the method's authors published, row by row, for comparison with our own runs.

One experiment of `experiments/experiment/` is one row of a published table. The values, where each comes from and how
far ours may be off are in `ntt/reports/expected.json` and nowhere else.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

_FILE = "expected.json"


@dataclass(frozen=True)
class ExpectedResult:
    """One published number.

    Attributes:
        experiment: name of the overlay, `python main.py experiment=NAME`.
        table: the table the row belongs to, such as "cdfsod"; `sweeps/table_TABLE.yaml` runs all its rows.
        metric: flat name as in `ntt.run.artefacts.flat_metrics`, such as "bbox/AP", "segm/AP", "bbox/AP50" or
            "semantic/mIoU".
        value: percent; the mean over `seeds` where there are several. None: the row exists, no number was published.
        tolerance: how far ours may be from `value`, percentage points; None where `value` is.
        std: published standard deviation over `seeds`, percentage points; None: not published.
        seeds: the runs to average. One seed is what the overlay itself sets.
        dataset: option the experiment runs on.
        source: the entry of the reference numbers the value was copied from.
        overrides: the command line of a run with the first seed.
    """

    experiment: str
    table: str
    metric: str
    value: float | None
    tolerance: float | None
    std: float | None
    seeds: tuple[int, ...]
    dataset: str
    source: str
    overrides: tuple[str, ...]

    @property
    def key(self) -> str:
        """The result's name in `load_expected`."""
        return f"{self.experiment}:{self.metric}"


@cache
def load_expected() -> Mapping[str, ExpectedResult]:
    """Read every published number: "EXPERIMENT:METRIC" -> result, in the order of the tables."""
    found = [
        ExpectedResult(
            experiment=experiment,
            table=row["table"],
            metric=metric,
            value=entry["value"],
            tolerance=entry["tolerance"],
            std=entry["std"],
            seeds=tuple(row["seeds"]),
            dataset=row["dataset"],
            source=row["source"],
            overrides=(f"experiment={experiment}",),
        )
        for experiment, row in _document()["experiments"].items()
        for metric, entry in row["metrics"].items()
    ]
    return {result.key: result for result in found}


def expected_tables() -> Mapping[str, tuple[str, ...]]:
    """The experiments of each table, in the table's order."""
    tables: dict[str, list[str]] = {}
    for experiment, row in _document()["experiments"].items():
        tables.setdefault(row["table"], []).append(experiment)
    return {table: tuple(experiments) for table, experiments in tables.items()}


def published_seconds_per_image() -> float:
    """Seconds the authors' program takes for one image on an A100, candidates and matching together."""
    return float(_document()["seconds_per_image_a100"])


@cache
def _document() -> dict[str, Any]:
    text = resources.files("ntt.reports").joinpath(_FILE).read_text(encoding="utf-8")
    document: dict[str, Any] = json.loads(text)
    return document
