"""Files appear whole or not at all, digests are never stale; run directories keep their records."""

import gc
import hashlib
import io
import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import cases

from ntt.base import digests, files
from ntt.base.digests import sha256_of
from ntt.base.files import atomic_path, read_json, remove_stale_temporaries, stale_temporaries, write_json, write_text
from ntt.base.garbage import older_values_spared
from ntt.base.log import console_logging, file_logging
from ntt.base.progress import track
from ntt.config.schema import RuntimeConfig
from ntt.errors import StorageError
from ntt.run import artefacts as results
from ntt.run.environment import apply_runtime
from ntt.run.rundir import RunDirectory
from ntt.store.maintenance import used_store_keys
from ntt.types import Category, MemoryBank, Prototypes


def test_a_failed_write_keeps_the_old_file(tmp_path):
    target = tmp_path / "a.txt"
    write_text(target, "old")

    def interrupted() -> None:
        with atomic_path(target) as temporary:
            temporary.write_text("new, but")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_abandoned_temporary_files_of_ours_go_after_a_day(tmp_path):
    """At once where their process is dead. What others call `.tmp`, or link to, is never touched."""
    names = [".ntt-old.tmp", ".ntt-new.tmp", "foreign.tmp", ".ntt-notes", "x.ntt-old.tmp"]
    (tmp_path / "below").mkdir()
    for path in (tmp_path / "below" / name for name in names):
        path.touch()
        os.utime(path, (0, 0) if "new" not in path.name else None)
    dead = subprocess.Popen(["true"])
    dead.wait()
    owners = (f"{files._HOST}-{os.getpid()}", f"{files._HOST}{'9' * 30}", f"elsewhere-{dead.pid}")
    names += [f".ntt-{owner}-x.tmp" for owner in owners]
    for name in (*names[-3:], f".ntt-{files._HOST}-{dead.pid}-x.tmp"):
        (tmp_path / "below" / name).touch()
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "link").symlink_to(tmp_path / "below")
    assert stale_temporaries(tmp_path / "store") == stale_temporaries(tmp_path / "nowhere") == []
    remove_stale_temporaries(tmp_path)
    assert {path.name for path in (tmp_path / "below").iterdir()} == set(names[1:])


def test_what_cannot_be_written_or_read_is_named(tmp_path):
    write_text(tmp_path / ("ü" * 125), "long names can be written")
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert not (tmp_path / "a.json").exists()
    (tmp_path / "a.json").write_text('{"x": ')
    with pytest.raises(StorageError, match=r"a\.json cannot be read: Expecting value"):
        read_json(tmp_path / "a.json")
    with pytest.raises(StorageError, match="Cannot write .*run the same command again"):
        write_text(tmp_path / "a.json" / "a.txt", "x")
    with pytest.raises(StorageError, match="it is a folder. Remove it and run the same command again"):
        write_text(tmp_path, "x")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StorageError, match="pipe cannot be read: .*it is not a regular file"):
        read_json(tmp_path / "pipe")
    with pytest.raises(StorageError, match="Set runtime.output_root"), file_logging(tmp_path / "a.json" / "run"):
        pass
    value = {"caption": "ö \ud83d", "name": "\u00f6"}
    write_json(tmp_path / "a.json", value)
    assert json.loads((tmp_path / "a.json").read_bytes()) == value


def test_records(tmp_path, caplog):
    directory = RunDirectory(tmp_path)
    assert directory.record("memory") is None
    assert not directory.is_done("memory", "key")
    write_text(directory.memory, "x")
    directory.write_record("memory", "key", [directory.memory], {"seconds": 1.5})
    assert directory.is_done("memory", "key")
    assert not directory.is_done("memory", "another key")
    directory.memory.unlink()
    assert not directory.is_done("memory", "key")
    shapes = ["{", "[]", "3", "null", "[" * 10**5, '{"key": "key", "files": {}}', '{"files": {}, "seconds": "1"}']
    shapes += [f'{{"key": "key", "files": {{"{name}": {{}}}}, "seconds": 1}}' for name in ("../a", "/a")]
    for shape in shapes:
        caplog.clear()
        (tmp_path / "stages" / "memory.json").write_text(shape)
        with caplog.at_level(logging.WARNING, logger="ntt"):
            assert not directory.is_done("memory", "key")
            assert directory.stage_details() == {}
        assert "The stage is repeated" in caplog.text or shape == "null"


@cases("content")("[]", "3", '{"memory": []}', '{"memory": {"references": 3}}', '{"a": {"b": [1]}}', "{")
def test_lists_of_used_entries_of_another_shape_are_passed_over(tmp_path, content, caplog):
    (tmp_path / "store_keys.json").write_text(content)
    assert used_store_keys(tmp_path) == {}
    RunDirectory(tmp_path).write_store_keys("memory", [("references", "ab" * 32)])
    assert used_store_keys(tmp_path) == {"memory": {"references": ["ab" * 8]}}
    assert "store_keys.json" in caplog.text


def test_names_are_shown_in_any_encoding_and_obeyed_by_no_terminal(tmp_path, monkeypatch):
    screen = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(screen, encoding="ascii", errors="strict"))
    with console_logging(), file_logging(tmp_path):
        logging.getLogger("ntt").info("bööt \x1b[31m\udcff\nnext")
    assert screen.getvalue() == b"b??t ?[31m?\nnext\n"
    assert "INFO    bööt \ufffd[31m\ufffd\nnext" in (tmp_path / "run.log").read_text()
    assert str(StorageError("a\x1b[2J\r\u202eb")) == "a\ufffd[2J\ufffd\ufffdb"


