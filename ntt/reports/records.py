"""Run directories read as plain data: nothing in them is resolved or executed.

A run is finished if its metrics exist. Anything else is recorded too, with the reason, so that tables can report what
is missing instead of averaging over what happens to exist.
"""

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import NoneType
from typing import Any, TypeAlias

from ntt.base.files import read_json
from ntt.base.yaml_files import read_yaml
from ntt.errors import ConfigError, DataError, StorageError, counted
from ntt.run.artefacts import flat_metrics, flat_proposals, read_metrics, read_scoring
from ntt.run.rundir import STAGE_OF_KIND, RunDirectory, seconds_per_item

RunRow: TypeAlias = dict[str, Any]
"""What is known of a run: columns of `ntt.reports.summary.runs_frame`, and under "values" its metrics by flat name."""

PLAN = "plan.json"
"""The file that makes a folder the folder of a sweep."""

ALL_SHOTS = 0
"""Number of shots of runs with shots=all, which use every reference."""

METHOD_GROUPS = ("backbone", "segmenter", "matcher")
_SECTIONS = ("dataset", *METHOD_GROUPS, "shots", "split")


def describe_run(
    path: Path, config: Mapping[str, Any], dataset: str, settings: Mapping[str, Any], *, state: str, problem: str
) -> RunRow:
    """Return what is known of a run without results.

    The configuration is plain values, `dataset` the data set's label, and the settings have the form of
    `ntt.config.identity.run_settings`. `state`: "unfinished" has no metrics; "damaged" has files that cannot be read;
    "missing" is a point of a sweep that has not begun; "failed" one that ended in an error; "finished" has metrics.
    `problem` is what is wrong; empty for a finished run.
    """
    split, shots = config["split"], config["shots"]["count"]
    is_own_list = split["name"] == "all" and split.get("classes") is not None
    return {
        "path": str(path),
        "state": state,
        "problem": problem,
        "config": config,
        "settings": settings,
        "dataset": dataset,
        "split": counted(len(split["classes"]), "class", "classes") if is_own_list else str(split["name"]),
        "shots": ALL_SHOTS if shots is None else int(shots),
        "seed": config["seed"],
        "parts": tuple(str(config[group]["name"]) for group in METHOD_GROUPS),
    }


def find_run_directories(folder: Path) -> Iterator[Path]:
    """Yield every run directory at or below a folder: it has metrics, or a configuration and traces of a run.

    Run directories are not searched further; neither are sweeps' own folders, which have only a copy of the program.
    """
    for root, folders, files in os.walk(folder):
        folders.sort()
        traces = "run.log" in files or "stages" in folders
        if "metrics.json" in files or ("config.yaml" in files and traces):
            folders.clear()
            yield Path(root).absolute()
        elif PLAN in files:
            folders.clear()


def read_run(path: Path) -> RunRow:
    """Read one run directory; problems are noted in the row, not raised."""
    directory = RunDirectory(path)
    try:
        config = _read_config(directory.config)
        settings = _read_settings(directory.identity)
    except (StorageError, DataError) as error:
        return {"path": str(path), "state": "damaged", "problem": str(error)}
    dataset = _dataset_label(path, config)
    run = describe_run(path, config, dataset, settings, state="unfinished", problem="it has no metrics yet")
    if not directory.metrics.is_file():
        return run
    try:
        metrics = read_metrics(own_file(directory.metrics))
        scoring = _read_scoring(directory.leave_one_out, config["matcher"])
        values = flat_metrics(metrics) | _read_recall(directory.proposals)
        metadata = read_json(own_file(directory.facts)) if directory.facts.is_file() else {}
    except (StorageError, DataError) as error:
        return run | {"state": "damaged", "problem": str(error)}
    run |= {"state": "finished", "problem": "", "scoring": scoring, "images": metrics.num_images, "values": values}
    return run | _read_metadata(metadata, metrics.num_images)


