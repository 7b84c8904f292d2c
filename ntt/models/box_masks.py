"""Masks for annotations that have only boxes: for whole annotation files, and for references while a run needs them.

Masks are kept in a store, so an interrupted conversion goes on where it stopped and a run computes each mask once.
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from ntt.base.digests import content_key
from ntt.base.files import write_json
from ntt.base.progress import track
from ntt.data.coco import CocoDataset
from ntt.data.images import image_digest, read_image
from ntt.data.masks import box_mask, instance_rle
from ntt.data.polygons import mask_to_polygons
from ntt.models.backbones.base import Backbone
from ntt.models.batching import BatchRunner
from ntt.models.segmenters.base import BatchedBoxSegmenter, BoxSegmenter, Segmenter, takes_boxes, takes_images
from ntt.models.segmenters.box_fallback import ProposalBoxes
from ntt.ops.canvas import canvas_of
from ntt.ops.masks import decode_masks, encode_full_size, encode_masks, rle_areas
from ntt.store.store import Store
from ntt.types import ImageId, ImageRecord, Instance, Json

Box: TypeAlias = tuple[float, float, float, float]
BoxMaskMode: TypeAlias = Literal["auto", "segmenter", "box"]
MaskFormat: TypeAlias = Literal["rle", "polygon"]
Rles: TypeAlias = tuple[bytes | None, ...]
BoxesOfImage: TypeAlias = tuple[ImageRecord, Sequence[Box]]

_LOG = logging.getLogger(__name__)
_VERSION = 1
_KIND = "box_masks"


def choose_box_segmenter(mode: str, segmenter: Segmenter, backbone: Backbone) -> BoxSegmenter | None:
    """Say what makes masks of boxes.

    Args:
        mode: "auto": the segmenter if it takes boxes as prompts, else nothing; "segmenter": the segmenter in any
            case, by its proposals if it takes no boxes; "box": nothing.
        segmenter: of the run.
        backbone: of the run; used where masks are chosen among proposals.

    Returns:
        None where the box itself serves as the mask.
    """
    if mode == "box":
        return None
    if takes_boxes(segmenter):
        return segmenter
    return ProposalBoxes(segmenter, backbone) if mode == "segmenter" else None


@dataclass(frozen=True)
class BoxMasks:
    """Gives the masks of boxes: from the store, or computed and stored."""

    segmenter: BoxSegmenter
    store: Store

    def get(self, record: ImageRecord, boxes_xywh: Sequence[Box]) -> Rles:
        """Return the mask of each box of one image.

        Args:
            record: the image.
            boxes_xywh: COCO boxes in image pixels.

        Returns:
            Full-size masks, COCO compressed RLE; None for a box in which the segmenter found nothing.
        """
        known = self._known(record, boxes_xywh)
        if known is not None:
            return known
        return self._keep(record, boxes_xywh, self.segmenter.segment_boxes(*self._prompts(record, boxes_xywh)))

    def get_all(self, wanted: Sequence[BoxesOfImage], *, image_batch: int | None = None) -> Iterator[Rles]:
        """Yield what `get` returns for many images; several go to the segmenter together where it can do that.

        Args:
            wanted: images and their boxes.
            image_batch: images at a time, 1 or more; None: as many as pay on the segmenter's device. Halved when
                memory runs out.
        """
        segmenter = self.segmenter
        if not takes_images(segmenter):
            yield from (self.get(record, boxes_xywh) for record, boxes_xywh in wanted)
            return
        size = segmenter.images_at_once if image_batch is None else image_batch
        batches = BatchRunner(size, unit="images", setting="--image-batch")
        for start in range(0, len(wanted), size):
            yield from self._get_together(segmenter, wanted[start : start + size], batches)

    def _get_together(
        self, segmenter: BatchedBoxSegmenter, wanted: Sequence[BoxesOfImage], batches: BatchRunner
    ) -> list[Rles]:
        found = [self._known(*one) for one in wanted]
        missing = [one for one, known in zip(wanted, found, strict=True) if known is None]

        def compute(start: int, stop: int) -> list[Rles]:
            chosen = missing[start:stop]
            canvases, boxes = zip(*(self._prompts(*one) for one in chosen), strict=True)
            logits = segmenter.segment_boxes_of_images(canvases, boxes)
            return [self._keep(*one, logits_Bhw) for one, logits_Bhw in zip(chosen, logits, strict=True)]

        made = chain.from_iterable(batches.run(compute, len(missing)))
        return [next(made) if known is None else known for known in found]

    def _known(self, record: ImageRecord, boxes_xywh: Sequence[Box]) -> Rles | None:
        """Look masks up in the store."""
        entry = self.store.read(_KIND, self._key(record, boxes_xywh))
        if entry is None:
            return None
        arrays, _ = entry
        return _unpacked(arrays["rle_bytes"].tobytes(), arrays["rle_lengths"].tolist())

    def _key(self, record: ImageRecord, boxes_xywh: Sequence[Box]) -> str:
        return content_key(
            {
                "version": _VERSION,
                "image": image_digest(record.path),
                "height": record.height,
                "width": record.width,
                "boxes": [list(box) for box in boxes_xywh],
                "segmenter": dict(self.segmenter.fingerprint),
            }
        )

    def _prompts(self, record: ImageRecord, boxes_xywh: Sequence[Box]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the canvas, float32 [3, h, w], and the boxes in its pixels, float32 [B, 4]."""
        rows, columns = self.segmenter.canvas_hw(record.height, record.width)
        boxes = torch.tensor(boxes_xywh, dtype=torch.float64).reshape(-1, 4)
        boxes_xyxy = torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1)
        boxes_xyxy *= torch.tensor([columns / record.width, rows / record.height] * 2, dtype=torch.float64)
        return canvas_of(read_image(record), (rows, columns)), boxes_xyxy.float()

    def _keep(self, record: ImageRecord, boxes_xywh: Sequence[Box], logits_Bhw: torch.Tensor) -> Rles:
        """Turn a segmenter's logits into masks of the image's size, and put them into the store."""
        rles = encode_full_size(logits_Bhw, record.height, record.width)
        areas = rle_areas(rles, record.height, record.width).tolist()
        if not all(areas):
            _LOG.warning(
                "%s: %s found nothing in %d of %d boxes; the box serves as the mask.",
                record.path,
                self.segmenter.name,
                areas.count(0),
                len(areas),
            )
        masks = tuple(rle if area else None for rle, area in zip(rles, areas, strict=True))
        arrays: dict[str, npt.NDArray[Any]] = {
            "rle_bytes": np.frombuffer(b"".join(rle or b"" for rle in masks), dtype=np.uint8),
            "rle_lengths": np.array([len(rle or b"") for rle in masks], dtype=np.int64),
        }
        self.store.write(_KIND, self._key(record, boxes_xywh), arrays, notes={})
        return masks


