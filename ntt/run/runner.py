"""Runs an experiment: joins the processes, opens the run directory, and runs the requested stages."""

import logging
import os
import sys
import time
from dataclasses import asdict, dataclass, field
from functools import cache
from itertools import takewhile
from pathlib import Path

from ntt.base import distributed as dist
from ntt.base.garbage import leave_quickly, older_values_spared
from ntt.base.log import console_logging, file_logging, lenient_stdout
from ntt.base.yaml_files import read_yaml
from ntt.config.command_line import run_hydra
from ntt.config.identity import run_id
from ntt.config.schema import ExperimentConfig
from ntt.errors import EXIT_INTERRUPTED, ConfigError
from ntt.run import stages
from ntt.run.artefacts import flat_metrics, flat_proposals
from ntt.run.checks import check_run
from ntt.run.environment import environment_details
from ntt.run.inputs import input_files
from ntt.run.pipeline import Pipeline
from ntt.run.shared import Workspace, process_workspace
from ntt.run.table import choice_text, counts_table, metrics_table, multirun_table, thresholds_table
from ntt.run.together import match_ahead
from ntt.trackers.base import RunIdentity, Tracker
from ntt.types import Metrics, ProposalRecall

_LOG = logging.getLogger(__name__)
_EMBEDDED = {"efficientnet_lite0", "regions"}
_WEAK = (
    "\nThe models that come with the package are weak. The published ones need a GPU: ntt weights get --for "
    "backbone=dinov2_vitl14 segmenter=sam2, then this command with backbone=dinov2_vitl14 segmenter=sam2 runtime=gpu."
)


def main() -> None:
    """Run the experiment of the command line, or with --multirun its experiments; Ctrl-C ends it with one line."""
    leave_quickly()
    lenient_stdout()
    points = _Points()
    try:
        run_hydra(points.run, _show_multirun, points.waiting.extend)
    except KeyboardInterrupt:
        sys.stderr.write("\nInterrupted. Run the same command again to resume.\n")
        raise SystemExit(EXIT_INTERRUPTED) from None


@dataclass
class _Points:
    """The points of a multirun; after the first on some images, which checks these, the others are matched together."""

    waiting: list[ExperimentConfig] = field(default_factory=list)
    _before: ExperimentConfig | None = None
    _num_matched: int = 0

    def run(self, config: ExperimentConfig) -> float | None:
        """Run the first of the waiting points, or a configuration of which nothing was known before."""
        workspace = process_workspace()
        if not self._num_matched and os.environ.get("WORLD_SIZE", "1") == "1":
            alike = list(takewhile(self._is_on_same_images, self.waiting))
            if len(alike) > 1:
                with console_logging():
                    _LOG.info("Matching %d points together.", len(alike))
                    self._num_matched = match_ahead(alike, workspace)
        self._num_matched = max(self._num_matched - 1, 0)
        del self.waiting[:1]
        result = run(config, workspace=workspace)
        self._before = config
        return result

    def _is_on_same_images(self, config: ExperimentConfig) -> bool:
        groups = ("dataset", "backbone", "segmenter", "candidates", "runtime")
        is_same = [getattr(config, group) == getattr(self._before, group, None) for group in groups]
        return config.stage == "all" and all(is_same)


def _show_multirun(configs: list[ExperimentConfig], failed: list[ExperimentConfig]) -> None:
    if configs:
        with console_logging():
            _LOG.info("\n%s", multirun_table(configs, failed))


@older_values_spared()
def run(config: ExperimentConfig, *, workspace: Workspace | None = None) -> float | None:
    """Run the stages that `config.stage` asks for, in one process or several.

    A stage that has already finished with the same settings is read back, not repeated. The workspace holds what the
    runs of this process share. Returns box AP in percent, which an optimiser may maximise, or None if nothing was
    evaluated; an NttError for anything the user can fix, and finished stages stay.
    """
    with dist.join_process_group(timeout_s=config.runtime.dist_timeout_s) as group, console_logging(group.rank):
        pipeline = Pipeline(config, group, Workspace() if workspace is None else workspace)
        check_run(pipeline)
        directory = pipeline.directory
        with file_logging(directory.root, group.rank):
            if config.stage != "all" or not stages.is_finished(pipeline):
                return _report(pipeline, _make_stages(pipeline))
            _LOG.info("This run is already finished; nothing to do. To repeat it, delete %s", directory.root)
            metrics = stages.EVALUATION.read(pipeline)
            if group.is_main:
                if not (_is_readable(directory.config) and _is_readable(directory.identity)):
                    directory.write_config(config)
                if not _is_readable(directory.facts):  # on which machine is no longer known
                    directory.write_facts({"data": input_files(pipeline.inputs)})
                _mirror(pipeline, metrics)
            return _report(pipeline, metrics)


def _is_readable(path: Path) -> bool:
    try:
        return isinstance(read_yaml(path.read_bytes(), where=str(path), resolved=True), dict)
    except (OSError, ConfigError):
        return False


