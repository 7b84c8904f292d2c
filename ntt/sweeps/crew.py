"""Worker processes of this machine that do tasks of a sweep, one at a time each; any of them may die.

Workers import what a task needs when they get it, so that starting one costs little.
"""

import logging
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import FrameType

from ntt.sweeps.state import SweepFolder

_LOG = logging.getLogger(__name__)
_LOOK_EVERY_S = 1.0
_END_WAIT_S = 20.0


@dataclass(frozen=True)
class Task:
    """One thing a worker does: a shard of shared work, or a point.

    Attributes:
        name: under which its state is kept.
        function: of `ntt.sweeps.work`.
        arguments: after the sweep's folder.
    """

    name: str
    label: str
    function: Callable[..., object]
    arguments: tuple[object, ...]


@dataclass
class _Worker:
    """A process that does what it is sent, and what it is doing now."""

    process: SpawnProcess
    connection: Connection
    task: Task | None = None


@dataclass
class Crew:
    """Hands tasks to workers; replaces workers that die. Used in a `with` block, which the workers do not outlive.

    Attributes:
        size: most workers at a time.
        on_change: called when something may have changed.
    """

    folder: SweepFolder
    size: int
    on_change: Callable[[], None]
    _workers: list[_Worker] = field(default_factory=list)

    def __enter__(self) -> "Crew":
        """Start nothing yet."""
        return self

    def __exit__(self, *error: object) -> None:
        """Send idle workers home; end busy ones, whose tasks then wait again."""
        for worker in self._workers:
            worker.connection.close()
            if worker.task is not None and worker.process.is_alive():
                worker.process.terminate()
        for worker in self._workers:
            worker.process.join(_END_WAIT_S)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            if worker.task is not None and self.folder.state(worker.task.name).status == "running":
                self.folder.reset(worker.task.name)

    def do(self, tasks: Sequence[Task]) -> None:
        """Do tasks in their order, several at a time; return when all have ended, well or not."""
        waiting = deque(tasks)
        while waiting or any(worker.task for worker in self._workers):
            while waiting and (idle := self._idle()) is not None:
                idle.task = waiting.popleft()
                idle.connection.send((idle.task.function, (str(self.folder.root), *idle.task.arguments)))
            self.on_change()
            busy = [worker for worker in self._workers if worker.task is not None]
            ready = wait([worker.connection for worker in busy], timeout=_LOOK_EVERY_S)
            for worker in busy:
                if worker.connection in ready:
                    self._hear(worker)
        self.on_change()

    def _idle(self) -> _Worker | None:
        """Return a worker with nothing to do, starting one if there are fewer than there may be."""
        idle = next((worker for worker in self._workers if worker.task is None), None)
        if idle is not None or len(self._workers) == self.size:
            return idle
        context = get_context("spawn")
        mine, theirs = context.Pipe()
        log = self.folder.logs / f"local_{os.getpid()}_{len(self._workers)}.log"
        process = context.Process(target=serve, args=(theirs, str(log)), daemon=True)
        process.start()
        theirs.close()
        self._workers.append(_Worker(process, mine))
        return self._workers[-1]

    def _hear(self, worker: _Worker) -> None:
        """Take the word that a task has ended, or notice that its process has."""
        task = worker.task
        worker.task = None
        try:
            worker.connection.recv()
        except (EOFError, ConnectionError):
            worker.process.join()
            self._workers.remove(worker)
            if task is not None:
                _note_death(self.folder, task, worker.process.exitcode)


def serve(connection: Connection, log: str) -> None:
    """Do what comes through a connection until it is closed; the body of a worker process.

    Args:
        connection: gives (function, arguments); gets None when the function has ended, well or not.
        log: file that takes everything the process writes.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)
    _write_into(Path(log))
    while True:
        try:
            function, arguments = connection.recv()
        except EOFError:
            return
        try:
            function(*arguments)
        except Exception:
            # The task's state has it with its traceback; the log is for whoever looks there first.
            _LOG.exception("%s%s failed", function.__name__, arguments)
        connection.send(None)


def _leave(signum: int, frame: FrameType | None) -> None:
    """Leave by way of all `finally` blocks, so that no temporary file stays and the task waits again."""
    sys.exit(128 + signum)


def _write_into(log: Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    stream = log.open("ab", buffering=0)
    os.dup2(stream.fileno(), 1)
    os.dup2(stream.fileno(), 2)


def _note_death(folder: SweepFolder, task: Task, exit_code: int | None) -> None:
    """Record what a process could not record itself."""
    name = f"signal {signal.Signals(-exit_code).name}" if exit_code and exit_code < 0 else f"exit status {exit_code}"
    cause = " The kernel does this when memory runs out." if exit_code == -signal.SIGKILL else ""
    error = f"Its process ended without a word ({name}).{cause} Its log is in {folder.logs}."
    _LOG.warning("%s: %s", task.label, error)
    now = time.time()
    folder.write_state(task.name, replace(folder.state(task.name), status="failed", error=error, finished_s=now))
