"""Metrics are pycocotools'; further rules worked by hand: rejection, painted detections, recall, thresholds."""

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import drawn_candidates
import numpy as np
import pytest
import torch
from conftest import cases
from drawn_candidates import rles_of
from evaluation_samples import Box, cocoeval, dataset, detect, entry, rectangle
from pycocotools import mask as coco_mask
from pycocotools.cocoeval import COCOeval
from tiny_data import HEIGHT, WIDTH, shape_mask

from ntt.data.coco import CocoDataset, read_coco
from ntt.evaluation.curves import Painting
from ntt.evaluation.ground_truth import prepare_ground_truth
from ntt.evaluation.matching import match
from ntt.evaluation.proposals import average_recall, finding_ranks
from ntt.evaluation.table import tabulate
from ntt.evaluation.thresholds import OperatingPoint, RankedDetections, operating_points, propose_thresholds
from ntt.run.artefacts import flat_metrics, read_metrics, read_predictions, write_metrics, write_predictions
from ntt.run.table import metrics_table
from ntt.stages.evaluation import evaluate
from ntt.stages.leave_one_out import bootstrap_ap
from ntt.types import Candidates, Category, Detections, Metrics

DISC, SQUARE = Category(3, "disc"), Category(7, "square")


def drawn(image_id: int, *shapes: tuple[int, int, int, int, float]) -> Detections:
    """Detections of (class index, x, y, size, score)."""
    masks = [shape_mask((3, 7)[label], x, y, size) for label, x, y, size, _ in shapes]
    boxes = ((label, (x, y, size, size), score) for label, x, y, size, score in shapes)
    return detect(image_id, *boxes, size=(HEIGHT, WIDTH), masks=masks)


PERFECT = [drawn(101, (0, 10, 10, 40, 0.9), (1, 70, 40, 36, 0.8)), drawn(102, (1, 40, 20, 50, 0.9)), drawn(103)]
PERFECT += [drawn(104, (0, 70, 30, 44, 0.9), (0, 15, 30, 36, 0.7))]
MIXED = [drawn(101, (0, 14, 10, 40, 0.9), (0, 70, 40, 36, 0.8), (1, 71, 42, 36, 0.3)), drawn(102)]
MIXED += [drawn(103, (1, 5, 5, 30, 0.5)), drawn(104, (0, 70, 32, 44, 0.6), (0, 15, 34, 36, 0.9))]


def evaluated(tiny: Path, detections: list[Detections], *, semantic: Painting = "none") -> Metrics:
    ground_truth = read_coco(tiny / "annotations" / "targets.json", tiny / "images")
    choice = {"semantic": semantic, "semantic_threshold": 0.75}
    return evaluate(detections=detections, ground_truth=ground_truth, categories=(DISC, SQUARE), **choice)


def test_predictions_and_metrics_come_back_as_they_were(tmp_path, tiny):
    odd = replace(MIXED[0], image_id='ü"\\', rles=tuple(b"0\\" + rle for rle in MIXED[0].rles))
    thirds = np.random.default_rng(0).integers(-9, 9999, (2, 4)).astype(np.float32) / 3
    numbers = [replace(MIXED[0], scores=np.float32([1, low, 0]), boxes_xywh=thirds[[0, 1, 0]]) for low in (9e-5, 1e-4)]
    for detections in ([], [*MIXED, odd], [odd], numbers):
        write_predictions(tmp_path / "predictions.json", detections, (DISC, SQUARE))
        text = (tmp_path / "predictions.json").read_text(encoding="utf-8")
        results = json.loads(text)
        assert text == json.dumps(results, ensure_ascii=False) + "\n"
        assert len(results) == sum(len(image.labels) for image in detections)
    metrics = evaluated(tiny, MIXED)
    write_metrics(tmp_path / "metrics.json", metrics)
    assert read_metrics(tmp_path / "metrics.json") == metrics
    truth = read_coco(tiny / "annotations" / "targets.json", tiny / "images")
    write_predictions(tmp_path / "predictions.json", MIXED, (DISC, SQUARE))
    back = read_predictions(tmp_path / "predictions.json", list(truth.images.values()), (DISC, SQUARE))
    for before, after in zip(MIXED, back, strict=True):
        assert (before.image_id, before.height, before.width) == (after.image_id, after.height, after.width)
        assert before.rles == after.rles
        for name in ("labels", "scores", "boxes_xywh"):
            np.testing.assert_array_equal(getattr(before, name), getattr(after, name))
            assert getattr(before, name).dtype == getattr(after, name).dtype


