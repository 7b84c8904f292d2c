"""A mask proposer without weights: nodes of several region hierarchies, ranked by a small objectness model."""

from ntt.models.segmenters.regions.segmenter import Regions, RegionsConfig

__all__ = ["Regions", "RegionsConfig"]
