"""The state of a sweep: points by state, shared work, elapsed and remaining time; and plans and states as text."""

import math
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import chain
from statistics import mean

from ntt.errors import counted
from ntt.run.rundir import RunDirectory
from ntt.run.table import align
from ntt.sweeps.plan import Plan
from ntt.sweeps.points import Point
from ntt.sweeps.queue import observe
from ntt.sweeps.state import STATUSES, SweepFolder, TaskState
from ntt.sweeps.units import WorkUnit

_SHOWN_POINTS = 100


@dataclass(frozen=True)
class UnitStatus:
    """A unit of shared work as it is now, its shards' states by task, and whether an unfinished point builds on it."""

    unit: WorkUnit
    shards: Mapping[str, TaskState]
    is_needed: bool


@dataclass(frozen=True)
class SweepStatus:
    """Everything `ntt sweep status` shows.

    Attributes:
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
    """Read the state of a sweep from its files and its cluster's queue, if any; a ConfigError if that is silent."""
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
    item_s = seconds / computed if computed else unit.item_s
    return replace(unit, num_cached=min(unit.num_items, (unit.num_cached or 0) + new), item_s=item_s)


def _left_s(points: Sequence[tuple[Point, TaskState]], units: Sequence[UnitStatus], processes: int) -> float | None:
    """Estimate from what this sweep has measured, else from the plan's figures."""
    left = [unit.unit.missing_s for unit in units if unit.is_needed and unit.unit.num_missing]
    measured = [state.seconds for _, state in points if state.status == "done" and state.seconds is not None]
    for point, state in ((point, state) for point, state in points if state.status != "done"):
        seconds = mean(measured) if measured else point.seconds
        spent = (state.seconds or 0.0) if state.status == "running" else 0.0
        left.append(None if seconds is None else max(0.0, seconds - spent))
    return None if None in left else sum(filter(None, left)) / processes


def plan_text(folder: SweepFolder, plan: Plan) -> str:
    """Describe a plan: points, shared work and how much of it exists, jobs and time."""
    todo = [point for point in plan.points if not point.finished]
    lines = [f"Sweep {plan.name}: {counted(len(plan.points), 'point')}, {len(plan.points) - len(todo)} done", ""]
    for point in plan.points[:_SHOWN_POINTS]:
        lines.append(f"  {'fails' if point.problem else 'done' if point.finished else 'to do':<7}{point.label}")
    if len(plan.points) > _SHOWN_POINTS:
        lines.append(f"  ... and {len(plan.points) - _SHOWN_POINTS} more")
    lines += ["", *align([("shared work", "of", "there", "to do", "each", "in all"), *map(_unit_row, plan.units)])]
    needed = {unit for point in todo for unit in point.units}
    units = [unit for unit in plan.units if unit.id in needed and unit.num_missing]
    lines += ["", *align([("jobs", "number", "each", "in all"), *_job_rows(plan, units)])]
    refused = [point for point in plan.points if point.problem]
    lines += ["", f"Will fail as it is: {counted(len(refused), 'point')}"] if refused else []
    for problem in dict.fromkeys(point.problem for point in refused):
        lines += [f"  {point.label}" for point in refused if point.problem == problem]
        lines += ["    " + problem.replace("\n", "\n    ")]
    lines += ["", f"Folder of the sweep, once it runs: {folder.root}"]
    return "\n".join(lines)


def status_text(folder: SweepFolder, plan: Plan, status: SweepStatus, *, verbose: bool = False) -> str:
    """Describe the state of a sweep: points by state, shared work, elapsed and remaining time, errors."""
    counts = ", ".join(f"{status.counts[name]} {name}" for name in STATUSES if status.counts[name])
    lines = [f"Sweep {plan.name}: {counted(len(plan.points), 'point')}: {counts}"]
    units = [unit for unit in status.units if unit.is_needed or unit.shards]
    lines += ["", *(line for unit in units for line in _unit_lines(unit))] if units else []
    for name in STATUSES:
        points = [(point, state) for point, state in status.points if state.status == name]
        if points and (name != "done" or verbose):
            lines += ["", f"{name}:", *(line for entry in points for line in _point_lines(*entry, verbose=verbose))]
    is_over = status.counts["done"] == len(plan.points)
    untouched = "none, every result existed already" if is_over else "nothing has begun"
    elapsed = untouched if status.elapsed_s is None else f"{duration(status.elapsed_s)} since the start"
    estimate = "unknown" if status.left_s is None else f"about {duration(status.left_s)}"
    left = "" if is_over else f", still to do: {estimate}"
    return "\n".join([*lines, "", f"Time: {elapsed}{left}", f"Folder of the sweep: {folder.root}"])


