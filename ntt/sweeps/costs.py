"""How long work takes, judged by earlier runs and sweeps."""

from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from statistics import median
from typing import Any

from ntt.base.files import read_json
from ntt.config.schema import STAGES, ExperimentConfig
from ntt.errors import StorageError
from ntt.run.rundir import RunDirectory
from ntt.store.maintenance import used_store_keys
from ntt.sweeps.state import SweepFolder

_LOOKED_UP_S = 0.01
"""No model takes less for an image or a reference; a look-up in the store does."""
_ITEMS = {"candidates": "candidates", "memory": "references"}
_REST = ("references", "prototypes", "matching", "evaluation")


_DEFAULTS = {("regions", "candidates"): 1.0}  # docs/models.md, an idle CPU core


def item_seconds(kind: str, config: ExperimentConfig) -> float | None:
    """Return the seconds that one image ("candidates") or reference instance ("references") takes; None if unknown.

    It is the slowest figure among runs and shards with the same models below the same output root, on the same data set
    if there are any, else on any. The slowest, because the others found some of their items in the store.
    """
    runs = [(dataset, run[kind]) for dataset, run in _earlier_runs(config) if kind in run]
    measured = [entry for entry in (*runs, *_earlier_shards(kind, config)) if entry[1] > _LOOKED_UP_S]
    label = config.dataset.label()
    same = [seconds for dataset, seconds in measured if dataset == label]
    comparable = same or [seconds for _, seconds in measured]
    return max(comparable, default=_DEFAULTS.get((config.segmenter.name, kind)))


def point_seconds(config: ExperimentConfig) -> float | None:
    """Return what a point takes on top of shared work: the median of earlier runs on the same data set, or None."""
    label = config.dataset.label()
    rest = [run["rest"] for dataset, run in _earlier_runs(config) if dataset == label and "rest" in run]
    return median(rest) if rest else None


def models_label(kind: str, config: ExperimentConfig) -> str:
    """Name the models that do a unit's work, and which of the two kinds of references it is."""
    if kind == "candidates":
        return f"{config.backbone.name} + {config.segmenter.name}"
    return config.backbone.name + (" (clear surroundings)" if config.matcher.reads_clear_surroundings else "")


def _earlier_shards(kind: str, config: ExperimentConfig) -> Iterable[tuple[str, float]]:
    """Yield (data set, seconds per item) of every shard computed with these models."""
    root = Path(config.runtime.output_root).expanduser().absolute()
    for path in sorted(root.glob("sweeps/*/plan.json")):
        folder = SweepFolder(path.parent)
        with suppress(StorageError, KeyError, TypeError, AttributeError):  # a plan of another shape measures nothing
            for unit in (unit for unit in read_json(path)["units"] if unit["kind"] == kind):
                dataset, _, models = unit["label"].rpartition(", ")
                for state in map(folder.state, folder.shards(unit["id"])):
                    if models == models_label(kind, config) and state.computed and state.seconds:
                        yield dataset, state.seconds / state.computed


def _earlier_runs(config: ExperimentConfig) -> list[tuple[str, dict[str, float]]]:
    """Return (data set, result of `_measured`) of every run with these models."""
    root = Path(config.runtime.output_root).expanduser().absolute()
    folders = sorted(root.glob(f"*/*/{config.backbone.name}_{config.segmenter.name}_*"))
    return [(folder.parent.parent.name, _measured(folder)) for folder in folders]


@lru_cache(maxsize=4096)
def _measured(folder: Path) -> dict[str, float]:
    """Return the seconds a run took per image ("candidates"), per reference ("references") and for the "rest"."""
    directory = RunDirectory(folder)
    stages = {stage: (directory.record(stage) or {}).get("seconds") for stage in STAGES}
    seconds = {stage: float(value) for stage, value in stages.items() if isinstance(value, int | float)}
    if "candidates" in used_store_keys(folder).get("memory", {}):  # it has segmented the images of references, too
        seconds.pop("memory", None)
    measured = {
        kind: seconds[stage] / count
        for stage, kind in _ITEMS.items()
        if stage in seconds and (count := _count(folder / f"{kind}.json", kind))
    }
    return measured | ({"rest": sum(seconds[stage] for stage in _REST)} if set(_REST) <= set(seconds) else {})


def _count(path: Path, kind: str) -> int:
    """Return the number of images or of references of a run; 0 if that cannot be read."""
    with suppress(StorageError, AttributeError, KeyError, TypeError):
        content: Any = read_json(path)
        return len(content["candidates_per_image"]) if kind == "candidates" else sum(map(len, content[kind].values()))
    return 0
