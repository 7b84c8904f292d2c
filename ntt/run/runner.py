"""Runs an experiment: joins the processes, opens the run directory, and makes the stages that are asked for."""

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ntt.base import distributed as dist
from ntt.base.log import console_logging, file_logging
from ntt.config.identity import digest, result_settings, run_directory
from ntt.config.schema import STAGES, ExperimentConfig, plain
from ntt.errors import ConfigError, NttError, WeightsError, raise_all
from ntt.run.artefacts import flat_metrics, read_metrics
from ntt.run.environment import apply_runtime, collect_facts
from ntt.run.inputs import input_facts
from ntt.run.pipeline import Pipeline
from ntt.run.rundir import RunDirectory
from ntt.run.shared import Workspace
from ntt.run.table import metrics_table
from ntt.trackers.base import RunIdentity, Tracker
from ntt.types import Metrics, Placement

_LOG = logging.getLogger(__name__)


def run(config: ExperimentConfig, *, workspace: Workspace | None = None) -> float | None:
    """Run the stage or stages that `config.stage` asks for, in one process or several.

    A stage that has already finished with the same settings is read back, not repeated.

    Args:
        config: a checked configuration.
        workspace: what this process has prepared for earlier runs and prepares for later ones; None: nothing.

    Returns:
        Box AP in percent, so that an optimiser can maximise it; None where nothing was evaluated.

    Raises:
        NttError: for anything the user can mend; whatever was finished stays.
    """
    directory = RunDirectory(run_directory(config).absolute())
    with dist.join_process_group(timeout_s=config.runtime.dist_timeout_s) as group, console_logging(group.rank):
        workspace = Workspace() if workspace is None else workspace
        placement = _place_models(config, group, workspace)
        pipeline = Pipeline(config=config, directory=directory, placement=placement, group=group, workspace=workspace)
        pipeline.check_inputs()
        with file_logging(directory.root, group.rank):
            if config.stage == "all" and pipeline.is_finished():
                _LOG.info("This run is already finished; nothing to do. To repeat it, delete %s", directory.root)
                metrics = read_metrics(directory.metrics)
                if group.is_main and config.tracker.MIRRORS_FINISHED_RUNS:
                    _mirror(pipeline, metrics)
                return _report(metrics, directory, config)
            facts = collect_facts(placement, num_processes=group.size)
            return _make_stages(pipeline, {**facts, "data": input_facts(pipeline.inputs)})


def _place_models(config: ExperimentConfig, group: dist.ProcessGroup, workspace: Workspace) -> Placement:
    """Decide where models run; a device that is not there and weights that are missing are reported together."""
    problems: list[NttError] = []
    try:
        placement = apply_runtime(config.runtime, local_rank=group.local_rank)
    except ConfigError as error:
        problems.append(error)
        root = Path(config.runtime.weights_root).expanduser()
        placement = Placement(device="cpu", precision="float32", compile=False, weights_root=root)
    for prepare in (
        lambda: workspace.backbone(config.backbone, placement),
        lambda: workspace.segmenter(config.segmenter, placement),
    ):
        try:
            prepare()
        except WeightsError as error:
            problems.append(error)
    if problems:
        raise_all([str(error) for error in problems], type(problems[0]), summary="The models cannot be used here")
    return placement


def _make_stages(pipeline: Pipeline, facts: dict[str, object]) -> float | None:
    """Open the tracker, make the stages, close the tracker whatever happens."""
    config, directory = pipeline.config, pipeline.directory
    tracker: Tracker = Tracker()
    if pipeline.group.is_main:
        directory.write_config(plain(config))
        tracker = _open_tracker(config, directory)
    try:
        metrics = _make_wanted(pipeline, facts, tracker)
    except BaseException:
        tracker.finish(failed=True)
        raise
    tracker.finish(failed=False)
    return _report(metrics, directory, config)


def _make_wanted(pipeline: Pipeline, facts: dict[str, object], tracker: Tracker) -> Metrics | None:
    config, directory = pipeline.config, pipeline.directory
    wanted: tuple[str, ...] = STAGES if config.stage == "all" else (config.stage,)
    if config.stage == "all" and not config.visualisation.enabled:
        wanted = tuple(stage for stage in STAGES if stage != "visualisation")
    started = time.monotonic()
    _LOG.info("Run directory: %s", directory.root)
    for stage in wanted:
        pipeline.make(stage)
        if pipeline.group.is_main:
            directory.write_facts(facts, pipeline.stage_facts())
            tracker.log_stage(stage, _stage_numbers(pipeline, stage))
    pipeline.tidy()
    _LOG.info("Finished in %.1f s.", time.monotonic() - started)
    metrics = pipeline.evaluation() if "evaluation" in wanted else None
    if metrics is not None:
        tracker.log_metrics(flat_metrics(metrics))
    tracker.log_pictures({path.stem: path for path in pipeline.pictures()})
    return metrics


def _mirror(pipeline: Pipeline, metrics: Metrics) -> None:
    """Tell a tracker of a run that was finished before."""
    tracker = _open_tracker(pipeline.config, pipeline.directory)
    for stage in pipeline.stage_facts():
        tracker.log_stage(stage, _stage_numbers(pipeline, stage))
    tracker.log_metrics(flat_metrics(metrics))
    tracker.log_pictures({path.stem: path for path in pipeline.pictures()})
    tracker.finish(failed=False)


def _stage_numbers(pipeline: Pipeline, stage: str) -> dict[str, float]:
    """Return a stage's facts as numbers, with its throughput where it goes through the target images."""
    found = numbers(pipeline.stage_facts()[stage])
    if stage in ("candidates", "matching", "evaluation") and found.get("seconds"):
        found["images_per_second"] = len(pipeline.inputs.target_data.images) / found["seconds"]
    return found


def numbers(facts: Mapping[str, Any]) -> dict[str, float]:
    """Flatten a stage's facts to the numbers in them: "seconds", "peak_memory_mb/process"."""
    flat: dict[str, float] = {}
    for key, value in facts.items():
        if isinstance(value, Mapping):
            flat.update({f"{key}/{name}": number for name, number in numbers(value).items()})
        elif isinstance(value, int | float):
            flat[key] = float(value)
    return flat


def _open_tracker(config: ExperimentConfig, directory: RunDirectory) -> Tracker:
    run_id = digest(result_settings(config))[:16]
    point = f"{config.shots.name}_seed{config.seed}"
    parts = (config.split, config.shots, config.backbone, config.segmenter, config.matcher)
    identity = RunIdentity(
        run_id=run_id,
        name=f"{config.dataset.label()}_{point}",
        group=config.tracker.group or config.dataset.label(),
        run_dir=directory.root,
        config=plain(config),
        job_type="run" if config.stage == "all" else config.stage,
        tags=(config.dataset.label(), *(part.name for part in parts)),
    )
    return config.tracker.build(identity)


def _report(metrics: Metrics | None, directory: RunDirectory, config: ExperimentConfig) -> float | None:
    """Show the table and where everything is."""
    if metrics is None:
        return None
    _LOG.info("\n%s\n", metrics_table(metrics))
    if metrics.overall:
        _LOG.info("metrics        %s", directory.metrics)
    _LOG.info("predictions    %s", directory.predictions)
    if config.visualisation.enabled and directory.pictures.is_dir():
        _LOG.info("pictures       %s", directory.pictures)
    return metrics.overall.get("bbox", {}).get("AP")
