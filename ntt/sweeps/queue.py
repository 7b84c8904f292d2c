"""Which job of a cluster does what: `jobs.json` in the sweep's folder, and its state in the queue."""

import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from ntt.base.files import write_json
from ntt.base.typed import read_record
from ntt.errors import ConfigError
from ntt.sweeps.state import SweepFolder, TaskState

_QUEUE_TIMEOUT_S = 60
# States that stay visible for some minutes after a job's end. A job that is COMPLETING has not ended.
_ENDED = frozenset(
    ("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "TIMEOUT")
)
# What srun and submitit add while a job ends, below the words that tell why.
_FOLLOWS = re.compile("srun: (?!error)|srun: error: .*(exit code|Timed out)|submitit WARNING .* Bypassing signal")


@dataclass(frozen=True, kw_only=True)
class ArrayRecord:
    """One submitted array, or single job.

    Attributes:
        name: its name in the queue, which no other array has.
        job_id: as sbatch reported it; "" until the submission is complete.
        jobs: the tasks of each job of the array, in order.
        cluster: the profile as it was named; `overrides` of it.
        cancelled_s: when `cancel` withdrew it, seconds since 1970, or None.
    """

    name: str
    job_id: str = ""
    stage: str
    jobs: tuple[tuple[str, ...], ...]
    cluster: str
    overrides: tuple[str, ...]
    code: str
    cancelled_s: float | None = None

    def member(self, index: int) -> str:
        """Return the id of one job of the array as squeue shows it."""
        return self.job_id if len(self.jobs) == 1 else f"{self.job_id}_{index}"


@dataclass(frozen=True)
class _Record:
    arrays: tuple[ArrayRecord, ...]


def read_jobs(folder: SweepFolder) -> list[ArrayRecord]:
    """Return everything submitted for a sweep, oldest first; a StorageError if the record is damaged."""
    if not folder.jobs.is_file():
        return []
    remedy = "Wait for its jobs or end them with scancel, delete the file, and submit again."
    return list(read_record(_Record, folder.jobs, remedy=remedy).arrays)


def write_jobs(folder: SweepFolder, arrays: Sequence[ArrayRecord]) -> None:
    """Record what was submitted."""
    write_json(folder.jobs, {"arrays": [asdict(array) for array in arrays]})


def owners(arrays: Sequence[ArrayRecord]) -> dict[str, tuple[str, ArrayRecord]]:
    """Return the job last submitted for each task, with its array."""
    return {
        task: (array.member(index), array) for array in arrays for index, job in enumerate(array.jobs) for task in job
    }


def read_queue(folder: SweepFolder) -> tuple[list[ArrayRecord], dict[str, tuple[str, str]]]:
    """Return what was submitted for a sweep, and those of its jobs that wait or run: job id -> (state, why it waits).

    An array whose submission was killed before its id was recorded is found in the queue by its name; one that never
    reached the queue is left out.
    """
    arrays = read_jobs(folder)
    if not arrays:
        return [], {}
    names = ",".join(array.name for array in arrays)  # whoever has submitted them
    text = slurm_command("squeue", "--noheader", "--array", "--all", f"--name={names}", "--format=%i|%T|%j|%r")
    rows = [[cell.strip() for cell in line.split("|", 3)] for line in text.splitlines() if line.count("|") >= 3]
    ids = {name: job.partition("_")[0] for job, _, name, _ in rows}
    arrays = [replace(array, job_id=array.job_id or ids.get(array.name, "")) for array in arrays]
    arrays = [array for array in arrays if array.job_id]
    submitted = {array.member(index) for array in arrays for index in range(len(array.jobs))}
    return arrays, {job: (state, why) for job, state, _, why in rows if job in submitted and state not in _ENDED}


def observe(folder: SweepFolder, tasks: Sequence[str]) -> dict[str, TaskState]:
    """Return the states of tasks, from their files and the queue together.

    A task is "running" if its job runs, and "lost" if its job has left the queue without recording an end. One that is
    waiting has the id of its job, if any, and the reason as `error`.
    """
    states = {task: folder.observed(task) for task in tasks}
    arrays, live = read_queue(folder)
    for task, (job, array) in owners(arrays).items():
        if task in states:
            states[task] = _observed(folder, states[task], job, array, live.get(job))
    return states


def _observed(
    folder: SweepFolder, state: TaskState, job: str, array: ArrayRecord, entry: tuple[str, str] | None
) -> TaskState:
    """Combine a task's state file with its job's entry in the queue."""
    if state.status in ("done", "failed"):
        return state
    if entry is None and (array.cancelled_s is not None or state.status == "cancelled"):
        return replace(state, status="cancelled", job=job)
    if entry is None:
        error = f"Its job left the queue without recording an end. {_last_words(folder, job)}"
        return replace(state, status="lost", job=job, error=error)
    job_state, reason = entry
    if job_state == "RUNNING" and state.status == "running":
        return state
    # The state file of a requeued job still describes its last start.
    why = _why_waiting(job, job_state, reason)
    if job_state == "RUNNING" and state.status == "lost":
        why += ", but its process has ended or is silent"
    return replace(state, status="waiting", job=job, error=why)


def _why_waiting(job: str, job_state: str, reason: str) -> str:
    """Return why a job does not run, and what the user can do about it, if anything."""
    if job_state != "PENDING":
        return f"its job is {job_state}"
    if "held" in reason.lower():
        who = " (by an administrator of the cluster, who holds it)" if reason == "JobHeldAdmin" else ""
        return f"{reason}: scontrol release {job} lets it continue{who}"
    if reason == "DependencyNeverSatisfied":
        return f"{reason}: end it with scancel {job}, then repeat it with ntt sweep retry"
    return reason


def _last_words(folder: SweepFolder, job: str) -> str:
    """Return the last line of a job's error log, and where it is."""
    for log in sorted(folder.logs.glob(f"{job}_*log.err")):
        lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip() and not _FOLLOWS.match(line)), None)
        if last is not None:
            return f'It ended with "{last}" ({log}).'
    return f"What it wrote: {folder.logs}/{job}_*"


def slurm_command(program: str, *arguments: str) -> str:
    """Run a program of SLURM and return its output; a ConfigError if it is missing, fails or does not answer."""
    if shutil.which(program) is None:
        raise ConfigError(
            f"{program} is not found: this machine belongs to no SLURM cluster. Log in to one that does, or do the "
            "sweep on this machine with ntt sweep run."
        )
    command = [program, *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_QUEUE_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise ConfigError(
            f"{program} has not answered for {_QUEUE_TIMEOUT_S} s: the cluster's controller is down or busy. Running "
            "jobs are not affected; try again later."
        ) from error
    if done.returncode:
        remedy = "If the controller is down, try again later; running jobs are not affected."
        if "denied" in done.stderr:
            remedy = "Only whoever has submitted a job, or an administrator, may do this."
        raise ConfigError(f"{program} failed with status {done.returncode}: {done.stderr.strip()}. {remedy}")
    return done.stdout
