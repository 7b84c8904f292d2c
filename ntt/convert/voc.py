"""Pascal VOC XML files, one per image, to COCO.

VOC counts pixels from 1 and includes the last one: xmin..xmax covers xmax - xmin + 1 pixels and begins at xmin - 1.
VOC's evaluation neither requires difficult objects nor counts detections of them as wrong; in COCO's, only `iscrowd`
has this effect, so they become crowd regions, and are no references. `difficult` and `truncated` are kept as additional
keys.
"""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError, TreeBuilder, XMLParser

from ntt.convert.base import CocoBuilder, Converted, LabelledObject, find_listed, polygon_box
from ntt.convert.folders import Folder
from ntt.data.coco_entries import Box
from ntt.data.documents import read_bytes
from ntt.errors import DataError
from ntt.types import Category

_MAX_XML_BYTES = 16 << 20
_BEFORE_THE_FIRST_PIXEL = (
    "image(s) with a box before the first pixel: if corners count from 0, convert with --zero-based"
)


def convert_voc(
    *,
    annotations: Path,
    images: Path,
    names: Sequence[str] | None = None,
    categories: Sequence[Category] | None = None,
    zero_based: bool = False,
) -> Converted:
    """Read a folder of VOC XML files, and the folder of their images.

    `names` are the XML files to read, without suffix, in this order; `categories` the classes to keep, with their ids;
    None: all, classes numbered in order of name. With `zero_based`, corners are counted from 0, the far one exclusive.
    """
    listing = Folder(annotations)
    files = listing.with_suffix(".xml")
    if names is not None:
        relative = {path: path.relative_to(annotations).with_suffix("") for path in files}
        names_of = {path: (inner.as_posix(), inner.name) for path, inner in relative.items()}
        files = find_listed(names, names_of, f"{annotations} with an XML file")
    builder = CocoBuilder(Folder(images), categories, annotations=listing)
    for file, tree, path in builder.annotated_images(files, _read, is_part=names is not None):
        with builder.collecting():
            objects = [
                _object(element, f"{file}: object {number}", zero_based)
                for number, element in enumerate(tree.findall("object"), start=1)
            ]
            image = builder.add_image(path, _size(tree), stated_by=file)
            if any(min(labelled.bbox_xywh[:2]) < 0 for labelled in objects):
                builder.note(_BEFORE_THE_FIRST_PIXEL)
            builder.add_objects(image, objects)
    return builder.finish(annotations)


class _NoDoctype(TreeBuilder):
    """Refuses document type declarations, whose entities may grow without bounds or refer to other files."""

    def doctype(self, name: str, public_id: str | None, system_id: str | None) -> None:
        raise ValueError("it has a document type declaration (<!DOCTYPE ...>), which annotation files do not need")


def _read(path: Path) -> tuple[Element, str | None]:
    """Parse a VOC file of unknown origin, without document type declarations; return it with the image it states."""
    data = read_bytes(path, _MAX_XML_BYTES)
    try:
        parser = XMLParser(target=_NoDoctype())
        parser.feed(data)
        root: Element = parser.close()
    except (ParseError, ValueError, LookupError, RecursionError) as error:  # LookupError: an unknown encoding
        raise DataError(f"{path} is not usable XML: {error}. Export the annotation again.") from error
    if root.tag != "annotation":
        raise DataError(f"{path} begins with <{root.tag}>, a VOC file begins with <annotation>.")
    return root, root.findtext("filename")


def _size(tree: Element) -> tuple[int, int] | None:
    """Return height and width; None if the file has none, or 0, as some tools write."""
    height, width = (_whole(tree.findtext(f"size/{key}")) for key in ("height", "width"))
    return (height, width) if min(height, width) > 0 else None


def _object(element: Element, where: str, zero_based: bool) -> LabelledObject:
    name = (element.findtext("name") or "").strip()
    if not name:
        raise DataError(f"{where} has no <name>, the class is needed.")
    extras = {key: int(_is_true(element.findtext(key))) for key in ("difficult", "truncated")}
    extras |= {"iscrowd": 1, "ignore": 1} if extras["difficult"] else {}
    polygons = [_polygon(polygon, f"{where} ({name})") for polygon in element.findall("polygon")]
    has_box = element.find("bndbox") is not None or not polygons
    box = _box(element, f"{where} ({name})", zero_based) if has_box else polygon_box(polygons)
    return LabelledObject(name, box, polygons or None, extras=extras)


def _polygon(element: Element, where: str) -> list[float]:
    """Read <x1>, <y1>, <x2>, ... or <pt><x>, <y></pt>, as tools write them: in pixels, counted from 0."""
    values = _numbers(part.text for part in element.iter() if part.tag.strip("0123456789") in ("x", "y"))
    if len(values) < 6 or len(values) % 2 or not all(map(math.isfinite, values)):
        raise DataError(f"{where} has an unusable <polygon>: three points or more, <x1>, <y1>, <x2>, ..., are needed.")
    return values


def _box(element: Element, where: str, zero_based: bool) -> Box:
    texts = [(element.findtext(f"bndbox/{key}") or "").strip() for key in ("xmin", "ymin", "xmax", "ymax")]
    if len(corners := _numbers(texts)) < 4:
        raise DataError(f"{where} has the corners {texts}: four numbers xmin, ymin, xmax, ymax are needed.")
    left, top, right, bottom = corners
    if right < left or bottom < top:
        raise DataError(f"{where} has the corners {texts}: xmax and ymax must not be smaller than xmin and ymin.")
    first = 0.0 if zero_based else 1.0
    return (left - first, top - first, right - left + first, bottom - top + first)


def _numbers(texts: Iterable[str | None]) -> list[float]:
    """Return the numbers that texts stand for; none if one of them stands for no number."""
    try:
        return [float(text or "") for text in texts]
    except ValueError:
        return []


def _is_true(text: str | None) -> bool:
    return (text or "").strip().lower() in ("true", "yes") or _whole(text) > 0


def _whole(text: str | None) -> int:
    numbers = _numbers([text])
    return int(numbers[0]) if numbers and math.isfinite(numbers[0]) else 0
