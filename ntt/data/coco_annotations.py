"""Turns the annotations of a COCO annotation file into checked instances.

An annotation that is malformed makes the file unusable. One that is well-formed but cannot be used, such as a box
without area, is left out and counted.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from ntt.data.coco_entries import Findings, all_numbers, is_image_id, shortened
from ntt.data.masks import checked_runs, rle_area, rle_box, segmentation_rle
from ntt.types import Category, ImageId, ImageRecord, Instance

Box = tuple[float, float, float, float]

QUIET_EXCESS_PX = 1.0
"""How far a box may stick out of its image without a word: files round, and some write the far edge inclusively."""

_POLYGON_MARGIN_PX = 10_000.0
"""How far outside its image a polygon may reach: drawing one takes time and memory in proportion to its outline."""


class Shape(NamedTuple):
    """A segmentation that has passed the checks.

    Attributes:
        segmentation: polygons or RLE; None for a box-only annotation.
        bbox_xywh: the box around it, None for a box-only annotation.
        area_px: foreground pixels where they are known without drawing, else None.
        is_large: whether it certainly covers at least one pixel centre.
    """

    segmentation: list[list[float]] | dict[str, Any] | None = None
    bbox_xywh: Box | None = None
    area_px: float | None = None
    is_large: bool = False


class ParsedAnnotations(NamedTuple):
    """Attributes as in `ntt.data.coco.CocoDataset`."""

    instances: tuple[Instance, ...]
    dropped: tuple[tuple[int, Instance], ...]
    boxes_as_written: dict[int, Box]
    ignored: frozenset[int]


def parse_annotations(
    entries: Sequence[Any], images: dict[ImageId, ImageRecord], categories: Sequence[Category], findings: Findings
) -> ParsedAnnotations:
    """Read the file's `annotations`, in file order."""
    category_ids = {category.id for category in categories} | findings.broken_categories
    instances: list[Instance] = []
    dropped: list[tuple[int, Instance]] = []
    boxes_as_written: dict[int, Box] = {}
    ignored: set[int] = set()
    for entry, annotation_id in zip(entries, _annotation_ids(entries, findings), strict=True):
        try:
            parsed = _parse_annotation(entry, annotation_id, images, category_ids, findings)
        except ValueError as error:
            findings.problems.append(f"Annotation {annotation_id} {error}")
            continue
        if parsed is None:
            continue
        instance, shape = parsed
        image = images[instance.image_id]
        defect = _defect(instance, shape, image)
        if defect:
            findings.note(defect, annotation_id)
            dropped.append((len(instances), instance))
            continue
        fitted = _fitted(instance, image, findings)
        if fitted is not instance:
            boxes_as_written[annotation_id] = instance.bbox_xywh
        instances.append(fitted)
        if entry.get("ignore"):
            ignored.add(annotation_id)
    return ParsedAnnotations(tuple(instances), tuple(dropped), boxes_as_written, frozenset(ignored))


def _annotation_ids(entries: Sequence[Any], findings: Findings) -> list[int]:
    """Return each annotation's id; those without one are numbered on from the largest."""
    given = [entry.get("id") if isinstance(entry, dict) else None for entry in entries]
    used: set[int] = set()
    for number in given:
        if number is None:
            continue
        if type(number) is not int:
            findings.problems.append(
                f"Annotation id {number!r} is not a whole number. Use whole numbers, or leave all ids out."
            )
        elif number in used:
            findings.problems.append(
                f"Annotation id {number} occurs more than once. Give every annotation its own id, or leave all ids out."
            )
        else:
            used.add(number)
    following = max(used, default=0)
    numbers: list[int] = []
    for number in given:
        if type(number) is not int:
            following += 1
        numbers.append(number if type(number) is int else following)
    return numbers


