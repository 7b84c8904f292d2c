"""YOLO text files, one per image, to COCO.

A line is `class cx cy w h` (a box: centre and size) or `class x1 y1 x2 y2 x3 y3 ...` (an outline), all as fractions of
the image's width and height. Sizes are those of the image turned upright, as the tools that write these files see it.
An image without a text file shows no object.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

from ntt.convert.base import Box, CocoBuilder, Converted, LabelledObject, image_files, polygon_box, read_lines
from ntt.errors import DataError
from ntt.types import Category

_TOLERANCE = 0.01
"""How far a fraction may lie outside [0, 1] and still be rounding, or a box clipped a little late."""

_MAX_NAMES_BYTES = 1 << 20


class YoloPlaces(NamedTuple):
    """Where the images, labels and class names of a set are."""

    images: Path
    labels: Path
    names_file: Path


def find_places(root: Path, subset: str) -> YoloPlaces:
    """Find images, labels and class names of one subset below a folder.

    Layouts looked for are images/SUBSET with labels/SUBSET, SUBSET/images with SUBSET/labels, and images with labels
    where `subset` is "all". Class names are in data.yaml, another .yaml file, classes.txt or obj.names.
    """
    options = [("images", "labels")] if subset == "all" else []
    options += [(f"images/{subset}", f"labels/{subset}"), (f"{subset}/images", f"{subset}/labels")]
    for images, labels in options:
        if (root / images).is_dir() and (root / labels).is_dir():
            return YoloPlaces(root / images, root / labels, _names_file(root))
    tried = " or ".join(f"{images}/ with {labels}/" for images, labels in options)
    raise DataError(f"{root} has no {tried}. Choose another --subset, or give --images, --labels and --names.")


def read_names(names_file: Path) -> dict[int, str]:
    """Read class names, by YOLO's class number: the `names` of a data.yaml, or one name per line, each once."""
    lines = read_lines(names_file, _MAX_NAMES_BYTES)
    if names_file.suffix.lower() in (".yaml", ".yml"):
        names = _names_in_yaml("\n".join(lines), names_file)
    else:
        names = dict(enumerate(line.strip() for line in lines if line.strip()))
    if not names or len(set(names.values())) < len(names):
        raise DataError(
            f"{names_file} lists the class names {list(names.values())}: at least one is needed, each once."
        )
    return names


def convert_yolo(*, images: Path, labels: Path, names: dict[int, str]) -> Converted:
    """Read a folder of images and the folder of their text files: the label of images/a/b.jpg is labels/a/b.txt.

    `names` maps class numbers to names; category ids are these numbers plus 1.

    Raises:
        DataError: listing every file that cannot be used.
    """
    if not labels.is_dir():
        raise DataError(f"The folder of labels {labels} does not exist. Name the folder that holds the .txt files.")
    builder = CocoBuilder(images, [Category(number + 1, name) for number, name in names.items()])
    used: set[Path] = set()
    for path in image_files(images):
        file = labels / path.relative_to(images).with_suffix(".txt")
        used.add(file)
        with builder.collecting():
            image = builder.add_image(path)
            lines = read_lines(file) if file.is_file() else []
            objects = [
                _object(line.split(), f"{file}, line {number}", names, image["height"], image["width"])
                for number, line in enumerate(lines, start=1)
                if line.strip()
            ]
            builder.add_objects(image, objects)
    unused = [path for path in labels.rglob("*.txt") if path not in used and path.name != "classes.txt"]
    if unused:
        builder.note(f"label file(s) without an image, the first being {min(unused)}", len(unused))
    return builder.finish(labels)


def _names_file(root: Path) -> Path:
    usual = [root / name for name in ("data.yaml", "data.yml", "dataset.yaml", "classes.txt", "obj.names")]
    for path in (*usual, *sorted(root.glob("*.yaml")), root / "labels/classes.txt"):
        if path.is_file():
            return path
    raise DataError(f"{root} has no data.yaml and no classes.txt. Name the file of class names with --names.")


def _names_in_yaml(text: str, path: Path) -> dict[int, str]:
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise DataError(f"{path} is not valid YAML: {str(error).splitlines()[0]}. Correct it.") from error
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not all(
        type(number) is int and number >= 0 and type(name) is str and name.strip() for number, name in names.items()
    ):
        raise DataError(f"{path} has no usable `names`: a list, or a mapping of class numbers to names, is needed.")
    return {number: name.strip() for number, name in sorted(names.items())}


def _object(words: Sequence[str], where: str, names: dict[int, str], height: int, width: int) -> LabelledObject:
    try:
        number, values = int(words[0]), [float(word) for word in words[1:]]
    except ValueError:
        raise DataError(f"{where}: {' '.join(words)[:60]!r} are not all numbers. Correct the line.") from None
    if number not in names:
        raise DataError(f"{where}: class {number} has no name; there are {sorted(names)}. Add it to the class names.")
    if len(values) != 4 and (len(values) < 6 or len(values) % 2):
        rule = "4 make a box, 6, 8, ... an outline, and a fifth is the score of a prediction"
        raise DataError(f"{where} has {len(values)} values after the class: {rule}.")
    if not all(-_TOLERANCE <= value <= 1 + _TOLERANCE for value in values):
        raise DataError(f"{where} has the values {words[1:5]} ...: fractions of the sides are needed, not pixels.")
    if len(values) == 4:
        return LabelledObject(names[number], _box(values, height, width))
    polygon = [round(value * (height if index % 2 else width), 3) for index, value in enumerate(values)]
    return LabelledObject(names[number], polygon_box([polygon]), [polygon])


def _box(values: Sequence[float], height: int, width: int) -> Box:
    centre_x, centre_y, box_width, box_height = values
    left, top = (centre_x - box_width / 2) * width, (centre_y - box_height / 2) * height
    return (left, top, box_width * width, box_height * height)
