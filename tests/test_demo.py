"""The demo data set: its files agree with each other and fit every sampler."""

import json
from typing import Any

import numpy as np
import pytest
from conftest import cases
from PIL import Image
from pycocotools import mask as coco_mask

from ntt.datasets.demo import DEMO_FOLDER, DemoConfig, copy_demo
from ntt.errors import StorageError


def read(split: str) -> dict[str, Any]:
    return json.loads((DEMO_FOLDER / "annotations" / f"{split}.json").read_text(encoding="utf-8"))


def test_it_lies_in_the_package_with_every_photograph_credited_and_is_copied(tmp_path):
    files = DemoConfig(name="demo").locate(tmp_path)
    assert files.references_file.is_file()
    assert files.targets_file.is_file()
    assert files.reference_images.is_dir()
    assert list(tmp_path.iterdir()) == []
    assert sum(path.stat().st_size for path in DEMO_FOLDER.rglob("*")) < 3.5e6
    credit = (DEMO_FOLDER / "CREDITS.md").read_text(encoding="utf-8")
    for photograph in read("targets")["info"]["photographs"]:
        assert f"| {photograph['title']} | {photograph['author']} |" in credit
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"cannot be copied to .*set"):
        copy_demo(tmp_path / "file" / "set")


@cases("split")("references", "targets")
def test_images_are_as_the_annotation_file_says(split):
    content = read(split)
    on_disk = {path.name for path in (DEMO_FOLDER / "images").glob(f"{split[:-1]}_*.jpg")}
    assert {entry["file_name"] for entry in content["images"]} == on_disk
    licences = {entry["name"]: entry["license"] for entry in content["info"]["photographs"]}
    for entry in content["images"]:
        with Image.open(DEMO_FOLDER / "images" / entry["file_name"]) as image:
            assert (image.size, image.mode) == ((entry["width"], entry["height"]), "RGB") == ((480, 360), "RGB")
        # Licences are listed strictest first.
        assert entry["license"] == min(licences[name] for name in entry["photographs"])


# pycocotools 2.0.11 decodes with a numpy call that numpy 2.4 warns about.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@cases("split")("references", "targets")
def test_masks_agree_with_boxes_and_areas_and_do_not_share_pixels(split):
    content = read(split)
    painted = {entry["id"]: np.zeros((360, 480), dtype=int) for entry in content["images"]}
    for entry in content["annotations"]:
        mask = coco_mask.decode(entry["segmentation"]).astype(bool)
        rows, columns = np.nonzero(mask)
        left, top = columns.min(), rows.min()
        assert entry["bbox"] == [left, top, columns.max() + 1 - left, rows.max() + 1 - top]
        assert entry["area"] == mask.sum() > 100
        painted[entry["image_id"]] += mask
    assert max(canvas.max() for canvas in painted.values()) == 1


def test_references_hold_ten_valid_shots_of_every_class():
    content = read("references")
    assert [entry["id"] for entry in content["categories"]] == [1, 2, 3, 4, 5, 6, 7]
    for category in content["categories"]:
        shots = [entry for entry in content["annotations"] if entry["category_id"] == category["id"]]
        assert sorted(entry["shot_index"] for entry in shots) == list(range(10))
        assert len({entry["image_id"] for entry in shots}) == 10
        for entry in shots:
            left, top, width, height = entry["bbox"]
            assert min(width, height) >= 32
            assert min(left, top, 480 - left - width, 360 - top - height) >= 10
