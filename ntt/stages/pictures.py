"""Stage `visualisation`: which pictures are drawn, and by which process."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from ntt.base import distributed as dist
from ntt.data.images import read_image
from ntt.drawing.sheets import cut_reference_tile, draw_reference_pages
from ntt.models.box_masks import ReferenceMasks
from ntt.stages.candidates import CandidateSource
from ntt.stages.feature_pictures import draw_reference_features, draw_similarities
from ntt.stages.memory import ReferenceEncoder
from ntt.stages.target_pictures import TargetRenderer, draw_extremes, save_picture
from ntt.types import Detections, ImageRecord, Prototypes, ReferenceSet


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
    group: dist.ProcessGroup,
) -> list[Path]:
    """Draw references, target images, and the sheets of best and worst images.

    With `prototypes`, also features of the references and similarities in the renderer's first `num_feature_images`
    images.

    Returns:
        The pictures; in processes other than the main one, nothing.
    """
    pairs = [pair for pair in zip(images, detections, strict=True) if pair[0].id in renderer.image_ids]
    paths = dist.map_dealt(lambda pair: renderer.draw(*pair), pairs, group=group, label="visualisation", unit="picture")
    if prototypes is not None:
        selected = [record for record, _ in pairs[:num_feature_images]]
        features = folder / "features"
        paths += draw_reference_features(references=references, encoder=encoder, folder=features, group=group)
        paths += draw_similarities(images=selected, source=source, prototypes=prototypes, folder=features, group=group)
    if not group.is_main:
        return []
    sheets = draw_references(references=references, masks=encoder.masks, folder=folder)
    sheets += draw_extremes(images, detections, renderer, size=sheet_size, folder=folder)
    return [*sheets, *paths]


def draw_references(
    *,
    references: ReferenceSet,
    masks: ReferenceMasks,
    folder: Path,
    notes: Mapping[int, str] | None = None,
    title: str | None = None,
) -> list[Path]:
    """Draw the sampled references with the masks in use, on as many pages as it takes.

    `notes` are further lines below them, by annotation id.
    """
    tiles = []
    for label, (category, instances) in enumerate(zip(references.categories, references.instances, strict=True)):
        for instance in instances:
            record = references.images[instance.image_id]
            picture, caption = cut_reference_tile(
                read_image(record),
                label=label,
                class_name=category.name,
                box_xywh=instance.bbox_xywh,
                rle=masks.rle(instance, record),
                file_name=Path(record.file_name).name,
                annotation_id=instance.id,
            )
            tiles.append((picture, [*caption, *([] if notes is None else [notes.get(instance.id, "")])]))
    shots = "1 shot" if references.shots == 1 else f"{references.shots} shots"
    pages = draw_reference_pages(tiles, title=title or f"References: {shots}, seed {references.seed}")
    names = ["references.png"] if len(pages) == 1 else [f"references_{n + 1}.png" for n in range(len(pages))]
    return [save_picture(page, folder / name) for page, name in zip(pages, names, strict=True)]
