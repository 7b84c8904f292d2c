"""Writes the annotation files of commands, and prints what they contain."""

from pathlib import Path

import click

from ntt.base.files import write_json
from ntt.convert.base import Converted
from ntt.data.coco import read_coco
from ntt.errors import DataError, listed
from ntt.types import Json


def write_and_check(converted: Converted, output: Path) -> None:
    """Write a new annotation file, read it like a run, and print what it contains.

    Raises:
        DataError: if a run could not use it; the file is then removed.
    """
    write_json(output, converted.document, indent=None)
    try:
        dataset = read_coco(output, converted.image_root, annotations_required=False)
    except DataError:
        output.unlink()
        raise
    for note in converted.notes:
        click.echo(f"Note: {note}")
    crowds = sum(instance.iscrowd for instance in dataset.instances)
    masks = sum(instance.segmentation is not None for instance in dataset.instances)
    names = [category.name for category in dataset.categories]
    click.echo(
        f"{len(dataset.images)} images, {len(dataset.instances)} objects ({masks} with a mask, {crowds} crowd regions)"
    )
    click.echo(f"{len(names)} classes: {listed(names)}")
    click.echo(f"written to {output}")
    click.echo(f"its file names start from {converted.image_root}")


def write_document(document: Json, output: Path) -> None:
    """Write a part of an annotation file and print how much it contains."""
    write_json(output, document, indent=None)
    counts = (len(document["images"]), len(document.get("annotations") or []), len(document["categories"]))
    click.echo(f"{counts[0]} images, {counts[1]} annotations, {counts[2]} classes written to {output}")
