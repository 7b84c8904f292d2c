"""Turns the annotations of a COCO annotation file into checked instances.

An annotation that is malformed makes the file unusable. One that is well-formed but cannot be used, such as a box
without area, is left out and counted.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count, pairwise
from operator import mul
from typing import Any, NamedTuple

from ntt.data.box_agreement import repeated_objects
from ntt.data.coco_entries import Box, Findings, all_numbers, is_image_id, shortened, value_of, whole
from ntt.data.masks import checked_runs, rle_area, rle_box, segmentation_rle
from ntt.types import Category, ImageId, ImageRecord, Instance

_QUIET_EXCESS_PX = 1.0
"""How far a box may extend beyond its image without a warning: files round, and some write the far edge inclusively."""

_POLYGON_MARGIN_PX = 10_000.0
"""How far outside its image a polygon may reach: drawing one takes time and memory in proportion to its outline."""

_LONGEST_PX = 10_000_000.0
_WRONG_AREA = "have an `area` that contradicts the mask or box, and count as small to large by it"
_EMPTY_MASK = "the mask covers no pixel"
_AREA_FACTOR, _AREA_SLACK_PX = 2.0, 16.0
"""How far the `area` of a file may be from the mask's or the box's: it may be rounded, or measured in another way."""


def _is_flag(value: Any) -> bool:
    return isinstance(value, int | float) and value in (0, 1)


# Values that may be absent: what they must be, as a check and in words.
_OPTIONAL: dict[str, tuple[Callable[[Any], bool], str]] = {
    "iscrowd": (_is_flag, "0 and 1 are allowed"),
    "isimpossible": (_is_flag, "0 and 1 are allowed"),
    "shot_index": (
        lambda value: (number := whole(value)) is not None and number >= 0,
        "whole numbers from 0 on are allowed",
    ),
    "area": (lambda value: all_numbers([value]) and value >= 0, "a number from 0 to 1e9 is needed"),
}


class Shape(NamedTuple):
    """A segmentation that has passed the checks; all is None for a box-only annotation.

    Attributes:
        bbox_xywh: around the mask.
        area_px: foreground pixels where they are known without drawing, else None.
        outline_area_px: area inside the polygons' outlines, parts that overlap or lie outside the image counted in.
        is_large: whether it certainly covers at least one pixel centre.
    """

    segmentation: list[list[float]] | dict[str, Any] | None = None
    bbox_xywh: Box | None = None
    area_px: float | None = None
    outline_area_px: float = 0.0
    is_large: bool = False


def parse_annotations(
    entries: Sequence[Any],
    images: dict[ImageId, ImageRecord],
    categories: Sequence[Category],
    findings: Findings,
    *,
    reads_crowds: bool = True,
) -> tuple[Instance, ...]:
    """Read the file's `annotations`: the usable ones, in file order; `iscrowd` is not read without `reads_crowds`."""
    category_ids = {category.id for category in categories} | findings.broken_categories
    instances: list[Instance] = []
    problems: list[str] = []
    ids_by_number = {_as_number(image_id): image_id for image_id in images}
    ids_by_number.pop(None, None)  # of ids that are no numbers
    are_ids_known = None not in findings.broken_images | findings.broken_categories
    for entry, annotation_id in zip(entries, _annotation_ids(entries, findings), strict=True):
        try:
            parsed = _parse_annotation(entry, annotation_id, images, ids_by_number, category_ids, findings)
        except ValueError as error:
            problems.append(f"Annotation {annotation_id} {error}")
            continue
        except KeyError as error:
            if are_ids_known:
                problems.append(f"Annotation {annotation_id} has {error.args[0]}")
            continue
        if parsed is None:
            continue
        instance, shape = parsed
        image = images[instance.image_id]
        if instance.iscrowd and not reads_crowds:
            instance = replace(instance, iscrowd=False)
        defect = _defect(instance, shape, image)
        mask_box = shape.bbox_xywh
        if defect == _EMPTY_MASK and not (mask_box and 0 < max(mask_box) <= 1):
            mask_box = None  # masks in fractions of the image are empty, too, and show what is wrong
        findings.boxes.append((annotation_id, instance.bbox_xywh, mask_box, image))
        if defect:
            findings.note(f"left out: {defect}", annotation_id)
            findings.dropped.append((len(instances), instance))
            continue
        if entry.get("area") is not None and not _is_plausible(instance, shape):
            findings.note(_WRONG_AREA, annotation_id)
        instances.append(_clipped(instance, image, findings))
        if entry.get("ignore"):
            findings.ignored.add(annotation_id)
    findings.problems += problems
    for annotation_id in repeated_objects(instances):
        findings.note("have image, class and box of another one: annotated twice?", annotation_id)
    return tuple(instances)


