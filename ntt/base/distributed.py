"""Several processes, one result: the only module that uses torch.distributed.

Ranks come from the environment, as torchrun or SLURM's srun set it; without it there is one process. Results never
depend on the number of processes: items are dealt out by position, and `gather` puts their results back in order.

When a process is killed, the next collective operation of the others fails. Stopping them at once is up to the
launcher, as torchrun and `srun --kill-on-bad-exit=1` do.
"""

import itertools
import os
import subprocess
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from ntt.base.progress import track
from ntt.errors import DistributedError

T = TypeVar("T")
R = TypeVar("R")
_GROUPS = itertools.count()
# Ports below the ephemeral range.
_FIRST_PORT, _PORTS, _PORTS_PER_JOB = 20_000, 12_000, 50
_MEETINGS = "NTT_SLURM_WORLDS"


@dataclass(frozen=True)
class ProcessGroup:
    """The processes of the run, and which of them this is."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """True in the one process that writes files and prints output."""
        return self.rank == 0


@contextmanager
def join_process_group(*, timeout_s: int) -> Iterator[ProcessGroup]:
    """Join the other processes, if there are any, and wait for them at the end.

    Nested blocks belong to the same group. Collective operations wait `timeout_s` for the slowest process; a
    DistributedError if the processes do not find each other, or one is lost while others wait for it.
    """
    if dist.is_initialized():
        yield ProcessGroup(dist.get_rank(), dist.get_world_size(), int(os.environ.get("LOCAL_RANK", "0")))
        _guarded(dist.barrier)
        return
    adopt_slurm_ranks(os.environ)
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ProcessGroup()
        return
    group = ProcessGroup(rank=int(os.environ["RANK"]), size=size, local_rank=int(os.environ.get("LOCAL_RANK", "0")))
    try:
        timeout = timedelta(seconds=timeout_s)
        store, rank, _ = next(rendezvous("env://", timeout=timeout))
        # Under torchrun the store outlives a group: without a prefix a later group may read the addresses of this one.
        store.set_timeout(timeout)
        store = dist.PrefixStore(f"group{next(_GROUPS)}", store)  # type: ignore[attr-defined]
        dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=timeout)
    except (RuntimeError, ValueError, KeyError) as error:
        raise DistributedError(
            f"Process {group.rank} of {size} could not join the others: {error}. Start all processes with torchrun, or "
            "set RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT for each of them."
        ) from error
    try:
        yield group
        _guarded(dist.barrier)
    finally:
        dist.destroy_process_group()


def share(items: Sequence[T], group: ProcessGroup) -> list[tuple[int, T]]:
    """Return this process's items with their positions: every `size`-th, beginning at `rank`."""
    return list(enumerate(items))[group.rank :: group.size]


def gather(results: Sequence[tuple[int, T]], count: int, group: ProcessGroup) -> list[T]:
    """Return all results in every process, by position; `results` are its own. A DistributedError if one is missing."""
    parts: list[Any] = [results]
    if group.size > 1:
        parts = [None] * group.size
        _guarded(lambda: dist.all_gather_object(parts, list(results)))
    ordered: dict[int, T] = {position: result for part in parts for position, result in part}
    missing = sorted(set(range(count)) - set(ordered))
    if missing:
        raise DistributedError(f"{len(missing)} of {count} results are missing, the first at position {missing[0]}.")
    return [ordered[position] for position in range(count)]


def map_dealt(compute: Callable[[T], R], items: Sequence[T], *, group: ProcessGroup, label: str, unit: str) -> list[R]:
    """Compute a result per item, each in one process; every process gets all results, in the order of the items.

    Progress is announced as `label`, counting items as `unit`, such as "image".
    """
    dealt = track(share(items, group), label, unit=unit, visible=group.is_main)
    return gather([(position, compute(item)) for position, item in dealt], len(items), group)


def compute_on_main(compute: Callable[[], T], group: ProcessGroup) -> T:
    """Return in every process what rank 0 computes."""
    slot = [compute() if group.is_main else None]
    if group.size > 1:
        _guarded(lambda: dist.broadcast_object_list(slot, src=0))
    return cast("T", slot[0])


def barrier(group: ProcessGroup) -> None:
    """Wait until every process has reached this point."""
    if group.size > 1:
        _guarded(dist.barrier)


def _guarded(operation: Callable[[], Any]) -> None:
    """Run a collective operation; name the likely cause when it fails."""
    try:
        operation()
    except RuntimeError as error:
        raise DistributedError(
            "Another process of this run has stopped, so this one stops too. Look for the first error in the logs of "
            f"all processes. (torch.distributed says: {str(error).splitlines()[0]})"
        ) from error


def adopt_slurm_ranks(environment: MutableMapping[str, str]) -> None:
    """Set RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT where srun started several processes.

    Nothing changes where they are already set, as by torchrun, or where srun started a single process. Processes that
    form a group repeatedly get a new port each time, so that one that is early for the second does not join the first.
    A DistributedError if the first node's name cannot be determined.
    """
    size = environment.get("SLURM_STEP_NUM_TASKS", "1")
    is_ours = _MEETINGS in environment or "WORLD_SIZE" not in environment
    # A batch script has a SLURM_PROCID too, but only srun's processes belong to a step with tasks.
    if not is_ours or size == "1" or "SLURM_PROCID" not in environment:
        return
    meetings = int(environment.get(_MEETINGS, "0"))
    # Neighbouring jobs may share a node, so each has its own ports.
    port = int(environment["SLURM_JOB_ID"]) * _PORTS_PER_JOB + meetings % _PORTS_PER_JOB
    environment.update(
        {
            _MEETINGS: str(meetings + 1),
            "RANK": environment["SLURM_PROCID"],
            "LOCAL_RANK": environment.get("SLURM_LOCALID", "0"),
            "WORLD_SIZE": size,
            "MASTER_ADDR": _first_host(environment),
            "MASTER_PORT": str(_FIRST_PORT + port % _PORTS),
        }
    )


def _first_host(environment: MutableMapping[str, str]) -> str:
    """Return the address of the node that process 0 runs on."""
    if environment.get("SLURM_STEP_NUM_NODES", "1") == "1":
        return "127.0.0.1"
    nodes = environment.get("SLURM_STEP_NODELIST", "")
    command = ["scontrol", "show", "hostnames", nodes]
    try:
        hosts = subprocess.run(command, env=dict(environment), capture_output=True, text=True, timeout=60, check=True)
        return hosts.stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError) as error:
        raise DistributedError(
            f"The first of the nodes {nodes!r} cannot be determined ({error}). Set RANK, LOCAL_RANK, WORLD_SIZE, "
            "MASTER_ADDR and MASTER_PORT in the job's setup."
        ) from error
