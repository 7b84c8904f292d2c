"""The tasks of a sweep, its points and shards; the jobs that do them; and their state, one small file each.

There is no lock and no server. A process that works on a task writes a heartbeat every few seconds; a task whose
heartbeat has stopped, or whose process on this machine has ended, counts as lost and not done.
"""

import logging
import os
import shlex
import socket
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import SimpleNamespace

from ntt.base.files import is_alive, write_json
from ntt.base.project import OUTPUT_ROOT
from ntt.base.settings import setting
from ntt.base.typed import read_record
from ntt.errors import StorageError

_LOG = logging.getLogger(__name__)
STATUSES = ("waiting", "running", "done", "failed", "cancelled", "lost")
HEARTBEAT_S = 15.0
SILENCE_LIMIT_S = 180.0


@dataclass(frozen=True)
class Shard:
    """A share of a unit of shared work: its items `index::count`."""

    unit: str
    index: int
    count: int

    @property
    def task(self) -> str:
        """The name under which its state is kept."""
        return f"{self.unit}.{self.index}of{self.count}"


@dataclass(frozen=True, kw_only=True)
class Job:
    """Shards, which its processes divide, or points, which they run together once the tasks `needs` are done."""

    shards: tuple[Shard, ...] = ()
    points: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()

    @property
    def tasks(self) -> tuple[str, ...]:
        """The names under which the states of this work are kept."""
        return self.points or tuple(shard.task for shard in self.shards)

    def only(self, tasks: list[str]) -> "Job":
        """Return the part of this job that does some of its tasks."""
        shards = tuple(shard for shard in self.shards if shard.task in tasks)
        return Job(shards=shards, points=tuple(point for point in self.points if point in tasks), needs=self.needs)


@dataclass(frozen=True)
class TaskState:
    """The state of a point, or of a shard of shared work. Times are seconds since 1970 by the worker's clock.

    Attributes:
        status: one of `STATUSES`; "lost" is never written, only concluded (see `SweepFolder.observed`).
        attempts: how often work on it has begun.
        computed: how many items a shard has added to the store.
        error: what went wrong, in a sentence; `traceback`: where.
    """

    status: str = setting("waiting", one_of=STATUSES)
    started_s: float | None = None
    heartbeat_s: float | None = None
    finished_s: float | None = None
    host: str | None = None
    pid: int | None = None
    job: str | None = None
    attempts: int = 0
    computed: int = 0
    error: str | None = None
    traceback: str | None = None

    @property
    def seconds(self) -> float | None:
        """How long the work took, or has taken so far."""
        end = self.heartbeat_s if self.finished_s is None else self.finished_s
        return None if self.started_s is None or end is None else max(0.0, end - self.started_s)


class SweepFolder:
    """The folder of one sweep."""

    def __init__(self, root: Path) -> None:
        """Name the files; nothing is read or written."""
        self.root = root
        # Written last, so that its presence means the sweep is ready to be worked on.
        self.plan = root / "plan.json"
        # What was submitted to a cluster; see `ntt.sweeps.queue`.
        self.jobs = root / "jobs.json"
        # Folders of the jobs' output and of collected tables.
        self.logs, self.tables = root / "logs", root / "tables"

    @property
    def argument(self) -> str:
        """What to call the sweep on the command line: by its name, or by its folder outside the default output root."""
        is_default = self.root.parent == Path(OUTPUT_ROOT, "sweeps").absolute()
        return self.root.name if is_default else shlex.quote(str(self.root))

    def shard_folder(self, task: str) -> Path:
        """Folder in which a shard lists the store entries that it has computed or found."""
        return self.root / "shards" / task

    def state(self, task: str) -> TaskState:
        """Return the recorded state of a task (a point's id, or `Shard.task`); a damaged file counts as none."""
        path = self._state_path(task)
        try:
            return read_record(TaskState, path, remedy="Its task counts as waiting.") if path.exists() else TaskState()
        except StorageError as error:
            _LOG.warning("%s", error)
            return TaskState()

    def write_state(self, task: str, state: TaskState) -> None:
        """Record the state of a task."""
        write_json(self._state_path(task), asdict(state))

    def observed(self, task: str) -> TaskState:
        """Return a task's state, "lost" instead of "running" if the process that worked on it is gone."""
        state = self.state(task)
        ended = state.host == socket.gethostname() and state.pid is not None and not is_alive(state.pid)
        is_silent = time.time() - (state.heartbeat_s or 0.0) > SILENCE_LIMIT_S
        is_lost = state.status == "running" and (ended or is_silent)
        return replace(state, status="lost") if is_lost else state

    def reset(self, task: str) -> None:
        """Make a task wait again, whatever its state; only its number of attempts stays."""
        self.write_state(task, TaskState(attempts=self.state(task).attempts))

    def record_failure(self, task: str, error: str, *, job: str | None = None) -> None:
        """Record, and log, the failure of a task whose own process could not."""
        _LOG.warning("%s: %s", task, error)
        now, state = time.time(), self.state(task)
        if state.status != "running":
            state = TaskState(started_s=now, attempts=state.attempts + 1)
        job = job or state.job
        self.write_state(task, replace(state, status="failed", heartbeat_s=now, finished_s=now, error=error, job=job))

    def shards(self, unit: str) -> list[str]:
        """Return the tasks of a unit's shards that have been started, in order."""
        return sorted(path.stem for path in self._state_path("_").parent.glob(f"{unit}.*.json"))

    @contextmanager
    def working_on(self, task: str, *, job: str | None = None) -> Iterator[SimpleNamespace]:
        """Record that this process works on a task, with a heartbeat, until the block ends.

        Then the task is done; or failed, with its traceback, after an exception (which propagates); or waiting again,
        if the process was told to stop (KeyboardInterrupt, SystemExit). The block updates the count that is yielded,
        and each heartbeat records it.
        """
        count, now = SimpleNamespace(computed=0), time.time()
        attempts, host = self.state(task).attempts + 1, socket.gethostname()
        begun = TaskState("running", now, now, host=host, pid=os.getpid(), job=job, attempts=attempts)
        self.write_state(task, begun)
        stop = threading.Event()
        heartbeat = threading.Thread(target=_beat, args=(self, task, begun, count, stop), daemon=True)
        heartbeat.start()
        ended = replace(begun, status="waiting")
        try:
            yield count
            ended = replace(begun, status="done", finished_s=time.time())
        except Exception as caught:
            error, trace = f"{type(caught).__name__}: {caught}", traceback.format_exc()
            ended = replace(begun, status="failed", finished_s=time.time(), error=error, traceback=trace)
            raise
        finally:
            stop.set()
            heartbeat.join()
            self.write_state(task, replace(ended, heartbeat_s=time.time(), **vars(count)))

    def _state_path(self, task: str) -> Path:
        return self.root / "state" / f"{task}.json"


def _beat(folder: SweepFolder, task: str, begun: TaskState, count: SimpleNamespace, stop: threading.Event) -> None:
    """Renew the heartbeat until told to stop. A disk that is full for a time must not end the work."""
    while not stop.wait(HEARTBEAT_S):
        try:
            folder.write_state(task, replace(begun, heartbeat_s=time.time(), **vars(count)))
        except StorageError as error:
            _LOG.warning("%s", error)
