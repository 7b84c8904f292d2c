"""Pascal VOC as published (VOCdevkit, and the few-shot lists of the field) to the COCO files the options read."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from ntt.base.files import read_json, write_json
from ntt.convert.voc import convert_voc, read_list
from ntt.datasets.published.details import known_datasets
from ntt.errors import DataError
from ntt.types import Category, Json

TRAINVAL = "annotations/trainval0712.json"
TEST = "annotations/test2007.json"


def voc_categories() -> tuple[Category, ...]:
    """The 20 classes, numbered from 1 in the order of their names."""
    return tuple(Category(number, name) for number, name in enumerate(known_datasets()["voc"].class_names, start=1))


def convert_devkit(root: Path) -> tuple[Path, ...]:
    """Write `annotations/trainval0712.json` and `annotations/test2007.json` unless they are there.

    Args:
        root: the folder that holds `VOCdevkit/VOC2007` and `VOCdevkit/VOC2012`.

    Returns:
        The files that were written.

    Raises:
        DataError: if part of VOCdevkit is missing or cannot be read.
    """
    wanted = {TRAINVAL: (("VOC2007", "trainval"), ("VOC2012", "trainval")), TEST: (("VOC2007", "test"),)}
    written = []
    for name, parts in wanted.items():
        if not (root / name).is_file():
            write_json(root / name, _joined([_read_part(root / "VOCdevkit", *part) for part in parts]), indent=None)
            written.append(root / name)
    return tuple(written)


def list_name(class_name: str, shots: int) -> str:
    """File name of the list of one class and number of shots, as published."""
    return f"box_{shots}shot_{class_name}_train.txt"


def write_kshot_files(root: Path, shots: Sequence[int]) -> tuple[Path, ...]:
    """Write `annotations/K_shot.json` from the few-shot lists in `vocsplit/` unless they are there.

    A list names images by path; of each path only the file name counts. The references of a class are its objects in
    these images, in the order of the list and, within an image, of its annotation file, until there are k; difficult
    objects are passed over. (The program the lists were published with draws k of them at random, without a seed.)

    Args:
        root: the folder that holds `vocsplit/` and the converted annotations.
        shots: the numbers of shots.

    Returns:
        The files that were written.

    Raises:
        DataError: if a list is missing, or names an image that trainval does not have.
    """
    missing = [k for k in shots if not (root / "annotations" / f"{k}_shot.json").is_file()]
    if not missing:
        return ()
    trainval = read_json(root / TRAINVAL)
    images = {Path(image["file_name"]).stem: image for image in trainval["images"]}
    objects: dict[tuple[int, int], list[Json]] = defaultdict(list)
    for one in trainval["annotations"]:
        if not one["iscrowd"]:
            objects[one["image_id"], one["category_id"]].append(one)
    written = []
    for k in missing:
        chosen = [
            one
            for category in trainval["categories"]
            for one in _first(root / "vocsplit" / list_name(category["name"], k), category["id"], k, images, objects)
        ]
        used = {one["image_id"] for one in chosen}
        kept = [image for image in trainval["images"] if image["id"] in used]
        path = root / "annotations" / f"{k}_shot.json"
        write_json(path, {"images": kept, "annotations": chosen, "categories": trainval["categories"]}, indent=None)
        written.append(path)
    return tuple(written)


def _first(
    list_file: Path,
    category_id: int,
    count: int,
    images: Mapping[str, Json],
    objects: Mapping[tuple[int, int], Sequence[Json]],
) -> list[Json]:
    """Return the first objects of a class in the images of a list."""
    stems = [Path(line).stem for line in dict.fromkeys(read_list(list_file))]
    unknown = [stem for stem in stems if stem not in images]
    if unknown:
        raise DataError(
            f"{list_file} names {unknown[0]!r}, which is no image of VOC 2007 or 2012 trainval. Fetch the list again."
        )
    found = [one for stem in stems for one in objects.get((images[stem]["id"], category_id), ())]
    return found[:count]


def _read_part(devkit: Path, year: str, image_set: str) -> Json:
    """Convert one year's image set; file names start from VOCdevkit."""
    converted = convert_voc(
        annotations=devkit / year / "Annotations",
        images=devkit / year / "JPEGImages",
        list_file=devkit / year / "ImageSets" / "Main" / f"{image_set}.txt",
        categories=voc_categories(),
    )
    for image in converted.document["images"]:
        image["file_name"] = f"{year}/JPEGImages/{image['file_name']}"
    return converted.document


def _joined(parts: Sequence[Json]) -> Json:
    """Put several annotation files of the same categories into one; images and annotations are numbered anew."""
    joined: Json = {"images": [], "annotations": [], "categories": parts[0]["categories"]}
    for part in parts:
        numbers = {image["id"]: len(joined["images"]) + n for n, image in enumerate(part["images"], start=1)}
        joined["images"] += [{**image, "id": numbers[image["id"]]} for image in part["images"]]
        first = len(joined["annotations"]) + 1
        joined["annotations"] += [
            {**one, "id": first + n, "image_id": numbers[one["image_id"]]} for n, one in enumerate(part["annotations"])
        ]
    return joined
