"""Digests of files, computed once a process for as long as a file does not change.

A file is known by its inode, size and times of change. The operating system sets the time of the last change of an
inode itself, so replacing a file by another of the same size and date does not go unnoticed. A file that changed a
moment ago is hashed again: within the clock's resolution it could change once more without leaving a trace.
"""

import hashlib
import json
import os
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

_BLOCK_BYTES = 1 << 20
_SETTLED_NS = 5_000_000_000
_LIMIT = 500_000
_KNOWN: "OrderedDict[FileIdentity, str]" = OrderedDict()


class FileIdentity(NamedTuple):
    """What tells one state of a file from every other."""

    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int

    @property
    def is_settled(self) -> bool:
        """Whether the last change lies far enough back for the times to tell the next one."""
        return time.time_ns() - max(self.modified_ns, self.changed_ns) > _SETTLED_NS


def file_identity(descriptor: int) -> FileIdentity:
    """Return the identity of an open file; opening makes network file systems ask their server for the truth."""
    stat = os.fstat(descriptor)
    return FileIdentity(stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, as 64 hexadecimal digits.

    Raises:
        OSError: if the file cannot be read.
    """
    with path.open("rb") as stream:
        identity = file_identity(stream.fileno())
        known = _KNOWN.get(identity)
        if known is not None:
            return known
        trusted = identity.is_settled
        digest = _hash(stream)
        if trusted and file_identity(stream.fileno()) == identity:
            _KNOWN[identity] = digest
            if len(_KNOWN) > _LIMIT:
                _KNOWN.popitem(last=False)
        return digest


def _hash(stream: BinaryIO) -> str:
    state = hashlib.sha256()
    while block := stream.read(_BLOCK_BYTES):
        state.update(block)
    return state.hexdigest()


def content_key(facts: Mapping[str, Any] | Sequence[Any]) -> str:
    """Return the sha256 hex digest of JSON-able facts, independent of their order."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
