"""Unpacks zip and tar archives: nothing lands outside the folder, and a file under its final name is whole."""

import logging
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO

from ntt.base.files import atomic_path
from ntt.errors import DataError, StorageError

_LOG = logging.getLogger(__name__)
_SPARE_BYTES = 64 << 20
_DAMAGED = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError)


@dataclass(frozen=True)
class Member:
    """One regular file of an archive; `open` gives its content."""

    name: str
    num_bytes: int
    open: Callable[[], IO[bytes]]


def unpack(archive: Path, folder: Path, progress: Callable[[int, int], None] | None = None) -> int:
    """Unpack an archive into a folder. Files that are there already with the right size are passed over.

    Links and devices in the archive are left out with a warning: no data set of ours has any.

    Args:
        archive: zip, tar, or a compressed tar.
        folder: where the names of its members start from; created if need be.
        progress: called with (bytes done, bytes in all).

    Returns:
        The number of files in the archive.

    Raises:
        DataError: if the archive is damaged, or a member's name leads out of the folder; then nothing is written.
        StorageError: if the disk is full or not writable.
    """
    with _opened(archive) as members:
        for member in members:
            _check_name(member.name, archive)
        total = sum(member.num_bytes for member in members)
        missing = [member for member in members if not _is_there(folder / member.name, member)]
        _require_space(folder, sum(member.num_bytes for member in missing), archive)
        done = total - sum(member.num_bytes for member in missing)
        for member in missing:
            _write(member, folder / member.name, archive)
            done += member.num_bytes
            if progress is not None:
                progress(done, total)
    return len(members)


@contextmanager
def _opened(archive: Path) -> Iterator[list[Member]]:
    """Yield the regular files of an archive."""
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as opened_zip:
                yield _zip_members(opened_zip, archive)
        else:
            with tarfile.open(archive, "r:*") as opened_tar:
                yield _tar_members(opened_tar, archive)
    except _DAMAGED as error:
        raise DataError(
            f"{archive} is damaged or not an archive ({error}). Delete it and start the same command again."
        ) from error


def _zip_members(archive: zipfile.ZipFile, path: Path) -> list[Member]:
    files = [info for info in archive.infolist() if not info.is_dir()]
    regular = [info for info in files if stat.S_IFMT(info.external_attr >> 16) in (0, stat.S_IFREG)]
    _warn_of_others(len(files) - len(regular), path)
    return [Member(info.filename, info.file_size, partial(archive.open, info)) for info in regular]


def _tar_members(archive: tarfile.TarFile, path: Path) -> list[Member]:
    files = [info for info in archive.getmembers() if not info.isdir()]
    regular = [info for info in files if info.isreg()]
    _warn_of_others(len(files) - len(regular), path)

    def content(info: tarfile.TarInfo) -> IO[bytes]:
        stream = archive.extractfile(info)
        assert stream is not None, info.name
        return stream

    return [Member(info.name, info.size, partial(content, info)) for info in regular]


def _warn_of_others(count: int, path: Path) -> None:
    if count:
        _LOG.warning("%s: %d link(s) or other special file(s) are left out.", path, count)


def _check_name(name: str, archive: Path) -> None:
    parts = PurePosixPath(name).parts
    outside = PurePosixPath(name).is_absolute() or PureWindowsPath(name).drive or ".." in parts or not parts
    if outside or "\\" in name or "\0" in name:
        raise DataError(
            f"{archive} holds a file named {name!r}, which would not lie inside the folder. Nothing was unpacked. "
            "Fetch the archive from its official place again."
        )


def _is_there(path: Path, member: Member) -> bool:
    return path.is_file() and path.stat().st_size == member.num_bytes


def _require_space(folder: Path, needed: int, archive: Path) -> None:
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.is_dir())
    free = shutil.disk_usage(existing).free
    if free < needed + _SPARE_BYTES:
        raise StorageError(
            f"Not enough disk space to unpack {archive.name}: {needed / 1e6:.0f} MB are needed in {folder}, "
            f"{free / 1e6:.0f} MB are free. Free some space or choose another folder."
        )


def _write(member: Member, target: Path, archive: Path) -> None:
    with atomic_path(target) as temporary:
        with member.open() as source, temporary.open("wb") as stream:
            shutil.copyfileobj(source, stream, 1 << 20)
        written = temporary.stat().st_size
        if written != member.num_bytes:
            raise DataError(
                f"{archive} is damaged: {member.name} has {written} bytes instead of {member.num_bytes}. Delete it "
                "and start the same command again."
            )
