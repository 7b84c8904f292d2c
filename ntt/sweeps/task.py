"""The callable that submitit stores, calls in a job and, after an interruption, calls again.

This module is imported before submitit can handle SLURM's signals, so it imports nothing heavy until work begins.
"""

import os
import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ntt.base.files import is_alive
from ntt.base.project import PROJECT_DIR
from ntt.errors import ConfigError
from ntt.sweeps.job import Job
from ntt.sweeps.snapshot import Snapshot, check_snapshot

_LOOK_EVERY_S = 1.0


@dataclass(frozen=True, kw_only=True)
class JobTask:
    """A job ready to run.

    Attributes:
        sweep_dir: folder of the sweep.
        work_dir: folder the sweep was started from, which relative paths in settings refer to.
        job: the work.
        code: the copy of the program that a job on a cluster must run; None on this machine.
        launcher: id of the process that waits for a job on this machine and ends with it; None on a cluster.
        visible_gpus: the launcher's CUDA_VISIBLE_DEVICES, which submitit's local executor would hide.
    """

    sweep_dir: Path
    work_dir: Path
    job: Job
    code: Snapshot | None = None
    launcher: int | None = None
    visible_gpus: str | None = None

    def __call__(self) -> None:
        """Do the work, except what is stored or finished already.

        Raises:
            NttError: if part of it failed; the states of shards and points have the reasons.
        """
        if self.code is not None:
            _check_code(self.code)
        if self.launcher is not None:
            signal.signal(signal.SIGTERM, _leave)
            threading.Thread(target=_watch, args=(self.launcher,), daemon=True).start()
            os.environ.pop("CUDA_VISIBLE_DEVICES", None)
            os.environ.update({} if self.visible_gpus is None else {"CUDA_VISIBLE_DEVICES": self.visible_gpus})
        os.chdir(self.work_dir)
        from submitit import JobEnvironment

        from ntt.sweeps import worker

        environment = JobEnvironment()
        worker.work(
            self.sweep_dir,
            self.job,
            rank=environment.global_rank,
            num_processes=environment.num_tasks,
            job_id=environment.job_id,
        )

    def checkpoint(self) -> Any:
        """Return what submitit queues after a time-out or pre-emption: the same work."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def _check_code(code: Snapshot) -> None:
    """Refuse to run any program but the copy made at submission."""
    check_snapshot(code)
    if code.root.resolve() != PROJECT_DIR:
        raise ConfigError(
            f"This job runs the program in {PROJECT_DIR}, not the copy made at submission, {code.root}. Take "
            "PYTHONSAFEPATH and options such as -P or -I out of the profile's setup and python, and submit again."
        )


def _leave(number: int, _: object) -> None:
    """End this process through all `finally` blocks."""
    signal.signal(number, signal.SIG_IGN)  # a second signal must not interrupt the clean-up
    sys.exit(128 + number)


def _watch(pid: int) -> None:
    """End this process when its launcher is gone."""
    while is_alive(pid):
        time.sleep(_LOOK_EVERY_S)
    os.kill(os.getpid(), signal.SIGTERM)
