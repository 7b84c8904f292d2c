"""What all converters share: an annotation file under construction, and the search for the images it speaks of.

A converter reads a foreign format and returns a `Converted`; nothing is written but by `write_converted`. Names in
foreign files are never used as paths: they are looked up among the files that a folder really holds.
"""

import math
import posixpath
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ntt.base.files import write_json
from ntt.data.images import check_size, upright_size
from ntt.data.masks import rle_area, segmentation_rle
from ntt.errors import DataError, raise_all
from ntt.types import Category, Json

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif")

Box = tuple[float, float, float, float]
_LARGEST_PX = 1e6


@dataclass(frozen=True)
class Converted:
    """An annotation file in COCO format that is not written yet.

    Attributes:
        document: `images`, `annotations` and `categories`, fit for JSON.
        image_root: the folder its file names start from.
        notes: what was left out or mended, one sentence each, for the person who converts.
    """

    document: Json
    image_root: Path
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class FoundObject:
    """One object of a foreign annotation file.

    Attributes:
        name: of its class.
        bbox_xywh: COCO box in image pixels.
        segmentation: polygons or RLE as COCO has them; None where only the box is known.
        extras: further keys of the annotation, such as `iscrowd`.
    """

    name: str
    bbox_xywh: Box
    segmentation: list[list[float]] | dict[str, Any] | None = None
    extras: dict[str, Any] = field(default_factory=dict)


class CocoBuilder:
    """Collects images and objects, what is wrong with them, and what was left out."""

    def __init__(self, image_root: Path, categories: Sequence[Category] | None = None) -> None:
        """Start an empty file.

        Args:
            image_root: the folder file names start from.
            categories: the classes to keep, with their ids; None: every class that occurs, numbered by name.
        """
        self.problems: list[str] = []
        self._root = image_root.absolute()
        self._given = None if categories is None else {category.name: category.id for category in categories}
        self._images: list[Json] = []
        self._objects: list[tuple[int, FoundObject]] = []
        self._notes: Counter[str] = Counter()

    def note(self, what: str, count: int = 1) -> None:
        """Count something that was left out or mended; `what` completes the sentence "N: ..."."""
        self._notes[what] += count

    def add_image(self, path: Path, size_hw: tuple[int, int] | None = None, *, said_by: Path | None = None) -> Json:
        """Enter an image and return its entry.

        Args:
            path: below the image folder.
            size_hw: height and width in pixels as the annotations have them: of the image as it is stored, or turned
                upright; None: read from the file.
            said_by: the file `size_hw` is taken from, for messages; needed with it.

        Raises:
            DataError: if the image cannot be read or has another size.
        """
        if size_hw is None:
            size_hw = upright_size(path)
        else:
            check_size(path, size_hw, said_by=said_by or path)
        name = path.absolute().relative_to(self._root).as_posix()
        entry = {"id": len(self._images) + 1, "file_name": name, "height": size_hw[0], "width": size_hw[1]}
        self._images.append(entry)
        return entry

    def add_objects(self, image: Json, objects: Sequence[FoundObject]) -> None:
        """Enter the objects of an image; classes that are not wanted and boxes without area are left out."""
        for one in objects:
            if self._given is not None and one.name not in self._given:
                self.note(f"object(s) of class {one.name!r} left out, which is not among the chosen classes")
            elif not all(map(math.isfinite, one.bbox_xywh)) or max(map(abs, one.bbox_xywh)) > _LARGEST_PX:
                self.problems.append(
                    f"{image['file_name']}: an object of class {one.name!r} has the box {list(one.bbox_xywh)}, which "
                    "is not in pixels of an image. Correct its coordinates."
                )
            elif min(one.bbox_xywh[2:]) <= 0:
                self.note(f"object(s) of class {one.name!r} left out, whose box has no area")
            else:
                self._objects.append((image["id"], one))

    def finish(self, source: Path) -> Converted:
        """Assemble the file.

        Args:
            source: what was converted, for messages.

        Raises:
            DataError: listing everything that is wrong.
        """
        raise_all(self.problems, DataError, summary=f"{source} cannot be converted")
        if not self._images:
            raise DataError(
                f"{source}: no image was found, at least one is needed. Images end in {', '.join(IMAGE_SUFFIXES)}."
            )
        ids = self._category_ids()
        if not ids:
            raise DataError(f"{source}: no object with a class was found, at least one is needed. Annotate one.")
        sizes = {image["id"]: (image["height"], image["width"]) for image in self._images}
        annotations = [
            _entry(number, image_id, ids[one.name], one, sizes[image_id])
            for number, (image_id, one) in enumerate(self._objects, start=1)
        ]
        document = {
            "info": {"description": f"converted from {source.name}"},
            "categories": [{"id": number, "name": name} for name, number in ids.items()],
            "images": self._images,
            "annotations": annotations,
        }
        return Converted(document, self._root, tuple(f"{count} {what}" for what, count in self._notes.items()))

    def _category_ids(self) -> dict[str, int]:
        if self._given is not None:
            return self._given
        names = sorted({one.name for _, one in self._objects})
        return {name: number for number, name in enumerate(names, start=1)}


