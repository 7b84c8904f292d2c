"""Examples of classes for `Predictor`, and how annotation files become examples."""

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from ntt.convert.base import Converted
from ntt.convert.labelme import convert_labelme, mask_object
from ntt.convert.plain_folder import convert_references, foreground, read_mask
from ntt.convert.yolo import convert_yolo
from ntt.data.coco import read_coco
from ntt.data.images import upright_size
from ntt.data.masks import segmentation_rle
from ntt.data.pixels import to_rgb
from ntt.errors import ConfigError, DataError, raise_all
from ntt.ops.masks import decode_masks
from ntt.types import BoolArray, ByteArray, Category, ImageRecord, Instance, ReferenceSet

PathLike: TypeAlias = str | os.PathLike[str]

ImageLike: TypeAlias = str | os.PathLike[str] | Image.Image | ByteArray
"""A file; a picture; or pixels: uint8 [H, W, 3] RGB, or [H, W] grey. Files are turned according to EXIF; pictures and
pixels are used as they are."""

MaskLike: TypeAlias = str | os.PathLike[str] | Image.Image | npt.NDArray[Any]
"""A PNG file or a picture, white on black; or an array [H, W], bool or numbers, whose foreground is above half
of the largest."""


@dataclass(frozen=True, repr=False)
class Reference:
    """One example of the class `name`.

    Attributes:
        mask: its pixels; None if there is only a box, or nothing.
        box_xyxy: left, top, right, bottom in pixels; None: the box around the mask, else the whole image.
    """

    image: ImageLike
    name: str
    mask: MaskLike | None = None
    box_xyxy: Sequence[float] | None = None

    def __repr__(self) -> str:
        """Return one line, whatever the image is."""
        image = Path(self.image).name if isinstance(self.image, str | os.PathLike) else type(self.image).__name__
        part = "box" if self.box_xyxy is not None else "whole image"
        return f"Reference({self.name!r}, {image}, {part if self.mask is None else 'mask'})"


def references_from_folder(folder: PathLike) -> list[Reference]:
    """Read examples stored in one folder per class, with masks, boxes or neither; see docs/data.md.

    Raises:
        DataError: listing everything that cannot be used.
    """
    return _references(convert_references(Path(folder).expanduser()))


def references_from_labelme(folder: PathLike) -> list[Reference]:
    """Read all objects of a folder of images and their LabelMe files; errors as for `references_from_folder`."""
    return _references(convert_labelme(annotations=Path(folder).expanduser()))


def references_from_yolo(root: PathLike, *, subset: str = "train") -> list[Reference]:
    """Read all objects of a subset of a YOLO data set with its class names; errors as for `references_from_folder`."""
    return _references(convert_yolo(Path(root).expanduser(), subset))


def references_from_coco(annotations: PathLike, images: PathLike) -> list[Reference]:
    """Read all objects of a COCO file except crowd regions; `images` is the folder of its images.

    Raises:
        DataError: if the file cannot be used.
    """
    dataset = read_coco(Path(annotations).expanduser(), Path(images).expanduser())
    names = {category.id: category.name for category in dataset.categories}
    references = []
    for instance in dataset.instances:
        if not instance.iscrowd:
            record, name = dataset.images[instance.image_id], names[instance.category_id]
            size_hw = (record.height, record.width)
            references.append(_example(record.path, name, instance.bbox_xywh, instance.segmentation, size_hw))
    return references


def _references(converted: Converted) -> list[Reference]:
    names = {category.id: category.name for category in converted.categories}
    images = {entry["id"]: entry for entry in converted.document["images"]}
    references = []
    for entry in converted.document["annotations"]:
        image, name = images[entry["image_id"]], names[entry["category_id"]]
        path, size_hw = converted.image_root / image["file_name"], (image["height"], image["width"])
        references.append(_example(path, name, entry["bbox"], entry.get("segmentation"), size_hw))
    return references


def _example(
    path: Path, name: str, bbox_xywh: Sequence[float], segmentation: Any, size_hw: tuple[int, int]
) -> Reference:
    left, top, width, height = bbox_xywh
    coded = None if segmentation is None else segmentation_rle(segmentation, *size_hw)
    mask = None if coded is None else decode_masks([coded], *size_hw)[0]
    return Reference(path, name, mask, (left, top, left + width, top + height))


def checked_examples(references: Any) -> tuple[Reference, ...]:
    """Return what was given as examples; a ConfigError for anything else."""
    examples = tuple(references) if isinstance(references, Iterable) else (references,)
    if not examples:
        raise ConfigError("There is no example. Give at least one Reference.")
    for number, example in enumerate(examples, start=1):
        if not isinstance(example, Reference):
            kind = type(example).__name__
            raise ConfigError(f"Example {number} is of type {kind}, a Reference is needed. See references_from_folder.")
        if not isinstance(example.name, str) or not example.name.strip():
            raise ConfigError(f"Example {number} has the class name {example.name!r}: a text is needed.")
    return examples


