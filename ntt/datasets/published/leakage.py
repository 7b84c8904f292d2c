"""Images that serve both as references and as targets: what makes a result look better than it is."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from ntt.data.images import image_digest
from ntt.types import ImageRecord


def identical_images(
    references: Sequence[ImageRecord], targets: Sequence[ImageRecord]
) -> list[tuple[ImageRecord, ImageRecord]]:
    """Find pairs of a reference image and a target image whose files have the same content.

    Only files of equal size are read. The same picture saved twice in different ways is not found. Files that do not
    exist are passed over.

    Returns:
        (reference, target) for every target that is also a reference, in the order of the targets.
    """
    sizes = _sizes(references), _sizes(targets)
    shared = set(sizes[0].values()) & set(sizes[1].values())
    by_digest: dict[str, ImageRecord] = {}
    for record in references:
        if sizes[0].get(record.path) in shared:
            by_digest.setdefault(image_digest(record.path), record)
    pairs = []
    for record in targets:
        if sizes[1].get(record.path) in shared:
            known = by_digest.get(image_digest(record.path))
            if known is not None:
                pairs.append((known, record))
    return pairs


def leakage_sentence(pairs: Sequence[tuple[ImageRecord, ImageRecord]], num_targets: int) -> str:
    """Say how many target images are references too, and name some."""
    named = ", ".join(f"{target.file_name} (as reference: {known.file_name})" for known, target in pairs[:5])
    more = f" and {len(pairs) - 5} more" if len(pairs) > 5 else ""
    return (
        f"{len(pairs)} of {num_targets} target images are also images of the references file, byte for byte: {named}"
        f"{more}. A target that served as a reference is found too easily; remove it from one of the two files."
    )


def _sizes(records: Iterable[ImageRecord]) -> dict[Path, int]:
    sizes = {}
    for record in records:
        try:
            sizes[record.path] = record.path.stat().st_size
        except OSError:
            continue
    return sizes
