"""A copy of the program beside the sweep, so that jobs run the code that was submitted.

A sweep waits in the queue for hours while its author goes on working. Its jobs therefore never import the working
tree: at submission the program is copied into the sweep's folder, under the digest of its files, and the jobs start
there. A copy that was changed afterwards is refused.
"""

import hashlib
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ntt.base.project import PROJECT_DIR
from ntt.errors import ConfigError, StorageError

_PARTS = ("ntt", "conf", "experiments", "main.py")


@dataclass(frozen=True)
class Snapshot:
    """A copy of the program: its folder, and the digest of its files."""

    root: Path
    digest: str


def take_snapshot(folder: Path, *, project: Path = PROJECT_DIR) -> Snapshot:
    """Copy the program as it is now into `folder/<digest>`; a copy that is there already is used.

    Raises:
        StorageError: if the copy cannot be written.
        ConfigError: if the copy that is there was changed.
    """
    files = _files(project)
    digest = _digest(project, files)
    target = folder / digest[:12]
    if target.is_dir():
        check_snapshot(Snapshot(target, digest))
        return Snapshot(target, digest)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".copy.", dir=folder) as temporary:
            copy = Path(temporary) / "code"
            for name in files:
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(project / name, copy / name)
            if not target.is_dir():
                copy.rename(target)
    except OSError as error:
        raise StorageError(
            f"Cannot copy the program into {target}: {error}. Make space or make the folder writable, and submit again."
        ) from error
    made = Snapshot(target, digest)
    check_snapshot(made)
    return made


def check_snapshot(snapshot: Snapshot) -> None:
    """Make sure that a copy holds what was submitted.

    Raises:
        ConfigError: if a file of it was changed, added or removed.
    """
    found = _digest(snapshot.root, _files(snapshot.root))
    if found != snapshot.digest:
        raise ConfigError(
            f"The code in {snapshot.root} is not what was submitted: its digest is {found[:12]}, allowed is "
            f"{snapshot.digest[:12]}. Copies of submitted code are not to be edited; delete the folder and submit what "
            "is missing again with ntt sweep retry, which copies the program as it is then."
        )


def code_digest(project: Path = PROJECT_DIR) -> str:
    """Return the digest of the program as it is now."""
    return _digest(project, _files(project))


def _files(project: Path) -> list[str]:
    """Return the relative names of the program's files, sorted."""
    found = []
    for part in _PARTS:
        path = project / part
        candidates = [path] if path.is_file() else path.rglob("*")
        found += [one.relative_to(project) for one in candidates if one.is_file()]
    return sorted(one.as_posix() for one in found if not any(_is_left_out(part) for part in one.parts))


def _is_left_out(name: str) -> bool:
    """Say whether a file or folder is no part of the program: caches, and what editors and file systems leave."""
    return name == "__pycache__" or name.startswith(".") or name.endswith((".pyc", "~"))


def _digest(project: Path, files: list[str]) -> str:
    state = hashlib.sha256()
    for name in files:
        content = (project / name).read_bytes()
        state.update(f"{name}\0{len(content)}\0".encode())
        state.update(content)
    return state.hexdigest()
