"""Files that a reader sees complete or not at all, and lock files."""

import errno
import fnmatch
import json
import logging
import os
import platform
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from ntt.errors import StorageError

# Age from which a temporary file counts as abandoned by its process. Writing takes seconds.
_STALE_AFTER_S = 24 * 3600.0
_TEMPORARY_PREFIX, _TEMPORARY_SUFFIX = ".ntt-", ".tmp"
_HOST = re.sub(r"\W+", "", platform.node())
_SPARE_BYTES = 64 << 20
_LOG = logging.getLogger(__name__)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path, renamed to `path` if the block ends well; a StorageError if it cannot be written."""
    token = f"{_HOST}-{os.getpid()}-{secrets.token_hex(8)}"
    temporary = path.parent / f"{_TEMPORARY_PREFIX}{token}{_TEMPORARY_SUFFIX}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        cause, remedy = ("the disk is full", "Make space") if is_full else (error, "Make the folder writable")
        if path.is_dir():
            cause, remedy = "it is a folder", "Remove it"
        raise StorageError(
            f"Cannot write {path}: {cause}. {remedy} and run the same command again; it resumes where it stopped."
        ) from error


def stale_temporaries(root: Path, *, recursive: bool = True) -> list[Path]:
    """Find temporary files of `atomic_path` that a dead process of this machine left, or any process a day ago."""
    oldest = time.time() - _STALE_AFTER_S
    stale = []
    for folder, folders, names in os.walk(root):
        if not recursive:
            folders.clear()
        for name in fnmatch.filter(names, f"{_TEMPORARY_PREFIX}*{_TEMPORARY_SUFFIX}"):
            path = Path(folder, name)
            with suppress(OSError):  # removed in the meantime
                stale += [path] if path.lstat().st_mtime < oldest or _is_of_dead_process(name) else []
    return stale


def _is_of_dead_process(name: str) -> bool:
    process = re.match(rf"{re.escape(_TEMPORARY_PREFIX)}{_HOST}-(\d+)-", name)
    return process is not None and not is_alive(int(process[1]))


def is_alive(pid: int) -> bool:
    """Return whether a process with this id runs on this machine."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # another user's process, or a number too large for a process id
        return True
    return True


def remove_stale_temporaries(root: Path, *, recursive: bool = True) -> None:
    """Remove what `stale_temporaries` finds."""
    for path in stale_temporaries(root, recursive=recursive):
        with suppress(OSError):
            path.unlink()


def write_parts(path: Path, parts: Iterable[bytes]) -> Path:
    """Write a file atomically, part by part; it has reached the disk before it appears under its name."""
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        stream.writelines(parts)
        stream.flush()
        os.fsync(stream.fileno())
    return path


def write_bytes(path: Path, data: bytes) -> Path:
    """Write a file as `write_parts` does."""
    return write_parts(path, [data])


def write_text(path: Path, text: str) -> Path:
    """Write a UTF-8 text file as `write_parts` does."""
    return write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any, *, indent: int | None = 1) -> Path:
    """Write JSON as `write_parts` does, paths as text. NaN and infinity are refused: other readers cannot read them."""
    dump = partial(json.dumps, value, indent=indent, allow_nan=False, default=os.fspath)
    text = dump(ensure_ascii=False)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # half a surrogate pair, somewhere in an annotation file that nobody reads
        text = dump()
    return write_text(path, text + "\n")


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading; an OSError for anything else, such as a named pipe, which would never end."""
    # Opening a pipe waits for its writer, unless it must not block.
    stream = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        stream.close()
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return stream


def read_json(path: Path) -> Any:
    """Read a JSON file that this program has written; a StorageError if it is missing or damaged."""
    try:
        with open_regular(path) as stream:
            return json.load(stream)
    except (OSError, ValueError, RecursionError) as error:
        raise StorageError(f"{path} cannot be read: {error}.") from error


def require_space(folder: Path, num_bytes: int, what: str) -> None:
    """Raise a StorageError unless the disk of a folder, which need not exist yet, has room for `what` and 67 MB."""
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.is_dir())
    free, needed = shutil.disk_usage(existing).free, num_bytes + _SPARE_BYTES
    if free < needed:
        sizes = f"{needed / 1e6:.0f} MB are needed in {folder}, {free / 1e6:.0f} MB are free"
        raise StorageError(f"Not enough disk space for {what}: {sizes}.")


@contextmanager
def exclusive(target: Path) -> Iterator[None]:
    """Hold the lock of `target`, the file `NAME.lock` next to it, while the block runs; create its folder.

    The lock is released when its process ends, for whatever reason. An OSError if the lock file cannot be created.
    """
    from filelock import FileLock, Timeout

    path = target.with_name(f"{target.name}.lock")
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        _LOG.warning("Another process works on %s; waiting for it.", target)
        lock.acquire()
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        lock.release()
