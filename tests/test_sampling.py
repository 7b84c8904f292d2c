"""Classes and samplers: the order of the draw, its independence of everything that should not matter, and refusals."""

import json
import logging
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from coco_samples import annotation, document, many, read
from conftest import cases

from ntt.base.project import CONF_DIR
from ntt.data.coco import CocoDataset, read_coco
from ntt.data.sampling import (
    Sample,
    Validity,
    annotated_categories,
    sample_fixed,
    sample_native,
    sample_reference,
    sample_shot_index,
)
from ntt.data.splits import resolve_split, split_classes
from ntt.errors import ConfigError, DataError
from ntt.types import Category

A, B, C = Category(1, "a"), Category(2, "b"), Category(3, "c")
GOOD = [50, 50, 60, 60]
SMALL = [50, 50, 31, 60]
BORDER = [9, 50, 60, 60]


def ids(sample: Sample) -> list[list[int]]:
    return [[instance.id for instance in instances] for instances in sample]


VALIDITY = Validity(min_box_side_px=32, border_px=10)


def native(dataset: CocoDataset, *categories: Category, shots: int, seed: int = 0, strict: bool = False) -> Any:
    return ids(sample_native(dataset, categories, shots=shots, seed=seed, strict=strict, validity=VALIDITY))


def reference(dataset: CocoDataset, *categories: Category, shots: int, seed: int = 0, strict: bool = False) -> Any:
    return ids(sample_reference(dataset, categories, shots=shots, seed=seed, strict=strict, validity=VALIDITY))


def plenty(folder: Path) -> CocoDataset:
    """Ten images, each with two valid instances of a and of b and one of c."""
    boxes = [(category, image, GOOD) for image in range(10) for category in (1, 1, 2, 2, 3)]
    return many(folder, boxes, num_images=10)


# The native sampler
def test_native_draws_depend_on_nothing_that_should_not_matter(tmp_path):
    dataset = plenty(tmp_path)
    (longest,) = native(dataset, A, shots=20)
    assert sorted(longest) == [i.id for i in dataset.instances_of_category(1)]
    for shots in range(1, 20):
        assert native(dataset, A, shots=shots) == [longest[:shots]]
    together = native(dataset, A, B, C, shots=4)
    assert together == [native(dataset, category, shots=4)[0] for category in (A, B, C)]
    assert native(dataset, C, A, shots=4) == [together[2], together[0]]
    dataset = plenty(tmp_path)
    content = json.loads(dataset.annotation_file.read_text())
    last = [order[-1] for order in native(dataset, A, B, shots=20)]
    content["annotations"] = [entry for entry in reversed(content["annotations"]) if entry["id"] not in last]
    content["images"].reverse()
    assert native(read(tmp_path, content), A, B, shots=5) == native(dataset, A, B, shots=5)


def test_native_draws_are_even_the_same_everywhere_and_spread_over_images(tmp_path):
    """The first three of a for two seeds, written down once: no library or platform may change them."""
    dataset = plenty(tmp_path)
    assert native(dataset, A, shots=3, seed=0) == [[6, 1, 47]]
    assert native(dataset, A, shots=3, seed=33) == [[7, 42, 27]]
    firsts = Counter(native(dataset, A, shots=1, seed=seed)[0][0] for seed in range(1000))
    assert len(firsts) == 20
    assert 25 <= min(firsts.values()) <= max(firsts.values()) <= 75  # 50 expected each, standard deviation 7
    image_of = {i.id: i.image_id for i in dataset.instances}
    for seed in range(5):
        (order,) = native(dataset, A, shots=20, seed=seed)
        assert [len({image_of[number] for number in half}) for half in (order[:10], order[10:])] == [10, 10]


