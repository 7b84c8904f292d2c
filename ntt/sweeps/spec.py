"""A sweep file: which runs, with which resources. Read from YAML, checked, frozen."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ntt.base.project import CONFIG_ROOT
from ntt.base.settings import setting
from ntt.base.typed import read_dataclass, yaml_text
from ntt.base.yaml_files import read_yaml
from ntt.errors import ConfigError, raise_all

Scalar = str | bool | int | float | None  # text first: the schema decides the type of a setting
Value = Scalar | tuple[Scalar, ...]
Settings = Mapping[str, Value]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_KEY = re.compile(r"(?!hydra)[A-Za-z_][\w-]*([./][A-Za-z_0-9][\w-]*)*")


@dataclass(frozen=True, kw_only=True)
class JobSize:
    """Resources of one job."""

    gpus: int = setting(0, ge=0)
    """GPUs of one job."""

    cpus: int = setting(2, ge=1)
    """CPU cores of one task."""

    mem_gb: float | None = setting(8.0, ge=0)
    """Memory of one job, GB; null: not requested, if the site ties it to cores or GPUs; 0: all of the node."""

    timeout_min: int = setting(240, ge=1)
    """Time limit of one job, minutes. At 10 minutes or less every interruption counts as a time-out."""

    tasks: int = setting(1, ge=1)
    """Processes of one job, all on one node. Shards of shared work are distributed over them; a point runs distributed
    over them."""


@dataclass(frozen=True, kw_only=True)
class StageResources(JobSize):
    """Resources of one job of a stage, and how its work is divided into jobs."""

    shards: int = setting(1, ge=1)
    """Jobs among which shared work is divided; for `candidates` and `references` only."""

    points_per_job: int = setting(1, ge=1)
    """Points that a job runs one after the other, loading the models only once; for `points` only."""


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Resources of the jobs of each stage."""

    candidates: StageResources = field(default_factory=StageResources)
    references: StageResources = field(default_factory=StageResources)
    points: StageResources = field(default_factory=StageResources)


@dataclass(frozen=True, kw_only=True)
class SweepSpec:
    """A checked sweep file: every field but `source` is one of its keys."""

    source: Path
    """The file; messages name it."""

    name: str
    """Name of the sweep's folder; by default the file's name."""

    description: str = ""

    base: tuple[str, ...] = ()
    """Overrides of every point, as on the command line of `main.py`."""

    axes: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)
    """Values of each setting. Points are all their combinations, the last axis varying fastest."""

    points: tuple[Settings, ...] = ()
    """Settings that vary together; each is combined with every combination of the axes."""

    exclude: tuple[Settings, ...] = ()
    """Points that agree with one of these mappings are left out. A list matches any of its values."""

    resources: Resources = field(default_factory=Resources)

    max_parallel: int | None = setting(None, ge=1)
    """Largest number of jobs that run at the same time; null: no limit of the sweep's own."""

    cluster: str | None = None
    """Name of a profile of `sweeps/clusters/`; null: none."""

    pictures: bool = False
    """Whether points draw pictures."""

    def problems(self) -> list[str]:
        """Check what no field can check alone: names, repetitions, and keys set in several places."""
        return [*self._name_problems(), *self._axes_problems(), *self._exclude_problems()]

    def _name_problems(self) -> Iterable[str]:
        for key, value in (("name", self.name), ("cluster", self.cluster or "none")):
            if not _NAME.fullmatch(value):
                yield f"{key}={value} is invalid. Allowed: letters, digits, '_', '-' and '.'."
        if not all("=" in line for line in self.base):
            yield f"base={yaml_text(self.base)} is invalid. Allowed: a list of KEY=VALUE."
        for where, mappings in {"axes": [self.axes], "points": self.points}.items():
            for key in (key for mapping in mappings for key in mapping):
                if not _KEY.fullmatch(str(key)):
                    yield f"{where}.{key}: this is not a setting such as seed, shots or matcher.merging."

    def _axes_problems(self) -> Iterable[str]:
        if not self.axes and not self.points:
            yield "There is neither an axis nor a point. Add, for example, axes: {seed: [0, 1, 2]}."
        for key, values in self.axes.items():
            if not values:
                yield f"axes.{key} has no value."
            if len(set(map(_value_text, values))) < len(values):
                yield f"axes.{key}={yaml_text(values)} has a value twice."
        for key in sorted({key for point in self.points for key in point} & set(self.axes)):
            yield f"{key} is given in axes and in points. Remove one of them."
        if len({tuple(sorted(map(override_text, point, point.values()))) for point in self.points}) < len(self.points):
            yield "points has a combination twice."

    def _exclude_problems(self) -> Iterable[str]:
        """Find exclusions that can never match: typing errors."""
        values = {key: list(values) for key, values in self.axes.items()}
        for point in self.points:
            for key, value in point.items():
                values.setdefault(key, []).append(value)
        for key, excluded in ((key, value) for exclusion in self.exclude for key, value in exclusion.items()):
            if key not in values:
                yield f"exclude.{key}: the axes and points do not set {key}. They set {', '.join(sorted(values))}."
            elif not any(matches(value, excluded) for value in values[key]):
                allowed = ", ".join(dict.fromkeys(map(yaml_text, values[key])))
                yield f"exclude.{key}={yaml_text(excluded)} never occurs. Allowed: one of {allowed}."


def read_spec(path: Path, *, name: str | None = None) -> SweepSpec:
    """Read and check a sweep file; `name` replaces the sweep's name. A ConfigError names everything that is wrong.

    A file that comes with the program, such as sweeps/demo_small.yaml, is found from anywhere.
    """
    if not path.is_file() and (CONFIG_ROOT / path).is_file():
        path = CONFIG_ROOT / path
    if not path.is_file():
        raise ConfigError(f"There is no sweep file {path}. Give a YAML file such as sweeps/demo_small.yaml.")
    content = read_yaml(path.read_bytes(), where=str(path))
    problems: list[str] = []
    if isinstance(content, dict):
        content = {"name": path.stem, **content, **({} if name is None else {"name": name})}
    spec = read_dataclass(SweepSpec, content, problems, source=path)
    problems += spec.problems() if spec is not None else []
    raise_all([f"{path}: {problem}" for problem in problems], ConfigError, summary=f"{path} is not a usable sweep file")
    assert spec is not None
    return spec


def matches(value: Value, excluded: Value) -> bool:
    """Return whether a point's value is that of an exclusion, or among its values."""
    options = (excluded, *(excluded if isinstance(excluded, tuple) else ()))
    return _value_text(value) in map(_value_text, options)


def override_text(key: str, value: Value) -> str:
    """Return `key=value` in the grammar of Hydra's command line."""
    return f"{key}={_value_text(value)}"


def _value_text(value: Value) -> str:
    """Return a value in the grammar of Hydra's command line; text that is more than one word is quoted."""
    if isinstance(value, tuple):
        return f"[{','.join(map(_value_text, value))}]"
    if not isinstance(value, str):
        return yaml_text(value)
    if re.fullmatch(r"[\w/.+-]+", value, re.ASCII) and value.lower() != "null":
        return value
    # Backslashes count only before a quote or at the end, where Hydra's grammar reads them as escapes.
    escaped = re.sub(r"(\\*)('|\Z)", lambda match: match[1] * 2 + ("\\'" if match[2] else ""), value)
    return f"'{escaped}'"


def merge_overrides(*groups: Sequence[str]) -> list[str]:
    """Join overrides; the later of two values for one key replaces the earlier, in its position."""
    return list({line.partition("=")[0]: line for lines in groups for line in lines}.values())
