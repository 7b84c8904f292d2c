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
    """Yield a temporary path next to `path`; rename it to `path` when the block ends well, remove it otherwise.

    Raises:
        StorageError: if the disk is full or the folder cannot be written.
    """
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
    """Find temporary files of `atomic_path` in a folder, and below it, whose process on this machine is gone.

    Of other machines' processes those count that are older than a day.
    """
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
    try:
        if process is not None:
            os.kill(int(process[1]), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):  # another user's, or no number of a process
        return False
    return False


def remove_stale_temporaries(root: Path, *, recursive: bool = True) -> None:
    """Remove what `stale_temporaries` finds."""
    for path in stale_temporaries(root, recursive=recursive):
        with suppress(OSError):
            path.unlink()


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically and make sure it has reached the disk before it appears under its name."""
    write_parts(path, [data])


def write_parts(path: Path, parts: Iterable[bytes]) -> None:
    """Write a file as `write_bytes` does, one part after the other."""
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        stream.writelines(parts)
        stream.flush()
        os.fsync(stream.fileno())


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any, *, indent: int | None = 1) -> None:
    """Write JSON atomically. NaN and infinity are refused: other readers cannot read them."""
    text = json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:  # half of a surrogate pair, in a part of an annotation file that nobody reads
            text = json.dumps(value, indent=indent, allow_nan=False)
    write_text(path, text + "\n")


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading bytes; an OSError for what is none, such as a named pipe, which would never end."""
    # Opening a pipe waits for its writer, unless it must not block.
    stream = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        stream.close()
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return stream


def read_json(path: Path) -> Any:
    """Read a JSON file that this program has written.

    Raises:
        StorageError: if it is missing or damaged.
    """
    try:
        if path.exists() and not path.is_file():  # reading a named pipe would wait for ever
            raise ValueError("it is no file")
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise StorageError(f"{path} cannot be read: {error}.") from error


def require_space(folder: Path, num_bytes: int, what: str) -> None:
    """Raise a StorageError unless a folder, which need not exist yet, has room for `what` and 67 MB more."""
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.is_dir())
    free, needed = shutil.disk_usage(existing).free, num_bytes + _SPARE_BYTES
    if free < needed:
        sizes = f"{needed / 1e6:.0f} MB are needed in {folder}, {free / 1e6:.0f} MB are free"
        raise StorageError(f"Not enough disk space for {what}: {sizes}.")


@contextmanager
def exclusive(target: Path) -> Iterator[None]:
    """Hold the lock of `target`, the file `NAME.lock` next to it, while the block runs.

    The lock is released when its process ends, for whatever reason.

    Raises:
        OSError: if the lock file cannot be made.
    """
    from filelock import FileLock, Timeout

    path = target.with_name(f"{target.name}.lock")
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        _LOG.info("Another process works on %s; waiting for it.", target)
        lock.acquire()
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        lock.release()
