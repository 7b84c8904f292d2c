"""Downloads against a local server that fails like real ones."""

import errno
import hashlib
import shutil
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import cases, refused

from ntt.base import download as download_module
from ntt.base.download import display_url, download, mirrored_urls
from ntt.errors import ConfigError, DownloadError, StorageError
from tests.http_server import Site, serve

CONTENT = bytes(range(256)) * 40
SHA256 = hashlib.sha256(CONTENT).hexdigest()
SIZE = len(CONTENT)
LONGER = {"a.pt": CONTENT + b"1"}


@pytest.fixture
def site(monkeypatch) -> Iterator[Site]:
    monkeypatch.setenv("no_proxy", "*")
    quick = {"_ATTEMPTS": 3, "_FIRST_PAUSE_S": 0.0, "_SILENCE_S": 0.5, "_PROGRESS_BYTES": 100}
    for name, value in quick.items():
        monkeypatch.setattr(download_module, name, value)
    with serve(Site(files={"a.pt": CONTENT})) as running:
        yield running


def _get(site: Site, target: Path, *, sha256: str | None = SHA256) -> None:
    download([f"{site.url}/a.pt"], target, sha256=sha256, label="weights a")


def _assert_whole_and_alone(target: Path) -> None:
    assert target.read_bytes() == CONTENT
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_a_file_arrives_and_nothing_is_left_beside_it(site, tmp_path):
    target = tmp_path / "deep" / "a.pt"
    url = f"{site.url}/a.pt"
    download([url], target, sha256=SHA256.upper(), label="a")
    _assert_whole_and_alone(target)
    assert site.ranges == [None]
    download([url], tmp_path / "md5", md5=hashlib.md5(CONTENT, usedforsecurity=False).hexdigest(), label="a")
    download([url], tmp_path / "any", label="a")
    assert (tmp_path / "md5").read_bytes() == (tmp_path / "any").read_bytes() == CONTENT


@cases("behaviour", "ranges")(
    ({"cut_after": [1000, 500]}, [None, "bytes=1000-", "bytes=1500-"]),
    ({"cut_after": [1000] * 8}, [None, *(f"bytes={1000 * n}-" for n in range(1, 9))]),  # each brings new bytes
    ({"cut_after": [1000], "honours_range": False}, [None, "bytes=1000-"]),
    ({"sends_length": False}, [None]),
)
def test_a_cut_connection_is_continued_where_it_stopped(site, tmp_path, behaviour, ranges):
    vars(site).update(behaviour)
    _get(site, tmp_path / "a.pt")
    _assert_whole_and_alone(tmp_path / "a.pt")
    assert site.ranges == ranges


@cases("part", "sha256", "ranges")(
    (CONTENT[:300], SHA256, ["bytes=300-"]),
    (CONTENT, SHA256, [f"bytes={SIZE}-"]),  # already whole: only verified
    (CONTENT + b"more", SHA256, [f"bytes={SIZE + 4}-", None]),
    (b"x" * 300, SHA256, ["bytes=300-", None]),  # of another file: the digest is wrong, so it is fetched afresh
    (CONTENT[:300], None, [None]),  # without a digest nothing is continued
)
def test_an_earlier_runs_part_is_continued(site, tmp_path, part, sha256, ranges):
    (tmp_path / "a.pt.part").write_bytes(part)
    _get(site, tmp_path / "a.pt", sha256=sha256)
    _assert_whole_and_alone(tmp_path / "a.pt")
    assert site.ranges == ranges


