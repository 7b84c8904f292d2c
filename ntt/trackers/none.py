"""No tracker: the run directory is record enough."""

from dataclasses import dataclass
from typing import ClassVar

from ntt.trackers.base import RunIdentity, Tracker, TrackerConfig


@dataclass(frozen=True, kw_only=True)
class NoTrackerConfig(TrackerConfig):
    """Schema of `tracker=none`."""

    SCHEMA: ClassVar[str] = "none"

    def build(self, identity: RunIdentity) -> Tracker:
        """Return a tracker that keeps nothing."""
        return Tracker()
