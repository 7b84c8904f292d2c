"""The work of one SLURM job, once the program is loaded."""

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ntt.base.distributed import adopt_slurm_ranks
from ntt.errors import NttError
from ntt.sweeps import work
from ntt.sweeps.plan import read_plan
from ntt.sweeps.slurm_task import JobWork
from ntt.sweeps.state import SweepFolder, TaskState

_LOG = logging.getLogger(__name__)
_SETTLE_S = 10.0
"""How long the states of other nodes may take to become visible here: network file systems keep what they have read."""
_FILL = {"candidates": work.fill_candidates, "references": work.fill_references}


def do(sweep_dir: Path, mine: JobWork, *, rank: int, job: str | None) -> None:
    """Do the work of a job.

    Args:
        sweep_dir: folder of the sweep.
        mine: what to do.
        rank: this process's number among those of the job. Each has a shard of its own; points are run by all.
        job: id of the job; kept with the states.

    Raises:
        NttError: if a shard or a point failed.
    """
    if mine.stage in _FILL:
        _FILL[mine.stage](sweep_dir, mine.unit, mine.shards[rank], mine.num_shards, job=job)
        return
    adopt_slurm_ranks(os.environ)
    blocked = _blocked(SweepFolder(sweep_dir), mine, write=rank == 0, job=job)
    ready = [one for one in mine.points if one not in blocked]
    failed = [*blocked, *(work.run_points(sweep_dir, ready, job=job) if ready else [])]
    if failed:
        raise NttError(
            f"{len(failed)} of {len(mine.points)} points of this job failed; their states hold the reasons. See "
            "ntt sweep status, and repeat them with ntt sweep retry."
        )


def _blocked(folder: SweepFolder, mine: JobWork, *, write: bool, job: str | None) -> list[str]:
    """Record the points whose shared work is not done as failed, and return them.

    They could compute what is missing themselves, but dozens of them would compute the same, each for itself and
    with the resources of a point. Repeating the missing shards first costs less.
    """
    plan, blocked = read_plan(folder), []
    undone = _undone(folder, mine.needs)
    for point_id in mine.points:
        units = plan.point(point_id).units
        task = next((one for one in undone if one.rpartition(".")[0] in units), None)
        if task is None:
            continue
        blocked.append(point_id)
        if write:
            reason = f": {undone[task].error}" if undone[task].error else ""
            error = (
                f"The shared work {task} of this point is {undone[task].status}{reason}. ntt sweep retry {plan.name} "
                "repeats it and this point."
            )
            now = time.time()
            before = folder.state(point_id)
            ended = replace(before, status="failed", error=error, traceback=None, job=job, attempts=before.attempts + 1)
            folder.write_state(point_id, replace(ended, started_s=now, heartbeat_s=now, finished_s=now))
            _LOG.warning("%s", error)
    return blocked


def _undone(folder: SweepFolder, tasks: Sequence[str]) -> dict[str, TaskState]:
    """Return the tasks that are not done. Their jobs have ended, so any state but "failed" may be an old one."""
    end = time.monotonic() + _SETTLE_S
    while True:
        undone = {task: state for task in tasks if (state := folder.observed(task)).status != "done"}
        if not undone or any(one.status == "failed" for one in undone.values()) or time.monotonic() > end:
            return undone
        time.sleep(0.5)
