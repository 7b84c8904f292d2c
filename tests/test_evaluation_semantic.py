"""mIoU of painted detections, worked by hand. Images have 40 x 50 = 2000 pixels."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from evaluation_samples import Box, dataset, detect, entry

from ntt.data.coco import CocoDataset
from ntt.stages.evaluation import evaluate
from ntt.types import Detections, Metrics

CLASSES = {1: "first", 2: "second", 3: "third"}
LEFT: Box = (0, 0, 20, 40)  # 800 px
MIDDLE: Box = (10, 0, 20, 40)  # 800 px, 400 of them in LEFT
SMALL: Box = (0, 0, 10, 10)  # 100 px in LEFT
OVERLAPPING = [entry(1, 2, LEFT), entry(1, 3, MIDDLE)]


def measure(truth: CocoDataset, painting: Any, detections: Sequence[Detections], threshold: float = 0.5) -> Metrics:
    return evaluate(
        detections=detections,
        ground_truth=truth,
        categories=truth.categories,
        semantic=painting,
        semantic_threshold=threshold,
    )


@pytest.mark.parametrize(
    ("painting", "annotations", "detections", "expected"),
    [
        # Second owns all of LEFT; third keeps the 400 px of MIDDLE outside it. The order of the list does not matter.
        ("correct", OVERLAPPING, [detect(1, (1, LEFT, 0.9), (2, MIDDLE, 0.8))], {"second": 100, "third": 50}),
        ("correct", OVERLAPPING, [detect(1, (2, MIDDLE, 0.8), (1, LEFT, 0.9))], {"second": 100, "third": 50}),
        # Of equal scores the one listed first owns the pixel.
        ("correct", OVERLAPPING, [detect(1, (2, MIDDLE, 0.8), (1, LEFT, 0.8))], {"second": 50, "third": 100}),
        # Pixels are added up over images before dividing: 800 of 800 found; of 100 px none, and 300 px elsewhere.
        (
            "correct",
            [entry(1, 1, LEFT), entry(2, 1, SMALL)],
            [detect(1, (0, LEFT, 0.9)), detect(2, (0, (20, 0, 30, 10), 0.6))],
            {"first": 100 * 800 / 1200},
        ),
        # Objects of a class, 1200 px, are one region, and the crowd of 100 px belongs to it.
        (
            "correct",
            [entry(1, 1, LEFT), entry(1, 1, MIDDLE), entry(1, 1, (40, 0, 10, 10), iscrowd=1)],
            [detect(1, (0, (0, 0, 30, 40), 0.9))],
            {"first": 100 * 1200 / 1300},
        ),
        # Both ground truth maps have third on MIDDLE, second on the rest of LEFT, and first as background.
        (
            "reference",
            OVERLAPPING,
            [detect(1, (1, LEFT, 0.9), (2, MIDDLE, 0.8))],
            {"first": 100, "second": 100, "third": 100},
        ),
        # Lower scores are painted later: second covers third.
        (
            "reference",
            OVERLAPPING,
            [detect(1, (1, LEFT, 0.8), (2, MIDDLE, 0.9))],
            {"first": 100, "second": 50, "third": 50},
        ),
        # Background counts as the first class: image 1 is right everywhere; in image 2, 800 px are painted wrongly.
        ("reference", [entry(1, 1, LEFT)], [detect(1), detect(2, (1, LEFT, 0.9))], {"first": 100 * 3200 / 4000}),
        ("correct", [entry(1, 1, LEFT)], [detect(1), detect(2, (1, LEFT, 0.9))], {"first": 0}),
    ],
)
def test_paintings(
    tmp_path: Path, painting: str, annotations: list[Any], detections: list[Detections], expected: dict[str, float]
):
    truth = dataset(tmp_path, annotations, image_ids=range(1, len(detections) + 1), classes=CLASSES)
    metrics = measure(truth, painting, detections)
    iou = {name: values["IoU"] for name, values in metrics.per_class["semantic"].items() if values}
    assert iou == pytest.approx(expected)
    assert metrics.overall["semantic"] == {"mIoU": pytest.approx(sum(expected.values()) / len(expected))}


def test_both_ends_of_the_threshold(tmp_path: Path):
    truth = dataset(tmp_path, [entry(1, 1, LEFT)], image_ids=[1], classes=CLASSES)
    for threshold, expected in ((0.5, 100.0), (0.5000001, 0.0), (0.0, 100.0), (1.0, 0.0)):
        metrics = measure(truth, "correct", [detect(1, (0, LEFT, 0.5))], threshold)
        assert metrics.overall["semantic"] == {"mIoU": pytest.approx(expected)}, threshold


def test_off_by_default_and_without_masks(tmp_path: Path, caplog):
    truth = dataset(tmp_path, [entry(1, 1, LEFT, masked=False)], image_ids=[1], classes=CLASSES)
    assert "semantic" not in measure(truth, "none", [detect(1)]).overall
    with caplog.at_level(logging.WARNING):
        assert "semantic" not in measure(truth, "correct", [detect(1)]).overall
    assert "No mIoU: not every object of the ground truth has a mask." in caplog.text
