"""How pixels become 8-bit RGB; docs/data.md states the rule for images of more than 8 bits.

Grey, 1-bit, palette and CMYK images are converted by Pillow without profiles, transparent ones are composited over
white. Deep images are scaled so that the white level becomes 255; brighter values become 255, negative ones and NaN 0.
Values beyond 16 bits are scaled by the brightest pixels; floating-point images have the range 1 or 255 if that fits
them and they would not come out black.
"""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile

from ntt.base.digests import FileIdentity, file_identity
from ntt.base.files import open_regular
from ntt.types import ByteArray, DoubleArray

_LOG = logging.getLogger(__name__)
_INTEGER_RANGES = tuple(2.0**bits - 1 for bits in (8, 10, 12, 14, 16))
_FLOAT_RANGES = (1.0, 255.0)
_PPM_8_BITS = 255
_HOT_PIXELS = 1000  # one in so many
_MANY_NEGATIVE = 0.01
_BITS_PER_SAMPLE, _PHOTOMETRIC, _PLANES = 258, 262, 284  # TIFF tags
_BYTE_BITS, _APART = 8, 2
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> operation that turns the image upright."""

_LA_WEIGHTS = np.array([[256, 0], [1, 0], [0, 256], [0, 1]], dtype=np.uint16)
_LEVELS: dict[FileIdentity, float] = {}


def deep_mode(image: Image.Image) -> str | None:
    """Return how an opened image of more than 8 bits per value is stored, such as RGB;16B or F; None for others.

    Must be called first: reading a PNG file's EXIF data already decodes it, to 8 bits if it is in colour.
    """
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return image.mode
    tile = getattr(image, "tile", None)
    arguments: Any = tile[0].args if tile else ""
    raw_mode = arguments if isinstance(arguments, str) else str(arguments[0]) if arguments else ""
    if image.format == "PPM" and tile and tile[0].codec_name == "ppm" and arguments[1] > _PPM_8_BITS:
        return "PPM;16B"
    is_deep = image.format in ("PNG", "TIFF") and ";16" in raw_mode and not raw_mode.startswith("CMYK")
    return raw_mode if is_deep else None


def unreadable_kind(image: Image.Image) -> str | None:
    """Return why Pillow would decode an opened image wrongly; None for others."""
    tags: Any = getattr(image, "tag_v2", {})
    if max(tags.get(_BITS_PER_SAMPLE, ()), default=_BYTE_BITS) <= _BYTE_BITS:
        return None
    if tags.get(_PHOTOMETRIC) == 0:
        return "a TIFF file of more than 8 bits in which 0 is white"
    return "a TIFF file of more than 8 bits in which colours are separate" if tags.get(_PLANES) == _APART else None


def decode_rgb(
    image: Image.Image, path: Path, mode: str | None, *, orientation: int = 1, white_level: float | None = None
) -> ByteArray:
    """Decode an image opened from a path: uint8 [height, width, 3].

    `mode` is its `deep_mode`, `orientation` that of EXIF, and without the data set's white level its own is used.
    """
    if mode is None:
        rgb = to_rgb(image)
    else:
        values = _deep_values(image, path, mode)
        rgb = _composited(values, _white(values) if white_level is None else white_level)
    return rgb if orientation == 1 else np.array(Image.fromarray(rgb).transpose(_TURNS[orientation]))


def to_rgb(image: Image.Image) -> ByteArray:
    """Convert a picture into 8-bit RGB, as the module's docstring describes: uint8 [height, width, 3]."""
    if deep_mode(image) == image.mode:
        values = np.asarray(image)
        return _composited(values, _white(values))
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return np.array(image.convert("RGB"))


def image_white_level(image: Image.Image, path: Path, mode: str) -> tuple[float, bool]:
    """Return the white level of one deep image, and whether its values are floating-point numbers.

    Warns of negative values: a range around 0 loses its dark half.
    """
    with path.open("rb") as stream:
        identity = file_identity(stream.fileno())
    is_float = image.mode == "F"
    if identity not in _LEVELS:
        values = _deep_values(image, path, mode)
        _LEVELS[identity] = _white(values)
        if (share := float((values < 0).mean())) > _MANY_NEGATIVE:
            _LOG.warning("%s: %.0f %% of the pixels are negative and read as black. Add an offset.", path, 100 * share)
    return _LEVELS[identity], is_float


