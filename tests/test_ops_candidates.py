"""From proposals to candidates."""

import numpy as np
import pytest
import torch

from ntt.ops.candidates import FeatureDtype, measure
from ntt.ops.masks import decode_masks
from ntt.ops.run_lengths import to_text
from ntt.types import Candidates, Proposals

FEATURE_MAP = torch.tensor([[[3.0, 0.0]] * 2, [[4.0, 1.0]] * 2])


def proposals() -> Proposals:
    logits = torch.full((4, 8, 8), -1.0)
    logits[0, :, 0] = 5.0
    logits[2, 2:4, 7] = 1.0
    # Foreground on the grid only: halving each axis averages it away.
    logits[3] = -100.0
    logits[3, 0, 0] = 0.5
    return Proposals(logits, torch.tensor([0.5, 0.9, 0.7, 0.8]))


def described(height: int, width: int, dtype: FeatureDtype = "float32") -> Candidates:
    return measure(proposals(), FEATURE_MAP, height=height, width=width).candidates(dtype)


def test_order_boxes_and_features():
    found = described(16, 16)
    assert found.predicted_iou.tolist() == pytest.approx([0.5, 0.7, 0.8])
    assert found.grid_boxes_xyxy.tolist() == [[0, 0, 0, 7], [7, 2, 7, 3], [0, 0, 0, 0]]
    np.testing.assert_allclose(found.features, [[0.6, 0.8], [0.0, 1.0], [0.6, 0.8]], atol=1e-6)
    # Between column 0 (5) and column 1 (-1), pixel 2 of the enlarged mask is at 0.75: 0.5, still foreground.
    assert decode_masks(to_text(found.masks), 16, 16)[0].sum() == 3 * 16
    assert (found.height, found.width) == (16, 16)


def test_masks_without_foreground_at_full_size_are_dropped():
    found = described(4, 4)
    assert found.predicted_iou.tolist() == pytest.approx([0.5])
    assert len(found) == len(found.masks) == len(found.features) == len(found.grid_boxes_xyxy) == 1


def test_features_are_rounded_to_the_stored_precision():
    rounded, full = described(16, 16, "float16").features, described(16, 16).features
    assert rounded.dtype == np.float32
    assert np.array_equal(rounded, full.astype(np.float16).astype(np.float32))
    assert not np.array_equal(rounded, full)


@pytest.mark.parametrize("count", [0, 2])
def test_nothing_left(count: int):
    nothing = Proposals(torch.full((count, 8, 8), -1.0), torch.full((count,), 0.9))
    found = measure(nothing, FEATURE_MAP, height=5, width=6).candidates("float16")
    assert len(found) == len(found.masks) == 0
    assert found.features.shape == (0, 2)
    assert found.grid_boxes_xyxy.shape == (0, 4)
    assert found.predicted_iou.shape == (0,)
