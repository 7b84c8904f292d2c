"""LVIS' own protocol: each of its rules worked by hand, and figures of the official program for a random case."""

import copy
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import cases
from evaluation_samples import HEIGHT, WIDTH, Box, dataset, detect, entry

from ntt.config.compose import compose_config, compose_many
from ntt.config.schema import ExperimentConfig
from ntt.convert.coco_files import merge
from ntt.data.coco import CocoDataset
from ntt.errors import DataError
from ntt.run.artefacts import flat_metrics
from ntt.run.checks import warn_of_few_detections
from ntt.run.inputs import read_inputs
from ntt.run.table import metrics_table
from ntt.stages.evaluation import evaluate
from ntt.types import Detections, ImageId, Json, Metrics

CLASSES = {1: "cat", 2: "dog", 3: "bird"}
LETTERS = {1: "r", 2: "c", 3: "f"}
HERE: Box = (0, 0, 20, 20)
THERE: Box = (25, 15, 20, 20)
NAMES = {"AP", "AP50", "AP75", "APs", "AR300", "ARs300"}


def facts(absent: Sequence[int] = (), not_exhaustive: Sequence[int] = ()) -> Json:
    return {"neg_category_ids": list(absent), "not_exhaustive_category_ids": list(not_exhaustive)}


def lvis(
    folder: Path,
    annotations: Sequence[Json],
    images: Mapping[ImageId, Json],
    *,
    classes: dict[int, str] = CLASSES,
    frequencies: Mapping[int, str] = LETTERS,
) -> CocoDataset:
    more = {"image_facts": images, "frequencies": frequencies}
    return dataset(folder, annotations, image_ids=list(images), classes=classes, **more)


def measure(truth: CocoDataset, *detections: Detections) -> Metrics:
    return evaluate(detections=detections, ground_truth=truth, categories=truth.categories, protocol="lvis")


def average(metrics: Metrics, name: str = "AP") -> float:
    """Return a box metric, without rounding errors; it must be the one of masks too: here masks are boxes."""
    assert metrics.overall["bbox"][name] == metrics.overall["segm"][name]
    return round(metrics.overall["bbox"][name], 9)


@cases("first", "second", "expected")(
    (facts(), facts(), 100.0),  # nobody looked for cats in image 2: the miss there is left out
    (facts(), facts(absent=[1]), 50.0),  # there is verified to be none: the miss is wrong
    (facts(absent=[1]), facts(), 100.0),  # image 1 has one, whatever the list says
    (facts(), facts(absent=[1], not_exhaustive=[1]), 100.0),
)
def test_a_miss_where_there_is_no_object(tmp_path, first, second, expected):
    """The miss scores higher than the hit, so precision is 1/2 at every recall where it counts."""
    truth = lvis(tmp_path, [entry(1, 1, HERE)], {1: first, 2: second})
    metrics = measure(truth, detect(1, (0, HERE, 0.8)), detect(2, (0, THERE, 0.9)))
    assert average(metrics) == pytest.approx(expected)
    assert average(metrics, "AR300") == 100
    assert metrics.num_detections == 2


@cases("not_exhaustive", "expected")(([], 50.0), ([2], 50.0), ([1], 100.0), ([3, 1], 100.0))
def test_a_miss_where_there_are_more_objects_than_annotations(tmp_path, not_exhaustive, expected):
    """What finds an object is right all the same; a second detection of it is passed over like a miss."""
    truth = lvis(tmp_path, [entry(1, 1, HERE)], {1: facts(not_exhaustive=not_exhaustive)})
    assert average(measure(truth, detect(1, (0, THERE, 0.9), (0, HERE, 0.8)))) == pytest.approx(expected)
    twice = measure(truth, detect(1, (0, HERE, 0.9), (0, HERE, 0.8)))
    assert average(twice) == 100
    assert average(twice, "AR300") == 100
    nothing = measure(truth, detect(1, (0, THERE, 0.9)))
    assert average(nothing) == 0


def test_three_hundred_detections_an_image_over_all_classes(tmp_path):
    """Detections of classes that nobody looked for take places too."""
    truth = lvis(tmp_path, [entry(1, 1, HERE)], {1: facts(), 2: facts()})
    dogs: list[tuple[int, Box, float]] = [(1, THERE, 0.9)] * 300
    assert average(measure(truth, detect(1, *dogs[:299], (0, HERE, 0.8)), detect(2))) == 100
    assert average(measure(truth, detect(1, *dogs, (0, HERE, 0.8)), detect(2))) == 0
    assert average(measure(truth, detect(1, (0, HERE, 0.95), *dogs), detect(2))) == 100
    # Of equal scores the one listed first has the place. Another image's detections take none.
    assert average(measure(truth, detect(1, (0, HERE, 0.9), *dogs), detect(2))) == 100
    assert average(measure(truth, detect(1, *dogs, (0, HERE, 0.9)), detect(2))) == 0
    assert average(measure(truth, detect(1, *dogs[:299], (0, HERE, 0.8)), detect(2, *dogs))) == 100
    # Only searched classes are counted.
    cats = truth.categories[:1]
    detections = [detect(1, (0, HERE, 0.8)), detect(2)]
    assert average(evaluate(detections=detections, ground_truth=truth, categories=cats, protocol="lvis")) == 100


