"""What runs inside a SLURM job of a sweep.

Imported before submitit can take SLURM's signals, so nothing heavy is imported here until work begins.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ntt.base.project import PROJECT_DIR
from ntt.errors import ConfigError
from ntt.sweeps.snapshot import Snapshot, check_snapshot
from ntt.sweeps.state import shard_task


@dataclass(frozen=True, kw_only=True)
class JobWork:
    """The work of one job: shards of one unit of shared work, or some points.

    Attributes:
        stage: "candidates", "references" or "points".
        unit: id of the unit, "" for points.
        shards: numbers of the shards, one for each process of the job; () for points.
        num_shards: number of shards of the unit.
        points: ids of the points, which all processes run together; () for shards.
        needs: tasks of shared work (see `ntt.sweeps.state.shard_task`) that must be done before the points are run.
    """

    stage: str
    unit: str = ""
    shards: tuple[int, ...] = ()
    num_shards: int = 0
    points: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()

    def tasks(self) -> tuple[str, ...]:
        """Return the names under which the states of this work are kept."""
        return self.points or tuple(shard_task(self.unit, one, self.num_shards) for one in self.shards)


@dataclass(frozen=True, kw_only=True)
class ClusterTask:
    """The callable that submitit keeps, starts and, after an interruption, starts again.

    Attributes:
        sweep_dir: folder of the sweep.
        work_dir: folder the sweep was submitted from; relative paths in settings start there.
        code: the copy of the program the job must run.
    """

    sweep_dir: Path
    work_dir: Path
    code: Snapshot
    work: JobWork

    def __call__(self) -> None:
        """Do the work; what is stored or finished already is not done again.

        Raises:
            NttError: if part of it failed; the reason is in the state of each shard and point.
        """
        self._check_code()
        os.chdir(self.work_dir)
        from ntt.sweeps import slurm_work

        slurm_work.do(self.sweep_dir, self.work, rank=int(os.environ.get("SLURM_PROCID", "0")), job=job_id())

    def checkpoint(self) -> Any:
        """Return what submitit queues after a time-out or pre-emption: the same work, most of it found done."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def _check_code(self) -> None:
        """Refuse to run anything but the copy made at submission."""
        check_snapshot(self.code)
        if self.code.root.resolve() != PROJECT_DIR:
            raise ConfigError(
                f"This job runs the program in {PROJECT_DIR}, allowed is the copy made at submission, "
                f"{self.code.root}. Take PYTHONSAFEPATH and options such as -P or -I out of the profile's setup and "
                "python, and submit again."
            )


def job_id() -> str | None:
    """Return the id of the SLURM job this process belongs to, as squeue shows it: 123 or 123_4."""
    array, place = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{place}" if array and place else os.environ.get("SLURM_JOB_ID")