def test_the_log_of_a_run(tmp_path, capsys):
    logger = logging.getLogger("ntt.somewhere")
    with console_logging(), file_logging(tmp_path / "run"):
        logger.info("said")
    with pytest.raises(ValueError, match="oops"), file_logging(tmp_path / "run"):
        raise ValueError("oops")
    logger.info("not said")
    text = (tmp_path / "run" / "run.log").read_text()
    assert "INFO    said" in text
    assert "ERROR   stopped by ValueError: oops" in text
    assert "not said" not in text
    assert capsys.readouterr().out == "said\n"
    # Other processes only tell errors.
    with console_logging(rank=1), file_logging(tmp_path / "other", rank=1):
        logger.warning("quiet")
        logger.error("bad")
    assert capsys.readouterr().out == "[process 1] ERROR bad\n"
    assert not (tmp_path / "other").exists()


def test_tensors_come_back(tmp_path):
    categories = (Category(1, "cat"), Category(4, "ü"))
    backgrounds = (torch.rand(1, 3), torch.rand(0, 3))
    memory = MemoryBank(categories, (torch.rand(2, 3), torch.rand(1, 3)), backgrounds)
    results.write_memory(tmp_path / "memory.safetensors", memory)
    back = results.read_memory(tmp_path / "memory.safetensors")
    assert back.categories == categories
    assert all(torch.equal(a, b) for a, b in zip(memory.features, back.features, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(backgrounds, back.backgrounds, strict=True))
    results.write_memory(tmp_path / "plain.safetensors", MemoryBank(categories, memory.features))
    assert results.read_memory(tmp_path / "plain.safetensors").backgrounds == ()
    prototypes = Prototypes(categories, torch.rand(2, 3), torch.arange(2))
    results.write_prototypes(tmp_path / "prototypes.safetensors", prototypes)
    read = results.read_prototypes(tmp_path / "prototypes.safetensors")
    assert torch.equal(read.vectors_PD, prototypes.vectors_PD)
    assert torch.equal(read.labels_P, prototypes.labels_P)
    (tmp_path / "memory.safetensors").write_bytes(b"short")
    with pytest.raises(StorageError, match="cannot be read"):
        results.read_memory(tmp_path / "memory.safetensors")


def test_progress_is_logged_now_and_then_and_is_a_bar_on_a_terminal(monkeypatch, caplog, tmp_path, capsys):
    monkeypatch.setattr("ntt.base.progress._LOG_EVERY_S", 0.0)
    with caplog.at_level(logging.INFO, logger="ntt"):
        assert list(track([1, 2, 3], "candidates", unit="image", visible=True)) == [1, 2, 3]
    assert "candidates     2 of 3 images, about" in caplog.text
    caplog.clear()
    assert list(track([1, 2], "candidates", unit="image", visible=False)) == [1, 2]
    assert not caplog.text
    monkeypatch.setattr("ntt.base.progress._LOG_EVERY_S", 0.0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with console_logging(), file_logging(tmp_path):
        list(track([1, 2], "candidates", unit="image", visible=True))
    assert "1 of 2 images" in (tmp_path / "run.log").read_text()
    out, err = capsys.readouterr()
    assert (out, "candidates" in err) == ("", True)


def test_determinism_is_asked_of_cublas_but_a_users_own_setting_stays(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    apply_runtime(RuntimeConfig(name="local", device="cpu"), local_rank=0)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    apply_runtime(RuntimeConfig(name="local", device="cpu"), local_rank=0)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


@pytest.fixture
def hashed(monkeypatch) -> list[str]:
    """Let files count as settled at once, and note each file that is read."""
    names: list[str] = []
    real = digests._hash

    def noted(stream, algorithm="sha256"):
        names.append(Path(stream.name).name)
        return real(stream, algorithm)

    monkeypatch.setattr(digests, "_hash", noted)
    monkeypatch.setattr(digests, "_SETTLED_NS", -1)
    return names


def test_a_file_is_read_once(tmp_path, hashed, monkeypatch):
    path = tmp_path / "a"
    path.write_bytes(b"one")
    assert sha256_of(path) == sha256_of(path) == hashlib.sha256(b"one").hexdigest()
    (tmp_path / "b").symlink_to(path)
    assert sha256_of(tmp_path / "b") == sha256_of(path)
    assert hashed == ["a"]
    # A file that has just changed is read again.
    monkeypatch.setattr(digests, "_SETTLED_NS", 60 * 10**9)
    (tmp_path / "c").write_bytes(b"one")
    assert sha256_of(tmp_path / "c") == sha256_of(tmp_path / "c") == sha256_of(path)
    assert hashed == ["a", "c", "c"]


@cases("replace")(False, True)
def test_the_same_size_and_date_do_not_deceive(tmp_path, hashed, replace):
    path = tmp_path / "a"
    path.write_bytes(b"one")
    before = path.stat()
    sha256_of(path)
    time.sleep(0.05)  # file systems take their time from a clock that ticks a few hundred times a second
    if replace:
        (tmp_path / "new").write_bytes(b"two")
        (tmp_path / "new").replace(path)
    else:
        path.write_bytes(b"two")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert sha256_of(path) == hashlib.sha256(b"two").hexdigest()


def test_older_values_are_spared_until_the_outermost_block_ends():
    with older_values_spared():
        with older_values_spared():
            pass
        assert gc.get_freeze_count() > 0
    assert gc.get_freeze_count() == 0
