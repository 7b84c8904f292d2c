"""Hierarchies over the leaves, and measurements of their nodes, by sums accumulated up the tree.

Shape suffixes: L leaves, E adjacent pairs of leaves, N nodes, K channels, F descriptors.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ntt.models.segmenters.regions.leaves import Leaves, scatter
from ntt.models.segmenters.regions.objectness import DESCRIPTORS
from ntt.types import BoolArray, DoubleArray, IntArray

_TINY = 1e-9


@dataclass(frozen=True)
class Linkage:
    """How a tree measures the dissimilarity of two regions: the weights of what is compared.

    The rule "ward" merges the pair whose union adds the least variance, with areas to the power of `area_power`;
    "border" merges the pair whose shared border is the weakest on average; `gradient` weights the colour gradient along
    it.
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


def build_tree(leaves: Leaves, linkage: Linkage) -> tuple[Any, DoubleArray]:
    """Merge adjacent leaves two by two: higra's tree, the L leaves first, and each merge's cost, float64 [nodes]."""
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


def _traits(leaves: Leaves, linkage: Linkage) -> DoubleArray:
    side = max(leaves.labels_hw.shape)
    position = leaves.moments_L5[:, :2] / leaves.area_L[:, None] / side
    traits = ((linkage.colour, leaves.colour_L3), (linkage.feature, leaves.feature_LK), (linkage.position, position))
    weighted = [weight * values for weight, values in traits if weight > 0.0]
    return np.ascontiguousarray(np.concatenate(weighted, axis=1))


@dataclass(frozen=True)
class Nodes:
    """Candidate regions: the leaves they consist of, their area in pixels, and their `DESCRIPTORS`."""

    members_NL: BoolArray
    area_N: DoubleArray
    descriptors_NF: DoubleArray


def measure_nodes(leaves: Leaves, tree: Any, altitudes_N: DoubleArray) -> Nodes:
    """Measure all nodes of one tree but the root, leaves first."""
    sums = _sums(leaves, tree)
    parents = np.asarray(tree.parents(), dtype=np.int64)
    columns = _shape(leaves, sums) | _border(leaves, sums) | _content(leaves, sums) | _scale(sums, parents, altitudes_N)
    descriptors = np.stack([columns[name] for name in DESCRIPTORS], axis=1)
    keep = slice(0, max(1, len(parents) - 1))
    return Nodes(_members(parents, len(leaves.area_L))[keep], sums["area"][keep], descriptors[keep])


def _members(parents_N: IntArray, leaf_count: int) -> BoolArray:
    members = np.zeros((len(parents_N), leaf_count), dtype=bool)
    members[:leaf_count] = np.eye(leaf_count, dtype=bool)
    for node, parent in enumerate(parents_N[:-1]):
        members[parent] |= members[node]
    return members


def _sums(leaves: Leaves, tree: Any) -> dict[str, DoubleArray]:
    """Sum over each node's pixels, over its outer border, and over the leaf borders inside it, and find its box."""
    import higra as hg

    area = leaves.area_L
    values = {
        "area": area,
        "frame": leaves.frame_L,
        "moments": leaves.moments_L5,
        "colour": leaves.colour_L3 * area[:, None],
        "colour_square": leaves.colour_square_L * area,
        "feature": leaves.feature_LK * area[:, None],
        "feature_square": leaves.feature_square_L * area,
        "texture": leaves.texture_L1[:, 0] * area,
    }

    def up(values: DoubleArray, accumulator: Any = hg.Accumulators.sum) -> DoubleArray:
        return np.asarray(hg.accumulate_sequential(tree, np.ascontiguousarray(values), accumulator))

    low, high = up(leaves.box_L4[:, :2], hg.Accumulators.min), up(leaves.box_L4[:, 2:], hg.Accumulators.max)
    outer, inner, ring = _borders(leaves, tree)
    return {name: up(each) for name, each in values.items()} | {
        "box": np.concatenate([low, high], axis=1),
        "border": outer[:, 0],
        "border_values": outer[:, 1:],
        "inner": inner[:, 0],
        "inner_values": inner[:, 1:],
        "ring_colour": ring[:, :3],
        "ring_feature": ring[:, 3:],
    }


