"""The points of a sweep: every combination of settings as a checked configuration with its own folder."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from ntt.config.command_line import read_override
from ntt.config.compose import compose_many
from ntt.config.identity import run_directory, run_id
from ntt.config.schema import ExperimentConfig
from ntt.errors import ConfigError, raise_all
from ntt.sweeps.spec import Settings, SweepSpec, Value, matches, merge_overrides, override_text

_MAX_POINTS = 10_000


@dataclass(frozen=True, kw_only=True)
class Point:
    """One run of a sweep.

    Attributes:
        settings: what distinguishes this point from the others, in the file's order.
        overrides: the command line that would make `main.py` run this point.
        units: ids of the shared work it builds on; this and what follows as of the time of planning.
        finished: whether its run directory holds a valid result.
        seconds: what it takes on top of shared work; None if unknown.
        problem: why it cannot be run; "" if nothing speaks against it.
    """

    id: str
    settings: Settings
    overrides: tuple[str, ...]
    run_dir: Path
    units: tuple[str, ...] = ()
    finished: bool = False
    seconds: float | None = None
    problem: str = ""

    @property
    def label(self) -> str:
        """The settings as text: "shots=1shot seed=0"."""
        return " ".join(override_text(key, value) for key, value in self.settings.items())


ComposedPoint: TypeAlias = tuple[Point, ExperimentConfig]


def expand(spec: SweepSpec, overrides: Sequence[str] = ()) -> list[ComposedPoint]:
    """Compose every point of a sweep, in the order of its file, the last axis varying fastest.

    The `overrides` of the command line come after the base; one that sets an axis replaces the whole axis. A
    ConfigError if a setting is unknown or impossible, two points would share a run directory, or no point is left.
    """
    common, combinations = _combinations(spec, overrides)
    if not combinations:
        raise ConfigError(f"{spec.source}: every point is excluded, so there is nothing to do. Remove an exclusion.")
    lines = [
        merge_overrides(common, [override_text(key, value) for key, value in settings.items()])
        for settings in combinations
    ]
    configs = compose_many(lines)
    points = [
        Point(id=run_id(config), settings=settings, overrides=tuple(line), run_dir=run_directory(config).absolute())
        for settings, line, config in zip(combinations, lines, configs, strict=True)
    ]
    _check(spec, points, configs)
    return list(zip(points, configs, strict=True))


def _combinations(spec: SweepSpec, overrides: Sequence[str]) -> tuple[list[str], list[dict[str, Value]]]:
    """Return the overrides common to all points, and each point's own settings."""
    axes, rest = dict(spec.axes), []
    for line in overrides:
        key, value = read_override(line)
        if any(key in point for point in spec.points):
            raise ConfigError(f"{line}: {spec.source} sets {key} for each of its points. Change it there.")
        if key in axes:
            axes[key] = (value,)
        else:
            rest.append(line)
    count = max(1, len(spec.points)) * math.prod(map(len, axes.values()))
    if count > _MAX_POINTS:
        raise ConfigError(
            f"{spec.source}: its axes make {count:,} points, and a sweep has at most {_MAX_POINTS:,}. Vary less, or "
            "divide it."
        )
    combinations = [
        {**point, **dict(zip(axes, values, strict=True))}
        for point in (spec.points or ({},))
        for values in itertools.product(*axes.values())
    ]
    common = merge_overrides([override_text("visualisation.enabled", spec.pictures)], spec.base, rest)

    def is_excluded(settings: Settings, exclusion: Settings) -> bool:
        return all(key in settings and matches(settings[key], value) for key, value in exclusion.items())

    return common, [own for own in combinations if not any(is_excluded(own, each) for each in spec.exclude)]


def _check(spec: SweepSpec, points: Sequence[Point], configs: Sequence[ExperimentConfig]) -> None:
    """Refuse points that are not whole runs, or that share a folder."""
    stages = sorted({config.stage for config in configs} - {"all"})
    problems = [f"{spec.source}: stage={stage} is invalid: a sweep does all stages. Leave it out." for stage in stages]
    owners: dict[Path, Point] = {}
    for point in points:
        first = owners.setdefault(point.run_dir, point)
        if first is not point:
            differing = [key for key in point.settings if point.settings[key] != first.settings.get(key)]
            problems.append(
                f"{spec.source}: {', '.join(differing)} does not change results, so there is no point in both "
                f"{first.label} and {point.label}. Exclude one of them."
            )
    raise_all(problems, ConfigError, summary=f"{spec.source} cannot be expanded")