def test_native_takes_valid_instances_first(tmp_path, caplog):
    boxes = [(1, 0, SMALL), (1, 1, GOOD), (1, 2, BORDER), (1, 1, GOOD), (1, 3, SMALL), (1, 1, BORDER)]
    dataset = many(tmp_path, boxes, num_images=4)
    for seed in range(10):
        (order,) = native(dataset, A, shots=9, seed=seed)
        assert set(order[:2]) == {2, 4}
        assert set(order[2:5]) == {1, 3, 5}  # images without a reference yet
        assert order[5] == 6
    assert caplog.records[-1].getMessage() == (
        f"Classes with fewer valid instances ({VALIDITY}) than the 9 shots asked for; small ones and ones at the "
        "border take their place, as far as there are any: a 2"
    )


@cases("box", "valid")(
    *((box, True) for box in ([10, 10, 32, 32], [358, 358, 32, 32])),
    *((box, False) for box in ([9.99, 10, 32, 32], [10, 9.99, 32, 32], [10, 10, 31.99, 32], [10, 10, 32, 31.99])),
    *((box, False) for box in ([358.01, 358, 32, 32], [358, 358.01, 32, 32])),
)
def test_both_ends_of_validity(tmp_path, box, valid):
    dataset = many(tmp_path, [(1, 0, box)], num_images=1)
    for draw in (native, reference):
        if valid:
            assert draw(dataset, A, shots=1, strict=True) == [[1]]
        else:
            with pytest.raises(DataError, match="Too few .* for 1 shots: a 0"):
                draw(dataset, A, shots=1, strict=True)


def test_native_warns_once_of_all_short_classes(tmp_path, caplog):
    dataset = many(tmp_path, [(1, 0, GOOD), (2, 0, SMALL), (2, 1, GOOD), (3, 0, GOOD), (3, 1, GOOD)], num_images=2)
    assert [len(drawn) for drawn in native(dataset, A, B, C, shots=2)] == [1, 2, 2]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().endswith("as far as there are any: a 1, b 1")
    caplog.clear()
    twelve = [Category(n, f"k{n}") for n in range(1, 13)]
    entries = [annotation(c.id, 5, c.id, [20, 20, 40, 40]) for c in twelve]
    native(read(tmp_path, document(categories=list(map(vars, twelve)), annotations=entries)), *twelve, shots=2)
    assert caplog.records[0].getMessage().endswith("k10 1 and 2 more")


# What every sampler refuses
DRAWS: dict[str, Any] = {
    "native": lambda dataset, *categories: native(dataset, *categories, shots=1),
    "reference": lambda dataset, *categories: reference(dataset, *categories, shots=1),
    "fixed": lambda dataset, *categories: ids(sample_fixed(dataset, categories, shots=1, strict=False)),
    "shot_index": lambda dataset, *categories: ids(sample_shot_index(dataset, categories, shots=1, strict=False)),
}


@cases("name")(*DRAWS)
def test_classes_without_a_usable_instance(tmp_path, name):
    dataset = many(tmp_path, [(1, 0, GOOD)], num_images=1, shot_index=0)
    with pytest.raises(DataError, match=r"annotations\.json has no .* of 2 of the 3 classes: b, c\. Name the others"):
        DRAWS[name](dataset, A, B, C)


@cases("name")(*DRAWS)
@cases("mark")({"iscrowd": 1}, {"isimpossible": 1})
def test_crowds_and_impossible_instances_are_never_drawn(tmp_path, name, mark):
    dataset = many(tmp_path, [(1, n, GOOD) for n in range(20)], num_images=20, shot_index=0, **mark)
    with pytest.raises(DataError, match="of 1 of the 1 classes: a"):
        DRAWS[name](dataset, A)
    # One whose box has no area is left out on reading.
    content = json.loads(dataset.annotation_file.read_text())
    content["annotations"] += [annotation(98, 0, 1, [50, 50, 0, 60]), annotation(99, 0, 1, SMALL, shot_index=0)]
    assert DRAWS[name](read(tmp_path, content), A) == [[99]]


