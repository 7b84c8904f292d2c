"""Masks for annotations that have only boxes: for whole annotation files, and for the references of a run.

Masks are kept in a store, so an interrupted conversion resumes where it stopped, and a run computes each mask once.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from pycocotools import mask as coco_mask

from ntt.base.digests import content_key
from ntt.base.files import write_json
from ntt.base.progress import track
from ntt.data.coco import CocoDataset
from ntt.data.documents import read_document
from ntt.data.images import image_digest, read_image
from ntt.data.masks import instance_mask, instance_rle, mask_to_polygons
from ntt.models.backbones.base import Backbone, feature_map
from ntt.models.batching import BatchRunner
from ntt.models.segmenters.base import BoxSegmenter, Segmenter, takes_boxes
from ntt.ops.boxes import boxes_from_masks, with_corners, with_sizes
from ntt.ops.mask_changes import full_size_changes
from ntt.ops.masks import decode_masks
from ntt.ops.resize import encoder_input, resize_to_canvas
from ntt.ops.run_lengths import take, to_run_lengths, to_text
from ntt.store.entries import Arrays, Notes, masks_from_arrays, masks_to_arrays
from ntt.store.store import Store
from ntt.types import BoolArray, FloatArray, ImageRecord, Instance, Proposals, RunLengths

Box: TypeAlias = tuple[float, float, float, float]
MaskFormat: TypeAlias = Literal["rle", "polygon"]
Rles: TypeAlias = tuple[bytes | None, ...]
BoxesOfImage: TypeAlias = tuple[ImageRecord, Sequence[Box]]

_LOG = logging.getLogger(__name__)
_VERSION = 1
_KIND = "box_masks"
# A proposal whose own box overlaps the given box less than this is taken to be another object.
_MIN_BOX_IOU = 0.5


@dataclass(frozen=True)
class ProposalBoxes:
    """A `BoxSegmenter` made of any segmenter: it chooses among its proposals (see `best_proposals`)."""

    segmenter: Segmenter
    backbone: Backbone
    images_at_once: int = 1

    @property
    def name(self) -> str:
        """Name of the segmenter."""
        return self.segmenter.name

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """What decides the masks, JSON-able."""
        return {
            "boxes": "best_proposal",
            "version": 1,
            "min_box_iou": _MIN_BOX_IOU,
            "segmenter": dict(self.segmenter.fingerprint),
            "backbone": dict(self.backbone.fingerprint),
        }

    def canvas_hw(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the segmenter's canvas."""
        return self.segmenter.canvas_hw(height, width)

    @torch.no_grad()
    def segment_boxes(self, canvases: Sequence[torch.Tensor], boxes: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Segment the object in each box; see `ntt.models.segmenters.base.BoxSegmenter`."""
        masks = []
        for canvas_3hw, boxes_xyxy in zip(canvases, boxes, strict=True):
            feature_map_Dhw = feature_map(self.backbone, encoder_input(canvas_3hw, self.backbone.input_size))
            proposals = self.segmenter.propose(canvas_3hw, feature_map_Dhw)
            rows, columns = proposals.logits_Nhw.shape[1:]
            height, width = canvas_3hw.shape[1:]
            scale = np.array([columns / width, rows / height] * 2, dtype=np.float32)
            masks.append(best_proposals(proposals, boxes_xyxy.cpu().numpy() * scale))
        return masks


def best_proposals(proposals: Proposals, boxes_xyxy: FloatArray) -> torch.Tensor:
    """Choose a proposal for each box and crop it to the box.

    The choice is the proposal whose own tight box has the highest IoU with the given box, as annotated boxes are tight
    too; among equals, the one with the higher predicted IoU, then the earlier one. Cells of the grid whose centre lies
    outside the box are removed.

    Boxes are float32 [B, 4] in cells of the proposals' grid, right and bottom exclusive; the result is float32
    [B, h, w], 1 for foreground and -1 elsewhere, without foreground where no proposal fits.
    """
    foreground_Nhw = proposals.logits_Nhw > 0
    count, rows, columns = foreground_Nhw.shape
    masks_Bhw = torch.full((len(boxes_xyxy), rows, columns), -1.0, device=foreground_Nhw.device)
    if count == 0 or len(boxes_xyxy) == 0:
        return masks_Bhw
    order = np.argsort(-proposals.predicted_iou_N.float().cpu().numpy(), kind="stable")
    tight_xywh = boxes_from_masks(foreground_Nhw)[order]
    tight_xywh[:, 2:] -= tight_xywh[:, :2] - 1
    pairs = (tight_xywh.astype(np.float64), with_sizes(boxes_xyxy).astype(np.float64))
    iou_NB = coco_mask.iou(*pairs, [0] * len(boxes_xyxy))
    best_B = iou_NB.argmax(axis=0)
    for index, (best, box) in enumerate(zip(best_B.tolist(), boxes_xyxy, strict=True)):
        if iou_NB[best, index] >= _MIN_BOX_IOU:
            part = _cells_inside(box, rows, columns)
            masks_Bhw[index][part] = foreground_Nhw[order[best]][part].float() * 2 - 1
    return masks_Bhw


def _cells_inside(box_xyxy: FloatArray, rows: int, columns: int) -> tuple[slice, slice]:
    """Return the cells whose centres lie in a box."""
    left, top, right, bottom = np.ceil(box_xyxy - 0.5).astype(int).tolist()
    return slice(max(top, 0), min(max(bottom, 0), rows)), slice(max(left, 0), min(max(right, 0), columns))


def choose_box_segmenter(mode: str, segmenter: Segmenter, backbone: Backbone) -> BoxSegmenter | None:
    """Return what makes masks from boxes; None if the box itself serves as the mask.

    In mode "auto" it is the segmenter if it takes boxes as prompts, else None; in mode "segmenter" always the
    segmenter, whose proposals are used if it takes no boxes; in mode "box" None.
    """
    if mode == "box":
        return None
    if takes_boxes(segmenter):
        return segmenter
    return ProposalBoxes(segmenter, backbone) if mode == "segmenter" else None


@dataclass(frozen=True)
class BoxMasks:
    """Masks of boxes, from the store, or computed and stored."""

    segmenter: BoxSegmenter
    store: Store

    def get(self, images: Sequence[BoxesOfImage], *, image_batch: int | None = None) -> Iterator[Rles]:
        """Yield the full-size mask of each COCO box of each image, as compressed RLE; None if nothing was found.

        `image_batch` images are segmented at a time, by default as many as suit the segmenter's device; it is halved
        when memory runs out.
        """
        size = self.segmenter.images_at_once if image_batch is None else image_batch
        batches = BatchRunner(size, unit="images", setting="--image-batch")
        for start in range(0, len(images), size):
            yield from self._get_together(images[start : start + size], batches)

    def _get_together(self, images: Sequence[BoxesOfImage], batches: BatchRunner) -> Iterator[Rles]:
        stored = [self._read(*image) for image in images]
        missing = [image for image, rles in zip(images, stored, strict=True) if rles is None]

        def compute(start: int, stop: int) -> list[Rles]:
            batch = missing[start:stop]
            canvases, boxes = zip(*(self._prompts(*image) for image in batch), strict=True)
            masks = self.segmenter.segment_boxes(canvases, boxes)
            return [self._write(*image, logits) for image, logits in zip(batch, masks, strict=True)]

        computed = chain.from_iterable(batches.run(compute, len(missing)))
        return (next(computed) if rles is None else rles for rles in stored)

    def _read(self, record: ImageRecord, boxes_xywh: Sequence[Box]) -> Rles | None:
        def parse(arrays: Arrays, notes: Notes) -> Rles:
            masks = masks_from_arrays(arrays, notes, size=(record.height, record.width))
            if arrays["is_found"].shape != (len(boxes_xywh),) or np.count_nonzero(arrays["is_found"]) != len(masks):
                raise ValueError("its masks are not those of the boxes")
            return _per_box(masks, arrays["is_found"], record)

        return self.store.read(_KIND, self._key(record, boxes_xywh), parse)

    def _key(self, record: ImageRecord, boxes_xywh: Sequence[Box]) -> str:
        return content_key(
            {
                "version": _VERSION,
                "image": image_digest(record),
                "height": record.height,
                "width": record.width,
                "boxes": [list(box) for box in boxes_xywh],
                "segmenter": dict(self.segmenter.fingerprint),
            }
        )

    def _prompts(self, record: ImageRecord, boxes_xywh: Sequence[Box]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the canvas, float32 [3, h, w], and the boxes, xyxy in its pixels, float32 [B, 4]."""
        rows, columns = self.segmenter.canvas_hw(record.height, record.width)
        boxes_xyxy = with_corners(np.array(boxes_xywh, dtype=np.float64).reshape(-1, 4))
        boxes_xyxy *= [columns / record.width, rows / record.height] * 2
        return resize_to_canvas(read_image(record), (rows, columns)), torch.from_numpy(boxes_xyxy).float()

    def _write(self, record: ImageRecord, boxes_xywh: Sequence[Box], logits_Bhw: torch.Tensor) -> Rles:
        """Turn logits into masks of the image's size, and write them to the store."""
        changes = full_size_changes(logits_Bhw, logits_Bhw > 0, record.height, record.width)
        is_found = changes.per_mask_N > 0
        if not is_found.all():
            what = f"{self.segmenter.name} found nothing in {np.count_nonzero(~is_found)} of {len(is_found)} boxes"
            _LOG.warning("%s: %s; the box serves as the mask.", record.path, what)
        masks = take(to_run_lengths(changes), np.flatnonzero(is_found))
        arrays, notes = masks_to_arrays(masks, record.height, record.width)
        self.store.write(_KIND, self._key(record, boxes_xywh), {**arrays, "is_found": is_found}, notes=notes)
        return _per_box(masks, is_found, record)


def _per_box(masks: RunLengths, is_found: BoolArray, record: ImageRecord) -> Rles:
    """Return the mask of each box as COCO compressed RLE, None if nothing was found."""
    rles = iter(to_text(masks))
    return tuple(next(rles) if has_mask else None for has_mask in is_found.tolist())


@dataclass(frozen=True)
class ReferenceMasks:
    """The masks of references: annotated, or made from their box, or, without a `maker`, the box itself."""

    maker: BoxMasks | None

    def fingerprint(self, instances: Sequence[Instance]) -> Mapping[str, Any]:
        """Return what decides the masks of instances besides the annotations; nothing if all have masks."""
        if self.maker is None or all(instance.segmentation is not None for instance in instances):
            return {}
        return {"box_masks": {"version": _VERSION, **self.maker.segmenter.fingerprint}}

    def rle(self, instance: Instance, record: ImageRecord) -> bytes | None:
        """Return the instance's mask, COCO compressed RLE; None if its box serves as the mask."""
        if instance.segmentation is not None:
            return instance_rle(instance, record.height, record.width)
        return None if self.maker is None else next(self.maker.get([(record, [instance.bbox_xywh])]))[0]

    def mask(self, instance: Instance, record: ImageRecord) -> BoolArray:
        """Return the instance's mask, bool [height, width]."""
        rle = self.rle(instance, record)
        if rle is None:
            return instance_mask(instance, record.height, record.width)
        mask: BoolArray = decode_masks([rle], record.height, record.width)[0]
        return mask


@dataclass(frozen=True)
class Conversion:
    """What became of an annotation file."""

    num_new: int
    """Masks made by the segmenter."""
    num_unchanged: int
    """Annotations that had a mask, crowd regions, unusable ones."""
    boxes_as_masks: tuple[int, ...]
    """Ids of annotations whose box serves as the mask, because the segmenter found nothing in it."""


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

    Everything else is copied unchanged: boxes and areas, so that box metrics stay the same, crowd regions, and unusable
    annotations. Each new mask comes with `mask_source`: the segmenter, or "box" where the box serves as the mask.

    The file of `dataset` is read again; `output` is written once all masks are computed, and another call resumes where
    an interrupted one stopped. Polygons are outlines along pixel edges, holes filled. `overwrite_masks` replaces
    existing masks too; `image_batch`: see `BoxMasks.get`; `on_image` is called with each image that has new masks, its
    instances, and the new masks by annotation id.
    """
    box_only: dict[ImageRecord, list[Instance]] = {}
    for instance in dataset.instances:
        if not instance.iscrowd and (overwrite_masks or instance.segmentation is None):
            box_only.setdefault(dataset.images[instance.image_id], []).append(instance)
    images = [(record, [instance.bbox_xywh for instance in instances]) for record, instances in box_only.items()]
    masks = box_masks.get(images, image_batch=image_batch)
    segmentations: dict[int, Any] = {}
    boxes_as_masks: list[int] = []
    for record in track(list(box_only), "boxes to masks", unit="image", visible=True):
        rles: dict[int, bytes] = {}
        for instance, rle in zip(box_only[record], next(masks), strict=True):
            if rle is None:
                boxes_as_masks.append(instance.id)
                rle = instance_rle(replace(instance, segmentation=None), record.height, record.width)
            rles[instance.id] = rle
            size = (record.height, record.width)
            if mask_format == "polygon":
                segmentations[instance.id] = mask_to_polygons(decode_masks([rle], *size)[0])
            else:
                segmentations[instance.id] = {"size": list(size), "counts": rle.decode("ascii")}
        if on_image is not None:
            on_image(record, dataset.instances_of_image(record.id), rles)
    document = read_document(dataset.annotation_file)
    for entry, instance in zip(document["annotations"], dataset.in_file_order(), strict=True):
        if instance.id in segmentations:
            entry["segmentation"] = segmentations[instance.id]
            entry["mask_source"] = "box" if instance.id in boxes_as_masks else box_masks.segmenter.name
    write_json(output, document, indent=None)
    num_unchanged = len(document["annotations"]) - len(segmentations)
    return Conversion(len(segmentations) - len(boxes_as_masks), num_unchanged, tuple(boxes_as_masks))
