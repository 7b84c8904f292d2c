"""Class splits and their look-up."""

import json
import re
from pathlib import Path

import pytest

from ntt.data.splits import resolve_split, split_names
from ntt.errors import ConfigError
from ntt.types import Category

PETS = [Category(9, "dog"), Category(2, "airplane"), Category(5, "cat")]


def test_all_means_every_class_by_id() -> None:
    assert resolve_split("all", None, PETS) == (Category(2, "airplane"), Category(5, "cat"), Category(9, "dog"))


def test_classes_win_over_all_and_come_by_id() -> None:
    assert resolve_split("all", ["dog", "cat"], PETS) == (Category(5, "cat"), Category(9, "dog"))


def test_a_named_split() -> None:
    available = [Category(n, name) for n, name in enumerate(["sofa", "cow", "cat", "boat", "motorbike", "sheep"])]
    chosen = resolve_split("voc_split3", None, available)
    assert [category.name for category in chosen] == ["sofa", "cat", "boat", "motorbike", "sheep"]


def test_both_are_refused() -> None:
    expected = "split.name=voc_split1 and split.classes=['cat'] exclude each other. Leave out one of the two."
    with pytest.raises(ConfigError, match=f"^{re.escape(expected)}$"):
        resolve_split("voc_split1", ["cat"], PETS)


def test_an_unknown_split_names_the_nearest_and_all() -> None:
    with pytest.raises(
        ConfigError, match=r"no class split named 'coco_novel'\. The nearest is 'coco_novel20'"
    ) as caught:
        resolve_split("coco_novel", None, PETS)
    assert all(name in str(caught.value) for name in split_names())


def test_an_unknown_split_without_a_near_one() -> None:
    with pytest.raises(ConfigError, match=r"no class split named 'zzz'\. Choose one of all, coco_all80, "):
        resolve_split("zzz", None, PETS)


def test_unknown_classes_name_the_nearest_and_the_available() -> None:
    expected = (
        "split.classes names the class 'Dogs', which the data set does not have. The nearest is 'dog'. The data set "
        "has 3 classes: airplane, cat, dog. Choose from these in split.classes, or use split=all."
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(expected)}$"):
        resolve_split("all", ["cat", "Dogs"], PETS)


def test_several_unknown_classes_are_reported_at_once() -> None:
    with pytest.raises(ConfigError, match=r"2 of 3 classes are not in the data set \(2 problems\):") as caught:
        resolve_split("all", ["xx", "cat", "yy"], PETS)
    assert "the class 'xx'" in str(caught.value)
    assert "the class 'yy'" in str(caught.value)


def test_other_names_are_hinted_at_and_not_translated() -> None:
    with pytest.raises(ConfigError, match=r"'aeroplane', which .* It may be the class it calls 'airplane'"):
        resolve_split("all", ["aeroplane"], PETS)
    with pytest.raises(ConfigError, match=r"'couch', which .* It may be the class it calls 'sofa'"):
        resolve_split("all", ["couch"], [Category(1, "sofa")])


def test_long_lists_of_classes_are_cut() -> None:
    available = [Category(n, f"class{n:02}") for n in range(31)]
    with pytest.raises(ConfigError, match=r"has 31 classes: class00, .*class29 and 1 more\. Choose") as caught:
        resolve_split("all", ["zz"], available)
    assert "class30" not in str(caught.value)


def test_no_class_and_repeated_classes() -> None:
    with pytest.raises(ConfigError, match=r"split\.classes is empty"):
        resolve_split("all", [], PETS)
    with pytest.raises(ConfigError, match="names 'cat' more than once"):
        resolve_split("all", ["cat", "dog", "cat"], PETS)


def test_the_folds_of_coco_20i_divide_its_80_classes(shared_dir: Path) -> None:
    available = [
        Category(entry["id"], entry["name"])
        for entry in json.loads((shared_dir / "data/coco_dev/annotations/targets.json").read_text())["categories"]
    ]
    folds = [resolve_split(f"coco20i_fold{fold}", None, available) for fold in range(4)]
    assert [len(fold) for fold in folds] == [20, 20, 20, 20]
    assert sorted(c.id for fold in folds for c in fold) == sorted(c.id for c in available)
    assert len(resolve_split("coco_novel20", None, available)) == 20
    assert resolve_split("coco_all80", None, available) == resolve_split("all", None, available)


def test_the_lists_are_the_published_ones(shared_dir: Path) -> None:
    published = json.loads((shared_dir / "splits.json").read_text())
    lists = {name: classes for name, classes in published.items() if isinstance(classes, list)}
    lists |= {f"cdfsod_{name.lower().replace('-', '_')}": classes for name, classes in published["cdfsod"].items()}
    assert split_names() == ("all", *lists, "lvis_rare", "lvis_common", "lvis_frequent")
    for name, classes in lists.items():
        available = [Category(n, class_name) for n, class_name in enumerate(classes)]
        assert [category.name for category in resolve_split(name, None, available)] == classes
