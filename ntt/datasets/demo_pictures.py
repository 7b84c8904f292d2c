"""The generated demo data set: a few dozen composed pictures with exact masks, made in seconds without a download.

Real objects (a cat, coins, a cup, a dahlia, a pagoda, three people, a model of a space shuttle) are cut out of
photographs that scikit-image, scikit-learn and matplotlib ship, and put on photographed backgrounds. References and
targets are made of the same photographs: an object differs from its references in size, turn, mirror image, light,
background, neighbours and what hides it, never in kind. (Coins are the exception: there are 24, the references
show ten, the targets all.) So this set shows that a pipeline works; it does not measure how well a method
generalises. The pictures are made on the user's machine; their sources and licences are listed in the annotation
files they come with.
"""

import json
import logging
import shutil
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from ntt.datasets.demo_scenes import (
    Catalogue,
    Cutout,
    Mask,
    Placement,
    Pose,
    Scene,
    Size,
    draw_pose,
    load_catalogue,
    outline_box,
    paint,
    place,
    visible_masks,
)
from ntt.errors import ConfigError, DataError, StorageError
from ntt.types import Json

GENERATOR_VERSION = 1
SHOTS = 10

_MIN_HEIGHT, _MIN_WIDTH = 240, 320
_MIN_VISIBLE = 0.40
_BORDER_PX = 12
_MIN_SIDE_PX = 34
_REFERENCE_STREAM, _TARGET_STREAM, _PLAN_STREAM = 1, 2, 3
_JPEG_QUALITY = 92
_MARKER = "demo.json"

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Plan:
    """What one picture shall show: its objects, and for references the shot each of them is."""

    cutouts: tuple[Cutout, ...]
    shots: tuple[int, ...] = ()


