"""Similarity, clustering, and what overlapping masks cost each other: numbers worked by hand."""

from typing import Any

import numpy as np
import pytest
import torch
from conftest import cases
from drawn_candidates import covered_parts

from ntt.ops.clustering import spherical_kmeans
from ntt.ops.merging import decay, diffused_penalties, hard_survivors, soft_penalties
from ntt.ops.similarity import best_of_others, best_per_class, cosine_similarity, damp, mean_of_best


def test_best_of_several_prototypes():
    features = np.array([[0.6, 0.8], [-1.0, 0.0], [1.0, 1e-3]], dtype=np.float32)
    similarity = cosine_similarity(features, np.array([[1.0, 0.0], [0.0, 1.0], [1.0001, 0.0]], dtype=np.float32))
    assert similarity.dtype == np.float32
    np.testing.assert_allclose(similarity, [[0.6, 0.8, 0.60006], [0, 0, 0], [1, 1e-3, 1]], rtol=1e-5)
    similarity = np.array([[0.1, 0.7, 0.3, 0.9], [0.4, 0.2, 0.0, 0.5]], dtype=np.float32)
    scores = best_per_class(similarity, np.array([2, 0, 2, -1]), num_classes=3)
    np.testing.assert_array_equal(scores, np.array([[0.7, 0, 0.3], [0.2, 0, 0.4]], dtype=np.float32))
    similarity = np.array([[0.1, 0.7]], dtype=np.float32)
    np.testing.assert_array_equal(best_per_class(similarity, np.array([0, 1]), num_classes=2), similarity)
    np.testing.assert_array_equal(best_per_class(similarity, np.array([1, 0]), num_classes=2), similarity[:, ::-1])
    none = np.zeros((0, 2), dtype=np.float32)
    assert cosine_similarity(none, np.ones((3, 2), dtype=np.float32)).shape == (0, 3)
    assert best_per_class(np.zeros((0, 3), dtype=np.float32), np.array([0, 0, 1]), num_classes=2).shape == (0, 2)


SEVERAL = np.array([[0.1, 0.7, 0.3, 0.9, 0.8], [0.4, 0.2, 0.0, 0.5, 0.6]], dtype=np.float32)


@cases("count", "expected")(
    (1, [[0.7, 0, 0.8], [0.2, 0, 0.6]]),
    (2, [[0.7, 0, 0.55], [0.2, 0, 0.5]]),
    (3, [[0.7, 0, 0.4], [0.2, 0, 1 / 3]]),
    (9, [[0.7, 0, 0.4], [0.2, 0, 1 / 3]]),
)
def test_mean_of_the_best(count, expected):
    scores = mean_of_best(SEVERAL, np.array([2, 0, 2, -1, 2]), num_classes=3, count=count)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, expected, rtol=1e-6)


def test_best_of_others():
    scores = np.array([[0.1, 0.7, 0.3], [0.5, 0.5, 0.2], [0.0, 0.0, 0.0]], dtype=np.float32)
    expected = np.array([[0.7, 0.3, 0.7], [0.5, 0.5, 0.5], [0, 0, 0]], dtype=np.float32)
    np.testing.assert_array_equal(best_of_others(scores), expected)
    np.testing.assert_array_equal(best_of_others(scores[:, 1:2]), np.zeros((3, 1), dtype=np.float32))
    assert best_of_others(scores[:0]).shape == (0, 3)
    none = np.zeros((0, 3), dtype=np.float32)
    assert mean_of_best(none, np.array([0, 0, 1]), num_classes=2, count=2).shape == (0, 2)
    assert damp(none, none, sigma=1.0).shape == (0, 3)


def test_damping_begins_where_the_other_side_leads():
    scores = np.array([[0.5, 0.4, 0.5, 0.0]], dtype=np.float32)
    against = np.array([[0.5, 0.2, 0.9, 0.8]], dtype=np.float32)
    damped = damp(scores, against, sigma=0.8)
    assert damped.dtype == np.float32
    np.testing.assert_allclose(damped, [[0.5, 0.4, 0.5 * np.exp(-0.5), 0.0]], rtol=1e-6)


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def clusters(vectors: list[list[float]], count: int, seed: int = 0) -> list[int]:
    labels = spherical_kmeans(np.array(vectors, dtype=np.float32), count, generator=generator(seed))
    assert labels.dtype == np.int64
    return labels.tolist()


# Two near the first axis, three near the second; lengths differ, directions decide.
TWO_GROUPS = [[1.0, 0.1], [0.1, 9.0], [50.0, 4.0], [0.0, 0.2], [0.3, 4.0]]


@cases("seed")(*range(5))
def test_groups_by_direction_whatever_the_start(seed):
    assert clusters(TWO_GROUPS, 2, seed) == [0, 1, 0, 1, 1]


@cases("vectors", "count", "expected")(
    (TWO_GROUPS, 1, [0, 0, 0, 0, 0]),
    ([[1.0, 2.0]], 3, [0]),
    (TWO_GROUPS, 5, [0, 1, 2, 3, 4]),
    (TWO_GROUPS, 9, [0, 1, 2, 3, 4]),
    # Never more clusters than directions.
    ([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, 3.0]], 3, [0, 0, 1, 1]),
    ([[1.0, 1.0]] * 4, 3, [0, 0, 0, 0]),
    ([[0.0, 0.0]] * 3, 2, [0, 0, 0]),  # without direction
)
def test_ends_of_the_count(vectors, count, expected):
    assert clusters(vectors, count) == expected


