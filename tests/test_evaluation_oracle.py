"""Our evaluator equals pycocotools in every digit, whatever it is given; ids make no difference."""

import contextlib
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import cases
from evaluation_samples import HEIGHT, WIDTH, Box, cocoeval, dataset, detect, encode, entry
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ntt.data.coco import CocoDataset, read_coco
from ntt.data.masks import instance_mask
from ntt.evaluation.ground_truth import prepare_ground_truth
from ntt.evaluation.matching import match
from ntt.evaluation.precision_recall import precision_recall
from ntt.evaluation.table import tabulate
from ntt.run.artefacts import write_predictions
from ntt.stages.evaluation import evaluate
from ntt.types import Category, Detections, ImageId, Json

CLASSES = {9: "late", 2: "early", 5: "absent"}
SMALL: Box = (0, 0, 10, 10)


def assert_same(data: CocoDataset, detections: list[Detections], categories: tuple[Category, ...]) -> float:
    """Compare with pycocotools bit for bit; return the largest box AP50 of a class: is there a match at all?"""
    ground_truth = prepare_ground_truth(data, categories)
    table = tabulate(detections, categories, ground_truth)
    for kind in ("bbox", "segm") if data.has_masks else ("bbox",):
        expected = cocoeval(data, detections, categories, kind).eval
        ours = precision_recall(match(table, ground_truth, kind), table, ground_truth)
        np.testing.assert_array_equal(ours.precision, expected["precision"][..., -1], err_msg=kind)
        np.testing.assert_array_equal(ours.recall, expected["recall"], err_msg=kind)
    metrics = evaluate(detections=detections, ground_truth=data, categories=categories)
    return max((values.get("AP50", 0.0) for values in metrics.per_class["bbox"].values()), default=0.0)


def random_box(random: np.random.Generator) -> Box:
    """Sides of 2 to 38 px, so that areas fall on both sides of 32**2."""
    width, height = random.integers(2, 39, 2).tolist()
    return int(random.integers(0, WIDTH - width + 1)), int(random.integers(0, HEIGHT - height + 1)), width, height


def nearby(box: Box, random: np.random.Generator) -> Box:
    left, top, width, height = (value + int(random.integers(-2, 3)) for value in box)
    left, top = min(max(left, 0), WIDTH - 2), min(max(top, 0), HEIGHT - 2)
    return left, top, min(max(width, 1), WIDTH - left), min(max(height, 1), HEIGHT - top)


def random_case(
    folder: Path, seed: int, image_ids: list[ImageId], *, masked: bool
) -> tuple[CocoDataset, list[Detections]]:
    """Objects, crowds, areas that contradict boxes; near hits, repeats, wild guesses; few distinct scores."""
    random = np.random.default_rng(seed)
    annotations: list[Json] = []
    detections: list[Detections] = []
    for image_id in image_ids:
        shapes: list[tuple[int, Box, float]] = []
        for _ in range(int(random.integers(0, 7))):
            box, label = random_box(random), int(random.integers(0, 2))
            more = {"iscrowd": int(random.random() < 0.2)}
            if random.random() < 0.3:
                more["area"] = int(random.choice([0, 1024, 1025, 9216, 9217]))
            annotations.append(entry(image_id, (2, 9)[label], box, masked=masked, **more))
            for _ in range(int(random.integers(0, 5))):
                near = box if random.random() < 0.3 else nearby(box, random)
                shapes.append((0 if label == 0 else 2, near, float(random.integers(1, 6)) / 5))
        shapes += [(int(random.integers(0, 3)), random_box(random), 0.2) for _ in range(int(random.integers(0, 9)))]
        random.shuffle(shapes)
        detections.append(detect(image_id, *(shapes if random.random() < 0.85 else [])))
    return dataset(folder, annotations, image_ids=image_ids, classes=CLASSES), detections


