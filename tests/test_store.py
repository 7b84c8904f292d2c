"""The content-addressed store: what goes in comes out, and nothing damaged does."""

import json
import logging
from dataclasses import fields, replace
from operator import attrgetter
from pathlib import Path

import numpy as np
import pytest

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


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("count", [0, 1, 3])
def test_candidates_come_back_bit_for_bit(tmp_path: Path, dtype: str, count: int):
    store = Store(tmp_path)
    store.write_candidates(KEY, some_candidates(count), feature_dtype=dtype)
    found = store.read_candidates(KEY)
    assert found is not None
    assert_equal(found, some_candidates(count))


@pytest.mark.parametrize("given", [(), ("background",), ("background", "clear_background"), ("clear_background",)])
def test_features_come_back(tmp_path: Path, given: tuple[str, ...]):
    store = Store(tmp_path)
    feature = ReferenceFeature(
        **{
            field.name: np.arange(4, dtype=np.float32) + number if field.name in ("instance", *given) else None
            for number, field in enumerate(fields(ReferenceFeature))
        }
    )
    store.write_reference(KEY, feature)
    found = store.read_reference(KEY)
    assert found is not None
    for field in fields(ReferenceFeature):
        np.testing.assert_array_equal(getattr(found, field.name), getattr(feature, field.name))
    assert store.read_reference("1" * len(KEY)) is None


def test_key_ignores_order_but_not_values():
    assert content_key({"a": 1, "b": [2, 3]}) == content_key({"b": [2, 3], "a": 1})
    assert content_key({"a": 1}) != content_key({"a": 2})


@pytest.mark.parametrize("damage", ["truncated", "flipped bit", "empty", "foreign", "not safetensors"])
def test_damaged_entry_is_reported_and_absent(tmp_path: Path, damage: str, caplog):
    store = Store(tmp_path)
    store.write_candidates(KEY, some_candidates(), feature_dtype="float16")
    path = store.path("candidates", KEY)
    data = bytearray(path.read_bytes())
    if damage == "truncated":
        data = data[:-7]
    elif damage == "flipped bit":
        data[-1] ^= 1
    elif damage == "empty":
        data = bytearray()
    elif damage == "not safetensors":
        data = bytearray(b"PK\x03\x04 something else entirely")
    if damage == "foreign":
        other = content_key({"image": "other"})
        store.write_candidates(other, some_candidates(), feature_dtype="float16")
        data = bytearray(store.path("candidates", other).read_bytes())
    path.write_bytes(bytes(data))
    with caplog.at_level(logging.WARNING):
        assert store.read_candidates(KEY) is None
    assert str(path) in caplog.text
    assert "computed again" in caplog.text


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
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
    ],
)
def test_impossible_content_with_a_right_checksum_is_absent(
    tmp_path: Path, name: str, value: np.ndarray, problem: str, caplog
):
    store = Store(tmp_path)
    arrays, notes = candidates_to_arrays(some_candidates(), "float16")
    store.write("candidates", KEY, {**arrays, name: value}, notes=notes)
    assert store.read_candidates(KEY) is None
    assert problem in caplog.text


@pytest.mark.parametrize(
    "arrays",
    [
        {},
        {"background": np.zeros(3, dtype=np.float32)},
        {"feature": np.array([0, np.inf, 1], dtype=np.float32)},
        {"feature": np.ones(3)},
        {"feature": np.zeros(3, dtype=np.float32)},
        {"feature": np.ones((3, 1), dtype=np.float32)},
        {"feature": np.ones(3, dtype=np.float32), "background": np.zeros(4, dtype=np.float32)},
    ],
)
def test_impossible_reference_is_absent(tmp_path: Path, arrays: dict[str, np.ndarray]):
    store = Store(tmp_path)
    store.write("references", KEY, arrays, notes={})
    assert store.read_reference(KEY) is None
    (entry,) = stored_files(tmp_path)
    assert damage(entry) is not None


def test_candidates_of_another_size_are_absent(tmp_path: Path):
    store = Store(tmp_path)
    store.write_candidates(KEY, some_candidates(), feature_dtype="float16")
    assert store.read_candidates(KEY, size=(20, 30)) is not None
    assert store.read_candidates(KEY, size=(30, 20)) is None
    arrays, notes = candidates_to_arrays(some_candidates(), "float16")
    for wrong in ({"height": "-20", "width": "-30"}, {"height": "20.0"}, {"width": "1e9"}):
        store.write("candidates", KEY, arrays, notes={**notes, **wrong})
        assert store.read_candidates(KEY) is None


def test_impossible_candidates_are_not_written(tmp_path: Path):
    broken = replace(some_candidates(), predicted_iou=np.array([0, np.nan, 1], dtype=np.float32))
    with pytest.raises(StorageError, match=r"^The models gave impossible candidates: predicted_iou has values"):
        Store(tmp_path).write_candidates(KEY, broken, feature_dtype="float16")
    assert Store(tmp_path).read_candidates(KEY) is None


def test_changed_note_is_noticed(tmp_path: Path):
    store = Store(tmp_path)
    store.write_candidates(KEY, some_candidates(), feature_dtype="float16")
    path = store.path("candidates", KEY)
    data = path.read_bytes()
    assert data.count(b'height\\": \\"20') == 1
    path.write_bytes(data.replace(b'height\\": \\"20', b'height\\": \\"21'))
    assert store.read_candidates(KEY) is None


def test_same_content_gives_the_same_bytes(tmp_path: Path):
    first, second = Store(tmp_path / "a"), Store(tmp_path / "b")
    for store in (first, second):
        store.write_candidates(KEY, some_candidates(), feature_dtype="float16")
    assert first.path("candidates", KEY).read_bytes() == second.path("candidates", KEY).read_bytes()


def test_keys_are_json_of_plain_values():
    with pytest.raises(TypeError):
        content_key({"path": Path("x")})
    assert content_key(json.loads('{"a": [1, 2.5, null, "ü"]}')) == content_key({"a": [1, 2.5, None, "ü"]})
