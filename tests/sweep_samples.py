"""Plans of sweeps for tests, with everything that does not matter filled in."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ntt.sweeps.plan import Plan
from ntt.sweeps.points import Point
from ntt.sweeps.spec import Resources
from ntt.sweeps.units import WorkUnit


def make_unit(name: str, **values: Any) -> WorkUnit:
    """Ten items, none of them stored; the kind is the beginning of the name."""
    usual = {"label": name, "num_items": 10, "num_cached": 0, "item_s": None}
    return WorkUnit(id=name, kind=name.partition("-")[0], **{**usual, **values})


def make_point(name: str, run_dir: Path, *units: str, **values: Any) -> Point:
    return Point(id=name, run_dir=run_dir, units=units, **{"settings": {"seed": name}, "overrides": (), **values})


def make_plan(name: str, points: Sequence[Point], units: Sequence[WorkUnit] = (), **values: Any) -> Plan:
    usual = {"created_s": 0.0, "resources": Resources(), "max_parallel": None, "cluster": None}
    source = Path(f"{name}.yaml")
    return Plan(name=name, source=source, points=tuple(points), units=tuple(units), **{**usual, **values})
