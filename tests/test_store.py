"""The content-addressed store: what goes in comes out, nothing damaged does; what `ntt store` says and removes."""

import json
import os
import time
from collections.abc import Callable
from dataclasses import fields, replace
from operator import attrgetter
from pathlib import Path

import numpy as np
import pytest
from conftest import cases
from tqdm import tqdm

from ntt.base.digests import content_key
from ntt.cli.store import parse_size
from ntt.errors import ConfigError, StorageError
from ntt.run.rundir import RunDirectory
from ntt.store.entries import candidates_to_arrays
from ntt.store.maintenance import KEY_DIGITS, choose, damage, stored_files
from ntt.store.store import MARK, USE_RESOLUTION_S, Store
from ntt.sweeps.state import SweepFolder
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
    stored = store.read_candidates(KEY)
    assert stored is not None
    assert_equal(stored, some_candidates(count))


@cases("given")((), ("background",), ("background", "clear_background"), ("clear_background",))
def test_features_come_back(tmp_path, given):
    store = Store(tmp_path)
    values = {name: np.arange(4, dtype=np.float32) + number for number, name in enumerate(("instance", *given))}
    feature = ReferenceFeature(**{**dict.fromkeys(field.name for field in fields(ReferenceFeature)), **values})
    store.write_reference(KEY, feature)
    stored = store.read_reference(KEY)
    assert stored is not None
    for field in fields(ReferenceFeature):
        np.testing.assert_array_equal(getattr(stored, field.name), getattr(feature, field.name))
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


def test_what_is_impossible_or_of_another_size_is_absent(tmp_path):
    broken = replace(some_candidates(), predicted_iou=np.array([0, np.nan, 1], dtype=np.float32))
    with pytest.raises(StorageError, match=r"^The models gave impossible candidates: predicted_iou has values"):
        Store(tmp_path).write_candidates(KEY, broken, feature_dtype="float16")
    with pytest.raises(StorageError, match=r"^The models gave impossible references: feature has values"):
        Store(tmp_path).write_reference(KEY, ReferenceFeature(np.array([1, np.nan], dtype=np.float32), None))
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


DAY_S = 24 * 3600.0


def key(number: int) -> str:
    return content_key({"number": number})


def entry(store: Store, number: int, *, kind: str = "values", days: float = 2.0, size: int = 1000) -> Path:
    """Write an entry that was last used some days ago."""
    store.write(kind, key(number), {"values": np.zeros(size, dtype=np.uint8)}, notes={})
    path, then = store.path(kind, key(number)), time.time() - days * DAY_S
    os.utime(path, (then, then))
    return path


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def command(cli) -> Callable[..., str]:
    return lambda store, action, *words, **more: cli("store", action, "--store", store.root, *words, **more)


def test_info(store, command):
    old = [entry(store, number, days=2 + number) for number in range(3)]
    entry(store, 9, kind="references", days=0, size=10)
    lines = command(store, "info").splitlines()
    assert lines[2].split()[:2] == ["references", "1"]
    assert lines[2].endswith("less than a day to less than a day ago")
    assert lines[3].split()[:3] == ["values", "3", tqdm.format_sizeof(sum(path.stat().st_size for path in old), "B")]
    assert lines[3].endswith("4 days to 2 days ago")
    assert lines[4].split()[:2] == ["all", "4"]


def test_verify_finds_and_removes_damage(store, command):
    good, flipped, foreign, short = (entry(store, number) for number in range(4))
    assert "4 entries read, 0 damaged." in command(store, "verify")
    data = bytearray(flipped.read_bytes())
    data[-1] ^= 1
    flipped.write_bytes(data)
    foreign.write_bytes(good.read_bytes())
    short.write_bytes(good.read_bytes()[:50])
    said = command(store, "verify", status=1)
    assert f"{flipped}: its content does not fit its checksum" in said
    assert f"{foreign}: its content does not match its name" in said
    assert str(short) in said
    assert "4 entries read, 3 damaged." in said
    assert "3 removed" in command(store, "verify", "--remove")
    assert list(store.root.rglob("*.safetensors")) == [good]


