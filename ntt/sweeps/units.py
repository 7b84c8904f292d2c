"""Work that the points of a sweep share: the candidates of a data set's images, the features of its references.

Two points share a unit when the pipeline itself would find the same entries in the store: units are keyed by what
decides those entries, not by the settings that happen to be varied.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ntt.base.digests import content_key
from ntt.base.distributed import ProcessGroup
from ntt.base.log import each_warning_once
from ntt.config.identity import run_directory
from ntt.config.schema import ExperimentConfig, plain
from ntt.errors import ConfigError, NttError
from ntt.models.device import check_precision, resolve_device
from ntt.run.environment import apply_runtime
from ntt.run.pipeline import Pipeline
from ntt.run.rundir import RunDirectory
from ntt.run.shared import Workspace
from ntt.sweeps.costs import models_label
from ntt.sweeps.points import Point
from ntt.types import ImageRecord, Instance, Placement

_LOG = logging.getLogger(__name__)
_ID_LENGTH = 12
_NOWHERE = Placement(device="cpu", precision="float32", compile=False, weights_root=Path())


@dataclass(frozen=True)
class FoundUnit:
    """A unit of shared work.

    Attributes:
        id: kind and a digest, usable as a file name.
        kind: "candidates" or "references".
        label: what it is, for people.
        point: the first point that builds on it; the unit is done by its settings.
        num_items: images, or reference instances.
        num_cached: those of them that the store has; None where this machine cannot tell.
    """

    id: str
    kind: str
    label: str
    point: Point
    num_items: int
    num_cached: int | None


@dataclass(frozen=True)
class Survey:
    """What points need, and what is there.

    Attributes:
        units_of: point id -> ids of its units.
        finished: ids of points whose run directory holds a valid result.
        problems: point id -> why it cannot be run; such points take part in nothing else.
    """

    units: tuple[FoundUnit, ...]
    units_of: Mapping[str, tuple[str, ...]]
    finished: frozenset[str]
    problems: Mapping[str, str]


@each_warning_once()
def survey(points: Sequence[Point]) -> Survey:
    """Read the annotation files, name the shared work, and look what the store and the run directories have.

    On a machine without the points' device (a login node) the store cannot be asked, because models are part of its
    keys; units are then told apart by their settings.

    Raises:
        NttError: if none of the points can be run.
    """
    workspace = Workspace()
    members: dict[str, list[_Member]] = {}
    units_of: dict[str, tuple[str, ...]] = {}
    finished, problems = set(), dict[str, str]()
    for point in points:
        try:
            member = _member(point, workspace)
            units_of[point.id] = _unit_ids(member)
        except NttError as error:
            problems[point.id] = str(error)
            if len(problems) == len(points):
                raise
            continue
        for unit in units_of[point.id]:
            members.setdefault(unit, []).append(member)
        if member.is_finished():
            finished.add(point.id)
    units = tuple(_found(unit, some) for unit, some in members.items())
    return Survey(units, units_of, frozenset(finished), problems)


@each_warning_once()
def drawn_instances(pipelines: Iterable[Pipeline]) -> list[tuple[Instance, ImageRecord]]:
    """Return every reference instance that any of some runs draws, once, in an order all processes agree on."""
    found: dict[int, tuple[Instance, ImageRecord]] = {}
    for pipeline in pipelines:
        drawn = pipeline.draw_references()
        for members in drawn.instances:
            found.update({one.id: (one, drawn.images[one.image_id]) for one in members})
    return [found[number] for number in sorted(found)]


@dataclass(frozen=True)
class _Member:
    """A point with its pipeline; without a device the pipeline has no models."""

    point: Point
    pipeline: Pipeline
    has_device: bool

    def is_finished(self) -> bool:
        if self.has_device:
            return self.pipeline.is_finished()
        return self.pipeline.directory.metrics.is_file()


def make_pipeline(config: ExperimentConfig, workspace: Workspace, placement: Placement | None = None) -> Pipeline:
    """Return the pipeline of a point for this process alone; nothing is read or built yet.

    Raises:
        ConfigError: for a device or a precision that is not to be had here; not if a placement is given.
    """
    return Pipeline(
        config=config,
        directory=RunDirectory(run_directory(config).absolute()),
        placement=placement or apply_runtime(config.runtime, local_rank=0),
        group=ProcessGroup(),
        workspace=workspace,
    )


def _member(point: Point, workspace: Workspace) -> _Member:
    try:
        check_precision(point.config.runtime.precision, resolve_device(point.config.runtime.device))
    except ConfigError as error:
        _LOG.info("This machine cannot look into the store for these points: %s", error)
        return _Member(point, make_pipeline(point.config, workspace, _NOWHERE), has_device=False)
    return _Member(point, make_pipeline(point.config, workspace), has_device=True)


def _unit_ids(member: _Member) -> tuple[str, ...]:
    """Return the ids of the shared work a point builds on, after making sure that its references can be drawn."""
    member.pipeline.draw_references()
    keys = {"candidates": _candidates_key(member), "references": _references_key(member)}
    return tuple(f"{kind}-{key[:_ID_LENGTH]}" for kind, key in keys.items())


def _candidates_key(member: _Member) -> str:
    if member.has_device:
        return member.pipeline.keys["candidates"]
    images = member.pipeline.inputs.target_data
    return content_key({"file": str(images.annotation_file), "digest": images.digest, **_model_settings(member)})


def _references_key(member: _Member) -> str:
    pipeline = member.pipeline
    references = pipeline.inputs.reference_data
    facts = {"file": references.digest, "memory": asdict(pipeline.config.memory)}
    if not member.has_device:
        return content_key({**facts, **_model_settings(member)})
    return content_key({**facts, **pipeline.encoder.facts, **pipeline.reference_masks.facts(references.instances)})


def _model_settings(member: _Member) -> dict[str, object]:
    settings = plain(member.point.config)
    runtime = {key: settings["runtime"][key] for key in ("precision", "compile", "device")}
    return {**{key: settings[key] for key in ("backbone", "segmenter", "candidates")}, **runtime}


def _found(unit: str, members: Sequence[_Member]) -> FoundUnit:
    kind = unit.partition("-")[0]
    first, config = members[0].pipeline, members[0].point.config
    if kind == "candidates":
        images = list(first.inputs.target_data.images.values())
        count, is_stored = len(images), (first.source.is_stored(one) for one in images)
    else:
        drawn = drawn_instances(member.pipeline for member in members)
        count, is_stored = len(drawn), (first.encoder.is_stored(one, record) for one, record in drawn)
    cached = sum(is_stored) if members[0].has_device else None
    return FoundUnit(
        unit, kind, f"{config.dataset.label()}, {models_label(kind, config)}", members[0].point, count, cached
    )
