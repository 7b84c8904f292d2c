"""submitit's executors, for this machine and for SLURM, as jobs of sweeps need them."""

import os
import shlex
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ntt.sweeps.clusters import JobRequest

_NO_LIMIT_MIN = 60 * 24 * 365


def local_executor(logs: Path) -> Any:
    """Return an executor that starts processes on this machine.

    It names jobs by their process ids, which come again; so it has a folder of its own below `logs`.
    """
    from submitit import LocalExecutor

    logs.mkdir(parents=True, exist_ok=True)
    executor = LocalExecutor(tempfile.mkdtemp(prefix="local_", dir=logs), max_num_timeout=0)
    executor.update_parameters(timeout_min=_NO_LIMIT_MIN)
    return executor


def slurm_executor(
    logs: Path, request: JobRequest, *, name: str, code: Path, num_jobs: int, dependency: str | None, dry: bool
) -> Any:
    """Return an executor for one array.

    Args:
        logs: folder for scripts, pickles and output.
        request: what each job gets.
        name: shown by squeue.
        code: folder of the program's copy.
        num_jobs: length of the array.
        dependency: in sbatch's words, or None.
        dry: whether it is to work without a cluster.
    """
    from submitit import SlurmExecutor

    class DryExecutor(SlurmExecutor):  # type: ignore[misc]
        """Writes scripts without a cluster."""

        @classmethod
        def affinity(cls) -> int:
            return 2

    kind = DryExecutor if dry else SlurmExecutor
    executor = kind(logs, max_num_timeout=request.max_timeouts if request.requeue else 0, python=request.python)
    executor.update_parameters(**sbatch_parameters(request, name=name, code=code))
    _escape_percent(executor, logs, num_jobs)
    if dependency is not None:
        executor.update_parameters(dependency=dependency)
    return executor


def sbatch_parameters(request: JobRequest, *, name: str, code: Path) -> dict[str, Any]:
    """Return a request in submitit's words.

    Args:
        request: what the job gets.
        name: shown by squeue.
        code: folder of the program's copy; the job starts there, so that Python finds this copy first.
    """
    gpus: dict[str, Any] = {} if request.gpus == 0 else {"gpus_per_node": request.gpus}
    if request.gpus and request.gpu_type:
        gpus = {"gres": f"gpu:{request.gpu_type}:{request.gpus}"}
    words = {key: getattr(request, key) for key in ("partition", "account", "qos", "constraint", "exclude")}
    memory = {} if request.mem_gb is None else {"mem": f"{round(request.mem_gb * 1024)}M"}
    return {
        "job_name": name,
        "time": request.timeout_min,
        "nodes": 1,
        "ntasks_per_node": request.tasks,
        "cpus_per_task": request.cpus,
        "signal_delay_s": request.signal_delay_s,
        "array_parallelism": request.max_parallel,
        "setup": [*request.setup, f"cd {shlex.quote(str(code))}"],
        # Since SLURM 22.05 srun no longer takes this over from sbatch, and would bind each task to one core.
        "srun_args": [f"--cpus-per-task={request.cpus}", *request.srun_args],
        "additional_parameters": {"requeue" if request.requeue else "no-requeue": True, **request.extra},
        **{key: value for key, value in words.items() if value is not None},
        **gpus,
        **memory,
    }


def _escape_percent(executor: Any, logs: Path, num_jobs: int) -> None:
    """Name the log files once more where the folder has a "%", which SLURM would take for a pattern."""
    if "%" not in str(logs):
        return
    stem = f"{logs}/".replace("%", "%%") + ("%A_%a" if num_jobs > 1 else "%j")
    streams = {"output": "out", "error": "err"}
    executor.parameters["additional_parameters"].update({key: f"{stem}_0_log.{end}" for key, end in streams.items()})
    executor.parameters["srun_args"] += [f"--{key}={stem}_%t_log.{end}" for key, end in streams.items()]


@contextmanager
def outside_of_jobs() -> Iterator[None]:
    """Hide the variables of the job this may run in, which sbatch and jobs would take for their own."""
    ranks = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "NTT_SLURM_WORLDS")
    of_job = [key for key in os.environ if key.startswith(("SLURM_", "SLURMD_", "SRUN_", "SUBMITIT_")) or key in ranks]
    hidden = {key: os.environ.pop(key) for key in of_job if key != "SLURM_CONF"}
    try:
        yield
    finally:
        os.environ.update(hidden)


@contextmanager
def without_interrupts() -> Iterator[None]:
    """Let processes that are started in this block ignore Ctrl-C: whoever started them ends them in order."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
