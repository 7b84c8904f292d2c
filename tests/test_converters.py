"""Annotations of other formats become COCO files that say the same."""

import base64
import io
import json
import os
import pickle
import re
from collections import OrderedDict
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coco_samples import annotation, document, read
from conftest import cases, refused
from PIL import Image

from ntt.convert.base import Converted, read_list
from ntt.convert.folders import Folder
from ntt.convert.labelme import convert_labelme
from ntt.convert.references import convert_reference_pickle, load_plain
from ntt.convert.voc import convert_voc
from ntt.convert.yolo import convert_yolo, find_places, read_classes
from ntt.data.coco import CocoDataset, read_coco
from ntt.data.masks import instance_mask
from ntt.errors import ConfigError, DataError
from ntt.types import Category


def picture(path: Path, width: int = 100, height: int = 80) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), (90, 120, 90)).save(path)
    return path


def reread(converted: Converted, folder: Path) -> CocoDataset:
    (folder / "converted.json").write_text(json.dumps(converted.document))
    return read_coco(folder / "converted.json", converted.image_root)


# Pascal VOC
def voc_object(name: str, corners: tuple[Any, ...], **flags: int | str) -> str:
    tags = "".join(f"<{key}>{value}</{key}>" for key, value in flags.items())
    box = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True))
    return f"<object><name>{name}</name>{tags}<bndbox>{box}</bndbox></object>"


