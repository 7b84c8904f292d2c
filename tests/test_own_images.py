"""Own images in a plain folder: how it is read, and that one command makes pictures of it."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from conftest import cases, refused
from PIL import Image, ImageOps
from tiny_data import HEIGHT, WIDTH, make_folder, polygon, run_with, shape_mask

from ntt.convert.plain_folder import convert_references, convert_targets, foreground
from ntt.data.coco import read_coco
from ntt.data.masks import segmentation_rle
from ntt.datasets.folders import FolderConfig
from ntt.errors import DataError
from ntt.ops.masks import decode_masks
from ntt.run import runner
from ntt.types import Category, Json


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "my_set")


Go = Callable[..., Path]


@pytest.fixture
def go(tmp_path: Path, shared_store: Path) -> Go:
    """Run with a plain folder; returns the run directory."""

    def run(root: Path, *more: str) -> Path:
        places = [f"runtime.{name}_root={tmp_path}/{name}" for name in ("cache", "output")]
        words = ["dataset=folder", f"dataset.root={root}", "shots=all", f"runtime.store_root={shared_store}"]
        return run_with([*words, *places, *more])

    return run


def references_of(root: Path) -> Json:
    return convert_references(root / "references").document


def mask_of(entry: Json) -> np.ndarray:
    return decode_masks([segmentation_rle(entry["segmentation"], HEIGHT, WIDTH)], HEIGHT, WIDTH)[0]


def shape(label: str, kind: str, points: Any) -> Json:
    return {"label": label, "points": points, "shape_type": kind, "group_id": None}


def labelme(path: Path, *shapes: Json, image: str = "x") -> None:
    document = {"shapes": list(shapes), "imagePath": image, "imageHeight": HEIGHT, "imageWidth": WIDTH}
    path.write_text(json.dumps(document))


def test_masks_beside_the_images_and_a_copy_in_the_folder_of_another_class(own):
    document = references_of(own)
    assert document["categories"] == [{"id": 1, "name": "disc"}, {"id": 2, "name": "square"}]
    assert [image["file_name"] for image in document["images"]] == ["disc/references_0.png", "square/references_1.png"]
    np.testing.assert_array_equal(mask_of(document["annotations"][0]), shape_mask(3, 20, 20, 40))
    assert [entry["shot_index"] for entry in document["annotations"]] == [0, 0]
    assert document["annotations"][1]["bbox"] == [70, 30, 40, 40]
    copy = own / "references/square/copy.png"
    shutil.copy(own / "references/disc/references_0.png", copy)
    copy.with_name("copy_box.txt").write_text("5 6 25 36")
    document = references_of(own)
    assert [image["file_name"] for image in document["images"]] == ["disc/references_0.png", "square/references_1.png"]
    assert [(entry["image_id"], entry["category_id"]) for entry in document["annotations"]] == [(1, 1), (1, 2), (2, 2)]
    assert document["annotations"][1]["bbox"] == [5, 6, 20, 30]


def test_masks_and_boxes_that_would_pass_for_examples_are_refused(own):
    """A typo in its name would make the mask an example, and the whole image another one."""
    folder = own / "references/disc"
    (folder / "references_0_mask.png").rename(folder / "reference_0_mask.png")
    (folder / "c.d_box.txt").write_text("1 2 3 4\n")
    with refused(
        DataError,
        "reference_0_mask.png is named like a mask, but there is no image reference_0.* next to it. Give both the same",
        "c.d_box.txt is named like a file of boxes, but there is no image c.d.* next to it.",
    ):
        convert_references(own / "references")
    Image.new("RGB", (50, 40)).save(folder / "c.d.png")
    Image.new("RGB", (WIDTH, HEIGHT)).save(folder / "Reference_0.png")
    (folder / "._gone_box.txt").write_text("what a file system keeps for itself")
    assert len(references_of(own)["annotations"]) == 4


@cases("name")("references_0_box.TXT", "References_0_BOX.txt", "references_0.JSON")
def test_files_beside_an_image_in_other_spellings(tmp_path, name):
    root = make_folder(tmp_path, masks=False)
    if name.endswith("JSON"):
        labelme(root / "references/disc" / name, shape("disc", "rectangle", [[20, 20], [60, 60]]))
    else:
        (root / "references/disc" / name).write_text("20 20 60 60\r\n")
    assert references_of(root)["annotations"][0]["bbox"] == [20, 20, 40, 40]


@cases("suffix")("png", "tiff", "BMP")
def test_a_mask_under_its_pictures_own_name_is_questioned(own, suffix):
    mask = own / "references/disc/references_0_mask.png"
    twin = mask.with_name(f"references_0.{suffix}")
    if suffix == "png":
        mask.with_name("references_0.png").rename(mask.with_name("references_0.jpg"))
    Image.open(mask).save(twin)
    mask.unlink()
    with pytest.raises(DataError, match=r"have one name\. If one is a mask, call it references_0_mask\.png") as caught:
        references_of(own)
    assert "problems" not in str(caught.value)
    twin.rename(twin.with_name(f"references_0-seg.{suffix}"))
    with pytest.raises(DataError, match="has two colours, like a mask. Call it NAME_mask.png"):
        references_of(own)


def test_a_mask_painted_black_on_white_is_questioned(own):
    assert convert_references(own / "references").notes == ()
    path = own / "references/disc/references_0_mask.png"
    ImageOps.invert(Image.open(path)).save(path)
    (note,) = convert_references(own / "references").notes
    assert note.startswith("1 mask(s) touch all four borders: the object is what is white, invert")
    assert str(path) in note


def test_what_is_not_understood_is_named(own, caplog):
    for name in ("references/disc/references_0.xml", "references/disc/a.HEIC", "targets/b.cr2", "targets/c_box.txt"):
        (own / name).touch()
    (own / "targets/README.md").touch()
    FolderConfig(name="folder", root=str(own)).locate(own / "cache")
    assert caplog.text.count("2 file(s) passed over, which are neither readable images nor files that belong") == 2
    (own / "targets/d.png").symlink_to(own / "nowhere.png")
    with pytest.raises(DataError, match="d.png is a link to .*nowhere.png, which is not there"):
        convert_targets(own / "targets", [Category(1, "disc")])


def test_several_masks_of_one_image_and_several_images(own):
    second = shape_mask(7, 5, 5, 20)
    Image.fromarray(second).save(own / "references/square/references_1_mask_2.png")
    Image.new("RGB", (50, 40)).save(own / "references/square/also.jpg")
    converted = convert_references(own / "references")
    document = converted.document
    assert [(e["category_id"], e["shot_index"]) for e in document["annotations"]] == [(1, 0), (2, 0), (2, 1), (2, 2)]
    assert document["annotations"][1]["bbox"] == [0, 0, 50, 40]
    assert "segmentation" not in document["annotations"][1]
    np.testing.assert_array_equal(mask_of(document["annotations"][3]), second)
    whole = f"1 example image(s) without mask or box: the whole image is the example ({own}/references/square/also.jpg)"
    assert converted.notes == (whole,)


def test_boxes_beside_the_images(tmp_path):
    root = make_folder(tmp_path, masks=False)
    (root / "references/disc/references_0_box.txt").write_text("20 20 60 60\n\n1, 2, 3, 4\n")
    document = references_of(root)
    assert [e["bbox"] for e in document["annotations"]] == [[20, 20, 40, 40], [1, 2, 2, 2], [0, 0, WIDTH, HEIGHT]]


def test_labelme_files_beside_the_images(tmp_path):
    root = make_folder(tmp_path, masks=False)
    square = np.reshape(polygon(7, 70, 30, 40)[0], (-1, 2)).tolist()
    shapes = [shape("Square", "polygon", square), shape("x", "point", [[1, 1]])]
    labelme(root / "references/square/references_1.json", *shapes)
    both = [shape("disc", "rectangle", [[20, 20], [60, 60]]), shape("square", "rectangle", [[0, 0], [9, 9]])]
    labelme(root / "references/disc/references_0.json", *both)
    document = references_of(root)
    objects = [(e["category_id"], e["bbox"]) for e in document["annotations"]]
    assert objects == [(1, [20, 20, 40, 40]), (2, [70, 30, 40, 40])]
    np.testing.assert_array_equal(mask_of(document["annotations"][1]), shape_mask(7, 70, 30, 40))
    # Without class folders the labels are the classes.
    for name in ("disc", "square"):
        for path in (root / "references" / name).iterdir():
            path.rename(root / "references" / path.name)
        (root / "references" / name).rmdir()
    document = references_of(root)
    assert [entry["name"] for entry in document["categories"]] == ["Square", "disc", "square"]
    assert len(document["annotations"]) == 3


def test_the_size_in_a_labelme_file_is_the_picture_s_own_as_stored_or_upright(own):
    target, exif = own / "targets/targets_1.png", Image.Exif()
    exif[0x0112] = 6
    classes = [Category(1, "disc")]
    Image.new("RGB", (WIDTH, HEIGHT)).save(target, exif=exif)
    assert convert_targets(own / "targets", classes).document["images"][1]["height"] == WIDTH
    labelme(target.with_suffix(".json"), shape(" disc ", "rectangle", [[0, 0], [WIDTH, 9]]))
    document = convert_targets(own / "targets", classes).document
    assert (document["images"][1]["height"], document["images"][1]["width"]) == (HEIGHT, WIDTH)
    assert document["annotations"][0]["bbox"] == [0, 0, WIDTH, 9]
    Image.new("RGB", (WIDTH, 50)).save(target)
    with pytest.raises(DataError, match=rf"1\.png has {WIDTH} x 50 pixels, .*1\.json says {WIDTH} x {HEIGHT}"):
        convert_targets(own / "targets", classes)


def grey(values: list[int], mode: str, dtype: Any = np.uint8) -> Image.Image:
    picture = Image.fromarray(np.array([values], dtype=dtype))
    return picture if picture.mode == mode else picture.convert(mode)


def indexed() -> Image.Image:
    picture = grey([0, 1], "P")
    picture.putpalette([0, 0, 0, 128, 0, 0])
    return picture


def transparent(*colours: list[int]) -> Image.Image:
    return Image.fromarray(np.array([colours], dtype=np.uint8), mode="RGBA")


@cases("picture")(
    *(grey(values, "L") for values in ([0, 255], [0, 1], [10, 240])),
    grey([0, 255], "1"),
    grey([0, 4000], "I;16", np.uint16),
    indexed(),
    transparent([9, 9, 9, 0], [9, 9, 9, 255]),
    transparent([0, 0, 0, 255], [255, 255, 255, 255]),
)
def test_masks_of_any_kind(picture):
    np.testing.assert_array_equal(foreground(picture), [[False, True]])


@cases("suffix")("bmp", "tif", "jpg", "webp")
def test_masks_of_any_format(own, suffix):
    mask = own / "references/disc/references_0_mask.png"
    Image.open(mask).save(mask.with_suffix(f".{suffix}"))
    before = references_of(own)["annotations"][0]["bbox"]
    mask.unlink()
    assert references_of(own)["annotations"][0]["bbox"] == before


def test_unusable_examples_are_all_told_at_once(own):
    square = own / "references/square"
    Image.new("L", (5, 5), 255).save(square / "references_1_mask.png")
    Image.new("L", (WIDTH, HEIGHT)).save(own / "references/disc/references_0_mask.png")
    Image.new("RGB", (50, 40)).save(own / "references/loose.png")
    for name, text in {"b": "30 20 10 50", "c": "one two", "d": "\n"}.items():
        Image.new("RGB", (50, 40)).save(square / f"{name}.png")
        (square / f"{name}_box.txt").write_text(text)
    labelme(square / "d.json", shape("square", "rectangle", [[1, 1], [9, 9]]))
    Image.new("RGB", (WIDTH, HEIGHT)).save(square / "e.png")
    labelme(square / "e.json", shape("disc", "rectangle", [[1, 1], [9, 9]]))
    with refused(
        DataError,
        "has 5 x 5 pixels, its image has 128 x 96",
        "is black all over",
        "loose.png is not in a class folder and has no LabelMe file",
        "in an image of 50 x 40 pixels",
        "only one can apply",
        "has no shape labelled 'square'",
        "6 problems",
    ):
        references_of(own)


def test_an_example_that_cannot_be_read(own, monkeypatch):
    denied = Mock(side_effect=PermissionError(13, "Permission denied"))
    monkeypatch.setattr("ntt.convert.plain_folder.sha256_of", denied)
    with pytest.raises(DataError, match=r"references_0\.png cannot be read: .*denied\. It must be a readable file"):
        references_of(own)


def test_missing_folders_and_empty_classes(own):
    (own / "references/cow").mkdir()
    with pytest.raises(DataError, match="cow holds no example image"):
        references_of(own)
    for call in (convert_references, lambda folder: convert_targets(folder, [])):
        with pytest.raises(DataError, match="There is no folder .*nowhere"):
            call(own / "nowhere")
    (own / "empty").mkdir()
    with pytest.raises(DataError, match="there is no image"):
        convert_targets(own / "empty", [Category(1, "disc")])


def test_labelme_files_of_other_images(own):
    rectangle = shape("disc", "rectangle", [[40, 20], [90, 70]])
    labelme(own / "targets/targets_0.json", rectangle, image="..\\targets_1.png")
    converted = convert_targets(own / "targets", [Category(1, "disc")])
    assert converted.document["annotations"][0]["image_id"] == 1
    assert "1 file(s) name another image than the file's own name" in converted.notes[0]
    Image.new("RGB", (WIDTH, HEIGHT)).save(own / "targets/targets_0.bmp")
    with pytest.raises(DataError, match=r"targets_0\.bmp and targets_0\.png share targets_0\.json"):
        convert_targets(own / "targets", [Category(1, "disc")])


def test_targets_with_some_annotations(own):
    classes = [Category(1, "disc"), Category(2, "square")]
    assert "annotations" not in convert_targets(own / "targets", classes).document
    shapes = shape("square", "rectangle", [[40, 20], [90, 70]]), shape("x", "circle", [[9, 9], [9, 5]])
    labelme(own / "targets/targets_1.json", *shapes)
    converted = convert_targets(own / "targets", classes)
    (entry,) = converted.document["annotations"]
    assert (entry["image_id"], entry["category_id"], entry["bbox"]) == (2, 2, [40, 20, 50, 50])
    assert converted.notes == (
        "1 object(s) of class 'x' left out, which is not among the chosen classes",
        f"1 target image(s) without a LabelMe file count as images that show no object ({own}/targets/targets_0.png)",
    )


def test_one_command_from_a_plain_folder_to_pictures(own, go, capsys):
    runner._say_weak.cache_clear()
    before = sorted(path.relative_to(own) for path in own.rglob("*"))
    run = go(own)
    out = capsys.readouterr().out
    assert "The target images have no annotations" in out
    assert "metrics.json" not in out
    with (run / "counts.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    table = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.startswith(("disc ", "square "))}
    for name, (_, best, number, images) in table.items():
        counts = [int(row["number"]) for row in rows if row["class"] == name]
        assert (int(number), int(images)) == (sum(counts), sum(count > 0 for count in counts))
        assert best == f"{max(float(row['best_score'] or 0) for row in rows if row['class'] == name):.2f}"
    assert set(table) == {"disc", "square"}
    assert "weights get --for backbone=dinov2_vitl14 segmenter=sam2" in out
    assert f"pictures       {run / 'pictures'}" in out
    assert {path.name for path in (run / "pictures/targets").iterdir()} == {"targets_0_1.png", "targets_1_2.png"}
    assert [(run / f"pictures/{name}.png").is_file() for name in ("references", "best")] == [True, False]
    assert json.loads((run / "metrics.json").read_text())["overall"] == {}
    predictions = json.loads((run / "predictions.json").read_text())
    best = max((p for p in predictions if p["image_id"] == 2), key=lambda p: p["score"])
    square = shape_mask(7, 40, 20, 50)
    assert best["category_id"] == 2
    assert (mask_of(best) & square).sum() > 0.5 * (mask_of(best) | square).sum()
    assert sorted(path.relative_to(own) for path in own.rglob("*")) == before
    assert run.parent.parent.name == "my_set"


def test_metrics_where_targets_are_annotated(own, go, capsys):
    outline = np.reshape(polygon(7, 40, 20, 50)[0], (-1, 2)).tolist()
    labelme(own / "targets/targets_1.json", shape("square", "polygon", outline))
    coco = convert_targets(own / "targets", [Category(1, "disc"), Category(2, "square")]).document
    run = go(own, "visualisation.enabled=false")
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["per_class"]["segm"]["square"]["AP50"] == pytest.approx(100)
    assert "metrics.json" in capsys.readouterr().out
    # The same as a COCO file, whose class ids count.
    (own / "targets/targets_1.json").unlink()
    for entry in coco["categories"]:
        entry["id"] += 40
    coco["annotations"][0]["category_id"] = 42
    (own / "targets.json").write_text(json.dumps(coco))
    run = go(own, "visualisation.enabled=false")
    again = json.loads((run / "metrics.json").read_text())
    assert again["per_class"]["segm"]["square"] == metrics["per_class"]["segm"]["square"]
    assert set(json.loads((run / "references.json").read_text())["references"]) == {"41", "42"}
    (own / "references/disc").rename(own / "references/ball")
    with refused(DataError, "The class 'ball' ", " is not among those of the annotated targets: disc, square"):
        go(own)


def test_a_changed_folder_is_never_met_with_stale_results(own, go):
    run = go(own, "visualisation.enabled=false")
    first = json.loads((run / "references.json").read_text())["digest"]
    (own / "references/disc/references_0_mask.png").unlink()
    assert go(own, "visualisation.enabled=false") == run
    assert json.loads((run / "references.json").read_text())["digest"] != first


def test_a_folder_that_is_none_is_refused(tmp_path, go, cli):
    with pytest.raises(DataError, match="dataset.root=.*nowhere is not a folder"):
        go(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="Example images belong in one folder per class, such as references/boat/a.jpg"):
        go(tmp_path / "empty")
    neither = "has neither references/<class>/ and targets/ (a plain folder of images) nor annotations/"
    assert neither in cli("data", "check", tmp_path / "empty", status=2)


def test_a_plain_folder_is_checked_like_any_other(own, monkeypatch, cli):
    monkeypatch.chdir(own.parent)
    out = cli("data", "check", "my_set")
    assert "no annotations: predictions and pictures, no metrics" in out
    assert "square           1        0" in out
    assert {path.name for path in own.parent.iterdir()} <= {"my_set", "outputs"}
    (own / "references/disc/references_0_mask.png").write_text("no picture")
    assert "references_0_mask.png is not an image" in cli("data", "check", "my_set", status=2)


def test_a_plain_folder_to_coco_files(own, tmp_path, cli):
    out = cli("data", "convert", "folder", own, "--output", tmp_path / "coco")
    assert "2 images, 2 objects (2 with a mask, 0 crowd regions)" in out
    assert "2 images, 0 objects" in out
    targets = read_coco(tmp_path / "coco/targets.json", own / "targets", annotations_required=False)
    assert not targets.has_annotations
    assert "exists already" in cli("data", "convert", "folder", own, "--output", tmp_path / "coco", status=2)
