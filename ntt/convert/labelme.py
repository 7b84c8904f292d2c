"""LabelMe JSON files, one per image, to COCO.

Polygons, circles and painted masks become masks. A rectangle becomes a box without a mask, which is what people mean by
it. Shapes with the same label and `group_id` are one object. Points and lines, which have no area, are left out, and so
are the labels `__ignore__` and `_background_`. The copy of the image inside the file is ignored.
"""

import base64
import io
import math
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from PIL import Image

from ntt.convert.base import NAMES_ANOTHER, CocoBuilder, Converted, LabelledObject, polygon_box
from ntt.convert.folders import Folder
from ntt.data.coco_entries import all_numbers, whole
from ntt.data.documents import parse_document, read_bytes, whole_number
from ntt.data.masks import rle_box, segmentation_rle
from ntt.errors import DataError
from ntt.ops.masks import decode_masks, encode_masks
from ntt.types import BoolArray, Category, Json

_IGNORED_LABELS = ("__ignore__", "_background_")
_CORNERS = 120
"""Of a circle's polygon, which is a tenth of a pixel too small if the radius is 300 pixels."""

_MAX_BYTES = 256 << 20
_NO_AREA = ("point", "points", "line", "linestrip")


_Shape = tuple[str, list[float] | BoolArray]
"""(kind, outline), or ("mask", bool [H, W])."""


def convert_labelme(
    *, annotations: Path, images: Path | None = None, categories: Sequence[Category] | None = None
) -> Converted:
    """Read a folder of LabelMe files, with images in the same folder unless `images` names another.

    `categories` are the classes to keep, with their ids; None: all, numbered in order of name.
    """
    listing = Folder(annotations)
    builder = CocoBuilder(listing if images is None else Folder(images), categories, annotations=listing)
    for file, document, path in builder.annotated_images(listing.with_suffix(".json"), _read):
        with builder.collecting():
            builder.add_objects(*_labelled(builder, path, file, document))
    return builder.finish(annotations)


def labelled_image(builder: CocoBuilder, path: Path, file: Path) -> tuple[Json, list[LabelledObject]]:
    """Add an image in the size that its LabelMe file states; return its entry and the objects to add."""
    document, stated = _read(file)
    other = path.with_name(PurePosixPath(stated.replace("\\", "/")).name or path.name)
    if other.name.lower() != path.name.lower() and other.is_file():
        builder.note(NAMES_ANOTHER, file)
    return _labelled(builder, path, file, document)


def _labelled(builder: CocoBuilder, path: Path, file: Path, document: Json) -> tuple[Json, list[LabelledObject]]:
    height, width = whole(document.get("imageHeight")) or 0, whole(document.get("imageWidth")) or 0
    image = builder.add_image(path, (height, width) if min(height, width) > 0 else None, stated_by=file)
    return image, _objects(document["shapes"], file, (image["height"], image["width"]), builder)


def mask_object(name: str, mask_HW: BoolArray) -> LabelledObject:
    """Make an object from a mask, with its tight box."""
    height, width = mask_HW.shape
    rle = encode_masks(torch.from_numpy(np.ascontiguousarray(mask_HW))[None])[0]
    segmentation = {"size": [height, width], "counts": rle.decode("ascii")}
    return LabelledObject(name, rle_box(rle, height, width), segmentation)


def _read(file: Path) -> tuple[Json, str]:
    """Return a LabelMe file and the image name it states."""
    document = parse_document(read_bytes(file, _MAX_BYTES), file)
    if not isinstance(document.get("shapes"), list):
        raise DataError(f"{file} is not a LabelMe file: it has no list `shapes`. Save it from LabelMe, or remove it.")
    return document, str(document.get("imagePath") or "")


