"""Pictures of features and similarities."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_data import run_with, settings

from ntt.models.backbones.efficientnet_lite0 import EfficientNetLite0
from ntt.stages.feature_pictures import class_similarity
from ntt.stages.target_pictures import picture_stem
from ntt.types import Category, ImageRecord, Prototypes


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("store")


def drawn(tiny: Path, output: Path, store: Path, *more: str) -> tuple[Path, set[str]]:
    words = settings(tiny, output, store, "stage=visualisation", "visualisation.enabled=true", *more)
    folder = run_with(words) / "pictures"
    return folder, {path.relative_to(folder).as_posix() for path in folder.rglob("*.png")}


def test_names_of_pictures_are_short_and_unique_by_image_id():
    ids: list[int | str] = [1, "1", "001/001", "001_001", "x" * 300, 10**300, -(10**299), "\ud800", "\ud801", "A", "a"]
    stems = {picture_stem(ImageRecord(each, "ö" * 300 + "\udcff.png", Path(), 1, 1)) for each in ids}
    assert len({stem.casefold() for stem in stems}) == len(ids)
    assert max(len(stem.encode()) for stem in stems) < 130
    assert picture_stem(ImageRecord(7, "a/photo.one.jpg", Path(), 1, 1)) == "photo.one_7"


def test_similarity_of_cells_by_hand():
    vectors = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [0.0, -1.0]])
    labels = torch.tensor([0, 0, 1, -1])  # two prototypes of a, one of b, one of background
    prototypes = Prototypes((Category(3, "a"), Category(5, "b")), vectors, labels)
    cells = torch.tensor([[[2.0, 3.0], [0.0, 0.0]], [[0.0, 4.0], [-5.0, 0.0]]])  # D = 2, a grid of 2 x 2
    found = class_similarity(cells, prototypes)
    # (2, 0) is a's first; (3, 4) / 5 is a's second; (0, -5) is like nothing but background; (0, 0) like nothing.
    expected = [[[1.0, 1.0], [0.0, 0.0]], [[0.0, 0.8], [0.0, 0.0]]]
    torch.testing.assert_close(torch.from_numpy(found.copy()), torch.tensor(expected))


def test_pictures_of_features_are_drawn_on_request(tiny, tmp_path, store):
    more = ("features=true", "max_feature_images=2", "image_ids=[102,103,104]")
    folder, names = drawn(tiny, tmp_path, store, *(f"visualisation.{setting}" for setting in more))
    features = {name for name in names if name.startswith("features/")}
    similarities = {f"features/similarity_targets_{name}.png" for name in ("1_102", "2_103")}
    assert {name for name in features if "similarity" in name} == similarities
    references = features - similarities
    assert len(references) == 2
    assert sorted(name.split("_")[1] for name in references) == ["disc", "square"]
    for name in features:
        with Image.open(folder / name) as picture:
            assert len(picture.convert("RGB").getcolors(1 << 24) or []) > 100


def test_asked_for_later_they_are_added_and_only_then_is_the_backbone_used(tiny, tmp_path, store, monkeypatch):
    _, before = drawn(tiny, tmp_path, store)
    assert not [name for name in before if name.startswith("features/")]

    def refuse(*_: object) -> torch.Tensor:
        raise AssertionError("encoded")

    with monkeypatch.context() as patch:
        patch.setattr(EfficientNetLite0, "encode", refuse)
        drawn(tiny, tmp_path / "second", store)
        with pytest.raises(AssertionError, match="encoded"):
            drawn(tiny, tmp_path / "second", store, "visualisation.features=true")
    _, after = drawn(tiny, tmp_path, store, "visualisation.features=true")
    assert before <= after
    assert [sum(kind in name for name in after - before) for kind in ("similarity", "reference")] == [4, 2]
