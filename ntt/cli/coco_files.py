"""`ntt data merge|subset|split`: COCO files put together, cut down and cut apart, into new files."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ntt.base.files import write_json
from ntt.cli.convert import write_and_check
from ntt.cli.output import check_output, echo
from ntt.convert.coco_files import merge, read_whole, split, subset
from ntt.convert.voc import read_list
from ntt.errors import ConfigError
from ntt.types import Json

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def add_coco_file_commands(actions: "Subparsers") -> None:
    """Add `merge`, `subset` and `split` to the actions of `ntt data`."""
    _add_merge(actions)
    _add_subset(actions)
    _add_split(actions)


def _add_merge(actions: "Subparsers") -> None:
    parser = actions.add_parser("merge", help="put COCO files together; classes are matched by name")
    parser.add_argument(
        "--input",
        nargs=2,
        type=Path,
        action="append",
        required=True,
        metavar=("FILE", "IMAGES"),
        help="an annotation file and its image folder; give it once for each file",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FILE")
    parser.set_defaults(handler=_merge)


def _merge(args: argparse.Namespace) -> int:
    check_output(args.output)
    if len(args.input) < 2:
        raise ConfigError("--input is given once, there is nothing to merge it with. Give it once for each file.")
    write_and_check(merge([(file.expanduser(), images.expanduser()) for file, images in args.input]), args.output)
    return 0


def _add_subset(actions: "Subparsers") -> None:
    parser = actions.add_parser("subset", help="keep some classes or images of a COCO file")
    parser.add_argument("file", type=Path, metavar="FILE", help="not changed")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE")
    parser.add_argument("--classes", nargs="+", metavar="NAME", help="keep these classes only")
    parser.add_argument("--images", type=int, metavar="N", help="keep N images, drawn by --seed")
    parser.add_argument("--seed", type=int, default=0, help="of the draw (default: %(default)s)")
    parser.add_argument("--list", type=Path, metavar="FILE", help="keep the images named there, one a line")
    parser.add_argument("--drop-empty", action="store_true", help="leave out images without an object of the classes")
    parser.set_defaults(handler=_subset)


def _subset(args: argparse.Namespace) -> int:
    check_output(args.output)
    made = subset(
        read_whole(args.file),
        classes=args.classes,
        num_images=args.images,
        seed=args.seed,
        names=None if args.list is None else read_list(args.list),
        drop_empty=args.drop_empty,
    )
    _write(made, args.output)
    return 0


def _add_split(actions: "Subparsers") -> None:
    parser = actions.add_parser("split", help="deal the images of a COCO file out to several files")
    parser.add_argument("file", type=Path, metavar="FILE", help="not changed")
    parser.add_argument("parts", nargs="+", metavar="NAME=SHARE", help="such as train=0.8 val=0.2; adds up to 1")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="gets NAME.json of each part")
    parser.add_argument("--seed", type=int, default=0, help="of the draw (default: %(default)s)")
    parser.set_defaults(handler=_split)


def _split(args: argparse.Namespace) -> int:
    parts = _parts(args.parts)
    outputs = {name: args.output / f"{name}.json" for name in parts}
    for output in outputs.values():
        check_output(output)
    for name, made in split(read_whole(args.file), parts, seed=args.seed).items():
        _write(made, outputs[name])
    return 0


def _parts(words: Sequence[str]) -> dict[str, float]:
    parts: dict[str, float] = {}
    for word in words:
        name, _, share = word.partition("=")
        try:
            parts[name] = float(share)
        except ValueError:
            raise ConfigError(f"{word!r} is not a part: write NAME=SHARE, such as train=0.8.") from None
        if not name or name != Path(name).name:
            raise ConfigError(f"{word!r}: {name!r} cannot be part of a file name. Use a plain word.")
    if len(parts) < len(words):
        raise ConfigError(f"A part of {' '.join(words)} occurs twice. Name each part once.")
    return parts


def _write(document: Json, output: Path) -> None:
    write_json(output, document, indent=None)
    counts = (len(document["images"]), len(document.get("annotations") or []), len(document["categories"]))
    echo(f"{counts[0]} images, {counts[1]} annotations, {counts[2]} classes written to {output}")
