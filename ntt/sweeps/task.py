"""The callable that submitit stores, calls in a job and, after an interruption, calls again; and the code it runs.

A sweep's author keeps working while it waits in the queue, so its jobs on a cluster import a copy of the program, made
at submission. Imported before submitit can handle SLURM's signals, this module imports nothing heavy until work begins.
"""

import hashlib
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ntt.base.files import is_alive
from ntt.base.project import CONFIG_ROOT, PROJECT_DIR
from ntt.errors import ConfigError
from ntt.sweeps.state import Job

_LOOK_EVERY_S = 1.0
# An installed package has its configuration inside.
_PARTS = ("ntt", "conf", "experiments", "main.py") if CONFIG_ROOT == PROJECT_DIR else ("ntt",)


@dataclass(frozen=True)
class Snapshot:
    """A copy of the program: its folder, and the digest of its files."""

    root: Path
    digest: str


def take_snapshot(folder: Path, *, project: Path = PROJECT_DIR) -> Snapshot:
    """Copy the program, as it is now, to `folder/<digest>` or use the copy there; a ConfigError if that was changed."""
    digest = code_digest(project)
    snapshot = Snapshot(folder / digest[:12], digest)
    if not snapshot.root.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".copy.", dir=folder) as temporary:
            copy = Path(temporary, "code")
            for name in _files(project, _PARTS):
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(project / name, copy / name)
            copy.rename(snapshot.root)
    check_snapshot(snapshot)
    return snapshot


def check_snapshot(snapshot: Snapshot) -> None:
    """Make sure that no file of a copy was changed, added or removed; else a ConfigError."""
    digest = code_digest(snapshot.root, parts=(".",))  # anything next to the program could be imported too
    if digest != snapshot.digest:
        raise ConfigError(
            f"The code in {snapshot.root} is not what was submitted: its digest is {digest[:12]}, expected "
            f"{snapshot.digest[:12]}. Delete the folder and submit again with ntt sweep retry, which copies the "
            "current program."
        )


def code_digest(project: Path = PROJECT_DIR, *, parts: Sequence[str] = _PARTS) -> str:
    """Return the digest of the program as it is now."""
    state = hashlib.sha256()
    for name in _files(project, parts):
        content = (project / name).read_bytes()
        state.update(f"{name}\0{len(content)}\0".encode())
        state.update(content)
    return state.hexdigest()


def _files(project: Path, parts: Sequence[str]) -> list[str]:
    """Return the relative names of the program's files, sorted, without caches and editors' backups."""
    paths = [path for part in parts for path in (project / part, *(project / part).rglob("*")) if path.is_file()]
    names = [path.relative_to(project) for path in paths]
    ignored = re.compile(r"__pycache__|\..*|.*\.pyc|.*~")
    return sorted(name.as_posix() for name in names if not any(map(ignored.fullmatch, name.parts)))


@dataclass(frozen=True, kw_only=True)
class JobTask:
    """A job ready to run.

    Attributes:
        work_dir: folder the sweep was started from, which relative paths in settings refer to.
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
        """Do the work, except what is stored or finished already; an NttError if part of it failed."""
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
