"""The proposer: leaves, hierarchies over them, and the best distinct nodes."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch

from ntt.errors import ConfigError, raise_all
from ntt.models.segmenters.base import SegmenterConfig
from ntt.models.segmenters.regions.leaves import IntArray, Leaves, find_leaves
from ntt.models.segmenters.regions.nodes import Nodes, measure_nodes
from ntt.models.segmenters.regions.objectness import objectness
from ntt.models.segmenters.regions.selection import choose
from ntt.models.segmenters.regions.trees import LINKAGES, build_tree
from ntt.types import Placement, Proposals

_LOG = logging.getLogger(__name__)
# To be raised with every change of what comes out for the same settings: stored candidates hang on it.
_VERSION = 1
_SMALLEST_SIDE_PX = 8
# Regions of fewer pixels of the mask grid are noise.
_SMALLEST_REGION_PX = 8


@dataclass
class RegionsConfig(SegmenterConfig):
    """Schema of the option `regions`."""

    SCHEMA: ClassVar[str] = "regions"

    canvas_side: int = 512
    """Longer side in pixels of the canvas the backbone sees; the aspect ratio is kept."""

    mask_side: int = 320
    """Longer side in pixels of the grid regions are found and masks are given on; at most `canvas_side`."""

    leaves: int = 1200
    """Regions of the finest partition; more find smaller objects and take longer."""

    components: int = 32
    """Principal directions of the backbone's features that are compared."""

    max_masks: int = 1000
    """Most masks proposed for an image."""

    min_objectness: float = 0.0
    """Masks are proposed whose objectness is above this; in [0, 1)."""

    def build(self, placement: Placement) -> "Regions":
        """Construct the segmenter. It always runs on the CPU."""
        return Regions(
            canvas_side=self.canvas_side,
            mask_side=self.mask_side,
            leaves=self.leaves,
            components=self.components,
            max_masks=self.max_masks,
            min_objectness=self.min_objectness,
        )


