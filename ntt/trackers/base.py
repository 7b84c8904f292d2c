"""What a tracker is: a mirror of a run's facts and metrics. The disk stays the record."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


class Tracker(Protocol):
    """Receives what a run measured. It never raises: a tracker that fails costs a warning, not a result."""

    def log_stage(self, name: str, facts: Mapping[str, float]) -> None:
        """Note a finished stage: seconds, items and peak memory."""
        ...

    def log_metrics(self, metrics: Mapping[str, float]) -> None:
        """Note metrics by flat names such as "bbox/AP" or "segm/AP50/cat"."""
        ...

    def log_pictures(self, paths: Mapping[str, Path]) -> None:
        """Note pictures by name."""
        ...

    def finish(self, *, failed: bool) -> None:
        """Close the record."""
        ...


@dataclass(frozen=True)
class RunIdentity:
    """What names a run to a tracker.

    Attributes:
        run_id: stable across restarts of the same configuration.
        config: the resolved configuration, without secrets.
    """

    run_id: str
    name: str
    group: str
    run_dir: Path
    config: Mapping[str, Any]


@dataclass
class TrackerConfig:
    """Base schema of the config group `tracker`."""

    name: str = "???"
    """Name of the option."""

    def build(self, identity: RunIdentity) -> Tracker:
        """Open the record; called on rank 0 only."""
        raise NotImplementedError
