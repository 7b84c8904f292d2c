"""Full-size run-length encodings."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ntt.ops.mask_changes import full_size_changes
from ntt.ops.masks import decode_masks, encode_masks, mask_ious, rle_areas
from ntt.ops.run_lengths import to_run_lengths, to_text


def encode_full_size(logits: torch.Tensor, height: int, width: int) -> tuple[bytes, ...]:
    return to_text(to_run_lengths(full_size_changes(logits, logits > 0, height, width)))


def blobs(count: int, height: int, width: int) -> torch.Tensor:
    """Smooth random logits, most of them negative."""
    noise = torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(0)) - 0.8
    return F.interpolate(noise, (height, width), mode="bicubic", align_corners=False)[:, 0]


@pytest.mark.parametrize("image_hw", [(480, 640), (100, 60), (64, 64), (64, 300), (1, 37)])
def test_equals_antialiased_interpolation(image_hw: tuple[int, int]):
    logits = blobs(12, 64, 64)
    found = decode_masks(encode_full_size(logits, *image_hw), *image_hw)
    values = F.interpolate(logits[None], image_hw, mode="bilinear", align_corners=False, antialias=True)[0]
    clear = (values.abs() > 1e-5).numpy()
    assert np.array_equal(found[clear], (values > 0).numpy()[clear])
    assert clear.mean() > 0.999


def test_one_pixel_wide_is_one_pixel_high_transposed():
    # torch's own antialiased interpolation gets this one wrong, so it is no standard here.
    logits = blobs(12, 64, 64)
    upright = decode_masks(encode_full_size(logits, 37, 1), 37, 1)
    lying = decode_masks(encode_full_size(logits.mT.contiguous(), 1, 37), 1, 37)
    assert np.array_equal(upright, lying.transpose(0, 2, 1))
    assert upright.any()


def test_integer_logits_and_the_threshold():
    logits = torch.tensor([[[0, 1], [-1, 0]]], dtype=torch.int8)
    assert decode_masks(encode_full_size(logits, 2, 2), 2, 2).tolist() == [[[False, True], [False, False]]]
    assert encode_full_size(logits, 7, 5) == encode_full_size(logits.float(), 7, 5)


def test_mask_at_the_far_corner():
    logits = torch.full((1, 16, 16), -1.0)
    logits[0, 15, 15] = 9.0
    rles = encode_full_size(logits, 32, 64)
    # Along the last row, from -1 to 9 the zero lies at a tenth: column 58 is at 14.125, column 57 at 13.875.
    rows, columns = np.nonzero(decode_masks(rles, 32, 64)[0])
    assert (columns.min(), rows.min(), columns.max(), rows.max()) == (58, 29, 63, 31)


def test_nothing_and_empty():
    assert encode_full_size(torch.zeros(0, 4, 4), 8, 8) == ()
    empty = encode_full_size(torch.zeros(1, 4, 4), 8, 8)
    assert rle_areas(empty).tolist() == [0]
    assert rle_areas(()).shape == (0,)
    assert decode_masks((), 8, 9).shape == (0, 8, 9)
    assert mask_ious((), empty, 8, 8).shape == (0, 1)


def test_areas_and_round_trip():
    masks = torch.zeros(2, 5, 7, dtype=torch.bool)
    masks[0, 1:3, 2:6] = True
    masks[1, 4, 6] = True
    rles = encode_masks(masks)
    assert all(isinstance(rle, bytes) for rle in rles)
    assert np.array_equal(decode_masks(rles, 5, 7), masks.numpy())
    assert rle_areas(rles).tolist() == [8, 1]
