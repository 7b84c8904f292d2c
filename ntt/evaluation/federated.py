"""LVIS' records of images and classes, beyond the objects (Gupta et al., "LVIS", CVPR 2019, section 2).

No image was searched for all classes: a class is evaluated in an image if it has an object there, or was verified to
have none. If it is known to have more objects than were annotated, detections that find none of these are ignored. A
pair of image and class is one number: image index * number of classes + class index.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ntt.data.coco import FREQUENCIES, CocoDataset
from ntt.errors import DataError, listed
from ntt.types import Category, ImageId, IntArray


@dataclass(frozen=True)
class Federation:
    """Pairs of images and classes, sorted.

    Attributes:
        evaluated: int64, the class has an annotation or was verified to be absent.
        absent: int64, it was verified to be absent and has no annotation.
        not_exhaustive: int64, not all its objects are annotated.
        groups: "r", "c", "f" -> class indices; without empty groups.
    """

    evaluated: IntArray
    absent: IntArray
    not_exhaustive: IntArray
    groups: dict[str, list[int]]


def federation_of(
    dataset: CocoDataset, categories: Sequence[Category], image_ids: Sequence[ImageId], annotated: IntArray
) -> Federation:
    """Collect what the file records about its images; `categories` and `image_ids` are in the order of their indices.

    A DataError if the file does not list for every image which classes were searched for.
    """
    check_checked_classes(dataset)
    class_indices = {category.id: index for index, category in enumerate(categories)}
    checked = [dataset.checked_classes[image_id] for image_id in image_ids]

    def pairs(category_ids: Iterable[Sequence[int]]) -> IntArray:
        numbers = [
            image * len(categories) + class_indices[category_id]
            for image, ids in enumerate(category_ids)
            for category_id in ids
            if category_id in class_indices
        ]
        return np.unique(np.array(numbers, dtype=np.int64))

    verified = pairs(classes.absent for classes in checked)
    groups = {
        letter: [index for index, each in enumerate(categories) if dataset.frequencies.get(each.id) == letter]
        for letter in FREQUENCIES
    }
    return Federation(
        evaluated=np.union1d(annotated, verified),
        absent=np.setdiff1d(verified, annotated, assume_unique=True),
        not_exhaustive=pairs(classes.not_exhaustive for classes in checked),
        groups={letter: members for letter, members in groups.items() if members},
    )


def check_checked_classes(dataset: CocoDataset) -> None:
    """Raise a DataError for a file that does not list for every image which classes were searched for."""
    lacking = [image_id for image_id in dataset.images if image_id not in dataset.checked_classes]
    if not lacking:
        return
    raise DataError(
        "evaluation.protocol=lvis needs the lists `neg_category_ids` and `not_exhaustive_category_ids` of every image; "
        f"{len(lacking)} of {len(dataset.images)} images of {dataset.annotation_file} have none or something else "
        f"there (image {listed(map(repr, lacking), 5)}). Take LVIS' own file, or set evaluation.protocol=coco."
    )
