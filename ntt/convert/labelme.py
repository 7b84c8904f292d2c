"""LabelMe JSON files, one an image, to COCO.

Polygons, circles and painted masks become masks. A rectangle becomes a box without a mask: that is what people draw
rectangles for. Shapes with the same label and `group_id` are one object. Points and lines have no area and are left
out, as are the labels `__ignore__` and `_background_`. The copy of the image inside the file is never looked at.
"""

import base64
import binascii
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ntt.convert.base import Box, CocoBuilder, Converted, FoundObject, ImageFolder, files_below, polygon_box
from ntt.data.coco_entries import all_numbers, whole
from ntt.data.masks import rle_box, segmentation_rle
from ntt.errors import DataError
from ntt.ops.masks import decode_masks, encode_masks
from ntt.types import Category, Json

IGNORED_LABELS = ("__ignore__", "_background_")

_OUTLINE_ERROR_PX = 0.1
_NO_AREA = ("point", "points", "line", "linestrip")
_Piece = tuple[str, Any]
"""("box", Box), ("polygon", list of numbers) or ("mask", bool [H, W])."""


def convert_labelme(
    *, annotations: Path, images: Path | None = None, categories: Sequence[Category] | None = None
) -> Converted:
    """Read a folder of LabelMe files.

    Args:
        annotations: folder of the JSON files.
        images: folder of the images; None: the same folder.
        categories: classes to keep, with their ids; None: all that occur, numbered by name.

    Raises:
        DataError: listing every file that cannot be used.
    """
    folder = ImageFolder(annotations if images is None else images)
    builder = CocoBuilder(folder.root, categories)
    for file in files_below(annotations, ".json"):
        try:
            document = read_labelme(file)
            beside = file.parent.relative_to(annotations).as_posix()
            named = document.get("imagePath")
            path = folder.find(str(named or ""), beside="" if beside == "." else beside, stem=file.stem)
            if path is None:
                raise DataError(
                    f"{file}: there is no image {named!r} or {file.stem}.* in {folder.root}. Put it there, or name "
                    "another image folder."
                )
            builder.add_objects(*labelled_image(builder, path, file, document))
        except DataError as error:
            builder.problems.append(str(error))
    return builder.finish(annotations)


def labelled_image(
    builder: CocoBuilder, path: Path, file: Path, document: Json | None = None
) -> tuple[Json, list[FoundObject]]:
    """Enter an image in the size its LabelMe file says, and turn the file's shapes into objects.

    Args:
        builder: gets the image and notes, but not the objects.
        path: the image.
        file: the LabelMe file.
        document: its content where it is read already.

    Returns:
        The image's entry, and the objects.

    Raises:
        DataError: if the image has another size, or the file cannot be used.
    """
    document = read_labelme(file) if document is None else document
    image = builder.add_image(path, labelme_size(document), said_by=file)
    return image, labelme_objects(document, file, (image["height"], image["width"]), builder)


def read_labelme(file: Path) -> Json:
    """Read one file.

    Raises:
        DataError: if it is not a LabelMe file.
    """
    try:
        document = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file} cannot be read as JSON: {error}. Save it again from LabelMe.") from error
    if not isinstance(document, dict) or not isinstance(document.get("shapes"), list):
        raise DataError(
            f"{file} is no LabelMe file: it has no list `shapes`. Save it from LabelMe, or remove it from the folder."
        )
    return document


def labelme_size(document: Json) -> tuple[int, int] | None:
    """Return the height and width a file gives, or None."""
    height, width = whole(document.get("imageHeight")), whole(document.get("imageWidth"))
    return None if height is None or width is None or min(height, width) < 1 else (height, width)


def labelme_objects(document: Json, file: Path, size_hw: tuple[int, int], notes: CocoBuilder) -> list[FoundObject]:
    """Turn the shapes of a file into objects.

    Args:
        document: as `read_labelme` returned it.
        file: for messages.
        size_hw: height and width of the image.
        notes: counts what is left out.

    Raises:
        DataError: for the first shape that cannot be used.
    """
    groups: dict[tuple[str, Any], list[_Piece]] = {}
    for number, shape in enumerate(document["shapes"], start=1):
        where = f"{file}: shape {number}"
        given = shape.get("label") if isinstance(shape, dict) else None
        label = given.strip() if isinstance(given, str) else ""
        if not label:
            raise DataError(f"{where} has the label {given!r}, the name of a class is needed. Give it one in LabelMe.")
        kind = shape.get("shape_type") or "polygon"
        if label in IGNORED_LABELS:
            notes.note(f"shape(s) labelled {label!r} left out")
        elif kind in _NO_AREA:
            notes.note(f"shape(s) of type {kind!r} left out, which have no area")
        else:
            group_id = shape.get("group_id")
            alone = not isinstance(group_id, int | str)
            key = (label, ("shape", number) if alone else ("group", group_id))
            groups.setdefault(key, []).append(_piece(shape, kind, f"{where} ({label})", size_hw))
    return [_joined(label, pieces, size_hw) for (label, _), pieces in groups.items()]


