"""What decides a result: the one definition of "the same run".

Each field declares whether it decides (`ntt.base.settings.setting`). The deciding ones give a run's directory and id,
which trackers, sweeps and reports use, and the keys of its stages and of their entries in the store.
"""

from collections.abc import Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

from ntt.base.digests import content_key
from ntt.base.settings import deciding_settings, flatten_settings
from ntt.config.schema import ExperimentConfig

_ID_DIGITS = 16
# The settings each stage reads. Those of the models and the matcher come with their fingerprints.
_STAGE_SETTINGS: dict[str, tuple[str, ...]] = {
    "references": ("shots", "seed"),
    "memory": ("memory",),
    "candidates": ("candidates",),
    "visualisation": ("visualisation",),
    "evaluation": ("evaluation",),
}
_NAMED_GROUPS = ("dataset", "backbone", "segmenter", "matcher", "shots", "split")
_STAGES_WITH_MODELS = ("memory", "candidates")


def run_id(config: ExperimentConfig) -> str:
    """Return the run's id: hexadecimal digits of the digest of all settings that decide its result."""
    return content_key(deciding_settings(config))[:_ID_DIGITS]


def run_settings(config: ExperimentConfig) -> dict[str, Any]:
    """Return what decides the result, and the names of options, by dotted key; lists as text."""
    names = {f"{group}.name": getattr(config, group).name for group in _NAMED_GROUPS}
    settings = flatten_settings(deciding_settings(config)) | names
    return {key: str(value) if isinstance(value, list) else value for key, value in settings.items()}


def run_directory(config: ExperimentConfig) -> Path:
    """Derive the run's folder from its configuration: readable parts, then the first digits of its id."""
    split = config.split
    is_own_list = split.name == "all" and split.classes is not None
    label = f"{len(split.classes or ())}classes" if is_own_list else split.name
    point = f"{label}_{config.shots.name}_seed{config.seed}"
    parts = (config.backbone.name, config.segmenter.name, config.matcher.name, run_id(config)[:10])
    return Path(config.runtime.output_root).expanduser() / config.dataset.label() / point / "_".join(parts)


def stage_settings(config: ExperimentConfig, stage: str) -> dict[str, Any]:
    """Return the settings that decide a stage's result, besides the models and the results it builds on."""
    groups = {name: getattr(config, name) for name in _STAGE_SETTINGS.get(stage, ())}
    settings = {name: deciding_settings(group) if is_dataclass(group) else group for name, group in groups.items()}
    if stage in _STAGES_WITH_MODELS:
        # Device and threads affect rounding only, so machines may share a store.
        settings["precision"] = config.runtime.precision
    return settings


def stage_key(config: ExperimentConfig, stage: str, inputs: Mapping[str, Any]) -> str:
    """Return the digest of all that decides a stage's result; `inputs` are digests, fingerprints, keys of stages."""
    return content_key({"stage": stage, "settings": stage_settings(config, stage), "inputs": inputs})


def model_settings(config: ExperimentConfig) -> dict[str, Any]:
    """Return what distinguishes models that cannot be built, as on a login node without their device."""
    settings = deciding_settings(config)
    return {group: settings[group] for group in ("backbone", "segmenter", "runtime")}


def experiment_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the `run_settings` that define the experiment, whatever the seed and the machine."""
    ignored = ("seed", "dataset.root")
    return {key: value for key, value in settings.items() if key not in ignored and not key.startswith("runtime.")}
