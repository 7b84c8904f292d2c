"""The tracker interface: a mirror of a run's progress and metrics."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ntt.base.settings import Option


class Tracker:
    """Receives what a run measures; this one discards it. A tracker never raises."""

    def log_stage(self, name: str, details: Mapping[str, float]) -> None:
        """Record a finished stage (seconds, items, peak memory)."""

    def log_metrics(self, metrics: Mapping[str, float]) -> None:
        """Record metrics by flat name, such as "segm/AP50/cat"."""

    def log_pictures(self, paths: Mapping[str, Path]) -> None:
        """Record pictures by name."""

    def finish(self, *, failed: bool) -> None:
        """Close the record."""


@dataclass(frozen=True)
class RunIdentity:
    """What names a run to a tracker.

    Attributes:
        run_id: stable across restarts of the same configuration.
        group: the sweep the run belongs to, or its data set.
        job_type: "run" for all stages, else the stage that was asked for.
        tags: data set, split, shots and the names of the method's parts.
    """

    run_id: str
    name: str
    group: str
    run_dir: Path
    config: Mapping[str, Any]
    job_type: str = "run"
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TrackerConfig(Option):
    """Schema of `tracker=none` and base of the others. No setting of it decides a result."""

    SCHEMA: ClassVar[str] = "none"

    group: str | None = None
    """Name under which runs are shown together; null: the sweep a run belongs to, else its data set."""

    def build(self, identity: RunIdentity) -> Tracker:
        """Open the record; called on rank 0 only."""
        return Tracker()