# The reference sampler
def test_reference_shuffles_in_order_of_appearance_what_cannot_be_drawn_too(tmp_path):
    """The draws worked out with Python's own shuffle: b comes first in the file, so it is shuffled first."""
    dataset = many(tmp_path, [(2, 0, GOOD), (1, 0, GOOD), (2, 1, GOOD), (1, 1, GOOD), (2, 2, GOOD)], num_images=3)
    for seed in range(5):
        stream = random.Random(seed)
        of_b, of_a = [1, 3, 5], [2, 4]
        stream.shuffle(of_b)
        stream.shuffle(of_a)
        assert reference(dataset, A, B, shots=2, seed=seed) == [of_a, of_b[:2]]
    boxes = [GOOD, [50, 50, 0, 0], GOOD, GOOD, GOOD, [50, 50, 60, 0]]
    drawn = many(tmp_path, [(1, n, box) for n, box in enumerate(boxes)], num_images=6)
    content = json.loads(drawn.annotation_file.read_text())
    content["annotations"][3]["iscrowd"] = content["annotations"][4]["isimpossible"] = 1
    dataset = read(tmp_path, content)
    for seed in range(5):
        order = [1, 2, 3, 4, 6]  # impossible ones are not shuffled
        random.Random(seed).shuffle(order)
        assert reference(dataset, A, shots=2, seed=seed) == [[n for n in order if n in (1, 3)]]


def test_reference_repeats_instances_and_takes_invalid_ones(tmp_path, caplog):
    dataset = many(tmp_path, [(1, 0, GOOD), (1, 0, GOOD), (1, 0, GOOD), (1, 1, GOOD)], num_images=2)
    for seed in range(5):
        order = [1, 2, 3, 4]
        random.Random(seed).shuffle(order)
        first = order[0]
        second = 4 if first != 4 else order[1]
        assert reference(dataset, A, shots=5, seed=seed) == [[first, second, first, second, first]]
    assert caplog.records[-1].getMessage().endswith("asked for; instances are repeated or invalid ones taken: a 2")
    dataset = many(tmp_path, [(1, 0, SMALL), (1, 0, BORDER), (1, 0, SMALL)], num_images=1)
    order = [1, 2, 3]
    random.Random(7).shuffle(order)
    assert reference(dataset, A, shots=2, seed=7) == [order[:2]]
    assert reference(dataset, A, shots=4, seed=7) == [[*order, order[0]]]
    dataset = many(tmp_path, [(1, 0, GOOD), (2, 0, [50, 50, 0, 60])], num_images=1)
    assert annotated_categories(dataset, [A, B, C]) == (A, B)  # b has one that cannot be used, and is refused
    record = caplog.records[-1]
    assert "sampler=reference leaves out 1 class(es) without an annotation" in record.getMessage()
    assert record.getMessage().endswith("neither searched nor evaluated: c")


@cases("draw", "what")((native, "valid instances"), (reference, "images with a valid instance"))
def test_strict_sampling_lists_every_short_class(tmp_path, draw, what):
    dataset = many(tmp_path, [(1, 0, GOOD), (2, 0, SMALL), (3, 0, GOOD), (3, 1, GOOD)], num_images=2)
    rule = f"{what} (box sides of 32 px or more, 10 px or more from the image border)"
    with pytest.raises(DataError, match=re.escape(f"Too few {rule} for 2 shots: a 1, b 0. Lower shots.count, set")):
        draw(dataset, A, B, C, shots=2, strict=True)
    assert draw(dataset, C, shots=2, strict=True) == draw(dataset, C, shots=2)


@pytest.mark.parity
def test_reference_draws_equal_the_recorded_ones(recorded_dir):
    recorded = json.loads((recorded_dir / "sampler.json").read_text())
    dataset = read_coco(recorded_dir / "sampler_annotations.json", recorded_dir)
    splits = {"few_shot_classes": "coco_novel20", "default_classes": "coco_all80"}
    assert len(recorded["runs"]) == 22
    for run in recorded["runs"]:
        split = run["class_split"]
        classes = split_classes(splits[split]) if isinstance(split, str) else split
        categories = resolve_split(dataset.categories, classes=classes)
        choice = {"shots": run["shots"], "seed": run["seed"], "strict": run.get("strict", False)}
        sample = sample_reference(dataset, categories, **choice, validity=VALIDITY)
        drawn = {
            str(category.id): [{"img_id": i.image_id, "ann_ids": [i.id]} for i in instances]
            for category, instances in zip(categories, sample, strict=True)
        }
        assert drawn == run["references"]