# In units of eight pixels: the whole, its left half, its right three quarters, and its last quarter.
STRIPS = torch.zeros(4, 4, 8, dtype=torch.bool)
STRIPS[0] = True
STRIPS[1, :, :4] = True
STRIPS[2, :, 2:] = True
STRIPS[3, :, 6:] = True


def covered(*order: int) -> np.ndarray:
    return covered_parts(STRIPS[list(order)])


def test_soft_penalties_by_hand():
    penalties = soft_penalties(covered(3, 1, 2, 0), None)
    # Of the 24 pixels of the third, 8 lie in the first and 8 in the second; of all 32, 24 lie in the third.
    np.testing.assert_allclose(penalties, [0, 0, 1 / 3, 0.75], rtol=1e-6)
    assert penalties.dtype == np.float32
    features = np.array([[1, 0], [0.6, 0.8], [0, 1], [-1, 0]], dtype=np.float32)
    penalties = soft_penalties(covered(0, 1, 2, 3), features)
    # Second: inside the first, cosine 0.6. Third: inside the first, cosine 0; a third of it in the second, cosine 0.8.
    # Fourth: inside the first, cosine -1 counts as 0; not in the second; inside the third, cosine 0.
    np.testing.assert_allclose(penalties, [0, 0.6, 0.8 / 3, 0], atol=1e-6)
    penalties = soft_penalties(covered(1, 1), np.full((2, 3), 3**-0.5, dtype=np.float32))
    np.testing.assert_allclose(penalties, [0, 1], atol=1e-6)
    assert penalties.max() <= 1.0


def test_decay_by_hand_and_nothing_to_merge():
    scores = np.array([0.8, 0.8, 0.8], dtype=np.float32)
    decayed = decay(scores, np.array([0, 0.75, 1], dtype=np.float32))
    assert decayed.dtype == np.float32
    np.testing.assert_allclose(decayed, [0.8, 0.4, 0.0], rtol=1e-6)
    assert soft_penalties(covered(), np.zeros((0, 3), dtype=np.float32)).shape == (0,)
    assert hard_survivors(covered(), threshold=0.5).shape == (0,)


@cases("order", "threshold", "alive")(
    ((3, 1, 2, 0), 0.0, [1, 1, 0, 0]),
    ((3, 1, 2, 0), 0.3, [1, 1, 0, 0]),
    ((3, 1, 2, 0), 0.34, [1, 1, 1, 0]),
    # The threshold is strict, and 1 drops nothing.
    ((1, 0), 0.5, [1, 1]),
    ((1, 0), 0.49, [1, 0]),
    ((1, 1), 1.0, [1, 1]),
    # The third strip is dropped for the last quarter in it; the whole is then judged without it.
    ((3, 2, 0), 0.3, [1, 0, 1]),
)
def test_hard_survivors(order, threshold, alive):
    survivors = hard_survivors(covered(*order), threshold=threshold)
    assert survivors.astype(int).tolist() == alive


# Of 4 x 8 pixels: the whole, its left half, its left quarter, its last column.
MASKS = torch.zeros(4, 4, 8, dtype=torch.bool)
MASKS[0] = True
MASKS[1, :, :4] = True
MASKS[2, :, :2] = True
MASKS[3, :, 7:] = True
WHOLE, HALF, QUARTER, LAST = range(4)


def penalties(*order: int, **changed: Any) -> list[float]:
    settings = {"alpha": 0.3, "steps": 30, "transition": "normalised", **changed}
    penalties_N = diffused_penalties(covered_parts(MASKS[list(order)]), **settings)
    assert penalties_N.dtype == np.float32
    return penalties_N.tolist()


@cases("rles", "settings", "expected")(
    ((), {}, []),
    ((WHOLE,), {}, [0.0]),
    # The first touches nothing earlier: 0. The second lies in it: 0.7 * 1 + 0.3 * 0.
    ((WHOLE, HALF), {}, [0.0, 0.7]),
    # The third lies in both others; its edges weigh a half each: 0.7 + 0.3 * (0 + 0.7) / 2.
    ((WHOLE, HALF, QUARTER), {}, [0.0, 0.7, 0.805]),
    # Unscaled, both edges weigh 1: 0.7 + 0.3 * (0 + 0.7).
    ((WHOLE, HALF, QUARTER), {"transition": "plain"}, [0.0, 0.7, 0.91]),
    # Half of the second lies in the first: 0.7 * 0.5. Of the third, a quarter lies in the first and a half in the
    # second, so its edges weigh 1/3 and 2/3: 0.7 * 0.5 + 0.3 * 2/3 * 0.35.
    ((QUARTER, HALF, WHOLE), {}, [0.0, 0.35, 0.42]),
    ((HALF, LAST), {}, [0.0, 0.0]),
    # From 1/2 each, one step: 0, and 0.3 * 0.5 + 0.7; another one: 0.7.
    ((WHOLE, HALF), {"steps": 0}, [0.5, 0.5]),
    ((WHOLE, HALF), {"steps": 1}, [0.0, 0.85]),
    ((WHOLE, HALF, QUARTER), {"alpha": 0.0}, [0.0, 1.0, 1.0]),
    # Without restart nothing is left once the walks have ended in the first mask.
    ((WHOLE, HALF, QUARTER), {"alpha": 1.0}, [0.0, 0.0, 0.0]),
)
def test_penalties_by_hand(rles, settings, expected):
    assert penalties(*rles, **settings) == pytest.approx(expected, abs=1e-7)


def test_unscaled_penalties_stop_at_one():
    several = [WHOLE, HALF, QUARTER, QUARTER, QUARTER, QUARTER]
    unscaled = penalties(*several, transition="plain", alpha=0.6)
    assert max(unscaled) == 1.0
    assert max(penalties(*several, alpha=0.6)) < 1.0
