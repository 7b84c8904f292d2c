"""What a job does once the program is loaded.

A job composes the configurations of its points from the plan, so that only the sweep's folder and the names of tasks
are handed over. Every task may be repeated at any time, in another process or on another node: what is in the store or
in a finished run directory is not computed again.
"""

import logging
import time
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from ntt.base.distributed import ProcessGroup, compute_on_main, join_process_group
from ntt.base.log import console_logging
from ntt.base.progress import track
from ntt.config.schema import ExperimentConfig
from ntt.data.images import check_images
from ntt.errors import ConfigError, DistributedError, NttError
from ntt.run import runner
from ntt.run.pipeline import Pipeline
from ntt.run.rundir import RunDirectory
from ntt.run.shared import process_workspace
from ntt.run.together import match_ahead
from ntt.sweeps.plan import Plan, compose_points, read_plan
from ntt.sweeps.points import Point
from ntt.sweeps.state import Job, Shard, SweepFolder, TaskState
from ntt.sweeps.status import is_done
from ntt.sweeps.units import shared_items

_LOG = logging.getLogger(__name__)
_SETTLE_S = 10.0
"""How long states written on other nodes may take to become visible here: network file systems cache what they read."""


def work(sweep_dir: Path, job: Job, *, rank: int = 0, num_processes: int = 1, job_id: str | None = None) -> None:
    """Do this process's part of a job, and raise an NttError at the end if a task of it failed.

    A task that fails is recorded with its traceback, and the next one follows.
    """
    folder = SweepFolder(sweep_dir)
    worker = _Worker(folder, read_plan(folder), job, rank, num_processes, job_id)
    failed = [shard.task for shard in job.shards[rank::num_processes] if not worker.fill(shard)]
    failed += worker.run_points()
    if failed:
        raise NttError(
            f"{len(failed)} of {len(job.tasks)} tasks of this job failed: {', '.join(failed[:3])}. Their reasons: ntt "
            f"sweep status {folder.argument}."
        )


class _OutOfStep(Exception):
    """A point failed, so the processes of the job may have got to different points."""


