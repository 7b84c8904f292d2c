"""The stage that draws references, and the file it writes."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from coco_samples import many, read

from ntt.config.schema import ExperimentConfig, ShotsConfig
from ntt.data.coco import CocoDataset
from ntt.data.references import references_to_json
from ntt.errors import ConfigError, DataError
from ntt.run.inputs import drawn_references
from ntt.types import Category, ReferenceSet

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


def test_a_reference_set_is_complete(tmp_path: Path, caplog):
    references = drawn(small(tmp_path), categories=(B, A))
    assert references.categories == (A, B)
    assert [[i.category_id for i in instances] for instances in references.instances] == [[1, 1], [2, 2]]
    assert set(references.images) == {i.image_id for instances in references.instances for i in instances}
    assert (references.shots, references.seed, references.sampler) == (2, 0, "native")
    assert not caplog.records
    with pytest.raises(ConfigError, match="No class is chosen"):
        drawn(small(tmp_path), categories=())


@pytest.mark.parametrize(("sampler", "count"), [("native", 2), ("reference", 2), ("fixed", 4), ("shot_index", 4)])
def test_every_sampler_can_be_chosen(tmp_path: Path, sampler: Any, count: int):
    references = drawn(small(tmp_path, shot_index=0), sampler=sampler)
    assert [len(instances) for instances in references.instances] == [count, count]
    assert references.sampler == sampler


def test_every_instance_of_a_file_without_a_number_of_shots(tmp_path: Path):
    dataset = many(tmp_path, [(1, 0, GOOD), (1, 1, GOOD), (2, 0, GOOD)], num_images=2)
    references = drawn(dataset, sampler="fixed", count=None)
    assert [[i.id for i in group] for group in references.instances] == [[1, 2], [3]]
    assert references.shots == 2


@pytest.mark.parametrize("sampler", ["native", "reference"])
def test_validity_is_handed_on(tmp_path: Path, sampler: Any):
    dataset = small(tmp_path)
    with pytest.raises(DataError, match="box sides of 61 px or more, 10 px"):
        drawn(dataset, sampler=sampler, min_box_side_px=61.0)
    with pytest.raises(DataError, match="32 px or more, 51 px or more from the image border"):
        drawn(dataset, sampler=sampler, border_px=51.0)
    assert drawn(dataset, sampler=sampler, border_px=51.0, strict=False).instances


def test_the_digest_follows_from_what_was_drawn_alone(tmp_path: Path):
    dataset = small(tmp_path, shot_index=0)
    assert drawn(dataset, strict=False, border_px=0.0).digest == drawn(dataset).digest
    assert drawn(dataset, sampler="fixed").digest == drawn(dataset, sampler="shot_index", seed=4).digest


@pytest.mark.parametrize(
    ("change", "is_decisive"),
    [
        (lambda content: content["categories"][0].update(name="z"), True),
        (lambda content: content["annotations"][0].update(bbox=[50, 50, 60, 59]), True),
        (lambda content: content["annotations"][0].update(segmentation=[[50, 50, 110, 50, 110, 110]]), True),
        (lambda content: content["annotations"][0].update(id=77), True),
        (lambda content: content["images"][0].update(file_name="other.png"), True),
        (lambda content: content["images"][4].update(file_name="other.png"), False),
        (lambda content: content.update(info={"year": 2020}), False),
    ],
)
def test_the_digest_changes_with_every_part_of_what_was_drawn(tmp_path: Path, change: Any, is_decisive: bool):
    dataset = small(tmp_path)
    content = json.loads(dataset.annotation_file.read_text())
    change(content)
    changed = read(tmp_path, content)
    before = drawn(dataset, categories=dataset.categories[:2], sampler="fixed", count=4)
    after = drawn(changed, categories=changed.categories[:2], sampler="fixed", count=4)
    assert (before.digest != after.digest) is is_decisive


def test_the_json_names_everything(tmp_path: Path):
    dataset = small(tmp_path)
    references = drawn(dataset, sampler="fixed", count=4, seed=3)
    assert references_to_json(references, dataset) == {
        "digest": references.digest,
        "sampler": "fixed",
        "shots": 4,
        "seed": 3,
        "file": "annotations.json",
        "file_sha256": hashlib.sha256(dataset.annotation_file.read_bytes()).hexdigest(),
        "names": {"1": "a", "2": "b"},
        "references": {
            "1": [{"image_id": n, "annotation_id": 2 * n + 2} for n in range(4)],
            "2": [{"image_id": n, "annotation_id": 2 * n + 1} for n in range(4)],
        },
    }
