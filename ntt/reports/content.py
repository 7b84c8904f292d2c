"""What a report says: its tables, made from records."""

from collections.abc import Iterable, Mapping, Sequence

from ntt.reports.records import RunRecord, shots_cell
from ntt.reports.significance import MIN_PAIRS, Comparison, compare
from ntt.reports.summary import Summary
from ntt.reports.tables import Cell, Table

METRICS = (
    "bbox/AP",
    "bbox/AP50",
    "bbox/AP75",
    "bbox/APr",
    "bbox/APc",
    "bbox/APf",
    "segm/AP",
    "segm/AP50",
    "segm/AP75",
    "segm/APr",
    "segm/APc",
    "segm/APf",
    "semantic/mIoU",
)
_OVER_SEEDS = "Percent; mean ± sample standard deviation over seeds (number of runs averaged)."
_KINDS = {"bbox": "box", "segm": "mask"}
_STAGE_LIMIT_S = 0.05


def metric_label(metric: str) -> str:
    """Return a metric's name for people: "bbox/AP50" is "box AP50"."""
    kind, _, name = metric.partition("/")
    return f"{_KINDS.get(kind, kind)} {name}"


def known_metrics(records: Iterable[RunRecord]) -> list[str]:
    """Return the flat names of all metrics over all classes that some run has."""
    names = {name for record in records for name in record.values if name.count("/") == 1}
    return sorted(names)


def results_table(summaries: Sequence[Summary], metric: str) -> Table:
    """One row a setting: means and spreads over its seeds."""
    known = {name for summary in summaries for run in summary.runs for name in run.values}
    metrics = [name for name in dict.fromkeys((*METRICS, metric)) if name in known]
    rows = [
        (*_identity(summary), _runs_cell(summary), *(summary.statistic(name) for name in metrics))
        for summary in summaries
    ]
    notes = [_OVER_SEEDS]
    if metric.startswith("rejection/FPPI"):
        notes.append(f"{metric_label(metric)}: false positives an image, not percent.")
    if any(summary.lacking for summary in summaries):
        notes.append('Under "runs": finished of all. Runs without metrics are listed below and are in no average.')
    repeated = [run for summary in summaries for run in summary.repeated]
    if repeated:
        notes.append(
            f"Left out, because a later run has the same settings: {', '.join(str(r.path) for r in repeated)}."
        )
    without = [summary for summary in summaries if summary.runs and not any(run.values for run in summary.runs)]
    if without:
        notes.append("Settings without any number were run on target images without annotations.")
    notes += _mixed_versions(summaries)
    return Table("results", "Results", (*_IDENTITY, "runs", *map(metric_label, metrics)), tuple(rows), tuple(notes))


def classes_table(summaries: Sequence[Summary], metric: str) -> Table:
    """One row a setting and class."""
    rows = [
        (*_identity(summary), name, summary.statistic(f"{metric}/{name}"))
        for summary in summaries
        for name in summary.class_names
    ]
    return Table(
        "classes",
        f"{metric_label(metric)} per class",
        (*_IDENTITY, "class", metric_label(metric)),
        tuple(rows),
        (_OVER_SEEDS,),
    )


def runs_table(records: Sequence[RunRecord], metric: str) -> Table:
    """One row a run: its metric, how long its stages took, where it is."""
    stages = list(dict.fromkeys(stage for record in records for stage in record.stage_seconds))
    shown = [s for s in stages if any(record.stage_seconds.get(s, 0) > _STAGE_LIMIT_S for record in records)]
    rows: list[tuple[Cell, ...]] = []
    for record in sorted(records, key=_order):
        seconds = [record.stage_seconds.get(stage) for stage in shown]
        rows.append(
            (record.dataset, *_which(record), record.state, record.values.get(metric), *seconds, str(record.path))
        )
    columns = ("data set", "split", "shots", "method", "seed", "state", metric_label(metric))
    notes = ("Seconds of each stage; what was found in the store or done before is not counted again.",)
    return Table("runs", "Runs", (*columns, *(f"{s} s" for s in shown), "directory"), tuple(rows), notes)


