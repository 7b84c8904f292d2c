"""The jobs that a sweep becomes, on this machine or on a cluster: which does what, and what waits for what."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import TypeVar

from ntt.sweeps.clusters import ClusterProfile, JobRequest
from ntt.sweeps.job import Job, Shard
from ntt.sweeps.plan import Plan, PlannedPoint
from ntt.sweeps.spec import StageResources
from ntt.sweeps.state import SweepFolder
from ntt.sweeps.status import is_done
from ntt.sweeps.units import WorkUnit

T = TypeVar("T")


def local_jobs(plan: Plan, points: Sequence[PlannedPoint], *, processes: int) -> tuple[list[Job], list[Job]]:
    """Divide the shared work that is not in the store, and the points that follow it, among some processes."""
    needed = {unit for point in points for unit in point.units}
    units = [unit for unit in plan.units if unit.id in needed and unit.num_missing]
    shards = [shard for unit in units for shard in _shards(unit, min(processes, unit.num_missing))]
    shared = [tuple(shard for shard in shards if shard.index == index) for index in range(processes)]
    size = max(1, ceil(len(points) / processes))
    return [Job(shards=part) for part in shared if part], [_points_job(part, shards) for part in _chunks(points, size)]


@dataclass(frozen=True, kw_only=True)
class JobArray:
    """An array of jobs to be submitted.

    Attributes:
        request: what each job gets.
        after: which earlier arrays it waits for: index of the array -> indices of jobs in it.
        after_jobs: ids of jobs, submitted earlier, that it waits for.
    """

    stage: str
    jobs: tuple[Job, ...]
    request: JobRequest
    after: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    after_jobs: tuple[str, ...] = ()


def cluster_arrays(
    folder: SweepFolder, plan: Plan, profile: ClusterProfile, *, queued: Mapping[str, str]
) -> list[JobArray]:
    """Lay out the arrays of jobs of a cluster; `queued` has tasks in its queue already, with their jobs."""
    layout = _ClusterLayout(folder, plan, profile, queued)
    layout.add_shared("candidates")
    layout.add_shared("references")
    layout.add_points()
    return layout.arrays


class _ClusterLayout:
    """Collects arrays. With a limit on the sweep's jobs, arrays follow one another, so that the limit holds for all."""

    def __init__(self, folder: SweepFolder, plan: Plan, profile: ClusterProfile, queued: Mapping[str, str]) -> None:
        self.arrays: list[JobArray] = []
        self._folder, self._plan, self._profile, self._queued = folder, plan, profile, queued
        self._points = [point for point in plan.points if not is_done(folder, point)]
        self._shards: list[Shard] = []
        self._index_of: dict[str, tuple[int, int]] = {}

    def add_shared(self, kind: str) -> None:
        """Lay out the array of one kind of shared work: per unit, its shards."""
        resources: StageResources = getattr(self._plan.resources, kind)
        needed = {unit for point in self._points for unit in point.units}
        jobs: list[Job] = []
        for unit in self._plan.units:
            if unit.kind == kind and unit.id in needed and unit.num_missing:
                shards = _shards(unit, resources.shards * resources.tasks)
                self._shards += shards
                divided = [Job(shards=tuple(shards[first :: resources.shards])) for first in range(resources.shards)]
                jobs += [job for job in divided if not self._is_covered(job)]
        self._add(kind, jobs, needs=())

    def add_points(self) -> None:
        """Lay out the points, in arrays that wait for just the shared work their points build on."""
        size = self._plan.resources.points.points_per_job
        groups: dict[tuple[str, ...], list[PlannedPoint]] = {}
        for point in self._points:
            if point.id not in self._queued:
                groups.setdefault(point.units if self._plan.max_parallel is None else (), []).append(point)
        for points in groups.values():
            jobs = [_points_job(part, self._shards) for part in _chunks(points, size)]
            self._add("points", jobs, needs=sorted({task for job in jobs for task in job.needs}))

    def _add(self, stage: str, jobs: Sequence[Job], *, needs: Collection[str]) -> None:
        resources: StageResources = getattr(self._plan.resources, stage)
        request = self._profile.request(stage, resources, max_parallel=self._plan.max_parallel)
        after_jobs = tuple(sorted({self._queued[task] for task in needs if task in self._queued}))
        after: dict[int, tuple[int, ...]] = {}
        for number, index in sorted({self._index_of[task] for task in needs if task in self._index_of}):
            after[number] = (*after.get(number, ()), index)
        for part in _chunks(jobs, request.max_array_size):
            number = len(self.arrays)
            if self._plan.max_parallel is not None and number:
                after = {number - 1: tuple(range(len(self.arrays[-1].jobs)))}
            self._index_of.update({task: (number, index) for index, job in enumerate(part) for task in job.tasks})
            array = JobArray(stage=stage, jobs=tuple(part), request=request, after=after, after_jobs=after_jobs)
            self.arrays.append(array)

    def _is_covered(self, job: Job) -> bool:
        """Return whether all of a job is done, or some of it in the queue."""
        is_done = all(self._folder.state(task).status == "done" for task in job.tasks)
        return is_done or any(task in self._queued for task in job.tasks)


def _shards(unit: WorkUnit, count: int) -> list[Shard]:
    return [Shard(unit.id, index, count) for index in range(count)]


def _points_job(points: Sequence[PlannedPoint], shards: Sequence[Shard]) -> Job:
    """Return a job of points that needs those of the shards that its points build on."""
    units = {unit for point in points for unit in point.units}
    needs = tuple(shard.task for shard in shards if shard.unit in units)
    return Job(points=tuple(point.id for point in points), needs=needs)


def _chunks(items: Sequence[T], size: int) -> list[Sequence[T]]:
    return [items[first : first + size] for first in range(0, len(items), size)]
