"""Miniatures of the published data sets in their official layouts: a few small drawn images, real names and numbers.

An image is a grid of squares; a class is told by its colour. Every class has references that all samplers accept: at
least 32 px wide and high, at least 10 px from the border.
"""

import colorsys
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from coco_samples import annotation
from PIL import Image

from ntt.data.splits import split_classes
from ntt.datasets.published import cdfsod
from ntt.datasets.published.details import Counts, DatasetDetails, KshotList, known_datasets
from ntt.datasets.published.fetch import convert_devkit, list_name, write_kshot_files

HEIGHT, WIDTH = 180, 240
_CELL, _SIZE, _OFFSET = 60, 40, 10
PER_IMAGE = (HEIGHT // _CELL) * (WIDTH // _CELL)
_COCO_GAPS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
LVIS_CLASSES = {"r": ("aerosol", "beetle"), "c": ("anchor", "brooch"), "f": ("apple", "bench")}
COCO_LIKE = ("coco", "lvis", "lvis_minival", "voc", "voc_kshot")
CDFSOD = tuple(name for name in known_datasets() if name.startswith("cdfsod_"))


class Thing(NamedTuple):
    """One drawn object: class index, COCO box, polygon."""

    label: int
    bbox: list[int]
    polygon: list[float]


def draw(path: Path, labels: Sequence[int], *, num_classes: int, seed: int) -> list[Thing]:
    """Write an image with one object per grid cell, at most `PER_IMAGE`; returns them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(100, 125, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    things = []
    for index, label in enumerate(labels):
        x = index % (WIDTH // _CELL) * _CELL + _OFFSET
        y = index // (WIDTH // _CELL) * _CELL + _OFFSET
        right, bottom = x + _SIZE, y + _SIZE
        colour = colorsys.hsv_to_rgb(label / num_classes, 0.9, 0.5 + 0.5 * (label % 3) / 2)
        pixels[y:bottom, x:right] = [round(255 * part) for part in colour]
        things.append(Thing(label, [x, y, _SIZE, _SIZE], [x, y, right, y, right, bottom, x, bottom]))
    Image.fromarray(pixels).save(path, quality=95)
    return things


class CocoFile:
    """An annotation file under construction."""

    def __init__(self, categories: Sequence[Mapping[str, Any]], *, masks: bool) -> None:
        self.content: dict[str, Any] = {"images": [], "annotations": [], "categories": list(categories)}
        self._masks = masks

    def add(self, image_id: int, things: Sequence[Thing], **names: str | list[int]) -> None:
        """Enter an image; `names` says how it is called (file_name or coco_url) and what else is known of it."""
        self.content["images"].append({"id": image_id, "height": HEIGHT, "width": WIDTH, **names})
        for thing in things:
            number, category = len(self.content["annotations"]) + 1, self.content["categories"][thing.label]
            entry = annotation(number, image_id, category["id"], thing.bbox, area=_SIZE * _SIZE, iscrowd=0)
            self.content["annotations"].append({**entry, "segmentation": [thing.polygon]} if self._masks else entry)

    def write(self, path: Path) -> Counts:
        """Write the file and return what it holds."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.content))
        return Counts(images=len(self.content["images"]), annotations=len(self.content["annotations"]))


def make_miniature(option: str, data_root: Path) -> DatasetDetails:
    """Generate the data set of an option below `data_root`; returns its details, with the counts of the miniature."""
    details = known_datasets()[option]
    if option in CDFSOD:
        return _make_cdfsod(details, data_root)
    if option == "coco":
        return _make_coco(details, data_root / "coco")
    if option in ("lvis", "lvis_minival"):
        return _make_lvis(details, data_root)
    return make_voc(details, data_root / "voc")


def make_miniatures(root: Path) -> tuple[Path, Mapping[str, DatasetDetails]]:
    """Generate all data sets below one data root, converted; returns it and their details."""
    details = {option: make_miniature(option, root) for option in (*COCO_LIKE, *CDFSOD)}
    convert_devkit(root / "voc")
    write_kshot_files(root / "voc", known_datasets()["voc_kshot"].shots)
    return root, details


def _chunks(labels: Sequence[int]) -> list[Sequence[int]]:
    return [labels[start : start + PER_IMAGE] for start in range(0, len(labels), PER_IMAGE)]


def _spread(num_classes: int, count: int) -> list[int]:
    """Return `count` labels, evenly spread over the classes."""
    return [index * num_classes // count for index in range(count)]


def coco_categories() -> list[dict[str, Any]]:
    ids = [number for number in range(1, 91) if number not in _COCO_GAPS]
    return [{"id": number, "name": name} for number, name in zip(ids, split_classes("coco_all80"), strict=True)]


def _make_coco(details: DatasetDetails, root: Path) -> DatasetDetails:
    categories = coco_categories()
    halves = {"train2017": list(range(80)), "val2017": _spread(80, 2 * PER_IMAGE)}
    counts = {}
    for half, labels in halves.items():
        file = CocoFile(categories, masks=True)
        for index, chunk in enumerate(_chunks(labels), start=1):
            number = index * 100 + (half == "val2017")
            things = draw(root / half / f"{number:012}.jpg", chunk, num_classes=80, seed=number)
            file.add(number, things, file_name=f"{number:012}.jpg")
        counts[half] = file.write(root / "annotations" / f"instances_{half}.json")
    return replace(details, references=counts["train2017"], targets=counts["val2017"])


def _make_lvis(details: DatasetDetails, data_root: Path) -> DatasetDetails:
    """Write train (images of train2017) and val (one image of val2017, one of train2017), and minival."""
    names = [(name, letter) for letter, group in LVIS_CLASSES.items() for name in group]
    categories = [{"id": n, "name": name, "frequency": letter} for n, (name, letter) in enumerate(names, start=1)]
    parts = {
        "lvis_v1_train": [("train2017", 11), ("train2017", 12)],
        "lvis_v1_val": [("val2017", 13), ("train2017", 14)],
    }
    parts["lvis_v1_minival"] = parts["lvis_v1_val"][:1]
    counts = {}
    for part, images in parts.items():
        file = CocoFile(categories, masks=True)
        for folder, number in images:
            name = f"{folder}/{number:012}.jpg"
            things = draw(data_root / "coco" / name, list(range(len(names))), num_classes=len(names), seed=number)
            checked: dict[str, list[int]] = {"neg_category_ids": [], "not_exhaustive_category_ids": [number % 6 + 1]}
            file.add(number, things, coco_url=f"http://images.cocodataset.org/{name}", **checked)
        counts[part] = file.write(data_root / "lvis" / f"{part}.json")
    targets = counts["lvis_v1_val" if details.name == "lvis" else "lvis_v1_minival"]
    return replace(details, num_classes=len(names), references=counts["lvis_v1_train"], targets=targets)


def _make_cdfsod(details: DatasetDetails, data_root: Path) -> DatasetDetails:
    assert details.folder is not None
    root = data_root / details.folder
    num_classes = len(details.class_names)
    categories = [{"id": number, "name": name} for number, name in enumerate(details.class_names)]
    shot_images, lists = {}, {}
    for shots in details.shots:
        file = CocoFile(categories, masks=False)
        published: dict[str, list[dict[str, Any]]] = {name: [] for name in details.class_names}
        for index, chunk in enumerate(_chunks(sorted(list(range(num_classes)) * shots))):
            name = f"ref_{shots}_{index}.jpg"
            things = draw(root / "train" / name, chunk, num_classes=num_classes, seed=index + shots)
            file.add(index, things, file_name=name)
            for thing in things:
                entry = {"image": f"CDFSOD/{details.folder}/train/{name}", "bbox": thing.bbox}
                published[details.class_names[thing.label]].append(entry)
        shot_images[shots] = file.write(root / "annotations" / f"{shots}_shot.json").images or 0
        path = cdfsod.list_path(root, shots)
        path.write_text(json.dumps(published))
        key = cdfsod.references_key(cdfsod.published_references(path))
        lists[shots] = KshotList(url="", sha256=hashlib.sha256(path.read_bytes()).hexdigest(), references=key)
    file = CocoFile(categories, masks=False)
    for index in range(2):
        labels = _spread(num_classes, 4 + index)
        things = draw(root / "test" / f"{index}.jpg", labels, num_classes=num_classes, seed=500 + index)
        file.add(index, things, file_name=f"{index}.jpg")
    counts = file.write(root / "annotations" / "test.json")
    names = [file.content["categories"][entry["category_id"]]["name"] for entry in file.content["annotations"]]
    per_class = {name: names.count(name) for name in details.class_names}
    return replace(details, shot_images=shot_images, lists=lists, targets=replace(counts, per_class=per_class))


def make_voc(details: DatasetDetails, root: Path) -> DatasetDetails:
    """Write VOCdevkit and the few-shot lists as published; the COCO files are made from them by the program."""
    names = known_datasets()["voc"].class_names
    parts = {
        ("VOC2007", "trainval"): {"000005": range(0, 12), "000007": range(8, 20)},
        ("VOC2012", "trainval"): {"2008_000008": range(0, 12), "2008_000015": range(8, 20)},
        ("VOC2007", "test"): {"000001": range(0, 20, 2), "000002": range(1, 20, 2)},
    }
    for (year, image_set), images in parts.items():
        folder = root / "VOCdevkit" / year
        for stem, labels in images.items():
            things = draw(folder / "JPEGImages" / f"{stem}.jpg", list(labels), num_classes=20, seed=int(stem[-4:]))
            _write(
                folder / "Annotations" / f"{stem}.xml",
                voc_xml(f"{stem}.jpg", things, names, difficult=(year, image_set) != ("VOC2007", "trainval")),
            )
        _write(folder / "ImageSets" / "Main" / f"{image_set}.txt", "\n".join(images) + "\n")
    for shots in known_datasets()["voc_kshot"].shots:
        for label, name in enumerate(names):
            holders = [
                f"{year}/JPEGImages/{stem}.jpg"
                for (year, image_set), images in parts.items()
                for stem, labels in images.items()
                if image_set != "test" and label in labels
            ]
            _write(root / "vocsplit" / list_name(name, shots), "\n".join(holders[:shots]) + "\n")
    return replace(
        details, references=Counts(images=4, annotations=48), targets=Counts(images=2, annotations=20, crowd=2)
    )


def voc_xml(file_name: str, things: Sequence[Thing], names: Sequence[str], *, difficult: bool) -> str:
    """Return a VOC annotation: corners count from 1, inclusively; with `difficult` the last object is marked so."""
    objects = "".join(
        f"<object><name>{names[thing.label]}</name><truncated>0</truncated>"
        f"<difficult>{int(difficult and thing is things[-1])}</difficult>"
        f"<bndbox><xmin>{thing.bbox[0] + 1}</xmin><ymin>{thing.bbox[1] + 1}</ymin>"
        f"<xmax>{thing.bbox[0] + thing.bbox[2]}</xmax><ymax>{thing.bbox[1] + thing.bbox[3]}</ymax></bndbox></object>"
        for thing in things
    )
    size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
    return f"<annotation><filename>{file_name}</filename>{size}{objects}</annotation>"


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
