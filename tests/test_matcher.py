"""The published matcher, on masks and features small enough to follow by hand."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from drawn_candidates import rectangles, rles_of

from ntt.base.settings import setting_problems
from ntt.errors import DataError
from ntt.matchers.prototype import PrototypeMatcher
from ntt.types import Candidates, Category, Detections, MemoryBank, Prototypes

CATEGORIES = (Category(3, "cat"), Category(8, "dog"))
MEMORY = MemoryBank(
    categories=CATEGORIES,
    features=(torch.tensor([[2.0, 0.0, 0.0], [4.0, 0.0, 0.0]]), torch.tensor([[0.0, 3.0, 0.0]])),
)


def prototypes(matcher: PrototypeMatcher) -> Prototypes:
    vectors, labels = matcher.build_prototypes(MEMORY)
    return Prototypes(CATEGORIES, vectors, labels)


def candidates(
    boxes: list[tuple[int, int, int, int]], predicted_iou: list[float], features: list[list[float]]
) -> Candidates:
    return rectangles(boxes, predicted_iou, features, channels=3)


# A large mask, and a smaller one of the same class inside it (box IoU 90 / 209, below the threshold).
NESTED = candidates([(0, 0, 19, 11), (0, 0, 9, 10)], [0.9, 0.8], [[0.8, 0.6, 0.0], [0.96, 0.0, 0.28]])


def run(found: Candidates, **settings: Any) -> Detections:
    matcher = PrototypeMatcher(**settings)
    return matcher.match(7, found, prototypes(matcher))


def test_prototypes_are_normalised_means():
    vectors, labels = PrototypeMatcher().build_prototypes(
        MemoryBank(CATEGORIES, (torch.tensor([[1.0, 0.0], [2.0, 4.0]]), torch.tensor([[0.0, 5.0]])))
    )
    torch.testing.assert_close(vectors, torch.tensor([[0.6, 0.8], [0.0, 1.0]]))
    assert labels.tolist() == [0, 1]
    assert labels.dtype == torch.int64


def test_soft_semantic_merging():
    found = run(NESTED)
    # The smaller mask lies within the larger; the cosine of the two is 0.768.
    assert found.labels.tolist() == [0, 0]
    np.testing.assert_allclose(found.scores, [0.8, 0.96 * (1 - 0.768) ** 0.5], rtol=1e-5)
    assert found.boxes_xywh.tolist() == [[0, 0, 20, 12], [0, 0, 10, 11]]
    assert found.rles == rles_of(NESTED)
    assert (found.image_id, found.height, found.width) == (7, 20, 30)


def test_soft_merging_leaves_no_detection_without_score():
    assert run(NESTED, merging="soft").scores.tolist() == pytest.approx([0.8])


def test_no_merging():
    np.testing.assert_allclose(run(NESTED, merging="none").scores, [0.96, 0.8], rtol=1e-6)


@pytest.mark.parametrize(("threshold", "scores"), [(0.5, [0.8]), (1.0, [0.96, 0.8])])
def test_hard_merging(threshold: float, scores: list[float]):
    found = run(NESTED, merging="hard", hard_merge_threshold=threshold)
    np.testing.assert_allclose(found.scores, scores, rtol=1e-6)


def test_suppression_follows_predicted_iou_not_score():
    same = candidates([(0, 0, 9, 9)] * 2, [0.7, 0.8], [[1.0, 0.0, 0.0], [0.6, 0.0, 0.8]])
    assert run(same).scores.tolist() == pytest.approx([0.6])
    assert run(same, nms_iou_threshold=1.0, merging="none").scores.tolist() == pytest.approx([1.0, 0.6])


def test_equal_classes_give_the_first_and_equal_scores_keep_the_order_of_predicted_iou():
    half = 0.5**0.5
    apart = candidates([(0, 0, 1, 1), (10, 10, 11, 11)], [0.5, 0.9], [[half, half, 0.0]] * 2)
    found = run(apart)
    assert found.labels.tolist() == [0, 0]
    assert found.boxes_xywh[:, 0].tolist() == [10, 0]


def test_scores_must_exceed_the_minimum():
    apart = candidates([(0, 0, 1, 1), (5, 5, 6, 6), (9, 9, 10, 10)], [0.5] * 3, [[0.5, 0, 0], [0.25, 0, 0], [-1, 0, 0]])
    assert run(apart).scores.tolist() == [0.5, 0.25]
    assert run(apart, min_score=0.25).scores.tolist() == [0.5]


def test_limits():
    apart = candidates(
        [(0, 0, 1, 1), (5, 5, 6, 6), (9, 9, 10, 10)], [0.7, 0.8, 0.9], [[0.9, 0, 0], [0.8, 0, 0], [0.7, 0, 0]]
    )
    assert run(apart, max_detections=2).scores.tolist() == pytest.approx([0.9, 0.8])
    assert run(apart, max_candidates_after_nms=2).scores.tolist() == pytest.approx([0.8, 0.7])


def test_several_prototypes_a_class_and_background():
    matcher = PrototypeMatcher()
    vectors = torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0], [0.6, 0.8, 0]])
    several = Prototypes(CATEGORIES, vectors, torch.tensor([0, 1, 0, -1]))
    found = matcher.match(1, candidates([(0, 0, 5, 5)], [0.9], [[0.0, 0.6, 0.8]]), several)
    assert found.labels.tolist() == [0]
    assert found.scores.tolist() == pytest.approx([0.8])


def test_box_conventions_differ_by_one_pixel():
    assert run(NESTED, box_convention="reference").boxes_xywh.tolist() == [[0, 0, 19, 11], [0, 0, 9, 10]]


@pytest.mark.parametrize("count", [0, 2])
def test_an_image_without_detections_is_a_result(count: int):
    nothing = candidates([(0, 0, 5, 5)] * count, [0.9] * count, [[0.0, 0.0, 1.0]] * count)
    found = run(nothing)
    assert found.labels.dtype == np.int64
    assert found.scores.dtype == found.boxes_xywh.dtype == np.float32
    assert (found.labels.shape, found.scores.shape, found.boxes_xywh.shape, found.rles) == ((0,), (0,), (0, 4), ())
    with pytest.raises(DataError) as caught:
        run(nothing, on_empty="raise")
    assert str(caught.value) == (
        f"image 7: none of {count} candidates scores above 0. With matcher.on_empty=empty such an image has no "
        "detections; with raise it ends the run."
    )


def test_read_only_arrays_are_accepted():
    for array in (NESTED.features, NESTED.predicted_iou, NESTED.grid_boxes_xyxy):
        array.setflags(write=False)
    assert len(run(NESTED).scores) == 2


def test_fingerprint_names_every_setting_but_not_the_option():
    one, two = PrototypeMatcher(), PrototypeMatcher(name="ntt")
    assert one.fingerprint == two.fingerprint
    assert json.loads(json.dumps(one.fingerprint)) == {
        "kind": "prototype",
        "merging": "soft_semantic",
        "nms_iou_threshold": 0.5,
        "max_candidates_after_nms": 800,
        "max_detections": 100,
        "min_score": 0.0,
        "hard_merge_threshold": 0.5,
        "box_convention": "coco",
        "on_empty": "empty",
        "reference_vectors": "crop",
        "full_share": 0.5,
        "surroundings": "crop",
    }


@pytest.mark.parametrize(
    "wrong",
    [
        {"nms_iou_threshold": -0.01},
        {"nms_iou_threshold": float("nan")},
        {"hard_merge_threshold": 1.01},
        {"min_score": 1.0},
        {"min_score": -0.1},
        {"max_candidates_after_nms": 0},
        {"box_convention": "voc"},
        {"on_empty": "skip"},
        {"merging": "gentle"},
    ],
)
def test_each_setting_has_a_range(wrong: dict[str, Any]):
    ((key, value),) = wrong.items()
    (problem,) = setting_problems(PrototypeMatcher(**wrong), "matcher")
    assert problem.startswith(f"matcher.{key}={value} is invalid. Allowed: ")


@pytest.mark.parametrize("edge", [{"nms_iou_threshold": 0.0}, {"nms_iou_threshold": 1.0}, {"min_score": 0.0}])
def test_ends_of_ranges_are_allowed(edge: dict[str, float]):
    assert setting_problems(PrototypeMatcher(**edge)) == []
