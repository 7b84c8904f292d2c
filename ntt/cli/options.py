"""What commands have in common: types of parameters, settings of a run, and annotation files to write."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ntt.base.files import write_json
from ntt.errors import ConfigError, DataError, counted, listed

if TYPE_CHECKING:
    from ntt.convert.base import Converted


class _UserPath(click.Path):
    """A path in which `~` is expanded to the home folder, also after `--option=`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return super().convert(os.path.expanduser(value), param, ctx)  # noqa: PTH111


PATH = _UserPath(path_type=Path)
FORMAT = click.Choice(("markdown", "csv", "latex"))
"""Formats of tables, as in `ntt.reports.tables`."""

overrides_argument = click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
"""Settings of a run; they may be given between and after options."""


def check_output(output: Path) -> Path:
    """Return an output file, or raise a ConfigError if it exists already: the input may be the same file."""
    if output.exists():
        raise ConfigError(f"--output={output} exists already, and files are never changed. Name another file.")
    return output


output_option = click.option(
    "--output",
    type=PATH,
    required=True,
    metavar="FILE",
    callback=lambda context, parameter, output: check_output(output),
    help="Annotation file to write.",
)


def write_and_check(converted: "Converted", output: Path) -> None:
    """Write a new annotation file, read it like a run, and print what it contains; one a run refuses is removed."""
    from ntt.data.coco import read_coco

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
    objects = f"{counted(len(dataset.instances), 'object')} ({masks} with a mask, {crowds} crowd regions)"
    click.echo(f"{counted(len(dataset.images), 'image')}, {objects}")
    click.echo(f"{counted(len(names), 'class', 'classes')}: {listed(names)}")
    click.echo(f"written to {output}\nits file names start from {converted.image_root}")


def write_document(document: dict[str, Any], output: Path) -> None:
    """Write a part of an annotation file and print how much it contains."""
    write_json(output, document, indent=None)
    images, classes = (
        counted(len(document["images"]), "image"),
        counted(len(document["categories"]), "class", "classes"),
    )
    annotations = counted(len(document.get("annotations") or []), "annotation")
    click.echo(f"{images}, {annotations}, {classes} written to {output}")
