"""Reference crops, features pooled over masks, resizing, candidates of proposals; loops compiled on a first call."""

import json
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import cases
from PIL import Image
from pycocotools import mask as coco_mask

from ntt.ops.candidates import FeatureDtype, measure
from ntt.ops.compiled import compiled
from ntt.ops.crops import background_feature, crop_corners, crop_reference, instance_feature
from ntt.ops.masks import decode_masks
from ntt.ops.pooling import l2_normalise, mask_weights, pool_masks
from ntt.ops.resize import resize_bands, resize_bicubic, resize_matrix
from ntt.ops.run_lengths import to_text
from ntt.types import Candidates, Proposals


@cases("bbox", "expected")(
    ((40.9, 50.2, 20.0, 10.0), (38, 43, 62, 67)),  # corners 40, 50, 60, 60; side 24 around (50, 55)
    ((0.0, 0.0, 10.0, 10.0), (0, 0, 11, 11)),
    ((90.0, 90.0, 10.0, 10.0), (89, 89, 100, 100)),
    ((5.2, 7.3, 0.5, 0.5), (5, 7, 6, 8)),
    ((100.0, 100.0, 0.0, 0.0), (99, 99, 100, 100)),
)
def test_corners_worked_by_hand(bbox, expected):
    assert crop_corners(bbox, height=100, width=100, context_ratio=0.2) == expected


def test_crop_and_weights_also_of_an_empty_mask():
    assert crop_corners((10, 20, 30, 30), height=100, width=100, context_ratio=0.0) == (10, 20, 40, 50)
    image = np.zeros((40, 40, 3), dtype=np.uint8)
    image[..., 1] = 255
    mask = np.zeros((40, 40), dtype=np.bool_)
    mask[10:30, 10:20] = True
    crop, weights = crop_reference(image, mask, (10, 10, 20, 20), output_size=40, grid_size=4, context_ratio=0.0)
    assert crop.shape == (3, 40, 40)
    torch.testing.assert_close(crop.mean(dim=(1, 2)), torch.tensor([0.0, 1.0, 0.0]))
    # Enlarged twice, the mask's edge reaches pixel 20, which the third patch samples, with weight a quarter.
    assert torch.equal(weights, torch.tensor([[1.0, 1.0, 0.25, 0.0]] * 4))
    image, mask = np.zeros((40, 40, 3), dtype=np.uint8), np.zeros((40, 40), dtype=np.bool_)
    _, weights = crop_reference(image, mask, (0, 0, 40, 40), output_size=8, grid_size=5)
    assert weights.sum() == 1.0
    assert weights[2, 2] == 1.0


@cases("pixel", "patch")(((0, 0), (0, 0)), ((39, 39), (3, 3)), ((12, 29), (1, 2)))
def test_mask_that_vanishes_gives_the_patch_under_it(pixel, patch):
    mask = np.zeros((40, 40), dtype=np.bool_)
    mask[pixel] = True
    image = np.zeros((40, 40, 3), dtype=np.uint8)
    _, weights = crop_reference(image, mask, (0, 0, 40, 40), output_size=8, grid_size=4, context_ratio=0.0)
    expected = torch.zeros(4, 4)
    expected[patch] = 1.0
    assert torch.equal(weights, expected)


def test_features_of_instances_and_backgrounds_by_hand():
    feature_map = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[0.0, 0.0], [0.0, 8.0]]])
    weights = torch.tensor([[0.5, 0.0], [0.0, 1.5]])
    torch.testing.assert_close(instance_feature(feature_map, weights), torch.tensor([3.25, 6.0]))
    weights = torch.tensor([[0.5, 1.0], [0.0, 1.0]])
    background = background_feature(feature_map, weights)
    assert background is not None
    torch.testing.assert_close(background, torch.tensor([3.5 / 1.5, 0.0]))


@cases("left_over", "has_background")((0.0, False), (0.96875, False), (1.0, True))
def test_background_needs_one_cell(left_over, has_background):
    weights = torch.ones(2, 2)
    weights[0, 1] -= left_over
    assert (background_feature(torch.ones(3, 2, 2), weights) is not None) == has_background


def read_crop(data_dir: Path, annotation: dict, file_name: str) -> tuple[torch.Tensor, torch.Tensor]:
    image = np.array(Image.open(data_dir / "images" / file_name).convert("RGB"))
    polygons = coco_mask.frPyObjects(annotation["segmentation"], *image.shape[:2])
    mask = coco_mask.decode(coco_mask.merge(polygons)).astype(np.bool_)
    return crop_reference(image, mask, tuple(annotation["bbox"]), output_size=518, grid_size=37)