def test_a_wrong_hash_and_no_network_leave_nothing(site, tmp_path):
    source = f"The weights a from {site.url}/a.pt is not the expected file"
    with refused(DownloadError, f"{source}: its sha256 is {SHA256}, expected {'0' * 64}."):
        _get(site, tmp_path / "a.pt", sha256="0" * 64)
    assert list(tmp_path.iterdir()) == []
    assert site.ranges == [None]
    with serve(Site()) as closed:
        pass
    with pytest.raises(DownloadError, match="the connection failed") as caught:
        _get(closed, tmp_path / "a.pt")
    assert f"or copy the file to {tmp_path / 'a.pt'}." in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@cases("behaviour", "message", "num_requests")(
    ({"honours_range": False, "cut_after": [1000] * 20}, r"ended at 1000 of 10240 bytes \(3 attempts, 1000", 3),
    ({"statuses": [502] * 3}, r"HTTP 502 Bad Gateway \(3 attempts, 0 bytes are kept\)", 3),
    ({"statuses": [403]}, r"/a.pt answered HTTP 403 Forbidden\.", 1),
    ({"statuses": [302]}, r"/a.pt answered HTTP 302 and redirects to nowhere\.", 1),
    ({"statuses": [302], "location": "http://h:x"}, r"/a.pt is no URL, or redirects to none: nonnumeric port", 1),
    ({"files": {"a.pt": b"\n<!DOCTYPE html><title>Sign in</title>"}}, "that of a web page, such as a login", 1),
    *(({"files": LONGER, "sends_length": is_sent}, "is larger than 0 GB", 1) for is_sent in (True, False)),
)
@cases("sha256")(SHA256, None)
def test_failures(site, tmp_path, monkeypatch, behaviour, message, num_requests, sha256):
    monkeypatch.setattr(download_module, "MAX_BYTES", SIZE)
    vars(site).update({**behaviour, **{key: list(value) for key, value in behaviour.items() if type(value) is list}})
    with pytest.raises(DownloadError, match=message):
        _get(site, tmp_path / "a.pt", sha256=sha256)
    assert len(site.requests) == num_requests
    assert not (tmp_path / "a.pt").exists()


def test_404_is_told_at_once_and_the_next_url_is_tried(site, tmp_path):
    first, second = f"{site.url}/missing.pt", f"{site.url}/gone.pt"
    with pytest.raises(DownloadError, match=f"There is no weights a at {first} and {second}"):
        download([first, second], tmp_path / "a.pt", sha256=SHA256, label="weights a")
    download([first, f"{site.url}/a.pt"], tmp_path / "a.pt", sha256=SHA256, label="weights a")
    _assert_whole_and_alone(tmp_path / "a.pt")
    assert [path for path, _ in site.requests] == ["missing.pt", "gone.pt", "missing.pt", "a.pt"]


@cases("wish", "expected")(("0", [1.0, 2.0, 4.0]), ("7", [7.0] * 3), ("99999", [60.0] * 3), ("Wed", [1.0, 2.0, 4.0]))
def test_passing_trouble_is_waited_for_as_the_server_wishes_up_to_a_limit(site, tmp_path, monkeypatch, wish, expected):
    pauses: list[float] = []
    monkeypatch.setattr(download_module.time, "sleep", pauses.append)
    monkeypatch.setattr(download_module, "_ATTEMPTS", 4)
    monkeypatch.setattr(download_module, "_FIRST_PAUSE_S", 1.0)
    site.statuses, site.retry_after = [503, 500, 429], wish
    _get(site, tmp_path / "a.pt")
    _assert_whole_and_alone(tmp_path / "a.pt")
    assert pauses == expected


def test_an_untrusted_certificate_is_told_at_once(tmp_path, monkeypatch):
    def refuse(request: urllib.request.Request, timeout: float) -> None:
        error = ssl.SSLCertVerificationError(1, "certificate verify failed")
        error.verify_message = "self-signed certificate"
        raise urllib.error.URLError(error)

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    with pytest.raises(DownloadError, match=r"certificate of https://host/a.pt is not trusted: self-signed .*SSL_CERT"):
        download(["https://host/a.pt"], tmp_path / "a.pt", sha256=SHA256, label="weights a")


def test_a_silent_server_is_left_and_asked_again_a_slow_one_is_waited_for(site, tmp_path):
    released = threading.Event()
    waits = [lambda: released.wait(10), lambda: threading.Event().wait(0.2)]
    site.before_body = lambda: waits.pop(0)()
    try:
        _get(site, tmp_path / "a.pt")
    finally:
        released.set()
    _assert_whole_and_alone(tmp_path / "a.pt")
    assert len(site.requests) == 2


@cases("stays", "message")((False, r"ended at 30 of 10240.*\(3 attempts"), (True, r"only 10 bytes in 0 s \(3 attempts"))
def test_a_server_that_sends_drop_by_drop_is_given_up(site, tmp_path, monkeypatch, stays, message):
    monkeypatch.setattr(download_module, "_PROGRESS_S", 0.0 if stays else 60.0)
    site.cut_after, site.stays_connected = [10] * 3, stays
    with pytest.raises(DownloadError, match=message):
        _get(site, tmp_path / "a.pt")


