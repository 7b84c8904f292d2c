"""Random mutations of what users hand in: refused, named, or without any effect; never a traceback, never a hang.

Of annotation files the run is followed as far as they reach: the references drawn, and the metrics of given detections.
"""

import copy
import json
import logging
import math
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import cases
from tiny_data import make_tiny, read, settings

from ntt.config.compose import compose_config
from ntt.config.identity import run_directory
from ntt.data.coco import CocoDataset, read_coco
from ntt.data.images import check_images
from ntt.data.masks import instance_rle
from ntt.data.sampling import sample_fixed
from ntt.errors import NttError
from ntt.run import runner
from ntt.run.inputs import check_agreement, warn_of_unknown_classes
from ntt.stages.evaluation import evaluate
from ntt.types import Detections, Json

pytestmark = pytest.mark.slow
_MOST_SECONDS = 10.0
"""Processor time, so that a loaded machine makes no difference."""
HUGE = int("9" * 4000)

Outcome = tuple[Any, dict[str, Any]]


def detections(dataset: CocoDataset) -> list[Detections]:
    """What a run might find: every object, moved by a few pixels, with a score that falls along the file."""
    moved = []
    labels = {category.id: index for index, category in enumerate(dataset.categories)}
    for number, record in enumerate(dataset.images.values()):
        objects = dataset.instances_of_image(record.id)
        boxes = np.array([i.bbox_xywh for i in objects], dtype=np.float32).reshape(-1, 4) + np.float32([2, 1, 0, 0])
        scores = np.linspace(0.9 - number / 20, 0.5, len(objects), dtype=np.float32)
        label = np.array([labels[i.category_id] for i in objects], dtype=np.int64)
        rles = tuple(instance_rle(i, record.height, record.width) for i in objects)
        moved.append(Detections(record.id, record.height, record.width, label, scores, boxes, rles))
    return moved


