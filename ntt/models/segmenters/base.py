"""The segmenter interface: a class-agnostic proposer of masks."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeGuard

import torch

from ntt.base.settings import Option
from ntt.types import Placement, Proposals


class CanvasModel(Protocol):
    """What all kinds of segmenters have."""

    @property
    def name(self) -> str:
        """Name of the config option."""

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """What decides the output, JSON-able: algorithm or model, digest of the weights, settings."""

    def canvas_hw(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns in pixels to which an image of `height` x `width` is first resized."""


class Segmenter(CanvasModel, Protocol):
    """A class-agnostic mask proposer. Stateless between calls; the same input gives the same proposals.

    Construction checks the settings, and that the weights exist; a model is built at the first call of `propose`.
    """

    def propose(self, canvas_3hw: torch.Tensor, feature_map_Dhw: torch.Tensor) -> Proposals:
        """Propose masks in one image, in any order, on any grid that covers the whole image.

        The canvas is float32 RGB in [0, 1] of size `canvas_hw`; the feature map is the backbone's of the same image.
        """


class BoxSegmenter(CanvasModel, Protocol):
    """Makes masks from boxes. A segmenter that takes boxes as prompts has `segment_boxes` as well as `propose`.

    `ntt.models.box_masks` makes one of any other segmenter.
    """

    @property
    def images_at_once(self) -> int:
        """How many images to pass at once on its device, 1 or more."""

    def segment_boxes(self, canvases: Sequence[torch.Tensor], boxes: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Segment the object in each box of some images.

        For each image it gets a canvas, float32 RGB [3, h, w] in [0, 1] of size `canvas_hw`, and boxes, float32 [B, 4],
        xyxy in canvas pixels; B may differ. For each it returns mask logits [B, h, w] of any float or signed integer
        dtype, on a grid that covers the whole image; foreground is > 0. No foreground means that nothing was found. Up
        to rounding, they do not depend on the other images.
        """


def takes_boxes(segmenter: object) -> TypeGuard[BoxSegmenter]:
    """Return whether a segmenter takes boxes as prompts."""
    return callable(getattr(segmenter, "segment_boxes", None))


@dataclass(frozen=True, kw_only=True)
class SegmenterConfig(Option):
    """Base schema of the config group `segmenter`."""

    @abstractmethod
    def build(self, placement: Placement) -> Segmenter:
        """Construct the segmenter; a ConfigError for unfit settings, a WeightsError for missing or unfit weights."""
