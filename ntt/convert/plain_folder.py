"""A plain folder of images, without annotation files, to COCO: `references/<class>/<image>` and `targets/<image>`.

A file next to an example `a.jpg` marks the object: `a_mask.png`, `a_box.txt` or a LabelMe file `a.json`; without one it
is the whole image. docs/data.md describes the layout.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from ntt.base.digests import sha256_of
from ntt.convert.base import CocoBuilder, Converted, LabelledObject, read_lines
from ntt.convert.folders import Folder
from ntt.convert.labelme import labelled_image, mask_object
from ntt.data.coco_entries import Findings, parse_categories
from ntt.data.documents import read_document
from ntt.data.images import DECODING_ERRORS, opened_image
from ntt.errors import DataError, raise_all
from ntt.types import BoolArray, Category, Json

_MASK_NAME = re.compile(r"(?P<stem>.+)_mask(?:_?\d+)?", re.IGNORECASE)
_BOX_ENDING = "_box.txt"
_HINT = "Example images belong in one folder per class, such as references/boat/a.jpg."


def convert_references(root: Path, categories: Sequence[Category] | None = None) -> Converted:
    """Read the examples in a folder with one subfolder per class; `categories` are those that have ids already.

    Annotations have a `shot_index`, the index of the example within its class in order of file name.
    """
    if not root.is_dir():
        raise DataError(f"There is no folder {root}. {_HINT}")
    folder = Folder(root)
    builder = CocoBuilder(folder, categories)
    counts: Counter[str] = Counter()
    images: dict[str, Json] = {}
    for path, masks in _sort_files(folder, builder).items():
        with builder.collecting():
            counts.update(labelled.name for labelled in _add_example(builder, path, masks, images))
    _check_classes(builder, root, counts, categories)
    converted = builder.finish(root)
    seen: Counter[int] = Counter()
    for entry in converted.document["annotations"]:
        entry["shot_index"] = seen[entry["category_id"]]
        seen[entry["category_id"]] += 1
    return converted


def convert_targets(root: Path, categories: Sequence[Category], *, without: Path | None = None) -> Converted:
    """Read the images to search, and the objects of `categories` in their LabelMe files.

    The subfolder `without` is left out. If no image has a LabelMe file, the result has no `annotations`.
    """
    if not root.is_dir():
        raise DataError(f"There is no folder {root}. Put the images to search there.")
    folder = Folder(root, without=without)
    builder = CocoBuilder(folder, categories)
    labels = {path: folder.beside(path, ".json") for path in folder.images}
    for path, files in labels.items():
        with builder.collecting():
            twins = folder.images_called(path.parent, path.stem)
            if len(files) > 1:
                raise DataError(f"{path} has {files[0].name} and {files[1].name}. Remove one.")
            if files and len(twins) > 1:
                raise DataError(f"{twins[0]} and {twins[1].name} share {files[0].name}. Rename one of the images.")
            if files:
                builder.add_objects(*labelled_image(builder, path, files[0]))
            else:
                builder.add_image(path)
    used = {path for files in labels.values() for path in files}
    builder.note_passed_over(folder.passed_over(used))
    unlabelled = [path for path, files in labels.items() if not files]
    if used and unlabelled:
        builder.note("target image(s) without a LabelMe file count as images that show no object", *unlabelled)
    converted = builder.finish(root)
    if not used:
        del converted.document["annotations"]
    return converted


def coco_categories(annotation_file: Path) -> tuple[Category, ...]:
    """Return the classes of a COCO file, sorted by id."""
    entries = read_document(annotation_file).get("categories")
    findings = Findings()
    categories = parse_categories(entries if isinstance(entries, list) else [], findings)
    raise_all([f"{annotation_file}: {problem}" for problem in findings.problems], DataError, summary="Unusable classes")
    return categories


def _sort_files(folder: Folder, builder: CocoBuilder) -> dict[Path, list[Path]]:
    """Return the example images, each with its masks.

    A file that may have been meant for an image, but would be ignored or taken for another example, is a problem: the
    whole image would count. Other files that are not understood are noted.
    """
    stems = {path: match["stem"] for path in folder.images if (match := _MASK_NAME.fullmatch(path.stem))}
    examples: dict[Path, list[Path]] = {path: [] for path in folder.images if path not in stems}
    for mask, stem in stems.items():
        owners = [owner for owner in folder.images_called(mask.parent, stem) if owner in examples]
        if not owners:
            builder.problems.append(_belongs_to_nothing(mask, "mask", stem))
        for owner in owners:
            examples[owner].append(mask)
    passed_over = folder.passed_over([file for path in examples for file in folder.beside(path, _BOX_ENDING, ".json")])
    boxes = [path for path in passed_over if path.name.lower().endswith(_BOX_ENDING)]
    builder.problems += [_belongs_to_nothing(path, "file of boxes", path.name[: -len(_BOX_ENDING)]) for path in boxes]
    builder.note_passed_over([path for path in passed_over if path not in boxes])
    twins = {path: [*folder.images_called(path.parent, path.stem)] for path in examples}
    for first, second, *_ in {tuple(paths) for paths in twins.values() if len(paths) > 1}:
        remedy = f"If one is a mask, call it {first.stem}_mask.png; else rename it."
        builder.problems.append(f"{first} and {second.name} have one name. {remedy}")
    return {path: masks for path, masks in examples.items() if len(twins[path]) == 1}


def _belongs_to_nothing(path: Path, kind: str, stem: str) -> str:
    return f"{path} is named like a {kind}, but there is no image {stem}.* next to it. Give both the same name."


def _add_example(
    builder: CocoBuilder, path: Path, masks: Sequence[Path], images: dict[str, Json]
) -> list[LabelledObject]:
    """Add one example image with its objects, and return these.

    A copy of an image in `images`, in the folder of another class for instance, is that image with further objects.
    """
    parts = path.relative_to(builder.folder.root).parts
    name = parts[0].strip() if len(parts) > 1 else None
    boxes, labelme = (builder.folder.beside(path, ending) for ending in (_BOX_ENDING, ".json"))
    kinds = [*(["a mask"] if masks else []), *(file.name for file in (*labelme, *boxes))]
    if len(kinds) > 1:
        raise DataError(f"{path} has {' and '.join(kinds)}, and only one can apply. Remove all but one.")
    if labelme:
        image, objects = labelled_image(builder, path, labelme[0])
        objects = _of_class(objects, labelme[0], name)
        builder.add_objects(image, objects)
        return objects
    try:
        digest = sha256_of(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}. It must be a readable file.") from error
    image = images[digest] = images.get(digest) or builder.add_image(path)
    size = (image["height"], image["width"])
    if name is None:
        raise DataError(f"{path} is not in a class folder and has no LabelMe file {path.stem}.json. {_HINT}")
    if masks:
        objects = [_masked(name, mask, size, builder) for mask in masks]
    elif boxes:
        objects = _boxes(boxes[0], size, name)
    elif _is_two_coloured(path):
        raise DataError(
            f"{path} has two colours, like a mask. Call it NAME_mask.png beside the image NAME, or remove it."
        )
    else:
        builder.note("example image(s) without mask or box: the whole image is the example", path)
        objects = [LabelledObject(name, (0.0, 0.0, float(size[1]), float(size[0])))]
    builder.add_objects(image, objects)
    return objects


def _masked(name: str, file: Path, size_hw: tuple[int, int], builder: CocoBuilder) -> LabelledObject:
    mask = read_mask(file, size_hw)
    if mask[0].any() and mask[-1].any() and mask[:, 0].any() and mask[:, -1].any():
        builder.note("mask(s) touch all four borders: the object is what is white, invert those painted in black", file)
    return mask_object(name, mask)


def _is_two_coloured(path: Path) -> bool:
    with opened_image(path) as image:
        if image.mode not in ("1", "L", "P", "LA", "RGB"):
            return False
        colours = image.getcolors(2)
    return colours is not None and len(colours) == 2


def _of_class(objects: list[LabelledObject], file: Path, name: str | None) -> list[LabelledObject]:
    """Select a LabelMe file's objects; in a class folder only those of the class, in any capitalisation."""
    if name is not None:
        labels = {labelled.name for labelled in objects}
        objects = [replace(labelled, name=name) for labelled in objects if labelled.name.casefold() == name.casefold()]
        if not objects:
            raise DataError(f"{file} has no shape labelled {name!r}, as its folder; its labels are {sorted(labels)}.")
    if not objects:
        raise DataError(f"{file} has no shape with an area. Draw an outline, a rectangle or a circle.")
    return objects


