"""What a tracker is: a mirror of a run's facts and metrics. The disk stays the record."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

_LOG = logging.getLogger(__name__)


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
        group: the sweep the run belongs to, or its data set.
        config: the resolved configuration, without secrets.
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


@dataclass
class Guard:
    """Keeps a tracker's failures away from the run: after the first one it warns and does nothing any more."""

    tracker: str
    broken: bool = False

    def __call__(self, action: Callable[[], object]) -> None:
        """Do something unless an earlier attempt failed."""
        if self.broken:
            return
        try:
            action()
        except Exception as error:
            self.broken = True
            _LOG.warning("tracker=%s stopped (%s). The run goes on.", self.tracker, reason(error))


def reason(error: BaseException) -> str:
    """Return an error's class and first line."""
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


@dataclass
class TrackerConfig:
    """Base schema of the config group `tracker`."""

    name: str = "???"
    """Name of the option."""

    group: str | None = None
    """Name under which runs are shown together; null: the sweep a run belongs to, else its data set."""

    def problems(self) -> list[str]:
        """Settings that cannot work, one sentence each."""
        return []

    def mirrors_finished_runs(self) -> bool:
        """Say whether a run that was finished before is shown to the tracker again."""
        return False

    def build(self, identity: RunIdentity) -> Tracker:
        """Open the record; called on rank 0 only."""
        raise NotImplementedError


def flat_config(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings under dotted keys, as command lines have them."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat.update(flat_config(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def class_rows(metrics: Mapping[str, float]) -> tuple[tuple[str, ...], list[tuple[str | float | None, ...]]]:
    """Arrange flat metrics as a table: one row a class, the last row for all of them.

    Returns:
        The headings ("class", "bbox/AP", ...) and the rows; None stands for a metric that a class does not have.
    """
    columns = list(dict.fromkeys("/".join(name.split("/", 2)[:2]) for name in metrics))
    classes = list(dict.fromkeys(name.split("/", 2)[2] for name in metrics if name.count("/") > 1))
    rows: list[tuple[str | float | None, ...]] = [
        (label, *(metrics.get(f"{column}/{label}") for column in columns)) for label in classes
    ]
    rows.append(("all classes", *(metrics.get(column) for column in columns)))
    return ("class", *columns), rows


def choose_pictures(paths: Mapping[str, Path], limit: int) -> dict[str, Path]:
    """Take at most `limit` pictures that exist, spread evenly over all of them, the first one always included."""
    present = [(name, path) for name, path in paths.items() if path.is_file()]
    if len(present) <= limit:
        return dict(present)
    return {
        present[place * len(present) // limit][0]: present[place * len(present) // limit][1] for place in range(limit)
    }
