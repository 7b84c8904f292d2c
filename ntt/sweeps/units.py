"""Work that the points of a sweep share: the candidates of a data set's images, the features of its references.

Two points share a unit when the pipeline itself would find the same entries in the store: units are keyed by what
decides those entries, not by the settings that happen to be varied.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ntt.base.digests import content_key
from ntt.base.log import each_warning_once
from ntt.config.identity import model_settings, stage_settings
from ntt.errors import ConfigError, NttError
from ntt.models.device import check_precision, resolve_device
from ntt.run.pipeline import Pipeline
from ntt.run.shared import Workspace
from ntt.run.stages import CANDIDATES, is_finished
from ntt.sweeps.costs import item_cost, models_label
from ntt.sweeps.points import Point
from ntt.types import ImageRecord, Instance

_LOG = logging.getLogger(__name__)
_ID_LENGTH = 12


@dataclass(frozen=True)
class WorkUnit:
    """Work that several points share: the candidates of all images of a data set, or the features of references.

    Attributes:
        id: kind and a digest, usable as a file name.
        kind: "candidates" or "references".
        label: what it is, for people.
        point: id of the first point that builds on it; the unit is done by its settings.
        num_items: images, or reference instances.
        num_cached: those of them that the store has; None where the planning machine cannot tell.
        item_s: seconds one item takes, or None where that is not known.
        item_s_source: where that figure comes from.
    """

    id: str
    kind: str
    label: str
    point: str
    num_items: int
    num_cached: int | None
    item_s: float | None
    item_s_source: str

    @property
    def num_missing(self) -> int:
        """Items that have to be computed, as far as is known."""
        return self.num_items - (self.num_cached or 0)

    @property
    def item(self) -> str:
        """What one item is called."""
        return "image" if self.kind == "candidates" else "reference"


@dataclass(frozen=True)
class Inventory:
    """What points need, and what is there.

    Attributes:
        units_of: point id -> ids of its units.
        finished: ids of points whose run directory holds a valid result.
        problems: point id -> why it cannot be run; such points take part in nothing else.
    """

    units: tuple[WorkUnit, ...]
    units_of: Mapping[str, tuple[str, ...]]
    finished: frozenset[str]
    problems: Mapping[str, str]


@each_warning_once()
def take_inventory(points: Sequence[Point]) -> Inventory:
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
    units = tuple(_work_unit(unit, sharing) for unit, sharing in members.items())
    return Inventory(units, units_of, frozenset(finished), problems)


@each_warning_once()
def drawn_instances(pipelines: Iterable[Pipeline]) -> list[tuple[Instance, ImageRecord]]:
    """Return every reference instance that any of some runs draws, once, in an order all processes agree on."""
    drawn: dict[int, tuple[Instance, ImageRecord]] = {}
    for pipeline in pipelines:
        references = pipeline.references
        for instances in references.instances:
            drawn.update({instance.id: (instance, references.images[instance.image_id]) for instance in instances})
    return [drawn[instance_id] for instance_id in sorted(drawn)]


@dataclass(frozen=True)
class _Member:
    """A point with its pipeline; without a device the pipeline has no models."""

    point: Point
    pipeline: Pipeline
    has_device: bool

    def is_finished(self) -> bool:
        if self.has_device:
            return is_finished(self.pipeline)
        return self.pipeline.directory.metrics.is_file()


def _member(point: Point, workspace: Workspace) -> _Member:
    has_device = True
    try:
        check_precision(point.config.runtime.precision, resolve_device(point.config.runtime.device))
    except ConfigError as error:
        _LOG.info("This machine cannot look into the store for these points: %s", error)
        has_device = False
    return _Member(point, Pipeline(point.config, workspace=workspace), has_device)


def _unit_ids(member: _Member) -> tuple[str, ...]:
    """Return the ids of the shared work a point builds on, after making sure that its references can be drawn."""
    _ = member.pipeline.references
    keys = {"candidates": _candidates_key(member), "references": _references_key(member)}
    return tuple(f"{kind}-{key[:_ID_LENGTH]}" for kind, key in keys.items())


def _candidates_key(member: _Member) -> str:
    pipeline = member.pipeline
    if member.has_device:
        return pipeline.key(CANDIDATES)
    images = pipeline.inputs.target_data
    settings = {"settings": stage_settings(pipeline.config, "candidates"), **model_settings(pipeline.config)}
    return content_key({"file": str(images.annotation_file), "digest": images.digest, **settings})


def _references_key(member: _Member) -> str:
    pipeline = member.pipeline
    references = pipeline.inputs.reference_data
    details = {"file": references.digest, "settings": stage_settings(pipeline.config, "memory")}
    if not member.has_device:
        return content_key({**details, **model_settings(pipeline.config)})
    models = pipeline.models
    return content_key({**details, **models.encoder.facts, **models.reference_masks.facts(references.instances)})


def _work_unit(unit: str, members: Sequence[_Member]) -> WorkUnit:
    kind = unit.partition("-")[0]
    first, config = members[0].pipeline, members[0].point.config
    if kind == "candidates":
        images = list(first.inputs.target_data.images.values())
        count, is_stored = len(images), (first.models.source.is_stored(image) for image in images)
    else:
        drawn = drawn_instances(member.pipeline for member in members)
        count, is_stored = len(drawn), (first.models.encoder.is_stored(instance, image) for instance, image in drawn)
    cost = item_cost(kind, config)
    return WorkUnit(
        id=unit,
        kind=kind,
        label=f"{config.dataset.label()}, {models_label(kind, config)}",
        point=members[0].point.id,
        num_items=count,
        num_cached=sum(is_stored) if members[0].has_device else None,
        item_s=cost.seconds,
        item_s_source=cost.source,
    )
