"""One image on a GPU: images a second, time by part and peak memory, ours against the package's decoder.

    python -m benchmarks.gpu IMAGE

SAM2 large and DINOv2 ViT-L/14 at a 32 x 32 grid of points, as published, in one process. In every precision two ways
are measured, one after the other: "package" decodes with the `sam2` package at a batch of 256, pools densely and
compares masks as dense matrices (`benchmarks.reference_way`); "ntt" is ours (`benchmarks.our_way`). The image encoders
are the same work in both. Times are taken with `torch.cuda` events, so they are those of the device's own clock,
waiting for the CPU included; the first image of each way is not timed. Peak memory is the largest amount torch had
allocated on the device during the timed images, weights included.

Weights that are not given are filled by a fixed rule; see `benchmarks.whole_image` for what that means for the masks.
Without a CUDA device nothing is measured and the exit status is 2. `--device cpu` tries the same code on the CPU, with
wall-clock times and no figure for memory.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from benchmarks import our_way, reference_way
from benchmarks.parts import Clock, Shown
from benchmarks.whole_image import GIB, PARTS, agreement, fill_dinov2, fill_sam2, shown_to, threshold
from ntt.errors import ConfigError
from ntt.models.device import PRECISIONS, check_precision
from ntt.types import Detections

WAYS = {"package": reference_way, "ntt": our_way}


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
    """What was measured of one way in one precision; memory in bytes, None where it is not known."""

    seconds: Sequence[dict[str, float]]
    loaded: int | None
    peak: int | None
    found: Detections

    def part(self, name: str) -> float:
        """Median seconds of one part, or of all together."""
        return statistics.median(sum(one.values()) if name == "total" else one[name] for one in self.seconds)


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
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        shown = prepare(arguments, Path(folder))
        results = {}
        for precision in arguments.precisions:
            for name, way in WAYS.items():
                results[f"{name} {precision}"] = measure(way, replace(shown, precision=precision), arguments.rounds)
    print(describe(arguments, shown, device))
    print(table(results))
    first = f"ntt {arguments.precisions[0]}"
    for name in results:
        if name != first:
            print(agreement(record(results[first].found), record(results[name].found), name, first))


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
    parser.add_argument("--masks", choices=("decoder", "discs"), default="decoder", help="what is pooled and matched")
    parser.add_argument("--rounds", type=int, default=5, help="timed images of each way (default %(default)s)")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=["float32"])
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


def measure(way: ModuleType, shown: Shown, rounds: int) -> Figures:
    """Run one way on the image, once to warm up and then `rounds` times."""
    on_cuda = torch.device(shown.device).type == "cuda"
    models = way.load_models(shown)
    way.detect(shown, models, Clock())
    loaded = peak = None
    if on_cuda:
        loaded = torch.cuda.memory_allocated(shown.device)
        torch.cuda.reset_peak_memory_stats(shown.device)
    seconds = []
    for _ in range(rounds):
        clock = EventClock() if on_cuda else Clock()
        found = way.detect(shown, models, clock)
        seconds.append(clock.read() if isinstance(clock, EventClock) else clock.wall)
    if on_cuda:
        peak = torch.cuda.max_memory_allocated(shown.device)
        del models
        torch.cuda.empty_cache()
    return Figures(seconds, loaded, peak, found)


def record(found: Detections) -> dict[str, Any]:
    """Dress detections as `agreement` reads them."""
    return {
        "size": [found.height, found.width],
        "labels": found.labels.tolist(),
        "scores": found.scores.tolist(),
        "rles": [rle.decode("ascii") for rle in found.rles],
    }


def describe(arguments: argparse.Namespace, shown: Shown, device: torch.device) -> str:
    """One paragraph: image, models, prompts, device."""
    height, width = shown.image_HW3.shape[:2]
    where = "CPU, wall-clock times"
    if device.type == "cuda":
        facts = torch.cuda.get_device_properties(device)
        where = f"{facts.name}, {facts.total_memory / GIB:.0f} GiB, CUDA {torch.version.cuda}"
    kept = shown.min_predicted_iou
    return (
        f"{arguments.image.name}, {width} x {height}; {shown.sam2_model}, {shown.dinov2_model}; "
        f"{shown.points_per_side**2} prompts, {'no threshold' if kept == 0 else f'predicted IoU > {kept:g}'}; "
        f"{arguments.masks} masks; {arguments.rounds} image(s) timed; {where}; torch {torch.__version__}; "
        f"{time.strftime('%Y-%m-%d')}"
    )


def table(results: dict[str, Figures]) -> str:
    """Median milliseconds by part, images a second, memory; and what ours gains in each precision."""
    width = max(map(len, results)) + 2
    lines = [f"\n{'milliseconds an image':26}" + "".join(f"{name:>{width}}" for name in results)]
    for part in (*PARTS, "total"):
        lines.append(f"{part:26}" + "".join(f"{one.part(part) * 1e3:{width}.1f}" for one in results.values()))
    lines.append(f"{'images a second':26}" + "".join(f"{1 / one.part('total'):{width}.2f}" for one in results.values()))
    for label, sizes in (
        ("weights, GiB", [one.loaded for one in results.values()]),
        ("peak memory, GiB", [one.peak for one in results.values()]),
    ):
        shown = (f"{'-' if size is None else f'{size / GIB:.2f}':>{width}}" for size in sizes)
        lines.append(f"{label:26}" + "".join(shown))
    for name, ours in results.items():
        if name.startswith("ntt "):
            lines.append(gain(name.removeprefix("ntt "), results[f"package {name.removeprefix('ntt ')}"], ours))
    return "\n".join(lines) + "\n"


def gain(precision: str, package: Figures, ours: Figures) -> str:
    """One line: how many times faster and smaller ours is."""
    decoder, total = (package.part(part) / ours.part(part) for part in ("SAM2 decoder", "total"))
    memory = ""
    if package.peak is not None and ours.peak is not None:
        memory = f", peak memory {package.peak / ours.peak:.2f}"
    return f"package / ntt in {precision}: decoder {decoder:.2f}, total {total:.2f}{memory}"


if __name__ == "__main__":
    main()
