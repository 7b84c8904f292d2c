"""The work of `ntt data boxes-to-masks`."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from ntt.config.compose import compose_config
from ntt.data.coco import read_coco
from ntt.data.images import check_images, read_image
from ntt.drawing.instances import draw_instances
from ntt.errors import listed
from ntt.models.box_masks import BoxMasks, choose_box_segmenter, convert
from ntt.run.inputs import read_alike
from ntt.run.models import build_models
from ntt.stages.target_pictures import drawn_instances, picture_stem, save_picture
from ntt.store.store import Store
from ntt.types import ImageRecord, Instance


def make_masks(
    annotations: Path, images: Path, output: Path, *, overrides: Sequence[str], pictures: Path | None, **options: Any
) -> None:
    """Write a copy of an annotation file in which boxes have masks; `options` are passed to `convert`."""
    config = compose_config(overrides)
    models = build_models(config)
    segmenter = choose_box_segmenter("segmenter", models.segmenter, models.backbone)
    assert segmenter is not None
    (dataset,) = read_alike([read_coco(annotations, images)], config.dataset)
    image_ids = dict.fromkeys(instance.image_id for instance in dataset.instances)
    check_images([dataset.images[image_id] for image_id in image_ids])
    parts = output.with_name(f"{output.name}.parts")
    if parts.is_dir():
        click.echo(f"Going on with what is in {parts}")

    def draw(record: ImageRecord, instances: Sequence[Instance], rles: Mapping[int, bytes]) -> None:
        """Draw an image with its own and its new masks."""
        assert pictures is not None
        drawn = drawn_instances(instances, dataset.categories, record, masks=rles)
        picture = draw_instances(read_image(record), drawn, [category.name for category in dataset.categories])
        save_picture(picture, pictures / f"{picture_stem(record)}.png")

    result = convert(
        dataset=dataset,
        output=output,
        box_masks=BoxMasks(segmenter, Store(parts)),
        on_image=None if pictures is None else draw,
        **options,
    )
    shutil.rmtree(parts, ignore_errors=True)
    name, without = segmenter.name, result.boxes_as_masks
    click.echo(f"{result.num_new} masks made by {name}, {result.num_unchanged} annotations left as they were")
    if without:
        sentence = f"{name} found nothing in {len(without)} boxes, which serve as masks"
        click.echo(f"Warning: {sentence} (annotations {listed(without)})")
    click.echo(f"written to {output}")
