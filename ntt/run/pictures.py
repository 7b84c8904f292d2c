"""Stage `visualisation` as a whole: which pictures a run draws, and in which process."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ntt.base import distributed as dist
from ntt.config.schema import VisualisationConfig
from ntt.data.coco import CocoDataset
from ntt.stages.candidates import CandidateSource
from ntt.stages.feature_pictures import draw_reference_features, draw_similarities
from ntt.stages.memory import ReferenceEncoder
from ntt.stages.visualisation import TargetPainter, draw_extremes, draw_references, draw_targets
from ntt.types import Category, Detections, ImageRecord, Prototypes, ReferenceSet


@dataclass(frozen=True)
class PictureMaker:
    """Draws what the settings ask for.

    Attributes:
        targets: the targets file.
        folder: where pictures are written.
        encoder: shows references as the backbone sees them, and gives their masks.
        source: shows target images as the models see them.
    """

    settings: VisualisationConfig
    categories: tuple[Category, ...]
    targets: CocoDataset
    folder: Path
    encoder: ReferenceEncoder
    source: CandidateSource
    group: dist.ProcessGroup

    @cached_property
    def painter(self) -> TargetPainter:
        """Draws the chosen target images."""
        chosen = self._images[: self.settings.max_images]
        if self.settings.image_ids is not None:
            chosen = [record for record in self._images if record.id in self.settings.image_ids]
        return TargetPainter(
            categories=self.categories,
            ground_truth=self.targets if self.targets.has_annotations else None,
            folder=self.folder / "targets",
            score_threshold=self.settings.score_threshold,
            chosen=frozenset(record.id for record in chosen),
        )

    def draw(
        self,
        references: ReferenceSet,
        detections: Sequence[Detections],
        *,
        prototypes: Callable[[], Prototypes],
        outdated: Sequence[Path],
    ) -> list[Path]:
        """Draw references, target images, and the sheets of best and worst images.

        Args:
            references: of the run.
            detections: one entry an image, in file order.
            prototypes: asked only where similarities are drawn.
            outdated: pictures of an earlier run, removed first.

        Returns:
            The pictures; in processes other than the main one, nothing.
        """
        if self.group.is_main:
            for path in outdated:
                path.unlink(missing_ok=True)
        dist.barrier(self.group)
        drawn = draw_targets(images=self._images, detections=detections, painter=self.painter, group=self.group)
        drawn += self._features(references, prototypes()) if self.settings.features else []
        if not self.group.is_main:
            return []
        sheets = draw_references(references=references, masks=self.encoder.masks, folder=self.folder)
        sheets += draw_extremes(
            images=self._images,
            detections=detections,
            painter=self.painter,
            size=self.settings.contact_sheet_size,
            folder=self.folder,
        )
        return [*sheets, *drawn]

    @cached_property
    def _images(self) -> list[ImageRecord]:
        return list(self.targets.images.values())

    def _features(self, references: ReferenceSet, prototypes: Prototypes) -> list[Path]:
        folder = self.folder / "features"
        drawn = draw_reference_features(references=references, encoder=self.encoder, folder=folder, group=self.group)
        chosen = [record for record in self._images if record.id in self.painter.chosen]
        return drawn + draw_similarities(
            images=chosen[: self.settings.max_feature_images],
            source=self.source,
            prototypes=prototypes,
            folder=folder,
            group=self.group,
        )
