"""Downloads of large files: resumed where they stopped, verified before they are renamed.

A file arrives as `NAME.part` and is renamed only if its digest is right, so a file under its final name is always
complete. Without a digest to verify it, a partial file is not resumed but fetched anew.
"""

import base64
import http.client
import logging
import os
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from ntt.base.digests import digest_of
from ntt.base.files import exclusive, require_space
from ntt.base.progress import byte_bar
from ntt.errors import ConfigError, DownloadError, StorageError, one_line

MAX_BYTES = 64 << 30
"""Most bytes accepted from a server, whether it announces them or sends without end."""

_LOG = logging.getLogger(__name__)
_BLOCK_BYTES = 1 << 20
_ATTEMPTS = 5  # in a row without progress
_FIRST_PAUSE_S = 1.0  # doubles after each further failure
_LONGEST_PAUSE_S = 60.0  # that a server may ask for
_SILENCE_S = 30.0
_PROGRESS_BYTES = 1 << 16  # what an attempt must bring not to count as failed
_PROGRESS_S = 60.0  # within which it must bring them; a server that only dribbles would go on for ever
_TRANSIENT_STATUS = (408, 425, 429, 500, 502, 503, 504)
_GONE_STATUS = (404, 410)


class _TransientError(Exception):
    """A transient failure: a reason, and perhaps the seconds that the server asks to wait."""


