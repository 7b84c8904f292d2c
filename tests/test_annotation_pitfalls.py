"""Annotation files and images that look sound and are not: read as they are meant, refused or named."""

import json
import logging
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coco_samples import annotation, document, gradient, read, save_image
from conftest import cases, refused
from PIL import Image
from pycocotools import mask as mask_api
from tiny_data import make_tiny, run_with

from ntt.cli.main import main
from ntt.data.coco import CocoDataset
from ntt.data.comparison import content_sentences, identical_images, same_images_sentence
from ntt.data.images import check_images
from ntt.data.sampling import Validity, sample_native, sample_shot_index
from ntt.errors import DataError
from ntt.types import ImageRecord, Json

Box = tuple[float, float, float, float]
# Two on each of two images of 160 x 120 px; none is square, in the middle, or fits its image when read as corners.
BOXES: list[Box] = [(26, 6, 48, 40), (95, 10, 44, 60), (74, 24, 50, 38), (20, 60, 40, 52)]
WIDTH, HEIGHT = 160, 120


def rectangle(box: Box) -> list[float]:
    left, top, width, height = box
    return [left, top, left + width, top, left + width, top + height, left, top + height]


def run_lengths(box: Box) -> Json:
    (code,) = mask_api.frPyObjects([rectangle(box)], HEIGHT, WIDTH)
    return {"size": [HEIGHT, WIDTH], "counts": code["counts"].decode()}


