"""Pascal VOC as published (VOCdevkit, and the few-shot lists of the field) to the COCO files the options read."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from ntt.base.files import write_json
from ntt.convert.base import find_listed, read_list
from ntt.convert.voc import convert_voc
from ntt.data.documents import read_document
from ntt.datasets.published.details import known_datasets
from ntt.types import Category, Json

TRAINVAL = "annotations/trainval0712.json"
TEST = "annotations/test2007.json"


def convert_devkit(root: Path) -> list[Path]:
    """Write the annotation files of a folder that holds VOCdevkit, unless they exist; return those written."""
    devkit = root / "VOCdevkit"
    lists = {TRAINVAL: ("VOC2007/trainval", "VOC2012/trainval"), TEST: ("VOC2007/test",)}
    class_names = known_datasets()["voc"].class_names
    missing = [name for name in lists if not (root / name).is_file()]
    for name in missing:
        files = [devkit / part.replace("/", "/ImageSets/Main/") for part in lists[name]]
        converted = convert_voc(
            annotations=devkit,
            images=devkit,
            names=[stem for file in files for stem in read_list(file.with_suffix(".txt"))],
            categories=[Category(number, class_name) for number, class_name in enumerate(class_names, start=1)],
        )
        write_json(root / name, converted.document, indent=None)
    return [root / name for name in missing]


def list_name(class_name: str, shots: int) -> str:
    """Return the published file name of the list for a class and number of shots."""
    return f"box_{shots}shot_{class_name}_train.txt"


def write_kshot_files(root: Path, shots: Sequence[int]) -> list[Path]:
    """Write `annotations/K_shot.json` from the few-shot lists in `vocsplit/` unless they exist.

    A list names images by path, of which only the file name counts. The references of a class are its first k objects
    in these images, in the order of the list and, within an image, of its annotation file; difficult objects are
    skipped. (The program published with the lists draws k of them at random, without a seed.) Returns the files that
    were written.
    """
    paths = {root / "annotations" / f"{count}_shot.json": count for count in shots}
    missing = {path: count for path, count in paths.items() if not path.is_file()}
    if not missing:
        return []
    trainval = read_document(root / TRAINVAL)
    stems_of_ids = {image["id"]: (Path(image["file_name"]).stem,) for image in trainval["images"]}
    objects: dict[tuple[int, int], list[Json]] = defaultdict(list)
    for entry in trainval["annotations"]:
        if not entry["iscrowd"]:
            objects[entry["image_id"], entry["category_id"]].append(entry)
    for path, count in missing.items():
        references: list[Json] = []
        for category in trainval["categories"]:
            list_file = root / "vocsplit" / list_name(category["name"], count)
            stems = [Path(line).stem for line in read_list(list_file)]
            ids = find_listed(stems, stems_of_ids, f"VOC's trainval, for {list_file}")
            in_order = [entry for image_id in ids for entry in objects.get((image_id, category["id"]), ())]
            references += in_order[:count]
        used = {entry["image_id"] for entry in references}
        images = [image for image in trainval["images"] if image["id"] in used]
        document = {"images": images, "annotations": references, "categories": trainval["categories"]}
        write_json(path, document, indent=None)
    return list(missing)
