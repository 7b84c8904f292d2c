"""What the vision-transformer backbones share: checks of settings and shapes, normalisation, tokens to maps."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from ntt.errors import ConfigError

T = TypeVar("T")


def check_input_size(input_size: int, patch_size: int, *, backbone: str) -> None:
    """Refuse an input size that is no positive multiple of the patch size.

    Raises:
        ConfigError: naming the nearest sizes that are.
    """
    if input_size > 0 and input_size % patch_size == 0:
        return
    below = max(input_size // patch_size, 1) * patch_size
    raise ConfigError(
        f"backbone.input_size={input_size} cannot be used with {backbone}: it must be a positive multiple of its patch "
        f"size {patch_size}. Choose for example {below} or {below + patch_size}."
    )


def without_values(create: Callable[[], T]) -> T:
    """Build a network whose tensors are all to be replaced, without drawing random values for them.

    Older versions of timm read tensors while they build, which needs storage; then the values are drawn after all,
    and the caller's random stream does not notice.
    """
    try:
        with torch.device("meta"):
            return create()
    except RuntimeError:
        with torch.random.fork_rng(devices=[]):
            return create()


def normalise(
    images_B3HW: torch.Tensor, *, side: int, mean: Sequence[float], std: Sequence[float], device: torch.device
) -> torch.Tensor:
    """Check a batch of images, move it to a device and standardise its channels.

    Args:
        images_B3HW: float RGB in [0, 1], H = W = `side`.
        side: of the square images, pixels.
        mean: per channel, in the unit of the images.
        std: per channel, in the unit of the images.
        device: where the result shall be.

    Returns:
        float32 [B, 3, H, W].

    Raises:
        ValueError: if the input has another shape.
    """
    if images_B3HW.ndim != 4 or tuple(images_B3HW.shape[1:]) != (3, side, side):
        raise ValueError(f"images of shape {tuple(images_B3HW.shape)}; expected [B, 3, {side}, {side}]")
    images = images_B3HW.to(device, torch.float32)
    mean_311, std_311 = (torch.tensor(values, device=device).view(3, 1, 1) for values in (mean, std))
    return (images - mean_311) / std_311


def tokens_to_map(tokens_BND: torch.Tensor, rows: int) -> torch.Tensor:
    """Lay row-major patch tokens of square images out as float32 maps [B, D, rows, rows]."""
    batch, count, channels = tokens_BND.shape
    if count != rows * rows:
        raise AssertionError(f"{count} patch tokens for a grid of {rows} x {rows}")
    return tokens_BND.float().transpose(1, 2).reshape(batch, channels, rows, rows)
