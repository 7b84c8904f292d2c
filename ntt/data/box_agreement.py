"""Boxes compared with the masks of the same objects and with their images: corners in place of sizes, other scales.

Suffix N: annotations. Boxes are float64 [N, 4] in pixels, COCO's (left, top, width, height) unless they are `written`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain

import numpy as np

from ntt.data.coco_entries import Findings
from ntt.errors import listed
from ntt.ops.boxes import pair_iou, with_corners, with_sizes
from ntt.types import BoolArray, DoubleArray, ImageId, Instance, IntArray

_SLACK_PX = 2.0
"""Edges that differ by no more than this agree: files round."""

_LEAST_IOU, _CLOSE_IOU = 0.5, 0.75
"""Overlap from which a box agrees with its mask, and from which it fits closely, as a reading that explains it must."""

_MOST = 0.9
"""Share of boxes that a reading has to explain."""

_EXCESS = 0.1
"""A box that extends this far beyond its image, in sides of the image, is not merely drawn across the border."""

_SAMPLE = 1000
"""Boxes on which other readings are tried."""

_SHIFT_PX, _SAME_PX = 0.75, 0.25
_REPEAT_PX, _NEIGHBOURS = 1.0, 3
"""Objects whose edges differ by no more are the same; each is compared with so many of its image that begin next."""

_REMEDY = "COCO's boxes are [left, top, width, height] in pixels. Correct `bbox`"


# What four numbers may be, in the order of likelihood -> how to turn them into COCO's.
_LAYOUTS: dict[str, Callable[[DoubleArray], DoubleArray]] = {
    "[left, top, width, height]": lambda written: written,
    "[left, top, right, bottom]": with_sizes,
    "[centre x, centre y, width, height]": lambda written: written - np.pad(written[:, 2:] / 2, ((0, 0), (0, 2))),
    "[top, left, bottom, right]": lambda written: with_sizes(written[:, [1, 0, 3, 2]]),
    "[top, left, height, width]": lambda written: written[:, [1, 0, 3, 2]],
    "[left, top, height, width]": lambda written: written[:, [0, 1, 3, 2]],
}


def check_boxes(findings: Findings) -> None:
    """Record a problem where most boxes of a file contradict its masks or images, else a warning that names them."""
    if not findings.boxes:
        return
    _, boxes, masks, images = zip(*findings.boxes, strict=True)
    boxes_N4, masks_N4 = _rows(boxes, 4), _rows((mask for mask in masks if mask is not None), 4)
    sizes_N2 = _rows(((image.width, image.height) for image in images), 2)
    has_mask_N = np.fromiter((mask is not None for mask in masks), np.bool_)
    for what, values in (("boxes", boxes_N4), ("masks", masks_N4)):
        if 0 < values.max(initial=0) <= 1 and sizes_N2.min() > _SLACK_PX:
            text = f"All {what} lie between 0 and 1: they look like fractions of the image. COCO counts pixels."
            findings.problems.append(text)
            return
    if has_mask_N.any():
        _compare_with_masks(np.flatnonzero(has_mask_N), boxes_N4[has_mask_N], masks_N4, sizes_N2[has_mask_N], findings)
    if not findings.problems:
        _compare_with_images(boxes_N4, sizes_N2, has_mask_N, findings)


def _rows(rows: Iterable[Sequence[float]], length: int) -> DoubleArray:
    return np.fromiter(chain.from_iterable(rows), np.float64).reshape(-1, length)


def _compare_with_masks(
    indices_N: IntArray, boxes: DoubleArray, masks: DoubleArray, sizes_N2: DoubleArray, findings: Findings
) -> None:
    is_close_N = _agree(boxes, masks, sizes_N2, _CLOSE_IOU)
    # Where most boxes fit closely, one that does not is named; where they are drawn loosely, one that is elsewhere.
    differs_N = ~is_close_N if 2 * is_close_N.sum() > len(boxes) else ~_agree(boxes, masks, sizes_N2, _LEAST_IOU)
    count = int(differs_N.sum())
    if not count:
        _warn_of_shift(boxes, masks, findings)
        return
    # What some boxes hide, such as corners of objects at the top left, others show: one reading of all is tried first.
    sample = slice(None, None, -(-len(boxes) // _SAMPLE))
    of_all = _explanation(boxes[sample], masks[sample], sizes_N2[sample])
    differing = np.flatnonzero(differs_N)[:_SAMPLE]
    reason = of_all or _explanation(boxes[differing], masks[differing], sizes_N2[differing])
    ids = listed((findings.boxes[index][0] for index in indices_N[differs_N]), 5)
    sentence = f"{count} of {len(boxes)} boxes contradict their masks (annotation {ids}){reason}. {_REMEDY}"
    is_rule = of_all or 2 * count > len(boxes)
    kind = findings.problems if is_rule else findings.warnings
    kind.append(f"{sentence}, or leave it out to use the masks' boxes.")


def _explanation(boxes: DoubleArray, masks: DoubleArray, sizes_N2: DoubleArray) -> str:
    """Return what boxes may be that are not COCO's, to be added to a sentence; "" where nothing fits most of them."""
    if _agree(boxes, masks, sizes_N2, _CLOSE_IOU).mean() >= _MOST:
        return ""
    fits = (
        text
        for text, reading in _readings(boxes, masks, sizes_N2)
        if _agree(reading, masks, sizes_N2, _CLOSE_IOU).mean() >= _MOST
    )
    return next((f": they look like {text}" for text in fits), "")


