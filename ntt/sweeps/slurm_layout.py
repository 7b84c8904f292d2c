"""The arrays of jobs that a sweep becomes: which job does what, and what waits for what."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ntt.sweeps.clusters import ClusterProfile, JobRequest
from ntt.sweeps.plan import Plan, PlannedPoint, WorkUnit
from ntt.sweeps.slurm_task import JobWork
from ntt.sweeps.spec import StageResources
from ntt.sweeps.state import SweepFolder
from ntt.sweeps.status import is_done


@dataclass(frozen=True, kw_only=True)
class ArrayPlan:
    """An array of jobs to be submitted.

    Attributes:
        works: the work of each job.
        request: what each job gets.
        after: what it waits for of the arrays before it: place of the array in the list -> places of jobs in it.
        after_jobs: ids of jobs, submitted earlier, that it waits for.
    """

    stage: str
    works: tuple[JobWork, ...]
    request: JobRequest
    after: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    after_jobs: tuple[str, ...] = ()


def plan_arrays(
    folder: SweepFolder, plan: Plan, profile: ClusterProfile, *, waiting: Mapping[str, str]
) -> list[ArrayPlan]:
    """Lay out the arrays of jobs.

    Args:
        folder: the sweep's folder, for what is done.
        plan: the sweep's plan.
        profile: what the site wants to hear.
        waiting: tasks in the queue already, with their jobs.
    """
    layout = _Layout(folder, plan, profile, waiting)
    for kind in ("candidates", "references"):
        layout.add_shared(kind)
    layout.add_points()
    return layout.arrays


class _Layout:
    """Collects arrays. With a limit on the sweep's jobs, arrays follow one another, so that the limit holds for all."""

    def __init__(
        self,
        folder: SweepFolder,
        plan: Plan,
        profile: ClusterProfile,
        waiting: Mapping[str, str],
    ) -> None:
        self.arrays: list[ArrayPlan] = []
        self._folder, self._plan, self._profile = folder, plan, profile
        self._waiting = waiting
        self._needs: dict[str, list[str]] = {}
        self._place: dict[str, tuple[int, int]] = {}

    def add_shared(self, kind: str) -> None:
        """Lay out the array of one kind of shared work: for each unit, its shards."""
        resources: StageResources = getattr(self._plan.resources, kind)
        num_shards = resources.shards * resources.tasks
        works: list[JobWork] = []
        for unit in self._plan.units:
            if unit.kind != kind or not self._has_work(unit):
                continue
            shards = [tuple(range(num_shards)[first :: resources.shards]) for first in range(resources.shards)]
            jobs = [JobWork(stage=kind, unit=unit.id, shards=one, num_shards=num_shards) for one in shards]
            self._needs[unit.id] = [task for job in jobs for task in job.tasks()]
            works += [job for job in jobs if self._is_wanted(job)]
        self._add(kind, works, needs=())

    def add_points(self) -> None:
        """Lay out the points, in arrays that wait for just the shared work their points build on."""
        size = self._plan.resources.points.points_per_job
        for units, points in self._groups().items():
            needs = tuple(task for unit in units for task in self._needs.get(unit, ()))
            works = [
                JobWork(stage="points", points=tuple(one.id for one in points[first : first + size]), needs=needs)
                for first in range(0, len(points), size)
            ]
            self._add("points", works, needs=needs)

    def _groups(self) -> dict[tuple[str, ...], list[PlannedPoint]]:
        """Return the points to run by the units they build on; one group where the limit is the sweep's."""
        groups: dict[tuple[str, ...], list[PlannedPoint]] = {}
        every = tuple(unit.id for unit in self._plan.units)
        for point in self._plan.points:
            if not (self._is_over(point) or point.id in self._waiting):
                groups.setdefault(point.units if self._plan.max_parallel is None else every, []).append(point)
        return groups

    def _add(self, stage: str, works: Sequence[JobWork], *, needs: Sequence[str]) -> None:
        resources: StageResources = getattr(self._plan.resources, stage)
        request = self._profile.request(stage, resources, max_parallel=self._plan.max_parallel)
        after_jobs = tuple(sorted({self._waiting[task] for task in needs if task in self._waiting}))
        after: dict[int, tuple[int, ...]] = {}
        for array, job in sorted({self._place[task] for task in needs if task in self._place}):
            after[array] = (*after.get(array, ()), job)
        for first in range(0, len(works), request.max_array_size):
            part = tuple(works[first : first + request.max_array_size])
            number = len(self.arrays)
            if self._plan.max_parallel is not None and number:
                after = {number - 1: tuple(range(len(self.arrays[-1].works)))}
            self._place.update({task: (number, job) for job, work in enumerate(part) for task in work.tasks()})
            self.arrays.append(ArrayPlan(stage=stage, works=part, request=request, after=after, after_jobs=after_jobs))

    def _has_work(self, unit: WorkUnit) -> bool:
        """Say whether a unit has anything to compute that a point is still in need of."""
        return unit.num_missing > 0 and any(
            unit.id in one.units and not self._is_over(one) for one in self._plan.points
        )

    def _is_over(self, point: PlannedPoint) -> bool:
        return is_done(self._folder, point)

    def _is_wanted(self, job: JobWork) -> bool:
        tasks = job.tasks()
        return not (all(self._is_done(task) for task in tasks) or any(task in self._waiting for task in tasks))

    def _is_done(self, task: str) -> bool:
        return self._folder.state(task).status == "done"
