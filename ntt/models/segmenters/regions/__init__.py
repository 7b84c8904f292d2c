"""A mask proposer without weights: nodes of several region hierarchies, ranked by a small objectness model.

segmenter    the option: leaves, trees, nodes, objectness and selection in turn
leaves       the finest partition of an image, and measurements of its parts
trees        binary partition trees over the leaves
nodes        measurements of every node
objectness   an estimate of a node's IoU with an object
selection    the best distinct nodes of every size
"""

from ntt.models.segmenters.regions.segmenter import Regions, RegionsConfig

__all__ = ["Regions", "RegionsConfig"]
