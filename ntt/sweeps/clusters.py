"""Cluster profiles: what a site expects of `sbatch`. Files of `sweeps/clusters/`, every key overridable.

What a job gets comes from the sweep file's `resources`, the profile, the profile's `stages` and the command line
(`partition=long` for all stages, `points.timeout_min=30` for one); later ones win.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ntt.base.project import CONFIG_ROOT
from ntt.base.settings import setting
from ntt.base.typed import read_fields
from ntt.base.yaml_files import read_yaml
from ntt.errors import ConfigError, raise_all
from ntt.sweeps.spec import JobSize, StageResources

CLUSTERS_DIR = CONFIG_ROOT / "sweeps" / "clusters"
STAGES = ("candidates", "references", "points")

_OWN_FLAGS = (
    *("array", "dependency", "job-name", "open-mode", "output", "error", "signal", "requeue", "no-requeue"),
    *("account", "constraint", "cpus-per-task", "gpus-per-node", "mem", "ntasks", "ntasks-per-node"),
    *("partition", "qos", "time"),
)


@dataclass(frozen=True, kw_only=True)
class JobRequest(JobSize):
    """What the jobs of one stage request from the cluster.

    Each key but `tasks` may be set in a profile: shards are counted by it, so the sweep file alone decides.
    """

    partition: str | None = None
    """Partition, or several with commas; null: the cluster's default."""

    account: str | None = None
    """Account that is charged; null: the user's default."""

    qos: str | None = None
    """Quality of service; null: the account's default."""

    constraint: str | None = None
    """Features a node must have, such as a100|h100; null: any node."""

    gpu_type: str | None = None
    """Type of GPU, such as a100: gpus are then asked for as gres=gpu:TYPE:N; null: any type."""

    max_parallel: int = setting(256, ge=1)
    """Largest number of jobs of one array that run at the same time; a sweep's own limit applies too."""

    max_array_size: int = setting(1000, ge=1)
    """Largest array the site accepts: MaxArraySize in `scontrol show config`, less one."""

    signal_delay_s: int = setting(120, ge=5)
    """How long before the time limit a job is warned, seconds; it must finish the current image and exit."""

    max_timeouts: int = setting(3, ge=0)
    """How often a job that has used up its time is queued again. Pre-emptions do not count, except of short jobs."""

    requeue: bool = True
    """Let SLURM requeue a job whose node failed or that was pre-empted; it resumes where it stopped."""

    python: str | None = None
    """Command that starts Python in a job, such as "apptainer exec --nv ntt.sif python"; null: the Python that
    submits."""

    setup: tuple[str, ...] = ()
    """Lines of shell that run before Python: module load, conda activate."""

    extra: Mapping[str, bool | str] = field(default_factory=dict)
    """Further parameters of sbatch by their long name: reservation: eccv, exclusive: true."""


@dataclass(frozen=True, kw_only=True)
class ClusterProfile:
    """A checked profile; the later of its layers wins: (stage, or "" for all; values by the keys of `JobRequest`)."""

    source: str
    lines: tuple[str, ...]
    layers: tuple[tuple[str, Mapping[str, Any]], ...]

    def request(self, stage: str, resources: StageResources, *, max_parallel: int | None) -> JobRequest:
        """Decide what the jobs of a stage ask for, given its resources and the sweep file's limit on jobs."""
        values: dict[str, Any] = {item.name: getattr(resources, item.name) for item in fields(JobSize)}
        extra: dict[str, Any] = {}
        for layer in (layer for stages, layer in self.layers if stages in ("", stage)):
            extra.update(layer.get("extra", {}))
            values.update(layer)
        limit = values.get("max_parallel", JobRequest().max_parallel)
        limit = limit if max_parallel is None else min(limit, max_parallel)
        return JobRequest(**{**values, "extra": extra, "max_parallel": limit})


def profile_names() -> list[str]:
    """Return the names of all profiles of the project."""
    return sorted(path.stem for path in CLUSTERS_DIR.glob("*.yaml"))


def load_profile(name: str, overrides: Sequence[str] = ()) -> ClusterProfile:
    """Read a profile and check it together with the command line's overrides.

    `name` is a file of `sweeps/clusters/` without `.yaml`, or the path of a YAML file. Overrides are KEY=VALUE or
    STAGE.KEY=VALUE, values as in YAML; `extra` takes one parameter: extra.NAME=VALUE. A ConfigError names every unknown
    key and unusable value.
    """
    is_path = name.endswith((".yaml", ".yml"))
    path = Path(name).expanduser().absolute() if is_path else CLUSTERS_DIR / f"{name}.yaml"
    if not path.is_file():
        raise ConfigError(
            f"There is no cluster profile {name!r}. Allowed: one of {', '.join(profile_names())}, or the path of a "
            "YAML file of your own."
        )
    content = read_yaml(path.read_bytes(), where=str(path))
    if not isinstance(content, dict) or not isinstance(content.get("stages") or {}, dict):
        raise ConfigError(f"{path} is not a mapping of settings, or its stages are not. Write KEY: VALUE lines.")
    stages = content.pop("stages", None) or {}
    problems: list[str] = []
    layers = [("", _checked(content, problems, where=str(path)))]
    for stage, values in stages.items():
        if stage in STAGES:
            layers.append((stage, _checked(values or {}, problems, where=f"{path}, stages.{stage}")))
        else:
            problems.append(f"{path}: stages.{stage} is invalid. Allowed keys: {', '.join(STAGES)}.")
    given = []
    for line in overrides:
        stage, values = _override(line)
        given.append((stage, _checked(values, problems, where=line)))
    # A setting for one stage outweighs a setting for all.
    layers += sorted(given, key=lambda layer: layer[0] != "")
    raise_all(problems, ConfigError, summary=f"The cluster profile {name} cannot be used")
    return ClusterProfile(source=str(path) if is_path else name, lines=tuple(overrides), layers=tuple(layers))


def _override(line: str) -> tuple[str, dict[str, Any]]:
    """Return the stage of an override ("" for all) and what it sets."""
    name, separator, text = line.partition("=")
    if not separator:
        raise ConfigError(f"{line}: this is not an override. Write KEY=VALUE or STAGE.KEY=VALUE, as in mem_gb=16.")
    value = read_yaml(text, where=line)
    stage, _, key = name.partition(".") if name.partition(".")[0] in STAGES else ("", "", name)
    if key.startswith("extra."):
        return stage, {"extra": {key.removeprefix("extra."): value}}
    return stage, {key: value}


def _checked(values: Any, problems: list[str], *, where: str) -> dict[str, Any]:
    """Return the usable settings, and note what is wrong with the others."""
    inner: list[str] = []
    usable = read_fields(JobRequest, values, inner, without=("tasks",))
    for key in map(str, usable.get("extra", {})):
        if not re.fullmatch(r"[a-z][a-z0-9_-]*", key):
            inner.append(f"extra.{key}: this is not the long name of a parameter of sbatch, such as mail-type.")
        if key.replace("_", "-") in _OWN_FLAGS:
            others = ", ".join(_OWN_FLAGS)
            inner.append(f"extra.{key} is set by the sweep itself, or by a key of the profile, as are {others}.")
    inner += [f"{key} has more than one line." for key, value in usable.items() if "\n" in str(value)]
    problems += [f"{where}: {problem}" for problem in inner]
    return usable
