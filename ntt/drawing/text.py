"""Fonts, measured text and small labels."""

from contextlib import suppress
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

from ntt.drawing.colours import Rgb
from ntt.errors import one_line

INK: Rgb = (28, 30, 34)
FAINT_INK: Rgb = (112, 116, 124)
PAPER: Rgb = (255, 255, 255)
# For Chinese, Japanese and Korean, where they are installed.
_INSTALLED = (
    "NotoSansCJK-Regular.ttc",
    "NotoSansCJKsc-Regular.otf",
    "wqy-microhei.ttc",
    "PingFang.ttc",
    "DroidSansFallbackFull.ttf",
)


def text_width_px(text: str, size_px: int, *, bold: bool = False) -> int:
    """Return the width of the text on one line, rounded up."""
    text = one_line(text)
    return int(_font(text, size_px, bold=bold).getlength(text) + 0.999)


def line_height_px(size_px: int) -> int:
    """Return the height of one line, the same for every text of this size."""
    return sum(_font("", size_px, bold=False).getmetrics())


def shorten(text: str, max_width_px: int, size_px: int, *, bold: bool = False, middle: bool = False) -> str:
    """Put a text on one line and shorten it to a width with an ellipsis; "" if not even the ellipsis fits.

    `middle` cuts from the middle, which suits file names: their ends tell them apart.
    """
    text = shortened = one_line(text)
    length = len(text)
    while shortened and text_width_px(shortened, size_px, bold=bold) > max_width_px:
        length -= 1
        end = length // 2 if middle else 0
        shortened = f"{text[: length - end]}…{text[len(text) - end :]}" if length >= 0 else ""
    return shortened


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
    """Write one line; `anchor` as in Pillow, by default left-middle."""
    text = one_line(text)
    draw.text(position, text, fill=fill, font=_font(text, size_px, bold=bold), anchor=anchor)


def label_size(text: str, size_px: int) -> tuple[int, int]:
    """Return width and height of the label that `draw_label` draws."""
    return text_width_px(text, size_px) + 2 * _label_padding(size_px), line_height_px(size_px) + 2


def draw_label(
    draw: ImageDraw.ImageDraw, left_top: tuple[int, int], text: str, size_px: int, *, fill: Rgb, ink: Rgb
) -> None:
    """Draw a rounded label. `draw` must be in RGBA mode: the label lets a little of the picture through."""
    left, top = left_top
    width, height = label_size(text, size_px)
    area = (left, top, left + width - 1, top + height - 1)
    draw.rounded_rectangle(area, radius=max(2, size_px // 4), fill=(*fill, 235))
    write(draw, (left + _label_padding(size_px), top + height / 2), text, size_px, fill=ink)


def draw_notice(picture: Image.Image, text: str, size_px: int) -> None:
    """Draw a dark label near the top of the picture, in place."""
    text = shorten(text, picture.width - 2 * size_px, size_px)
    width, height = label_size(text, size_px)
    left_top = ((picture.width - width) // 2, min(size_px, max(0, (picture.height - height) // 2)))
    draw_label(ImageDraw.Draw(picture, "RGBA"), left_top, text, size_px, fill=(20, 22, 26), ink=PAPER)


def _label_padding(size_px: int) -> int:
    return max(3, round(size_px * 0.32))


def _font(text: str, size_px: int, *, bold: bool) -> ImageFont.FreeTypeFont:
    """Choose DejaVu Sans, which comes with matplotlib, or for a text with more glyphs in another, that one."""
    usual = _load("DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf", size_px)
    assert usual is not None, "part of matplotlib"
    if _characters(str(usual.path)).issuperset(map(ord, text)):
        return usual  # without a search for the others, which are large
    fonts = [usual, *(font for name in _INSTALLED if (font := _load(name, size_px)) is not None)]
    return min(fonts, key=lambda font: len(set(map(ord, text)) - _characters(str(font.path))))


@lru_cache(maxsize=64)
def _load(name: str, size_px: int) -> ImageFont.FreeTypeFont | None:
    import matplotlib

    with suppress(OSError):
        return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/{name}", size_px)
    with suppress(OSError):
        return ImageFont.truetype(name, size_px)
    return None


@lru_cache(maxsize=8)
def _characters(path: str) -> frozenset[int]:
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(path).get_charmap())
