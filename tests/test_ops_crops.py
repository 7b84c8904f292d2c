"""Reference crops and instance features."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from ntt.ops.crops import background_feature, crop_corners, crop_reference, instance_feature


@pytest.mark.parametrize(
    ("bbox", "expected"),
    [
        ((40.9, 50.2, 20.0, 10.0), (38, 43, 62, 67)),  # corners 40, 50, 60, 60; side 24 around (50, 55)
        ((0.0, 0.0, 10.0, 10.0), (0, 0, 11, 11)),
        ((90.0, 90.0, 10.0, 10.0), (89, 89, 100, 100)),
        ((5.2, 7.3, 0.5, 0.5), (5, 7, 6, 8)),
        ((100.0, 100.0, 0.0, 0.0), (99, 99, 100, 100)),
    ],
)
def test_corners_worked_by_hand(bbox: tuple[float, float, float, float], expected: tuple[int, int, int, int]):
    assert crop_corners(bbox, height=100, width=100, context_ratio=0.2) == expected


def test_corners_without_context():
    assert crop_corners((10, 20, 30, 30), height=100, width=100, context_ratio=0.0) == (10, 20, 40, 50)


def test_crop_and_weights():
    image = np.zeros((40, 40, 3), dtype=np.uint8)
    image[..., 1] = 255
    mask = np.zeros((40, 40), dtype=np.bool_)
    mask[10:30, 10:20] = True
    crop, weights = crop_reference(image, mask, (10, 10, 20, 20), output_size=40, grid_size=4, context_ratio=0.0)
    assert crop.shape == (3, 40, 40)
    torch.testing.assert_close(crop.mean(dim=(1, 2)), torch.tensor([0.0, 1.0, 0.0]))
    # Enlarged twice, the mask's edge reaches pixel 20, which the third patch samples, with weight a quarter.
    assert torch.equal(weights, torch.tensor([[1.0, 1.0, 0.25, 0.0]] * 4))


@pytest.mark.parametrize(("pixel", "patch"), [((0, 0), (0, 0)), ((39, 39), (3, 3)), ((12, 29), (1, 2))])
def test_mask_that_vanishes_gives_the_patch_under_it(pixel: tuple[int, int], patch: tuple[int, int]):
    mask = np.zeros((40, 40), dtype=np.bool_)
    mask[pixel] = True
    image = np.zeros((40, 40, 3), dtype=np.uint8)
    _, weights = crop_reference(image, mask, (0, 0, 40, 40), output_size=8, grid_size=4, context_ratio=0.0)
    expected = torch.zeros(4, 4)
    expected[patch] = 1.0
    assert torch.equal(weights, expected)


def test_empty_mask_gives_the_middle():
    image, mask = np.zeros((40, 40, 3), dtype=np.uint8), np.zeros((40, 40), dtype=np.bool_)
    _, weights = crop_reference(image, mask, (0, 0, 40, 40), output_size=8, grid_size=5)
    assert weights.sum() == 1.0
    assert weights[2, 2] == 1.0


def test_instance_feature_is_the_weighted_mean():
    feature_map = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[0.0, 0.0], [0.0, 8.0]]])
    weights = torch.tensor([[0.5, 0.0], [0.0, 1.5]])
    torch.testing.assert_close(instance_feature(feature_map, weights), torch.tensor([3.25, 6.0]))


def test_instance_feature_refuses_zero_weights():
    with pytest.raises(ValueError, match="weights of an instance are all zero: take them from crop_reference"):
        instance_feature(torch.ones(2, 2, 2), torch.zeros(2, 2))


def test_background_is_the_mean_of_what_the_weights_leave():
    feature_map = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[0.0, 0.0], [0.0, 8.0]]])
    weights = torch.tensor([[0.5, 1.0], [0.0, 1.0]])
    found = background_feature(feature_map, weights)
    assert found is not None
    torch.testing.assert_close(found, torch.tensor([3.5 / 1.5, 0.0]))


@pytest.mark.parametrize(("left_over", "known"), [(0.0, False), (0.96875, False), (1.0, True)])
def test_background_needs_one_cell(left_over: float, known: bool):
    weights = torch.ones(2, 2)
    weights[0, 1] -= left_over
    assert (background_feature(torch.ones(3, 2, 2), weights) is not None) == known


def read_crop(data_dir: Path, annotation: dict, file_name: str) -> tuple[torch.Tensor, torch.Tensor]:
    image = np.array(Image.open(data_dir / "images" / file_name).convert("RGB"))
    polygons = coco_mask.frPyObjects(annotation["segmentation"], *image.shape[:2])
    mask = coco_mask.decode(coco_mask.merge(polygons)).astype(np.bool_)
    return crop_reference(image, mask, tuple(annotation["bbox"]), output_size=518, grid_size=37)


@pytest.mark.parity
def test_weights_and_pixels_equal_the_reference(shared_dir: Path, golden_dir: Path):
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
