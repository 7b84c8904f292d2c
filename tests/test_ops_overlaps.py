"""Boxes and overlaps from run lengths: equal to pycocotools' in every bit."""

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from test_ops_run_lengths import drawn_masks, pycocotools

from ntt.ops.mask_changes import mask_changes
from ntt.ops.overlaps import Segments, overlaps_with_earlier
from ntt.ops.run_lengths import to_run_lengths


@pytest.mark.parametrize("masks", [pytest.param(masks, id=name) for name, masks in drawn_masks().items()])
def test_equal_to_pycocotools(masks: torch.Tensor):
    masks = masks[masks.any(dim=2).any(dim=1)]
    segments = Segments.of(to_run_lengths(mask_changes(masks)), *masks.shape[1:])
    coded = [{"size": list(masks.shape[1:]), "counts": text} for text in pycocotools(masks)]
    assert segments.areas_N.tolist() == coco_mask.area(coded).tolist()
    assert np.array_equal(segments.boxes_xywh, coco_mask.toBbox(coded).astype(np.float32))
    groups_N = np.arange(len(masks)) % 3
    expected = np.tril(coco_mask.iou(coded, coded, [1] * len(masks)), k=-1) * (groups_N[:, None] == groups_N)
    assert np.array_equal(overlaps_with_earlier(segments, groups_N), expected)


def test_by_hand():
    masks = torch.zeros(3, 4, 8, dtype=torch.bool)
    masks[0, :, :4] = masks[1, :2, 2:4] = masks[2, :, 6:] = True
    segments = Segments.of(to_run_lengths(mask_changes(masks)), 4, 8)
    assert overlaps_with_earlier(segments, np.zeros(3, dtype=int)).tolist() == [[0, 0, 0], [1, 0, 0], [0, 0, 0]]
    assert segments.boxes_xyxy.tolist() == [[0, 0, 4, 4], [2, 0, 4, 2], [6, 0, 8, 4]]


def test_no_masks():
    segments = Segments.of(to_run_lengths(mask_changes(torch.zeros(0, 4, 8, dtype=torch.bool))), 4, 8)
    assert segments.boxes_xywh.shape == (0, 4)
    assert overlaps_with_earlier(segments, np.zeros(0, dtype=int)).shape == (0, 0)
