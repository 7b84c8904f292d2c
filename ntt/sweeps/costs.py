"""How long work takes, from what earlier runs have measured."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ntt.base.files import read_json
from ntt.config.schema import STAGES, ExperimentConfig
from ntt.errors import StorageError
from ntt.run.rundir import RunDirectory
from ntt.sweeps.state import SweepFolder

_COMPUTED_SHARE = 0.1
"""A run this many times as fast as the slowest one per item found most of its items in the store."""
_LOOKED_UP_S = 0.01
"""No model takes less for an image or a reference; looking one up in the store does."""
_DEFAULTS = {("regions", "candidates"): (1.0, "docs/models.md, an idle CPU core")}
_REST = ("references", "prototypes", "matching", "evaluation")


@dataclass(frozen=True)
class Cost:
    """Seconds, or None where they are not known, and where the figure comes from."""

    seconds: float | None
    source: str


@dataclass(frozen=True)
class _Measured:
    """What one earlier run took: seconds per image, per reference, and for the rest; None: not known."""

    dataset: str
    candidates: float | None
    references: float | None
    rest: float | None


def item_cost(kind: str, config: ExperimentConfig) -> Cost:
    """Return what one image ("candidates") or one reference instance ("references") takes.

    Earlier runs and shards of sweeps with the same models below the same output root are asked: on the same data set
    if there are any, else on any. Those that found their items in the store are uninformative and are left out.
    """
    runs = [(run.dataset, getattr(run, kind)) for run in _earlier_runs(config)]
    measured = [
        (dataset, seconds)
        for dataset, seconds in (*runs, *_earlier_shards(kind, config))
        if seconds is not None and seconds > _LOOKED_UP_S
    ]
    label = config.dataset.label()
    same = [seconds for dataset, seconds in measured if dataset == label]
    comparable = same or [seconds for _, seconds in measured]
    computed = [seconds for seconds in comparable if seconds > _COMPUTED_SHARE * max(comparable)]
    if computed:
        return _median(computed, label if same else "other data sets")
    return Cost(*_DEFAULTS.get((config.segmenter.name, kind), (None, "nothing measured yet")))


def point_cost(config: ExperimentConfig) -> Cost:
    """Return what a point takes besides the shared work: the median of earlier runs on the same data set."""
    label = config.dataset.label()
    seconds = [run.rest for run in _earlier_runs(config) if run.dataset == label and run.rest is not None]
    return _median(seconds, label) if seconds else Cost(None, "nothing measured yet")


def _median(seconds: list[float], where: str) -> Cost:
    times = "once" if len(seconds) == 1 else f"{len(seconds)} times"
    return Cost(statistics.median(seconds), f"measured {times} on {where}")


def models_label(kind: str, config: ExperimentConfig) -> str:
    """Name the models whose work a unit is."""
    return config.backbone.name if kind == "references" else f"{config.backbone.name} + {config.segmenter.name}"


def _earlier_shards(kind: str, config: ExperimentConfig) -> Iterable[tuple[str, float]]:
    """Yield (data set, seconds per item) of every shard of a sweep that was done with these models."""
    root = Path(config.runtime.output_root).expanduser().absolute()
    for path in sorted(root.glob("sweeps/*/plan.json")):
        folder = SweepFolder(path.parent)
        for unit, label in _units_of(path, kind):
            dataset, _, models = label.rpartition(", ")
            if models == models_label(kind, config):
                for state in map(folder.state, folder.shards(unit)):
                    if state.computed and state.seconds:
                        yield dataset, state.seconds / state.computed


def _units_of(plan: Path, kind: str) -> list[tuple[str, str]]:
    """Return (id, label) of a plan's units; nothing where the plan cannot be read."""
    try:
        return [(unit["id"], unit["label"]) for unit in read_json(plan)["units"] if unit["kind"] == kind]
    except (StorageError, KeyError, TypeError):
        return []


def _earlier_runs(config: ExperimentConfig) -> tuple[_Measured, ...]:
    root = Path(config.runtime.output_root).expanduser().absolute()
    folders = root.glob(f"*/*/{config.backbone.name}_{config.segmenter.name}_*")
    return tuple(_measured(folder) for folder in sorted(folders))


@lru_cache(maxsize=4096)
def _measured(folder: Path) -> _Measured:
    directory = RunDirectory(folder)
    seconds = {stage: (directory.record(stage) or {}).get("seconds") for stage in STAGES}
    rest: list[Any] = [seconds[stage] for stage in _REST if seconds[stage] is not None]
    return _Measured(
        dataset=directory.root.parent.parent.name,
        candidates=_per_item(seconds["candidates"], _count(directory, "candidates.json")),
        references=_per_item(seconds["memory"], _count(directory, "references.json")),
        rest=sum(rest) if len(rest) == len(_REST) else None,
    )


def _per_item(seconds: float | None, count: int) -> float | None:
    return seconds / count if seconds is not None and count else None


def _count(directory: RunDirectory, name: str) -> int:
    """Return the number of images or of references of a run; 0 where that cannot be read."""
    path = directory.root / name
    try:
        content = read_json(path) if path.is_file() else {}
        if name == "candidates.json":
            return len(content["candidates_per_image"])
        return sum(map(len, content["references"].values()))
    except (StorageError, AttributeError, KeyError, TypeError):
        return 0