def _make_stages(pipeline: Pipeline) -> Metrics | None:
    """Run the requested stages and report to the tracker, which is closed whatever happens."""
    config, directory, started = pipeline.config, pipeline.directory, time.monotonic()
    asked = stages.asked_stages(pipeline)
    tracker: Tracker = Tracker()
    if pipeline.group.is_main:
        directory.write_config(config)
        tracker = _open_tracker(pipeline)
    try:
        environment = environment_details(pipeline.models.placement, num_processes=pipeline.group.size)
        _LOG.info("Run directory: %s", directory.root)
        outdated = [stage for stage in stages.STAGES if pipeline.is_outdated(stage)]
        # What other score thresholds gave belongs to the same detections and stays.
        by_threshold = (stages.COUNTS, stages.VISUALISATION, stages.THRESHOLDS)
        is_other_result = any(stage not in by_threshold for stage in outdated)
        if is_other_result and pipeline.group.is_main:
            for stage in outdated:
                directory.discard(stage.name)
        for stage in asked:
            pipeline.result(stage)
            if pipeline.group.is_main:
                directory.write_facts({**environment, "data": input_files(pipeline.inputs)})
                tracker.log_stage(stage.name, _stage_numbers(pipeline, stage.name))
        pipeline.tidy()
        _LOG.info("Finished in %.1f s.", time.monotonic() - started)
        metrics = pipeline.result(stages.EVALUATION) if stages.EVALUATION in asked else None
        _log_results(pipeline, tracker, metrics)
    except BaseException:
        tracker.finish(failed=True)
        raise
    tracker.finish(failed=False)
    return metrics


def _mirror(pipeline: Pipeline, metrics: Metrics) -> None:
    """Report a finished run to a tracker: it had none, had another, or a W&B agent waits for it."""
    tracker = _open_tracker(pipeline)
    for stage in pipeline.directory.stage_details():
        tracker.log_stage(stage, _stage_numbers(pipeline, stage))
    _log_results(pipeline, tracker, metrics)
    tracker.finish(failed=False)


def _log_results(pipeline: Pipeline, tracker: Tracker, metrics: Metrics | None) -> None:
    if metrics is not None:
        tracker.log_metrics(flat_metrics(metrics) | flat_proposals(_recall(pipeline)))
    folder = pipeline.directory.pictures
    drawn = pipeline.directory.drawn_pictures()
    tracker.log_pictures({path.relative_to(folder).with_suffix("").as_posix(): path for path in drawn})


def _recall(pipeline: Pipeline) -> ProposalRecall:
    return stages.PROPOSALS.read(pipeline) if stages.PROPOSALS in stages.asked_stages(pipeline) else {}


def _stage_numbers(pipeline: Pipeline, stage: str) -> dict[str, float]:
    """Return seconds and peak memory of a stage, with its throughput if it has processed images itself."""
    details = pipeline.directory.stage_details()[stage]
    numbers = {"seconds": float(details["seconds"])}
    numbers |= {f"peak_memory_mb/{name}": float(peak) for name, peak in details.get("peak_memory_mb", {}).items()}
    num_images = len(pipeline.targets) if stage in ("matching", "evaluation") else 0
    if stage == "candidates":  # others were in the store
        num_images = details.get("computed", {}).get("candidates", 0)
    if num_images and numbers["seconds"]:
        numbers["images_per_second"] = num_images / numbers["seconds"]
    if stage == stages.LEAVE_ONE_OUT.name and pipeline.has_choice:
        numbers[f"chose/{pipeline.result(stages.LEAVE_ONE_OUT).scoring}"] = 1.0
    return numbers


def _open_tracker(pipeline: Pipeline) -> Tracker:
    config = pipeline.config
    label = config.dataset.label()
    groups = (config.split, config.shots, config.backbone, config.segmenter, config.matcher)
    identity = RunIdentity(
        run_id=run_id(config),
        name=f"{label}_{config.shots.name}_seed{config.seed}",
        group=config.tracker.group or label,
        run_dir=pipeline.directory.root,
        config=asdict(config),
        job_type="run" if config.stage == "all" else config.stage,
        tags=(label, *(group.name for group in groups)),
    )
    return config.tracker.open(identity)


def _report(pipeline: Pipeline, metrics: Metrics | None) -> float | None:
    """Log the table and where the results are; return box AP."""
    if metrics is None:
        return None
    directory, config = pipeline.directory, pipeline.config
    if not metrics.overall:
        detections, thresholds_C = pipeline.result(stages.MATCHING), pipeline.result(stages.COUNTS)
        counts = counts_table(detections, pipeline.inputs.categories, thresholds_C)
        _LOG.info("\n%s\n\n%s\n", metrics_table(metrics), counts)
    else:
        _LOG.info("\n%s\n", metrics_table(metrics, _recall(pipeline)))
    if stages.THRESHOLDS in stages.asked_stages(pipeline) and (points := pipeline.result(stages.THRESHOLDS)):
        _LOG.info("%s\n", thresholds_table(points))
    if pipeline.has_choice:
        _LOG.info("%s\n", choice_text(pipeline.result(stages.LEAVE_ONE_OUT)))
    if metrics.overall:
        _LOG.info("metrics        %s", directory.metrics)
    _LOG.info("predictions    %s", directory.predictions)
    if directory.counts.is_file():
        _LOG.info("counts         %s", directory.counts)
    if config.visualisation.enabled and directory.pictures.is_dir():
        _LOG.info("pictures       %s", directory.pictures)
    if {config.backbone.name, config.segmenter.name} & _EMBEDDED:
        _say_weak()
    return metrics.overall.get("bbox", {}).get("AP")


@cache
def _say_weak() -> None:
    """Log what the embedded models are; in a process with many runs, after the first."""
    _LOG.info(_WEAK)
