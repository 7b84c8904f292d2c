"""`ntt data`: make and check data sets."""

import argparse
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from ntt.commands.boxes_to_masks import add_boxes_to_masks_command
from ntt.commands.output import echo
from ntt.data.coco import CocoDataset, read_coco
from ntt.data.demo import make_demo
from ntt.data.images import check_images
from ntt.datasets.coco_json import CocoJsonConfig
from ntt.inputs import check_agreement

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def add_data_commands(subparsers: "Subparsers") -> None:
    """Add `data demo|check|boxes-to-masks` to the commands of a parser."""
    data = subparsers.add_parser("data", help="make and check data sets", description=__doc__)
    actions = data.add_subparsers(required=True, metavar="ACTION")
    demo = actions.add_parser("demo", help="generate the demo data set into a folder")
    demo.add_argument("folder", type=Path, metavar="FOLDER")
    demo.add_argument("--seed", type=int, default=0, help="decides which objects stand where (default: 0)")
    demo.add_argument("--targets", type=int, default=24, metavar="N", help="target images to compose (default: 24)")
    demo.set_defaults(handler=_demo)
    check = actions.add_parser("check", help="look for everything in a COCO-format folder that would stop a run")
    check.add_argument("root", type=Path, metavar="FOLDER")
    layout = CocoJsonConfig()
    check.add_argument("--references", default=layout.references, help="default: %(default)s")
    check.add_argument("--targets", default=layout.targets, help="default: %(default)s")
    check.add_argument("--reference-images", default=layout.reference_images, help="default: %(default)s")
    check.add_argument("--target-images", default=layout.target_images, help="default: %(default)s")
    check.add_argument("--decode", action="store_true", help="decode every image completely")
    check.set_defaults(handler=_check)
    add_boxes_to_masks_command(actions)


def _demo(args: argparse.Namespace) -> int:
    root = make_demo(args.folder.absolute(), seed=args.seed, num_targets=args.targets)
    echo(f"The demo data set is in {root}")
    return 0


def _check(args: argparse.Namespace) -> int:
    files = CocoJsonConfig(
        name="coco_json",
        root=str(args.root),
        references=args.references,
        targets=args.targets,
        reference_images=args.reference_images,
        target_images=args.target_images,
    ).locate(args.root)
    references = read_coco(files.references_file, files.reference_images)
    targets = read_coco(files.targets_file, files.target_images, annotations_required=False)
    check_images([*references.images.values(), *targets.images.values()], full=args.decode)
    for role, dataset in (("references", references), ("targets", targets)):
        echo(f"{role}: {dataset.annotation_file}")
        echo(f"  {len(dataset.images)} images, {len(dataset.instances)} annotations, {_kind(dataset)}")
    echo(_class_table(references, targets))
    check_agreement(references.categories, targets)
    usable = {one.category_id for one in references.instances if not one.iscrowd}
    lacking = [category.name for category in references.categories if category.id not in usable]
    if lacking:
        echo(
            f"No example in the references: {', '.join(lacking)}. A run with split=all refuses these classes: annotate "
            "one each, or name the others in split.classes."
        )
    return 1 if lacking else 0


def _kind(dataset: CocoDataset) -> str:
    objects = [one for one in dataset.instances if not one.iscrowd]
    if not objects:
        return "no annotations: predictions and pictures, no metrics"
    with_mask = sum(one.segmentation is not None for one in objects)
    if with_mask == len(objects):
        return "masks"
    return (
        "boxes only" if with_mask == 0 else f"{with_mask} of {len(objects)} objects with a mask, the others boxes only"
    )


def _class_table(references: CocoDataset, targets: CocoDataset) -> str:
    counts = [Counter(one.category_id for one in data.instances if not one.iscrowd) for data in (references, targets)]
    width = max(len("class"), *(len(category.name) for category in references.categories))
    lines = [f"{'class':<{width}}  references  targets"]
    for category in references.categories:
        lines.append(f"{category.name:<{width}}  {counts[0][category.id]:>10}  {counts[1][category.id]:>7}")
    return "\n".join(lines)
