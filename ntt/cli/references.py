"""`ntt data sample-references`: references to keep and share."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, cast

from ntt.cli.convert import write_and_check
from ntt.cli.output import check_output, echo
from ntt.config.command_line import check_overrides
from ntt.config.compose import compose_config
from ntt.config.schema import ExperimentConfig
from ntt.convert.references_file import references_document
from ntt.data.coco import CocoDataset, read_coco
from ntt.data.images import check_images
from ntt.data.splits import resolve_split
from ntt.errors import ConfigError
from ntt.models.box_masks import ReferenceMasks
from ntt.run.inputs import read_inputs
from ntt.stages.references import SamplerName, sample_references
from ntt.stages.visualisation import draw_references
from ntt.types import Category, ReferenceSet

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def add_reference_commands(actions: "Subparsers") -> None:
    """Add `sample-references` to the actions of `ntt data`."""
    parser = actions.add_parser(
        "sample-references",
        help="draw references and write them to a file to keep and share",
        description="Draws references as a run with the same settings does and writes them to a COCO file whose "
        "annotations carry `shot_index`. A run uses it with dataset.references=FILE shots.sampler=shot_index.",
    )
    parser.add_argument(
        "--annotations", type=Path, metavar="FILE", help="COCO file to draw from (default: dataset=...)"
    )
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="its file names start from here")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="references file to write")
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="draw sheets of the references")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="settings of the run, such as shots=5shot shots.sampler=reference seed=42 split=coco_novel20",
    )
    parser.set_defaults(handler=_sample)


def _sample(args: argparse.Namespace) -> int:
    check_output(args.output, sources=[path for path in (args.annotations,) if path is not None])
    check_overrides(args.overrides)
    config = compose_config(args.overrides)
    dataset, categories = _source(args, config)
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
    if args.pictures is not None:
        check_images(list(references.images.values()))
    write_and_check(references_document(references, dataset), args.output)
    echo(f"digest {references.digest}")
    if args.pictures is not None:
        _draw(references, args.pictures)
    return 0


def _source(args: argparse.Namespace, config: ExperimentConfig) -> tuple[CocoDataset, tuple[Category, ...]]:
    """Return the annotations to draw from and the classes to draw for."""
    if args.annotations is None:
        inputs = read_inputs(config)
        return inputs.reference_data, inputs.categories
    if args.images is None:
        raise ConfigError("--annotations is given without --images. Name the folder its file names start from.")
    dataset = read_coco(args.annotations.expanduser(), args.images.expanduser())
    split = config.split
    return dataset, resolve_split(split.name, split.classes, dataset.categories, dataset.frequencies)


def _draw(references: ReferenceSet, folder: Path) -> None:
    for path in draw_references(references=references, masks=ReferenceMasks(None), folder=folder.expanduser()):
        echo(f"drawn in {path}")
