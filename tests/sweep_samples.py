"""Plans of sweeps for tests, with everything that does not matter filled in."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ntt.sweeps.plan import Plan, PlannedPoint
from ntt.sweeps.spec import Resources
from ntt.sweeps.units import WorkUnit


def make_unit(name: str, **values: Any) -> WorkUnit:
    """Ten items, none of them stored; the kind is the beginning of the name."""
    usual = {"label": name, "point": "p1", "num_items": 10, "num_cached": 0, "item_s": None, "item_s_source": ""}
    return WorkUnit(id=name, kind=name.partition("-")[0], **{**usual, **values})


def make_point(name: str, run_dir: Path, *units: str, **values: Any) -> PlannedPoint:
    usual = {"settings": {"seed": name}, "overrides": (), "finished": False, "seconds": None, "seconds_source": ""}
    return PlannedPoint(id=name, run_dir=run_dir, units=units, **{**usual, **values})


def make_plan(name: str, points: Sequence[PlannedPoint], units: Sequence[WorkUnit] = (), **values: Any) -> Plan:
    usual = {"created_s": 0.0, "resources": Resources(), "max_parallel": None, "cluster": None}
    source = Path(f"{name}.yaml")
    return Plan(name=name, source=source, points=tuple(points), units=tuple(units), **{**usual, **values})