def test_semantic_columns_of_the_table(tiny):
    metrics = evaluated(tiny, PERFECT, semantic="correct")
    lines = metrics_table(metrics).splitlines()
    assert lines[0].split()[-3:] == ["mask", "AR", "IoU"]
    discs = metrics.per_class["semantic"]["disc"]["IoU"]
    areas = [np.count_nonzero(shape_mask(3, x, y, size)) for x, y, size in ((10, 10, 40), (70, 30, 44), (15, 30, 36))]
    assert discs == pytest.approx(100 * sum(areas[:2]) / sum(areas), abs=2)  # the third scores 0.7; outlines round
    assert lines[2].split()[-1] == f"{discs:.1f}"
    assert lines[5].split()[-1] == f"{metrics.overall['semantic']['mIoU']:.1f}"
    assert flat_metrics(metrics)["semantic/IoU/disc"] == discs


TWO_CLASSES = {1: "cat", 2: "dog"}
HERE: Box = (0, 0, 20, 20)
THERE: Box = (25, 15, 20, 20)


def measure(truth: CocoDataset, *detections: Detections) -> Metrics:
    return evaluate(detections=list(detections), ground_truth=truth, categories=truth.categories)


def four_objects(folder: Path) -> CocoDataset:
    """Cats on images 1 and 2, dogs on 2 and 3, nothing on 4 and 5."""
    annotations = [entry(1, 1, HERE), entry(2, 1, HERE), entry(2, 2, THERE), entry(3, 2, HERE)]
    return dataset(folder, annotations, image_ids=[1, 2, 3, 4, 5], classes=TWO_CLASSES)


def test_numbers_worked_by_hand(tmp_path):
    """Found: 0.9, 0.7 and 0.3 of four objects, so half recall is at 0.7; on images 4 and 5 three score as much."""
    detections = [
        detect(1, (0, HERE, 0.9), (0, THERE, 0.95)),
        detect(2, (1, THERE, 0.7), (0, THERE, 0.6)),
        detect(3, (1, HERE, 0.3)),
        detect(4, (0, HERE, 0.8), (1, HERE, 0.7), (0, THERE, 0.69)),
        detect(5, (1, THERE, 0.75)),
    ]
    metrics = measure(four_objects(tmp_path), *detections)
    rejection = metrics.overall["rejection"]
    assert rejection["FPPI@R50"] == 3 / 2
    assert rejection["score@R50"] == pytest.approx(0.7, abs=1e-7)
    assert rejection["max_recall"] == 75
    assert rejection["negative_images"] == 2
    assert metrics_table(metrics).splitlines()[-2:] == [
        "At 50 % recall, false positives per image without any of the classes: 1.50 (2 images, score 0.700).",
        "At 50 % recall, false positives per image without the class: 0.33 (mean of 2 of 2 classes).",
    ]
    assert flat_metrics(metrics)["rejection/FPPI@R50/cat"] == 0
    # cat: one of two at 0.9; on images 3, 4, 5 no cat scores that much.
    # dog: one of two at 0.7; on images 1, 4, 5 two dogs do.
    cat, dog = metrics.per_class["rejection"]["cat"], metrics.per_class["rejection"]["dog"]
    assert (cat["FPPI@R50"], cat["max_recall"], cat["negative_images"]) == (0, 50, 3)
    assert cat["score@R50"] == pytest.approx(0.9, abs=1e-7)
    assert (dog["FPPI@R50"], dog["max_recall"], dog["negative_images"]) == (2 / 3, 100, 3)
    assert (rejection["mFPPI@R50"], rejection["classes@R50"]) == (1 / 3, 2)


