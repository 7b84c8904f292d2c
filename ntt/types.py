"""The frozen values that stages pass to each other.

Shape suffixes: N candidates or detections, C classes, K references of one class, D feature channels, H and W rows
and columns of the image in pixels, h and w rows and columns of a mask or feature grid. Boxes named `xyxy` are
(left, top, right, bottom), boxes named `xywh` are COCO's (left, top, width, height), in pixels of the image unless the
name says otherwise. Run-length encoded masks are COCO's compressed form: column-major, `counts` as bytes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

BoolArray = npt.NDArray[np.bool_]
ByteArray = npt.NDArray[np.uint8]
IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]
DoubleArray = npt.NDArray[np.float64]
ImageId = int | str
Json = dict[str, Any]


@dataclass(frozen=True)
class Category:
    """One class of a data set, with its `id` in the annotation file."""

    id: int
    name: str


@dataclass(frozen=True)
class ImageRecord:
    """One image of an annotation file; `path` is resolved and known to be inside the image folder.

    Attributes:
        white_level: pixel value that becomes white in images of more than 8 bits; None: by the image's own range.
        orientation: "upright" or "stored": how the image is read if EXIF orientation and size leave that open; None:
            upright, with a warning.
    """

    id: ImageId
    file_name: str
    path: Path
    height: int
    width: int
    white_level: float | None = None
    orientation: str | None = None

    @property
    def folder(self) -> Path:
        """The image folder, which `file_name` is below."""
        return self.path.parents[self.file_name.count("/")]


@dataclass(frozen=True)
class Instance:
    """One annotated object.

    Attributes:
        bbox_xywh: COCO box in image pixels, clipped to the image.
        segmentation: polygons (list), RLE with list or string counts (dict), or None for a box-only annotation.
        area_px: that of the file, else of the mask, else of the box.
        isdifficult: marked `difficult`, as objects of Pascal VOC are.
        shot_index: position in a fixed k-shot order (the k-shot set is `shot_index < k`), or None.
    """

    id: int
    image_id: ImageId
    category_id: int
    bbox_xywh: tuple[float, float, float, float]
    segmentation: list[list[float]] | Mapping[str, Any] | None
    area_px: float
    iscrowd: bool = False
    isimpossible: bool = False
    isdifficult: bool = False
    shot_index: int | None = None


@dataclass(frozen=True)
class ReferenceSet:
    """The sampled references: for each category, sorted by id, its k instances, fewer where fewer exist, never none.

    The position in `categories` is the class index used everywhere below. `digest` is that of everything that decides
    which instances these are, "" if they were not drawn; `sampler` is "given" if none did.
    """

    categories: tuple[Category, ...]
    instances: tuple[tuple[Instance, ...], ...]
    images: Mapping[ImageId, ImageRecord]
    shots: int
    seed: int
    digest: str = ""
    sampler: str = "given"

    @property
    def can_be_left_out(self) -> bool:
        """Whether a class has references on two images, so that one can be searched with the others."""
        return any(len({each.image_id for each in members}) > 1 for members in self.instances)

    def instances_of_image(self, image_id: ImageId) -> tuple[Instance, ...]:
        """Return the references in one image, class by class."""
        return tuple(each for members in self.instances for each in members if each.image_id == image_id)


@dataclass(frozen=True)
class ReferenceFeature:
    """Mean features of a reference inside its mask and in the rest of its crop; float32 [D], not normalised.

    `clear_background` is outside all annotated objects too; None if there is none, or if no matcher reads it.
    """

    instance: FloatArray
    background: FloatArray | None
    clear_background: FloatArray | None = None


@dataclass(frozen=True)
class MemoryBank:
    """A feature vector of each reference instance, and one of its surroundings.

    Attributes hold float32 [K, D] per class, a row per instance, zeros if the instance has no such vector; or are empty
    if no matcher reads them. All but `full` are not normalised.

    Attributes:
        backgrounds: the mean feature of each crop outside the mask; `clear_backgrounds`: outside all annotated objects.
        full: unit features of the instances in their full images (method.md §2).
    """

    categories: tuple[Category, ...]
    features: "tuple[torch.Tensor, ...]"
    backgrounds: "tuple[torch.Tensor, ...]" = ()
    clear_backgrounds: "tuple[torch.Tensor, ...]" = ()
    full: "tuple[torch.Tensor, ...]" = ()


@dataclass(frozen=True)
class ReferenceCheck:
    """What the references show when each of their images in turn is a target (stage `leave_one_out`).

    Attributes:
        scoring: name of the matcher that the run uses.
        better: name of another matcher -> share of the bootstrap draws in which its AP exceeds that of the first one.
        expected: name of a matcher -> class name -> box AP on left-out images, percent; "" for all classes.
        thresholds: class name -> lowest score at which a detection of `scoring` is worth showing; those proposed.
        is_complete: whether the reference images count as annotated in full.
        obstacle: why the references may not choose a matcher; "" if they may, or if there is nothing to choose from.
    """

    scoring: str
    better: Mapping[str, float]
    expected: Mapping[str, Mapping[str, float]]
    thresholds: Mapping[str, float]
    is_complete: bool
    num_images: int
    obstacle: str = ""


@dataclass(frozen=True)
class Prototypes:
    """What candidates are compared with.

    Attributes:
        vectors_PD: float32 [P, D], each L2-normalised.
        labels_P: int64 [P], the class index each vector represents; -1 is background, values below -1 are a matcher's
            own counter-examples. Vectors with negative labels never raise a class's score.
    """

    categories: tuple[Category, ...]
    vectors_PD: "torch.Tensor"
    labels_P: "torch.Tensor"


@dataclass(frozen=True)
class Proposals:
    """The masks that a segmenter finds in one image, above its own threshold of predicted IoU.

    Attributes:
        logits_Nhw: mask logits on the segmenter's grid, any float or signed integer dtype; foreground is > 0.
        predicted_iou_N: float32 in [0, 1], the segmenter's own estimate of each mask's quality.
    """

    logits_Nhw: "torch.Tensor"
    predicted_iou_N: "torch.Tensor"


@dataclass(frozen=True)
class RunLengths:
    """N full-size masks of one image, each with foreground, as lengths of runs down the columns, one after the other.

    A row of `runs_R2`, uint16, are pixels of background, then of foreground; a longer run continues in the next row.
    `rows_N`, int64, are how many rows each mask has, 1 or more.
    """

    runs_R2: npt.NDArray[np.uint16]
    rows_N: IntArray

    def __len__(self) -> int:
        """Return the number of masks, N."""
        return len(self.rows_N)


@dataclass(frozen=True)
class Candidates:
    """Everything matching needs to know about one target image; independent of seed, shots and classes.

    Attributes:
        masks: of the image's size.
        grid_boxes_xyxy: float32 [N, 4], inclusive pixel indices on the segmenter's mask grid; used by NMS only.
        predicted_iou: float32 [N].
        features: float32 [N, D], L2-normalised, and rounded to the precision in which they are stored.
    """

    height: int
    width: int
    masks: RunLengths
    grid_boxes_xyxy: FloatArray
    predicted_iou: FloatArray
    features: FloatArray

    def __len__(self) -> int:
        """Return the number of candidates, N."""
        return len(self.predicted_iou)


@dataclass(frozen=True)
class Detections:
    """Final detections of one image, by descending score.

    Attributes:
        labels: int64 [N], class index (not category id).
        scores: float32 [N], above 0; at most 1, but for `probe`.
        boxes_xywh: float32 [N, 4], image pixels.
        rles: full-size masks, COCO compressed RLE.
    """

    image_id: ImageId
    height: int
    width: int
    labels: IntArray
    scores: FloatArray
    boxes_xywh: FloatArray
    rles: tuple[bytes, ...]

    def reaching(self, thresholds_C: FloatArray) -> IntArray:
        """Return the indices of the detections that reach the threshold of their class."""
        return np.flatnonzero(self.scores >= thresholds_C[self.labels])


@dataclass(frozen=True)
class Metrics:
    """The metrics of a run. A metric that cannot be computed (no ground truth, no masks) is absent, never 0.

    Kinds "bbox" and "segm": "AP", "AP50", "AP75", "APs", "APm", "APl", percent, and "AR1", "AR10", "AR100" by COCO's
    protocol; by LVIS' "AR300", "ARs300", "ARm300", "ARl300" and, overall, "APr", "APc", "APf". Kind "semantic": "mIoU"
    overall, "IoU" of a class, percent. Kind "rejection": "FPPI@R50", false positives per negative image; "score@R50";
    "max_recall", percent; "negative_images", their number; overall also "mFPPI@R50", mean over "classes@R50" classes.

    Kind -> metric name -> value overall, kind -> class name -> metric name -> value per class. Objects and those of
    them with masks are of all classes, without crowd regions; `difficult` is how such objects of Pascal VOC were
    counted, "crowd" or "ordinary"; None if there are none.
    """

    overall: Mapping[str, Mapping[str, float]]
    per_class: Mapping[str, Mapping[str, Mapping[str, float]]]
    num_images: int
    num_detections: int
    num_objects: int | None = None
    num_masks: int | None = None
    difficult: str | None = None


ProposalRecall = Mapping[str, Mapping[str, float]]
"""Kind "bbox" or "segm" -> "AR100", "AR300", "AR1000": recall of the candidates, percent."""


@dataclass(frozen=True)
class Placement:
    """Where and how models run; `device` is resolved, never "auto". See `ntt.config.schema.RuntimeConfig`."""

    device: str = "cpu"
    precision: str = "float32"
    compile: bool = False
    weights_root: Path = Path("checkpoints")