def voc_file(path: Path, *objects: str, filename: str | None = None, size: tuple[int, int] = (100, 80)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    named = "" if filename is None else f"<filename>{filename}</filename>"
    width, height = size
    text = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    path.write_text(f"<annotation><folder>VOC2007</folder>{named}{text}{''.join(objects)}</annotation>")


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    root = tmp_path / "voc"
    for name in ("000001", "000002", "000003"):
        picture(root / "JPEGImages" / f"{name}.jpg")
    dog = voc_object("dog", (1, 1, 100, 80), truncated=1, difficult=0)
    part = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></part>"
    voc_file(root / "Annotations/000001.xml", dog.replace("</object>", f"{part}</object>"), filename="000001.jpg")
    cat = voc_object("cat", (11, 21, 30, 60), truncated=0, difficult="True")
    voc_file(root / "Annotations/000002.xml", cat, voc_object("dog", (5, 5, 5, 9)), filename="000002.jpg")
    voc_file(root / "Annotations/000003.xml", filename="000003.jpg", size=(0, 0))
    return root


def from_voc(root: Path, **more: Any) -> Converted:
    return convert_voc(annotations=root / "Annotations", images=root / "JPEGImages", **more)


def test_voc_boxes_count_from_one_unless_told_otherwise(voc, tmp_path):
    data = reread(from_voc(voc), tmp_path)
    assert [(c.id, c.name) for c in data.categories] == [(1, "cat"), (2, "dog")]
    assert [instance.bbox_xywh for instance in data.instances] == [(0, 0, 100, 80), (10, 20, 20, 40), (4, 4, 1, 5)]
    images = [(image.file_name, image.height, image.width) for image in data.images.values()]
    assert images == [(f"00000{n}.jpg", 80, 100) for n in (1, 2, 3)]
    voc_file(voc / "Annotations/000001.xml", voc_object("dog", (0, 10, 20, 30)), filename="000001.jpg")
    assert "convert with --zero-based" in from_voc(voc).notes[0]
    converted = from_voc(voc, zero_based=True)
    assert converted.document["annotations"][0]["bbox"] == [0, 10, 20, 20]
    assert converted.notes == ("1 object(s) of class 'dog' left out, whose box has no area",)


def test_voc_difficult_objects_are_crowd_regions(voc):
    converted = from_voc(voc)
    entries = converted.document["annotations"]
    assert [(e["iscrowd"], e["difficult"], e["truncated"]) for e in entries] == [(0, 0, 1), (1, 1, 0), (0, 0, 0)]
    assert converted.notes == ()


def test_voc_lists_and_classes_choose(voc):
    (voc / "test.txt").write_text("000003\n000001  1\n\n")
    categories = [Category(7, "dog"), Category(9, "cow")]
    document = from_voc(voc, names=read_list(voc / "test.txt"), categories=categories).document
    assert [image["file_name"] for image in document["images"]] == ["000003.jpg", "000001.jpg"]
    assert document["categories"] == [{"id": 7, "name": "dog"}, {"id": 9, "name": "cow"}]
    assert [entry["category_id"] for entry in document["annotations"]] == [7]
    (note,) = from_voc(voc, categories=categories).notes
    assert note == "1 object(s) of class 'cat' left out, which is not among the chosen classes"
    with pytest.raises(DataError, match=r"of the list is no image of \S+ with an XML file\."):
        from_voc(voc, names=["../../etc/passwd"])
    (voc / "test.txt").write_text("\n")
    with pytest.raises(DataError, match="is empty"):
        read_list(voc / "test.txt")


def test_stated_sizes_are_compared_with_the_picture(voc):
    sideways = Image.Exif()
    sideways[0x0112] = 6
    Image.new("RGB", (100, 80)).save(voc / "JPEGImages/000001.jpg", exif=sideways)
    assert from_voc(voc).document["images"][0]["height"] == 80  # as stored
    voc_file(voc / "Annotations/000001.xml", voc_object("dog", (1, 1, 9, 9)), size=(80, 100))  # as turned upright
    assert from_voc(voc).document["images"][0]["height"] == 100
    voc_file(voc / "Annotations/000001.xml", voc_object("dog", (1, 1, 9, 9)), size=(50, 40))
    text = r"000001\.jpg has 80 x 100 pixels once turned upright, .*000001\.xml says 50 x 40\. Use the image"
    with pytest.raises(DataError, match=text):
        from_voc(voc)


STRANGE_ENCODINGS = ("klingon", "utf-7", "punycode", "rot13")
FAR = "<polygon><x1>1</x1><y1>2</y1><x2>1e12</x2><y2>2</y2><x3>9</x3><y3>8</y3></polygon></object>"


@cases("content", "text")(
    ("<annotation>", "is not usable XML"),
    ("<image/>", "begins with <image>"),
    ('<!DOCTYPE a [<!ENTITY b "cc">]><annotation>&b;</annotation>', "document type declaration"),
    ('<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotation/>', "document type declaration"),
    ("<annotation><object/></annotation>", "has no <name>"),
    (f"<annotation>{voc_object('dog', (1, 2, 'x', 4))}</annotation>", "has the corners"),
    (f"<annotation>{voc_object('dog', (9, 2, 3, 4))}</annotation>", "must not be smaller"),
    (f"<annotation>{voc_object('dog', (0.1, 0.2, 0.5, 1))}</annotation>", "these look like fractions"),
    (f"<annotation>{voc_object('dog', ('nan', 2, 'inf', 4))}</annotation>", "not in pixels of an image"),
    (f"<annotation>{voc_object('dog', (1, 2, 3, 4)).replace('</object>', FAR)}</annotation>", "not in pixels of"),
    *((f'<?xml version="1.0" encoding="{name}"?><annotation/>', "is not usable XML") for name in STRANGE_ENCODINGS),
)
def test_unusable_voc_files_are_refused(voc, content, text):
    (voc / "Annotations/000002.xml").write_text(content)
    with pytest.raises(DataError, match=f"00000.*{re.escape(text)}"):
        from_voc(voc)


def test_names_in_foreign_files_never_leave_the_image_folder(voc, tmp_path):
    secret = picture(tmp_path / "secret.jpg")
    for name in (str(secret), "../../secret.jpg", "..\\..\\secret.jpg", "/etc/passwd"):
        voc_file(voc / "Annotations/000009.xml", filename=name)
        with pytest.raises(DataError, match=r"there is no image"):
            from_voc(voc)
    # The last part of a name counts, where such an image is in the folder: tools write the path they found it at.
    (voc / "Annotations/000002.xml").rename(voc / "Annotations/000009.xml")
    voc_file(voc / "Annotations/000009.xml", filename="C:\\data\\000002.jpg")
    assert from_voc(voc).document["images"][-1]["file_name"] == "000002.jpg"


def test_images_are_found_by_name_then_by_stem(tmp_path):
    for name in ("a.jpg", "sub/a.jpg", "sub/b.PNG", "c.png"):
        picture(tmp_path / name)
    (tmp_path / ".hidden").mkdir()
    picture(tmp_path / ".hidden/d.png")
    folder = Folder(tmp_path)
    for name, file, image in (
        ("a.jpg", "x.xml", "a.jpg"),
        ("a.jpg", "sub/x.xml", "sub/a.jpg"),
        ("sub/../c.png", "x.xml", "c.png"),
        ("B.png", "x.xml", "sub/b.PNG"),
        (None, "sub/b.xml", "sub/b.PNG"),
    ):
        assert folder.find(name, tmp_path / file, tmp_path) == (tmp_path / image, False)
    for name, file in ((None, "other/a.xml"), ("d.png", "d.xml")):
        with pytest.raises(DataError, match="there (is no image|are 2 images)"):
            folder.find(name, tmp_path / file, tmp_path)


@cases("stated")(("000002.jpg", "000001.jpg"), ("000001.jpg", "000001.jpg"))
def test_voc_files_that_name_each_others_images(voc, stated):
    for number, (filename, label) in enumerate(zip(stated, ("dog", "cat"), strict=True), start=1):
        voc_file(voc / f"Annotations/00000{number}.xml", voc_object(label, (1, 1, 9, 9)), filename=filename)
    converted = from_voc(voc)
    names = {image["id"]: image["file_name"] for image in converted.document["images"]}
    labels = {number: entry["name"] for number, entry in enumerate(converted.document["categories"], start=1)}
    entries = [(names[e["image_id"]], labels[e["category_id"]]) for e in converted.document["annotations"]]
    assert entries == [("000001.jpg", "dog"), ("000002.jpg", "cat")]
    count = sum(name != f"00000{n}.jpg" for n, name in enumerate(stated, start=1))
    assert f"{count} file(s) name another image than the file's own name, which counts" in converted.notes[0]


@cases("polygon")(
    "<polygon><x1>1</x1><y1>2</y1><x2>9</x2><y2>2</y2><x3>9</x3><y3>8</y3></polygon>",
    "<polygon><pt><x>1</x><y>2</y></pt><pt><x>9</x><y>2</y></pt><pt><x>9</x><y>8</y></pt></polygon>",
)
def test_voc_polygons_are_masks(voc, polygon, tmp_path):
    boxed = voc_object("dog", (2, 3, 9, 8)).replace("</object>", f"{polygon}{polygon}</object>")
    voc_file(voc / "Annotations/000001.xml", boxed, f"<object><name>dog</name>{polygon}</object>")
    first, second, *_ = reread(from_voc(voc), tmp_path).instances
    assert (first.bbox_xywh, second.bbox_xywh) == ((1, 2, 8, 6), (1, 2, 8, 6))
    assert (first.segmentation, second.segmentation) == ([[1, 2, 9, 2, 9, 8]] * 2, [[1, 2, 9, 2, 9, 8]])
    voc_file(voc / "Annotations/000001.xml", f"<object><name>dog</name>{polygon.replace('>8<', '>x<')}</object>")
    with pytest.raises(DataError, match="unusable <polygon>"):
        from_voc(voc)


def test_two_voc_files_of_one_name_in_a_list(voc):
    for folder in "ab":
        picture(voc / f"JPEGImages/{folder}/7.jpg")
        voc_file(voc / f"Annotations/{folder}/7.xml", voc_object("dog", (1, 1, 9, 9)), filename="7.jpg")
    with pytest.raises(DataError, match="'7' of the list means 2 images"):
        from_voc(voc, names=["7"])
    (image,) = from_voc(voc, names=["b/7"]).document["images"]
    assert image["file_name"] == "b/7.jpg"
    assert len(from_voc(voc).document["images"]) == 5


def test_images_without_a_file_are_named_and_two_files_of_one_are_a_problem(voc, yolo):
    (voc / "Annotations/000003.xml").unlink()
    assert from_voc(voc).notes[-1].startswith("1 image(s) without a file of annotations left out (")
    voc_file(voc / "Annotations/more/000001.xml", voc_object("dog", (1, 1, 9, 9)))
    with pytest.raises(DataError, match=r"more/000001\.xml describe one image, .*000001\.jpg"):
        from_voc(voc)
    picture(yolo / "images/train/a.jpg")
    assert "1 image(s) share their label file with another of the same name" in from_yolo(yolo).notes[0]


# Folders
def test_links_are_followed_and_what_cannot_be_used_is_told(tmp_path):
    root, pool = tmp_path / "set", tmp_path / "pool"
    for path in (root / "1.png", pool / "2.jfif", pool / "deep/3.JP2", pool / "4.ppm", pool / "5.avif"):
        picture(path.with_suffix(".png")).rename(path)
    for name in ("._1.png", "README.md", "scan.HEIC", "notes.txt", "photo.dng"):
        (root / name).touch()
    (root / "day").symlink_to(pool)
    (root / "again").symlink_to(pool)
    (pool / "deep/circle").symlink_to(root)
    folder = Folder(root)
    images = {path.relative_to(root).as_posix() for path in folder.images}
    assert images == {"1.png", "again/2.jfif", "again/deep/3.JP2", "again/4.ppm", "again/5.avif"}
    assert [note.partition(",")[0] for note in folder.notes] == ["link(s) to a folder that is listed anyway"] * 2
    names = [path.name for path in folder.passed_over((), harmless=[".txt"])]
    assert (names, folder.problems) == (["photo.dng", "scan.HEIC"], [])
    (root / "gone.png").symlink_to(tmp_path / "nowhere.png")
    os.mkfifo(root / "pipe.png")
    with open(os.fsencode(root) + b"/\xff.png", "wb"):  # noqa: PTH123
        pass
    problems = " ".join(Folder(root).problems)
    for part in ("gone.png is a link to", "pipe.png is a pipe or a device", r"\xff.png' is not UTF-8. Rename it"):
        assert part in problems
    labelme_file(root / "1.json", shape("boat", "polygon", TRIANGLE))
    with pytest.raises(DataError, match="gone.png is a link"):
        convert_labelme(annotations=root)


# YOLO
@pytest.fixture
def yolo(tmp_path: Path) -> Path:
    root = tmp_path / "yolo"
    for name in ("a", "b", "c"):
        picture(root / f"images/train/{name}.png")
    (root / "labels/train").mkdir(parents=True)
    (root / "labels/train/a.txt").write_text("1 0.5 0.5 0.2 0.5\n0 0 0 0.5 0 0.5 0.25\n")
    (root / "labels/train/b.txt").write_text("\n")
    (root / "data.yaml").write_text("path: ../elsewhere\nnc:\ntrain: images/train\nnames:\n  0: boat\n  1: bird\n")
    return root


def from_yolo(root: Path) -> Converted:
    return convert_yolo(root)


def test_yolo_boxes_and_outlines(yolo, tmp_path):
    (yolo / "labels/train/b.txt").write_text("0 0.001 0.001 0 0")
    (yolo / "labels/train/z.txt").write_text("0 0.5 0.5 0.1 0.1")
    converted = from_yolo(yolo)
    assert converted.notes[0] == "1 object(s) of class 'boat' left out, whose box has no area"
    assert "1 file(s) among the labels without an image" in converted.notes[1]
    data = reread(converted, tmp_path)
    assert [(c.id, c.name) for c in data.categories] == [(1, "boat"), (2, "bird")]
    bird, boat = data.instances
    assert (bird.category_id, bird.bbox_xywh, bird.segmentation) == (2, (40, 20, 20, 40), None)
    assert (boat.category_id, boat.bbox_xywh) == (1, (0, 0, 50, 20))
    assert boat.segmentation == [[0, 0, 50, 0, 50, 20]]
    assert len(data.images) == 3


def test_yolo_layouts_and_names(yolo):
    (yolo / "data.yaml").write_text("names: ['boat ', ' bird']")
    assert from_yolo(yolo).document["categories"][1] == {"id": 2, "name": "bird"}
    (yolo / "data.yaml").unlink()
    (yolo / "classes.txt").write_text("boat\nbird\n")
    assert read_classes(find_places(yolo, "train")[2])[0] == {0: "boat", 1: "bird"}
    (yolo / "val").mkdir()
    (yolo / "images/train").rename(yolo / "val/images")
    (yolo / "labels/train").rename(yolo / "val/labels")
    assert find_places(yolo, "val")[0] == yolo / "val/images"
    assert find_places(yolo, "train")[1] == yolo / "labels"  # without parts, as Label Studio writes it
    (yolo / "images").rename(yolo / "obj_train_data")
    assert find_places(yolo, "train")[:2] == (yolo / "obj_train_data", yolo / "obj_train_data")  # CVAT
    (yolo / "obj_train_data").rmdir()
    with pytest.raises(DataError, match="images/train/ with labels/train/ or train/images/ with train/labels/"):
        find_places(yolo, "train")


@cases("line", "text")(
    ("0 0.1 0.2 0.3", "has 3 values after the class"),
    ("0 0.1 0.2 0.3 0.4 0.9", "score of a prediction"),
    ("0 a b c d", "are not all numbers"),
    ("5 0.1 0.2 0.3 0.4", "class 5 has no name; there are [0, 1]"),
    ("0 50 40 20 10", "not pixels"),
    ("0 nan 0.2 0.3 0.4", "not pixels"),
)
def test_unusable_yolo_lines_are_refused(yolo, line, text):
    (yolo / "labels/train/b.txt").write_text(f"1 0.5 0.5 0.2 0.5\n{line}\n")
    with pytest.raises(DataError, match=f"b.txt, line 2.*{re.escape(text)}"):
        from_yolo(yolo)


@cases("dimensions")(2, 3)
def test_yolo_keypoints_are_no_outlines(yolo, dimensions):
    corners = ["0.4 0.3", "0.6 0.3", "0.6 0.7", "0 0"]
    line = "1 0.5 0.5 0.2 0.4 " + " ".join(corner + (" 1" if dimensions == 3 else "") for corner in corners)
    (yolo / "labels/train/a.txt").write_text(f"{line}\n")
    assert "of 1 outline(s) look like a box with keypoints" in from_yolo(yolo).notes[0]
    (yolo / "data.yaml").write_text(f"kpt_shape: [4, {dimensions}]\nnames: [boat, bird]\n")
    (entry,) = from_yolo(yolo).document["annotations"]
    assert (entry["bbox"], "segmentation" in entry) == ([40, 24, 20, 32], False)
    (yolo / "labels/train/a.txt").write_text("0 0.5 0.5 0.2 0.4\n")
    with pytest.raises(DataError, match=f"4 of a box and {4 * dimensions} of keypoints, as kpt_shape says"):
        from_yolo(yolo)
    (yolo / "data.yaml").write_text("kpt_shape: 4\nnames: [boat, bird]\n")
    with pytest.raises(DataError, match="has kpt_shape '4'"):
        from_yolo(yolo)


def test_boxes_and_folders_that_are_no_yolo_labels_are_questioned(yolo):
    labels = yolo / "labels/train"
    (labels / "b.txt").write_text("0 0.1 0.1 0.9 0.95\n")  # corners
    text = "box(es) leave their images by far: are they corners in place of centre and size?"
    assert from_yolo(yolo).notes == (f"1 {text} ({labels / 'b.txt'}, line 1)",)
    for name in "ab":
        (labels / f"{name}.txt").unlink()
    assert "3 image(s) have no label file: most images show no object" in from_yolo(yolo).notes[0]


@cases("text", "names")(
    ("boat\n\n bird\nfish\n\n", {0: "boat", 2: "bird", 3: "fish"}),
    ("\ufeffboat\r\n\r\nbird  \rfish", {0: "boat", 2: "bird", 3: "fish"}),
    ("boat\u2028x\n\nbird\x0b\nfi\x85sh", {0: "boat\u2028x", 2: "bird", 3: "fi\x85sh"}),  # no ends of lines
)
def test_empty_lines_of_a_list_of_names_count(yolo, text, names):
    (yolo / "data.yaml").unlink()
    (yolo / "classes.txt").write_bytes(text.encode())
    assert read_classes(yolo / "classes.txt")[0] == names
    with pytest.raises(DataError, match=r"class 1 has no name; there are \[0, 2, 3\]"):
        from_yolo(yolo)


@cases("name")("{}.TXT", "{}.png.txt", "{}.PNG.Txt")
def test_label_files_in_other_spellings(yolo, name):
    labels = yolo / "labels/train"
    for stem in "ab":
        (labels / f"{stem}.txt").rename(labels / name.format(stem))
    (labels / "c.text").write_text("0 0.5 0.5 0.2 0.4\n")
    converted = from_yolo(yolo)
    assert len(converted.document["annotations"]) == 2
    assert "1 file(s) among the labels without an image, or with another ending than .txt" in converted.notes[0]
    (labels / "A.tXT").write_text("0 0.5 0.5 0.2 0.4\n")
    with pytest.raises(DataError, match="has the label files|2 problems") if ".TXT" in name else nullcontext():
        from_yolo(yolo)


@cases("written")("no", "TRUE", "01", "1.5", "2024-01-15", "null", "~", "1_000", "0x1F", "[a]")
def test_names_that_yaml_reads_as_something_else(yolo, written):
    (yolo / "data.yaml").write_text(f"names: [boat, {written}]\n")
    with pytest.raises(DataError, match=r"data\.yaml: names\[1\] is .*: YAML reads .*Quote the name"):
        from_yolo(yolo)
    (yolo / "data.yaml").write_text(f"names: [boat, '{written}']\n")
    assert read_classes(yolo / "data.yaml")[0][1] == written


@cases("content")("names: 3", "- boat", "names: {0: a, 00: b}", "nc: 3\nnames: [a, b]",
     "names: {a: boat}", "names: [1, 2]", "names: [a, ' a ']", "names: [' ']", "[", "",
     "names: " + "[" * 1000, "#" * 2_000_000, "names: &a [*a]", "names: " + "9" * 5000,
     "a: &a {b: 1}\nc: &c {<<: [*a, *a, *a]}\nnames: [x]")  # fmt: skip
def test_unusable_yolo_names_are_refused(yolo, content):
    (yolo / "data.yaml").write_text(content)
    with pytest.raises((DataError, ConfigError), match=r"data\.yaml"):
        from_yolo(yolo)


# LabelMe
def labelme_file(path: Path, *shapes: dict[str, Any], **more: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"version": "5.4.1", "flags": {}, "shapes": list(shapes), "imagePath": f"{path.stem}.png"}
    path.write_text(json.dumps({**content, "imageData": "!!! never looked at", **more}))
    return path


def shape(label: str, kind: str, points: Any, **more: Any) -> dict[str, Any]:
    return {"label": label, "points": points, "group_id": None, "shape_type": kind, "flags": {}, **more}


TRIANGLE = [[10, 10], [30, 10], [30, 30]]


def from_labelme(folder: Path, *shapes: dict[str, Any], **more: Any) -> Converted:
    picture(folder / "a.png")
    labelme_file(folder / "a.json", *shapes, **more)
    return convert_labelme(annotations=folder)


def test_labelme_polygons_rectangles_and_circles(tmp_path):
    shapes = [
        shape("boat", "polygon", TRIANGLE),
        shape("bird", "rectangle", [[50, 40], [20, 60]]),
        shape("moon", "circle", [[50, 40], [60, 40]]),
        shape("bird", "rectangle", [[-20.5, -13.25], [-10.5, -5.25]]),  # outside the image: not read again
    ]
    data = reread(from_labelme(tmp_path / "in", *shapes, imageHeight=80, imageWidth=100), tmp_path)
    boat, bird, moon = data.instances
    assert (boat.bbox_xywh, boat.segmentation) == ((10, 10, 20, 20), [[10, 10, 30, 10, 30, 30]])
    assert (bird.bbox_xywh, bird.segmentation) == ((20, 40, 30, 20), None)
    np.testing.assert_allclose(moon.bbox_xywh, (40, 30, 20, 20), atol=0.21)
    assert moon.area_px == pytest.approx(np.pi * 100, rel=0.04)


def test_labelme_groups_are_one_object_and_shapes_without_area_none(tmp_path):
    far = [[70, 50], [90, 50], [90, 70]]
    converted = from_labelme(
        tmp_path / "in",
        shape("boat\t", "polygon", TRIANGLE, group_id=1),
        shape("boat", "polygon", far, group_id=1.0),
        shape("bird", "polygon", far, group_id=1),
        shape("boat", "rectangle", [[1, 2], [3, 4]], group_id=2),
        shape("boat", "rectangle", [[5, 6], [7, 8]], group_id=2),
        shape("boat", "rectangle", [[50, 6], [70, 8]]),
        shape("x", "point", [[1, 1]]),
        shape("x", "linestrip", [[1, 1], [3, 3]]),
        shape(" __ignore__ ", "polygon", TRIANGLE),
    )
    entries = converted.document["annotations"]
    assert [entry["name"] for entry in converted.document["categories"]] == ["bird", "boat"]
    assert [entry["bbox"] for entry in entries] == [[10, 10, 80, 60], [70, 50, 20, 20], [1, 2, 6, 6], [50, 6, 20, 2]]
    assert [len(entry.get("segmentation", [])) for entry in entries] == [2, 1, 0, 0]
    without_area = tuple(f"1 shape(s) of type '{kind}' left out, which have no area" for kind in ("point", "linestrip"))
    assert converted.notes == (*without_area, "1 shape(s) labelled '__ignore__' left out")


def painted(mask: np.ndarray) -> str:
    stream = io.BytesIO()
    Image.fromarray(mask).save(stream, format="PNG")
    return base64.b64encode(stream.getvalue()).decode()


def test_labelme_painted_masks(tmp_path):
    mask = np.array([[True, False, True], [False, True, True]])
    converted = from_labelme(
        tmp_path / "in",
        shape("boat", "mask", [[10, 20], [12, 21]], mask=painted(mask), group_id=4),
        shape("boat", "rectangle", [[0, 0], [4, 5]], group_id=4),
    )
    (instance,) = reread(converted, tmp_path).instances
    expected = np.zeros((80, 100), bool)
    expected[20:22, 10:13] = mask
    expected[0:5, 0:4] = True
    np.testing.assert_array_equal(instance_mask(instance, 80, 100), expected)


@cases("bad", "text")(
    (shape("", "polygon", TRIANGLE), "shape 2 has the label ''"),
    (shape("boat", "polygon", [[1, 2], [3, 4]]), "is a 'polygon' of 2 points"),
    (shape("boat", "polygon", [[1, 2], [3, "x"], [4, 5]]), "unusable points"),
    (shape("boat", "polygon", None), "unusable points"),
    (shape("boat", "star", TRIANGLE), "is a 'star'"),
    (shape("boat", "mask", [[1, 1], [2, 2]], mask="%%%"), "the painted mask cannot be read"),
    (shape("boat", "mask", [[1, 1], [9, 9]], mask=painted(np.ones((2, 2), bool))), "its corners"),
    *(
        (shape("boat", "mask", [[left, 1], [left + 1, 2]], mask=painted(np.ones((2, 2), bool))), "sticks out")
        for left in (-1, 99)
    ),
    ("boat", "shape 2 has the label None"),
)
def test_unusable_labelme_shapes_are_refused(tmp_path, bad, text):
    with pytest.raises(DataError, match=re.escape(text)):
        from_labelme(tmp_path, shape("boat", "polygon", TRIANGLE), bad)


@cases("content", "text")(
    ("{", "is not valid JSON"),
    ("[" * 100_000, "is not valid JSON"),
    ("[]", "holds a JSON list"),
    ('{"images": []}', "is not a LabelMe file"),
    ('{"shapes": 3}', "is not a LabelMe file"),
    ('{"shapes": [], "shapes": [1]}', "the same key twice"),
    ('{"shapes": []}', "there is no object with a class"),
)
def test_unusable_labelme_files_are_refused(tmp_path, content, text):
    picture(tmp_path / "a.png")
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(DataError, match=text):
        convert_labelme(annotations=tmp_path)


def test_folders_without_annotation_files_are_refused(tmp_path):
    for name, text in ((".", "holds no .xml file"), ("nowhere", "does not exist")):
        with refused(DataError, text):
            convert_voc(annotations=tmp_path / name, images=tmp_path)


def test_labelme_images_in_a_folder_of_their_own(tmp_path):
    picture(tmp_path / "images/sub/a.png")
    file = tmp_path / "json/sub/a.json"
    labelme_file(file, shape("boat", "polygon", TRIANGLE), imagePath="..\\..\\images\\sub\\a.png")
    folders = {"annotations": tmp_path / "json", "images": tmp_path / "images"}
    document = convert_labelme(**folders, categories=[Category(4, "boat")]).document
    assert document["images"][0]["file_name"] == "sub/a.png"
    assert document["annotations"][0]["category_id"] == 4


def test_labelme_files_that_name_another_image(tmp_path):
    for stem, named in (("a", "b"), ("b", "b")):
        picture(tmp_path / f"{stem}.png")
        labelme_file(tmp_path / f"{stem}.json", shape("boat", "polygon", TRIANGLE), imagePath=f"{named}.png")
    converted = convert_labelme(annotations=tmp_path)
    assert [entry["image_id"] for entry in converted.document["annotations"]] == [1, 2]
    assert "1 file(s) name another image than the file's own name" in converted.notes[0]


# Pickled lists of references
class Malicious:
    """Runs a command when unpickled by an ordinary reader."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


def dumped(path: Path, content: Any, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


def small_dataset(folder: Path) -> CocoDataset:
    boxes = [(1, 5, 1), (2, 5, 7), (3, 6, 1), (4, 6, 1)]
    entries = [annotation(n, image, label, [20, 20, 50, 40], source="x") for n, image, label in boxes]
    entries[3]["iscrowd"] = 1
    images = [{"id": n, "file_name": f"{n}.png", "height": 100, "width": 200, "license": 3} for n in (5, 6)]
    return read(folder, document(images=images, annotations=entries))


def listed(*picks: tuple[Any, Any]) -> list[dict[str, Any]]:
    return [{"img_id": image, "ann_ids": [number]} for image, number in picks]


@cases("protocol")(0, 1, 2, 3, 4, 5)
def test_plain_pickles_of_every_protocol_are_read(tmp_path, protocol):
    content = OrderedDict({7: [{"img_id": 3, "ann_ids": [1, 2**40, -5]}], "cat": ((1.5, None), True, "ä", (), (2,))})
    loaded = load_plain(dumped(tmp_path / "a.pkl", content, protocol))
    assert loaded == content
    assert type(loaded) is dict


def test_a_malicious_pickle_is_refused_and_not_run(tmp_path):
    mark = tmp_path / "ran"
    for protocol in range(6):
        path = dumped(tmp_path / "bad.pkl", {1: Malicious(f"touch {mark}")}, protocol)
        with pytest.raises(DataError, match=r"is refused \(it contains the name .*system\)"):
            load_plain(path)
    assert not mark.exists()
    pickle.loads(path.read_bytes())  # noqa: S301
    assert mark.exists(), "the pickle of this test is harmless"


def naming(module: str, name: str) -> list[bytes]:
    """Pickles that call a name, in the oldest form and in a newer one."""
    parts = [b"\x8c" + bytes([len(word)]) + word.encode() for word in (module, name)]
    return [b"c" + f"{module}\n{name}\n".encode() + b")R.", b"\x80\x04" + b"".join(parts) + b"\x93)R."]


@cases("data")(
    *naming("builtins", "eval"),
    *naming("collections", "OrderedDict.fromkeys"),
    *naming("collections", "defaultdict"),
    *naming("ntt.base.files", "write_text"),
    *naming("numpy._core.multiarray", "_reconstruct"),
    *(b"Pname\n.", b"]Q.", b"\x82\x01.", b"", b"]", b"zip"),
)
def test_other_names_tricks_and_broken_files_are_refused(tmp_path, data):
    (tmp_path / "bad.pkl").write_bytes(data)
    with pytest.raises(DataError, match="is refused"):
        load_plain(tmp_path / "bad.pkl")


def bomb() -> list[Any]:
    """A list that unfolds without bounds."""
    unfolding: list[Any] = [1]
    for _ in range(60):
        unfolding = [unfolding, unfolding]
    return unfolding


def test_a_pickled_list_becomes_a_references_file(tmp_path):
    dataset = small_dataset(tmp_path)
    path = dumped(tmp_path / "list.pkl", OrderedDict([(7, listed((5, 2), (5, 2))), (1, listed((6, 3), (5, 1)))]))
    converted = convert_reference_pickle(pickle_file=path, dataset=dataset)
    entries = converted.document["annotations"]
    rows = [(e["category_id"], e["id"], e["shot_index"], e.get("repeat_of")) for e in entries]
    assert rows == [(1, 3, 0, None), (1, 1, 1, None), (7, 2, 0, None), (7, 5, 1, 2)]
    assert all(entry["source"] == "x" for entry in entries)
    assert converted.document["images"][0]["license"] == 3
    details = converted.document["info"]["references"]
    assert [details[key] for key in ("file", "file_sha256", "list")] == ["annotations.json", dataset.digest, "list.pkl"]


def test_further_annotations_of_an_entry_and_crowds_are_left_out_and_told(tmp_path):
    content = {1: [{"img_id": 5, "ann_ids": [1, 2]}, *listed((6, 4))]}
    path = dumped(tmp_path / "list.pkl", content)
    converted = convert_reference_pickle(pickle_file=path, dataset=small_dataset(tmp_path))
    assert [entry["id"] for entry in converted.document["annotations"]] == [1]
    assert converted.notes[0].startswith("1 further annotation(s) of an entry left out")
    assert converted.notes[1].startswith("annotation 4 of image 6 and class 'cat' left out: a crowd region")


NO_LISTS = ([], {}, {1: 3}, {1: [{"img_id": 5}]}, {1.5: listed((5, 1))})


@cases("content", "text")(
    *((wrong, "is not a few-shot list") for wrong in NO_LISTS),
    *(({1: [{"img_id": 5, "ann_ids": numbers}]}, "is not a few-shot list") for numbers in (bomb(), [], ["1"])),
    ({99: listed((5, 1))}, "Category 99 of the list is not in"),
    ({7: listed((5, 1))}, "annotation 1 of image 5 and class 'dog' is not in"),
    ({1: listed((6, 1))}, "annotation 1 of image 6 and class 'cat' is not in"),
    ({1: listed((6, 4))}, "Category 1 (cat) has no usable reference"),
)
def test_lists_that_do_not_fit_are_refused(tmp_path, content, text):
    path = dumped(tmp_path / "list.pkl", content)
    with pytest.raises(DataError, match=re.escape(text)):
        convert_reference_pickle(pickle_file=path, dataset=small_dataset(tmp_path))
