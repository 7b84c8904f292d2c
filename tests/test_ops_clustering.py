"""Clustering of feature vectors by direction."""

import numpy as np
import pytest

from ntt.ops.clustering import spherical_kmeans


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def clusters(vectors: list[list[float]], count: int, seed: int = 0) -> list[int]:
    found = spherical_kmeans(np.array(vectors, dtype=np.float32), count, generator=generator(seed))
    assert found.dtype == np.int64
    return found.tolist()


# Two near the first axis, three near the second; lengths differ, directions decide.
TWO_GROUPS = [[1.0, 0.1], [0.1, 9.0], [50.0, 4.0], [0.0, 0.2], [0.3, 4.0]]


@pytest.mark.parametrize("seed", range(5))
def test_groups_by_direction_whatever_the_start(seed: int):
    assert clusters(TWO_GROUPS, 2, seed) == [0, 1, 0, 1, 1]


def test_one_cluster_and_one_vector():
    assert clusters(TWO_GROUPS, 1) == [0, 0, 0, 0, 0]
    assert clusters([[1.0, 2.0]], 3) == [0]


def test_every_vector_is_its_own_cluster_where_there_are_enough():
    assert clusters(TWO_GROUPS, 5) == [0, 1, 2, 3, 4]
    assert clusters(TWO_GROUPS, 9) == [0, 1, 2, 3, 4]


def test_never_more_clusters_than_directions():
    assert clusters([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, 3.0]], 3) == [0, 0, 1, 1]
    assert clusters([[1.0, 1.0]] * 4, 3) == [0, 0, 0, 0]


def test_vectors_without_direction_stay_together():
    assert clusters([[0.0, 0.0]] * 3, 2) == [0, 0, 0]


def test_the_same_seed_gives_the_same_clusters():
    vectors = generator(1).normal(size=(30, 8)).astype(np.float32)
    runs = [spherical_kmeans(vectors, 4, generator=generator(2)) for _ in range(2)]
    np.testing.assert_array_equal(*runs)
    assert runs[0].max() == 3
    assert runs[0][0] == 0
