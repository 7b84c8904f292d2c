"""Annotation files and images together: names that differ, pictures that occur twice, classes without objects."""

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coco_samples import annotation, document, gradient, read, save_image
from conftest import cases, refused
from PIL import Image
from tiny_data import make_tiny, run_with

from ntt.cli.main import main
from ntt.data.comparison import content_sentences, identical_images, same_images_sentence
from ntt.data.images import check_images
from ntt.errors import DataError
from ntt.types import ImageRecord, Json


def record(path: Path) -> ImageRecord:
    with Image.open(path) as image:
        return ImageRecord(path.name, path.name, path, image.height, image.width)


def edited(root: Path, change: Callable[[Json], Any], *roles: str) -> Path:
    for role in roles or ("references", "targets"):
        file = root / f"annotations/{role}.json"
        content = json.loads(file.read_text())
        change(content)
        file.write_text(json.dumps(content))
    return root


# Names that differ from those on disk
@cases("on_disk", "written", "difference")(
    ("a.png", "images\\a.png", "a backslash in place of a slash and leading folders"),
    ("day/a.png", "day\\a.png", "a backslash in place of a slash"),
    ("a.png", "A.PNG", "upper and lower case"),
    ("my a.png", "my%20a.png", "an escape such as %20"),
    (unicodedata.normalize("NFC", "ö.png"), unicodedata.normalize("NFD", "ö.png"), "the Unicode form of a letter"),
    (unicodedata.normalize("NFD", "ö.png"), "Ö.png", "the Unicode form of a letter and upper and lower case"),
    ("a.png", "train/images/a.png", "leading folders"),
)
@cases("size")({"height": 10, "width": 20}, {})
def test_a_file_of_a_similar_name_is_named_once(tmp_path, on_disk, written, difference, size):
    others = [f"{number}/{written}" for number in range(3)] if "\\" not in written and "/" not in written else []
    images = [{"id": n, "file_name": name, **size} for n, name in enumerate([written, *others], start=5)]
    for name in [on_disk, *(f"{number}/{on_disk}" for number in range(len(others)))]:
        save_image(tmp_path / "images" / name, gradient(10, 20))
    differ = f"of {len(images)} images have other names on disk: {written!r} exists as {on_disk!r}."
    with refused(DataError, f"{len(images)} {differ}", f"These differ by {difference}; correct `file_name`.") as error:
        check_images(list(read(tmp_path, document(images=images, annotations=[])).images.values()))
    assert "problems" not in str(error.value)


def test_files_that_are_nowhere(tmp_path):
    images = [{"id": n, "file_name": f"{n}.png"} for n in (5, 6)]
    with pytest.raises(DataError, match=r"None of the 2 images exist, such as .*/images/5\.png\. Is the folder right"):
        read(tmp_path, document(images=images))
    save_image(tmp_path / "images/6.png", gradient(10, 20))
    with pytest.raises(DataError, match=r"There is no image .*/images/5\.png\. Add it, or correct the image folder"):
        read(tmp_path, document(images=images))


