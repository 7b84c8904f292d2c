"""The proposer: leaves, hierarchies over them, and the best distinct nodes."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch

from ntt.base.settings import deciding_settings, setting
from ntt.errors import ConfigError
from ntt.models.segmenters.base import SegmenterConfig
from ntt.models.segmenters.regions.leaves import Leaves, find_leaves
from ntt.models.segmenters.regions.nodes import LINKAGES, Nodes, build_tree, measure_nodes
from ntt.models.segmenters.regions.objectness import objectness
from ntt.types import BoolArray, DoubleArray, FloatArray, IntArray, Placement, Proposals

_LOG = logging.getLogger(__name__)
# Part of the keys of stored candidates: increase it with every change of the output for the same settings.
_VERSION = 1
_SMALLEST_SIDE_PX = 8
# Smaller regions of the mask grid are noise.
_SMALLEST_REGION_PX = 8
# Upper ends of the size classes (share of the image's area), and each class's part of the budget. Small objects are
# many and resemble texture: without a share of their own, large ones would crowd them out.
SIZE_ENDS: tuple[float, ...] = (0.001, 0.005, 0.02, 1.0)
SIZE_PARTS: tuple[float, ...] = (0.35, 0.30, 0.20, 0.15)
# IoU with a better region of the same size class above which a region is left out.
MAX_IOU: tuple[float, ...] = (0.6, 0.6, 0.7, 0.8)
_POOL_FACTOR = 3


@dataclass(frozen=True, kw_only=True)
class RegionsConfig(SegmenterConfig):
    """Schema of the option `regions`."""

    SCHEMA: ClassVar[str] = "regions"

    canvas_side: int = setting(512, ge=32, le=8192)
    """Longer side in pixels of the canvas the backbone sees; the aspect ratio is kept."""

    mask_side: int = setting(320, ge=32, le=8192)
    """Longer side in pixels of the grid on which regions and masks are computed; at most `canvas_side`."""

    leaves: int = setting(1200, ge=2, le=1_000_000)
    """Regions of the finest partition; more of them find smaller objects and take longer."""

    max_masks: int = setting(1000, ge=1)
    """Maximum number of masks proposed per image."""

    def build(self, placement: Placement) -> "Regions":
        """Construct the segmenter. It always runs on the CPU."""
        return Regions(self)


class Regions:
    """Mask proposals without weights, from region hierarchies over colour and backbone features.

    Several hierarchies, each with its own measure of similarity, merge about a thousand watershed regions pairwise up
    to the whole image, and every merge is a candidate mask. An objectness model ranks them, and the best distinct masks
    of every size are proposed.
    """

    def __init__(self, config: RegionsConfig) -> None:
        """Raise a ConfigError if masks would be finer than the canvas."""
        if config.mask_side > config.canvas_side:
            raise ConfigError(
                f"segmenter.mask_side={config.mask_side} is larger than segmenter.canvas_side={config.canvas_side}. "
                "Masks cannot be finer than the canvas."
            )
        self.config = config
        self.name = config.name
        self.fingerprint: Mapping[str, Any] = {
            "kind": config.SCHEMA,
            "version": _VERSION,
            **deciding_settings(config),
        }

    def canvas_hw(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the canvas: the longer side is `canvas_side`, the shorter one at least 8 pixels."""
        return _fit(height, width, self.config.canvas_side)

    @torch.no_grad()
    def propose(self, canvas_3hw: torch.Tensor, feature_map_Dhw: torch.Tensor) -> Proposals:
        """Propose masks in one image, by descending objectness; see `ntt.models.segmenters.base.Segmenter`.

        They are int8, +1 inside and -1 outside, on a grid whose longer side is `mask_side`. An image without any
        structure yields one mask that covers it all.
        """
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

        # In a single thread, the digits of linear algebra do not depend on the number of threads.
        with threadpool_limits(limits=1, user_api="blas"):
            leaves = self.leaves(canvas_3hw, feature_map_Dhw)
            if len(leaves.area_L) == 1:
                return Proposals(torch.ones((1, *leaves.labels_hw.shape), dtype=torch.int8), torch.full((1,), 0.5))
            nodes = all_nodes(leaves)
        score_N = objectness(nodes.descriptors_NF)
        eligible = np.flatnonzero(nodes.area_N >= _SMALLEST_REGION_PX)
        canvas_px, limit = leaves.labels_hw.size, self.config.max_masks
        selected = eligible[
            select(nodes.members_NL[eligible], leaves.area_L, score_N[eligible], canvas_px=canvas_px, max_masks=limit)
        ]
        _LOG.debug("%d leaves, %d nodes, %d proposals", len(leaves.area_L), len(score_N), len(selected))
        # Masks are unions of leaves.
        signs = np.where(nodes.members_NL[selected], np.int8(1), np.int8(-1))
        masks_Shw = torch.from_numpy(np.take(signs, leaves.labels_hw, axis=1))
        return Proposals(masks_Shw, torch.from_numpy(score_N[selected]))

    def leaves(self, canvas_3hw: torch.Tensor, feature_map_Dhw: torch.Tensor) -> Leaves:
        """Divide one image into the regions that masks consist of; arguments as for `propose`."""
        from torch.nn.functional import interpolate

        height, width = canvas_3hw.shape[-2:]
        size = _fit(height, width, self.config.mask_side)
        canvas = canvas_3hw.detach().cpu().to(torch.float32)[None]
        shrunk = interpolate(canvas, size, mode="bicubic", align_corners=False, antialias=True)[0].clamp(0.0, 1.0)
        return find_leaves(shrunk, feature_map_Dhw, count=self.config.leaves)


