"""Means and standard deviations over seeds.

Runs that agree in everything but the seed are one setting. A setting is named by data set, split, shots and method
(backbone, segmenter, matcher), and by whatever else distinguishes it from the other settings at hand.
"""

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ntt.reports.records import RunRecord

_NAMED = ("split.name", "split.classes", "shots.name", "shots.count")
METHOD_GROUPS = ("backbone", "segmenter", "matcher")
_ABSENT = "-"


@dataclass(frozen=True)
class Statistic:
    """One metric of one setting over its seeds.

    Attributes:
        by_seed: the value of each finished run that has this metric.
    """

    by_seed: Mapping[int, float]

    @property
    def n(self) -> int:
        """Number of runs averaged."""
        return len(self.by_seed)

    @property
    def mean(self) -> float:
        """Arithmetic mean."""
        return statistics.fmean(self.by_seed.values())

    @property
    def std(self) -> float | None:
        """Sample standard deviation (divided by n - 1); None of a single run."""
        return statistics.stdev(self.by_seed.values()) if self.n > 1 else None

    @property
    def highest(self) -> float:
        """The largest value."""
        return max(self.by_seed.values())


@dataclass(frozen=True)
class Setting:
    """What the runs of one row have in common; sorts by data set, split, shots, method.

    Attributes:
        extras: further settings in which it differs from others of the same method, as (key, value) texts.
        key: tells settings apart whatever their names.
    """

    dataset: str
    split: str
    shots: int
    method: str
    extras: tuple[tuple[str, str], ...]
    key: str

    @property
    def label(self) -> str:
        """Method and extras in one line."""
        return ", ".join([self.method, *_pairs(self)])

    @property
    def data_label(self) -> str:
        """Data set and split in one line."""
        return self.dataset if self.split == "all" else f"{self.dataset} {self.split}"


@dataclass(frozen=True)
class Summary:
    """One setting and what its runs measured.

    Attributes:
        runs: the finished runs averaged, one a seed, by seed.
        lacking: the runs of this setting that have no metrics, with the reason in them.
        repeated: finished runs left out because a later one has the same settings and seed.
    """

    setting: Setting
    runs: tuple[RunRecord, ...]
    lacking: tuple[RunRecord, ...] = ()
    repeated: tuple[RunRecord, ...] = ()

    def statistic(self, metric: str) -> Statistic | None:
        """Average a metric by its flat name, such as "bbox/AP"; None where no run has it."""
        by_seed = {run.seed: run.values[metric] for run in self.runs if metric in run.values}
        return Statistic(by_seed) if by_seed else None

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes of the runs, in their order."""
        names: dict[str, None] = {}
        for run in self.runs:
            for classes in run.metrics.per_class.values() if run.metrics is not None else ():
                names.update(dict.fromkeys(classes))
        return tuple(names)


@dataclass(frozen=True)
class SeriesNames:
    """How a plot tells settings apart.

    Attributes:
        common: what the method of all of them has in common; may be empty.
        short: label -> what is particular to it, or all of it where there is only one.
        place: label -> its number, from 0.
    """

    common: str
    short: Mapping[str, str]
    place: Mapping[str, int]


def name_series(settings: Iterable[Setting]) -> SeriesNames:
    """Name settings by what they do not all have in common: "a + b + c" beside "a + b + d" is "c"."""
    known = {setting.label: setting for setting in settings}
    place = {label: number for number, label in enumerate(known)}
    parts = {label: (*setting.method.split(" + "), *_pairs(setting)) for label, setting in known.items()}
    shared = [part for part in next(iter(parts.values()), ()) if all(part in other for other in parts.values())]
    if len(known) < 2:
        return SeriesNames("", {label: label for label in known}, place)
    short = {label: ", ".join(part for part in own if part not in shared) for label, own in parts.items()}
    return SeriesNames(" + ".join(shared), {label: text or label for label, text in short.items()}, place)


def _pairs(setting: Setting) -> list[str]:
    return [f"{key}={value}" for key, value in setting.extras]


def summarise(records: Sequence[RunRecord]) -> list[Summary]:
    """Group runs by setting, sorted by data set, split, shots and method.

    Runs without metrics are kept in `lacking` of their setting; damaged runs whose configuration cannot be read
    belong to no setting and appear nowhere here.
    """
    groups: dict[str, list[RunRecord]] = {}
    for record in records:
        if record.config:
            groups.setdefault(setting_key(record), []).append(record)
    firsts = {key: group[0] for key, group in groups.items()}
    extras = _extras(firsts)
    summaries = [_summary(_setting(firsts[key], key, extras[key]), group) for key, group in groups.items()]
    return sorted(
        summaries, key=lambda one: (one.setting.dataset, one.setting.split, one.setting.shots, one.setting.label)
    )


def setting_key(record: RunRecord, *, without: Sequence[str] = ()) -> str:
    """Return a text that is equal for runs that differ in the seed only.

    Args:
        record: the run.
        without: further dotted keys to leave out; a config group's name leaves out the whole group.
    """
    left_out = ("seed", *without)
    kept = {
        key: value
        for key, value in record.settings.items()
        if not any(key == one or key.startswith(f"{one}.") for one in left_out)
    }
    return json.dumps([record.dataset, kept], sort_keys=True, default=str)


def _summary(setting: Setting, group: Sequence[RunRecord]) -> Summary:
    latest: dict[int, RunRecord] = {}
    repeated = []
    for record in sorted(group, key=lambda one: (one.finished_utc, str(one.path))):
        if record.state == "finished":
            if record.seed in latest:
                repeated.append(latest[record.seed])
            latest[record.seed] = record
    lacking = [record for record in group if record.state != "finished" and record.seed not in latest]
    runs = tuple(latest[seed] for seed in sorted(latest))
    return Summary(setting, runs, tuple(sorted(lacking, key=lambda one: one.seed)), tuple(repeated))


def _setting(record: RunRecord, key: str, extras: tuple[tuple[str, str], ...]) -> Setting:
    return Setting(record.dataset, record.split, record.shots, record.method, extras, key)


def _extras(firsts: Mapping[str, RunRecord]) -> dict[str, tuple[tuple[str, str], ...]]:
    """Find, for each setting, what distinguishes it from the settings of the same data set and method."""
    peers: dict[tuple[str, str], list[str]] = {}
    for key, record in firsts.items():
        peers.setdefault((record.dataset, record.method), []).append(key)
    found = {}
    for group in peers.values():
        differing = [key for key in differing_settings([firsts[key].settings for key in group]) if key not in _NAMED]
        for key in group:
            settings = firsts[key].settings
            # A key that others have and this one lacks belongs to another version of the program or another kind of
            # part; naming what is not there would help nobody.
            found[key] = tuple((name, _text(settings[name])) for name in differing if name in settings)
    return found


def differing_settings(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the dotted keys but the seed, sorted, in which settings differ; a key that only some have differs."""
    names = sorted({name for one in settings for name in one if name != "seed"})
    return [name for name in names if len({_text(one.get(name, _ABSENT)) for one in settings}) > 1]


def _text(value: Any) -> str:
    return "null" if value is None else str(value)
