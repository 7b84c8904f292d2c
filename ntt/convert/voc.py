"""Pascal VOC XML files, one an image, to COCO.

Boxes: VOC counts pixels from 1 and includes the last one, so xmin..xmax covers xmax - xmin + 1 pixels and begins at
xmin - 1. Some tools write the same XML with corners counted from 0, the far one exclusive; `zero_based` reads those.

Difficult objects: VOC's evaluation neither wants them found nor counts a detection on them as wrong, however many
there are. In COCO's evaluation only `iscrowd` does that (`ignore` is overwritten by it), so they become crowd regions;
they are then no references either. `difficult` and `truncated` are kept as further keys.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, TypeAlias
from xml.etree.ElementTree import Element, ParseError, TreeBuilder, XMLParser

from ntt.convert.base import Box, CocoBuilder, Converted, FoundObject, ImageFolder, files_below
from ntt.errors import DataError
from ntt.types import Category

DifficultMode: TypeAlias = Literal["crowd", "keep", "drop"]

_MAX_XML_BYTES = 16 << 20


def convert_voc(
    *,
    annotations: Path,
    images: Path,
    list_file: Path | None = None,
    categories: Sequence[Category] | None = None,
    difficult: DifficultMode = "crowd",
    zero_based: bool = False,
) -> Converted:
    """Read a folder of VOC XML files.

    Args:
        annotations: folder of the XML files.
        images: folder of the images.
        list_file: a list of image names without ending, one a line, such as ImageSets/Main/test.txt; a second word of
            a line is passed over. None: every XML file.
        categories: classes to keep, with their ids; None: all that occur, numbered by name.
        difficult: what becomes of difficult objects. "crowd": crowd regions, as VOC's evaluation treats them;
            "keep": ordinary objects; "drop": left out.
        zero_based: corners are counted from 0, the far one exclusive.

    Raises:
        DataError: listing every file that cannot be used.
    """
    files = files_below(annotations, ".xml")
    if list_file is not None:
        files = _chosen(files, list_file)
    folder = ImageFolder(images)
    builder = CocoBuilder(images, categories)
    for file in files:
        try:
            _add(builder, folder, file, annotations, difficult, zero_based)
        except DataError as error:
            builder.problems.append(str(error))
    return builder.finish(annotations)


def read_list(list_file: Path) -> list[str]:
    """Read a list of images: the first word of each line that is not empty.

    Raises:
        DataError: if it cannot be read or is empty.
    """
    try:
        lines = list_file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"The list {list_file} cannot be read: {error}. A text file is needed.") from error
    names = [line.split()[0] for line in lines if line.strip()]
    if not names:
        raise DataError(f"The list {list_file} is empty: one image name a line is needed. Add the names.")
    return names


class _NoDoctype(TreeBuilder):
    """Refuses document type declarations, which may define entities that grow without bounds or name other files."""

    def doctype(self, name: str, public_id: str | None, system_id: str | None) -> None:
        raise ValueError("it has a document type declaration (<!DOCTYPE ...>), which annotation files do not need")


def read_xml(path: Path) -> Element:
    """Parse an XML file of unknown origin.

    Raises:
        DataError: if it cannot be read, is not XML, has a document type declaration, or is larger than 16 MiB.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}. A readable XML file is needed.") from error
    if len(data) > _MAX_XML_BYTES:
        raise DataError(f"{path} has {len(data)} bytes; annotation files of up to {_MAX_XML_BYTES} are read.")
    try:
        parser = XMLParser(target=_NoDoctype())
        parser.feed(data)
        root: Element = parser.close()
    except (ParseError, ValueError, LookupError) as error:  # LookupError: an unknown encoding
        raise DataError(f"{path} is not usable XML: {error}. Export the annotation again.") from error
    return root


def _chosen(files: Sequence[Path], list_file: Path) -> list[Path]:
    by_stem = {path.stem: path for path in files}
    names = list(dict.fromkeys(read_list(list_file)))
    missing = [name for name in names if name not in by_stem]
    if missing:
        raise DataError(
            f"{list_file} names {len(missing)} image(s) without an XML file, the first being {missing[0]!r}. Add the "
            "files, or remove the names from the list."
        )
    return [by_stem[name] for name in names]


def _add(
    builder: CocoBuilder, folder: ImageFolder, file: Path, root: Path, difficult: DifficultMode, zero_based: bool
) -> None:
    """Enter one XML file."""
    tree = read_xml(file)
    if tree.tag != "annotation":
        raise DataError(f"{file} begins with <{tree.tag}>, a VOC file begins with <annotation>. Remove or replace it.")
    beside = file.parent.relative_to(root).as_posix()
    path = folder.find(tree.findtext("filename"), beside="" if beside == "." else beside, stem=file.stem)
    if path is None:
        raise DataError(
            f"{file}: there is no image {tree.findtext('filename')!r} or {file.stem}.* in {folder.root}. Put it there, "
            "or name another image folder."
        )
    objects = [
        _object(element, f"{file}: object {n}", zero_based) for n, element in enumerate(tree.findall("object"), 1)
    ]
    image = builder.add_image(path, _size(tree), said_by=file)
    if any(min(one.bbox_xywh[:2]) < 0 for one in objects):
        builder.note(
            "image(s) with a box that begins before the first pixel: if the corners are counted from 0, convert with "
            "--zero-based"
        )
    kept = [_treated(one, difficult) for one in objects]
    if None in kept:
        builder.note("difficult object(s) left out", kept.count(None))
    builder.add_objects(image, [one for one in kept if one is not None])


def _treated(one: FoundObject, difficult: DifficultMode) -> FoundObject | None:
    """Mark a difficult object as `difficult` says; None leaves it out."""
    if not one.extras["difficult"] or difficult == "keep":
        return one
    return None if difficult == "drop" else replace(one, extras={**one.extras, "iscrowd": 1, "ignore": 1})


def _size(tree: Element) -> tuple[int, int] | None:
    """Return height and width; None where the file has none, as some tools write 0."""
    size = tuple(_whole(tree.findtext(f"size/{key}")) for key in ("height", "width"))
    return (size[0], size[1]) if min(size) > 0 else None


def _object(element: Element, where: str, zero_based: bool) -> FoundObject:
    name = (element.findtext("name") or "").strip()
    if not name:
        raise DataError(f"{where} has no <name>, the class is needed. Add it.")
    extras = {key: int(_whole(element.findtext(key)) > 0) for key in ("difficult", "truncated")}
    return FoundObject(name, _box(element, f"{where} ({name})", zero_based), extras=extras)


def _box(element: Element, where: str, zero_based: bool) -> Box:
    texts = [(element.findtext(f"bndbox/{key}") or "").strip() for key in ("xmin", "ymin", "xmax", "ymax")]
    try:
        left, top, right, bottom = map(float, texts)
    except ValueError:
        raise DataError(
            f"{where} has the corners {texts}: four numbers xmin, ymin, xmax, ymax are needed. Correct <bndbox>."
        ) from None
    if right < left or bottom < top:
        raise DataError(f"{where} has the corners {texts}: xmax and ymax must not be smaller than xmin and ymin.")
    first = 0.0 if zero_based else 1.0
    return (left - first, top - first, right - left + first, bottom - top + first)


def _whole(text: str | None) -> int:
    try:
        return int(float(text or 0))
    except (ValueError, OverflowError):
        return 0
