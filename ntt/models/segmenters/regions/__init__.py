"""A mask proposer without weights: nodes of several region hierarchies, ranked by a small objectness model.

segmenter    the option: the best distinct nodes of every size
leaves       the finest partition of an image, and measurements of its parts
nodes        binary partition trees over the leaves, and measurements of every node
objectness   an estimate of a node's IoU with an object
"""

from ntt.models.segmenters.regions.segmenter import Regions, RegionsConfig

__all__ = ["Regions", "RegionsConfig"]