def test_a_folder_without_the_mark_is_refused(tmp_path, command):
    weights = tmp_path / "weights" / "ab" / f"ab{'0' * 62}.safetensors"
    weights.parent.mkdir(parents=True)
    weights.touch()
    for folder in (tmp_path, tmp_path / "none"):
        for action in (["info"], ["verify", "--remove"], ["prune", "--max-size", "0", "--keep-hours", "0"]):
            assert f"{folder} is not a store: it has no {MARK}" in command(Store(folder), *action, status=2)
    assert weights.exists()


def test_a_folder_that_cannot_be_read_is_not_taken_to_be_empty(store, command, monkeypatch):
    path = entry(store, 0)

    def refuse(folder: str) -> None:
        raise PermissionError(13, "denied", folder)

    monkeypatch.setattr("os.scandir", refuse)
    for words in (["info"], ["prune", "--unused", "--runs", store.root, "--keep-hours", "0"]):
        assert f"{store.root} cannot be read: denied. Make the folder" in command(store, *words, status=2)
    assert path.exists()


def test_foreign_files_in_a_store_are_never_removed(store, tmp_path, command):
    own = entry(store, 0)
    elsewhere = tmp_path / "weights" / f"ab{'0' * 62}.safetensors"
    elsewhere.parent.mkdir()
    elsewhere.touch()
    (store.root / "linked").mkdir()
    (store.root / "linked" / "ab").symlink_to(elsewhere.parent)
    (store.root / "values" / "ab").mkdir()
    (store.root / "values" / "ab" / elsewhere.name).symlink_to(elsewhere)
    foreign = [own.parent / name for name in ("model.safetensors", f"{'0' * 64}.safetensors", "notes.txt")]
    for path in foreign:
        path.touch()
    command(store, "verify", "--remove")
    command(store, "prune", "--max-size", "0", "--keep-hours", "0")
    assert not own.exists()
    assert all(path.exists() for path in (*foreign, elsewhere, store.root / MARK))


def test_prune_by_age(store, command):
    old, young = entry(store, 0, days=40), entry(store, 1, days=20)
    assert "1 of 2 entries" in command(store, "prune", "--older-than", "30", "--dry-run")
    assert old.exists()
    command(store, "prune", "--older-than", "30")
    assert (old.exists(), young.exists()) == (False, True)


def test_prune_by_size_takes_the_least_recently_used(store, command):
    paths = [entry(store, number, days=10 - number) for number in range(4)]
    each = paths[0].stat().st_size
    command(store, "prune", "--max-size", 2 * each)
    assert [path.exists() for path in paths] == [False, False, True, True]
    assert "1 of 2 entries" in command(store, "prune", "--max-size", 2 * each - 1)
    assert [path.exists() for path in paths] == [False, False, False, True]


def test_what_was_just_used_stays(store, command):
    path = entry(store, 0, days=0)
    said = command(store, "prune", "--max-size", "0")
    assert path.exists()
    assert "used within the last 24 hours; --keep-hours 0 removes that, too" in said
    command(store, "prune", "--max-size", "0", "--keep-hours", "0")
    assert not path.exists()


def test_prune_what_no_run_uses(store, tmp_path, command):
    used, unused, other_kind = entry(store, 0), entry(store, 1), entry(store, 0, kind="references")
    unused_ones = ("prune", "--unused", "--runs", tmp_path / "runs")
    assert "every entry would count as unused" in command(store, *unused_ones, status=2)
    RunDirectory(tmp_path / "runs" / "a" / "b").write_store_keys("candidates", {("values", key(0))})
    shard = SweepFolder(tmp_path / "runs" / "sweeps" / "c").shard_folder("candidates-1.0of1")
    RunDirectory(shard).write_store_keys("candidates-1.0of1", {("values", key(2))})
    of_a_shard = entry(store, 2)
    said = command(store, *unused_ones)
    assert "2 run directories and shards of sweeps have used 2 entries." in said
    assert "2 unused ones are kept for now: --keep-hours 336." in said
    assert unused.exists(), "a run to come may need it"
    command(store, *unused_ones, "--keep-hours", "20")
    assert [path.exists() for path in (used, of_a_shard, unused, other_kind)] == [True, True, False, False]


