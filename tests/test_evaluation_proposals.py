"""Candidate recall: equal to pycocotools without classes, and rules worked by hand."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from drawn_candidates import rles_of
from evaluation_samples import Box, cocoeval, dataset, entry, rectangle
from pycocotools import mask as coco_mask
from pycocotools.cocoeval import COCOeval

from ntt.evaluation.ground_truth import prepare_ground_truth
from ntt.evaluation.proposals import average_recall, finding_ranks
from ntt.ops.mask_changes import mask_changes
from ntt.ops.run_lengths import to_run_lengths
from ntt.types import Candidates, Category, Detections

HERE: Box = (0, 0, 20, 20)
THERE: Box = (25, 15, 20, 20)


def candidates(boxes: Sequence[Box], predicted_iou: Sequence[float]) -> Candidates:
    count = len(boxes)
    masks = np.array([rectangle(box) for box in boxes], dtype=np.bool_).reshape(count, 40, 50)
    return Candidates(
        height=40,
        width=50,
        masks=to_run_lengths(mask_changes(torch.from_numpy(masks))),
        grid_boxes_xyxy=np.zeros((count, 4), np.float32),
        predicted_iou=np.array(predicted_iou, dtype=np.float32),
        features=np.zeros((count, 2), np.float32),
    )


def test_recall_by_hand(tmp_path: Path):
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


@pytest.mark.parametrize("seed", range(3))
def test_recall_is_that_of_pycocotools_without_classes(tmp_path: Path, seed: int):
    random = np.random.default_rng(seed)

    def box() -> Box:
        left, top = (int(value) for value in random.integers(0, 30, 2))
        return left, top, int(random.integers(3, 20)), int(random.integers(3, 10))

    annotations, found, ranks = [], [], []
    for image_id in (1, 2, 3):
        objects = [box() for _ in range(6)]
        annotations += [entry(image_id, 1 + index % 2, each) for index, each in enumerate(objects)]
        near = [
            tuple(int(v) for v in np.maximum(np.add(each, random.integers(-1, 2, 4)), [0, 0, 1, 1])) for each in objects
        ]
        boxes = [*near, *near[::-1], *(box() for _ in range(300))]
        order = random.permutation(len(boxes))
        found.append((image_id, [boxes[index] for index in order], random.integers(1, 9, len(boxes)) / 10))
    data = dataset(tmp_path, annotations, image_ids=[1, 2, 3], classes={1: "cat", 2: "dog"})
    prepared = prepare_ground_truth(data, data.categories)
    detections = []
    for image_id, boxes, scores in found:
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
