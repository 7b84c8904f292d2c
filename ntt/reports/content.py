"""The content of a report: its tables, made from runs."""

import os
from pathlib import Path

import pandas as pd

from ntt.base.digests import content_key
from ntt.evaluation.proposals import LIMITS
from ntt.reports.summary import SETTING, choice, metric_names, shots_cell, shots_text, statistics
from ntt.reports.tables import Table

METRICS = tuple(f"{kind}/{name}" for kind in ("bbox", "segm") for name in ("AP", "AP50", "AP75", "APr", "APc", "APf"))
METRICS += ("semantic/mIoU", *(f"proposals/{kind}_AR{limit}" for kind in ("box", "mask") for limit in LIMITS))
_ROUNDING = 1e-9
_OVER_SEEDS = "Percent; mean ± sample standard deviation over seeds (number of runs averaged)."
_KINDS = {"bbox": "box", "segm": "mask", "proposals": "candidate"}
_IDENTITY = {"dataset": "data set", "split": "split", "shots": "shots", "label": "method"}
_RUN = {"dataset": "data set", "split": "split", "shots": "shots", "method": "method", "seed": "seed", "state": "state"}
_ITEMS = {"candidates": "image", "memory": "reference", "matching": "image"}


def metric_label(metric: str) -> str:
    """Return a metric's display name: "bbox/AP50" is "box AP50"."""
    kind, _, name = metric.partition("/")
    return f"{_KINDS.get(kind, kind)} {name.replace('_', ' ') if kind == 'proposals' else name}"


def results_table(runs: pd.DataFrame, metric: str) -> Table:
    """One row per setting: means and spreads over its seeds."""
    metrics = [name for name in dict.fromkeys((*METRICS, metric)) if name in runs]
    groups = runs.groupby(SETTING)
    counts = groups.agg(counted=("counted", "sum"), seeds=("seed", "nunique"))
    frame = _identity(counts, runs)
    frame["runs"] = [f"{counted} of {seeds}" for counted, seeds in counts.itertuples(index=False)]
    if metrics:
        averaged = statistics(runs, metrics)
        for name in metrics:
            _add_mean(frame, metric_label(name), averaged[name])
    notes = [_OVER_SEEDS]
    if any(name.startswith("proposals/") for name in metrics):
        notes.append("Candidate AR: recall of the first 100, 300, 1000 candidates; no matcher can find more.")
    if metric.startswith("rejection/FPPI"):
        notes.append(f"{metric_label(metric)}: false positives per image, not percent.")
    if metric in metrics and (frame[f"{metric_label(metric)} std"] < _ROUNDING).any():
        notes.append(
            "Spread 0: the seeds of a row gave equal results, as with fixed references. They are not independent "
            "repetitions."
        )
    if (counts.counted < counts.seeds).any():
        notes.append(
            'Column "runs": finished runs of all runs. Runs without metrics are listed below and not averaged.'
        )
    repeated = runs.path[(runs.state == "finished") & ~runs.counted]
    if len(repeated):
        notes.append(f"Left out, because a later run has the same settings: {', '.join(repeated)}.")
    has_values = runs[metric_names(runs)].notna().any(axis=1)
    if (groups.counted.any() & ~has_values.groupby([runs[name] for name in SETTING]).any()).any():
        notes.append("Rows without numbers were run on target images without annotations.")
    notes += _changed_data(runs)
    versions = runs[runs.counted].groupby(SETTING).version.nunique()
    for setting, count in versions[versions > 1].reset_index().set_index("data").iterrows():
        notes.append(
            f"{setting}, {shots_text(count.shots)}, {count.label}: averaged over runs of {count.version} versions of "
            "the program."
        )
    return Table("results", "Results", frame, tuple(notes), groups=("data set", "split", "shots"))


def _changed_data(runs: pd.DataFrame) -> list[str]:
    """Name the data whose annotation files have changed between runs with the same settings of data set and shots."""
    counted = runs[runs.counted & (runs.inputs != "")]
    sources = [
        content_key({key: value for key, value in settings.items() if key.startswith(("dataset.", "shots."))})
        for settings in counted.settings
    ]
    changed = counted[counted.groupby(sources).inputs.transform("nunique") > 1]
    return [
        f"{data}: the annotation files have changed between these runs. Running a run's command again recomputes what "
        "is outdated."
        for data in changed.data.unique()
    ]


