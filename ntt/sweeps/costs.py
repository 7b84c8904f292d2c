"""How long things take, from what earlier runs have measured."""

import statistics
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ntt.base.files import read_json
from ntt.config.schema import STAGES, ExperimentConfig
from ntt.errors import StorageError
from ntt.run.rundir import RunDirectory
from ntt.sweeps.state import SweepFolder

_COMPUTED_SHARE = 0.1
"""A run this many times as fast as the slowest one per item found most of its items in the store."""
_FOUND_S = 0.01
"""No model takes less for an image or a reference; looking one up does."""
_DEFAULTS = {("regions", "candidates"): (1.0, "docs/regions.md, an idle CPU core")}


@dataclass(frozen=True)
class Cost:
    """Seconds, or None where nobody knows, and where the figure comes from."""

    seconds: float | None
    source: str


@dataclass(frozen=True)
class _Measured:
    """What one earlier run took: seconds an image, seconds a reference, seconds for the rest; None: not known."""

    dataset: str
    candidates: float | None
    references: float | None
    rest: float | None


def item_cost(kind: str, config: ExperimentConfig) -> Cost:
    """Return what one image ("candidates") or one reference instance ("references") takes.

    Earlier runs and shards of sweeps with the same models below the same output root are asked: on the same data set
    if there are any, else on any. Those that found their items in the store say nothing and are left out.
    """
    known = [(one.dataset, getattr(one, kind)) for one in _earlier_runs(config)] + _earlier_shards(kind, config)
    measured = [(dataset, seconds) for dataset, seconds in known if seconds is not None and seconds > _FOUND_S]
    same = [seconds for dataset, seconds in measured if dataset == config.dataset.label()]
    some = same or [seconds for _, seconds in measured]
    computed = [seconds for seconds in some if seconds > _COMPUTED_SHARE * max(some)]
    if computed:
        where = config.dataset.label() if same else "other data sets"
        return Cost(statistics.median(computed), f"measured {_times(len(computed))} on {where}")
    default = _DEFAULTS.get((config.segmenter.name, kind))
    return Cost(*default) if default else Cost(None, "nothing is measured yet")


def point_cost(config: ExperimentConfig) -> Cost:
    """Return what a point takes beside the shared work: the median of earlier runs on the same data set."""
    label = config.dataset.label()
    seconds = [one.rest for one in _earlier_runs(config) if one.dataset == label and one.rest is not None]
    if seconds:
        return Cost(statistics.median(seconds), f"measured {_times(len(seconds))} on {label}")
    return Cost(None, "nothing is measured yet")


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def models_label(kind: str, config: ExperimentConfig) -> str:
    """Name the models whose work a unit is."""
    return config.backbone.name if kind == "references" else f"{config.backbone.name} + {config.segmenter.name}"


def _earlier_shards(kind: str, config: ExperimentConfig) -> list[tuple[str, float]]:
    """Return (data set, seconds an item) of every shard of a sweep that was done with these models."""
    root = Path(config.runtime.output_root).expanduser().absolute()
    found = []
    for path in sorted(root.glob("sweeps/*/plan.json")):
        folder = SweepFolder(path.parent)
        for unit, label in _units_of(path, kind):
            dataset, _, models = label.rpartition(", ")
            states = (
                [folder.state(task) for task in folder.shards(unit)] if models == models_label(kind, config) else []
            )
            found += [(dataset, one.seconds / one.computed) for one in states if one.computed and one.seconds]
    return found


def _units_of(plan: Path, kind: str) -> list[tuple[str, str]]:
    """Return (id, label) of a plan's units; nothing where the plan cannot be read."""
    try:
        return [(one["id"], one["label"]) for one in read_json(plan)["units"] if one["kind"] == kind]
    except (StorageError, KeyError, TypeError):
        return []


def _earlier_runs(config: ExperimentConfig) -> tuple[_Measured, ...]:
    root = Path(config.runtime.output_root).expanduser().absolute()
    folders = root.glob(f"*/*/{config.backbone.name}_{config.segmenter.name}_*")
    return tuple(_measured(RunDirectory(folder)) for folder in sorted(folders))


@lru_cache(maxsize=4096)
def _measured(directory: RunDirectory) -> _Measured:
    seconds = {stage: (directory.record(stage) or {}).get("seconds") for stage in STAGES}
    images, references = _count(directory, "candidates.json"), _count(directory, "references.json")
    rest = [seconds[stage] for stage in ("references", "prototypes", "matching", "evaluation")]
    known = [one for one in rest if one is not None]
    return _Measured(
        dataset=directory.root.parent.parent.name,
        candidates=_share(seconds["candidates"], images),
        references=_share(seconds["memory"], references),
        rest=sum(known) if len(known) == len(rest) else None,
    )


def _share(seconds: float | None, count: int) -> float | None:
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
