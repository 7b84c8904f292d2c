"""Seconds of one evaluation, pycocotools beside ours, and whether they agree in every digit.

    OMP_NUM_THREADS=1 python -m benchmarks.evaluation FOLDER [--predictions FILE] [--split NAME] [--repeats 5]

FOLDER is a data set in COCO format. Without `--predictions` (a run's predictions.json for the same split), detections
are made up: for every object one to three that nearly fit, then ellipses anywhere, up to `--detections` an image.

COCO's own loading and evaluation, as its examples write it, and the stage are timed in turn, in one process. The first
round of the stage prepares the ground truth, later ones find it prepared, as the points of a sweep do. Wall-clock and
processor seconds are the smallest of all later rounds.
"""

import argparse
import contextlib
import io
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ntt.data.coco import CocoDataset, read_coco
from ntt.data.masks import instance_mask
from ntt.data.splits import resolve_split, split_classes
from ntt.evaluation.ground_truth import prepare_ground_truth
from ntt.ops.masks import encode_masks
from ntt.run.artefacts import read_predictions, results_text
from ntt.stages.evaluation import evaluate
from ntt.types import Category, Detections, ImageRecord, Metrics


def make_detections(truth: CocoDataset, image: ImageRecord, categories: tuple[Category, ...], count: int) -> Detections:
    """Make up detections of one image: some that nearly fit its objects, the rest ellipses anywhere."""
    random = np.random.default_rng(sum(map(ord, str(image.id))))
    label_of = {category.id: label for label, category in enumerate(categories)}
    labels: list[int] = []
    masks: list[np.ndarray] = []
    for instance in truth.instances_of_image(image.id):
        if instance.category_id in label_of:
            mask = instance_mask(instance, image.height, image.width)
            for _ in range(int(random.integers(1, 4))):
                labels.append(label_of[instance.category_id])
                masks.append(np.roll(mask, random.integers(-6, 7, 2).tolist(), axis=(0, 1)))
    rows, columns = np.mgrid[: image.height, : image.width]
    while len(masks) < count:
        middle = random.random(2) * (image.height, image.width)
        radii = 4 + random.random(2) ** 2 * (image.height, image.width) / 2
        masks.append(((rows - middle[0]) / radii[0]) ** 2 + ((columns - middle[1]) / radii[1]) ** 2 < 1)
        labels.append(int(random.integers(len(categories))))
    rles = encode_masks(torch.from_numpy(np.stack(masks[:count])))
    scores = np.sort(random.random(count).astype(np.float32))[::-1]
    size = [image.height, image.width]
    boxes = coco_mask.toBbox([{"size": size, "counts": rle} for rle in rles]).astype(np.float32)
    labels_N = np.array(labels[:count], dtype=np.int64)
    return Detections(image.id, image.height, image.width, labels_N, scores, boxes, rles)


def plain_pycocotools(
    truth: CocoDataset, detections: list[Detections], categories: tuple[Category, ...]
) -> dict[str, COCOeval]:
    """Evaluate as pycocotools' examples do."""
    evaluations = {}
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(truth.annotation_file))
        for kind, unused in (("bbox", "segmentation"), ("segm", "bbox")):
            rows = [
                {key: value for key, value in row.items() if key != unused}
                for image in detections
                for row in json.loads(f"[{results_text(image, categories)}]")
            ]
            evaluation = COCOeval(coco, coco.loadRes(rows), kind)
            evaluation.params.catIds = [category.id for category in categories]
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            evaluations[kind] = evaluation
    return evaluations


def seconds(function: Callable[[], object]) -> tuple[float, float]:
    """Return wall-clock and processor seconds of a call."""
    wall, cpu = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - wall, time.process_time() - cpu


def check(plain: dict[str, COCOeval], metrics: Metrics) -> None:
    """Stop if a metric is not the one pycocotools prints."""
    for kind, evaluation in plain.items():
        for name, value in zip(("AP", "AP50", "AP75", "APs", "APm", "APl"), evaluation.stats, strict=False):
            ours = metrics.overall[kind].get(name)
            if (ours is None) != (value < 0) or (ours is not None and ours != 100.0 * float(value)):
                raise SystemExit(f"{kind} {name}: pycocotools says {100 * value}, the stage {ours}.")


def main() -> None:
    """Time everything and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--predictions", type=Path, default=None)
    parser.add_argument("--split", default="all")
    parser.add_argument("--detections", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    truth = read_coco(args.folder / "annotations" / "targets.json", args.folder / "images")
    classes = None if args.split == "all" else split_classes(args.split)
    categories = resolve_split(truth.categories, name=args.split, classes=classes)
    images = list(truth.images.values())
    if args.predictions is None:
        detections = [make_detections(truth, image, categories, args.detections) for image in images]
    else:
        detections = read_predictions(args.predictions, images, categories)
    ways: dict[str, Callable[[], object]] = {
        "pycocotools, plain": lambda: plain_pycocotools(truth, detections, categories),
        "ours": lambda: evaluate(detections=detections, ground_truth=truth, categories=categories),
    }
    print(f"ground truth prepared in {seconds(lambda: prepare_ground_truth(truth, categories).rles)[0]:.3f} s")
    metrics = evaluate(detections=detections, ground_truth=truth, categories=categories)
    check(plain_pycocotools(truth, detections, categories), metrics)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(args.repeats):
        for name, way in ways.items():
            times[name].append(seconds(way))
    num_detections = sum(len(each.labels) for each in detections)
    print(f"{len(images)} images, {len(categories)} classes, {num_detections} detections, boxes and masks")
    print(f"{'':20}  wall s  processor s")
    for name, measured in times.items():
        wall, cpu = (min(column) for column in zip(*measured, strict=True))
        print(f"{name:20}  {wall:6.3f}  {cpu:11.3f}")


if __name__ == "__main__":
    main()
