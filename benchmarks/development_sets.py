"""Box and mask AP of the embedded default on a folder of COCO-format data sets, as a Markdown table.

    python -m benchmarks.development_sets FOLDER [--seeds 5] [--sets coco_dev balloon_dev] [--set KEY=VALUE]

Every data set is run at 1 and 5 shots with the native sampler for each seed, and once with the order the files
themselves give (`shots.sampler=shot_index`), which has no seed. Candidates are computed once per data set.
"""

import argparse
import logging
from pathlib import Path
from statistics import mean, stdev

from ntt.config.compose import compose_config
from ntt.config.identity import run_directory
from ntt.config.schema import ExperimentConfig
from ntt.run import runner
from ntt.run.artefacts import read_metrics
from ntt.run.rundir import RunDirectory
from ntt.run.shared import process_workspace
from ntt.types import Metrics

SPLITS = {"coco_dev": "coco_novel20"}
COLUMNS = (("bbox", "AP"), ("bbox", "AP50"), ("bbox", "AR100"), ("segm", "AP"), ("segm", "AP50"), ("segm", "AR100"))


def point_config(root: Path, overrides: list[str]) -> ExperimentConfig:
    """Compose the configuration of one point."""
    return compose_config(
        [
            "dataset=coco_json",
            f"dataset.root={root}",
            f"split={SPLITS.get(root.name, 'all')}",
            "visualisation.enabled=false",
            *overrides,
        ]
    )


def run_point(root: Path, overrides: list[str]) -> Metrics:
    """Run one point, or read it back if it is there."""
    config = point_config(root, overrides)
    runner.run(config, workspace=process_workspace())
    return read_metrics(RunDirectory(run_directory(config)).metrics)


def cell(values: list[float]) -> str:
    """Mean, and standard deviation where there are several values."""
    if not values:
        return "-"
    return f"{mean(values):.1f} ± {stdev(values):.1f}" if len(values) > 1 else f"{values[0]:.1f}"


def row(name: str, points: list[Metrics]) -> str:
    """One line of the table."""
    cells = [cell([p.overall[kind][key] for p in points if key in p.overall.get(kind, {})]) for kind, key in COLUMNS]
    return f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    """Run everything and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sets", nargs="+", default=None)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--shots", nargs="+", type=int, default=[1, 5])
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    args = parser.parse_args()
    logging.getLogger("ntt").addHandler(logging.NullHandler())
    roots = [path for path in sorted(args.folder.iterdir()) if (path / "annotations" / "targets.json").is_file()]
    lines = ["| data set, shots | box AP | box AP50 | box AR | mask AP | mask AP50 | mask AR |", "|" + "---|" * 7]
    for root in roots:
        if args.sets is not None and root.name not in args.sets:
            continue
        for shots in args.shots:
            base = [f"shots={shots}shot", *args.overrides]
            points = [run_point(root, [*base, f"seed={seed}"]) for seed in range(args.seeds)]
            lines.append(row(f"{root.name} {shots}, {args.seeds} seeds", points))
            lines.append(
                row(f"{root.name} {shots}, file order", [run_point(root, [*base, "shots.sampler=shot_index"])])
            )
    print("\n".join(lines))


if __name__ == "__main__":
    main()
