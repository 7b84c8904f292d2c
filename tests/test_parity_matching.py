"""Candidates and matching against what the reference implementation recorded."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from ntt.matchers.image_terms import ImageTerms
from ntt.matchers.prototype import PrototypeMatcher
from ntt.ops.candidates import measure
from ntt.ops.merging import soft_penalties
from ntt.types import Candidates, Category, Detections, MemoryBank, Proposals, Prototypes

pytestmark = pytest.mark.parity

IMAGES = (5001, 10764, 20992, 25603)
REFERENCE = PrototypeMatcher(box_convention="reference", on_empty="raise")


@pytest.fixture(scope="module")
def memory(recorded_dir: Path) -> MemoryBank:
    recorded = np.load(recorded_dir / "matching_memory.npz")
    categories = tuple(Category(category_id, str(category_id)) for category_id in recorded["category_ids"].tolist())
    return MemoryBank(categories, tuple(torch.from_numpy(recorded["instance_feats"])))


@pytest.fixture(scope="module", params=IMAGES)
def image(request, recorded_dir: Path, device: str) -> tuple[int, Candidates, dict[str, Any]]:
    """An image's id, its candidates made by us, and the recorded values."""
    recorded = dict(np.load(recorded_dir / f"matching_{request.param}.npz"))
    keep = recorded["pred_iou"] > 0.4
    proposals = Proposals(
        torch.from_numpy(recorded["mask_logits_x16_int8"][keep]).to(device).float() / 16,
        torch.from_numpy(recorded["pred_iou"][keep]).to(device),
    )
    feature_map = torch.from_numpy(recorded["target_feats"]).to(device).float().T.reshape(-1, 37, 37)
    height, width = recorded["image_hw"].tolist()
    found = measure(proposals, feature_map, height=height, width=width).candidates("float32")
    return request.param, found, recorded


def prototypes(matcher: PrototypeMatcher, memory: MemoryBank) -> Prototypes:
    vectors, labels = matcher.build_prototypes(memory)
    return Prototypes(memory.categories, vectors, labels)


def expected_detections(folder: Path, image_id: int) -> list[dict[str, Any]]:
    entries = json.loads((folder / "matching_detections.json").read_text())
    return [entry for entry in entries if entry["image_id"] == image_id]


def test_similarity_labels_and_penalties(image, memory):
    _, candidates, recorded = image
    found = REFERENCE.class_scores(candidates, prototypes(REFERENCE, memory))
    np.testing.assert_allclose(found, recorded["similarity"], atol=1e-5)
    scores = REFERENCE.class_scores(candidates, prototypes(REFERENCE, memory))
    labels = scores.argmax(axis=1)
    terms = ImageTerms(candidates)
    kept = terms.suppress(labels, iou_threshold=0.5)[:800]
    assert labels[kept].tolist() == recorded["labels_after_nms"].tolist()
    terms.compare([kept])
    penalties = terms.per_class(
        "soft", kept, labels[kept], lambda m: soft_penalties(terms.overlaps(m), candidates.features[m])
    )
    np.testing.assert_allclose(penalties, recorded["ios_after_nms"], atol=1e-5)


def mask_iou(found: Detections, expected: list[dict[str, Any]]) -> list[float]:
    """IoU of each pair of masks."""
    size = [found.height, found.width]
    return [
        coco_mask.iou([{"size": size, "counts": rle}], [entry["segmentation"]], [0])[0, 0]
        for rle, entry in zip(found.rles, expected, strict=True)
    ]


def test_detections_and_what_default_settings_change(image, memory, recorded_dir):
    image_id, candidates, _ = image
    found = REFERENCE.match(image_id, candidates, prototypes(REFERENCE, memory))
    expected = expected_detections(recorded_dir, image_id)
    assert len(found.scores) == len(expected) == 100
    np.testing.assert_allclose(found.scores, [entry["score"] for entry in expected], atol=1e-5)
    ids = [memory.categories[label].id for label in found.labels.tolist()]
    assert ids == [entry["category_id"] for entry in expected]
    corners = found.boxes_xywh.copy()
    corners[:, 2:] += corners[:, :2]
    np.testing.assert_array_equal(corners, np.array([entry["bbox_xyxy"] for entry in expected], dtype=np.float32))
    assert min(mask_iou(found, expected)) > 0.999
    ours = PrototypeMatcher()
    found = ours.match(image_id, candidates, prototypes(ours, memory))
    reference = REFERENCE.match(image_id, candidates, prototypes(REFERENCE, memory))
    assert np.array_equal(found.scores, reference.scores)
    assert found.rles == reference.rles
    coco_boxes = [coco_mask.toBbox(entry["segmentation"]) for entry in expected]
    np.testing.assert_array_equal(found.boxes_xywh, np.array(coco_boxes, dtype=np.float32))
    assert np.array_equal(found.boxes_xywh - reference.boxes_xywh, np.tile(np.float32([0, 0, 1, 1]), (100, 1)))
