"""Point and box prompts: the grid, and their embedding.

Coordinates are (x, y) in pixels of the 1024 x 1024 canvas. Shapes: B prompts, P tokens of each, C channels of a
token, N image tokens in row-major order.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch

from ntt.errors import ConfigError
from ntt.models.segmenters.sam2.model import CANVAS_PX, TOKEN_GRID

_POSITIVE, _TOP_LEFT, _BOTTOM_RIGHT = 1, 2, 3


def point_grid(points_per_side: int, *, drop_remainder_of: int | None = None) -> torch.Tensor:
    """Lay a square grid of points over the canvas: float32 [B, 2], x-major, so that y varies fastest.

    The coordinates along each axis are `linspace(0, 1023, points_per_side) + 0.5`: the last point lies half a pixel
    outside the canvas, as in the published method. With `drop_remainder_of` the list is divided into batches of this
    size and an incomplete last one dropped, as the published program does; a ConfigError if no point is left.
    """
    axis = torch.linspace(0, CANVAS_PX - 1, points_per_side) + 0.5
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), dim=-1).reshape(-1, 2)
    if drop_remainder_of is None:
        return grid
    count = len(grid) - len(grid) % drop_remainder_of
    if count == 0:
        raise ConfigError(
            f"segmenter.drop_remainder_of is {drop_remainder_of}, more than the {len(grid)} points of a "
            f"{points_per_side} x {points_per_side} grid: no point would be left. Lower it, set it to null, or raise "
            "segmenter.points_per_side."
        )
    return grid[:count]


@dataclass(frozen=True)
class PromptEncoder:
    """Embeds prompts with a checkpoint's weights: F = C / 2 random frequencies of the position encoding.

    Attributes:
        kinds_4C: what is added for a negative point, a positive point, a top-left and a bottom-right corner.
        padding_C: the token that ends every list of points.
        no_mask_C: what is added to the image embedding if no mask is given as a prompt.
    """

    frequencies_2F: torch.Tensor
    kinds_4C: torch.Tensor
    padding_C: torch.Tensor
    no_mask_C: torch.Tensor

    @classmethod
    def from_state(cls, state: Mapping[str, torch.Tensor]) -> "PromptEncoder":
        """Take the weights from a state dict with official names."""
        prefix = "sam_prompt_encoder."
        kinds = torch.cat([state[f"{prefix}point_embeddings.{kind}.weight"] for kind in range(4)])
        return cls(
            state[f"{prefix}pe_layer.positional_encoding_gaussian_matrix"],
            kinds,
            state[f"{prefix}not_a_point_embed.weight"][0],
            state[f"{prefix}no_mask_embed.weight"][0],
        )

    def to(self, device: torch.device) -> "PromptEncoder":
        """Copy to a device."""
        return PromptEncoder(*(getattr(self, field.name).to(device) for field in fields(self)))

    def positions(self, points_2: torch.Tensor) -> torch.Tensor:
        """Encode positions, float32 [..., 2], (x, y) as fractions of the canvas; float32 [..., C]."""
        angles = 2 * math.pi * ((2 * points_2 - 1) @ self.frequencies_2F)
        return torch.cat([angles.sin(), angles.cos()], dim=-1)

    def grid_positions(self) -> torch.Tensor:
        """Encode the centres of the image tokens, float32 [C, N]."""
        axis = (torch.arange(TOKEN_GRID, device=self.frequencies_2F.device) + 0.5) / TOKEN_GRID
        y, x = torch.meshgrid(axis, axis, indexing="ij")
        return self.positions(torch.stack([x, y], dim=-1)).flatten(0, 1).T.contiguous()

    def points(self, points_B2: torch.Tensor) -> torch.Tensor:
        """Embed one positive point per prompt, float32 [B, 2, C]."""
        # The model adds half a pixel to every coordinate, on top of the grid's own.
        tokens = self.positions((points_B2[:, None] + 0.5) / CANVAS_PX) + self.kinds_4C[_POSITIVE]
        return torch.cat([tokens, self._padding(len(points_B2))], dim=1)

    def boxes(self, boxes_xyxy: torch.Tensor) -> torch.Tensor:
        """Embed one box per prompt, float32 [B, 3, C]; `boxes_xyxy` is [B, 4] in canvas pixels."""
        corners = self.positions((boxes_xyxy.reshape(-1, 2, 2) + 0.5) / CANVAS_PX)
        corners = corners + self.kinds_4C[[_TOP_LEFT, _BOTTOM_RIGHT]]
        return torch.cat([corners, self._padding(len(corners))], dim=1)

    def _padding(self, count: int) -> torch.Tensor:
        return self.padding_C.expand(count, 1, -1)