def test_a_full_disk_is_noticed_before_it_is_full(site, tmp_path, monkeypatch):
    free = iter([100e6, 90e6, 60e6])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=next(free, 60e6)))
    monkeypatch.setattr(download_module, "_BLOCK_BYTES", 100)
    site.sends_length = False
    with pytest.raises(StorageError, match="weights a, whose size is not known: 67 MB are needed"):
        _get(site, tmp_path / "a.pt")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=5_000_000))
    with pytest.raises(StorageError, match=f"weights a: 67 MB are needed in {tmp_path}, 5 MB are free"):
        _get(site, tmp_path / "a.pt")
    assert not (tmp_path / "a.pt").exists()
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"The weights a cannot be written to .*file: "):
        _get(site, tmp_path / "file" / "a.pt")


@cases("error")(KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device"))
def test_ctrl_c_and_a_disk_that_fills_up_keep_the_part(site, tmp_path, monkeypatch, error):
    def stop(bar: object, num_bytes: int) -> None:
        raise error

    site.cut_after = [4000]
    with monkeypatch.context() as patched:
        patched.setattr("tqdm.tqdm.update", stop)
        with pytest.raises((KeyboardInterrupt, StorageError), match=r"^$|: No space left on device\. What has"):
            _get(site, tmp_path / "a.pt")
    part_size = (tmp_path / "a.pt.part").stat().st_size
    assert 0 < part_size <= 4000
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt.part"]
    _get(site, tmp_path / "a.pt")
    _assert_whole_and_alone(tmp_path / "a.pt")
    assert site.ranges == [None, f"bytes={part_size}-"]


def test_threads_wait_for_the_one_that_fetches(site, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(download_module, "_SILENCE_S", 20)
    caplog.set_level("INFO", logger="ntt")
    go_on = threading.Event()
    site.before_body = lambda: go_on.wait(10)
    threads = [threading.Thread(target=_get, args=(site, tmp_path / "a.pt")) for _ in range(4)]
    for thread in threads:
        thread.start()
    while "Another process works on" not in caplog.text:
        threads[0].join(0.01)
    go_on.set()
    for thread in threads:
        thread.join(10)
    _assert_whole_and_alone(tmp_path / "a.pt")
    assert len(site.requests) == 1


def test_mirrors_are_looked_up_in_both_layouts():
    url, mirror = "https://official.example/dinov2/dinov2_vits14/x.pth", "http://mirror:8000/weights"
    expected = [f"{mirror}/dinov2/dinov2_vits14/x.pth", f"{mirror}/dinov2/x.pth"]
    assert mirrored_urls(f"{mirror}/", url, "dinov2/x.pth") == expected
    assert mirrored_urls("https://mirror", "https://official.example/x.pth", "x.pth") == ["https://mirror/x.pth"]


@cases("base")(
    "/mnt/weights", "http://me:secret@[::1", "ftp://me:secret@host/x", "file:///mnt/x", "mirror", "", "http://"
)
def test_a_mirror_must_be_a_web_address(base):
    with pytest.raises(ConfigError, match=r"is not a URL that starts with http:// or https://") as caught:
        mirrored_urls(base, "https://official.example/x.pth", "x.pth")
    assert "secret" not in str(caught.value)


def test_a_mirrors_password_is_used_and_never_shown(site, tmp_path, caplog):
    """Whatever goes wrong: the messages and files name the address without user, password and query."""
    caplog.set_level("INFO", logger="ntt")
    base = site.url.replace("http://", "http://me:s%40crets@")
    urls = [f"{base}/none?token=s@crets", f"{base}/a.pt?token=s@crets"]
    site.files["a.pt?token=s@crets"] = CONTENT
    texts = []
    for behaviour in ({"statuses": [404, 403]}, {"statuses": [404, 503, 503, 503]}, {"statuses": [404, 404]}, {}):
        vars(site).update(behaviour)
        with pytest.raises(DownloadError) as caught:
            download(urls, tmp_path / "a.pt", sha256="0" * 64, label="a")
        texts.append(str(caught.value))
    assert display_url(urls[1]) == f"{site.url}/a.pt"
    assert all(f"{site.url}/a.pt" in text for text in texts)
    assert "crets" not in "".join(texts) + caplog.text
    assert site.logins == {"me:s@crets"}
