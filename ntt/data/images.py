"""Opening images, deciding which way up they are (docs/data.md), and checking them before long work.

An image with an EXIF orientation is turned upright unless the annotation file gives the stored size and the upright
size differs. If the size does not decide, `dataset.orientation` does. TIFF files are always upright. Of animations and
multi-page files the first picture is read.
"""

import logging
import os
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from urllib.parse import unquote

import numpy as np
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

from ntt.base.digests import sha256_of
from ntt.base.files import open_regular
from ntt.data.pixels import common_white_level, decode_rgb, deep_mode, image_white_level, unreadable_kind
from ntt.errors import DataError, raise_all
from ntt.types import ByteArray, ImageRecord

MAX_PIXELS = 89_478_485
"""Largest image that is read: a small file can claim to be much larger and fill the memory. Pillow warns from here."""

_LOG = logging.getLogger(__name__)
_FORMATS = ("AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TGA", "TIFF", "WEBP")
"""Formats that are read. Pillow has others, of which some start programs: Ghostscript for EPS."""

_READING_THREADS = 8
_SHALLOW_SUFFIXES = (".jpg", ".jpeg", ".jfif", ".webp", ".gif", ".bmp")  # at most 8 bits
_HEADERS, _DECODED = 64, 16  # images looked at, and images decoded, to find the white level of a data set
_FAR_APART = 8  # ranges of 12 and 16 bits; one camera may well fill 12 bits in some images and 14 in others
_END_MARKS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82", "GIF": b"\x3b"}
DECODING_ERRORS = (OSError, SyntaxError, ValueError, EOFError, IndexError, MemoryError, TypeError, RuntimeError)
"""What Pillow may raise while it decodes a damaged image."""

_BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)
_SIDEWAYS = (5, 6, 7, 8)
"""EXIF orientations that exchange rows and columns."""

_AMBIGUOUS = (
    "%d image(s), such as %s, have an EXIF orientation that their size does not reveal: they are turned upright. Set "
    "dataset.orientation=stored if they were annotated as they are stored, else dataset.orientation=upright."
)
_PAGES = "%d image(s), such as %s, hold several pictures: only the first is read. Save each as a file of its own."
_MISNAMED = "%d image(s), such as %s, are of another format than their suffix suggests. They are read correctly."
_TAKE_OUT = "remove it from the data set."
_SIZE_REMEDY = f"Images of up to {MAX_PIXELS} pixels are read: scale it down, with its annotations."


def read_image(record: ImageRecord) -> ByteArray:
    """Read an image: uint8 [height, width, 3], RGB, of the record's size.

    A DataError if the file is missing, damaged, larger than `MAX_PIXELS`, or not of that size.
    """
    with opened_image(record.path) as image:
        mode = deep_mode(image)
        orientation = _orientation_to_undo(image, record.path, (record.height, record.width), record.orientation)
        try:
            rgb = decode_rgb(image, record.path, mode, orientation=orientation, white_level=record.white_level)
        except DECODING_ERRORS as error:
            raise _undecodable(record.path, error) from error
    if rgb.min() == rgb.max():
        _warn_of_blank(record.path, int(rgb[0, 0, 0]))
    return rgb


@cache
def _warn_of_blank(path: Path, grey: int) -> None:
    """Warn once."""
    _LOG.warning("%s shows nothing: all its pixels are %d of 255. Look at the file.", path, grey)


def upright_size(path: Path) -> tuple[int, int]:
    """Read height and width from a file's header, turned as EXIF requires; errors as for `opened_image`."""
    with opened_image(path) as image:
        return _upright(image)


def image_suffixes() -> frozenset[str]:
    """Return the suffixes of the files that can be read, in lower case, each with its dot."""
    formats = _available_formats()
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in formats)


def depth_sample(records: Iterable[ImageRecord]) -> Sequence[Path]:
    """Choose up to 64 images, evenly, of the formats that can hold more than 8 bits; for `white_level`."""
    names = {record.path for record in records if not record.file_name.lower().endswith(_SHALLOW_SUFFIXES)}
    return _spread(sorted(names), _HEADERS)


def white_level(*samples: Sequence[Path]) -> float | None:
    """Find the one white level of images of more than 8 bits; None if no image has more.

    Warns if the ranges of the samples, such as references and targets, lie far apart: the images of the smaller one
    come out almost black.
    """
    deep = [path for sample in samples for path in sample if _level(path, look_only=True) is not None]
    levels = {path: level for path in _spread(deep, _DECODED) if (level := _level(path)) is not None}
    typical = [
        np.median(of_sample) for sample in samples if (of_sample := [levels[p][0] for p in sample if p in levels])
    ]
    if typical and max(typical) > _FAR_APART * min(typical):
        _LOG.warning(
            "Pixels of the references and of the targets have different ranges: %s. The same white level makes one of "
            "them dark, so convert the images to the same number of bits.",
            " and ".join(f"0 to {level:g}" for level in typical),
        )
    return common_white_level(list(levels.values()))