def classes_table(runs: pd.DataFrame, metric: str) -> Table:
    """One row per setting and class."""
    columns = [name for name in runs if name.startswith(f"{metric}/")]
    values = runs[runs.counted].melt(SETTING, columns, var_name="class").dropna(subset="value")
    order = pd.CategoricalDtype([name.removeprefix(f"{metric}/") for name in columns], ordered=True)
    values["class"] = values["class"].str.removeprefix(f"{metric}/").astype(order)
    averaged = values.groupby([*SETTING, "class"], observed=True).value.agg(["mean", "std", "count"])
    frame = _identity(averaged, runs)
    frame["class"] = averaged.index.get_level_values("class").astype(object)
    _add_mean(frame, metric_label(metric), averaged)
    return Table("classes", f"{metric_label(metric)} per class", frame, (_OVER_SEEDS,))


def runs_table(runs: pd.DataFrame, metric: str) -> Table:
    """One row per run: its metric, the seconds of its stages, its folder."""
    names = _RUN | {metric: metric_label(metric)}
    names |= {f"seconds/{stage}": f"{stage}, ms per {item}" for stage, item in _ITEMS.items()} | {"path": "directory"}
    times = runs.reindex(columns=[f"seconds/{stage}" for stage in _ITEMS])
    notes = (
        "Milliseconds: only work the run did itself is timed; empty if all came from the store. Runs matched "
        "together share the time equally.",
        f"Directories are below {_common_folder(runs)}.",
    )
    return Table("runs", "Runs", _listed(runs.assign(**1000 * times), names, _common_folder(runs)), notes)


def missing_table(runs: pd.DataFrame) -> Table | None:
    """One row per run without metrics, with the reason; None if there are none."""
    missing = runs[runs.state != "finished"]
    if missing.empty:
        return None
    frame = _listed(missing, _RUN | {"problem": "reason", "path": "directory"}, _common_folder(runs))
    notes = (f"Directories are below {_common_folder(runs)}.",)
    return Table("missing", f"Without a result: {len(missing)} of {len(runs)} runs", frame, notes)


def _identity(grouped: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Return the columns that name a setting, and the matchers its references chose; one row per group."""
    frame = grouped.index.to_frame(index=False)
    choices = {setting: choice(own) for setting, own in runs[runs.counted].groupby("setting").chosen}
    frame["label"] = [label + choices.get(each, "") for label, each in zip(frame.label, frame.setting, strict=True)]
    frame = frame[list(_IDENTITY)]
    frame["shots"] = pd.Series([shots_cell(shots) for shots in frame.shots], dtype=object)
    return frame.rename(columns=_IDENTITY)


def _add_mean(frame: pd.DataFrame, name: str, averaged: pd.DataFrame) -> None:
    frame[f"{name} mean"] = averaged["mean"].to_numpy()
    frame[f"{name} std"] = averaged["std"].to_numpy()
    count = pd.Series(averaged["count"].to_numpy(), dtype="Int64")
    frame[f"{name} n"] = count.mask(count == 0)


def _listed(runs: pd.DataFrame, names: dict[str, str], folder: str) -> pd.DataFrame:
    """Return one row per run, in a fixed order, with the given columns; paths are relative to `folder`."""
    order = ["dataset", "split", "shots", "method", "seed", "path"]
    runs = runs.sort_values(order, na_position="first")
    frame = runs.reindex(columns=list(names))
    frame["method"] = [f"{run.method}: {run.chosen}" if run.chosen else run.method for run in runs.itertuples()]
    frame["shots"] = [shots if pd.isna(shots) else shots_cell(shots) for shots in frame.shots]
    frame["path"] = [os.path.relpath(path, folder) for path in frame.path]
    return frame.rename(columns=names)


def _common_folder(runs: pd.DataFrame) -> str:
    return os.path.commonpath([Path(path).parent for path in runs.path])
