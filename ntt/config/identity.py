"""What decides a result: the one definition of "the same run"."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ntt.config.schema import ExperimentConfig, plain


def result_settings(config: ExperimentConfig) -> dict[str, Any]:
    """Return the part of the configuration that decides the results, as nested plain values.

    Left out is what only says where files lie, what is drawn and who is told.
    """
    return deciding_settings(plain(config))


def deciding_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Do the same for a whole configuration as nested plain values, also one kept by an older version."""
    kept = {key: dict(value) if isinstance(value, Mapping) else value for key, value in settings.items()}
    for key in ("tracker", "visualisation", "stage", "experiment"):
        kept.pop(key, None)
    for key in ("name", "output_root", "store_root", "cache_root", "data_root", "weights_root", "dist_timeout_s"):
        kept.get("runtime", {}).pop(key, None)
    for key in ("sampler", "protocol"):  # what counts is shots.sampler and evaluation.protocol, taken from these
        kept.get("dataset", {}).pop(key, None)
    measured = kept.pop("evaluation", {})
    measured.pop("judge", None)  # both judges say the same
    if measured.get("semantic", "none") == "none":
        for key in ("semantic", "semantic_threshold"):
            measured.pop(key, None)
    if measured.get("protocol", "coco") == "coco":  # as before there was a choice
        measured.pop("protocol", None)
    if measured:
        kept["evaluation"] = measured
    root = kept.get("dataset", {}).get("root")
    if root is not None:
        kept["dataset"]["root"] = str(Path(root).expanduser().absolute())
    return kept


def digest(settings: Mapping[str, Any]) -> str:
    """Return the sha256 hex digest of plain settings, independent of key order."""
    text = json.dumps(settings, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def run_directory(config: ExperimentConfig) -> Path:
    """Derive the run's folder from the configuration: readable parts, then a digest of all that decides results."""
    split = config.split.name if config.split.classes is None else f"{len(config.split.classes)}classes"
    point = f"{split}_{config.shots.name}_seed{config.seed}"
    parts = (config.backbone.name, config.segmenter.name, config.matcher.name, digest(result_settings(config))[:10])
    return Path(config.runtime.output_root).expanduser() / config.dataset.label() / point / "_".join(parts)
