"""`ntt data convert`: annotations of other formats to COCO files. The originals are never changed."""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ntt.cli.output import check_output, echo
from ntt.convert.base import Converted, write_converted
from ntt.convert.labelme import convert_labelme
from ntt.convert.plain_folder import coco_categories, convert_references, convert_targets
from ntt.convert.reference_pickle import convert_reference_pickle
from ntt.convert.voc import convert_voc
from ntt.convert.yolo import convert_yolo, find_places, read_names
from ntt.data.coco import read_coco
from ntt.errors import ConfigError, DataError
from ntt.types import Category

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def add_convert_command(actions: "Subparsers") -> None:
    """Add `convert FORMAT` to the actions of `ntt data`."""
    convert = actions.add_parser("convert", help="turn annotations of other formats into COCO files")
    formats = convert.add_subparsers(required=True, metavar="FORMAT")
    _add_voc(formats)
    _add_yolo(formats)
    _add_labelme(formats)
    _add_reference_pickle(formats)
    _add_folder(formats)


def write_and_check(converted: Converted, output: Path) -> None:
    """Write a new annotation file, read it as a run will, and say what it holds.

    Raises:
        DataError: if a run could not use it; it is removed then.
    """
    write_converted(converted, output)
    try:
        dataset = read_coco(output, converted.image_root, annotations_required=False)
    except DataError:
        output.unlink()
        raise
    for note in converted.notes:
        echo(f"Note: {note}")
    crowds = sum(one.iscrowd for one in dataset.instances)
    masks = sum(one.segmentation is not None for one in dataset.instances)
    kinds = f"{masks} with a mask, {crowds} crowd regions"
    echo(f"{len(dataset.images)} images, {len(dataset.instances)} objects ({kinds})")
    echo(f"{len(dataset.categories)} classes: {_shortened([category.name for category in dataset.categories])}")
    echo(f"written to {output}")
    echo(f"its file names start from {converted.image_root}")


def _shortened(names: list[str]) -> str:
    return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")


def _new_format(formats: "Subparsers", name: str, text: str) -> argparse.ArgumentParser:
    parser = formats.add_parser(name, help=text, description=text)
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="annotation file to write")
    return parser


def _choose_classes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--categories", type=Path, metavar="FILE", help="keep the classes of this COCO file, with their ids"
    )


def _classes(args: argparse.Namespace) -> tuple[Category, ...] | None:
    return None if args.categories is None else coco_categories(args.categories.expanduser())


def _handled(parser: argparse.ArgumentParser, make: Callable[[argparse.Namespace], Converted]) -> None:
    """Let a parser's command check the output, convert, write, and report."""

    def handler(args: argparse.Namespace) -> int:
        output = args.output.expanduser()
        check_output(output)
        write_and_check(make(args), output)
        return 0

    parser.set_defaults(handler=handler)


def _add_voc(formats: "Subparsers") -> None:
    parser = _new_format(formats, "voc", "Pascal VOC XML files, one an image")
    parser.add_argument("--annotations", type=Path, required=True, metavar="FOLDER", help="of the XML files")
    parser.add_argument("--images", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--list", type=Path, metavar="FILE", help="names of the images to take, one a line")
    _choose_classes(parser)
    parser.add_argument(
        "--difficult",
        choices=("crowd", "keep", "drop"),
        default="crowd",
        help="difficult objects become crowd regions, which VOC's evaluation asks for (default), ordinary objects, or "
        "nothing",
    )
    parser.add_argument(
        "--zero-based", action="store_true", help="corners are counted from 0, the far one exclusive, not VOC's way"
    )
    _handled(
        parser,
        lambda args: convert_voc(
            annotations=args.annotations.expanduser(),
            images=args.images.expanduser(),
            list_file=args.list,
            categories=_classes(args),
            difficult=args.difficult,
            zero_based=args.zero_based,
        ),
    )


def _add_yolo(formats: "Subparsers") -> None:
    parser = _new_format(formats, "yolo", "YOLO text files with boxes or outlines, one an image")
    parser.add_argument("root", type=Path, nargs="?", metavar="FOLDER", help="a set in one of the usual layouts")
    parser.add_argument("--subset", default="train", help="train, val, ..., or all (default: %(default)s)")
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="instead of FOLDER and --subset")
    parser.add_argument("--labels", type=Path, metavar="FOLDER", help="of the text files")
    parser.add_argument("--names", type=Path, metavar="FILE", help="class names: data.yaml or classes.txt")
    _handled(parser, _yolo)


def _yolo(args: argparse.Namespace) -> Converted:
    places = [args.images, args.labels, args.names]
    if args.root is None and None in places:
        raise ConfigError(
            "The place of the images, labels or names is missing. Name a folder in one of the usual layouts, or all of "
            "--images, --labels and --names."
        )
    if None in places:
        found = find_places(args.root.expanduser(), args.subset)
        usual = (found.images, found.labels, found.names_file)
        places = [given or one for given, one in zip(places, usual, strict=True)]
    images, labels, names = (place.expanduser() for place in places)
    return convert_yolo(images=images, labels=labels, names=read_names(names))


def _add_labelme(formats: "Subparsers") -> None:
    parser = _new_format(formats, "labelme", "LabelMe JSON files, one an image")
    parser.add_argument("--annotations", type=Path, required=True, metavar="FOLDER", help="of the JSON files")
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="default: the same folder")
    _choose_classes(parser)
    _handled(
        parser,
        lambda args: convert_labelme(
            annotations=args.annotations.expanduser(),
            images=None if args.images is None else args.images.expanduser(),
            categories=_classes(args),
        ),
    )


def _add_reference_pickle(formats: "Subparsers") -> None:
    parser = _new_format(formats, "references-pickle", "a pickled list of references of the reference implementation")
    parser.add_argument("list", type=Path, metavar="PICKLE")
    parser.add_argument("--annotations", type=Path, required=True, metavar="FILE", help="the COCO file it refers to")
    parser.add_argument("--images", type=Path, required=True, metavar="FOLDER")
    _handled(
        parser,
        lambda args: convert_reference_pickle(
            pickle_file=args.list, dataset=read_coco(args.annotations.expanduser(), args.images.expanduser())
        ),
    )


def _add_folder(formats: "Subparsers") -> None:
    text = "a plain folder with references/CLASS/IMAGE and targets/IMAGE; see docs/own_images.md"
    parser = formats.add_parser("folder", help=text, description=text)
    parser.add_argument("root", type=Path, metavar="FOLDER")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FOLDER", help="gets references.json and targets.json"
    )
    parser.set_defaults(handler=_folder)


def _folder(args: argparse.Namespace) -> int:
    root, output = args.root.expanduser(), args.output.expanduser()
    made = dict(_plain_folder(root))
    for name in made:
        check_output(output / name)
    for name, converted in made.items():
        write_and_check(converted, output / name)
    return 0


def _plain_folder(root: Path) -> Mapping[str, Converted]:
    references = convert_references(root / "references")
    categories = [Category(entry["id"], entry["name"]) for entry in references.document["categories"]]
    return {"references.json": references, "targets.json": convert_targets(root / "targets", categories)}
