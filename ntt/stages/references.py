"""The first stage: draw the reference instances."""

from collections.abc import Sequence
from typing import Literal

from ntt.data.coco import CocoDataset
from ntt.data.references import assemble_references
from ntt.data.sampling import Validity, sample_fixed, sample_native, sample_reference, sample_shot_index
from ntt.errors import ConfigError
from ntt.types import Category, ReferenceSet

SamplerName = Literal["native", "reference", "fixed", "shot_index"]


def sample_references(
    *,
    dataset: CocoDataset,
    categories: tuple[Category, ...],
    shots: int | None,
    seed: int,
    sampler: SamplerName,
    strict: bool,
    min_box_side_px: float,
    border_px: float,
) -> ReferenceSet:
    """Draw `shots` reference instances per category.

    Args:
        dataset: the references file.
        categories: the categories to draw for, in any order.
        shots: instances per category, at least 1; None: all of them (`fixed` only).
        seed: decides the draw of the samplers `native` and `reference`; the others take what the file prescribes.
        sampler: native, reference, fixed or shot_index; see `ntt.data.sampling`.
        strict: refuse a category with too few valid instances instead of warning.
        min_box_side_px: least width and height of a valid box (`native`, `reference`).
        border_px: least distance of a valid box from each image border (`native`, `reference`).

    Returns:
        The references, by category id.

    Raises:
        ConfigError: if there is no category.
        DataError: if a category has no usable instance or, if `strict`, too few.
    """
    ordered = _by_id(categories)
    if sampler == "fixed":
        sample = sample_fixed(dataset, ordered, shots=shots, strict=strict)
    elif shots is None:
        raise ValueError(f"the sampler {sampler} needs a number of shots")
    elif sampler == "shot_index":
        sample = sample_shot_index(dataset, ordered, shots=shots, strict=strict)
    else:
        draw = sample_native if sampler == "native" else sample_reference
        validity = Validity(min_box_side_px, border_px)
        sample = draw(dataset, ordered, shots=shots, seed=seed, strict=strict, validity=validity)
    if shots is None:
        shots = max(map(len, sample))
    return assemble_references(dataset, ordered, sample, shots=shots, seed=seed, sampler=sampler)


def _by_id(categories: Sequence[Category]) -> tuple[Category, ...]:
    if not categories:
        raise ConfigError("No class is chosen, at least one is needed. Name some in split.classes, or use split=all.")
    return tuple(sorted(categories, key=lambda category: category.id))
