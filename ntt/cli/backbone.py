"""`ntt backbone`: check that an encoder computes the same as its authors' code."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ntt.base.project import WEIGHTS_ROOT
from ntt.cli.options import PATH

if TYPE_CHECKING:
    import torch


@click.group()
def backbone() -> None:
    """Check an encoder against its authors' code."""


@backbone.command()
@click.argument("images", nargs=-1, type=PATH, metavar="[IMAGE]...")
@click.option("--repo-dir", type=PATH, required=True, metavar="FOLDER", help="Clone of Meta's repository.")
@click.option("--model", default="dinov2_vitl14", help="As in conf/backbone.")
@click.option("--weights", type=PATH, metavar="FILE", help="In Meta's layout. Default: the official file.")
@click.option("--root", type=PATH, default=WEIGHTS_ROOT, metavar="FOLDER", help="Of official weights.")
@click.option("--input-size", default=518, metavar="PX", help="Images are resized to this side.")
@click.option(
    "--tolerance", type=click.FloatRange(min=0), default=1e-4, help="Largest difference of a feature allowed."
)
def compare(
    images: tuple[Path, ...],
    repo_dir: Path,
    model: str,
    weights: Path | None,
    root: Path,
    input_size: int,
    tolerance: float,
) -> int:
    """Compare timm's DINOv2 with Meta's own code on the same weights and images.

    Encodes the images (default: one of random colours) with timm's network, which backbone.implementation=timm uses,
    and with Meta's own code, backbone.implementation=official, and prints how much the features differ. The exit
    status is 1 if they differ by more than the tolerance.
    """
    from dataclasses import replace

    from torch.nn.functional import cosine_similarity

    from ntt.models.backbones.dinov2 import PATCH_SIZE, Dinov2Config, variant
    from ntt.models.backbones.vit import check_input_size
    from ntt.models.weights import locate
    from ntt.types import Placement

    variant(model)
    check_input_size(input_size, PATCH_SIZE)
    weights_file = str(weights or locate(model, root))
    config = Dinov2Config(name=model, model=model, weights=weights_file, input_size=input_size)
    official = replace(config, implementation="official", repo_dir=str(repo_dir))
    images_B3HW = _read(images, input_size)
    ours, theirs = (each.build(Placement()).encode(images_B3HW).cpu().double() for each in (config, official))
    difference = float((ours - theirs).abs().max())
    # Written so that NaN counts as a difference.
    differs = not difference <= tolerance
    count = f"{len(images)} image(s)" if images else "one image of random colours"
    click.echo(f"{model} at {input_size} pixels, {count}: timm's network against the code in {repo_dir}")
    click.echo(f"largest difference of a feature  {difference:.2e}")
    click.echo(f"mean size of a feature           {float(theirs.abs().mean()):.2e}")
    click.echo(f"smallest cosine of two tokens    {float(cosine_similarity(ours, theirs, dim=1).min()):.8f}")
    click.echo(f"the implementations {'differ by more than' if differs else 'agree within'} {tolerance:g}")
    return int(differs)


def _read(paths: tuple[Path, ...], side: int) -> "torch.Tensor":
    """Return float32 [B, 3, side, side], RGB in [0, 1]."""
    import torch

    from ntt.data.images import read_image, upright_size
    from ntt.ops.resize import resize_to_canvas
    from ntt.types import ImageRecord

    if not paths:
        return torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    canvases = []
    for path in paths:
        height, width = upright_size(path)
        record = ImageRecord(id=path.name, file_name=path.name, path=path, height=height, width=width)
        canvases.append(resize_to_canvas(read_image(record), (side, side)))
    return torch.stack(canvases)
