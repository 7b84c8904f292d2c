"""Several data sets searched as one."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_data import make_tiny

from ntt.config import schema as config
from ntt.config.compose import compose_config
from ntt.config.identity import run_directory
from ntt.data.coco import read_coco
from ntt.data.images import check_images
from ntt.datasets.pooled import PooledConfig
from ntt.errors import ConfigError, DataError, StorageError
from ntt.evaluation.truth import index_truth
from ntt.run.inputs import Inputs, read_inputs
from ntt.stages.references import sample_references


def pooled(cache: Path, *roots: Path) -> Inputs:
    settings = config.ExperimentConfig(
        dataset=PooledConfig(name="pooled", roots=list(map(str, roots))),
        split=config.SplitConfig(name="all"),
        runtime=config.RuntimeConfig(cache_root=str(cache)),
    )
    return read_inputs(settings)


def change(file: Path, **values: object) -> None:
    content = {**json.loads(file.read_text()), **values}
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def rename_class(root: Path, old: str, new: str) -> None:
    for file in (root / "annotations").iterdir():
        file.write_text(file.read_text().replace(json.dumps(old), json.dumps(new)))


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """Two data sets that share the class disc; the second calls its other class tile."""
    first, second = make_tiny(tmp_path / "first"), make_tiny(tmp_path / "second")
    rename_class(second, "square", "tile")
    return first, second


def test_classes_images_and_annotations(tmp_path: Path, two: tuple[Path, Path]):
    inputs = pooled(tmp_path / "cache", *two)
    assert [(one.id, one.name) for one in inputs.categories] == [
        (1, "first/disc"),
        (2, "square"),
        (3, "second/disc"),
        (4, "tile"),
    ]
    targets = inputs.target_data
    assert list(targets.images) == list(range(1, 9))
    assert [one.file_name for one in targets.images.values()][3:5] == ["first/targets_3.png", "second/targets_0.png"]
    assert [one.id for one in targets.instances] == list(range(1, 11))
    counts = {one.name: len(targets.instances_of_category(one.id)) for one in inputs.categories}
    assert counts == {"first/disc": 3, "square": 2, "second/disc": 3, "tile": 2}
    check_images(list(targets.images.values()) + list(inputs.reference_data.images.values()), full=True)
    assert targets.images[5].path.read_bytes() == (two[1] / "images" / "targets_0.png").read_bytes()


def test_objects_are_those_of_the_members(tmp_path: Path, two: tuple[Path, Path]):
    targets = pooled(tmp_path / "cache", *two).target_data
    own = read_coco(two[1] / "annotations" / "targets.json", two[1] / "images")
    for there, here in zip(own.instances, targets.instances[5:], strict=True):
        assert here.image_id == list(own.images).index(there.image_id) + 5
        assert (here.bbox_xywh, here.segmentation, here.area_px) == (there.bbox_xywh, there.segmentation, there.area_px)
    content = json.loads(targets.annotation_file.read_text())
    assert content["images"][4]["pooled_from"] == {"data_set": "second", "image_id": 101}
    assert content["annotations"][5]["pooled_from"] == {"data_set": "second", "annotation_id": 1}


def test_images_of_one_are_negatives_for_the_others(tmp_path: Path, two: tuple[Path, Path]):
    inputs = pooled(tmp_path / "cache", *two)
    truth = index_truth(inputs.target_data, inputs.categories)
    tile = [one.name for one in inputs.categories].index("tile")
    assert {truth.image_ids[place] for place, label in truth.occupied if label == tile} == {5, 6}


def test_references_keep_their_order_of_shots(tmp_path: Path, two: tuple[Path, Path]):
    for root in two:
        file = root / "annotations" / "references.json"
        content = json.loads(file.read_text())
        for entry in content["annotations"]:
            entry["shot_index"] = int(entry["id"] > 2)
        file.write_text(json.dumps(content))
    inputs = pooled(tmp_path / "cache", *two)
    drawn = sample_references(
        dataset=inputs.reference_data,
        categories=inputs.categories,
        shots=1,
        seed=0,
        sampler="shot_index",
        strict=True,
        min_box_side_px=0,
        border_px=0,
    )
    assert [[one.id for one in group] for group in drawn.instances] == [[1], [2], [5], [6]]


def test_written_once_and_anew_when_a_member_changes(tmp_path: Path, two: tuple[Path, Path]):
    cache = tmp_path / "cache"
    file = pooled(cache, *two).target_data.annotation_file
    written = file.stat().st_mtime_ns
    assert pooled(cache, *two).target_data.annotation_file == file
    assert file.stat().st_mtime_ns == written
    change(two[0] / "annotations" / "targets.json", info={"version": 2})
    assert pooled(cache, *two).target_data.annotation_file != file
    assert len(list(cache.iterdir())) == 2


def test_interrupted_writing_is_finished(tmp_path: Path, two: tuple[Path, Path]):
    cache = tmp_path / "cache"
    file = pooled(cache, *two).target_data.annotation_file
    before = file.read_bytes()
    file.unlink()
    assert pooled(cache, *two).target_data.annotation_file.read_bytes() == before


def test_a_link_that_leads_elsewhere_is_refused(tmp_path: Path, two: tuple[Path, Path]):
    cache = tmp_path / "cache"
    file = pooled(cache, *two).target_data.annotation_file
    file.unlink()
    link = file.parent.parent / "target_images" / "first"
    link.unlink()
    link.symlink_to(tmp_path)
    with pytest.raises(StorageError, match=r"target_images/first leads to .* Delete it\."):
        pooled(cache, *two)


def test_a_cache_that_cannot_be_written(tmp_path: Path, two: tuple[Path, Path]):
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(StorageError, match=r"cannot be made a link .* Set runtime\.cache_root"):
        pooled(tmp_path / "cache", *two)


def test_names_that_climb_are_refused_in_the_members_own_file(tmp_path: Path, two: tuple[Path, Path]):
    file = two[1] / "annotations" / "targets.json"
    content = json.loads(file.read_text())
    content["images"][0]["file_name"] = "../../secret.png"
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"second.*targets\.json.*does not lie inside the image folder"):
        pooled(tmp_path / "cache", *two)


def test_targets_may_have_classes_without_references(tmp_path: Path, two: tuple[Path, Path]):
    for root in two:
        file = root / "annotations" / "references.json"
        content = json.loads(file.read_text())
        kept = [one for one in content["annotations"] if one["category_id"] == 3]
        change(file, annotations=kept, categories=[{"id": 3, "name": "disc"}])
    inputs = pooled(tmp_path / "cache", *two)
    assert [one.name for one in inputs.categories] == ["first/disc", "second/disc"]
    assert [one.name for one in inputs.target_data.categories] == ["first/disc", "square", "second/disc", "tile"]


def test_a_class_missing_from_the_targets(tmp_path: Path, two: tuple[Path, Path]):
    change(two[1] / "annotations" / "targets.json", annotations=[], categories=[{"id": 3, "name": "disc"}])
    with pytest.raises(DataError, match=r"has a class 'tile' with id 7, which .*second.* does not have\. Add it"):
        pooled(tmp_path / "cache", *two)


def test_annotated_in_part(tmp_path: Path, two: tuple[Path, Path]):
    change(two[1] / "annotations" / "targets.json", annotations=None)
    with pytest.raises(DataError, match=r"second.*no annotations, while other targets of the pool have some"):
        pooled(tmp_path / "cache", *two)
    change(two[0] / "annotations" / "targets.json", annotations=None)
    assert not pooled(tmp_path / "cache", *two).target_data.has_annotations


@pytest.mark.parametrize(
    ("roots", "message"),
    [
        (["/a"], "dataset.roots=['/a'] is not possible: at least two folders are needed."),
        (["/a", "/b", "/a"], "dataset.roots names /a more than once."),
    ],
)
def test_roots_that_make_no_pool(roots: list[str], message: str):
    (problem,) = PooledConfig(name="pooled", roots=roots).problems()
    assert message in problem


def test_roots_are_needed():
    with pytest.raises(ConfigError, match=r"dataset\.roots=\[\] is not possible"):
        compose_config(["dataset=pooled"])


def test_a_root_that_is_not_there(tmp_path: Path, two: tuple[Path, Path]):
    with pytest.raises(DataError, match=r"nowhere is not a folder"):
        pooled(tmp_path / "cache", two[0], tmp_path / "nowhere")


def test_folders_of_the_same_name_are_numbered(tmp_path: Path, two: tuple[Path, Path]):
    other = tmp_path / "elsewhere" / "first"
    shutil.copytree(two[1], other)
    inputs = pooled(tmp_path / "cache", two[0], other)
    assert [one.name for one in inputs.categories] == ["first/disc", "square", "first~2/disc", "tile"]


def test_run_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    relative = compose_config(["dataset=pooled", "dataset.roots=[a,b]"])
    pool = PooledConfig(name="pooled", roots=[str(tmp_path / "a"), str(tmp_path / "b")])
    assert run_directory(replace(relative, dataset=pool)) == run_directory(relative)
    assert pool.label() == "a+b"
    many = PooledConfig(name="pooled", roots=[f"{'x' * 30}{number}" for number in range(4)])
    assert many.label() == "pooled-4sets"


def test_real_data(tmp_path: Path, shared_dir: Path):
    names = ("fruits_nuts_dev", "balloon_dev", "neu_seg_dev")
    inputs = pooled(tmp_path, *(shared_dir / "data" / name for name in names))
    assert [one.name for one in inputs.categories] == [
        "date", "fig", "hazelnut", "balloon", "inclusion", "patches", "scratches",
    ]  # fmt: skip
    assert len(inputs.target_data.images) == 13 + 62 + 75
    assert inputs.target_data.has_masks
    check_images(list(inputs.target_data.images.values()))
    truth = index_truth(inputs.target_data, inputs.categories)
    with_balloon = {place for place, label in truth.occupied if label == 3}
    assert len(with_balloon) == 62
