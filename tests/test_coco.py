"""Reading annotation files: what is accepted or corrected, the text of every refusal; masks of what was read."""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coco_samples import annotation, document, gradient, read, save_image
from conftest import cases
from pycocotools import mask as mask_api

from ntt.data.coco import read_coco
from ntt.data.images import check_images, read_image
from ntt.data.masks import (
    box_mask,
    checked_runs,
    instance_mask,
    instance_rle,
    rle_area,
    rle_box,
    segmentation_rle,
    unpack_runs,
)
from ntt.errors import DataError
from ntt.types import Category, ImageRecord, Instance

SQUARE = [[20.0, 20.0, 60.0, 20.0, 60.0, 50.0, 20.0, 50.0]]
IMAGE = {"id": 5, "file_name": "a.png", "height": 100, "width": 200}


def refusal(folder: Path, content: Any, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        read(folder, content, **options)
    return str(caught.value)


def refused_annotation(folder: Path, **changes: Any) -> str:
    return refusal(folder, document(annotations=[{**annotation(3, 5, 1, [20, 20, 50, 40]), **changes}]))


def test_a_plain_file(tmp_path):
    # A byte order mark is tolerated.
    dataset = read(tmp_path, "\ufeff" + json.dumps(document()))
    assert dataset.categories == (Category(1, "cat"), Category(7, "dog"))
    path = tmp_path / "images" / "a.png"
    assert dict(dataset.images) == {5: ImageRecord(5, "a.png", path, height=100, width=200)}
    assert dataset.instances == (Instance(1, 5, 1, (20.0, 20.0, 50.0, 40.0), None, area_px=2000.0),)
    assert (dataset.has_annotations, dataset.has_masks) == (True, False)
    assert dataset.annotation_file == tmp_path / "annotations.json"
    assert dataset.digest == hashlib.sha256(dataset.annotation_file.read_bytes()).hexdigest()


# Files
def test_a_missing_file_names_its_neighbours(tmp_path):
    (tmp_path / "train.json").write_text("{}")
    with pytest.raises(DataError, match=r"no annotation file .*val\.json\. The folder holds train\.json\."):
        read_coco(tmp_path / "val.json", tmp_path)
    with pytest.raises(DataError, match="cannot be read"):
        read_coco(tmp_path, tmp_path)
    read(tmp_path, document())
    with pytest.raises(DataError, match=r"image folder .*nowhere does not exist"):
        read_coco(tmp_path / "annotations.json", tmp_path / "nowhere")


@cases("content")(b"\xff\xfe\xfa\x00{", b'{"a": "\xe9"}', b'{"a": 1' + b"0" * 5000 + b"}")
def test_bytes_that_are_no_text_or_no_usable_number(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(DataError, match="is not valid JSON"):
        read_coco(tmp_path / "a.json", tmp_path)


@cases("content", "parts")(
    ('{"images": [],\n  "categories": [,]}', ["is not valid JSON: Expecting value at line 2, column 18"]),
    ("[]", ["holds a JSON list, not an object"]),
    ({"shapes": []}, ["is not in COCO format", "`ntt data convert` reads LabelMe"]),
    ({"annotations": {}}, ["(3 problems)", "`images` is missing", "`categories` is", "`annotations` is of type dict"]),
    (document(images=[], categories=[], annotations=[]), ["`images` is empty", "`categories` is empty"]),
    (document(annotations=None), ["`annotations` is missing"]),
)
def test_refused_files(tmp_path, content, parts):
    message = refusal(tmp_path, content)
    assert [part for part in parts if part not in message] == []


def test_masks_are_complete_and_annotations_may_be_absent_for_targets(tmp_path):
    dataset = read(tmp_path, document(annotations=None), annotations_required=False)
    assert (dataset.has_annotations, dataset.has_masks, dataset.instances) == (False, False, ())
    assert read(tmp_path, document(annotations=[])).has_annotations
    with_mask = annotation(1, 5, 1, [20, 20, 40, 30], segmentation=SQUARE)
    crowd = annotation(2, 5, 1, [20, 20, 40, 30], iscrowd=1)
    assert read(tmp_path, document(annotations=[with_mask, crowd])).has_masks
    assert not read(tmp_path, document(annotations=[crowd])).has_masks
    assert not read(tmp_path, document(annotations=[with_mask, {**crowd, "iscrowd": 0}])).has_masks


# Categories and images

NO_CATEGORIES = ({"id": 2}, {"name": "x"}, {"id": " ", "name": "x"}, {"id": True, "name": "x"}, 3)
OUTSIDE = ("../b.png", "x/../../b.png", "/b.png", "..", ".", "//host/b.png", "a\0.png")
NO_SIZES = (0, -1, 1.5, "100", True)


@cases("changes", "text")(
    ({"categories": [{"id": 1, "name": "cat"}, {"id": 1, "name": "dog"}]}, "Category id 1 occurs more than once"),
    ({"categories": [{"id": 1, "name": "x"}, {"id": 2, "name": "x"}]}, "Category name 'x' occurs more than once"),
    *(({"categories": [{"id": 1, "name": "y"}, entry]}, "categories[1] is") for entry in NO_CATEGORIES),
    # Annotations that refer to a broken category are no further problem.
    *(({"categories": [entry]}, "categories[0] is") for entry in ({"id": 1, "name": ""}, {"id": "1", "name": 7})),
    ({"images": [IMAGE, IMAGE]}, "Image id 5 occurs more than once"),
    *(({"images": [IMAGE, entry]}, "images[1] is") for entry in ({"file_name": "b.png"}, {"id": 1.5}, "b.png")),
    *(({"images": [{**IMAGE, "file_name": name}]}, f"is {name!r}, which is not inside") for name in OUTSIDE),
    *(({"images": [{**IMAGE, "file_name": name}]}, f"is {name!r}, a file name") for name in (None, "", 4)),
    *(({"images": [{**IMAGE, "height": size}]}, f"has height {size!r} and width 200") for size in NO_SIZES),
    ({"images": [{"id": 5, "file_name": "a.png"}]}, "There is no image"),
)
def test_refused_categories_and_images(tmp_path, changes, text):
    message = refusal(tmp_path, document(**changes))
    assert (text in message, "problems" in message) == (True, False), message  # one alone, without a list


def test_one_file_under_two_ids_is_told(tmp_path, caplog):
    again = {**IMAGE, "id": 6, "file_name": "./a.png"}
    dataset = read(tmp_path, document(images=[IMAGE, again, {**IMAGE, "id": 7, "file_name": "b.png"}]))
    assert len(dataset.images) == 3
    assert "1 file(s) are named by several entries of `images` (a.png by ids 5 and 6)" in caplog.text
    caplog.clear()
    read(tmp_path, document())
    assert caplog.text == ""


def test_links_may_lead_out_of_the_folder_and_missing_sizes_are_read(tmp_path):
    save_image(tmp_path / "elsewhere" / "b.png", gradient(10, 20))
    (tmp_path / "images").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "a.png").symlink_to(tmp_path / "elsewhere" / "b.png")
    record = read(tmp_path, document(images=[{"id": 5, "file_name": "a.png", "height": None}])).images[5]
    assert record.path == tmp_path / "images" / "a.png"
    assert (record.height, record.width) == (10, 20)


@cases("changes", "name")(
    ({"file_name": None, "coco_url": "http://images.example/train2017/07.jpg"}, "train2017/07.jpg"),
    ({"file_name": "x/.././y//..b.png"}, "y/..b.png"),
    ({"height": 100.0}, "a.png"),
)
@cases("image_id")(5, "x/1")
def test_accepted_images(tmp_path, changes, name, image_id):
    content = document(images=[{**IMAGE, **changes, "id": image_id}], annotations=[annotation(1, image_id, 1, [0] * 4)])
    record = read(tmp_path, content).images[image_id]
    assert record == ImageRecord(image_id, name, tmp_path / "images" / name, 100, 200)
    assert isinstance(record.height, int)


# Annotations
def test_all_problems_are_reported_at_once(tmp_path):
    content = document(
        images=[IMAGE, {**IMAGE, "id": 6, "file_name": "../b.png"}],
        categories=[{"id": 1, "name": "cat"}, {"id": 1, "name": "dog"}],
        annotations=[
            annotation(1, 8, 1, [0, 0, 9, 9]),
            annotation(2, 5, 3, [0, 0, 9, 9]),
            annotation(3, 6, 1, [0, 0, 9, 9]),
            annotation(4, 5, 1, [0, 0, 9]),
        ],
    )
    message = refusal(tmp_path, content)
    assert "annotations.json cannot be used (5 problems):" in message
    for part in ("../b.png", "Category id 1", "image_id 8", "category_id 3", "bbox [0, 0, 9]"):
        assert part in message


def test_annotations_without_a_usable_id(tmp_path):
    entry = {key: value for key, value in annotation(0, 5, 1, [0, 0, 9, 9]).items() if key != "id"}
    assert [i.id for i in read(tmp_path, document(annotations=[entry, entry])).instances] == [1, 2]
    mixed = [entry, annotation(4, 5, 1, [0, 0, 9, 9]), entry]
    assert [i.id for i in read(tmp_path, document(annotations=mixed)).instances] == [5, 4, 6]
    assert "Annotation 1 is 7, not an object" in refusal(tmp_path, document(annotations=[7]))
    twice = [annotation(1, 5, 1, [0, 0, 9, 9])] * 2
    assert "Annotation id 1 occurs more than once" in refusal(tmp_path, document(annotations=twice))
    assert "Annotation id 1.5 is not a whole number" in refused_annotation(tmp_path, id=1.5)


def rle(height: int, width: int, *counts: int) -> dict[str, Any]:
    return {"size": [height, width], "counts": list(counts)}


RLE = rle(100, 200, 210, 3, 97, 3, 19687)
NO_IDS = (2, "2", "cat", None, True, [1])
NO_BOXES = ([0, 0, 9], [0, 0, 9, math.nan], [0, math.inf, 9, 9], [0, 0, "9", 9], [0, 0, True, 9], [0, 0, 1e300, 1], 7)
NO_POLYGONS = ([1, 2, 3, 4], [1, 2, 3, 4, 5, 6, 7], "x", [1, 2, 3, 4, 5, math.nan], [1, 2, 3, "4", 5, 6])


@cases("changes", "box", "area")(
    ({"segmentation": SQUARE}, (20, 20, 40, 30), 1200),
    ({"segmentation": RLE}, (2, 10, 2, 3), 6),
    ({"bbox": [2, 10, 2.5, 3]}, (2, 10, 2.5, 3), 7.5),
    ({"bbox": [2, 10, 2.5, 3], "area": 99}, (2, 10, 2.5, 3), 99),
)
def test_missing_boxes_and_areas_are_measured(tmp_path, changes, box, area):
    entry = {"id": 1, "image_id": 5, "category_id": 1, **changes}
    (instance,) = read(tmp_path, document(annotations=[entry])).instances
    assert (instance.bbox_xywh, instance.area_px) == (box, area)


@cases("changes", "text")(
    ({"image_id": 6}, "has image_id 6, which is not in `images`."),
    ({"image_id": "05"}, "has image_id '05', which is not in `images`."),
    ({"image_id": [5]}, "has image_id [5]"),
    *(({"category_id": number}, f"has category_id {number!r}, which is not in") for number in NO_IDS),
    *(({"bbox": box}, "four finite numbers [left, top, width, height] are needed") for box in NO_BOXES),
    ({"bbox": None}, "has neither bbox nor segmentation"),
    *(({"area": area}, f"has area {area}, a number from 0 to 1e9 is needed") for area in (-1, 2e9)),
    ({"area": "5"}, "has area '5'"),
    ({"area": math.nan}, "has area nan"),
    ({"iscrowd": 2}, "has iscrowd 2, 0 and 1 are allowed"),
    ({"isimpossible": "1"}, "has isimpossible '1', 0 and 1 are allowed"),
    ({"shot_index": -1}, "has shot_index -1, whole numbers from 0 on are allowed"),
    ({"shot_index": 0.5}, "has shot_index 0.5"),
    ({"segmentation": "x"}, "has a segmentation of type str"),
    *(({"segmentation": [polygon]}, f"has a polygon {polygon!r}: a list of at least 6") for polygon in NO_POLYGONS),
    ({"segmentation": [[1, 2, 3, 4, 5, 1e8]]}, "has a polygon from 1 to 100000000.0 px"),
    ({"segmentation": rle(200, 100, 20000)}, "has an RLE of size [200, 100], image 5 has [100, 200]"),
    ({"segmentation": {"counts": [20000]}}, "has an RLE of size None"),
    ({"segmentation": rle(100, 200, 19999)}, "its runs cover 19999 pixels, the image has 20000"),
)
def test_refused_values(tmp_path, changes, text):
    message = refused_annotation(tmp_path, **changes)
    assert "Annotation 3 " in message
    assert text in message


@cases("nothing")(None, [], [[]], {})
def test_empty_segmentations_mean_box_only(tmp_path, nothing):
    entry = annotation(1, 5, 1, [2, 10, 20, 30], segmentation=nothing)
    assert read(tmp_path, document(annotations=[entry])).instances[0].segmentation is None


@cases("box", "mask", "reason")(
    ([20, 20, 0, 40], None, "the box has no area"),
    ([20, 20, 50, -1], None, "the box has no area"),
    ([200, 20, 50, 40], None, "the box lies outside the image"),
    ([0, 100, 50, 40], None, "the box lies outside the image"),
    ([20, 20, 9, 9], rle(100, 200, 20000), "the mask covers no pixel"),
    ([20, 20, 9, 9], [[20, 20, 20.1, 20, 20.1, 20.1]], "the mask covers no pixel"),
)
def test_unusable_annotations_are_left_out_and_counted(tmp_path, caplog, box, mask, reason):
    entries = [annotation(number, 5, 1, [40 * number, 0, 9, 9]) for number in range(1, 5)]
    for entry in entries[1:3]:
        entry.update(bbox=box, segmentation=mask)
    dataset = read(tmp_path, document(annotations=entries))
    assert [i.id for i in dataset.instances] == [1, 4]
    assert [(index, i.id) for index, i in dataset.dropped] == [(1, 2), (1, 3)]
    assert caplog.messages == [f"{tmp_path / 'annotations.json'}: 2 annotation(s) left out: {reason} (id 2, 3)"]


@cases("box", "clipped", "warned")(
    ([-10, 90, 30, 30], (0, 90, 20, 10), True),
    ([150, -2, 60, 12], (150, 0, 50, 10), True),
    # A pixel of excess is clipped silently.
    ([150, 0, 51, 10], (150, 0, 50, 10), False),
    ([150, 0, 51.01, 10], (150, 0, 50, 10), True),
)
def test_boxes_that_stick_out_are_clipped(tmp_path, caplog, box, clipped, warned):
    dataset = read(tmp_path, document(annotations=[annotation(1, 5, 1, box)]))
    assert dataset.instances[0].bbox_xywh == clipped
    assert dataset.boxes_as_written == {1: tuple(box)}
    assert ("1 annotation(s) clipped: the box sticks out of the image (id 1)" in caplog.text) is warned


def test_all_kinds_of_segmentation_are_kept(tmp_path):
    text = mask_api.frPyObjects(RLE, 100, 200)["counts"].decode()
    kinds = [SQUARE, RLE, {"size": [100, 200], "counts": text}]
    entries = [{"id": n, "image_id": 5, "category_id": 1, "segmentation": kind} for n, kind in enumerate(kinds)]
    dataset = read(tmp_path, document(annotations=entries))
    assert [i.segmentation for i in dataset.instances] == kinds
    assert [i.area_px for i in dataset.instances] == [1200, 6, 6]


@cases("folder", "images", "instances", "has_masks")(
    ("balloon_dev", (10, 62), (10, 262), True),
    ("bccd_dev", (29, 72), (30, 945), False),
    ("coco_dev", (79, 80), (284, 815), True),
    ("fruits_nuts_dev", (5, 13), (30, 116), True),
    ("neu_det_dev", (60, 120), (60, 287), False),
    ("neu_seg_dev", (30, 75), (30, 153), True),
    ("uodd_dev", (30, 128), (30, 796), False),
)
def test_real_files(shared_dir, folder, images, instances, has_masks):
    root = shared_dir / "data" / folder
    for index, name in enumerate(("references", "targets")):
        dataset = read_coco(root / "annotations" / f"{name}.json", root / "images")
        assert (len(dataset.images), len(dataset.instances)) == (images[index], instances[index])
        assert (dataset.dropped, dataset.has_masks) == ((), has_masks)
        records = list(dataset.images.values())
        check_images(records)
        assert read_image(records[0]).shape == (records[0].height, records[0].width, 3)


def instance(segmentation: Any, box: tuple[float, float, float, float] = (0, 0, 1, 1)) -> Instance:
    return Instance(1, 1, 1, box, segmentation, area_px=1.0)


def filled(rows: tuple[int, int], columns: tuple[int, int]) -> np.ndarray:
    """A mask of 5 rows and 8 columns, true in a block."""
    mask = np.zeros((5, 8), dtype=bool)
    mask[slice(*rows), slice(*columns)] = True
    return mask


# Rows 1 and 2 of column 2, rows 0 to 2 of column 3, in an image of 3 rows and 5 columns.
EXPECTED = np.array([[0, 0, 0, 1, 0], [0, 0, 1, 1, 0], [0, 0, 1, 1, 0]], dtype=bool)
RUNS = [7, 5, 3]


def compressed() -> str:
    text: str = mask_api.encode(np.asfortranarray(EXPECTED, dtype=np.uint8))["counts"].decode()
    return text


@cases("counts")(RUNS, compressed(), compressed().encode())
def test_run_length_codes_of_all_kinds(counts):
    coded = instance({"size": [3, 5], "counts": counts})
    mask = instance_mask(coded, 3, 5)
    assert mask.dtype == np.bool_
    np.testing.assert_array_equal(mask, EXPECTED)
    assert instance_rle(coded, 3, 5) == compressed().encode()


def test_a_box_serves_as_mask_and_an_rle_of_another_size_does_not():
    np.testing.assert_array_equal(instance_mask(instance(None, (1, 2, 3, 2)), 5, 8), filled((2, 4), (1, 4)))
    assert instance_rle(instance(None, (1, 2, 3, 2)), 5, 8) == instance_rle(instance([[1, 2, 4, 2, 4, 4, 1, 4]]), 5, 8)
    with pytest.raises(DataError, match=r"A mask of .height, width. .5, 3. does not fit an image of .3, 5."):
        instance_mask(instance({"size": [5, 3], "counts": RUNS}), 3, 5)
    with pytest.raises(DataError, match="without polygons"):
        segmentation_rle([], 5, 8)


@cases("polygons", "rows", "columns")(
    ([[1.0, 1.0, 3.0, 1.0, 3.0, 4.0, 1.0, 4.0], [2.0, 1.0, 6.0, 1.0, 6.0, 4.0, 2.0, 4.0]], (1, 4), (1, 6)),
    ([[-4, -4, 2, -4, 2, 3, -4, 3]], (0, 3), (0, 2)),
    ([[20, 20, 30, 20, 30, 30]], (0, 0), (0, 0)),
    ([[2.0, 2.0, 2.1, 2.0, 2.1, 2.1]], (0, 0), (0, 0)),
)
def test_polygons_are_united_and_clipped(polygons, rows, columns):
    np.testing.assert_array_equal(instance_mask(instance(polygons), 5, 8), filled(rows, columns))


@cases("box", "rows", "columns")(
    ((0, 0, 8, 5), (0, 5), (0, 8)),
    ((1.4, 0, 2, 1), (0, 1), (1, 3)),  # centres 1.5 and 2.5 lie in [1.4, 3.4)
    ((1.5, 0, 2, 1), (0, 1), (1, 3)),  # a centre on the left edge belongs to the box
    ((1.6, 0, 2, 1), (0, 1), (2, 4)),
    ((2.6, 1.6, 0.2, 0.2), (1, 2), (2, 3)),  # no centre inside: the pixel under the box's own
    ((7.9, 4.9, 0.1, 0.1), (4, 5), (7, 8)),
    ((8.0, 5.0, 0.0, 0.0), (4, 5), (7, 8)),
    ((-3, -3, 20, 20), (0, 5), (0, 8)),
    ((20, 20, 3, 3), (4, 5), (7, 8)),
)
def test_boxes_cover_the_pixels_whose_centres_they_hold(box, rows, columns):
    np.testing.assert_array_equal(box_mask(box, 5, 8), filled(rows, columns))


def test_runs_area_and_box_of_an_rle():
    counts = compressed().encode()
    assert rle_area(counts, 3, 5) == 5
    assert rle_box(counts, 3, 5) == (2, 0, 2, 3)
    empty = segmentation_rle({"size": [3, 5], "counts": [15]}, 3, 5)
    assert rle_area(empty, 3, 5) == 0
    assert rle_box(empty, 3, 5) == (0, 0, 0, 0)
    assert unpack_runs(compressed()) == RUNS
    assert unpack_runs("") == []
    mask = np.asfortranarray(np.random.default_rng(0).random((97, 103)) < 0.3, dtype=np.uint8)
    mask[:, 40:90] = 1
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    expected = runs if flat[0] == 0 else [0, *runs]
    assert unpack_runs(mask_api.encode(mask)["counts"].decode()) == expected


@cases("counts", "text")(
    ("ab\x7f", "does not occur in run-length codes"),
    ("o", "ends in the middle of a number"),
    ([16], "cover 16 pixels, the image has 15"),
    ([16, -1], "negative length"),
    ([15.0], "text or a list of whole numbers"),
    ([True, 14], "text or a list of whole numbers"),
    (None, "text or a list of whole numbers"),
    ("", "cover 0 pixels, the image has 15"),
)
def test_runs_from_files_are_checked(counts, text):
    with pytest.raises(ValueError, match=text):
        checked_runs(counts, 3, 5)
    assert checked_runs(RUNS, 3, 5) == RUNS
