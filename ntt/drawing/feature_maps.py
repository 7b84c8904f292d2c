"""What an encoder sees: patch features as colours, similarities as heat."""

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from ntt.drawing.colours import ByteArray
from ntt.drawing.instances import label_size_px, scaled_picture
from ntt.drawing.text import FAINT_INK, PAPER, line_height_px, shorten, text_width_px, write

FloatMap = npt.NDArray[np.floating]
Array = npt.NDArray[np.float64]

_MARGIN = 14
_BAR_PX = 16


def draw_feature_pca(feature_map_Dhw: FloatMap, weights_gg: FloatMap | None, image: ByteArray) -> Image.Image:
    """The image beside its patch features, whose first three principal components are shown as red, green and blue.

    Similar colours are similar features. With weights, the components describe what varies within the weighted
    patches, and the others fade out.

    Args:
        feature_map_Dhw: [D, h, w], one feature a patch.
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
    return _side_by_side(left, right, "Image", heading)


def draw_similarity_map(
    image: ByteArray,
    similarity_hw: FloatMap,
    title: str,
    *,
    value_range: tuple[float, float] | None = None,
    opacity: float = 0.6,
) -> Image.Image:
    """A heat map over the image, with a colour bar.

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
    return _with_colour_bar(painted, title, (float(low), float(high)))


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


def _side_by_side(left: Image.Image, right: Image.Image, left_title: str, right_title: str) -> Image.Image:
    text_px = max(13, label_size_px(left.size))
    top = _MARGIN + line_height_px(text_px) + 6
    canvas = Image.new("RGB", (3 * _MARGIN + left.width + right.width, top + left.height + _MARGIN), PAPER)
    draw = ImageDraw.Draw(canvas)
    x = _MARGIN
    for picture, title in ((left, left_title), (right, right_title)):
        canvas.paste(picture, (x, top))
        write(draw, (x, (_MARGIN + top) // 2), shorten(title, picture.width, text_px), text_px)
        x += picture.width + _MARGIN
    return canvas


def _with_colour_bar(picture: Image.Image, title: str, ends: tuple[float, float]) -> Image.Image:
    text_px = max(13, label_size_px(picture.size))
    marks = [f"{value:.2f}" for value in (ends[1], (ends[0] + ends[1]) / 2, ends[0])]
    bar_left = _MARGIN + picture.width + _MARGIN
    text_left = bar_left + _BAR_PX + 6
    width = text_left + max(text_width_px(mark, text_px) for mark in marks) + _MARGIN
    top = _MARGIN + line_height_px(text_px) + 6
    canvas = Image.new("RGB", (width, top + picture.height + _MARGIN), PAPER)
    draw = ImageDraw.Draw(canvas)
    shown = shorten(title, width - 2 * _MARGIN, text_px, bold=True)
    write(draw, (_MARGIN, (_MARGIN + top) // 2), shown, text_px, bold=True)
    canvas.paste(picture, (_MARGIN, top))
    ramp = np.linspace(1, 0, picture.height)[:, None].repeat(_BAR_PX, axis=1)
    canvas.paste(Image.fromarray(_heat_colours(ramp)), (bar_left, top))
    half = line_height_px(text_px) // 2
    bottom = top + picture.height - 1
    for mark, y in zip(marks, (top + half, (top + bottom) // 2, bottom - half), strict=True):
        write(draw, (text_left, y), mark, text_px, fill=FAINT_INK)
    return canvas