@dataclass(frozen=True)
class ReferenceMasks:
    """The masks of references: annotated, or made of their box, or the box itself.

    Attributes:
        maker: makes masks of boxes; None where the box serves as the mask.
    """

    maker: BoxMasks | None

    def facts(self, instances: Sequence[Instance]) -> Mapping[str, Any]:
        """Return what decides the masks of instances beside the annotations; nothing where those say it all."""
        if self.maker is None or all(instance.segmentation is not None for instance in instances):
            return {}
        return {"box_masks": {"version": _VERSION, **self.maker.segmenter.fingerprint}}

    def rle(self, instance: Instance, record: ImageRecord) -> bytes | None:
        """Return the instance's mask, COCO compressed RLE; None where its box serves as the mask."""
        if instance.segmentation is not None:
            return instance_rle(instance, record.height, record.width)
        return None if self.maker is None else self.maker.get(record, [instance.bbox_xywh])[0]

    def mask(self, instance: Instance, record: ImageRecord) -> npt.NDArray[np.bool_]:
        """Return the instance's mask, bool [height, width]."""
        rle = self.rle(instance, record)
        if rle is None:
            return box_mask(instance.bbox_xywh, record.height, record.width)
        mask: npt.NDArray[np.bool_] = decode_masks([rle], record.height, record.width)[0]
        return mask


@dataclass(frozen=True)
class Conversion:
    """What became of an annotation file.

    Attributes:
        made: masks made by the segmenter.
        kept: annotations left as they were: those that had a mask, crowd regions, unusable ones.
        fallen_back: ids of annotations whose box serves as the mask, because the segmenter found nothing in it.
    """

    made: int
    kept: int
    fallen_back: tuple[int, ...]


