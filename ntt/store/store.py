"""Content-addressed store of the most expensive results: candidates of target images and features of references.

An entry's key is the digest of everything that decides its content, and of nothing else: the bytes of the image, the
fingerprints of the models, the preprocessing. All runs that need the same content find the same entry.

An entry is the file `<store>/<kind>/<first two digits>/<key>.safetensors`, written under a temporary name and renamed.
There are no locks: processes that compute the same entry write the same bytes. A damaged entry counts as absent.
"""

import contextlib
import logging
import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import TypeVar

from ntt.base.files import atomic_path, write_bytes, write_text
from ntt.errors import StorageError
from ntt.store.entries import (
    DAMAGE,
    PARSERS,
    Arrays,
    Notes,
    candidates_from_arrays,
    candidates_to_arrays,
    count_candidates,
    entry_bytes,
    load_entry,
    reference_from_arrays,
    reference_to_arrays,
)
from ntt.types import Candidates, ReferenceFeature

T = TypeVar("T")
_LOG = logging.getLogger(__name__)

SUFFIX = ".safetensors"
MARK = "ntt_store.txt"
"""Name of the file that marks a folder as a store, whose files may be removed."""
USE_RESOLUTION_S = 24 * 3600.0
"""The time of an entry's file is the time of its last use, to within this many seconds."""
_REFERENCES = 4096
"""Entries of references that a process remembers, because many points of a sweep use them: 50 MB at 1,024 channels."""


@dataclass(frozen=True)
class Store:
    """A folder of entries; `used` and `written`: kind and key of those read or written through this object."""

    root: Path
    used: set[tuple[str, str]] = field(default_factory=set, compare=False)
    written: set[tuple[str, str]] = field(default_factory=set, compare=False)

    @cached_property
    def writing_error(self) -> StorageError | None:
        """Why entries cannot be written, or None if they can; determined once, before any long work."""
        # A missing store is not created yet: the run may still be refused.
        root = self.root.absolute()
        probe = next(folder for folder in (root, *root.parents) if folder.exists()) / ".writable"
        try:
            with atomic_path(probe) as temporary:
                temporary.touch()
            probe.unlink(missing_ok=True)
        except StorageError as error:
            return error
        for folder in (*self.root.glob("*/"), *self.root.glob("*/??/")):
            if not os.access(folder, os.W_OK):
                return StorageError(
                    f"Cannot write into {folder}, which another user has created. To share a store, run "
                    f"`chmod -R g+w {self.root}` and use umask 002; or set runtime.store_root to a folder of yours."
                )
        return None

    def path(self, kind: str, key: str) -> Path:
        """Return where an entry is or would be stored."""
        return self.root / kind / key[:2] / f"{key}{SUFFIX}"

    def read(self, kind: str, key: str, parse: Callable[[Arrays, Notes], T]) -> T | None:
        """Return what `parse` makes of an entry's arrays and notes, or None if there is none or it is damaged."""
        return self._believed(kind, key, lambda path: parse(*load_entry(path, key)))

    def holds(self, kind: str, key: str) -> bool:
        """Return whether there is an entry, without looking into it; this counts as use, as the caller will need it."""
        path = self.path(kind, key)
        try:
            state = path.stat()
        except OSError:
            return False
        _renew_time(path, state.st_mtime)
        return stat.S_ISREG(state.st_mode)

    def write(self, kind: str, key: str, arrays: Arrays, *, notes: Notes) -> None:
        """Write or replace an entry; a StorageError if the disk is full or the folder cannot be written.

        If the store is read-only, only candidates raise an error; anything else is soon computed again, and not kept.
        """
        if kind != "candidates" and self.writing_error is not None:
            return
        if not (self.root / MARK).exists():
            write_text(self.root / MARK, "This folder is a store of ntt. `ntt store prune` may remove files from it.\n")
        write_bytes(self.path(kind, key), entry_bytes(key, arrays, notes))
        self.used.add((kind, key))
        self.written.add((kind, key))

    def read_candidates(self, key: str, *, size: tuple[int, int] | None = None) -> Candidates | None:
        """Return the candidates of one image, or None; `size`: height and width it must have."""
        return self.read("candidates", key, partial(candidates_from_arrays, size=size))

    def count_candidates(self, key: str) -> int | None:
        """Return how many candidates an entry holds; None if header or size are damaged (values are not looked at)."""
        return self._believed("candidates", key, lambda path: count_candidates(path, key))

    def write_candidates(self, key: str, candidates: Candidates, *, feature_dtype: str) -> None:
        """Write candidates, their features rounded to `feature_dtype`; a StorageError for values such as NaN."""
        self._write_checked("candidates", key, *candidates_to_arrays(candidates, feature_dtype))

    def read_reference(self, key: str) -> ReferenceFeature | None:
        """Return the features of one reference instance, or None."""
        return self._believed("references", key, lambda path: _reference(path, key, path.stat().st_mtime_ns))

    def write_reference(self, key: str, feature: ReferenceFeature) -> None:
        """Write the features of one reference instance; a StorageError for values such as NaN."""
        self._write_checked("references", key, reference_to_arrays(feature), {})

    def _write_checked(self, kind: str, key: str, arrays: Arrays, notes: Notes) -> None:
        try:
            PARSERS[kind](arrays, notes)
        except ValueError as error:
            raise StorageError(
                f"The models gave impossible {kind}: {error}. Check the weights, or try runtime.precision=float32."
            ) from error
        self.write(kind, key, arrays, notes=notes)

    def _believed(self, kind: str, key: str, load: Callable[[Path], T]) -> T | None:
        """Load something from an entry and note its use; None, with a warning, if it is damaged."""
        path = self.path(kind, key)
        try:
            state = path.stat()
            if not stat.S_ISREG(state.st_mode):  # reading a named pipe would wait for ever
                raise OSError("it is no file")
            value = load(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except DAMAGE as error:
            _LOG.warning("Stored entry %s is damaged (%s); it will be computed again.", path, error)
            return None
        self.used.add((kind, key))
        _renew_time(path, state.st_mtime)
        return value


@lru_cache(_REFERENCES)
def _reference(path: Path, key: str, _: int) -> ReferenceFeature:
    """Read an entry as it is since the time of its last change."""
    return reference_from_arrays(*load_entry(path, key))


def _renew_time(path: Path, last_s: float) -> None:
    """Set the time of an entry's file to now, if the last time is `USE_RESOLUTION_S` ago."""
    if time.time() - last_s > USE_RESOLUTION_S:
        with contextlib.suppress(OSError):  # another user's store may be read too
            os.utime(path)
