"""`ntt backbone`: check that an encoder computes the same as its authors' code."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ntt.cli.options import PATH, overrides_argument
from ntt.errors import ConfigError

if TYPE_CHECKING:
    import torch


@click.group()
def backbone() -> None:
    """Check a backbone against its authors' code."""


@backbone.command()
@overrides_argument
@click.option("--repo-dir", type=PATH, required=True, metavar="FOLDER", help="Clone of Meta's repository.")
@click.option("--image", "images", type=PATH, multiple=True, metavar="FILE", help="To encode; may be repeated.")
@click.option(
    "--tolerance", type=click.FloatRange(min=0), default=1e-4, help="Largest difference of a feature allowed."
)
def compare(overrides: tuple[str, ...], repo_dir: Path, images: tuple[Path, ...], tolerance: float) -> int:
    """Compare timm's DINOv2 with Meta's own code.

    Encodes the images (default: one of random colours) with timm's network, which backbone.implementation=timm uses,
    and with Meta's own code, backbone.implementation=official, and prints how much the features differ. KEY=VALUE are
    settings of a run, such as backbone=dinov2_vitl14 backbone.input_size=518. The exit status is 1 if the features
    differ by more than the tolerance.
    """
    from dataclasses import replace

    from torch.nn.functional import cosine_similarity

    from ntt.config.compose import compose_config
    from ntt.models.backbones.dinov2 import Dinov2Config
    from ntt.types import Placement

    settings = compose_config(overrides)
    config, runtime = settings.backbone, settings.runtime
    placement = Placement(runtime.device, runtime.precision, runtime.compile, Path(runtime.weights_root).expanduser())
    if not isinstance(config, Dinov2Config):
        raise ConfigError(f"backbone={config.name} is no DINOv2 model. Name one, such as backbone=dinov2_vitl14.")
    official = replace(config, implementation="official", repo_dir=str(repo_dir))
    encoders = [each.build(placement) for each in (replace(config, implementation="timm", repo_dir=None), official)]
    images_B3HW = _read(images, config.input_size)
    ours, theirs = (encoder.encode(images_B3HW).cpu().double() for encoder in encoders)
    difference = float((ours - theirs).abs().max())
    # Written so that NaN counts as a difference.
    differs = not difference <= tolerance
    count = f"{len(images)} image(s)" if images else "one image of random colours"
    click.echo(f"{config.model} at {config.input_size} pixels, {count}: timm's network against the code in {repo_dir}")
    click.echo(f"largest difference of a feature  {difference:.2e}")
    click.echo(f"mean size of a feature           {float(theirs.abs().mean()):.2e}")
    click.echo(f"smallest cosine of two tokens    {float(cosine_similarity(ours, theirs, dim=1).min()):.8f}")
    click.echo(f"the implementations {'differ by more than' if differs else 'agree within'} {tolerance:g}")
    return int(differs)


def _read(paths: tuple[Path, ...], side: int) -> "torch.Tensor":
    """Return float32 [B, 3, side, side], RGB in [0, 1]."""
    import torch

    from ntt.data.images import read_image
    from ntt.ops.resize import resize_to_canvas
    from ntt.predictor.references import image_file

    if not paths:
        return torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    return torch.stack([resize_to_canvas(read_image(image_file(path, path, 0)), (side, side)) for path in paths])
