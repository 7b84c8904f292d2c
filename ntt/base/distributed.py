"""Several processes, one result: the only module that knows torch.distributed.

Ranks come from the environment (torchrun, or SLURM's srun). Without it there is one process, and every
function here does the obvious thing. Results never depend on the number of processes: items are dealt out by
position, each result carries its item's position, and `gather` puts them back in order.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist
from torch.distributed import PrefixStore, rendezvous  # type: ignore[attr-defined]

from ntt.base.slurm_ranks import adopt_slurm_ranks
from ntt.errors import DistributedError

T = TypeVar("T")
_LOG = logging.getLogger(__name__)
_HEARTBEAT_S = 2.0
_SILENCE_LIMIT_S = 30.0
EXIT_LOST_PEER = 70


@dataclass(frozen=True)
class ProcessGroup:
    """This process's place among all processes of the run."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """True in the one process that writes files and talks to the user."""
        return self.rank == 0


@contextmanager
def join_process_group(*, timeout_s: int) -> Iterator[ProcessGroup]:
    """Join the other processes, if there are any, and leave them at the end.

    Args:
        timeout_s: how long a collective operation waits for the slowest process.

    Raises:
        DistributedError: if the processes do not find each other, or one is lost while others wait for it.
    """
    adopt_slurm_ranks(os.environ)
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ProcessGroup()
        return
    group = ProcessGroup(rank=int(os.environ["RANK"]), size=size, local_rank=int(os.environ.get("LOCAL_RANK", "0")))
    try:
        store, rank, size = next(iter(rendezvous("env://", timeout=timedelta(seconds=timeout_s))))
        dist.init_process_group(
            "gloo",
            store=PrefixStore("collectives", store),
            rank=rank,
            world_size=size,
            timeout=timedelta(seconds=timeout_s),
        )
    except (RuntimeError, ValueError, KeyError) as error:
        raise DistributedError(
            f"Process {group.rank} of {size} could not join the others: {error}. Start all processes with torchrun, or "
            "set RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT for each of them."
        ) from error
    stop = threading.Event()
    watch = threading.Thread(target=_watch_peers, args=(store.clone(), group, stop), daemon=True, name="peer-watch")
    watch.start()
    try:
        yield group
        _guarded(dist.barrier)
    finally:
        stop.set()
        watch.join(timeout=2 * _HEARTBEAT_S)
        dist.destroy_process_group()


def share(items: Sequence[T], group: ProcessGroup) -> list[tuple[int, T]]:
    """Return this process's items with their positions: every `size`-th, beginning at `rank`."""
    return list(enumerate(items))[group.rank :: group.size]


def gather(results: Sequence[tuple[int, T]], count: int, group: ProcessGroup) -> list[T]:
    """Bring every process's results together in item order; all processes receive all of them.

    Args:
        results: (position, result) of the items this process dealt with.
        count: number of items over all processes.
        group: the processes of the run.

    Raises:
        DistributedError: if a position is missing or came twice, or a process was lost.
    """
    parts: list[Sequence[tuple[int, T]]] = [results]
    if group.size > 1:
        slots: list[Any] = [None] * group.size
        _guarded(lambda: dist.all_gather_object(slots, list(results)))
        parts = slots
    ordered: dict[int, T] = {}
    for part in parts:
        for position, result in part:
            if position in ordered:
                raise DistributedError(f"The result at position {position} was computed twice.")
            ordered[position] = result
    lost = sorted(set(range(count)) - set(ordered))
    if lost:
        raise DistributedError(f"{len(lost)} of {count} results are missing, the first at position {lost[0]}.")
    return [ordered[position] for position in range(count)]


def broadcast_from_main(value: T, group: ProcessGroup) -> T:
    """Return rank 0's `value` in every process."""
    if group.size == 1:
        return value
    slot: list[Any] = [value if group.is_main else None]
    _guarded(lambda: dist.broadcast_object_list(slot, src=0))
    result: T = slot[0]
    return result


def barrier(group: ProcessGroup) -> None:
    """Wait until every process is here."""
    if group.size > 1:
        _guarded(dist.barrier)


def _guarded(operation: Callable[[], Any]) -> None:
    """Run a collective operation; name the likely cause when it fails."""
    try:
        operation()
    except RuntimeError as error:
        raise DistributedError(
            "Another process of this run has stopped, so this one stops too. Look for the first error in the logs "
            "of all processes; start the same command again to go on where it stopped. "
            f"(torch.distributed says: {str(error).splitlines()[0]})"
        ) from error


def _watch_peers(store: Any, group: ProcessGroup, stop: threading.Event) -> None:
    """Give a sign of life and look for the others'; end this process when one of them is silent for long.

    A process that is killed cannot say so, and the others would notice only at the next collective operation, which
    may be an hour away.
    """
    last_value: dict[int, int] = {}
    last_change = dict.fromkeys(range(group.size), time.monotonic())
    while not stop.wait(_HEARTBEAT_S):
        try:
            store.add(f"alive/{group.rank}", 1)
            # `add(key, 0)` reads a counter without waiting for it to be set.
            values = {peer: int(store.add(f"alive/{peer}", 0)) for peer in range(group.size)}
        except RuntimeError:
            _end(f"The process that holds the run together is gone, so process {group.rank} stops.", stop)
            return
        now = time.monotonic()
        last_change.update({peer: now for peer, value in values.items() if value != last_value.get(peer)})
        last_value = values
        silent = [peer for peer, seen in last_change.items() if now - seen > _SILENCE_LIMIT_S]
        if silent:
            _end(f"Process {silent[0]} of {group.size} has been silent for {_SILENCE_LIMIT_S:.0f} s and is lost.", stop)
            return


def _end(message: str, stop: threading.Event) -> None:
    """Stop the whole process: the main thread may sit in a call that cannot be interrupted."""
    # At the regular end the others may be gone a moment before this process is told to stop watching.
    if stop.wait(_HEARTBEAT_S):
        return
    _LOG.error("%s Start the same command again to go on where it stopped.", message)
    logging.shutdown()
    os._exit(EXIT_LOST_PEER)
