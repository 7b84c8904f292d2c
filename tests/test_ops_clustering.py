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


@pytest.mark.parametrize(
    ("vectors", "count", "expected"),
    [
        (TWO_GROUPS, 1, [0, 0, 0, 0, 0]),
        ([[1.0, 2.0]], 3, [0]),
        (TWO_GROUPS, 5, [0, 1, 2, 3, 4]),
        (TWO_GROUPS, 9, [0, 1, 2, 3, 4]),
        # Never more clusters than directions.
        ([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, 3.0]], 3, [0, 0, 1, 1]),
        ([[1.0, 1.0]] * 4, 3, [0, 0, 0, 0]),
        ([[0.0, 0.0]] * 3, 2, [0, 0, 0]),  # without direction
    ],
)
def test_ends_of_the_count(vectors: list[list[float]], count: int, expected: list[int]):
    assert clusters(vectors, count) == expected


def test_the_same_seed_gives_the_same_clusters():
    vectors = generator(1).normal(size=(30, 8)).astype(np.float32)
    runs = [spherical_kmeans(vectors, 4, generator=generator(2)) for _ in range(2)]
    np.testing.assert_array_equal(*runs)
    assert runs[0].max() == 3
    assert runs[0][0] == 0
