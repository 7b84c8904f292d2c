"""Where a sweep stands: points by state, shared work, time spent and left."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean

from ntt.run.rundir import RunDirectory
from ntt.sweeps.plan import Plan, PlannedPoint
from ntt.sweeps.state import SweepFolder, TaskState
from ntt.sweeps.units import WorkUnit


@dataclass(frozen=True)
class PointStatus:
    """A point and what is known of it."""

    point: PlannedPoint
    state: TaskState


@dataclass(frozen=True)
class UnitStatus:
    """A unit of shared work and how much of it is there, as far as shards have said.

    Attributes:
        num_there: items in the store.
        shards: observed states of its shards by task.
        is_needed: whether a point that is not done builds on it.
    """

    unit: WorkUnit
    num_there: int
    shards: Mapping[str, TaskState]
    is_needed: bool

    @property
    def num_missing(self) -> int:
        """Items that are not known to be there."""
        return max(0, self.unit.num_items - self.num_there)


@dataclass(frozen=True)
class SweepStatus:
    """Everything `ntt sweep status` tells.

    Attributes:
        elapsed_s: from the first start of anything to its last sign of life; None where nothing has begun.
        left_s: estimate of the time left with as many processes as work now (at least one); None where there is
            nothing to estimate it by.
    """

    points: tuple[PointStatus, ...]
    units: tuple[UnitStatus, ...]
    elapsed_s: float | None
    left_s: float | None

    @property
    def counts(self) -> Mapping[str, int]:
        """Number of points by state."""
        return Counter(point.state.status for point in self.points)

    def with_status(self, *statuses: str) -> tuple[PlannedPoint, ...]:
        """Return the points in one of some states."""
        return tuple(point.point for point in self.points if point.state.status in statuses)


Observer = Callable[[SweepFolder, Sequence[str]], Mapping[str, TaskState]]


def by_heartbeat(folder: SweepFolder, tasks: Sequence[str]) -> dict[str, TaskState]:
    """Return what the state files and the signs of life tell of tasks."""
    return {task: folder.observed(task) for task in tasks}


def is_done(folder: SweepFolder, point: PlannedPoint) -> bool:
    """Return whether a point has its result."""
    return _with_result(point, folder.observed(point.id)).status == "done"


def sweep_status(folder: SweepFolder, plan: Plan, *, observe: Observer = by_heartbeat) -> SweepStatus:
    """Read where a sweep stands.

    Args:
        folder: the sweep's.
        plan: the sweep's.
        observe: returns the states of tasks; a cluster knows more than the files do.
    """
    states = observe(folder, [point.id for point in plan.points])
    points = tuple(PointStatus(point, _with_result(point, states[point.id])) for point in plan.points)
    open_units = {unit for one in points if one.state.status != "done" for unit in one.point.units}
    units = tuple(_unit_status(folder, plan, unit, observe, is_needed=unit.id in open_units) for unit in plan.units)
    everything = [one.state for one in points] + [state for unit in units for state in unit.shards.values()]
    begun = [state.started_s for state in everything if state.started_s is not None]
    ends = [state.heartbeat_s for state in everything if state.heartbeat_s is not None]
    running = sum(state.status == "running" for state in everything)
    now = time.time() if running else max(ends, default=0.0)
    return SweepStatus(
        points=points,
        units=units,
        elapsed_s=now - min(begun) if begun else None,
        left_s=_left_s(points, units, max(1, running)),
    )


def _with_result(point: PlannedPoint, state: TaskState) -> TaskState:
    """A point is done only while its metrics are there, and may have been done outside the sweep."""
    has_metrics = RunDirectory(point.run_dir).metrics.is_file()
    if state.status == "done" and not has_metrics:
        return TaskState(attempts=state.attempts)
    if state.status == "waiting" and has_metrics and point.finished:
        return replace(state, status="done")
    return state


def _unit_status(folder: SweepFolder, plan: Plan, unit: WorkUnit, observe: Observer, *, is_needed: bool) -> UnitStatus:
    shards = observe(folder, folder.shards(unit.id))
    # What was computed before the plan looked into the store is in its count.
    since = [state for state in shards.values() if (state.started_s or 0.0) >= plan.created_s]
    computed = sum(state.computed for state in since)
    return UnitStatus(unit, min(unit.num_items, (unit.num_cached or 0) + computed), shards, is_needed)


def _left_s(points: tuple[PointStatus, ...], units: tuple[UnitStatus, ...], processes: int) -> float | None:
    """Estimate by what this sweep has measured itself, else by the plan's figures."""
    total = 0.0
    for unit in units:
        if unit.is_needed and unit.num_missing:
            rate = _item_s(unit)
            if rate is None:
                return None
            total += rate * unit.num_missing
    measured = [one.state.seconds for one in points if one.state.status == "done" and one.state.seconds is not None]
    usual = mean(measured) if measured else None
    for one in points:
        if one.state.status != "done":
            seconds = one.point.seconds if usual is None else usual
            if seconds is None:
                return None
            total += max(0.0, seconds - (one.state.seconds or 0.0)) if one.state.status == "running" else seconds
    return total / processes


def _item_s(unit: UnitStatus) -> float | None:
    computed = sum(state.computed for state in unit.shards.values())
    seconds = sum(state.seconds or 0.0 for state in unit.shards.values() if state.computed)
    return seconds / computed if computed else unit.unit.item_s
