"""What the method's authors published, row by row, for comparison with our own runs.

The numbers are in percent and stand in the files of `experiments/experiment/`, beside the settings they belong to:
under `published`, one row per command line. `source` names the entry of the reference numbers a value was copied from:
tables 1 to 5 and the ten-seed csv on the authors' project page and repository (July 2025). null was not published
there. `tolerance` says how far ours may be off; for a mean over seeds it is the published standard deviation.
"""

from dataclasses import dataclass
from functools import cache

import yaml

from ntt.base.project import CONFIG_ROOT

_ABOUT_ROW = ("overrides", "tolerance", "source")


@dataclass(frozen=True, kw_only=True)
class ExpectedResult:
    """One published number.

    Attributes:
        experiment: name of the file, as in `experiment=NAME`.
        overrides: what else the command line of the row has, such as "shots=5shot".
        table: the table the row belongs to, such as "cdfsod"; `sweeps/table_TABLE.yaml` runs all its rows.
        metric: flat name, such as "bbox/AP", "bbox/AP50" or "semantic/mIoU".
        value: percent; the mean over `seeds` where there are several. None: the row exists, no number was published.
        tolerance: how far ours may be from `value`, percentage points; None where `value` is.
        seeds: the runs to average. One seed is what the experiment itself sets.
        dataset: option the row runs on.
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
        """The row of the table: the experiment and its overrides."""
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
