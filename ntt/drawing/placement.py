"""Where labels go: inside the picture, near their object, and off one another where there is room.

Boxes and labels are float [M, 4] as (left, top, right, bottom) in pixels of the drawn picture.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

_COVERS_LABEL = 4.0
_COVERS_SMALL_OBJECT = 0.8
_LATER_CHOICE = 0.06
_MOST_OVERLAP = 0.4
"""A label that hides more than this share of another, or is hidden so far, is left out."""


def positions_around(
    box_xyxy: npt.ArrayLike, label_size: tuple[int, int], *, mask_points: tuple[Array, Array] | None = None
) -> Array:
    """Places for one label, best first.

    Args:
        box_xyxy: the object's box.
        label_size: width and height of the label.
        mask_points: (x, y) of the middle of the mask's upper rim, and of a point deep inside the mask. The label of a
            mask goes there first, because a box that is not drawn has corners nobody sees.

    Returns:
        float [M, 2], left-top corners, not yet clamped to the picture.
    """
    left, top, right, bottom = np.asarray(box_xyxy, dtype=np.float64).tolist()
    width, height = label_size
    middle = (top + bottom - height) / 2
    around = [
        (left, top - height),
        (left, top),
        (right - width, top - height),
        (left, bottom),
        (right - width, bottom),
        (right, middle),
        (left - width, middle),
        (right - width, top),
        (left, bottom - height),
        ((left + right - width) / 2, middle),
    ]
    if mask_points is None:
        return np.array(around)
    (rim_x, rim_y), (deep_x, deep_y) = mask_points[0].tolist(), mask_points[1].tolist()
    on_mask = [
        (rim_x - width / 2, rim_y - height),
        (rim_x - width / 2, rim_y),
        (deep_x - width / 2, deep_y - height / 2),
        (deep_x - width / 2, deep_y + height),
        (deep_x - width / 2, deep_y - 2 * height),
    ]
    return np.array(on_mask + around)


def place_labels(
    positions: Sequence[Array],
    label_sizes: Sequence[tuple[int, int]],
    *,
    picture_size: tuple[int, int],
    object_boxes: Array,
) -> list[tuple[int, int] | None]:
    """Choose a place for each label, in the order given; earlier labels never give way.

    Args:
        positions: for each label its possible left-top corners, best first.
        label_sizes: width and height of each label.
        picture_size: width and height of the picture.
        object_boxes: float [N, 4]; a label avoids covering the small ones among them, its own included.

    Returns:
        The left-top corner of each label, wholly inside the picture, or None for a label that is larger than the
        picture or finds no place that is mostly free.
    """
    placed = np.zeros((0, 4))
    chosen: list[tuple[int, int] | None] = []
    for corners, (width, height) in zip(positions, label_sizes, strict=True):
        room_x, room_y = picture_size[0] - width, picture_size[1] - height
        if room_x < 0 or room_y < 0:
            chosen.append(None)
            continue
        left_top = np.rint(np.clip(corners, 0, (room_x, room_y)))
        areas = np.concatenate([left_top, left_top + np.array([width, height])], axis=1)
        hidden = _worst_overlap(areas, placed)
        cost = (
            _COVERS_LABEL * hidden
            + _COVERS_SMALL_OBJECT * _small_objects_covered(areas, object_boxes)
            + _LATER_CHOICE * np.arange(len(areas))
        )
        cost[hidden > _MOST_OVERLAP] = np.inf
        best = int(np.argmin(cost))
        if not np.isfinite(cost[best]):
            chosen.append(None)
            continue
        placed = np.concatenate([placed, areas[best : best + 1]])
        chosen.append((int(left_top[best, 0]), int(left_top[best, 1])))
    return chosen


def intersection_areas(first_xyxy: Array, second_xyxy: Array) -> Array:
    """Pairwise shared areas.

    Returns:
        float [M, N] for boxes [M, 4] and [N, 4].
    """
    left_top = np.maximum(first_xyxy[:, None, :2], second_xyxy[None, :, :2])
    right_bottom = np.minimum(first_xyxy[:, None, 2:], second_xyxy[None, :, 2:])
    sides = np.clip(right_bottom - left_top, 0, None)
    areas: Array = sides[..., 0] * sides[..., 1]
    return areas


def _box_areas(boxes_xyxy: Array) -> Array:
    areas: Array = (boxes_xyxy[:, 2] - boxes_xyxy[:, 0]) * (boxes_xyxy[:, 3] - boxes_xyxy[:, 1])
    return areas


def _worst_overlap(areas: Array, placed: Array) -> Array:
    """The largest share of a placed label, or of the new one, that the two would have in common; [M]."""
    if not len(placed):
        return np.zeros(len(areas))
    smaller = np.minimum(_box_areas(areas)[:, None], _box_areas(placed)[None, :])
    worst: Array = (intersection_areas(areas, placed) / smaller).max(axis=1)
    return worst


def _small_objects_covered(areas: Array, object_boxes: Array) -> Array:
    """How much of small objects a label would hide, in objects, at most 2; [M]."""
    sizes = _box_areas(object_boxes)
    small = (sizes > 0) & (sizes < 5 * _box_areas(areas[:1])[0])
    if not small.any():
        return np.zeros(len(areas))
    hidden = intersection_areas(areas, object_boxes[small]) / sizes[small]
    covered: Array = np.minimum(hidden.sum(axis=1), 2.0)
    return covered
