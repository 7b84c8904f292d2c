"""Photographs, cut-outs and scenes of the demo data set: everything of it that is picture, nothing that is file layout.

`demo_outlines.json` holds, for each photograph, where it lies in an installed package and under which licence, and
for each object an outline traced by hand and tightened with a random walker. Outlines and boxes are in pixels of the
photograph, with the origin at the top left corner of the top left pixel; so is everything called `xy` below.
"""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from ntt.errors import DataError

Float64Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Pixels = npt.NDArray[np.uint8]
Size = tuple[int, int]

_EDGE_PX = 6
_SUPERSAMPLING = 4
_MEAN_TOLERANCE = 3.0


@dataclass(frozen=True)
class Photograph:
    """One photograph of an installed package: float32 [H, W, 3] in [0, 1]."""

    name: str
    license_id: int
    pixels: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Cutout:
    """One object of one photograph.

    Attributes:
        outline_xy: float64 [V, 2], polygon in pixels of the photograph.
        longest_side: range of the longer box side wanted in a scene, a fraction as for `draw_pose`.
        rotation_deg: the object is turned by at most this, either way.
    """

    name: str
    category: str
    photograph: Photograph
    outline_xy: Float64Array
    longest_side: tuple[float, float]
    rotation_deg: float


@dataclass(frozen=True)
class Background:
    """A part of a photograph without any object of the demo's classes; `role` says where in a scene it may go."""

    photograph: Photograph
    box_xyxy: tuple[int, int, int, int]
    tints: tuple[tuple[float, float, float], ...]
    role: Literal["any", "wall", "floor"]


@dataclass(frozen=True)
class Catalogue:
    """All that scenes are made of; `attribution` lists licences and photographs as the file has them."""

    categories: tuple[tuple[int, str], ...]
    cutouts: tuple[Cutout, ...]
    backgrounds: tuple[Background, ...]
    licenses: tuple[dict[str, Any], ...]
    attribution: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Pose:
    """How an object stands in a scene: place, size, turn and light."""

    scale: float
    angle_deg: float
    mirrored: bool
    centre_xy: tuple[float, float]
    gain_rgb: tuple[float, float, float]
    gamma: float


@dataclass(frozen=True)
class Placement:
    """An object in its pose; `full_mask` is what of it lies in the image, before anything hides it."""

    cutout: Cutout
    pose: Pose
    full_mask: Mask
    coverage: Image.Image
    area_px: float


@dataclass(frozen=True)
class Scene:
    """A finished picture (uint8 [H, W, 3]) and, in painting order, its objects with their visible masks."""

    pixels: Pixels
    placements: tuple[Placement, ...]
    visible_masks: tuple[Mask, ...]
    photographs: tuple[str, ...]


@cache
def load_catalogue() -> Catalogue:
    """Read the outlines and the photographs they belong to.

    Raises:
        DataError: when a package or its photograph is missing, or is another photograph than the one outlined.
    """
    table = json.loads(resources.files("ntt.datasets").joinpath("demo_outlines.json").read_text(encoding="utf-8"))
    photographs = {entry["name"]: _load_photograph(entry) for entry in table["photographs"]}
    settings = {entry["name"]: entry for entry in table["categories"]}
    cutouts = tuple(
        Cutout(
            name=entry["name"],
            category=entry["category"],
            photograph=photographs[entry["photograph"]],
            outline_xy=np.asarray(entry["outline"], dtype=np.float64).reshape(-1, 2),
            longest_side=tuple(settings[entry["category"]]["longest_side"]),
            rotation_deg=float(settings[entry["category"]]["rotation_deg"]),
        )
        for entry in table["objects"]
    )
    backgrounds = tuple(
        Background(
            photograph=photographs[entry["photograph"]],
            box_xyxy=tuple(entry["box"]),
            tints=tuple(tuple(tint) for tint in entry["tints"]),
            role=entry["role"],
        )
        for entry in table["backgrounds"]
    )
    return Catalogue(
        categories=tuple((entry["id"], entry["name"]) for entry in table["categories"]),
        cutouts=cutouts,
        backgrounds=backgrounds,
        licenses=tuple(table["licenses"]),
        attribution=tuple(table["photographs"]),
    )


