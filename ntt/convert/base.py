"""What all converters share: an annotation file under construction.

A converter reads a foreign format and returns a `Converted`, or raises a DataError that lists everything that cannot be
used; none writes. Names in foreign files are never used as paths: they are looked up among the files of the image
folder (`ntt.convert.folders`).
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from ntt.convert.folders import ANNOTATION_SUFFIXES, Folder
from ntt.data.coco_entries import Box
from ntt.data.documents import read_bytes
from ntt.data.images import check_size, upright_size
from ntt.data.masks import rle_area, segmentation_rle
from ntt.errors import DataError, raise_all
from ntt.types import Category, Json

NAMES_ANOTHER = "file(s) name another image than the file's own name, which counts: both exist"
T = TypeVar("T")
_LARGEST_PX = 1e6


@dataclass(frozen=True)
class Converted:
    """An annotation file in COCO format that is not written yet.

    Attributes:
        image_root: the folder its file names are relative to.
        notes: what was left out or corrected, in one sentence each for the user.
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
        segmentation: polygons or RLE as in COCO; None if there is only a box.
        extras: further keys of the annotation, such as `iscrowd`.
    """

    name: str
    bbox_xywh: Box
    segmentation: list[list[float]] | dict[str, Any] | None = None
    extras: dict[str, Any] = field(default_factory=dict)


class CocoBuilder:
    """Collects images and objects, the problems found in them, and notes on what was left out."""

    def __init__(
        self, images: Folder, categories: Sequence[Category] | None = None, *, annotations: Folder | None = None
    ) -> None:
        """Start an empty file; `categories` are the classes to keep, None: all, numbered in order of name.

        `annotations` is the folder of the annotation files if that is not the images'.
        """
        self.folder, self._listing = images, annotations or images
        self.problems = [*images.problems, *self._listing.problems]
        self._root = images.root.absolute()
        self._given_ids = None if categories is None else {category.name: category.id for category in categories}
        self._images: list[Json] = []
        self._objects: list[tuple[Json, LabelledObject]] = []
        self._notes: defaultdict[str, list[object]] = defaultdict(list)
        for what in images.notes:
            self.note(what)

    def annotated_images(
        self, files: Sequence[Path], read: Callable[[Path], tuple[T, str | None]], *, is_part: bool = False
    ) -> Iterator[tuple[Path, T, Path]]:
        """Yield annotation files, their content, and the image of each.

        `read` returns a file's content and the image name it states. Wrong names are noted, and so are images without a
        file, unless the files are only a part (`is_part`).
        """
        file_of: dict[Path, Path] = {}
        for file in files:
            with self.collecting():
                content, stated = read(file)
                path, names_another = self.folder.find(stated, file, self._listing.root)
                if names_another:
                    self.note(NAMES_ANOTHER, file)
                if file_of.setdefault(path, file) != file:
                    raise DataError(f"{file_of[path]} and {file} describe one image, {path}. Remove one of them.")
                yield file, content, path
        left_out = [path for path in self.folder.images if path not in file_of]
        if left_out and not is_part:
            self.note("image(s) without a file of annotations left out", *left_out)
        for folder in dict.fromkeys((self._listing, self.folder)):
            self.note_passed_over(folder.passed_over(files, harmless=ANNOTATION_SUFFIXES))

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Add a DataError raised in the block to the problems."""
        try:
            yield
        except DataError as error:
            self.problems.append(str(error))

    def note(self, what: str, *examples: object) -> None:
        """Count something that was left out or corrected: once, or once per example.

        `what` completes the sentence "N ...", to which the first example is added in brackets.
        """
        self._notes[what] += examples or [None]

    def note_passed_over(self, files: Sequence[Path]) -> None:
        """Note files that were not used."""
        if files:
            self.note("file(s) passed over, which are neither readable images nor files that belong to one", *files)

    def add_image(self, path: Path, size_hw: tuple[int, int] | None = None, *, stated_by: Path | None = None) -> Json:
        """Add an image below the image folder; return its entry. A DataError if it is unreadable or of another size.

        Its size (height, width), stored or upright, is read from the image unless the file `stated_by` states it.
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
        """Add the objects of an image, except those of other classes and those whose boxes have no area."""
        for labelled in objects:
            name, box = labelled.name, labelled.bbox_xywh
            polygons = labelled.segmentation if isinstance(labelled.segmentation, list) else []
            where = f"{image['file_name']}: an object of class {name!r} with the box {list(box)}"
            if self._given_ids is not None and name not in self._given_ids:
                self.note(f"object(s) of class {name!r} left out, which is not among the chosen classes")
            elif not all(abs(value) <= _LARGEST_PX for value in chain(box, *polygons)):  # or nan
                self.problems.append(f"{where} has points that are not in pixels of an image.")
            elif min(box[2:]) <= 0:
                self.note(f"object(s) of class {name!r} left out, whose box has no area")
            elif _looks_like_fractions(box):
                self.problems.append(f"{where}: pixels are needed, these look like fractions.")
            else:
                self._objects.append((image, labelled))

    def finish(self, source: Path) -> Converted:
        """Assemble the file, or raise a DataError that lists every problem; `source` is named in messages."""
        raise_all(self.problems, DataError, summary=f"{source} cannot be converted")
        if not self._images:
            raise DataError(f"{source}: there is no image. Put one there, as JPEG or PNG for example.")
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
        notes = (
            f"{len(examples)} {what}" + ("" if examples[0] is None else f" ({examples[0]})")
            for what, examples in self._notes.items()
        )
        return Converted(document, self._root, tuple(notes))


def _looks_like_fractions(box: Box) -> bool:
    """Return whether a box lies between 0, of which Pascal VOC's corners make -1, and 1, not in whole numbers."""
    is_small = min(box) >= -1 and max(box[0] + box[2], box[1] + box[3]) <= 1
    return is_small and not all(float(value).is_integer() for value in box)


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


