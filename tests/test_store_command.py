"""`ntt store`: what it says, what it removes, and what it never touches."""

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
from tqdm import tqdm

from ntt.base.digests import content_key
from ntt.cli.main import main
from ntt.cli.store import parse_size
from ntt.errors import ConfigError
from ntt.run.rundir import RunDirectory
from ntt.store.maintenance import KEY_DIGITS, choose, stored_files
from ntt.store.store import MARK, USE_RESOLUTION_S, Store
from ntt.sweeps.state import SweepFolder

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


def command(store: Store, *words: str) -> int:
    return main(["store", words[0], "--store", str(store.root), *words[1:]])


def test_info(store: Store, capsys):
    old = [entry(store, number, days=2 + number) for number in range(3)]
    entry(store, 9, kind="references", days=0, size=10)
    assert command(store, "info") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split()[:2] == ["references", "1"]
    assert lines[2].endswith("less than a day to less than a day ago")
    assert lines[3].split()[:3] == ["values", "3", tqdm.format_sizeof(sum(path.stat().st_size for path in old), "B")]
    assert lines[3].endswith("4 days to 2 days ago")
    assert lines[4].split()[:2] == ["all", "4"]


def test_verify_finds_and_removes_damage(store: Store, capsys):
    good, flipped, foreign, short = (entry(store, number) for number in range(4))
    assert command(store, "verify") == 0
    assert "4 entries read, 0 damaged." in capsys.readouterr().out
    data = bytearray(flipped.read_bytes())
    data[-1] ^= 1
    flipped.write_bytes(data)
    foreign.write_bytes(good.read_bytes())
    short.write_bytes(good.read_bytes()[:50])
    assert command(store, "verify") == 1
    said = capsys.readouterr().out
    assert f"{flipped}: its content does not fit its checksum" in said
    assert f"{foreign}: its content does not match its name" in said
    assert str(short) in said
    assert "4 entries read, 3 damaged." in said
    assert command(store, "verify", "--remove") == 0
    assert "3 removed" in capsys.readouterr().out
    assert list(store.root.rglob("*.safetensors")) == [good]


def test_a_folder_without_the_mark_is_refused(tmp_path: Path, capsys):
    weights = tmp_path / "weights" / "ab" / f"ab{'0' * 62}.safetensors"
    weights.parent.mkdir(parents=True)
    weights.touch()
    for folder in (tmp_path, tmp_path / "none"):
        for action in (["info"], ["verify", "--remove"], ["prune", "--max-size", "0", "--keep-hours", "0"]):
            assert command(Store(folder), *action) != 0
            assert f"{folder} is not a store: it has no {MARK}" in capsys.readouterr().err
    assert weights.exists()


def test_foreign_files_in_a_store_are_never_removed(store: Store, tmp_path: Path):
    mine = entry(store, 0)
    elsewhere = tmp_path / "weights" / f"ab{'0' * 62}.safetensors"
    elsewhere.parent.mkdir()
    elsewhere.touch()
    (store.root / "linked").mkdir()
    (store.root / "linked" / "ab").symlink_to(elsewhere.parent)
    (store.root / "values" / "ab").mkdir()
    (store.root / "values" / "ab" / elsewhere.name).symlink_to(elsewhere)
    foreign = [mine.parent / name for name in ("model.safetensors", f"{'0' * 64}.safetensors", "notes.txt")]
    for path in foreign:
        path.touch()
    assert command(store, "verify", "--remove") == 0
    assert command(store, "prune", "--max-size", "0", "--keep-hours", "0") == 0
    assert not mine.exists()
    assert all(path.exists() for path in (*foreign, elsewhere, store.root / MARK))


def test_prune_by_age(store: Store, capsys):
    old, young = entry(store, 0, days=40), entry(store, 1, days=20)
    assert command(store, "prune", "--older-than", "30", "--dry-run") == 0
    assert "1 of 2 entries" in capsys.readouterr().out
    assert old.exists()
    assert command(store, "prune", "--older-than", "30") == 0
    assert not old.exists()
    assert young.exists()


def test_prune_by_size_takes_the_least_recently_used(store: Store, capsys):
    paths = [entry(store, number, days=10 - number) for number in range(4)]
    each = paths[0].stat().st_size
    assert command(store, "prune", "--max-size", str(2 * each)) == 0
    assert [path.exists() for path in paths] == [False, False, True, True]
    assert command(store, "prune", "--max-size", str(2 * each - 1)) == 0
    assert [path.exists() for path in paths] == [False, False, False, True]
    assert "1 of 2 entries" in capsys.readouterr().out


def test_what_was_just_used_stays(store: Store, capsys):
    path = entry(store, 0, days=0)
    assert command(store, "prune", "--max-size", "0") == 0
    assert path.exists()
    assert "used within the last 24 hours; --keep-hours 0 removes that, too" in capsys.readouterr().out
    assert command(store, "prune", "--max-size", "0", "--keep-hours", "0") == 0
    assert not path.exists()


