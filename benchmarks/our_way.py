"""Our way of computing one image, by the steps of `ntt.stages.candidates` and `ntt.stages.matching`, timed by part."""

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from benchmarks.parts import Clock, Shown
from ntt.matchers.prototype import PrototypeMatcher
from ntt.models.backbones import vit
from ntt.models.backbones.dinov2 import Dinov2
from ntt.models.segmenters.sam2 import Sam2, segmenter
from ntt.ops import candidates
from ntt.ops.pooling import pool_masks
from ntt.ops.resize import encoder_input, resize_to_canvas
from ntt.types import Candidates, Category, Detections, Proposals, Prototypes


@dataclass(frozen=True)
class OurModels:
    """What is loaded before the clock starts."""

    segmenter: Sam2
    backbone: Dinov2


def load_models(shown: Shown) -> OurModels:
    """Read the weights of both models, and encode one image each so that no first call is timed."""
    if shown.emulate:
        # Leave the precision as asked for, whatever the CPU can do.
        for module in (segmenter, vit):
            vars(module)["effective_precision"] = lambda precision, device: precision
    sam2 = Sam2(shown.sam2_config, shown.placement)
    backbone = Dinov2(shown.dinov2_config, shown.placement)
    backbone.encode(torch.zeros(1, 3, backbone.input_size, backbone.input_size))
    sam2._terms(sam2._encode([torch.zeros(3, *sam2.canvas_hw(1, 1))])[0])
    return OurModels(sam2, backbone)


def detect(shown: Shown, models: OurModels, clock: Clock) -> Detections:
    """Find objects in one image."""
    height, width = shown.image_HW3.shape[:2]
    with clock.part("image to canvas"):
        canvas = resize_to_canvas(shown.image_HW3, models.segmenter.canvas_hw(height, width)).to(shown.device)
    with clock.part("DINOv2"):
        feature_map = models.backbone.encode(encoder_input(canvas, models.backbone.input_size))[0]
    vars(models.segmenter)["_encode"] = clock.timed("SAM2 image encoder", partial(Sam2._encode, models.segmenter))
    with clock.part("SAM2 decoder"):
        proposals = models.segmenter.propose(canvas, feature_map)
    del models.segmenter._encode
    proposals = Proposals(shown.masks_of(proposals.logits_Nhw), proposals.predicted_iou_N)
    vars(candidates)["pool_masks"] = clock.timed("pooling", pool_masks)
    with clock.part("masks, matching, merging"):
        measured, detections = _match(proposals, feature_map, height, width, shown.prototypes_PD)
    vars(candidates)["pool_masks"] = pool_masks
    clock.notes["candidates"] = len(measured)
    clock.notes["distinct labels"] = len(np.unique(detections.labels))
    return detections


def compile_loops() -> None:
    """Compile the loops of our way, on two squares; the machine code is kept for later processes."""
    logits_2hw = -torch.ones(2, 256, 256)
    logits_2hw[:, 50:100, 50:100] = 1
    _match(Proposals(logits_2hw, torch.tensor([0.9, 0.8])), torch.rand(8, 37, 37), 480, 640, torch.eye(8)[:3])


def _match(
    proposals: Proposals, feature_map_Dhw: torch.Tensor, height: int, width: int, prototypes_PD: torch.Tensor
) -> tuple[Candidates, Detections]:
    labels_P = torch.arange(len(prototypes_PD))
    categories = tuple(Category(index, str(index)) for index in labels_P.tolist())
    measured = candidates.measure(proposals, feature_map_Dhw, height=height, width=width)("float16")
    return measured, PrototypeMatcher().match(0, measured, Prototypes(categories, prototypes_PD, labels_P))
