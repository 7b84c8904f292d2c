"""YOLO text files, one per image, to COCO.

A line is `class cx cy w h` (a box: centre and size) or `class x1 y1 x2 y2 x3 y3 ...` (an outline), all as fractions of
the image's width and height; if data.yaml has a `kpt_shape`, keypoints follow the box, and are left out. Sizes are
those of the image turned upright, as the tools that write these files see it. An image without a text file has no
objects.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ntt.base.yaml_files import Plain, read_yaml
from ntt.convert.base import CocoBuilder, Converted, LabelledObject, polygon_box, read_lines
from ntt.convert.folders import ANNOTATION_SUFFIXES, Folder
from ntt.data.coco_entries import shortened
from ntt.errors import ConfigError, DataError
from ntt.types import Category, Json

_TOLERANCE = 0.01
"""How far a fraction may lie outside [0, 1] and still be due to rounding, or to imprecise clipping."""

_MAX_NAMES_BYTES = 1 << 20
_EXCESS = 0.1
"""How far a box may extend beyond its image, as a fraction of it, before it is questioned."""


def find_places(root: Path, subset: str) -> tuple[Path, Path, Path]:
    """Find the folders of images and labels of one subset below a folder, and the file of class names.

    Layouts are images/SUBSET with labels/SUBSET, and SUBSET/images with SUBSET/labels; then images with labels (Label
    Studio's, and for `subset` "all") and obj_SUBSET_data with both (CVAT's). Class names are in data.yaml, another
    .yaml file, classes.txt or obj.names.
    """
    options = [(f"images/{subset}", f"labels/{subset}"), (f"{subset}/images", f"{subset}/labels")]
    flat = [("images", "labels")]
    if subset == "all":
        options = flat
    elif not any((root / images).is_dir() for images, _ in options):
        options += [*flat, (f"obj_{subset}_data", f"obj_{subset}_data")]
    for images, labels in options:
        if (root / images).is_dir() and (root / labels).is_dir():
            return root / images, root / labels, _names_file(root)
    tried = " or ".join(f"{images}/ with {labels}/" for images, labels in options)
    raise DataError(f"{root} has no {tried}. Choose another --subset, or give --images, --labels and --names.")


def read_classes(names_file: Path) -> tuple[dict[int, str], int]:
    """Read a data.yaml, or distinct names, one per line; empty lines count.

    Returned are the names by YOLO's class number, and the number of keypoint values after each box, 0 for other labels.
    """
    lines = read_lines(names_file, _MAX_NAMES_BYTES)
    num_values = 0
    if names_file.suffix.lower() in (".yaml", ".yml"):
        content = read_yaml("\n".join(lines), where=str(names_file))
        names, num_values = _names_in_yaml(content, names_file), _num_keypoint_values(content, names_file)
    else:
        names = {number: line.strip() for number, line in enumerate(lines) if line.strip()}
    if not names or len(set(names.values())) < len(names):
        raise DataError(
            f"{names_file} lists the class names {shortened(list(names.values()))}: at least one is needed, each once."
        )
    return names, num_values


def convert_yolo(
    root: Path | None = None,
    subset: str = "train",
    *,
    images: Path | None = None,
    labels: Path | None = None,
    names: Path | None = None,
) -> Converted:
    """Read a folder of images and the folder of their text files: the label of images/a/b.jpg is labels/a/b.txt.

    Category ids are the class numbers plus 1. What is not given is found below `root`, see `find_places`.
    """
    if root is not None:
        usual = find_places(root, subset)
        images, labels, names = images or usual[0], labels or usual[1], names or usual[2]
    if images is None or labels is None or names is None:
        raise ConfigError("Name a folder in one of the usual layouts, or all of --images, --labels and --names.")
    class_names, num_keypoint_values = read_classes(names)
    folder, listing = Folder(images), Folder(labels)
    categories = [Category(number + 1, name) for number, name in class_names.items()]
    builder = CocoBuilder(folder, categories, annotations=listing)
    builder.note_passed_over(folder.passed_over((), harmless=ANNOTATION_SUFFIXES))
    used: set[Path] = set()
    all_rows: list[_Row] = []
    unlabelled: list[Path] = []
    for path in folder.images:
        twin = labels / path.relative_to(images)
        # Some tools append .txt to the full name of the image.
        files = listing.beside(twin, ".txt") or listing.named(twin.parent, f"{twin.name}.txt")
        if used.intersection(files):
            builder.note("image(s) share their label file with another of the same name", path)
        used.update(files)
        with builder.collecting():
            image = builder.add_image(path)
            if len(files) > 1:
                raise DataError(f"{path} has the label files {' and '.join(map(str, files))}. Remove all but one.")
            rows = [row for file in files for row in _rows(file)]
            builder.add_objects(image, [_object(row, class_names, num_keypoint_values, image) for row in rows])
            all_rows += rows
            unlabelled += [] if files else [path]
    outlines = [row for row in all_rows if len(row.values) > 4]
    if outlines and all(map(_is_like_keypoints, outlines)) and not num_keypoint_values:
        builder.note(f"of {len(outlines)} outline(s) look like a box with keypoints: if they are, name their data.yaml")
    if outside := [row.where for row in all_rows if _leaves_image(row)]:
        builder.note("box(es) leave their images by far: are they corners in place of centre and size?", *outside)
    if 2 * len(unlabelled) > len(folder.images):
        builder.note("image(s) have no label file: most images show no object", *unlabelled)
    unused = [path for path in listing.passed_over(used) if path.name.lower() != "notes.json"]
    if unused:
        builder.note("file(s) among the labels without an image, or with another ending than .txt", *unused)
    return builder.finish(labels)


def _names_file(root: Path) -> Path:
    usual = [root / name for name in ("data.yaml", "data.yml", "dataset.yaml", "classes.txt", "obj.names")]
    for path in (*usual, *sorted(root.glob("*.yaml")), root / "labels/classes.txt"):
        if path.is_file():
            return path
    raise DataError(f"{root} has no data.yaml and no classes.txt. Name the file of class names with --names.")


def _names_in_yaml(content: Any, path: Path) -> dict[int, str]:
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, list):
        names = {str(number): name for number, name in enumerate(names)}
    is_mapping = isinstance(names, dict) and all(str(number).isdecimal() for number in names)
    if not isinstance(names, dict) or not is_mapping or len({int(number) for number in names}) < len(names):
        raise DataError(f"{path} has no usable `names`: a list, or a mapping of class numbers to names, is needed.")
    for number, name in names.items():
        value = _yaml_value(name)
        if not isinstance(value, str):
            why = "YAML reads words such as no, yes and null, and numbers, as something other than text"
            raise DataError(f"{path}: names[{number}] is {shortened(value)}: {why}. Quote the name, as in 'no'.")
        if not name.strip():
            raise DataError(f"{path}: names[{number}] is empty. Give the class a name.")
    if content.get("nc") not in (None, str(len(names))):
        raise DataError(f"{path} has nc {shortened(content['nc'])} and {len(names)} names. Correct one of them.")
    return {int(number): str(name).strip() for number, name in sorted(names.items(), key=lambda item: int(item[0]))}


def _yaml_value(name: Any) -> Any:
    """Return what the tools that wrote the file read: YAML gives some unquoted words other meanings."""
    try:
        return yaml.safe_load(name) if isinstance(name, Plain) else name
    except ValueError:  # a date that does not exist
        return None


def _num_keypoint_values(content: Any, path: Path) -> int:
    shape = content.get("kpt_shape") if isinstance(content, dict) else None
    if shape is None:
        return 0
    numbers = [int(n) for n in shape if str(n).isdecimal()] if isinstance(shape, list) else []
    if len(numbers) == 2 and numbers[1] in (2, 3):
        return numbers[0] * numbers[1]
    raise DataError(f"{path} has kpt_shape {shortened(shape)}: [number of keypoints, 2 or 3] is needed. Correct it.")


class _Row(NamedTuple):
    """A line of a label file: where it is, the class number and the values after it."""

    where: str
    number: int
    values: list[float]


def _rows(file: Path) -> Iterator[_Row]:
    for number, line in enumerate(read_lines(file), start=1):
        where, words = f"{file}, line {number}", line.split()
        try:
            if words:
                yield _Row(where, int(words[0]), [float(word) for word in words[1:]])
        except ValueError:
            raise DataError(f"{where}: {line[:60]!r} are not all numbers. Correct the line.") from None


def _object(row: _Row, names: dict[int, str], num_keypoint_values: int, image: Json) -> LabelledObject:
    where, number, values = row
    height, width = image["height"], image["width"]
    if number not in names:
        available = shortened(sorted(names))
        raise DataError(f"{where}: class {number} has no name; there are {available}. Add it to the class names.")
    if num_keypoint_values:
        if len(values) != 4 + num_keypoint_values:
            rule = f"4 of a box and {num_keypoint_values} of keypoints, as kpt_shape says"
            raise DataError(f"{where} has {len(values)} values after the class: needed are {rule}.")
        values = values[:4]
    if len(values) != 4 and (len(values) < 6 or len(values) % 2):
        rule = "4 make a box, 6, 8, ... an outline, and a fifth is the score of a prediction"
        raise DataError(f"{where} has {len(values)} values after the class: {rule}.")
    if not all(-_TOLERANCE <= value <= 1 + _TOLERANCE for value in values):
        raise DataError(f"{where} has the values {values[:4]} ...: fractions of the sides are needed, not pixels.")
    if len(values) == 4:
        centre_x, centre_y, box_width, box_height = values
        left, top = (centre_x - box_width / 2) * width, (centre_y - box_height / 2) * height
        return LabelledObject(names[number], (left, top, box_width * width, box_height * height))
    polygon = [round(value * (height if index % 2 else width), 3) for index, value in enumerate(values)]
    return LabelledObject(names[number], polygon_box([polygon]), [polygon])


def _leaves_image(row: _Row) -> bool:
    """Return whether a box extends beyond the image by more than a tenth of it."""
    values = row.values
    ends = [centre + sign * size / 2 for centre, size in zip(values[:2], values[2:4], strict=True) for sign in (-1, 1)]
    return len(values) == 4 and not -_EXCESS <= min(ends) <= max(ends) <= 1 + _EXCESS


def _is_like_keypoints(row: _Row) -> bool:
    """Return whether all points after the first four values lie in the box that these would describe."""
    values = row.values
    centre_x, centre_y, width, height = values[:4]

    def is_inside(x: float, y: float) -> bool:
        slack = 1 / 2 + _TOLERANCE
        return (x == y == 0) or (abs(x - centre_x) <= width * slack and abs(y - centre_y) <= height * slack)

    counts = [step for step in (2, 3) if (len(values) - 4) % step == 0]
    return any(all(is_inside(*values[n : n + 2]) for n in range(4, len(values), step)) for step in counts)