def _fit(height: int, width: int, side: int) -> tuple[int, int]:
    scale = side / max(height, width)
    return max(_SMALLEST_SIDE_PX, round(height * scale)), max(_SMALLEST_SIDE_PX, round(width * scale))


def all_nodes(leaves: Leaves) -> Nodes:
    """Collect the nodes of all hierarchies, and the leaves that they share once."""
    columns: list[tuple[npt.NDArray[Any], ...]] = []
    for linkage in LINKAGES:
        nodes = measure_nodes(leaves, *build_tree(leaves, linkage))
        new = slice(len(leaves.area_L) if columns else 0, None)
        columns.append((nodes.members_NL[new], nodes.area_N[new], nodes.descriptors_NF[new]))
    return Nodes(*map(np.concatenate, zip(*columns, strict=True)))


def select(
    members_NL: BoolArray,
    area_L: DoubleArray,
    score_N: FloatArray,
    *,
    canvas_px: int,
    max_masks: int,
) -> IntArray:
    """Select at most `max_masks` regions by descending score within each size class: int64 [S], by descending score.

    `members_NL` are the leaves of each region, `area_L` the pixels of each leaf, `canvas_px` those of the image.
    """
    share = members_NL @ area_L / canvas_px
    size_class = np.searchsorted(np.asarray(SIZE_ENDS[:-1]), share, side="left")
    ends = np.round(max_masks * np.cumsum([0.0, *reversed(SIZE_PARTS)])).astype(int)
    selected: list[IntArray] = []
    free = 0
    # Large regions first: what is left of their budget goes to smaller ones.
    for part, index in enumerate(reversed(range(len(SIZE_PARTS)))):
        budget = int(ends[part + 1] - ends[part]) + free
        ranked = np.flatnonzero(size_class == index)
        ranked = ranked[np.argsort(-score_N[ranked], kind="stable")][: _POOL_FACTOR * budget]
        best = ranked[distinct(members_NL[ranked], area_L, max_iou=MAX_IOU[index], limit=budget)]
        free = budget - len(best)
        selected.append(best)
    together = np.concatenate(selected)
    return together[np.argsort(-score_N[together], kind="stable")]


def distinct(members_NL: BoolArray, area_L: DoubleArray, *, max_iou: float, limit: int) -> IntArray:
    """Select regions in order, skipping those whose IoU with a selected one exceeds `max_iou`."""
    overlap = overlaps(members_NL, area_L)
    alive = np.ones(len(members_NL), dtype=bool)
    indices: list[int] = []
    for index in range(len(members_NL)):
        if len(indices) == limit:
            break
        if alive[index]:
            indices.append(index)
            alive &= overlap[index] <= max_iou
    return np.asarray(indices, dtype=np.int64)


def overlaps(members_NL: BoolArray, area_L: DoubleArray) -> FloatArray:
    """Return the IoU of all pairs of regions, from sums of whole numbers below 2**24, exact in float32 in any order."""
    members = torch.from_numpy(members_NL.astype(np.float32))
    weighted = members * torch.from_numpy(area_L.astype(np.float32))
    area = weighted.sum(dim=1)
    shared = weighted @ members.T
    iou: FloatArray = (shared / (area[:, None] + area[None, :] - shared)).numpy()
    return iou
