"""The published matcher and the ridge probe, on masks and features small enough to follow by hand."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from conftest import cases
from drawn_candidates import rectangles, rles_of

from ntt.errors import ConfigError, DataError
from ntt.matchers.probe import ProbeMatcher
from ntt.matchers.prototype import PrototypeMatcher
from ntt.matchers.scoring import DetectingMatcher
from ntt.ops.similarity import ridge_directions
from ntt.stages.matching import build_prototypes
from ntt.types import Candidates, Category, Detections, MemoryBank, Prototypes

CATEGORIES = (Category(3, "cat"), Category(8, "dog"))
MEMORY = MemoryBank(
    categories=CATEGORIES, features=(torch.tensor([[2.0, 0.0, 0.0], [4.0, 0.0, 0.0]]), torch.tensor([[0.0, 3.0, 0.0]]))
)


candidates = partial(rectangles, channels=3)


# A large mask, and a smaller one of the same class inside it (box IoU 90 / 209, below the threshold).
NESTED = candidates([(0, 0, 19, 11), (0, 0, 9, 10)], [0.9, 0.8], [[0.8, 0.6, 0.0], [0.96, 0.0, 0.28]])


def run(image_candidates: Candidates, **settings: Any) -> Detections:
    matcher = PrototypeMatcher(**settings)
    return matcher.match(7, image_candidates, build_prototypes(memory=MEMORY, matcher=matcher))


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
    detections = matcher.match(1, candidates([(0, 0, 5, 5)], [0.9], [[0.0, 0.6, 0.8]]), several)
    assert detections.labels.tolist() == [0]
    assert detections.scores.tolist() == pytest.approx([0.8])


def test_soft_semantic_merging_of_arrays_that_may_be_read_only():
    detections = run(NESTED)
    # The smaller mask lies within the larger; the cosine of the two is 0.768.
    assert detections.labels.tolist() == [0, 0]
    np.testing.assert_allclose(detections.scores, [0.8, 0.96 * (1 - 0.768) ** 0.5], rtol=1e-5)
    assert detections.boxes_xywh.tolist() == [[0, 0, 20, 12], [0, 0, 10, 11]]
    assert detections.rles == rles_of(NESTED)
    assert (detections.image_id, detections.height, detections.width) == (7, 20, 30)
    for array in (NESTED.features, NESTED.predicted_iou, NESTED.grid_boxes_xyxy):
        array.setflags(write=False)
    assert len(run(NESTED).scores) == 2


def test_order_minimum_and_limits():
    same = candidates([(0, 0, 9, 9)] * 2, [0.7, 0.8], [[1.0, 0.0, 0.0], [0.6, 0.0, 0.8]])
    assert run(same).scores.tolist() == pytest.approx([0.6])
    assert run(same, nms_iou_threshold=1.0, merging="none").scores.tolist() == pytest.approx([1.0, 0.6])
    half = 0.5**0.5
    apart = candidates([(0, 0, 1, 1), (10, 10, 11, 11)], [0.5, 0.9], [[half, half, 0.0]] * 2)
    detections = run(apart)
    assert detections.labels.tolist() == [0, 0]
    assert detections.boxes_xywh[:, 0].tolist() == [10, 0]
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
    result = run(nothing)
    assert result.labels.dtype == np.int64
    assert result.scores.dtype == result.boxes_xywh.dtype == np.float32
    assert (result.labels.shape, result.scores.shape, result.boxes_xywh.shape, result.rles) == ((0,), (0,), (0, 4), ())
    with pytest.raises(
        DataError, match=f"^image 7: none of {count} candidates scores above 0. With matcher.on_empty=e"
    ):
        run(nothing, on_empty="raise")


@cases("method")("class_scores", "merge")
@cases("value")(np.nan, np.inf)
def test_scores_that_are_no_numbers_end_the_run(method, value, monkeypatch):
    original = getattr(PrototypeMatcher, method)
    monkeypatch.setattr(PrototypeMatcher, method, lambda *args: original(*args) + np.float32(value))
    with pytest.raises(ConfigError, match=r"^matcher=b1: a score is NaN or inf.* what PrototypeMatcher computes"):
        run(NESTED, name="b1")


CAT, DOG = Category(3, "cat"), Category(8, "dog")


def vectors(*rows: Sequence[float], channels: int = 3) -> torch.Tensor:
    """Rows with zeros up to the number of channels."""
    return torch.tensor([[*row, *[0.0] * (channels - len(row))] for row in rows]).reshape(-1, channels)


def rows_as_candidates(rows: torch.Tensor) -> Candidates:
    boxes = [(3 * number, 0, 3 * number + 1, 1) for number in range(len(rows))]
    return rectangles(boxes, np.linspace(0.9, 0.5, len(rows)), rows.tolist(), channels=rows.shape[1])


def scores(matcher: DetectingMatcher, memory: MemoryBank, rows: torch.Tensor) -> np.ndarray:
    result = matcher.class_scores(
        rows_as_candidates(rows), Prototypes(memory.categories, *matcher.build_prototypes(memory))
    )
    assert result.dtype == np.float32
    return result


@cases("channels", ids=["primal", "dual"])(2, 4)
def test_one_reference_of_one_class(channels):
    # m = (0, 1), a = (1, -1): v is a multiple of a, and the probe (1, -1) / 2 whatever the ridge.
    memory = MemoryBank((CAT,), (vectors([2], channels=channels),), (vectors([0, 3], channels=channels),))
    rows = vectors([1], [0.8, 0.6], [0.6, 0.8], [0, 1], [-1], channels=channels)
    np.testing.assert_allclose(scores(ProbeMatcher(), memory, rows)[:, 0], [1, 0.6, 0.4, -1, -1], atol=1e-6)
    half = scores(ProbeMatcher(cosine_share=0.5, ridge=7.0), memory, rows)[:, 0]
    np.testing.assert_allclose(half, [1, 0.7, 0.5, -1, -1], atol=1e-6)


# a = (1, 0, -1) and (0, 1, -1), trace(H) = 1. With ridge 3, v_cat = (6 a_cat - a_dog) / 35, and the probe of cats is
# (6, -1, -5) / 11 from (0, 0, 1).
TWO = MemoryBank((CAT, DOG), (vectors([1]), vectors([0, 5])), (vectors([0, 0, 2]), vectors()))


def test_classes_against_pooled_surroundings():
    actual = scores(ProbeMatcher(ridge=3.0), TWO, vectors([1], [0, 1], [0, 0.6, 0.8]))
    np.testing.assert_allclose(actual, [[1, 4 / 11], [4 / 11, 1], [0.4 / 11, 4.6 / 11]], atol=1e-6)
    rows = vectors([1], [0, 1])
    plain, weighted = (scores(ProbeMatcher(iou_power=power), TWO, rows) for power in (0.0, 0.5))
    np.testing.assert_allclose(weighted, plain * np.sqrt([[0.9], [0.5]]), rtol=1e-6)


def test_surroundings_weigh_as_much_as_the_references():
    # m = (0.3, 0.1), a = (0.7, -0.1), (-0.3, 0.9), (0.3, -0.9) with weights 1/2, 1/4, 1/4; trace(H) = 0.7,
    # H = [[29, -17], [-17, 41]] / 100, v is a multiple of (0.515, 0.055), and a.v = 0.355.
    memory = MemoryBank((CAT,), (vectors([1], channels=2),), (vectors([0, 1], [1.2, -1.6], channels=2),))
    actual = scores(ProbeMatcher(), memory, vectors([1], [0.8, 0.6], [0.6, 0.8], [0, 1], channels=2))[:, 0]
    np.testing.assert_allclose(actual, [1, 0.285 / 0.355, 0.193 / 0.355, -1], atol=1e-6)


def test_surroundings_that_look_like_the_class():
    # What surrounds the dog looks like a cat: cats keep the probe above, and dogs have one against both.
    memory = MemoryBank(TWO.categories, TWO.features, (TWO.backgrounds[0], vectors([4, 0, 3])))
    rows = vectors([1], [0, 1], [0, 0.6, 0.8])
    guarded, plain = (scores(ProbeMatcher(ridge=3.0, guard=guard), memory, rows) for guard in (True, False))
    np.testing.assert_allclose(guarded[:, 0], [1, 4 / 11, 0.4 / 11], atol=1e-6)
    np.testing.assert_allclose(guarded[:, 1], plain[:, 1], atol=1e-6)
    assert abs(plain[2, 0] - guarded[2, 0]) > 0.01
    memory = MemoryBank((CAT, DOG), (vectors([1], [-1]), vectors([0, 1])), (vectors([0, 0, 1], [0, 0, -1]),))
    assert scores(ProbeMatcher(), memory, vectors([1], [0, 1]))[:, 0].tolist() == [-1, 0]
    half = vectors([0.5**0.5, 0, 0.5**0.5])
    assert scores(ProbeMatcher(), TWO, half)[0, 0] < scores(PrototypeMatcher(), TWO, half)[0, 0]
    memory = MemoryBank(TWO.categories, TWO.features, (vectors(), vectors()))
    np.testing.assert_array_equal(scores(ProbeMatcher(), memory, half), scores(PrototypeMatcher(), memory, half))


@cases("seed")(*range(8))
def test_surroundings_are_never_closer_than_themselves(seed):
    generator = torch.Generator().manual_seed(seed)
    instances, surroundings = torch.randn(2, 2, 40, generator=generator), torch.randn(5, 40, generator=generator)
    # The other class's surroundings are the same: to the first class, none of them is closer than its own.
    memory = MemoryBank((CAT, DOG), tuple(instances), (surroundings, surroundings[: seed + 1]))
    guarded, plain = (scores(ProbeMatcher(guard=guard), memory, instances[0]) for guard in (True, False))
    np.testing.assert_allclose(guarded[:, 0], plain[:, 0], rtol=1e-5)


def test_primal_and_dual_agree():
    generator = np.random.default_rng(0)
    rows, weights = generator.normal(size=(6, 6)), generator.uniform(size=6)
    targets = generator.normal(size=(6, 2))
    wider = np.concatenate([rows, np.zeros((6, 6))], axis=1)
    primal = ridge_directions(rows, weights, targets, ridge=0.3)
    dual = ridge_directions(wider, weights, targets, ridge=0.6)  # twice the channels, half the mean eigenvalue
    np.testing.assert_allclose(dual[:6], primal, rtol=1e-9)
    # Rows of no weight change nothing.
    more = ridge_directions(*(np.concatenate([part, 0 * part]) for part in (rows, weights, targets)), ridge=0.3)
    np.testing.assert_allclose(more, primal, rtol=1e-9)
