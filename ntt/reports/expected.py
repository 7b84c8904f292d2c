"""Our results beside the published ones."""

from collections.abc import Mapping, Sequence
from typing import Any

from ntt.config.compose import compose_many
from ntt.config.identity import deciding_settings
from ntt.config.schema import ExperimentConfig, plain
from ntt.errors import ConfigError
from ntt.reports.content import metric_label
from ntt.reports.published import ExpectedResult, load_expected
from ntt.reports.records import RunRecord, flatten
from ntt.reports.summary import Statistic, differing_settings
from ntt.reports.tables import Cell, Table

_ROUNDING = 1e-9
_SHOWN_KEYS = 3


def expected_table(records: Sequence[RunRecord]) -> Table:
    """One row a published number: ours, theirs, the difference and a verdict.

    A run counts for an experiment if it has all of the experiment's settings, wherever the data lie and whatever it
    ran on; how it was started does not matter. The verdict needs all seeds of the row.
    """
    expected = load_expected()
    finished = [record for record in records if record.state == "finished"]
    # Composing is what takes long here, and an experiment on a data set that nobody ran cannot fit any run.
    present = {record.config["dataset"]["name"] for record in finished}
    configs = _compose(list(dict.fromkeys(one.experiment for one in expected.values() if one.dataset in present)))
    keys = [_comparable(record.config) for record in finished]
    rows = [_row(result, configs.get(result.experiment), finished, keys) for result in expected.values()]
    notes = (
        "Percent; ours is mean ± sample standard deviation over seeds (number of runs). Within tolerance means that "
        "the difference is no larger than the tolerance; where each tolerance comes from: ntt/reports/expected.json.",
        _summary([result.value is not None for result in expected.values()], [str(row[-1]) for row in rows]),
    )
    columns = ("table", "experiment", "metric", "images", "ours", "theirs", "tolerance", "difference", "verdict")
    return Table("expected", "Ours and the published values", columns, tuple(rows), notes)


def _summary(has_value: Sequence[bool], verdicts: Sequence[str]) -> str:
    """Count the verdicts on the rows with a published number, and say how many rows have none."""
    kinds = [verdict.partition(":")[0] for verdict, counts in zip(verdicts, has_value, strict=True) if counts]
    counted = ", ".join(f"{kind}: {kinds.count(kind)}" for kind in dict.fromkeys(kinds))
    numbers = "number" if len(kinds) == 1 else "numbers"
    text = f"{len(kinds)} published {numbers}. {counted}." if kinds else "No published numbers."
    without = len(verdicts) - len(kinds)
    rows = "row has" if without == 1 else "rows have"
    return f"{text} {without} further {rows} no published number to compare with." if without else text


def _row(
    result: ExpectedResult,
    config: ExperimentConfig | None,
    records: Sequence[RunRecord],
    keys: Sequence[Mapping[str, Any]],
) -> tuple[Cell, ...]:
    wanted = None if config is None else _comparable(plain(config))
    fitting = [
        record for record, key in zip(records, keys, strict=True) if key == wanted and record.seed in result.seeds
    ]
    by_seed = {one.seed: one.values[result.metric] for one in fitting if result.metric in one.values}
    ours = Statistic(by_seed) if by_seed else None
    images = {one.metrics.num_images for one in fitting if one.metrics is not None}
    verdict = _verdict(result, ours)
    if ours is None and wanted is not None:
        verdict = _other_settings(result, wanted, records, keys) or verdict
    difference = None
    if ours is not None and result.value is not None:
        difference = f"{ours.mean - result.value:+.1f}".replace("-", "−")
    identity = (result.table, result.experiment, metric_label(result.metric))
    shown = ", ".join(map(str, sorted(images))) or None
    return (*identity, shown, ours, result.value, result.tolerance, difference, verdict)


def _verdict(result: ExpectedResult, ours: Statistic | None) -> str:
    if ours is None:
        return "not run"
    if ours.n < len(result.seeds):
        return f"incomplete: {ours.n} of {len(result.seeds)} seeds"
    if result.value is None or result.tolerance is None:
        return "nothing published"
    difference = ours.mean - result.value
    if abs(difference) <= result.tolerance + _ROUNDING:
        return "within tolerance"
    return "below" if difference < 0 else "above"


def _other_settings(
    result: ExpectedResult,
    wanted: Mapping[str, Any],
    records: Sequence[RunRecord],
    keys: Sequence[Mapping[str, Any]],
) -> str | None:
    """Say in which settings a run that was started as this experiment departs from it."""
    for record, key in zip(records, keys, strict=True):
        if record.config.get("experiment") == result.experiment:
            differing = differing_settings([wanted, key])
            if differing:
                more = "" if len(differing) <= _SHOWN_KEYS else f" and {len(differing) - _SHOWN_KEYS} more"
                return f"not run: run with another {', '.join(differing[:_SHOWN_KEYS])}{more}"
    return None


def _compose(names: Sequence[str]) -> dict[str, ExperimentConfig | None]:
    """Compose every experiment; None for one that is not there."""
    try:
        return dict(zip(names, compose_many([[f"experiment={name}"] for name in names]), strict=True))
    except ConfigError:
        return {name: _compose_one(name) for name in names}


def _compose_one(name: str) -> ExperimentConfig | None:
    try:
        return compose_many([[f"experiment={name}"]])[0]
    except ConfigError:
        return None


def _comparable(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what makes an experiment the same one, by dotted key: not the seed, the machine or where data lie."""
    settings = deciding_settings(config)
    for key in ("seed", "runtime"):
        settings.pop(key, None)
    for key in ("root", "decode_images"):
        settings.get("dataset", {}).pop(key, None)
    return flatten(settings)
