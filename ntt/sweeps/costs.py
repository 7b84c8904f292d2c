"""How long things take, from what earlier runs have measured."""

import statistics
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ntt.config import STAGES, ExperimentConfig
from ntt.errors import StorageError
from ntt.files import read_json
from ntt.rundir import RunDirectory

_COMPUTED_SHARE = 0.1
"""A run this many times as fast as the slowest one per item found most of its items in the store."""
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

    Earlier runs with the same models below the same output root are asked: on the same data set if there are any,
    else on any. Runs that found their items in the store say nothing and are left out.
    """
    measured = [one for one in _earlier_runs(config) if getattr(one, kind) is not None]
    same = [one for one in measured if one.dataset == config.dataset.label()]
    seconds = [getattr(one, kind) for one in same or measured]
    computed = [value for value in seconds if value > _COMPUTED_SHARE * max(seconds)]
    if computed:
        where = config.dataset.label() if same else "other data sets"
        return Cost(statistics.median(computed), f"measured in {len(computed)} earlier run(s) on {where}")
    default = _DEFAULTS.get((config.segmenter.name, kind))
    return Cost(*default) if default else Cost(None, "nothing is measured yet")


def point_cost(config: ExperimentConfig) -> Cost:
    """Return what a point takes beside the shared work: the median of earlier runs on the same data set."""
    label = config.dataset.label()
    seconds = [one.rest for one in _earlier_runs(config) if one.dataset == label and one.rest is not None]
    if seconds:
        return Cost(statistics.median(seconds), f"measured in {len(seconds)} earlier run(s) on {label}")
    return Cost(None, "nothing is measured yet")


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