def convert(
    *,
    dataset: CocoDataset,
    output: Path,
    box_masks: BoxMasks,
    mask_format: MaskFormat,
    overwrite_masks: bool = False,
    image_batch: int | None = None,
    on_image: Callable[[ImageRecord, Sequence[Instance], Mapping[int, bytes]], None] | None = None,
) -> Conversion:
    """Write a copy of an annotation file in which box-only annotations have masks.

    Everything else is copied as it stands, boxes and areas included, so that box metrics do not change. Each new
    mask comes with `mask_source`, the name of the segmenter, or "box" where the box serves as the mask. Crowd regions
    and annotations that cannot be used are left as they are.

    Args:
        dataset: the annotations; their file is read again, and not written.
        output: the file to write, once all masks are there.
        box_masks: makes the masks and keeps them, so that a second call goes on where an interrupted one stopped.
        mask_format: "rle", or "polygon": outlines along the edges of the pixels, holes filled.
        overwrite_masks: make masks for annotations that have one, too.
        image_batch: images the segmenter is given at a time, if it takes several; see `BoxMasks.get_all`.
        on_image: called with each image that has new masks, its instances, and the new masks by annotation id.

    Raises:
        NttError: for an image that cannot be read, weights that do not fit, or a disk that is full.
    """
    wanted = _boxes_to_do(dataset, overwrite_masks=overwrite_masks)
    segmentations: dict[int, tuple[Any, str]] = {}
    masks = box_masks.get_all(
        [(dataset.images[image_id], [one.bbox_xywh for one in instances]) for image_id, instances in wanted.items()],
        image_batch=image_batch,
    )
    shown = track(list(wanted), "boxes to masks", unit="image", visible=True)
    for image_id, found in zip(shown, masks, strict=True):
        record, instances = dataset.images[image_id], wanted[image_id]
        rles: dict[int, bytes] = {}
        for instance, rle in zip(instances, found, strict=True):
            source = "box" if rle is None else box_masks.segmenter.name
            rles[instance.id] = _box_rle(instance, record) if rle is None else rle
            segmentations[instance.id] = (_segmentation(rles[instance.id], record, mask_format), source)
        if on_image is not None:
            on_image(record, dataset.instances_of_image(image_id), rles)
    written = _write_copy(dataset, output, segmentations)
    fallen_back = tuple(number for number, (_, source) in segmentations.items() if source == "box")
    return Conversion(len(segmentations) - len(fallen_back), written - len(segmentations), fallen_back)


def _boxes_to_do(dataset: CocoDataset, *, overwrite_masks: bool) -> dict[ImageId, list[Instance]]:
    """Return the annotations that get masks, by image, in file order."""
    wanted: dict[ImageId, list[Instance]] = {}
    for instance in dataset.instances:
        if not instance.iscrowd and (overwrite_masks or instance.segmentation is None):
            wanted.setdefault(instance.image_id, []).append(instance)
    return wanted


def _write_copy(dataset: CocoDataset, output: Path, segmentations: Mapping[int, tuple[Any, str]]) -> int:
    """Write the annotation file again with new segmentations and return how many annotations it has."""
    document: Json = json.loads(dataset.annotation_file.read_bytes())
    slots: list[Instance | None] = list(dataset.instances)
    for place, _ in reversed(dataset.dropped):
        slots.insert(place, None)
    for entry, instance in zip(document["annotations"], slots, strict=True):
        if instance is not None and instance.id in segmentations:
            entry["segmentation"], entry["mask_source"] = segmentations[instance.id]
    write_json(output, document, indent=None)
    return len(slots)


def _segmentation(rle: bytes, record: ImageRecord, mask_format: MaskFormat) -> Any:
    if mask_format == "rle":
        return {"size": [record.height, record.width], "counts": rle.decode("ascii")}
    return mask_to_polygons(decode_masks([rle], record.height, record.width)[0])


def _box_rle(instance: Instance, record: ImageRecord) -> bytes:
    mask = torch.from_numpy(box_mask(instance.bbox_xywh, record.height, record.width))
    return encode_masks(mask[None])[0]


def _unpacked(data: bytes, lengths: Sequence[int]) -> Rles:
    """Cut stored masks apart; a length of 0 stands for a box in which nothing was found."""
    ends = np.cumsum(lengths).tolist()
    return tuple(data[end - length : end] if length else None for end, length in zip(ends, lengths, strict=True))
