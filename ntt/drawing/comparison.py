"""Ground truth and predictions of one image, side by side."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from ntt.drawing.colours import ByteArray, Rgb, as_rgb, class_colours
from ntt.drawing.instances import DrawnInstances, draw_instances, label_size_px
from ntt.drawing.text import FAINT_INK, INK, PAPER, draw_notice, line_height_px, shorten, text_width_px, write
from ntt.errors import DataError
from ntt.types import Detections

_MARGIN = 14
_MIN_WIDTH = 480
_MAX_LEGEND_ROWS = 8
_LEGEND_NAME_PX = 180

_Panel = tuple[Image.Image, str, str]
_LegendEntry = tuple[str, str, Rgb | None]


def draw_comparison(
    image_HW3: ByteArray,
    *,
    ground_truth: DrawnInstances | None,
    detections: Detections,
    class_names: Sequence[str],
    score_threshold: float,
    file_name: str = "",
    note: str = "",
    mask_alpha: float = 0.42,
) -> Image.Image:
    """Ground truth at the left, predictions at the right, a header above and the classes present below.

    Args:
        image_HW3: uint8 [H, W, 3], RGB.
        ground_truth: None for an image without annotations: the predictions are then drawn alone.
        detections: of this image.
        class_names: name of each class index.
        score_threshold: detections with a score of at least this are drawn.
        file_name: shown in the header.
        note: shown at the right end of the header, such as "quality 0.83".
        mask_alpha: as in `draw_instances`.

    Returns:
        RGB, at least 480 px wide.

    Raises:
        DataError: when the detections were made for an image of another size.
    """
    _check_size(image_HW3, detections)
    colours = class_colours(len(class_names))
    kept = np.flatnonzero(np.asarray(detections.scores) >= score_threshold)
    panels: list[_Panel] = []
    if ground_truth is not None:
        panels.append(_ground_truth_panel(image_HW3, ground_truth, class_names, colours, mask_alpha))
    rles = [detections.rles[i] for i in kept.tolist()] if detections.rles else None
    predicted = draw_instances(
        image_HW3,
        rles=rles,
        boxes_xywh=np.asarray(detections.boxes_xywh).reshape(-1, 4)[kept],
        labels=np.asarray(detections.labels)[kept],
        scores=np.asarray(detections.scores)[kept],
        class_names=class_names,
        colours=colours,
        mask_alpha=mask_alpha,
    )
    threshold = format_threshold(score_threshold)
    if not len(kept):
        draw_notice(predicted, f"no detection above {threshold}", label_size_px(predicted.size) + 3)
    count = f"{len(kept)} of {len(detections.labels)} with score ≥ {threshold}"
    panels.append((predicted, "Predictions", count))
    legend = _legend(ground_truth, np.asarray(detections.labels)[kept].tolist(), class_names, colours)
    return _assemble(panels, legend, file_name=file_name, note=note)


def format_threshold(value: float) -> str:
    """Two decimals, or as many as the value needs."""
    return f"{value:.2f}" if abs(value - round(value, 2)) < 1e-9 else f"{value:.6g}"


def _check_size(image_HW3: ByteArray, detections: Detections) -> None:
    height, width = image_HW3.shape[:2]
    if (height, width) != (detections.height, detections.width):
        raise DataError(
            f"the detections of image {detections.image_id!r} were made for {detections.width} x {detections.height} "
            f"px, but the image is {width} x {height} px (width x height). Draw them on the image they were made "
            "for, or run the matching again."
        )


def _ground_truth_panel(
    image_HW3: ByteArray, truth: DrawnInstances, class_names: Sequence[str], colours: ByteArray, mask_alpha: float
) -> _Panel:
    picture = draw_instances(
        image_HW3,
        rles=truth.rles,
        boxes_xywh=truth.boxes_xywh,
        labels=truth.labels,
        scores=None,
        class_names=class_names,
        colours=colours,
        iscrowd=truth.iscrowd,
        mask_alpha=mask_alpha,
    )
    crowds = int(np.sum(truth.iscrowd))
    objects = len(truth.labels) - crowds
    parts = [f"{objects} object{'' if objects == 1 else 's'}"]
    if crowds:
        parts.append(f"{crowds} crowd region{'' if crowds == 1 else 's'}")
    if len(truth.rles) and all(rle is None for rle in truth.rles):
        parts.append("boxes only")
    if not len(truth.labels):
        draw_notice(picture, "no object annotated", label_size_px(picture.size) + 3)
    return picture, "Ground truth", ", ".join(parts)


def _legend(
    truth: DrawnInstances | None, predicted: list[int], class_names: Sequence[str], colours: ByteArray
) -> list[_LegendEntry]:
    found = Counter(predicted)
    annotated = Counter[int]()
    crowds = set[int]()
    if truth is not None:
        annotated.update(np.asarray(truth.labels)[~np.asarray(truth.iscrowd, dtype=bool)].tolist())
        crowds = set(np.asarray(truth.labels)[np.asarray(truth.iscrowd, dtype=bool)].tolist())
    present = sorted(set(found) | set(annotated) | crowds)
    if not present:
        return []
    heading = "predicted" if truth is None else "annotated / predicted"
    entries: list[_LegendEntry] = [("", heading, None)]
    for label in present:
        count = str(found[label]) if truth is None else f"{annotated[label]} / {found[label]}"
        entries.append((class_names[label], count, as_rgb(colours[label])))
    return entries


def _assemble(panels: list[_Panel], legend: list[_LegendEntry], *, file_name: str, note: str) -> Image.Image:
    text_px = max(13, label_size_px(panels[0][0].size))
    line = round(line_height_px(text_px) * 1.3)
    content = sum(picture.width for picture, _, _ in panels) + _MARGIN * (len(panels) - 1)
    width = max(_MIN_WIDTH, content + 2 * _MARGIN)
    rows = _legend_rows(legend, width - 2 * _MARGIN, text_px)
    top = _MARGIN + (line if file_name or note else 0) + line + 4
    panel_bottom = top + panels[0][0].height
    height = panel_bottom + (len(rows) * line + 8 if rows else 0) + _MARGIN
    canvas = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(canvas)
    _draw_header(draw, width, _MARGIN + line // 2, text_px, file_name=file_name, note=note)
    left = (width - content) // 2
    for picture, side, count in panels:
        _draw_caption(draw, (left, top - 4 - line // 2), side, count, text_px, max(picture.width, width - 2 * left))
        canvas.paste(picture, (left, top))
        left += picture.width + _MARGIN
    for i, row in enumerate(rows):
        _draw_legend_row(draw, row, panel_bottom + 8 + line // 2 + i * line, text_px)
    return canvas


def _draw_header(
    draw: ImageDraw.ImageDraw, width: int, middle: int, text_px: int, *, file_name: str, note: str
) -> None:
    note = shorten(note, (width - 3 * _MARGIN) // 2, text_px)
    note_width = text_width_px(note, text_px)
    write(draw, (width - _MARGIN, middle), note, text_px, anchor="rm")
    name = shorten(file_name, width - 3 * _MARGIN - note_width, text_px, bold=True, middle=True)
    write(draw, (_MARGIN, middle), name, text_px, bold=True)


def _draw_caption(
    draw: ImageDraw.ImageDraw, left_middle: tuple[int, int], side: str, count: str, text_px: int, room_px: int
) -> None:
    write(draw, left_middle, side, text_px)
    used = text_width_px(side, text_px) + text_px
    write(
        draw,
        (left_middle[0] + used, left_middle[1]),
        shorten(count, room_px - used, text_px - 1),
        text_px - 1,
        fill=FAINT_INK,
    )


def _legend_rows(legend: list[_LegendEntry], width: int, text_px: int) -> list[list[tuple[int, _LegendEntry]]]:
    """The entries with their x, wrapped; the last row tells how many found no room."""
    rows: list[list[tuple[int, _LegendEntry]]] = []
    x = width + 1
    for i, (name, count, colour) in enumerate(legend):
        entry = (shorten(name, _LEGEND_NAME_PX, text_px), count, colour)
        needed = _legend_entry_width(entry, text_px)
        if x + needed > width:
            if len(rows) == _MAX_LEGEND_ROWS:
                rows.append([(0, ("", f"… and {len(legend) - i} more classes", None))])
                break
            rows.append([])
            x = 0
        rows[-1].append((x, entry))
        x += needed + round(1.3 * text_px)
    return rows


def _legend_entry_width(entry: _LegendEntry, text_px: int) -> int:
    name, count, colour = entry
    if colour is None:
        return text_width_px(count, text_px - 1)
    return text_px + 6 + text_width_px(name, text_px) + 6 + text_width_px(count, text_px - 1)


def _draw_legend_row(draw: ImageDraw.ImageDraw, row: list[tuple[int, _LegendEntry]], middle: int, text_px: int) -> None:
    for x, (name, count, colour) in row:
        left = _MARGIN + x
        if colour is not None:
            half = text_px // 2
            draw.rounded_rectangle((left, middle - half, left + 2 * half, middle + half), radius=3, fill=colour)
            left += text_px + 6
            write(draw, (left, middle), name, text_px, fill=INK)
            left += text_width_px(name, text_px) + 6
        write(draw, (left, middle), count, text_px - 1, fill=FAINT_INK)
