"""The content-addressed store: what goes in comes out, and nothing damaged does."""

import json
from dataclasses import fields, replace
from operator import attrgetter
from pathlib import Path

import numpy as np
import pytest
from conftest import cases

from ntt.base.digests import content_key
from ntt.errors import StorageError
from ntt.store.entries import candidates_to_arrays
from ntt.store.maintenance import damage, stored_files
from ntt.store.store import Store
from ntt.types import Candidates, ReferenceFeature, RunLengths

KEY = content_key({"image": "abc"})
RUNS = np.array([[0, 600], [599, 1], [300, 300]], dtype=np.uint16)


def some_candidates(count: int = 3) -> Candidates:
    generator = np.random.default_rng(0)
    features = generator.uniform(-1, 1, size=(count, 5))
    features = (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float16).astype(np.float32)
    return Candidates(
        height=20,
        width=30,
        masks=RunLengths(RUNS[:count], np.ones(count, dtype=np.int64)),
        grid_boxes_xyxy=np.array([[0, 0, 5, 5]] * count, dtype=np.float32).reshape(-1, 4),
        predicted_iou=generator.uniform(size=count).astype(np.float32),
        features=features,
    )


def assert_equal(left: Candidates, right: Candidates) -> None:
    assert (left.height, left.width) == (right.height, right.width)
    for name in ("masks.runs_R2", "masks.rows_N", "grid_boxes_xyxy", "predicted_iou", "features"):
        first, second = attrgetter(name)(left), attrgetter(name)(right)
        assert first.dtype == second.dtype
        assert first.shape == second.shape
        np.testing.assert_array_equal(first, second)


@cases("dtype")("float16", "float32")
@cases("count")(0, 1, 3)
def test_candidates_come_back_bit_for_bit(tmp_path, dtype, count):
    store = Store(tmp_path)
    store.write_candidates(KEY, some_candidates(count), feature_dtype=dtype)
    found = store.read_candidates(KEY)
    assert found is not None
    assert_equal(found, some_candidates(count))


@cases("given")((), ("background",), ("background", "clear_background"), ("clear_background",))
def test_features_come_back(tmp_path, given):
    store = Store(tmp_path)
    values = {name: np.arange(4, dtype=np.float32) + number for number, name in enumerate(("instance", *given))}
    feature = ReferenceFeature(**{**dict.fromkeys(field.name for field in fields(ReferenceFeature)), **values})
    store.write_reference(KEY, feature)
    found = store.read_reference(KEY)
    assert found is not None
    for field in fields(ReferenceFeature):
        np.testing.assert_array_equal(getattr(found, field.name), getattr(feature, field.name))
    assert store.read_reference("1" * len(KEY)) is None


def test_keys_are_json_of_plain_values_in_any_order():
    assert content_key({"a": 1, "b": [2, 3]}) == content_key({"b": [2, 3], "a": 1})
    assert content_key({"a": 1}) != content_key({"a": 2})
    with pytest.raises(TypeError):
        content_key({"path": Path("x")})
    assert content_key(json.loads('{"a": [1, 2.5, null, "ü"]}')) == content_key({"a": [1, 2.5, None, "ü"]})


@cases("damage")("truncated", "flipped bit", "foreign", b"", b"PK\x03\x04 something else entirely")
def test_damaged_entry_is_reported_and_absent(tmp_path, damage, caplog):
    store, other = Store(tmp_path), content_key({"image": "other"})
    for key in (KEY, other):
        store.write_candidates(key, some_candidates(), feature_dtype="float16")
    path, foreign = (store.path("candidates", key) for key in (KEY, other))
    data = path.read_bytes()
    flipped = data[:-1] + bytes([data[-1] ^ 1])
    damaged = {"truncated": data[:-7], "flipped bit": flipped, "foreign": foreign.read_bytes()}
    path.write_bytes(damaged.get(damage, damage))
    assert store.read_candidates(KEY) is None
    assert str(path) in caplog.text
    assert "computed again" in caplog.text


