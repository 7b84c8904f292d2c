"""`ntt data convert`: annotations of other formats to COCO files. The originals are never changed."""

from pathlib import Path
from typing import Any

import click

from ntt.cli.options import PATH, check_output, output_option, write_and_check


def _read_categories(context: click.Context, parameter: click.Parameter, file: Path | None) -> Any:
    from ntt.convert.plain_folder import coco_categories

    return None if file is None else coco_categories(file)


_categories_option = click.option(
    "--categories",
    type=PATH,
    metavar="FILE",
    callback=_read_categories,
    help="Keep the classes of this COCO file, with their ids.",
)


@click.group()
def convert() -> None:
    """Turn annotations of other formats into COCO files."""


@convert.command()
@output_option
@click.option("--annotations", type=PATH, required=True, metavar="FOLDER", help="Of the XML files.")
@click.option("--images", type=PATH, required=True, metavar="FOLDER", help="Of the images.")
@click.option("--list", "list_file", type=PATH, metavar="FILE", help="Names of the images to take, one per line.")
@_categories_option
@click.option("--zero-based", is_flag=True, help="Corners are counted from 0, the far one exclusive, unlike VOC.")
def voc(output: Path, list_file: Path | None, **options: Any) -> None:
    """Pascal VOC XML files, one per image."""
    from ntt.convert.base import read_list
    from ntt.convert.voc import convert_voc

    names = None if list_file is None else read_list(list_file)
    write_and_check(convert_voc(names=names, **options), output)


@convert.command()
@output_option
@click.argument("root", type=PATH, required=False, metavar="[FOLDER]")
@click.option("--subset", default="train", help="train, val, ..., or all.")
@click.option("--images", type=PATH, metavar="FOLDER", help="Instead of FOLDER and --subset.")
@click.option("--labels", type=PATH, metavar="FOLDER", help="Of the text files.")
@click.option("--names", type=PATH, metavar="FILE", help="Class names: data.yaml or classes.txt.")
def yolo(output: Path, root: Path | None, subset: str, **files: Path | None) -> None:
    """YOLO text files with boxes or outlines, one per image.

    FOLDER has one of the usual layouts.
    """
    from ntt.convert.yolo import convert_yolo

    write_and_check(convert_yolo(root, subset, **files), output)


@convert.command()
@output_option
@click.option("--annotations", type=PATH, required=True, metavar="FOLDER", help="Of the JSON files.")
@click.option("--images", type=PATH, metavar="FOLDER", help="Default: the same folder.")
@_categories_option
def labelme(output: Path, **options: Any) -> None:
    """LabelMe JSON files, one per image."""
    from ntt.convert.labelme import convert_labelme

    write_and_check(convert_labelme(**options), output)


@convert.command("references-pickle")
@output_option
@click.argument("pickle_file", type=PATH, metavar="PICKLE")
@click.option("--annotations", type=PATH, required=True, metavar="FILE", help="The COCO file it refers to.")
@click.option("--images", type=PATH, required=True, metavar="FOLDER", help="Its file names start from here.")
def references_pickle(output: Path, pickle_file: Path, annotations: Path, images: Path) -> None:
    """A pickled list of the reference implementation."""
    from ntt.convert.references import convert_reference_pickle
    from ntt.data.coco import read_coco

    dataset = read_coco(annotations, images)
    write_and_check(convert_reference_pickle(pickle_file=pickle_file, dataset=dataset), output)


@convert.command()
@click.option("--output", type=PATH, required=True, metavar="FOLDER", help="Gets references.json and targets.json.")
@click.argument("root", type=PATH, metavar="FOLDER")
def folder(output: Path, root: Path) -> None:
    """A plain folder of images.

    It contains references/CLASS/IMAGE and targets/IMAGE; see docs/data.md.
    """
    from ntt.convert.plain_folder import convert_references, convert_targets

    names = ("references.json", "targets.json")
    for name in names:
        check_output(output / name)
    references = convert_references(root / "references")
    targets = convert_targets(root / "targets", references.categories)
    for name, converted in zip(names, (references, targets), strict=True):
        write_and_check(converted, output / name)
