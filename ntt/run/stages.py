"""The stages of a run, in order; what each of them computes is in `ntt.stages`."""

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np

from ntt.base import distributed as dist
from ntt.base.files import read_json, write_json
from ntt.data.references import are_complete, reference_targets, references_to_json
from ntt.errors import counted, range_text
from ntt.evaluation.curves import FIXED_THRESHOLD, Painting, Protocol
from ntt.evaluation.ground_truth import difficult_as
from ntt.evaluation.thresholds import OperatingPoint, OperatingPoints, lowest_scores
from ntt.matchers.auto import scorings
from ntt.matchers.scoring import DetectingMatcher
from ntt.run import artefacts
from ntt.run.pipeline import Pipeline, Stage
from ntt.run.table import recall_text
from ntt.stages.candidates import find_candidates
from ntt.stages.evaluation import VERSION as EVALUATION_VERSION
from ntt.stages.evaluation import evaluate, evaluate_thresholds, measure_proposals
from ntt.stages.full_images import VERSION as FULL_IMAGES_VERSION
from ntt.stages.leave_one_out import VERSION as LEAVE_ONE_OUT_VERSION
from ntt.stages.leave_one_out import check_references
from ntt.stages.matching import build_prototypes, match_images
from ntt.stages.memory import VERSION as MEMORY_VERSION
from ntt.stages.memory import fill_memory
from ntt.stages.pictures import draw_pictures
from ntt.stages.target_pictures import TargetRenderer
from ntt.store.entries import recall_from_notes
from ntt.types import (
    Detections,
    FloatArray,
    MemoryBank,
    Metrics,
    ProposalRecall,
    Prototypes,
    ReferenceCheck,
    ReferenceSet,
)

REFERENCES: Stage[ReferenceSet] = Stage(
    name="references",
    inputs=lambda run: {
        "file": run.inputs.reference_data.digest,
        "classes": [[category.id, category.name] for category in run.inputs.categories],
    },
    compute=lambda run: run.references,
    write=lambda run, references: [
        write_json(run.directory.references, references_to_json(references, run.inputs.reference_data))
    ],
    read=lambda run: run.references,
    describe=lambda references: " of ".join(
        (
            counted(sum(map(len, references.instances)), "instance"),
            counted(len(references.categories), "class", "classes"),
        )
    ),
)


def _further_vectors(run: Pipeline) -> dict[str, Any]:
    """Return what decides the vectors that only some matchers use."""
    matcher, further = run.config.matcher, dict[str, Any]()
    if matcher.reads_clear_surroundings:
        further["clear_surroundings"] = run.inputs.reference_data.digest
    if matcher.reads_full_images:
        further["full_images"] = {"version": FULL_IMAGES_VERSION, **run.models.source.fingerprint}
    return further


MEMORY: Stage[MemoryBank] = Stage(
    name="memory",
    needs=(REFERENCES,),
    inputs=lambda run: {
        "version": MEMORY_VERSION,
        "images": run.image_details(list(run.references.images.values())),
        "backbone": dict(run.models.backbone.fingerprint),
        **run.models.reference_masks.fingerprint(run.inputs.reference_data.instances),
        **_further_vectors(run),
    },
    compute=lambda run: fill_memory(
        references=run.references,
        encoder=run.encoder,
        group=run.group,
        source=run.models.source if run.config.matcher.reads_full_images else None,
    ),
    write=lambda run, memory: [artefacts.write_memory(run.directory.memory, memory)],
    read=lambda run: artefacts.read_memory(run.directory.memory),
    describe=lambda memory: counted(sum(map(len, memory.features)), "feature vector"),
)


def _is_complete(run: Pipeline) -> bool:
    return are_complete(run.references, run.objects_of_image, answer=run.config.dataset.references_complete)


def _check_text(check: ReferenceCheck) -> str:
    ap = check.expected[check.scoring].get("")
    result = "no reference: none can be searched" if ap is None else f"references at box AP {ap:.1f}"
    doubt = "" if check.is_complete else " (not all objects seem annotated: thresholds may be too high)"
    return f"{check.scoring} finds {result}{doubt}"


