"""Stage `visualisation` as a whole: which pictures are drawn, and by which process."""

from collections.abc import Sequence
from pathlib import Path

from ntt.base import distributed as dist
from ntt.data.coco import CocoDataset
from ntt.stages.candidates import CandidateSource
from ntt.stages.feature_pictures import draw_reference_features, draw_similarities
from ntt.stages.memory import ReferenceEncoder
from ntt.stages.visualisation import TargetRenderer, draw_extremes, draw_references, draw_targets
from ntt.types import Category, Detections, ImageId, ImageRecord, Prototypes, ReferenceSet


def target_renderer(
    *,
    targets: CocoDataset,
    categories: tuple[Category, ...],
    folder: Path,
    score_threshold: float,
    max_images: int | None,
    image_ids: Sequence[ImageId] | None,
) -> TargetRenderer:
    """Return what draws target images: those with the given ids, else the first `max_images`, all if that is None."""
    images = list(targets.images.values())
    drawn = [record.id for record in images[:max_images]] if image_ids is None else image_ids
    return TargetRenderer(
        categories=categories,
        ground_truth=targets if targets.has_annotations else None,
        folder=folder / "targets",
        score_threshold=score_threshold,
        image_ids=frozenset(drawn),
    )


def draw_pictures(
    *,
    references: ReferenceSet,
    images: Sequence[ImageRecord],
    detections: Sequence[Detections],
    renderer: TargetRenderer,
    encoder: ReferenceEncoder,
    source: CandidateSource,
    prototypes: Prototypes | None,
    sheet_size: int,
    num_feature_images: int,
    folder: Path,
    outdated: Sequence[Path],
    group: dist.ProcessGroup,
) -> list[Path]:
    """Draw references, target images, and the sheets of best and worst images.

    Args:
        references: the sampled instances.
        images: the target images.
        detections: one entry per image, in the order of `images`.
        renderer: draws the chosen target images.
        encoder: shows references as the backbone sees them, and gives their masks.
        source: shows target images as the models see them.
        prototypes: similarities with them are drawn, and features of the references; None: neither.
        sheet_size: images on the sheets of best and worst images.
        num_feature_images: target images to draw similarities of: the first of the chosen ones.
        folder: where pictures are written.
        outdated: pictures of an earlier run, removed first.
        group: the processes of the run; images are dealt out over them.

    Returns:
        The pictures; in processes other than the main one, nothing.
    """
    if group.is_main:
        for path in outdated:
            path.unlink(missing_ok=True)
    dist.barrier(group)
    paths = draw_targets(images=images, detections=detections, renderer=renderer, group=group)
    if prototypes is not None:
        drawn = [record for record in images if record.id in renderer.image_ids][:num_feature_images]
        features = folder / "features"
        paths += draw_reference_features(references=references, encoder=encoder, folder=features, group=group)
        paths += draw_similarities(images=drawn, source=source, prototypes=prototypes, folder=features, group=group)
    if not group.is_main:
        return []
    sheets = draw_references(references=references, masks=encoder.masks, folder=folder)
    sheets += draw_extremes(images=images, detections=detections, renderer=renderer, size=sheet_size, folder=folder)
    return [*sheets, *paths]