def display_url(url: str) -> str:
    """Return a URL without user name, password, query and fragment: safe to show in a message."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def mirrored_urls(base: str, url: str, relative_path: str) -> list[str]:
    """Return where a mirror may have a file, by its official path or by ours; a ConfigError unless it is http(s)."""
    try:
        is_url = base.startswith(("http://", "https://")) and urlsplit(base).netloc
    except ValueError:
        is_url = False
    if not is_url:
        public_part = base.rpartition("@")[2].partition("?")[0]
        raise ConfigError(f"The mirror {public_part!r} is not a URL that starts with http:// or https://.")
    paths = dict.fromkeys((urlsplit(url).path.lstrip("/"), quote(relative_path)))
    return [f"{base.rstrip('/')}/{path}" for path in paths]


def download(
    urls: Sequence[str], target: Path, *, label: str, sha256: str | None = None, md5: str | None = None
) -> None:
    """Download a file, or continue a download that was interrupted. A second process waits for the first.

    The `urls` are tried in turn until one has the file; `label` is what it is, for messages. It must have the `sha256`
    or, where none is published, the `md5`, in hex; without either, anything but a web page is accepted.

    A DownloadError if the file is not available, or what arrived has another digest; a StorageError if the disk is full
    or not writable. The partial download is kept and resumed next time.
    """
    algorithm, expected = ("md5", md5) if sha256 is None and md5 is not None else ("sha256", sha256)
    try:
        with exclusive(target):
            if not target.is_file():
                _Transfer(target, label, algorithm, expected and expected.lower()).fetch_verified(urls)
    except OSError as error:
        raise StorageError(
            f"The {label} cannot be written to {target.parent}: {error.strerror or error}. What has arrived is kept "
            "and continued next time."
        ) from error


@dataclass
class _Transfer:
    """One file on its way from a server to `part`."""

    target: Path
    label: str
    algorithm: str
    expected: str | None
    url: str = ""
    is_continuation: bool = False

    @property
    def part(self) -> Path:
        return self.target.with_name(f"{self.target.name}.part")

    @property
    def source(self) -> str:
        return display_url(self.url)

    def fetch_verified(self, urls: Sequence[str]) -> None:
        """Fetch and verify; a download that was resumed and has a wrong digest is repeated from the start."""
        while True:
            for self.url in urls:
                if self._fetch_with_retries():
                    break
                _LOG.info("%s has no %s", self.source, self.label)
            else:
                raise DownloadError(f"There is no {self.label} at {' and '.join(map(display_url, urls))}.")
            digest = digest_of(self.part, self.algorithm)
            with self.part.open("rb") as file:
                is_page = file.read(64).lstrip().startswith(b"<")
            if digest == self.expected or (self.expected is None and not is_page):
                self.part.replace(self.target)
                return
            self.part.unlink()
            if not self.is_continuation:
                raise DownloadError(
                    f"The {self.label} from {self.source} is not the expected file: its {self.algorithm} is {digest}, "
                    + ("that of a web page, such as a login page." if is_page else f"expected {self.expected}.")
                )
            _LOG.warning("The resumed download of %s has a wrong %s; restarting it.", self.label, self.algorithm)

    def _fetch_with_retries(self) -> bool:
        """Return whether the server has the file; retry after transient failures."""
        failures, farthest = 0, self._size()
        while True:
            try:
                return self._fetch_once(0 if self.expected is None else self._size())
            except _TransientError as error:
                # Only new bytes count as progress: with a server that ignores ranges, retries would never end.
                size = self._size()
                failures = 1 if size >= farthest + _PROGRESS_BYTES else failures + 1
                farthest = max(farthest, size)
                if failures >= _ATTEMPTS:
                    raise DownloadError(
                        f"The {self.label} cannot be fetched from {self.source}: {error.args[0]} ({failures} attempts, "
                        f"{size} bytes are kept). Try again later, or copy the file to {self.target}."
                    ) from error
                asked_s = error.args[1] if len(error.args) > 1 else 0
                pause_s = max(_FIRST_PAUSE_S * 2.0 ** (failures - 1), min(asked_s, _LONGEST_PAUSE_S))
                _LOG.warning("%s: %s; retrying in %.0f s", self.source, error.args[0], pause_s)
                time.sleep(pause_s)

    def _fetch_once(self, offset: int) -> bool:
        self.is_continuation, begun_s = offset > 0, time.monotonic()
        try:
            with self._network_errors():
                response = urllib.request.urlopen(self._request(offset), timeout=_SILENCE_S)
        except urllib.error.HTTPError as error:
            with error:
                return self._is_complete(error, offset)
        with response:
            self._receive(response, offset, begun_s)
        return True

    def _request(self, offset: int) -> urllib.request.Request:
        parts = urlsplit(self.url)
        plain_url = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        request = urllib.request.Request(plain_url, headers={"User-Agent": "ntt", "Accept-Encoding": "identity"})
        if parts.username is not None:  # for this host only, not for one it redirects to
            login = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
            request.add_unredirected_header("Authorization", f"Basic {base64.b64encode(login).decode('ascii')}")
        if offset:
            request.add_header("Range", f"bytes={offset}-")
        return request

    def _is_complete(self, error: urllib.error.HTTPError, offset: int) -> bool:
        """Return True if an error status means that `part` is complete, False if the file is missing; else raise."""
        meaning = error.reason if error.code >= 400 else "and redirects to nowhere"
        reason = f"HTTP {error.code} {meaning}"
        if error.code in _GONE_STATUS:
            return False
        if error.code == 416 and offset:
            if error.headers.get("Content-Range", "") == f"bytes */{offset}":
                return True
            self.part.unlink()
            raise _TransientError("the server has another version of the file now")
        if error.code in _TRANSIENT_STATUS:
            delay = error.headers.get("Retry-After", "")
            raise _TransientError(reason, int(delay) if delay.isdigit() else 0)
        raise DownloadError(f"The {self.label} cannot be fetched: {self.source} answered {reason}.")

    def _receive(self, response: Any, offset: int, since_s: float) -> None:
        """Append what the server sends to `part`, or start it afresh if the server ignores the requested range.

        `since_s`: when the request was sent. A server that brings too little in `_PROGRESS_S` is left.
        """
        if not response.headers.get("Content-Range", "").startswith(f"bytes {offset}-"):
            offset, self.is_continuation = 0, False
        length = response.headers.get("Content-Length", "")
        total = offset + int(length) if length.isdigit() else None
        done = progressed = offset
        self._require_size(total or 0)
        require_space(self.part.parent, (total or 0) - offset, f"the {self.label}")
        with self.part.open("ab" if offset else "wb") as file, byte_bar(self.label, total, done=offset) as bar:
            while True:
                with self._network_errors():
                    # read1 returns what has arrived; read would lose an unfinished block when the connection breaks.
                    block = response.read1(_BLOCK_BYTES)
                if not block:
                    break
                done += len(block)
                self._require_size(done)
                if total is None:
                    require_space(self.part.parent, 0, f"the {self.label}, whose size is not known")
                file.write(block)
                bar.update(len(block))
                if done >= progressed + _PROGRESS_BYTES:
                    progressed, since_s = done, time.monotonic()
                elif time.monotonic() > since_s + _PROGRESS_S and done != total:
                    raise _TransientError(f"the server sent only {done - progressed} bytes in {_PROGRESS_S:.0f} s")
            file.flush()
            os.fsync(file.fileno())
        if total is not None and done < total:
            raise _TransientError(f"the connection ended at {done} of {total} bytes")

    def _require_size(self, size: int) -> None:
        if size > MAX_BYTES:
            self.part.unlink(missing_ok=True)
            raise DownloadError(f"The {self.label} from {self.source} is larger than {MAX_BYTES / 1e9:.0f} GB.")

    def _size(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    @contextmanager
    def _network_errors(self) -> Iterator[None]:
        """Convert network errors to `_TransientError`, or `DownloadError` where retrying cannot help."""
        try:
            yield
        except urllib.error.HTTPError:
            raise
        except (OSError, http.client.HTTPException, ValueError) as error:
            cause = error.reason if isinstance(error, urllib.error.URLError) else error
            if isinstance(cause, ssl.SSLCertVerificationError):
                raise DownloadError(
                    f"The certificate of {self.source} is not trusted: {cause.verify_message}. If your proxy signs "
                    "connections, set SSL_CERT_FILE to its certificate."
                ) from error
            if isinstance(cause, TimeoutError):
                raise _TransientError("the server stopped responding") from error
            reason = one_line(str(cause)) or type(cause).__name__
            if isinstance(cause, ValueError | http.client.InvalidURL):
                raise DownloadError(f"{self.source} is no URL, or redirects to none: {reason}.") from error
            raise _TransientError(f"the connection failed ({reason})") from error
