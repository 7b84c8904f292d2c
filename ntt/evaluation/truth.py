"""The ground truth of a targets file, prepared once a process for all runs on it."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from ntt.data.coco import CocoDataset, to_coco_json
from ntt.data.masks import segmentation_rle
from ntt.evaluation.curves import AREA_RANGES_PX, FloatArray
from ntt.evaluation.federated import Federation, federation_of
from ntt.evaluation.options import Protocol
from ntt.types import Category, ImageId, Json

_KEPT = 4
_RECENT: "OrderedDict[tuple[Any, ...], TruthIndex]" = OrderedDict()


@dataclass(frozen=True)
class TruthIndex:
    """The objects of the searched classes, ready for matching. A class index is a place in `categories`.

    Attributes:
        categories: the searched classes, sorted by id.
        document: ground truth in COCO's form, restricted to these classes; not to be written into.
        image_ids: of every image, sorted: the order in which COCOeval goes through them.
        image_places: id -> place in `image_ids`.
        has_masks: whether every object has a mask.
        occupied: (image place, class index) wherever an image holds anything of a class: an object, a crowd region,
            or an annotation that was left out because its box or mask is unusable.
        federation: which classes were looked for in which images; None where COCO's protocol judges.
    """

    categories: tuple[Category, ...]
    document: Json
    image_ids: tuple[ImageId, ...]
    image_places: Mapping[ImageId, int]
    has_masks: bool
    occupied: frozenset[tuple[int, int]]
    federation: Federation | None = None

    @property
    def protocol(self) -> Protocol:
        """Whose rules hold."""
        return "coco" if self.federation is None else "lvis"

    @property
    def objects(self) -> list[Json]:
        """The annotations of `document`, G of them."""
        found: list[Json] = self.document["annotations"]
        return found

    @cached_property
    def groups(self) -> dict[tuple[int, int], npt.NDArray[np.int64]]:
        """(image place, class index) -> indices of its objects, in file order; without the pairs that have none."""
        class_index = {category.id: place for place, category in enumerate(self.categories)}
        found: dict[tuple[int, int], list[int]] = {}
        for place, entry in enumerate(self.objects):
            key = (self.image_places[entry["image_id"]], class_index[entry["category_id"]])
            found.setdefault(key, []).append(place)
        return {key: np.array(places, dtype=np.int64) for key, places in found.items()}

    @cached_property
    def boxes_xywh(self) -> FloatArray:
        """COCO boxes as the file has them: float64 [G, 4], image pixels."""
        return np.array([entry["bbox"] for entry in self.objects], dtype=np.float64).reshape(-1, 4)

    @cached_property
    def is_crowd(self) -> npt.NDArray[np.bool_]:
        """Whether an object is a crowd region: bool [G]."""
        return np.array([entry["iscrowd"] for entry in self.objects], dtype=np.bool_)

    @cached_property
    def is_ignored(self) -> npt.NDArray[np.bool_]:
        """Whether an object is neither wanted nor wrong: bool [area ranges, G].

        It is a crowd region (COCO's protocol), marked `ignore` (LVIS'), or outside an area range.
        """
        areas = np.array([entry["area"] for entry in self.objects], dtype=np.float64)
        marked = np.array([entry["ignore"] for entry in self.objects], dtype=np.bool_)
        rows = [marked | (areas < least) | (areas > most) for least, most in AREA_RANGES_PX.values()]
        return np.stack(rows)

    @cached_property
    def counted(self) -> npt.NDArray[np.int64]:
        """Objects of each class that are not ignored: int64 [area ranges, classes]."""
        counts = np.zeros((len(AREA_RANGES_PX), len(self.categories)), dtype=np.int64)
        for (_, label), members in self.groups.items():
            counts[:, label] += np.count_nonzero(~self.is_ignored[:, members], axis=1)
        return counts

    @cached_property
    def is_negative(self) -> npt.NDArray[np.bool_]:
        """Whether an image holds nothing of a class, if the file is taken at its word: bool [classes, images].

        COCO's protocol: where it has no annotation of it. LVIS': where its absence was verified.
        """
        shape = (len(self.categories), len(self.image_ids))
        if self.federation is not None:
            verified = np.zeros(shape, dtype=np.bool_)
            places, labels = np.divmod(self.federation.absent, len(self.categories))
            verified[labels, places] = True
            return verified
        free = np.ones(shape, dtype=np.bool_)
        for place, label in self.occupied:
            free[label, place] = False
        return free

    @cached_property
    def rles(self) -> list[Json]:
        """Every object's mask as a compressed RLE with `size` and `counts`; only where `has_masks`."""
        sizes = {image["id"]: [image["height"], image["width"]] for image in self.document["images"]}
        return [
            {
                "size": sizes[entry["image_id"]],
                "counts": segmentation_rle(entry["segmentation"], *sizes[entry["image_id"]]),
            }
            for entry in self.objects
        ]


def index_truth(dataset: CocoDataset, categories: Sequence[Category], *, protocol: Protocol = "coco") -> TruthIndex:
    """Prepare the ground truth, or return what was prepared before from the same file and classes.

    The latest few are kept. Files are told apart by their digest and by the image sizes, which an annotation file
    may leave to the images.

    Args:
        dataset: the targets.
        categories: the searched classes, in any order.
        protocol: whose rules hold.

    Raises:
        DataError: if the file lacks what LVIS' protocol needs.
    """
    chosen = tuple(sorted(categories, key=lambda category: category.id))
    sizes = tuple((image.id, image.height, image.width) for image in dataset.images.values())
    key = (dataset.digest, chosen, sizes, protocol)
    if key not in _RECENT:
        _RECENT[key] = _index(dataset, chosen, protocol)
    _RECENT.move_to_end(key)
    while len(_RECENT) > _KEPT:
        _RECENT.popitem(last=False)
    return _RECENT[key]


def _index(dataset: CocoDataset, categories: tuple[Category, ...], protocol: Protocol) -> TruthIndex:
    document = to_coco_json(dataset, categories)
    dropped = [one for _, one in dataset.dropped]
    if protocol == "lvis":
        document["annotations"] = _lvis_objects(document["annotations"], dataset, categories)
        dropped = [one for one in dropped if one.area_px > 0]
    image_ids = tuple(sorted(dataset.images))
    places = {image_id: place for place, image_id in enumerate(image_ids)}
    labels = {category.id: place for place, category in enumerate(categories)}
    present = [(entry["image_id"], entry["category_id"]) for entry in document["annotations"]]
    present += [(one.image_id, one.category_id) for one in dropped if one.category_id in labels]
    occupied = frozenset((places[image_id], labels[category_id]) for image_id, category_id in present)
    return TruthIndex(
        categories=categories,
        document=document,
        image_ids=image_ids,
        image_places=places,
        has_masks=dataset.has_masks,
        occupied=occupied,
        federation=None if protocol == "coco" else federation_of(dataset, categories, image_ids, occupied),
    )


def _lvis_objects(entries: list[Json], dataset: CocoDataset, categories: tuple[Category, ...]) -> list[Json]:
    """Mark objects as LVIS' program sees them: crowd regions are objects like any other, without area is no object."""
    ids = {category.id for category in categories}
    instances = [one for one in dataset.instances if one.category_id in ids]
    return [
        {**entry, "iscrowd": 0, "ignore": int(instance.id in dataset.ignored)}
        for entry, instance in zip(entries, instances, strict=True)
        if instance.area_px > 0
    ]
