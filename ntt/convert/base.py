"""What all converters share: an annotation file under construction, and the search for the images it refers to.

A converter reads a foreign format and returns a `Converted`; none writes. Names in foreign files are never used as
paths: they are looked up among the files of the image folder.
"""

import math
import posixpath
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
        image_root: the folder its file names start from.
        notes: what was left out or corrected, one sentence each, for the user.
    """

    document: Json
    image_root: Path
    notes: tuple[str, ...] = ()

    @property
    def categories(self) -> tuple[Category, ...]:
        """Its classes, in file order."""
        return tuple(Category(entry["id"], entry["name"]) for entry in self.document["categories"])


@dataclass(frozen=True)
class LabelledObject:
    """One object of a foreign annotation file, its box in image pixels.

    Attributes:
        name: of its class.
        segmentation: polygons or RLE as COCO has them; None where only the box is known.
        extras: further keys of the annotation, such as `iscrowd`.
    """

    name: str
    bbox_xywh: Box
    segmentation: list[list[float]] | dict[str, Any] | None = None
    extras: dict[str, Any] = field(default_factory=dict)


class CocoBuilder:
    """Collects images and objects, the problems found in them, and notes on what was left out."""

    def __init__(self, image_root: Path, categories: Sequence[Category] | None = None) -> None:
        """Start an empty file; `categories` are the classes to keep, None: all that occur, numbered by name."""
        self.problems: list[str] = []
        self._root = image_root.absolute()
        self._given_ids = None if categories is None else {category.name: category.id for category in categories}
        self._images: list[Json] = []
        self._objects: list[tuple[Json, LabelledObject]] = []
        self._notes: Counter[str] = Counter()

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Turn a DataError of the block into one of the problems."""
        try:
            yield
        except DataError as error:
            self.problems.append(str(error))

    def note(self, what: str, count: int = 1) -> None:
        """Count something that was left out or corrected; `what` completes the sentence "N ..."."""
        self._notes[what] += count

    def add_image(self, path: Path, size_hw: tuple[int, int] | None = None, *, stated_by: Path | None = None) -> Json:
        """Enter an image below the image folder and return its entry.

        Its size (height, width), stored or upright, is read from the image unless the file `stated_by` gives it.

        Raises:
            DataError: if the image cannot be read or has another size.
        """
        if size_hw is None:
            size_hw = upright_size(path)
        else:
            check_size(path, size_hw, stated_by=stated_by or path)
        name = path.absolute().relative_to(self._root).as_posix()
        entry = {"id": len(self._images) + 1, "file_name": name, "height": size_hw[0], "width": size_hw[1]}
        self._images.append(entry)
        return entry

    def add_objects(self, image: Json, objects: Iterable[LabelledObject]) -> None:
        """Enter the objects of an image; classes not among the given ones and boxes without area are left out."""
        for labelled in objects:
            name, box = labelled.name, labelled.bbox_xywh
            if self._given_ids is not None and name not in self._given_ids:
                self.note(f"object(s) of class {name!r} left out, which is not among the chosen classes")
            elif not all(map(math.isfinite, box)) or max(map(abs, box)) > _LARGEST_PX:
                where = f"{image['file_name']}: an object of class {name!r}"
                self.problems.append(f"{where} has the box {list(box)}, which is not in pixels of an image.")
            elif min(box[2:]) <= 0:
                self.note(f"object(s) of class {name!r} left out, whose box has no area")
            else:
                self._objects.append((image, labelled))

    def finish(self, source: Path) -> Converted:
        """Assemble the file, or raise a DataError that lists every problem; `source` is named in messages."""
        raise_all(self.problems, DataError, summary=f"{source} cannot be converted")
        if not self._images:
            raise DataError(f"{source}: there is no image. Images end in {', '.join(IMAGE_SUFFIXES)}.")
        names = sorted({labelled.name for _, labelled in self._objects})
        ids = {name: number for number, name in enumerate(names, start=1)}
        ids = ids if self._given_ids is None else self._given_ids
        if not ids:
            raise DataError(f"{source}: there is no object with a class. Annotate one.")
        document = {
            "info": {"description": f"converted from {source.name}"},
            "categories": [{"id": number, "name": name} for name, number in ids.items()],
            "images": self._images,
            "annotations": [
                _entry(number, image, ids[labelled.name], labelled)
                for number, (image, labelled) in enumerate(self._objects, start=1)
            ],
        }
        return Converted(document, self._root, tuple(f"{count} {what}" for what, count in self._notes.items()))


