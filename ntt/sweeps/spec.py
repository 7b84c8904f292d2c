"""A sweep file: which runs, with which resources. Read from YAML, checked, frozen."""

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from ntt.errors import ConfigError, raise_all

Scalar = bool | int | float | str | None
Value = Scalar | tuple[Scalar, ...]
Settings = Mapping[str, Value]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_KEY = re.compile(r"[A-Za-z_][\w-]*([./][A-Za-z_0-9][\w-]*)*")
_TOP_LEVEL = (
    "name",
    "description",
    "base",
    "axes",
    "points",
    "exclude",
    "resources",
    "max_parallel",
    "cluster",
    "pictures",
)


@dataclass(frozen=True)
class StageResources:
    """What one job of a stage gets."""

    gpus: int = 0
    """GPUs of one job."""

    cpus: int = 2
    """CPU cores of one task."""

    mem_gb: float = 8.0
    """Memory of one job, GB."""

    timeout_min: int = 240
    """Time limit of one job, minutes."""

    tasks: int = 1
    """Processes of one job. Shards of shared work are dealt out to them; a point runs distributed over them."""

    shards: int = 1
    """Jobs that a piece of shared work is divided into. Read for `candidates` and `references` only."""

    points_per_job: int = 1
    """Points that one job runs, one after the other, with the models loaded once. Read for `points` only."""


@dataclass(frozen=True)
class Resources:
    """What the jobs of each stage get."""

    candidates: StageResources = field(default_factory=StageResources)
    references: StageResources = field(default_factory=StageResources)
    points: StageResources = field(default_factory=StageResources)


@dataclass(frozen=True)
class SweepSpec:
    """A checked sweep file.

    Attributes:
        source: the file; messages name it.
        base: overrides that every point has, as on the command line of `main.py`.
        axes: setting -> its values. Points are all combinations, the last axis varying fastest.
        variants: combinations of settings that belong together; every combination of the axes is made with each.
            The file's key is `points`.
        exclude: a combination that agrees with all of one of these mappings is left out. A tuple stands for any of
            its values.
        max_parallel: largest number of jobs that run at the same time; None: no limit of ours.
        cluster: name of a profile of `sweeps/clusters/`, or None for local work only.
        pictures: whether points draw pictures.
    """

    name: str
    source: Path
    base: tuple[str, ...]
    axes: Mapping[str, tuple[Value, ...]]
    variants: tuple[Settings, ...] = ()
    exclude: tuple[Settings, ...] = ()
    resources: Resources = field(default_factory=Resources)
    max_parallel: int | None = None
    cluster: str | None = None
    pictures: bool = False
    description: str = ""


def read_spec(path: Path) -> SweepSpec:
    """Read and check a sweep file.

    Raises:
        ConfigError: naming every unknown key and every unusable value at once.
    """
    content = _load(path)
    reader = _Reader(path)
    spec = reader.spec(content)
    raise_all(reader.problems, ConfigError, summary=f"{path} is not a usable sweep file")
    return spec


def _load(path: Path) -> dict[Any, Any]:
    if not path.is_file():
        raise ConfigError(f"There is no sweep file {path}. Give a YAML file such as sweeps/demo_small.yaml.")
    try:
        text = path.read_text(encoding="utf-8")
        twice = _repeated_keys(yaml.compose(text, Loader=yaml.SafeLoader))
        content = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path} is not readable as YAML: {reason}. Mend that line.") from error
    problems = [f"{path}: {place} is given twice; YAML would keep the second only. Remove one." for place in twice]
    raise_all(problems, ConfigError, summary=f"{path} says things twice")
    if not isinstance(content, dict):
        raise ConfigError(
            f"{path} holds {'nothing' if content is None else 'a ' + type(content).__name__}, not settings. A sweep "
            f"file has the keys {', '.join(_TOP_LEVEL)}; axes is the one that matters."
        )
    return content


def _repeated_keys(node: Any) -> list[str]:
    """Return the keys that a mapping has more than once, with their lines."""
    if isinstance(node, yaml.MappingNode):
        keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        values = [key.value for key in keys]
        found = [
            f"{key.value} (line {key.start_mark.line + 1})"
            for place, key in enumerate(keys)
            if key.value in values[:place]
        ]
        return found + [one for _, value in node.value for one in _repeated_keys(value)]
    if isinstance(node, yaml.SequenceNode):
        return [one for value in node.value for one in _repeated_keys(value)]
    return []


