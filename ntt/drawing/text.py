"""Fonts, measured text and small labels."""

import unicodedata
from functools import lru_cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from ntt.drawing.colours import Rgb

INK: Rgb = (28, 30, 34)
FAINT_INK: Rgb = (112, 116, 124)
PAPER: Rgb = (255, 255, 255)
RULE: Rgb = (224, 226, 230)

_WIDE_COVERAGE_FONTS = (
    "NotoSansCJK-Regular.ttc",
    "NotoSansCJKsc-Regular.otf",
    "wqy-microhei.ttc",
    "PingFang.ttc",
    "msyh.ttc",
    "DroidSansFallbackFull.ttf",
)
"""Looked for among the installed fonts, for text that DejaVu Sans has no glyphs for (Chinese, Japanese, Korean)."""

_NOT_WRITTEN = ("Cc", "Cs", "Zl", "Zp")


def font_for(text: str, size_px: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """A font that can show `text`: DejaVu Sans, which matplotlib brings along, or an installed one of wide coverage.

    Where neither has the glyphs, DejaVu's empty boxes are drawn.
    """
    if not all(ord(character) in _dejavu_characters() for character in text):
        wide = _wide_coverage_font(size_px)
        if wide is not None:
            return wide
    return _dejavu(size_px, bold=bold)


def clean(text: str) -> str:
    """The text on one line: line breaks, control characters and undecodable bytes become spaces."""
    return "".join(" " if unicodedata.category(character) in _NOT_WRITTEN else character for character in text)


def text_width_px(text: str, size_px: int, *, bold: bool = False) -> int:
    """Width of the text on one line, rounded up."""
    text = clean(text)
    return int(font_for(text, size_px, bold=bold).getlength(text) + 0.999)


def line_height_px(size_px: int) -> int:
    """Height of one line, the same for every text of this size."""
    ascent, descent = _dejavu(size_px, bold=False).getmetrics()
    return ascent + descent


def shorten(text: str, max_width_px: int, size_px: int, *, bold: bool = False, middle: bool = False) -> str:
    """The text cut to a width, with an ellipsis where something is missing.

    Args:
        text: any text; it is put on one line.
        max_width_px: the width it must fit in.
        size_px: text size.
        bold: measure it in bold.
        middle: cut out of the middle, as suits file names, whose end tells them apart.

    Returns:
        Empty where not even the ellipsis fits.
    """
    text = clean(text)
    if text_width_px(text, size_px, bold=bold) <= max_width_px:
        return text
    low, high = 0, len(text) - 1
    best = ""
    while low <= high:
        kept = (low + high) // 2
        tail = kept // 2 if middle else 0
        trial = text[: kept - tail] + "…" + text[len(text) - tail :]
        if text_width_px(trial, size_px, bold=bold) <= max_width_px:
            best, low = trial, kept + 1
        else:
            high = kept - 1
    return best


def write(
    draw: ImageDraw.ImageDraw,
    position: tuple[float, float],
    text: str,
    size_px: int,
    *,
    bold: bool = False,
    fill: Rgb = INK,
    anchor: str = "lm",
) -> None:
    """Write one line; `anchor` as in Pillow, left-middle unless told."""
    text = clean(text)
    draw.text(position, text, fill=fill, font=font_for(text, size_px, bold=bold), anchor=anchor)


def chip_size(text: str, size_px: int) -> tuple[int, int]:
    """Width and height of the label `draw_chip` draws."""
    return text_width_px(text, size_px) + 2 * _chip_padding(size_px), line_height_px(size_px) + 2


def draw_chip(
    draw: ImageDraw.ImageDraw, left_top: tuple[int, int], text: str, size_px: int, *, fill: Rgb, ink: Rgb
) -> None:
    """A rounded label. `draw` must be in RGBA mode, so that the label lets a little of the picture through."""
    left, top = left_top
    width, height = chip_size(text, size_px)
    area = (left, top, left + width - 1, top + height - 1)
    draw.rounded_rectangle(area, radius=max(2, size_px // 4), fill=(*fill, 235))
    write(draw, (left + _chip_padding(size_px), top + height / 2), text, size_px, fill=ink)


def draw_notice(picture: Image.Image, text: str, size_px: int) -> None:
    """A dark label near the top of the picture, where it hides least; the picture is changed in place."""
    shown = shorten(text, picture.width - 2 * size_px, size_px)
    width, height = text_width_px(shown, size_px) + 2 * size_px, 2 * line_height_px(size_px)
    left, top = (picture.width - width) // 2, min(size_px, max(0, (picture.height - height) // 2))
    draw = ImageDraw.Draw(picture, "RGBA")
    draw.rounded_rectangle((left, top, left + width, top + height), radius=size_px // 2, fill=(20, 22, 26, 200))
    write(draw, (picture.width / 2, top + height / 2), shown, size_px, fill=(255, 255, 255), anchor="mm")


def _chip_padding(size_px: int) -> int:
    return max(3, round(size_px * 0.32))


@lru_cache(maxsize=64)
def _dejavu(size_px: int, *, bold: bool) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(_dejavu_path(bold=bold)), size_px)


def _dejavu_path(*, bold: bool) -> Path:
    import matplotlib

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / ("DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf")


@lru_cache(maxsize=1)
def _dejavu_characters() -> frozenset[int]:
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(str(_dejavu_path(bold=False))).get_charmap())


@lru_cache(maxsize=16)
def _wide_coverage_font(size_px: int) -> ImageFont.FreeTypeFont | None:
    for name in _WIDE_COVERAGE_FONTS:
        try:
            return ImageFont.truetype(name, size_px)
        except OSError:
            continue
    return None
