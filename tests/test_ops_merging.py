"""Merging of overlapping masks, numbers worked by hand."""

import numpy as np
import pytest
import torch

from ntt.ops import overlaps
from ntt.ops.masks import encode_masks
from ntt.ops.merging import decay, hard_survivors, soft_penalties

# In units of eight pixels: the whole, its left half, its right three quarters, and its last quarter.
STRIPS = torch.zeros(4, 4, 8, dtype=torch.bool)
STRIPS[0] = True
STRIPS[1, :, :4] = True
STRIPS[2, :, 2:] = True
STRIPS[3, :, 6:] = True
RLES = encode_masks(STRIPS)
SIZE = {"height": 4, "width": 8}


def labels(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def test_soft_penalty_takes_the_largest_overlap_with_an_earlier_mask():
    order = [RLES[3], RLES[1], RLES[2], RLES[0]]
    penalties = soft_penalties(order, labels(0, 0, 0, 0), None, **SIZE)
    # Of the 24 pixels of the third, 8 lie in the first and 8 in the second; of all 32, 24 lie in the third.
    np.testing.assert_allclose(penalties, [0, 0, 1 / 3, 0.75], rtol=1e-6)


def test_other_classes_do_not_count():
    penalties = soft_penalties(RLES, labels(0, 1, 0, 1), None, **SIZE)
    np.testing.assert_allclose(penalties, [0, 0, 1, 0])


def test_semantic_factor_weighs_each_overlap():
    features = np.array([[1, 0], [0.6, 0.8], [0, 1], [-1, 0]], dtype=np.float32)
    penalties = soft_penalties(RLES, labels(0, 0, 0, 0), features, **SIZE)
    # Second: inside the first, cosine 0.6. Third: inside the first, cosine 0; a third of it in the second, cosine 0.8.
    # Fourth: inside the first, cosine -1 counts as 0; not in the second; inside the third, cosine 0.
    np.testing.assert_allclose(penalties, [0, 0.6, 0.8 / 3, 0], atol=1e-6)


def test_duplicate_with_the_same_feature_loses_everything():
    features = np.full((2, 3), 3**-0.5, dtype=np.float32)
    penalties = soft_penalties([RLES[1], RLES[1]], labels(2, 2), features, **SIZE)
    np.testing.assert_allclose(penalties, [0, 1], atol=1e-6)
    assert penalties.max() <= 1.0


def test_decay_by_hand():
    scores = np.array([0.8, 0.8, 0.8], dtype=np.float32)
    decayed = decay(scores, np.array([0, 0.75, 1], dtype=np.float32))
    assert decayed.dtype == np.float32
    np.testing.assert_allclose(decayed, [0.8, 0.4, 0.0], rtol=1e-6)


@pytest.mark.parametrize(("threshold", "alive"), [(0.0, [1, 1, 0, 0]), (0.3, [1, 1, 0, 0]), (0.34, [1, 1, 1, 0])])
def test_hard_survivors(threshold: float, alive: list[int]):
    order = [RLES[3], RLES[1], RLES[2], RLES[0]]
    found = hard_survivors(order, labels(0, 0, 0, 0), threshold=threshold, **SIZE)
    assert found.astype(int).tolist() == alive


def test_hard_threshold_is_strict_and_1_drops_nothing():
    assert hard_survivors([RLES[1], RLES[0]], labels(0, 0), threshold=0.5, **SIZE).tolist() == [True, True]
    assert hard_survivors([RLES[1], RLES[0]], labels(0, 0), threshold=0.49, **SIZE).tolist() == [True, False]
    assert hard_survivors([RLES[1], RLES[1]], labels(0, 0), threshold=1.0, **SIZE).tolist() == [True, True]


def test_a_dropped_mask_drops_nothing():
    # The third strip is dropped for the last quarter in it; the whole is then judged without it.
    order = [RLES[3], RLES[2], RLES[0]]
    found = hard_survivors(order, labels(0, 0, 0), threshold=0.3, **SIZE)
    assert found.tolist() == [True, False, True]


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch):
    many = [RLES[index % 4] for index in (0, 3, 1, 2, 3, 1, 0)]
    whole = soft_penalties(many, labels(*[0] * 7), None, **SIZE)
    monkeypatch.setattr(overlaps, "BLOCK_ROWS", 2)
    assert np.array_equal(soft_penalties(many, labels(*[0] * 7), None, **SIZE), whole)


def test_nothing_to_merge():
    none = labels()
    assert soft_penalties([], none, np.zeros((0, 3), dtype=np.float32), **SIZE).shape == (0,)
    assert hard_survivors([], none, threshold=0.5, **SIZE).shape == (0,)
