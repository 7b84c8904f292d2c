"""Pictures of the backbone's view: features of the references, similarities in target images."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from ntt.base.distributed import ProcessGroup, map_dealt
from ntt.data.images import read_image
from ntt.drawing.feature_maps import draw_feature_pca, draw_similarity_map
from ntt.drawing.sheets import draw_contact_sheet
from ntt.ops.pooling import l2_normalise
from ntt.ops.similarity import best_per_class, cosine_similarity
from ntt.stages.candidates import CandidateSource
from ntt.stages.memory import ReferenceEncoder
from ntt.stages.target_pictures import picture_stem, safe_name, save_picture
from ntt.types import Category, FloatArray, ImageRecord, Instance, Prototypes, ReferenceSet

_COLUMNS = 3


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

    Returns:
        float32 [C, h, w] in [0, 1], max(0, cosine) with the class's most similar prototype.
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
