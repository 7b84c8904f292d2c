"""The plan of a sweep, made before anything runs: its points, the work they share, what exists already, the cost."""

import time
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ntt.base.files import write_json
from ntt.config.compose import compose_many
from ntt.errors import ConfigError, raise_all
from ntt.sweeps.costs import point_cost
from ntt.sweeps.points import Point, PointBase, make_point
from ntt.sweeps.spec import Resources, SweepSpec
from ntt.sweeps.state import SweepFolder, read_record
from ntt.sweeps.units import Inventory, WorkUnit, take_inventory


@dataclass(frozen=True, kw_only=True)
class PlannedPoint(PointBase):
    """One point as the plan keeps it, as of the time the plan was made.

    Attributes:
        units: ids of the shared work it builds on.
        finished: whether its run directory holds a valid result.
        seconds: what it takes on top of shared work, or None if unknown.
        seconds_source: where that figure comes from.
        problem: why it cannot be run; "" if nothing speaks against it.
    """

    units: tuple[str, ...]
    finished: bool
    seconds: float | None
    seconds_source: str
    problem: str = ""


@dataclass(frozen=True)
class Plan:
    """The whole plan; `plan.json` in the sweep's folder.

    Attributes:
        created_s: when the store and the run directories were inspected, seconds since 1970.
    """

    name: str
    source: Path
    created_s: float
    resources: Resources
    max_parallel: int | None
    cluster: str | None
    points: tuple[PlannedPoint, ...]
    units: tuple[WorkUnit, ...]

    def point(self, point_id: str) -> PlannedPoint:
        """Return a point by its id."""
        return next(point for point in self.points if point.id == point_id)

    def unit(self, unit_id: str) -> WorkUnit:
        """Return a unit by its id."""
        return next(unit for unit in self.units if unit.id == unit_id)


def sweep_folder(points: Sequence[Point], name: str) -> SweepFolder:
    """Return the folder of a sweep: `sweeps/NAME` in the output root that its points agree on."""
    roots = sorted({str(point.config.runtime.output_root) for point in points})
    if len(roots) > 1:
        raise ConfigError(f"runtime.output_root={', '.join(roots)}: the points of a sweep share one output root.")
    return SweepFolder(Path(roots[0]).expanduser().absolute() / "sweeps" / name)


def make_plan(spec: SweepSpec, points: Sequence[Point]) -> Plan:
    """Find the shared work of the points, and how much of it is done.

    Reads the annotation files and looks into the store; builds no network.

    Raises:
        NttError: if none of the points can be run.
    """
    inventory = take_inventory(points)
    return Plan(
        name=spec.name,
        source=spec.source,
        created_s=time.time(),
        resources=spec.resources,
        max_parallel=spec.max_parallel,
        cluster=spec.cluster,
        points=tuple(_planned(point, inventory) for point in points),
        units=inventory.units,
    )


def replan(plan: Plan) -> Plan:
    """Return the plan with what is done by now; its points stay the same.

    Raises:
        ConfigError: as `compose_points`.
    """
    points = compose_points(plan)
    inventory = take_inventory(points)
    planned = tuple(_planned(point, inventory) for point in points)
    return replace(plan, created_s=time.time(), points=planned, units=inventory.units)


def compose_points(plan: Plan, ids: Collection[str] | None = None) -> tuple[Point, ...]:
    """Compose the configurations of a plan's points, or of some of them, in the plan's order.

    Raises:
        ConfigError: if the program or its options have changed, so that the points now mean something else.
    """
    planned = [point for point in plan.points if ids is None or point.id in ids]
    points, problems = [], []
    for before, config in zip(planned, compose_many([point.overrides for point in planned]), strict=True):
        points.append(replace(make_point(before.settings, before.overrides, config), run_dir=before.run_dir))
        if points[-1].id != before.id:
            problems.append(
                f"The point ({before.label}) was planned as {before.id} and is {points[-1].id} now: options or "
                "defaults of this program have changed since. Plan the sweep again, under another name to keep both."
            )
    raise_all(problems, ConfigError, summary="The plan no longer fits this program")
    return tuple(points)


def _planned(point: Point, inventory: Inventory) -> PlannedPoint:
    cost = point_cost(point.config)
    return PlannedPoint(
        id=point.id,
        settings=point.settings,
        overrides=point.overrides,
        run_dir=point.run_dir,
        units=inventory.units_of.get(point.id, ()),
        finished=point.id in inventory.finished,
        seconds=cost.seconds,
        seconds_source=cost.source,
        problem=inventory.problems.get(point.id, ""),
    )


def write_plan(folder: SweepFolder, plan: Plan) -> None:
    """Write the plan into the sweep's folder."""
    points = [{**asdict(point), "run_dir": str(point.run_dir)} for point in plan.points]
    write_json(folder.plan, {**asdict(plan), "source": str(plan.source), "points": points})


def read_plan(folder: SweepFolder) -> Plan:
    """Read the plan back.

    Raises:
        ConfigError: if there is no plan.
        StorageError: if it is damaged, or of another version of this program.
    """
    if not folder.plan.is_file():
        raise ConfigError(f"There is no sweep in {folder.root}. `ntt sweep list` names all sweeps.")
    return read_record(Plan, folder.plan, remedy="Delete it and plan the sweep again: ntt sweep plan FILE.")
