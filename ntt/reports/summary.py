"""Runs as a table, and means over seeds.

Runs that agree in everything but the seed are one setting. A setting is named by data set, split, shots and method
(backbone, segmenter, matcher), and by whatever else distinguishes it from the other given settings.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ntt.base.digests import content_key
from ntt.reports.records import ALL_SHOTS, RunRow

SETTING = ["dataset", "split", "shots", "label", "setting", "data"]
"""Columns that are equal for all runs of a setting, in the order by which tables are sorted."""

_NAMED = ("split.name", "split.classes", "shots.name", "shots.count")
_BASE = [
    *("path", "state", "problem", "dataset", "split", "shots", "seed", "method", "scoring", "label", "setting", "data"),
    *("finished_utc", "version", "inputs", "images", "parts", "chosen", "settings", "config"),
]


def runs_frame(runs: Sequence[RunRow]) -> pd.DataFrame:
    """Arrange runs as a table, one row per run.

    Columns: `path`; `state` and `problem` as in `describe_run`; `dataset`, `split`, `shots` (0: all there are), `seed`;
    `method`; `scoring`, the matcher in use, which with `matcher=auto` the references chose; `label`, the method with
    what distinguishes it from others; `setting`, equal for runs that differ in the seed only; `data`, data set and
    split in one; `counted`, false for a run without metrics or one that was repeated later; `finished_utc`, ISO 8601,
    `version` of the program and `inputs`, digests of the annotation files, empty if unknown; `images`; metrics by flat
    name such as "bbox/AP" or "segm/AP50/cat"; "seconds/candidates" and "seconds/matching" per target image and
    "seconds/memory" per reference, absent where all was in the store. The remaining columns are for reports.
    """
    base = pd.DataFrame(_named(runs), columns=_BASE, dtype=object)
    base = base.astype({"shots": "Int64", "seed": "Int64", "images": "Int64"})
    finished = base[base.state == "finished"].sort_values(["finished_utc", "path"])
    base["counted"] = base.index.isin(finished.drop_duplicates(["setting", "seed"], keep="last").index)
    metrics = pd.DataFrame([run.get("values", {}) for run in runs], dtype=float)
    seconds = pd.DataFrame([run.get("seconds", {}) for run in runs], dtype=float).add_prefix("seconds/")
    return pd.concat([base, metrics, seconds], axis=1)


def _named(runs: Sequence[RunRow]) -> list[RunRow]:
    """Add the names of method, setting and data, and what tells a run from others of the same method and data set."""
    rows: list[RunRow] = [
        {"scoring": "", "chosen": "", "finished_utc": "", "version": "", "inputs": "", **run} for run in runs
    ]
    peers: dict[tuple[str, ...], list[RunRow]] = {}
    for row in rows:
        if "config" in row:
            peers.setdefault((row["dataset"], *row["parts"]), []).append(row)
    for alike in peers.values():
        differing = [name for name in differing_settings([row["settings"] for row in alike]) if name not in _NAMED]
        lists = {(row["split"], str(row["settings"].get("split.classes"))) for row in alike}
        if len(lists) > len({split for split, _ in lists}):  # "2 classes" are not always the same two
            differing.append("split.classes")
        for row in alike:
            # A key that others have and this one lacks belongs to another version of the program or another kind of
            # part; naming what is absent would not help.
            present = [name for name in differing if name in row["settings"]]
            extras = [f"{name}={value_text(row['settings'][name])}" for name in present]
            *_, matcher = row["parts"]
            method = " + ".join(row["parts"])
            row.update(
                method=method,
                label=", ".join([method, *extras]),
                setting=content_key({"data set": row["dataset"], **row["settings"], "seed": None}),
                data=row["dataset"] if row["split"] == "all" else f"{row['dataset']} {row['split']}",
                parts=(*row["parts"], *extras),
                chosen="" if row["scoring"] == matcher else row["scoring"],
            )
    return rows


def choice(matchers: Iterable[str]) -> str:
    """Return the matchers that the references of some runs chose, ": ntt" or ": ntt 3x, probe_half 2x", or ""."""
    counts = Counter(filter(None, matchers))
    names = [name if len(counts) == 1 else f"{name} {count}x" for name, count in counts.most_common()]
    return f": {', '.join(names)}" if names else ""


def statistics(runs: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """Average metrics over the seeds of each setting: one row per setting, indexed by `SETTING` and sorted.

    Columns are (metric, "mean"), (metric, "std"), missing for a single run, and (metric, "count").
    """
    values = runs.reindex(columns=metrics).where(runs.counted)
    return values.groupby([runs[name] for name in SETTING]).agg(["mean", "std", "count"])


def settings_with(runs: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Average one metric over the seeds of each setting that has it: the columns of `SETTING`, mean, std, count."""
    averaged = statistics(runs, [metric])[metric].reset_index()
    return averaged[averaged["count"] > 0]


def metric_names(runs: pd.DataFrame) -> list[str]:
    """Return the flat names of all metrics over all classes that any run has."""
    return sorted(name for name in runs if name.count("/") == 1 and not name.startswith("seconds/"))


@dataclass(frozen=True)
class SeriesNames:
    """How plots distinguish settings."""

    common: str
    """What the method of all of them has in common; may be empty."""

    short: Mapping[str, str]
    """Label -> its distinguishing part, or all of it if it is the only one; and the matchers that references chose."""

    index: Mapping[str, int]
    """Label -> its number, from 0."""


def name_series(runs: pd.DataFrame) -> SeriesNames:
    """Name settings by what they do not all have in common: "a + b + c" next to "a + b + d" is "c"."""
    ordered = runs.dropna(subset=SETTING).sort_values(SETTING)
    parts: dict[str, tuple[str, ...]] = dict(zip(ordered.label, ordered.parts, strict=True))
    index = {label: number for number, label in enumerate(parts)}
    choices = {label: choice(own) for label, own in ordered.groupby("label").chosen}
    if len(parts) < 2:
        return SeriesNames("", {label: label + choices[label] for label in parts}, index)
    shared = [part for part in next(iter(parts.values())) if all(part in other for other in parts.values())]
    short = {label: ", ".join(part for part in own if part not in shared) for label, own in parts.items()}
    return SeriesNames(
        " + ".join(shared), {name: (text or name) + choices[name] for name, text in short.items()}, index
    )


def shots_cell(shots: int) -> int | str:
    """Return a number of shots for a table."""
    return "all" if shots == ALL_SHOTS else shots


def shots_text(shots: int) -> str:
    """Return a number of shots in words."""
    return "1 shot" if shots == 1 else f"{shots_cell(shots)} shots"


def differing_settings(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the dotted keys, sorted, in which settings differ; a key that only some have differs."""
    names = sorted({name for own in settings for name in own if name != "seed"})
    return [name for name in names if len({value_text(own.get(name, "-")) for own in settings}) > 1]


def value_text(value: Any) -> str:
    """Return a setting's value as text."""
    return "null" if value is None else str(value)
