"""Digests of files: right, remembered, and never stale."""

import hashlib
import os
import time
from pathlib import Path

import pytest

from ntt.base import digests
from ntt.base.digests import sha256_of


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


def test_a_file_is_read_once(tmp_path: Path, hashed: list[str], monkeypatch):
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


@pytest.mark.parametrize("replace", [False, True])
def test_the_same_size_and_date_do_not_deceive(tmp_path: Path, hashed: list[str], replace: bool):
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
