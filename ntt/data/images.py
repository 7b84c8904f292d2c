"""Reading images as 8-bit RGB, and checking them before long work.

How pixels become 8-bit RGB:

- Grey, 1-bit and palette images are expanded; CMYK and other colour spaces are converted by Pillow without profiles.
- Transparent images are composited over white, as image viewers and annotation tools on a white page show it.
- Grey images of more than 8 bits are scaled by the smallest range of 8, 10, 12, 14 or 16 bits that holds the largest
  value: cameras and microscopes store 12 bits in files of 16, which would come out black otherwise. Larger values are
  scaled by the maximum. Floating-point images: [0, 1] becomes [0, 255], [0, 255] is kept, anything larger is scaled by
  the maximum; negative values and NaN become 0.
- Of animations and multi-page files the first picture is read.

Orientation: an image with an EXIF orientation is turned upright, because that is what annotation tools show. It is
left as stored if the annotation file gives the stored size and the upright size differs. Where the size does not decide
(square images, images stored upside down or mirrored), the image is turned upright. TIFF files are always upright.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from ntt.base.digests import sha256_of
from ntt.errors import DataError, raise_all
from ntt.types import ImageRecord

MAX_PIXELS = 89_478_485
"""Largest image that is read: a small file can claim to be much larger and fill the memory. Pillow warns from here."""

_FORMATS = ("BMP", "DIB", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TGA", "TIFF", "WEBP")
"""Formats that are read. Pillow knows others, of which some start programs: Ghostscript for EPS."""

_READING_THREADS = 8
_INTEGER_BITS = (8, 10, 12, 14, 16)
_END_MARKS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82", "GIF": b"\x3b"}
_DECODING_ERRORS = (OSError, SyntaxError, ValueError, EOFError, IndexError, MemoryError, TypeError)
_BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)
_SIDEWAYS = (5, 6, 7, 8)
"""EXIF orientations that exchange rows and columns."""

_TAKE_OUT = "remove it from the data set."
_SIZE_REMEDY = f"Images of up to {MAX_PIXELS} pixels are read: scale it down, with its annotations."


def read_image(record: ImageRecord) -> npt.NDArray[np.uint8]:
    """Read an image: uint8 [height, width, 3], RGB, of the size the record says.

    Raises:
        DataError: if the file is missing, damaged, larger than `MAX_PIXELS`, or not of the record's size.
    """
    with _opened(record.path) as image:
        turn = _must_turn(image, record.path, (record.height, record.width))
        try:
            image.load()
            return to_rgb(ImageOps.exif_transpose(image) if turn else image)
        except _DECODING_ERRORS as error:
            raise _undecodable(record.path, error) from error


def upright_size(path: Path) -> tuple[int, int]:
    """Read the height and width of an image, turned as its EXIF orientation requires, from the file's header.

    Raises:
        DataError: if the file is missing, not an image, or larger than `MAX_PIXELS`.
    """
    with _opened(path) as image:
        return _upright(image)


def to_rgb(image: Image.Image) -> npt.NDArray[np.uint8]:
    """Convert a decoded picture into 8-bit RGB, as the module's docstring describes: uint8 [height, width, 3]."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        grey = _to_8_bit(np.asarray(image))
        return np.repeat(grey[..., None], 3, axis=2)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return np.array(image.convert("RGB"))


def check_size(path: Path, size_hw: tuple[int, int], *, stated_by: Path) -> None:
    """Compare the size (height, width) that the file `stated_by` gives with the image's own.

    Raises:
        DataError: if the image has this size neither as it is stored nor turned upright, or cannot be read.
    """
    with _opened(path) as image:
        _must_turn(image, path, size_hw, str(stated_by))


