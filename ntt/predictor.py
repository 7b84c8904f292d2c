"""The method as a Python object: examples in, detections out; no configuration files, no run directory.

It is made of the same parts as a run, so detections are those of a run with the same settings.
"""

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from ntt.base.distributed import ProcessGroup
from ntt.config.compose import compose_many
from ntt.convert.labelme import mask_object
from ntt.convert.plain_folder import convert_references, foreground, read_mask
from ntt.data.images import upright_size
from ntt.data.masks import segmentation_rle
from ntt.data.pixels import to_rgb
from ntt.errors import ConfigError, DataError, raise_all
from ntt.ops.masks import decode_masks
from ntt.run.models import build_models
from ntt.stages.matching import build_prototypes
from ntt.stages.memory import fill_memory
from ntt.store.entries import Arrays
from ntt.store.store import Store
from ntt.types import Category, FloatArray, ImageRecord, Instance, IntArray, MemoryBank, ReferenceSet

ImageLike: TypeAlias = str | os.PathLike[str] | Image.Image | npt.NDArray[np.uint8]
"""A file; a picture; or pixels: uint8 [H, W, 3] RGB, or [H, W] grey. Files are turned as their EXIF data say, pictures
and pixels are taken as they are."""

MaskLike: TypeAlias = str | os.PathLike[str] | Image.Image | npt.NDArray[Any]
"""A PNG file or a picture, white on black; or an array [H, W], bool, or numbers of which those count that are larger
than half of the largest."""


@dataclass(frozen=True)
class Reference:
    """One example of the class `name`.

    Attributes:
        mask: its pixels; None where there is only a box, or nothing.
        box_xyxy: left, top, right, bottom in pixels; None: the box around the mask, else the whole image.
    """

    image: ImageLike
    name: str
    mask: MaskLike | None = None
    box_xyxy: Sequence[float] | None = None


@dataclass(frozen=True)
class Prediction:
    """What was found in one image: N detections by descending score.

    Attributes:
        labels: int64 [N], indices into the predictor's `classes`.
        scores: float32 [N] in (0, 1].
        boxes_xyxy: float32 [N, 4], left, top, right, bottom in image pixels, right and bottom exclusive.
        rles: N masks as COCO compressed run lengths, small where `masks` may be large.
    """

    labels: IntArray
    names: tuple[str, ...]
    scores: FloatArray
    boxes_xyxy: FloatArray
    rles: tuple[bytes, ...]
    height: int
    width: int

    def __len__(self) -> int:
        """Return N."""
        return len(self.names)

    @cached_property
    def masks(self) -> npt.NDArray[np.bool_]:
        """The masks, bool [N, H, W]; decoded when first asked for."""
        return decode_masks(self.rles, self.height, self.width)

    def above(self, score: float) -> "Prediction":
        """Return the detections with at least this score."""
        count = int((self.scores >= score).sum())
        return replace(
            self,
            labels=self.labels[:count],
            names=self.names[:count],
            scores=self.scores[:count],
            boxes_xyxy=self.boxes_xyxy[:count],
            rles=self.rles[:count],
        )