def common_white_level(levels: Sequence[tuple[float, bool]]) -> float | None:
    """Return the white level of a data set from those of some of its images; None without a common one."""
    if len({is_float for _, is_float in levels}) > 1:
        _LOG.warning(
            "Some images hold whole numbers of more than 8 bits and some floating-point numbers: each is scaled by its "
            "own range. Set dataset.white_level to scale all alike."
        )
        return None
    return max((level for level, _ in levels), default=None)


def _deep_values(image: Image.Image, path: Path, mode: str) -> npt.NDArray[Any]:
    """Decode all bits of a deep image: [H, W] grey, or [H, W, channels] with 2 (grey) or 4 including opacity."""
    if mode == image.mode:
        image.load()
        return np.asarray(image)
    if mode == "PPM;16B":
        with open_regular(path) as stream:
            stream.seek(image.tile[0].offset)  # type: ignore[attr-defined]
            values = np.frombuffer(stream.read(image.width * image.height * 6), dtype=">u2")
        return values.reshape(image.height, image.width, 3)
    if mode == "LA;16B":
        return _bytes(path, image.format, "RGBA").astype(np.uint16) @ _LA_WEIGHTS
    # Pillow keeps only one byte of each value; which one depends on the given byte order.
    name = mode.partition(";")[0]
    high, low = (_bytes(path, image.format, f"{name};16{order}").astype(np.uint16) for order in "BL")
    is_little = mode.endswith("L") or (mode.endswith("N") and sys.byteorder == "little")
    return high + low * 256 if is_little else high * 256 + low


def _bytes(path: Path, kind: str | None, read_as: str) -> ByteArray:
    """Decode an image as if its pixels were stored in another way of as many bits: [H, W, channels]."""
    with Image.open(path, formats=[kind or ""]) as image:
        assert isinstance(image, ImageFile.ImageFile)
        if read_as == "RGBA":
            image._mode = "RGBA"
        image.tile = [
            tile._replace(args=read_as if isinstance(tile.args, str) else (read_as, *(tile.args or ())[1:]))
            for tile in image.tile
        ]
        image.load()
        return np.asarray(image)


def _composited(values: npt.NDArray[Any], white_level: float) -> ByteArray:
    """Scale [H, W] or [H, W, channels] to uint8 [H, W, 3], transparent images over white."""
    finite = _finite(values)
    # Of whole numbers, the upper 8 bits are used, so that 8 bits stored in 12 or 16 come back unchanged.
    scaled = finite * (255.0 / white_level) if _is_float(values) else np.floor(finite * (256.0 / (white_level + 1.0)))
    if values.ndim == 2 or values.shape[2] < 3:
        colours = np.repeat(scaled.reshape(*values.shape[:2], -1)[..., :1], 3, axis=2)
    else:
        colours = scaled[..., :3]
    colours = colours.clip(max=255.0)
    if values.ndim == 3 and values.shape[2] in (2, 4):
        opacity = values[..., -1:].astype(np.float64)
        opacity /= next(limit for limit in _INTEGER_RANGES if opacity.max() <= limit)  # 12 bits in 16, like the colours
        colours = colours * opacity + 255.0 * (1.0 - opacity)
    return np.rint(colours).astype(np.uint8)


def _white(values: npt.NDArray[Any]) -> float:
    """Return the smallest usual range that fits all but the brightest thousandth of the values, or their maximum."""
    colours = values[..., :-1] if values.ndim == 3 and values.shape[2] in (2, 4) else values
    finite = _finite(colours)
    rank = finite.size - 1 - finite.size // _HOT_PIXELS
    brightest = float(np.partition(finite, rank, axis=None)[rank])
    if _is_float(values):
        return next((limit for limit in _FLOAT_RANGES if limit / 255 < brightest <= limit), brightest or 1.0)
    return next((limit for limit in _INTEGER_RANGES if brightest <= limit), brightest)


def _is_float(values: npt.NDArray[Any]) -> bool:
    return bool(np.issubdtype(values.dtype, np.floating))


def _finite(values: npt.NDArray[Any]) -> DoubleArray:
    return np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0).clip(min=0.0)
