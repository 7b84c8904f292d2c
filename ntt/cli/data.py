"""`ntt data`: fetch, make and check data sets."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ntt.cli.boxes_to_masks import add_boxes_to_masks_command
from ntt.cli.coco_files import add_coco_file_commands
from ntt.cli.convert import add_convert_command
from ntt.cli.data_check import add_check_command
from ntt.cli.data_get import add_get_command
from ntt.cli.output import echo
from ntt.cli.references import add_reference_commands
from ntt.datasets.demo import copy_demo

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def add_data_commands(subparsers: "Subparsers") -> None:
    """Add the `data` actions to the commands of a parser."""
    data = subparsers.add_parser("data", help="fetch, make and check data sets", description=__doc__)
    actions = data.add_subparsers(required=True, metavar="ACTION")
    demo = actions.add_parser("demo", help="copy the demo data set into a new folder")
    demo.add_argument("folder", type=Path, metavar="FOLDER")
    demo.set_defaults(handler=_demo)
    add_check_command(actions)
    add_get_command(actions)
    add_boxes_to_masks_command(actions)
    add_convert_command(actions)
    add_coco_file_commands(actions)
    add_reference_commands(actions)


def _demo(args: argparse.Namespace) -> int:
    copy_demo(args.folder)
    echo(f"The demo data set is in {args.folder.absolute()}")
    return 0