class Regions:
    """Mask proposals without weights, from region hierarchies over colour and backbone features.

    The image is cut into about a thousand watershed regions; several hierarchies, each with its own idea of
    likeness, merge them pairwise into the whole image; every merge is a candidate mask. An objectness model ranks
    them, and the best distinct ones of every size are proposed.
    """

    def __init__(
        self,
        *,
        canvas_side: int = 512,
        mask_side: int = 320,
        leaves: int = 1200,
        components: int = 32,
        max_masks: int = 1000,
        min_objectness: float = 0.0,
    ) -> None:
        """Check the settings.

        Args:
            canvas_side: longer side in pixels of the canvas the backbone sees; the aspect ratio is kept.
            mask_side: longer side in pixels of the grid regions are found and masks are given on.
            leaves: regions of the finest partition.
            components: principal directions of the backbone's features that are compared.
            max_masks: most masks proposed for an image.
            min_objectness: masks are proposed whose objectness is above this, in [0, 1).

        Raises:
            ConfigError: for settings that cannot be run, all problems at once.
        """
        settings = {
            "canvas_side": canvas_side,
            "mask_side": mask_side,
            "leaves": leaves,
            "components": components,
            "max_masks": max_masks,
            "min_objectness": min_objectness,
        }
        raise_all(_problems(settings), ConfigError, summary="segmenter=regions cannot be run with these settings")
        self._settings = settings
        self._canvas_side = canvas_side
        self._mask_side = mask_side
        self._leaves = leaves
        self._components = components
        self._max_masks = max_masks
        self._min_objectness = min_objectness

    @property
    def name(self) -> str:
        """Name of the config option that builds this segmenter."""
        return "regions"

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """JSON-able facts that decide the output."""
        return {"name": self.name, "version": _VERSION, **self._settings}

    def canvas_hw(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the canvas: the longer side is `canvas_side`, the shorter one at least 8 pixels."""
        return _fit(height, width, self._canvas_side)

    @torch.no_grad()
    def propose(self, canvas_3hw: torch.Tensor, feature_map_Dhw: torch.Tensor) -> Proposals:
        """Propose masks in one image, by descending objectness.

        Args:
            canvas_3hw: float32 RGB in [0, 1].
            feature_map_Dhw: the backbone's features of the same image, any grid.

        Returns:
            int8 masks, +1 inside and -1 outside, on a grid whose longer side is `mask_side`; and their objectness.
            An image without any structure gives one mask, the whole image.
        """
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

        # With one thread, linear algebra gives the same digits whatever the number of threads elsewhere.
        with threadpool_limits(limits=1, user_api="blas"):
            leaves = self.leaves(canvas_3hw, feature_map_Dhw)
            if len(leaves.area_L) == 1:
                return _whole_image(leaves)
            nodes = all_nodes(leaves)
        score_N = objectness(nodes.descriptors_NF)
        eligible = np.flatnonzero((nodes.area_N >= _SMALLEST_REGION_PX) & (score_N > self._min_objectness))
        chosen = eligible[self._choose(leaves, nodes.members_NL[eligible], score_N[eligible])]
        _LOG.debug("%d leaves, %d nodes, %d proposals", len(leaves.area_L), len(score_N), len(chosen))
        return Proposals(_paint(leaves.labels_hw, nodes.members_NL[chosen]), torch.from_numpy(score_N[chosen]))

    def leaves(self, canvas_3hw: torch.Tensor, feature_map_Dhw: torch.Tensor) -> Leaves:
        """Cut one image into the regions every mask is made of; arguments as for `propose`."""
        small = self._shrink(canvas_3hw)
        return find_leaves(small, feature_map_Dhw, count=self._leaves, components=self._components)

    def _shrink(self, canvas_3hw: torch.Tensor) -> torch.Tensor:
        from torch.nn.functional import interpolate

        height, width = canvas_3hw.shape[-2:]
        size = _fit(height, width, self._mask_side)
        canvas = canvas_3hw.detach().cpu().to(torch.float32)[None]
        shrunk = interpolate(canvas, size, mode="bicubic", align_corners=False, antialias=True)
        return shrunk[0].clamp(0.0, 1.0)

    def _choose(self, leaves: Leaves, members_NL: npt.NDArray[np.bool_], score_N: npt.NDArray[np.float32]) -> IntArray:
        return choose(
            members_NL,
            leaves.area_L,
            score_N,
            canvas_px=leaves.labels_hw.size,
            max_masks=self._max_masks,
        )


def _problems(settings: Mapping[str, float]) -> list[str]:
    lowest = {"canvas_side": 32, "mask_side": 32, "leaves": 2, "components": 1, "max_masks": 1}
    problems = [
        f"segmenter.{name}={settings[name]}: it must be at least {least}. Raise it, or leave it out: "
        f"{getattr(RegionsConfig, name)} is the default."
        for name, least in lowest.items()
        if settings[name] < least
    ]
    if settings["mask_side"] > settings["canvas_side"]:
        problems.append(
            f"segmenter.mask_side={settings['mask_side']} is larger than segmenter.canvas_side="
            f"{settings['canvas_side']}: masks cannot be finer than the picture. Lower the one or raise the other."
        )
    if not 0.0 <= settings["min_objectness"] < 1.0:
        problems.append(
            f"segmenter.min_objectness={settings['min_objectness']}: it must be in [0, 1). 0 keeps every region."
        )
    return problems


def _fit(height: int, width: int, side: int) -> tuple[int, int]:
    scale = side / max(height, width)
    return max(_SMALLEST_SIDE_PX, round(height * scale)), max(_SMALLEST_SIDE_PX, round(width * scale))


def all_nodes(leaves: Leaves) -> Nodes:
    """Collect the nodes of all hierarchies; the leaves, which all have in common, once."""
    count = len(leaves.area_L)
    parts = []
    for index, linkage in enumerate(LINKAGES):
        nodes = measure_nodes(leaves, *build_tree(leaves, linkage))
        skip = 0 if index == 0 else count
        parts.append(Nodes(nodes.members_NL[skip:], nodes.area_N[skip:], nodes.descriptors_NF[skip:]))
    return Nodes(
        np.concatenate([part.members_NL for part in parts]),
        np.concatenate([part.area_N for part in parts]),
        np.concatenate([part.descriptors_NF for part in parts]),
    )


def _paint(labels_hw: IntArray, members_SL: npt.NDArray[np.bool_]) -> torch.Tensor:
    """Turn unions of leaves into masks: int8 [S, h, w], +1 inside and -1 outside."""
    signs = np.where(members_SL, np.int8(1), np.int8(-1))
    return torch.from_numpy(np.take(signs, labels_hw, axis=1))


def _whole_image(leaves: Leaves) -> Proposals:
    return Proposals(torch.ones((1, *leaves.labels_hw.shape), dtype=torch.int8), torch.full((1,), 0.5))