def _agree(boxes: DoubleArray, masks: DoubleArray, sizes_N2: DoubleArray, least_iou: float) -> BoolArray:
    """Return whether boxes, clipped to the images, overlap enough or have the same edges up to rounding: bool [N]."""
    limits = np.tile(sizes_N2, 2)
    edges, others = (np.clip(with_corners(each), 0, limits) for each in (boxes, masks))
    same = np.asarray((np.abs(edges - others) <= _SLACK_PX).all(axis=1))
    return same | (pair_iou(edges, others) >= least_iou)


def _readings(boxes: DoubleArray, masks: DoubleArray, sizes_N2: DoubleArray) -> Iterator[tuple[str, DoubleArray]]:
    """Yield what the boxes may be instead of COCO's, in words and turned into COCO's."""
    limits = np.tile(sizes_N2, 2)
    layouts = {text: read(boxes) for text, read in _LAYOUTS.items()}
    yield from list(layouts.items())[1:]
    for text, read in _LAYOUTS.items():
        yield f"{text} as fractions of the image", read(boxes * limits)
        yield f"{text} in thousandths of the image", read(boxes * limits / 1000)
    left, top, width, height = boxes.T
    yield "boxes counted from the bottom of the image", np.stack([left, limits[:, 1] - top - height, width, height], 1)
    yield "boxes of the mirrored image", np.stack([limits[:, 0] - left - width, top, width, height], 1)
    shift = np.median(masks - boxes, axis=0)[:2]
    yield f"boxes shifted by {-shift[0]:g} and {-shift[1]:g} px", boxes + np.append(shift, [0, 0])
    for text, read_boxes in layouts.items():
        usable_N = (read_boxes[:, 2:] > 0).all(axis=1) & (masks[:, 2:] > 0).all(axis=1)
        if not usable_N.any():
            continue
        factors = masks[usable_N, 2:] / read_boxes[usable_N, 2:]
        scale, side = np.median(factors, axis=0), np.median(sizes_N2[usable_N] / factors, axis=0)
        is_one = abs(scale[0] / scale[1] - 1) < 1 - _MOST
        by = f"{1 / scale[0]:.3g}" if is_one else f"{1 / scale[0]:.3g} and {1 / scale[1]:.3g}"
        yield f"{text} scaled by {by}", read_boxes * np.tile(scale, 2)
        yield f"{text} of images of {side[0]:.0f} x {side[1]:.0f} px", read_boxes * np.tile(sizes_N2 / side, (1, 2))


def _warn_of_shift(boxes: DoubleArray, masks: DoubleArray, findings: Findings) -> None:
    """Warn where all boxes differ from their masks by the same few pixels, as those counted from 1 do."""
    difference = boxes - masks
    shift = np.median(difference, axis=0)
    is_same = (np.abs(difference - shift) < _SAME_PX).all(axis=1).mean() >= _MOST
    is_whole = (np.abs(shift - shift.round()) < _SAME_PX).all()
    if len(boxes) == 1 or not is_same or not is_whole or np.abs(shift).max() < _SHIFT_PX:
        return
    left, top, width, height = shift
    if max(abs(width), abs(height)) < _SAME_PX:
        text = f"The boxes are shifted by {left:g} and {top:g} px from their masks: counted from 1? COCO counts from 0."
    else:
        by = f"left {left:+g}, top {top:+g}, width {width:+g}, height {height:+g} px"
        text = f"The boxes differ from their masks by {by}. COCO's width is right - left."
    findings.warnings.append(text)


def _compare_with_images(boxes: DoubleArray, sizes_N2: DoubleArray, has_mask_N: BoolArray, findings: Findings) -> None:
    """Look for boxes that leave their images by far: many have another meaning, if they have no masks, or scale."""
    limits = np.tile(sizes_N2, 2)
    excess = np.concatenate([-boxes[:, :2], boxes[:, :2] + boxes[:, 2:] - sizes_N2], axis=1) / limits
    count = int((excess.max(axis=1) > _EXCESS).sum())
    is_corners = (boxes[:, 2:] > boxes[:, :2]).all() and boxes.min() >= -1 and (boxes <= limits + 1).all()
    if is_corners and not has_mask_N.any() and 4 * count >= len(boxes) and count:
        reason = "[left, top, right, bottom]"
    elif 2 * count > len(boxes) > 3:
        reason = "those of larger images"
    else:
        return
    findings.problems.append(f"{count} of {len(boxes)} boxes leave their images: they look like {reason}. {_REMEDY}.")


def repeated_objects(instances: Sequence[Instance]) -> list[int]:
    """Return the ids of objects that have image, class and box of another one, up to a pixel or a tenth of its area."""
    groups: dict[tuple[ImageId, int], int] = {}
    groups_N = np.fromiter((groups.setdefault((i.image_id, i.category_id), len(groups)) for i in instances), np.int64)
    boxes = _rows((instance.bbox_xywh for instance in instances), 4)
    order = np.lexsort((boxes[:, 0], groups_N))
    corners = with_corners(boxes)
    repeated: set[int] = set()
    for step in range(1, _NEIGHBOURS + 1):
        first, second = order[:-step], order[step:]
        ious = pair_iou(corners[first], corners[second])
        is_close = (np.abs(corners[first] - corners[second]) <= _REPEAT_PX).all(axis=1) & (ious > 0) | (ious > _MOST)
        repeated.update(np.maximum(first, second)[is_close & (groups_N[first] == groups_N[second])].tolist())
    return [instances[index].id for index in sorted(repeated)]