def make_demo(
    root: Path, *, seed: int = 0, num_targets: int = 24, image_height: int = 360, image_width: int = 480
) -> Path:
    """Generate the demo data set in COCO format, or return at once when it is there already.

    The folder holds `images/`, `annotations/references.json` (10 instances a class, `shot_index` 0 to 9),
    `annotations/targets.json` and `demo.json`. The same arguments give the same bytes with the same versions of
    numpy and Pillow. Everything is written to a hidden folder beside `root` and renamed at the end; several
    processes may call this at once.

    Args:
        root: folder of the data set; made anew when it holds a demo set of other arguments or of an older version.
        seed: any integer >= 0.
        num_targets: number of target images, >= 1; every sixth holds no object.
        image_height: pixels, >= 240.
        image_width: pixels, >= 320.

    Returns:
        `root`.

    Raises:
        ConfigError: for an argument out of range.
        DataError: when `root` holds something else, or a photograph is missing.
        StorageError: when the folder cannot be written.
    """
    settings = {"seed": seed, "num_targets": num_targets, "image_height": image_height, "image_width": image_width}
    for name, least in {"seed": 0, "num_targets": 1, "image_height": _MIN_HEIGHT, "image_width": _MIN_WIDTH}.items():
        if settings[name] < least:
            raise ConfigError(f"The demo data set's {name} is {settings[name]}; give a number >= {least}.")
    marker: Json = {"generator_version": GENERATOR_VERSION, **settings}
    if _is_complete(root, marker):
        return root
    _refuse_foreign(root)
    # An absolute sibling keeps the rename on one file system.
    temporary = root.parent / f".{root.name}-{uuid.uuid4().hex}.tmp"
    try:
        _generate(temporary, seed=seed, num_targets=num_targets, size_hw=(image_height, image_width))
        _write_json(temporary / _MARKER, marker)
        _move_into_place(temporary, root, marker)
    except OSError as error:
        raise StorageError(
            f"The demo data set cannot be written to {root}: {error}. Free space or choose a writable folder."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return root


def _is_complete(root: Path, marker: Json) -> bool:
    """Whether `root` holds a finished set of exactly these settings; the marker is written last."""
    try:
        found = json.loads((root / _MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    names = ("annotations/references.json", "annotations/targets.json")
    return bool(found == marker) and all((root / name).is_file() for name in names)


def _refuse_foreign(root: Path) -> None:
    """Never remove a folder that is not a demo set."""
    if root.is_dir() and ((root / _MARKER).is_file() or not any(root.iterdir())):
        return
    if root.exists():
        raise DataError(
            f"The folder for the demo data set, {root}, exists and is not a demo data set (it has no {_MARKER}); "
            "allowed are a new or an empty folder or an earlier demo set. Choose another folder, or remove this one."
        )


def _move_into_place(temporary: Path, root: Path, marker: Json) -> None:
    """Rename the finished folder to `root`; when another process was faster, keep its equal result."""
    for _ in range(10):
        if _is_complete(root, marker):
            return
        try:
            temporary.replace(root)
        except OSError:
            if not root.exists():
                raise
        else:
            return
        outdated = temporary.with_suffix(".old")
        try:
            root.replace(outdated)
        except FileNotFoundError:
            continue
        shutil.rmtree(outdated, ignore_errors=True)
    raise StorageError(
        f"The demo data set cannot be moved to {root}: other processes keep writing there with other settings. "
        "Give each setting a folder of its own."
    )


def _generate(folder: Path, *, seed: int, num_targets: int, size_hw: Size) -> None:
    """Write images and annotation files into a new folder."""
    catalogue = load_catalogue()
    (folder / "images").mkdir(parents=True)
    (folder / "annotations").mkdir()
    references, targets = _plan_references(catalogue, seed), _plan_targets(catalogue, seed, num_targets)
    reference_scenes = (
        _reference_scene(np.random.default_rng([seed, _REFERENCE_STREAM, index]), catalogue, plan, size_hw)
        for index, plan in enumerate(references)
    )
    target_scenes = (
        _target_scene(np.random.default_rng([seed, _TARGET_STREAM, index]), catalogue, plan, size_hw)
        for index, plan in enumerate(targets)
    )
    for name, scenes, plans, first_id in (
        ("references", reference_scenes, references, 1),
        ("targets", target_scenes, targets, 1 + len(references)),
    ):
        record = _write_scenes(folder, catalogue, scenes, plans, stem=name[:-1], first_image_id=first_id)
        _write_json(folder / "annotations" / f"{name}.json", record)
    _logger.info("Generated the demo data set: %d reference and %d target images.", len(references), len(targets))


def _by_category(catalogue: Catalogue) -> dict[str, list[Cutout]]:
    return {
        name: [cutout for cutout in catalogue.cutouts if cutout.category == name] for _, name in catalogue.categories
    }


def _plan_references(catalogue: Catalogue, seed: int) -> list[_Plan]:
    """Ten shots of every class, one or two objects of different classes an image, in an order drawn by the seed."""
    rng = np.random.default_rng([seed, _PLAN_STREAM, 0])
    waiting: list[tuple[Cutout, int]] = []
    for cutouts in _by_category(catalogue).values():
        order = rng.permutation(len(cutouts))
        waiting += [(cutouts[order[shot % len(cutouts)]], shot) for shot in range(SHOTS)]
    waiting = [waiting[index] for index in rng.permutation(len(waiting))]
    plans: list[_Plan] = []
    while waiting:
        first, shot = waiting.pop()
        partners = [index for index, (other, _) in enumerate(waiting) if other.category != first.category]
        if partners and rng.random() < 0.5:
            second, second_shot = waiting.pop(partners[0])
            plans.append(_Plan((first, second), (shot, second_shot)))
        else:
            plans.append(_Plan((first,), (shot,)))
    return plans


def _plan_targets(catalogue: Catalogue, seed: int, num_targets: int) -> list[_Plan]:
    """Decide what each target image shows: nothing, one object, a mixture, or several of one class."""
    rng = np.random.default_rng([seed, _PLAN_STREAM, 1])
    by_category = _by_category(catalogue)
    deck = _endless_deck(rng, list(by_category))
    negative = {int(index) for index in rng.permutation(num_targets)[: num_targets // 6]}
    plans = []
    for index in range(num_targets):
        if index in negative:
            plans.append(_Plan(()))
            continue
        lead = next(deck)
        kind = rng.choice(["single", "mixture", "several"], p=[0.15, 0.5, 0.35])
        names = [lead]
        if kind == "several":
            names += [lead] * int(rng.integers(3, 8) if lead == "coin" else rng.integers(1, 3))
            names += [next(deck)] * int(rng.integers(0, 2))
        elif kind == "mixture":
            names += [next(deck) for _ in range(int(rng.integers(1, 4)))]
        chosen = [by_category[name][int(rng.integers(len(by_category[name])))] for name in names]
        plans.append(_Plan(tuple(chosen)))
    return plans


def _endless_deck(rng: np.random.Generator, names: list[str]) -> Iterator[str]:
    """Draw every class once, in random order, before any comes again."""
    while True:
        yield from (names[index] for index in rng.permutation(len(names)))


def _reference_scene(rng: np.random.Generator, catalogue: Catalogue, plan: _Plan, size_hw: Size) -> Scene:
    """Place the objects apart and well inside the image, so that every one is a valid reference."""
    placements: list[Placement] = []
    shrink = 1.0
    while len(placements) < len(plan.cutouts):
        cutout = plan.cutouts[len(placements)]
        largest = min(cutout.longest_side[1], 0.75 if len(plan.cutouts) == 1 else 0.6)
        smallest = min(max(cutout.longest_side[0], 0.18), largest)
        pose = draw_pose(
            rng, cutout, size_hw=size_hw, longest_side=(smallest, max(smallest, largest * shrink)), light=0.6
        )
        candidate = place(cutout, _put_inside(rng, cutout, pose, size_hw), size_hw=size_hw)
        shrink = max(0.5, shrink * 0.98)
        if _is_valid_reference(candidate, size_hw) and not any(
            (candidate.full_mask & other.full_mask).any() for other in placements
        ):
            placements.append(candidate)
            shrink = 1.0
        elif rng.random() < 0.02:
            # A first object in the middle can leave no room for a second one.
            placements.clear()
            shrink = 1.0
    return paint(rng, catalogue, placements, size_hw=size_hw, light=0.6)


def _put_inside(rng: np.random.Generator, cutout: Cutout, pose: Pose, size_hw: Size) -> Pose:
    """Move the object to a random place where its box keeps clear of all borders (as far as it fits)."""
    left, top, right, bottom = outline_box(cutout, pose)
    rooms = ((_BORDER_PX - left, size_hw[1] - _BORDER_PX - right), (_BORDER_PX - top, size_hw[0] - _BORDER_PX - bottom))
    shift = [float(rng.uniform(*room)) if room[0] < room[1] else 0.0 for room in rooms]
    return replace(pose, centre_xy=(pose.centre_xy[0] + shift[0], pose.centre_xy[1] + shift[1]))


def _is_valid_reference(candidate: Placement, size_hw: Size) -> bool:
    """Box sides and distances to the borders a little above what the sampler of references asks for."""
    rows, columns = np.flatnonzero(candidate.full_mask.any(axis=1)), np.flatnonzero(candidate.full_mask.any(axis=0))
    if rows.size == 0 or min(np.ptp(rows), np.ptp(columns)) + 1 < _MIN_SIDE_PX:
        return False
    gaps = (rows[0], columns[0], size_hw[0] - 1 - rows[-1], size_hw[1] - 1 - columns[-1])
    return bool(min(gaps) >= _BORDER_PX - 1)


def _target_scene(rng: np.random.Generator, catalogue: Catalogue, plan: _Plan, size_hw: Size) -> Scene:
    """Place the objects, large ones behind; some hide a part of others, some leave the picture in part."""
    posed = []
    for cutout in plan.cutouts:
        smallest, largest = cutout.longest_side
        if len(plan.cutouts) > 2:
            largest = max(smallest, 0.8 * largest)
        posed.append((cutout, draw_pose(rng, cutout, size_hw=size_hw, longest_side=(smallest, largest), light=1.0)))
    posed.sort(key=lambda item: -_box_area(*item))
    placements: list[Placement] = []
    for cutout, pose in posed:
        found = _find_place(rng, cutout, pose, placements, size_hw)
        if found is None:
            _logger.debug("No room for '%s'; the picture goes without it.", cutout.name)
        else:
            placements.append(found)
    return paint(rng, catalogue, placements, size_hw=size_hw, light=1.0)


def _box_area(cutout: Cutout, pose: Pose) -> float:
    left, top, right, bottom = outline_box(cutout, pose)
    return (right - left) * (bottom - top)


def _find_place(
    rng: np.random.Generator, cutout: Cutout, pose: Pose, placements: Sequence[Placement], size_hw: Size
) -> Placement | None:
    """Try places, shrinking slowly, until every object keeps enough in sight; None when there is none."""
    overlap_wanted = bool(placements) and rng.random() < 0.4
    on_floor = cutout.category == "person" and rng.random() < 0.5
    for attempt in range(60):
        tried = replace(pose, scale=pose.scale * 0.985**attempt)
        left, top, right, bottom = outline_box(cutout, tried)
        # A sixth of the box may leave the picture, on any side.
        slack_x, slack_y = (right - left) / 6, (bottom - top) / 6
        low_x, high_x = sorted((-slack_x - left, size_hw[1] + slack_x - right))
        low_y, high_y = sorted((-slack_y - top, size_hw[0] + slack_y - bottom))
        shift_y = size_hw[0] + 4.0 - bottom if on_floor else float(rng.uniform(low_y, high_y))
        centre = (tried.centre_xy[0] + float(rng.uniform(low_x, high_x)), tried.centre_xy[1] + shift_y)
        candidate = place(cutout, replace(tried, centre_xy=centre), size_hw=size_hw)
        masks = visible_masks([*placements, candidate])
        areas = [item.area_px for item in (*placements, candidate)]
        if any(mask.sum() < _MIN_VISIBLE * area for mask, area in zip(masks, areas, strict=True)):
            continue
        overlaps = any((candidate.full_mask & other.full_mask).any() for other in placements)
        if overlaps == overlap_wanted or (overlap_wanted and attempt >= 30):
            return candidate
    return None


def _write_scenes(
    folder: Path,
    catalogue: Catalogue,
    scenes: Iterator[Scene],
    plans: Sequence[_Plan],
    *,
    stem: str,
    first_image_id: int,
) -> Json:
    """Write the images of one split and return its annotation file's content."""
    category_ids = {name: identifier for identifier, name in catalogue.categories}
    images: list[Json] = []
    annotations: list[Json] = []
    for index, (scene, plan) in enumerate(zip(scenes, plans, strict=True)):
        image_id = first_image_id + index
        file_name = f"{stem}_{index:04d}.jpg"
        Image.fromarray(scene.pixels).save(folder / "images" / file_name, quality=_JPEG_QUALITY)
        images.append(_image_entry(catalogue, scene, image_id=image_id, file_name=file_name))
        for order, (placement, mask) in enumerate(zip(scene.placements, scene.visible_masks, strict=True)):
            entry = _annotation_entry(mask, annotation_id=len(annotations) + 1, image_id=image_id)
            entry["category_id"] = category_ids[placement.cutout.category]
            entry["source"] = placement.cutout.name
            entry["visible_fraction"] = round(float(mask.sum()) / placement.area_px, 3)
            if plan.shots:
                entry["shot_index"] = plan.shots[order]
            annotations.append(entry)
    return {
        "info": {
            "description": "ntt demo data set: objects cut out of photographs and put together by a program",
            "version": str(GENERATOR_VERSION),
            "photographs": list(catalogue.attribution),
        },
        "licenses": list(catalogue.licenses),
        "categories": [{"id": identifier, "name": name} for identifier, name in catalogue.categories],
        "images": images,
        "annotations": annotations,
    }


def _image_entry(catalogue: Catalogue, scene: Scene, *, image_id: int, file_name: str) -> Json:
    """COCO image entry; its licence is the strictest among its photographs' (attribution, where one asks for it)."""
    licence_of = {entry["name"]: entry["license"] for entry in catalogue.attribution}
    used = {licence_of[name] for name in scene.photographs}
    strictest = next(licence["id"] for licence in catalogue.licenses if licence["id"] in used)
    return {
        "id": image_id,
        "file_name": file_name,
        "height": scene.pixels.shape[0],
        "width": scene.pixels.shape[1],
        "license": strictest,
        "photographs": list(scene.photographs),
    }


def _annotation_entry(mask: Mask, *, annotation_id: int, image_id: int) -> Json:
    """COCO annotation entry of a visible mask, without its category."""
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {
        "id": annotation_id,
        "image_id": image_id,
        "bbox": [float(value) for value in coco_mask.toBbox(rle)],
        "area": float(coco_mask.area(rle)),
        "iscrowd": 0,
        "segmentation": {"size": list(mask.shape), "counts": rle["counts"].decode("ascii")},
    }


def _write_json(path: Path, content: Json) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
