"""One run's folder: its files and the records of its finished stages."""

import logging
from collections.abc import Collection, Mapping
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, cast

import yaml

from ntt.base.digests import sha256_of
from ntt.base.files import read_json, write_json, write_text
from ntt.config.identity import run_id, run_settings
from ntt.config.schema import STAGES, ExperimentConfig
from ntt.errors import StorageError
from ntt.store.maintenance import KEY_DIGITS, STORE_KEYS, used_store_keys

_LOG = logging.getLogger(__name__)


class RunDirectory:
    """The files of one run."""

    def __init__(self, root: Path) -> None:
        """Name the files; nothing is read or written."""
        self.root = root
        # Resolved settings, for readers and for repeating the run; and those that decide the result, with the id.
        self.config, self.identity = root / "config.yaml", root / "identity.json"
        # Details of the machine, the software and the stages.
        self.facts = root / "facts.json"
        self.references = root / "references.json"
        self.memory = root / "memory.safetensors"
        self.leave_one_out = root / "leave_one_out.json"
        self.prototypes = root / "prototypes.safetensors"
        self.candidates = root / "candidates.json"
        self.proposals = root / "proposals.json"
        self.predictions = root / "predictions.json"
        # Images and classes the predictions refer to, in COCO format.
        self.images = root / "images.json"
        # The number of objects in each image, and the lowest score of each class from which they are counted and drawn.
        self.counts, self.lowest_scores = root / "counts.csv", root / "lowest_scores.json"
        # Quality at several thresholds.
        self.thresholds = root / "thresholds.json"
        self.metrics = root / "metrics.json"
        self.pictures = root / "pictures"

    def drawn_pictures(self) -> list[Path]:
        """Return the pictures drawn, according to the record of the stage."""
        record = self.record("visualisation")
        return [self.root / name for name in record["files"]] if record else []

    def write_config(self, config: ExperimentConfig) -> None:
        """Write the configuration, and separately what decides the result."""
        write_text(self.config, yaml.safe_dump(asdict(config), sort_keys=False, allow_unicode=True))
        write_json(self.identity, {"id": run_id(config), "settings": run_settings(config)})

    def write_facts(self, details: Mapping[str, Any]) -> None:
        """Write details of the machine and the software, and those of the finished stages."""
        write_json(self.facts, {**details, "stages": self.stage_details()})

    def stage_details(self) -> dict[str, dict[str, Any]]:
        """Return of every finished stage its seconds, peak memory, number of new store entries by kind, and end."""
        records = {stage: record for stage in STAGES if (record := self.record(stage))}
        return {
            stage: {key: value for key, value in record.items() if key not in ("key", "files")}
            for stage, record in records.items()
        }

    def record(self, stage: str) -> dict[str, Any] | None:
        """Return the record of a finished stage, or None; a damaged record counts as none."""
        path = self._record_path(stage)
        try:
            record = read_json(path) if path.exists() else None
        except StorageError as error:
            _LOG.warning("%s The stage is repeated.", error)
            return None
        if record is not None and not _is_record(record):
            _LOG.warning("%s is not the record of a stage. The stage is repeated.", path)
            return None
        return cast("dict[str, Any] | None", record)

    def is_done(self, stage: str, key: str) -> bool:
        """Return whether a stage has finished with this key, and its files (pictures: their sizes) are as written."""
        record = self.record(stage)
        if record is None or record["key"] != key:
            return False
        for name, state in record["files"].items():
            path = self.root / name
            if not path.is_file():
                return False
            if _file_state(path) != state:
                _LOG.warning("%s is not as stage %s wrote it; the stage is repeated.", path, stage)
                return False
        return True

    def write_record(self, stage: str, key: str, files: list[Path], details: Mapping[str, Any]) -> None:
        """Record that a stage has finished, with the sizes and digests of its files, which exist by now."""
        written = {str(path.relative_to(self.root)): _file_state(path) for path in files}
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        write_json(self._record_path(stage), {"key": key, "files": written, "finished_utc": now, **details})

    def discard(self, stage: str) -> None:
        """Remove the record of a stage, and of its files those that are as it wrote them and not behind a link."""
        record, root = self.record(stage), self.root.resolve()
        if record is None:
            return
        try:
            for name, state in record["files"].items():
                path = self.root / name
                if path.is_file() and path.resolve() == root / name and _file_state(path) == state:
                    path.unlink()
            self._record_path(stage).unlink()
        except OSError as error:
            raise StorageError(
                f"{error.filename} of an earlier run cannot be removed: {error.strerror}. Make its folder writable."
            ) from error

    def write_store_keys(self, stage: str, used: Collection[tuple[str, str]]) -> None:
        """Record kind and key of the store entries that a stage has used, for pruning the store."""
        by_stage = used_store_keys(self.root)
        by_stage[stage] = {}
        noted = {(kind, key) for kinds in by_stage.values() for kind, keys in kinds.items() for key in keys}
        for kind, key in sorted(used):
            if (kind, key[:KEY_DIGITS]) not in noted:
                by_stage[stage].setdefault(kind, []).append(key[:KEY_DIGITS])
        write_json(self.root / STORE_KEYS, {name: kinds for name, kinds in by_stage.items() if kinds}, indent=None)

    def _record_path(self, stage: str) -> Path:
        return self.root / "stages" / f"{stage}.json"


STAGE_OF_KIND = {"candidates": "candidates", "references": "memory"}
"""The stage of a run that computes the store entries of a kind."""


def seconds_per_item(stages: Mapping[str, Any], kind: str) -> float | None:
    """Return the seconds per new store entry of a kind, from the details of a run's stages.

    None if the stage computed none, or other kinds with them.
    """
    stage = stages.get(STAGE_OF_KIND[kind], {})
    computed = stage.get("computed", {})
    return stage["seconds"] / computed[kind] if list(computed) == [kind] else None


def _is_record(record: Any) -> bool:
    """Return whether a record has the entries that are read, and names no file outside the run directory."""
    try:
        numbers = [record["seconds"], *record.get("peak_memory_mb", {}).values(), *record.get("computed", {}).values()]
        paths = list(map(Path, record["files"].keys()))
        is_inside = not any(path.is_absolute() or ".." in path.parts for path in paths)
        return isinstance(record["key"], str) and is_inside and all(isinstance(value, int | float) for value in numbers)
    except (AttributeError, KeyError, TypeError):
        return False


def _file_state(path: Path) -> dict[str, Any]:
    size = path.stat().st_size
    return {"bytes": size} if path.suffix == ".png" else {"bytes": size, "sha256": sha256_of(path)}
