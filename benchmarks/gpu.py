"""Images on a GPU: images a second, time by part, idle share of the device and peak memory, ours and the package's.

    python -m benchmarks.gpu IMAGE --json figures.json

SAM2 large and DINOv2 ViT-L/14 at a 32 x 32 grid of points, as published. In every precision these are measured, one
after the other, in one process: "ntt", ours, by part (`benchmarks.our_way`) and as the stage `candidates` runs it over
images, from the file to the entry in the store; "package", which decodes with the `sam2` package at a batch of 256,
pools densely and compares masks as dense matrices (`benchmarks.reference_way`); then "compiled", ours again with
`runtime.compile=true`, as long as `--limit-s` allows. The image encoders are the same work in all.

Times by part are those of the device's own clock (`torch.cuda` events), waiting for the CPU included; the first image
is not timed. The idle share is the time in which no kernel ran, by `torch.profiler`, once the stage is under way. Peak
memory is the largest amount torch had allocated on the device, weights included.

Weights that are not given are filled by a fixed rule. Masks are then noise, so discs of natural sizes take their place
once they are computed (`--masks decoder` keeps the noise). Without a CUDA device nothing is measured and the exit
status is 2; `--device cpu` tries the same code on the CPU. The last line is JSON: milliseconds per image of the stage.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch._C._autograd import DeviceType

from benchmarks import our_way, reference_way
from benchmarks.parts import Clock, Shown
from benchmarks.whole_image import GIB, PARTS, agreement, fill_dinov2, fill_sam2, shown_to, threshold
from ntt.base.distributed import ProcessGroup
from ntt.errors import ConfigError
from ntt.models.device import PRECISIONS, check_precision
from ntt.models.segmenters.sam2 import Sam2
from ntt.stages.candidates import CandidateSource, find_candidates
from ntt.store.store import Store
from ntt.types import Detections, ImageRecord, Proposals

WAYS = {"package": reference_way, "ntt": our_way, "compiled": our_way}
WARM_UP = 4


@dataclass
class EventClock(Clock):
    """Seconds by part on the device's own clock."""

    _pieces: list[tuple[str, Any, Any]] = field(default_factory=list)
    _event: Any = None

    def _settle(self) -> None:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        if self._open:
            self._pieces.append((self._open[-1], self._event, event))
        self._event = event

    def read(self) -> dict[str, float]:
        """Wait for the device and add up."""
        torch.cuda.synchronize()
        for name, start, stop in self._pieces:
            self.wall[name] = self.wall.get(name, 0.0) + start.elapsed_time(stop) / 1e3
        self._pieces.clear()
        return self.wall


@dataclass(frozen=True)
class Figures:
    """What was measured of one way in one precision; None where it is not known.

    Attributes:
        seconds: by part, of each timed image.
        loaded, peak: bytes on the device, of the weights and at most.
        stage_ms: wall-clock milliseconds per image of the stage, store included.
        idle: share of time in which the device had nothing to do while the stage ran.
        by_batch: seconds of the decoder at other numbers of prompts at a time.
    """

    seconds: Sequence[dict[str, float]]
    loaded: int | None
    peak: int | None
    stage_ms: float | None = None
    idle: float | None = None
    by_batch: dict[int, float] = field(default_factory=dict)

    def part(self, name: str) -> float:
        """Median seconds of one part, or of all together."""
        return statistics.median(sum(image.values()) if name == "total" else image[name] for image in self.seconds)


def main() -> None:
    """Measure all ways and print the tables."""
    arguments = parse()
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print(
            f"--device {device}: there is no CUDA device here, so there is nothing to measure. Run this where one is, "
            "or try the code with --device cpu --points-per-side 4 --rounds 1.",
            file=sys.stderr,
        )
        raise SystemExit(2)
    try:
        for precision in arguments.precisions:
            check_precision(precision, device)
    except ConfigError as error:
        raise SystemExit(f"{error} Here it is chosen with --precisions.") from error
    with tempfile.TemporaryDirectory() as folder:
        shown = prepare(arguments, Path(folder))
        print(describe(arguments, shown, device), flush=True)
        results, detections = measure_all(arguments, shown, Path(folder))
    print(table(results))
    first = next(iter(results))
    for name in results:
        if name != first:
            print(agreement(record(detections[first]), record(detections[name]), name, first))
    print(json.dumps({name: round(each.stage_ms, 1) for name, each in results.items() if each.stage_ms is not None}))


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", type=Path, help="any image file")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu (default: %(default)s)")
    parser.add_argument("--sam2-model", default="sam2_hiera_large")
    parser.add_argument("--sam2-weights", type=Path, help="official checkpoint (default: filled by rule)")
    parser.add_argument("--dinov2-model", default="dinov2_vitl14")
    parser.add_argument("--dinov2-weights", type=Path, help="official checkpoint (default: filled by rule)")
    parser.add_argument("--points-per-side", type=int, default=32)
    parser.add_argument("--min-predicted-iou", type=float, help="default: 0.4, or 0 with filled weights")
    parser.add_argument("--masks", choices=("decoder", "discs"), default="discs", help="what is pooled and matched")
    parser.add_argument("--rounds", type=int, default=5, help="images of each way timed by part (default %(default)s)")
    parser.add_argument("--images", type=int, default=40, help="images the stage runs over (default %(default)s)")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=["float32"])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=["ntt", "package"])
    parser.add_argument(
        "--batches", nargs="*", type=int, default=[], help="time the decoder at these prompts at a time"
    )
    parser.add_argument("--limit-s", type=float, default=float("inf"), help="begin nothing after this many seconds")
    parser.add_argument("--json", type=Path, help="write the figures here, after each way again")
    parser.set_defaults(way="ntt", emulate=False)
    return parser.parse_args()