def test_recall_below_a_half_and_images_that_are_not_negative(tmp_path):
    metrics = measure(four_objects(tmp_path), detect(1, (0, HERE, 0.9)), detect(2), detect(3), detect(4), detect(5))
    assert metrics.overall["rejection"] == {"max_recall": 25, "negative_images": 2, "mFPPI@R50": 0, "classes@R50": 1}
    assert metrics.per_class["rejection"]["dog"] == {"max_recall": 0, "negative_images": 3}
    # Image 2 holds a crowd, image 3 a box without area: neither is negative, and neither object is to be found.
    annotations = [entry(1, 1, HERE), entry(2, 1, HERE, iscrowd=1), entry(3, 1, (5, 5, 0, 9), masked=False)]
    truth = dataset(tmp_path, annotations, image_ids=[1, 2, 3, 4], classes={1: "cat"})
    detections = [detect(1, (0, HERE, 0.5)), *(detect(number, (0, THERE, 0.9)) for number in (2, 3, 4))]
    rejection = measure(truth, *detections).overall["rejection"]
    assert (rejection["negative_images"], rejection["max_recall"], rejection["FPPI@R50"]) == (1, 100, 1)
    # Over all classes there is none, but image 1 holds no dog and image 2 no cat.
    truth = dataset(tmp_path, [entry(1, 1, HERE), entry(2, 2, HERE)], image_ids=[1, 2], classes=TWO_CLASSES)
    metrics = measure(truth, detect(1, (0, HERE, 0.5), (1, HERE, 0.7)), detect(2, (1, HERE, 0.7)))
    assert metrics.overall["rejection"] == {"mFPPI@R50": 0.5, "classes@R50": 2}
    assert metrics.per_class["rejection"]["dog"]["FPPI@R50"] == 1
    single = dataset(tmp_path, [entry(1, 1, HERE)], image_ids=[1], classes={1: "cat"})
    assert "rejection" not in measure(single, detect(1, (0, HERE, 0.5))).overall


PAINTED_CLASSES = {1: "first", 2: "second", 3: "third"}
LEFT: Box = (0, 0, 20, 40)  # 800 px
MIDDLE: Box = (10, 0, 20, 40)  # 800 px, 400 of them in LEFT
SMALL: Box = (0, 0, 10, 10)  # 100 px in LEFT
WIDE: Box = (20, 0, 30, 10)  # 300 px
RIGHT = dict.fromkeys(PAINTED_CLASSES.values(), 100)
OVERLAPPING = [entry(1, 2, LEFT), entry(1, 3, MIDDLE)]


def painted(truth: CocoDataset, painting: Any, detections: Sequence[Detections], threshold: float = 0.5) -> Metrics:
    choice = {"semantic": painting, "semantic_threshold": threshold}
    return evaluate(detections=detections, ground_truth=truth, categories=truth.categories, **choice)


