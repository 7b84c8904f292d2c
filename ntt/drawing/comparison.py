"""Ground truth and predictions of one image, side by side."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from ntt.drawing.colours import ByteArray, Rgb, class_colour
from ntt.drawing.instances import DrawnInstances, draw_instances
from ntt.drawing.layout import MARGIN, Panel, caption_size_px, side_by_side
from ntt.drawing.text import FAINT_INK, PAPER, draw_notice, line_height_px, shorten, text_width_px, write
from ntt.types import Detections

_MIN_WIDTH = 480
_MAX_LEGEND_ROWS = 8
_LEGEND_NAME_PX = 180


def draw_comparison(
    image_HW3: ByteArray,
    *,
    ground_truth: DrawnInstances | None,
    detections: Detections,
    class_names: Sequence[str],
    score_threshold: float,
    file_name: str = "",
    note: str = "",
) -> Image.Image:
    """Draw ground truth at the left, predictions at the right, a header above and the classes present below.

    Args:
        image_HW3: uint8 [H, W, 3], RGB.
        ground_truth: None for an image without annotations: the predictions are then drawn alone.
        detections: of this image.
        class_names: name of each class index.
        score_threshold: detections with a score of at least this are drawn.
        file_name: shown in the header.
        note: shown at the right end of the header.

    Returns:
        RGB, at least 480 px wide.
    """
    predicted = _confident(detections, score_threshold)
    panels = [] if ground_truth is None else [_ground_truth_panel(image_HW3, ground_truth, class_names)]
    panels.append(_predictions_panel(image_HW3, predicted, class_names, score_threshold, len(detections.labels)))
    text_px = caption_size_px(panels[0].picture)
    content = sum(panel.picture.width for panel in panels) + MARGIN * (len(panels) - 1)
    legend_width = max(_MIN_WIDTH - 2 * MARGIN, content)
    footer = _legend(ground_truth, predicted, class_names, legend_width, text_px)
    return side_by_side(panels, heading=file_name, note=note, footer=footer, min_width=_MIN_WIDTH)


def _confident(detections: Detections, score_threshold: float) -> DrawnInstances:
    scores = np.asarray(detections.scores)
    indices = np.flatnonzero(scores >= score_threshold)
    return DrawnInstances(
        labels=np.asarray(detections.labels)[indices],
        boxes_xywh=np.asarray(detections.boxes_xywh).reshape(-1, 4)[indices],
        rles=[detections.rles[i] if detections.rles else None for i in indices.tolist()],
        iscrowd=np.zeros(len(indices), dtype=bool),
        scores=scores[indices],
    )


def _predictions_panel(
    image_HW3: ByteArray, predicted: DrawnInstances, class_names: Sequence[str], score_threshold: float, count: int
) -> Panel:
    # Two decimals, or as many as the value needs.
    threshold = max(f"{score_threshold:.2f}", f"{score_threshold:.6g}", key=len)
    picture = _picture(image_HW3, predicted, class_names, f"no detection above {threshold}")
    return Panel(picture, "Predictions", f"{len(predicted.labels)} of {count} with score ≥ {threshold}")


def _ground_truth_panel(image_HW3: ByteArray, ground_truth: DrawnInstances, class_names: Sequence[str]) -> Panel:
    crowds = int(np.sum(ground_truth.iscrowd))
    objects = len(ground_truth.labels) - crowds
    parts = [f"{objects} object{'' if objects == 1 else 's'}"]
    if crowds:
        parts.append(f"{crowds} crowd region{'' if crowds == 1 else 's'}")
    if len(ground_truth.rles) and all(rle is None for rle in ground_truth.rles):
        parts.append("boxes only")
    picture = _picture(image_HW3, ground_truth, class_names, "no object annotated")
    return Panel(picture, "Ground truth", ", ".join(parts))


def _picture(image_HW3: ByteArray, instances: DrawnInstances, class_names: Sequence[str], notice: str) -> Image.Image:
    picture = draw_instances(image_HW3, instances, class_names)
    if not len(instances.labels):
        draw_notice(picture, notice, caption_size_px(picture))
    return picture


def _legend(
    ground_truth: DrawnInstances | None, predicted: DrawnInstances, class_names: Sequence[str], width: int, text_px: int
) -> Image.Image | None:
    """Draw the classes that are present with their numbers of objects; None where there is nothing."""
    predictions = Counter(predicted.labels.tolist())
    annotations = Counter[int]()
    if ground_truth is not None:  # crowd regions are in the legend, but not counted
        for label, crowd in zip(ground_truth.labels.tolist(), ground_truth.iscrowd.tolist(), strict=True):
            annotations[label] += not crowd
    entries = [
        (
            shorten(class_names[label], _LEGEND_NAME_PX, text_px),
            str(predictions[label]) if ground_truth is None else f"{annotations[label]} / {predictions[label]}",
            class_colour(label),
        )
        for label in sorted({*predictions, *annotations})
    ]
    heading = "predicted" if ground_truth is None else "annotated / predicted"
    return draw_legend(heading, entries, width=width, text_px=text_px) if entries else None


def draw_legend(heading: str, entries: Sequence[tuple[str, str, Rgb]], *, width: int, text_px: int) -> Image.Image:
    """Draw a colour key: name, count and colour of each entry, in at most eight rows and a line for the rest."""
    line = round(line_height_px(text_px) * 1.3)
    canvas = Image.new("RGB", (width, line * (_MAX_LEGEND_ROWS + 1)), PAPER)
    draw = ImageDraw.Draw(canvas)
    write(draw, (0, line // 2), heading, text_px - 1, fill=FAINT_INK)
    gap = round(1.3 * text_px)
    x, middle = text_width_px(heading, text_px - 1) + gap, line // 2
    for number, (name, count, colour) in enumerate(entries):
        name_x = text_px + 6
        count_x = name_x + text_width_px(name, text_px) + 6
        entry_width = count_x + text_width_px(count, text_px - 1)
        if x + entry_width > width:
            x, middle = 0, middle + line
        if middle > line * _MAX_LEGEND_ROWS:
            write(draw, (0, middle), f"… and {len(entries) - number} more classes", text_px - 1, fill=FAINT_INK)
            break
        half = text_px // 2
        draw.rounded_rectangle((x, middle - half, x + 2 * half, middle + half), radius=3, fill=colour)
        write(draw, (x + name_x, middle), name, text_px)
        write(draw, (x + count_x, middle), count, text_px - 1, fill=FAINT_INK)
        x += entry_width + gap
    return canvas.crop((0, 0, width, middle + line - line // 2))
