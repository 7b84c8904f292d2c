"""What a run does with all its image files before it starts, dealt out over its processes."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from ntt.base import distributed as dist
from ntt.data.images import check_images, image_digest
from ntt.errors import DataError
from ntt.run.shared import Workspace
from ntt.types import ImageRecord

_READING_THREADS = 8


def digests_of(records: Sequence[ImageRecord], group: dist.ProcessGroup) -> list[str | None]:
    """Return the SHA-256 of each image file, in every process; None for one that cannot be read."""
    mine = dist.share(records, group)
    with ThreadPoolExecutor(_READING_THREADS) as pool:
        digests = pool.map(lambda item: _digest(item[1]), mine)
        found = [(place, digest) for (place, _), digest in zip(mine, digests, strict=True)]
    return dist.gather(found, len(records), group)


def check_together(
    records: Sequence[ImageRecord], *, full: bool, group: dist.ProcessGroup, workspace: Workspace
) -> None:
    """Make sure that images can be read; those that this process has found good before are not looked at again.

    Args:
        records: the images.
        full: decode every image completely.
        group: the processes of the run.
        workspace: remembers which images are good.

    Raises:
        DataError: in every process, naming every bad image.
    """
    mine = workspace.unchecked([record for _, record in dist.share(records, group)], full=full)
    problem = None
    try:
        check_images(mine, full=full)
    except DataError as error:
        problem = str(error)
    problems = dist.gather([(group.rank, problem)], group.size, group)
    if any(problems):
        raise DataError("\n".join(text for text in problems if text))
    workspace.note_checked(mine, full=full)


def _digest(record: ImageRecord) -> str | None:
    try:
        return image_digest(record.path)
    except DataError:  # to be reported together with all others
        return None