def missing_table(records: Sequence[RunRecord]) -> Table | None:
    """One row a run without metrics, with the reason; None where there is none."""
    rows = []
    for record in sorted(records, key=_order):
        if record.state != "finished":
            dataset = record.dataset if record.config else None
            rows.append((dataset, *_which(record), record.state, record.problem, str(record.path)))
    if not rows:
        return None
    columns = ("data set", "split", "shots", "method", "seed", "state", "reason", "directory")
    return Table("missing", f"Without a result: {len(rows)} of {len(records)} runs", columns, tuple(rows))


def comparison_table(records: Sequence[RunRecord], first: str, second: str, metric: str) -> Table:
    """One row for every two settings that differ in just what is asked for.

    Raises:
        NttError: as `ntt.reports.significance.compare`.
    """
    found = compare(records, first, second, metric=metric)
    notes = [
        "Paired over seeds: each seed draws the same references for both. p-values are two-sided and not corrected for "
        "the number of rows; with n pairs the sign-flip test cannot fall below 2 / 2^n.",
    ]
    if any(one.test.n < MIN_PAIRS for one in found):
        notes.append(f"With fewer than {MIN_PAIRS} pairs there is no test.")
    unpaired = sorted({seed for one in found for seed in one.unpaired})
    if unpaired:
        notes.append(f"Seeds that only one side has, left out of its row: {', '.join(map(str, unpaired))}.")
    return Table(
        "comparison",
        f"{metric_label(metric)}: A is {first}, B is {second}",
        ("data set", "shots", "common", "pairs n", "A", "B", "B − A", "std", "p (t-test)", "p (sign flips)"),
        tuple(_comparison_row(one) for one in found),
        tuple(notes),
    )


_IDENTITY = ("data set", "split", "shots", "method")


def _identity(summary: Summary) -> tuple[Cell, ...]:
    setting = summary.setting
    return (setting.dataset, setting.split, shots_cell(setting.shots), setting.label)


def _runs_cell(summary: Summary) -> Cell:
    total = len(summary.runs) + len(summary.lacking)
    return f"{len(summary.runs)} of {total}"


def _comparison_row(one: Comparison) -> tuple[Cell, ...]:
    a, b = one.shots
    shots = f"{shots_cell(a)}" if a == b else f"{shots_cell(a)} / {shots_cell(b)}"
    test = one.test
    return (
        one.data_label,
        shots,
        one.rest,
        test.n,
        round(one.mean_a, 3),
        round(one.mean_b, 3),
        f"{test.mean:+.2f}".replace("-", "−"),
        None if test.std is None else f"{test.std:.2f}",
        _p_text(test.p_t),
        _p_text(test.p_permutation),
    )


def _p_text(value: float | None) -> str | None:
    if value is None:
        return None
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}"


def _mixed_versions(summaries: Sequence[Summary]) -> list[str]:
    """Say which settings average runs of different versions of the program."""
    found = []
    for summary in summaries:
        versions = {_version(run.facts) for run in summary.runs}
        if len(versions) > 1:
            setting = summary.setting
            found.append(
                f"{setting.data_label}, {shots_cell(setting.shots)} shots, {setting.label}: averaged over runs of "
                f"{len(versions)} versions of the program."
            )
    return found


def _version(facts: Mapping[str, object]) -> str:
    git = facts.get("git")
    packages = facts.get("packages")
    revision = git.get("revision") if isinstance(git, Mapping) else None
    return f"{revision} {packages.get('ntt') if isinstance(packages, Mapping) else None}"


def _which(record: RunRecord) -> tuple[Cell, ...]:
    """Return split, shots, method and seed as a table shows them; empty cells where they are not known."""
    if not record.config:
        return (None, None, None, None)
    return (record.split, shots_cell(record.shots), record.method, record.seed)


def _order(record: RunRecord) -> tuple[str, str, int, str, int, str]:
    if not record.config:
        return (record.dataset, "", 0, "", 0, str(record.path))
    return (record.dataset, record.split, record.shots, record.method, record.seed, str(record.path))
