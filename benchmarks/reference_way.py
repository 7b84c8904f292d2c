"""The reference's way of computing one image, written plainly: the baseline of `benchmarks.whole_image`.

It follows method.md §4 to §6, without any of the rearrangements of `ntt`: the package's prompt encoder and mask
decoder 256 prompts at a time with all three masks upscaled, features upsampled to the grid of the masks, masks as
float matrices of all pixels. Nothing is slowed down on purpose. The image encoders are those `ntt` uses, since their
work is the same.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torchvision.ops import batched_nms, masks_to_boxes

from benchmarks.parts import Clock, Shown
from benchmarks.sam2_decoder import PackageHeads, package_decoder
from ntt.models.backbones.dinov2 import Dinov2
from ntt.models.device import autocast
from ntt.models.segmenters.sam2.model import CANVAS_PX, CHANNELS, TOKEN_GRID, load_image_encoder, read_state
from ntt.models.segmenters.sam2.prompts import point_grid
from ntt.ops.masks import encode_masks
from ntt.ops.resize import encoder_input, resize_to_canvas
from ntt.types import Detections

BATCH = 256
NMS_IOU = 0.5
MAX_AFTER_NMS, MAX_DETECTIONS = 800, 100


@dataclass(frozen=True)
class ReferenceModels:
    """What is loaded before the clock starts."""

    image_encoder: torch.nn.Module
    heads: PackageHeads
    backbone: Dinov2


def load_models(shown: Shown) -> ReferenceModels:
    """Read the weights of both models, and encode one image each so that no first call is timed."""
    state = read_state(shown.sam2_weights, shown.sam2_model)
    heads = PackageHeads()
    heads.load_state_dict({name: state[name] for name in heads.state_dict()})
    backbone = Dinov2(shown.dinov2_config, shown.placement)
    backbone.encode(torch.zeros(1, 3, backbone.input_size, backbone.input_size))
    encoder = load_image_encoder(state, shown.sam2_model).to(shown.device)
    with torch.no_grad(), autocast(shown.precision, torch.device(shown.device)):
        encoder(torch.zeros(1, 3, CANVAS_PX, CANVAS_PX, device=shown.device))
    return ReferenceModels(encoder, heads.to(shown.device), backbone)


@torch.no_grad()
def detect(shown: Shown, models: ReferenceModels, clock: Clock) -> Detections:
    """Find objects in one image."""
    height, width = shown.image_HW3.shape[:2]
    with clock.part("image to canvas"):
        canvas = resize_to_canvas(shown.image_HW3, (CANVAS_PX, CANVAS_PX))
    with autocast(shown.precision, torch.device(shown.device)):
        torch.set_flush_denormal(False)  # the reference implementation does not flush them
        logits, predicted_iou = _propose(canvas.to(shown.device), shown, models, clock)
    with clock.part("DINOv2"):
        feature_map = models.backbone.encode(encoder_input(canvas, models.backbone.input_size))[0]
    logits = shown.masks_of(logits)
    with clock.part("pooling"):
        features, valid = _pool(feature_map, logits)
        logits, predicted_iou, features = logits[valid], predicted_iou[valid], features[valid]
    with clock.part("masks, matching, merging"):
        matched = _match(logits, predicted_iou, features, shown.prototypes_PD.to(shown.device))
        clock.notes |= {"candidates": len(logits), "after suppression": len(matched.scores)}
        return _merge(matched, height, width)


def _propose(
    canvas: torch.Tensor, shown: Shown, models: ReferenceModels, clock: Clock
) -> tuple[torch.Tensor, torch.Tensor]:
    """All prompts decoded and upscaled, three masks each; the best of each above the threshold."""
    mean = torch.tensor([0.485, 0.456, 0.406], device=canvas.device)[:, None, None]
    std = torch.tensor([0.229, 0.224, 0.225], device=canvas.device)[:, None, None]
    with clock.part("SAM2 image encoder"):
        maps = models.image_encoder(((canvas - mean) / std)[None])["backbone_fpn"]
    with clock.part("SAM2 decoder"):
        assert maps[2].shape[1:] == (CHANNELS, TOKEN_GRID, TOKEN_GRID)
        decode = package_decoder(models.heads, [feature_map[0] for feature_map in maps], BATCH)
        logits, predicted_iou = decode(point_grid(shown.points_per_side).to(canvas.device))
        keep = predicted_iou > shown.min_predicted_iou
        return logits[keep].float(), predicted_iou[keep].float()


def _pool(feature_map: torch.Tensor, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Average upsampled features over masks; which masks are not empty."""
    grid = logits.shape[1:]
    upsampled = F.interpolate(feature_map[None], size=grid, mode="bilinear", align_corners=False)
    pixels_PD = upsampled[0].flatten(1).T
    masks_NP = (logits > 0).flatten(1).float()
    areas = masks_NP.sum(dim=1, keepdim=True)
    return F.normalize(masks_NP @ pixels_PD / areas, dim=1), areas[:, 0] > 0


@dataclass(frozen=True)
class _Matched:
    """What non-maximum suppression leaves, in its order."""

    logits: torch.Tensor
    features: torch.Tensor
    labels: torch.Tensor
    scores: torch.Tensor


def _match(
    logits: torch.Tensor, predicted_iou: torch.Tensor, features: torch.Tensor, prototypes: torch.Tensor
) -> _Matched:
    """Best class of each mask, and suppression within classes by predicted IoU."""
    scores, labels = (features @ prototypes.T).clamp(min=0).max(dim=1)
    boxes = masks_to_boxes(logits > 0)
    kept = batched_nms(boxes, predicted_iou, labels, NMS_IOU)[:MAX_AFTER_NMS]
    kept = kept[scores[kept] > 0]
    return _Matched(logits[kept], features[kept], labels[kept], scores[kept])


def _merge(matched: _Matched, height: int, width: int) -> Detections:
    """Full-size masks of all that is left, their overlaps as one dense product, decayed scores, the best 100."""
    full = F.interpolate(
        matched.logits[:, None], size=(height, width), mode="bilinear", align_corners=False, antialias=True
    )
    foreground = full[:, 0] > 0
    flat = foreground.flatten(1).float()
    overlaps = flat @ flat.T / flat.sum(dim=1, keepdim=True).clamp(min=1)
    overlaps *= (matched.features @ matched.features.T).clamp(min=0)
    overlaps *= (matched.labels[:, None] == matched.labels).float().tril(diagonal=-1)
    penalty = overlaps.max(dim=1).values if len(overlaps) else overlaps.sum(dim=1)
    scores = matched.scores * (1 - penalty).sqrt()
    best = scores.argsort(descending=True, stable=True)[:MAX_DETECTIONS]
    best = best[foreground[best].any(dim=2).any(dim=1)]
    boxes = masks_to_boxes(foreground[best]).cpu().numpy()
    return Detections(
        image_id=0,
        height=height,
        width=width,
        labels=matched.labels[best].cpu().numpy(),
        scores=scores[best].cpu().numpy(),
        boxes_xywh=np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2] + 1], axis=1),
        rles=encode_masks(foreground[best]),
    )
