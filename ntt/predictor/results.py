"""The objects found in an image."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
import numpy.typing as npt
from PIL import Image

from ntt.base.files import write_json
from ntt.data.images import read_image
from ntt.drawing.instances import DrawnInstances, draw_instances
from ntt.errors import ConfigError
from ntt.evaluation.curves import FIXED_THRESHOLD
from ntt.ops.boxes import with_corners
from ntt.ops.masks import decode_masks
from ntt.predictor.references import ImageLike, PathLike, as_file
from ntt.run.artefacts import results_text
from ntt.stages.target_pictures import save_picture
from ntt.types import BoolArray, Category, Detections, FloatArray, ImageId, Json

Selection = slice | Sequence[int] | BoolArray | npt.NDArray[np.integer[Any]]


class DetectedInstance(NamedTuple):
    """One object: class name, score, float32 [4] left, top, right, bottom in pixels, and bool [H, W]."""

    name: str
    score: float
    box_xyxy: FloatArray
    mask: BoolArray

    def __repr__(self) -> str:
        """Return one line, without the mask."""
        return f"DetectedInstance({self.name!r}, {self.score:.2f}, box {self.box_xyxy.round().astype(int).tolist()})"


@dataclass(frozen=True, repr=False, eq=False)
class Instances(Detections):
    """The N objects found in one image, by descending score.

    `instances[3]` is a `DetectedInstance`, and iterating yields them; `instances[:5]`, a bool array [N] or indices
    select several.

    Attributes:
        labels: int64 [N], indices into the predictor's `classes`.
        scores: float32 [N], above 0; at most 1, but for `probe`.
        rles: N masks as COCO compressed run lengths, small where `masks` may be large.
        image: as it was given.
        thresholds: returns the lowest score worth showing of each class, by name.
    """

    categories: tuple[Category, ...]
    image: ImageLike
    thresholds: Callable[[], Mapping[str, float]] = dict

    def __len__(self) -> int:
        """Return N."""
        return len(self.scores)

    def __repr__(self) -> str:
        """Return one line: how many of which class, with which scores."""
        counts = ", ".join(f"{count} {name}" for name, count in Counter(self.names.tolist()).items())
        scores = f": {counts}; scores {self.scores.min():.2f} to {self.scores.max():.2f}" if len(self) else ""
        return f"Instances({len(self)} in {self.width} x {self.height} pixels{scores})"

    @property
    def names(self) -> npt.NDArray[np.str_]:
        """Class names, str [N]."""
        return np.array([category.name for category in self.categories], dtype=np.str_)[self.labels]

    @property
    def boxes_xyxy(self) -> FloatArray:
        """float32 [N, 4], left, top, right, bottom in image pixels, right and bottom exclusive."""
        return with_corners(self.boxes_xywh)

    @cached_property
    def masks(self) -> BoolArray:
        """The masks, bool [N, H, W]; decoded when first asked for."""
        return decode_masks(self.rles, self.height, self.width)

    @overload
    def __getitem__(self, index: int) -> DetectedInstance: ...

    @overload
    def __getitem__(self, index: Selection) -> "Instances": ...

    def __getitem__(self, index: int | Selection) -> "DetectedInstance | Instances":
        """Return one instance, or some of them."""
        selected = np.arange(len(self))[index]
        if selected.ndim == 0:
            (mask,) = decode_masks([self.rles[selected]], self.height, self.width)
            box_xyxy = self.boxes_xyxy[selected]
            return DetectedInstance(str(self.names[selected]), float(self.scores[selected]), box_xyxy, mask)
        return replace(
            self,
            labels=self.labels[selected],
            scores=self.scores[selected],
            boxes_xywh=self.boxes_xywh[selected],
            rles=tuple(self.rles[each] for each in selected),
        )

    def __iter__(self) -> Iterator[DetectedInstance]:
        """Iterate over the instances, best first."""
        return (self[index] for index in range(len(self)))

    def above(self, score: float | None = None) -> "Instances":
        """Return the instances with at least this score; None: the `Predictor.thresholds` of their classes."""
        thresholds = self.thresholds() if score is None else {}
        default = FIXED_THRESHOLD if score is None else score
        limits_C = np.array([thresholds.get(category.name, default) for category in self.categories])
        return self[self.scores >= limits_C[self.labels].astype(np.float32)]

    def draw(self) -> Image.Image:
        """Return the image with masks, names and scores painted on it."""
        with as_file(self.image) as record:
            pixels = read_image(record)
        iscrowd = np.zeros(len(self), dtype=np.bool_)
        drawn = DrawnInstances(self.labels, self.boxes_xywh, self.rles, iscrowd, self.scores)
        return draw_instances(pixels, drawn, [category.name for category in self.categories])

    def _repr_png_(self) -> bytes | None:
        return self.draw()._repr_png_()

    def to_coco(self, image_id: ImageId = 1) -> list[Json]:
        """Return results in COCO format: image_id, category_id (from 1), score, bbox and segmentation of each."""
        results: list[Json] = json.loads(f"[{results_text(replace(self, image_id=image_id), self.categories)}]")
        return results

    def save(self, path: PathLike) -> None:
        """Write the picture of `draw` to a .png or .jpg file, or the list of `to_coco` to a .json file."""
        target = Path(path).expanduser()
        suffix = target.suffix.lower()
        if suffix == ".json":
            write_json(target, self.to_coco())
        elif suffix in (".png", ".jpg", ".jpeg"):
            save_picture(self.draw(), target)
        else:
            raise ConfigError(f"{target} ends in {suffix!r}: .png, .jpg or .json is needed. Rename it.")
