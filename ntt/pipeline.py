"""The chain of stages of one run.

Each stage has a key, the digest of everything that decides its result. Its files are written before its record, and
the record names the key; a stage whose record carries the right key is read back instead of repeated. What a stage
needs from earlier ones is made on demand, so any stage can be asked for alone.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, cast

from ntt import dist, results
from ntt.backbones.base import Backbone
from ntt.boxes_to_masks import BoxMasks, ReferenceMasks, choose_box_segmenter
from ntt.config import STAGES, ExperimentConfig
from ntt.data.images import check_images
from ntt.environment import peak_memory_mb
from ntt.errors import ConfigError, DataError
from ntt.files import read_json, write_json
from ntt.inputs import Inputs, read_inputs
from ntt.matchers.base import Matcher
from ntt.rundir import RunDirectory
from ntt.segmenters.base import Segmenter
from ntt.stages.candidates import CandidateSource, find_candidates
from ntt.stages.evaluation import evaluate
from ntt.stages.feature_pictures import draw_reference_features, draw_similarities
from ntt.stages.matching import match_images
from ntt.stages.memory import ReferenceEncoder, fill_memory
from ntt.stages.prototypes import build_prototypes
from ntt.stages.references import SamplerName, references_from_json, references_to_json, sample_references
from ntt.stages.visualisation import TargetPainter, draw_extremes, draw_references, draw_targets
from ntt.store import Store, content_key
from ntt.types import Detections, ImageRecord, MemoryBank, Metrics, Placement, Prototypes, ReferenceSet

T = TypeVar("T")
_LOG = logging.getLogger(__name__)


@dataclass
class Pipeline:
    """The stages of one run as methods; each returns its result, made now, made before, or read back."""

    config: ExperimentConfig
    directory: RunDirectory
    placement: Placement
    me: dist.World
    _made: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def inputs(self) -> Inputs:
        """The annotation files and the classes to search; read once, the main process first."""
        if not self.me.is_main:
            dist.barrier(self.me)
        inputs = read_inputs(self.config)
        if self.me.is_main:
            dist.barrier(self.me)
        return inputs

    @cached_property
    def matcher(self) -> Matcher:
        """The matcher."""
        return self.config.matcher.build()

    @cached_property
    def backbone(self) -> Backbone:
        """The backbone; its network is built when it is first used."""
        return self.config.backbone.build(self.placement)

    @cached_property
    def segmenter(self) -> Segmenter:
        """The segmenter; its model, if it has one, is built when it is first used."""
        return self.config.segmenter.build(self.placement)

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
    def keys(self) -> Mapping[str, str]:
        """For each stage the digest of everything that decides its result."""
        config, inputs = self.config, self.inputs
        models = {"backbone": dict(self.backbone.fingerprint), "precision": config.runtime.precision}
        references = content_key(
            {
                "file": inputs.reference_data.digest,
                "categories": [asdict(category) for category in inputs.categories],
                "shots": {k: v for k, v in asdict(config.shots).items() if k != "name"},
                "seed": config.seed,
            }
        )
        box_masks = self.reference_masks.facts(inputs.reference_data.instances)
        memory = content_key({"references": references, "memory": asdict(config.memory), **box_masks, **models})
        prototypes = content_key({"memory": memory, "matcher": dict(self.matcher.fingerprint)})
        candidates = content_key(
            {
                "images": [_stat(record) for record in inputs.target_data.images.values()],
                "segmenter": dict(self.segmenter.fingerprint),
                "candidates": asdict(config.candidates),
                **models,
            }
        )
        matching = content_key({"prototypes": prototypes, "candidates": candidates})
        pictures = {"matching": matching, "settings": asdict(config.visualisation)}
        return {
            "references": references,
            "memory": memory,
            "prototypes": prototypes,
            "candidates": candidates,
            "matching": matching,
            "visualisation": content_key({**pictures, "truth": inputs.target_data.digest}),
            "evaluation": content_key({"matching": matching, "truth": inputs.target_data.digest}),
        }

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
        _ = self.keys
        self._store.check_writable()
        unknown = set(self.config.visualisation.image_ids or ()) - set(self.inputs.target_data.images)
        if unknown:
            raise ConfigError(
                f"visualisation.image_ids={sorted(unknown, key=str)}: no target image has such an id. Ids are those "
                f"of {self.inputs.target_data.annotation_file}; null draws the first visualisation.max_images."
            )
        for records in self._images_in_use():
            problem = None
            mine = [record for _, record in dist.share(records, self.me)]
            try:
                check_images(mine, full=self.config.dataset.decode_images)
            except DataError as error:
                problem = str(error)
            problems = dist.gather([(self.me.rank, problem)], self.me.size, self.me)
            if any(problems):
                raise DataError("\n".join(text for text in problems if text))

    def references(self) -> ReferenceSet:
        """Sample the references."""
        config, inputs = self.config, self.inputs
        shots = config.shots
        return self._stage(
            "references",
            compute=lambda: sample_references(
                dataset=inputs.reference_data,
                categories=inputs.categories,
                shots=shots.count,
                seed=config.seed,
                sampler=cast("SamplerName", shots.sampler),
                strict=shots.strict,
                min_box_side_px=shots.min_box_side_px,
                border_px=shots.border_px,
            ),
            save=lambda made: [_saved(self.directory.references, references_to_json(made))],
            load=lambda: references_from_json(read_json(self.directory.references), inputs.reference_data),
            describe=lambda made: f"{sum(map(len, made.instances))} instances of {len(made.categories)} classes",
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
                me=self.me,
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
            compute=lambda: find_candidates(images=self._targets, source=self.source, me=self.me),
            save=lambda made: [_saved(path, {"candidates_per_image": made})],
            load=lambda: tuple(read_json(path)["candidates_per_image"]),
            describe=lambda made: f"{sum(made)} candidates in {len(made)} images",
        )

    def matching(self) -> list[Detections]:
        """Name the candidates."""
        path = self.directory.predictions
        prototypes = self.prototypes()
        self.candidates()
        early = self._painter.draw_if_chosen if self.config.visualisation.during_matching else None
        return self._stage(
            "matching",
            compute=lambda: match_images(
                images=self._targets,
                source=self.source,
                prototypes=prototypes,
                matcher=self.matcher,
                me=self.me,
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
            compute=lambda: self._draw(references, detections),
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
            compute=lambda: evaluate(
                detections=detections, ground_truth=self.inputs.target_data, categories=self.inputs.categories
            ),
            save=lambda made: [_written(path, lambda: results.write_metrics(path, made))],
            load=lambda: results.read_metrics(path),
            describe=lambda made: f"{made.num_detections} detections in {made.num_images} images",
        )

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
        return Store(Path(self.config.runtime.store_root).expanduser().absolute())

    @cached_property
    def _targets(self) -> list[ImageRecord]:
        return list(self.inputs.target_data.images.values())

    @cached_property
    def _painter(self) -> TargetPainter:
        settings, truth = self.config.visualisation, self.inputs.target_data
        chosen = self._targets[: settings.max_images]
        if settings.image_ids is not None:
            chosen = [record for record in self._targets if record.id in settings.image_ids]
        return TargetPainter(
            categories=self.inputs.categories,
            ground_truth=truth if truth.has_annotations else None,
            folder=self.directory.pictures / "targets",
            score_threshold=settings.score_threshold,
            chosen=frozenset(record.id for record in chosen),
        )

    def _draw(self, references: ReferenceSet, detections: list[Detections]) -> list[Path]:
        folder = self.directory.pictures
        if self.me.is_main:
            for outdated in self.pictures():
                outdated.unlink(missing_ok=True)
        dist.barrier(self.me)
        drawn = draw_targets(images=self._targets, detections=detections, painter=self._painter, me=self.me)
        drawn += self._draw_features(references) if self.config.visualisation.features else []
        if not self.me.is_main:
            return []
        size = self.config.visualisation.contact_sheet_size
        sheets = draw_references(references=references, masks=self.reference_masks, folder=folder)
        sheets += draw_extremes(
            images=self._targets, detections=detections, painter=self._painter, size=size, folder=folder
        )
        return [*sheets, *drawn]

    def _draw_features(self, references: ReferenceSet) -> list[Path]:
        folder = self.directory.pictures / "features"
        encoder = ReferenceEncoder(self.backbone, self.reference_masks, self.config.memory.context_ratio, self._store)
        drawn = draw_reference_features(references=references, encoder=encoder, folder=folder, me=self.me)
        chosen = [record for record in self._targets if record.id in self._painter.chosen]
        return drawn + draw_similarities(
            images=chosen[: self.config.visualisation.max_feature_images],
            source=self.source,
            prototypes=self.prototypes(),
            folder=folder,
            me=self.me,
        )

    def _images_in_use(self) -> list[list[ImageRecord]]:
        """Return the images that the stages still to be done will read."""
        groups = []
        if self.config.stage not in ("references", "candidates") and not self._is_done("memory"):
            groups.append(list(self.references().images.values()))
        if not self._is_done("candidates") and self.config.stage not in ("references", "memory", "prototypes"):
            groups.append(self._targets)
        return groups

    def _is_done(self, stage: str) -> bool:
        return dist.from_main(self.directory.is_done(stage, self.keys[stage]), self.me)

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
            started = time.monotonic()
            value = compute()
            seconds = time.monotonic() - started
            if self.me.is_main:
                facts = {"seconds": round(seconds, 3), "peak_memory_mb": peak_memory_mb(self.placement)}
                self.directory.write_record(name, self.keys[name], save(value), facts)
            dist.barrier(self.me)
            _LOG.info("%-14s %s in %.1f s", name, describe(value), seconds)
        self._made[name] = value
        return value


def _stat(record: ImageRecord) -> tuple[str, int, int, int, int]:
    """Return what tells that an image file has changed, without reading it."""
    try:
        stat = record.path.stat()
    except OSError:
        return (record.file_name, -1, -1, record.height, record.width)
    return (record.file_name, stat.st_size, stat.st_mtime_ns, record.height, record.width)


def _saved(path: Path, value: Any) -> Path:
    write_json(path, value)
    return path


def _written(path: Path, write: Callable[[], None]) -> Path:
    write()
    return path
