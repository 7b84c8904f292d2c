"""The chain of stages of one run.

Each stage has a key, the digest of everything that decides its result. Its files are written before its record, and
the record names the key; a stage whose record carries the right key is read back instead of repeated. What a stage
needs from earlier ones is made on demand, so any stage can be asked for alone.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, cast

from ntt.base import distributed as dist
from ntt.base.files import read_json, remove_stale_temporaries, write_json
from ntt.config.schema import STAGES, ExperimentConfig
from ntt.data.references import references_from_json, references_to_json
from ntt.errors import ConfigError, DataError
from ntt.evaluation.options import Judge, Painting, Protocol
from ntt.matchers.base import MatcherConfig
from ntt.models.backbones.base import Backbone
from ntt.models.box_masks import BoxMasks, ReferenceMasks, choose_box_segmenter
from ntt.models.segmenters.base import Segmenter
from ntt.run import artefacts as results
from ntt.run.environment import peak_memory_mb
from ntt.run.image_files import check_together, digests_of
from ntt.run.inputs import Inputs, read_inputs, warn_of_few_detections
from ntt.run.pictures import PictureMaker
from ntt.run.rundir import RunDirectory
from ntt.run.shared import Workspace
from ntt.run.stage_keys import StageKeys
from ntt.stages.candidates import CandidateSource, find_candidates
from ntt.stages.evaluation import evaluate
from ntt.stages.matching import match_images
from ntt.stages.memory import ReferenceEncoder, fill_memory
from ntt.stages.prototypes import build_prototypes
from ntt.stages.references import SamplerName, sample_references
from ntt.store.store import Store
from ntt.types import Detections, ImageRecord, MemoryBank, Metrics, Placement, Prototypes, ReferenceSet

T = TypeVar("T")
_LOG = logging.getLogger(__name__)


@dataclass
class Pipeline:
    """The stages of one run as methods; each returns its result, made now, made before, or read back."""

    config: ExperimentConfig
    directory: RunDirectory
    placement: Placement
    group: dist.ProcessGroup
    workspace: Workspace = field(default_factory=Workspace)
    _made: dict[str, Any] = field(default_factory=dict)
    _found_done: set[str] = field(default_factory=set)

    @cached_property
    def inputs(self) -> Inputs:
        """The annotation files and the classes to search; read once, the main process first."""
        if not self.group.is_main:
            dist.barrier(self.group)
        inputs = read_inputs(self.config, read=self.workspace.read_coco)
        if self.group.is_main:
            dist.barrier(self.group)
        return inputs

    @property
    def matcher(self) -> MatcherConfig:
        """The matcher."""
        return self.config.matcher

    @cached_property
    def backbone(self) -> Backbone:
        """The backbone; its network is built when it is first used."""
        return self.workspace.backbone(self.config.backbone, self.placement)

    @cached_property
    def segmenter(self) -> Segmenter:
        """The segmenter; its model, if it has one, is built when it is first used."""
        return self.workspace.segmenter(self.config.segmenter, self.placement)

    @cached_property
    def source(self) -> CandidateSource:
        """Where candidates come from."""
        return CandidateSource(
            segmenter=self.segmenter,
            backbone=self.backbone,
            feature_dtype="float32" if self.config.candidates.feature_dtype == "float32" else "float16",
            precision=self.config.runtime.precision,
            store=self._store,
        )

    @cached_property
    def reference_masks(self) -> ReferenceMasks:
        """The masks of references, also of those that have only a box."""
        maker = choose_box_segmenter(self.config.memory.box_masks, self.segmenter, self.backbone)
        return ReferenceMasks(None if maker is None else BoxMasks(maker, self._store))

    @cached_property
    def encoder(self) -> ReferenceEncoder:
        """What describes references."""
        return ReferenceEncoder(self.backbone, self.reference_masks, self.config.memory.context_ratio, self._store)

    @cached_property
    def keys(self) -> StageKeys:
        """For each stage the digest of everything that decides its result."""
        return StageKeys(
            config=self.config,
            inputs=self.inputs,
            backbone=self.backbone,
            segmenter=self.segmenter,
            matcher=self.matcher,
            reference_masks=self.reference_masks,
            digests_of=lambda records: digests_of(records, self.group),
            draw=self.references,
        )

    def make(self, stage: str) -> Any:
        """Make one stage, and whatever it needs that is not there yet."""
        return getattr(self, stage)()

    def is_finished(self) -> bool:
        """Say whether every stage of the whole run is done."""
        wanted = [s for s in STAGES if s != "visualisation" or self.config.visualisation.enabled]
        return all(self._is_done(stage) for stage in wanted)

    def check_inputs(self) -> None:
        """Look for everything that would stop the run later: settings, annotations, images, weights.

        Raises:
            NttError: naming all problems of the first kind met.
        """
        _ = self.keys["references"], self.keys["candidates"]
        self._store.check_writable()
        unknown = set(self.config.visualisation.image_ids or ()) - set(self.inputs.target_data.images)
        if unknown:
            raise ConfigError(
                f"visualisation.image_ids={sorted(unknown, key=str)}: no target image has such an id. Ids are those "
                f"of {self.inputs.target_data.annotation_file}; null draws the first visualisation.max_images."
            )
        warn_of_few_detections(self.config)
        problems = []
        for records in self._images_in_use():
            try:
                check_together(
                    records, full=self.config.dataset.decode_images, group=self.group, workspace=self.workspace
                )
            except DataError as error:  # in every process; targets are looked at all the same
                problems.append(str(error))
        if problems:
            raise DataError("\n".join(problems))

    def tidy(self) -> None:
        """Remove temporary files that killed processes left behind, where this run or one like it writes."""
        if not self.group.is_main:
            return
        remove_stale_temporaries(self.directory.root)
        if self._store.written or self._store.root not in self.workspace.tidied:
            remove_stale_temporaries(self._store.root)
            self.workspace.tidied.add(self._store.root)

    def references(self) -> ReferenceSet:
        """Sample the references."""
        return self._stage(
            "references",
            compute=self.draw_references,
            save=lambda made: [_saved(self.directory.references, references_to_json(made, self.inputs.reference_data))],
            load=lambda: references_from_json(read_json(self.directory.references), self.inputs.reference_data),
            describe=lambda made: f"{sum(map(len, made.instances))} instances of {len(made.categories)} classes",
        )

    def draw_references(self) -> ReferenceSet:
        """Draw the references without writing them down."""
        shots = self.config.shots
        return sample_references(
            dataset=self.inputs.reference_data,
            categories=self.inputs.categories,
            shots=shots.count,
            seed=self.config.seed,
            sampler=cast("SamplerName", shots.sampler),
            strict=shots.strict,
            min_box_side_px=shots.min_box_side_px,
            border_px=shots.border_px,
        )

    def memory(self) -> MemoryBank:
        """Encode the references."""
        path = self.directory.memory
        references = self.references()
        return self._stage(
            "memory",
            compute=lambda: fill_memory(
                references=references,
                masks=self.reference_masks,
                backbone=self.backbone,
                context_ratio=self.config.memory.context_ratio,
                store=self._store,
                group=self.group,
            ),
            save=lambda made: [_written(path, lambda: results.write_memory(path, made))],
            load=lambda: results.read_memory(path),
            describe=lambda made: f"{sum(len(f) for f in made.features)} feature vectors",
        )

    def prototypes(self) -> Prototypes:
        """Condense the memory."""
        path = self.directory.prototypes
        memory = self.memory()
        return self._stage(
            "prototypes",
            compute=lambda: build_prototypes(memory=memory, matcher=self.matcher),
            save=lambda made: [_written(path, lambda: results.write_prototypes(path, made))],
            load=lambda: results.read_prototypes(path),
            describe=lambda made: f"{len(made.labels_P)} vectors of {made.vectors_PD.shape[1]} channels",
        )

    def candidates(self) -> tuple[int, ...]:
        """Fill the store with the candidates of every target image; returns their numbers."""
        path = self.directory.root / "candidates.json"
        return self._stage(
            "candidates",
            compute=lambda: find_candidates(images=self._targets, source=self.source, group=self.group),
            save=lambda made: [_saved(path, {"candidates_per_image": made})],
            load=lambda: tuple(read_json(path)["candidates_per_image"]),
            describe=lambda made: f"{sum(made)} candidates in {len(made)} images",
        )

    def matching(self) -> list[Detections]:
        """Name the candidates."""
        path = self.directory.predictions
        prototypes = self.prototypes()
        self.candidates()
        early = self._pictures.painter.draw_if_chosen if self.config.visualisation.during_matching else None
        return self._stage(
            "matching",
            compute=lambda: match_images(
                images=self._targets,
                source=self.source,
                prototypes=prototypes,
                matcher=self.matcher,
                group=self.group,
                on_detections=early,
            ),
            save=lambda made: [_written(path, lambda: results.write_predictions(path, made, self.inputs.categories))],
            load=lambda: results.read_predictions(path, self._targets, self.inputs.categories),
            describe=lambda made: f"{sum(len(found.labels) for found in made)} detections",
        )

    def visualisation(self) -> list[Path]:
        """Draw references, target images, and the sheets of best and worst images."""
        references, detections = self.references(), self.matching()
        return self._stage(
            "visualisation",
            compute=lambda: self._pictures.draw(
                references, detections, prototypes=self.prototypes, outdated=self.pictures()
            ),
            save=lambda made: made,
            load=lambda: self.pictures(),
            describe=lambda made: f"{len(made)} pictures",
        )

    def evaluation(self) -> Metrics:
        """Compute the metrics; their file is the last one written."""
        path = self.directory.metrics
        detections = self.matching()
        return self._stage(
            "evaluation",
            compute=lambda: self._evaluate(detections),
            save=lambda made: [_written(path, lambda: results.write_metrics(path, made))],
            load=lambda: results.read_metrics(path),
            describe=lambda made: f"{made.num_detections} detections in {made.num_images} images",
        )

    def _evaluate(self, detections: list[Detections]) -> Metrics:
        """Compute the metrics in the main process; the others wait for them."""
        settings = self.config.evaluation
        metrics: Metrics | None = None
        if self.group.is_main:
            metrics = evaluate(
                detections=detections,
                ground_truth=self.inputs.target_data,
                categories=self.inputs.categories,
                protocol=cast("Protocol", settings.protocol),
                judge=cast("Judge", settings.judge),
                semantic=cast("Painting", settings.semantic),
                semantic_threshold=settings.semantic_threshold,
            )
        return cast("Metrics", dist.broadcast_from_main(metrics, self.group))

    def pictures(self) -> list[Path]:
        """The pictures that have been drawn, by the record of the stage."""
        record = self.directory.record("visualisation")
        return [self.directory.root / name for name in record["files"]] if record else []

    def stage_facts(self) -> dict[str, dict[str, Any]]:
        """Seconds, peak memory and time of end of every finished stage."""
        records = {stage: self.directory.record(stage) for stage in STAGES}
        return {
            stage: {key: value for key, value in record.items() if key not in ("key", "files")}
            for stage, record in records.items()
            if record is not None
        }

    @cached_property
    def _store(self) -> Store:
        root = Path(self.config.runtime.store_root).expanduser().absolute()
        return Store(root)

    @cached_property
    def _targets(self) -> list[ImageRecord]:
        return list(self.inputs.target_data.images.values())

    @cached_property
    def _pictures(self) -> PictureMaker:
        return PictureMaker(
            settings=self.config.visualisation,
            categories=self.inputs.categories,
            targets=self.inputs.target_data,
            folder=self.directory.pictures,
            encoder=self.encoder,
            source=self.source,
            group=self.group,
        )

    def _images_in_use(self) -> list[list[ImageRecord]]:
        """Return the images that the stages still to be done will read."""
        groups = []
        if self.config.stage not in ("references", "candidates") and not self._is_done("memory"):
            groups.append(list(self.references().images.values()))
        if not self._is_done("candidates") and self.config.stage not in ("references", "memory", "prototypes"):
            stored = dist.broadcast_from_main([self.source.is_stored(record) for record in self._targets], self.group)
            groups.append([record for record, known in zip(self._targets, stored, strict=True) if not known])
        return groups

    def _is_done(self, stage: str) -> bool:
        """Say whether a stage's files are there and as they were written; looked at once a run."""
        if stage not in self._found_done:
            key = self.keys[stage]  # made by all processes together
            if dist.broadcast_from_main(self.group.is_main and self.directory.is_done(stage, key), self.group):
                self._found_done.add(stage)
        return stage in self._found_done

    def _stage(
        self,
        name: str,
        *,
        compute: Callable[[], T],
        save: Callable[[T], list[Path]],
        load: Callable[[], T],
        describe: Callable[[T], str],
    ) -> T:
        """Return a stage's result: from this process's memory, from its files, or by computing and saving it."""
        if name in self._made:
            known: T = self._made[name]
            return known
        if self._is_done(name):
            value = load()
            _LOG.info("%-14s already done: %s", name, describe(value))
        else:
            started, before = time.monotonic(), set(self._store.used)
            value = compute()
            seconds = time.monotonic() - started
            used = dist.gather([(self.group.rank, sorted(self._store.used - before))], self.group.size, self.group)
            if self.group.is_main:
                self.directory.write_store_keys(name, {entry for part in used for entry in part})
                facts = {"seconds": round(seconds, 3), "peak_memory_mb": peak_memory_mb(self.placement)}
                self.directory.write_record(name, self.keys[name], save(value), facts)
            dist.barrier(self.group)
            _LOG.info("%-14s %s in %.1f s", name, describe(value), seconds)
        self._made[name] = value
        return value


def _saved(path: Path, value: Any) -> Path:
    write_json(path, value)
    return path


def _written(path: Path, write: Callable[[], None]) -> Path:
    write()
    return path
