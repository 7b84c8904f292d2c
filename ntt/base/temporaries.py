"""Temporary files: names that say which process writes them, and the removal of those nobody writes any more.

A name carries the place of its process (computer, its last start, namespace of process numbers), the process's number
and the moment it began. A process of the same place can be asked whether it still runs; of any other place the
file's age has to do.
"""

import contextlib
import hashlib
import os
import platform
import re
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

SUFFIX = ".tmp"
STALE_AFTER_S = 24 * 3600.0
"""Age from which a temporary file of a process that cannot be asked counts as left behind. Writing takes seconds; the
rest is for clocks that disagree."""

_OWNER = re.compile(r"\.([0-9a-f]{8})-(\d+)-(\d+)\.[^.]+\.tmp$")
_LONGEST_NAME = 120


def make_temporary(path: Path) -> Path:
    """Make an empty temporary file beside `path`.

    Raises:
        OSError: if the folder cannot be written.
    """
    prefix = f".{path.name[:_LONGEST_NAME]}.{_place()}-{os.getpid()}-{_began(os.getpid())}."
    handle, name = tempfile.mkstemp(prefix=prefix, suffix=SUFFIX, dir=path.parent)
    os.close(handle)
    return Path(name)


def stale_temporaries(folder: Path, *, older_than_s: float = STALE_AFTER_S) -> Iterator[Path]:
    """Find temporary files directly in a folder whose process is gone, or that are old.

    Args:
        folder: need not exist.
        older_than_s: age that counts as old where the process cannot be asked.
    """
    try:
        with os.scandir(folder) as entries:
            found = [Path(entry.path) for entry in entries if entry.name.endswith(SUFFIX)]
    except OSError:
        return
    for path in found:
        if _is_stale(path, older_than_s):
            yield path


def remove_stale_temporaries(folder: Path) -> int:
    """Remove stale temporary files from a folder and everything below it, and return how many there were."""
    count = 0
    for place, _, _ in os.walk(folder):
        for path in stale_temporaries(Path(place)):
            with contextlib.suppress(OSError):
                path.unlink()
                count += 1
    return count


def _is_stale(path: Path, older_than_s: float) -> bool:
    match = _OWNER.search(path.name)
    if match is not None and match[1] == _place():
        return not _runs(int(match[2]), int(match[3]))
    try:
        return time.time() - path.stat().st_mtime > older_than_s
    except OSError:  # gone meanwhile
        return False


@cache
def _place() -> str:
    """Return eight digits for where process numbers mean the same as here."""
    facts = [platform.node()]
    with contextlib.suppress(OSError):
        facts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii"))
    with contextlib.suppress(OSError):
        facts.append(str(Path("/proc/self/ns/pid").readlink()))
    return hashlib.sha256("|".join(facts).encode()).hexdigest()[:8]


def _runs(number: int, began: int) -> bool:
    """Say whether a process of this place runs; another one that was given its number later does not count."""
    if Path("/proc/self/stat").exists():
        return _began(number) == began and began != 0
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _began(number: int) -> int:
    """Return when a process began, in clock ticks since the computer's start; 0 if it is over or cannot be asked."""
    try:
        text = Path(f"/proc/{number}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    # The second field is the command in brackets and may hold anything; the third is the state, the 22nd the start.
    fields = text.rpartition(")")[2].split()
    return 0 if fields[0] in "ZX" else int(fields[19])
