"""Inventory, verification and pruning of a store, and which of its entries a run has used.

All of it is safe while runs read and write: an entry that vanishes is computed again, and files that a running process
is writing are never touched. Only entries in a folder with the store's mark are considered: anything else there, or
behind a link, is never removed.
"""

import contextlib
import logging
import math
import os
import re
import stat
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ntt.base.files import read_json
from ntt.errors import StorageError
from ntt.store.entries import DAMAGE, PARSERS, load_entry
from ntt.store.store import MARK, SUFFIX, USE_RESOLUTION_S

STORE_KEYS = "store_keys.json"
KEY_DIGITS = 16
"""Hexadecimal digits of a store key that are listed: enough to distinguish 2^32 entries."""
_KEY = re.compile("[0-9a-f]{64}")
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class StoredFile:
    """One entry of a kind such as "candidates"; `used_at`: its last use, to within a day, seconds since 1970."""

    path: Path
    kind: str
    key: str
    num_bytes: int
    used_at: float


def stored_files(root: Path) -> list[StoredFile]:
    """List all entries of a store, the least recently used first; links and files with other names are left out.

    A StorageError if the folder is not a store, or a folder in it cannot be read.
    """
    if not (root / MARK).is_file():
        raise StorageError(
            f"{root} is not a store: it has no {MARK}, which a run writes with the first entry. Name the folder with "
            "--store; it is `runtime.store_root` of the runs that filled it."
        )
    entries = []
    for folder, folders, names in os.walk(root, onerror=_refuse):  # enters no links
        parts = Path(folder).relative_to(root).parts
        if len(parts) < 2:
            continue
        folders.clear()
        for name in names:
            path, key = Path(folder, name), name.removesuffix(SUFFIX)
            is_entry = key != name and key.startswith(parts[-1]) and _KEY.fullmatch(key) is not None
            if not is_entry:
                continue
            with contextlib.suppress(OSError):  # removed in the meantime
                status = path.lstat()
                if stat.S_ISREG(status.st_mode):
                    entries.append(StoredFile(path, parts[0], key, status.st_size, status.st_mtime))
    return sorted(entries, key=lambda entry: (entry.used_at, entry.path))


def _refuse(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):  # removed in the meantime
        raise StorageError(f"{error.filename} cannot be read: {error.strerror}. Make the folder readable.") from error


def damage(entry: StoredFile) -> str | None:
    """Return what is wrong with an entry, or None."""
    try:
        arrays, notes = load_entry(entry.path, entry.key)
        if entry.kind in PARSERS:
            PARSERS[entry.kind](arrays, notes)
    except DAMAGE as error:
        return str(error)
    return None


def keys_of_runs(folders: Sequence[Path]) -> tuple[set[tuple[str, str]], int]:
    """Collect kind and beginning of the key of each entry that the runs and shards below some folders have used.

    The second value is the number of those that list what they used. A StorageError if a folder cannot be read: entries
    that its runs use would count as unused.
    """
    used: set[tuple[str, str]] = set()
    count = 0
    for folder in folders:
        for subfolder, _, files in os.walk(folder, onerror=_refuse):
            if STORE_KEYS not in files:
                continue
            count += 1
            for kinds in used_store_keys(Path(subfolder)).values():
                used.update((kind, key) for kind, keys in kinds.items() for key in keys)
    return used, count


def choose(
    entries: Sequence[StoredFile],
    *,
    unused_days: float | None = None,
    max_bytes: int | None = None,
    known_keys: Collection[tuple[str, str]] | None = None,
    keep_hours: float = 24.0,
) -> list[StoredFile]:
    """Return the entries to remove, of `entries`, the least recently used first; None: the criterion does not count.

    They are those unused for `unused_days`, those whose key begins with none of `known_keys`, and the least recently
    used ones until the rest fits into `max_bytes`; never those used within `keep_hours` (0: none is spared).
    """
    now = time.time()
    oldest_s = math.inf if unused_days is None else unused_days * 24 * 3600
    # An entry's time may lag behind its last use by the resolution.
    spared_s = keep_hours * 3600 + USE_RESOLUTION_S if keep_hours else 0.0
    free = [entry for entry in entries if now - entry.used_at > spared_s]
    outdated = [
        entry
        for entry in free
        if now - entry.used_at > oldest_s
        or (known_keys is not None and (entry.kind, entry.key[:KEY_DIGITS]) not in known_keys)
    ]
    if max_bytes is not None:
        gone = set(outdated)
        surplus = sum(entry.num_bytes for entry in entries if entry not in gone) - max_bytes
        for entry in free:
            if surplus > 0 and entry not in gone:
                outdated.append(entry)
                surplus -= entry.num_bytes
    return outdated


def remove(paths: Iterable[Path]) -> int:
    """Remove files and return how many existed."""
    count = 0
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
            count += 1
    return count


def used_store_keys(root: Path) -> dict[str, dict[str, list[str]]]:
    """Return stage -> kind -> beginnings of the keys that a run has used; nothing without a list, or a damaged one."""
    if not (root / STORE_KEYS).is_file():
        return {}
    try:
        used: dict[str, dict[str, list[str]]] = read_json(root / STORE_KEYS)
        if not all(isinstance(key, str) for kinds in used.values() for keys in kinds.values() for key in keys):
            raise TypeError("a key is no text")
    except StorageError as error:
        _LOG.warning("%s", error)
        return {}
    except (AttributeError, TypeError) as error:
        _LOG.warning("%s does not list entries of the store (%s); it is ignored.", root / STORE_KEYS, error)
        return {}
    return used