def own_file(path: Path, *, max_bytes: float = 64 << 20) -> Path:
    """Return the path of a run directory's file if it may be read: the directory may be somebody else's.

    A DataError for links that lead out of the directory, anything but regular files, and unlikely sizes.
    """
    if not path.resolve().is_relative_to(path.parent.resolve()):
        raise DataError(f"{path} is a link that leads out of the run directory; it is not read.")
    if not path.is_file():
        raise DataError(f"{path} cannot be read: there is no such file. Repeat the run, which writes it again.")
    if path.stat().st_size > max_bytes:
        raise DataError(f"{path} is not read: it has more than {max_bytes / 2**20:.0f} MiB.")
    return path


def _read_settings(path: Path) -> dict[str, Any]:
    identity = read_json(own_file(path))
    settings = identity.get("settings") if isinstance(identity, dict) else None
    if not isinstance(settings, dict) or not {"dataset.name", *(f"{group}.name" for group in METHOD_GROUPS)} <= set(
        settings
    ):
        raise DataError(f"{path} does not hold the settings of a run.")
    plain = (str, int, float, NoneType)
    return {key: value if isinstance(value, plain) else str(value) for key, value in settings.items()}


def _read_metadata(metadata: Any, num_images: int) -> dict[str, Any]:
    """Return the columns that come from the run's metadata; nothing if its structure differs."""
    try:
        stages = metadata.get("stages", {})
        seconds = {stage: seconds_per_item(stages, kind) for kind, stage in STAGE_OF_KIND.items()}
        seconds["matching"] = stages.get("matching", {}).get("seconds", math.nan) / max(1, num_images)
        data = metadata.get("data", {})
        return {
            "seconds": {name: float(value) for name, value in seconds.items() if value and math.isfinite(value)},
            "inputs": " ".join(str(data[role]["sha256"]) for role in sorted(data)),
            "finished_utc": str(stages.get("evaluation", {}).get("finished_utc", "")),
            "version": f"{metadata.get('git')} {metadata.get('packages', {}).get('ntt-seg')}",
        }
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError, ZeroDivisionError):
        return {}


def _read_config(path: Path) -> dict[str, Any]:
    try:
        # As in JSON: keys are text, dates too.
        config = read_yaml(own_file(path).read_bytes(), where=str(path), resolved=True)
        config = json.loads(json.dumps(config, default=str))
    except ConfigError as error:
        raise DataError(str(error)) from error
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path} cannot be read: {error}.") from error
    config = config if isinstance(config, dict) else {}
    sections = {name: config[name] if isinstance(config.get(name), dict) else {} for name in _SECTIONS}
    usable = {name: isinstance(section.get("name"), str) for name, section in sections.items()}
    usable["shots"] &= _is_number(sections["shots"].get("count") or 0)
    usable["split"] &= isinstance(sections["split"].get("classes"), list | None)
    usable["seed"] = _is_number(config.get("seed"))
    unusable = [name for name in usable if not usable[name]]
    if unusable:
        raise DataError(f"{path} is not the configuration of a run: {', '.join(unusable)} is unusable.")
    return config


def _is_number(value: Any) -> bool:
    """Return whether a value is an integer that fits a table's column."""
    return isinstance(value, int) and 0 <= value < 2**31


def _read_scoring(path: Path, matcher: Mapping[str, Any]) -> str:
    choices = matcher.get("choices")
    if not isinstance(choices, dict):
        return str(matcher["name"])
    return read_scoring(own_file(path), choices) if path.is_file() else ""


def _read_recall(path: Path) -> dict[str, float]:
    """Return the recall of a run's candidates by flat name; empty if not measured."""
    if not path.is_file():
        return {}
    try:
        recall = {name: float(value) for name, value in flat_proposals(read_json(own_file(path))).items()}
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{path} does not hold the recall of candidates: {error!r}.") from error
    return {name: value for name, value in recall.items() if math.isfinite(value)}


def _dataset_label(path: Path, config: Mapping[str, Any]) -> str:
    """Return the data set's label: the run directory's grandparent, if the folders are still laid out as written."""
    if path.parent.name.endswith(f"_seed{config['seed']}") and path.parent.parent.name:
        return path.parent.parent.name
    root = config["dataset"].get("root")
    return Path(str(root)).name if root and config["dataset"]["name"] == "coco_json" else str(config["dataset"]["name"])