def _spread(paths: Sequence[Path], count: int) -> Sequence[Path]:
    """Choose at most `count`, evenly."""
    return paths[:: max(1, -(-len(paths) // count))]


def _level(path: Path, *, look_only: bool = False) -> tuple[float, bool] | None:
    """Return the white level of a deep image; None for others and for unreadable ones, which are checked later."""
    try:
        with opened_image(path) as image:
            mode = deep_mode(image)
            if mode is None:
                return None
            return (0.0, False) if look_only else image_white_level(image, path, mode)
    except (DataError, *DECODING_ERRORS):
        return None


def check_size(path: Path, size_hw: tuple[int, int], *, stated_by: Path) -> None:
    """Raise a DataError if an image has the (height, width) of the file `stated_by` neither upright nor as stored."""
    with opened_image(path) as image:
        _orientation_to_undo(image, path, size_hw, stated_by=str(stated_by))


def check_images(records: Sequence[ImageRecord], *, full: bool = False) -> None:
    """Check before long work that all images can be read.

    The end of every file is checked, so that an interrupted copy is found; files without a known end mark are decoded.
    Other damage is found in PNG files; elsewhere, and wrong checksums, with `full` only, which decodes every image. A
    DataError lists every image that is missing, unreadable, truncated, too large, or not of the size the annotation
    file says. Oddities that are accepted are logged.
    """
    missing = [record for record in records if not record.path.exists()]
    problems = missing_problems(missing, len(records)) if missing else []
    records = [record for record in records if record.path.exists()] if missing else records
    remarks: defaultdict[str, list[Path]] = defaultdict(list)
    with ThreadPoolExecutor(_READING_THREADS) as pool:
        outcomes = pool.map(partial(_check, full=full), records)
        for record, (problem, remarks_on_image) in zip(records, outcomes, strict=True):
            problems += [] if problem is None else [problem]
            for remark in remarks_on_image:
                remarks[remark].append(record.path)
    raise_all(problems, DataError, summary="Some images cannot be used")
    for remark, paths in remarks.items():
        _LOG.warning(remark, len(paths), paths[0])


def image_digest(record: ImageRecord) -> str:
    """Return what decides an image's pixels: the SHA-256 of its file, and how it is read if that is set.

    A file is read once per process unless it changes. A DataError if it cannot be read.
    """
    try:
        digest = sha256_of(record.path)
    except OSError as error:
        raise DataError(_missing(record.path, error)) from error
    digest += "" if record.white_level is None else f"/white{record.white_level:g}"
    return f"{digest}/stored" if record.orientation == "stored" else digest


def opened_image(path: Path) -> ImageFile.ImageFile:
    """Open an image without decoding it; a DataError if it is missing, no image, or larger than `MAX_PIXELS`."""
    try:
        open_regular(path).close()
        image = Image.open(path, formats=_available_formats())
    except _BOMBS as error:
        raise DataError(f"{path} is too large ({error}). {_SIZE_REMEDY}") from error
    except UnidentifiedImageError as error:
        message = f"{path} is not an image in a format that can be read. Save it as JPEG or PNG, or {_TAKE_OUT}"
        raise DataError(message) from error
    except DECODING_ERRORS as error:
        if isinstance(error, OSError) and error.errno is not None:  # from the file system, not a decoder
            raise DataError(_missing(path, error)) from error
        raise _undecodable(path, error) from error
    if kind := unreadable_kind(image):
        image.close()
        raise DataError(f"{path} is {kind}, which is not read. Save it as PNG, or {_TAKE_OUT}")
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


def _orientation(image: ImageFile.ImageFile) -> int:
    """Return the EXIF orientation, 1 (upright) if it is missing or cannot be read; a DataError for a damaged PNG file.

    TIFF files count as upright: Pillow turns them itself, size included.
    """
    if image.format == "TIFF":
        return 1
    if image.format == "PNG":  # here Pillow decodes the pixels to find EXIF data, and reports damage only once
        try:
            image.load()
        except DECODING_ERRORS as error:
            raise _undecodable(Path(os.fsdecode(image.filename)), error) from error
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except DECODING_ERRORS:
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _upright(image: ImageFile.ImageFile) -> tuple[int, int]:
    """Return height and width after turning."""
    sideways = _orientation(image) in _SIDEWAYS
    return (image.width, image.height) if sideways else (image.height, image.width)


def _orientation_to_undo(
    image: ImageFile.ImageFile,
    path: Path,
    size_hw: tuple[int, int],
    preference: str | None = None,
    *,
    stated_by: str = "the annotation file",
) -> int:
    """Return the EXIF orientation from which to turn an open image upright; 1: it is read as it is stored.

    Its stated size decides, or where that is the same either way, `preference`, "upright" unless it is "stored". A
    DataError if its size is not the stated one either way.
    """
    stored, upright, orientation = (image.height, image.width), _upright(image), _orientation(image)
    if size_hw not in (stored, upright):
        turned = " once turned upright" if orientation in _SIDEWAYS else ""
        raise DataError(
            f"{path} has {upright[1]} x {upright[0]} pixels{turned}, {stated_by} says {size_hw[1]} x {size_hw[0]}. Use "
            "the image that the annotations were drawn on, or correct the size."
        )
    is_stored = preference == "stored" if stored == upright else size_hw == stored
    return 1 if is_stored else orientation


def _check(record: ImageRecord, *, full: bool) -> tuple[str | None, list[str]]:
    """Check header, size and end of a file; decode it if its end is unusual. Return problem and remarks."""
    try:
        with opened_image(record.path) as image:
            orientation = _orientation_to_undo(image, record.path, (record.height, record.width))
            kind = "JPEG" if image.format == "MPO" else image.format  # several JPEG pictures in one file, from phones
            is_ambiguous = orientation != 1 and _upright(image) == (image.height, image.width)
            remarks = [_AMBIGUOUS] if is_ambiguous and record.orientation is None else []
            remarks += [_PAGES] if image.format != "MPO" and _has_pages(image) else []
    except DataError as error:
        return str(error), []
    if Image.registered_extensions().get(record.path.suffix.lower(), kind) not in (kind, "MPO"):
        remarks.append(_MISNAMED)
    is_whole = not full and _ends_well(record.path, kind)
    return None if is_whole else _decoded_problem(record), remarks


def _has_pages(image: Image.Image) -> bool:
    try:
        return bool(getattr(image, "is_animated", False))
    except DECODING_ERRORS:
        return False


def _decoded_problem(record: ImageRecord) -> str | None:
    """Decode a file completely, including checksums if its format has them (PNG)."""
    try:
        read_image(record)
        with opened_image(record.path) as image:
            image.verify()
    except DataError as error:
        return str(error)
    except DECODING_ERRORS as error:
        return str(_undecodable(record.path, error))
    return None


def _ends_well(path: Path, kind: str | None) -> bool:
    """Return whether a file ends with its format's end mark. False proves nothing: bytes may follow the mark."""
    mark = _END_MARKS.get(kind or "")
    with path.open("rb") as stream:
        stream.seek(-len(mark or b""), 2)
        return stream.read() == mark


# Images that do not exist under the name in an annotation file: which file is meant, and how the names differ.

_DIFFERENCES: dict[str, Callable[[str], str]] = {
    "a backslash in place of a slash": lambda name: name.replace("\\", "/"),
    "an escape such as %20": unquote,
    "the Unicode form of a letter": lambda name: unicodedata.normalize("NFC", name),
    "upper and lower case": str.casefold,
    "blanks at the end": str.strip,
}


def missing_problems(missing: Sequence[ImageRecord], total: int) -> list[str]:
    """Return one sentence for all images whose names differ from a file's in the same way, and one per other image."""
    by_folder: defaultdict[Path, list[ImageRecord]] = defaultdict(list)
    for record in missing:
        by_folder[record.folder].append(record)
    alike: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    unexplained: list[ImageRecord] = []
    for folder, records in by_folder.items():
        paths = (Path(parent, name) for parent, _, names in os.walk(folder) for name in names)
        files = {_form(name): name for name in (path.relative_to(folder).as_posix() for path in paths)}
        for record in records:
            file = next((files[form] for form in _forms_below(record.file_name) if form in files), None)
            if file is None:
                unexplained.append(record)
            else:
                alike[_difference(record.file_name, file)].append((record.file_name, file))
    if len(unexplained) == total > 1:
        return [f"None of the {total} images exist, such as {unexplained[0].path}. Is the folder right?"]
    return [
        f"{len(pairs)} of {total} images have other names on disk: {pairs[0][0]!r} exists as {pairs[0][1]!r}. These "
        f"differ by {difference}; correct `file_name`."
        for difference, pairs in alike.items()
    ] + [f"There is no image {record.path}. Add it, or correct the image folder." for record in unexplained]


def _form(name: str, *, without: str | None = None) -> str:
    for difference, unify in _DIFFERENCES.items():
        name = name if difference == without else unify(name)
    return name


def _forms_below(name: str) -> Iterator[str]:
    """Yield the unified name, then without its first folders, because names may begin at another folder."""
    parts = _form(name).split("/")
    for start in range(len(parts)):
        yield "/".join(parts[start:])


def _difference(name: str, file: str) -> str:
    differences = [
        difference for difference in _DIFFERENCES if _form(name, without=difference) != _form(file, without=difference)
    ]
    if len(_form(name).split("/")) > len(_form(file).split("/")):
        slashes = ["a backslash in place of a slash"] if "\\" in name and "\\" not in file else []
        differences = [*slashes, "leading folders"]
    return " and ".join(differences)
