"""One run's folder: its files, the records of its finished stages, its log."""

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import yaml

from ntt.base.digests import sha256_of
from ntt.base.files import read_json, write_json, write_text
from ntt.errors import StorageError
from ntt.store.usage import KEY_DIGITS, STORE_KEYS, used_store_keys

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunDirectory:
    """Names of the files of one run."""

    root: Path

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

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Keep the resolved configuration."""
        write_text(self.root / "config.yaml", yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True))

    def write_facts(self, facts: Mapping[str, Any], stages: Mapping[str, Any]) -> None:
        """Keep what is known of the machine, the software and the stages."""
        write_json(self.root / "facts.json", {**facts, "stages": stages})

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
        """Say whether a stage has finished with exactly this key and its files are as they were written.

        Pictures are compared by size only: nothing reads them back.
        """
        record = self.record(stage)
        if record is None or record.get("key") != key or not isinstance(record.get("files"), dict):
            return False
        for name, facts in record["files"].items():
            path = self.root / name
            if not path.is_file():
                return False
            if _file_facts(path) != facts:
                _LOG.warning("%s is not as stage %s wrote it; the stage is repeated.", path, stage)
                return False
        return True

    def write_record(self, stage: str, key: str, files: list[Path], facts: Mapping[str, Any]) -> None:
        """Note that a stage has finished; written after its files, with their sizes and digests."""
        written = {str(path.relative_to(self.root)): _file_facts(path) for path in files}
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        write_json(self._record_path(stage), {"key": key, "files": written, "finished_utc": now, **facts})

    def write_store_keys(self, stage: str, used: Collection[tuple[str, str]]) -> None:
        """Note which entries of the store a stage has used, for whoever clears the store up.

        Args:
            stage: its name.
            used: kind and key of each entry. The beginnings of keys are enough to know them by.
        """
        known = used_store_keys(self.root)
        known[stage] = {}
        others = {(kind, key) for kinds in known.values() for kind, keys in kinds.items() for key in keys}
        for kind, key in sorted(used):
            if (kind, key[:KEY_DIGITS]) not in others:
                known[stage].setdefault(kind, []).append(key[:KEY_DIGITS])
        kept = {name: kinds for name, kinds in known.items() if kinds}
        write_json(self.root / STORE_KEYS, kept, indent=None)

    def _record_path(self, stage: str) -> Path:
        return self.root / "stages" / f"{stage}.json"


def _file_facts(path: Path) -> dict[str, Any]:
    size = path.stat().st_size
    return {"bytes": size} if path.suffix == ".png" else {"bytes": size, "sha256": sha256_of(path)}