@dataclass
class _Reader:
    """Turns plain YAML values into a spec and collects what is wrong on the way."""

    path: Path
    problems: list[str] = field(default_factory=list)

    def spec(self, content: Mapping[Any, Any]) -> SweepSpec:
        self.known_keys(content, _TOP_LEVEL, where="")
        axes = self.axes(content.get("axes"))
        variants = self.mappings(content.get("points"), "points")
        self.check_variants(axes, variants)
        exclude = self.mappings(content.get("exclude"), "exclude")
        self.check_excludes(axes, variants, exclude)
        if not axes and not variants:
            self.add("axes", "nothing", "at least one axis or one point", "Add, for example, axes: {seed: [0, 1, 2]}.")
        return SweepSpec(
            name=self.name(content.get("name", self.path.stem)),
            source=self.path,
            base=self.base(content.get("base")),
            axes=axes,
            variants=variants,
            exclude=exclude,
            resources=self.resources(content.get("resources")),
            max_parallel=self.max_parallel(content.get("max_parallel")),
            cluster=self.word(content.get("cluster"), "cluster"),
            pictures=self.flag(content.get("pictures", False), "pictures"),
            description=str(content.get("description") or ""),
        )

    def add(self, key: str, value: object, allowed: str, remedy: str) -> None:
        self.problems.append(f"{self.path}: {key}={_shown(value)} is not possible: allowed is {allowed}. {remedy}")

    def known_keys(self, found: Mapping[Any, Any], allowed: Sequence[str], *, where: str) -> None:
        for key in found:
            if key in allowed:
                continue
            close = difflib.get_close_matches(str(key), allowed, n=1)
            guess = f"Did you mean {where}{close[0]}?" if close else f"Allowed are {', '.join(allowed)}."
            self.problems.append(f"{self.path}: there is no key {where}{key}. {guess}")

    def name(self, value: Any) -> str:
        if isinstance(value, str) and _NAME.fullmatch(value):
            return value
        self.add("name", value, "letters, digits, '_', '-' and '.'", "It becomes the name of a folder.")
        return self.path.stem

    def word(self, value: Any, key: str) -> str | None:
        if value is None or (isinstance(value, str) and _NAME.fullmatch(value)):
            return value
        self.add(key, value, "a name, or nothing", "Leave it out, or name a file of sweeps/clusters/ without .yaml.")
        return None

    def flag(self, value: Any, key: str) -> bool:
        if not isinstance(value, bool):
            self.add(key, value, "true or false", f"Set {key}: false, for example.")
        return bool(value)

    def max_parallel(self, value: Any) -> int | None:
        if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
            return value
        self.add("max_parallel", value, "a whole number from 1 on, or nothing", "Leave it out for no limit.")
        return None

    def base(self, value: Any) -> tuple[str, ...]:
        if value is None:
            return ()
        if isinstance(value, str) and "=" not in value:
            return (f"experiment={value}",)
        if isinstance(value, dict):
            return tuple(override_text(key, one) for key, one in self.settings(value, "base").items())
        lines = [value] if isinstance(value, str) else value
        if not isinstance(lines, list) or not all(isinstance(one, str) and "=" in one for one in lines):
            remedy = "Write, for example, base: [dataset=demo, runtime.threads=1]."
            self.add("base", value, "a list of KEY=VALUE, a mapping, or an experiment's name", remedy)
            return ()
        return tuple(lines)

    def axes(self, value: Any) -> dict[str, tuple[Value, ...]]:
        made: dict[str, tuple[Value, ...]] = {}
        if value is None:
            return made
        if not isinstance(value, dict):
            self.add("axes", value, "a mapping from settings to lists", "Write, for example, axes: {seed: [0, 1]}.")
            return made
        for key, values in value.items():
            where = f"axes.{key}"
            if not self.is_key(key, where):
                continue
            if not isinstance(values, list) or not values:
                self.add(where, values, "a list of at least one value", f"Write {key}: [{_shown(values)}].")
                continue
            made[key] = tuple(self.value(one, where) for one in values)
            twice = [one for place, one in enumerate(made[key]) if one in made[key][:place]]
            if twice:
                self.add(where, twice[0], "each value once", "Remove the second.")
        return made

    def mappings(self, value: Any, where: str) -> tuple[Settings, ...]:
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(one, dict) and one for one in value):
            self.add(where, value, "a list of mappings", f"Write {where}:, then lines such as '- {{seed: 3}}'.")
            return ()
        return tuple(self.settings(one, where) for one in value)

    def settings(self, value: Mapping[Any, Any], where: str) -> dict[str, Value]:
        return {
            key: self.value(one, f"{where}.{key}") for key, one in value.items() if self.is_key(key, f"{where}.{key}")
        }

    def is_key(self, key: Any, where: str) -> bool:
        if isinstance(key, str) and _KEY.fullmatch(key) and not key.startswith("hydra"):
            return True
        self.add(where, key, "a setting such as seed, shots or matcher.merging", "See python main.py --cfg job.")
        return False

    def value(self, value: Any, where: str) -> Value:
        if isinstance(value, list) and all(_is_scalar(one) for one in value):
            return tuple(value)
        if _is_scalar(value):
            scalar: Scalar = value
            return scalar
        self.add(where, value, "a number, a word, true, false, null, or a list of these", "Write a plain value.")
        return None

    def check_variants(self, axes: Mapping[str, object], variants: Sequence[Settings]) -> None:
        for key in sorted({key for one in variants for key in one} & set(axes)):
            self.add(f"points.{key}", "given", "a setting that is not an axis", "Take it out of axes or of points.")
        for place, one in enumerate(variants):
            if one in variants[:place]:
                self.add("points", dict(one), "each combination once", "Remove the second.")

    def check_excludes(
        self, axes: Mapping[str, tuple[Value, ...]], variants: Sequence[Settings], exclude: Sequence[Settings]
    ) -> None:
        """Refuse exclusions that can never match: they are slips of the pen."""
        values = {key: set(some) for key, some in axes.items()}
        for one in variants:
            for key, value in one.items():
                values.setdefault(key, set()).add(value)
        for one in exclude:
            self.known_keys(one, sorted(values), where="exclude.")
            for key, value in one.items():
                if key in values and not any(matches(there, value) for there in values[key]):
                    allowed = "one of " + ", ".join(sorted(map(_shown, values[key])))
                    self.add(f"exclude.{key}", value, allowed, "Name a value that occurs, or remove the exclusion.")

    def resources(self, value: Any) -> Resources:
        stages = tuple(one.name for one in fields(Resources))
        if value is None:
            return Resources()
        if not isinstance(value, dict):
            self.add("resources", value, f"a mapping with {', '.join(stages)}", "Leave it out for the defaults.")
            return Resources()
        self.known_keys(value, stages, where="resources.")
        return Resources(**{stage: self.stage_resources(value.get(stage), f"resources.{stage}") for stage in stages})

    def stage_resources(self, value: Any, where: str) -> StageResources:
        if value is None:
            return StageResources()
        known = {one.name: one for one in fields(StageResources)}
        if not isinstance(value, dict):
            self.add(where, value, f"a mapping with {', '.join(known)}", "Leave it out for the defaults.")
            return StageResources()
        self.known_keys(value, tuple(known), where=f"{where}.")
        made: dict[str, Any] = {}
        for key, number in value.items():
            least = 0 if key == "gpus" else 1
            whole = isinstance(number, int) and not isinstance(number, bool)
            is_number = whole or (key == "mem_gb" and isinstance(number, float))
            if key in known and is_number and number >= least:
                made[key] = number
            elif key in known:
                allowed = f"{'a number' if key == 'mem_gb' else 'a whole number'} from {least} on"
                self.add(f"{where}.{key}", number, allowed, f"The default is {known[key].default}.")
        return StageResources(**made)


