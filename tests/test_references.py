"""References: how they are drawn and written down, their features, and those of their full images."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from coco_samples import many, read
from conftest import cases
from drawn_candidates import rectangles
from PIL import Image

from ntt.base.distributed import ProcessGroup
from ntt.config.schema import ExperimentConfig, ShotsConfig
from ntt.data.coco import CocoDataset
from ntt.data.references import references_to_json
from ntt.errors import ConfigError, DataError
from ntt.matchers.prototype import PrototypeMatcher
from ntt.models.box_masks import ReferenceMasks
from ntt.run.inputs import drawn_references
from ntt.stages.candidates import CandidateSource
from ntt.stages.full_images import full_image_features
from ntt.stages.memory import ReferenceEncoder, fill_memory
from ntt.store.store import Store
from ntt.types import Category, ImageRecord, Instance, MemoryBank, ReferenceSet

A, B = Category(1, "a"), Category(2, "b")
GOOD = [50, 50, 60, 60]
POLYGON = [[50, 50, 110, 50, 110, 110, 50, 110]]


def small(folder: Path, **more: Any) -> CocoDataset:
    boxes = [(category, image, GOOD) for image in range(4) for category in (2, 1)]
    return many(folder, boxes, num_images=5, segmentation=POLYGON, **more)


def drawn(
    dataset: CocoDataset, *, categories: tuple[Category, ...] = (A, B), seed: int = 0, **shots: Any
) -> ReferenceSet:
    settings = ShotsConfig(**{"name": "some", "count": 2, "strict": True, **shots})
    return drawn_references(ExperimentConfig(shots=settings, seed=seed), dataset, categories)


def test_a_reference_set_is_complete(tmp_path, caplog):
    references = drawn(small(tmp_path), categories=(B, A))
    assert references.categories == (A, B)
    assert [[i.category_id for i in instances] for instances in references.instances] == [[1, 1], [2, 2]]
    assert set(references.images) == {i.image_id for instances in references.instances for i in instances}
    assert (references.shots, references.seed, references.sampler) == (2, 0, "native")
    assert not caplog.records
    with pytest.raises(ConfigError, match="No class is chosen"):
        drawn(small(tmp_path), categories=())
    dataset = many(tmp_path, [(1, 0, GOOD), (1, 1, GOOD), (2, 0, GOOD)], num_images=2)
    references = drawn(dataset, sampler="fixed", count=None)
    assert [[i.id for i in group] for group in references.instances] == [[1, 2], [3]]
    assert references.shots == 2


@cases("sampler", "count")(("native", 2), ("reference", 2), ("fixed", 4), ("shot_index", 4))
def test_every_sampler_can_be_chosen(tmp_path, sampler, count):
    references = drawn(small(tmp_path, shot_index=0), sampler=sampler)
    assert [len(instances) for instances in references.instances] == [count, count]
    assert references.sampler == sampler


@cases("sampler")("native", "reference")
def test_validity_is_handed_on(tmp_path, sampler):
    dataset = small(tmp_path)
    with pytest.raises(DataError, match="box sides of 61 px or more, 10 px"):
        drawn(dataset, sampler=sampler, min_box_side_px=61.0)
    with pytest.raises(DataError, match="32 px or more, 51 px or more from the image border"):
        drawn(dataset, sampler=sampler, border_px=51.0)
    assert drawn(dataset, sampler=sampler, border_px=51.0, strict=False).instances


def test_the_digest_follows_from_what_was_drawn_alone(tmp_path):
    dataset = small(tmp_path, shot_index=0)
    assert drawn(dataset, strict=False, border_px=0.0).digest == drawn(dataset).digest
    assert drawn(dataset, sampler="fixed").digest == drawn(dataset, sampler="shot_index", seed=4).digest


@cases("change", "is_decisive")(
    (lambda content: content["categories"][0].update(name="z"), True),
    (lambda content: content["annotations"][0].update(bbox=[50, 50, 60, 59]), True),
    (lambda content: content["annotations"][0].update(segmentation=[[50, 50, 110, 50, 110, 110]]), True),
    (lambda content: content["annotations"][0].update(id=77), True),
    (lambda content: content["images"][0].update(file_name="other.png"), True),
    (lambda content: content["images"][4].update(file_name="other.png"), False),
    (lambda content: content.update(info={"year": 2020}), False),
)
def test_the_digest_changes_with_every_part_of_what_was_drawn(tmp_path, change, is_decisive):
    dataset = small(tmp_path)
    content = json.loads(dataset.annotation_file.read_text())
    change(content)
    changed = read(tmp_path, content)
    before = drawn(dataset, categories=dataset.categories[:2], sampler="fixed", count=4)
    after = drawn(changed, categories=changed.categories[:2], sampler="fixed", count=4)
    assert (before.digest != after.digest) is is_decisive


def test_the_json_names_everything(tmp_path):
    dataset = small(tmp_path)
    references = drawn(dataset, sampler="fixed", count=4, seed=3)
    sha256 = hashlib.sha256(dataset.annotation_file.read_bytes()).hexdigest()
    assert references_to_json(references, dataset) == {
        **{"digest": references.digest, "sampler": "fixed", "shots": 4, "seed": 3},
        **{"file": "annotations.json", "file_sha256": sha256, "names": {"1": "a", "2": "b"}},
        "references": {
            "1": [{"image_id": n, "annotation_id": 2 * n + 2} for n in range(4)],
            "2": [{"image_id": n, "annotation_id": 2 * n + 1} for n in range(4)],
        },
    }


RED, BLUE = [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]


@dataclass(frozen=True)
class Colours:
    """8 x 8 cells of 4 pixels; the feature of a cell is its mean colour."""

    input_size: int = 32
    patch_size: int = 4
    broken: bool = False

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        return {"kind": "colours"}

    def encode(self, images_B3HW: torch.Tensor) -> torch.Tensor:
        assert not self.broken, "everything is stored"
        return F.avg_pool2d(images_B3HW, self.patch_size)


class Coarse(Colours):
    def encode(self, images_B3HW: torch.Tensor) -> torch.Tensor:
        return F.avg_pool2d(images_B3HW, 2 * self.patch_size)


def rectangle(left: float, top: float, right: float, bottom: float) -> list[list[float]]:
    return [[left, top, right, top, right, bottom, left, bottom]]


def part(number: int, category_id: int, right: float) -> Instance:
    """An object in the left part of the box (16, 16, 32, 32)."""
    outline = rectangle(16, 16, right, 48)
    return Instance(number, 1, category_id, (16.0, 16.0, 32.0, 32.0), outline, area_px=32 * (right - 16))


@pytest.fixture
def references(tmp_path: Path) -> ReferenceSet:
    """A picture, red up to column 32 and blue from there on; objects that cover half of their box or all of it."""
    pixels = np.zeros((64, 64, 3), dtype=np.uint8)
    pixels[:, :32, 0] = 255
    pixels[:, 32:, 2] = 255
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    return ReferenceSet(
        categories=(Category(2, "half"), Category(5, "full")),
        instances=((part(1, 2, 32.0), part(2, 2, 48.0)), (part(3, 5, 48.0),)),
        images={1: ImageRecord(1, "picture.png", tmp_path / "picture.png", 64, 64)},
        shots=2,
        seed=0,
        digest="references",
    )


def fill(references: ReferenceSet, folder: Path, backbone: Colours, *, clear: bool = False) -> MemoryBank:
    encoder = ReferenceEncoder(backbone, ReferenceMasks(maker=None), context_ratio=0.0, store=Store(folder))
    if clear:
        encoder = replace(encoder, objects_of_image=references.instances_of_image)
    return fill_memory(references=references, encoder=encoder, group=ProcessGroup())


def test_features_of_instances_and_of_what_surrounds_them_are_stored(references, tmp_path):
    memory = fill(references, tmp_path / "store", Colours())
    torch.testing.assert_close(memory.features[0], torch.tensor([RED, [0.5, 0.0, 0.5]]))
    torch.testing.assert_close(memory.features[1], torch.tensor([[0.5, 0.0, 0.5]]))
    # A mask that fills its crop has no surroundings.
    torch.testing.assert_close(memory.backgrounds[0], torch.tensor([BLUE, [0.0, 0.0, 0.0]]))
    assert memory.backgrounds[1].tolist() == [[0, 0, 0]]
    assert [len(vectors) for vectors in PrototypeMatcher().select(memory).backgrounds] == [1, 0]
    again = fill(references, tmp_path / "store", Colours(broken=True))
    for computed, stored in zip(memory.features + memory.backgrounds, again.features + again.backgrounds, strict=True):
        assert torch.equal(computed, stored)


def test_a_feature_map_of_another_size_than_stated_is_refused(references, tmp_path):
    with pytest.raises(ConfigError, match=r"Coarse: encode returned \[1, 3, 4, 4\], expected \[1, D, 8, 8\]\."):
        fill(references, tmp_path / "store", Coarse())


def test_other_objects_are_left_out_of_clear_surroundings(references, tmp_path):
    """The first object covers the red half of its crop; another one, the upper half of the blue one."""
    upper = Instance(4, 1, 5, (32.0, 8.0, 16.0, 24.0), rectangle(32, 8, 48, 32), area_px=16 * 24)
    alone = replace(references, categories=references.categories[:1], instances=(references.instances[0][:1],))
    beside = replace(references, instances=(alone.instances[0], (upper,)))
    folder = tmp_path / "store"
    for clear in (False, True):
        memory = fill(beside, folder, Colours(), clear=clear)
        torch.testing.assert_close(memory.backgrounds[0], torch.tensor([BLUE]))
        assert len(memory.clear_backgrounds) == (2 if clear else 0)
    torch.testing.assert_close(memory.clear_backgrounds[0], torch.tensor([BLUE]))
    stored = fill(beside, folder, Colours(broken=True), clear=True)
    assert torch.equal(stored.clear_backgrounds[0], memory.clear_backgrounds[0])
    # An object that fills the rest leaves nothing; without other objects both surroundings are the same.
    rest = replace(upper, bbox_xywh=(32.0, 8.0, 16.0, 48.0), segmentation=rectangle(32, 8, 48, 56))
    covered = fill(replace(beside, instances=(alone.instances[0], (rest,))), folder, Colours(), clear=True)
    assert (bool(covered.clear_backgrounds[0].any()), bool(covered.backgrounds[0].any())) == (False, True)
    single = fill(alone, folder, Colours(), clear=True)
    assert torch.equal(single.clear_backgrounds[0], single.backgrounds[0])


CAT_AND_DOG = (Category(3, "cat"), Category(8, "dog"))


@cases("settings", "cats")(
    ({}, [[3, 4], [0, 2]]),
    ({"reference_vectors": "both"}, [[0.6, 0.8], [0, 1], [1, 0]]),
    ({"reference_vectors": "full"}, [[1, 0], [0, 1]]),
    ({"reference_vectors": "mean"}, [[0.8 / 0.8**0.5, 0.4 / 0.8**0.5], [0, 1]]),
    ({"reference_vectors": "mean", "full_share": 0.25}, [[0.7 / 0.85**0.5, 0.6 / 0.85**0.5], [0, 1]]),
)
def test_vectors_that_a_matcher_reads(settings, cats):
    # No candidate reaches the second cat.
    features = (torch.tensor([[3.0, 4.0], [0.0, 2.0]]), torch.tensor([[5.0, 0.0]]))
    full = (torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.tensor([[0.0, 1.0]]))
    memory = MemoryBank(CAT_AND_DOG, features, features, clear_backgrounds=full, full=full)
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


def boxed(number: int, image: int, box: tuple[float, float, float, float], *, has_mask: bool) -> Instance:
    left, top, width, height = box
    right, bottom = left + width, top + height
    outline = [[left, top, right, top, right, bottom, left, bottom]] if has_mask else None
    return Instance(number, image, 3, box, outline, area_px=width * height)


def test_the_best_candidate_of_the_references_own_image(source, tmp_path):
    members = (
        boxed(1, 1, (0, 0, 10, 6), has_mask=True),  # 60 of 100 pixels of the first, 50 of 60 of the second
        boxed(2, 1, (20, 0, 10, 3), has_mask=False),  # 0.3 of the third candidate's box
        boxed(3, 2, (0, 0, 10, 10), has_mask=True),  # a sixth of the only one
    )
    references = ReferenceSet(CAT_AND_DOG[:1], (members,), {n: record(tmp_path, n) for n in (1, 2)}, shots=3, seed=0)
    (features_KD,) = full_image_features(references, source, ReferenceMasks(None), ProcessGroup())
    assert features_KD.dtype == torch.float32
    np.testing.assert_array_equal(features_KD, [[0, 1, 0], [0, 0, 1], [0, 0, 0]])