def test_prune_what_no_run_uses(store: Store, tmp_path: Path, capsys):
    used, unused, other_kind = entry(store, 0), entry(store, 1), entry(store, 0, kind="references")
    assert command(store, "prune", "--unused", "--runs", str(tmp_path / "runs")) == 2
    assert "every entry would count as unused" in capsys.readouterr().err
    RunDirectory(tmp_path / "runs" / "a" / "b").write_store_keys("candidates", {("values", key(0))})
    shard = SweepFolder(tmp_path / "runs" / "sweeps" / "c").shard_folder("candidates-1.0of1")
    RunDirectory(shard).write_store_keys("candidates-1.0of1", {("values", key(2))})
    of_a_shard = entry(store, 2)
    assert command(store, "prune", "--unused", "--runs", str(tmp_path / "runs")) == 0
    said = capsys.readouterr().out
    assert "2 run directories and shards of sweeps have used 2 entries." in said
    assert "2 unused ones are kept for now: --keep-hours 336." in said
    assert unused.exists(), "a run to come may need it"
    assert command(store, "prune", "--unused", "--runs", str(tmp_path / "runs"), "--keep-hours", "20") == 0
    assert [one.exists() for one in (used, of_a_shard, unused, other_kind)] == [True, True, False, False]


def test_entries_without_a_run_are_unused_after_two_weeks(store: Store, tmp_path: Path):
    young, old = entry(store, 0, days=14.5), entry(store, 1, days=15.5)
    RunDirectory(tmp_path / "run").write_store_keys("candidates", {("values", key(2))})
    assert command(store, "prune", "--unused", "--runs", str(tmp_path)) == 0
    assert (young.exists(), old.exists()) == (True, False)
    young_by_age, old_by_age = entry(store, 3, days=1.5), entry(store, 4, days=2.5)
    assert command(store, "prune", "--older-than", "0") == 0
    assert young_by_age.exists(), "the file's time may lag a day behind its last use"
    assert not old_by_age.exists()


def test_prune_removes_abandoned_temporary_files(store: Store):
    entry(store, 0)
    folder = store.path("values", key(0)).parent
    names = ["young", "old", "foreign"]
    young, old, foreign = (folder / f"{'' if name == 'foreign' else '.ntt-'}{name}.tmp" for name in names)
    for path in (young, old, foreign):
        path.touch()
    for path in (old, foreign):
        os.utime(path, (0, 0))
    assert command(store, "prune", "--dry-run") == 0
    assert old.exists()
    assert command(store, "prune") == 0
    assert [path.exists() for path in (young, old, foreign)] == [True, False, True]
    assert store.path("values", key(0)).exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--max-size", "much"], "--max-size much is not a size. Write a number and K, M, G or T"),
        (["--max-size", "-3G"], "--max-size -3G is not a size"),
        (["--older-than", "-1"], "-1.0 is not in the range x>=0"),
        (["--keep-hours", "-1"], "-1.0 is not in the range x>=0"),
    ],
)
def test_bad_arguments(store: Store, words: list[str], expected: str, capsys):
    path = entry(store, 0)
    name, value = words
    assert command(store, "prune", f"{name}={value}") == 2
    assert expected in capsys.readouterr().err
    assert path.exists()


@pytest.mark.parametrize(("text", "value"), [("0", 0), ("1500", 1500), ("1.5k", 1500), ("2G", 2 * 10**9)])
def test_sizes(text: str, value: int):
    assert parse_size(text) == value
    for wrong in ("", "G", "nan", "inf"):
        with pytest.raises(ConfigError, match="is not a size"):
            parse_size(wrong)


def test_use_is_noted_at_most_once_a_day(store: Store):
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


def test_a_store_of_somebody_else_can_be_read(store: Store, monkeypatch):
    entry(store, 0)

    def refused(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("ntt.store.store.os.utime", refused)
    assert store.read("values", key(0), lambda *entry: entry) is not None


def test_used_keys_are_listed_once(tmp_path: Path):
    directory = RunDirectory(tmp_path)
    directory.write_store_keys("candidates", {("candidates", key(0)), ("candidates", key(1))})
    directory.write_store_keys("matching", {("candidates", key(1)), ("values", key(2))})
    kept = json.loads((tmp_path / "store_keys.json").read_text())
    assert kept["matching"] == {"values": [key(2)[:KEY_DIGITS]]}
    directory.write_store_keys("candidates", {("candidates", key(3))})
    kept = json.loads((tmp_path / "store_keys.json").read_text())
    assert kept["candidates"] == {"candidates": [key(3)[:KEY_DIGITS]]}, "an earlier result's entries stay listed"


def test_choosing_counts_what_goes_anyway(store: Store):
    for number in range(4):
        entry(store, number, days=10 * (4 - number))
    entries = stored_files(store.root)
    each = entries[0].num_bytes
    chosen = choose(entries, unused_days=35, max_bytes=3 * each)
    assert chosen == entries[:1], "the one that is too old makes enough room"
