"""A sweep on a SLURM cluster: submits its jobs and returns; called again, submits what is missing.

Shared work comes first; points wait for what they build on (`afterany`), and fail at once if that has failed. Without
accounting SLURM does not know how an ended job fared: the state files decide, the queue shows what is still to run.
"""

import logging
import os
import re
import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ntt.base.digests import content_key
from ntt.base.files import exclusive
from ntt.errors import ConfigError
from ntt.sweeps.clusters import ClusterProfile, JobRequest, load_profile, profile_names
from ntt.sweeps.layout import JobArray, cluster_arrays
from ntt.sweeps.plan import Plan
from ntt.sweeps.queue import ArrayRecord, owners, read_queue, slurm_command, write_jobs
from ntt.sweeps.state import SweepFolder
from ntt.sweeps.task import JobTask, Snapshot, code_digest, take_snapshot

_LOG = logging.getLogger(__name__)
_CANCEL_WAIT_S = 40.0


def submit(
    folder: SweepFolder, plan: Plan, *, cluster: str | None = None, overrides: Sequence[str] = ()
) -> tuple[list[ArrayRecord], list[str]]:
    """Submit whatever in a sweep is neither done nor queued; return the submitted arrays and the tasks queued before.

    This serves the first submission, one after an interruption, and the repetition of failed, cancelled and lost tasks.
    The plan is written, and ideally refreshed. Profile and overrides (see `load_profile`) are by default those of the
    previous submission, else the sweep file's. A ConfigError if SLURM refuses a job; what was submitted before stays.
    """
    slurm_command("sbatch", "--version")
    with exclusive(folder.jobs):  # a second submission at the same time waits, so that nothing is submitted twice
        before, live = read_queue(folder)
        if before and cluster is None:
            cluster, overrides = before[-1].cluster, overrides or before[-1].overrides
        profile = _profile(plan, cluster, overrides)
        queued = {task: job for task, (job, _) in owners(before).items() if job in live}
        arrays = cluster_arrays(folder, plan, profile, queued=queued)
        if not arrays:
            return [], list(queued)
        code = take_snapshot(folder.root / "code")
        if before and before[-1].code != code.digest:
            _LOG.warning(
                "The program has changed since the last submission. What is submitted now runs the program as it is; "
                "what was submitted before, and what is done, is of the program as it was."
            )
        submitted: list[ArrayRecord] = []
        for array in arrays:
            for task in (task for job in array.jobs for task in job.tasks):
                folder.reset(task)
            record = ArrayRecord(
                name=_job_name(folder, plan, array, len(before) + len(submitted)),
                stage=array.stage,
                jobs=tuple(job.tasks for job in array.jobs),
                cluster=profile.source,
                overrides=profile.lines,
                code=code.digest,
            )
            dependency = _dependency(array, arrays, [earlier.job_id for earlier in submitted])
            executor = _executor(folder, record.name, array, code, dependency)
            # Recorded before it is sent: if this process is killed in between, it is found in the queue by its name.
            write_jobs(folder, [*before, *submitted, record])
            submitted.append(replace(record, job_id=_send(executor, array, folder, code)))
            write_jobs(folder, [*before, *submitted])
    return submitted, list(queued)


def dry_run(folder: SweepFolder, plan: Plan, *, cluster: str | None = None, overrides: Sequence[str] = ()) -> list[str]:
    """Return a first submission's sbatch scripts, verbatim but for the ids of jobs waited for; needs no SLURM."""
    arrays = cluster_arrays(folder, plan, _profile(plan, cluster, overrides), queued={})
    code = Snapshot(folder.root / "code" / code_digest()[:12], "")
    ids = [f"ARRAY{number}" for number in range(1, len(arrays) + 1)]
    scripts = []
    for number, array in enumerate(arrays):
        name = _job_name(folder, plan, array, number)
        executor = _executor(folder, name, array, code, _dependency(array, arrays, ids), dry=True)
        if len(array.jobs) > 1:
            executor.parameters["map_count"] = len(array.jobs)
        scripts.append(executor._make_submission_file_text(executor._submitit_command_str, ""))
    return scripts


def cancel(folder: SweepFolder) -> list[str]:
    """End all jobs of the sweep, record their unfinished tasks as cancelled, and return the jobs' ids."""
    with exclusive(folder.jobs):
        arrays, live = read_queue(folder)
        if not live:
            return []
        ids = sorted({job.partition("_")[0] for job in live})
        slurm_command("scancel", *ids)
        now = time.time()
        arrays = [replace(array, cancelled_s=now) if array.job_id in ids else array for array in arrays]
        write_jobs(folder, arrays)
        end = time.monotonic() + _CANCEL_WAIT_S  # jobs may take until SLURM kills them after its KillWait
        while read_queue(folder)[1] and time.monotonic() < end:
            time.sleep(0.5)
        for task, (job, _) in owners(arrays).items():
            state = folder.state(task)
            if job in live and state.status not in ("done", "failed"):
                folder.write_state(task, replace(state, status="cancelled", job=job))
    return sorted(live)


def _job_name(folder: SweepFolder, plan: Plan, array: JobArray, number: int) -> str:
    """Return a name that no other array in the queue has; `number` counts the arrays submitted for the sweep."""
    return f"ntt-{plan.name}-{array.stage}-{content_key(str(folder.root))[:8]}.{number}"


