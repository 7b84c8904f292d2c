"""Downloads of large files: continued where they stopped, verified before they get their name.

A file arrives as `NAME.part` beside its target, with the server's version mark in `NAME.part.json`. It is renamed
once its digest is right, so that a file under its final name is always whole. A lock file keeps a second process
waiting until the first one is done.
"""

import hashlib
import http.client
import json
import logging
import os
import platform
import shutil
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ntt.base.files import no_empty_folders
from ntt.base.locking import Lock, exclusive
from ntt.errors import ConfigError, StorageError, WeightsError

Progress = Callable[[int, int | None], None]

_LOG = logging.getLogger(__name__)
_BLOCK_BYTES = 1 << 20
_SPARE_BYTES = 16 << 20
_TRANSIENT_STATUS = (408, 425, 429, 500, 502, 503, 504)
_GONE_STATUS = (404, 410)


@dataclass(frozen=True)
class Patience:
    """How long a download goes on against trouble.

    Attributes:
        attempts: tries in a row without a new byte before giving up.
        first_pause_s: pause after the first failure; it doubles after each further one.
        longest_pause_s: limit of any pause, the server's `Retry-After` included.
        silence_s: a connection on which nothing arrives for this long counts as broken.
    """

    attempts: int = 5
    first_pause_s: float = 1.0
    longest_pause_s: float = 60.0
    silence_s: float = 30.0


class _TransientError(Exception):
    """Trouble that may pass; `pause_s` is the server's wish, if it has one."""

    def __init__(self, reason: str, pause_s: float | None = None) -> None:
        super().__init__(reason)
        self.pause_s = pause_s


class _GoneError(Exception):
    """The server has no such file."""


def mirrored_urls(base: str, url: str, relative_path: str) -> list[str]:
    """Where a mirror may hold a file: under the path of its official URL, or as in a copy of the local folder.

    Args:
        base: the mirror's base URL.
        url: the official URL.
        relative_path: the file's place in the local folder.

    Returns:
        The URLs to try, in this order.

    Raises:
        ConfigError: if `base` is no http or https URL.
    """
    parts = urllib.parse.urlsplit(base)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ConfigError(
            f"The mirror {base!r} is not a URL this program can fetch from. Give one that starts with http:// or "
            "https://; for files in a local folder, name that folder instead."
        )
    official = urllib.parse.urlsplit(url).path.lstrip("/")
    places = dict.fromkeys((official, urllib.parse.quote(relative_path)))
    return [f"{base.rstrip('/')}/{place}" for place in places]