class ImageFolder:
    """The images that lie in a folder and below it; the only place where names from annotation files are looked up."""

    def __init__(self, root: Path) -> None:
        """List the folder.

        Raises:
            DataError: if there is no such folder.
        """
        if not root.is_dir():
            raise DataError(f"The image folder {root} does not exist. Create it or name another one.")
        self.root = root
        self.files = image_files(root)
        self._by_path = {path.relative_to(root).as_posix(): path for path in self.files}
        self._by_name: dict[str, list[Path]] = {}
        self._by_stem: dict[str, list[Path]] = {}
        for path in self.files:
            self._by_name.setdefault(path.name.lower(), []).append(path)
            self._by_stem.setdefault(path.stem.lower(), []).append(path)

    def find(self, named: str | None, *, beside: str, stem: str) -> Path | None:
        """Return the image that an annotation file means, or None.

        Args:
            named: the name the file gives; a path that leads out of the folder counts by its last part only.
            beside: the annotation file's own folder relative to the root of its kind, in POSIX form; "" for the root.
            stem: the annotation file's name without its ending; tried where `named` leads nowhere.
        """
        wanted = (named or "").replace("\\", "/")
        base = posixpath.basename(wanted)
        for candidate in (posixpath.join(beside, wanted), wanted, posixpath.join(beside, base)):
            found = self._by_path.get(posixpath.normpath(candidate)) if candidate else None
            if found is not None:
                return found
        named_so = self._by_name.get(base.lower(), [])
        if len(named_so) == 1:
            return named_so[0]
        called_so = self._by_stem.get(stem.lower(), [])
        near = [path for path in called_so if path.parent.relative_to(self.root) == Path(beside)]
        for group in (near, called_so):
            if len(group) == 1:
                return group[0]
        return None


def image_files(root: Path) -> list[Path]:
    """List the images in a folder and below it, by name; hidden files and folders are left out."""
    return sorted(path for path in _visible(root) if path.suffix.lower() in IMAGE_SUFFIXES)


def files_below(root: Path, suffix: str) -> list[Path]:
    """List the files with an ending in a folder and below it, by name; hidden ones are left out.

    Raises:
        DataError: if there is no such folder, or no such file in it.
    """
    if not root.is_dir():
        raise DataError(f"The folder {root} does not exist. Name the folder that holds the {suffix} files.")
    found = sorted(path for path in _visible(root) if path.suffix.lower() == suffix)
    if not found:
        raise DataError(f"{root} holds no {suffix} file, at least one is needed. Name the folder that holds them.")
    return found


def polygon_box(polygons: Sequence[Sequence[float]]) -> Box:
    """Return the COCO box around polygons [[x0, y0, x1, y1, ...], ...]."""
    xs = [x for polygon in polygons for x in polygon[0::2]]
    ys = [y for polygon in polygons for y in polygon[1::2]]
    return (min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys))


def write_converted(converted: Converted, output: Path) -> None:
    """Write the annotation file, whole or not at all."""
    write_json(output, converted.document, indent=None)


def _visible(root: Path) -> list[Path]:
    def hidden(path: Path) -> bool:
        return any(part.startswith(".") for part in path.relative_to(root).parts)

    return [path for path in root.rglob("*") if path.is_file() and not hidden(path)]


def _entry(number: int, image_id: int, category_id: int, one: FoundObject, size_hw: tuple[int, int]) -> Json:
    entry: Json = {
        "id": number,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": [round(value, 3) for value in one.bbox_xywh],
        "area": round(one.bbox_xywh[2] * one.bbox_xywh[3], 3),
        "iscrowd": 0,
        **one.extras,
    }
    if one.segmentation is not None:
        entry["segmentation"] = one.segmentation
        entry["area"] = rle_area(segmentation_rle(one.segmentation, *size_hw), *size_hw)
    return entry
