"""Ground truth and predictions of one image, side by side."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from ntt.drawing.colours import ByteArray, class_colour
from ntt.drawing.instances import DrawnInstances, draw_instances
from ntt.drawing.sheets import GAP, MARGIN, MIN_WIDTH, Tile, caption_size_px, draw_contact_sheet
from ntt.drawing.text import FAINT_INK, PAPER, draw_notice, line_height_px, shorten, text_width_px, write
from ntt.types import Detections, FloatArray

_MAX_LEGEND_ROWS = 8
_LEGEND_NAME_PX = 180


def draw_comparison(
    image_HW3: ByteArray,
    *,
    ground_truth: DrawnInstances | None,
    detections: Detections,
    class_names: Sequence[str],
    thresholds_C: FloatArray,
    file_name: str = "",
    note: str = "",
) -> Image.Image:
    """Draw ground truth on the left, predictions on the right, a header above and the classes present below.

    The image is uint8 [H, W, 3], RGB, the picture at least 480 px wide. Without ground truth, predictions are drawn
    alone, from the threshold of their class on. The header has the file name at the left and the note at the right.
    """
    predicted = _confident(detections, thresholds_C)
    tiles: list[Tile] = []
    if ground_truth is not None:
        picture = _picture(image_HW3, ground_truth, class_names, "no object annotated")
        tiles.append((picture, ("Ground truth", _counts(ground_truth))))
    threshold = _range_text(thresholds_C)
    picture = _picture(image_HW3, predicted, class_names, f"no detection above {threshold}")
    detail = f"{len(predicted.labels)} of {len(detections.labels)} with score ≥ {threshold}"
    tiles.append((picture, ("Predictions", detail)))
    legend_width = max(MIN_WIDTH - 2 * MARGIN, len(tiles) * (picture.width + GAP) - GAP)
    footer = draw_legend(ground_truth, predicted, class_names, legend_width, caption_size_px(picture))
    return draw_contact_sheet(
        tiles, title=file_name, note=note, columns=len(tiles), footer=footer, most_px=picture.width
    )


def _range_text(thresholds_C: FloatArray) -> str:
    """Return the threshold of all classes with as many decimals as it needs, at least two; or the range of several."""
    low, high = float(thresholds_C.min()), float(thresholds_C.max())
    return f"{low:.2f} to {high:.2f}" if high > low else max(f"{low:.2f}", f"{low:.6g}", key=len)


def _confident(detections: Detections, thresholds_C: FloatArray) -> DrawnInstances:
    indices = detections.reaching(thresholds_C)
    return DrawnInstances(
        labels=detections.labels[indices],
        boxes_xywh=detections.boxes_xywh[indices],
        rles=[detections.rles[index] for index in indices.tolist()],
        iscrowd=np.zeros(len(indices), dtype=bool),
        scores=detections.scores[indices],
    )


def _counts(ground_truth: DrawnInstances) -> str:
    """Return what is annotated, such as "2 objects, 1 crowd region"."""
    crowds = int(ground_truth.iscrowd.sum())
    objects = len(ground_truth.labels) - crowds
    parts = [f"{objects} object{'' if objects == 1 else 's'}"]
    parts += [f"{crowds} crowd region{'' if crowds == 1 else 's'}"] if crowds else []
    parts += ["boxes only"] if ground_truth.rles and not any(ground_truth.rles) else []
    return ", ".join(parts)


def _picture(image_HW3: ByteArray, instances: DrawnInstances, class_names: Sequence[str], notice: str) -> Image.Image:
    picture = draw_instances(image_HW3, instances, class_names)
    if not len(instances.labels):
        draw_notice(picture, notice, caption_size_px(picture))
    return picture


def draw_legend(
    ground_truth: DrawnInstances | None, predicted: DrawnInstances, class_names: Sequence[str], width: int, text_px: int
) -> Image.Image | None:
    """Draw the colours of the classes present and their numbers of objects in at most eight rows, or None."""
    predictions = Counter(predicted.labels.tolist())
    annotations = Counter[int]()
    if ground_truth is not None:  # crowd regions are in the legend, but not counted
        for label, crowd in zip(ground_truth.labels.tolist(), ground_truth.iscrowd.tolist(), strict=True):
            annotations[label] += not crowd
    labels = sorted({*predictions, *annotations})
    if not labels:
        return None
    line, gap, half = round(line_height_px(text_px) * 1.3), round(1.3 * text_px), text_px // 2
    canvas = Image.new("RGB", (width, line * (_MAX_LEGEND_ROWS + 1)), PAPER)
    draw = ImageDraw.Draw(canvas)
    heading = "predicted" if ground_truth is None else "annotated / predicted"
    write(draw, (0, line // 2), heading, text_px - 1, fill=FAINT_INK)
    x, middle = text_width_px(heading, text_px - 1) + gap, line // 2
    for number, label in enumerate(labels):
        name = shorten(class_names[label], _LEGEND_NAME_PX, text_px)
        count = f"{predictions[label]}" if ground_truth is None else f"{annotations[label]} / {predictions[label]}"
        name_x = text_px + 6
        count_x = name_x + text_width_px(name, text_px) + 6
        entry_width = count_x + text_width_px(count, text_px - 1)
        if x + entry_width > width:
            x, middle = 0, middle + line
        if middle > line * _MAX_LEGEND_ROWS:
            write(draw, (0, middle), f"… and {len(labels) - number} more classes", text_px - 1, fill=FAINT_INK)
            break
        colour = class_colour(label)
        draw.rounded_rectangle((x, middle - half, x + 2 * half, middle + half), radius=3, fill=colour)
        write(draw, (x + name_x, middle), name, text_px)
        write(draw, (x + count_x, middle), count, text_px - 1, fill=FAINT_INK)
        x += entry_width + gap
    return canvas.crop((0, 0, width, middle + line - line // 2))
