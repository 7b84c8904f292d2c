"""A sweep on this machine: several jobs at a time, any of which may die."""

import os
import signal
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from ntt.sweeps.layout import local_jobs
from ntt.sweeps.plan import Plan
from ntt.sweeps.slurm import outside_of_jobs
from ntt.sweeps.state import Job, SweepFolder
from ntt.sweeps.status import sweep_status
from ntt.sweeps.task import JobTask

_LOOK_EVERY_S = 0.5
_END_WAIT_S = 20.0
_NO_LIMIT_MIN = 60 * 24 * 365


def run_local(
    folder: SweepFolder, plan: Plan, *, processes: int, on_change: Callable[[str], None] = lambda text: None
) -> None:
    """Do everything that is not done, shared work first. Failures are recorded; the rest continues.

    May be interrupted and called again at any time; points that another process works on are left to it. The plan is
    written, and new or refreshed, so that its counts of what is stored are right. `processes` jobs run at a time, and
    `on_change` receives a line about the progress whenever that has changed.
    """
    unfinished = [point for point in plan.points if not point.finished]
    points = [point for point in unfinished if folder.observed(point.id).status != "running"]
    for point in points:
        folder.reset(point.id)
    shared, rest = local_jobs(plan, points, processes=processes)
    for task in (task for job in shared for task in job.tasks):
        folder.reset(task)
    launcher = _Launcher(folder, plan, processes, on_change)
    try:
        launcher.run(shared)
        launcher.run(rest)
    finally:
        launcher.end()


class _Launcher:
    """Starts jobs, several at a time, and starts again what a job that died has left undone."""

    def __init__(self, folder: SweepFolder, plan: Plan, processes: int, on_change: Callable[[str], None]) -> None:
        self._folder, self._plan, self._processes, self._on_change = folder, plan, processes, on_change
        self._running: list[tuple[Any, Job]] = []
        self._last_progress = ""

    def run(self, jobs: Sequence[Job]) -> None:
        """Run jobs in order, and return when all have ended, successfully or not."""
        waiting = deque(jobs)
        while waiting or self._running:
            while waiting and len(self._running) < self._processes:
                self._start(waiting.popleft())
            self._show_progress()
            time.sleep(_LOOK_EVERY_S)
            for process, job in [pair for pair in self._running if pair[0].done()]:
                self._running.remove((process, job))
                waiting.extendleft(_left_by(self._folder, job, log=process.paths.stderr))
        self._show_progress()

    def end(self) -> None:
        """End all running jobs; their tasks wait again."""
        begun = time.monotonic()
        while processes := [process for process, _ in self._running if not process.done()]:
            for process in processes:  # repeatedly, as a process that is just starting may not listen yet
                os.kill(int(process.job_id), signal.SIGTERM)
            if time.monotonic() - begun > _END_WAIT_S:
                self._kill(processes)
            time.sleep(_LOOK_EVERY_S)
        for task in (task for _, job in self._running for task in job.tasks):
            if self._folder.observed(task).status == "lost":
                self._folder.reset(task)

    def _kill(self, processes: Sequence[Any]) -> None:
        """Kill what does not end on request: processes at work, and those that started them."""
        states = [self._folder.observed(task) for _, job in self._running for task in job.tasks]
        working = [state.pid for state in states if state.status == "running" and state.pid is not None]
        for pid in (*working, *(int(process.job_id) for process in processes)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _show_progress(self) -> None:
        text = _progress(self._folder, self._plan)
        if text != self._last_progress:
            self._on_change(text)
            self._last_progress = text

    @cached_property
    def _executor(self) -> Any:
        """submitit's executor, in its own folder: it names jobs by their process ids, which recur."""
        from submitit import LocalExecutor

        self._folder.logs.mkdir(parents=True, exist_ok=True)
        executor = LocalExecutor(tempfile.mkdtemp(prefix="local_", dir=self._folder.logs), max_num_timeout=0)
        executor.update_parameters(timeout_min=_NO_LIMIT_MIN)
        return executor

    def _start(self, job: Job) -> None:
        task = JobTask(
            sweep_dir=self._folder.root,
            work_dir=Path.cwd(),
            job=job,
            launcher=os.getpid(),
            visible_gpus=os.environ.get("CUDA_VISIBLE_DEVICES"),
        )
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C must not reach the job, which `end` ends
        try:
            with outside_of_jobs():
                self._running.append((self._executor.submit(task), job))
        finally:
            signal.signal(signal.SIGINT, before)


def _left_by(folder: SweepFolder, job: Job, *, log: Path) -> list[Job]:
    """Record as failed what a job that ended did not record itself, and return what else it left undone."""
    states = {task: folder.observed(task).status for task in job.tasks}
    died = [task for task, status in states.items() if status == "lost"]
    undone = [task for task, status in states.items() if status == "waiting"]
    for task in died or undone:
        error = f"Its process ended without an error message. The kernel does this when memory runs out. Its log: {log}"
        folder.record_failure(task, error)
    return [job.only(undone)] if died and undone else []


def _progress(folder: SweepFolder, plan: Plan) -> str:
    """Return a sweep's progress in one line."""
    status = sweep_status(folder, plan, asks_queue=False)
    unfinished = [each.unit for each in status.units if each.is_needed and each.unit.num_missing]
    if unfinished:
        return "; ".join(f"{unit.kind} {unit.num_cached} of {unit.num_items}" for unit in unfinished)
    counts = status.counts
    parts = [f"{counts['done']} of {len(plan.points)} points done"]
    return ", ".join([*parts, *(f"{counts[name]} {name}" for name in ("running", "failed") if counts[name])])