def _objects(shapes: list[Any], file: Path, size_hw: tuple[int, int], builder: CocoBuilder) -> list[LabelledObject]:
    """Turn the shapes of a file into objects, one per group; shapes without area are noted and left out."""
    groups: dict[tuple[str, Any], list[_Shape]] = {}
    for number, shape in enumerate(shapes, start=1):
        where = f"{file}: shape {number}"
        label = shape.get("label") if isinstance(shape, dict) else None
        if not isinstance(label, str) or not label.strip():
            raise DataError(f"{where} has the label {label!r}, the name of a class is needed. Give it one in LabelMe.")
        label = label.strip()
        kind = shape.get("shape_type") or "polygon"
        if label in _IGNORED_LABELS:
            builder.note(f"shape(s) labelled {label!r} left out")
        elif kind in _NO_AREA:
            builder.note(f"shape(s) of type {kind!r} left out, which have no area")
        else:
            group_id = whole_number(shape.get("group_id"))
            key = ("group", group_id) if isinstance(group_id, int | str) else ("shape", number)
            groups.setdefault((label, key), []).append(_parse(shape, kind, f"{where} ({label})", size_hw))
    return [_joined(label, group, size_hw) for (label, _), group in groups.items()]


def _parse(shape: Json, kind: str, where: str, size_hw: tuple[int, int]) -> _Shape:
    points = shape.get("points")
    if not isinstance(points, list) or not all(isinstance(point, list) and len(point) == 2 for point in points):
        points = []
    flat = [value for point in points for value in point]
    if not flat or not all_numbers(flat):
        raise DataError(f"{where} has unusable points: a list of [x, y] in pixels is needed. Draw the shape again.")
    if kind == "rectangle" and len(flat) in (4, 8):
        left, top, width, height = polygon_box([flat])
        return kind, [left, top, left + width, top, left + width, top + height, left, top + height]
    if kind == "circle" and len(flat) == 4:
        return kind, _circle(*flat)
    if kind == "polygon" and len(flat) >= 6:
        return kind, [float(value) for value in flat]
    if kind == "mask" and len(flat) == 4:
        return kind, _painted(shape.get("mask"), flat, where, size_hw)
    rule = "polygons of 3 points or more, rectangles, circles and masks of 2"
    raise DataError(f"{where} is a {kind!r} of {len(flat) // 2} points. Read are {rule}.")


def _circle(centre_x: float, centre_y: float, edge_x: float, edge_y: float) -> list[float]:
    radius = math.hypot(edge_x - centre_x, edge_y - centre_y)
    angles = [2 * math.pi * index / _CORNERS for index in range(_CORNERS)]
    points = [(centre_x + radius * math.cos(angle), centre_y + radius * math.sin(angle)) for angle in angles]
    return [round(value, 3) for point in points for value in point]


def _painted(data: Any, corners: Sequence[float], where: str, size_hw: tuple[int, int]) -> BoolArray:
    """Place a painted mask, a small PNG in text form, at its position: bool [H, W]."""
    left, top, right, bottom = (round(value) for value in corners)
    try:
        with Image.open(io.BytesIO(base64.b64decode(data, validate=True)), formats=("PNG",)) as picture:
            if left < 0 or top < 0 or right >= size_hw[1] or bottom >= size_hw[0]:
                raise ValueError("it sticks out of the image")
            if picture.size != (right - left + 1, bottom - top + 1):
                raise ValueError(f"it has {picture.size} pixels, its corners {corners} imply another number")
            painted = np.asarray(picture.convert("L")) > 0
        mask_HW = np.zeros(size_hw, dtype=bool)
    except (TypeError, ValueError, OSError, SyntaxError, MemoryError, Image.DecompressionBombError) as error:
        raise DataError(f"{where}: the painted mask cannot be read ({error}). Paint it again.") from error
    mask_HW[top : bottom + 1, left : right + 1] = painted
    return mask_HW


def _joined(label: str, shapes: Sequence[_Shape], size_hw: tuple[int, int]) -> LabelledObject:
    """Make one object from the shapes of a group; rectangles alone give a box without a mask."""
    kinds = {kind for kind, _ in shapes}
    rectangles_last = sorted(shapes, key=lambda shape: shape[0] == "rectangle")
    outlines = [outline for _, outline in rectangles_last if isinstance(outline, list)]
    if "mask" not in kinds:
        return LabelledObject(label, polygon_box(outlines), None if kinds == {"rectangle"} else outlines)
    mask_HW = np.logical_or.reduce([mask for _, mask in shapes if isinstance(mask, np.ndarray)])
    if outlines:
        mask_HW |= decode_masks([segmentation_rle(outlines, *size_hw)], *size_hw)[0]
    return mask_object(label, mask_HW)
