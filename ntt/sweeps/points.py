"""The points of a sweep: every combination of settings as a checked configuration with a folder of its own."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ntt.config.command_line import read_override
from ntt.config.compose import compose_many
from ntt.config.identity import run_directory, run_id
from ntt.config.schema import ExperimentConfig
from ntt.errors import ConfigError, raise_all
from ntt.sweeps.spec import Settings, SweepSpec, Value, matches, override_text


@dataclass(frozen=True)
class Point:
    """One run of a sweep.

    Attributes:
        id: hex digits that tell runs apart (`ntt.config.identity.run_id`).
        settings: what tells this point from the others, in the file's order.
        overrides: everything that `main.py` would be given to run this point.
        run_dir: absolute.
    """

    id: str
    settings: Mapping[str, Value]
    overrides: tuple[str, ...]
    config: ExperimentConfig
    run_dir: Path

    @property
    def label(self) -> str:
        """The settings as text: "shots=1shot seed=0"."""
        return settings_label(self.settings)


def settings_label(settings: Settings) -> str:
    """Return settings as text: "shots=1shot seed=0"."""
    return " ".join(override_text(key, value) for key, value in settings.items())


def expand(spec: SweepSpec, overrides: Sequence[str] = ()) -> tuple[Point, ...]:
    """Make every point of a sweep, in a stable order: as the file has them, the last axis varying fastest.

    Args:
        spec: the sweep file.
        overrides: of the command line. They come after the base; one that sets an axis replaces that axis by the one
            value.

    Raises:
        ConfigError: if a setting is unknown or impossible, two points would share a run directory, or none is left.
    """
    fixed, combinations = _combinations(spec, overrides)
    if not combinations:
        raise ConfigError(f"{spec.source}: every point is excluded, so there is nothing to do. Remove an exclusion.")
    lines = [_merged(fixed, [override_text(k, v) for k, v in settings.items()]) for settings in combinations]
    configs = compose_many(lines)
    points = tuple(
        Point(run_id(config), settings, tuple(line), config, run_directory(config).absolute())
        for settings, line, config in zip(combinations, lines, configs, strict=True)
    )
    _check(spec, points)
    return points


def _combinations(spec: SweepSpec, overrides: Sequence[str]) -> tuple[list[str], list[dict[str, Value]]]:
    """Return what all points have, and for each point what it has beside that."""
    axes, rest = dict(spec.axes), []
    for line in overrides:
        key, value = read_override(line)
        if any(key in one for one in spec.variants):
            raise ConfigError(
                f"{line}: {spec.source} sets {key} for each of its points. Change it there, or copy the file."
            )
        if key in axes:
            axes[key] = (value,)
        else:
            rest.append(line)
    pictures = "true" if spec.pictures else "false"
    fixed = _merged([f"visualisation.enabled={pictures}"], [*spec.base, *rest])
    made = [
        {**variant, **dict(zip(axes, values, strict=True))}
        for variant in (spec.variants or ({},))
        for values in itertools.product(*axes.values())
    ]
    return fixed, [one for one in made if not any(_agrees(one, excluded) for excluded in spec.exclude)]


def _agrees(settings: Settings, excluded: Settings) -> bool:
    return all(key in settings and matches(settings[key], value) for key, value in excluded.items())


def _merged(earlier: Sequence[str], later: Sequence[str]) -> list[str]:
    """Join overrides; where a key comes twice, the later value takes the earlier one's place."""
    made: dict[str, str] = {}
    for line in (*earlier, *later):
        made[line.partition("=")[0]] = line
    return list(made.values())


def _check(spec: SweepSpec, points: Sequence[Point]) -> None:
    """Refuse points that are not whole runs, and points that would write into one folder."""
    problems, owners = [], dict[Path, Point]()
    for point in points:
        if point.config.stage != "all":
            problems.append(
                f"{spec.source}: stage={point.config.stage} is not possible: sweeps do all stages. Leave it out."
            )
            break
    for point in points:
        first = owners.setdefault(point.run_dir, point)
        if first is not point:
            differing = [key for key in point.settings if point.settings[key] != first.settings.get(key)]
            problems.append(
                f"{spec.source}: the points ({first.label}) and ({point.label}) are the same run, in {point.run_dir}: "
                f"{', '.join(differing)} does not change results. Leave that out, or exclude one of them."
            )
    raise_all(problems, ConfigError, summary=f"{spec.source} cannot be expanded")