LEAVE_ONE_OUT: Stage[ReferenceCheck] = Stage(
    name="leave_one_out",
    needs=(MEMORY,),
    inputs=lambda run: {
        "version": LEAVE_ONE_OUT_VERSION,
        "file": run.inputs.reference_data.digest,
        "is_complete": _is_complete(run),
        "matcher": dict(run.config.matcher.fingerprint),
        "candidates": run.models.source.fingerprint,
    },
    compute=lambda run: check_references(
        references=run.references,
        objects=reference_targets(run.references, run.objects_of_image),
        is_complete=_is_complete(run),
        memory=run.result(MEMORY),
        matcher=run.config.matcher,
        source=run.models.source,
        group=run.group,
    ),
    write=lambda run, check: [write_json(run.directory.leave_one_out, asdict(check))],
    read=lambda run: artefacts.read_reference_check(run.directory.leave_one_out),
    describe=_check_text,
)


def matcher_of(run: Pipeline) -> DetectingMatcher:
    """Return the matcher of a run: that of its settings, or the one its references choose."""
    matcher = run.config.matcher
    return scorings(matcher)[run.result(LEAVE_ONE_OUT).scoring if run.has_choice else matcher.name]


PROTOTYPES: Stage[Prototypes] = Stage(
    name="prototypes",
    needs=(MEMORY,),
    may_need=lambda run: (LEAVE_ONE_OUT,) if run.has_choice else (),
    inputs=lambda run: {"matcher": dict(run.config.matcher.fingerprint)},
    compute=lambda run: build_prototypes(memory=run.result(MEMORY), matcher=matcher_of(run)),
    write=lambda run, prototypes: [artefacts.write_prototypes(run.directory.prototypes, prototypes)],
    read=lambda run: artefacts.read_prototypes(run.directory.prototypes),
    describe=lambda prototypes: (
        f"{counted(len(prototypes.labels_P), 'vector')} of {prototypes.vectors_PD.shape[1]} channels"
    ),
)

# Candidates go into the store; the result is how many each target image has.
CANDIDATES: Stage[tuple[int, ...]] = Stage(
    name="candidates",
    is_shared=True,
    inputs=lambda run: {
        "images": run.image_details(run.targets),
        "segmenter": dict(run.models.segmenter.fingerprint),
        "backbone": dict(run.models.backbone.fingerprint),
    },
    compute=lambda run: find_candidates(
        images=[*run.targets, *run.reference_images], source=run.models.source, group=run.group
    )[: len(run.targets)],
    write=lambda run, counts: [write_json(run.directory.candidates, {"candidates_per_image": counts})],
    read=lambda run: tuple(read_json(run.directory.candidates)["candidates_per_image"]),
    describe=lambda counts: f"{counted(sum(counts), 'candidate')} in {counted(len(counts), 'image')}",
)


def _measure_proposals(run: Pipeline) -> ProposalRecall:
    """Look the recall up in the store, where runs with other seeds, shots and matchers leave it, or compute it."""
    store, key = run.models.store, run.key(PROPOSALS)
    stored = dist.compute_on_main(lambda: store.read("proposals", key, recall_from_notes), run.group)
    if stored is not None:
        return stored
    recall = measure_proposals(
        images=run.targets,
        source=run.models.source,
        ground_truth=run.inputs.target_data,
        categories=run.inputs.categories,
        group=run.group,
    )
    if run.group.is_main:
        store.write("proposals", key, {}, notes={"recall": json.dumps(recall)})
    return recall


PROPOSALS: Stage[ProposalRecall] = Stage(
    name="proposals",
    needs=(CANDIDATES,),
    is_shared=True,
    inputs=lambda run: {
        "ground_truth": [run.inputs.target_data.digest, difficult_as(run.inputs.target_data)],
        "classes": [category.id for category in run.inputs.categories],
    },
    compute=_measure_proposals,
    write=lambda run, recall: [write_json(run.directory.proposals, recall)],
    read=lambda run: cast("ProposalRecall", read_json(run.directory.proposals)),
    describe=lambda recall: recall_text(recall) or "no objects are annotated",
)


