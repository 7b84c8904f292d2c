"""Unpacks zip and tar archives: nothing is written outside the folder, and files appear only when complete."""

import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from ntt.base.files import atomic_path, require_space
from ntt.base.progress import byte_bar
from ntt.errors import DataError


class _Member(NamedTuple):
    """One regular file of an archive; `open` gives its content."""

    name: str
    num_bytes: int
    open: Callable[[], IO[bytes] | None]


def unpack(archive: Path, folder: Path) -> int:
    """Unpack the regular files of a zip or tar archive, as published, into a folder and return their number.

    Files that already exist with the right size are skipped, links are left out. A DataError if the archive is damaged,
    or if a member's name points outside the folder; then nothing is written.
    """
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as opened:
                infos = [info for info in opened.infolist() if not info.is_dir()]
                members = [_Member(info.filename, info.file_size, partial(opened.open, info)) for info in infos]
                return _unpack(members, archive, folder)
        with tarfile.open(archive) as tar:
            entries = [entry for entry in tar if entry.isreg()]
            members = [_Member(entry.name, entry.size, partial(tar.extractfile, entry)) for entry in entries]
            return _unpack(members, archive, folder)
    except (OSError, EOFError, RuntimeError, zlib.error, zipfile.BadZipFile, tarfile.TarError) as error:
        raise DataError(f"{archive} is damaged or no archive. Delete it and start again.") from error


def _unpack(members: Sequence[_Member], archive: Path, folder: Path) -> int:
    for member in members:
        path = PurePosixPath(member.name)
        if path.is_absolute() or ".." in path.parts:
            what = f"a file named {member.name!r}, which would be outside the folder"
            raise DataError(f"{archive} holds {what}. Nothing was unpacked.")
    missing = [member for member in members if not _has_size(folder / member.name, member.num_bytes)]
    total, needed = (sum(member.num_bytes for member in group) for group in (members, missing))
    require_space(folder, needed, f"the files of {archive.name}")
    with byte_bar(f"unpacking {archive.name}", total, done=total - needed) as bar:
        for member in missing:
            with atomic_path(folder / member.name) as temporary, temporary.open("wb") as stream:
                source = member.open()
                assert source is not None, member.name
                with source:
                    shutil.copyfileobj(source, stream)
            bar.update(member.num_bytes)
    return len(members)


def _has_size(path: Path, num_bytes: int) -> bool:
    return path.is_file() and path.stat().st_size == num_bytes