def _parse_annotation(
    entry: Any,
    annotation_id: int,
    images: dict[ImageId, ImageRecord],
    category_ids: set[int],
    findings: Findings,
) -> tuple[Instance, Shape] | None:
    """Read one annotation with its box as written; None where its image has been reported already.

    Raises:
        ValueError: the end of a sentence that begins "Annotation N".
    """
    if not isinstance(entry, dict):
        raise ValueError(f"is {shortened(entry)}, not an object. Remove it.")
    image_id, category_id, shot_index = (entry.get(key) for key in ("image_id", "category_id", "shot_index"))
    if type(category_id) is not int or category_id not in category_ids:
        raise ValueError(
            f"has category_id {category_id!r}, which is not in `categories`. Correct it, or add the category."
        )
    image = images.get(image_id) if is_image_id(image_id) else None
    if image is None:
        if is_image_id(image_id) and image_id in findings.broken_images:
            return None
        raise ValueError(_unknown_image(image_id, images))
    if shot_index is not None and (type(shot_index) is not int or shot_index < 0):
        raise ValueError(
            f"has shot_index {shot_index!r}, whole numbers from 0 on are allowed. Correct it or leave it out."
        )
    shape = _shape(entry.get("segmentation"), image)
    box = _written_box(entry, shape)
    instance = Instance(
        id=annotation_id,
        image_id=image.id,
        category_id=category_id,
        bbox_xywh=box,
        segmentation=shape.segmentation,
        area_px=_area(entry, shape, box, image),
        iscrowd=_flag(entry, "iscrowd"),
        isimpossible=_flag(entry, "isimpossible"),
        shot_index=shot_index,
    )
    return instance, shape


def _unknown_image(image_id: Any, images: dict[ImageId, ImageRecord]) -> str:
    other: Any = str(image_id)
    if isinstance(image_id, str):
        other = int(image_id) if image_id.isdecimal() else None
    hint = f" There is an image {other!r}: numbers and text are told apart." if other in images else ""
    return f"has image_id {image_id!r}, which is not in `images`.{hint} Correct it, or add the image."


def _flag(entry: dict[str, Any], key: str) -> bool:
    value = entry.get(key)
    if value is not None and (not isinstance(value, int) or value not in (0, 1)):
        raise ValueError(f"has {key} {value!r}, 0 and 1 are allowed. Correct it or leave it out.")
    return bool(value)


def _shape(segmentation: Any, image: ImageRecord) -> Shape:
    if not segmentation or segmentation == [[]]:
        return Shape()
    if isinstance(segmentation, dict):
        return _rle_shape(segmentation, image)
    if isinstance(segmentation, list):
        return _polygon_shape(segmentation, image)
    raise ValueError(
        f"has a segmentation of type {type(segmentation).__name__}: a list of polygons or an RLE object is needed. "
        "Correct it, or leave it out and the box is used."
    )


def _rle_shape(segmentation: dict[str, Any], image: ImageRecord) -> Shape:
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if size != [image.height, image.width]:
        raise ValueError(
            f"has an RLE of size {size!r}, image {image.id!r} is [height, width] = [{image.height}, {image.width}]. "
            "Correct the mask, or the image's height and width."
        )
    try:
        runs = checked_runs(counts, image.height, image.width)
    except ValueError as error:
        raise ValueError(f"has an RLE that cannot be read: {error}. Write the mask anew.") from error
    rle = {"size": size, "counts": counts}
    area = float(sum(runs[1::2]))
    box = rle_box(segmentation_rle(rle, image.height, image.width), image.height, image.width)
    return Shape(rle, box, area_px=area, is_large=area > 0)


def _polygon_shape(polygons: list[Any], image: ImageRecord) -> Shape:
    is_large = False
    extents: list[Box] = []
    for polygon in polygons:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2 or not all_numbers(polygon):
            raise ValueError(
                f"has a polygon {shortened(polygon)}: a polygon is a list of at least 6 finite numbers, x and y in "
                "turn, and a segmentation is a list of polygons. Correct it, or leave the segmentation out."
            )
        xs, ys = polygon[0::2], polygon[1::2]
        extent = (min(xs), min(ys), max(xs), max(ys))
        side = max(image.height, image.width) + _POLYGON_MARGIN_PX
        if min(extent) < -_POLYGON_MARGIN_PX or max(extent) > side:
            raise ValueError(
                f"has a polygon that reaches to {min(extent)} ... {max(extent)} px, image {image.id!r} has "
                f"{image.width} x {image.height} px. Correct its coordinates."
            )
        extents.append(extent)
        is_large = is_large or _is_large(xs, ys, extent, image)
    left, top = min(e[0] for e in extents), min(e[1] for e in extents)
    right, bottom = max(e[2] for e in extents), max(e[3] for e in extents)
    return Shape(polygons, (left, top, right - left, bottom - top), is_large=is_large)


