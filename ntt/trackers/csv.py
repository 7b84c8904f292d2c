"""A table of all runs in one CSV file, for people without a tracking service."""

import csv
import fcntl
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import ClassVar

from ntt.trackers.base import RunIdentity, Tracker, TrackerConfig

_LOG = logging.getLogger(__name__)
_COLUMNS = ("time_utc", "run_id", "name", "group", "quantity", "value")


@dataclass
class CsvTracker:
    """Appends one row a quantity: time, run, name of the quantity, value."""

    identity: RunIdentity
    file: Path
    _broken: bool = field(default=False, init=False)

    def log_stage(self, name: str, facts: Mapping[str, float]) -> None:
        """Append the stage's facts as "stage/<name>/<fact>"."""
        self._append({f"stage/{name}/{key}": value for key, value in facts.items()})

    def log_metrics(self, metrics: Mapping[str, float]) -> None:
        """Append the metrics."""
        self._append(metrics)

    def log_pictures(self, paths: Mapping[str, Path]) -> None:
        """Do nothing: pictures stay in the run directory."""

    def finish(self, *, failed: bool) -> None:
        """Append the outcome."""
        self._append({"failed": float(failed)})

    def _append(self, values: Mapping[str, float]) -> None:
        if self._broken:
            return
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        who = self.identity
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.open("a", newline="", encoding="utf-8") as stream:
                fcntl.flock(stream, fcntl.LOCK_EX)
                writer = csv.writer(stream)
                if stream.tell() == 0:
                    writer.writerow(_COLUMNS)
                writer.writerows([now, who.run_id, who.name, who.group, key, value] for key, value in values.items())
        except OSError as error:
            self._broken = True
            _LOG.warning("tracker=csv stopped: cannot write %s (%s). The run goes on.", self.file, error)


@dataclass
class CsvTrackerConfig(TrackerConfig):
    """Schema of `tracker=csv`."""

    SCHEMA: ClassVar[str] = "csv"

    file: str = "outputs/runs.csv"
    """File the rows are appended to, shared by all runs."""

    def build(self, identity: RunIdentity) -> Tracker:
        """Build the tracker; the file is created with its first row."""
        return CsvTracker(identity, Path(self.file))
