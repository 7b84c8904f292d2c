"""From an image to the input of the models (method.md §4).

Suffixes: H and W the image, h and w the segmenter's canvas, S the encoder's input side; all in pixels.
"""

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from ntt.ops.resize import resize_bicubic


def resize_to_canvas(image_HW3: npt.NDArray[np.uint8], canvas_hw: tuple[int, int]) -> torch.Tensor:
    """Resize an image, uint8 RGB, to the segmenter's canvas: float32 [3, h, w], RGB in [0, 1]; bicubic, antialiased."""
    rows, columns = canvas_hw
    canvas = Image.fromarray(image_HW3).resize((columns, rows), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(canvas)).permute(2, 0, 1).float() / 255.0


def encoder_input(canvas_3hw: torch.Tensor, input_size: int) -> torch.Tensor:
    """Resize a canvas to the encoder's square input, float32 [1, 3, S, S]: bicubic, without antialiasing."""
    return resize_bicubic(canvas_3hw, (input_size, input_size))[None]
