"""`ntt backbone`: check that an encoder computes what its authors' own code computes."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ntt.cli.output import echo
from ntt.data.images import read_image, upright_size
from ntt.errors import ConfigError
from ntt.models.backbones.dinov2 import Dinov2Config, ImplementationComparison, compare_implementations
from ntt.models.backbones.dinov2_checkpoint import PATCH_SIZE, VARIANTS, variant
from ntt.models.backbones.vit import check_input_size
from ntt.models.weights import DEFAULT_ROOT, locate
from ntt.ops.canvas import canvas_of
from ntt.types import ImageRecord, Placement

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def add_backbone_commands(subparsers: "Subparsers") -> None:
    """Add `backbone compare` to the commands of a parser."""
    backbone = subparsers.add_parser("backbone", help="check an encoder against its authors' code", description=__doc__)
    actions = backbone.add_subparsers(required=True, metavar="ACTION")
    compare = actions.add_parser(
        "compare",
        help="compare timm's DINOv2 with Meta's own code on the same weights and images",
        description="Encode images with timm's network, which backbone.implementation=timm uses, and with Meta's own "
        "code, backbone.implementation=official, and print how far the features are apart. The exit status is 1 where "
        "they differ by more than the tolerance.",
    )
    compare.add_argument("images", type=Path, nargs="*", metavar="IMAGE", help="default: one image of random colours")
    compare.add_argument("--repo-dir", type=Path, required=True, metavar="FOLDER", help="clone of Meta's repository")
    compare.add_argument(
        "--model", default="dinov2_vitl14", help=f"one of {', '.join(VARIANTS)} (default: %(default)s)"
    )
    compare.add_argument("--weights", type=Path, metavar="FILE", help="in Meta's layout (default: the official file)")
    compare.add_argument(
        "--root", type=Path, default=DEFAULT_ROOT, metavar="FOLDER", help="of official weights (default: %(default)s)"
    )
    compare.add_argument("--input-size", type=int, default=518, metavar="PX", help="images are resized to this side")
    compare.add_argument(
        "--tolerance", type=float, default=1e-4, help="largest difference of a feature allowed (default: %(default)s)"
    )
    compare.set_defaults(handler=_compare)


def _compare(args: argparse.Namespace) -> int:
    variant(args.model)
    check_input_size(args.input_size, PATCH_SIZE)
    if not args.tolerance >= 0:
        raise ConfigError(f"--tolerance={args.tolerance} is not possible: 0 or more is allowed. Leave it out for 1e-4.")
    weights = locate(args.model, args.root) if args.weights is None else args.weights
    found = compare_implementations(
        Dinov2Config(name=args.model, model=args.model, weights=str(weights), input_size=args.input_size),
        Placement(),
        repo_dir=args.repo_dir.expanduser(),
        images_B3HW=_read(args.images, args.input_size),
    )
    return _tell(found, args)


def _read(paths: list[Path], side: int) -> torch.Tensor:
    """Return float32 [B, 3, side, side], RGB in [0, 1]."""
    if not paths:
        return torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    return torch.stack([canvas_of(read_image(_record(path.expanduser())), (side, side)) for path in paths])


def _record(path: Path) -> ImageRecord:
    height, width = upright_size(path)
    return ImageRecord(id=path.name, file_name=path.name, path=path, height=height, width=width)


def _tell(found: ImplementationComparison, args: argparse.Namespace) -> int:
    # Written so that a difference that is not a number is one.
    differs = not found.max_abs_difference <= args.tolerance
    images = f"{len(args.images)} image(s)" if args.images else "one image of random colours"
    echo(f"{args.model} at {args.input_size} pixels, {images}: timm's network against the code in {args.repo_dir}")
    echo(f"largest difference of a feature  {found.max_abs_difference:.2e}")
    echo(f"mean size of a feature           {found.mean_abs_feature:.2e}")
    echo(f"smallest cosine of two tokens    {found.min_cosine:.8f}")
    echo(f"the implementations {'differ by more than' if differs else 'agree within'} {args.tolerance:g}")
    return int(differs)