@cases("painting", "annotations", "detections", "expected")(
    # Second owns all of LEFT; third keeps the 400 px of MIDDLE outside it. The order of the list does not matter.
    ("correct", OVERLAPPING, [detect(1, (1, LEFT, 0.9), (2, MIDDLE, 0.8))], {"second": 100, "third": 50}),
    ("correct", OVERLAPPING, [detect(1, (2, MIDDLE, 0.8), (1, LEFT, 0.9))], {"second": 100, "third": 50}),
    # Of equal scores the one listed first owns the pixel.
    ("correct", OVERLAPPING, [detect(1, (2, MIDDLE, 0.8), (1, LEFT, 0.8))], {"second": 50, "third": 100}),
    # Pixels are added up over images before dividing: 800 of 800 found; of 100 px none, and 300 px elsewhere.
    ("correct", [entry(1, 1, LEFT), entry(2, 1, SMALL)], [detect(1, (0, LEFT, 0.9)), detect(2, (0, WIDE, 0.6))],
     {"first": 100 * 800 / 1200}),
    # Objects of a class, 1200 px, are one region, and the crowd of 100 px belongs to it.
    ("correct", [entry(1, 1, LEFT), entry(1, 1, MIDDLE), entry(1, 1, (40, 0, 10, 10), iscrowd=1)],
     [detect(1, (0, (0, 0, 30, 40), 0.9))], {"first": 100 * 1200 / 1300}),
    # Both ground truth maps have third on MIDDLE, second on the rest of LEFT, and first as background.
    ("reference", OVERLAPPING, [detect(1, (1, LEFT, 0.9), (2, MIDDLE, 0.8))], RIGHT),
    # Lower scores are painted later: second covers third.
    ("reference", OVERLAPPING, [detect(1, (1, LEFT, 0.8), (2, MIDDLE, 0.9))], RIGHT | {"second": 50, "third": 50}),
    # Background counts as the first class: image 1 is right everywhere; in image 2, 800 px are painted wrongly.
    ("reference", [entry(1, 1, LEFT)], [detect(1), detect(2, (1, LEFT, 0.9))], {"first": 100 * 3200 / 4000}),
    ("correct", [entry(1, 1, LEFT)], [detect(1), detect(2, (1, LEFT, 0.9))], {"first": 0}),
)  # fmt: skip
def test_paintings(tmp_path, painting, annotations, detections, expected):
    truth = dataset(tmp_path, annotations, image_ids=range(1, len(detections) + 1), classes=PAINTED_CLASSES)
    metrics = painted(truth, painting, detections)
    iou = {name: values["IoU"] for name, values in metrics.per_class["semantic"].items() if values}
    assert iou == pytest.approx(expected)
    assert metrics.overall["semantic"] == {"mIoU": pytest.approx(sum(expected.values()) / len(expected))}


def test_both_ends_of_the_threshold_and_without_masks(tmp_path, caplog):
    truth = dataset(tmp_path, [entry(1, 1, LEFT)], image_ids=[1], classes=PAINTED_CLASSES)
    for threshold, expected in ((0.5, 100.0), (0.5000001, 0.0), (0.0, 100.0), (1.0, 0.0)):
        metrics = painted(truth, "correct", [detect(1, (0, LEFT, 0.5))], threshold)
        assert metrics.overall["semantic"] == {"mIoU": pytest.approx(expected)}, threshold
    truth = dataset(tmp_path, [entry(1, 1, LEFT, masked=False)], image_ids=[1], classes=PAINTED_CLASSES)
    assert "semantic" not in painted(truth, "none", [detect(1)]).overall
    with caplog.at_level(logging.WARNING):
        assert "semantic" not in painted(truth, "correct", [detect(1)]).overall
    assert "No mIoU: not every object of the ground truth has a mask." in caplog.text


def candidates(boxes: Sequence[Box], predicted_iou: Sequence[float]) -> Candidates:
    masks = np.array([rectangle(box) for box in boxes], dtype=np.bool_).reshape(len(boxes), 40, 50)
    return drawn_candidates.candidates(torch.from_numpy(masks), predicted_iou, np.zeros((len(boxes), 2)))


