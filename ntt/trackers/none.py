"""No tracker: the run directory is record enough."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ntt.trackers.base import RunIdentity, Tracker, TrackerConfig


class NullTracker:
    """Forgets everything."""

    def log_stage(self, name: str, facts: Mapping[str, float]) -> None:
        """Do nothing."""

    def log_metrics(self, metrics: Mapping[str, float]) -> None:
        """Do nothing."""

    def log_pictures(self, paths: Mapping[str, Path]) -> None:
        """Do nothing."""

    def finish(self, *, failed: bool) -> None:
        """Do nothing."""


@dataclass
class NoTrackerConfig(TrackerConfig):
    """Schema of `tracker=none`."""

    SCHEMA: ClassVar[str] = "none"

    def build(self, identity: RunIdentity) -> Tracker:
        """Build a tracker that forgets everything."""
        return NullTracker()