# The same picture as reference and as target
def test_the_same_picture_is_found_whatever_it_is_called_and_however_it_is_stored(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (12, 16, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    reference = record(save_image(tmp_path / "reference.png", noise))
    twin = record(save_image(tmp_path / "twin.png", noise))
    kinds = {"bmp": {}, "jpg": {"quality": 90}, "tif": {}}
    others = [record(save_image(tmp_path / f"other.{kind}", noise, **options)) for kind, options in kinds.items()]
    different = record(save_image(tmp_path / "different.png", noise[::-1]))
    missing = ImageRecord("x", "x.png", tmp_path / "x.png", 96, 128)
    targets = [different, twin, *others, missing]
    assert identical_images([reference], targets) == [(reference, twin)]
    sentence = same_images_sentence([reference], targets)
    assert sentence is not None
    same = "4 of 6 target images are also images of the references file, 1 byte for byte and 3 as the same"
    assert sentence.startswith(same)
    assert "twin.png (as reference: reference.png), other.bmp (as reference: reference.png)" in sentence
    assert same_images_sentence([reference], [different, missing]) is None
    # Pictures without anything in them resemble each other without being the same.
    blank = [record(save_image(tmp_path / f"{n}.png", np.full((96, 128, 3), n, np.uint8))) for n in (200, 201)]
    assert same_images_sentence(blank[:1], blank[1:]) is None


def test_classes_without_objects_and_crowded_images(tmp_path):
    entries = [annotation(n, 5, 1, [n, 0, 9, 9]) for n in range(1, 5)]
    targets = read(tmp_path, document(annotations=[*entries, annotation(9, 5, 7, [0, 0, 9, 9], iscrowd=1)]))
    assert content_sentences(targets.categories, targets, 3) == [
        "1 class(es) have no object in the targets and no AP: dog.",
        "1 target image(s) have more objects than the 3 detections that count, up to 4 in a.png: the others cannot be "
        "found.",
    ]
    assert content_sentences(targets.categories[:1], targets, 4) == []
    bare = read(tmp_path, document(annotations=None), annotations_required=False)
    assert content_sentences(bare.categories, bare, 3) == []


# The command and runs
def painted(content: Json) -> None:
    for entry in content["annotations"][1:3]:
        entry["iscrowd"] = 1


def test_data_check_says_what_a_run_would_do(tmp_path, capsys):
    def check(change: Callable[[Json], Any], name: str, *roles: str) -> tuple[int, str]:
        root = edited(make_tiny(tmp_path / name), change, *roles)
        return main(["data", "check", str(root)]), capsys.readouterr().out

    status, out = check(painted, "half")
    assert (status, "references.json: 2 of 4 annotations are crowd regions" in out) == (0, True)
    assert "2 crowd regions, masks" in out
    status, out = check(lambda content: [entry.update(iscrowd=1) for entry in content["annotations"]], "all")
    assert (status, "all 4 are crowd regions: predictions and pictures, no metrics" in out) == (1, True)
    root_class = {"id": 0, "name": "shapes", "supercategory": "none"}
    assert check(lambda content: content["categories"].insert(0, root_class), "roboflow")[0] == 0
    status, out = check(lambda content: content["categories"].append({"id": 9, "name": "star"}), "star")
    assert (status, "name the others, split.classes=[disc,square]." in out) == (1, True)


def metrics(root: Path, output: Path, store: Path, *more: str) -> Json:
    words = [f"dataset.root={root}", f"runtime.output_root={output}", f"runtime.store_root={store}", *more]
    folder = run_with(["dataset=coco_json", "shots=all", "visualisation.enabled=false", *words])
    return json.loads((folder / "metrics.json").read_text())


def test_what_is_read_in_another_way_gives_the_same_numbers(tmp_path, shared_store, capsys):
    expected = metrics(make_tiny(tmp_path / "sound"), tmp_path, shared_store)
    assert expected["overall"]["bbox"]["AP"] > 0
    root = edited(make_tiny(tmp_path / "painted"), painted)
    assert metrics(root, tmp_path, shared_store, "dataset.crowd=objects") == expected
    assert metrics(root, tmp_path, shared_store) != expected
    assert "of 5 annotations are crowd regions (iscrowd=1): neither references nor wanted." in capsys.readouterr().out

    def hashed(content: Json) -> None:
        """Give images ids on both sides of 2^63 and in text, and classes an empty one above them, as Roboflow does."""
        ids = {entry["id"]: [2**64 + entry["id"], f"image {entry['id']}", entry["id"]][n % 3]
               for n, entry in enumerate(content["images"])}  # fmt: skip
        for entry in content["images"]:
            entry["id"] = ids[entry["id"]]
        for entry in content["annotations"]:
            entry.update(image_id=ids[entry["image_id"]], category_id=f"class {entry['category_id']}", iscrowd=0.0)
        for entry in content["categories"]:
            entry["id"] = f"class {entry['id']}"
        content["categories"].insert(0, {"id": 0, "name": "shapes", "supercategory": "none"})

    assert metrics(edited(make_tiny(tmp_path / "hashed"), hashed), tmp_path, shared_store) == expected
    assert "Class 'shapes' is left out" in capsys.readouterr().out


def test_ground_truth_of_crowd_regions_alone(tmp_path, shared_store, capsys):
    root = make_tiny(tmp_path / "tiny")
    edited(root, lambda content: [entry.update(iscrowd=1) for entry in content["annotations"]], "targets")
    metrics(root, tmp_path, shared_store)
    out = capsys.readouterr().out
    assert "5 of 5 annotations are crowd regions" in out
    assert "All annotations of the targets are crowd regions: there is nothing to find, and no AP." in out