def test_recall_by_hand(tmp_path):
    """The first object is covered exactly by the 150th candidate; the crowd and the other class's object count not."""
    annotations = [entry(1, 1, HERE), entry(1, 2, THERE), entry(1, 1, THERE, iscrowd=1), entry(2, 1, HERE)]
    data = dataset(tmp_path, annotations, image_ids=[1, 2, 3], classes={1: "cat", 2: "dog"})
    prepared = prepare_ground_truth(data, data.categories[:1])
    boxes: list[Box] = [(45, 0, 5, 5)] * 149 + [HERE]
    first = finding_ranks(candidates(boxes, np.linspace(1, 0, 150)), prepared, 1)
    assert first["bbox"].tolist() == first["segm"].tolist() == [[149]] * 10
    nothing = finding_ranks(candidates([], []), prepared, 2)
    assert finding_ranks(candidates(boxes, [1.0] * 150), prepared, 3)["bbox"].shape == (10, 0)
    assert average_recall([first, nothing])["segm"] == {"AR100": 0, "AR300": 50, "AR1000": 50}
    assert average_recall([]) == {}
    # Half of an object is enough for the lowest of ten thresholds.
    half = finding_ranks(candidates([(0, 0, 20, 10)], [0.5]), prepared, 1)
    assert average_recall([half])["bbox"]["AR100"] == pytest.approx(10)


@cases("seed")(*range(3))
def test_recall_is_that_of_pycocotools_without_classes(tmp_path, seed):
    random = np.random.default_rng(seed)

    def box() -> Box:
        left, top = (int(value) for value in random.integers(0, 30, 2))
        return left, top, int(random.integers(3, 20)), int(random.integers(3, 10))

    annotations, proposed, ranks = [], [], []
    for image_id in (1, 2, 3):
        objects = [box() for _ in range(6)]
        annotations += [entry(image_id, 1 + index % 2, each) for index, each in enumerate(objects)]
        near = [
            tuple(int(v) for v in np.maximum(np.add(each, random.integers(-1, 2, 4)), [0, 0, 1, 1])) for each in objects
        ]
        boxes = [*near, *near[::-1], *(box() for _ in range(300))]
        order = random.permutation(len(boxes))
        proposed.append((image_id, [boxes[index] for index in order], random.integers(1, 9, len(boxes)) / 10))
    data = dataset(tmp_path, annotations, image_ids=[1, 2, 3], classes={1: "cat", 2: "dog"})
    prepared = prepare_ground_truth(data, data.categories)
    detections = []
    for image_id, boxes, scores in proposed:
        given = candidates(boxes, scores)
        ranks.append(finding_ranks(given, prepared, image_id))
        rles = rles_of(given)
        xywh = np.array([coco_mask.toBbox({"size": [40, 50], "counts": rle}) for rle in rles], dtype=np.float32)
        labels = np.zeros(len(boxes), dtype=np.int64)
        detections.append(Detections(image_id, 40, 50, labels, given.predicted_iou, xywh, rles))
    ours = average_recall(ranks)
    for kind in ("bbox", "segm"):
        evaluation: COCOeval = cocoeval(data, detections, (Category(1, "cat"), Category(2, "dog")), kind)
        evaluation.params.useCats, evaluation.params.maxDets = 0, [100, 300, 1000]
        evaluation.evaluate()
        evaluation.accumulate()
        recall = evaluation.eval["recall"][:, 0, 0]  # [T, limits]
        assert list(ours[kind].values()) == pytest.approx((100 * recall.mean(axis=0)).tolist())


def ranked(hits: str, scores: list[float], objects: int) -> RankedDetections:
    """Detections as "+" and "-", by descending score."""
    return RankedDetections(np.array(scores), np.array([hit == "+" for hit in hits], dtype=np.bool_), objects)


@cases("threshold", "expected")(
    (0.5, (50, 25, 100 / 3)), (0.5001, (100, 25, 40)), (0.0, (60, 75, 200 / 3)), (0.95, (0, 0, 0))
)
def test_points_by_hand(threshold, expected):
    point = ranked("+-++-", [0.9, 0.5, 0.3, 0.2, 0.1], 4).at(threshold)
    assert (point.precision, point.recall, point.f1) == pytest.approx(expected)


