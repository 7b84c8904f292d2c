"""The classes of an experiment: looked up by name, with hints where a data set does not have them."""

import json
from pathlib import Path

import pytest

from ntt.base.project import CONF_DIR
from ntt.data.splits import resolve_split, split_classes
from ntt.errors import ConfigError
from ntt.types import Category

PETS = [Category(9, "dog"), Category(2, "airplane"), Category(5, "cat")]


def refusal(available: list[Category], classes: list[str], name: str = "all") -> str:
    with pytest.raises(ConfigError) as caught:
        resolve_split(available, classes=classes, name=name)
    return str(caught.value)


def test_all_classes_or_those_named_come_by_id():
    assert resolve_split(PETS) == (Category(2, "airplane"), Category(5, "cat"), Category(9, "dog"))
    assert resolve_split(PETS, classes=["dog", "cat"]) == (Category(5, "cat"), Category(9, "dog"))


def test_classes_that_are_not_there():
    assert refusal(PETS, ["cat", "Dogs"]) == (
        "split.classes names the class 'Dogs', which the data set does not have. The nearest is 'dog'. It has 3 "
        "classes: airplane, cat, dog. Choose from these in split.classes."
    )
    message = refusal(PETS, ["xx", "cat", "yy"], name="voc_split1")
    assert "2 of 3 classes are not in the data set (2 problems):" in message
    assert "split=voc_split1 names the class 'xx'" in message
    many = [Category(number, f"class {number:02}") for number in range(35)]
    assert "It has 35 classes: class 00, " in refusal(many, ["zz"])
    assert "class 29 and 5 more." in refusal(many, ["zz"])


def test_coco_splits_partition_the_80_classes():
    available = [Category(number, name) for number, name in enumerate(split_classes("coco_all80"), start=1)]
    folds = [resolve_split(available, classes=split_classes(f"coco20i_fold{fold}")) for fold in range(4)]
    assert sorted(category.id for fold in folds for category in fold) == list(range(1, 81))
    assert len(resolve_split(available, classes=split_classes("coco_novel20"))) == 20


def test_lists_are_the_published_ones(shared_dir: Path):
    published = json.loads((shared_dir / "splits.json").read_text())
    lists = {name: classes for name, classes in published.items() if isinstance(classes, list)}
    lists |= {f"cdfsod_{name.lower().replace('-', '_')}": classes for name, classes in published["cdfsod"].items()}
    assert {path.stem for path in (CONF_DIR / "split").glob("*.yaml")} == {
        *lists, "all", "lvis_rare", "lvis_common", "lvis_frequent"
    }  # fmt: skip
    for name, classes in lists.items():
        assert list(split_classes(name)) == classes
