"""Masks of boxes from a segmenter that takes no boxes: the proposal that fits each box best.

Suffixes: N proposals, B boxes, h and w the grid of the proposals.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pycocotools import mask as coco_mask

from ntt.models.backbones.base import Backbone
from ntt.models.segmenters.base import Segmenter
from ntt.ops.boxes import boxes_from_masks, with_sizes
from ntt.ops.canvas import encoder_input
from ntt.types import FloatArray, Proposals

_VERSION = 1
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
            "version": _VERSION,
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
            feature_map_Dhw = self.backbone.encode(encoder_input(canvas_3hw, self.backbone.input_size))[0].float()
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
    iou_NB = coco_mask.iou(_doubles(tight_xywh), _doubles(with_sizes(boxes_xyxy)), [0] * len(boxes_xyxy))
    best_B = iou_NB.argmax(axis=0)
    for index, (best, box) in enumerate(zip(best_B.tolist(), boxes_xyxy, strict=True)):
        if iou_NB[best, index] >= _MIN_BOX_IOU:
            part = _cells_inside(box, rows, columns)
            masks_Bhw[index][part] = foreground_Nhw[order[best]][part].float() * 2 - 1
    return masks_Bhw


def _doubles(boxes: FloatArray) -> npt.NDArray[np.float64]:
    return np.ascontiguousarray(boxes, dtype=np.float64)


def _cells_inside(box_xyxy: FloatArray, rows: int, columns: int) -> tuple[slice, slice]:
    """Return the cells whose centres lie in a box."""
    left, top, right, bottom = np.ceil(box_xyxy - 0.5).astype(int).tolist()
    return slice(max(top, 0), min(max(bottom, 0), rows)), slice(max(left, 0), min(max(right, 0), columns))
