"""What a sweep over seeds and shots costs, compared with one point whose store is empty.

    OMP_NUM_THREADS=1 python -m benchmarks.sweep FOLDER [--seeds 10] [--shots 1 2 3 5 10 30] [--images N] [--work DIR]

FOLDER is a COCO-format data set. Cold points (5 shots, a fresh store each) come first, then all points of the sweep,
matched together in this process, into one store that is empty at the beginning; then one more
point, twice with a workspace of its own and once as a process of its own, into the filled store. Pictures are off.
Processor seconds are given beside wall-clock seconds: on a busy machine only the former can be compared.
"""

import argparse
import json
import logging
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean, median

from ntt.config.compose import compose_config, compose_many
from ntt.config.identity import run_directory
from ntt.config.schema import ExperimentConfig
from ntt.run import runner
from ntt.run.shared import Workspace
from ntt.run.together import match_ahead

PROJECT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Cost:
    """Seconds of something."""

    wall_s: float
    processor_s: float

    def __add__(self, other: "Cost") -> "Cost":
        """Add two costs."""
        return Cost(self.wall_s + other.wall_s, self.processor_s + other.processor_s)


def measure(name: str, work: Callable[[], object], *, who: int = resource.RUSAGE_SELF) -> Cost:
    """Do something, and say and return what it cost this process, or its children."""
    before, started = resource.getrusage(who), time.monotonic()
    work()
    after = resource.getrusage(who)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    cost = Cost(time.monotonic() - started, processor)
    print(f"{name}: {cost.wall_s:.1f} s, processor {cost.processor_s:.1f} s", file=sys.stderr, flush=True)
    return cost


def subset(root: Path, count: int, folder: Path) -> Path:
    """Write a copy of a data set's annotation files with the first `count` target images."""
    (folder / "annotations").mkdir(parents=True)
    (folder / "images").symlink_to((root / "images").resolve())
    (folder / "annotations" / "references.json").write_bytes((root / "annotations" / "references.json").read_bytes())
    targets = json.loads((root / "annotations" / "targets.json").read_bytes())
    targets["images"] = targets["images"][:count]
    image_ids = {image["id"] for image in targets["images"]}
    targets["annotations"] = [entry for entry in targets["annotations"] if entry["image_id"] in image_ids]
    (folder / "annotations" / "targets.json").write_text(json.dumps(targets))
    return folder


@dataclass(frozen=True)
class Bench:
    """Where points are run, and with which settings."""

    root: Path
    work: Path
    extra: Sequence[str]

    def overrides(self, name: str, *, shots: int, seed: int) -> list[str]:
        """Return the command line of one point; `name` is that of its store."""
        return [
            "dataset=coco_json",
            f"dataset.root={self.root}",
            f"shots={shots}shot",
            f"seed={seed}",
            "visualisation.enabled=false",
            f"runtime.output_root={self.work / name / 'runs'}",
            f"runtime.store_root={self.work / name / 'store'}",
            *self.extra,
        ]

    def config(self, name: str, *, shots: int, seed: int) -> ExperimentConfig:
        """Compose one point."""
        return compose_config(self.overrides(name, shots=shots, seed=seed))

    def cold(self, number: int) -> Cost:
        """Run one point with an empty store."""
        config = self.config(f"cold{number}", shots=5, seed=number)
        return measure(f"cold {number + 1}", lambda: runner.run(config, workspace=Workspace()))

    def sweep(self, shots: Sequence[int], seeds: int) -> list[Cost]:
        """Run all points in this process, as a worker of a sweep does, composing included.

        What the points have in common is part of the first one's cost, or of the first one's of each pass.
        """
        workspace, costs = Workspace(), list[Cost]()
        lines = [self.overrides("sweep", shots=count, seed=seed) for seed in range(seeds) for count in shots]
        waiting: list[ExperimentConfig] = []
        ahead = [0]
        common = measure("composing", lambda: waiting.extend(compose_many(lines)))
        while waiting:
            common += measure("matching ahead", lambda: ahead.append(match_ahead(waiting, workspace)))
            for config in waiting[: ahead[-1]]:
                cost = measure(run_directory(config).parent.name, partial(runner.run, config, workspace=workspace))
                costs.append(cost + common)
                common = Cost(0.0, 0.0)
            del waiting[: ahead[-1]]
        return costs

    def warm(self, seed: int) -> Cost:
        """Run one more point into the sweep's store, with nothing prepared."""
        config = self.config("sweep", shots=5, seed=seed)
        return measure("warm", lambda: runner.run(config, workspace=Workspace()))

    def warm_process(self, seed: int) -> Cost:
        """Do the same as a process of its own, start and imports included."""
        words = [sys.executable, "main.py", *self.overrides("sweep", shots=5, seed=seed)]
        return measure(
            "warm process",
            lambda: subprocess.run(words, cwd=PROJECT, check=True, stdout=subprocess.DEVNULL),
            who=resource.RUSAGE_CHILDREN,
        )


def row(name: str, cost: Cost, unit: Cost) -> str:
    """One line of the table."""
    ratios = f"{cost.wall_s / unit.wall_s:.3f} | {cost.processor_s / unit.processor_s:.3f}"
    return f"| {name} | {cost.wall_s:.1f} | {cost.processor_s:.1f} | {ratios} |"


def table(cold: Sequence[Cost], points: Sequence[Cost], warm: Sequence[Cost], process: Cost) -> str:
    """Return the Markdown table; ratios are to the median cold point."""
    unit = Cost(median(cost.wall_s for cost in cold), median(cost.processor_s for cost in cold))
    rest = points[1:] or points
    average = Cost(mean(cost.wall_s for cost in rest), mean(cost.processor_s for cost in rest))
    slowest = Cost(max(cost.wall_s for cost in rest), max(cost.processor_s for cost in rest))
    whole = sum(points, Cost(0.0, 0.0))
    lines = ["| | wall s | processor s | wall / cold | processor / cold |", "|---|---|---|---|---|"]
    lines += [row(f"cold point {number + 1}", cost, unit) for number, cost in enumerate(cold)]
    lines.append(row(f"sweep of {len(points)} points", whole, unit))
    lines.append(row("its first point", points[0], unit))
    lines.append(row("a later point, mean", average, unit))
    lines.append(row("a later point, slowest", slowest, unit))
    lines += [row("warm point, workspace of its own", cost, unit) for cost in warm]
    lines.append(row("warm point, process of its own", process, unit))
    return "\n".join(lines)


def main() -> None:
    """Run everything and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--shots", nargs="+", type=int, default=[1, 2, 3, 5, 10, 30])
    parser.add_argument("--cold", type=int, default=3, help="cold points")
    parser.add_argument("--images", type=int, default=None, help="only the first N target images")
    parser.add_argument("--work", type=Path, default=None, help="a new folder for stores and runs; default: temporary")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    args = parser.parse_args()
    logging.getLogger("ntt").setLevel(logging.ERROR)
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="ntt-sweep-") as temporary:
        work = Path(temporary) if args.work is None else args.work.absolute()
        root = args.folder.absolute()
        root = root if args.images is None else subset(root, args.images, work / "data")
        bench = Bench(root, work, args.overrides)
        cold = [bench.cold(number) for number in range(args.cold)]
        points = bench.sweep(args.shots, args.seeds)
        warm = [bench.warm(args.seeds + number) for number in range(2)]
        process = bench.warm_process(args.seeds + 2)
    print(table(cold, points, warm, process))


if __name__ == "__main__":
    main()