MATCHING: Stage[list[Detections]] = Stage(
    name="matching",
    needs=(PROTOTYPES, CANDIDATES),
    compute=lambda run: match_images(
        images=run.targets,
        source=run.models.source,
        prototypes=run.result(PROTOTYPES),
        matcher=matcher_of(run),
        group=run.group,
    ),
    write=lambda run, detections: [
        artefacts.write_predictions(run.directory.predictions, detections, run.inputs.categories),
        artefacts.write_images(run.directory.images, run.targets, run.inputs.categories),
    ],
    read=lambda run: artefacts.read_predictions(run.directory.predictions, run.targets, run.inputs.categories),
    describe=lambda detections: counted(sum(len(image.labels) for image in detections), "detection"),
)


def _lowest_scores(run: Pipeline, fixed: float | None = None) -> FloatArray:
    """Return the lowest score of each class, float32 [C]: the fixed one, else that proposed, else 0.4."""
    proposed = run.result(LEAVE_ONE_OUT).thresholds if run.leaves_one_out else {}
    return np.array(list(lowest_scores(run.inputs.categories, fixed, proposed).values()), dtype=np.float32)


def _write_counts(run: Pipeline, scores_C: FloatArray) -> list[Path]:
    directory, categories, detections = run.directory, run.inputs.categories, run.result(MATCHING)
    by_name = {category.name: score for category, score in zip(categories, scores_C.tolist(), strict=True)}
    return [
        write_json(directory.lowest_scores, by_name),
        artefacts.write_counts(directory.counts, run.targets, detections, categories, thresholds_C=scores_C),
    ]


# The lowest score at which detections of each class are counted, drawn and exported, float32 [C].
COUNTS: Stage[FloatArray] = Stage(
    name="counts",
    needs=(MATCHING,),
    may_need=lambda run: (LEAVE_ONE_OUT,) if run.leaves_one_out else (),
    inputs=lambda run: {"score_threshold": run.config.visualisation.score_threshold},
    compute=lambda run: _lowest_scores(run, run.config.visualisation.score_threshold),
    write=_write_counts,
    read=lambda run: np.array(list(artefacts.read_lowest_scores(run.directory.lowest_scores).values()), np.float32),
    describe=lambda scores_C: f"detections from a score of {range_text(scores_C.tolist())} on",
)


def _draw(run: Pipeline) -> list[Path]:
    settings, detections = run.config.visualisation, run.result(MATCHING)
    if run.group.is_main:
        run.directory.discard(VISUALISATION.name)
    dist.barrier(run.group)
    return draw_pictures(
        references=run.references,
        images=run.targets,
        detections=detections,
        renderer=_renderer(run),
        encoder=run.encoder,
        source=run.models.source,
        prototypes=run.result(PROTOTYPES) if settings.features else None,
        sheet_size=settings.contact_sheet_size,
        folder=run.directory.pictures,
        group=run.group,
    )


def _renderer(run: Pipeline) -> TargetRenderer:
    settings, ground_truth = run.config.visualisation, run.inputs.target_data
    ids = settings.image_ids
    if ids is None:
        ids = [record.id for record in run.targets[: settings.max_images]]
    return TargetRenderer(
        categories=run.inputs.categories,
        ground_truth=ground_truth if ground_truth.has_annotations else None,
        folder=run.directory.pictures / "targets",
        thresholds_C=run.result(COUNTS),
        image_ids=frozenset(ids),
    )


VISUALISATION: Stage[list[Path]] = Stage(
    name="visualisation",
    needs=(REFERENCES, MATCHING, COUNTS),
    inputs=lambda run: {"ground_truth": run.inputs.target_data.digest},
    compute=_draw,
    write=lambda _, pictures: pictures,
    read=lambda run: run.directory.drawn_pictures(),
    describe=lambda pictures: counted(len(pictures), "picture"),
)


