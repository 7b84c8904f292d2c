"""TensorBoard: event files in the run directory, for `tensorboard --logdir outputs`."""

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from ntt.trackers.base import Guard, RunIdentity, Tracker, TrackerConfig, choose_pictures, class_rows, reason
from ntt.trackers.none import NullTracker

_LOG = logging.getLogger(__name__)
_MAX_CLASS_VALUES = 2000


@dataclass
class TensorboardTracker:
    """Writes one step: a run has no course over time, only results."""

    writer: Any
    max_pictures: int
    _guard: Guard = field(default_factory=lambda: Guard("tensorboard"), init=False)

    def log_stage(self, name: str, facts: Mapping[str, float]) -> None:
        """Write the stage's facts as "stage/<name>/<fact>"."""
        self._guard(lambda: self._scalars({f"stage/{name}/{key}": value for key, value in facts.items()}))

    def log_metrics(self, metrics: Mapping[str, float]) -> None:
        """Write metrics as scalars, and as a table in markdown."""
        of_classes = sum(name.count("/") > 1 for name in metrics)
        shown = {k: v for k, v in metrics.items() if k.count("/") == 1 or of_classes <= _MAX_CLASS_VALUES}
        self._guard(lambda: self._scalars(shown))
        self._guard(lambda: self.writer.add_text("results", _markdown(metrics), 0))

    def log_pictures(self, paths: Mapping[str, Path]) -> None:
        """Write a bounded number of pictures."""
        self._guard(lambda: self._pictures(choose_pictures(paths, self.max_pictures)))

    def finish(self, *, failed: bool) -> None:
        """Write the outcome and close the file."""
        self._guard(lambda: self.writer.add_scalar("failed", float(failed), 0))
        self._guard(self.writer.close)

    def _scalars(self, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, 0)

    def _pictures(self, paths: Mapping[str, Path]) -> None:
        for name, path in paths.items():
            with Image.open(path) as picture:
                self.writer.add_image(f"pictures/{name}", np.asarray(picture.convert("RGB")), 0, dataformats="HWC")


@dataclass
class TensorboardTrackerConfig(TrackerConfig):
    """Schema of `tracker=tensorboard`; needs the package tensorboard: pip install tensorboard."""

    SCHEMA: ClassVar[str] = "tensorboard"

    max_pictures: int = 16
    """Pictures to write, spread over all that were drawn; 0: none."""

    def problems(self) -> list[str]:
        """Refuse a negative number of pictures."""
        if self.max_pictures >= 0:
            return []
        return [f"tracker.max_pictures={self.max_pictures} is not possible: allowed is 0 or more. 0 writes none."]

    def build(self, identity: RunIdentity) -> Tracker:
        """Begin a new event file in place of an earlier one of the same run."""
        folder = identity.run_dir / "tensorboard"
        try:
            from torch.utils.tensorboard import SummaryWriter

            # A run that is queued again starts its record again: its finished stages are told once more anyway.
            shutil.rmtree(folder, ignore_errors=True)
            writer = SummaryWriter(log_dir=str(folder))
            writer.add_text("config", f"```\n{json.dumps(identity.config, indent=1, default=str)}\n```", 0)
        except Exception as error:
            hint = " Install it with: pip install tensorboard." if isinstance(error, ImportError) else ""
            _LOG.warning(
                "tracker=tensorboard cannot be opened (%s).%s The run goes on without it.", reason(error), hint
            )
            return NullTracker()
        return TensorboardTracker(writer, self.max_pictures)


def _markdown(metrics: Mapping[str, float]) -> str:
    columns, rows = class_rows(metrics)
    lines = [" | ".join(columns), " | ".join("---" for _ in columns)]
    lines += [" | ".join(_text(cell) for cell in row) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)


def _text(cell: str | float | None) -> str:
    if cell is None:
        return "–"
    return cell.replace("|", "\\|") if isinstance(cell, str) else f"{cell:.1f}"
