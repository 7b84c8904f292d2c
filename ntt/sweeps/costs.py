"""How long work takes, judged by earlier runs and sweeps."""

from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from statistics import median
from typing import Any

from ntt.base.files import read_json
from ntt.config.schema import ExperimentConfig
from ntt.errors import StorageError
from ntt.run.rundir import RunDirectory, seconds_per_item
from ntt.sweeps.state import SweepFolder

_REST = ("references", "prototypes", "matching", "evaluation")
_DEFAULTS = {("regions", "candidates"): 1.0}  # docs/models.md, an idle CPU core


def item_seconds(kind: str, config: ExperimentConfig) -> float | None:
    """Return the seconds that one image ("candidates") or reference instance ("references") takes; None if unknown.

    It is the median of runs and shards with the same models below the same output root, on the same data set if there
    are any, else on any.
    """
    label = config.dataset.label()
    measured = [*_seconds_in_runs(kind, config), *_seconds_in_shards(kind, config)]
    comparable = [seconds for dataset, seconds in measured if dataset == label] or [seconds for _, seconds in measured]
    return median(comparable) if comparable else _DEFAULTS.get((config.segmenter.name, kind))


def point_seconds(config: ExperimentConfig) -> float | None:
    """Return what a point takes on top of shared work: the median of earlier runs on the same data set, or None."""
    label = config.dataset.label()
    complete = [run for dataset, run in _earlier_runs(config) if dataset == label and set(_REST) <= set(run)]
    return median(sum(run[stage]["seconds"] for stage in _REST) for run in complete) if complete else None


def models_label(kind: str, config: ExperimentConfig) -> str:
    """Name the models that do a unit's work, and which of the two kinds of references it is."""
    if kind == "candidates":
        return f"{config.backbone.name} + {config.segmenter.name}"
    return config.backbone.name + (" (clear surroundings)" if config.matcher.reads_clear_surroundings else "")


def _seconds_in_runs(kind: str, config: ExperimentConfig) -> Iterable[tuple[str, float]]:
    """Yield (data set, seconds per item) of every run that computed items of this kind, and no others with them."""
    for dataset, stages in _earlier_runs(config):
        if (seconds := seconds_per_item(stages, kind)) is not None:
            yield dataset, seconds


def _seconds_in_shards(kind: str, config: ExperimentConfig) -> Iterable[tuple[str, float]]:
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


def _earlier_runs(config: ExperimentConfig) -> list[tuple[str, dict[str, Any]]]:
    """Return (data set, details of finished stages) of every run with these models."""
    root = Path(config.runtime.output_root).expanduser().absolute()
    folders = sorted(root.glob(f"*/*/{config.backbone.name}_{config.segmenter.name}_*"))
    return [(folder.parent.parent.name, _stage_details(folder)) for folder in folders]


@lru_cache(maxsize=4096)
def _stage_details(folder: Path) -> dict[str, Any]:
    return RunDirectory(folder).stage_details()
