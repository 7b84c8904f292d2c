"""Class colours that can be told apart, on photographs and from each other.

Distances are Euclidean in OKLab (B. Ottosson, "A perceptual color space for image processing", 2020), where equal
distances look about equally different.
"""

from functools import lru_cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

ByteArray: TypeAlias = npt.NDArray[np.uint8]
Rgb: TypeAlias = tuple[int, int, int]

DISTINCT_COLOURS = 100
"""Classes beyond this many take the colours from the start again."""

_FIRST_COLOUR = (240, 88, 60)
_LIGHTNESS = (0.54, 0.90)
_CHROMA = (0.06, 0.21)


def class_colours(num_classes: int) -> ByteArray:
    """Return one colour per class, the same for class i however many classes there are.

    Args:
        num_classes: how many colours; from the hundred-and-first on they repeat.

    Returns:
        uint8 [C, 3], sRGB.
    """
    if num_classes < 0:
        raise ValueError(f"num_classes is {num_classes}; it must be 0 or more.")
    return _palette()[np.arange(num_classes) % DISTINCT_COLOURS]


def text_colour(background: npt.ArrayLike) -> Rgb:
    """Return black or white, whichever has the higher WCAG contrast on `background`.

    Args:
        background: three sRGB values in [0, 255].
    """
    red, green, blue = _linear_rgb(np.asarray(background))
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    contrast_with_white = 1.05 / (luminance + 0.05)
    contrast_with_black = (luminance + 0.05) / 0.05
    return (255, 255, 255) if contrast_with_white > contrast_with_black else (0, 0, 0)


def as_rgb(colour: npt.ArrayLike) -> Rgb:
    """Return a row of a colour table as the tuple of ints that Pillow wants."""
    red, green, blue = np.asarray(colour).tolist()
    return int(red), int(green), int(blue)


def srgb_to_oklab(srgb: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return the OKLab coordinates of sRGB colours.

    Args:
        srgb: [..., 3], values in [0, 255].

    Returns:
        float64 [..., 3]: lightness in [0, 1], then the green-red and the blue-yellow axis.
    """
    rgb_to_cone = np.array(
        [
            [0.4122214708, 0.5363325363, 0.0514459929],
            [0.2119034982, 0.6806995451, 0.1073969566],
            [0.0883024619, 0.2817188376, 0.6299787005],
        ]
    )
    cone_to_lab = np.array(
        [
            [0.2104542553, 0.7936177850, -0.0040720468],
            [1.9779984951, -2.4285922050, 0.4505937099],
            [0.0259040371, 0.7827717662, -0.8086757660],
        ]
    )
    lab: npt.NDArray[np.float64] = np.cbrt(_linear_rgb(np.asarray(srgb)) @ rgb_to_cone.T) @ cone_to_lab.T
    return lab


def _linear_rgb(srgb: npt.NDArray[np.generic]) -> npt.NDArray[np.float64]:
    unit = np.asarray(srgb, dtype=np.float64) / 255.0
    return np.where(unit <= 0.04045, unit / 12.92, ((unit + 0.055) / 1.055) ** 2.4)


@lru_cache(maxsize=1)
def _palette() -> ByteArray:
    """Take colours in farthest-point order: each is the one farthest from all before it."""
    levels = np.arange(0, 256, 12)
    grid = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    lab = srgb_to_oklab(grid)
    chroma = np.hypot(lab[:, 1], lab[:, 2])
    usable = (lab[:, 0] >= _LIGHTNESS[0]) & (lab[:, 0] <= _LIGHTNESS[1])
    usable &= (chroma >= _CHROMA[0]) & (chroma <= _CHROMA[1])
    grid, lab = grid[usable], lab[usable]
    colours = [np.array(_FIRST_COLOUR)]
    distance = np.linalg.norm(lab - srgb_to_oklab(colours[0]), axis=1)
    while len(colours) < DISTINCT_COLOURS:
        farthest = int(np.argmax(distance))
        colours.append(grid[farthest])
        distance = np.minimum(distance, np.linalg.norm(lab - lab[farthest], axis=1))
    palette = np.stack(colours).astype(np.uint8)
    palette.setflags(write=False)
    return palette