def _measure_thresholds(run: Pipeline) -> OperatingPoints:
    names, detections = [category.name for category in run.inputs.categories], run.result(MATCHING)
    thresholds = {"fixed": dict.fromkeys(names, FIXED_THRESHOLD)}
    if run.leaves_one_out and run.result(LEAVE_ONE_OUT).thresholds:
        thresholds["proposed"] = dict(zip(names, _lowest_scores(run).tolist(), strict=True))
    measure = partial(
        evaluate_thresholds,
        detections=detections,
        ground_truth=run.inputs.target_data,
        categories=run.inputs.categories,
        thresholds=thresholds,
    )
    return dist.compute_on_main(measure, run.group)


THRESHOLDS: Stage[OperatingPoints] = Stage(
    name="thresholds",
    needs=(MATCHING,),
    may_need=lambda run: (LEAVE_ONE_OUT,) if run.leaves_one_out else (),
    inputs=lambda run: {"version": EVALUATION_VERSION, "ground_truth": run.inputs.target_data.digest},
    compute=_measure_thresholds,
    write=lambda run, points: [
        write_json(
            run.directory.thresholds,
            {name: {kind: asdict(point) for kind, point in of.items()} for name, of in points.items()},
        )
    ],
    read=lambda run: {
        name: {kind: OperatingPoint(**values) for kind, values in of.items()}
        for name, of in read_json(run.directory.thresholds).items()
    },
    describe=lambda points: ", ".join(f"F1 {point.f1:.1f} {kind}" for kind, point in points.get("", {}).items()),
)


def _evaluate(run: Pipeline) -> Metrics:
    settings, detections = run.config.evaluation, run.result(MATCHING)
    measure = partial(
        evaluate,
        detections=detections,
        ground_truth=run.inputs.target_data,
        categories=run.inputs.categories,
        protocol=cast("Protocol", settings.protocol),
        semantic=cast("Painting", settings.semantic),
        semantic_threshold=settings.semantic_threshold,
    )
    return dist.compute_on_main(measure, run.group)


# Last, so that the file of metrics marks a finished run.
EVALUATION: Stage[Metrics] = Stage(
    name="evaluation",
    needs=(MATCHING,),
    inputs=lambda run: {"version": EVALUATION_VERSION, "ground_truth": run.inputs.target_data.digest},
    compute=_evaluate,
    write=lambda run, metrics: [artefacts.write_metrics(run.directory.metrics, metrics)],
    read=lambda run: artefacts.read_metrics(run.directory.metrics),
    describe=lambda metrics: (
        f"{counted(metrics.num_detections, 'detection')} in {counted(metrics.num_images, 'image')}"
    ),
)

_BEFORE_MATCHING = (REFERENCES, MEMORY, LEAVE_ONE_OUT, PROTOTYPES, CANDIDATES, PROPOSALS)
STAGES: tuple[Stage[Any], ...] = (*_BEFORE_MATCHING, MATCHING, COUNTS, VISUALISATION, THRESHOLDS, EVALUATION)


def asked_stages(run: Pipeline) -> list[Stage[Any]]:
    """Return the stages that `config.stage` selects; those they need are run on demand."""
    config = run.config
    if config.stage != "all":
        return [stage for stage in STAGES if stage.name == config.stage]
    is_optional = {
        LEAVE_ONE_OUT.name: run.leaves_one_out,
        VISUALISATION.name: config.visualisation.enabled,
        THRESHOLDS.name: run.measures_thresholds and run.inputs.target_data.has_annotations,
    }
    return [stage for stage in STAGES if is_optional.get(stage.name, True)]


def is_finished(run: Pipeline) -> bool:
    """Return whether every stage that `config.stage` asks for is done."""
    return all(run.is_done(stage) for stage in asked_stages(run))
