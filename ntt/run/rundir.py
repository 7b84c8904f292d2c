"""One run's folder: its files and the records of its finished stages."""

import logging
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import yaml

from ntt.base.digests import sha256_of
from ntt.base.files import read_json, write_json, write_text
from ntt.config.identity import run_identity
from ntt.config.schema import STAGES, ExperimentConfig
from ntt.errors import StorageError
from ntt.store.usage import KEY_DIGITS, STORE_KEYS, used_store_keys

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunDirectory:
    """Names of the files of one run."""

    root: Path

    @property
    def config(self) -> Path:
        """The resolved configuration, for people and for whoever runs it again."""
        return self.root / "config.yaml"

    @property
    def identity(self) -> Path:
        """The run's id, and the settings that decide its result."""
        return self.root / "identity.json"

    @property
    def facts(self) -> Path:
        """Details of the machine, the software and the stages."""
        return self.root / "facts.json"

    @property
    def references(self) -> Path:
        """The sampled references."""
        return self.root / "references.json"

    @property
    def memory(self) -> Path:
        """Feature vectors of the references."""
        return self.root / "memory.safetensors"

    @property
    def prototypes(self) -> Path:
        """What candidates are compared with."""
        return self.root / "prototypes.safetensors"

    @property
    def candidates(self) -> Path:
        """Number of candidates of each image."""
        return self.root / "candidates.json"

    @property
    def predictions(self) -> Path:
        """COCO results."""
        return self.root / "predictions.json"

    @property
    def metrics(self) -> Path:
        """Metrics; written last."""
        return self.root / "metrics.json"

    @property
    def pictures(self) -> Path:
        """Folder of pictures."""
        return self.root / "pictures"

    def drawn_pictures(self) -> list[Path]:
        """Return the pictures that have been drawn, by the record of the stage."""
        record = self.record("visualisation")
        return [self.root / name for name in record["files"]] if record else []

    def write_config(self, config: ExperimentConfig) -> None:
        """Keep the configuration, and apart from it what decides the result."""
        text = yaml.safe_dump(asdict(config), sort_keys=False, allow_unicode=True)
        write_text(self.config, text)
        write_json(self.identity, run_identity(config))

    def write_facts(self, details: Mapping[str, Any]) -> None:
        """Keep details of the machine and the software, with those of the stages that are finished."""
        write_json(self.facts, {**details, "stages": self.stage_details()})

    def stage_details(self) -> dict[str, dict[str, Any]]:
        """Return seconds, peak memory and time of end of every finished stage."""
        records = {stage: self.record(stage) for stage in STAGES}
        return {
            stage: {key: value for key, value in record.items() if key not in ("key", "files")}
            for stage, record in records.items()
            if record is not None
        }

    def record(self, stage: str) -> dict[str, Any] | None:
        """Return the record of a finished stage, or None; a damaged record counts as none."""
        path = self._record_path(stage)
        if not path.exists():
            return None
        try:
            record: dict[str, Any] = read_json(path)
        except StorageError as error:
            _LOG.warning("%s The stage is repeated.", error)
            return None
        return record

    def is_done(self, stage: str, key: str) -> bool:
        """Return whether a stage has finished with exactly this key and its files are as they were written.

        Pictures are compared by size only: nothing reads them back.
        """
        record = self.record(stage)
        if record is None or record.get("key") != key or not isinstance(record.get("files"), dict):
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
        """Note that a stage has finished; written after its files, with their sizes and digests."""
        written = {str(path.relative_to(self.root)): _file_state(path) for path in files}
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        write_json(self._record_path(stage), {"key": key, "files": written, "finished_utc": now, **details})

    def write_store_keys(self, stage: str, used: Collection[tuple[str, str]]) -> None:
        """Note which entries of the store a stage has used, for whoever cleans the store.

        Args:
            stage: its name.
            used: kind and key of each entry. The beginnings of keys are enough to tell entries apart.
        """
        by_stage = used_store_keys(self.root)
        by_stage[stage] = {}
        noted = {(kind, key) for kinds in by_stage.values() for kind, keys in kinds.items() for key in keys}
        for kind, key in sorted(used):
            if (kind, key[:KEY_DIGITS]) not in noted:
                by_stage[stage].setdefault(kind, []).append(key[:KEY_DIGITS])
        write_json(self.root / STORE_KEYS, {name: kinds for name, kinds in by_stage.items() if kinds}, indent=None)

    def _record_path(self, stage: str) -> Path:
        return self.root / "stages" / f"{stage}.json"


def _file_state(path: Path) -> dict[str, Any]:
    size = path.stat().st_size
    return {"bytes": size} if path.suffix == ".png" else {"bytes": size, "sha256": sha256_of(path)}