def test_the_best_point_and_the_proposal():
    # F1 of the first 1, 2, ...: 2/5, 2/6, 4/7, 6/8, 6/9.
    detections = ranked("+-++-", [0.9, 0.5, 0.3, 0.2, 0.1], 4)
    assert detections.best() == OperatingPoint(0.2, 75.0, 75.0, 75.0)
    weights = np.array([2 / 5, 2 / 6, 4 / 7, 6 / 8, 6 / 9]) ** 4
    assert detections.proposal() == pytest.approx((weights * [0.9, 0.5, 0.3, 0.2, 0.1]).sum() / weights.sum())
    # No threshold separates equal scores.
    tied = ranked("+-+", [0.9, 0.9, 0.4], 2)
    assert tied.best() == OperatingPoint(0.4, pytest.approx(200 / 3), 100.0, 80.0)
    assert tied.proposal() == pytest.approx((0.5**4 * 0.9 + 0.8**4 * 0.4) / (0.5**4 + 0.8**4))


@cases("detections")(ranked("", [], 3), ranked("--", [0.5, 0.4], 3))
def test_without_a_hit_there_is_no_proposal(detections):
    assert detections.best() is None
    assert detections.proposal() is None
    assert detections.at(0.4).f1 == 0


THREE_CLASSES = {1: "cat", 2: "dog", 3: "owl"}


def test_a_class_has_its_own_proposal_and_a_share_of_the_pooled_one(tmp_path):
    box, other = (0, 0, 10, 10), (20, 20, 10, 10)
    objects = dataset(tmp_path, [entry(1, 1, box), entry(2, 2, box)], image_ids=[1, 2], classes=THREE_CLASSES)
    detections = [
        detect(1, (0, box, 0.8), (0, other, 0.4), (2, other, 0.2)),
        detect(2, (1, box, 0.6), (1, other, 0.5)),
    ]
    ground_truth = prepare_ground_truth(objects, objects.categories)
    table = tabulate(detections, objects.categories, ground_truth)
    matches = match(table, ground_truth, "bbox")
    # F1 of cats and dogs is 1 and 2/3, that of all together 2/3, 1, 4/5, 2/3, 4/7; owls are never hit.
    cats, dogs, pooled = 0.734031, 0.583505, 0.556255
    proposals = propose_thresholds(matches, table, ground_truth, num_images=[2, 2, 2])
    assert proposals == pytest.approx([(cats + pooled) / 2, (dogs + pooled) / 2, pooled], abs=1e-5)
    proposals = propose_thresholds(matches, table, ground_truth, num_images=[1, 2, 2])
    assert proposals == pytest.approx([pooled, (dogs + pooled) / 2, pooled], abs=1e-5)
    fixed = {"fixed": dict.fromkeys(THREE_CLASSES.values(), 0.45)}
    points = operating_points(matches, table, ground_truth, fixed)
    assert list(points) == ["cat", "dog", ""]
    assert (points["cat"]["fixed"].f1, points["dog"]["fixed"].f1) == pytest.approx((100, 200 / 3))
    assert points[""]["fixed"].f1 == pytest.approx(250 / 3)
    assert points[""]["best"] == OperatingPoint(pytest.approx(0.7), 100, 100, 100)


def test_draws_of_images(tmp_path):
    box, other = (0, 0, 10, 10), (20, 20, 10, 10)
    objects = dataset(tmp_path, [entry(1, 1, box), entry(2, 1, box)], image_ids=[1, 2], classes={1: "cat"})
    ground_truth = prepare_ground_truth(objects, objects.categories)
    table = tabulate([detect(1, (0, box, 0.8)), detect(2, (0, other, 0.9))], objects.categories, ground_truth)
    values = bootstrap_ap(table, ground_truth, 40)
    # The first image twice, the second one twice, or both: half of the objects, after a wrong detection.
    both = 100 * 51 / 101 * 0.5
    assert sorted({*values.tolist()}) == pytest.approx([0.0, both, 100.0])