def sound(masks: Callable[[Box], Any] | None = lambda box: [rectangle(box)]) -> Json:
    """Four objects of classes cat (1) and dog (7), with masks."""
    return document(
        images=[{"id": n, "file_name": f"{n}.png", "height": HEIGHT, "width": WIDTH} for n in (1, 2)],
        annotations=[
            annotation(n, (n + 1) // 2, (1, 7)[n % 2], list(box), segmentation=masks and masks(box))
            for n, box in enumerate(BOXES, start=1)
        ],
    )


def changed(change: Callable[[Json], Any], content: Json | None = None) -> Json:
    content = sound() if content is None else content
    for entry in content["annotations"]:
        change(entry)
    return content


def boxes_as(written: Callable[[Box], Any]) -> Callable[[Json], None]:
    return lambda entry: entry.update(bbox=[float(v) for v in written(tuple(entry["bbox"]))])


def log_of(folder: Path, content: Any, caplog: pytest.LogCaptureFixture, **options: Any) -> tuple[CocoDataset, str]:
    caplog.clear()
    with caplog.at_level(logging.INFO):
        dataset = read(folder, content, **options)
    return dataset, "\n".join(record.getMessage().partition("annotations.json: ")[2] for record in caplog.records)


# Boxes that contradict masks


def corners(b: Box) -> Box:
    return b[0], b[1], b[0] + b[2], b[1] + b[3]


READINGS: dict[str, Callable[[Box], Any]] = {
    "[left, top, right, bottom].": corners,
    "[centre x, centre y, width, height].": lambda b: (b[0] + b[2] / 2, b[1] + b[3] / 2, b[2], b[3]),
    "[top, left, height, width].": lambda b: (b[1], b[0], b[3], b[2]),
    "[top, left, bottom, right].": lambda b: (b[1], b[0], b[1] + b[3], b[0] + b[2]),
    "[left, top, width, height] in thousandths of the image.": lambda b: np.array(b) / (0.16, 0.12, 0.16, 0.12),
    "[left, top, right, bottom] in thousandths": lambda b: np.array(corners(b)) / (0.16, 0.12, 0.16, 0.12),
    "[left, top, width, height] scaled by 0.5.": lambda b: np.array(b) / 2,
    "[left, top, width, height] scaled by 3.": lambda b: np.array(b) * 3,
    "[left, top, width, height] scaled by 4 and 5.33.": lambda b: np.array(b) * (4, 16 / 3, 4, 16 / 3),
    "[left, top, right, bottom] scaled by 2.": lambda b: np.array(corners(b)) * 2,
    "boxes counted from the bottom of the image.": lambda b: (b[0], HEIGHT - b[1] - b[3], b[2], b[3]),
    "boxes of the mirrored image.": lambda b: (WIDTH - b[0] - b[2], b[1], b[2], b[3]),
    "boxes shifted by -60 and 40 px.": lambda b: (b[0] - 60, b[1] + 40, b[2], b[3]),
}  # fmt: skip


@cases("text")(*READINGS)
@cases("masks")(lambda box: [rectangle(box)], run_lengths)
def test_boxes_that_are_something_else_than_coco_s(tmp_path, text, masks):
    with pytest.raises(DataError, match=r"annotations\.json: \d of 4 boxes contradict their masks") as caught:
        read(tmp_path, changed(boxes_as(READINGS[text]), sound(masks)))
    assert f"they look like {text}" in str(caught.value)


def test_boxes_of_resized_images_and_boxes_that_leave_their_images(tmp_path):
    content = changed(boxes_as(lambda b: np.array(b) * (2, 8 / 3, 2, 8 / 3)))
    content["images"][1].update(width=WIDTH * 2, height=HEIGHT * 2)
    for entry in content["annotations"][2:]:  # the second image is twice as large, its boxes are as before
        entry["segmentation"] = [[2 * value for value in entry["segmentation"][0]]]
    with pytest.raises(DataError, match="they look like .* of images of 320 x 320 px"):
        read(tmp_path, content)
    with pytest.raises(DataError, match=r"of 4 boxes leave their images: they look like \[left, top, right, bottom\]"):
        read(tmp_path, changed(boxes_as(corners), sound(None)))
    both = changed(boxes_as(lambda b: np.array(b) * 2), sound(lambda box: [[2 * v for v in rectangle(box)]]))
    for content in (both, changed(boxes_as(lambda b: np.array(b) * 3), sound(None))):
        with pytest.raises(DataError, match="of 4 boxes leave their images: they look like those of larger images"):
            read(tmp_path, content)


@cases("fraction", "masks", "what")(
    (["bbox"], [rectangle], "boxes"), (["segmentation"], [rectangle], "masks"), (["bbox"], None, "boxes")
)
def test_fractions_of_the_image(tmp_path, fraction, masks, what):
    content = sound(None if masks is None else lambda box: [rectangle(box)])
    for entry in content["annotations"]:
        scaled = np.array(entry["bbox"]) / (WIDTH, HEIGHT, WIDTH, HEIGHT)
        entry[fraction[0]] = scaled.tolist() if what == "boxes" else [rectangle(tuple(scaled.tolist()))]
    with pytest.raises(DataError, match=f"All {what} lie between 0 and 1: they look like fractions of the image"):
        read(tmp_path, content)


def test_single_contradictions_are_named_and_sound_boxes_not(tmp_path, caplog):
    content = sound()
    content["annotations"][2]["bbox"] = [74, 24, 124, 62]
    _, log = log_of(tmp_path, content, caplog)
    assert log.startswith("1 of 4 boxes contradict their masks (annotation 3): they look like [left, top, right, bot")
    # Also among many, where the file as it is explains nearly all.
    for n in range(20):
        content["annotations"] += [annotation(10 + n, 1, 1, [n, 0, 9, 9], segmentation=[rectangle((n, 0, 9, 9))])]
    assert log_of(tmp_path, content, caplog)[1].startswith("1 of 24 boxes contradict their masks (annotation 3): they")
    # Rounded, drawn loosely, clipped where the mask is not, of a thin object: none of these is a contradiction.
    for written in (
        lambda b: (b[0] + 0.4, b[1] - 0.7, b[2] - 1, b[3] + 1),
        lambda b: (b[0] - b[2] / 8, b[1] - b[3] / 8, b[2] * 1.25, b[3] * 1.25),
    ):
        assert log_of(tmp_path, changed(boxes_as(written)), caplog)[1] == ""
    thin = annotation(1, 1, 1, [20, 20, 30, 1], segmentation=[[20, 20, 50, 20, 50, 22, 20, 22]])
    beyond = annotation(2, 1, 1, [100, 20, 60, 40], segmentation=[[100, 20, 300, 20, 300, 60, 100, 60]])
    assert log_of(tmp_path, {**sound(), "annotations": [thin, beyond]}, caplog)[1] == ""


@cases("by", "text")(
    ((1, 1, 0, 0), "are shifted by 1 and 1 px from their masks: counted from 1? COCO counts from 0."),
    ((0, 0, 1, 1), "differ from their masks by left +0, top +0, width +1, height +1 px. COCO's width is right - "),
)
def test_boxes_counted_in_another_way_are_named(tmp_path, caplog, by, text):
    _, log = log_of(tmp_path, changed(boxes_as(lambda b: np.add(b, by))), caplog)
    assert log.startswith(f"The boxes {text}")


# Crowd regions
def test_crowd_regions_are_counted_and_can_be_read_as_objects(tmp_path, caplog):
    content = sound(run_lengths)
    for entry in content["annotations"][:2]:
        entry["iscrowd"] = 1
    dataset, log = log_of(tmp_path, content, caplog)
    assert log.startswith("2 of 4 annotations are crowd regions (iscrowd=1): neither references nor wanted. If each is")
    assert log.endswith("set dataset.crowd=objects.")
    objects, log = log_of(tmp_path, content, caplog, crowd="objects")
    assert log == ""
    assert not any(instance.iscrowd for instance in objects.instances)
    assert objects.digest != dataset.digest
    assert objects.file_sha256 == dataset.file_sha256 == dataset.digest
    box = [20, 20, 30, 30]
    entries = [annotation(n, 5, 1, [4 * n, *box[1:]], iscrowd=int(n == 1)) for n in range(1, 13)]
    _, log = log_of(tmp_path, document(annotations=entries), caplog)
    assert log == "1 of 12 annotations are crowd regions (iscrowd=1): neither references nor wanted."


# What pycocotools would take as it is
@cases("area", "masks", "is_named")(
    (0, lambda box: [rectangle(box)], True),
    (WIDTH * HEIGHT, run_lengths, True),
    (0, None, True),
    (WIDTH * HEIGHT, None, True),
    (100, None, False),  # the area of a mask that the file does not have
    (1900, lambda box: [rectangle(box)], False),
)
def test_areas_that_contradict_their_objects(tmp_path, caplog, area, masks, is_named):
    dataset, log = log_of(tmp_path, changed(lambda entry: entry.update(area=area), sound(masks)), caplog)
    assert log.startswith("4 annotation(s) have an `area` that contradicts the mask or box") is is_named
    assert dataset.instances[0].area_px == area


@cases("shift_px")(0, 0.3, 1, 2)
def test_objects_annotated_twice(tmp_path, caplog, shift_px):
    content = sound()
    for entry in content["annotations"][:]:
        left, *rest = entry["bbox"]
        content["annotations"].append({**entry, "id": entry["id"] + 10, "bbox": [left + shift_px, *rest]})
    _, log = log_of(tmp_path, content, caplog)
    assert log == "4 annotation(s) have image, class and box of another one: annotated twice? (id 11, 12, 13, 14)"


@cases("indices", "is_named")(((0, 0, 1, 1), False), ((0, 0, 0, 1), True), ((0, 1, 1, 2), True))
def test_shot_indices_that_are_no_count(tmp_path, caplog, indices, is_named):
    content = sound()
    for entry, index in zip(content["annotations"], indices, strict=True):
        entry["shot_index"] = float(index)
    dataset = read(tmp_path, content)
    assert [instance.shot_index for instance in dataset.instances] == list(indices)
    caplog.clear()
    sample_shot_index(dataset, dataset.categories, shots=3, strict=False)
    assert ("`shot_index`, counted from 0, occurs twice or leaves out a number in" in caplog.text) is is_named


# JSON, ids and names
@cases("old", "new", "key")(
    ('"categories"', '"annotations": [], "categories"', "annotations"),
    ('"file_name": "1.png"', '"file_name": "0.png", "file_name": "1.png"', "file_name"),
    ('"image_id": 2', '"image_id": 1, "image_id": 2', "image_id"),
    ('"counts"', '"counts": "0", "counts"', "counts"),
)
def test_keys_with_two_values_are_refused(tmp_path, old, new, key):
    text = json.dumps(sound(run_lengths))
    with pytest.raises(DataError, match=f"objects with the same key twice and different values: `{key}`"):
        read(tmp_path, text.replace(old, new))
    # What is not read, or the same twice, does no harm.
    harmless = text.replace('"iscrowd"', '"x": 1, "x": 2, "iscrowd"').replace('"id": 1,', '"id": 1, "id": 1,')
    assert len(read(tmp_path, harmless).instances) == 4


def renamed(content: Json, images: Any, classes: Any, ids: Any) -> Json:
    for entry in content["images"]:
        entry["id"] = images(entry["id"])
    for entry in content["categories"]:
        entry["id"] = classes(entry["id"])
    for entry in content["annotations"]:
        entry.update(image_id=images(entry["image_id"]), category_id=classes(entry["category_id"]), id=ids(entry["id"]))
    return content


@cases("kind")(float, str, lambda n: n + 2**63, lambda n: [f"n{n}", n][n % 2])
def test_ids_of_every_kind_are_read(tmp_path, kind):
    dataset = read(tmp_path, renamed(sound(), kind, kind, kind))
    names = {category.id: category.name for category in dataset.categories}
    assert [names[instance.category_id] for instance in dataset.instances] == ["dog", "cat", "dog", "cat"]
    assert [list(dataset.images).index(instance.image_id) for instance in dataset.instances] == [0, 0, 1, 1]
    assert len({instance.id for instance in dataset.instances}) == 4


@cases("images", "references")((str, int), (int, str), (str, float), (int, float), (float, str))
def test_ids_written_in_two_ways_name_the_same_image(tmp_path, images, references):
    content = renamed(sound(), images, int, int)
    for entry in content["annotations"]:
        entry.update(image_id=references(int(entry["image_id"])), category_id=references(entry["category_id"]))
    dataset = read(tmp_path, content)
    assert [int(instance.image_id) for instance in dataset.instances] == [1, 1, 2, 2]


def test_numbers_in_text_are_drawn_like_numbers(tmp_path):
    def drawn(content: Json) -> list[int]:
        dataset = read(tmp_path, content)
        sample = sample_native(dataset, dataset.categories, shots=1, seed=0, strict=False, validity=Validity(1, 0))
        return [instance.id for instances in sample for instance in instances]

    assert drawn(renamed(sound(), str, str, str)) == drawn(sound())


def test_class_names_that_differ_in_case_only(tmp_path, caplog):
    content = sound()
    content["categories"][1]["name"] = content["categories"][0]["name"].upper()
    assert "differs from another in case only. They are two classes." in log_of(tmp_path, content, caplog)[1]


def test_text_that_acts_on_a_terminal_is_replaced_in_class_names(tmp_path, caplog):
    content = sound()
    content["categories"][0]["name"] = "\x1b[31mdog\x07\u202e\ud800"
    dataset, log = log_of(tmp_path, content, caplog)
    assert dataset.categories[1].name == "\ufffd[31mdog\ufffd\ufffd\ufffd"
    assert log.startswith("Class name '\\x1b[31mdog\\x07\\u202e\\ud800' holds control characters. It is shown as")
    persian = "\u0645\u06cc\u200c\u062e\u0648\u0631\u062f"  # a joiner is part of the spelling
    content["categories"][0]["name"] = persian
    assert read(tmp_path, content).categories[1].name == persian


@cases("change", "text")(
    ({"width": 10**9, "height": 10**9}, "has 1000000000 x 1000000000 pixels, of which up to 89478485 are read"),
    ({"width": int("9" * 4000)}, r"9\.\.\. x 120 pixels"),
    ({"width": 1e300}, "pixels, of which up to"),
    ({"file_name": "x" * 300 + ".png"}, "304 bytes of at most 255"),
    ({"file_name": "ä" * 128}, "256 bytes of at most 255"),
    ({"file_name": "a/" * 2500 + "a.png"}, "5005 bytes of at most 3072"),
    ({"file_name": "a\ud800.png"}, "no file has such a name"),
    ({"id": "a\ud800"}, "an `id` that is a whole number or text is needed"),
)
def test_claims_that_nothing_can_fulfil(tmp_path, change, text):
    content = sound()
    content["images"][0].update(change)
    with pytest.raises(DataError, match=text) as caught:
        read(tmp_path, content)
    assert len(str(caught.value)) < 1000


HUGE = int("9" * 4000)


@cases("change")(
    *({key: HUGE} for key in ("image_id", "category_id", "area", "iscrowd")),
    {"bbox": [1, 2.5, HUGE, 4]},
    {"segmentation": [[1, 2.5, HUGE, 4, 5, 6]]},
    {"segmentation": {"size": [HEIGHT, WIDTH], "counts": [HUGE]}},
    {"segmentation": {"size": [HUGE, WIDTH], "counts": [1]}},
)
def test_numbers_of_4000_digits(tmp_path, change):
    with pytest.raises(DataError) as caught:
        read(tmp_path, changed(lambda entry: entry.update(change)))
    assert len(str(caught.value)) < 1000
    content = sound()
    content["annotations"][0].update(id=HUGE, shot_index=0)
    assert read(tmp_path, content).instances[0].id == HUGE


def test_outlines_that_are_too_long_to_draw(tmp_path):
    zigzag = [value for n in range(3000) for value in (9000 * (n % 2), n / 100)]
    with pytest.raises(DataError, match="has a polygon of 3000 corners whose outline is too long to draw"):
        read(tmp_path, changed(lambda entry: entry.update(segmentation=[zigzag])))


# Exports of other tools
@cases("change")(
    lambda entry: entry.update(iscrowd=0.0),
    lambda entry: entry.update(bbox=[]),
    lambda entry: entry["segmentation"].append([]),
    lambda entry: entry.update(segmentation=entry["segmentation"][0]),
    lambda entry: entry.update(segmentation={**run_lengths(tuple(entry["bbox"])), "size": [120.0, 160.0]}),
)
def test_unusual_ways_to_write_the_same(tmp_path, change):
    expected, dataset = read(tmp_path, sound()), read(tmp_path, changed(change))
    assert [instance.bbox_xywh for instance in dataset.instances] == [i.bbox_xywh for i in expected.instances]
    assert [instance.area_px for instance in dataset.instances] == [i.area_px for i in expected.instances]
    assert dataset.has_masks


@cases("entries", "root")(
    ([{"id": 0, "name": "zoo", "supercategory": "none"}], 0),
    ([{"id": 0, "name": "zoo"}], None),
    ([{"id": 8, "name": "zoo", "supercategory": "none"}], None),
    ([{"id": n, "name": f"zoo {n}", "supercategory": "none"} for n in (0, 8)], None),
)
def test_the_class_that_roboflow_puts_above_all_others(tmp_path, entries, root):
    content = sound()
    content["categories"] += entries
    assert read(tmp_path, content).root_class == root
    if root is not None:
        content["annotations"][0]["category_id"] = root
        assert read(tmp_path, content).root_class is None


@cases("part", "key", "written", "text")(
    ("annotations", "category_id", lambda _: 9, "has category_id 9, which is not in `categories`."),
    ("annotations", "segmentation", lambda n: {"size": [1, n], "counts": "0"}, "has an RLE of size [1, 1], image "
     "1 has [120, 160] (height, width)."),
    ("annotations", "image_id", lambda n: f"00{(n + 1) // 2}", "has image_id '001', which is not in `images`. "
     "There is 1: write both alike."),
    ("images", "id", lambda n: f"00{n}", "has image_id 1, which is not in `images`. There is '001': write both "
     "alike."),
)  # fmt: skip
def test_one_mistake_is_reported_once(tmp_path, part, key, written, text):
    content = sound()
    for entry in content[part]:
        entry[key] = written(entry["id"])
    with pytest.raises(DataError) as caught:
        read(tmp_path, content)
    assert str(caught.value).endswith(f".json: Annotation 1 {text} The same holds for 3 more (2, 3, 4).")
    for entry in content["images"]:
        entry["id"] = 0.25 * int(entry["id"])
    with refused(DataError, "images[0] is {'id': 0.25, 'file_name'", "text is needed. The same holds for 1 more (im"):
        read(tmp_path, content)


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
