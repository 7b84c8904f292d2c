"""Stage `visualisation`: which pictures are drawn, by which process, and those of the backbone's view."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image

from ntt.base.distributed import ProcessGroup, map_dealt
from ntt.data.images import read_image
from ntt.drawing.feature_maps import draw_feature_pca, draw_similarity_map
from ntt.drawing.sheets import cut_reference_tile, draw_contact_sheet, draw_reference_pages
from ntt.errors import counted
from ntt.models.box_masks import ReferenceMasks
from ntt.ops.pooling import l2_normalise
from ntt.ops.similarity import best_per_class, cosine_similarity
from ntt.stages.candidates import CandidateSource
from ntt.stages.memory import ReferenceEncoder
from ntt.stages.target_pictures import TargetRenderer, draw_extremes, picture_stem, safe_name, save_picture
from ntt.types import Category, Detections, FloatArray, ImageRecord, Instance, Prototypes, ReferenceSet

_COLUMNS = 3
_MAX_FEATURE_IMAGES = 4


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
    folder: Path,
    group: ProcessGroup,
) -> list[Path]:
    """Draw references, target images, and the sheets of best and worst images.

    With `prototypes`, also features of the references and similarities in the renderer's first four images. Returns the
    pictures; in processes other than the main one, nothing.
    """
    pairs = [pair for pair in zip(images, detections, strict=True) if pair[0].id in renderer.image_ids]
    paths = map_dealt(lambda pair: renderer.draw(*pair), pairs, group=group, label="visualisation", unit="picture")
    if prototypes is not None:
        selected = [record for record, _ in pairs[:_MAX_FEATURE_IMAGES]]
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
    """Draw references with the masks in use, and further lines below them, by annotation id, on pages."""
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
    classes = counted(len(references.categories), "class", "classes")
    heading = f"{counted(len(tiles), 'reference')} of {classes}, seed {references.seed}"
    pages = draw_reference_pages(tiles, title=title or heading)
    names = ["references.png"] if len(pages) == 1 else [f"references_{n + 1}.png" for n in range(len(pages))]
    return [save_picture(page, folder / name) for page, name in zip(pages, names, strict=True)]


def draw_reference_features(
    *, references: ReferenceSet, encoder: ReferenceEncoder, folder: Path, group: ProcessGroup
) -> list[Path]:
    """Draw each reference's crop next to its feature map, as used for the memory."""
    flat = [
        (category, instance)
        for category, members in zip(references.categories, references.instances, strict=True)
        for instance in members
    ]

    def draw(pair: tuple[Category, Instance]) -> Path:
        category, instance = pair
        crop_3SS, weights_gg, feature_map_Dgg = encoder.look(instance, references.images[instance.image_id])
        crop_SS3 = (crop_3SS.clamp(0, 1) * 255).round().byte().permute(1, 2, 0)
        picture = draw_feature_pca(feature_map_Dgg.numpy(), weights_gg.numpy(), crop_SS3.numpy())
        return save_picture(picture, folder / f"reference_{safe_name(category.name)}_{instance.id}.png")

    return map_dealt(draw, flat, group=group, label="features", unit="reference")


def draw_similarities(
    *, images: Sequence[ImageRecord], source: CandidateSource, prototypes: Prototypes, folder: Path, group: ProcessGroup
) -> list[Path]:
    """Draw a sheet of each image's similarity with each class, all on one scale."""

    def draw(record: ImageRecord) -> Path:
        _, feature_map_Dhw = source.look(record)
        similarity_Chw = class_similarity(feature_map_Dhw, prototypes)
        sheet = _similarity_sheet(record, similarity_Chw, prototypes.categories)
        return save_picture(sheet, folder / f"similarity_{picture_stem(record)}.png")

    return map_dealt(draw, images, group=group, label="similarity", unit="image")


def class_similarity(feature_map_Dhw: torch.Tensor, prototypes: Prototypes) -> FloatArray:
    """Compare every cell of a feature map [D, h, w] with every class, as candidates are compared (method.md §5).

    Returns float32 [C, h, w] in [0, 1], max(0, cosine) with the class's most similar prototype.
    """
    cells_PD = l2_normalise(feature_map_Dhw.cpu().float().flatten(1).T).numpy()
    similarity = cosine_similarity(cells_PD, prototypes.vectors_PD.numpy())
    count = len(prototypes.categories)
    per_class_PC = best_per_class(similarity, prototypes.labels_P.numpy(), num_classes=count)
    similarity_Chw: FloatArray = per_class_PC.T.reshape(count, *feature_map_Dhw.shape[1:])
    return similarity_Chw


def _similarity_sheet(record: ImageRecord, similarity_Chw: FloatArray, categories: Sequence[Category]) -> Image.Image:
    image = read_image(record)
    low, high = float(similarity_Chw.min()), float(similarity_Chw.max())
    ends = f"{low:.2f} dark to {high:.2f} bright"
    tiles = [
        (
            draw_similarity_map(image, map_hw, value_range=(low, high)),
            [category.name, f"{ends}, highest {float(map_hw.max()):.2f}"],
        )
        for map_hw, category in zip(similarity_Chw, categories, strict=True)
    ]
    title = f"Similarity of {Path(record.file_name).name} with each class"
    return draw_contact_sheet(tiles, title=title, columns=_COLUMNS)