def check_name(name: str) -> str:
    """Return a sweep's name if it can be one.

    Raises:
        ConfigError: if it cannot.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"--name {name} is not possible: allowed are letters, digits, '_', '-' and '.'. Choose a name of these."
        )
    return name


def matches(value: Value, wanted: Value) -> bool:
    """Say whether a point's value is the one an exclusion names, or one of those it names."""
    return same_value(value, wanted) or (isinstance(wanted, tuple) and any(same_value(value, one) for one in wanted))


def same_value(a: Value, b: Value) -> bool:
    """Compare without taking true for 1."""
    return a == b and isinstance(a, bool) == isinstance(b, bool)


def override_text(key: str, value: Value) -> str:
    """Return `key=value` in the grammar of Hydra's command line."""
    return f"{key}={value_text(value)}"


def value_text(value: Value) -> str:
    """Return a value in the grammar of Hydra's command line; strings that could be read otherwise are quoted."""
    if isinstance(value, tuple):
        return f"[{','.join(value_text(one) for one in value)}]"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if re.fullmatch(r"[\w/][\w./-]*", value, re.ASCII) and not _is_other_than_a_word(value):
        return value
    # Backslashes count only before a quote or at the end, where Hydra's grammar reads them as escapes.
    escaped = re.sub(r"(\\*)('|\Z)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), value)
    return f"'{escaped}'"


def _is_other_than_a_word(text: str) -> bool:
    if text.lower() in ("null", "true", "false"):
        return True
    try:
        float(text)
    except ValueError:
        return False
    return True


def _is_scalar(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str)


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return value_text(value)
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
