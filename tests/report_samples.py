"""Run directories as a finished run leaves them, made in a moment by the functions that real runs write with."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from ntt.config.compose import compose_many
from ntt.config.identity import run_directory
from ntt.config.schema import ExperimentConfig
from ntt.datasets.folders import CocoJsonConfig
from ntt.reports.summary import settings_with
from ntt.run.artefacts import write_metrics
from ntt.run.rundir import RunDirectory
from ntt.types import Metrics

CLASSES = ("disc", "square")


def box_metrics(ap: float, *, classes: Sequence[str] = CLASSES, segm: float | None = None) -> Metrics:
    """Metrics with box AP `ap`, AP50 ten points more; the first class two points better, the last two worse."""
    values = {"bbox": ap} if segm is None else {"bbox": ap, "segm": segm}
    overall = {kind: {"AP": value, "AP50": value + 10} for kind, value in values.items()}
    per_class = {
        kind: {name: {"AP": value + 2 - 4 * (index > 0)} for index, name in enumerate(classes)}
        for kind, value in values.items()
    }
    return Metrics(overall=overall, per_class=per_class, num_images=4, num_detections=9)


def make_runs(root: Path, runs: Mapping[str, Metrics | None], *, data: Path | None = None) -> dict[str, Path]:
    """Write a run directory for each command line of `main.py`; None stands for a run without metrics.

    `data`, a folder in COCO format, takes the place of the data set `demo`.
    """
    directories = {}
    for (line, metrics), config in zip(runs.items(), _compose(runs), strict=True):
        config = replace(config, runtime=replace(config.runtime, output_root=str(root)))
        if data is not None:
            config = replace(config, dataset=CocoJsonConfig(name="coco_json", root=str(data)))
        directory = RunDirectory(run_directory(config))
        directory.write_config(config)
        directory.write_record("candidates", "key", [], {"seconds": 10.0, "computed": {"candidates": 4}})
        for stage in ("matching", "evaluation") if metrics is not None else ():
            directory.write_record(stage, "key", [], {"seconds": 1.0})
        if metrics is not None:
            directory.write_facts({"git": "abc", "packages": {"ntt-seg": "0.1.0"}})
            write_metrics(directory.metrics, metrics)
        directories[line] = directory.root
    return directories


_COMPOSED: dict[str, ExperimentConfig] = {}


def _compose(lines: Iterable[str]) -> list[ExperimentConfig]:
    """Compose each command line once a session: Hydra takes half a second for the first of each kind."""
    new = [line for line in lines if line not in _COMPOSED]
    _COMPOSED.update(zip(new, compose_many([line.split() for line in new]), strict=True))
    return [copy.deepcopy(_COMPOSED[line]) for line in lines]


def mean_of(runs: pd.DataFrame, metric: str) -> tuple[float, float | None, int]:
    """Mean, standard deviation and number of runs of the only setting there is."""
    (setting,) = settings_with(runs, metric).itertuples()
    return setting.mean, None if pd.isna(setting.std) else setting.std, setting.count
