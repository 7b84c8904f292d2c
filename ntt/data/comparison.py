"""Comparison of references with targets: the same pictures, classes without objects, crowded images."""

import contextlib
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from PIL import Image

from ntt.data.coco import CocoDataset
from ntt.data.images import image_digest, read_image
from ntt.errors import DataError, listed
from ntt.types import Category, DoubleArray, ImageRecord

Pair = tuple[ImageRecord, ImageRecord]

_MOST_DECODED = 200
"""Target images that are decoded to look for the pictures of references in another encoding."""

_THUMBNAIL_SIDE, _LEAST_CONTRAST, _SAME_GREY, _SAME_PIXELS = 32, 5.0, 1.0, 4.0
"""Grey levels: smallest standard deviation, largest mean difference of thumbnails and of pixels, which JPEG changes."""
_CACHED, _NAMED = 1024, 5


def same_images_sentence(references: Sequence[ImageRecord], targets: Sequence[ImageRecord]) -> str | None:
    """Return how many target images are also references, with some names; None if there are none.

    This finds files with the same content, and the same picture in another file if not too many targets have its size.
    Files that cannot be read are skipped.
    """
    pairs = identical_images(references, targets)
    identical = {target.path for _, target in pairs}
    others = [record for record in targets if record.path not in identical]
    alike = similar_images(references, others)
    if not pairs and not alike:
        return None
    kinds = [f"{len(pairs)} byte for byte"] if pairs else []
    kinds += [f"{len(alike)} as the same picture in another file"] if alike else []
    named = listed((f"{t.file_name} (as reference: {r.file_name})" for r, t in [*pairs, *alike]), _NAMED)
    count = f"{len(pairs) + len(alike)} of {len(targets)} target images are also images of the references file"
    remedy = "A target that served as a reference is found too easily; remove it from one of the two files."
    return f"{count}, {' and '.join(kinds)}: {named}. {remedy}"


def identical_images(references: Sequence[ImageRecord], targets: Sequence[ImageRecord]) -> list[Pair]:
    """Find pairs of a reference image and a target image whose files have the same content, in the targets' order.

    Only files of equal size are read; missing files are skipped.
    """

    def with_size(records: Sequence[ImageRecord]) -> list[tuple[int, ImageRecord]]:
        return [(record.path.stat().st_size, record) for record in records if record.path.is_file()]

    sized_references, sized_targets = with_size(references), with_size(targets)
    shared = {size for size, _ in sized_references} & {size for size, _ in sized_targets}
    # Of several references with the same content, the first counts.
    by_digest = {image_digest(record): record for size, record in reversed(sized_references) if size in shared}
    digests = ((image_digest(record), record) for size, record in sized_targets if size in shared)
    return [(by_digest[digest], record) for digest, record in digests if digest in by_digest]


def similar_images(references: Sequence[ImageRecord], targets: Sequence[ImageRecord]) -> list[Pair]:
    """Find targets that look like a reference of the same size, such as a picture saved in another format."""
    sizes = {(record.height, record.width) for record in references}
    candidates = [record for record in targets if (record.height, record.width) in sizes]
    if len(candidates) > _MOST_DECODED or not candidates:
        return []
    sizes = {(record.height, record.width) for record in candidates}
    examples = _thumbnails([record for record in references if (record.height, record.width) in sizes])
    examples = [(record, grey) for record, grey in examples if grey.std() >= _LEAST_CONTRAST]
    means = np.array([grey.mean() for _, grey in examples])
    alike = []
    for target, grey in _thumbnails(candidates):
        # Thumbnails differ at least as much as their means.
        close = [examples[index] for index in np.flatnonzero(np.abs(means - grey.mean()) <= _SAME_GREY).tolist()]
        alike += [(record, target) for record, other in close if _look_alike(record, other, target, grey)][:1]
    return alike


def _look_alike(reference: ImageRecord, thumbnail: DoubleArray, target: ImageRecord, other: DoubleArray) -> bool:
    is_of_size = (reference.height, reference.width) == (target.height, target.width)
    if not is_of_size or np.abs(thumbnail - other).mean() > _SAME_GREY:
        return False
    pixels = [np.asarray(_grey(record), dtype=np.int16) for record in (reference, target)]
    return float(np.abs(pixels[0] - pixels[1]).mean()) < _SAME_PIXELS


def _grey(record: ImageRecord) -> Image.Image:
    return Image.fromarray(read_image(record)).convert("L")


def _thumbnails(records: Sequence[ImageRecord]) -> list[tuple[ImageRecord, DoubleArray]]:
    """Return images with their small grey copies, without those that cannot be read: the check of all reports them."""
    readable = []
    for record in records:
        with contextlib.suppress(DataError):
            readable.append((record, _thumbnail(record, image_digest(record))))
    return readable


@lru_cache(_CACHED)
def _thumbnail(record: ImageRecord, digest: str) -> DoubleArray:
    """Return a small grey copy of the image of this digest, float64 [32, 32]."""
    return np.asarray(_grey(record).resize((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE), Image.Resampling.BOX), dtype=np.float64)


def content_sentences(categories: Sequence[Category], targets: CocoDataset, max_detections: int) -> list[str]:
    """Report searched classes without objects in annotated targets, and images with more objects than detections."""
    if not targets.has_annotations:
        return []
    ids = {category.id for category in categories}
    objects = [i for i in targets.instances if i.category_id in ids and not i.iscrowd]
    present = {instance.category_id for instance in objects}
    absent = [category.name for category in categories if category.id not in present]
    sentences = []
    if absent:
        sentences.append(f"{len(absent)} class(es) have no object in the targets and no AP: {listed(absent, _NAMED)}.")
    counts = Counter(instance.image_id for instance in objects)
    crowded = [image_id for image_id, count in counts.items() if count > max_detections]
    if crowded:
        most = max(crowded, key=counts.__getitem__)
        sentences.append(
            f"{len(crowded)} target image(s) have more objects than the {max_detections} detections that count, up to "
            f"{counts[most]} in {targets.images[most].file_name}: the others cannot be found."
        )
    return sentences
