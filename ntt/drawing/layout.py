"""Pictures side by side with their captions."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from ntt.drawing.instances import label_size_px
from ntt.drawing.text import FAINT_INK, PAPER, line_height_px, shorten, text_width_px, write

MARGIN = 14


@dataclass(frozen=True)
class Panel:
    """A picture with the title above it and a detail in faint ink behind the title."""

    picture: Image.Image
    title: str
    detail: str = ""


def caption_size_px(picture: Image.Image) -> int:
    """Return the text size for captions around a picture."""
    return max(13, label_size_px(picture.size))


def side_by_side(
    panels: Sequence[Panel],
    *,
    heading: str = "",
    note: str = "",
    footer: Image.Image | None = None,
    min_width: int = 0,
) -> Image.Image:
    """Arrange pictures in a row, the heading above them at the left, the note at the right.

    The first picture's size decides the text size. In a result widened to `min_width` pictures are centred.
    """
    text_px = caption_size_px(panels[0].picture)
    line = round(line_height_px(text_px) * 1.3)
    content = sum(panel.picture.width for panel in panels) + MARGIN * (len(panels) - 1)
    width = max(min_width, content + 2 * MARGIN)
    rows = bool(heading or note) + any(panel.title for panel in panels)
    top = MARGIN + line * rows + 4
    bottom = top + max(panel.picture.height for panel in panels)
    canvas = Image.new("RGB", (width, bottom + (footer.height + 8 if footer else 0) + MARGIN), PAPER)
    draw = ImageDraw.Draw(canvas)
    if heading or note:
        note = shorten(note, (width - 3 * MARGIN) // 2, text_px)
        write(draw, (width - MARGIN, MARGIN + line // 2), note, text_px, anchor="rm")
        room = width - 3 * MARGIN - text_width_px(note, text_px)
        heading = shorten(heading, room, text_px, bold=True, middle=True)
        write(draw, (MARGIN, MARGIN + line // 2), heading, text_px, bold=True)
    left = (width - content) // 2
    for panel in panels:
        room = panel.picture.width if len(panels) > 1 else width - 2 * MARGIN
        x = left if len(panels) > 1 else MARGIN
        title = shorten(panel.title, room, text_px)
        write(draw, (x, top - 4 - line // 2), title, text_px)
        used = text_width_px(title, text_px) + text_px
        detail = shorten(panel.detail, room - used, text_px - 1)
        write(draw, (x + used, top - 4 - line // 2), detail, text_px - 1, fill=FAINT_INK)
        canvas.paste(panel.picture, (left, top))
        left += panel.picture.width + MARGIN
    if footer:
        canvas.paste(footer, (MARGIN, bottom + 8))
    return canvas
