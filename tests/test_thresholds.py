"""Precision, recall and F1 at thresholds, and the thresholds proposed, on rectangles that can be counted by hand."""

from pathlib import Path

import numpy as np
import pytest
from evaluation_samples import dataset, detect, entry

from ntt.evaluation.bootstrap import bootstrap_ap
from ntt.evaluation.ground_truth import prepare_ground_truth
from ntt.evaluation.matching import match
from ntt.evaluation.table import tabulate
from ntt.evaluation.thresholds import OperatingPoint, RankedDetections, operating_points, propose_thresholds


def ranked(hits: str, scores: list[float], objects: int) -> RankedDetections:
    """Detections as "+" and "-", by descending score."""
    return RankedDetections(np.array(scores), np.array([hit == "+" for hit in hits], dtype=np.bool_), objects)


@pytest.mark.parametrize(
    ("threshold", "expected"),
    [(0.5, (50, 25, 100 / 3)), (0.5001, (100, 25, 40)), (0.0, (60, 75, 200 / 3)), (0.95, (0, 0, 0))],
)
def test_points_by_hand(threshold: float, expected: tuple[float, float, float]):
    point = ranked("+-++-", [0.9, 0.5, 0.3, 0.2, 0.1], 4).at(threshold)
    assert (point.precision, point.recall, point.f1) == pytest.approx(expected)


def test_the_best_point_and_the_proposal():
    # F1 of the first 1, 2, ...: 2/5, 2/6, 4/7, 6/8, 6/9.
    detections = ranked("+-++-", [0.9, 0.5, 0.3, 0.2, 0.1], 4)
    assert detections.best() == OperatingPoint(0.2, 75.0, 75.0, 75.0)
    weights = np.array([2 / 5, 2 / 6, 4 / 7, 6 / 8, 6 / 9]) ** 4
    assert detections.proposal() == pytest.approx((weights * [0.9, 0.5, 0.3, 0.2, 0.1]).sum() / weights.sum())
    # No threshold separates equal scores.
    tied = ranked("+-+", [0.9, 0.9, 0.4], 2)
    assert tied.best() == OperatingPoint(0.4, pytest.approx(200 / 3), 100.0, 80.0)
    assert tied.proposal() == pytest.approx((0.5**4 * 0.9 + 0.8**4 * 0.4) / (0.5**4 + 0.8**4))


@pytest.mark.parametrize("detections", [ranked("", [], 3), ranked("--", [0.5, 0.4], 3)])
def test_without_a_hit_there_is_no_proposal(detections: RankedDetections):
    assert detections.best() is None
    assert detections.proposal() is None
    assert detections.at(0.4).f1 == 0


CLASSES = {1: "cat", 2: "dog", 3: "owl"}


def test_a_class_has_its_own_proposal_and_a_share_of_the_pooled_one(tmp_path: Path):
    box, other = (0, 0, 10, 10), (20, 20, 10, 10)
    objects = dataset(tmp_path, [entry(1, 1, box), entry(2, 2, box)], image_ids=[1, 2], classes=CLASSES)
    detections = [
        detect(1, (0, box, 0.8), (0, other, 0.4), (2, other, 0.2)),
        detect(2, (1, box, 0.6), (1, other, 0.5)),
    ]
    ground_truth = prepare_ground_truth(objects, objects.categories)
    table = tabulate(detections, objects.categories, ground_truth)
    matches = match(table, ground_truth, "bbox")
    # F1 of cats and dogs is 1 and 2/3, that of all together 2/3, 1, 4/5, 2/3, 4/7; owls are never hit.
    cats, dogs, pooled = 0.734031, 0.583505, 0.556255
    proposals = propose_thresholds(matches, table, ground_truth, num_images=[2, 2, 2])
    assert proposals == pytest.approx([(cats + pooled) / 2, (dogs + pooled) / 2, pooled], abs=1e-5)
    proposals = propose_thresholds(matches, table, ground_truth, num_images=[1, 2, 2])
    assert proposals == pytest.approx([pooled, (dogs + pooled) / 2, pooled], abs=1e-5)
    fixed = {"fixed": dict.fromkeys(CLASSES.values(), 0.45)}
    points = operating_points(matches, table, ground_truth, fixed)
    assert list(points) == ["cat", "dog", ""]
    assert (points["cat"]["fixed"].f1, points["dog"]["fixed"].f1) == pytest.approx((100, 200 / 3))
    assert points[""]["fixed"].f1 == pytest.approx(250 / 3)
    assert points[""]["best"] == OperatingPoint(pytest.approx(0.7), 100, 100, 100)


def test_draws_of_images(tmp_path: Path):
    box, other = (0, 0, 10, 10), (20, 20, 10, 10)
    objects = dataset(tmp_path, [entry(1, 1, box), entry(2, 1, box)], image_ids=[1, 2], classes={1: "cat"})
    ground_truth = prepare_ground_truth(objects, objects.categories)
    table = tabulate([detect(1, (0, box, 0.8)), detect(2, (0, other, 0.9))], objects.categories, ground_truth)
    values = bootstrap_ap(match(table, ground_truth, "bbox"), table, ground_truth, draws=40)
    # The first image twice, the second one twice, or both: half of the objects, after a wrong detection.
    both = 100 * 51 / 101 * 0.5
    assert set(values.round(6).tolist()) == {100.0, 0.0, round(both, 6)}
