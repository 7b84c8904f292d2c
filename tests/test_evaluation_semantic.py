"""mIoU of painted detections, worked by hand. Images have 40 x 50 = 2000 pixels."""

import logging
from pathlib import Path

import pytest
from evaluation_samples import Box, dataset, detect, entry

from ntt.data.coco import CocoDataset
from ntt.stages.evaluation import evaluate
from ntt.types import Detections, Metrics

CLASSES = {1: "first", 2: "second", 3: "third"}
LEFT: Box = (0, 0, 20, 40)  # 800 px
MIDDLE: Box = (10, 0, 20, 40)  # 800 px, 400 of them in LEFT


def measure(truth: CocoDataset, painting: str, *detections: Detections, threshold: float = 0.5) -> Metrics:
    return evaluate(
        detections=list(detections),
        ground_truth=truth,
        categories=truth.categories,
        semantic=painting,
        semantic_threshold=threshold,
    )


def test_correct_painting_gives_a_pixel_to_the_highest_score(tmp_path: Path):
    """Truth: second on LEFT. Second (0.9) owns all of LEFT; third (0.8) keeps the 400 px of MIDDLE outside it."""
    truth = dataset(tmp_path, [entry(1, 2, LEFT), entry(1, 3, MIDDLE)], image_ids=[1], classes=CLASSES)
    metrics = measure(truth, "correct", detect(1, (1, LEFT, 0.9), (2, MIDDLE, 0.8)))
    assert metrics.per_class["semantic"]["second"] == {"IoU": pytest.approx(100)}
    assert metrics.per_class["semantic"]["third"] == {"IoU": pytest.approx(100 * 400 / 800)}
    assert metrics.per_class["semantic"]["first"] == {}
    assert metrics.overall["semantic"] == {"mIoU": pytest.approx(75)}


def test_order_of_the_list_does_not_matter_unless_scores_are_equal(tmp_path: Path):
    truth = dataset(tmp_path, [entry(1, 2, LEFT), entry(1, 3, MIDDLE)], image_ids=[1], classes=CLASSES)
    unsorted = measure(truth, "correct", detect(1, (2, MIDDLE, 0.8), (1, LEFT, 0.9)))
    assert unsorted.overall["semantic"] == {"mIoU": pytest.approx(75)}
    tie = measure(truth, "correct", detect(1, (2, MIDDLE, 0.8), (1, LEFT, 0.8)))
    assert tie.per_class["semantic"]["third"] == {"IoU": pytest.approx(100)}
    assert tie.per_class["semantic"]["second"] == {"IoU": pytest.approx(50)}


def test_reference_painting(tmp_path: Path):
    """Truth map: second on 400 px (third, later in the file, covers the rest of LEFT), third 800, background 800.

    Painted map: third (0.8) over second (0.9): the same map. First doubles as background: 800 of 800.
    """
    truth = dataset(tmp_path, [entry(1, 2, LEFT), entry(1, 3, MIDDLE)], image_ids=[1], classes=CLASSES)
    same = measure(truth, "reference", detect(1, (1, LEFT, 0.9), (2, MIDDLE, 0.8)))
    assert {name: values["IoU"] for name, values in same.per_class["semantic"].items()} == {
        "first": pytest.approx(100),
        "second": pytest.approx(100),
        "third": pytest.approx(100),
    }
    # The scores exchanged: second covers third. Second: 400 / 800; third: 400 / 800; background: 800 / 800.
    other = measure(truth, "reference", detect(1, (1, LEFT, 0.8), (2, MIDDLE, 0.9)))
    assert other.per_class["semantic"]["second"] == {"IoU": pytest.approx(50)}
    assert other.per_class["semantic"]["third"] == {"IoU": pytest.approx(50)}
    assert other.overall["semantic"] == {"mIoU": pytest.approx((100 + 50 + 50) / 3)}


def test_reference_counts_background_as_the_first_class(tmp_path: Path):
    """Image 1: first on LEFT, nothing found: the map is right everywhere. Image 2: empty, second painted on 800 px."""
    truth = dataset(tmp_path, [entry(1, 1, LEFT)], image_ids=[1, 2], classes={1: "first", 2: "second"})
    metrics = measure(truth, "reference", detect(1), detect(2, (1, LEFT, 0.9)))
    assert metrics.per_class["semantic"] == {"first": {"IoU": pytest.approx(100 * 3200 / 4000)}, "second": {}}
    correct = measure(truth, "correct", detect(1), detect(2, (1, LEFT, 0.9)))
    assert correct.per_class["semantic"] == {"first": {"IoU": 0.0}, "second": {}}


def test_both_ends_of_the_threshold(tmp_path: Path):
    truth = dataset(tmp_path, [entry(1, 1, LEFT)], image_ids=[1], classes=CLASSES)
    for threshold, expected in ((0.5, 100.0), (0.5000001, 0.0), (0.0, 100.0), (1.0, 0.0)):
        metrics = measure(truth, "correct", detect(1, (0, LEFT, 0.5)), threshold=threshold)
        assert metrics.overall["semantic"] == {"mIoU": pytest.approx(expected)}, threshold


def test_pixels_are_added_up_over_images_before_dividing(tmp_path: Path):
    """Image 1: 800 of 800 found. Image 2: 100 px of truth, missed; 300 px painted elsewhere. 800 / 1200."""
    annotations = [entry(1, 1, LEFT), entry(2, 1, (0, 0, 10, 10))]
    truth = dataset(tmp_path, annotations, image_ids=[1, 2], classes=CLASSES)
    metrics = measure(truth, "correct", detect(1, (0, LEFT, 0.9)), detect(2, (0, (20, 0, 30, 10), 0.6)))
    assert metrics.overall["semantic"] == {"mIoU": pytest.approx(100 * 800 / 1200)}


def test_instances_of_a_class_are_one_region_and_crowds_belong_to_it(tmp_path: Path):
    """Two overlapping objects and a crowd region: 1200 + 100 px; one detection covers the 1200."""
    annotations = [entry(1, 1, LEFT), entry(1, 1, MIDDLE), entry(1, 1, (40, 0, 10, 10), iscrowd=1)]
    truth = dataset(tmp_path, annotations, image_ids=[1], classes=CLASSES)
    metrics = measure(truth, "correct", detect(1, (0, (0, 0, 30, 40), 0.9)))
    assert metrics.overall["semantic"] == {"mIoU": pytest.approx(100 * 1200 / 1300)}


def test_objects_of_two_classes_share_their_pixels(tmp_path: Path):
    """Both classes own the overlap of 400 px; the painted second is right on all of it, the first misses it."""
    truth = dataset(tmp_path, [entry(1, 1, LEFT), entry(1, 2, MIDDLE)], image_ids=[1], classes=CLASSES)
    metrics = measure(truth, "correct", detect(1, (1, MIDDLE, 0.9), (0, LEFT, 0.8)))
    assert metrics.per_class["semantic"]["second"] == {"IoU": pytest.approx(100)}
    assert metrics.per_class["semantic"]["first"] == {"IoU": pytest.approx(50)}


def test_off_by_default_and_without_masks(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    truth = dataset(tmp_path, [entry(1, 1, LEFT, masked=False)], image_ids=[1], classes=CLASSES)
    assert "semantic" not in measure(truth, "none", detect(1)).overall
    with caplog.at_level(logging.WARNING):
        assert "semantic" not in measure(truth, "correct", detect(1)).overall
    assert "No mIoU: not every object of the ground truth has a mask." in caplog.text
