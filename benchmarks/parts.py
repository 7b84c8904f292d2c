"""What the two ways of `benchmarks.whole_image` share: what they are shown, and a clock that knows parts."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from ntt.models.backbones.dinov2 import Dinov2Config
from ntt.models.segmenters.sam2 import Sam2Config
from ntt.types import Placement

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Shown:
    """Image, weights and settings.

    Attributes:
        image_HW3: uint8 RGB.
        prototypes_PD: float32, unit vectors; row p stands for class p.
        emulate: compute bfloat16 also where the CPU has no instructions for it.
        discs: replace the decoder's masks, once they are computed, by discs of random place and size.
        device: where the models run.
        compile: whether they go through `torch.compile`.
    """

    image_HW3: npt.NDArray[np.uint8]
    prototypes_PD: torch.Tensor
    sam2_model: str
    sam2_weights: Path
    dinov2_model: str
    dinov2_weights: Path
    points_per_side: int
    min_predicted_iou: float
    precision: str
    emulate: bool
    discs: bool
    device: str = "cpu"
    compile: bool = False

    @property
    def placement(self) -> Placement:
        """Where the models run."""
        return Placement(precision=self.precision, device=self.device, compile=self.compile)

    @property
    def sam2_config(self) -> Sam2Config:
        """Settings of the segmenter."""
        return Sam2Config(
            name="sam2",
            weights=str(self.sam2_weights),
            model=self.sam2_model,
            points_per_side=self.points_per_side,
            min_predicted_iou=self.min_predicted_iou,
        )

    @property
    def dinov2_config(self) -> Dinov2Config:
        """Settings of the backbone."""
        return Dinov2Config(name="dinov2", model=self.dinov2_model, weights=str(self.dinov2_weights))

    def masks_of(self, logits_Nhw: torch.Tensor) -> torch.Tensor:
        """The logits that pooling and matching get: the decoder's own, or discs in their place."""
        if not self.discs:
            return logits_Nhw
        return draw_discs(logits_Nhw)


def draw_discs(logits_Nhw: torch.Tensor) -> torch.Tensor:
    """Overwrite logits by those of discs of random position and size, small ones more frequent, as in real images."""
    count, rows, columns = logits_Nhw.shape
    random = torch.Generator().manual_seed(0)
    y, x = torch.arange(rows)[:, None], torch.arange(columns)[None]
    for logits, (row, column, size) in zip(logits_Nhw, torch.rand(count, 3, generator=random).tolist(), strict=True):
        radius = 2 + size**2 * rows / 2
        logits.copy_(radius - torch.hypot(y - row * rows, x - column * columns))
    return logits_Nhw


@dataclass
class Clock:
    """Wall-clock and processor seconds by part; a part inside another counts for itself only. `notes` are counts."""

    wall: dict[str, float] = field(default_factory=dict)
    cpu: dict[str, float] = field(default_factory=dict)
    notes: dict[str, int] = field(default_factory=dict)
    _open: list[str] = field(default_factory=list)
    _last: tuple[float, float] = (0.0, 0.0)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the time of a `with` block."""
        self.start(name)
        try:
            yield
        finally:
            self.stop()

    def start(self, name: str) -> None:
        """Begin a part; the one around it pauses."""
        self._settle()
        self._open.append(name)

    def stop(self) -> None:
        """End the innermost part."""
        self._settle()
        self._open.pop()

    def timed(self, name: str, function: Callable[P, R]) -> Callable[P, R]:
        """Wrap a function so that its time counts for a part."""

        def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
            with self.part(name):
                return function(*args, **kwargs)

        return wrapped

    def _settle(self) -> None:
        now = (time.perf_counter(), time.process_time())
        if self._open:
            name = self._open[-1]
            self.wall[name] = self.wall.get(name, 0.0) + now[0] - self._last[0]
            self.cpu[name] = self.cpu.get(name, 0.0) + now[1] - self._last[1]
        self._last = now
