"""One run's folder: its files, the records of its finished stages, its log."""

import contextlib
import logging
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import yaml

from ntt.base.digests import sha256_of
from ntt.base.distributed import World
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


@contextmanager
def console_logging(me: World) -> Iterator[None]:
    """Send the library's log to the console while the block runs.

    The main process shows everything from INFO on; the others only errors, with their rank.
    """
    logger = logging.getLogger("ntt")
    console: logging.Handler = logging.StreamHandler(sys.stdout)
    console.setFormatter(logging.Formatter("%(message)s"))
    if not me.is_main:
        console.setFormatter(logging.Formatter(f"[process {me.rank}] %(levelname)s %(message)s"))
        console.setLevel(logging.ERROR)
    before = (logger.level, logger.propagate)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(console)
    early = _EarlyRecords()
    logger.addHandler(early)
    try:
        yield
    finally:
        logger.setLevel(before[0])
        logger.propagate = before[1]
        logger.removeHandler(console)
        logger.removeHandler(early)
        console.flush()


@contextmanager
def file_logging(root: Path, me: World) -> Iterator[None]:
    """Send the main process's log, and the error that ends the block, to the run's `run.log`.

    Raises:
        StorageError: if the run directory cannot be written.
    """
    if not me.is_main:
        yield
        return
    try:
        root.mkdir(parents=True, exist_ok=True)
        handler = _RunLog(root / "run.log", encoding="utf-8")
    except OSError as error:
        raise StorageError(
            f"Cannot write into the run directory {root}: {error}. Set runtime.output_root to a writable folder."
        ) from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s"))
    logger = logging.getLogger("ntt")
    for early in [one for one in logger.handlers if isinstance(one, _EarlyRecords)]:
        logger.removeHandler(early)
        for record in early.records:
            handler.handle(record)
    logger.addHandler(handler)
    try:
        yield
    except BaseException as error:
        message = f"stopped by {type(error).__name__}: {error}"
        handler.handle(logging.LogRecord("ntt", logging.ERROR, __file__, 0, message, None, None))
        raise
    finally:
        logger.removeHandler(handler)
        with contextlib.suppress(OSError):  # a full disk; the error that ended the block is the one to show
            handler.close()


class _EarlyRecords(logging.Handler):
    """Keeps what is said of the inputs before the run directory, and with it the log file, may be made."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record."""
        self.records.append(record)


class _RunLog(logging.FileHandler):
    """A log file that is given up where it cannot be written: the disk is full, and the run itself will say so."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Pass over an error of the disk; anything else is a defect and is shown."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)