def _entry(number: int, image: Json, category_id: int, labelled: LabelledObject) -> Json:
    box = labelled.bbox_xywh
    entry: Json = {
        "id": number,
        "image_id": image["id"],
        "category_id": category_id,
        "bbox": [round(value, 3) for value in box],
        "area": round(box[2] * box[3], 3),
        "iscrowd": 0,
        **labelled.extras,
    }
    if labelled.segmentation is not None:
        size = (image["height"], image["width"])
        entry["segmentation"] = labelled.segmentation
        entry["area"] = rle_area(segmentation_rle(labelled.segmentation, *size), *size)
    return entry


class ImageFolder:
    """The images in a folder and below it; the only place where names from annotation files are looked up."""

    def __init__(self, root: Path, annotation_root: Path) -> None:
        """List the folder; subfolders of `annotation_root` correspond to its own."""
        if not root.is_dir():
            raise DataError(f"The image folder {root} does not exist. Create it or name another one.")
        self.root, self._annotation_root = root, annotation_root
        self._by_path: dict[str, Path] = {}
        self._by_name: defaultdict[str, list[Path]] = defaultdict(list)
        self._by_stem: defaultdict[str, list[Path]] = defaultdict(list)
        for path in image_files(root):
            self._by_path[path.relative_to(root).as_posix()] = path
            self._by_name[path.name.lower()].append(path)
            self._by_stem[path.stem.lower()].append(path)

    def find(self, name: str | None, annotation_file: Path) -> Path:
        """Return the image that an annotation file describes, by the name it gives or by the file's own.

        Of a path that leads out of the folder only the last part counts.

        Raises:
            DataError: if there is no such image.
        """
        subfolder = annotation_file.parent.relative_to(self._annotation_root).as_posix()
        stated = (name or "").replace("\\", "/")
        base = posixpath.basename(stated)
        for candidate in (posixpath.join(subfolder, stated), stated, posixpath.join(subfolder, base)):
            path = self._by_path.get(posixpath.normpath(candidate))
            if path is not None:
                return path
        same_stem = self._by_stem[annotation_file.stem.lower()]
        near = [path for path in same_stem if path.parent == self.root / subfolder]
        # A name that several images share says nothing.
        for matches in (self._by_name[base.lower()], near, same_stem):
            if len(matches) == 1:
                return matches[0]
        raise DataError(f"{annotation_file}: there is no image {name!r} or {annotation_file.stem}.* in {self.root}.")


def image_files(root: Path) -> list[Path]:
    """List the images in a folder and below it, by name; hidden files and folders are left out."""
    return _visible(root, IMAGE_SUFFIXES)


def files_below(root: Path, suffix: str) -> list[Path]:
    """List the files with an ending in a folder and below it, by name, at least one; hidden ones are left out."""
    files = _visible(root, (suffix,))
    if not files:
        problem = f"holds no {suffix} file" if root.is_dir() else "does not exist"
        raise DataError(f"The folder {root} {problem}. Name the folder that holds the {suffix} files.")
    return files


def read_bytes(path: Path, max_bytes: int) -> bytes:
    """Read a whole file of unknown origin; refuse one that is too large to be what it should be."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}.") from error
    if len(data) > max_bytes:
        raise DataError(f"{path} has {len(data)} bytes, at most {max_bytes} are read.")
    return data


def read_lines(path: Path, max_bytes: int = 64 << 20) -> list[str]:
    """Read the lines of a UTF-8 text file."""
    try:
        return read_bytes(path, max_bytes).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} cannot be read: {error}. A text file in UTF-8 is needed.") from error


def polygon_box(polygons: Sequence[Sequence[float]]) -> Box:
    """Return the COCO box around polygons [[x0, y0, x1, y1, ...], ...]."""
    xs = [x for polygon in polygons for x in polygon[0::2]]
    ys = [y for polygon in polygons for y in polygon[1::2]]
    return (min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys))


def _visible(root: Path, suffixes: Sequence[str]) -> list[Path]:
    return sorted(
        path
        for path in root.rglob("*")
        if path.suffix.lower() in suffixes
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
    )
