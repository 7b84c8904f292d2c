"""Stand-in weights: every tensor follows from its name and shape, as when the golden values were recorded.

Checkpoints cannot be fetched where these tests run. Networks filled by this rule compute something meaningless but
definite, so that an implementation can be compared number by number with one filled the same way.
"""

import math
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn


def filled_tensor(name: str, shape: Sequence[int]) -> torch.Tensor:
    """Values of one float32 tensor: standard normal from the CRC-32 of its name, then scaled by its role."""
    normal = np.asarray(np.random.default_rng(zlib.crc32(name.encode())).standard_normal(tuple(shape)))
    shift, scale = _shift_and_scale(name, tuple(shape))
    return torch.from_numpy(shift + scale * normal).to(torch.float32)


def _shift_and_scale(name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    leaf = name.split(".")[-1]
    if leaf == "gamma":  # layer scale
        return 0.2, 0.05
    if leaf == "bias":
        return 0.0, 0.05
    if len(shape) == 1:  # gain of a normalisation
        return 1.0, 0.1
    if leaf == "positional_encoding_gaussian_matrix":
        return 0.0, 1.0
    if "token" in name or "embed" in leaf or (leaf == "weight" and "embeddings" in name):
        return 0.0, 0.5
    return 0.0, 1.0 / math.sqrt(max(math.prod(shape[1:]), 1))


def filled_tensors(shapes: Mapping[str, Sequence[int]]) -> dict[str, torch.Tensor]:
    """Values for a whole state dict, given the shapes of its tensors."""
    return {name: filled_tensor(name, shape) for name, shape in shapes.items()}


@torch.no_grad()
def fill_state_dict(module: nn.Module) -> None:
    """Overwrite every floating-point tensor of a module's state dict in place."""
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(filled_tensor(name, tensor.shape))
