"""The ground truth of a targets file, prepared once per process for all runs on it.

Images and classes are renumbered, so ids of any size, text ids and mixtures make no difference.
Suffixes: G objects, A area ranges.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from ntt.data.coco import CocoDataset
from ntt.data.masks import segmentation_rle
from ntt.evaluation.curves import AREA_RANGES_PX, Protocol
from ntt.evaluation.federated import Federation, federation_of
from ntt.ops.ragged import by_group
from ntt.ops.run_lengths import rle_areas
from ntt.types import BoolArray, Category, DoubleArray, ImageId, Instance, IntArray, Json

_CACHE_SIZE = 4
_CACHE: "dict[tuple[Any, ...], GroundTruth]" = {}


@dataclass(frozen=True)
class GroundTruth:
    """The objects of the searched classes, in file order. A class index is a position in `categories`.

    A pair of image and class is one number: image index * number of classes + class index.

    Attributes:
        categories: the searched classes, sorted by id.
        image_indices: id of every image -> its index, by ascending id: the order in which COCOeval takes them.
        sizes: (height, width) by image index.
        pairs: int64 [G], the pair of each object.
        boxes_xywh: float64 [G, 4], COCO boxes as the file has them, before clipping.
        is_crowd: bool [G], crowd regions; none by LVIS' rules.
        is_ignored: bool [A, G], objects that are not required, but not wrong to find: crowd regions (COCO's protocol),
            those marked `ignore` (LVIS'), and those outside an area range.
        has_masks: whether every object has a mask.
        occupied: int64, sorted, pairs with an object, a crowd region, or an annotation that was left out because its
            box or mask is unusable.
        federation: which classes were searched for in which images; None under COCO's protocol.
    """

    protocol: Protocol
    categories: tuple[Category, ...]
    image_indices: Mapping[ImageId, int]
    sizes: tuple[tuple[int, int], ...]
    instances: tuple[Instance, ...]
    pairs: IntArray
    boxes_xywh: DoubleArray
    is_crowd: BoolArray
    is_ignored: BoolArray
    has_masks: bool
    occupied: IntArray
    federation: Federation | None = None

    @cached_property
    def class_indices(self) -> Mapping[int, int]:
        """Category id -> class index."""
        return {category.id: index for index, category in enumerate(self.categories)}

    @cached_property
    def labels(self) -> IntArray:
        """The class index of each object: int64 [G]."""
        return self.pairs % len(self.categories)

    @cached_property
    def objects_by_image(self) -> list[IntArray]:
        """By image index, the indices of its objects, crowd regions included, in file order."""
        return by_group(self.pairs // len(self.categories), len(self.sizes))

    def required_objects(self, image: int) -> IntArray:
        """Return the indices of an image's objects that are not ignored, in file order."""
        objects = self.objects_by_image[image]
        counted: IntArray = objects[~self.is_ignored[0, objects]]
        return counted

    @cached_property
    def by_pair(self) -> IntArray:
        """Object indices sorted by pair, in file order within a pair: int64 [G]."""
        return np.argsort(self.pairs, kind="stable")

    def objects_of(self, images: IntArray, labels: IntArray) -> tuple[IntArray, IntArray]:
        """Return where in `by_pair` the objects of images and classes begin, and how many there are: int64 each."""
        pairs, ordered = images * len(self.categories) + labels, self.pairs[self.by_pair]
        first = ordered.searchsorted(pairs)
        return first, ordered.searchsorted(pairs, side="right") - first

    @cached_property
    def mask_areas(self) -> DoubleArray:
        """Foreground pixels of every object's mask: float64 [G]; only where `has_masks`."""
        return rle_areas([rle["counts"] for rle in self.rles]).astype(np.float64)

    @cached_property
    def num_counted(self) -> IntArray:
        """Objects of each class that are not ignored: int64 [A, classes]."""
        count = len(self.categories)
        return np.stack([np.bincount(self.labels[~ignored], minlength=count) for ignored in self.is_ignored])

    @cached_property
    def is_negative(self) -> BoolArray:
        """Whether an image has nothing of a class, according to the file: bool [images, classes].

        COCO's protocol: if it has no annotation of it. LVIS': if its absence was verified.
        """
        negative = np.full((len(self.sizes), len(self.categories)), self.federation is None)
        if self.federation is None:
            negative.flat[self.occupied] = False
        else:
            negative.flat[self.federation.absent] = True
        return negative

    @cached_property
    def rles(self) -> list[Json]:
        """Every object's mask as a compressed RLE with `size` and `counts`; only where `has_masks`."""
        rles = []
        for instance in self.instances:
            size = self.sizes[self.image_indices[instance.image_id]]
            segmentation = _box_polygon(instance) if instance.segmentation is None else instance.segmentation
            rles.append({"size": list(size), "counts": segmentation_rle(segmentation, *size)})
        return rles


def prepare_ground_truth(
    dataset: CocoDataset, categories: Sequence[Category], *, protocol: Protocol = "coco"
) -> GroundTruth:
    """Prepare the ground truth of a file and searched classes, in any order; the last few are cached.

    Files are identified by their digest and by the image sizes, which an annotation file may leave to the images. A
    DataError if the file lacks what LVIS' protocol needs.
    """
    ordered = tuple(sorted(categories, key=lambda category: category.id))
    sizes = tuple((image.id, image.height, image.width) for image in dataset.images.values())
    key = (dataset.digest, ordered, sizes, protocol, difficult_as(dataset))
    if key not in _CACHE:
        if len(_CACHE) == _CACHE_SIZE:
            del _CACHE[next(iter(_CACHE))]
        _CACHE[key] = _prepare(dataset, ordered, protocol)
    return _CACHE[key]


def difficult_as(dataset: CocoDataset) -> str | None:
    """Return how difficult objects count, "crowd" or "ordinary"; None if there are none."""
    return next(("crowd" if i.iscrowd else "ordinary" for i in dataset.instances if i.isdifficult), None)


def _prepare(dataset: CocoDataset, categories: tuple[Category, ...], protocol: Protocol) -> GroundTruth:
    if protocol == "lvis":  # crowd regions are objects like any other; objects need an area
        objects = (replace(each, iscrowd=False) if each.iscrowd else each for each in dataset.instances)
        dataset = replace(dataset, instances=tuple(each for each in objects if each.area_px > 0))
    image_ids = sorted(dataset.images, key=lambda image_id: (isinstance(image_id, str), image_id))
    image_indices = {image_id: index for index, image_id in enumerate(image_ids)}
    class_indices = {category.id: index for index, category in enumerate(categories)}
    dropped = [
        instance
        for _, instance in dataset.dropped
        if instance.category_id in class_indices and (protocol == "coco" or instance.area_px > 0)
    ]
    instances = [instance for instance in dataset.instances if instance.category_id in class_indices]
    is_crowd = is_marked = np.array([instance.iscrowd for instance in instances], dtype=np.bool_)
    if protocol == "lvis":
        is_marked = np.array([instance.id in dataset.ignored for instance in instances], dtype=np.bool_)
    areas = np.array([instance.area_px for instance in instances], dtype=np.float64)
    boxes = [dataset.boxes_as_written.get(instance.id, instance.bbox_xywh) for instance in instances]
    pairs = np.array(
        [
            image_indices[instance.image_id] * len(categories) + class_indices[instance.category_id]
            for instance in (*instances, *dropped)
        ],
        dtype=np.int64,
    )
    occupied = np.unique(pairs)
    return GroundTruth(
        protocol=protocol,
        categories=categories,
        image_indices=image_indices,
        sizes=tuple((dataset.images[image_id].height, dataset.images[image_id].width) for image_id in image_ids),
        instances=tuple(instances),
        pairs=pairs[: len(instances)],
        boxes_xywh=np.array(boxes, dtype=np.float64).reshape(-1, 4),
        is_crowd=is_crowd,
        is_ignored=np.stack([is_marked | (areas < low) | (areas > high) for low, high in AREA_RANGES_PX.values()]),
        has_masks=dataset.has_masks,
        occupied=occupied,
        federation=None if protocol == "coco" else federation_of(dataset, categories, image_ids, occupied),
    )


def _box_polygon(instance: Instance) -> list[list[float]]:
    """Return the box, as a polygon, of a crowd region that has no mask."""
    left, top, width, height = instance.bbox_xywh
    right, bottom = left + width, top + height
    return [[left, top, right, top, right, bottom, left, bottom]]
