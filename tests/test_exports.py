"""From an annotation tool's export and a folder of photographs to a run, and from its detections back to the tool."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from conftest import cases
from PIL import Image
from pycocotools.coco import COCO
from tiny_data import EXAMPLES, HEIGHT, WIDTH, make_tiny, run_with

from ntt.cli.main import main
from ntt.config.compose import compose_config
from ntt.convert import detections
from ntt.convert.labelme import mask_object
from ntt.data.coco import CocoDataset, read_coco
from ntt.data.masks import segmentation_rle
from ntt.datasets.folders import CocoJsonConfig
from ntt.errors import DataError
from ntt.ops.masks import decode_masks
from ntt.run import artefacts
from ntt.run.artefacts import write_counts, write_images
from ntt.types import Category, Detections, ImageRecord, Json

BOXES = {f"{stem}.png": (name, [x, y, size, size]) for name, (stem, (_, x, y, size)) in EXAMPLES.items()}
"""Image -> its class and the box of its object."""


def with_photos(folder: Path) -> Path:
    """Write `photos`, the images to search; the annotated images are in `tiny`."""
    tiny = make_tiny(folder / "tiny")
    (folder / "photos/day1").mkdir(parents=True)
    for number, below in enumerate(("photos", "photos/day1")):
        shutil.copy(tiny / f"images/targets_{number}.png", folder / below / f"{number}.png")
    return folder


@pytest.fixture
def work(tmp_path: Path) -> Path:
    return with_photos(tmp_path)


def images_into(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in BOXES:
        shutil.copy(folder_of_tiny(folder) / name, folder)


def folder_of_tiny(folder: Path) -> Path:
    return next(parent / "tiny/images" for parent in folder.parents if (parent / "tiny").is_dir())


def coco(file: Path, images: Path, *, named: str = "{}") -> list[str]:
    """Write the annotations as a COCO file whose file names are `named`, and the images into their folder."""
    images_into(images)
    file.parent.mkdir(parents=True, exist_ok=True)
    names = sorted({name for name, _ in BOXES.values()})
    document: Json = {"categories": [{"id": i, "name": name} for i, name in enumerate(names, 1)]}
    document["images"] = [
        {"id": i, "file_name": named.format(name), "width": WIDTH, "height": HEIGHT} for i, name in enumerate(BOXES, 1)
    ]
    document["annotations"] = [
        {"id": i, "image_id": i, "category_id": names.index(name) + 1, "bbox": box, "area": 1600, "iscrowd": 0}
        for i, (name, box) in enumerate(BOXES.values(), 1)
    ]
    file.write_text(json.dumps(document))
    return []


def roboflow(root: Path) -> list[str]:
    return coco(root / "train/_annotations.coco.json", root / "train")


def cvat(root: Path) -> list[str]:
    return coco(root / "annotations/instances_default.json", root / "images/default")


def label_studio(root: Path) -> list[str]:
    return coco(root / "result.json", root / "images", named="images/{}")


def label_studio_without_images(root: Path) -> list[str]:
    """As Label Studio writes it for tasks whose images it has only read."""
    return coco(root / "result.json", root / "images", named="/data/local-files/?d={}")


def via(root: Path) -> list[str]:
    return coco(root / "via_project_9Nov2026_coco.json", root)


def yolo(root: Path) -> list[str]:
    """Without labels/val."""
    images_into(root / "images/train")
    (root / "images/val").mkdir()
    (root / "labels/train").mkdir(parents=True)
    for image, (name, (left, top, width, height)) in BOXES.items():
        values = ((left + width / 2) / WIDTH, (top + height / 2) / HEIGHT, width / WIDTH, height / HEIGHT)
        line = f"{['disc', 'square'].index(name)} " + " ".join(map(str, values))
        (root / f"labels/train/{Path(image).stem}.txt").write_text(line)
    (root / "data.yaml").write_text("names: [disc, square]\n")
    assert main(["data", "convert", "yolo", str(root), "--output", str(root / "refs.json")]) == 0
    return ["dataset.references=refs.json"]


def voc(root: Path) -> list[str]:
    images_into(root / "JPEGImages")
    (root / "Annotations").mkdir()
    for image, (name, (left, top, width, height)) in BOXES.items():
        corners = {"xmin": left + 1, "ymin": top + 1, "xmax": left + width, "ymax": top + height}
        box = "".join(f"<{key}>{value}</{key}>" for key, value in corners.items())
        xml = f"<annotation><object><name>{name}</name><bndbox>{box}</bndbox></object></annotation>"
        (root / f"Annotations/{Path(image).stem}.xml").write_text(xml)
    words = ["--annotations", str(root / "Annotations"), "--images", str(root / "JPEGImages")]
    assert main(["data", "convert", "voc", *words, "--output", str(root / "refs.json")]) == 0
    return ["dataset.references=refs.json"]


def labelme(root: Path) -> list[str]:
    images_into(root)
    for image, (name, (left, top, width, height)) in BOXES.items():
        points = [[left, top], [left + width, top + height]]
        shape = {"label": name, "points": points, "shape_type": "rectangle", "group_id": None}
        document = {"shapes": [shape], "imagePath": image, "imageHeight": HEIGHT, "imageWidth": WIDTH}
        (root / f"{Path(image).stem}.json").write_text(json.dumps(document))
    return ["dataset=folder", "dataset.references=."]


def plain_folder(root: Path) -> list[str]:
    for image, (name, (left, top, width, height)) in BOXES.items():
        folder = root / "references" / name
        folder.mkdir(parents=True)
        shutil.copy(folder_of_tiny(folder) / image, folder)
        (folder / f"{Path(image).stem}_box.txt").write_text(f"{left} {top} {left + width} {top + height}")
    return ["dataset=folder"]


FORMATS = [plain_folder, labelme, yolo, voc, roboflow, cvat, label_studio, label_studio_without_images, via]


def located(work: Path, words: list[str]) -> tuple[CocoDataset, CocoDataset]:
    """Read references and targets as a run with these settings does."""
    config = compose_config(["dataset=coco_json", f"dataset.root={work}/my_set", *words])
    files = config.dataset.locate(work / "cache")
    references = read_coco(files.references_file, files.reference_images)
    return references, read_coco(files.targets_file, files.target_images, annotations_required=False)


@cases("write")(*FORMATS)
def test_annotated_examples_and_a_folder_of_photos(work, write):
    (work / "my_set").mkdir()
    references, targets = located(work, [*write(work / "my_set"), f"dataset.targets={work}/photos"])
    names = {category.id: category.name for category in references.categories}
    boxes = {
        Path(references.images[i.image_id].file_name).name: (names[i.category_id], list(i.bbox_xywh))
        for i in references.instances
    }
    assert boxes == BOXES
    assert all(image.path.is_file() for image in references.images.values())
    assert [image.file_name for image in targets.images.values()] == ["0.png", "day1/1.png"]
    assert (targets.has_annotations, targets.categories) == (False, references.categories)


def test_targets_that_are_null_are_all_images(work):
    label_studio(work / "my_set")
    _, targets = located(work, ["dataset.targets=null"])
    assert [image.file_name for image in targets.images.values()] == sorted(BOXES)
    shutil.rmtree(work / "my_set")
    plain_folder(work / "my_set")
    shutil.copytree(work / "photos", work / "my_set/photos")
    _, targets = located(work, ["dataset=folder", "dataset.targets=null"])
    assert [image.file_name for image in targets.images.values()] == ["photos/0.png", "photos/day1/1.png"]


def test_what_cannot_be_found_is_named(work):
    (work / "my_set").mkdir()
    with pytest.raises(DataError, match=r"dataset.references: there is no file .*annotations/references.json"):
        located(work, ["dataset.targets=../photos"])
    via(work / "my_set")
    with pytest.raises(DataError, match=r"dataset.targets: there is no file or folder .*annotations/targets.json"):
        located(work, [])
    (work / "my_set/coco_2.json").write_text("{}")
    with pytest.raises(DataError, match=r"coco_2.json and via_project.*, either of which may have the examples"):
        located(work, ["dataset.targets=../photos"])
    (work / "my_set/coco_2.json").unlink()
    for folder in "ab":
        images_into(work / f"my_set/{folder}")
    for name in BOXES:
        (work / "my_set" / name).unlink()
    with pytest.raises(DataError, match=r"a and .*b hold images with the names in .* dataset.reference_images"):
        located(work, ["dataset.targets=../photos"])
    assert located(work, ["dataset.targets=../photos", "dataset.reference_images=b"])[0].images[1].path.is_file()


def test_an_export_is_checked_under_its_own_names(work, cli):
    assert CocoJsonConfig().references == "annotations/references.json"
    cvat(work / "my_set")
    out = cli("data", "check", work / "my_set", "--targets", work / "photos")
    assert "annotations/instances_default.json" in out
    assert "2 images, 0 annotations, no annotations: predictions and pictures, no metrics" in out


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory, shared_store: Path) -> Path:
    """A finished run on photographs, found with examples as Roboflow exports them."""
    work = with_photos(tmp_path_factory.mktemp("work"))
    roboflow(work / "my_set")
    places = [f"runtime.{name}_root={work}/{name}" for name in ("cache", "output")]
    words = [f"dataset.root={work}/my_set", f"dataset.targets={work}/photos", f"runtime.store_root={shared_store}"]
    settings = ["visualisation.enabled=false", "visualisation.score_threshold=0.6"]
    return run_with(["dataset=coco_json", "shots=all", *words, *places, *settings])


def test_predictions_have_siblings_that_name_images_and_classes_and_count_them(finished_run):
    coco_file = COCO(str(finished_run / "images.json"))
    results = coco_file.loadRes(str(finished_run / "predictions.json"))
    assert [image["file_name"] for image in coco_file.dataset["images"]] == ["0.png", "day1/1.png"]
    assert [entry["name"] for entry in coco_file.dataset["categories"]] == ["disc", "square"]
    assert len(results.anns) == len(json.loads((finished_run / "predictions.json").read_text()))
    with (finished_run / "counts.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    predictions = json.loads((finished_run / "predictions.json").read_text())
    names = json.loads((finished_run / "images.json").read_text())
    images = {image["id"]: image["file_name"] for image in names["images"]}
    classes = {entry["id"]: entry["name"] for entry in names["categories"]}
    scores: dict[tuple[str, str], list[float]] = {}
    for entry in predictions:
        scores.setdefault((images[entry["image_id"]], classes[entry["category_id"]]), []).append(entry["score"])
    assert {(row["image"], row["class"]) for row in rows} == set(scores)
    assert len(rows) == len(scores)
    for row in rows:
        of_class = scores[row["image"], row["class"]]
        assert int(row["number"]) == sum(score >= 0.6 for score in of_class)
        assert row["best_score"] == f"{max(of_class):.4f}"
        assert row["threshold"] == "0.6"


def test_names_that_are_no_text_lose_no_result(tmp_path, monkeypatch):
    record, category = ImageRecord(1, "\udcff\x1b.png", Path(), 4, 5), Category(1, "a\x1b[31m,b")
    scores = np.array([0.25], np.float32)
    detected = Detections(1, 4, 5, np.zeros(1, np.int64), scores, np.zeros((1, 4), np.float32), ("",))
    classes, thresholds = [category, Category(2, "none")], np.array([0.5, 0.5])
    rows = ['\ufffd\ufffd.png,"a\ufffd[31m,b",0,0.2500,0.5', "\ufffd\ufffd.png,none,0,,0.5"]
    for most in (2, 1):  # rows; of more, only those with detections
        monkeypatch.setattr(artefacts, "_MAX_COUNTS", most)
        write_counts(tmp_path / "counts.csv", [record], [detected], classes, thresholds_C=thresholds)
        assert (tmp_path / "counts.csv").read_text().splitlines()[1:] == rows[:most]
    write_images(tmp_path / "images.json", [record], [category])
    assert json.loads((tmp_path / "images.json").read_text())["images"][0]["file_name"] == record.file_name


def expected(run_dir: Path, above: float) -> list[Json]:
    return [row for row in json.loads((run_dir / "predictions.json").read_text()) if row["score"] >= above]


def overlap(first: Any, second: Any) -> float:
    masks = decode_masks([segmentation_rle(each, HEIGHT, WIDTH) for each in (first, second)], HEIGHT, WIDTH)
    return float((masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum())


@cases("tool")("coco", "labelme")
def test_exported_detections_are_read_back_as_references(finished_run, tmp_path, tool):
    output, refs = tmp_path / "out", tmp_path / "refs.json"
    photos = finished_run.parents[3] / "photos"
    assert main(["export", tool, str(finished_run), "--above", "0.55", "--output", str(output)]) == 0
    if tool == "labelme":
        for name in ("0", "day1/1"):  # LabelMe opens the image that the file names, seen from the file
            file = output / f"{name}.json"
            image = file.parent / json.loads(file.read_text())["imagePath"]
            assert image.resolve() == (photos / f"{name}.png").resolve()
        words = ["--annotations", str(output), "--images", str(photos), "--output", str(refs)]
        assert main(["data", "convert", "labelme", *words]) == 0
    else:
        output.rename(refs)
    dataset = read_coco(refs, photos)
    rows = expected(finished_run, 0.55)
    names = {category.id: category.name for category in dataset.categories}
    assert len(dataset.instances) == len(rows) > 0
    for instance, row in zip(dataset.instances, rows, strict=True):
        assert names[instance.category_id] == ["disc", "square"][row["category_id"] - 1]
        assert overlap(instance.segmentation, row["segmentation"]) > 0.9


def test_labelme_files_go_next_to_their_images(finished_run, tmp_path, cli):
    photos = shutil.copytree(finished_run.parents[3] / "photos", tmp_path / "photos")
    run = shutil.copytree(finished_run, tmp_path / "run")
    (run / "facts.json").unlink()
    (photos / "own.json").touch()
    cli("export", "labelme", run, "--output", photos)
    assert json.loads((photos / "day1/1.json").read_text())["imagePath"] == "1.png"
    assert "0.json exists already" in cli("export", "labelme", run, "--output", photos, status=2)


def test_exports_begin_where_the_run_counts(finished_run, tmp_path, cli):
    run = shutil.copytree(finished_run, tmp_path / "run")
    rows = json.loads((run / "predictions.json").read_text())
    assert json.loads((run / "lowest_scores.json").read_text()) == pytest.approx({"disc": 0.6, "square": 0.6})
    for scores, text in (({"disc": 0.6, "square": 0.6}, "0.60"), ({"disc": 0.5, "square": 0.65}, "0.50 to 0.65")):
        (run / "lowest_scores.json").write_text(json.dumps(scores))
        assert f"in 2 images; lowest score: {text}\n" in cli("export", "coco", run, "--output", run / f"{text}.json")
        exported = json.loads((run / f"{text}.json").read_text())["annotations"]
        assert len(exported) == sum(row["score"] >= list(scores.values())[row["category_id"] - 1] for row in rows) > 0
    for content in ('{"disc": 0.5, "square": NaN}', f'{{"disc": 1{"0" * 400}}}', '{"disc": [1]}', "[1]", "["):
        (run / "lowest_scores.json").write_text(content)
        assert "lowest_scores.json" in cli("export", "coco", run, "--output", run / "no.json", status=2)
    (run / "lowest_scores.json").unlink()  # as of runs of earlier versions
    assert "or repeat its command" in cli("export", "coco", run, "--output", run / "no.json", status=2)
    cli("export", "coco", run, "--above", "0.5", "--output", run / "above.json")


def test_cvat_and_label_studio_get_the_same_outlines(finished_run, tmp_path):
    for tool, name in (("cvat", "a.xml"), ("label-studio", "b.json")):
        words = ["--above", "0.55", "--output", str(tmp_path / name), "--prefix", "/data/local-files/?d="]
        assert main(["export", tool, str(finished_run), *words]) == 0
    images = ElementTree.parse(tmp_path / "a.xml").getroot().findall("image")
    tasks = json.loads((tmp_path / "b.json").read_text())
    assert [image.get("name") for image in images] == ["0.png", "day1/1.png"]
    assert ElementTree.parse(tmp_path / "a.xml").findtext("meta/task/labels/label/name") == "disc"
    assert tasks[1]["data"] == {"image": "/data/local-files/?d=day1/1.png"}
    for image, task in zip(images, tasks, strict=True):
        regions = task["predictions"][0]["result"]
        for polygon, region in zip(image.findall("polygon"), regions, strict=True):
            points = np.array([pair.split(",") for pair in polygon.get("points", "").split(";")], dtype=float)
            percent = np.array(region["value"]["points"]) * [WIDTH / 100, HEIGHT / 100]
            np.testing.assert_allclose(points, percent, atol=0.01)
            assert region["value"]["polygonlabels"] == [polygon.get("label")]
    interface = ElementTree.parse(tmp_path / "b.xml").getroot()
    labels = {label.get("value") for label in interface.iter("Label")}
    regions = [region for task in tasks for region in task["predictions"][0]["result"]]
    assert labels == {region["value"]["polygonlabels"][0] for region in regions}


def test_objects_of_several_parts_stay_one_object(tmp_path):
    mask = np.zeros((40, 50), dtype=bool)
    mask[5:15, 5:20] = mask[20:35, 25:45] = True
    part = mask_object("boat", mask).segmentation
    assert isinstance(part, dict)
    polygons = detections.simplified_polygons(part["counts"].encode(), 40, 50)
    assert [len(polygon) for polygon in polygons] == [8, 8]
    boat = {"image_id": 7, "category_id": 1, "segmentation": polygons, "bbox": [5, 5, 40, 30], "score": 0.9}
    image = {"id": 7, "file_name": "a.png", "height": 40, "width": 50}
    categories = [{"id": 1, "name": "boat"}]
    document: Json = {"categories": categories, "images": [image], "annotations": [boat, boat]}
    shapes = detections.to_labelme(document, tmp_path, photos=None)[tmp_path / "a.json"]["shapes"]
    assert [shape["group_id"] for shape in shapes] == [1, 1, 2, 2]
    root = ElementTree.fromstring(detections.to_cvat(document))
    assert [polygon.get("group_id") for polygon in root.iter("polygon")] == ["1", "1", "2", "2"]
    (tmp_path / "refs.json").write_text(json.dumps(document))
    Image.new("RGB", (50, 40)).save(tmp_path / "a.png")
    first, _ = read_coco(tmp_path / "refs.json", tmp_path).instances
    drawn = decode_masks([segmentation_rle(first.segmentation, 40, 50)], 40, 50)[0]  # type: ignore[arg-type]
    np.testing.assert_array_equal(drawn, mask)
    document["images"].append({**image, "id": 8, "file_name": "a.jpg"})
    with pytest.raises(DataError, match="Rename one of the images"):
        detections.to_labelme({**document, "annotations": [boat, {**boat, "image_id": 8}]}, tmp_path, photos=None)


def test_what_is_no_run_with_detections_is_refused(finished_run, tmp_path, cli):
    assert "has no images.json" in cli("export", "coco", tmp_path, status=2)
    shutil.copytree(finished_run, tmp_path / "run")
    (tmp_path / "run/coco.json").touch()
    assert "exists already" in cli("export", "coco", tmp_path / "run", status=2)
    for change, text in (
        (lambda document: document["images"][0].update(file_name="../../evil.png"), "leads out of its folder"),
        (lambda document: document["images"][0].update(height=10**9, width=10**9), "pixels"),
        (lambda document: document["images"][0].update(height=2), "its runs cover"),
        (lambda document: document["images"].clear(), "is not what a run writes"),
        (lambda document: document.clear(), "is not what a run writes"),
    ):
        document = json.loads((finished_run / "images.json").read_text())
        change(document)
        (tmp_path / "run/images.json").write_text(json.dumps(document))
        assert text in cli("export", "labelme", tmp_path / "run", status=2)
