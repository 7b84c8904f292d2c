"""Similarity of candidates and prototypes."""

import numpy as np
import pytest

from ntt.ops.similarity import best_of_others, best_per_class, cosine_similarity, damp, mean_of_best


def test_cosine_is_cut_below_0_and_above_1():
    features = np.array([[0.6, 0.8], [-1.0, 0.0], [1.0, 1e-3]], dtype=np.float32)
    similarity = cosine_similarity(features, np.array([[1.0, 0.0], [0.0, 1.0], [1.0001, 0.0]], dtype=np.float32))
    assert similarity.dtype == np.float32
    np.testing.assert_allclose(similarity, [[0.6, 0.8, 0.60006], [0, 0, 0], [1, 1e-3, 1]], rtol=1e-5)


def test_best_of_several_prototypes():
    similarity = np.array([[0.1, 0.7, 0.3, 0.9], [0.4, 0.2, 0.0, 0.5]], dtype=np.float32)
    scores = best_per_class(similarity, np.array([2, 0, 2, -1]), num_classes=3)
    np.testing.assert_array_equal(scores, np.array([[0.7, 0, 0.3], [0.2, 0, 0.4]], dtype=np.float32))


def test_one_prototype_a_class_is_passed_through():
    similarity = np.array([[0.1, 0.7]], dtype=np.float32)
    np.testing.assert_array_equal(best_per_class(similarity, np.array([0, 1]), num_classes=2), similarity)
    np.testing.assert_array_equal(best_per_class(similarity, np.array([1, 0]), num_classes=2), similarity[:, ::-1])


def test_no_candidates():
    none = np.zeros((0, 2), dtype=np.float32)
    assert cosine_similarity(none, np.ones((3, 2), dtype=np.float32)).shape == (0, 3)
    assert best_per_class(np.zeros((0, 3), dtype=np.float32), np.array([0, 0, 1]), num_classes=2).shape == (0, 2)


SEVERAL = np.array([[0.1, 0.7, 0.3, 0.9, 0.8], [0.4, 0.2, 0.0, 0.5, 0.6]], dtype=np.float32)


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (1, [[0.7, 0, 0.8], [0.2, 0, 0.6]]),
        (2, [[0.7, 0, 0.55], [0.2, 0, 0.5]]),
        (3, [[0.7, 0, 0.4], [0.2, 0, 1 / 3]]),
        (9, [[0.7, 0, 0.4], [0.2, 0, 1 / 3]]),
    ],
)
def test_mean_of_the_best(count: int, expected: list[list[float]]):
    scores = mean_of_best(SEVERAL, np.array([2, 0, 2, -1, 2]), num_classes=3, count=count)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, expected, rtol=1e-6)


def test_best_of_others():
    scores = np.array([[0.1, 0.7, 0.3], [0.5, 0.5, 0.2], [0.0, 0.0, 0.0]], dtype=np.float32)
    expected = np.array([[0.7, 0.3, 0.7], [0.5, 0.5, 0.5], [0, 0, 0]], dtype=np.float32)
    np.testing.assert_array_equal(best_of_others(scores), expected)
    np.testing.assert_array_equal(best_of_others(scores[:, 1:2]), np.zeros((3, 1), dtype=np.float32))
    assert best_of_others(scores[:0]).shape == (0, 3)


def test_damping_begins_where_the_other_side_leads():
    scores = np.array([[0.5, 0.4, 0.5, 0.0]], dtype=np.float32)
    against = np.array([[0.5, 0.2, 0.9, 0.8]], dtype=np.float32)
    damped = damp(scores, against, sigma=0.8)
    assert damped.dtype == np.float32
    np.testing.assert_allclose(damped, [[0.5, 0.4, 0.5 * np.exp(-0.5), 0.0]], rtol=1e-6)
    np.testing.assert_allclose(
        damp(scores, np.array([[0.6]], dtype=np.float32), sigma=0.1)[0, 0], 0.5 / np.e, rtol=1e-5
    )


def test_nothing_to_average_or_damp():
    none = np.zeros((0, 3), dtype=np.float32)
    assert mean_of_best(none, np.array([0, 0, 1]), num_classes=2, count=2).shape == (0, 2)
    assert damp(none, none, sigma=1.0).shape == (0, 3)
