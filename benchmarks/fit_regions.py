"""Fit the objectness model of `segmenter=regions` on reference images with masks.

    python -m benchmarks.fit_regions FOLDER --sets coco_dev balloon_dev fruits_nuts_dev neu_seg_dev --mosaics coco_dev

For every region of every hierarchy of the references' images, the best IoU with an annotated object is predicted from
the region's measurements by a logistic model with plain and squared terms. Reference objects are larger than most
objects of target images, so the sets named under --mosaics are used a second time as mosaics of 2 x 2 and of 3 x 3
of their images. Target images are never looked at. The table is printed as it stands in
`ntt/models/segmenters/regions/objectness.py`.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from ntt.data.coco import read_coco
from ntt.data.images import read_image
from ntt.data.masks import instance_mask
from ntt.models.backbones.efficientnet_lite0 import EfficientNetLite0, EfficientNetLite0Config
from ntt.models.segmenters.regions.objectness import CLIP, DESCRIPTORS
from ntt.models.segmenters.regions.segmenter import Regions, RegionsConfig, all_nodes
from ntt.ops.resize import encoder_input, resize_to_canvas
from ntt.types import Placement

MOSAIC_HW = (384, 512)
# Log of the share of the image: single pixels, and the image itself, tell nothing about objects.
LOG_AREA_RANGE = (-9.2, -0.05)


@dataclass(frozen=True)
class Picture:
    """One image, RGB uint8, with the masks of its objects, uint8 of the same size."""

    image_HW3: npt.NDArray[np.uint8]
    masks_NHW: list[npt.NDArray[np.uint8]]


def pictures(root: Path) -> list[Picture]:
    """Read the annotated reference images of a data set."""
    dataset = read_coco(root / "annotations" / "references.json", root / "images")
    annotated = []
    for record in dataset.images.values():
        objects = [each for each in dataset.instances_of_image(record.id) if not each.iscrowd and each.segmentation]
        masks = [np.asarray(instance_mask(each, record.height, record.width), np.uint8) for each in objects]
        if masks:
            annotated.append(Picture(read_image(record), masks))
    return annotated


def mosaics(tiles: list[Picture], side: int) -> Iterator[Picture]:
    """Put side x side images into one, each shrunk to its place; the order is a fixed shuffle."""
    height, width = MOSAIC_HW[0] // side, MOSAIC_HW[1] // side
    order = np.random.default_rng(0).permutation(len(tiles))
    for start in range(0, len(tiles) - side * side + 1, side * side):
        image = np.zeros((height * side, width * side, 3), np.uint8)
        masks = []
        for cell, index in enumerate(order[start : start + side * side]):
            top, left = cell // side * height, cell % side * width
            window = np.s_[top : top + height, left : left + width]
            small = Image.fromarray(tiles[index].image_HW3).resize((width, height), Image.Resampling.BICUBIC)
            image[window] = np.asarray(small)
            for mask in tiles[index].masks_NHW:
                shrunk = Image.fromarray(mask * 255).resize((width, height), Image.Resampling.BOX)
                whole = np.zeros(image.shape[:2], np.uint8)
                whole[window] = np.asarray(shrunk) > 127
                masks.append(whole)
        yield Picture(image, [mask for mask in masks if mask.any()])


def measure(
    picture: Picture, regions: Regions, backbone: EfficientNetLite0
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return descriptors [N, F] and best IoU [N] of all regions of one image."""
    height, width = picture.image_HW3.shape[:2]
    canvas = resize_to_canvas(picture.image_HW3, regions.canvas_hw(height, width))
    leaves = regions.leaves(canvas, backbone.encode(encoder_input(canvas, backbone.input_size))[0])
    nodes = all_nodes(leaves)
    rows, columns = leaves.labels_hw.shape
    best = np.zeros(len(nodes.area_N))
    for full in picture.masks_NHW:
        mask = np.asarray(Image.fromarray(full * 255).resize((columns, rows), Image.Resampling.BOX)) > 127
        inside = np.bincount(leaves.labels_hw.ravel(), mask.ravel(), minlength=len(leaves.area_L))
        shared = nodes.members_NL @ inside
        best = np.maximum(best, shared / (nodes.area_N + inside.sum() - shared))
    log_area = nodes.descriptors_NF[:, DESCRIPTORS.index("log_area")]
    used = (log_area > LOG_AREA_RANGE[0]) & (log_area < LOG_AREA_RANGE[1])
    return nodes.descriptors_NF[used], best[used]


def fit(values: torch.Tensor, iou: torch.Tensor, penalty: float) -> torch.Tensor:
    """Minimise the cross-entropy between the guess and the IoU; returns the weights, the intercept last."""
    weights = torch.zeros(values.shape[1] + 1, requires_grad=True)
    optimiser = torch.optim.LBFGS([weights], max_iter=80, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        logit = values @ weights[:-1] + weights[-1]
        value = torch.nn.functional.binary_cross_entropy_with_logits(logit, iou)
        value = value + penalty * weights[:-1].square().sum()
        value.backward()
        return value

    optimiser.step(loss)
    return weights.detach()


def main() -> None:
    """Measure, fit, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sets", nargs="+", required=True)
    parser.add_argument("--mosaics", nargs="*", default=[])
    parser.add_argument("--penalty", type=float, default=1e-4)
    args = parser.parse_args()
    torch.set_num_threads(1)
    used = [picture for name in args.sets for picture in pictures(args.folder / name)]
    for name in args.mosaics:
        tiles = pictures(args.folder / name)
        used += [mosaic for side in (2, 3) for mosaic in mosaics(tiles, side)]
    regions, backbone = RegionsConfig().build(Placement()), EfficientNetLite0Config().build(Placement())
    measured = [measure(picture, regions, backbone) for picture in used]
    values, iou = (np.concatenate(parts) for parts in zip(*measured, strict=True))
    mean, deviation = values.mean(axis=0), values.std(axis=0)
    standard = torch.from_numpy(np.clip((values - mean) / deviation, -CLIP, CLIP)).float()
    weights = fit(torch.cat([standard, standard.square()], dim=1), torch.from_numpy(iou).float(), args.penalty).numpy()
    count = len(DESCRIPTORS)
    for row in zip(DESCRIPTORS, mean, deviation, weights[:count], weights[count:-1], strict=True):
        print(f'    "{row[0]}": (' + ", ".join(f"{number:.4f}" for number in row[1:]) + "),")
    print(f"INTERCEPT = {weights[-1]:.4f}  # {len(used)} images, {len(iou)} regions")


if __name__ == "__main__":
    main()