def check_images(
    records: Sequence[ImageRecord],
    *,
    full: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Check before long work that all images can be read.

    The end of every file is checked, so that an interrupted copy is found; files without a known end mark are decoded.
    Damage in the middle of a file is found with `full` only, which decodes every image. `progress` is called with
    (images done, total images) after each image.

    Raises:
        DataError: listing every image that is missing, unreadable, truncated, too large, or not of the size the
            annotation file says.
    """
    missing = [record for record in records if not record.path.is_file()]
    if missing and len(missing) == len(records) > 1:
        raise DataError(f"None of the {len(records)} images exist, such as {missing[0].path}. Is the folder right?")
    problems: list[str] = []
    with ThreadPoolExecutor(_READING_THREADS) as pool:
        for done, problem in enumerate(pool.map(_decoded_problem if full else _cheap_problem, records), start=1):
            problems += [] if problem is None else [problem]
            if progress is not None:
                progress(done, len(records))
    raise_all(problems, DataError, summary="Some images cannot be used")


def image_digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, as 64 hexadecimal digits; read once per process unless it changes.

    Raises:
        DataError: if the file cannot be read.
    """
    try:
        return sha256_of(path)
    except OSError as error:
        raise DataError(_missing(path, error)) from error


def _opened(path: Path) -> Image.Image:
    """Open an image without decoding it; raise DataError where that fails."""
    try:
        image = Image.open(path, formats=_available_formats())
    except _BOMBS as error:
        raise DataError(f"{path} is too large ({error}). {_SIZE_REMEDY}") from error
    except UnidentifiedImageError as error:
        message = f"{path} is not an image in a format that can be read. Save it as JPEG or PNG, or {_TAKE_OUT}"
        raise DataError(message) from error
    except _DECODING_ERRORS as error:
        if isinstance(error, OSError) and error.errno is not None:  # from the file system, not a decoder
            raise DataError(_missing(path, error)) from error
        raise _undecodable(path, error) from error
    if image.width * image.height > MAX_PIXELS:
        image.close()
        raise DataError(f"{path} is too large ({image.width} x {image.height} pixels). {_SIZE_REMEDY}")
    return image


@cache
def _available_formats() -> tuple[str, ...]:
    """Return those of `_FORMATS` that this build of Pillow can read."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _missing(path: Path, error: OSError) -> str:
    if not path.exists():
        return f"There is no image {path}. Add it, or correct the image folder."
    return f"{path} cannot be read: {error}. It must be a readable file."


def _undecodable(path: Path, error: Exception) -> DataError:
    return DataError(f"{path} is damaged and cannot be decoded ({error}). Copy it again, or {_TAKE_OUT}")


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 (upright) where there is none or it cannot be read.

    TIFF files count as upright: Pillow turns them itself, size included.
    """
    if image.format == "TIFF":
        return 1
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except _DECODING_ERRORS:
        return 1
    return value if isinstance(value, int) else 1


def _upright(image: Image.Image) -> tuple[int, int]:
    """Return height and width after turning."""
    sideways = _orientation(image) in _SIDEWAYS
    return (image.width, image.height) if sideways else (image.height, image.width)


def _must_turn(
    image: Image.Image, path: Path, size_hw: tuple[int, int], stated_by: str = "the annotation file"
) -> bool:
    """Decide whether to turn an open image; raise DataError if its size is not the stated one either way."""
    if _upright(image) == size_hw:
        return _orientation(image) != 1
    if (image.height, image.width) == size_hw:
        return False
    raise DataError(
        f"{path} has {_described_size(image)}, {stated_by} says {size_hw[1]} x {size_hw[0]}. Use the image the "
        "annotations were drawn on, or correct the size."
    )


def _described_size(image: Image.Image) -> str:
    turned = " once turned upright" if _orientation(image) in _SIDEWAYS else ""
    height, width = _upright(image)
    return f"{width} x {height} pixels{turned}"


def _to_8_bit(values: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8]:
    """Scale grey values [H, W] of any depth to [0, 255]; the module's docstring states the rule."""
    is_float = bool(np.issubdtype(values.dtype, np.floating))
    finite = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0).clip(min=0.0)
    largest = float(finite.max(initial=0.0))
    ranges = (1.0, 255.0) if is_float else tuple(float(2**bits - 1) for bits in _INTEGER_BITS)
    top = next((limit for limit in ranges if largest <= limit), largest)
    return np.rint(finite * (255.0 / top)).astype(np.uint8)


def _cheap_problem(record: ImageRecord) -> str | None:
    """Look at header, size and end of a file; decode it only if its end is not the usual one."""
    try:
        with _opened(record.path) as image:
            _must_turn(image, record.path, (record.height, record.width))
            kind = image.format
    except DataError as error:
        return str(error)
    return None if _ends_well(record.path, kind) else _decoded_problem(record)


def _decoded_problem(record: ImageRecord) -> str | None:
    """Decode a file completely, checksums included where its format has them (PNG)."""
    try:
        read_image(record)
        with _opened(record.path) as image:
            image.verify()
    except DataError as error:
        return str(error)
    except _DECODING_ERRORS as error:
        return str(_undecodable(record.path, error))
    return None


def _ends_well(path: Path, kind: str | None) -> bool:
    """Return whether a file ends with its format's end mark. False proves nothing: bytes may follow the mark."""
    mark = _END_MARKS.get(kind or "")
    with path.open("rb") as stream:
        stream.seek(-len(mark or b""), 2)
        return stream.read() == mark
