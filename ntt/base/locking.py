"""One process at a time: advisory locks beside files."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

if sys.platform != "win32":
    import fcntl

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Lock:
    """The outcome of asking for a lock.

    Attributes:
        is_held: False where the file system or the operating system knows no locks; then nothing is excluded.
    """

    is_held: bool


@contextmanager
def exclusive(target: Path) -> Iterator[Lock]:
    """Hold the lock of `target` (the file `NAME.lock` beside it) in a `with` block; wait for it as long as it takes.

    The lock goes when its process ends, however it ends.

    Args:
        target: the file to protect; its folder must exist.

    Raises:
        OSError: if the lock file cannot be made.
    """
    path = target.with_name(f"{target.name}.lock")
    file = _acquire(path)
    if file is None:
        yield Lock(is_held=False)
        return
    with file:
        try:
            yield Lock(is_held=True)
        finally:
            path.unlink(missing_ok=True)


def _acquire(path: Path) -> IO[bytes] | None:
    """Open and lock; None where locks do not work."""
    if sys.platform == "win32":
        return None
    while True:
        file = path.open("ab")
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                _LOG.info("Another process works on %s; waiting for it.", path.with_suffix(""))
                fcntl.flock(file, fcntl.LOCK_EX)
            if _is_current(file, path):
                return file
        except OSError as error:
            file.close()
            path.unlink(missing_ok=True)
            _LOG.warning("Files in %s cannot be locked (%s).", path.parent, error.strerror)
            return None
        except BaseException:
            file.close()
            raise
        file.close()


def _is_current(file: IO[bytes], path: Path) -> bool:
    """False if the holder before removed the file this lock is on, so that a newcomer would lock another one."""
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(file.fileno()), there)