@cases("seed")(*range(6))
@cases("masked", ids=["masks", "boxes"])(True, False)
def test_random_images(tmp_path, seed, masked, monkeypatch):
    monkeypatch.setattr("ntt.evaluation.matching._PAIRS", (1 << 20, 5)[seed % 2])
    ids: list[ImageId] = [30, 4, 100, 7, 22, 1, 55, 8] if seed % 2 else ["b", "a", "10", "9", "é", "z", "A", "bb"]
    truth, detections = random_case(tmp_path, seed, ids, masked=masked)
    assert truth.has_masks == masked
    assert assert_same(truth, detections, truth.categories) > 0


def test_boxes_count_as_written_and_a_hundred_of_a_class(tmp_path):
    annotations = [
        {**entry(1, 2, (0, 10, 15, 10)), "bbox": [-5, 10, 20, 10], "id": 0},
        entry(1, 2, (20, 0, 20, 30), masked=False, iscrowd=1),
    ]
    truth = dataset(tmp_path, annotations, image_ids=[1], classes=CLASSES)
    assert truth.has_masks
    boxes = [(0, (0, 10, 15, 10), 0.9), (0, (22, 2, 9, 9), 0.8)]
    detections = [replace(detect(1, *boxes), boxes_xywh=np.array([[-5, 10, 20, 10], [22, 2, 9, 9]], dtype=np.float32))]
    assert assert_same(truth, detections, truth.categories) == pytest.approx(100)
    boxes: list[Box] = [(column, row, 2, 2) for column in range(0, 48, 3) for row in range(0, 36, 4)]
    truth = dataset(tmp_path, [entry(1, 2, box) for box in boxes[:120]], image_ids=[1], classes=CLASSES)
    scores = np.linspace(1, 0.1, len(boxes)).tolist()
    detections = [detect(1, *((0, box, score) for box, score in zip(boxes, scores, strict=True)))]
    assert assert_same(truth, detections, truth.categories) > 0
    recall = evaluate(detections=detections, ground_truth=truth, categories=truth.categories)
    assert recall.overall["bbox"]["AR100"] == pytest.approx(100 * 100 / 120)


@cases("annotations", "detected", ids=["no detections", "no objects of the class", "crowd only"])(
    ([entry(1, 2, SMALL)], []),
    ([entry(1, 9, SMALL)], [(0, SMALL, 0.9), (0, (1, 0, 10, 10), 0.9)]),
    ([entry(1, 2, (5, 5, 30, 30), iscrowd=1)], [(0, SMALL, 0.9)]),
)
def test_degenerate(tmp_path, annotations, detected):
    truth = dataset(tmp_path, annotations, image_ids=[1, 2], classes=CLASSES)
    assert_same(truth, [detect(1, *detected), detect(2)], truth.categories)


@cases("objects", "crowds", "detected", "is_match", "is_ignored")(
    # Of two equal objects the last is taken first; the second detection gets the other, a third nothing.
    ([SMALL, SMALL], [], [SMALL] * 3, [True, True, False], [False, False, False]),
    # A crowd region swallows what lies in it.
    ([SMALL], [(20, 0, 20, 20)], [(20, 0, 5, 5), (30, 5, 5, 5), SMALL], [True] * 3, [True, True, False]),
)
def test_assignments_by_hand(tmp_path, objects, crowds, detected, is_match, is_ignored):
    annotations = [*(entry(1, 2, box) for box in objects), *(entry(1, 2, box, iscrowd=1) for box in crowds)]
    data = dataset(tmp_path, annotations, image_ids=[1], classes={2: "a"})
    detections = [detect(1, *((0, box, 0.9) for box in detected))]
    ground_truth = prepare_ground_truth(data, data.categories)
    matches = match(tabulate(detections, data.categories, ground_truth), ground_truth, "segm")
    assert matches.is_match[0, 0].tolist() == is_match
    assert matches.is_ignored[0, 0].tolist() == is_ignored
    assert assert_same(data, detections, data.categories) == pytest.approx(100)


