"""Merging of overlapping masks, numbers worked by hand."""

import numpy as np
import pytest
import torch
from drawn_candidates import covered_parts

from ntt.ops.merging import decay, hard_survivors, soft_penalties

# In units of eight pixels: the whole, its left half, its right three quarters, and its last quarter.
STRIPS = torch.zeros(4, 4, 8, dtype=torch.bool)
STRIPS[0] = True
STRIPS[1, :, :4] = True
STRIPS[2, :, 2:] = True
STRIPS[3, :, 6:] = True


def covered(*order: int) -> np.ndarray:
    return covered_parts(STRIPS[list(order)])


def test_soft_penalty_takes_the_largest_overlap_with_an_earlier_mask():
    penalties = soft_penalties(covered(3, 1, 2, 0), None)
    # Of the 24 pixels of the third, 8 lie in the first and 8 in the second; of all 32, 24 lie in the third.
    np.testing.assert_allclose(penalties, [0, 0, 1 / 3, 0.75], rtol=1e-6)
    assert penalties.dtype == np.float32


def test_semantic_factor_weighs_each_overlap():
    features = np.array([[1, 0], [0.6, 0.8], [0, 1], [-1, 0]], dtype=np.float32)
    penalties = soft_penalties(covered(0, 1, 2, 3), features)
    # Second: inside the first, cosine 0.6. Third: inside the first, cosine 0; a third of it in the second, cosine 0.8.
    # Fourth: inside the first, cosine -1 counts as 0; not in the second; inside the third, cosine 0.
    np.testing.assert_allclose(penalties, [0, 0.6, 0.8 / 3, 0], atol=1e-6)


def test_duplicate_with_the_same_feature_loses_everything():
    penalties = soft_penalties(covered(1, 1), np.full((2, 3), 3**-0.5, dtype=np.float32))
    np.testing.assert_allclose(penalties, [0, 1], atol=1e-6)
    assert penalties.max() <= 1.0


def test_decay_by_hand():
    scores = np.array([0.8, 0.8, 0.8], dtype=np.float32)
    decayed = decay(scores, np.array([0, 0.75, 1], dtype=np.float32))
    assert decayed.dtype == np.float32
    np.testing.assert_allclose(decayed, [0.8, 0.4, 0.0], rtol=1e-6)


@pytest.mark.parametrize(
    ("order", "threshold", "alive"),
    [
        ((3, 1, 2, 0), 0.0, [1, 1, 0, 0]),
        ((3, 1, 2, 0), 0.3, [1, 1, 0, 0]),
        ((3, 1, 2, 0), 0.34, [1, 1, 1, 0]),
        # The threshold is strict, and 1 drops nothing.
        ((1, 0), 0.5, [1, 1]),
        ((1, 0), 0.49, [1, 0]),
        ((1, 1), 1.0, [1, 1]),
        # The third strip is dropped for the last quarter in it; the whole is then judged without it.
        ((3, 2, 0), 0.3, [1, 0, 1]),
    ],
)
def test_hard_survivors(order: tuple[int, ...], threshold: float, alive: list[int]):
    survivors = hard_survivors(covered(*order), threshold=threshold)
    assert survivors.astype(int).tolist() == alive


def test_nothing_to_merge():
    assert soft_penalties(covered(), np.zeros((0, 3), dtype=np.float32)).shape == (0,)
    assert hard_survivors(covered(), threshold=0.5).shape == (0,)
