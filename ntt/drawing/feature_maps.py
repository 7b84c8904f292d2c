"""What an encoder sees: patch features as colours, similarities as heat."""

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from ntt.drawing.colours import ByteArray
from ntt.drawing.instances import scaled_picture
from ntt.drawing.layout import Panel, caption_size_px, side_by_side
from ntt.drawing.text import FAINT_INK, PAPER, line_height_px, text_width_px, write

FloatMap = npt.NDArray[np.floating]
Array = npt.NDArray[np.float64]

_BAR_PX = 16


def draw_feature_pca(feature_map_Dhw: FloatMap, weights_gg: FloatMap | None, image: ByteArray) -> Image.Image:
    """Draw an image beside its patch features, their first three principal components as red, green and blue.

    Similar colours are similar features. With weights, the components describe what varies within the weighted
    patches, and the others fade out.

    Args:
        feature_map_Dhw: [D, h, w], one feature per patch.
        weights_gg: [h, w] in [0, 1], such as a reference's mask on the patch grid.
        image: uint8 [H, W, 3], the image or crop the features were taken from.
    """
    channels, rows, columns = feature_map_Dhw.shape
    features_ND = np.asarray(feature_map_Dhw, dtype=np.float64).reshape(channels, -1).T
    weights_N = np.ones(rows * columns) if weights_gg is None else _checked_weights(weights_gg, (rows, columns))
    shown_N3 = _unit_range(_principal_components(features_ND, weights_N), weights_N)
    rgb = np.rint(shown_N3 * 255).astype(np.uint8).reshape(rows, columns, 3)
    left = scaled_picture(image)
    right = Image.fromarray(rgb).resize(left.size, Image.Resampling.NEAREST)
    if weights_gg is not None:
        opacity = Image.fromarray(np.rint(20 + 235 * np.clip(weights_N, 0, 1)).astype(np.uint8).reshape(rows, columns))
        faded = Image.blend(left.convert("L").convert("RGB"), Image.new("RGB", left.size, PAPER), 0.6)
        right = Image.composite(right, faded, opacity.resize(left.size, Image.Resampling.NEAREST))
    what = "of all patches" if weights_gg is None else "under the mask"
    heading = f"Features: principal components {what} ({columns} × {rows})"
    return side_by_side([Panel(left, "Image"), Panel(right, heading)])


def draw_similarity_map(
    image: ByteArray,
    similarity_hw: FloatMap,
    title: str,
    *,
    value_range: tuple[float, float] | None = None,
    opacity: float = 0.6,
) -> Image.Image:
    """Draw a heat map over an image, with a colour bar.

    Args:
        image: uint8 [H, W, 3].
        similarity_hw: on any grid that covers the image evenly; NaN shows the plain image.
        title: shown above.
        value_range: the values at the ends of the colour bar; None takes the map's own extremes. Give it where
            several maps are compared.
        opacity: of the heat map, in [0, 1].
    """
    values = np.asarray(similarity_hw, dtype=np.float64)
    finite = np.isfinite(values)
    low, high = value_range or ((values[finite].min(), values[finite].max()) if finite.any() else (0.0, 1.0))
    span = high - low
    unit = np.clip((np.where(finite, values, low) - low) / span, 0, 1) if span > 0 else np.full(values.shape, 0.5)
    picture = scaled_picture(image)
    smooth = Image.fromarray(unit.astype(np.float32)).resize(picture.size, Image.Resampling.BILINEAR)
    heat = Image.fromarray(_heat_colours(np.asarray(smooth)))
    grey = picture.convert("L").convert("RGB")
    strength = Image.fromarray(np.where(finite, round(opacity * 255), 0).astype(np.uint8))
    painted = Image.composite(heat, grey, strength.resize(picture.size, Image.Resampling.NEAREST))
    bar = _colour_bar(painted, float(low), float(high))
    return side_by_side([Panel(painted, ""), Panel(bar, "")], heading=title)


def _checked_weights(weights_gg: FloatMap, grid: tuple[int, int]) -> Array:
    if weights_gg.shape != grid:
        raise ValueError(f"weights_gg is {list(weights_gg.shape)}; it must have the features' grid {list(grid)}.")
    weights: Array = np.asarray(weights_gg, dtype=np.float64).reshape(-1)
    # A mask that vanishes on the grid weighs nothing; the plain components are then the honest picture.
    return weights if weights.sum() > 0 else np.ones_like(weights)


def _principal_components(features_ND: Array, weights_N: Array) -> Array:
    """Coordinates along the three directions of largest weighted variance; [N, 3], zero where there are fewer."""
    features_ND = np.nan_to_num(features_ND)
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


def _unit_range(components_N3: Array, weights_N: Array) -> Array:
    """Each component stretched to [0, 1] between its 1st and 99th percentile over the weighted patches."""
    counted = components_N3[weights_N > 0.5 * weights_N.max()]
    low, high = np.percentile(counted, [1, 99], axis=0)
    span = high - low
    flat = span <= 0
    unit = (components_N3 - low) / np.where(flat, 1.0, span)
    clipped: Array = np.where(flat, 0.5, np.clip(unit, 0, 1))
    return clipped


def _heat_colours(unit: npt.NDArray[np.floating]) -> ByteArray:
    from matplotlib import colormaps

    table = colormaps["inferno"](np.arange(256), bytes=True)[:, :3]
    colours: ByteArray = np.asarray(table, dtype=np.uint8)[np.rint(unit * 255).astype(np.uint8)]
    return colours


def _colour_bar(picture: Image.Image, low: float, high: float) -> Image.Image:
    """Draw a bar as high as the picture, its values at both ends and in the middle beside it."""
    text_px = caption_size_px(picture)
    marks = [f"{value:.2f}" for value in (high, (low + high) / 2, low)]
    width = _BAR_PX + 6 + max(text_width_px(mark, text_px) for mark in marks)
    canvas = Image.new("RGB", (width, picture.height), PAPER)
    ramp = np.linspace(1, 0, picture.height)[:, None].repeat(_BAR_PX, axis=1)
    canvas.paste(Image.fromarray(_heat_colours(ramp)), (0, 0))
    half = line_height_px(text_px) // 2
    for mark, y in zip(marks, (half, picture.height // 2, picture.height - 1 - half), strict=True):
        write(ImageDraw.Draw(canvas), (_BAR_PX + 6, y), mark, text_px, fill=FAINT_INK)
    return canvas
