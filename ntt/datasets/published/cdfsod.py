"""The k-shot lists of CD-FSOD as published (class name -> image and box), and the COCO files made from them."""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from ntt.base.digests import content_key
from ntt.base.files import write_json
from ntt.data.coco import CocoDataset
from ntt.data.documents import read_document
from ntt.data.images import upright_size
from ntt.errors import DataError
from ntt.types import Json

Reference = tuple[str, str, tuple[float, ...]]
"""Class name, file name without folders, COCO box in px rounded to 0.01."""

TEST = "annotations/test.json"
IMAGES = "train"


def list_path(root: Path, shots: int) -> Path:
    """Return the path of the published list of a data set."""
    return root / "annotations" / f"{shots}_shot_converted.json"


def read_list(path: Path) -> list[tuple[str, PurePosixPath, list[float]]]:
    """Read a published list: class name, image path below `train/`, COCO box of every reference, in file order.

    A DataError if it is not such a list, or names an image outside `train/`.
    """
    try:
        entries = [
            (name, PurePosixPath(entry["image"]), [float(number) for number in entry["bbox"]])
            for name, references in json.loads(path.read_text(encoding="utf-8")).items()
            for entry in references
        ]
        return [(name, _below_train(image), box) for name, image, box in entries]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{path} is not a k-shot list of CD-FSOD: {error}. Delete it and fetch it again.") from error


def _below_train(image: PurePosixPath) -> PurePosixPath:
    """Return the path below `train/` of an image such as CDFSOD/DIOR/train/new_train/00743.jpg."""
    below = PurePosixPath(*image.parts[image.parts.index(IMAGES) + 1 :])
    if ".." in below.parts or not below.parts:
        raise ValueError(f"the image {str(image)!r} is not below {IMAGES}/")
    return below


def write_kshot_file(root: Path, shots: int) -> Path | None:
    """Write `annotations/K_shot.json` from the published list unless it exists; return it if written.

    Classes and their ids are those of `annotations/test.json`, image sizes those of the images in `train/`. A DataError
    if one of these is missing or does not fit the list.
    """
    target = root / "annotations" / f"{shots}_shot.json"
    if target.exists():
        return None
    entries = read_list(list_path(root, shots))
    categories = read_document(root / TEST).get("categories", [])
    ids = {category["name"]: category["id"] for category in categories}
    unknown = sorted({name for name, _, _ in entries} - ids.keys())
    if unknown:
        raise DataError(f"{root / TEST} lacks the class {unknown[0]!r}. Is it the file of another data set?")
    image_ids: dict[PurePosixPath, int] = {}
    annotations: list[Json] = []
    for number, (name, image, box) in enumerate(entries, start=1):
        image_id = image_ids.setdefault(image, len(image_ids) + 1)
        annotation = {"id": number, "image_id": image_id, "category_id": ids[name], "bbox": box}
        annotations.append({**annotation, "area": box[2] * box[3], "iscrowd": 0})
    images = []
    for image, number in image_ids.items():
        height, width = upright_size(root / IMAGES / image)
        images.append({"id": number, "file_name": str(image), "width": width, "height": height})
    write_json(target, {"images": images, "annotations": annotations, "categories": categories})
    return target


def published_references(path: Path) -> Counter[Reference]:
    """Return the references of a published list in a comparable form."""
    return _comparable((name, image.name, box) for name, image, box in read_list(path))


def dataset_references(dataset: CocoDataset) -> Counter[Reference]:
    """Return the references of a COCO file in the same form, with boxes as they are written."""
    names = {category.id: category.name for category in dataset.categories}
    return _comparable(
        (
            names[instance.category_id],
            PurePosixPath(dataset.images[instance.image_id].file_name).name,
            dataset.boxes_as_written.get(instance.id, instance.bbox_xywh),
        )
        for instance in dataset.in_file_order()
    )


def references_key(references: Counter[Reference]) -> str:
    """Return a digest of references that does not depend on their order."""
    return content_key(sorted(references.elements()))


def _comparable(references: Iterable[tuple[str, str, Iterable[float]]]) -> Counter[Reference]:
    return Counter((name, image, tuple(round(float(number), 2) for number in box)) for name, image, box in references)
