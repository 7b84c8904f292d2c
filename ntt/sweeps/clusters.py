"""Cluster profiles: what a site wants to hear from `sbatch`. Files of `sweeps/clusters/`, every key overridable.

What a job gets is decided in this order, the later one winning: the sweep file's `resources`, the profile, the
profile's `stages`, and the command line (`partition=long` for all stages, `points.timeout_min=30` for one).
"""

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml

from ntt.base.project import CONFIG_ROOT
from ntt.errors import ConfigError, raise_all
from ntt.sweeps.spec import StageResources

CLUSTERS_DIR = CONFIG_ROOT / "sweeps" / "clusters"
STAGES = ("candidates", "references", "points")
SHORTEST_COUNTED_MIN = 10
ExtraValue = str | int | float | bool

_OWN_FLAGS = ("array", "dependency", "job-name", "open-mode", "output", "error", "signal", "requeue", "no-requeue")


@dataclass(frozen=True, kw_only=True)
class JobRequest:
    """What the jobs of one stage ask the cluster for. Each key but `tasks` may stand in a profile."""

    partition: str | None = None
    """Partition, or several with commas; null: the cluster's default."""

    account: str | None = None
    """Account that is charged; null: the user's default."""

    qos: str | None = None
    """Quality of service; null: the account's default."""

    constraint: str | None = None
    """Features a node must have, such as a100|h100; null: any node."""

    exclude: str | None = None
    """Nodes to keep away from, such as node[07,12]; null: none."""

    gpu_type: str | None = None
    """Type of GPU, such as a100: gpus are then asked for as gres=gpu:TYPE:N; null: any type."""

    gpus: int = 0
    """GPUs of one job."""

    cpus: int = 2
    """CPU cores of one task."""

    mem_gb: float | None = 8.0
    """Memory of one job, GB; null: not asked for, where the site ties it to cores or GPUs; 0: all of the node."""

    timeout_min: int = 240
    """Time limit of one job, minutes. At 10 minutes or less every interruption counts as a time-out."""

    tasks: int = 1
    """Processes of one job, all on one node. Decided by the sweep file alone: shards are counted by it."""

    max_parallel: int = 256
    """Largest number of jobs of one array that run at the same time; a sweep's own limit is kept as well."""

    max_array_size: int = 1000
    """Largest array the site accepts, as `scontrol show config` says under MaxArraySize, less one."""

    signal_delay_s: int = 120
    """How long before the time limit a job is told, seconds; it must finish the image at hand and leave."""

    max_timeouts: int = 3
    """How often a job that has used its time is queued again. Pre-emptions of longer jobs are not counted."""

    requeue: bool = True
    """Let SLURM queue a job again whose node failed or that was pre-empted; it goes on where it stopped."""

    python: str | None = None
    """Command that starts Python in a job, such as "apptainer exec --nv ntt.sif python"; null: the Python that
    submits."""

    setup: tuple[str, ...] = ()
    """Lines of shell that run before Python: module load, conda activate."""

    srun_args: tuple[str, ...] = ()
    """Further arguments of srun, such as --cpu-bind=cores."""

    extra: Mapping[str, ExtraValue] = field(default_factory=dict)
    """Further parameters of sbatch by their long name: reservation: eccv, exclusive: true."""


@dataclass(frozen=True, kw_only=True)
class ClusterProfile:
    """A checked profile.

    Attributes:
        source: the profile as it was named, or its absolute path.
        lines: the command line's overrides as they were given.
        given: what the profile says for all stages, by the keys of `JobRequest`.
        stages: what it says for one stage.
        overrides: what the command line says, stage ("" for all) -> key -> value.
    """

    source: str
    lines: tuple[str, ...]
    given: Mapping[str, Any]
    stages: Mapping[str, Mapping[str, Any]]
    overrides: Mapping[str, Mapping[str, Any]]

    def request(self, stage: str, resources: StageResources, *, max_parallel: int | None) -> JobRequest:
        """Decide what the jobs of a stage ask for; see the module's description.

        Args:
            stage: one of `STAGES`.
            resources: the stage's in the sweep file.
            max_parallel: the sweep file's limit, or None.
        """
        wanted = JobRequest(
            gpus=resources.gpus,
            cpus=resources.cpus,
            mem_gb=resources.mem_gb,
            timeout_min=resources.timeout_min,
            tasks=resources.tasks,
        )
        extra: dict[str, ExtraValue] = {}
        layers = (self.given, self.stages.get(stage, {}), self.overrides.get("", {}), self.overrides.get(stage, {}))
        for layer in layers:
            extra.update(layer.get("extra", {}))
            wanted = replace(wanted, **layer)
        limits = [wanted.max_parallel] if max_parallel is None else [wanted.max_parallel, max_parallel]
        return replace(wanted, extra=extra, max_parallel=min(limits))


def profile_names() -> list[str]:
    """Return the names of all profiles of the project."""
    return sorted(path.stem for path in CLUSTERS_DIR.glob("*.yaml"))