def _borders(leaves: Leaves, tree: Any) -> tuple[DoubleArray, DoubleArray, DoubleArray]:
    """Split each node's sums over leaf borders: lengths and values of outer and of inner ones, and the ring outside.

    A leaf border lies inside a node if both its leaves do: from their lowest common ancestor upwards.
    """
    import higra as hg

    count, nodes = len(leaves.area_L), tree.num_vertices()
    first, second = leaves.edges_E2[:, 0], leaves.edges_E2[:, 1]
    traits = np.concatenate([leaves.colour_L3, leaves.feature_LK], axis=1)
    length = leaves.length_E[:, None]
    steps = [np.sqrt(np.sum((x[first] - x[second]) ** 2, axis=1)) for x in (leaves.colour_L3, leaves.feature_LK)]
    values = np.concatenate([length, length * leaves.gradient_E2, length * np.stack(steps, axis=1)], axis=1)
    at_leaves = scatter(first, values, count) + scatter(second, values, count)
    ring_at_leaves = scatter(first, length * traits[second], count) + scatter(second, length * traits[first], count)
    inside = np.concatenate([values, length * (traits[first] + traits[second])], axis=1)
    ancestor = np.asarray(tree.lowest_common_ancestor(first, second), dtype=np.int64)
    start = np.zeros((count, inside.shape[1]))
    inner = hg.accumulate_and_add_sequential(tree, scatter(ancestor, inside, nodes), start, hg.Accumulators.sum)
    total = hg.accumulate_sequential(tree, np.concatenate([at_leaves, ring_at_leaves], axis=1), hg.Accumulators.sum)
    width = values.shape[1]
    outer = np.maximum(total[:, :width] - 2 * inner[:, :width], 0.0)
    return outer, inner[:, :width], total[:, width:] - inner[:, width:]


def _shape(leaves: Leaves, sums: dict[str, DoubleArray]) -> dict[str, DoubleArray]:
    height, width = leaves.labels_hw.shape
    sides = sums["box"][:, 2:] - sums["box"][:, :2] + 1
    x, y, xx, yy, xy = (sums["moments"] / sums["area"][:, None]).T
    # A pixel is a square, not a point: 1/12 is the variance along its side.
    determinant = (xx - x * x + 1 / 12) * (yy - y * y + 1 / 12) - (xy - x * y) ** 2
    return {
        "log_area": np.log(sums["area"] / (height * width)),
        "compactness": 4 * np.pi * sums["area"] / (sums["border"] + sums["frame"] + _TINY) ** 2,
        "extent": sums["area"] / sides.prod(axis=1),
        "ellipse_fit": np.minimum(1.0, sums["area"] / (4 * np.pi * np.sqrt(np.maximum(determinant, 1 / 144)))),
        "log_aspect": np.abs(np.log(sides[:, 0] / sides[:, 1])),
        "frame_share": sums["frame"] / (sums["border"] + sums["frame"] + _TINY),
        "centre_distance": np.hypot((x + 0.5) / width - 0.5, (y + 0.5) / height - 0.5),
    }


def _border(leaves: Leaves, sums: dict[str, DoubleArray]) -> dict[str, DoubleArray]:
    along = sums["border_values"] / (sums["border"] + _TINY)[:, None]
    inside = sums["inner_values"][:, 1] / (sums["inner"] + _TINY)
    typical = np.sum(leaves.gradient_E2[:, 1] * leaves.length_E) / (np.sum(leaves.length_E) + _TINY)
    return {
        "gradient_fine": along[:, 0],
        "gradient_coarse": along[:, 1],
        "colour_step": along[:, 2],
        "feature_step": along[:, 3],
        "inner_gradient": inside,
        "gradient_ratio": np.log((along[:, 1] + 0.01) / (inside + 0.01)),
        "gradient_relative": np.log((along[:, 1] + 0.01) / (typical + 0.01)),
    }


def _content(leaves: Leaves, sums: dict[str, DoubleArray]) -> dict[str, DoubleArray]:
    area, border = sums["area"][:, None], (sums["border"] + _TINY)[:, None]
    colour, feature = sums["colour"] / area, sums["feature"] / area
    frame = leaves.frame_L[:, None] / leaves.frame_L.sum()
    frame_colour = np.sum(leaves.colour_L3 * frame, axis=0)
    frame_feature = np.sum(leaves.feature_LK * frame, axis=0)
    return {
        "colour_contrast": _norm(colour - sums["ring_colour"] / border),
        "feature_contrast": _norm(feature - sums["ring_feature"] / border),
        "colour_spread": np.sqrt(np.maximum(sums["colour_square"] / sums["area"] - np.sum(colour**2, axis=1), 0)),
        "feature_spread": np.sqrt(np.maximum(sums["feature_square"] / sums["area"] - np.sum(feature**2, axis=1), 0)),
        "feature_from_frame": _norm(feature - frame_feature),
        "colour_from_frame": _norm(colour - frame_colour),
        "feature_norm": _norm(feature),
        "texture": sums["texture"] / sums["area"],
    }


def _scale(sums: dict[str, DoubleArray], parents: IntArray, altitudes: DoubleArray) -> dict[str, DoubleArray]:
    floor = max(float(altitudes.max()), _TINY) * 1e-6
    cost = np.log(np.maximum(altitudes, floor))
    return {
        "log_parent_area": np.log(sums["area"][parents] / sums["area"]),
        "log_parent_cost": np.minimum(cost[parents] - cost, 3.0),
    }


def _norm(values_NK: DoubleArray) -> DoubleArray:
    norm: DoubleArray = np.sqrt(np.sum(values_NK**2, axis=1))
    return norm
