"""The jobs of a sweep, on this machine or on a cluster: which does what, and which waits for which."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import TypeVar

from ntt.sweeps.clusters import ClusterProfile, JobRequest
from ntt.sweeps.plan import Plan
from ntt.sweeps.points import Point
from ntt.sweeps.state import Job, Shard, SweepFolder
from ntt.sweeps.status import is_done
from ntt.sweeps.units import WorkUnit

T = TypeVar("T")


def local_jobs(plan: Plan, points: Sequence[Point], *, processes: int) -> tuple[list[Job], list[Job]]:
    """Divide the shared work that is not in the store, and the points that follow it, among processes."""
    needed = {unit for point in points for unit in point.units}
    units = [unit for unit in plan.units if unit.id in needed and unit.num_missing]
    shards = [shard for unit in units for shard in _shards(unit, min(processes, unit.num_missing))]
    shared = [tuple(shard for shard in shards if shard.index == index) for index in range(processes)]
    size = max(1, ceil(len(points) / processes))
    return [Job(shards=part) for part in shared if part], [_points_job(part, shards) for part in _chunks(points, size)]


@dataclass(frozen=True, kw_only=True)
class JobArray:
    """An array of jobs, which waits for `after` (earlier array -> indices of jobs in it) and for jobs queued before."""

    stage: str
    jobs: tuple[Job, ...]
    request: JobRequest
    after: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    after_jobs: tuple[str, ...] = ()


def cluster_arrays(
    folder: SweepFolder, plan: Plan, profile: ClusterProfile, *, queued: Mapping[str, str]
) -> list[JobArray]:
    """Arrange a cluster's jobs in arrays: shared work, then points, each waiting only for the work it builds on.

    Under a limit on the sweep's jobs, arrays follow one another, so that the limit holds for all together. `queued`
    maps tasks that are in the queue already to their jobs.
    """
    points = [point for point in plan.points if not is_done(folder, point)]
    needed = {unit for point in points for unit in point.units}
    arrays: list[JobArray] = []
    shards: list[Shard] = []
    for kind, resources in (("candidates", plan.resources.candidates), ("references", plan.resources.references)):
        jobs: list[Job] = []
        for unit in (unit for unit in plan.units if unit.kind == kind and unit.id in needed and unit.num_missing):
            of_unit = _shards(unit, resources.shards * resources.tasks)
            shards += of_unit
            jobs += [Job(shards=tuple(of_unit[first :: resources.shards])) for first in range(resources.shards)]
        done = {task for job in jobs for task in job.tasks if folder.state(task).status == "done"}
        jobs = [job for job in jobs if not done.issuperset(job.tasks) and not queued.keys() & set(job.tasks)]
        arrays += _arrays(kind, jobs, plan, profile, arrays)
    groups: dict[tuple[str, ...], list[Point]] = {}
    for point in (point for point in points if point.id not in queued):
        groups.setdefault(point.units if plan.max_parallel is None else (), []).append(point)
    for group in groups.values():
        jobs = [_points_job(part, shards) for part in _chunks(group, plan.resources.points.points_per_job)]
        after_jobs = tuple(sorted({queued[task] for job in jobs for task in job.needs if task in queued}))
        arrays += _arrays("points", jobs, plan, profile, arrays, after_jobs)
    return arrays


def _arrays(
    stage: str,
    jobs: Sequence[Job],
    plan: Plan,
    profile: ClusterProfile,
    earlier: Sequence[JobArray],
    after_jobs: tuple[str, ...] = (),
) -> list[JobArray]:
    """Put the jobs of a stage into arrays, each waiting for those of the earlier arrays that its jobs need."""
    request = profile.request(stage, getattr(plan.resources, stage), max_parallel=plan.max_parallel)
    needs = {task for job in jobs for task in job.needs}
    after: dict[int, tuple[int, ...]] = {}
    for number, array in enumerate(earlier):
        if indices := tuple(index for index, job in enumerate(array.jobs) if needs & set(job.tasks)):
            after[number] = indices
    arrays: list[JobArray] = []
    for part in _chunks(jobs, request.max_array_size):
        before = [*earlier, *arrays]
        if plan.max_parallel is not None and before:
            after = {len(before) - 1: tuple(range(len(before[-1].jobs)))}
        arrays.append(JobArray(stage=stage, jobs=tuple(part), request=request, after=after, after_jobs=after_jobs))
    return arrays


def _shards(unit: WorkUnit, count: int) -> list[Shard]:
    return [Shard(unit.id, index, count) for index in range(count)]


def _points_job(points: Sequence[Point], shards: Sequence[Shard]) -> Job:
    """Return a job of points that needs those of the shards that its points build on."""
    units = {unit for point in points for unit in point.units}
    needs = tuple(shard.task for shard in shards if shard.unit in units)
    return Job(points=tuple(point.id for point in points), needs=needs)


def _chunks(items: Sequence[T], size: int) -> list[Sequence[T]]:
    return [items[first : first + size] for first in range(0, len(items), size)]