def _annotation_ids(entries: Sequence[Any], findings: Findings) -> list[int]:
    """Return each annotation's id; those without one, or with text, are numbered on from the largest."""
    given = [value_of(entry, "id") for entry in entries]
    used: set[int] = set()
    for number in given:
        is_whole = type(number) is int
        if is_whole and number not in used:
            used.add(number)
        elif number is not None and not isinstance(number, str):
            defect = "occurs more than once" if is_whole else "is not a whole number"
            findings.problems.append(f"Annotation id {number!r} {defect}. Each needs its own, or none has one.")
    if any(isinstance(number, str) for number in given):
        findings.warnings.append("Annotation ids that are text are replaced by numbers, in the order of the file.")
    following = count(max(used, default=0) + 1)
    return [number if type(number) is int else next(following) for number in given]


def _parse_annotation(
    entry: Any,
    annotation_id: int,
    images: dict[ImageId, ImageRecord],
    ids_by_number: dict[float | None, ImageId],
    category_ids: set[int | None],
    findings: Findings,
) -> tuple[Instance, Shape] | None:
    """Read one annotation with its box as written; None where its image has been reported already.

    Raise a ValueError with the end of a sentence that begins "Annotation N", a KeyError for an unknown image or class.
    """
    if not isinstance(entry, dict):
        raise ValueError(f"is {shortened(entry)}, not an object. Remove it.")
    image_id, category_id = entry.get("image_id"), entry.get("category_id")
    if type(category_id) is not int or category_id not in category_ids:
        raise KeyError(f"category_id {shortened(category_id)}, which is not in `categories`.")
    image = images.get(image_id) if is_image_id(image_id) else None
    if image is None:
        if is_image_id(image_id) and image_id in findings.broken_images:
            return None
        similar = ids_by_number.get(_as_number(image_id))
        hint = "" if similar is None else f" There is {shortened(similar)}: write both alike."
        raise KeyError(f"image_id {shortened(image_id)}, which is not in `images`.{hint}")
    for key, (is_valid, rule) in _OPTIONAL.items():
        value = entry.get(key)
        if value is not None and not is_valid(value):
            raise ValueError(f"has {key} {shortened(value)}, {rule}. Correct it or leave it out.")
    shape = _shape(entry.get("segmentation"), image)
    box = _written_box(entry, shape)
    area = entry.get("area")
    instance = Instance(
        id=annotation_id,
        image_id=image.id,
        category_id=category_id,
        bbox_xywh=box,
        segmentation=shape.segmentation,
        area_px=_measured_area(shape, box, image) if area is None else float(area),
        iscrowd=bool(entry.get("iscrowd")),
        isimpossible=bool(entry.get("isimpossible")),
        isdifficult=entry.get("difficult") == 1,
        shot_index=whole(entry.get("shot_index")),
    )
    return instance, shape


def _as_number(image_id: Any) -> float | None:
    """Return the number that an id stands for, by which 12 and "000012" are alike; None for other ids."""
    try:
        return float(image_id)
    except (TypeError, ValueError, OverflowError):
        return None


def _shape(segmentation: Any, image: ImageRecord) -> Shape:
    if isinstance(segmentation, dict) and segmentation:
        return _rle_shape(segmentation, image)
    if isinstance(segmentation, list) and segmentation and all_numbers(segmentation):
        segmentation = [segmentation]  # one polygon without its list
    if isinstance(segmentation, list):
        polygons = [polygon for polygon in segmentation if polygon != []]
        return _polygon_shape(polygons, image) if polygons else Shape()
    if not segmentation:
        return Shape()
    raise ValueError(
        f"has a segmentation of type {type(segmentation).__name__}, neither a list of polygons nor an RLE."
    )


def _rle_shape(segmentation: dict[str, Any], image: ImageRecord) -> Shape:
    size, counts = [image.height, image.width], segmentation.get("counts")
    if segmentation.get("size") != size:
        written = shortened(segmentation.get("size"))
        raise ValueError(f"has an RLE of size {written}, image {image.id!r} has {size} (height, width).")
    if isinstance(counts, list) and all(whole(run) is not None for run in counts):
        counts = [*map(int, counts)]
    try:
        runs = checked_runs(counts, image.height, image.width)
    except ValueError as error:
        raise ValueError(f"has an RLE that cannot be read: {error}. Write the mask again.") from error
    rle = {"size": size, "counts": counts}
    area = float(sum(runs[1::2]))
    box = rle_box(segmentation_rle(rle, image.height, image.width), image.height, image.width)
    return Shape(rle, box, area_px=area, is_large=area > 0)


