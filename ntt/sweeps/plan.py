"""What a sweep will do before it does anything: its points, the work they share, what is there already, the cost."""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ntt.base.files import read_json, write_json
from ntt.config.compose import compose_many
from ntt.config.identity import run_id
from ntt.errors import ConfigError, StorageError, raise_all
from ntt.sweeps.costs import item_cost, point_cost
from ntt.sweeps.points import Point, settings_label
from ntt.sweeps.spec import Resources, Settings, StageResources, SweepSpec
from ntt.sweeps.state import SweepFolder
from ntt.sweeps.units import FoundUnit, Survey, survey

_FORMAT = 1


@dataclass(frozen=True)
class PlannedPoint:
    """One point as the plan keeps it.

    Attributes:
        units: ids of the shared work it builds on.
        finished: whether its run directory held a valid result when the plan was made.
        seconds: what it takes beside the shared work, or None where nobody knows.
        seconds_source: where that figure comes from.
        problem: why it cannot be run, found when the plan was made; "" if nothing is known against it.
    """

    id: str
    settings: Settings
    overrides: tuple[str, ...]
    run_dir: Path
    units: tuple[str, ...]
    finished: bool
    seconds: float | None
    seconds_source: str
    problem: str = ""

    @property
    def label(self) -> str:
        """The settings as text: "shots=1shot seed=0"."""
        return settings_label(self.settings)


@dataclass(frozen=True)
class WorkUnit:
    """Work that several points share: the candidates of all images of a data set, or the features of references.

    Attributes:
        id: kind and a digest, usable as a file name.
        kind: "candidates" or "references".
        label: what it is, for people.
        point: id of a point by whose settings it is done.
        num_items: images, or reference instances.
        num_cached: those of them that the store has; None where the planning machine cannot tell.
        item_s: seconds one item takes, or None where nobody knows.
        item_s_source: where that figure comes from.
    """

    id: str
    kind: str
    label: str
    point: str
    num_items: int
    num_cached: int | None
    item_s: float | None
    item_s_source: str

    @property
    def num_missing(self) -> int:
        """Items that have to be computed, as far as is known."""
        return self.num_items - (self.num_cached or 0)


@dataclass(frozen=True)
class Plan:
    """The whole plan; `plan.json` in the sweep's folder.

    Attributes:
        created_s: when the store and the run directories were looked at, seconds since 1970.
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
    roots = {str(point.config.runtime.output_root) for point in points}
    if len(roots) > 1:
        raise ConfigError(
            f"runtime.output_root={', '.join(sorted(roots))}: the points of a sweep lie in one output root. Set it in "
            "the base."
        )
    return SweepFolder(Path(roots.pop()).expanduser().absolute() / "sweeps" / name)


def make_plan(spec: SweepSpec, points: Sequence[Point]) -> Plan:
    """Find the shared work of the points and what of it is done.

    Reads the annotation files and looks into the store; builds no network.

    Raises:
        NttError: if none of the points can be run.
    """
    found = survey(points)
    return Plan(
        name=spec.name,
        source=spec.source,
        created_s=time.time(),
        resources=spec.resources,
        max_parallel=spec.max_parallel,
        cluster=spec.cluster,
        points=tuple(_planned(point, found) for point in points),
        units=tuple(_costed(unit) for unit in found.units),
    )


def replan(plan: Plan) -> Plan:
    """Look again what of a plan is done, by the same points.

    Raises:
        ConfigError: if the program or its options have changed so that the points mean something else now.
    """
    points = compose_points(plan)
    found = survey(points)
    return replace(
        plan,
        created_s=time.time(),
        points=tuple(_planned(point, found) for point in points),
        units=tuple(_costed(unit) for unit in found.units),
    )


def compose_points(plan: Plan, ids: Collection[str] | None = None) -> tuple[Point, ...]:
    """Compose the configurations of a plan's points, or of some of them, in the plan's order.

    Raises:
        ConfigError: if the program or its options have changed so that the points mean something else now.
    """
    wanted = [point for point in plan.points if ids is None or point.id in ids]
    points, problems = [], []
    for known, config in zip(wanted, compose_many([one.overrides for one in wanted]), strict=True):
        found = Point(run_id(config), known.settings, known.overrides, config, known.run_dir)
        if found.id != known.id:
            problems.append(
                f"The point ({known.label}) was planned as {known.id} and is {found.id} now: options or defaults of "
                "this program have changed since. Plan the sweep again, under another name to keep both."
            )
        points.append(found)
    raise_all(problems, ConfigError, summary="The plan no longer fits this program")
    return tuple(points)


def _planned(point: Point, found: Survey) -> PlannedPoint:
    cost = point_cost(point.config)
    return PlannedPoint(
        id=point.id,
        settings=point.settings,
        overrides=point.overrides,
        run_dir=point.run_dir,
        units=found.units_of.get(point.id, ()),
        finished=point.id in found.finished,
        seconds=cost.seconds,
        seconds_source=cost.source,
        problem=found.problems.get(point.id, ""),
    )


def _costed(unit: FoundUnit) -> WorkUnit:
    cost = item_cost(unit.kind, unit.point.config)
    return WorkUnit(
        id=unit.id,
        kind=unit.kind,
        label=unit.label,
        point=unit.point.id,
        num_items=unit.num_items,
        num_cached=unit.num_cached,
        item_s=cost.seconds,
        item_s_source=cost.source,
    )


def write_plan(folder: SweepFolder, plan: Plan) -> None:
    """Write the plan into the sweep's folder."""
    content = asdict(plan)
    for point in content["points"]:
        point["run_dir"] = str(point["run_dir"])
    write_json(folder.plan, {**content, "source": str(plan.source), "format": _FORMAT})


def read_plan(folder: SweepFolder) -> Plan:
    """Read the plan back.

    Raises:
        ConfigError: if there is none.
        StorageError: if it is damaged, or of another version of this program.
    """
    if not folder.plan.is_file():
        raise ConfigError(f"There is no sweep in {folder.root}. `ntt sweep list` names those there are.")
    content = read_json(folder.plan)
    try:
        return _plan_from(content)
    except (KeyError, TypeError) as error:
        raise StorageError(
            f"{folder.plan} is of another version of this program ({error!r}). Delete it and plan the sweep again: "
            "ntt sweep plan FILE."
        ) from error


def _plan_from(content: Mapping[str, Any]) -> Plan:
    if content["format"] != _FORMAT:
        raise KeyError(content["format"])
    return Plan(
        name=content["name"],
        source=Path(content["source"]),
        created_s=content["created_s"],
        resources=Resources(**{stage: StageResources(**one) for stage, one in content["resources"].items()}),
        max_parallel=content["max_parallel"],
        cluster=content["cluster"],
        points=tuple(_point_from(one) for one in content["points"]),
        units=tuple(WorkUnit(**one) for one in content["units"]),
    )


def _point_from(one: Mapping[str, Any]) -> PlannedPoint:
    settings = {key: tuple(value) if isinstance(value, list) else value for key, value in one["settings"].items()}
    return PlannedPoint(
        id=one["id"],
        settings=settings,
        overrides=tuple(one["overrides"]),
        run_dir=Path(one["run_dir"]),
        units=tuple(one["units"]),
        finished=one["finished"],
        seconds=one["seconds"],
        seconds_source=one["seconds_source"],
        problem=one["problem"],
    )