def duration(seconds: float) -> str:
    """Return a time as text: "0.25 s", "8 s", "0:12:00", "2 days, 4:00:00"."""
    return f"{round(seconds, 3):.2g} s" if seconds < 90 else str(timedelta(seconds=round(seconds)))


def _unit_row(unit: WorkUnit) -> tuple[str, ...]:
    there = "?" if unit.num_cached is None else str(unit.num_cached)
    numbers = (str(unit.num_items), there, str(unit.num_missing), _time(unit.item_s), _time(unit.missing_s))
    return f"{unit.kind}, {unit.label}", *numbers


def _job_rows(plan: Plan, units: Sequence[WorkUnit]) -> list[tuple[str, ...]]:
    jobs: list[tuple[str, int, int, float | None]] = []  # what, jobs, processes, seconds
    for unit in units:
        resources = plan.resources.candidates if unit.kind == "candidates" else plan.resources.references
        processes = min(resources.shards * resources.tasks, unit.num_missing)
        jobs.append((unit.kind, math.ceil(processes / resources.tasks), processes, unit.missing_s))
    if todo := [point.seconds for point in plan.points if not point.finished]:
        number = math.ceil(len(todo) / plan.resources.points.points_per_job)
        jobs.append(("points", number, number, None if None in todo else sum(filter(None, todo))))
    rows = [(what, str(number), _time(seconds, parts), _time(seconds)) for what, number, parts, seconds in jobs]
    measured = [seconds for *_, seconds in jobs if seconds is not None]
    rest = "" if len(measured) == len(jobs) else ", the unknown not counted"
    return [*rows, ("all together", "", "", _time(sum(measured)) + rest if measured or not jobs else "unknown")]


def _unit_lines(unit: UnitStatus) -> list[str]:
    """Describe shared work: how much exists, its shards by state, and what is wrong with them, each reason once."""
    states = list(unit.shards.values())
    counts = Counter(state.status for state in states)
    if not unit.unit.num_missing:  # others have done it
        del counts["waiting"]
    parts = ", ".join(f"{counts[name]} {name}" for name in STATUSES if counts[name])
    there = f"{unit.unit.num_cached} of {unit.unit.num_items}"
    reasons = Counter(f"{state.status}: {state.error}" for state in states if state.error)
    return [
        f"  {unit.unit.kind}, {unit.unit.label}: {there}" + (f" ({parts})" if parts else ""),
        *(f"    {reason}" + (f" ({count} shards)" if count > 1 else "") for reason, count in reasons.items()),
    ]


def _point_lines(point: Point, state: TaskState, *, verbose: bool) -> list[str]:
    details = []
    if state.status == "running" and state.started_s is not None:
        details.append(duration(max(0.0, time.time() - state.started_s)))
    elif state.seconds is not None:
        details.append(duration(state.seconds))
    if state.status == "running" and state.heartbeat_s is not None:
        details.append(f"last heartbeat {duration(max(0.0, time.time() - state.heartbeat_s))} ago")
    if state.job is not None:
        details.append(f"job {state.job}")
    if state.attempts > 1:
        details.append(f"attempt {state.attempts}")
    lines = [f"  {point.label}" + (f" ({', '.join(details)})" if details else "")]
    lines += [f"    {line}" for line in (state.error or "").splitlines()]
    if verbose and state.traceback:
        lines += [f"    {line}" for line in state.traceback.splitlines()]
    return lines


def _time(seconds: float | None, parts: int = 1) -> str:
    return "unknown" if seconds is None else duration(seconds / max(1, parts))
