"""The tracker interface: a mirror of a run's progress and metrics."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ntt.base.settings import Option

if TYPE_CHECKING:
    from PIL import Image

_LOG = logging.getLogger(__name__)
_MAX_CLASS_VALUES = 2000
_MAX_SIDE_PX = 800


@dataclass(kw_only=True)
class Tracker:
    """Receives what a run measures; this one discards it.

    A tracker never raises: at its first failure it warns, and from then on records nothing. Subclasses override
    `_write_numbers`, `_write_results`, `_write_pictures` and `_close`.
    """

    name: str = "none"
    max_pictures: int = 0
    """Pictures to record, spread over all that were drawn."""

    broken: bool = field(default=False, init=False)

    def log_stage(self, name: str, details: Mapping[str, float]) -> None:
        """Record a finished stage (seconds, items, peak memory) as "stage/<name>/<detail>"."""
        self._attempt(lambda: self._write_numbers({f"stage/{name}/{key}": value for key, value in details.items()}))

    def log_metrics(self, metrics: Mapping[str, float]) -> None:
        """Record metrics by flat name, such as "segm/AP50/cat", and as a table."""
        overall = {name: value for name, value in metrics.items() if name.count("/") == 1}
        # Thousands of numbers, as with LVIS, make a project unusable; the table lists all classes anyway.
        few = len(metrics) - len(overall) <= _MAX_CLASS_VALUES
        self._attempt(lambda: self._write_numbers(metrics if few else overall))
        self._attempt(lambda: self._write_results(metrics))

    def log_pictures(self, paths: Mapping[str, Path]) -> None:
        """Record a bounded number of pictures by name, as JPEG of at most 800 pixels per side."""
        selection = choose_pictures(paths, self.max_pictures)
        if selection:
            self._attempt(lambda: self._write_pictures({name: _reduced(path) for name, path in selection.items()}))

    def finish(self, *, failed: bool) -> None:
        """Close the record."""
        self._attempt(lambda: self._close(failed=failed))

    def _write_numbers(self, values: Mapping[str, float]) -> None: ...

    def _write_results(self, metrics: Mapping[str, float]) -> None: ...

    def _write_pictures(self, pictures: "Mapping[str, Image.Image]") -> None: ...

    def _close(self, *, failed: bool) -> None: ...

    def _attempt(self, action: Callable[[], object]) -> None:
        if self.broken:
            return
        try:
            action()
        except Exception as error:
            self.broken = True
            _LOG.warning("tracker=%s stopped (%s). The run continues.", self.name, reason(error))


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


def reason(error: BaseException) -> str:
    """Return an error's class and first line."""
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


@dataclass(frozen=True, kw_only=True)
class TrackerConfig(Option):
    """Schema of `tracker=none` and base of the others. No setting of it decides a result."""

    SCHEMA: ClassVar[str] = "none"

    group: str | None = None
    """Name under which runs are shown together; null: the sweep a run belongs to, else its data set."""

    def open(self, identity: RunIdentity) -> Tracker:
        """Open the record; called on rank 0 only. If that fails, warn, and record nothing."""
        try:
            return self.build(identity)
        except Exception as error:
            hint = f" Install it with: pip install {self.name}." if isinstance(error, ImportError) else ""
            message = "tracker=%s cannot be opened (%s).%s The run continues without it."
            _LOG.warning(message, self.name, reason(error), hint)
            return Tracker()

    def build(self, identity: RunIdentity) -> Tracker:
        """Open the record; may raise."""
        return Tracker()


def class_rows(metrics: Mapping[str, float]) -> tuple[list[str], list[list[str | float | None]]]:
    """Arrange flat metrics as headings and rows, one row per class, the last for all; None if a class has none."""
    columns = list(dict.fromkeys("/".join(name.split("/", 2)[:2]) for name in metrics))
    classes = list(dict.fromkeys(name.split("/", 2)[2] for name in metrics if name.count("/") > 1))
    rows: list[list[str | float | None]] = [
        [label, *(metrics.get(f"{column}/{label}") for column in columns)] for label in classes
    ]
    rows.append(["all classes", *(metrics.get(column) for column in columns)])
    return ["class", *columns], rows


def choose_pictures(paths: Mapping[str, Path], limit: int) -> dict[str, Path]:
    """Choose at most `limit` of the pictures that exist, evenly spread and beginning with the first."""
    present = [(name, path) for name, path in paths.items() if path.is_file()]
    if len(present) <= limit:
        return dict(present)
    return dict(present[index * len(present) // limit] for index in range(limit))


def _reduced(path: Path) -> "Image.Image":
    from PIL import Image

    with Image.open(path) as picture:
        reduced: Image.Image = picture.convert("RGB")
    reduced.thumbnail((_MAX_SIDE_PX, _MAX_SIDE_PX))
    return reduced
