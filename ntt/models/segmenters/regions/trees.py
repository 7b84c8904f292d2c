"""Hierarchies over the leaves: binary partition trees by different measures of similarity."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ntt.models.segmenters.regions.leaves import Array, Leaves


@dataclass(frozen=True)
class Linkage:
    """How a tree measures the dissimilarity of two regions: the weights of what is compared.

    Attributes:
        rule: "ward" merges the pair whose union adds the least variance; "border" merges the pair whose shared border
            is the weakest on average.
        gradient: of the colour along the shared border ("border" only).
        area_power: exponent of the region's area in Ward's criterion; below 1, size counts less.
    """

    rule: str
    colour: float = 0.0
    feature: float = 0.0
    position: float = 0.0
    gradient: float = 0.0
    area_power: float = 1.0


LINKAGES: tuple[Linkage, ...] = (
    Linkage("ward", colour=2.0, feature=6.0, position=8.0),
    Linkage("ward", colour=1.0, position=15.0),
    Linkage("ward", colour=1.0, feature=6.0, position=8.0, area_power=0.8),
    Linkage("ward", feature=1.0),
    Linkage("border", colour=1.0, feature=2.0, gradient=1.0),
)


def build_tree(leaves: Leaves, linkage: Linkage) -> tuple[Any, Array]:
    """Merge adjacent leaves two by two until one region is left.

    Returns:
        higra's tree, whose first L nodes are the leaves, and the cost of each merge, float64 [nodes].
    """
    import higra as hg

    graph = hg.UndirectedGraph(len(leaves.area_L))
    graph.add_edges(leaves.edges_E2[:, 0], leaves.edges_E2[:, 1])
    traits = _traits(leaves, linkage)
    if linkage.rule == "ward":
        tree, altitudes = hg.binary_partition_tree_ward_linkage(graph, traits, leaves.area_L**linkage.area_power)
    else:
        first, second = leaves.edges_E2[:, 0], leaves.edges_E2[:, 1]
        weights = linkage.gradient * leaves.gradient_E2.sum(axis=1)
        weights = weights + np.sqrt(np.sum((traits[first] - traits[second]) ** 2, axis=1))
        tree, altitudes = hg.binary_partition_tree_average_linkage(graph, weights, leaves.length_E)
    return tree, np.asarray(altitudes, dtype=np.float64)


def _traits(leaves: Leaves, linkage: Linkage) -> Array:
    side = max(leaves.labels_hw.shape)
    position = leaves.moments_L5[:, :2] / leaves.area_L[:, None] / side
    traits = ((linkage.colour, leaves.colour_L3), (linkage.feature, leaves.feature_LK), (linkage.position, position))
    weighted = [weight * values for weight, values in traits if weight > 0.0]
    return np.ascontiguousarray(np.concatenate(weighted, axis=1))
