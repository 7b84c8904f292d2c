"""Diffusion of penalties over the graph of overlapping masks (FSOD-VFM). Suffix: N masks."""

from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from ntt.ops.overlaps import overlaps_in_class
from ntt.types import FloatArray, IntArray, Overlaps

Transition: TypeAlias = Literal["normalised", "plain"]


def diffused_penalties(
    rles: Sequence[bytes],
    labels: IntArray,
    *,
    alpha: float,
    steps: int,
    transition: Transition,
    height: int,
    width: int,
    known: Overlaps | None = None,
) -> FloatArray:
    """Compute how much of each mask is explained by earlier masks of its class, directly or through others.

    Masks are nodes; an edge leads from a mask to each earlier mask of its class that covers part of it, weighted with
    that part.

    Args:
        rles: N full-size masks, none empty, best first.
        labels: int64 [N].
        alpha: see `pagerank`.
        steps: see `pagerank`.
        transition: "normalised" scales the weights that leave a mask to a sum of 1; "plain" takes them as they are.
        height: of the image, pixels.
        width: of the image, pixels.
        known: overlaps of these masks, if they have been computed before.

    Returns:
        float32 [N] in [0, 1]; 0 for a mask that no earlier one of its class touches.
    """
    penalties = np.zeros(len(rles), dtype=np.float32)
    for label in np.unique(labels).tolist():
        members = np.flatnonzero(labels == label)
        weights_NN = overlaps_in_class(rles, members, height, width, known)
        restart_N = weights_NN.max(axis=1)
        if transition == "normalised":
            weights_NN = _row_stochastic(weights_NN)
        penalties[members] = pagerank(weights_NN, restart_N, alpha=alpha, steps=steps).clip(0.0, 1.0)
    return penalties


def pagerank(
    weights_NN: npt.NDArray[np.float64], restart_N: npt.NDArray[np.float64], *, alpha: float, steps: int
) -> npt.NDArray[np.float64]:
    """Iterate p <- alpha * W p + (1 - alpha) * v from p = 1 / N (personalised PageRank, a walk with restart).

    Args:
        weights_NN: W, float64 [N, N], not negative; row i holds the edges that leave node i.
        restart_N: v, float64 [N].
        alpha: part of a node's value that comes from its neighbours, in [0, 1]; the rest comes from v.
        steps: how often, 0 or more.

    Returns:
        p, float64 [N].
    """
    values_N = np.full(len(restart_N), 1.0 / max(len(restart_N), 1))
    for _ in range(steps):
        values_N = alpha * (weights_NN @ values_N) + (1.0 - alpha) * restart_N
    return values_N


def _row_stochastic(weights_NN: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Scale each row to a sum of 1; a row of zeros stays."""
    sums_N1 = weights_NN.sum(axis=1, keepdims=True)
    scaled: npt.NDArray[np.float64] = np.divide(weights_NN, sums_N1, out=np.zeros_like(weights_NN), where=sums_N1 > 0)
    return scaled
