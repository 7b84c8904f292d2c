"""Unpacks zip and tar archives: nothing is written outside the folder, and files appear only when complete."""

import logging
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from ntt.base.files import atomic_path, require_space
from ntt.errors import DataError

_LOG = logging.getLogger(__name__)
_BLOCK_BYTES = 1 << 20
# NotImplementedError: an unusual compression, such as Deflate64; RuntimeError: encrypted; OSError: bzip2 and gzip.
_READING_ERRORS = (
    zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, ValueError, RuntimeError, OSError,
    IndexError, OverflowError, struct.error,
)  # fmt: skip


class _Member(NamedTuple):
    """One regular file of an archive; `open` gives its content."""

    name: str
    num_bytes: int
    open: Callable[[], IO[bytes] | None]


def unpack(archive: Path, folder: Path, progress: Callable[[int, int], None] | None = None) -> int:
    """Unpack the regular files of a zip or tar archive into a folder and return their number.

    Files that already exist with the right size are skipped, links are left out. `progress` is called with (bytes done,
    total bytes).

    Raises:
        DataError: if the archive cannot be read to its end, or a member's name points outside the folder; then nothing
            is written.
        StorageError: if the disk is full or not writable.
    """
    with _reading(archive):
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as opened:
                infos = [info for info in opened.infolist() if not info.is_dir()]
                members = [_Member(info.filename, info.file_size, partial(opened.open, info)) for info in infos]
                return _unpack(members, archive, folder, progress)
        with tarfile.open(archive, "r:*") as tar:
            return _unpack(_tar_members(tar, archive), archive, folder, progress)


def _tar_members(opened: tarfile.TarFile, archive: Path) -> list[_Member]:
    entries = list(opened)
    # tarfile ends wherever no header follows, even through damage. Only empty blocks may remain.
    stream = opened.fileobj
    assert stream is not None
    stream.seek(opened.offset)
    remaining = 0
    while block := stream.read(_BLOCK_BYTES):
        remaining += len(block)
        if block.strip(b"\0"):
            raise tarfile.ReadError(f"no file begins at byte {opened.offset}, and there is no end mark")
    if remaining < tarfile.BLOCKSIZE:
        raise tarfile.ReadError("it has no end mark, so it is cut off")
    links = [entry.name for entry in entries if not (entry.isreg() or entry.isdir())]
    if links:
        _LOG.warning("%s: %d link(s) or devices left out, such as %s.", archive, len(links), links[0])
    return [_Member(e.name, e.size, partial(opened.extractfile, e)) for e in entries if e.isreg()]


def _unpack(
    members: Sequence[_Member], archive: Path, folder: Path, progress: Callable[[int, int], None] | None
) -> int:
    for member in members:
        path = PurePosixPath(member.name)
        if path.is_absolute() or ".." in path.parts:
            what = f"a file named {member.name!r}, which would be outside the folder"
            raise DataError(f"{archive} holds {what}. Nothing was unpacked.")
    total = sum(member.num_bytes for member in members)
    missing = [member for member in members if not _is_there(folder / member.name, member.num_bytes)]
    needed = sum(member.num_bytes for member in missing)
    require_space(folder, needed, f"the files of {archive.name}")
    done = total - needed
    for member in missing:
        with atomic_path(folder / member.name) as temporary, temporary.open("wb") as stream:
            for block in _blocks(member, archive):
                stream.write(block)
        done += member.num_bytes
        if progress is not None:
            progress(done, total)
    return len(members)


def _blocks(member: _Member, archive: Path) -> Iterator[bytes]:
    with _reading(archive):
        source = member.open()
        assert source is not None, member.name
        with source:
            while block := source.read(_BLOCK_BYTES):
                yield block


@contextmanager
def _reading(archive: Path) -> Iterator[None]:
    """Turn errors in reading the archive into a DataError."""
    try:
        yield
    except _READING_ERRORS as error:
        cause = (str(error) or type(error).__name__).splitlines()[0].rstrip(":")  # tarfile lists what it has tried
        if isinstance(error, RuntimeError):  # encrypted, or compressed in a way Python cannot undo
            remedy = "Unpack it yourself into the same folder, or pack it again as an ordinary zip or tar file"
            raise DataError(f"{archive} cannot be unpacked ({cause}). {remedy}.") from error
        raise DataError(f"{archive} is damaged or not an archive ({cause}). Delete it and start again.") from error


def _is_there(path: Path, num_bytes: int) -> bool:
    return path.is_file() and path.stat().st_size == num_bytes