def read_mask(path: Path, size_hw: tuple[int, int]) -> BoolArray:
    """Read a mask of an image's size from a picture, bool [H, W]; see `foreground`."""
    try:
        with opened_image(path) as picture:
            mask = foreground(picture)
    except (DataError, *DECODING_ERRORS) as error:
        raise DataError(f"The mask {path} cannot be read: {str(error).rstrip('.')}.") from error
    if mask.shape != size_hw:
        sizes = f"{mask.shape[1]} x {mask.shape[0]} pixels, its image has {size_hw[1]} x {size_hw[0]}"
        raise DataError(f"The mask {path} has {sizes}. Do not scale it.")
    if not mask.any():
        raise DataError(f"The mask {path} is black all over. Paint the object white.")
    return mask


def foreground(picture: Image.Image) -> BoolArray:
    """Return which pixels of a mask picture are the object, bool [H, W].

    In a picture with transparent parts, the opaque ones; in one with a palette, any colour but black; else those more
    than half as bright as the brightest pixel, which suits 0/1 masks as well as 0/255.
    """
    if picture.has_transparency_data:
        alpha = np.asarray(picture.convert("RGBA"))[..., 3]
        if alpha.min() < alpha.max():
            return np.asarray(alpha > 127)
    if picture.mode == "P":
        return np.asarray(np.asarray(picture.convert("RGB")).any(axis=2))
    grey = np.asarray(picture if picture.mode.startswith(("I", "F", "1")) else picture.convert("L")).astype(np.float64)
    bright: BoolArray = grey > grey.max() / 2
    return bright