@pytest.mark.parity
def test_weights_and_pixels_equal_the_reference(shared_dir, golden_dir):
    recorded = np.load(golden_dir / "memory.npz")
    references = json.loads((golden_dir / "references.json").read_text())
    data_dir = shared_dir / "data" / "coco_dev"
    file = json.loads((data_dir / "annotations" / "references.json").read_text())
    annotations = {entry["id"]: entry for entry in file["annotations"]}
    names = {entry["id"]: entry["file_name"] for entry in file["images"]}
    means = []
    for row, category_id in enumerate(recorded["category_ids"].tolist()):
        for column, reference in enumerate(references[str(category_id)]):
            crop, weights = read_crop(data_dir, annotations[reference["ann_ids"][0]], names[reference["img_id"]])
            # Recorded as float16, whose steps below 1 are 0.0005 or less.
            expected = recorded["mem_masks"][row, column].astype(np.float32)
            np.testing.assert_allclose(weights.flatten().numpy(), expected, atol=2.6e-4)
            means.append(crop.double().mean().item())
    # The recorded means are those of the first class's three crops.
    np.testing.assert_allclose(means[:3], recorded["encoder_crop_pixel_mean"], atol=1e-6)


CPU = torch.device("cpu")


def dense(feature_map_Dhw: torch.Tensor, foreground_NHW: torch.Tensor) -> torch.Tensor:
    upsampled = F.interpolate(feature_map_Dhw[None], foreground_NHW.shape[1:], mode="bilinear", align_corners=False)
    masks = foreground_NHW.flatten(1).double()
    return (masks @ upsampled[0].flatten(1).double().T / masks.sum(dim=1, keepdim=True)).float()


def random_masks(count: int, height: int, width: int, density: float = 0.3) -> torch.Tensor:
    return torch.rand(count, height, width, generator=torch.Generator().manual_seed(1)) < density


@cases("height", "width")((256, 256), (100, 77), (12, 20))
def test_equals_upsample_then_average(height, width):
    feature_map = torch.randn(24, 37, 37, generator=torch.Generator().manual_seed(0))
    masks = random_masks(30, height, width)
    masks[:, : height // 2] = False
    pooled, valid = pool_masks(feature_map, masks)
    assert valid.all()
    torch.testing.assert_close(pooled, dense(feature_map, masks), atol=1e-5, rtol=0)


def test_worked_by_hand_also_with_empty_masks_and_single_pixels():
    # One row of two cells, 0 and 8, upsampled to 0, 2, 6, 8.
    feature_map = torch.tensor([[[0.0, 8.0]]])
    masks = torch.tensor([[[1, 1, 0, 0]], [[0, 1, 1, 1]], [[0, 0, 0, 1]], [[1, 1, 1, 1]]]).bool()
    pooled, _ = pool_masks(feature_map, masks)
    torch.testing.assert_close(pooled[:, 0], torch.tensor([1.0, 16 / 3, 8.0, 4.0]))
    masks = random_masks(5, 256, 256)
    weights = mask_weights(masks, (37, 37), device=CPU)
    assert torch.equal(weights.sum(dim=1), masks.flatten(1).sum(dim=1).float())
    masks = random_masks(3, 16, 16)
    masks[1] = False
    pooled, valid = pool_masks(torch.ones(2, 4, 4), masks)
    assert valid.tolist() == [True, False, True]
    assert torch.equal(pooled[1], torch.zeros(2))
    torch.testing.assert_close(pooled[0], torch.ones(2))
    masks = torch.zeros(1, 256, 256, dtype=torch.bool)
    masks[0, 255, 0] = True
    feature_map = torch.randn(3, 37, 37, generator=torch.Generator().manual_seed(0))
    pooled, valid = pool_masks(feature_map, masks)
    assert valid.tolist() == [True]
    torch.testing.assert_close(pooled[0], feature_map[:, 36, 0])


def test_masks_of_every_layout_and_normalised_features():
    pooled, valid = pool_masks(torch.ones(5, 4, 4), torch.zeros(0, 8, 8, dtype=torch.bool))
    assert pooled.shape == (0, 5)
    assert valid.shape == (0,)
    feature_map = torch.randn(4, 5, 5, generator=torch.Generator().manual_seed(0))
    masks = random_masks(6, 20, 24)
    pooled, _ = pool_masks(feature_map, masks.mT.contiguous().mT)
    assert torch.equal(pooled, pool_masks(feature_map, masks)[0])
    vectors = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    torch.testing.assert_close(l2_normalise(vectors), torch.tensor([[0.6, 0.8], [0.0, 0.0]]))


@cases("size")(256, 150)
def test_result_does_not_depend_on_the_other_masks(size):
    feature_map = torch.randn(96, 37, 37, generator=torch.Generator().manual_seed(0))
    masks = random_masks(140, size, size)
    together, _ = pool_masks(feature_map, masks)
    order = torch.randperm(140, generator=torch.Generator().manual_seed(2))
    shuffled, _ = pool_masks(feature_map, masks[order])
    assert torch.equal(shuffled, together[order])
    for index in (0, 129, 139):
        alone, _ = pool_masks(feature_map, masks[index : index + 1])
        assert torch.equal(alone[0], together[index])


def test_worked_by_hand():
    expected = torch.tensor([[1.0, 0.0], [0.75, 0.25], [0.25, 0.75], [0.0, 1.0]])
    assert torch.equal(resize_matrix(2, 4, antialias=False), expected)
    # Halving widens the triangle to four inputs, cut and renormalised at the borders: 0.75, 0.75, 0.25 of 1.75.
    expected = torch.tensor([[3, 3, 1, 0], [0, 1, 3, 3]]) / 7
    torch.testing.assert_close(resize_matrix(4, 2, antialias=True), expected)
    plain = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5]])
    torch.testing.assert_close(resize_matrix(4, 2, antialias=False), plain)
    assert len(resize_bands(2, 3, antialias=False, adjoint=False, count=8)) == 3
    step = torch.zeros(3, 8, 8)
    step[:, :, 4:] = 1.0
    resized = resize_bicubic(step, (20, 30))
    assert resized.shape == (3, 20, 30)
    assert resized.max() > 1.0
    assert torch.equal(resized, F.interpolate(step[None], (20, 30), mode="bicubic", align_corners=False)[0])


