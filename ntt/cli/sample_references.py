"""The work of `ntt data sample-references`."""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import click

from ntt.cli.annotation_files import write_and_check
from ntt.config.command_line import check_overrides
from ntt.config.compose import compose_config
from ntt.convert.references import references_document
from ntt.data.coco import Crowd, read_coco
from ntt.data.images import check_images
from ntt.models.box_masks import ReferenceMasks
from ntt.run.inputs import drawn_references, read_inputs, searched_categories
from ntt.stages.pictures import draw_references


def write_sample(
    annotations: Path | None, images: Path | None, output: Path, *, pictures: Path | None, overrides: Sequence[str]
) -> None:
    """Draw references like a run with the same settings, from a COCO file or from its data set, and write them."""
    check_overrides(overrides)
    config = compose_config(overrides)
    if annotations is None or images is None:
        inputs = read_inputs(config)
        dataset, categories = inputs.reference_data, inputs.categories
    else:
        dataset = read_coco(annotations, images, crowd=cast("Crowd", config.dataset.crowd))
        categories = searched_categories(config, dataset)
    references = drawn_references(config, dataset, categories)
    if pictures is not None:
        check_images(list(references.images.values()))
    write_and_check(references_document(references, dataset), output)
    click.echo(f"digest {references.digest}")
    if pictures is not None:
        for path in draw_references(references=references, masks=ReferenceMasks(None), folder=pictures):
            click.echo(f"drawn in {path}")
