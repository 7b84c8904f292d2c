"""The finest partition of an image: watershed regions, their statistics and their adjacency.

Every proposed mask is a union of these leaves, so all later steps work on about a thousand leaves instead of a hundred
thousand pixels. Shape suffixes: L leaves, E adjacent pairs of leaves, K channels.
"""

from dataclasses import dataclass

import numpy as np
import torch

from ntt.types import DoubleArray, IntArray

# Lab is divided by this, so that 1 is a clearly visible difference.
_LAB_SCALE = 20.0
# Principal directions of the backbone's features to compare.
_COMPONENTS = 32
_TEXTURE_SCALE = 10.0
_GRADIENT_SIGMAS_PX = (1.0, 2.0)


@dataclass(frozen=True)
class Leaves:
    """The leaves of one image.

    Attributes:
        box_L4: left, top, right, bottom, inclusive pixel indices.
        frame_L, length_E: pixel sides on the border of the image, and those that two leaves share.
        moments_L5: sums over the pixels of x, y, x*x, y*y, x*y.
        colour_L3: mean Lab divided by 20; `colour_square_L`: the mean of its squared norm.
        feature_LK: mean of the backbone's features, centred, scaled to mean squared norm 1 over the image, and reduced
            to their K principal directions; `feature_square_L`: the mean of their squared norm.
        texture_L1: mean local standard deviation of lightness, divided by 10.
        edges_E2: indices of adjacent leaves, the smaller index first.
        gradient_E2: mean colour gradient along the shared border at two scales, divided by 20.
    """

    labels_hw: IntArray
    area_L: DoubleArray
    box_L4: DoubleArray
    frame_L: DoubleArray
    moments_L5: DoubleArray
    colour_L3: DoubleArray
    colour_square_L: DoubleArray
    feature_LK: DoubleArray
    feature_square_L: DoubleArray
    texture_L1: DoubleArray
    edges_E2: IntArray
    length_E: DoubleArray
    gradient_E2: DoubleArray


def find_leaves(canvas_3hw: torch.Tensor, feature_map_Dhw: torch.Tensor, *, count: int) -> Leaves:
    """Cut an image, float32 RGB in [0, 1], into leaves and measure them.

    The feature map is the backbone's of the same image, on any grid. There are at most `count` leaves; images of little
    detail or few pixels give fewer.
    """
    lab = _lab(canvas_3hw)
    height, width = lab.shape[:2]
    labels = _watershed(lab, count)
    features = _principal_maps(feature_map_Dhw, (height, width))
    area = np.bincount(labels.ravel()).astype(np.float64)
    edges, length, gradient = _adjacency(labels, _gradients(lab))
    scaled = np.moveaxis(lab, 2, 0) / _LAB_SCALE
    y, x = np.mgrid[:height, :width].astype(np.float64)
    sides = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])

    def sums(maps_Khw: DoubleArray) -> DoubleArray:
        return scatter(labels.ravel(), maps_Khw.reshape(len(maps_Khw), -1).T, len(area))

    def means(maps_Khw: DoubleArray) -> DoubleArray:
        return sums(maps_Khw) / area[:, None]

    return Leaves(
        labels_hw=labels,
        area_L=area,
        box_L4=_boxes(labels),
        frame_L=np.bincount(sides, minlength=len(area)).astype(np.float64),
        moments_L5=sums(np.stack([x, y, x * x, y * y, x * y])),
        colour_L3=means(scaled),
        colour_square_L=means(np.sum(scaled**2, axis=0)[None])[:, 0],
        feature_LK=means(features),
        feature_square_L=means(np.sum(features**2, axis=0)[None])[:, 0],
        texture_L1=means(_texture(lab)[None]),
        edges_E2=edges,
        length_E=length,
        gradient_E2=gradient,
    )


def _lab(canvas_3hw: torch.Tensor) -> DoubleArray:
    from skimage.color import rgb2lab

    rgb = canvas_3hw.detach().cpu().to(torch.float64).clamp(0.0, 1.0).permute(1, 2, 0).numpy()
    lab: DoubleArray = np.ascontiguousarray(rgb2lab(rgb), dtype=np.float64)
    return lab


