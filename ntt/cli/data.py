"""`ntt data`: fetch, check, convert, divide and merge data sets; references to keep and share."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from ntt.cli.convert import convert
from ntt.cli.options import PATH, check_output, output_option, overrides_argument, write_and_check, write_document
from ntt.errors import ConfigError

if TYPE_CHECKING:
    from ntt.data.coco import Crowd

_seed_option = click.option("--seed", type=int, default=0, help="Of the draw.")


@click.group()
def data() -> None:
    """Fetch, convert and check data sets."""


data.add_command(convert)


@data.command()
@click.argument("folder", type=PATH, metavar="FOLDER")
def demo(folder: Path) -> None:
    """Copy the demo data set into a new folder."""
    from ntt.datasets.demo import copy_demo

    copy_demo(folder)
    click.echo(f"The demo data set is in {folder.absolute()}")


@data.command()
@click.argument("dataset", metavar="NAME|FOLDER")
@click.option(
    "--root", type=PATH, metavar="FOLDER", help="Of the data set NAME. Default: its folder below $NTT_DATA, or data/."
)
@click.option("--references", metavar="FILE", help="Of a FOLDER. Default: annotations/references.json.")
@click.option("--targets", metavar="FILE", help="Of a FOLDER. Default: annotations/targets.json.")
@click.option("--reference-images", metavar="FOLDER", help="Of a FOLDER. Default: images.")
@click.option("--target-images", metavar="FOLDER", help="Of a FOLDER. Default: images.")
@click.option("--decode", is_flag=True, help="Decode every image completely.")
def check(dataset: str, root: Path | None, decode: bool, **files: str | None) -> int:
    """Look for what stops a run or makes its result wrong.

    NAME is an option of the group `dataset`, such as coco or cdfsod_dior; FOLDER is a set in COCO format or a plain
    folder of images. The exit status is 1 if something is missing or different.
    """
    from ntt.base.log import console_logging
    from ntt.cli.data_files import check_data

    given = {key: file for key, file in files.items() if file is not None}
    with console_logging():
        return check_data(dataset, root, given, decode=decode)


@data.command()
@click.argument("name", metavar="NAME")
@click.option(
    "--data-root", type=PATH, metavar="FOLDER", help="Of all published data sets. Default: $NTT_DATA, else data/."
)
@click.option("--root", type=PATH, metavar="FOLDER", help="Of this data set. Default: its folder below the data root.")
@click.option("--mirror", envvar="NTT_DATA_MIRROR", show_envvar=True, help="Base URL instead of the official hosts.")
@click.option("--offline", is_flag=True, help="Download nothing, use existing files; also with NTT_OFFLINE=1.")
def get(name: str, data_root: Path | None, root: Path | None, **options: Any) -> int:
    """Download a published data set.

    Downloads, verifies and unpacks coco, lvis or voc; an interrupted download resumes. cdfsod-lists fetches the
    references of the six CD-FSOD sets and writes their K_shot.json. For other data sets, prints where they are
    published and how they must be stored; the exit status is then 1 unless they exist.
    """
    from ntt.cli.data_files import get_data

    return get_data(name, data_root, root, **options)


@data.command("boxes-to-masks")
@click.option("--annotations", type=PATH, required=True, metavar="FILE", help="COCO file; not changed.")
@click.option("--images", type=PATH, required=True, metavar="FOLDER", help="Its file names start from here.")
@output_option
@click.option("--segmenter", metavar="OPTION", help="As in conf/segmenter, such as sam2. Default: regions.")
@click.option("--format", "mask_format", type=click.Choice(("rle", "polygon")), default="rle", help="Of the masks.")
@click.option("--overwrite-masks", is_flag=True, help="Also for annotations that have a mask.")
@click.option(
    "--image-batch",
    type=click.IntRange(min=1),
    metavar="N",
    help="Images that go through a SAM2 segmenter together. Default: 1 on a CPU, 4 on a GPU.",
)
@click.option("--pictures", type=PATH, metavar="FOLDER", help="Draw every image with its new masks.")
@overrides_argument
def boxes_to_masks(
    annotations: Path, output: Path, segmenter: str | None, overrides: tuple[str, ...], **options: Any
) -> None:
    """Make masks of the boxes of a COCO annotation file.

    Writes a copy in which every box-only annotation has a mask. Finished masks are kept next to the output while the
    command runs, so an interrupted one resumes where it stopped. KEY=VALUE are settings of the run, such as
    runtime.device=cpu.
    """
    from ntt.cli.boxes_to_masks import make_masks

    lines = [*([] if segmenter is None else [f"segmenter={segmenter}"]), *overrides]
    make_masks(annotations, output=output, overrides=lines, **options)


@data.command()
@click.option(
    "--input",
    "inputs",
    type=(PATH, PATH),
    multiple=True,
    required=True,
    metavar="FILE IMAGES",
    help="An annotation file and its image folder; give it once for each file.",
)
@output_option
def merge(inputs: tuple[tuple[Path, Path], ...], output: Path) -> None:
    """Merge COCO files; classes are matched by name."""
    from ntt.convert.coco_files import merge as merged

    if len(inputs) < 2:
        raise ConfigError("--input is given once, there is nothing to merge it with. Give it once for each file.")
    write_and_check(merged(inputs), output)


@data.command()
@click.argument("file", type=PATH, metavar="FILE")
@output_option
@click.option("--class", "classes", multiple=True, metavar="NAME", help="Keep this class only; may be repeated.")
@click.option("--images", "num_images", type=int, metavar="N", help="Keep N images, drawn by --seed.")
@_seed_option
def subset(file: Path, output: Path, classes: tuple[str, ...], **options: Any) -> None:
    """Keep some classes or images of a COCO file."""
    from ntt.convert.coco_files import read_whole
    from ntt.convert.coco_files import subset as cut

    write_document(cut(read_whole(file), classes=classes or None, **options), output)


@data.command()
@click.argument("file", type=PATH, metavar="FILE")
@click.argument("parts", nargs=-1, required=True, metavar="NAME=SHARE...")
@click.option("--output", type=PATH, required=True, metavar="FOLDER", help="Gets NAME.json of each part.")
@_seed_option
def split(file: Path, parts: tuple[str, ...], output: Path, seed: int) -> None:
    """Divide the images of a COCO file among several files.

    Such as train=0.8 val=0.2; the shares add up to 1.
    """
    from ntt.convert.coco_files import read_whole
    from ntt.convert.coco_files import split as cut

    shares = _shares(parts)
    outputs = {name: output / f"{name}.json" for name in shares}
    for path in outputs.values():
        check_output(path)
    for name, document in cut(read_whole(file), shares, seed=seed).items():
        write_document(document, outputs[name])


def _shares(parts: tuple[str, ...]) -> dict[str, float]:
    shares: dict[str, float] = {}
    for part in parts:
        name, _, share = part.partition("=")
        try:
            shares[name] = float(share)
        except ValueError:
            raise ConfigError(f"{part!r} is not a part: write NAME=SHARE, such as train=0.8.") from None
        if not name or name != Path(name).name:
            raise ConfigError(f"{part!r}: {name!r} cannot be part of a file name. Use a plain word.")
    if len(shares) < len(parts):
        raise ConfigError(f"A part of {' '.join(parts)} occurs twice. Name each part once.")
    return shares


@data.command("sample-references")
@click.option("--annotations", type=PATH, metavar="FILE", help="COCO file to draw from. Default: dataset=...")
@click.option("--images", type=PATH, metavar="FOLDER", help="Its file names start from here.")
@output_option
@click.option("--pictures", type=PATH, metavar="FOLDER", help="Draw sheets of the references.")
@overrides_argument
def sample(
    annotations: Path | None, images: Path | None, output: Path, pictures: Path | None, overrides: tuple[str, ...]
) -> None:
    """Draw references into a file to keep and share.

    References are drawn as by a run with the same settings KEY=VALUE, such as shots=5shot shots.sampler=reference
    seed=42 split=coco_novel20. A run uses the file with dataset.references=FILE shots.sampler=shot_index.
    """
    from ntt.config.compose import compose_config
    from ntt.convert.references import references_document
    from ntt.data.coco import read_coco
    from ntt.data.images import check_images
    from ntt.models.box_masks import ReferenceMasks
    from ntt.run.inputs import drawn_references, read_inputs, searched_categories
    from ntt.stages.pictures import draw_references

    if annotations is not None and images is None:
        raise ConfigError("--annotations is given without --images. Name the folder its file names start from.")
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