def draw_pose(
    rng: np.random.Generator, cutout: Cutout, *, size_hw: Size, longest_side: tuple[float, float], light: float
) -> Pose:
    """Draw turn, mirror, size and light at random; the object is put at the image's centre.

    Args:
        rng: the scene's generator.
        cutout: the object.
        size_hw: height and width of the scene, pixels.
        longest_side: range of the longer box side, drawn log-uniformly, as a fraction of the image's height or of
            three quarters of its width, whichever is less.
        light: 0 keeps the photograph's light, 1 changes it strongly.
    """
    angle = float(np.clip(rng.normal(0.0, 0.5), -1.0, 1.0)) * cutout.rotation_deg
    if cutout.rotation_deg >= 180.0:
        angle = float(rng.uniform(-180.0, 180.0))
    pose = Pose(
        scale=1.0,
        angle_deg=angle,
        mirrored=bool(rng.random() < 0.5),
        centre_xy=(size_hw[1] / 2, size_hw[0] / 2),
        gain_rgb=_draw_gain(rng, light),
        gamma=float(math.exp(rng.uniform(-0.28, 0.28) * light)),
    )
    extent = np.ptp(_transform(cutout.outline_xy, cutout, pose), axis=0).max()
    wanted = math.exp(rng.uniform(math.log(longest_side[0]), math.log(longest_side[1])))
    wanted *= min(size_hw[0], 0.75 * size_hw[1])
    return replace(pose, scale=float(wanted / extent))


def outline_box(cutout: Cutout, pose: Pose) -> tuple[float, float, float, float]:
    """Box (left, top, right, bottom) of the object in its pose, in scene pixels; it may leave the scene."""
    points = _transform(cutout.outline_xy, cutout, pose)
    left, top = points.min(axis=0)
    right, bottom = points.max(axis=0)
    return float(left), float(top), float(right), float(bottom)


def place(cutout: Cutout, pose: Pose, *, size_hw: Size) -> Placement:
    """Draw the outline in its pose: coverage in [0, 255] per pixel, and the mask where at least half is covered."""
    height, width = size_hw
    points = _transform(cutout.outline_xy, cutout, pose)
    fine = Image.new("L", (width * _SUPERSAMPLING, height * _SUPERSAMPLING))
    corners = [(float(x), float(y)) for x, y in points * _SUPERSAMPLING - 0.5]
    ImageDraw.Draw(fine).polygon(corners, fill=255)
    coverage = fine.reduce(_SUPERSAMPLING)
    return Placement(cutout, pose, np.asarray(coverage) >= 128, coverage, polygon_area(points))


def visible_masks(placements: Sequence[Placement]) -> tuple[Mask, ...]:
    """What of each object is seen when they are painted in this order; no two masks share a pixel."""
    masks: list[Mask] = []
    for index, placement in enumerate(placements):
        mask = placement.full_mask.copy()
        for later in placements[index + 1 :]:
            mask &= ~later.full_mask
        masks.append(mask)
    return tuple(masks)


def paint(
    rng: np.random.Generator, catalogue: Catalogue, placements: Sequence[Placement], *, size_hw: Size, light: float
) -> Scene:
    """Paint a background and the objects on it, each with a soft shadow and an edge softened by about a pixel."""
    canvas, names = _draw_background(rng, catalogue, size_hw=size_hw, light=light)
    for placement in placements:
        _paint_one(rng, canvas, placement)
        names.append(placement.cutout.photograph.name)
    # A little grain over everything, so that pasted and underlying pixels share it.
    canvas += 0.008 * rng.standard_normal(canvas.shape, dtype=np.float32)
    pixels = np.clip(np.rint(canvas * 255.0), 0, 255).astype(np.uint8)
    return Scene(pixels, tuple(placements), visible_masks(placements), tuple(sorted(set(names))))


def polygon_area(points_xy: Float64Array) -> float:
    """Area of a simple polygon (float64 [V, 2]) in square pixels, by the shoelace formula."""
    x, y = points_xy[:, 0], points_xy[:, 1]
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2.0)


def _load_photograph(entry: dict[str, Any]) -> Photograph:
    """Open one photograph and check that it is the one the outlines were traced on."""
    spec = find_spec(entry["package"])
    if spec is None or spec.origin is None:
        raise DataError(
            f"The demo data set is cut from photographs shipped with the package '{entry['package']}', which is not "
            "installed; install it, or choose another data set."
        )
    path = Path(spec.origin).parent / entry["path"]
    remedy = f"Reinstall '{entry['package']}' from a wheel, or choose another data set."
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"), dtype=np.float32) / 255.0
    except OSError as error:
        raise DataError(
            f"The demo data set needs the photograph {path}, which cannot be read ({error}). {remedy}"
        ) from error
    wanted = (entry["height"], entry["width"])
    shift = np.abs(pixels.mean(axis=(0, 1)) * 255.0 - np.asarray(entry["mean_rgb"])).max()
    if pixels.shape[:2] != wanted or shift > _MEAN_TOLERANCE:
        raise DataError(
            f"The photograph {path} is not the one the demo's outlines were traced on: it is {pixels.shape[0]} x "
            f"{pixels.shape[1]} pixels, {wanted[0]} x {wanted[1]} is expected, and its mean colour is off by "
            f"{shift:.0f} of 255, at most {_MEAN_TOLERANCE:.0f} is allowed. {remedy}"
        )
    return Photograph(entry["name"], entry["license"], pixels)