def test_groups_of_frequency(tmp_path):
    """Cats are rare and found, dogs common and found behind a miss; of the frequent birds there is none."""
    annotations = [entry(1, 1, HERE), entry(1, 2, HERE)]
    detections = detect(1, (0, HERE, 0.9), (1, THERE, 0.9), (1, HERE, 0.8), (2, HERE, 0.9))
    metrics = measure(lvis(tmp_path, annotations, {1: facts()}), detections)
    assert average(metrics) == pytest.approx(75)
    assert average(metrics, "APr") == 100
    assert average(metrics, "APc") == pytest.approx(50)
    assert set(metrics.overall["bbox"]) == NAMES | {"APr", "APc"}
    assert set(metrics.per_class["bbox"]["dog"]) == NAMES
    assert metrics.per_class["bbox"]["bird"] == {}
    assert flat_metrics(metrics)["segm/APr"] == pytest.approx(100)
    # Two classes of one group are averaged.
    together = measure(lvis(tmp_path, annotations, {1: facts()}, frequencies=dict.fromkeys(CLASSES, "f")), detections)
    assert average(together, "APf") == pytest.approx(75)


def test_crowd_regions_are_objects_and_those_marked_ignore_neither_wanted_nor_wrong(tmp_path):
    """One of two objects is found: precision 1 at 51 of the 101 recalls. COCO's protocol does not miss the crowd."""
    truth = lvis(tmp_path, [entry(1, 1, HERE), entry(1, 1, THERE, iscrowd=1)], {1: facts()})
    detections = detect(1, (0, HERE, 0.9))
    assert average(measure(truth, detections)) == pytest.approx(100 * 51 / 101)
    assert average(evaluate(detections=[detections], ground_truth=truth, categories=truth.categories)) == 100
    both = detect(1, (0, HERE, 0.9), (0, THERE, 0.8))
    assert average(measure(truth, both), "AR300") == 100
    crowd = lvis(tmp_path, [entry(1, 1, THERE, iscrowd=1)], {1: facts()})
    assert average(measure(crowd, both), "AR300") == 100
    annotations = [entry(1, 1, HERE), entry(1, 1, THERE, ignore=1)]
    truth = lvis(tmp_path, annotations, {1: facts()})
    assert average(measure(truth, detect(1, (0, HERE, 0.9)))) == 100
    assert average(measure(truth, detect(1, (0, THERE, 0.9), (0, HERE, 0.8)))) == 100
    assert average(measure(truth, detect(1, (0, THERE, 0.9), (0, THERE, 0.85), (0, HERE, 0.8)))) == pytest.approx(50)
    # An annotation that is its image's only one makes the class present there.
    only = lvis(tmp_path, [entry(1, 1, HERE), entry(2, 1, THERE, ignore=1)], {1: facts(), 2: facts()})
    assert average(measure(only, detect(1, (0, HERE, 0.8)), detect(2, (0, HERE, 0.9)))) == pytest.approx(50)


def test_what_has_no_area_is_not_there(tmp_path):
    """An annotation of area 0 is no object, nor does it make the class present; detections of area 0 are left out."""
    annotations = [entry(1, 1, HERE), entry(2, 1, HERE, area=0)]
    truth = lvis(tmp_path, annotations, {1: facts(), 2: facts()})
    assert average(measure(truth, detect(1, (0, HERE, 0.8)), detect(2, (0, THERE, 0.9)))) == 100
    thick = detect(1, (0, THERE, 0.9), (0, HERE, 0.8))
    flat = replace(thick, boxes_xywh=np.array([[25, 15, 0, 19], HERE], dtype=np.float32))
    metrics = measure(truth, flat, detect(2))
    assert metrics.overall["bbox"]["AP"] == pytest.approx(100)
    assert metrics.overall["segm"]["AP"] == pytest.approx(50)  # its mask has an area
    annotations = [entry(1, 1, HERE), entry(2, 1, (5, 5, 0, 9), area=3, masked=False)]
    truth = lvis(tmp_path, annotations, {1: facts(), 2: facts()})
    assert len(truth.dropped) == 1
    assert average(measure(truth, detect(1, (0, HERE, 0.8)), detect(2, (0, THERE, 0.9)))) == pytest.approx(50)


