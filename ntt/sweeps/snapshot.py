"""A copy of the program in the sweep's folder, so that jobs run the code that was submitted.

A sweep may wait in the queue for hours while its author keeps working, so its jobs import not the working tree but a
copy made at submission, named after the digest of its files. A copy that has been changed is refused.
"""

import hashlib
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ntt.base.project import CONFIG_ROOT, PROJECT_DIR
from ntt.errors import ConfigError, StorageError

# An installed package has its configuration inside.
_PARTS = ("ntt", "conf", "experiments", "main.py") if CONFIG_ROOT == PROJECT_DIR else ("ntt",)


@dataclass(frozen=True)
class Snapshot:
    """A copy of the program: its folder, and the digest of its files."""

    root: Path
    digest: str


def take_snapshot(folder: Path, *, project: Path = PROJECT_DIR) -> Snapshot:
    """Copy the program as it is now into `folder/<digest>`; an existing copy is used.

    Raises:
        StorageError: if the copy cannot be written.
        ConfigError: if the existing copy was changed.
    """
    digest = code_digest(project)
    snapshot = Snapshot(folder / digest[:12], digest)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".copy.", dir=folder) as temporary:
            for name in _files(project, _PARTS) if not snapshot.root.is_dir() else ():
                (Path(temporary) / "code" / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(project / name, Path(temporary) / "code" / name)
            if not snapshot.root.is_dir():
                (Path(temporary) / "code").rename(snapshot.root)
    except OSError as error:
        raise StorageError(f"Cannot copy the program into {snapshot.root}: {error}. Make space there.") from error
    check_snapshot(snapshot)
    return snapshot


def check_snapshot(snapshot: Snapshot) -> None:
    """Make sure that a copy holds what was submitted.

    Raises:
        ConfigError: if a file of it was changed, added or removed.
    """
    digest = code_digest(snapshot.root, parts=(".",))  # anything next to the program could be imported too
    if digest != snapshot.digest:
        raise ConfigError(
            f"The code in {snapshot.root} is not what was submitted: its digest is {digest[:12]}, expected "
            f"{snapshot.digest[:12]}. Delete the folder and submit again with ntt sweep retry, which copies the "
            "current program."
        )


def code_digest(project: Path = PROJECT_DIR, *, parts: Sequence[str] = _PARTS) -> str:
    """Return the digest of the program as it is now."""
    state = hashlib.sha256()
    for name in _files(project, parts):
        content = (project / name).read_bytes()
        state.update(f"{name}\0{len(content)}\0".encode())
        state.update(content)
    return state.hexdigest()


def _files(project: Path, parts: Sequence[str]) -> list[str]:
    """Return the relative names of the program's files, sorted, without caches and editors' backups."""
    paths = [path for part in parts for path in (project / part, *(project / part).rglob("*")) if path.is_file()]
    names = [path.relative_to(project) for path in paths]
    ignored = re.compile(r"__pycache__|\..*|.*\.pyc|.*~")
    return sorted(name.as_posix() for name in names if not any(map(ignored.fullmatch, name.parts)))
