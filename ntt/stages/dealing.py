"""Work on many items, dealt out over the processes of a run."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from ntt.base.distributed import ProcessGroup, gather, share
from ntt.base.progress import track

T = TypeVar("T")
R = TypeVar("R")


def map_dealt(compute: Callable[[T], R], items: Sequence[T], *, group: ProcessGroup, label: str, unit: str) -> list[R]:
    """Compute something of every item; every process gets all results, in the order of the items.

    Args:
        compute: called once for each item, in one of the processes.
        items: the same in every process.
        group: the processes.
        label: what the progress is announced as.
        unit: what one item is, such as "image".
    """
    dealt = track(share(items, group), label, unit=unit, visible=group.is_main)
    return gather([(position, compute(item)) for position, item in dealt], len(items), group)