def _profile(plan: Plan, cluster: str | None, overrides: Sequence[str]) -> ClusterProfile:
    name = cluster or plan.cluster
    if name is None:
        raise ConfigError(
            f"{plan.source} names no cluster profile. Give one on the command line or as the file's key cluster: one "
            f"of {', '.join(profile_names())}, or the path of a YAML file of your own."
        )
    return load_profile(name, overrides)


def _executor(
    folder: SweepFolder, name: str, array: JobArray, code: Snapshot, dependency: str | None, *, dry: bool = False
) -> Any:
    """Return submitit's executor for one array; a dry one works without a cluster."""
    from submitit import SlurmExecutor

    class DryExecutor(SlurmExecutor):  # type: ignore[misc]
        @classmethod
        def affinity(cls) -> int:
            return 2

    request = array.request
    executor = (DryExecutor if dry else SlurmExecutor)(
        folder.logs, max_num_timeout=request.max_timeouts if request.requeue else 0, python=request.python
    )
    executor.update_parameters(**sbatch_parameters(request, name=name, code=code.root), dependency=dependency)
    if array.stage == "points" and request.tasks > 1:
        # All processes run points together: if one ends, the others would only hold the node.
        executor.parameters["srun_args"].append("--kill-on-bad-exit=1")
    _escape_percent(executor, folder.logs, num_jobs=len(array.jobs))
    return executor


def sbatch_parameters(request: JobRequest, *, name: str, code: Path) -> dict[str, Any]:
    """Return a request in submitit's words; jobs start in the folder `code`, so that Python finds this copy first."""
    gpus: dict[str, Any] = {} if request.gpus == 0 else {"gpus_per_node": request.gpus}
    if request.gpus and request.gpu_type:
        gpus = {"gres": f"gpu:{request.gpu_type}:{request.gpus}"}
    words = {key: getattr(request, key) for key in ("partition", "account", "qos", "constraint")}
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
        # Since SLURM 22.05 srun no longer inherits this from sbatch, and would bind each task to one core.
        "srun_args": [f"--cpus-per-task={request.cpus}"],
        "additional_parameters": {"requeue" if request.requeue else "no-requeue": True, **request.extra},
        **{key: value for key, value in words.items() if value is not None},
        **gpus,
        **memory,
    }


def _escape_percent(executor: Any, logs: Path, *, num_jobs: int) -> None:
    """Name the log files again if their folder has a "%", which SLURM would take for a pattern."""
    if "%" not in str(logs):
        return
    stem = f"{logs}/".replace("%", "%%") + ("%A_%a" if num_jobs > 1 else "%j")
    streams = {"output": "out", "error": "err"}
    executor.parameters["additional_parameters"].update({key: f"{stem}_0_log.{end}" for key, end in streams.items()})
    executor.parameters["srun_args"] += [f"--{key}={stem}_%t_log.{end}" for key, end in streams.items()]


@contextmanager
def outside_of_jobs() -> Iterator[None]:
    """Hide the variables of a job that this may run in: sbatch and its jobs would take them for their own."""
    ranks = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "NTT_SLURM_WORLDS")
    of_job = [key for key in os.environ if key.startswith(("SLURM_", "SLURMD_", "SRUN_", "SUBMITIT_")) or key in ranks]
    hidden = {key: os.environ.pop(key) for key in of_job if key != "SLURM_CONF"}
    try:
        yield
    finally:
        os.environ.update(hidden)


def _send(executor: Any, array: JobArray, folder: SweepFolder, code: Snapshot) -> str:
    """Send one array and return its id."""
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    tasks = [JobTask(sweep_dir=folder.root, work_dir=Path.cwd(), code=code, job=job) for job in array.jobs]
    try:
        with outside_of_jobs(), executor.batch():
            jobs = [executor.submit(task) for task in tasks]
    except (FailedJobError, FailedSubmissionError) as error:
        for path in folder.logs.iterdir():
            if re.fullmatch(r"[0-9a-f]{32}\.pkl|\.submission_file_[0-9a-f]{32}\.sh", path.name):
                path.unlink(missing_ok=True)
        reason = " ".join(str(error).split())
        raise ConfigError(f"SLURM refuses the jobs of {array.stage}: {reason}. {_remedy(reason)}") from error
    job_id: str = jobs[0].job_id
    return job_id.partition("_")[0]


def _dependency(array: JobArray, arrays: Sequence[JobArray], ids: Sequence[str]) -> str | None:
    """Return what an array waits for in sbatch's words: whole arrays, or some of their jobs."""
    waits_for = list(array.after_jobs)
    for index, jobs in array.after.items():
        whole = len(jobs) == len(arrays[index].jobs)
        waits_for += [ids[index]] if whole else [f"{ids[index]}_{job}" for job in jobs]
    return f"afterany:{':'.join(waits_for)}" if waits_for else None


def _remedy(reason: str) -> str:
    """Return what to do about a refusal of sbatch."""
    again = "and submit again; what was submitted before is not repeated"
    if "array" in reason:
        limit = "MaxArraySize of scontrol show config, less one"
        return f"Give --set max_array_size=N, at most {limit}, {again}."
    if "ontroller" in reason or "ocket timed out" in reason:
        return f"The cluster's controller is down or busy: wait until squeue answers {again}."
    if "limit" in reason.lower():
        return f"The site limits how much a user may submit: wait for jobs to end {again}."
    return f"Change the profile's setting that it names, {again}."
