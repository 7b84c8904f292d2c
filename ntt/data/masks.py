"""Masks of annotated objects: polygons and run-length codes in every form COCO files use, boxes, and outlines.

A run-length code (RLE) lists the lengths of alternating runs of background and foreground pixels, column by column,
starting with background. COCO stores the list as it is ("uncompressed") or packed into text ("compressed").
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from pycocotools import mask as mask_api

from ntt.errors import DataError
from ntt.types import BoolArray, Instance


def instance_mask(instance: Instance, height: int, width: int) -> BoolArray:
    """Draw an annotated object: bool [height, width], all false for a polygon too thin to cover a pixel.

    Without a segmentation, its box serves as its mask. A DataError if it is an RLE of another size.
    """
    counts = instance_rle(instance, height, width)
    return np.asarray(mask_api.decode({"size": [height, width], "counts": counts}), dtype=np.bool_)


def instance_rle(instance: Instance, height: int, width: int) -> bytes:
    """Return the mask that `instance_mask` draws as the counts of a compressed RLE; the errors are the same."""
    if instance.segmentation is None:
        mask = box_mask(instance.bbox_xywh, height, width)
        return bytes(mask_api.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"])
    return segmentation_rle(instance.segmentation, height, width)


def segmentation_rle(segmentation: list[list[float]] | Mapping[str, Any], height: int, width: int) -> bytes:
    """Turn a segmentation into the counts of a compressed RLE.

    It may be polygons [[x0, y0, x1, y1, ...], ...] in pixels, whose union is the mask, or an RLE {"size": [height,
    width], "counts": str, bytes or list of int}. A DataError without any polygon, or if the RLE has another size.
    """
    if not isinstance(segmentation, Mapping):
        if not segmentation:
            raise DataError("A segmentation without polygons has no mask: leave it out to use the box instead.")
        codes = mask_api.frPyObjects([list(map(float, polygon)) for polygon in segmentation], height, width)
        return bytes(mask_api.merge(codes)["counts"])
    size, counts = list(segmentation["size"]), segmentation["counts"]
    if size != [height, width]:
        raise DataError(f"A mask of [height, width] {size} does not fit an image of {[height, width]}.")
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
    """Fill a box: every pixel whose centre is inside, or the pixel under its own centre if there are none.

    Pixel (row i, column j) covers [j, j+1] x [i, i+1]. Returns bool [height, width], never all false.
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
    """Read the run lengths from a compressed RLE's text; a ValueError if it is not such a code.

    Each number is written in groups of five bits, lowest first, with a sixth bit if another group follows; every group
    plus 48 is one character. From the fourth run on, the text has the difference to the run two before. pycocotools
    does not check its input, so text from files is checked here first.
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
    """Check the counts of an RLE from a file, text or a list, and return its run lengths, background first.

    A ValueError says what is wrong, such as a sum other than `height * width`.
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
        raise ValueError(f"its runs cover {min(sum(runs), 10**12)} pixels, the image has {height * width}")
    return runs


# Steps right, down, left, up as (row, column). The walk keeps the object on its right. For each direction: the two
# pixels before the next corner, relative to that corner.
_STEPS = ((0, 1), (1, 0), (0, -1), (-1, 0))
_AHEAD_RIGHT = ((0, 0), (0, -1), (-1, -1), (-1, 0))
_AHEAD_LEFT = ((-1, 0), (0, 0), (0, -1), (-1, -1))


def mask_to_polygons(mask_HW: BoolArray) -> list[list[float]]:
    """Trace the outline of each part of a mask, bool [H, W], along the edges of the pixels.

    COCO polygons [[x0, y0, x1, y1, ...], ...] in pixels, one for each part of side-connected pixels; pixel (row i,
    column j) covers [j, j+1] x [i, i+1]. They cannot have holes, so these are filled; otherwise drawing the polygons
    gives the mask again.
    """
    from scipy import ndimage

    parts_HW, _ = ndimage.label(mask_HW)
    polygons = []
    for label, (rows, columns) in enumerate(ndimage.find_objects(parts_HW), start=1):
        part = np.pad(parts_HW[rows, columns] == label, 1)
        polygons.append(
            [float(value) for x, y in _outline(part) for value in (x + columns.start - 1, y + rows.start - 1)]
        )
    return polygons


def _outline(padded: BoolArray) -> list[tuple[int, int]]:
    """Walk around the outside of one part, clockwise, and return the corners (x, y) where the walk turns."""
    inside = padded.tolist()
    row, column = 1, int(padded[1].argmax())
    start, heading = (row, column, 0), 0
    corners: list[tuple[int, int]] = []
    while True:
        row, column = row + _STEPS[heading][0], column + _STEPS[heading][1]
        right, left = _AHEAD_RIGHT[heading], _AHEAD_LEFT[heading]
        # Turning right first separates parts that touch only at a corner.
        if not inside[row + right[0]][column + right[1]]:
            turn = 1
        else:
            turn = -1 if inside[row + left[0]][column + left[1]] else 0
        heading = (heading + turn) % 4
        if turn:
            corners.append((column, row))
        if (row, column, heading) == start:
            return corners
