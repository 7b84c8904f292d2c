"""What an encoder sees: patch features as colours, similarities as heat."""

import numpy as np
import numpy.typing as npt
from PIL import Image

from ntt.drawing.instances import scaled_picture
from ntt.drawing.sheets import draw_contact_sheet
from ntt.drawing.text import PAPER
from ntt.types import ByteArray, DoubleArray

FloatMap = npt.NDArray[np.floating]

_HEAT_OPACITY = 153


def draw_feature_pca(feature_map_Dgg: FloatMap, weights_gg: FloatMap, image_HW3: ByteArray) -> Image.Image:
    """Draw an image next to its patch features, their first three principal components as red, green and blue.

    Similar colours are similar features. The components describe what varies within the weighted patches; the others
    fade out. `weights_gg`, in [0, 1], are such as a reference's mask on the patch grid; `image_HW3`, uint8, is the
    image or crop that the features were taken from.
    """
    channels, rows, columns = feature_map_Dgg.shape
    features_ND = np.asarray(feature_map_Dgg, dtype=np.float64).reshape(channels, -1).T
    # A mask that vanishes on the grid leaves no weights; the unweighted components are then all there is to show.
    weights_N = np.asarray(weights_gg if weights_gg.any() else np.ones_like(weights_gg), dtype=np.float64).reshape(-1)
    shown_N3 = _unit_range(_principal_components(features_ND, weights_N), weights_N)
    rgb = np.rint(shown_N3 * 255).astype(np.uint8).reshape(rows, columns, 3)
    left = scaled_picture(image_HW3)
    right = Image.fromarray(rgb).resize(left.size, Image.Resampling.NEAREST)
    opacity = Image.fromarray(np.rint(20 + 235 * np.clip(weights_N, 0, 1)).astype(np.uint8).reshape(rows, columns))
    faded = Image.blend(left.convert("L").convert("RGB"), Image.new("RGB", left.size, PAPER), 0.6)
    right = Image.composite(right, faded, opacity.resize(left.size, Image.Resampling.NEAREST))
    caption = f"Features: principal components under the mask ({columns} × {rows})"
    return draw_contact_sheet([(left, ["Image"]), (right, [caption])], columns=2)


def draw_similarity_map(
    image_HW3: ByteArray, similarity_hw: FloatMap, *, value_range: tuple[float, float]
) -> Image.Image:
    """Draw a heat map over an image, dark at the lower value of `value_range`, bright at the upper one.

    `similarity_hw` may have any grid that covers the image evenly.
    """
    from matplotlib import colormaps

    low, high = value_range
    values = np.asarray(similarity_hw, dtype=np.float64)
    unit = np.clip((values - low) / (high - low), 0, 1) if high > low else np.full(values.shape, 0.5)
    picture = scaled_picture(image_HW3)
    smooth = Image.fromarray(unit.astype(np.float32)).resize(picture.size, Image.Resampling.BILINEAR)
    table = colormaps["inferno"](np.arange(256), bytes=True)[:, :3]
    heat = Image.fromarray(table[np.rint(np.asarray(smooth) * 255).astype(np.uint8)])
    grey = picture.convert("L").convert("RGB")
    return Image.composite(heat, grey, Image.new("L", picture.size, _HEAT_OPACITY))


def _principal_components(features_ND: DoubleArray, weights_N: DoubleArray) -> DoubleArray:
    """Coordinates along the three directions of largest weighted variance; [N, 3], zero where there are fewer."""
    share = weights_N / weights_N.sum()
    centred = features_ND - share @ features_ND
    _, spread, axes = np.linalg.svd(centred * np.sqrt(share)[:, None], full_matrices=False)
    count = min(3, len(spread))
    axes = axes[:count].copy()
    axes[spread[:count] <= 1e-9 * max(float(np.abs(features_ND).max()), 1e-30)] = 0.0
    # The sign of an axis is arbitrary; its largest entry is made positive, so that pictures repeat.
    largest = np.take_along_axis(axes, np.abs(axes).argmax(axis=1)[:, None], axis=1)
    axes *= np.where(largest < 0, -1.0, 1.0)
    components = np.zeros((len(features_ND), 3))
    components[:, :count] = centred @ axes.T
    return components


def _unit_range(components_N3: DoubleArray, weights_N: DoubleArray) -> DoubleArray:
    """Each component stretched to [0, 1] between its 1st and 99th percentile over the weighted patches."""
    counted = components_N3[weights_N > 0.5 * weights_N.max()]
    low, high = np.percentile(counted, [1, 99], axis=0)
    flat = high <= low
    unit = (components_N3 - low) / np.where(flat, 1.0, high - low)
    clipped: DoubleArray = np.where(flat, 0.5, np.clip(unit, 0, 1))
    return clipped