# Fixed lists
def test_fixed_takes_everything_in_file_order(tmp_path, caplog):
    dataset = many(tmp_path, [(2, 0, GOOD), (1, 0, SMALL), (2, 1, BORDER), (1, 0, GOOD), (3, 0, GOOD)], num_images=2)
    assert ids(sample_fixed(dataset, [A, B], shots=2, strict=True)) == [[2, 4], [1, 3]]
    assert not caplog.records
    assert ids(sample_fixed(dataset, [A, B], shots=1, strict=True)) == [[2, 4], [1, 3]]
    assert "these classes do not have shots=1: a 2, b 2" in caplog.text
    with pytest.raises(DataError, match="Too few usable annotations for 2 shots: c 1"):
        sample_fixed(dataset, [A, C], shots=2, strict=True)
    assert ids(sample_fixed(dataset, [A, C], shots=2, strict=False)) == [[2, 4], [5]]


def shot_indices(folder: Path, *indices: int | None) -> CocoDataset:
    dataset = many(folder, [(1, 0, GOOD)] * len(indices), num_images=1)
    content = json.loads(dataset.annotation_file.read_text())
    for entry, index in zip(content["annotations"], indices, strict=True):
        entry["shot_index"] = index
    return read(folder, content)


@cases("shots", "expected")((1, [2]), (2, [2, 4, 5]), (3, [2, 4, 5, 1]))
def test_shot_index_goes_by_its_order(tmp_path, shots, expected):
    dataset = shot_indices(tmp_path, 2, 0, None, 1, 1)
    assert ids(sample_shot_index(dataset, [A], shots=shots, strict=True)) == [expected]


def test_too_few_or_no_shot_indices(tmp_path, caplog):
    dataset = shot_indices(tmp_path, 1, 0)
    with pytest.raises(DataError, match="Too few annotations with shot_index < 3 for 3 shots: a 2"):
        sample_shot_index(dataset, [A], shots=3, strict=True)
    assert ids(sample_shot_index(dataset, [A], shots=3, strict=False)) == [[2, 1]]
    assert caplog.records[-1].getMessage().endswith(": a 2")
    with pytest.raises(DataError, match=r"No annotation of .* has a `shot_index`.* Use shots\.sampler=native"):
        sample_shot_index(shot_indices(tmp_path, None, None), [A], shots=1, strict=False)


PETS = [Category(9, "dog"), Category(2, "airplane"), Category(5, "cat")]


def refusal(available: list[Category], classes: list[str], name: str = "all") -> str:
    with pytest.raises(ConfigError) as caught:
        resolve_split(available, classes=classes, name=name)
    return str(caught.value)


def test_all_classes_or_those_named_come_by_id():
    assert resolve_split(PETS) == (Category(2, "airplane"), Category(5, "cat"), Category(9, "dog"))
    assert resolve_split(PETS, classes=["dog", "cat"]) == (Category(5, "cat"), Category(9, "dog"))
    available = [Category(number, name) for number, name in enumerate(split_classes("coco_all80"), start=1)]
    folds = [resolve_split(available, classes=split_classes(f"coco20i_fold{fold}")) for fold in range(4)]
    assert sorted(category.id for fold in folds for category in fold) == list(range(1, 81))
    assert len(resolve_split(available, classes=split_classes("coco_novel20"))) == 20


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


def test_lists_are_the_published_ones(shared_dir):
    published = json.loads((shared_dir / "splits.json").read_text())
    lists = {name: classes for name, classes in published.items() if isinstance(classes, list)}
    lists |= {f"cdfsod_{name.lower().replace('-', '_')}": classes for name, classes in published["cdfsod"].items()}
    assert {path.stem for path in (CONF_DIR / "split").glob("*.yaml")} == {
        *lists, "all", "lvis_rare", "lvis_common", "lvis_frequent"
    }  # fmt: skip
    for name, classes in lists.items():
        assert list(split_classes(name)) == classes