def test_rejection_goes_by_verified_absence(tmp_path):
    """Cats: of images 2 to 4 only 2 and 3 are known to have none, and image 2 has the one false positive."""
    annotations = [entry(1, 1, HERE)]
    images = {1: facts(), 2: facts([1, 2, 3]), 3: facts([1]), 4: facts()}
    detections = [detect(number, (0, HERE, score)) for number, score in enumerate((0.8, 0.9, 0.7, 1), start=1)]
    rejection = measure(lvis(tmp_path, annotations, images), *detections)
    cat = rejection.per_class["rejection"]["cat"]
    assert (cat["FPPI@R50"], cat["negative_images"], cat["max_recall"]) == (0.5, 2, 100)
    assert (rejection.overall["rejection"]["FPPI@R50"], rejection.overall["rejection"]["negative_images"]) == (1, 1)
    unknown = measure(lvis(tmp_path, annotations, dict.fromkeys(images, facts())), *detections)
    assert "rejection" not in unknown.overall


def test_the_table_says_whose_protocol_it_is(tmp_path):
    truth = lvis(tmp_path, [entry(1, 1, HERE), entry(1, 3, THERE)], {1: facts()})
    lines = metrics_table(measure(truth, detect(1, (0, HERE, 0.9)))).splitlines()
    assert lines[2].split() == ["cat", *["100.0"] * 8]
    assert lines[-3:] == [
        "By LVIS' own protocol: 300 detections per image; classes not searched for there are left out.",
        "Rare, common and frequent classes, boxes: APr 100.0, APf 0.0.",
        "Rare, common and frequent classes, masks: APr 100.0, APf 0.0.",
    ]


# Figures of the official program
def random_case(folder: Path, seed: int) -> tuple[CocoDataset, list[Detections]]:
    """Near hits, repeats and guesses with few distinct scores; all lists; an image with more than 300 detections.

    Boxes are a pixel short, so that they differ from masks and some have no area.
    """
    random = np.random.default_rng(seed)
    annotations: list[Json] = []
    images: dict[ImageId, Json] = {}
    detections = []
    classes = {4: "late", 1: "early", 2: "middle", 9: "last"}
    labels = {number: label for label, number in enumerate(sorted(classes))}

    def box() -> Box:
        width, height = random.integers(2, 39, 2).tolist()
        return int(random.integers(0, WIDTH - width + 1)), int(random.integers(0, HEIGHT - height + 1)), width, height

    for image_id in (30, 4, 100, 7, 22, 1):
        absent, partly = ([number for number in classes if random.random() < share] for share in (0.4, 0.3))
        images[image_id] = facts(absent, partly)
        shapes: list[tuple[int, Box, float]] = []
        for _ in range(int(random.integers(0, 7))):
            bbox, number = box(), int(random.choice(list(classes)))
            area = float(random.choice([bbox[2] * bbox[3], 0, 1024, 9217]))
            annotations.append(entry(image_id, number, bbox, id=len(annotations) + 1, area=area))
            for _ in range(int(random.integers(0, 4))):
                moved = (bbox[0], bbox[1], *(max(1, side - int(random.integers(0, 4))) for side in bbox[2:]))
                shapes.append((labels[number], moved, float(random.integers(1, 6)) / 5))
        guesses = 320 if image_id == 7 else 8
        shapes += [(int(random.integers(4)), box(), float(random.integers(1, 5)) / 5) for _ in range(guesses)]
        random.shuffle(shapes)
        exact = detect(image_id, *shapes)
        detections.append(replace(exact, boxes_xywh=exact.boxes_xywh - np.array([0, 0, 1, 1], dtype=np.float32)))
    letters = {1: "f", 2: "r", 4: "c", 9: "f"}
    return lvis(folder, annotations, images, classes=classes, frequencies=letters), detections


OFFICIAL_NAMES = ["AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf", "AR300", "ARs300", "ARm300", "ARl300"]
OFFICIAL = {
    "bbox": [
        0.14163954146157104, 0.2350272998507066, 0.15294140970161088, 0.26256592309084364, 0.533993399339934,
        0.21848184818481844, 0.03660767079677927, 0.0, 0.2649752475247525, 0.29375, 0.425, 0.55, 0.21666666666666667,
    ],
    "segm": [
        0.20450864734391014, 0.3102607398282497, 0.19765056811745246, 0.33900208532065823, 0.5535891089108911,
        0.31947194719471944, 0.043107849881341406, 0.06086878958166086, 0.35702897495631913, 0.4979166666666666,
        0.6416666666666666, 0.775, 0.31666666666666665,
    ],
}  # fmt: skip