def download(
    urls: Sequence[str],
    target: Path,
    *,
    label: str,
    sha256: str | None = None,
    md5: str | None = None,
    progress: Progress | None = None,
    patience: Patience | None = None,
) -> None:
    """Download a file, or continue a download that was interrupted.

    Args:
        urls: where to look; the next one is tried only if the one before does not have the file.
        target: the file to write; its folder is created.
        label: what the file is, for messages.
        sha256: hex digest the file must have; None: see `md5`.
        md5: likewise, for files of which only this is published; None for both: a file of any content is taken that
            is not a web page, and the caller has to look at it.
        progress: called with (bytes on disk, bytes in all or None if the server does not say).
        patience: limits of retrying; None: the defaults.

    Raises:
        WeightsError: if the file cannot be had, or what arrived has another digest.
        StorageError: if the disk is full or not writable. What has arrived is kept and continued next time.
    """
    transfer = _Transfer(target, label=label, progress=progress, patience=patience or Patience())
    with _disk_errors(label, target), no_empty_folders(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        with exclusive(target) as lock:
            if target.is_file():
                return  # another process fetched it while this one waited for the lock
            with transfer.writing_to(lock):
                _fetch_verified(transfer, urls, _Digest.of(sha256=sha256, md5=md5))


@dataclass(frozen=True)
class _Digest:
    """What a file's bytes must amount to; `value` is None where nothing is known."""

    algorithm: str
    value: str | None

    @classmethod
    def of(cls, *, sha256: str | None, md5: str | None) -> "_Digest":
        if sha256 is None and md5 is not None:
            return cls("md5", md5.lower())
        return cls("sha256", None if sha256 is None else sha256.lower())

    def measure(self, path: Path) -> str:
        digest = hashlib.new(self.algorithm, usedforsecurity=False)
        with path.open("rb") as file:
            while block := file.read(_BLOCK_BYTES):
                digest.update(block)
        return digest.hexdigest()


def _fetch_verified(transfer: "_Transfer", urls: Sequence[str], expected: _Digest) -> None:
    """Fetch until the digest is right; one that is wrong after a continuation gets a second, fresh try."""
    for is_last in (False, True):
        transfer.fetch_from_any(urls)
        found = expected.measure(transfer.part)
        if found == expected.value or (expected.value is None and not transfer.is_page()):
            transfer.part.replace(transfer.target)
            transfer.discard()
            return
        page = " What arrived is a web page: is there a login page or a proxy in between?" if transfer.is_page() else ""
        transfer.discard()
        if is_last or not transfer.is_continuation:
            wanted = "any but that of a web page" if expected.value is None else expected.value
            raise WeightsError(
                f"The {transfer.label} from {transfer.url} is not the expected file: its {expected.algorithm} is "
                f"{found}, expected {wanted}. It was deleted.{page} Try again later or from another mirror."
            )
        _LOG.warning(
            "The continued download of %s has a wrong %s; starting afresh.", transfer.label, expected.algorithm
        )


class _Transfer:
    """One file on its way from a server to `part`."""

    def __init__(self, target: Path, *, label: str, progress: Progress | None, patience: Patience) -> None:
        self.target = target
        self.part = target.with_name(f"{target.name}.part")
        self.label = label
        self.url = ""
        self.is_continuation = False
        self._progress = progress
        self._patience = patience

    @property
    def _mark(self) -> Path:
        """The file that says which version of which URL `part` is a piece of."""
        return self.part.with_name(f"{self.part.name}.json")

    @contextmanager
    def writing_to(self, lock: Lock) -> Iterator[None]:
        """Choose the file to write: one to continue later, or one of this process alone where locks do not work."""
        if lock.is_held:
            yield
            return
        self.part = self.target.with_name(f"{self.target.name}.{platform.node()}-{os.getpid()}.part")
        try:
            yield
        finally:
            self.discard()

    def discard(self) -> None:
        self.part.unlink(missing_ok=True)
        self._mark.unlink(missing_ok=True)

    def is_page(self) -> bool:
        with self.part.open("rb") as file:
            return file.read(64).lstrip().startswith(b"<")

    def fetch_from_any(self, urls: Sequence[str]) -> None:
        """Fill `part` from the first URL that has the file."""
        for url in urls:
            self.url = url
            try:
                self._fetch_with_retries()
                return
            except _GoneError:
                _LOG.info("%s has no %s", url, self.label)
        tried = " and ".join(urls)
        raise WeightsError(
            f"The {self.label} cannot be fetched: the server answered that there is no such file at {tried}. "
            "Check the mirror (its files lie as on the official host or as in the local folder), or do without it."
        )

    def _fetch_with_retries(self) -> None:
        failures, farthest = 0, self._offset()
        while True:
            try:
                self._fetch_once()
            except _TransientError as error:
                # Only ground never reached before counts: a server that ignores ranges would start over for ever.
                failures = 1 if self._size() > farthest else failures + 1
                farthest = max(farthest, self._size())
                if failures >= self._patience.attempts:
                    raise WeightsError(self._gave_up(str(error))) from error
                pause = self._patience.first_pause_s * 2.0 ** (failures - 1) if error.pause_s is None else error.pause_s
                pause = min(pause, self._patience.longest_pause_s)
                _LOG.warning("%s: %s; trying again in %.0f s", self.url, error, pause)
                time.sleep(pause)
            else:
                return

    def _gave_up(self, reason: str) -> str:
        kept = f"{self._size()} bytes are kept and the download continues there. " if self._size() else ""
        return (
            f"The {self.label} cannot be fetched from {self.url}: {reason} ({self._patience.attempts} attempts). "
            f"Check the network and the proxy settings, or name a mirror, and run the same command again. {kept}"
            f"Or copy the file to {self.target} by hand."
        )

    def _size(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _offset(self) -> int:
        """Bytes to continue from: none when the piece on disk comes from another URL or nobody knows where from."""
        return self._size() if self._read_mark().get("url") == self.url else 0

    def _read_mark(self) -> dict[str, Any]:
        try:
            mark = json.loads(self._mark.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return mark if isinstance(mark, dict) else {}

    def _request(self, offset: int) -> urllib.request.Request:
        headers = {"User-Agent": "ntt", "Accept-Encoding": "identity"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
            version = self._read_mark().get("version")
            if version:
                headers["If-Range"] = str(version)
        return urllib.request.Request(self.url, headers=headers)

    def _fetch_once(self) -> None:
        offset = self._offset()
        self.is_continuation = offset > 0
        try:
            with _network_errors(self.url):
                response = urllib.request.urlopen(self._request(offset), timeout=self._patience.silence_s)
        except urllib.error.HTTPError as error:
            with error:
                self._refused(error, offset)
            return
        with response:
            self._receive(response, offset)

    def _refused(self, error: urllib.error.HTTPError, offset: int) -> None:
        """Sort a refusal; return normally only when it means that `part` is already complete."""
        if error.code == 416 and offset:
            if error.headers.get("Content-Range", "") == f"bytes */{offset}":
                return
            self.discard()
            raise _TransientError("the server has another version of the file now", pause_s=0.0)
        if error.code in _GONE_STATUS:
            raise _GoneError
        if error.code in _TRANSIENT_STATUS:
            wish = error.headers.get("Retry-After", "")
            raise _TransientError(f"HTTP {error.code} {error.reason}", float(wish) if wish.isdigit() else None)
        raise WeightsError(
            f"The {self.label} cannot be fetched: {self.url} answered HTTP {error.code} {error.reason}. Check the "
            f"address and your access to it, name a mirror, or copy the file to {self.target} by hand."
        )

    def _receive(self, response: Any, offset: int) -> None:
        if response.status != 206:
            offset = 0
            self.is_continuation = False
        elif _range_start(response.headers.get("Content-Range", "")) != offset:
            self.discard()
            raise _TransientError("the server sent another range than asked for", pause_s=0.0)
        length = response.headers.get("Content-Length", "")
        total = offset + int(length) if length.isdigit() else None
        self._require_space(offset, total)
        if offset == 0:
            self._start_mark(response.headers)
        done = offset
        with self.part.open("r+b" if offset else "wb") as file:
            file.seek(offset)
            while block := self._next_block(response):
                file.write(block)
                done += len(block)
                if self._progress is not None:
                    self._progress(done, total)
            file.flush()
            os.fsync(file.fileno())
        if total is not None and done < total:
            raise _TransientError(f"the connection ended at {done} of {total} bytes")

    def _next_block(self, response: Any) -> bytes:
        with _network_errors(self.url):
            # read1 hands over what is there; read would lose an unfinished block when the connection breaks.
            block: bytes = response.read1(_BLOCK_BYTES)
            return block

    def _start_mark(self, headers: Any) -> None:
        etag = headers.get("ETag", "")
        # A weak ETag must not be used with If-Range.
        version = headers.get("Last-Modified") if not etag or etag.startswith("W/") else etag
        self.part.unlink(missing_ok=True)
        self._mark.write_text(json.dumps({"url": self.url, "version": version}), encoding="utf-8")

    def _require_space(self, offset: int, total: int | None) -> None:
        if total is None:
            return
        # A file that is started over gives back what it holds now.
        freed = self._size() if offset == 0 else 0
        free = shutil.disk_usage(self.part.parent).free + freed
        needed = total - offset + _SPARE_BYTES
        if free < needed:
            raise StorageError(
                f"Not enough disk space for the {self.label}: {needed / 1e6:.0f} MB are needed in {self.part.parent}, "
                f"{free / 1e6:.0f} MB are free. Free some space or choose another folder."
            )


@contextmanager
def _network_errors(url: str) -> Iterator[None]:
    """Turn what the network raises into `_TransientError`, or `WeightsError` where waiting cannot help."""
    try:
        yield
    except urllib.error.HTTPError:
        raise
    except (OSError, http.client.HTTPException) as error:
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(cause, ssl.SSLCertVerificationError):
            raise WeightsError(
                f"The certificate of {url} is not trusted: {cause.verify_message}. If a proxy of yours signs "
                "connections, name its certificate in SSL_CERT_FILE; or use another mirror."
            ) from error
        if isinstance(cause, TimeoutError):
            raise _TransientError("the server fell silent") from error
        raise _TransientError(f"the connection failed ({cause or type(cause).__name__})") from error


@contextmanager
def _disk_errors(label: str, target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"The {label} cannot be written to {target.parent}: {error.strerror or error}. Free some space there or "
            "choose another folder; what has arrived is kept and the download continues there."
        ) from error


def _range_start(content_range: str) -> int | None:
    """First byte of a header such as `bytes 100-199/200`."""
    unit, _, rest = content_range.partition(" ")
    first = rest.partition("-")[0]
    return int(first) if unit == "bytes" and first.isdigit() else None
