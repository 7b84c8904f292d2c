"""Pooling features over masks without upsampling them."""

import pytest
import torch
import torch.nn.functional as F

from ntt.ops.pooling import l2_normalise, mask_weights, pool_masks

CPU = torch.device("cpu")


def dense(feature_map_Dhw: torch.Tensor, foreground_NHW: torch.Tensor) -> torch.Tensor:
    upsampled = F.interpolate(feature_map_Dhw[None], foreground_NHW.shape[1:], mode="bilinear", align_corners=False)
    masks = foreground_NHW.flatten(1).double()
    return (masks @ upsampled[0].flatten(1).double().T / masks.sum(dim=1, keepdim=True)).float()


def random_masks(count: int, height: int, width: int, density: float = 0.3) -> torch.Tensor:
    return torch.rand(count, height, width, generator=torch.Generator().manual_seed(1)) < density


@pytest.mark.parametrize(("height", "width"), [(256, 256), (100, 77), (12, 20)])
def test_equals_upsample_then_average(height: int, width: int):
    feature_map = torch.randn(24, 37, 37, generator=torch.Generator().manual_seed(0))
    masks = random_masks(30, height, width)
    masks[:, : height // 2] = False
    pooled, valid = pool_masks(feature_map, masks)
    assert valid.all()
    torch.testing.assert_close(pooled, dense(feature_map, masks), atol=1e-5, rtol=0)


def test_worked_by_hand():
    # One row of two cells, 0 and 8, upsampled to 0, 2, 6, 8.
    feature_map = torch.tensor([[[0.0, 8.0]]])
    masks = torch.tensor([[[1, 1, 0, 0]], [[0, 1, 1, 1]], [[0, 0, 0, 1]], [[1, 1, 1, 1]]]).bool()
    pooled, _ = pool_masks(feature_map, masks)
    torch.testing.assert_close(pooled[:, 0], torch.tensor([1.0, 16 / 3, 8.0, 4.0]))


def test_weights_sum_to_the_area():
    masks = random_masks(5, 256, 256)
    weights = mask_weights(masks, (37, 37), device=CPU)
    assert torch.equal(weights.sum(dim=1), masks.flatten(1).sum(dim=1).float())


def test_empty_masks_are_marked_not_nan():
    masks = random_masks(3, 16, 16)
    masks[1] = False
    pooled, valid = pool_masks(torch.ones(2, 4, 4), masks)
    assert valid.tolist() == [True, False, True]
    assert torch.equal(pooled[1], torch.zeros(2))
    torch.testing.assert_close(pooled[0], torch.ones(2))


def test_single_pixel_is_valid():
    masks = torch.zeros(1, 256, 256, dtype=torch.bool)
    masks[0, 255, 0] = True
    feature_map = torch.randn(3, 37, 37, generator=torch.Generator().manual_seed(0))
    pooled, valid = pool_masks(feature_map, masks)
    assert valid.tolist() == [True]
    torch.testing.assert_close(pooled[0], feature_map[:, 36, 0])


def test_no_masks():
    pooled, valid = pool_masks(torch.ones(5, 4, 4), torch.zeros(0, 8, 8, dtype=torch.bool))
    assert pooled.shape == (0, 5)
    assert valid.shape == (0,)


@pytest.mark.parametrize("size", [256, 150])
def test_result_does_not_depend_on_the_other_masks(size: int):
    feature_map = torch.randn(96, 37, 37, generator=torch.Generator().manual_seed(0))
    masks = random_masks(140, size, size)
    together, _ = pool_masks(feature_map, masks)
    order = torch.randperm(140, generator=torch.Generator().manual_seed(2))
    shuffled, _ = pool_masks(feature_map, masks[order])
    assert torch.equal(shuffled, together[order])
    for index in (0, 129, 139):
        alone, _ = pool_masks(feature_map, masks[index : index + 1])
        assert torch.equal(alone[0], together[index])


def test_non_contiguous_masks():
    feature_map = torch.randn(4, 5, 5, generator=torch.Generator().manual_seed(0))
    masks = random_masks(6, 20, 24)
    pooled, _ = pool_masks(feature_map, masks.mT.contiguous().mT)
    assert torch.equal(pooled, pool_masks(feature_map, masks)[0])


def test_masks_must_be_bool():
    with pytest.raises(TypeError, match=r"masks must be bool, found torch\.uint8: threshold them first"):
        pool_masks(torch.ones(1, 2, 2), torch.ones(1, 4, 4, dtype=torch.uint8))


def test_normalise():
    vectors = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    torch.testing.assert_close(l2_normalise(vectors), torch.tensor([[0.6, 0.8], [0.0, 0.0]]))