def load_profile(name: str, overrides: Sequence[str] = ()) -> ClusterProfile:
    """Read a profile and check it together with the command line's overrides.

    Args:
        name: a file of `sweeps/clusters/` without `.yaml`, or the path of a file that ends in it.
        overrides: KEY=VALUE or STAGE.KEY=VALUE, values as in YAML; `extra` takes one parameter: extra.NAME=VALUE.

    Raises:
        ConfigError: naming every unknown key and unusable value at once.
    """
    is_path = name.endswith((".yaml", ".yml"))
    path = Path(name).expanduser().absolute() if is_path else CLUSTERS_DIR / f"{name}.yaml"
    if not path.is_file():
        raise ConfigError(
            f"There is no cluster profile {name!r}. Allowed is one of {', '.join(profile_names())}, or the path of a "
            "YAML file of your own; copy one of sweeps/clusters/ to begin with."
        )
    problems: list[str] = []
    content = _yaml(path.read_text(encoding="utf-8"), where=str(path))
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds no settings. A profile has the keys {', '.join([*_KEYS, 'stages'])}.")
    per_stage = content.pop("stages", None) or {}
    given = _checked(content, str(path), problems)
    stages = _stages(per_stage, str(path), problems)
    chosen = _overrides(overrides, problems)
    raise_all(problems, ConfigError, summary=f"The cluster profile {name} cannot be used")
    source = str(path) if is_path else name
    return ClusterProfile(source=source, lines=tuple(overrides), given=given, stages=stages, overrides=chosen)


_KEYS: dict[str, Field[Any]] = {one.name: one for one in fields(JobRequest) if one.name != "tasks"}
_WORDS = ("partition", "account", "qos", "constraint", "exclude", "gpu_type", "python")
_LEAST = {"gpus": 0, "max_timeouts": 0, "signal_delay_s": 5}


def _stages(value: Any, where: str, problems: list[str]) -> dict[str, dict[str, Any]]:
    if not isinstance(value, dict) or not set(value) <= set(STAGES):
        problems.append(f"{where}: stages={value} is not possible: allowed are the keys {', '.join(STAGES)}.")
        return {}
    return {stage: _checked(content or {}, f"{where}, stages.{stage}", problems) for stage, content in value.items()}


def _overrides(lines: Sequence[str], problems: list[str]) -> dict[str, dict[str, Any]]:
    chosen: dict[str, dict[str, Any]] = {}
    for line in lines:
        name, separator, text = line.partition("=")
        stage, _, key = name.rpartition(".") if name.split(".")[0] in STAGES else ("", "", name)
        if name.startswith(tuple(f"{one}.extra." for one in STAGES)) or name.startswith("extra."):
            stage, _, parameter = name.partition("extra.")
            stage, key = stage.rstrip("."), "extra"
            value: Any = {parameter: _yaml(text, where=line)}
        else:
            value = _yaml(text, where=line)
        if not separator or (stage and stage not in STAGES):
            problems.append(f"{line}: this is not an override. Write KEY=VALUE or STAGE.KEY=VALUE, as in mem_gb=16.")
            continue
        made = _checked({key: value}, line, problems)
        layer = chosen.setdefault(stage, {})
        layer.update({**made, "extra": {**layer.get("extra", {}), **made["extra"]}} if "extra" in made else made)
    return chosen


def _checked(content: Any, where: str, problems: list[str]) -> dict[str, Any]:
    """Return the usable settings; note what is wrong with the others."""
    if not isinstance(content, dict):
        problems.append(f"{where}: {content!r} is not a mapping of settings. Write KEY: VALUE lines.")
        return {}
    made: dict[str, Any] = {}
    for key, value in content.items():
        if key not in _KEYS:
            close = difflib.get_close_matches(str(key), [*_KEYS, "stages"], n=1)
            guess = f"Did you mean {close[0]}?" if close else f"Allowed are {', '.join(_KEYS)}."
            problems.append(f"{where}: there is no setting {key!r}. {guess}")
            continue
        problem, usable = _value(str(key), value)
        if problem:
            shown = "null" if value is None else value
            problems.append(f"{where}: {key}={shown} is not possible: allowed is {problem}. {_default(str(key))}")
        else:
            made[str(key)] = usable
    return made


def _value(key: str, value: Any) -> tuple[str, Any]:
    """Return (what would be allowed, "" if the value is), and the value as `JobRequest` holds it."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    if key in _WORDS:
        fits = value is None or whole or (isinstance(value, str) and bool(value.strip()) and "\n" not in value)
        return ("" if fits else "a word, or null"), None if value is None else str(value)
    if key in ("setup", "srun_args"):
        fits = isinstance(value, list) and all(isinstance(one, str) for one in value)
        return ("" if fits else "a list of strings"), tuple(value) if fits else ()
    if key == "extra":
        return _extra_problem(value), value
    if key == "requeue":
        return ("" if isinstance(value, bool) else "true or false"), value
    if key == "mem_gb":
        fits = value is None or ((whole or isinstance(value, float)) and value >= 0)
        return ("" if fits else "a number from 0 on, or null"), value
    least = _LEAST.get(key, 1)
    return ("" if whole and value >= least else f"a whole number from {least} on"), value


def _extra_problem(value: Any) -> str:
    if not isinstance(value, dict) or not all(isinstance(one, ExtraValue) for one in value.values()):
        return "a mapping from long names of sbatch's parameters to words or numbers"
    if not all(isinstance(key, str) and re.fullmatch(r"[a-z][a-z0-9_-]*", key) for key in value):
        return "long names of sbatch's parameters, such as mail-type"
    if any(key.replace("_", "-") in _OWN_FLAGS for key in value):
        return f"any parameter but {', '.join(_OWN_FLAGS)}, which the sweep sets itself"
    return ""


def _default(key: str) -> str:
    default = _KEYS[key].default
    return f"The default is {default}." if default not in (MISSING, None) else "Leave it out if in doubt."


def _yaml(text: str, *, where: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(
            f"{where}: not readable as YAML: {' '.join(str(error).split())}. Mend that line; quote values with "
            "special signs."
        ) from error