class Predictor:
    """Finds objects of the classes it was shown examples of."""

    def __init__(
        self,
        references: Sequence[Reference],
        *,
        backbone: str = "efficientnet_lite0",
        segmenter: str = "regions",
        matcher: str = "ntt",
        overrides: Sequence[str] = (),
        store: str | os.PathLike[str] | None = None,
    ) -> None:
        """Encode the examples. Sets PyTorch's number of threads and its determinism as `runtime` says.

        Args:
            references: the examples; classes are numbered in the order in which they first occur.
            backbone: an option of the config group, such as "dinov2_vitl14".
            segmenter: option, such as "sam2".
            matcher: option.
            overrides: any further settings, as on the command line: "runtime=gpu", "matcher.merging=hard".
            store: a folder in which what was computed is kept, that of a run for example; None: nothing is kept.

        Raises:
            NttError: for an example that cannot be used, a wrong setting, or missing weights.
        """
        examples = _examples(references)
        options = (f"backbone={backbone}", f"segmenter={segmenter}", f"matcher={matcher}")
        (config,) = compose_many([[*options, *overrides]])
        entries = _NoStore(Path()) if store is None else Store(Path(store).expanduser().absolute())
        self._models, self._matcher = build_models(config, store=entries), config.matcher
        with tempfile.TemporaryDirectory(prefix="ntt-") as folder:
            reference_set = _reference_set(examples, Path(folder))
            memory = self._fill(reference_set)
        self._prototypes = build_prototypes(memory=memory, matcher=self._matcher)
        self.classes = tuple(category.name for category in memory.categories)

    def _fill(self, references: ReferenceSet) -> MemoryBank:
        encoder, matcher = self._models.encoder, self._matcher
        if matcher.reads_clear_surroundings:
            encoder = replace(encoder, objects_of_image=references.instances_of_image)
        source = self._models.source if matcher.reads_full_images else None
        return fill_memory(references=references, encoder=encoder, group=ProcessGroup(), source=source)

    def __call__(self, image: ImageLike) -> Prediction:
        """Search one image.

        Raises:
            DataError: if it cannot be read.
        """
        with _as_file(image) as record:
            candidates = self._models.source.get(record)
            detections = self._matcher.match(record.id, candidates, self._prototypes)
        corners = detections.boxes_xywh.copy()
        corners[:, 2:] += corners[:, :2]
        return Prediction(
            labels=detections.labels,
            names=tuple(self.classes[label] for label in detections.labels.tolist()),
            scores=detections.scores,
            boxes_xyxy=corners,
            rles=detections.rles,
            height=detections.height,
            width=detections.width,
        )


def references_from_folder(folder: str | os.PathLike[str]) -> list[Reference]:
    """Read examples stored in one folder per class, with masks, boxes or neither; see docs/data.md.

    Raises:
        DataError: listing everything that cannot be used.
    """
    document = convert_references(Path(folder).expanduser()).document
    names = {entry["id"]: entry["name"] for entry in document["categories"]}
    images = {entry["id"]: entry for entry in document["images"]}
    references = []
    for entry in document["annotations"]:
        image = images[entry["image_id"]]
        left, top, width, height = entry["bbox"]
        mask = None
        if "segmentation" in entry:
            size = (image["height"], image["width"])
            mask = decode_masks([segmentation_rle(entry["segmentation"], *size)], *size)[0]
        path = Path(folder).expanduser() / image["file_name"]
        references.append(Reference(path, names[entry["category_id"]], mask, (left, top, left + width, top + height)))
    return references


class _NoStore(Store):
    def read(self, kind: str, key: str) -> None:
        pass

    def write(self, kind: str, key: str, arrays: Arrays, *, notes: Any) -> None:
        pass


def _reference_set(references: Sequence[Reference], folder: Path) -> ReferenceSet:
    """Turn examples into what the memory is filled from; images without a file are written into `folder`."""
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
                records[key] = _record(image, folder / f"{number}.png", number)
            label = classes.index(reference.name)
            groups[label].append(_instance(reference, number, label + 1, records[key]))
        except DataError as error:
            problems.append(f"Example {number} ({reference.name}): {error}")
    raise_all(problems, DataError, summary="Some examples cannot be used")
    shots = max(map(len, groups))
    images = {record.id: record for record in records.values()}
    return ReferenceSet(categories, instances=tuple(map(tuple, groups)), images=images, shots=shots, seed=0)


def _examples(references: Any) -> tuple[Reference, ...]:
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


def _record(image: ImageLike, spare_path: Path, number: int) -> ImageRecord:
    """Return the image as a file; one that is none is written, without loss, to `spare_path`."""
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


def _mask(mask: MaskLike, size_hw: tuple[int, int]) -> npt.NDArray[np.bool_]:
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
def _as_file(image: ImageLike) -> Iterator[ImageRecord]:
    with tempfile.TemporaryDirectory(prefix="ntt-") as folder:
        yield _record(image, Path(folder) / "image.png", 0)