def test_figures_of_the_official_program(tmp_path):
    """Recorded from `LVISEval` of the PyPI package lvis 0.5.3, numpy's removed name `float` put back.

    It was given the file of `random_case(folder, 1)` and the detections as `detections_to_coco` writes them, without
    `segmentation` for boxes and without `bbox` for masks, so that areas are those of masks.
    """
    truth, detections = random_case(tmp_path, 1)
    assert any(len(each.labels) > 300 for each in detections)
    assert measure(truth, *detections[::-1]) == measure(truth, *detections)
    metrics = measure(truth, *detections)
    for kind, values in OFFICIAL.items():
        expected = dict(zip(OFFICIAL_NAMES, values, strict=True))
        ours = {name: value / 100 for name, value in metrics.overall[kind].items()}
        assert ours == pytest.approx(expected, rel=0, abs=1e-14)


# Settings and files
def test_the_data_set_chooses_the_protocol_and_a_matcher_that_keeps_too_few_is_named(caplog):
    caplog.set_level(logging.WARNING)
    few, coco = compose_many([["dataset=lvis"], ["dataset=coco"]])
    assert (few.evaluation.protocol, coco.evaluation.protocol) == ("lvis", "coco")
    enough = copy.deepcopy(few)
    vars(enough.matcher)["max_detections"] = 300
    warn_of_few_detections(coco)
    warn_of_few_detections(enough)
    assert caplog.text == ""
    warn_of_few_detections(few)
    assert "matcher.max_detections=100 keeps fewer. Set matcher.max_detections=300" in caplog.text


def coco_folder(folder: Path, images: Mapping[ImageId, Json], *, annotated: bool = True) -> ExperimentConfig:
    """Write a data set for `dataset=coco_json`; return the settings of a run on it, evaluated by LVIS' protocol."""
    (folder / "annotations").mkdir()
    (folder / "images").mkdir()
    document = json.loads(lvis(folder, [entry(1, 1, HERE)], images).annotation_file.read_text())
    (folder / "annotations" / "references.json").write_text(json.dumps(document))
    if not annotated:
        del document["annotations"]
    (folder / "annotations" / "targets.json").write_text(json.dumps(document))
    return compose_config(["dataset=coco_json", f"dataset.root={folder}", "evaluation.protocol=lvis"])


@cases("broken")({}, {"neg_category_ids": [1]}, {"neg_category_ids": ["cat"], "not_exhaustive_category_ids": []})
def test_files_that_do_not_say_what_was_looked_for_are_refused(tmp_path, broken):
    with pytest.raises(DataError, match=r"needs the lists `neg_cat.* 2 of 3 images of .*\(image 2, 3\).*protocol=coco"):
        measure(lvis(tmp_path, [entry(1, 1, HERE)], {1: facts(), 2: broken, 3: broken}))


def test_a_run_refuses_them_before_any_work_but_targets_without_annotations_need_no_lists(tmp_path):
    (tmp_path / "bare").mkdir()
    inputs = read_inputs(coco_folder(tmp_path / "bare", {1: {}}, annotated=False))
    metrics = measure(inputs.target_data)
    assert (metrics.overall, metrics.num_objects) == ({}, 0)
    settings = coco_folder(tmp_path, {1: {}})
    with pytest.raises(DataError, match="1 of 1 images"):
        read_inputs(settings)
    by_coco = replace(settings, evaluation=replace(settings.evaluation, protocol="coco"))
    assert read_inputs(by_coco).target_data.has_annotations


def test_merged_files_keep_the_lists_under_the_new_ids(tmp_path):
    """Dogs have id 2 in the first file and cats in the second, where cats become 3."""
    files = []
    for image_id, classes in ((1, {1: "cat", 2: "dog"}), (5, {2: "bird", 1: "cat"})):
        folder = tmp_path / str(image_id)
        folder.mkdir()
        images = {image_id: facts([2], [1])}
        dataset = lvis(folder, [entry(image_id, 1, HERE)], images, classes=classes, frequencies={})
        files.append((dataset.annotation_file, folder))
    document = merge(files).document
    assert {category["name"]: category["id"] for category in document["categories"]} == {"cat": 1, "dog": 2, "bird": 3}
    names = ("neg_category_ids", "not_exhaustive_category_ids")
    assert [[image[name] for name in names] for image in document["images"]] == [[[2], [1]], [[3], [1]]]
