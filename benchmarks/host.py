"""What the host does while a device computes: images a second, processor time by part, idle share of the device.

    python -m benchmarks.host --device-ms 100

The stage `candidates` runs as it does with a GPU, over JPEG files into a store. What a GPU would do (both networks,
masks to full size and their changes) is replaced by results prepared beforehand, which become ready after a given time
of the device: a sleep, one image at a time. Masks are discs of natural sizes, features are random.

Processor milliseconds are those of all threads. The last line is JSON.
"""

import argparse
import json
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.gpu import idle_share, write_images
from benchmarks.parts import draw_discs
from ntt.base.distributed import ProcessGroup
from ntt.ops.candidates import Finish, measure
from ntt.stages.candidates import CandidateSource, find_candidates
from ntt.store.store import Store
from ntt.types import Candidates, ImageRecord, Proposals


@dataclass
class Meter:
    """Processor seconds by part, and when the device was busy."""

    seconds: dict[str, float] = field(default_factory=dict)
    busy: list[tuple[float, float]] = field(default_factory=list)
    device: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the processor time of this thread."""
        started = time.thread_time()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.thread_time() - started


class Models:
    """In the place of backbone and segmenter, which are not called."""

    name = "none"
    fingerprint: dict[str, str] = {}  # noqa: RUF012

    def canvas_hw(self, height: int, width: int) -> tuple[int, int]:
        """SAM2's canvas."""
        return 1024, 1024


@dataclass(frozen=True)
class RecordedSource(CandidateSource):
    """A source whose device sleeps and gives what was prepared."""

    measured: Finish | None = None
    device_s: float = 0.1
    meter: Meter = field(default_factory=Meter)
    computing_threads = 2

    def load(self, record: ImageRecord) -> torch.Tensor:
        """As ever, and timed."""
        with self.meter.part("load"):
            return super().load(record)

    def compute(self, record: ImageRecord, canvas_3hw: torch.Tensor) -> Any:
        """Keep the device busy."""
        with self.meter.device:
            started = time.perf_counter()
            time.sleep(self.device_s)
            self.meter.busy.append((started, time.perf_counter()))
        return self.measured

    def finish(self, key: str, finish: Finish) -> Candidates:
        """As ever, and timed; writing counts for itself."""
        with self.meter.part("finish"):
            return super().finish(key, finish)


@dataclass(frozen=True)
class TimedStore(Store):
    """A store that knows how long writing takes."""

    meter: Meter = field(default_factory=Meter)

    def write_candidates(self, key: str, candidates: Candidates, *, feature_dtype: str) -> None:
        """As ever, and timed."""
        with self.meter.part("write"):
            super().write_candidates(key, candidates, feature_dtype=feature_dtype)


def main() -> None:
    """Run the stage and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device-ms", type=float, default=100.0, help="time of the device per image (default 100)")
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--masks", type=int, default=800, help="masks per image (default 800)")
    parser.add_argument("--channels", type=int, default=1024, help="channels of a feature (default 1024)")
    parser.add_argument("--size", type=int, nargs=2, default=(640, 480), metavar=("WIDTH", "HEIGHT"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        meter, wall, processor = run(arguments, Path(folder))
    encoding = meter.seconds["finish"] - meter.seconds["write"]
    parts = {"load": meter.seconds["load"], "encode": encoding, "write": meter.seconds["write"]}
    parts["all threads"] = processor
    for name, seconds in parts.items():
        print(f"{name:12} {seconds / arguments.images * 1e3:7.1f} ms of processor time per image")
    figures = {
        "images_per_second": round(arguments.images / wall, 2),
        "host_ms_per_image": round(processor / arguments.images * 1e3, 1),
        "device_idle": round(idle_share(meter.busy) or 0.0, 3),
    }
    print(json.dumps(figures))


def run(arguments: argparse.Namespace, folder: Path) -> tuple[Meter, float, float]:
    """Run the stage over images that are not the warm-up's; wall-clock and processor seconds."""
    torch.set_num_threads(1)
    width, height = arguments.size
    random = np.random.default_rng(0)
    noise = random.integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8)
    images = write_images(np.kron(noise, np.ones((8, 8, 1), dtype=np.uint8)), arguments.images + 2, folder)
    logits = draw_discs(torch.empty(arguments.masks, 256, 256))
    feature_map = torch.randn(arguments.channels, 37, 37, generator=torch.Generator().manual_seed(0))
    recorded = measure(
        Proposals(logits, torch.ones(len(logits))), feature_map, height=images[0].height, width=images[0].width
    )
    meter = Meter()
    source = RecordedSource(
        segmenter=Models(),  # type: ignore[arg-type]
        backbone=Models(),  # type: ignore[arg-type]
        feature_dtype="float16",
        store=TimedStore(folder / "store", meter=meter),
        measured=recorded,
        device_s=arguments.device_ms / 1e3,
        meter=meter,
    )
    find_candidates(images=images[:2], source=source, group=ProcessGroup())
    meter.seconds.clear()
    meter.busy.clear()
    wall, processor = time.perf_counter(), time.process_time()
    find_candidates(images=images[2:], source=source, group=ProcessGroup())
    return meter, time.perf_counter() - wall, time.process_time() - processor


if __name__ == "__main__":
    main()
