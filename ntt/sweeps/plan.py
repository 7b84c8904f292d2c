"""The plan of a sweep, made before anything runs: its points, the work they share, what exists already, the cost."""

import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypeVar

from ntt.base.files import write_json
from ntt.base.typed import read_record
from ntt.config.compose import compose_many
from ntt.config.identity import run_id
from ntt.errors import ConfigError, raise_all
from ntt.sweeps.points import ComposedPoint, Point, expand
from ntt.sweeps.queue import observe
from ntt.sweeps.spec import Resources, read_spec
from ntt.sweeps.state import SweepFolder
from ntt.sweeps.units import WorkUnit, take_inventory

T = TypeVar("T", Point, WorkUnit)


@dataclass(frozen=True)
class Plan:
    """The whole plan; `plan.json` in the sweep's folder. The store and the run directories are as of `created_s`."""

    name: str
    source: Path
    created_s: float
    resources: Resources
    max_parallel: int | None
    cluster: str | None
    points: tuple[Point, ...]
    units: tuple[WorkUnit, ...]

    def point(self, point_id: str) -> Point:
        """Return a point by its id; a ConfigError if it is not of the plan."""
        return _member(self.points, point_id)

    def unit(self, unit_id: str) -> WorkUnit:
        """Return a unit by its id; a ConfigError if it is not of the plan."""
        return _member(self.units, unit_id)


def _member(members: Iterable[T], member_id: str) -> T:
    for member in members:
        if member.id == member_id:
            return member
    raise ConfigError(f"{member_id} is not in the plan any more. Submit what is left again with ntt sweep retry.")


def compose_points(plan: Plan, ids: Collection[str] | None = None) -> list[ComposedPoint]:
    """Compose the configurations of a plan's points, or of some of them, in the plan's order.

    A ConfigError if the program or its options have changed, so that the points now mean something else.
    """
    points = [point for point in plan.points if ids is None or point.id in ids]
    composed = list(zip(points, compose_many([point.overrides for point in points]), strict=True))
    problems = [
        f"The point ({point.label}) was planned as {point.id} and is {run_id(config)} now: options or defaults of "
        "this program have changed since. Run its file again, with another --name to keep both."
        for point, config in composed
        if run_id(config) != point.id
    ]
    raise_all(problems, ConfigError, summary="The plan no longer fits this program")
    return composed


def write_plan(folder: SweepFolder, plan: Plan) -> None:
    """Write a plan; states that its results contradict are reset.

    The data of a point may have changed since it was done, and one that failed may have been run by hand.
    """
    write_json(folder.plan, asdict(plan))
    for point in plan.points:
        status = folder.observed(point.id).status
        if status not in ("waiting", "running") and (status == "done") != point.finished:
            folder.reset(point.id)


def read_plan(folder: SweepFolder) -> Plan:
    """Read the plan back; a ConfigError if there is none, a StorageError if it is damaged or of another version."""
    if not folder.plan.is_file():
        raise ConfigError(f"There is no sweep in {folder.root}. Begin one with ntt sweep run FILE.")
    return read_record(Plan, folder.plan, remedy="Delete it, and run the sweep's file again: ntt sweep run FILE.")


def is_sweep_file(name: str) -> bool:
    """Return whether an argument is meant as a sweep file."""
    return name.endswith((".yaml", ".yml"))


def plan_file(path: Path, overrides: Sequence[str] = (), *, name: str | None = None) -> tuple[SweepFolder, Plan]:
    """Read a sweep file and plan it, with overrides of the command line and perhaps another name; write nothing.

    Reads the annotation files and looks into the store; builds no network. The folder is `sweeps/NAME` in the output
    root that the points agree on. An NttError for anything that would keep all points from running.
    """
    spec = read_spec(path, name=name)
    composed = expand(spec, overrides)
    roots = sorted({str(config.runtime.output_root) for _, config in composed})
    if len(roots) > 1:
        raise ConfigError(f"runtime.output_root={', '.join(roots)}: the points of a sweep share one output root.")
    points, units = take_inventory(composed)
    plan = Plan(
        name=spec.name,
        source=spec.source,
        created_s=time.time(),
        resources=spec.resources,
        max_parallel=spec.max_parallel,
        cluster=spec.cluster,
        points=points,
        units=units,
    )
    return SweepFolder(Path(roots[0]).expanduser().absolute() / "sweeps" / spec.name), plan


def open_sweep(name: str, output_root: Path) -> SweepFolder:
    """Return the folder of a sweep planned earlier, by name below `output_root`, folder or file; else a ConfigError."""
    if (Path(name) / "plan.json").is_file():
        return SweepFolder(Path(name).absolute())
    sweep = read_spec(Path(name)).name if is_sweep_file(name) else name
    sweeps = output_root.expanduser().absolute() / "sweeps"
    folder = SweepFolder(sweeps / sweep)
    if not folder.plan.is_file():
        others = ", ".join(plan.parent.name for plan in sorted(sweeps.glob("*/plan.json"))) or "none so far"
        raise ConfigError(
            f"There is no sweep {sweep!r} below {output_root}. Sweeps there: {others}. Begin one with ntt sweep run "
            "FILE, or name its output root with --output-root."
        )
    return folder


def refresh(folder: SweepFolder) -> Plan:
    """Read a sweep's plan, update what is done of it, and write it back; its points stay the same."""
    plan = read_plan(folder)
    points, units = take_inventory(compose_points(plan))
    plan = replace(plan, created_s=time.time(), points=points, units=units)
    write_plan(folder, plan)
    return plan


def keep_plan(folder: SweepFolder, plan: Plan) -> str | None:
    """Write a plan into its sweep's folder, and return a sentence about how it has changed, if it has.

    A ConfigError if the folder belongs to another sweep (one that shares no point with this one), or if the new plan
    drops points that are being worked on.
    """
    before = {point.id for point in read_plan(folder).points} if folder.plan.is_file() else set()
    now = {point.id for point in plan.points}
    if before and not before & now:
        raise ConfigError(
            f"{folder.root} holds another sweep named {plan.name!r}: none of its points is one of these. Give this one "
            "its own name with --name, or delete that folder; results are stored elsewhere and stay."
        )
    dropped = observe(folder, sorted(before - now)).values()
    busy = sum(state.status == "running" or (state.status == "waiting" and state.job is not None) for state in dropped)
    if busy:
        raise ConfigError(
            f"{plan.name}: the new plan drops points that run or are queued ({busy}). Wait, or end them with ntt "
            f"sweep cancel {plan.name}, or give the new plan its own name with --name."
        )
    write_plan(folder, plan)
    if not before or before == now:
        return None
    return f"The plan has changed. New points: {len(now - before)}; removed: {len(before - now)}."
