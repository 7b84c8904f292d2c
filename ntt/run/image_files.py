"""What a run does with all its image files before it starts, dealt out over its processes."""

import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from ntt.base import distributed as dist
from ntt.data.images import check_images, image_digest
from ntt.errors import DataError
from ntt.run.shared import Workspace
from ntt.types import ImageRecord

_READING_THREADS = 8


def image_digests(records: Sequence[ImageRecord], group: dist.ProcessGroup) -> list[str | None]:
    """Return the SHA-256 of each image file, in every process; None for one that cannot be read."""
    positions = range(len(records))[group.rank :: group.size]
    # A share of the images per thread: most digests are cached, and handing over each one would cost more.
    shares = [positions[index::_READING_THREADS] for index in range(_READING_THREADS)]
    with ThreadPoolExecutor(_READING_THREADS) as pool:
        parts = pool.map(lambda share: [(position, _digest(records[position])) for position in share], shares)
        return dist.gather(list(itertools.chain.from_iterable(parts)), len(records), group)


def check_readable(
    records: Sequence[ImageRecord], *, full: bool, group: dist.ProcessGroup, workspace: Workspace
) -> list[str]:
    """Look whether images can be read; those this process has checked before are left out.

    Args:
        records: the images.
        full: decode every image completely.
        group: the processes of the run.
        workspace: remembers which images were checked.

    Returns:
        What is wrong, in every process; nothing where all images can be read.
    """
    unchecked = workspace.unchecked([record for _, record in dist.share(records, group)], full=full)
    problem = None
    try:
        check_images(unchecked, full=full)
        workspace.note_checked(unchecked, full=full)
    except DataError as error:
        problem = str(error)
    problems = dist.gather([(group.rank, problem)], group.size, group)
    return [text for text in problems if text]


def _digest(record: ImageRecord) -> str | None:
    try:
        return image_digest(record.path)
    except DataError:  # to be reported together with all others
        return None
