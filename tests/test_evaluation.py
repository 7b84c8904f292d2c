"""Metrics are those of pycocotools; what cannot be computed is absent."""

import json
from dataclasses import replace
from pathlib import Path

import evaluation_samples
import numpy as np
import pytest
from tiny_data import HEIGHT, WIDTH, shape_mask

from ntt.data.coco import read_coco
from ntt.evaluation.options import Painting
from ntt.run.artefacts import flat_metrics, read_metrics, read_predictions, write_metrics, write_predictions
from ntt.run.table import metrics_table
from ntt.stages.evaluation import evaluate
from ntt.types import Category, Detections, Metrics

DISC, SQUARE = Category(3, "disc"), Category(7, "square")


def detect(image_id: int, *shapes: tuple[int, int, int, int, float]) -> Detections:
    """Detections of (class index, x, y, size, score)."""
    masks = [shape_mask((3, 7)[label], x, y, size) for label, x, y, size, _ in shapes]
    boxes = ((label, (x, y, size, size), score) for label, x, y, size, score in shapes)
    return evaluation_samples.detect(image_id, *boxes, size=(HEIGHT, WIDTH), masks=masks)


PERFECT = [detect(101, (0, 10, 10, 40, 0.9), (1, 70, 40, 36, 0.8)), detect(102, (1, 40, 20, 50, 0.9)), detect(103)]
PERFECT += [detect(104, (0, 70, 30, 44, 0.9), (0, 15, 30, 36, 0.7))]
MIXED = [detect(101, (0, 14, 10, 40, 0.9), (0, 70, 40, 36, 0.8), (1, 71, 42, 36, 0.3)), detect(102)]
MIXED += [detect(103, (1, 5, 5, 30, 0.5)), detect(104, (0, 70, 32, 44, 0.6), (0, 15, 34, 36, 0.9))]


def evaluated(tiny: Path, detections: list[Detections], *, semantic: Painting = "none") -> Metrics:
    ground_truth = read_coco(tiny / "annotations" / "targets.json", tiny / "images")
    choice = {"semantic": semantic, "semantic_threshold": 0.75}
    return evaluate(detections=detections, ground_truth=ground_truth, categories=(DISC, SQUARE), **choice)


def test_predictions_and_metrics_come_back_as_they_were(tmp_path, tiny):
    odd = replace(MIXED[0], image_id='ü"\\', rles=tuple(b"0\\" + rle for rle in MIXED[0].rles))
    for detections in ([], [*MIXED, odd], [odd]):
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
