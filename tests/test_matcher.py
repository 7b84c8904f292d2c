"""The published matcher, on masks and features small enough to follow by hand."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from conftest import cases
from drawn_candidates import rectangles, rles_of

from ntt.errors import DataError
from ntt.matchers.prototype import PrototypeMatcher
from ntt.types import Candidates, Category, Detections, MemoryBank, Prototypes

CATEGORIES = (Category(3, "cat"), Category(8, "dog"))
MEMORY = MemoryBank(
    categories=CATEGORIES, features=(torch.tensor([[2.0, 0.0, 0.0], [4.0, 0.0, 0.0]]), torch.tensor([[0.0, 3.0, 0.0]]))
)


def prototypes(matcher: PrototypeMatcher) -> Prototypes:
    vectors, labels = matcher.build_prototypes(MEMORY)
    return Prototypes(CATEGORIES, vectors, labels)


candidates = partial(rectangles, channels=3)


# A large mask, and a smaller one of the same class inside it (box IoU 90 / 209, below the threshold).
NESTED = candidates([(0, 0, 19, 11), (0, 0, 9, 10)], [0.9, 0.8], [[0.8, 0.6, 0.0], [0.96, 0.0, 0.28]])


def run(found: Candidates, **settings: Any) -> Detections:
    matcher = PrototypeMatcher(**settings)
    return matcher.match(7, found, prototypes(matcher))


def test_prototypes_are_normalised_means_of_which_the_best_counts():
    vectors, labels = PrototypeMatcher().build_prototypes(
        MemoryBank(CATEGORIES, (torch.tensor([[1.0, 0.0], [2.0, 4.0]]), torch.tensor([[0.0, 5.0]])))
    )
    torch.testing.assert_close(vectors, torch.tensor([[0.6, 0.8], [0.0, 1.0]]))
    assert labels.tolist() == [0, 1]
    assert labels.dtype == torch.int64
    matcher = PrototypeMatcher()
    vectors = torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0], [0.6, 0.8, 0]])
    several = Prototypes(CATEGORIES, vectors, torch.tensor([0, 1, 0, -1]))
    found = matcher.match(1, candidates([(0, 0, 5, 5)], [0.9], [[0.0, 0.6, 0.8]]), several)
    assert found.labels.tolist() == [0]
    assert found.scores.tolist() == pytest.approx([0.8])


def test_soft_semantic_merging_of_arrays_that_may_be_read_only():
    found = run(NESTED)
    # The smaller mask lies within the larger; the cosine of the two is 0.768.
    assert found.labels.tolist() == [0, 0]
    np.testing.assert_allclose(found.scores, [0.8, 0.96 * (1 - 0.768) ** 0.5], rtol=1e-5)
    assert found.boxes_xywh.tolist() == [[0, 0, 20, 12], [0, 0, 10, 11]]
    assert found.rles == rles_of(NESTED)
    assert (found.image_id, found.height, found.width) == (7, 20, 30)
    for array in (NESTED.features, NESTED.predicted_iou, NESTED.grid_boxes_xyxy):
        array.setflags(write=False)
    assert len(run(NESTED).scores) == 2


@cases("merging", "threshold", "scores")(
    ("soft", 0.5, [0.8]), ("none", 0.5, [0.96, 0.8]), ("hard", 0.5, [0.8]), ("hard", 1.0, [0.96, 0.8])
)
def test_other_mergings(merging, threshold, scores):
    found = run(NESTED, merging=merging, hard_merge_threshold=threshold)
    np.testing.assert_allclose(found.scores, scores, rtol=1e-6)


def test_order_minimum_and_limits():
    same = candidates([(0, 0, 9, 9)] * 2, [0.7, 0.8], [[1.0, 0.0, 0.0], [0.6, 0.0, 0.8]])
    assert run(same).scores.tolist() == pytest.approx([0.6])
    assert run(same, nms_iou_threshold=1.0, merging="none").scores.tolist() == pytest.approx([1.0, 0.6])
    half = 0.5**0.5
    apart = candidates([(0, 0, 1, 1), (10, 10, 11, 11)], [0.5, 0.9], [[half, half, 0.0]] * 2)
    found = run(apart)
    assert found.labels.tolist() == [0, 0]
    assert found.boxes_xywh[:, 0].tolist() == [10, 0]
    apart = candidates([(0, 0, 1, 1), (5, 5, 6, 6), (9, 9, 10, 10)], [0.5] * 3, [[0.5, 0, 0], [0.25, 0, 0], [-1, 0, 0]])
    assert run(apart).scores.tolist() == [0.5, 0.25]
    assert run(apart, min_score=0.25).scores.tolist() == [0.5]
    boxes = [(0, 0, 1, 1), (5, 5, 6, 6), (9, 9, 10, 10)]
    apart = candidates(boxes, [0.7, 0.8, 0.9], [[0.9, 0, 0], [0.8, 0, 0], [0.7, 0, 0]])
    assert run(apart, max_detections=2).scores.tolist() == pytest.approx([0.9, 0.8])
    assert run(apart, max_candidates_after_nms=2).scores.tolist() == pytest.approx([0.8, 0.7])


@cases("count")(0, 2)
def test_an_image_without_detections_is_a_result(count):
    nothing = candidates([(0, 0, 5, 5)] * count, [0.9] * count, [[0.0, 0.0, 1.0]] * count)
    found = run(nothing)
    assert found.labels.dtype == np.int64
    assert found.scores.dtype == found.boxes_xywh.dtype == np.float32
    assert (found.labels.shape, found.scores.shape, found.boxes_xywh.shape, found.rles) == ((0,), (0,), (0, 4), ())
    with pytest.raises(
        DataError, match=f"^image 7: none of {count} candidates scores above 0. With matcher.on_empty=e"
    ):
        run(nothing, on_empty="raise")