@dataclass(frozen=True)
class _Worker:
    """One process of a job. The first of several records the states of points."""

    folder: SweepFolder
    plan: Plan
    job: Job
    rank: int
    num_processes: int
    job_id: str | None

    def fill(self, shard: Shard) -> bool:
        """Compute the items of a shard into the store, losing at most one if stopped; return False if that failed."""
        try:
            with console_logging(), self.folder.working_on(shard.task, job=self.job_id) as count:
                unit = self.plan.unit(shard.unit)
                members = {point.id for point in self.plan.points if unit.id in point.units}
                composed = compose_points(self.plan, members)
                pipelines = [Pipeline(config, workspace=process_workspace()) for _, config in composed]
                items, is_stored, compute = shared_items(unit.kind, pipelines)
                items = items[shard.index :: shard.count]
                error = pipelines[0].models.store.writing_error if unit.kind == "candidates" else None
                if error is not None and not all(is_stored(*item) for item in items):
                    raise error
                check_images([item[-1] for item in items])
                for item in track(items, unit.kind, unit=unit.item, visible=True):
                    is_new = not is_stored(*item)
                    compute(*item)
                    count.computed += is_new
                # So that entries count as used before any point has used them; see `store.maintenance.keys_of_runs`.
                used = pipelines[0].models.store.used
                RunDirectory(self.folder.shard_folder(shard.task)).write_store_keys(shard.task, used)
        except Exception:
            _LOG.exception("%s failed; the others continue.", shard.task)
            return False
        return True

    def run_points(self) -> list[str]:
        """Run the points of the job, together where they share candidates; return the ids of those that failed.

        The processes of the job meet once. Only after a failure do they meet again, because some may have got further
        than others.
        """
        points, failed = list[Point](), list[str]()
        for point_id in self.job.points:
            try:
                points.append(self.plan.point(point_id))
            except ConfigError as error:
                failed += self._record([point_id], str(error))
        waiting = deque(by_candidates(points) if self.num_processes == 1 else [[point] for point in points])
        while waiting:
            try:
                with suppress(_OutOfStep), join_process_group(timeout_s=self._timeout_s(waiting[0])) as group:
                    while waiting:
                        blocked = compute_on_main(lambda: self._record_blocked(waiting[0]), group)
                        ready = [point for point in waiting.popleft() if point.id not in blocked]
                        failed_now = self._run_sharing(ready, group)
                        failed += [*blocked, *failed_now]
                        if failed_now and group.size > 1:
                            raise _OutOfStep
            except DistributedError as error:  # the processes could not form a group, or one has ended
                failed += self._record([point.id for sharing in waiting for point in sharing], str(error))
                waiting.clear()
        return failed

    def _run_sharing(self, points: Sequence[Point], group: ProcessGroup) -> list[str]:
        """Match points with the same candidates together, then run each; return the ids of failed ones."""
        failed: list[str] = []
        waiting, configs = list(points), dict[str, ExperimentConfig]()
        while waiting:
            count = self._match_ahead(waiting, configs) if len(waiting) > 1 else 1
            for point in waiting[:count]:
                failed += [] if self._run_point(point, group, configs.get(point.id)) else [point.id]
            del waiting[:count]
        return failed

    def _match_ahead(self, points: Sequence[Point], configs: dict[str, ExperimentConfig]) -> int:
        """Compose all points, and match as many of the first ones as fit into memory; return how many."""
        try:
            configs.update({point.id: point_config(self.plan, point) for point in points if point.id not in configs})
            return match_ahead([configs[point.id] for point in points], process_workspace())
        except Exception:  # a point that cannot be composed or matched fails with its own message when it is run
            _LOG.debug("The points are not matched together.", exc_info=True)
            return len(points)

    def _run_point(self, point: Point, group: ProcessGroup, config: ExperimentConfig | None) -> bool:
        """Run one point unless it is done; return whether it is done now."""
        try:
            if compute_on_main(lambda: is_done(self.folder, point), group):
                _LOG.info("The point (%s) is done.", point.label)
                return True
            with self.folder.working_on(point.id, job=self.job_id) if group.is_main else nullcontext():
                runner.run(config or point_config(self.plan, point), workspace=process_workspace())
        except Exception:
            _LOG.exception("The point (%s) failed; the others continue.", point.label)
            return False
        return True

    def _timeout_s(self, points: Sequence[Point]) -> int:
        with suppress(NttError):  # a point that cannot be composed fails with its own message when it is run
            return point_config(self.plan, points[0]).runtime.dist_timeout_s
        return ExperimentConfig().runtime.dist_timeout_s

    def _record_blocked(self, points: Sequence[Point]) -> list[str]:
        """Record points whose shared work is not done as failed, and return their ids.

        They could compute what is missing themselves, but dozens of them would compute the same, each with the
        resources of a point. Repeating the missing shards first costs less.
        """
        blocked = []
        for point in points:
            task = next((task for task in self._undone if task.rpartition(".")[0] in point.units), None)
            if task is not None:
                state = self._undone[task]
                reason = f": {state.error}" if state.error else "."
                error = f"The shared work {task} of this point is {state.status}{reason}"
                blocked += self._record([point.id], f"{error} ntt sweep retry {self.folder.argument} repeats both.")
        return blocked

    @cached_property
    def _undone(self) -> dict[str, TaskState]:
        """The shared work that is not done. Its jobs have ended, so any state but "failed" may be out of date."""
        end = time.monotonic() + _SETTLE_S
        while True:
            undone = {task: state for task in self.job.needs if (state := self.folder.observed(task)).status != "done"}
            if not undone or any(state.status == "failed" for state in undone.values()) or time.monotonic() > end:
                return undone
            time.sleep(0.5)

    def _record(self, points: list[str], error: str) -> list[str]:
        """Record points as failed without trying them, and return them."""
        for point in points if self.rank == 0 else ():
            self.folder.record_failure(point, error, job=self.job_id)
        return points


def by_candidates(points: Iterable[Point]) -> list[list[Point]]:
    """Group points by the candidates they share, in the order of first members."""
    groups: dict[str, list[Point]] = {}
    for point in points:
        unit = next((unit for unit in point.units if unit.startswith("candidates-")), point.id)
        groups.setdefault(unit, []).append(point)
    return list(groups.values())


def point_config(plan: Plan, point: Point) -> ExperimentConfig:
    """Compose one point; its tracker groups the points of the sweep."""
    ((_, config),) = compose_points(plan, {point.id})
    return replace(config, tracker=replace(config.tracker, group=config.tracker.group or plan.name))
