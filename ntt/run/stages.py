"""The stages of a run, in order: `STAGES` at the end is the table of contents."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from ntt.base import distributed as dist
from ntt.base.files import read_json, write_json
from ntt.config.schema import ExperimentConfig
from ntt.data.references import references_to_json
from ntt.evaluation.options import Painting, Protocol
from ntt.run import artefacts
from ntt.run.pipeline import Pipeline, Stage
from ntt.stages.candidates import find_candidates
from ntt.stages.evaluation import VERSION as EVALUATION_VERSION
from ntt.stages.evaluation import evaluate
from ntt.stages.matching import match_images
from ntt.stages.memory import fill_memory
from ntt.stages.pictures import draw_pictures
from ntt.stages.prototypes import build_prototypes
from ntt.stages.target_pictures import TargetRenderer
from ntt.types import Detections, MemoryBank, Metrics, Prototypes, ReferenceSet


class _References(Stage[ReferenceSet]):
    """Draws the reference instances of each class."""

    name = "references"

    def inputs(self, run: Pipeline) -> Mapping[str, Any]:
        return {
            "file": run.inputs.reference_data.digest,
            "classes": [[category.id, category.name] for category in run.inputs.categories],
        }

    def compute(self, run: Pipeline) -> ReferenceSet:
        return run.references

    def write(self, run: Pipeline, result: ReferenceSet) -> list[Path]:
        write_json(run.directory.references, references_to_json(result, run.inputs.reference_data))
        return [run.directory.references]

    def read(self, run: Pipeline) -> ReferenceSet:
        return run.references

    def describe(self, result: ReferenceSet) -> str:
        return f"{sum(map(len, result.instances))} instances of {len(result.categories)} classes"


class _Memory(Stage[MemoryBank]):
    """Encodes the references."""

    name = "memory"

    def inputs(self, run: Pipeline) -> Mapping[str, Any]:
        return {
            "images": run.image_details(list(run.references.images.values())),
            "backbone": dict(run.models.backbone.fingerprint),
            **run.models.reference_masks.fingerprint(run.inputs.reference_data.instances),
        }

    def compute(self, run: Pipeline) -> MemoryBank:
        return fill_memory(references=run.references, encoder=run.models.encoder, group=run.group)

    def write(self, run: Pipeline, result: MemoryBank) -> list[Path]:
        artefacts.write_memory(run.directory.memory, result)
        return [run.directory.memory]

    def read(self, run: Pipeline) -> MemoryBank:
        return artefacts.read_memory(run.directory.memory)

    def describe(self, result: MemoryBank) -> str:
        return f"{sum(map(len, result.features))} feature vectors"


class _Prototypes(Stage[Prototypes]):
    """Condenses the memory to what candidates are compared with."""

    name = "prototypes"

    def inputs(self, run: Pipeline) -> Mapping[str, Any]:
        return {"matcher": dict(run.config.matcher.fingerprint)}

    def compute(self, run: Pipeline) -> Prototypes:
        return build_prototypes(memory=run.result(MEMORY), matcher=run.config.matcher)

    def write(self, run: Pipeline, result: Prototypes) -> list[Path]:
        artefacts.write_prototypes(run.directory.prototypes, result)
        return [run.directory.prototypes]

    def read(self, run: Pipeline) -> Prototypes:
        return artefacts.read_prototypes(run.directory.prototypes)

    def describe(self, result: Prototypes) -> str:
        return f"{len(result.labels_P)} vectors of {result.vectors_PD.shape[1]} channels"


class _Candidates(Stage[tuple[int, ...]]):
    """Fills the store with the candidates of every target image; the result is their numbers."""

    name = "candidates"
    is_shared = True

    def inputs(self, run: Pipeline) -> Mapping[str, Any]:
        return {
            "images": run.image_details(run.targets),
            "segmenter": dict(run.models.segmenter.fingerprint),
            "backbone": dict(run.models.backbone.fingerprint),
        }

    def compute(self, run: Pipeline) -> tuple[int, ...]:
        return find_candidates(images=run.targets, source=run.models.source, group=run.group)

    def write(self, run: Pipeline, result: tuple[int, ...]) -> list[Path]:
        write_json(run.directory.candidates, {"candidates_per_image": result})
        return [run.directory.candidates]

    def read(self, run: Pipeline) -> tuple[int, ...]:
        return tuple(read_json(run.directory.candidates)["candidates_per_image"])

    def describe(self, result: tuple[int, ...]) -> str:
        return f"{sum(result)} candidates in {len(result)} images"


class _Matching(Stage[list[Detections]]):
    """Names the candidates."""

    name = "matching"

    def inputs(self, run: Pipeline) -> Mapping[str, Any]:
        return {}

    def compute(self, run: Pipeline) -> list[Detections]:
        return match_images(
            images=run.targets,
            source=run.models.source,
            prototypes=run.result(PROTOTYPES),
            matcher=run.config.matcher,
            group=run.group,
            on_detections=_renderer(run).draw_if_chosen if run.config.visualisation.during_matching else None,
        )

    def write(self, run: Pipeline, result: list[Detections]) -> list[Path]:
        artefacts.write_predictions(run.directory.predictions, result, run.inputs.categories)
        return [run.directory.predictions]

    def read(self, run: Pipeline) -> list[Detections]:
        return artefacts.read_predictions(run.directory.predictions, run.targets, run.inputs.categories)

    def describe(self, result: list[Detections]) -> str:
        return f"{sum(len(detections.labels) for detections in result)} detections"


class _Visualisation(Stage[list[Path]]):
    """Draws references, target images, and the sheets of best and worst images."""

    name = "visualisation"

    def inputs(self, run: Pipeline) -> Mapping[str, Any]:
        return {"ground_truth": run.inputs.target_data.digest}

    def compute(self, run: Pipeline) -> list[Path]:
        settings, detections = run.config.visualisation, run.result(MATCHING)
        return draw_pictures(
            references=run.references,
            images=run.targets,
            detections=detections,
            renderer=_renderer(run),
            encoder=run.models.encoder,
            source=run.models.source,
            prototypes=run.result(PROTOTYPES) if settings.features else None,
            sheet_size=settings.contact_sheet_size,
            num_feature_images=settings.max_feature_images,
            folder=run.directory.pictures,
            outdated=run.directory.drawn_pictures(),
            group=run.group,
        )

    def write(self, run: Pipeline, result: list[Path]) -> list[Path]:
        return result

    def read(self, run: Pipeline) -> list[Path]:
        return run.directory.drawn_pictures()

    def describe(self, result: list[Path]) -> str:
        return f"{len(result)} pictures"


class _Evaluation(Stage[Metrics]):
    """Computes the metrics; their file is the last one written."""

    name = "evaluation"

    def inputs(self, run: Pipeline) -> Mapping[str, Any]:
        return {"version": EVALUATION_VERSION, "ground_truth": run.inputs.target_data.digest}

    def compute(self, run: Pipeline) -> Metrics:
        metrics = self._evaluate(run) if run.group.is_main else None
        return cast("Metrics", dist.broadcast_from_main(metrics, run.group))

    def _evaluate(self, run: Pipeline) -> Metrics:
        settings, detections = run.config.evaluation, run.result(MATCHING)
        return evaluate(
            detections=detections,
            ground_truth=run.inputs.target_data,
            categories=run.inputs.categories,
            protocol=cast("Protocol", settings.protocol),
            semantic=cast("Painting", settings.semantic),
            semantic_threshold=settings.semantic_threshold,
        )

    def write(self, run: Pipeline, result: Metrics) -> list[Path]:
        artefacts.write_metrics(run.directory.metrics, result)
        return [run.directory.metrics]

    def read(self, run: Pipeline) -> Metrics:
        return artefacts.read_metrics(run.directory.metrics)

    def describe(self, result: Metrics) -> str:
        return f"{result.num_detections} detections in {result.num_images} images"


def _renderer(run: Pipeline) -> TargetRenderer:
    settings, ground_truth = run.config.visualisation, run.inputs.target_data
    ids = settings.image_ids
    if ids is None:
        ids = [record.id for record in run.targets[: settings.max_images]]
    return TargetRenderer(
        categories=run.inputs.categories,
        ground_truth=ground_truth if ground_truth.has_annotations else None,
        folder=run.directory.pictures / "targets",
        score_threshold=settings.score_threshold,
        image_ids=frozenset(ids),
    )


REFERENCES = _References()
MEMORY = _Memory(needs=(REFERENCES,))
PROTOTYPES = _Prototypes(needs=(MEMORY,))
CANDIDATES = _Candidates()
MATCHING = _Matching(needs=(PROTOTYPES, CANDIDATES))
VISUALISATION = _Visualisation(needs=(REFERENCES, MATCHING))
EVALUATION = _Evaluation(needs=(MATCHING,))

STAGES: tuple[Stage[Any], ...] = (
    REFERENCES,
    MEMORY,
    PROTOTYPES,
    CANDIDATES,
    MATCHING,
    VISUALISATION,
    EVALUATION,
)


def asked_stages(config: ExperimentConfig) -> list[Stage[Any]]:
    """Return the stages that `config.stage` asks for; those they need are made on the way."""
    if config.stage != "all":
        return [stage for stage in STAGES if stage.name == config.stage]
    return [stage for stage in STAGES if stage is not VISUALISATION or config.visualisation.enabled]


def is_finished(run: Pipeline) -> bool:
    """Return whether every stage that `config.stage` asks for is done."""
    return all(run.is_done(stage) for stage in asked_stages(run.config))