def outcome(root: Path, given: list[Detections] | None = None) -> Outcome:
    """Read both files as a run does: what the memory is made of, and the metrics of the detections."""
    references, targets = (
        read_coco(root / f"annotations/{role}.json", root / "images", annotations_required=role == "references")
        for role in ("references", "targets")
    )
    check_agreement(references.categories, targets)
    warn_of_unknown_classes(references.categories, targets)
    check_images([*references.images.values(), *targets.images.values()])
    sample = sample_fixed(references, references.categories, shots=None, strict=False)
    images = references.images
    memory = sorted(
        (c.name, images[i.image_id].file_name, instance_rle(i, images[i.image_id].height, images[i.image_id].width))
        for c, instances in zip(references.categories, sample, strict=True)
        for i in instances
    )
    predicted = detections(targets) if given is None else given
    # The detections are the same, whatever the images are called.
    predicted = [replace(image, image_id=number) for number, image in zip(targets.images, predicted, strict=False)]
    metrics = evaluate(detections=predicted, ground_truth=targets, categories=references.categories)
    return memory, {kind: dict(values) for kind, values in metrics.overall.items()}


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield where values of a document are; of a polygon only the whole list."""
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from paths(value[key], (*path, key))
    elif isinstance(value, list) and not (value and isinstance(value[0], int | float)):
        for index in range(len(value)):
            yield from paths(value[index], (*path, index))


def replaced(document: Json, path: tuple[Any, ...], change: Callable[[Any, Any], None]) -> None:
    parent: Any = document
    for key in path[:-1]:
        parent = parent[key]
    change(parent, path[-1])


JUNK: list[Any] = [
    *(None, "", "x", "1", "\ud800", "\x1b[2J", "a/b", "../a", "x" * 300),
    *(True, False, -1, 0, 1, 2, 7.0, 0.5, 2**31, 2**63, 2**64 + 1, 10**9, 1e300, -1e300, math.nan, math.inf, HUGE),
    *([], {}, [[]], [{}], [1, 2], [1] * 6, [0, 0, 0, 0], [[1e8] * 6], [["a"] * 6], json.loads("[" * 50 + "]" * 50)),
    *(
        {"size": size, "counts": counts}
        for size in ([96, 128], [HUGE, 10**9])
        for counts in ("o" * 9, "0", [12288], [-1])
    ),
]


def spoil(document: Json, stream: random.Random) -> str:
    """Replace, remove or repeat one value anywhere."""
    path = stream.choice([path for path in paths(document) if path])
    kind = stream.choice(("junk", "junk", "junk", "remove", "repeat"))
    junk = copy.deepcopy(stream.choice(JUNK))
    if len(path) < 3 and (kind == "remove" or junk in ([], None)):
        return spoil(document, stream)  # a file with fewer entries is another sound file
    if path[-1] in ("image_id", "category_id") and isinstance(junk, int | float | str) and str(junk)[:1] in "1237":
        return spoil(document, stream)  # so is one where an object is another's

    def change(parent: Any, key: Any) -> None:
        if kind == "remove":
            del parent[key]
        elif kind == "repeat" and isinstance(parent, list):
            parent.append(copy.deepcopy(parent[key]))
        else:
            parent[key] = junk

    replaced(document, path, change)
    return f"{kind} {path} {repr(junk)[:40]}"


@contextmanager
def spoilt(root: Path, texts: dict[str, str], stream: random.Random) -> Iterator[str]:
    """Spoil one of the annotation files, and say how."""
    role = stream.choice(("references", "targets"))
    document = json.loads(texts[role])
    what = spoil(document, stream)
    (root / f"annotations/{role}.json").write_text(json.dumps(document))
    yield f"{role}: {what}"
    (root / f"annotations/{role}.json").write_text(texts[role])


def rewrite(document: Json, stream: random.Random) -> str:
    """Write the same in another way."""
    as_number: Callable[[int], Any] = stream.choice([float, str, lambda number: number])
    offset = stream.choice([0, 2**31, 2**63, 2**64])
    new_id = stream.choice([as_number, lambda number: number + offset, lambda number: f"image {number}"])
    for entry in document["images"]:
        entry["id"] = new_id(entry["id"])
    for entry in document["annotations"]:
        entry["image_id"] = new_id(entry["image_id"])
        entry["category_id"] = as_number(entry["category_id"])
        entry["id"] = stream.choice([as_number, str, float])(entry["id"])
        entry["iscrowd"] = stream.choice([0, 0.0, False, None])
        entry["note"] = stream.choice([None, "\ud83d", {"a": [1]}, "\x1b[31m"])
        shape = stream.randrange(4)
        if shape == 0:
            entry["segmentation"].append([])
        elif shape == 1:
            entry["segmentation"] = entry["segmentation"][0]
        elif shape == 2:
            entry["segmentation"] = [[float(value) for value in polygon] for polygon in entry["segmentation"]]
    for entry in document["categories"]:
        entry["id"] = stream.choice([as_number, str])(entry["id"])
        entry["supercategory"] = stream.choice(["", "none", "thing"])
    for entry in document["images"]:
        stream.choice([lambda e: None, lambda e: e.pop("width"), lambda e: e.update(height=float(e["height"]))])(entry)
        entry["file_name"] = stream.choice(["", "./", "x/../"]) + entry["file_name"]
    stream.shuffle(document["categories"])
    for key in stream.sample(list(document), len(document)):
        document[key] = document.pop(key)
    return f"{offset} {new_id} {as_number}"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    root = make_tiny(tmp_path_factory.mktemp("fuzz") / "tiny")
    for file in (root / "annotations").iterdir():  # `area` as it is measured where it is absent
        content = json.loads(file.read_text())
        for entry in content["annotations"]:
            del entry["area"]
        file.write_text(json.dumps(content))
        for entry, instance in zip(content["annotations"], read_coco(file, root / "images").instances, strict=True):
            entry["area"] = instance.area_px
        file.write_text(json.dumps(content))
    return root


@pytest.fixture(scope="module")
def twin(tiny: Path) -> tuple[Outcome, list[Detections], dict[str, str]]:
    texts = {role: (tiny / f"annotations/{role}.json").read_text() for role in ("references", "targets")}
    given = detections(read_coco(tiny / "annotations/targets.json", tiny / "images"))
    return outcome(tiny, given), given, texts


def attempt(root: Path, given: list[Detections], caplog: pytest.LogCaptureFixture) -> tuple[Outcome | None, str]:
    """Return the outcome, None for a refusal, and the warnings; any error but a user's ends the test."""
    caplog.clear()
    began = time.process_time()
    try:
        with caplog.at_level(logging.WARNING):
            result = outcome(root, given)
    except NttError as error:
        result, length = None, len(str(error))
        assert length < 20_000
    assert time.process_time() - began < _MOST_SECONDS
    return result, caplog.text


