"""Outlines of masks as COCO polygons, along the edges of the pixels, so that drawing them gives the mask again."""

import numpy as np
import numpy.typing as npt

# Steps right, down, left, up as (row, column). For a walk that keeps the object on its right: where the two pixels
# before the next corner lie, seen from that corner, for each direction.
_STEPS = ((0, 1), (1, 0), (0, -1), (-1, 0))
_AHEAD_RIGHT = ((0, 0), (0, -1), (-1, -1), (-1, 0))
_AHEAD_LEFT = ((-1, 0), (0, 0), (0, -1), (-1, -1))


def mask_to_polygons(mask_HW: npt.NDArray[np.bool_]) -> list[list[float]]:
    """Trace the outline of each part of a mask.

    COCO polygons cannot leave out a hole, so holes are filled; everything else is exact.

    Args:
        mask_HW: bool [H, W].

    Returns:
        [[x0, y0, x1, y1, ...], ...] in pixels, pixel (row i, column j) covering [j, j+1] x [i, i+1]: one polygon for
        each part whose pixels hang together by their sides. Empty for an empty mask.
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


def _outline(padded: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Walk around the outside of one part, clockwise, and return the corners (x, y) where the walk turns."""
    inside = padded.tolist()
    row, column = 1, int(padded[1].argmax())
    start, heading = (row, column, 0), 0
    corners: list[tuple[int, int]] = []
    while True:
        row, column = row + _STEPS[heading][0], column + _STEPS[heading][1]
        right, left = _AHEAD_RIGHT[heading], _AHEAD_LEFT[heading]
        # Turning right first keeps parts apart that touch at a corner only.
        if not inside[row + right[0]][column + right[1]]:
            turn = 1
        else:
            turn = -1 if inside[row + left[0]][column + left[1]] else 0
        heading = (heading + turn) % 4
        if turn:
            corners.append((column, row))
        if (row, column, heading) == start:
            return corners
