"""The plan of a sweep, made before anything runs: its points, the work they share, what exists already, the cost."""

import time
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ntt.base.files import write_json
from ntt.base.typed import read_record
from ntt.config.compose import compose_many
from ntt.config.identity import run_id
from ntt.errors import ConfigError, raise_all
from ntt.sweeps.points import ComposedPoint, Point
from ntt.sweeps.spec import Resources, SweepSpec
from ntt.sweeps.state import SweepFolder
from ntt.sweeps.units import WorkUnit, take_inventory


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
    points: tuple[Point, ...]
    units: tuple[WorkUnit, ...]

    def point(self, point_id: str) -> Point:
        """Return a point by its id."""
        return next(point for point in self.points if point.id == point_id)

    def unit(self, unit_id: str) -> WorkUnit:
        """Return a unit by its id."""
        return next(unit for unit in self.units if unit.id == unit_id)


def sweep_folder(points: Sequence[ComposedPoint], name: str) -> SweepFolder:
    """Return the folder of a sweep: `sweeps/NAME` in the output root that its points agree on."""
    roots = sorted({str(config.runtime.output_root) for _, config in points})
    if len(roots) > 1:
        raise ConfigError(f"runtime.output_root={', '.join(roots)}: the points of a sweep share one output root.")
    return SweepFolder(Path(roots[0]).expanduser().absolute() / "sweeps" / name)


def make_plan(spec: SweepSpec, composed: Sequence[ComposedPoint]) -> Plan:
    """Find the shared work of the points, and how much of it is done.

    Reads the annotation files and looks into the store; builds no network.

    Raises:
        NttError: if none of the points can be run.
    """
    points, units = take_inventory(composed)
    return Plan(
        name=spec.name,
        source=spec.source,
        created_s=time.time(),
        resources=spec.resources,
        max_parallel=spec.max_parallel,
        cluster=spec.cluster,
        points=points,
        units=units,
    )


def replan(plan: Plan) -> Plan:
    """Return the plan with what is done by now; its points stay the same.

    Raises:
        ConfigError: as `compose_points`.
    """
    points, units = take_inventory(compose_points(plan))
    return replace(plan, created_s=time.time(), points=points, units=units)


def compose_points(plan: Plan, ids: Collection[str] | None = None) -> list[ComposedPoint]:
    """Compose the configurations of a plan's points, or of some of them, in the plan's order.

    Raises:
        ConfigError: if the program or its options have changed, so that the points now mean something else.
    """
    points = [point for point in plan.points if ids is None or point.id in ids]
    composed = list(zip(points, compose_many([point.overrides for point in points]), strict=True))
    problems = [
        f"The point ({point.label}) was planned as {point.id} and is {run_id(config)} now: options or defaults of "
        "this program have changed since. Plan the sweep again, under another name to keep both."
        for point, config in composed
        if run_id(config) != point.id
    ]
    raise_all(problems, ConfigError, summary="The plan no longer fits this program")
    return composed


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
