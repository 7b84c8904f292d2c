"""Plans and states of sweeps as text."""

import math
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ntt.run.table import align
from ntt.sweeps.plan import Plan
from ntt.sweeps.points import Point
from ntt.sweeps.state import STATUSES, SweepFolder, TaskState
from ntt.sweeps.status import SweepStatus, UnitStatus
from ntt.sweeps.units import WorkUnit

_SHOWN_POINTS = 100


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
    lines += _sources(plan, units)
    refused = [point for point in plan.points if point.problem]
    lines += ["", f"Will fail as it is: {counted(len(refused), 'point')}"] if refused else []
    lines += [f"  {point.label}\n    " + point.problem.replace("\n", "\n    ") for point in refused]
    lines += ["", f"Folder of the sweep: {folder.root}"]
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


def list_text(sweeps: Sequence[tuple[SweepFolder, Plan, SweepStatus]], output_root: Path) -> str:
    """Name all sweeps and their progress."""
    if not sweeps:
        return f"No sweep below {output_root}. Plan one: ntt sweep plan sweeps/demo_small.yaml"
    rows: list[tuple[str, ...]] = [("sweep", "points", "done", "running", "failed or lost", "file")]
    for folder, plan, status in sweeps:
        counts = status.counts
        numbers = (len(plan.points), counts["done"], counts["running"], counts["failed"] + counts["lost"])
        rows.append((folder.root.name, *map(str, numbers), str(plan.source)))
    return "\n".join(align(rows))


def counted(number: int, what: str) -> str:
    """Return "1 point", "2 points"."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def duration(seconds: float) -> str:
    """Return a time as text: "8 s", "12 min", "3 h 5 min", "2 d 4 h"."""
    if seconds < 9.95:
        return f"{seconds:.1f} s" if seconds >= 0.05 else f"{1000 * seconds:.0f} ms" if seconds else "0 s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"


def _unit_row(unit: WorkUnit) -> tuple[str, ...]:
    there = "?" if unit.num_cached is None else str(unit.num_cached)
    numbers = (str(unit.num_items), there, str(unit.num_missing), _time(unit.cost.seconds), _time(unit.missing_s))
    return f"{unit.kind}, {unit.label}", *numbers


def _job_rows(plan: Plan, units: Sequence[WorkUnit]) -> list[tuple[str, ...]]:
    jobs: list[tuple[str, int, int, float | None]] = []  # what, jobs, processes, seconds
    for unit in units:
        resources = plan.resources.candidates if unit.kind == "candidates" else plan.resources.references
        processes = min(resources.shards * resources.tasks, unit.num_missing)
        jobs.append((unit.kind, math.ceil(processes / resources.tasks), processes, unit.missing_s))
    if todo := [point.cost.seconds for point in plan.points if not point.finished]:
        number = math.ceil(len(todo) / plan.resources.points.points_per_job)
        jobs.append(("points", number, number, None if None in todo else sum(filter(None, todo))))
    rows = [(what, str(number), _time(seconds, parts), _time(seconds)) for what, number, parts, seconds in jobs]
    measured = [seconds for *_, seconds in jobs if seconds is not None]
    rest = "" if len(measured) == len(jobs) else ", the unknown not counted"
    return [*rows, ("all together", "", "", _time(sum(measured)) + rest if measured or not jobs else "unknown")]


def _sources(plan: Plan, units: Sequence[WorkUnit]) -> list[str]:
    """Return where the times come from."""
    sources = {unit.kind: unit.cost.source for unit in units}
    todo = [point for point in plan.points if not point.finished]
    if todo:
        sources["points"] = todo[0].cost.source
    return ["", *(f"  time of {kind}: {source}" for kind, source in sources.items())] if sources else []


def _unit_lines(unit: UnitStatus) -> list[str]:
    """Describe shared work: how much exists, its shards by state, and what is wrong with them, each reason once."""
    states = list(unit.shards.values())
    counts = Counter(state.status for state in states)
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
    return "unknown" if seconds is None or math.isinf(seconds) else duration(seconds / max(1, parts))