def _is_large(xs: list[float], ys: list[float], extent: Box, image: ImageRecord) -> bool:
    """Return whether a polygon certainly covers a pixel, so that it need not be drawn to find out.

    Drawing moves the outline by less than a pixel, so a polygon inside the image whose area exceeds its outline's
    length by far cannot vanish; the length is taken to be at most twice that of the box around it.
    """
    left, top, right, bottom = extent
    if left < 0 or top < 0 or right > image.width or bottom > image.height:
        return False
    doubled = sum(x0 * y1 - x1 * y0 for x0, y0, x1, y1 in zip(xs, ys, xs[1:] + xs[:1], ys[1:] + ys[:1], strict=True))
    return abs(doubled) / 2 > 4 * (right - left + bottom - top)


def _written_box(entry: dict[str, Any], shape: Shape) -> Box:
    """Return the box as the file has it, or the one around the mask."""
    written = entry.get("bbox")
    if written is None and shape.bbox_xywh is not None:
        return shape.bbox_xywh
    if written is None:
        raise ValueError("has neither bbox nor segmentation. Add one of them, or remove the annotation.")
    if not isinstance(written, list) or len(written) != 4 or not all_numbers(written):
        raise ValueError(
            f"has bbox {shortened(written)}: four finite numbers [left, top, width, height] are needed. Correct it, or "
            "leave it out where there is a segmentation."
        )
    left, top, width, height = map(float, written)
    return (left, top, width, height)


def _area(entry: dict[str, Any], shape: Shape, box: Box, image: ImageRecord) -> float:
    area = entry.get("area")
    if area is None:
        return _measured_area(shape, box, image)
    if not all_numbers([area]) or area < 0:
        raise ValueError(f"has area {area!r}: a finite number of at least 0 is needed. Correct it or leave it out.")
    return float(area)


def _measured_area(shape: Shape, box: Box, image: ImageRecord) -> float:
    if shape.segmentation is None:
        return max(box[2], 0.0) * max(box[3], 0.0)
    if shape.area_px is not None:
        return shape.area_px
    return float(rle_area(segmentation_rle(shape.segmentation, image.height, image.width), image.height, image.width))


def _defect(instance: Instance, shape: Shape, image: ImageRecord) -> str | None:
    """Say why an annotation cannot be used although it is well-formed."""
    left, top, width, height = instance.bbox_xywh
    if shape.segmentation is not None and not shape.is_large and _measured_area(shape, (0, 0, 0, 0), image) == 0:
        return "left out: the mask covers no pixel"
    if width <= 0 or height <= 0:
        return "left out: the box has no area"
    if left >= image.width or top >= image.height or left + width <= 0 or top + height <= 0:
        return "left out: the box lies outside the image"
    return None


def _fitted(instance: Instance, image: ImageRecord, findings: Findings) -> Instance:
    """Clip the box of an instance to the image; return the very same instance where that changes nothing."""
    left, top, width, height = instance.bbox_xywh
    right, bottom = left + width, top + height
    excess = max(-left, -top, right - image.width, bottom - image.height)
    if excess <= 0:
        return instance
    if excess > QUIET_EXCESS_PX:
        findings.note("clipped: the box sticks out of the image", instance.id)
    left, top = max(left, 0.0), max(top, 0.0)
    clipped = (left, top, min(right, image.width) - left, min(bottom, image.height) - top)
    return replace(instance, bbox_xywh=clipped)
