"""Work that the points of a sweep share: the candidates of a data set's images, the features of its references.

Two points share a unit if the pipeline would look up the same entries in the store: units are keyed by what decides
those entries, not by the settings that happen to vary.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from ntt.base.digests import content_key
from ntt.base.log import each_warning_once
from ntt.config.identity import model_settings, stage_settings
from ntt.config.schema import RuntimeConfig
from ntt.errors import ConfigError, NttError
from ntt.models.device import check_precision, resolve_device
from ntt.run.pipeline import Pipeline
from ntt.run.shared import Workspace
from ntt.run.stages import CANDIDATES, COUNTS, asked_stages
from ntt.sweeps.costs import item_seconds, models_label, point_seconds
from ntt.sweeps.points import ComposedPoint, Point

_LOG = logging.getLogger(__name__)
_ID_LENGTH = 12


@dataclass(frozen=True)
class WorkUnit:
    """Shared work: the candidates of a data set's images, or the features of its references.

    The images are the targets, and those of references if the matcher of a point reads their candidates.

    Attributes:
        id: kind and a digest, usable as a file name.
        kind: "candidates" or "references".
        num_items: images, or reference instances.
        num_cached: how many of them are in the store; None if the planning machine cannot tell.
        item_s: seconds that one item takes; None if unknown.
    """

    id: str
    kind: str
    label: str
    num_items: int
    num_cached: int | None
    item_s: float | None = None

    @property
    def num_missing(self) -> int:
        """Items still to be computed, as far as is known."""
        return self.num_items - (self.num_cached or 0)

    @property
    def missing_s(self) -> float | None:
        """Seconds that the missing items take in one process; None if unknown."""
        return None if self.item_s is None else self.item_s * self.num_missing

    @property
    def item(self) -> str:
        """What one item is called."""
        return "image" if self.kind == "candidates" else "reference"


@each_warning_once()
def take_inventory(composed: Sequence[ComposedPoint]) -> tuple[tuple[Point, ...], tuple[WorkUnit, ...]]:
    """Read the annotation files, name the shared work, and see what the store and the run directories hold.

    On a machine without the points' device (a login node) the store cannot be queried, because models are part of its
    keys; units are then distinguished by their settings. Returns the points as of now, and the work that those without
    a problem share; an NttError if none of the points can be run.
    """
    workspace = Workspace()
    sharing: dict[str, list[Pipeline]] = {}
    points: list[Point] = []
    for point, config in composed:
        point = replace(point, units=(), finished=False, seconds=point_seconds(config), problem="")
        try:
            pipeline = Pipeline(config, workspace=workspace)
            _ = pipeline.references  # fails where they cannot be drawn
            keys = {"candidates": _candidates_key(pipeline), "references": _references_key(pipeline)}
        except NttError as error:
            points.append(replace(point, problem=str(error)))
            if len(points) == len(composed) and all(point.problem for point in points):
                raise
            continue
        units = tuple(f"{kind}-{key[:_ID_LENGTH]}" for kind, key in keys.items())
        for unit in units:
            sharing.setdefault(unit, []).append(pipeline)
        points.append(replace(point, units=units, finished=_is_finished(pipeline)))
    return tuple(points), tuple(_work_unit(unit, pipelines) for unit, pipelines in sharing.items())


def shared_items(
    kind: str, pipelines: Sequence[Pipeline]
) -> tuple[list[tuple[Any, ...]], Callable[..., bool], Callable[..., object]]:
    """Return every item of a unit that any of its points needs, in an order that all processes agree on.

    Items are (image,) or (reference instance, its image). They come with a function that tells whether an item is
    stored, and one that computes it. Models are not touched before these are called.
    """
    first = pipelines[0]
    if kind == "candidates":
        # Files for different numbers of shots may give the same id to different images.
        images = {image.path: image for pipeline in pipelines for image in pipeline.reference_images}
        return (
            [(image,) for image in (*first.targets, *images.values())],
            lambda image: first.models.source.is_stored(image),
            lambda image: first.models.source.count(image),
        )
    return (
        _drawn_instances(pipelines),
        lambda *drawn: first.encoder.is_stored(*drawn),
        lambda *drawn: first.encoder.encode(*drawn),
    )


@each_warning_once()
def _drawn_instances(pipelines: Sequence[Pipeline]) -> list[tuple[Any, ...]]:
    """Return every reference instance that any of the runs draws, once, with its image."""
    drawn: dict[int, tuple[Any, ...]] = {}
    for references in (pipeline.references for pipeline in pipelines):
        for instances in references.instances:
            drawn.update({instance.id: (instance, references.images[instance.image_id]) for instance in instances})
    return [drawn[instance_id] for instance_id in sorted(drawn)]


@cache
def _has_device(runtime: RuntimeConfig) -> bool:
    try:
        check_precision(runtime.precision, resolve_device(runtime.device))
    except ConfigError as error:
        _LOG.info("This machine cannot look into the store for these points: %s", error)
        return False
    return True


def _is_finished(pipeline: Pipeline) -> bool:
    if _has_device(pipeline.config.runtime):
        # Counts are those of the last command, which may have had other score thresholds; the result is the same.
        return all(pipeline.is_done(stage) for stage in asked_stages(pipeline) if stage is not COUNTS)
    return pipeline.directory.metrics.is_file()


def _candidates_key(pipeline: Pipeline) -> str:
    config, images = pipeline.config, pipeline.inputs.target_data
    if _has_device(config.runtime):
        return pipeline.key(CANDIDATES)
    settings = {"settings": stage_settings(config, "candidates"), **model_settings(config)}
    return content_key({"file": str(images.annotation_file), "digest": images.digest, **settings})


def _references_key(pipeline: Pipeline) -> str:
    config, references = pipeline.config, pipeline.inputs.reference_data
    details = {"file": references.digest, "settings": stage_settings(config, "memory")}
    if not _has_device(config.runtime):
        is_clear = config.matcher.reads_clear_surroundings
        return content_key({**details, **model_settings(config), "clear": is_clear})
    masks = pipeline.models.reference_masks.fingerprint(references.instances)
    return content_key({**details, **pipeline.encoder.fingerprint, **masks})


def _work_unit(unit: str, pipelines: Sequence[Pipeline]) -> WorkUnit:
    kind = unit.partition("-")[0]
    config = pipelines[0].config
    items, is_stored, _ = shared_items(kind, pipelines)
    return WorkUnit(
        id=unit,
        kind=kind,
        label=f"{config.dataset.label()}, {models_label(kind, config)}",
        num_items=len(items),
        num_cached=sum(is_stored(*item) for item in items) if _has_device(config.runtime) else None,
        item_s=item_seconds(kind, config),
    )
