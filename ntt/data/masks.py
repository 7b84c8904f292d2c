"""Masks of annotated objects: polygons and run-length codes in every form COCO files use, and boxes.

A run-length code (RLE) lists the lengths of alternating runs of background and foreground pixels, column by column,
starting with background. COCO writes the list as it is ("uncompressed") or packed into text ("compressed").
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as mask_api

from ntt.errors import DataError
from ntt.types import Instance

BoolArray = npt.NDArray[np.bool_]


def instance_mask(instance: Instance, height: int, width: int) -> BoolArray:
    """Draw an annotated object.

    Args:
        instance: the object; its box serves as its mask where the file gives no segmentation.
        height: rows of the image.
        width: columns of the image.

    Returns:
        bool [height, width], true inside the object. All false for a polygon too thin to cover a pixel.

    Raises:
        DataError: if the segmentation is an RLE of another size.
    """
    if instance.segmentation is None:
        return box_mask(instance.bbox_xywh, height, width)
    counts = segmentation_rle(instance.segmentation, height, width)
    return np.asarray(mask_api.decode({"size": [height, width], "counts": counts}), dtype=np.bool_)


def instance_rle(instance: Instance, height: int, width: int) -> bytes:
    """Return an object's mask, as `instance_mask` draws it, as the counts of a compressed RLE.

    Raises:
        DataError: if the segmentation is an RLE of another size.
    """
    if instance.segmentation is None:
        return _encode(box_mask(instance.bbox_xywh, height, width))
    return segmentation_rle(instance.segmentation, height, width)


def segmentation_rle(segmentation: list[list[float]] | Mapping[str, Any], height: int, width: int) -> bytes:
    """Turn polygons or any RLE into the counts of a compressed RLE.

    Args:
        segmentation: polygons [[x0, y0, x1, y1, ...], ...] in pixels, whose union is the mask, or {"size": [height,
            width], "counts": str, bytes or list of int}.
        height: rows of the image.
        width: columns of the image.

    Raises:
        DataError: if there is no polygon, or the RLE's size is not the image's.
    """
    if not isinstance(segmentation, Mapping):
        if not segmentation:
            raise DataError("A segmentation without polygons has no mask: leave it out to use the box instead.")
        codes = mask_api.frPyObjects([list(map(float, polygon)) for polygon in segmentation], height, width)
        return bytes(mask_api.merge(codes)["counts"])
    size, counts = list(segmentation["size"]), segmentation["counts"]
    if size != [height, width]:
        raise DataError(
            f"A mask of {size[0]} rows and {size[1]} columns does not fit an image of {height} rows and {width} "
            "columns. Correct `size` in the annotation file, or the image's height and width."
        )
    if isinstance(counts, str | bytes):
        return counts if isinstance(counts, bytes) else counts.encode("ascii")
    return bytes(mask_api.frPyObjects({"size": size, "counts": list(counts)}, height, width)["counts"])


def rle_area(counts: bytes, height: int, width: int) -> int:
    """Count the foreground pixels of a compressed RLE."""
    return int(mask_api.area({"size": [height, width], "counts": counts}))


def rle_box(counts: bytes, height: int, width: int) -> tuple[float, float, float, float]:
    """Return the tight COCO box (left, top, width, height) of a compressed RLE; all zero for an empty mask."""
    left, top, box_width, box_height = mask_api.toBbox({"size": [height, width], "counts": counts}).tolist()
    return (left, top, box_width, box_height)


def box_mask(bbox_xywh: tuple[float, float, float, float], height: int, width: int) -> BoolArray:
    """Fill a box: every pixel whose centre lies in it, or the pixel under its own centre where there is none.

    Args:
        bbox_xywh: left, top, width, height in pixels; pixel (row i, column j) covers [j, j+1] x [i, i+1].
        height: rows of the image.
        width: columns of the image.

    Returns:
        bool [height, width], never all false.
    """
    left, top, box_width, box_height = bbox_xywh
    mask = np.zeros((height, width), dtype=np.bool_)
    mask[_covered(top, box_height, height), _covered(left, box_width, width)] = True
    return mask


def _covered(start: float, length: float, limit: int) -> slice:
    """Return the pixels of an axis of `limit` pixels whose centres lie in [start, start + length)."""
    first = max(math.ceil(start - 0.5), 0)
    last = min(math.ceil(start + length - 0.5), limit)
    if first < last:
        return slice(first, last)
    centre = min(max(math.floor(start + length / 2), 0), limit - 1)
    return slice(centre, centre + 1)


def unpack_runs(counts: str) -> list[int]:
    """Read the run lengths out of a compressed RLE's text.

    Each number is written in groups of five bits, lowest first, a sixth bit saying that another group follows; every
    group is one character, 48 added. From the fourth run on the text holds the difference to the run two before.
    pycocotools does not check its input, so text from a file passes through here before it is handed over.

    Raises:
        ValueError: if the text is not such a code.
    """
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        group = ord(character) - 48
        if not 0 <= group < 64:
            raise ValueError(f"the character {character!r} does not occur in run-length codes")
        value |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    if shift:
        raise ValueError("it ends in the middle of a number")
    return runs


def checked_runs(counts: Any, height: int, width: int) -> list[int]:
    """Check the counts of an RLE from a file and return its run lengths.

    Args:
        counts: text of a compressed RLE or list of run lengths.
        height: rows of the image.
        width: columns of the image.

    Returns:
        Run lengths that start with background and sum up to `height * width`.

    Raises:
        ValueError: saying what is wrong with them.
    """
    if isinstance(counts, str):
        runs = unpack_runs(counts)
    elif isinstance(counts, list) and all(type(run) is int for run in counts):
        runs = counts
    else:
        raise ValueError("counts must be text or a list of whole numbers")
    if any(run < 0 for run in runs):
        raise ValueError("a run has a negative length")
    if sum(runs) != height * width:
        raise ValueError(f"its runs cover {sum(runs)} pixels, the image has {height * width}")
    return runs


def _encode(mask: BoolArray) -> bytes:
    return bytes(mask_api.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"])