@cases("seed")(*range(12))
def test_spoilt_annotation_files(tiny, twin, seed, caplog):
    """A hundred times one value is replaced by rubbish: refused, named, or the result is that of the sound twin."""
    expected, given, texts = twin
    stream = random.Random(seed)
    for number in range(100):
        with spoilt(tiny, texts, stream) as what:
            result, warnings = attempt(tiny, given, caplog)
        if result is not None and not warnings:
            assert result == expected, f"{seed}/{number} {what}"


@cases("seed")(*range(3))
def test_spoilt_annotation_files_in_whole_runs(tiny, twin, seed, tmp_path, shared_store, caplog):
    """The same from the command line's settings to metrics.json, models included."""
    config, logger = compose_config(settings(tiny, tmp_path, shared_store)), logging.getLogger("ntt")
    stream, texts = random.Random(3000 + seed), twin[2]

    def metrics() -> tuple[Any, set[str]]:
        caplog.clear()
        runner.run(config)
        warnings = {record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING}
        return read(run_directory(config) / "metrics.json")["overall"], warnings

    logger.addHandler(caplog.handler)
    try:
        expected, usual = metrics()
        for number in range(15):
            with spoilt(tiny, texts, stream) as what, suppress(NttError):
                result, warnings = metrics()
                assert result == expected or warnings - usual, f"{seed}/{number} {what}"
    finally:
        logger.removeHandler(caplog.handler)
        for role, text in texts.items():
            (tiny / f"annotations/{role}.json").write_text(text)


@cases("seed")(*range(4))
def test_annotation_files_written_in_another_way(tiny, twin, seed, caplog):
    expected, given, texts = twin
    stream = random.Random(1000 + seed)
    for number in range(100):
        for role, text in texts.items():
            document = json.loads(text)
            what = rewrite(document, stream)
            (tiny / f"annotations/{role}.json").write_text(json.dumps(document))
        result, _ = attempt(tiny, given, caplog)
        assert result == expected, f"{seed}/{number}: {what}"
    for role, text in texts.items():
        (tiny / f"annotations/{role}.json").write_text(text)


@cases("seed")(*range(4))
def test_annotation_files_with_damaged_bytes(tiny, twin, seed, caplog):
    """Bytes exchanged, removed, inserted, cut off: what is left may be another sound file, so results may differ."""
    _, given, texts = twin
    stream = random.Random(2000 + seed)
    for _ in range(100):
        role = stream.choice(("references", "targets"))
        content = bytearray(texts[role].encode())
        for _ in range(stream.randint(1, 4)):
            at, kind = stream.randrange(len(content)), stream.randrange(4)
            if kind == 0:
                content[at] = stream.randrange(256)
            elif kind == 1:
                del content[at : at + stream.randint(1, 30)]
            elif kind == 2:
                content[at:at] = stream.choice(
                    [b"\\ud800", b"\0", b"9" * 500, b'"', b"}", b"[" * 2000, b"\xff", b"1e", b"-"]
                )
            else:
                content[at:at] = content[at : at + stream.randint(1, 60)]
        (tiny / f"annotations/{role}.json").write_bytes(bytes(content[: stream.choice([None, None, None, at])]))
        attempt(tiny, given, caplog)
        (tiny / f"annotations/{role}.json").write_text(texts[role])
