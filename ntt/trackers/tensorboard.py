"""TensorBoard: event files in the run directory, for `tensorboard --logdir outputs`."""

import io
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ntt.base.settings import setting
from ntt.trackers.base import RunIdentity, Tracker, TrackerConfig, class_rows

if TYPE_CHECKING:
    from PIL import Image


@dataclass(kw_only=True)
class TensorboardTracker(Tracker):
    """Writes a single step: a run has results, not a course over time."""

    name: str = "tensorboard"
    writer: Any

    def _write_numbers(self, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, 0)

    def _write_results(self, metrics: Mapping[str, float]) -> None:
        columns, rows = class_rows(metrics)
        lines = [columns, ["---"] * len(columns), *([_text(cell) for cell in row] for row in rows)]
        self.writer.add_text("results", "\n".join(f"| {' | '.join(line)} |" for line in lines), 0)

    def _write_pictures(self, pictures: "Mapping[str, Image.Image]") -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        for name, picture in pictures.items():  # the writer's own `add_image` writes PNG
            stream = io.BytesIO()
            picture.save(stream, "JPEG")
            image = Summary.Image(width=picture.width, height=picture.height, encoded_image_string=stream.getvalue())
            self.writer.file_writer.add_summary(Summary(value=[Summary.Value(tag=f"pictures/{name}", image=image)]), 0)

    def _close(self, *, failed: bool) -> None:
        self.writer.add_scalar("failed", float(failed), 0)
        self.writer.close()


@dataclass(frozen=True, kw_only=True)
class TensorboardTrackerConfig(TrackerConfig):
    """Schema of `tracker=tensorboard`; needs the package tensorboard: pip install tensorboard."""

    SCHEMA: ClassVar[str] = "tensorboard"

    max_pictures: int = setting(16, ge=0)
    """Pictures to write, spread over all that were drawn; 0: none."""

    def build(self, identity: RunIdentity) -> Tracker:
        """Begin a new event file in place of an earlier one of the same run."""
        from torch.utils.tensorboard import SummaryWriter

        folder = identity.run_dir / "tensorboard"
        # A requeued run reports its finished stages again, so its record starts afresh.
        shutil.rmtree(folder, ignore_errors=True)
        writer = SummaryWriter(log_dir=str(folder))
        writer.add_text("config", f"```\n{json.dumps(identity.config, indent=1, default=str)}\n```", 0)
        return TensorboardTracker(writer=writer, max_pictures=self.max_pictures)


def _text(cell: str | float | None) -> str:
    if cell is None:
        return "–"
    return cell.replace("|", "\\|") if isinstance(cell, str) else f"{cell:.1f}"
