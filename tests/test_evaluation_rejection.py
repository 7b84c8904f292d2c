"""False positives on negative images at half recall, worked by hand."""

from pathlib import Path

import pytest
from evaluation_samples import Box, dataset, detect, entry

from ntt.data.coco import CocoDataset
from ntt.run.artefacts import flat_metrics
from ntt.run.table import metrics_table
from ntt.stages.evaluation import evaluate
from ntt.types import Detections, Metrics

CLASSES = {1: "cat", 2: "dog"}
HERE: Box = (0, 0, 20, 20)
THERE: Box = (25, 15, 20, 20)


def measure(truth: CocoDataset, *detections: Detections) -> Metrics:
    return evaluate(detections=list(detections), ground_truth=truth, categories=truth.categories)


def four_objects(folder: Path) -> CocoDataset:
    """Cats on images 1 and 2, dogs on 2 and 3, nothing on 4 and 5."""
    annotations = [entry(1, 1, HERE), entry(2, 1, HERE), entry(2, 2, THERE), entry(3, 2, HERE)]
    return dataset(folder, annotations, image_ids=[1, 2, 3, 4, 5], classes=CLASSES)


def test_numbers_worked_by_hand(tmp_path: Path):
    """Found: 0.9, 0.7 and 0.3 of four objects, so half recall is at 0.7; on images 4 and 5 three score as much."""
    detections = [
        detect(1, (0, HERE, 0.9), (0, THERE, 0.95)),
        detect(2, (1, THERE, 0.7), (0, THERE, 0.6)),
        detect(3, (1, HERE, 0.3)),
        detect(4, (0, HERE, 0.8), (1, HERE, 0.7), (0, THERE, 0.69)),
        detect(5, (1, THERE, 0.75)),
    ]
    metrics = measure(four_objects(tmp_path), *detections)
    rejection = metrics.overall["rejection"]
    assert rejection["FPPI@R50"] == 3 / 2
    assert rejection["score@R50"] == pytest.approx(0.7, abs=1e-7)
    assert rejection["max_recall"] == 75
    assert rejection["negative_images"] == 2
    assert metrics_table(metrics).splitlines()[-2:] == [
        "At 50 % recall, false positives per image without any of the classes: 1.50 (2 images, score 0.700).",
        "At 50 % recall, false positives per image without the class: 0.33 (mean of 2 of 2 classes).",
    ]
    assert flat_metrics(metrics)["rejection/FPPI@R50/cat"] == 0
    # cat: one of two at 0.9; on images 3, 4, 5 no cat scores that much.
    # dog: one of two at 0.7; on images 1, 4, 5 two dogs do.
    cat, dog = metrics.per_class["rejection"]["cat"], metrics.per_class["rejection"]["dog"]
    assert (cat["FPPI@R50"], cat["max_recall"], cat["negative_images"]) == (0, 50, 3)
    assert cat["score@R50"] == pytest.approx(0.9, abs=1e-7)
    assert (dog["FPPI@R50"], dog["max_recall"], dog["negative_images"]) == (2 / 3, 100, 3)
    assert (rejection["mFPPI@R50"], rejection["classes@R50"]) == (1 / 3, 2)


def test_recall_below_a_half_leaves_it_out(tmp_path: Path):
    metrics = measure(four_objects(tmp_path), detect(1, (0, HERE, 0.9)), detect(2), detect(3), detect(4), detect(5))
    assert metrics.overall["rejection"] == {"max_recall": 25, "negative_images": 2, "mFPPI@R50": 0, "classes@R50": 1}
    assert metrics.per_class["rejection"]["dog"] == {"max_recall": 0, "negative_images": 3}


def test_no_negative_image(tmp_path: Path):
    """Over all classes there is none, but image 1 holds no dog and image 2 no cat."""
    truth = dataset(tmp_path, [entry(1, 1, HERE), entry(2, 2, HERE)], image_ids=[1, 2], classes=CLASSES)
    metrics = measure(truth, detect(1, (0, HERE, 0.5), (1, HERE, 0.7)), detect(2, (1, HERE, 0.7)))
    assert metrics.overall["rejection"] == {"mFPPI@R50": 0.5, "classes@R50": 2}
    assert metrics.per_class["rejection"]["dog"]["FPPI@R50"] == 1
    single = dataset(tmp_path, [entry(1, 1, HERE)], image_ids=[1], classes={1: "cat"})
    assert "rejection" not in measure(single, detect(1, (0, HERE, 0.5))).overall


def test_crowds_and_unusable_annotations_make_an_image_positive(tmp_path: Path):
    """Image 2 holds a crowd, image 3 a box without area: neither is negative, and neither object is to be found."""
    annotations = [entry(1, 1, HERE), entry(2, 1, HERE, iscrowd=1), entry(3, 1, (5, 5, 0, 9), masked=False)]
    truth = dataset(tmp_path, annotations, image_ids=[1, 2, 3, 4], classes={1: "cat"})
    detections = [detect(1, (0, HERE, 0.5)), *(detect(number, (0, THERE, 0.9)) for number in (2, 3, 4))]
    rejection = measure(truth, *detections).overall["rejection"]
    assert (rejection["negative_images"], rejection["max_recall"], rejection["FPPI@R50"]) == (1, 100, 1)
