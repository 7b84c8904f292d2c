"""`ntt data boxes-to-masks`: masks for an annotation file that has only boxes."""

import argparse
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ntt.cli.output import check_output, echo
from ntt.config.command_line import check_overrides
from ntt.config.compose import compose_config
from ntt.config.schema import ExperimentConfig
from ntt.data.coco import CocoDataset, read_coco
from ntt.data.images import check_images, read_image
from ntt.data.masks import instance_rle
from ntt.drawing import DrawnInstances, draw_instances
from ntt.errors import ConfigError
from ntt.models.box_masks import BoxMasks, Conversion, choose_box_segmenter, convert
from ntt.models.segmenters.base import BoxSegmenter
from ntt.run.environment import apply_runtime
from ntt.stages.visualisation import picture_stem, save_picture
from ntt.store.store import Store
from ntt.types import ImageRecord, Instance

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def add_boxes_to_masks_command(actions: "Subparsers") -> None:
    """Add `boxes-to-masks` to the actions of `ntt data`."""
    parser = actions.add_parser(
        "boxes-to-masks",
        help="make masks of the boxes of a COCO annotation file",
        description="Write a copy of an annotation file in which every box-only annotation has a mask. What is done "
        "is kept beside the output while the command runs, so an interrupted one goes on where it stopped.",
    )
    parser.add_argument("--annotations", type=Path, required=True, metavar="FILE", help="COCO file; not changed")
    parser.add_argument("--images", type=Path, required=True, metavar="FOLDER", help="its file names start from here")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="annotation file to write")
    parser.add_argument("--segmenter", metavar="OPTION", help="as in conf/segmenter, such as sam2 (default: regions)")
    parser.add_argument("--format", choices=("rle", "polygon"), default="rle", help="of masks (default: %(default)s)")
    parser.add_argument("--overwrite-masks", action="store_true", help="also for annotations that have a mask")
    parser.add_argument(
        "--image-batch",
        type=int,
        metavar="N",
        help="images that go through a SAM2 segmenter together (default: 1 on a CPU, 4 on a GPU); other segmenters "
        "take one image at a time",
    )
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="draw every image with its new masks")
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="settings of the run, such as runtime.device=cpu"
    )
    parser.set_defaults(handler=_run)


def _run(args: argparse.Namespace) -> int:
    annotations, output = args.annotations.expanduser(), args.output.expanduser()
    check_output(output, sources=[annotations])
    if args.image_batch is not None and args.image_batch < 1:
        raise ConfigError(f"--image-batch {args.image_batch} is not possible: 1 or more is allowed. Leave it out.")
    chosen = [] if args.segmenter is None else [f"segmenter={args.segmenter}"]
    overrides = [*chosen, *args.overrides]
    check_overrides(overrides)
    segmenter = _build(compose_config(overrides))
    dataset = read_coco(annotations, args.images.expanduser())
    check_images([dataset.images[one] for one in dict.fromkeys(i.image_id for i in dataset.instances)])
    parts = output.with_name(f"{output.name}.parts")
    if parts.is_dir():
        echo(f"Going on with what is in {parts}")
    result = convert(
        dataset=dataset,
        output=output,
        box_masks=BoxMasks(segmenter, Store(parts)),
        mask_format=args.format,
        overwrite_masks=args.overwrite_masks,
        image_batch=args.image_batch,
        on_image=None if args.pictures is None else partial(_draw, _Painter(dataset, args.pictures.expanduser())),
    )
    shutil.rmtree(parts, ignore_errors=True)
    _tell(result, segmenter.name, output)
    return 0


def _build(config: ExperimentConfig) -> BoxSegmenter:
    placement = apply_runtime(config.runtime, local_rank=0)
    segmenter, backbone = config.segmenter.build(placement), config.backbone.build(placement)
    made = choose_box_segmenter("segmenter", segmenter, backbone)
    assert made is not None
    return made


def _tell(result: Conversion, name: str, output: Path) -> None:
    echo(f"{result.made} masks made by {name}, {result.kept} annotations left as they were")
    count = len(result.fallen_back)
    if count:
        shown = ", ".join(map(str, result.fallen_back[:10])) + (", ..." if count > 10 else "")
        echo(f"Warning: {name} found nothing in {count} boxes, which serve as masks themselves (annotations {shown})")
    echo(f"written to {output}")


@dataclass(frozen=True)
class _Painter:
    """Draws images with their new masks."""

    dataset: CocoDataset
    folder: Path


def _draw(painter: _Painter, record: ImageRecord, instances: Sequence[Instance], rles: Mapping[int, bytes]) -> None:
    """Draw one image."""
    categories = painter.dataset.categories
    index = {category.id: place for place, category in enumerate(categories)}
    own = {one.id: instance_rle(one, record.height, record.width) for one in instances if one.segmentation is not None}
    masks = {**own, **rles}
    drawn = DrawnInstances(
        labels=np.array([index[one.category_id] for one in instances], dtype=np.int64),
        boxes_xywh=np.array([one.bbox_xywh for one in instances], dtype=np.float32).reshape(-1, 4),
        rles=[masks.get(one.id) for one in instances],
        iscrowd=np.array([one.iscrowd for one in instances], dtype=bool),
    )
    picture = draw_instances(read_image(record), drawn, [category.name for category in categories])
    save_picture(picture, painter.folder / f"{picture_stem(record)}.png")