def test_entries_without_a_run_are_unused_after_two_weeks(store, tmp_path, command):
    young, old = entry(store, 0, days=14.5), entry(store, 1, days=15.5)
    RunDirectory(tmp_path / "run").write_store_keys("candidates", {("values", key(2))})
    command(store, "prune", "--unused", "--runs", tmp_path)
    assert (young.exists(), old.exists()) == (True, False)
    young_by_age, old_by_age = entry(store, 3, days=1.5), entry(store, 4, days=2.5)
    command(store, "prune", "--older-than", "0")
    assert young_by_age.exists(), "the file's time may lag a day behind its last use"
    assert not old_by_age.exists()


def test_prune_removes_abandoned_temporary_files(store, command):
    entry(store, 0)
    folder = store.path("values", key(0)).parent
    young, old, foreign = (folder / f"{name}.tmp" for name in (".ntt-young", ".ntt-old", "foreign"))
    young.touch()
    for path in (old, foreign):
        path.touch()
        os.utime(path, (0, 0))
    command(store, "prune", "--dry-run")
    assert old.exists()
    command(store, "prune")
    assert [path.exists() for path in (young, old, foreign)] == [True, False, True]
    assert store.path("values", key(0)).exists()


@cases("words", "expected")(
    (["--max-size", "much"], "--max-size much is not a size. Write a number and K, M, G or T"),
    (["--max-size", "-3G"], "--max-size -3G is not a size"),
    (["--older-than", "-1"], "-1.0 is not in the range x>=0"),
    (["--keep-hours", "-1"], "-1.0 is not in the range x>=0"),
)
def test_bad_arguments(store, words, expected, command):
    path = entry(store, 0)
    assert expected in command(store, "prune", "=".join(words), status=2)
    assert path.exists()


@cases("text", "value")(("0", 0), ("1500", 1500), ("1.5k", 1500), ("2G", 2 * 10**9))
def test_sizes(text, value):
    assert parse_size(text) == value
    for wrong in ("", "G", "nan", "inf"):
        with pytest.raises(ConfigError, match="is not a size"):
            parse_size(wrong)


def test_use_is_noted_at_most_once_a_day(store):
    path = entry(store, 0, days=0.5)
    before = path.stat().st_mtime
    assert store.read("values", key(0), lambda *entry: entry) is not None
    assert path.stat().st_mtime == before
    path = entry(store, 0, days=1.5)
    store.read("values", key(0), lambda *entry: entry)
    assert time.time() - path.stat().st_mtime < USE_RESOLUTION_S / 2
    path = entry(store, 1, days=1.5)
    assert store.holds("values", key(1))
    assert time.time() - path.stat().st_mtime < USE_RESOLUTION_S / 2, "who looks for an entry will need it"


def test_a_store_of_somebody_else_can_be_read(store, monkeypatch):
    entry(store, 0)

    def refused(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("ntt.store.store.os.utime", refused)
    assert store.read("values", key(0), lambda *entry: entry) is not None


def test_used_keys_are_listed_once(tmp_path):
    directory = RunDirectory(tmp_path)
    directory.write_store_keys("candidates", {("candidates", key(0)), ("candidates", key(1))})
    directory.write_store_keys("matching", {("candidates", key(1)), ("values", key(2))})
    listed = json.loads((tmp_path / "store_keys.json").read_text())
    assert listed["matching"] == {"values": [key(2)[:KEY_DIGITS]]}
    directory.write_store_keys("candidates", {("candidates", key(3))})
    listed = json.loads((tmp_path / "store_keys.json").read_text())
    assert listed["candidates"] == {"candidates": [key(3)[:KEY_DIGITS]]}, "an earlier result's entries stay listed"


def test_choosing_counts_what_goes_anyway(store):
    for number in range(4):
        entry(store, number, days=10 * (4 - number))
    entries = stored_files(store.root)
    each = entries[0].num_bytes
    chosen = choose(entries, unused_days=35, max_bytes=3 * each)
    assert chosen == entries[:1], "the one that is too old makes enough room"
