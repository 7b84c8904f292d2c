"""Which job of a cluster does what: `jobs.json` in the sweep's folder, and what the queue says of it."""

import getpass
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ntt.base.files import read_json, write_json
from ntt.errors import ConfigError, StorageError
from ntt.sweeps.state import SweepFolder

_FORMAT = 1
_QUEUE_TIMEOUT_S = 60


@dataclass(frozen=True, kw_only=True)
class ArrayRecord:
    """One submitted array, or single job.

    Attributes:
        job_id: as sbatch said.
        stage: "candidates", "references" or "points".
        jobs: for each job of the array, in order, the tasks whose state it keeps.
        cluster: the profile as it was named.
        overrides: of the profile.
        code: digest of the copy of the program that it runs.
        submitted_s: seconds since 1970.
        cancelled_s: when `cancel` withdrew it, or None.
    """

    job_id: str
    stage: str
    jobs: tuple[tuple[str, ...], ...]
    cluster: str
    overrides: tuple[str, ...]
    code: str
    submitted_s: float
    cancelled_s: float | None = None

    def member(self, place: int) -> str:
        """Return the id of one job of the array as squeue shows it."""
        return self.job_id if len(self.jobs) == 1 else f"{self.job_id}_{place}"


@dataclass(frozen=True)
class QueueEntry:
    """What the queue says of one job: SLURM's state (PENDING, RUNNING, ...) and why it waits."""

    job: str
    state: str
    reason: str


def read_jobs(folder: SweepFolder) -> list[ArrayRecord]:
    """Return everything submitted for a sweep, oldest first; an empty list where nothing was.

    Raises:
        StorageError: if the record is damaged or of another version.
    """
    if not folder.jobs.is_file():
        return []
    content = read_json(folder.jobs)
    try:
        if content["format"] != _FORMAT:
            raise ValueError(f"format {content['format']}, allowed is {_FORMAT}")
        return [_array_from(one) for one in content["arrays"]]
    except (KeyError, TypeError, ValueError) as error:
        raise StorageError(
            f"{folder.jobs} is of another version of this program ({error}). Wait for its jobs or end them with "
            "scancel, delete the file, and submit again; nothing that is done is repeated."
        ) from error


def write_jobs(folder: SweepFolder, arrays: Sequence[ArrayRecord]) -> None:
    """Keep what was submitted."""
    write_json(folder.jobs, {"format": _FORMAT, "arrays": [asdict(one) for one in arrays]})


def owners(arrays: Sequence[ArrayRecord]) -> dict[str, tuple[str, ArrayRecord]]:
    """Return, for each task, the job that was last submitted for it, with its array."""
    return {
        task: (array.member(place), array) for array in arrays for place, job in enumerate(array.jobs) for task in job
    }


def live_jobs(arrays: Sequence[ArrayRecord]) -> dict[str, QueueEntry]:
    """Ask the queue for the jobs of these arrays that wait or run: job id -> entry.

    Raises:
        ConfigError: if there is no queue to ask.
    """
    if not arrays:
        return {}
    text = slurm_command("squeue", "--noheader", "--array", f"--user={getpass.getuser()}", "--format=%i|%T|%r")
    known = {array.member(place) for array in arrays for place in range(len(array.jobs))}
    rows = [line.split("|", 2) for line in text.splitlines() if line.count("|") >= 2]
    entries = [QueueEntry(job.strip(), state.strip(), reason.strip()) for job, state, reason in rows]
    return {one.job: one for one in entries if one.job in known and one.state not in _ENDED}


# What stays visible for some minutes after the end. A job that is COMPLETING is not at its end.
_ENDED = (
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "TIMEOUT",
)


def slurm_command(program: str, *arguments: str) -> str:
    """Run a program of SLURM and return what it says.

    Raises:
        ConfigError: if it is not there, fails or does not answer.
    """
    if shutil.which(program) is None:
        raise ConfigError(
            f"{program} is not found: this machine belongs to no SLURM cluster. Log in to one that does, or do the "
            "sweep on this machine with ntt sweep run."
        )
    try:
        done = subprocess.run(
            [program, *arguments], capture_output=True, text=True, timeout=_QUEUE_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ConfigError(
            f"{program} has not answered for {_QUEUE_TIMEOUT_S} s: the cluster's controller is down or busy. Running "
            "jobs are not affected; try again later."
        ) from error
    if done.returncode:
        raise ConfigError(
            f"{program} failed with status {done.returncode}: {done.stderr.strip()}. If the controller is down, try "
            "again later; running jobs are not affected."
        )
    return done.stdout


def _array_from(one: Mapping[str, Any]) -> ArrayRecord:
    jobs, overrides = tuple(tuple(job) for job in one["jobs"]), tuple(one["overrides"])
    return ArrayRecord(**{**one, "jobs": jobs, "overrides": overrides})
