"""Instances painted over their image."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from ntt.drawing.annotators import annotate_box, annotate_labels, annotate_mask
from ntt.drawing.colours import ByteArray, as_rgb, class_colours
from ntt.errors import DataError
from ntt.ops.masks import decode_masks, rle_areas
from ntt.types import FloatArray, IntArray

MIN_DRAWN_WIDTH = 480
MAX_DRAWN_SIDE = 1600
MASK_OPACITY = 0.42


@dataclass(frozen=True)
class DrawnInstances:
    """The annotated or detected objects of one image, ready for drawing and scoring.

    Attributes:
        labels: int64 [N], class index.
        boxes_xywh: float32 [N, 4], image pixels.
        rles: full-size masks, COCO compressed RLE; None for an object that has only a box.
        iscrowd: bool [N]. A crowd region is drawn hatched, named "(crowd)", and never counted as an object.
        scores: float32 [N]; None for annotated objects.
    """

    labels: IntArray
    boxes_xywh: FloatArray
    rles: Sequence[bytes | None]
    iscrowd: npt.NDArray[np.bool_]
    scores: FloatArray | None = None

    def __post_init__(self) -> None:
        """Refuse parts of different lengths."""
        lengths = {len(self.labels), len(self.boxes_xywh), len(self.rles), len(self.iscrowd)}
        if len(lengths) > 1:
            raise ValueError(f"labels, boxes_xywh, rles and iscrowd differ in length: {sorted(lengths)}.")

    def caption(self, index: int, class_names: Sequence[str]) -> str:
        """Return the class name of one object, followed by its score."""
        crowd = "(crowd)" if self.iscrowd[index] else ""
        score = "" if self.scores is None else f"{float(self.scores[index]):.2f}"
        return " ".join(part for part in (class_names[int(self.labels[index])], crowd, score) if part)


def drawn_size(height: int, width: int) -> tuple[int, int]:
    """Return the width and height at which an image is drawn.

    Small images are enlarged to 480 px of width, so that text on them can be read; beyond 1600 px per side they are
    reduced, which also wins over the least width for very long images.
    """
    scale = min(max(1.0, MIN_DRAWN_WIDTH / width), MAX_DRAWN_SIDE / max(height, width))
    return max(1, round(width * scale)), max(1, round(height * scale))


def scaled_picture(image_HW3: ByteArray) -> Image.Image:
    """Return the image, uint8 [H, W, 3], as an RGB picture of `drawn_size`."""
    if image_HW3.ndim != 3 or image_HW3.shape[2] != 3 or image_HW3.dtype != np.uint8:
        raise ValueError(f"the image must be uint8 [H, W, 3], found {image_HW3.dtype} {list(image_HW3.shape)}.")
    picture = Image.fromarray(np.ascontiguousarray(image_HW3))
    size = drawn_size(picture.height, picture.width)
    return picture if size == picture.size else picture.resize(size, Image.Resampling.LANCZOS)


def draw_instances(image_HW3: ByteArray, instances: DrawnInstances, class_names: Sequence[str]) -> Image.Image:
    """Draw instances over their image: translucent masks with outlines, thin boxes where there is no mask, labels.

    Instances are painted from the largest to the smallest. Labels are placed from the highest score down, without
    scores from the smallest object up.

    Args:
        image_HW3: uint8 [H, W, 3], RGB.
        instances: of this image.
        class_names: name of each class index, in any script.

    Returns:
        RGB, of the size `drawn_size` gives.
    """
    height, width = image_HW3.shape[:2]
    picture = scaled_picture(image_HW3)
    scale = np.array([picture.width / width, picture.height / height] * 2)
    boxes = np.asarray(instances.boxes_xywh, dtype=np.float64).reshape(-1, 4)
    boxes_xyxy = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1) * scale
    areas = np.array(
        [
            float(rle_areas([rle], height, width)[0]) if rle is not None else box[2] * box[3]
            for rle, box in zip(instances.rles, boxes, strict=True)
        ]
    )
    colours = [as_rgb(colour) for colour in class_colours(len(class_names))[instances.labels]]
    for i in np.argsort(-areas, kind="stable").tolist():
        rle = instances.rles[i]
        if rle is None or areas[i] == 0:
            annotate_box(picture, boxes_xyxy[i], colour=colours[i])
            continue
        mask = decode_mask(rle, height=height, width=width).resize(picture.size, Image.Resampling.BILINEAR)
        # A mask that fills the picture is painted more faintly, so that what lies on it stays visible.
        opacity = MASK_OPACITY * (1 - 0.6 * areas[i] / (height * width))
        annotate_mask(picture, mask, colour=colours[i], opacity=opacity, hatched=bool(instances.iscrowd[i]))
    order = np.argsort(areas if instances.scores is None else -np.asarray(instances.scores), kind="stable").tolist()
    annotate_labels(picture, [(instances.caption(i, class_names), colours[i], boxes_xyxy[i]) for i in order])
    return picture


def decode_mask(rle: bytes, *, height: int, width: int) -> Image.Image:
    """Return a mask at full size, mode L, 0 or 255.

    Raises:
        DataError: if the run lengths exceed an image of this size.
    """
    try:
        mask_HW = decode_masks([rle], height, width)[0]
    except ValueError as error:
        raise DataError(
            f"a mask does not fit its image of {width} x {height} px (width x height). Draw masks with the image they "
            "were made for."
        ) from error
    return Image.fromarray(mask_HW.astype(np.uint8) * np.uint8(255))
