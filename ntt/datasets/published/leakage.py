"""Images that serve both as references and as targets, which makes a result look better than it is."""

from collections.abc import Sequence

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
    reference_sizes, target_sizes = (
        [record.path.stat().st_size if record.path.is_file() else None for record in records]
        for records in (references, targets)
    )
    shared = set(reference_sizes) & set(target_sizes) - {None}
    by_digest: dict[str, ImageRecord] = {}
    for record, size in zip(references, reference_sizes, strict=True):
        if size in shared:
            by_digest.setdefault(image_digest(record.path), record)
    candidates = [record for record, size in zip(targets, target_sizes, strict=True) if size in shared]
    matches = ((by_digest.get(image_digest(record.path)), record) for record in candidates)
    return [(reference, target) for reference, target in matches if reference is not None]


def leakage_sentence(pairs: Sequence[tuple[ImageRecord, ImageRecord]], num_targets: int) -> str:
    """Say how many target images are references too, and name some."""
    named = ", ".join(f"{target.file_name} (as reference: {reference.file_name})" for reference, target in pairs[:5])
    more = f" and {len(pairs) - 5} more" if len(pairs) > 5 else ""
    return (
        f"{len(pairs)} of {num_targets} target images are also images of the references file, byte for byte: {named}"
        f"{more}. A target that served as a reference is found too easily; remove it from one of the two files."
    )