def _draw_gain(rng: np.random.Generator, light: float) -> tuple[float, float, float]:
    """Brightness and colour temperature: factors on red, green and blue."""
    gain = math.exp(rng.uniform(-0.25, 0.2) * light)
    warmth = rng.uniform(-0.12, 0.12) * light
    return (gain * (1.0 + warmth), gain, gain * (1.0 - warmth))


def _matrix(pose: Pose) -> Float64Array:
    """The 2 x 2 matrix of mirror, then turn (clockwise as seen), then scale."""
    cosine, sine = math.cos(math.radians(pose.angle_deg)), math.sin(math.radians(pose.angle_deg))
    turn = np.array([[cosine, -sine], [sine, cosine]])
    mirror = np.diag([-1.0 if pose.mirrored else 1.0, 1.0])
    return np.asarray(pose.scale * turn @ mirror, dtype=np.float64)


def _middle(outline_xy: Float64Array) -> Float64Array:
    """Centre of the outline's box: the point that a pose puts at `centre_xy`."""
    return np.asarray((outline_xy.min(axis=0) + outline_xy.max(axis=0)) / 2.0, dtype=np.float64)


def _transform(points_xy: Float64Array, cutout: Cutout, pose: Pose) -> Float64Array:
    """Photograph pixels -> scene pixels."""
    moved = (points_xy - _middle(cutout.outline_xy)) @ _matrix(pose).T + np.asarray(pose.centre_xy)
    return np.asarray(moved, dtype=np.float64)


def _paint_one(rng: np.random.Generator, canvas: npt.NDArray[np.float32], placement: Placement) -> None:
    """Paint one object into the canvas (float32 [H, W, 3] in [0, 1]), touching only the region around it."""
    left, top, right, bottom = outline_box(placement.cutout, placement.pose)
    longest = max(right - left, bottom - top)
    radius = 2.0 + 0.03 * longest
    margin = 3.0 * radius + 0.04 * longest + 4.0
    region = (
        max(0, math.floor(left - margin)),
        max(0, math.floor(top - margin)),
        min(canvas.shape[1], math.ceil(right + margin)),
        min(canvas.shape[0], math.ceil(bottom + margin)),
    )
    under = canvas[region[1] : region[3], region[0] : region[2]]
    coverage = placement.coverage.crop(region)
    moved = (1, 0, int(rng.integers(-4, 5)), 0, 1, -int(rng.integers(2, 3 + int(0.04 * longest))))
    blurred = coverage.filter(ImageFilter.GaussianBlur(radius))
    shadow = np.asarray(blurred.transform(blurred.size, Image.Transform.AFFINE, moved), dtype=np.float32) / 255.0
    shaded = under * (1.0 - 0.45 * shadow)[..., None]
    alpha = np.asarray(coverage.filter(ImageFilter.GaussianBlur(0.6)), dtype=np.float32)[..., None] / 255.0
    colours = _relight(_warp(placement.cutout, placement.pose, region), placement.pose)
    under[...] = shaded * (1.0 - alpha) + colours * alpha


def _warp(cutout: Cutout, pose: Pose, region: tuple[int, int, int, int]) -> npt.NDArray[np.float32]:
    """The photograph around the object, moved into a region (left, top, right, bottom) of the scene.

    Returns:
        float32 [region height, region width, 3] in [0, 1].
    """
    left, top = np.floor(cutout.outline_xy.min(axis=0)).astype(int) - _EDGE_PX
    right, bottom = np.ceil(cutout.outline_xy.max(axis=0)).astype(int) + _EDGE_PX
    patch = _crop_repeating_edge(cutout.photograph.pixels, (left, top, right, bottom))
    image = _to_image(patch)
    if pose.scale < 1.0:
        # Shrinking first with a proper filter avoids the aliasing of a sampled transform.
        image = image.resize(
            (max(1, round(image.width * pose.scale)), max(1, round(image.height * pose.scale))),
            Image.Resampling.LANCZOS,
        )
    factor = np.array([image.width / patch.shape[1], image.height / patch.shape[0]])
    inverse = np.linalg.inv(_matrix(pose))
    centre = np.asarray(pose.centre_xy) - np.asarray(region[:2])
    origin = _middle(cutout.outline_xy) - inverse @ centre - np.array([left, top])
    rows = factor[:, None] * np.column_stack([inverse, origin])
    size = (region[2] - region[0], region[3] - region[1])
    moved = image.transform(size, Image.Transform.AFFINE, tuple(rows.ravel()), Image.Resampling.BICUBIC)
    return np.asarray(moved, dtype=np.float32) / 255.0


