"""Similarity of candidates and prototypes."""

import numpy as np

from ntt.ops.similarity import best_per_class, cosine_similarity


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
