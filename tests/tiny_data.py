"""A COCO-format data set small enough to run the whole pipeline in a second: coloured shapes on noise."""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from coco_samples import annotation
from PIL import Image

from ntt.config.compose import compose_many
from ntt.config.identity import run_directory
from ntt.run import runner
from ntt.types import Json

# Models that take a moment: few regions of a small canvas.
SMALL = ("segmenter.leaves=60", "segmenter.canvas_side=128", "segmenter.mask_side=64", "backbone.input_size=128")
CLASSES = {3: "disc", 7: "square"}
COLOURS = {3: (220, 40, 30), 7: (30, 60, 220)}
HEIGHT, WIDTH = 96, 128


def shape_mask(category_id: int, x: int, y: int, size: int) -> np.ndarray:
    """Bool [HEIGHT, WIDTH]: a disc or a square in the box (x, y, size, size)."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    if CLASSES[category_id] == "square":
        return (columns >= x) & (columns < x + size) & (rows >= y) & (rows < y + size)
    centre_x, centre_y = x + (size - 1) / 2, y + (size - 1) / 2
    return (columns - centre_x) ** 2 + (rows - centre_y) ** 2 <= (size / 2) ** 2


def polygon(category_id: int, x: int, y: int, size: int) -> list[list[float]]:
    """The shape's outline."""
    if CLASSES[category_id] == "square":
        return [[x, y, x + size, y, x + size, y + size, x, y + size]]
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    points = np.stack([x + size / 2 + np.cos(angles) * size / 2, y + size / 2 + np.sin(angles) * size / 2], axis=1)
    return [points.round(2).ravel().tolist()]


def make_split(folder: Path, name: str, scenes: list[list[tuple[int, int, int, int]]], *, first_id: int) -> Path:
    """Write the images and the annotation file of one half; a scene is a list of (category id, x, y, size)."""
    generator = np.random.default_rng(first_id)
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": []}
    content["categories"] = [{"id": number, "name": label} for number, label in CLASSES.items()]
    for index, scene in enumerate(scenes):
        pixels = generator.integers(90, 130, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        file_name, image_id = f"{name}_{index}.png", first_id + index
        for category_id, x, y, size in scene:
            pixels[shape_mask(category_id, x, y, size)] = COLOURS[category_id]
            number, more = len(content["annotations"]) + 1, {"area": size * size, "iscrowd": 0}
            more["segmentation"] = polygon(category_id, x, y, size)
            content["annotations"].append(annotation(number, image_id, category_id, [x, y, size, size], **more))
        Image.fromarray(pixels).save(folder / "images" / file_name)
        content["images"].append({"id": image_id, "file_name": file_name, "height": HEIGHT, "width": WIDTH})
    path = folder / "annotations" / f"{name}.json"
    path.write_text(json.dumps(content))
    return path


def make_tiny(folder: Path) -> Path:
    """Write the whole data set into `folder` and return it."""
    (folder / "images").mkdir(parents=True)
    (folder / "annotations").mkdir()
    references = [[(3, 20, 20, 40)], [(7, 70, 30, 40)], [(3, 60, 40, 36), (7, 12, 15, 34)]]
    targets = [[(3, 10, 10, 40), (7, 70, 40, 36)], [(7, 40, 20, 50)], [], [(3, 70, 30, 44), (3, 15, 30, 36)]]
    make_split(folder, "references", references, first_id=1)
    make_split(folder, "targets", targets, first_id=101)
    return folder


def settings(root: Path, output: Path, store: Path, *more: str) -> list[str]:
    """Return the command line of a run on such a data set."""
    places = [f"dataset.root={root}", f"runtime.output_root={output}", f"runtime.store_root={store}"]
    return ["dataset=coco_json", "shots=1shot", "visualisation.enabled=false", *places, *SMALL, *more]


def run_with(words: Sequence[str], **more: Any) -> Path:
    """Run with settings in this process and return the run directory. Settings are composed in parts: quicker."""
    (config,) = compose_many([words])
    runner.run(config, **more)
    return run_directory(config)


def read(path: Path) -> Json:
    loaded: Json = json.loads(path.read_text())
    return loaded


@contextmanager
def edited(root: Path, name: str) -> Iterator[Json]:
    """Change an annotation file."""
    path = root / "annotations" / f"{name}.json"
    content = read(path)
    yield content
    path.write_text(json.dumps(content))


EXAMPLES = {"disc": ("references_0", (3, 20, 20, 40)), "square": ("references_1", (7, 70, 30, 40))}
"""Class -> image of the tiny data set, and its object: category id, x, y, size."""


def make_folder(folder: Path, *, masks: bool = True) -> Path:
    """Write references/<class>/<image> and targets/<image> into `folder` and return it."""
    tiny = make_tiny(folder / "tiny")
    for name, (stem, scene) in EXAMPLES.items():
        (folder / "references" / name).mkdir(parents=True)
        shutil.copy(tiny / f"images/{stem}.png", folder / "references" / name)
        if masks:
            assert CLASSES[scene[0]] == name
            mask = shape_mask(*scene).astype(np.uint8) * 255
            Image.fromarray(mask).save(folder / "references" / name / f"{stem}_mask.png")
    (folder / "targets").mkdir()
    for number in range(2):
        shutil.copy(tiny / f"images/targets_{number}.png", folder / "targets")
    shutil.rmtree(tiny)
    return folder