def _watershed(lab: DoubleArray, count: int) -> IntArray:
    """Cut a watershed hierarchy by volume, on colour differences of neighbouring pixels, at `count` regions.

    Volume, area times depth, keeps both small objects of high contrast and large ones of low contrast.
    """
    import higra as hg
    from scipy.ndimage import gaussian_filter

    height, width = lab.shape[:2]
    # Rounding keeps numerical noise from drawing borders in plain areas.
    smooth = np.ascontiguousarray(gaussian_filter(lab, (0.7, 0.7, 0)).round(3).reshape(-1, 3))
    graph = hg.get_4_adjacency_graph((height, width))
    weights = hg.weight_graph(graph, smooth, hg.WeightFunction.L2)
    tree, altitudes = hg.watershed_hierarchy_by_volume(graph, weights)
    cut = hg.HorizontalCutExplorer(tree, altitudes).horizontal_cut_from_num_regions(count, at_least=False)
    _, labels = np.unique(cut.labelisation_leaves(tree), return_inverse=True)
    return np.asarray(labels, dtype=np.int64).reshape(height, width)


def _principal_maps(feature_map_Dhw: torch.Tensor, size: tuple[int, int]) -> DoubleArray:
    """Project centred and scaled features on their principal directions, and resize: float64 [K, h, w]."""
    from torch.nn.functional import interpolate

    features = feature_map_Dhw.detach().cpu().to(torch.float64).numpy()
    channels, height, width = features.shape
    flat = features.reshape(channels, -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    flat = flat / max(float(np.sqrt(np.mean(np.sum(flat**2, axis=0)))), 1e-9)
    _, directions = np.linalg.eigh(flat @ flat.T)
    projected = directions[:, ::-1][:, :_COMPONENTS].T @ flat
    maps_Kgg = np.ascontiguousarray(projected.reshape(-1, height, width))
    maps_1Khw = interpolate(torch.from_numpy(maps_Kgg)[None], size, mode="bilinear", align_corners=False)
    resized: DoubleArray = maps_1Khw[0].numpy()
    return resized


def _gradients(lab: DoubleArray) -> list[DoubleArray]:
    from scipy.ndimage import gaussian_gradient_magnitude

    maps = []
    for sigma in _GRADIENT_SIGMAS_PX:
        squares = sum(gaussian_gradient_magnitude(lab[..., channel], sigma) ** 2 for channel in range(3))
        maps.append(sigma * np.sqrt(squares) / _LAB_SCALE)
    return maps


def _texture(lab: DoubleArray) -> DoubleArray:
    from scipy.ndimage import gaussian_filter

    light = lab[..., 0]
    variance = gaussian_filter(light**2, 2.0) - gaussian_filter(light, 2.0) ** 2
    texture: DoubleArray = np.sqrt(np.maximum(variance, 0.0)) / _TEXTURE_SCALE
    return texture


def scatter(index: IntArray, values_EK: DoubleArray, count: int) -> DoubleArray:
    """Sum the rows of values that have the same index: [count, K]."""
    return np.stack([np.bincount(index, column, minlength=count) for column in values_EK.T], axis=1)


def _boxes(labels_hw: IntArray) -> DoubleArray:
    from scipy.ndimage import find_objects

    slices = find_objects(labels_hw + 1)
    return np.array([[x.start, y.start, x.stop - 1, y.stop - 1] for y, x in slices], dtype=np.float64)


def _adjacency(labels_hw: IntArray, maps: list[DoubleArray]) -> tuple[IntArray, DoubleArray, DoubleArray]:
    """Find adjacent leaves, how many pixel sides they share, and the mean of each map along these sides."""
    count = int(labels_hw.max()) + 1
    pairs, values = [], []
    for first, second in ((np.s_[:-1], np.s_[1:]), (np.s_[:, :-1], np.s_[:, 1:])):
        left, right = labels_hw[first], labels_hw[second]
        border = left != right
        pairs.append(np.minimum(left, right)[border] * count + np.maximum(left, right)[border])
        values.append(np.stack([(image[first] + image[second])[border] / 2 for image in maps]))
    keys, pair_of_side = np.unique(np.concatenate(pairs), return_inverse=True)
    length = np.bincount(pair_of_side, minlength=len(keys)).astype(np.float64)
    along = [np.bincount(pair_of_side, channel) / length for channel in np.concatenate(values, axis=1)]
    return np.stack([keys // count, keys % count], axis=1), length, np.stack(along, axis=1)