@cases("antialias")(False, True)
@cases("inputs", "outputs")((37, 256), (37, 100), (16, 16), (1, 5), (64, 48), (64, 20))
def test_matrix_equals_interpolate(inputs, outputs, antialias):
    map_hw = torch.randn(inputs, inputs, generator=torch.Generator().manual_seed(0))
    matrix = resize_matrix(inputs, outputs, antialias=antialias)
    options = {"mode": "bilinear", "align_corners": False, "antialias": antialias}
    expected = F.interpolate(map_hw[None, None], (outputs, outputs), **options)[0, 0]
    torch.testing.assert_close(matrix @ map_hw @ matrix.T, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(matrix.sum(dim=1), torch.ones(outputs))


@cases("adjoint")(False, True)
@cases("inputs", "outputs", "antialias")((37, 256, False), (256, 100, True), (9, 3, False))
def test_bands_hold_the_whole_matrix(inputs, outputs, antialias, adjoint):
    matrix = resize_matrix(inputs, outputs, antialias=antialias)
    expected = matrix.T if adjoint else matrix
    rebuilt = torch.zeros_like(expected)
    for band in resize_bands(inputs, outputs, antialias=antialias, adjoint=adjoint, count=5):
        rebuilt[band.outputs, band.inputs] = band.weights_oi
    assert torch.equal(rebuilt, expected)


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
    return measure(proposals(), FEATURE_MAP, height=height, width=width)(dtype)


def test_order_boxes_and_features_without_masks_that_vanish():
    candidates = described(16, 16)
    assert candidates.predicted_iou.tolist() == pytest.approx([0.5, 0.7, 0.8])
    assert candidates.grid_boxes_xyxy.tolist() == [[0, 0, 0, 7], [7, 2, 7, 3], [0, 0, 0, 0]]
    np.testing.assert_allclose(candidates.features, [[0.6, 0.8], [0.0, 1.0], [0.6, 0.8]], atol=1e-6)
    # Between column 0 (5) and column 1 (-1), pixel 2 of the enlarged mask is at 0.75: 0.5, still foreground.
    assert decode_masks(to_text(candidates.masks), 16, 16)[0].sum() == 3 * 16
    assert (candidates.height, candidates.width) == (16, 16)
    candidates = described(4, 4)
    assert candidates.predicted_iou.tolist() == pytest.approx([0.5])
    assert len(candidates) == len(candidates.masks) == len(candidates.features) == len(candidates.grid_boxes_xyxy) == 1
    rounded, full = described(16, 16, "float16").features, described(16, 16).features
    assert rounded.dtype == np.float32
    assert np.array_equal(rounded, full.astype(np.float16).astype(np.float32))
    assert not np.array_equal(rounded, full)


@cases("count")(0, 2)
def test_nothing_left(count):
    nothing = Proposals(torch.full((count, 8, 8), -1.0), torch.full((count,), 0.9))
    candidates = measure(nothing, FEATURE_MAP, height=5, width=6)("float16")
    assert len(candidates) == len(candidates.masks) == 0
    assert candidates.features.shape == (0, 2)
    assert candidates.grid_boxes_xyxy.shape == (0, 4)
    assert candidates.predicted_iou.shape == (0,)


def sum_of_squares(values: np.ndarray) -> float:
    total = 0.0
    for value in values:
        total += value * value
    return total


@pytest.mark.parametrize("fails_at", ["njit", "call"])
def test_where_nothing_can_be_kept_each_process_compiles(monkeypatch, fails_at):
    calls: list[bool] = []
    njit = numba.njit

    def fail(*_):
        raise OSError("no space left, or a damaged file")

    def without_cache(function: Any = None, **options: Any) -> Any:
        if function is not sum_of_squares:  # Numba calls itself, too
            return njit(function, **options)
        calls.append(options["cache"])
        if not options["cache"]:
            return njit(function, **options)
        return fail if fails_at == "call" else fail()

    monkeypatch.setattr(numba, "njit", without_cache)
    square = compiled(sum_of_squares)
    assert not calls, "nothing is compiled before the first call"
    assert [square(np.arange(4.0)), square(np.arange(3.0))] == [14.0, 5.0]
    assert calls == [True, False]