def prepare(arguments: argparse.Namespace, folder: Path) -> Shown:
    """Write the weights that are not given, and read the image."""
    arguments.min_predicted_iou = threshold(arguments)
    filled: dict[str, Callable[[str, str], None]] = {"sam2": fill_sam2, "dinov2": fill_dinov2}
    for kind, fill in filled.items():
        if getattr(arguments, f"{kind}_weights") is None:
            path = folder / f"{kind}.pt"
            fill(getattr(arguments, f"{kind}_model"), str(path))
            setattr(arguments, f"{kind}_weights", path)
    shown: Shown = shown_to(arguments)
    return replace(shown, device=arguments.device)


def measure_all(
    arguments: argparse.Namespace, shown: Shown, folder: Path
) -> tuple[dict[str, Figures], dict[str, Detections]]:
    """Measure one way after the other, in every precision, while there is time."""
    started = time.monotonic()
    results: dict[str, Figures] = {}
    detections: dict[str, Detections] = {}
    for way in arguments.ways:
        for precision in arguments.precisions:
            name = f"{way} {precision}"
            if time.monotonic() - started > arguments.limit_s:
                print(f"{name}: no time left", flush=True)
                continue
            chosen = replace(shown, precision=precision, compile=way == "compiled")
            results[name], detections[name] = measure(WAYS[way], chosen, arguments, folder / name.replace(" ", "_"))
            figures = asdict(results[name])
            print(f"{name}: {time.monotonic() - started:.0f} s, {json.dumps(figures)}", flush=True)
            if arguments.json is not None:
                arguments.json.write_text(json.dumps({key: asdict(value) for key, value in results.items()}, indent=1))
    return results, detections


def measure(way: ModuleType, shown: Shown, arguments: argparse.Namespace, folder: Path) -> tuple[Figures, Detections]:
    """Run one way on the image, once to warm up and then by part; ours over many images as well."""
    on_cuda = torch.device(shown.device).type == "cuda"
    models = way.load_models(shown)
    way.detect(shown, models, Clock())
    loaded = peak = None
    if on_cuda:
        loaded = torch.cuda.memory_allocated(shown.device)
        torch.cuda.reset_peak_memory_stats(shown.device)
    seconds = []
    for _ in range(arguments.rounds):
        clock = EventClock() if on_cuda else Clock()
        detections = way.detect(shown, models, clock)
        seconds.append(clock.read() if isinstance(clock, EventClock) else clock.wall)
    stage_ms, idle, by_batch = None, None, {}
    if way is our_way:
        stage_ms, idle = run_stage(shown, models, arguments.images, folder)
        for batch in () if shown.compile else arguments.batches:
            models.segmenter._batches.batch_size = batch
            runs = [EventClock() if on_cuda else Clock() for _ in range(3)]
            for clock in runs:
                way.detect(shown, models, clock)
            read = [clock.read() if isinstance(clock, EventClock) else clock.wall for clock in runs]
            by_batch[batch] = min(part["SAM2 decoder"] for part in read)
    if on_cuda:
        peak = torch.cuda.max_memory_allocated(shown.device)
        del models
        torch.cuda.empty_cache()
    return Figures(seconds, loaded, peak, stage_ms, idle, by_batch), detections


@dataclass(frozen=True)
class Drawn:
    """The segmenter with discs in the place of its masks, once these are computed."""

    segmenter: Sam2
    discs_Nhw: torch.Tensor

    def __getattr__(self, name: str) -> Any:
        """Answer as the segmenter does."""
        return getattr(self.segmenter, name)

    def propose(self, canvas_3hw: torch.Tensor, feature_map_Dhw: torch.Tensor) -> Proposals:
        """Let the segmenter propose, and replace the masks."""
        proposals = self.segmenter.propose(canvas_3hw, feature_map_Dhw)
        return Proposals(self.discs_Nhw[: len(proposals.predicted_iou_N)], proposals.predicted_iou_N)