def _relight(colours: npt.NDArray[np.float32], pose: Pose) -> npt.NDArray[np.float32]:
    """Apply gamma, then the gain of each channel."""
    lit = np.power(colours, pose.gamma) * np.asarray(pose.gain_rgb)
    return np.asarray(np.clip(lit, 0.0, 1.0), dtype=np.float32)


def _crop_repeating_edge(pixels: npt.NDArray[np.float32], box_xyxy: Iterable[int]) -> npt.NDArray[np.float32]:
    """Crop a box that may leave the photograph; outside, the edge's colours go on."""
    left, top, right, bottom = box_xyxy
    rows = np.clip(np.arange(top, bottom), 0, pixels.shape[0] - 1)
    columns = np.clip(np.arange(left, right), 0, pixels.shape[1] - 1)
    return np.asarray(pixels[rows[:, None], columns[None, :]], dtype=np.float32)


def _to_image(pixels: npt.NDArray[np.float32]) -> Image.Image:
    return Image.fromarray(np.clip(np.rint(pixels * 255.0), 0, 255).astype(np.uint8))


def _draw_background(
    rng: np.random.Generator, catalogue: Catalogue, *, size_hw: Size, light: float
) -> tuple[npt.NDArray[np.float32], list[str]]:
    """A single texture, or a wall above a floor; lit unevenly. Float32 [H, W, 3], and the photographs used."""
    height, width = size_hw
    walls = [item for item in catalogue.backgrounds if item.role != "floor"]
    floors = [item for item in catalogue.backgrounds if item.role != "wall"]
    split = bool(rng.random() < 0.5)
    backs = walls if split else catalogue.backgrounds
    back = backs[int(rng.integers(len(backs)))]
    canvas = _draw_texture(rng, back, size_hw=size_hw)
    used = [back.photograph.name]
    if split:
        floor = floors[int(rng.integers(len(floors)))]
        horizon = int(height * rng.uniform(0.45, 0.75))
        below = _draw_texture(rng, floor, size_hw=(height - horizon, width))
        shade = np.linspace(0.72, 1.05, height - horizon, dtype=np.float32)[:, None, None]
        canvas[horizon:] = below * shade
        used.append(floor.photograph.name)
    slope = rng.uniform(-0.22, 0.22, size=2) * light
    ramp = 1.0 + slope[0] * np.linspace(-1, 1, height)[:, None] + slope[1] * np.linspace(-1, 1, width)[None, :]
    lit = canvas * ramp[..., None] * np.asarray(_draw_gain(rng, 0.5 * light))
    return np.clip(lit, 0.0, 1.0).astype(np.float32), used


def _draw_texture(rng: np.random.Generator, background: Background, *, size_hw: Size) -> npt.NDArray[np.float32]:
    """Crop a part of the background at random, mirror and tint it, and scale it to the size wanted."""
    height, width = size_hw
    left, top, right, bottom = background.box_xyxy
    pixels = background.photograph.pixels[top:bottom, left:right]
    if (width > height) != (pixels.shape[1] > pixels.shape[0]) and background.role == "floor":
        pixels = np.rot90(pixels)
    zoom = rng.uniform(0.8, 1.0) * min(pixels.shape[0] / height, pixels.shape[1] / width)
    rows, columns = max(1, int(height * zoom)), max(1, int(width * zoom))
    row = int(rng.integers(pixels.shape[0] - rows + 1))
    column = int(rng.integers(pixels.shape[1] - columns + 1))
    crop = pixels[row : row + rows, column : column + columns]
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    scaled = _to_image(crop).resize((width, height), Image.Resampling.BICUBIC)
    if zoom < 0.5:
        # Strongly enlarged, a photograph shows its compression blocks; out of focus it looks natural.
        scaled = scaled.filter(ImageFilter.GaussianBlur(1.0 / zoom))
    tint = np.asarray(background.tints[int(rng.integers(len(background.tints)))], dtype=np.float32)
    return np.asarray(scaled, dtype=np.float32) / 255.0 * tint
