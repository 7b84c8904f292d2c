"""Checks for everything that would stop a run later, before it starts. Nothing is written."""

import logging
from collections.abc import Sequence
from typing import cast

from ntt.base import distributed as dist
from ntt.config.schema import ExperimentConfig
from ntt.data.comparison import content_sentences, same_images_sentence
from ntt.errors import ConfigError, DataError
from ntt.evaluation.curves import MAX_DETECTIONS, Protocol
from ntt.matchers.auto import scorings
from ntt.run.pipeline import Pipeline
from ntt.run.stages import CANDIDATES, LEAVE_ONE_OUT, MEMORY, REFERENCES
from ntt.types import ImageRecord

_LOG = logging.getLogger(__name__)


def check_run(run: Pipeline) -> None:
    """Check device, weights, annotations, images and folders of a run; an NttError names all problems of one kind."""
    _ = run.models, run.key(REFERENCES), run.key(CANDIDATES)
    missing = _missing_candidates(run)
    _check_store(run, missing)
    unknown = set(run.config.visualisation.image_ids or ()) - set(run.inputs.target_data.images)
    if unknown:
        raise ConfigError(
            f"visualisation.image_ids={sorted(unknown, key=str)}: no target image has such an id. Ids are those of "
            f"{run.inputs.target_data.annotation_file}."
        )
    warn_of_few_detections(run.config)
    stage = run.config.stage
    reads_references = stage not in ("references", "candidates") and not run.is_done(MEMORY)
    if run.group.is_main:
        _warn_of_contents(run, compares_images=reads_references)
    references = list(run.references.images.values()) if reads_references else []
    # Each file once: references may be targets too.
    records = {(record.path, record.height, record.width): record for record in [*references, *missing]}
    problems = _unreadable(list(records.values()), run)
    if problems:
        raise DataError("\n".join(problems))


def _warn_of_contents(run: Pipeline, *, compares_images: bool) -> None:
    """Warn of target images that are references too, classes without objects, and images with too many objects."""
    config, inputs = run.config, run.inputs
    counted = MAX_DETECTIONS[cast("Protocol", config.evaluation.protocol)][-1]
    limit = min(_max_detections(config) or counted, counted)
    sentences = content_sentences(inputs.categories, inputs.target_data, limit)
    if inputs.target_data.has_annotations and compares_images:
        sentences += filter(None, [same_images_sentence(list(run.references.images.values()), run.targets)])
    for sentence in sentences:
        _LOG.warning("%s: %s", inputs.target_data.annotation_file, sentence)


def warn_of_few_detections(config: ExperimentConfig) -> None:
    """Warn where the matcher keeps fewer detections per image than LVIS' protocol counts."""
    limit, counted = _max_detections(config), MAX_DETECTIONS["lvis"][-1]
    if config.evaluation.protocol == "lvis" and limit is not None and limit < counted:
        _LOG.warning(
            "evaluation.protocol=lvis counts %d detections per image, matcher.max_detections=%d keeps fewer. Set "
            "matcher.max_detections=%d for figures to compare with others.",
            *(counted, limit, counted),
        )


def _max_detections(config: ExperimentConfig) -> int | None:
    """Return how many detections an image can have with any of the matchers that may be used; None if unknown."""
    limits = (getattr(matcher, "max_detections", None) for matcher in scorings(config.matcher).values())
    return min(filter(None, limits), default=None)


def _missing_candidates(run: Pipeline) -> list[ImageRecord]:
    """Return the targets, and the images of references, whose candidates will be computed."""
    stage = run.config.stage
    is_done = run.is_done(CANDIDATES) or run.key(CANDIDATES) in run.workspace.prepared
    images = [] if is_done or stage in ("references", "memory", "prototypes") else [*run.targets]
    is_read = run.is_done(MEMORY) and (not run.leaves_one_out or run.is_done(LEAVE_ONE_OUT))
    if images or (stage != "references" and not is_read):
        images += run.reference_images
    source = run.models.source
    stored = dist.compute_on_main(lambda: [source.is_stored(record) for record in images], run.group)
    return [record for record, is_stored in zip(images, stored, strict=True) if not is_stored]


def _check_store(run: Pipeline, missing: Sequence[ImageRecord]) -> None:
    """Refuse a store that cannot be written, unless it already holds all the run needs."""
    store = run.models.store
    error = dist.compute_on_main(lambda: store.writing_error, run.group)
    if error is not None and (missing or not store.root.is_dir()):
        raise error
    if error is not None:
        _LOG.warning("The store %s is read-only for you: this run uses it, and adds nothing to it.", store.root)


def _unreadable(records: Sequence[ImageRecord], run: Pipeline) -> list[str]:
    """Return what is wrong with images; each process checks its share and learns of all."""
    problem = None
    try:
        own_records = [record for _, record in dist.share(records, run.group)]
        run.workspace.check_images(own_records)
    except DataError as error:
        problem = str(error)
    problems = dist.gather([(run.group.rank, problem)], run.group.size, run.group)
    return [text for text in problems if text]
