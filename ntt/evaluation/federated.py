"""What LVIS' protocol knows of images and classes, beyond the objects (Gupta et al., "LVIS", CVPR 2019, section 2).

In LVIS no image was searched for all classes. A class is judged in an image if it has an object there or if somebody
verified that it has none; detections of other classes are left out. Where a class is known to have more objects than
were annotated, a detection that finds none of them is passed over.

A pair of image and class is one number: place of the image * number of classes + class index.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ntt.data.coco import CocoDataset
from ntt.errors import DataError
from ntt.types import Category, ImageId, IntArray

FREQUENCIES = ("r", "c", "f")
"""Rare, common, frequent: the groups that APr, APc and APf are means over."""

_SHOWN = 5


@dataclass(frozen=True)
class Federation:
    """Pairs of images and classes, sorted.

    Attributes:
        num_classes: how many classes are searched.
        judged: int64 [...], where the class has an annotation or is verified to be absent.
        absent: int64 [...], where it is verified to be absent and has no annotation.
        forgiven: int64 [...], where it is not annotated exhaustively.
        groups: "r", "c", "f" -> class indices; without the groups that have none.
    """

    num_classes: int
    judged: IntArray
    absent: IntArray
    forgiven: IntArray
    groups: dict[str, list[int]]

    def is_judged(self, images: IntArray, labels: IntArray) -> npt.NDArray[np.bool_]:
        """Say of each pair of image place and class index whether detections of it are looked at."""
        return _contains(self.judged, images * self.num_classes + labels)

    def is_forgiven(self, images: IntArray, labels: IntArray) -> npt.NDArray[np.bool_]:
        """Say of each pair of image place and class index whether a detection without an object is passed over."""
        return _contains(self.forgiven, images * self.num_classes + labels)


def federation_of(
    dataset: CocoDataset,
    categories: Sequence[Category],
    image_ids: Sequence[ImageId],
    annotated: Iterable[tuple[int, int]],
) -> Federation:
    """Collect what the file says of its images.

    Args:
        dataset: the targets.
        categories: the searched classes, in class-index order.
        image_ids: of every image, in the order of their places.
        annotated: (image place, class index) wherever a class has an annotation.

    Raises:
        DataError: if the file does not say of every image which classes were looked for.
    """
    check_checked_classes(dataset)
    labels = {category.id: place for place, category in enumerate(categories)}
    count = len(categories)
    checked = [dataset.checked_classes[image_id] for image_id in image_ids]

    def pairs(lists: Iterable[Sequence[int]]) -> IntArray:
        found = [
            place * count + labels[number] for place, ids in enumerate(lists) for number in ids if number in labels
        ]
        return np.unique(np.array(found, dtype=np.int64))

    present = np.unique(np.array([place * count + label for place, label in annotated], dtype=np.int64))
    verified = pairs(one.absent for one in checked)
    by_letter = {
        letter: [place for place, one in enumerate(categories) if dataset.frequencies.get(one.id) == letter]
        for letter in FREQUENCIES
    }
    return Federation(
        num_classes=count,
        judged=np.union1d(present, verified),
        absent=np.setdiff1d(verified, present, assume_unique=True),
        forgiven=pairs(one.not_exhaustive for one in checked),
        groups={letter: members for letter, members in by_letter.items() if members},
    )


def check_checked_classes(dataset: CocoDataset) -> None:
    """Refuse annotations that LVIS' protocol cannot judge.

    Raises:
        DataError: naming images of which the file does not say which classes were looked for.
    """
    lacking = [image_id for image_id in dataset.images if image_id not in dataset.checked_classes]
    if not lacking:
        return
    shown = ", ".join(map(repr, lacking[:_SHOWN])) + (", ..." if len(lacking) > _SHOWN else "")
    raise DataError(
        f"evaluation.protocol=lvis needs the lists `neg_category_ids` and `not_exhaustive_category_ids` (category ids, "
        f"whole numbers) of every image; {len(lacking)} of {len(dataset.images)} images of {dataset.annotation_file} "
        f"lack one of them or have something else there (image {shown}). Take LVIS' own file, or set "
        "evaluation.protocol=coco."
    )


def _contains(known: IntArray, wanted: IntArray) -> npt.NDArray[np.bool_]:
    """Say which numbers are among the sorted ones: bool, as many as wanted."""
    if not len(known):
        return np.zeros(len(wanted), dtype=np.bool_)
    places = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    return np.asarray(known[places] == wanted)
