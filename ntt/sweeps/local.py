"""A sweep on this machine: a few worker processes, one task at a time each, any of which may die."""

from collections.abc import Callable

from ntt.sweeps.crew import Crew, Task
from ntt.sweeps.plan import Plan
from ntt.sweeps.state import SweepFolder, shard_task
from ntt.sweeps.status import sweep_status
from ntt.sweeps.work import fill_candidates, fill_references, run_points

_FUNCTIONS = {"candidates": fill_candidates, "references": fill_references}


def run_local(
    folder: SweepFolder, plan: Plan, *, processes: int, on_change: Callable[[str], None] = lambda text: None
) -> None:
    """Do everything that is not done, shared work first. What fails is recorded; the rest goes on.

    May be interrupted and called again at any time; points that another process works on are left to it.

    Args:
        folder: the sweep's folder; the plan is in it.
        plan: just made or looked at again, so that its counts of what is cached are right.
        processes: workers.
        on_change: told in one line how far everything is, whenever that changes.
    """
    wanted = [point for point in plan.points if not point.finished and not _is_busy(folder, point.id)]
    for point in wanted:
        folder.reset(point.id)
    with Crew(folder, processes, lambda: on_change(_line(folder, plan))) as crew:
        crew.do(shared_tasks(plan, {unit for point in wanted for unit in point.units}, processes))
        crew.do([Task(point.id, point.label, run_points, ([point.id],)) for point in wanted])


def shared_tasks(plan: Plan, units: set[str], processes: int) -> list[Task]:
    """Return the shards of those units that are needed and not in the store, as many as there are workers."""
    tasks = []
    for unit in plan.units:
        if unit.id not in units or unit.num_missing == 0:
            continue
        shards = min(processes, unit.num_missing)
        for shard in range(shards):
            name = shard_task(unit.id, shard, shards)
            label = f"{unit.kind} of {unit.label}, part {shard + 1} of {shards}"
            tasks.append(Task(name, label, _FUNCTIONS[unit.kind], (unit.id, shard, shards)))
    return tasks


def _is_busy(folder: SweepFolder, task: str) -> bool:
    return folder.observed(task).status == "running"


def _line(folder: SweepFolder, plan: Plan) -> str:
    """Say in one line how far a sweep is."""
    status = sweep_status(folder, plan)
    open_units = [one for one in status.units if one.is_needed and one.num_missing]
    if open_units:
        return "; ".join(f"{one.unit.kind} {one.num_there} of {one.unit.num_items}" for one in open_units)
    counts = status.counts
    parts = [f"{counts['done']} of {len(plan.points)} points done"]
    parts += [f"{counts[name]} {name}" for name in ("running", "failed") if counts[name]]
    return ", ".join(parts)