def _boxes(file: Path, size_hw: tuple[int, int], name: str) -> list[LabelledObject]:
    """Read `left top right bottom`, one box per line."""
    objects = []
    for line in filter(str.strip, read_lines(file)):
        try:
            left, top, right, bottom = map(float, line.replace(",", " ").split())
        except ValueError:
            left = top = right = bottom = float("nan")
        if not (0 <= left < right <= size_hw[1] and 0 <= top < bottom <= size_hw[0]):
            size = f"{size_hw[1]} x {size_hw[0]} pixels"
            raise DataError(f"{file}: {line[:60]!r} is no box `left top right bottom` in an image of {size}.")
        objects.append(LabelledObject(name, (left, top, right - left, bottom - top)))
    if not objects:
        raise DataError(f"{file} is empty. Add a box `left top right bottom` in pixels, or remove the file.")
    return objects


def _check_classes(
    builder: CocoBuilder, root: Path, counts: Counter[str], categories: Sequence[Category] | None
) -> None:
    """Report folders without examples, and classes that the annotated targets do not have."""
    folders = sorted(path.name.strip() for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    for name in folders:
        if name not in counts and not builder.problems:
            builder.problems.append(f"{root / name} holds no example image. Add one, or remove the folder. {_HINT}")
    if categories is not None:
        names = {category.name for category in categories}
        builder.problems += [
            f"The class {name!r} of {root} is not among those of the annotated targets: {', '.join(sorted(names))}. "
            "Rename its folder."
            for name in sorted(set(counts) - names)
        ]
