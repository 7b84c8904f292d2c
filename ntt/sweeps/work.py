"""What a job of a sweep executes: module-level functions with plain arguments, for any launcher.

A job composes the configurations of its points from the plan, so that nothing but the sweep's folder is handed over.
Each function may be called again at any time, in another process or on another node: what is in the store or in a
finished run directory is not done again.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from ntt.base.log import console_logging
from ntt.base.progress import track
from ntt.config.schema import ExperimentConfig
from ntt.data.images import check_images
from ntt.run import runner
from ntt.run.pipeline import Pipeline
from ntt.run.rundir import RunDirectory
from ntt.run.shared import process_workspace
from ntt.sweeps.plan import Plan, compose_points, read_plan
from ntt.sweeps.state import Count, SweepFolder, shard_task
from ntt.sweeps.status import is_done
from ntt.sweeps.units import drawn_instances

_LOG = logging.getLogger(__name__)


def fill_candidates(sweep_dir: Path | str, unit: str, shard: int, num_shards: int, *, job: str | None = None) -> None:
    """Put the candidates of a share of a unit's images into the store: images[shard::num_shards].

    At most the image at hand is lost when the process is stopped.

    Args:
        sweep_dir: folder of the sweep.
        unit: id of a work unit of kind "candidates".
        shard: from 0 to num_shards - 1.
        num_shards: number of shares.
        job: id of the SLURM job this runs in; kept with the state.

    Raises:
        NttError: as a run would; it is recorded in the shard's state first.
    """
    with _shard(Path(sweep_dir), unit, shard, num_shards, job) as (pipelines, count):
        source = pipelines[0].models.source
        images = list(pipelines[0].inputs.target_data.images.values())[shard::num_shards]
        check_images(images, full=pipelines[0].config.dataset.decode_images)
        for record in track(images, "candidates", unit="image", visible=True):
            is_new = not source.is_stored(record)
            source.count(record)
            count.add(computed=is_new)


def fill_references(sweep_dir: Path | str, unit: str, shard: int, num_shards: int, *, job: str | None = None) -> None:
    """Put the features of a share of a unit's reference instances into the store; arguments as `fill_candidates`.

    The instances are those that any point of the unit draws.
    """
    with _shard(Path(sweep_dir), unit, shard, num_shards, job) as (pipelines, count):
        encoder = pipelines[0].models.encoder
        drawn = drawn_instances(pipelines)[shard::num_shards]
        check_images([record for _, record in drawn], full=pipelines[0].config.dataset.decode_images)
        for one, record in track(drawn, "references", unit="reference", visible=True):
            is_new = not encoder.is_stored(one, record)
            encoder.encode(one, record)
            count.add(computed=is_new)


def run_points(sweep_dir: Path | str, point_ids: Sequence[str], *, job: str | None = None) -> list[str]:
    """Run points one after the other in this process; models, annotations and candidates are shared.

    A point that fails is recorded with its traceback, and the next one follows. Points that are done are passed over.
    In a distributed job every process calls this; the first one keeps the record.

    Args:
        sweep_dir: folder of the sweep.
        point_ids: ids of points of the plan.
        job: id of the SLURM job this runs in; kept with the state.

    Returns:
        The ids of the points that failed.
    """
    folder = SweepFolder(Path(sweep_dir))
    plan = read_plan(folder)
    return [point for point in point_ids if not _run_point(folder, plan, point, job)]


def _run_point(folder: SweepFolder, plan: Plan, point: str, job: str | None) -> bool:
    """Run one point unless it is done; say whether it is done now."""
    known = plan.point(point)
    if is_done(folder, known):
        _LOG.info("The point (%s) is done.", known.label)
        return True
    try:
        if int(os.environ.get("RANK", "0")) > 0:
            runner.run(_point_config(plan, point), workspace=process_workspace())
        else:
            with folder.working_on(point, job=job):
                runner.run(_point_config(plan, point), workspace=process_workspace())
    except Exception:
        _LOG.exception("The point (%s) failed; the others go on.", known.label)
        return False
    return True


def _point_config(plan: Plan, point: str) -> ExperimentConfig:
    """Compose one point; trackers show the points of a sweep together."""
    config = compose_points(plan, {point})[0].config
    return replace(config, tracker=replace(config.tracker, group=config.tracker.group or plan.name))


@contextmanager
def _shard(
    sweep_dir: Path, unit: str, shard: int, num_shards: int, job: str | None
) -> Iterator[tuple[list[Pipeline], Count]]:
    """Keep the record of a shard; yield the pipelines of all points that need it, and the count to keep."""
    folder = SweepFolder(sweep_dir)
    plan = read_plan(folder)
    first = plan.unit(unit).point
    members = {point.id for point in plan.points if unit in point.units}
    task = shard_task(unit, shard, num_shards)
    with console_logging(), folder.working_on(task, job=job) as count:
        points = compose_points(plan, {first} if unit.startswith("candidates") else members)
        pipelines = [Pipeline(point.config, workspace=process_workspace()) for point in points]
        yield pipelines, count
        # So that the entries count as used before any point has used them; see `ntt.store.maintenance.keys_of_runs`.
        RunDirectory(folder.shard_folder(task)).write_store_keys(task, pipelines[0].models.store.used)
