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
from ntt.types import Category, Detections, Proposals, Prototypes


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
        measured = candidates.measure(proposals, feature_map, height=height, width=width)("float16")
        detections = PrototypeMatcher().match(0, measured, _prototypes(shown))
    vars(candidates)["pool_masks"] = pool_masks
    clock.notes["candidates"] = len(measured)
    clock.notes["distinct labels"] = len(np.unique(detections.labels))
    return detections


def _prototypes(shown: Shown) -> Prototypes:
    count = len(shown.prototypes_PD)
    categories = tuple(Category(index, str(index)) for index in range(count))
    return Prototypes(categories, shown.prototypes_PD, torch.arange(count))
