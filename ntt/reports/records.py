"""Run directories read into records, as plain data: nothing in them is resolved or executed.

A run is finished if its metrics are there. Anything else is kept as a record too, with the reason, so that a table
can say what is missing instead of averaging over what happens to be there.
"""

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import NoneType
from typing import Any, Literal, TypeAlias

import yaml

from ntt.base.files import read_json
from ntt.base.settings import flatten_settings
from ntt.errors import DataError, StorageError
from ntt.run.artefacts import flat_metrics
from ntt.run.rundir import RunDirectory
from ntt.types import Metrics

State: TypeAlias = Literal["finished", "unfinished", "failed", "damaged", "missing"]
PLAN = "plan.json"
"""The file that makes a folder the folder of a sweep."""

ALL_SHOTS = 0
"""Number of shots of a run that takes every reference there is (shots=all), however many these are."""

METHOD_GROUPS = ("backbone", "segmenter", "matcher")
_SECTIONS = ("dataset", *METHOD_GROUPS, "shots", "split")
_DECIDING = ("memory", "candidates", "evaluation", "seed")


@dataclass(frozen=True)
class RunRecord:
    """One run, or one point of a sweep that has no run yet.

    Attributes:
        path: the run directory, absolute.
        state: "finished" has metrics; "unfinished" has a configuration and no metrics; "damaged" has files that
            cannot be read; "missing" is a point of a sweep that has not begun; "failed" one that ended in an error.
        problem: what is wrong, one sentence; empty for a finished run.
        config: the resolved configuration as nested plain values; empty where it could not be read.
        metrics: the metrics of a finished run.
        details: what the run recorded of the machine, the software and the stages.
        dataset: the data set's label.
        identity: the run's id, and the settings that decide its result; see `ntt.config.identity.run_identity`.
    """

    path: Path
    state: State
    problem: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    metrics: Metrics | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    dataset: str = "?"
    identity: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def settings(self) -> Mapping[str, Any]:
        """Everything that decides the result, and the names of the options, by dotted key; lists as text."""
        return dict(self.identity["settings"])

    @property
    def shots(self) -> int:
        """Reference instances per class; `ALL_SHOTS` for all there are."""
        count = self.config["shots"]["count"]
        return ALL_SHOTS if count is None else int(count)

    @property
    def split(self) -> str:
        """Name of the split, or the number of classes where the run lists its own."""
        split = self.config["split"]
        is_own_list = split["name"] == "all" and split.get("classes") is not None
        return f"{len(split['classes'])} classes" if is_own_list else str(split["name"])

    @property
    def method(self) -> tuple[str, ...]:
        """Backbone, segmenter and matcher."""
        return tuple(str(self.config[group]["name"]) for group in METHOD_GROUPS)

    @property
    def stages(self) -> Mapping[str, Mapping[str, Any]]:
        """What the run recorded of each stage."""
        stages = self.details.get("stages")
        return {k: v for k, v in stages.items() if isinstance(v, Mapping)} if isinstance(stages, Mapping) else {}

    @property
    def stage_seconds(self) -> Mapping[str, float]:
        """Seconds of each stage, as far as the run recorded them."""
        seconds = {stage: details.get("seconds") for stage, details in self.stages.items()}
        return {stage: float(value) for stage, value in seconds.items() if isinstance(value, int | float)}

    @property
    def finished_utc(self) -> str:
        """When the run was evaluated, ISO 8601; empty if unknown."""
        return str(self.stages.get("evaluation", {}).get("finished_utc", ""))

    @property
    def version(self) -> str:
        """Revision and version of the program."""
        git, packages = self.details.get("git"), self.details.get("packages")
        revision = git.get("revision") if isinstance(git, Mapping) else None
        return f"{revision} {packages.get('ntt') if isinstance(packages, Mapping) else None}"


def find_run_directories(folder: Path) -> Iterator[Path]:
    """Yield every run directory at or below a folder, in the order of their names.

    A run directory holds metrics, or a configuration beside the traces of a run. Nothing below it is looked at, and
    nothing below a sweep's own folder, which holds no runs but a copy of the program.
    """
    for root, folders, files in os.walk(folder):
        folders.sort()
        traces = "run.log" in files or "stages" in folders
        if "metrics.json" in files or ("config.yaml" in files and traces):
            folders.clear()
            yield Path(root).absolute()
        elif PLAN in files:
            folders.clear()


def read_run(path: Path) -> RunRecord:
    """Read one run directory; whatever is wrong with it is said in the record, not raised."""
    directory = RunDirectory(path)
    try:
        config = _read_config(directory.config)
        identity = _read_identity(directory.identity, config)
    except (StorageError, DataError) as error:
        return RunRecord(path, "damaged", str(error))
    dataset = _dataset_label(path, config)
    record = RunRecord(path, "unfinished", "it has no metrics yet", config, dataset=dataset, identity=identity)
    if not directory.metrics.is_file():
        return record
    try:
        metrics = _read_metrics(directory.metrics)
        details = read_json(directory.facts) if directory.facts.is_file() else {}
    except (StorageError, DataError) as error:
        return replace(record, state="damaged", problem=str(error))
    details = details if isinstance(details, dict) else {}
    return replace(record, state="finished", problem="", metrics=metrics, details=details)


def _read_identity(path: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    if not path.is_file():  # a folder that was not copied whole: all settings that may decide a result
        settings = flatten_settings({name: config[name] for name in (*_SECTIONS, *_DECIDING) if name in config})
        plain = (str, int, float, NoneType)
        return {"settings": {key: value if isinstance(value, plain) else str(value) for key, value in settings.items()}}
    identity = read_json(path)
    if not isinstance(identity, dict) or not isinstance(identity.get("settings"), dict):
        raise DataError(f"{path} does not hold the settings of a run.")
    return identity


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(config, dict) or "seed" not in config:
        raise DataError(f"{path} is not the configuration of a run.")
    unusable = [name for name in _SECTIONS if not isinstance(config.get(name), dict) or "name" not in config[name]]
    if not unusable and not isinstance(config["shots"].get("count", ""), int | None):
        unusable.append("shots")
    if not unusable and not isinstance(config["split"].get("classes"), list | None):
        unusable.append("split")
    if not isinstance(config["seed"], int):
        unusable.append("seed")
    if unusable:
        raise DataError(f"{path} is not the configuration of a run: {', '.join(unusable)} is unusable.")
    return config


def _read_metrics(path: Path) -> Metrics:
    content = read_json(path)
    try:
        metrics = Metrics(**content)
        unusable = [name for name, value in flat_metrics(metrics).items() if not math.isfinite(value)]
    except (TypeError, AttributeError) as error:
        raise DataError(f"{path} does not hold the metrics of a run: {error}.") from error
    if unusable:
        raise DataError(f"{path} does not hold the metrics of a run: {', '.join(unusable[:5])} is not a finite number.")
    return metrics


def _dataset_label(path: Path, config: Mapping[str, Any]) -> str:
    """Return the data set's label: the run directory's grandparent, where the folders are still laid out as written."""
    if path.parent.name.endswith(f"_seed{config['seed']}") and path.parent.parent.name:
        return path.parent.parent.name
    root = config["dataset"].get("root")
    return Path(root).name if root and config["dataset"]["name"] == "coco_json" else str(config["dataset"]["name"])
