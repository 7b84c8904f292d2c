"""Samplers: which annotated instances serve as references (docs/method.md).

They are pure functions of data set, categories, number of shots and seed. Crowd regions and instances marked impossible
are never drawn. A DataError lists the categories without usable instances; with too few valid ones (`sample_reference`
counts one per image), strict sampling raises one, too, and lenient sampling warns once.
"""

import hashlib
import json
import logging
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import cycle, islice
from operator import attrgetter

from ntt.data.coco import CocoDataset
from ntt.data.documents import whole_number
from ntt.errors import DataError, listed
from ntt.types import Category, ImageId, Instance

Sample = tuple[tuple[Instance, ...], ...]
"""For each category, in the order given, its instances."""

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Validity:
    """What makes an instance valid: a minimum box width and height, and a minimum distance from all image borders."""

    min_box_side_px: float
    border_px: float

    def __str__(self) -> str:
        """Return the conditions, for messages."""
        return f"box sides of {self.min_box_side_px:g} px or more, {self.border_px:g} px or more from the image border"

    def holds(self, instance: Instance, dataset: CocoDataset) -> bool:
        """Return whether an instance is valid."""
        left, top, width, height = instance.bbox_xywh
        image = dataset.images[instance.image_id]
        if min(width, height) < self.min_box_side_px or min(left, top) < self.border_px:
            return False
        return left + width <= image.width - self.border_px and top + height <= image.height - self.border_px


def sample_native(
    dataset: CocoDataset, categories: Sequence[Category], *, shots: int, seed: int, strict: bool, validity: Validity
) -> Sample:
    """Draw references, each category on its own.

    An instance's rank within its category follows from a hash of (seed, category id, image id, annotation id). A draw
    therefore does not change with other categories, other annotations, the order of the file, the platform or library
    versions, and the k-shot set is a prefix of the (k+1)-shot set. Valid instances come before invalid ones, and within
    both groups every image once before any image twice.
    """
    pools = _usable_pools(dataset, categories)
    valid = [[validity.holds(instance, dataset) for instance in pool] for pool in pools]
    counts = [sum(flags) for flags in valid]
    remark = "small ones and ones at the border take their place, as far as there are any"
    _check_counts(categories, counts, shots, f"valid instances ({validity})", remark, strict=strict)
    return tuple(_ranked(pool, flags, seed)[:shots] for pool, flags in zip(pools, valid, strict=True))


def sample_reference(
    dataset: CocoDataset, categories: Sequence[Category], *, shots: int, seed: int, strict: bool, validity: Validity
) -> Sample:
    """Draw references as the published code does, to reproduce its seeds.

    One random stream serves all categories in the order in which they first occur in the file, so a draw depends on
    which categories are drawn. Per category the annotations of the file, crowd regions included, are shuffled; valid
    ones of images not used yet are taken until there are k. Lenient: if none is valid, the first k usable ones are
    taken (the published code may take crowd regions or boxes without area); then those taken are repeated from the
    start until there are k.
    """
    usable = {instance.id for pool in _usable_pools(dataset, categories) for instance in pool}
    stream = random.Random(seed)
    drawn: dict[int, list[Instance]] = {}
    counts: dict[int, int] = {}
    for category_id, group in _groups_by_appearance(dataset, categories).items():
        stream.shuffle(group)
        candidates = [instance for instance in group if instance.id in usable]
        first_of_image: dict[ImageId, Instance] = {}
        for instance in candidates:
            if validity.holds(instance, dataset):
                first_of_image.setdefault(instance.image_id, instance)
        valid = list(first_of_image.values())[:shots]
        counts[category_id] = len(valid)
        drawn[category_id] = valid or candidates[:shots]
    in_order = [counts[category.id] for category in categories]
    what = f"images with a valid instance ({validity})"
    _check_counts(categories, in_order, shots, what, "instances are repeated or invalid ones taken", strict=strict)
    # If there are too few, those drawn are repeated, starting with the first.
    return tuple(tuple(islice(cycle(drawn[category.id]), shots)) for category in categories)


def annotated_categories(dataset: CocoDataset, categories: Sequence[Category]) -> tuple[Category, ...]:
    """Leave out, with a warning, the categories without any annotation, as the published sampler does."""
    annotated = _groups_by_appearance(dataset, categories)
    empty = [category.name for category in categories if category.id not in annotated]
    if empty:
        _LOG.warning(
            "sampler=reference leaves out %d class(es) without an annotation in %s; they are neither searched nor "
            "evaluated: %s",
            len(empty),
            dataset.annotation_file,
            listed(empty),
        )
    return tuple(category for category in categories if category.id in annotated)


def sample_fixed(dataset: CocoDataset, categories: Sequence[Category], *, shots: int | None, strict: bool) -> Sample:
    """Take every usable annotation of a k-shot file, such as those of CD-FSOD and Pascal VOC.

    `shots` is the expected k, which is only compared with the file's; None: no comparison.
    """
    pools = _usable_pools(dataset, categories)
    counts = [len(pool) for pool in pools]
    if shots is None:
        return tuple(pools)
    if strict:
        _check_counts(categories, counts, shots, "usable annotations", "", strict=True)
    other = [f"{c.name} {n}" for c, n in zip(categories, counts, strict=True) if n != shots]
    if other:
        _LOG.warning(
            "sampler=fixed takes every annotation of %s; these classes do not have shots=%d: %s",
            dataset.annotation_file,
            shots,
            listed(other),
        )
    return tuple(pools)


