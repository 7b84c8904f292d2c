"""Vectors of references in their full images, and how matchers combine them with those of crops."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from drawn_candidates import rectangles

from ntt.base.distributed import ProcessGroup
from ntt.matchers.prototype import PrototypeMatcher
from ntt.models.box_masks import ReferenceMasks
from ntt.stages.candidates import CandidateSource
from ntt.stages.full_images import full_image_features
from ntt.store.store import Store
from ntt.types import Category, ImageRecord, Instance, MemoryBank, ReferenceSet

CATEGORIES = (Category(3, "cat"), Category(8, "dog"))


@pytest.mark.parametrize(
    ("settings", "cats"),
    [
        ({}, [[3, 4], [0, 2]]),
        ({"reference_vectors": "both"}, [[0.6, 0.8], [0, 1], [1, 0]]),
        ({"reference_vectors": "full"}, [[1, 0], [0, 1]]),
        ({"reference_vectors": "mean"}, [[0.8 / 0.8**0.5, 0.4 / 0.8**0.5], [0, 1]]),
        ({"reference_vectors": "mean", "full_share": 0.25}, [[0.7 / 0.85**0.5, 0.6 / 0.85**0.5], [0, 1]]),
    ],
)
def test_vectors_that_a_matcher_reads(settings: Mapping[str, Any], cats: list[list[float]]):
    # No candidate reaches the second cat.
    features = (torch.tensor([[3.0, 4.0], [0.0, 2.0]]), torch.tensor([[5.0, 0.0]]))
    full = (torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.tensor([[0.0, 1.0]]))
    memory = MemoryBank(CATEGORIES, features, features, clear_backgrounds=full, full=full)
    selected = PrototypeMatcher(**settings).select(memory)
    torch.testing.assert_close(selected.features[0], torch.tensor(cats, dtype=torch.float32))
    assert torch.equal(selected.backgrounds[0], features[0])
    # The second cat has no clear surroundings.
    assert PrototypeMatcher(surroundings="clear").select(memory).backgrounds[0].tolist() == [[1, 0]]


@dataclass(frozen=True)
class Model:
    """Of a model only what decides the key of candidates."""

    fingerprint: Mapping[str, Any]


@pytest.fixture
def source(tmp_path: Path) -> CandidateSource:
    """Two images of 20 x 30 pixels, whose candidates are stored."""
    source = CandidateSource(Model({}), Model({}), "float32", Store(tmp_path / "store"))  # type: ignore[arg-type]
    for number, boxes in ((1, [(0, 0, 9, 9), (0, 0, 9, 4), (20, 0, 29, 9)]), (2, [(0, 0, 29, 19)])):
        features = [[1, 0, 0], [0, 1, 0], [0, 0, 1]][: len(boxes)]
        candidates = rectangles(boxes, [0.9] * len(boxes), features, channels=3)
        (tmp_path / f"{number}.png").write_bytes(bytes([number]))
        source.store.write_candidates(source.key(record(tmp_path, number)), candidates, feature_dtype="float32")
    return source


def record(folder: Path, number: int) -> ImageRecord:
    return ImageRecord(number, f"{number}.png", folder / f"{number}.png", 20, 30)


def instance(number: int, image: int, box: tuple[float, float, float, float], *, has_mask: bool) -> Instance:
    left, top, width, height = box
    right, bottom = left + width, top + height
    outline = [[left, top, right, top, right, bottom, left, bottom]] if has_mask else None
    return Instance(number, image, 3, box, outline, area_px=width * height)


def test_the_best_candidate_of_the_references_own_image(source: CandidateSource, tmp_path: Path):
    members = (
        instance(1, 1, (0, 0, 10, 6), has_mask=True),  # 60 of 100 pixels of the first, 50 of 60 of the second
        instance(2, 1, (20, 0, 10, 3), has_mask=False),  # 0.3 of the third candidate's box
        instance(3, 2, (0, 0, 10, 10), has_mask=True),  # a sixth of the only one
    )
    references = ReferenceSet(CATEGORIES[:1], (members,), {n: record(tmp_path, n) for n in (1, 2)}, shots=3, seed=0)
    (features_KD,) = full_image_features(references, source, ReferenceMasks(None), ProcessGroup())
    assert features_KD.dtype == torch.float32
    np.testing.assert_array_equal(features_KD, [[0, 1, 0], [0, 0, 1], [0, 0, 0]])