def read_lines(path: Path, max_bytes: int = 64 << 20) -> list[str]:
    """Read the lines of a UTF-8 text file."""
    try:
        # Unlike `splitlines`, which takes U+2028, form feeds and others for ends of lines.
        return re.split("\r\n|\n|\r", read_bytes(path, max_bytes).decode("utf-8-sig").rstrip("\r\n"))
    except UnicodeDecodeError as error:
        raise DataError(f"{path} cannot be read: {error}. A text file in UTF-8 is needed.") from error


def read_list(list_file: Path) -> list[str]:
    """Read a list of images such as ImageSets/Main/test.txt: the first word of each line that is not empty."""
    names = [line.split()[0] for line in read_lines(list_file) if line.strip()]
    if not names:
        raise DataError(f"The list {list_file} is empty: one image name per line is needed.")
    return names


def find_listed(names: Iterable[str], names_of: Mapping[T, Sequence[str]], where: str) -> list[T]:
    """Return what a list names, each once: `names_of` has the names of each, of which the first that fits counts.

    A DataError for every name that nothing has, or several have; `where` says in it where that was looked for.
    """
    tables: list[defaultdict[str, list[T]]] = [defaultdict(list) for _ in next(iter(names_of.values()), ())]
    for each, own_names in names_of.items():
        for table, name in zip(tables, own_names, strict=True):
            table[name].append(each)
    matches = {name: next((table[name] for table in tables if name in table), []) for name in names}
    problems = [
        f"{name!r} of the list {f'means {len(own)} images' if own else 'is no image'} of {where}. Write its whole "
        "name, or remove it."
        for name, own in matches.items()
        if len(own) != 1
    ]
    raise_all(problems, DataError, summary="The list does not fit")
    return list(dict.fromkeys(own[0] for own in matches.values()))


def polygon_box(polygons: Sequence[Sequence[float]]) -> Box:
    """Return the COCO box around polygons [[x0, y0, x1, y1, ...], ...]."""
    xs = [x for polygon in polygons for x in polygon[0::2]]
    ys = [y for polygon in polygons for y in polygon[1::2]]
    return (min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys))