def _polygon_shape(polygons: list[Any], image: ImageRecord) -> Shape:
    is_large, area = False, 0.0
    extents: list[Box] = []
    for polygon in polygons:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2 or not all_numbers(polygon):
            rule = "a list of at least 6 finite numbers, x and y in turn, is needed"
            raise ValueError(f"has a polygon {shortened(polygon)}: {rule}. Leave out what cannot be corrected.")
        xs, ys = polygon[0::2], polygon[1::2]
        extent = (min(xs), min(ys), max(xs), max(ys))
        side = max(image.height, image.width) + _POLYGON_MARGIN_PX
        if min(extent) < -_POLYGON_MARGIN_PX or max(extent) > side:
            size = f"{image.width} x {image.height} px"
            raise ValueError(f"has a polygon from {min(extent)} to {max(extent)} px, image {image.id!r} has {size}.")
        extents.append(extent)
        if len(xs) * (max(extent) - min(extent)) > _LONGEST_PX and _outline_length(xs, ys) > _LONGEST_PX:
            raise ValueError(f"has a polygon of {len(xs)} corners whose outline is too long to draw. Export it again.")
        enclosed = abs(sum(map(mul, xs, ys[1:] + ys[:1])) - sum(map(mul, ys, xs[1:] + xs[:1]))) / 2
        is_large = is_large or _is_large(enclosed, extent, image)
        area += enclosed
    left, top = min(e[0] for e in extents), min(e[1] for e in extents)
    right, bottom = max(e[2] for e in extents), max(e[3] for e in extents)
    return Shape(polygons, (left, top, right - left, bottom - top), outline_area_px=area, is_large=is_large)


def _outline_length(xs: list[float], ys: list[float]) -> float:
    return sum(max(abs(x1 - x0), abs(y1 - y0)) for (x0, x1), (y0, y1) in zip(pairwise(xs), pairwise(ys), strict=True))


def _is_large(enclosed: float, extent: Box, image: ImageRecord) -> bool:
    """Return whether a polygon certainly covers a pixel, so that it need not be drawn to find out.

    Drawing moves the outline by less than a pixel, so a polygon inside the image whose area exceeds its outline's
    length by far cannot vanish; the length is taken to be at most twice that of the box around it.
    """
    left, top, right, bottom = extent
    if left < 0 or top < 0 or right > image.width or bottom > image.height:
        return False
    return enclosed > 4 * (right - left + bottom - top)


def _written_box(entry: dict[str, Any], shape: Shape) -> Box:
    """Return the box as the file has it, or the one around the mask."""
    written = entry.get("bbox") or None  # an empty list, too
    if written is None and shape.bbox_xywh is not None:
        return shape.bbox_xywh
    if written is None:
        raise ValueError("has neither bbox nor segmentation. Add one of them.")
    if not isinstance(written, list) or len(written) != 4 or not all_numbers(written):
        raise ValueError(f"has bbox {shortened(written)}: four finite numbers [left, top, width, height] are needed.")
    left, top, width, height = map(float, written)
    return (left, top, width, height)


def _measured_area(shape: Shape, box: Box, image: ImageRecord) -> float:
    if shape.segmentation is None:
        return max(box[2], 0.0) * max(box[3], 0.0)
    if shape.area_px is not None:
        return shape.area_px
    return float(rle_area(segmentation_rle(shape.segmentation, image.height, image.width), image.height, image.width))


def _is_plausible(instance: Instance, shape: Shape) -> bool:
    """Return whether the area of the file may be that of the mask; without a mask it may be less than the box's."""
    area, box_area = instance.area_px, instance.bbox_xywh[2] * instance.bbox_xywh[3]
    if shape.segmentation is None:
        return (area > 0 or box_area < _AREA_SLACK_PX) and area < box_area * _AREA_FACTOR + _AREA_SLACK_PX
    measured = shape.outline_area_px if shape.area_px is None else shape.area_px
    return measured / _AREA_FACTOR - _AREA_SLACK_PX < area < measured * _AREA_FACTOR + _AREA_SLACK_PX


def _defect(instance: Instance, shape: Shape, image: ImageRecord) -> str | None:
    """Return why an annotation cannot be used although it is well-formed."""
    left, top, width, height = instance.bbox_xywh
    if shape.segmentation is not None and not shape.is_large and _measured_area(shape, (0, 0, 0, 0), image) == 0:
        return _EMPTY_MASK
    if width <= 0 or height <= 0:
        return "the box has no area"
    if left >= image.width or top >= image.height or left + width <= 0 or top + height <= 0:
        return "the box lies outside the image"
    return None


def _clipped(instance: Instance, image: ImageRecord, findings: Findings) -> Instance:
    """Clip the box of an instance to the image."""
    left, top, width, height = instance.bbox_xywh
    right, bottom = left + width, top + height
    excess = max(-left, -top, right - image.width, bottom - image.height)
    if excess <= 0:
        return instance
    if excess > _QUIET_EXCESS_PX:
        findings.note("clipped: the box sticks out of the image", instance.id)
    findings.boxes_as_written[instance.id] = instance.bbox_xywh
    left, top = max(left, 0.0), max(top, 0.0)
    return replace(instance, bbox_xywh=(left, top, min(right, image.width) - left, min(bottom, image.height) - top))
