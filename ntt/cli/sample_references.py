"""The work of `ntt data sample-references`."""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import click

from ntt.cli.annotation_files import write_and_check
from ntt.config.command_line import check_overrides
from ntt.config.compose import compose_config
from ntt.config.schema import ExperimentConfig
from ntt.convert.references_file import references_document
from ntt.data.coco import CocoDataset, read_coco
from ntt.data.images import check_images
from ntt.models.box_masks import ReferenceMasks
from ntt.run.inputs import read_inputs, searched_categories
from ntt.stages.pictures import draw_references
from ntt.stages.references import SamplerName, sample_references
from ntt.types import Category


def write_sample(
    annotations: Path | None, images: Path | None, output: Path, *, pictures: Path | None, overrides: Sequence[str]
) -> None:
    """Draw references as a run with the same settings does, and write them.

    Args:
        annotations: COCO file to draw from; None: the data set of the settings.
        images: its image folder.
        output: file to write.
        pictures: folder for sheets of the references; None: draw none.
        overrides: settings of the run.

    Raises:
        NttError: if the settings or the annotations cannot be used.
    """
    check_overrides(overrides)
    config = compose_config(overrides)
    dataset, categories = _source(annotations, images, config)
    shots = config.shots
    references = sample_references(
        dataset=dataset,
        categories=categories,
        shots=shots.count,
        seed=config.seed,
        sampler=cast("SamplerName", shots.sampler),
        strict=shots.strict,
        min_box_side_px=shots.min_box_side_px,
        border_px=shots.border_px,
    )
    if pictures is not None:
        check_images(list(references.images.values()))
    write_and_check(references_document(references, dataset), output)
    click.echo(f"digest {references.digest}")
    if pictures is not None:
        for path in draw_references(references=references, masks=ReferenceMasks(None), folder=pictures):
            click.echo(f"drawn in {path}")


def _source(
    annotations: Path | None, images: Path | None, config: ExperimentConfig
) -> tuple[CocoDataset, tuple[Category, ...]]:
    """Return the annotations to draw from and the classes to draw for."""
    if annotations is None or images is None:
        inputs = read_inputs(config)
        return inputs.reference_data, inputs.categories
    dataset = read_coco(annotations, images)
    return dataset, searched_categories(config, dataset)