@cases("ids")(
    [2**63 - 2, 2**63 - 1, 2**63, 2**64 + 5],
    [5, 2**53, 2**53 + 1, 2**128],
    ["a", "b", "c", "d"],
    [7, 2**63, "7", "x"],
)
def test_ids_of_any_kind_give_the_same_numbers(tmp_path, ids):
    """Images and categories are numbered anew: from 2^53 on float64 cannot tell ids apart, from 2^63 on int64."""
    data, detections = random_case(tmp_path, 11, [1, 2, 3, 4], masked=True)
    plain = evaluate(detections=detections, ground_truth=data, categories=data.categories, semantic="correct")
    assert set(plain.overall) == {"bbox", "segm", "semantic", "rejection"}
    new_ids, offset = dict(zip(data.images, ids, strict=True)), 2**63 - 5
    images = {new_ids[number]: replace(image, id=new_ids[number]) for number, image in data.images.items()}
    categories = tuple(replace(each, id=each.id + offset) for each in data.categories)
    instances = tuple(
        replace(each, image_id=new_ids[each.image_id], category_id=each.category_id + offset) for each in data.instances
    )
    moved = replace(data, digest=str(ids), images=images, categories=categories, instances=instances)
    detections = [replace(each, image_id=ids[each.image_id - 1]) for each in detections]
    metrics = evaluate(detections=detections, ground_truth=moved, categories=moved.categories, semantic="correct")
    assert metrics == plain


def test_ground_truth_is_prepared_once(tmp_path):
    truth, _ = random_case(tmp_path, 1, [1, 2, 3], masked=True)
    again = read_coco(truth.annotation_file, tmp_path)
    assert prepare_ground_truth(truth, truth.categories) is prepare_ground_truth(again, truth.categories)
    assert prepare_ground_truth(truth, truth.categories[:1]) is not prepare_ground_truth(truth, truth.categories)
    for number in range(5):
        folder = tmp_path / str(number)
        folder.mkdir()
        other, _ = random_case(folder, number, [1, 2, 3], masked=True)
        last = prepare_ground_truth(other, other.categories)
    assert prepare_ground_truth(other, other.categories) is last


def shaken(truth: CocoDataset, categories: tuple[Category, ...], *, seed: int) -> list[Detections]:
    """The ground truth, moved, partly renamed, scored from a small set, with repeats: realistic masks of all sizes."""
    random = np.random.default_rng(seed)
    class_indices = {category.id: index for index, category in enumerate(categories)}
    detections = []
    for image in truth.images.values():
        shapes, masks = [], []
        for instance in truth.instances_of_image(image.id):
            if instance.category_id not in class_indices:
                continue
            mask = instance_mask(instance, image.height, image.width)
            for _ in range(int(random.integers(1, 4))):
                masks.append(np.roll(mask, random.integers(-4, 5, 2).tolist(), axis=(0, 1)))
                label = class_indices[instance.category_id]
                label = int(random.integers(len(categories))) if random.random() < 0.2 else label
                box = coco_mask.toBbox({"size": mask.shape, "counts": encode(masks[-1])})
                shapes.append((label, box, float(random.integers(1, 21)) / 20))
        detections.append(detect(image.id, *shapes, size=(image.height, image.width), masks=masks))
    return detections


def test_real_ground_truth(shared_dir, tmp_path):
    root = shared_dir / "data" / "coco_dev"
    truth = read_coco(root / "annotations" / "targets.json", root / "images")
    categories = tuple(category for category in truth.categories if category.id % 4 == 1)
    assert any(instance.iscrowd and instance.category_id % 4 == 1 for instance in truth.instances)
    detections = shaken(truth, categories, seed=0)
    assert assert_same(truth, detections, categories) > 50
    # And as people use pycocotools: on the files.
    results = write_predictions(tmp_path / "predictions.json", detections, categories)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(truth.annotation_file))
        evaluation = COCOeval(coco, coco.loadRes(str(results)), "bbox")
        evaluation.params.catIds = [category.id for category in categories]
        for step in (evaluation.evaluate, evaluation.accumulate, evaluation.summarize):
            step()
    metrics = evaluate(detections=detections, ground_truth=truth, categories=categories)
    assert list(metrics.overall["bbox"].values()) == [100 * value for value in evaluation.stats[:9]]