def sample_shot_index(dataset: CocoDataset, categories: Sequence[Category], *, shots: int, strict: bool) -> Sample:
    """Take the annotations whose `shot_index` is below `shots`, in that order; a DataError if none has one."""
    if all(instance.shot_index is None for instance in dataset.instances):
        raise DataError(f"No annotation of {dataset.annotation_file} has a `shot_index`. Use shots.sampler=native.")
    if uneven := uneven_shot_indices(dataset, categories):
        _LOG.warning("%s: %s", dataset.annotation_file, uneven)
    sample: list[tuple[Instance, ...]] = []
    for category in categories:
        usable = filter(_is_usable, dataset.instances_of_category(category.id))
        indexed = [i for i in usable if i.shot_index is not None and i.shot_index < shots]
        # Sorting is stable: instances of one index stay in the order of the file.
        sample.append(tuple(sorted(indexed, key=attrgetter("shot_index"))))
    counts = [len(instances) for instances in sample]
    _require_any(dataset, categories, counts, f"annotation with shot_index < {shots}")
    what = f"annotations with shot_index < {shots}"
    _check_counts(categories, counts, shots, what, "the run continues with these", strict=strict)
    return tuple(sample)


def uneven_shot_indices(dataset: CocoDataset, categories: Sequence[Category]) -> str | None:
    """Return a sentence with the classes whose `shot_index`, if they have any, is not 0, 1, 2, ..."""
    names = []
    for category in categories:
        indices = [i.shot_index for i in dataset.instances_of_category(category.id) if i.shot_index is not None]
        names += [] if sorted(indices) == list(range(len(indices))) else [category.name]
    if not names:
        return None
    what = (
        f"`shot_index`, counted from 0, occurs twice or leaves out a number in {len(names)} class(es): {listed(names)}"
    )
    return f"{what}. With shots.sampler=shot_index these have more or fewer references than shots.count."


def _is_usable(instance: Instance) -> bool:
    return not instance.iscrowd and not instance.isimpossible


def _usable_pools(dataset: CocoDataset, categories: Sequence[Category]) -> list[tuple[Instance, ...]]:
    pools = [tuple(filter(_is_usable, dataset.instances_of_category(category.id))) for category in categories]
    _require_any(dataset, categories, [len(pool) for pool in pools], "usable instance")
    return pools


def _ranked(pool: Sequence[Instance], valid: Sequence[bool], seed: int) -> tuple[Instance, ...]:
    """Order the instances of a category: valid before invalid, then images once before twice, then as drawn."""

    def draw(entry: tuple[Instance, bool]) -> tuple[bool, bytes]:
        instance, is_valid = entry
        # An image id that is a number in text is drawn like the number.
        return not is_valid, _hash(seed, instance.category_id, whole_number(instance.image_id), instance.id)

    drawn = sorted(zip(pool, valid, strict=True), key=draw)
    seen: Counter[ImageId] = Counter()
    ranks: list[tuple[bool, int, int]] = []
    for index, (instance, is_valid) in enumerate(drawn):
        ranks.append((not is_valid, seen[instance.image_id], index))
        seen[instance.image_id] += 1
    return tuple(drawn[index][0] for _, _, index in sorted(ranks))


@lru_cache(1 << 18)  # the points of a sweep draw with the same seeds for all numbers of shots
def _hash(*identity: int | str) -> bytes:
    return hashlib.blake2b(json.dumps(identity).encode("utf-8"), digest_size=16).digest()


def _groups_by_appearance(dataset: CocoDataset, categories: Sequence[Category]) -> dict[int, list[Instance]]:
    """Group all annotations of the categories in the file, including those that cannot be used."""
    category_ids = {category.id for category in categories}
    groups: dict[int, list[Instance]] = {}
    for instance in dataset.in_file_order():
        if instance.category_id in category_ids and not instance.isimpossible:
            groups.setdefault(instance.category_id, []).append(instance)
    return groups


def _require_any(dataset: CocoDataset, categories: Sequence[Category], counts: Sequence[int], what: str) -> None:
    empty = [category.name for category, count in zip(categories, counts, strict=True) if count == 0]
    if empty:
        others = "Name the others in split.classes; " if len(empty) < len(categories) else "Note that "
        raise DataError(
            f"{dataset.annotation_file} has no {what} of {len(empty)} of the {len(categories)} classes: "
            f"{listed(empty)}. {others}crowd regions (but see dataset.crowd), instances marked impossible and boxes "
            "without area do not count."
        )


def _check_counts(
    categories: Sequence[Category], counts: Sequence[int], shots: int, what: str, remark: str, *, strict: bool
) -> None:
    """Refuse or, if not `strict`, warn once of the categories with fewer than `shots` of the counted instances."""
    short = [(c.name, count) for c, count in zip(categories, counts, strict=True) if count < shots]
    counted = listed(f"{name} {count}" for name, count in short)
    if short and strict:
        raise DataError(
            f"Too few {what} for {shots} shots: {counted}. Lower shots.count, set shots.strict=false to take what "
            "exists, or use a references file with more."
        )
    if short:
        _LOG.warning("Classes with fewer %s than the %d shots asked for; %s: %s", what, shots, remark, counted)
