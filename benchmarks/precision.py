"""How well lower precisions agree with float32: candidates, masks, AP.

    python -m benchmarks.precision FOLDER --precisions bfloat16 --set segmenter=sam2_tiny --set backbone=dinov2_vits14

FOLDER is a data set in COCO format. Every precision is a run of its own (a finished one is read back); then, image by
image, its candidates are compared with those of float32: whether there are as many, and the IoU of each candidate's
mask with the most similar one of float32. AP differences are in points of percent. The last line is JSON.
"""

import argparse
import json
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.development_sets import point_config
from ntt.config.identity import run_directory
from ntt.config.schema import ExperimentConfig
from ntt.data.coco import read_coco
from ntt.errors import NttError
from ntt.models.device import PRECISIONS
from ntt.ops.masks import mask_ious
from ntt.ops.run_lengths import to_text
from ntt.run import runner
from ntt.run.artefacts import read_metrics
from ntt.run.models import build_models
from ntt.run.rundir import RunDirectory
from ntt.run.shared import process_workspace
from ntt.types import Candidates, ImageRecord, Metrics


@dataclass(frozen=True)
class Agreement:
    """How well a precision agrees with float32.

    Attributes:
        same_count: share of images with as many candidates.
        mask_iou: of each candidate with the most similar one of float32, of all images.
        ap_difference: kind -> AP minus that of float32; kinds without ground truth are missing.
    """

    same_count: float
    mask_iou: npt.NDArray[np.float64]
    ap_difference: dict[str, float]


def best_overlaps(candidates: Candidates, others: Candidates) -> npt.NDArray[np.float64]:
    """IoU of each mask with the most similar of the others: float64 [N], 0 where there is none."""
    size = (candidates.height, candidates.width)
    first, second = (to_text(image.masks) for image in (candidates, others))
    best: npt.NDArray[np.float64] = mask_ious(first, second, *size).max(axis=1, initial=0.0)
    return best


def compare(
    candidates: list[Candidates], exact: list[Candidates], metrics: Metrics, exact_metrics: Metrics
) -> Agreement:
    """Compare the candidates of all images, and the metrics."""
    same = [len(ours) == len(theirs) for ours, theirs in zip(candidates, exact, strict=True)]
    overlaps = [best_overlaps(ours, theirs) for ours, theirs in zip(candidates, exact, strict=True)]
    return Agreement(
        same_count=float(np.mean(same)),
        mask_iou=np.concatenate(overlaps),
        ap_difference={
            kind: metrics.overall[kind]["AP"] - values["AP"]
            for kind, values in exact_metrics.overall.items()
            if "AP" in values
        },
    )


def run(config: ExperimentConfig, images: list[ImageRecord]) -> tuple[list[Candidates], Metrics]:
    """Run one precision; its candidates and metrics."""
    workspace = process_workspace()
    runner.run(config, workspace=workspace)
    source = build_models(config, workspace=workspace).source
    return [source.get(image) for image in images], read_metrics(RunDirectory(run_directory(config)).metrics)


def main() -> None:
    """Run everything and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS[1:], default=["tf32", "bfloat16", "float16"])
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    args = parser.parse_args()
    logging.getLogger("ntt").addHandler(logging.NullHandler())
    folder = args.folder
    images = list(read_coco(folder / "annotations" / "targets.json", folder / "images").images.values())
    precisions = ["float32", *args.precisions]
    configs = {name: point_config(folder, [f"runtime.precision={name}", *args.overrides]) for name in precisions}
    try:
        for config in configs.values():
            build_models(config)
    except NttError as error:
        raise SystemExit(f"{error} Here precisions are chosen with --precisions, other settings with --set.") from error
    exact, exact_metrics = run(configs["float32"], images)
    print("| precision | images with as many candidates | mask IoU: median, 1 %, least | AP difference |")
    print("|---|---|---|---|")
    figures = {}
    for precision in args.precisions:
        candidates, metrics = run(configs[precision], images)
        agreement = compare(candidates, exact, metrics, exact_metrics)
        quantiles = np.quantile(agreement.mask_iou, [0.5, 0.01, 0]) if len(agreement.mask_iou) else np.zeros(3)
        differences = {kind: round(value, 3) for kind, value in agreement.ap_difference.items()}
        masks = ", ".join(f"{value:.4f}" for value in quantiles)
        print(f"| {precision} | {agreement.same_count:.1%} | {masks} | {differences} |")
        figures[precision] = {
            "same_count": round(agreement.same_count, 4),
            "mask_iou_median": round(float(quantiles[0]), 5),
            "mask_iou_p01": round(float(quantiles[1]), 5),
            "ap_difference": differences,
        }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