def reference_set(references: Sequence[Reference], folder: Path) -> ReferenceSet:
    """Turn examples into references for the memory; images without a file are written to `folder`."""
    classes = list(dict.fromkeys(reference.name for reference in references))
    categories = tuple(Category(number, name) for number, name in enumerate(classes, start=1))
    # Examples may share an image: its objects and candidates belong together.
    records: dict[str | int, ImageRecord] = {}
    groups: list[list[Instance]] = [[] for _ in classes]
    problems: list[str] = []
    for number, reference in enumerate(references, start=1):
        try:
            image = reference.image
            key = str(Path(image).expanduser().absolute()) if isinstance(image, str | os.PathLike) else id(image)
            if key not in records:
                records[key] = image_file(image, folder / f"{number}.png", number)
            label = classes.index(reference.name)
            groups[label].append(_instance(reference, number, label + 1, records[key]))
        except DataError as error:
            problems.append(f"Example {number} ({reference.name}): {error}")
    raise_all(problems, DataError, summary="Some examples cannot be used")
    shots = max(map(len, groups))
    images = {record.id: record for record in records.values()}
    return ReferenceSet(categories, instances=tuple(map(tuple, groups)), images=images, shots=shots, seed=0)


def image_file(image: ImageLike, spare_path: Path, number: int) -> ImageRecord:
    """Return the image as a file; if it is none, it is written losslessly to `spare_path`."""
    if isinstance(image, str | os.PathLike):
        path = Path(image).expanduser().absolute()
        if not path.exists():
            raise DataError(f"There is no image {path}. Give the path of an image, or its pixels.")
        height, width = upright_size(path)
        return ImageRecord(number, path.name, path, height, width)
    picture = image if isinstance(image, Image.Image) else _picture(image)
    Image.fromarray(to_rgb(picture)).save(spare_path, format="PNG", compress_level=1)
    return ImageRecord(number, spare_path.name, spare_path, picture.height, picture.width)


def _picture(pixels: Any) -> Image.Image:
    is_picture = isinstance(pixels, np.ndarray) and pixels.dtype == np.uint8 and pixels.size > 0
    if not is_picture or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)):
        details = f"{pixels.dtype} {list(pixels.shape)}" if isinstance(pixels, np.ndarray) else type(pixels).__name__
        raise DataError(f"The image is {details}: a path, a PIL image, or uint8 [H, W, 3] or [H, W] is needed.")
    return Image.fromarray(np.ascontiguousarray(pixels))


def _instance(reference: Reference, number: int, category_id: int, record: ImageRecord) -> Instance:
    mask = None if reference.mask is None else _mask(reference.mask, (record.height, record.width))
    coded = None if mask is None else mask_object(reference.name, mask)
    box = (0.0, 0.0, float(record.width), float(record.height)) if coded is None else coded.bbox_xywh
    if reference.box_xyxy is not None:
        box = _box(reference.box_xyxy, record)
    return Instance(
        id=number,
        image_id=record.id,
        category_id=category_id,
        bbox_xywh=box,
        segmentation=None if coded is None else coded.segmentation,
        area_px=box[2] * box[3] if mask is None else float(mask.sum()),
    )


def _box(corners: Sequence[float], record: ImageRecord) -> tuple[float, float, float, float]:
    try:
        left, top, right, bottom = map(float, corners)
    except (TypeError, ValueError):
        raise DataError(f"The box {corners!r} is not four numbers: left, top, right, bottom in pixels.") from None
    if 0 <= left < right <= record.width and 0 <= top < bottom <= record.height:
        return (left, top, right - left, bottom - top)
    raise DataError(
        f"The box {tuple(corners)} does not lie in the image of {record.width} x {record.height} pixels: left, top, "
        "right, bottom are needed, in this order."
    )


def _mask(mask: MaskLike, size_hw: tuple[int, int]) -> BoolArray:
    """Return a mask, bool [H, W]."""
    if isinstance(mask, str | os.PathLike):
        return read_mask(Path(mask).expanduser(), size_hw)
    pixels = foreground(mask) if isinstance(mask, Image.Image) else np.asarray(mask)
    if pixels.dtype.kind not in "biuf":
        raise DataError(f"The mask is an array of {pixels.dtype}: bool or numbers are needed. Convert it.")
    if pixels.shape != size_hw:
        raise DataError(f"The mask has the shape {list(pixels.shape)}, the image {list(size_hw)}. Make them agree.")
    if pixels.dtype != np.bool_:
        pixels = pixels > pixels.max() / 2
    if not pixels.any():
        raise DataError("The mask is empty. Mark the object in it, or leave the mask out.")
    return pixels


@contextmanager
def as_file(image: ImageLike) -> Iterator[ImageRecord]:
    """Provide the image as a file during a `with` block."""
    with tempfile.TemporaryDirectory(prefix="ntt-") as folder:
        yield image_file(image, Path(folder) / "image.png", 0)