def _piece(shape: Json, kind: str, where: str, size_hw: tuple[int, int]) -> _Piece:
    points = shape.get("points")
    flat = _numbers_of(points)
    if not flat or not all_numbers(flat):
        raise DataError(f"{where} has unusable points: a list of [x, y] in pixels is needed. Draw the shape again.")
    if kind == "rectangle" and len(flat) in (4, 8):
        return ("box", polygon_box([flat]))
    if kind == "circle" and len(flat) == 4:
        return ("polygon", _circle(*flat))
    if kind == "polygon" and len(flat) >= 6:
        return ("polygon", [float(value) for value in flat])
    if kind == "mask" and len(flat) == 4:
        return ("mask", _painted(shape.get("mask"), flat, where, size_hw))
    raise DataError(
        f"{where} is a {kind!r} of {len(flat) // 2} points. Read are polygons of 3 points or more, rectangles and "
        "circles of 2, and masks of 2 corners. Draw the shape again."
    )


def _numbers_of(points: Any) -> list[Any]:
    """Return x0, y0, x1, y1, ...; empty where these are no points."""
    if not isinstance(points, list) or not all(isinstance(point, list) and len(point) == 2 for point in points):
        return []
    return [value for point in points for value in point]


def _circle(centre_x: float, centre_y: float, edge_x: float, edge_y: float) -> list[float]:
    """Return a polygon that nowhere leaves the circle by more than a tenth of a pixel."""
    radius = math.hypot(edge_x - centre_x, edge_y - centre_y)
    half_angle = math.acos(max(0.0, 1 - _OUTLINE_ERROR_PX / max(radius, _OUTLINE_ERROR_PX)))
    count = min(max(12, math.ceil(math.pi / half_angle)), 720)
    angles = [2 * math.pi * place / count for place in range(count)]
    points = [(centre_x + radius * math.cos(angle), centre_y + radius * math.sin(angle)) for angle in angles]
    return [round(value, 3) for point in points for value in point]


def _painted(data: Any, corners: Sequence[float], where: str, size_hw: tuple[int, int]) -> Any:
    """Put a painted mask, a small PNG in text form, at its place: bool [H, W]."""
    left, top, right, bottom = (round(value) for value in corners)
    try:
        with Image.open(io.BytesIO(base64.b64decode(data, validate=True)), formats=("PNG",)) as picture:
            if left < 0 or top < 0 or right >= size_hw[1] or bottom >= size_hw[0]:
                raise ValueError("it sticks out of the image")
            if picture.size != (right - left + 1, bottom - top + 1):
                raise ValueError(f"it has {picture.size} pixels, its corners {corners} say otherwise")
            small = np.asarray(picture.convert("L")) > 0
        whole_mask = np.zeros(size_hw, dtype=bool)
    except (
        TypeError,
        ValueError,
        binascii.Error,
        OSError,
        SyntaxError,
        MemoryError,
        Image.DecompressionBombError,
    ) as error:
        raise DataError(f"{where}: the painted mask cannot be read: {error}. Paint it again.") from error
    whole_mask[top : bottom + 1, left : right + 1] = small
    return whole_mask


def _joined(label: str, pieces: Sequence[_Piece], size_hw: tuple[int, int]) -> FoundObject:
    """Make one object of the shapes of a group."""
    kinds = {kind for kind, _ in pieces}
    if kinds == {"box"}:
        return FoundObject(label, polygon_box([_corners(box) for _, box in pieces]))
    polygons = [_corners(value) if kind == "box" else value for kind, value in pieces if kind != "mask"]
    if "mask" not in kinds:
        return FoundObject(label, polygon_box(polygons), polygons)
    height, width = size_hw
    mask = np.logical_or.reduce([value for kind, value in pieces if kind == "mask"])
    if polygons:
        mask |= decode_masks([segmentation_rle(polygons, height, width)], height, width)[0]
    return mask_object(label, mask)


def mask_object(label: str, mask_HW: Any) -> FoundObject:
    """Make an object of a mask, bool [H, W]; its box is the tight one."""
    height, width = mask_HW.shape
    rle = encode_masks(torch.from_numpy(np.ascontiguousarray(mask_HW))[None])[0]
    coded = {"size": [height, width], "counts": rle.decode("ascii")}
    return FoundObject(label, rle_box(rle, height, width), coded)


def _corners(box: Box) -> list[float]:
    left, top, width, height = box
    return [left, top, left + width, top, left + width, top + height, left, top + height]
