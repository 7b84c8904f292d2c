"""Digests of files and of settings. A file is hashed once per process for as long as it does not change.

Inode, size and times of change identify its state: the operating system sets the time of an inode's last change, so
even a replacement with the same size and date is noticed. A file that changed a moment ago, within the clock's
resolution, is hashed again.
"""

import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from ntt.base.files import open_regular

_BLOCK_BYTES = 1 << 20
_SETTLED_NS = 5_000_000_000
_CACHE: "dict[FileIdentity, str]" = {}


class FileIdentity(NamedTuple):
    """One state of a file."""

    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int

    @property
    def is_settled(self) -> bool:
        """Whether the last change is old enough for the times to reveal the next one."""
        return time.time_ns() - max(self.modified_ns, self.changed_ns) > _SETTLED_NS


def file_identity(descriptor: int) -> FileIdentity:
    """Return the identity of an open file; opening makes network file systems ask their server."""
    stat = os.fstat(descriptor)
    return FileIdentity(stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, as 64 hexadecimal digits; an OSError if the file cannot be read."""
    with open_regular(path) as stream:
        identity = file_identity(stream.fileno())
        cached = _CACHE.get(identity)
        if cached is not None:
            return cached
        trusted = identity.is_settled
        digest = _hash(stream)
        if trusted and file_identity(stream.fileno()) == identity:
            _CACHE[identity] = digest
        return digest


def digest_of(path: Path, algorithm: str) -> str:
    """Return another digest of a file, such as "md5", in hexadecimal digits; nothing is cached."""
    with open_regular(path) as stream:
        return _hash(stream, algorithm)


def _hash(stream: BinaryIO, algorithm: str = "sha256") -> str:
    state = hashlib.new(algorithm, usedforsecurity=False)
    while block := stream.read(_BLOCK_BYTES):
        state.update(block)
    return state.hexdigest()


def content_key(values: Mapping[str, Any] | Sequence[Any]) -> str:
    """Return the sha256 hex digest of JSON-able values, independent of the order of keys."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