@cases("name", "value", "problem")(
    ("features", np.full((3, 5), np.nan, dtype=np.float16), "features has values that are not numbers from 0.99"),
    ("features", np.full((3, 5), 0.5, dtype=np.float16), "features has values that are not numbers from 0.99"),
    ("features", np.zeros((2, 5), dtype=np.float16), "features is float16 (2, 5), expected is float16 (3, 5)"),
    ("features", np.array(1, dtype=np.float16), "features is float16 (), expected is float16 (3,)"),
    ("predicted_iou", np.array([0, 1, np.inf], dtype=np.float32), "predicted_iou has values that are not numbers"),
    ("predicted_iou", np.zeros(3, dtype=np.float64), "predicted_iou is float64 (3,), expected is float32 (3,)"),
    ("grid_boxes_xyxy", np.full((3, 4), 1e9, dtype=np.float32), "grid_boxes_xyxy has values that are not numbers"),
    ("grid_boxes_xyxy", np.array([[5, 5, 4, 6]] * 3, dtype=np.float32), "grid_boxes_xyxy end before they begin"),
    ("mask_runs", RUNS + np.uint16(1), "its run lengths do not fit its size"),
    ("mask_runs", RUNS[:, 0].copy(), "mask_runs is uint16 (3,), expected is uint16 (3, 2)"),
    ("mask_rows", np.array([-1, 2, 2]), "its run lengths do not fit its masks"),
)
def test_impossible_content_with_a_right_checksum_is_absent(tmp_path, name, value, problem, caplog):
    store = Store(tmp_path)
    arrays, notes = candidates_to_arrays(some_candidates(), "float16")
    store.write("candidates", KEY, {**arrays, name: value}, notes=notes)
    assert store.read_candidates(KEY) is None
    assert problem in caplog.text


@cases("arrays")(
    {},
    {"background": np.zeros(3, dtype=np.float32)},
    {"feature": np.ones(3)},
    *({"feature": np.array(values, dtype=np.float32)} for values in ([0, np.inf, 1], [0, 0, 0], [[1], [1], [1]])),
    {"feature": np.ones(3, dtype=np.float32), "background": np.zeros(4, dtype=np.float32)},
)
def test_impossible_reference_is_absent(tmp_path, arrays):
    store = Store(tmp_path)
    store.write("references", KEY, arrays, notes={})
    assert store.read_reference(KEY) is None
    (entry,) = stored_files(tmp_path)
    assert damage(entry) is not None


def test_candidates_that_are_impossible_or_of_another_size_are_absent(tmp_path):
    broken = replace(some_candidates(), predicted_iou=np.array([0, np.nan, 1], dtype=np.float32))
    with pytest.raises(StorageError, match=r"^The models gave impossible candidates: predicted_iou has values"):
        Store(tmp_path).write_candidates(KEY, broken, feature_dtype="float16")
    assert Store(tmp_path).read_candidates(KEY) is None
    store = Store(tmp_path)
    store.write_candidates(KEY, some_candidates(), feature_dtype="float16")
    assert store.read_candidates(KEY, size=(20, 30)) is not None
    assert store.read_candidates(KEY, size=(30, 20)) is None
    arrays, notes = candidates_to_arrays(some_candidates(), "float16")
    for wrong in ({"height": "-20", "width": "-30"}, {"height": "20.0"}, {"width": "1e9"}):
        store.write("candidates", KEY, arrays, notes={**notes, **wrong})
        assert store.read_candidates(KEY) is None
    store.write_candidates(KEY, some_candidates(), feature_dtype="float16")
    path = store.path("candidates", KEY)
    data = path.read_bytes()
    assert data.count(b'height\\": \\"20') == 1
    path.write_bytes(data.replace(b'height\\": \\"20', b'height\\": \\"21'))
    assert store.read_candidates(KEY) is None