def run_stage(shown: Shown, models: our_way.OurModels, count: int, folder: Path) -> tuple[float, float | None]:
    """Run the stage `candidates` over images; milliseconds per image, and idle share on a GPU."""
    discs = shown.masks_of(torch.zeros(shown.points_per_side**2, 256, 256)).to(shown.device)
    source = CandidateSource(
        segmenter=Drawn(models.segmenter, discs) if shown.discs else models.segmenter,
        backbone=models.backbone,
        feature_dtype="float16",
        store=Store(folder / "store"),
        placement=shown.placement,
    )
    profiled = 12 if shown.device != "cpu" else 0
    images = write_images(shown.image_HW3, WARM_UP + count + profiled, folder)
    find_candidates(images=images[:WARM_UP], source=source, group=ProcessGroup())
    started = time.perf_counter()
    find_candidates(images=images[WARM_UP : WARM_UP + count], source=source, group=ProcessGroup())
    milliseconds = (time.perf_counter() - started) / count * 1e3
    if not profiled:
        return milliseconds, None
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        find_candidates(images=images[-profiled:], source=source, group=ProcessGroup())
    return milliseconds, idle_share(
        [
            (event.time_range.start, event.time_range.end)
            for event in profile.events()
            if event.device_type == DeviceType.CUDA
        ]
    )


def write_images(image_HW3: Any, count: int, folder: Path) -> list[ImageRecord]:
    """Write variants of an image as JPEG files."""
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    for number in range(count):
        path = folder / f"{number}.jpg"
        Image.fromarray(np.roll(image_HW3, 3 * number, axis=1)).save(path, quality=90)
        records.append(ImageRecord(number, path.name, path, *image_HW3.shape[:2]))
    return records


def idle_share(spans: Sequence[tuple[float, float]]) -> float | None:
    """Share of time that no span covers; the first quarter does not count, in which the first image is alone."""
    if not spans:
        return None
    first, last = min(start for start, _ in spans), max(stop for _, stop in spans)
    begin = covered = first + (last - first) / 4
    idle = 0.0
    for start, stop in sorted(spans):
        idle += max(0.0, start - covered)
        covered = max(covered, stop)
    return idle / (last - begin)


def record(detections: Detections) -> dict[str, Any]:
    """Dress detections as `agreement` reads them."""
    return {
        "size": [detections.height, detections.width],
        "labels": detections.labels.tolist(),
        "scores": detections.scores.tolist(),
        "rles": [rle.decode("ascii") for rle in detections.rles],
    }


def describe(arguments: argparse.Namespace, shown: Shown, device: torch.device) -> str:
    """One paragraph: image, models, prompts, device."""
    height, width = shown.image_HW3.shape[:2]
    where = "CPU, wall-clock times"
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        where = f"{properties.name}, {properties.total_memory / GIB:.0f} GiB, CUDA {torch.version.cuda}"
    least = shown.min_predicted_iou
    return (
        f"{arguments.image.name}, {width} x {height}; {shown.sam2_model}, {shown.dinov2_model}; "
        f"{shown.points_per_side**2} prompts, {'no threshold' if least == 0 else f'predicted IoU > {least:g}'}; "
        f"{arguments.masks} masks; {arguments.rounds} image(s) by part, {arguments.images} by the stage; {where}; "
        f"torch {torch.__version__}; {time.strftime('%Y-%m-%d')}"
    )


def table(results: dict[str, Figures]) -> str:
    """Median milliseconds by part, the stage's, memory; and what ours gains in each precision."""
    width = max(map(len, results)) + 2

    def line(label: str, values: Sequence[float | None], digits: int) -> str:
        cells = ("-" if value is None else f"{value:.{digits}f}" for value in values)
        return f"{label:26}" + "".join(f"{cell:>{width}}" for cell in cells)

    ways = list(results.values())
    lines = [f"\n{'milliseconds per image':26}" + "".join(f"{name:>{width}}" for name in results)]
    lines += [line(part, [way.part(part) * 1e3 for way in ways], 1) for part in (*PARTS, "total")]
    lines.append(line("stage, store included", [way.stage_ms for way in ways], 1))
    lines.append(line("images a second", [way.stage_ms and 1e3 / way.stage_ms for way in ways], 2))
    lines.append(line("device idle, %", [way.idle and 100 * way.idle for way in ways], 1))
    lines.append(line("weights, GiB", [way.loaded and way.loaded / GIB for way in ways], 2))
    lines.append(line("peak memory, GiB", [way.peak and way.peak / GIB for way in ways], 2))
    for name, way in results.items():
        package = results.get(f"package {name.split()[1]}")
        if package is not None and way is not package:
            decoder, total = (package.part(part) / way.part(part) for part in ("SAM2 decoder", "total"))
            lines.append(f"package / {name}: decoder {decoder:.2f}, total {total:.2f}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
