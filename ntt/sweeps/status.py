"""The state of a sweep: points by state, shared work, elapsed and remaining time."""

import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from statistics import mean

from ntt.run.rundir import RunDirectory
from ntt.sweeps.costs import Cost
from ntt.sweeps.plan import Plan
from ntt.sweeps.points import Point
from ntt.sweeps.queue import observe
from ntt.sweeps.state import SweepFolder, TaskState
from ntt.sweeps.units import WorkUnit


@dataclass(frozen=True)
class UnitStatus:
    """A unit of shared work.

    Attributes:
        unit: with what exists, and what an item costs, as far as shards have reported.
        shards: observed states of its shards by task.
        is_needed: whether a point that is not done builds on it.
    """

    unit: WorkUnit
    shards: Mapping[str, TaskState]
    is_needed: bool


@dataclass(frozen=True)
class SweepStatus:
    """Everything `ntt sweep status` shows.

    Attributes:
        points: every point with its state.
        elapsed_s: from the first start to the last heartbeat of anything; None if nothing has begun.
        left_s: estimated time left with as many processes as now, at least one; None without a basis.
    """

    points: tuple[tuple[Point, TaskState], ...]
    units: tuple[UnitStatus, ...]
    elapsed_s: float | None
    left_s: float | None

    @property
    def counts(self) -> Mapping[str, int]:
        """Number of points by state."""
        return Counter(state.status for _, state in self.points)


def is_done(folder: SweepFolder, point: Point) -> bool:
    """Return whether a point has its result."""
    return _with_result(point, folder.observed(point.id)).status == "done"


def sweep_status(folder: SweepFolder, plan: Plan, *, asks_queue: bool = True) -> SweepStatus:
    """Read the state of a sweep from its files and, if it was submitted to a cluster, from the queue.

    Raises:
        ConfigError: if the queue does not answer.
    """
    shards_of = {unit.id: folder.shards(unit.id) for unit in plan.units}
    tasks = [*(point.id for point in plan.points), *chain(*shards_of.values())]
    states = observe(folder, tasks) if asks_queue else {task: folder.observed(task) for task in tasks}
    points = tuple((point, _with_result(point, states[point.id])) for point in plan.points)
    needed = {unit for point, state in points if state.status != "done" for unit in point.units}
    shards = {unit.id: {task: states[task] for task in shards_of[unit.id]} for unit in plan.units}
    units = tuple(
        UnitStatus(_unit_now(unit, plan.created_s, shards[unit.id].values()), shards[unit.id], unit.id in needed)
        for unit in plan.units
    )
    begun = [state.started_s for state in states.values() if state.started_s is not None]
    running = sum(state.status == "running" for state in states.values())
    now = time.time() if running else max((state.heartbeat_s or 0.0 for state in states.values()), default=0.0)
    elapsed_s = now - min(begun) if begun else None
    return SweepStatus(points, units, elapsed_s, _left_s(points, units, max(1, running)))


def _with_result(point: Point, state: TaskState) -> TaskState:
    """Correct a state: a point is done only while its metrics exist, and may have been run outside the sweep."""
    has_metrics = RunDirectory(point.run_dir).metrics.is_file()
    if state.status == "done" and not has_metrics:
        return TaskState(attempts=state.attempts)
    if state.status == "waiting" and has_metrics and point.finished:
        return replace(state, status="done")
    return state


def _unit_now(unit: WorkUnit, planned_s: float, shards: Collection[TaskState]) -> WorkUnit:
    """Update a unit, which counts what was in the store when the plan was made, by what its shards have computed."""
    new = sum(state.computed for state in shards if (state.started_s or 0.0) >= planned_s)
    computed = sum(state.computed for state in shards)
    seconds = sum(state.seconds or 0.0 for state in shards if state.computed)
    cost = Cost(seconds / computed, "this sweep") if computed else unit.cost
    return replace(unit, num_cached=min(unit.num_items, (unit.num_cached or 0) + new), cost=cost)


def _left_s(points: Sequence[tuple[Point, TaskState]], units: Sequence[UnitStatus], processes: int) -> float | None:
    """Estimate from what this sweep has measured, else from the plan's figures."""
    left = [unit.unit.missing_s for unit in units if unit.is_needed and unit.unit.num_missing]
    measured = [state.seconds for _, state in points if state.status == "done" and state.seconds is not None]
    for point, state in ((point, state) for point, state in points if state.status != "done"):
        seconds = mean(measured) if measured else point.cost.seconds
        spent = (state.seconds or 0.0) if state.status == "running" else 0.0
        left.append(None if seconds is None else max(0.0, seconds - spent))
    return None if None in left else sum(filter(None, left)) / processes
