import errno
import hashlib
import json
import multiprocessing
import os
import shutil
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from ntt.base import download as download_module
from ntt.base import locking
from ntt.base.download import Patience, download, mirrored_urls
from ntt.errors import ConfigError, StorageError, WeightsError
from tests.http_server import Site, serve

CONTENT = bytes(range(256)) * 40
SHA256 = hashlib.sha256(CONTENT).hexdigest()
QUICK = Patience(attempts=3, first_pause_s=0.0, silence_s=0.5)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("no_proxy", "*")
    with serve(Site(files={"a.pt": CONTENT})) as running:
        yield running


def _get(site: Site, target: Path, *, sha256: str = SHA256, patience: Patience = QUICK) -> None:
    download([f"{site.url}/a.pt"], target, sha256=sha256, label="weights a", patience=patience)


def _assert_whole_and_alone(target: Path) -> None:
    assert target.read_bytes() == CONTENT
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def _leave_part(target: Path, site: Site, part: bytes, version: str | None = '"v1"') -> Path:
    target.with_name("a.pt.part.json").write_text(json.dumps({"url": f"{site.url}/a.pt", "version": version}))
    place = target.with_name("a.pt.part")
    place.write_bytes(part)
    return place


def test_a_file_arrives_with_progress_and_nothing_is_left_beside_it(site: Site, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    target = tmp_path / "deep" / "a.pt"
    download([f"{site.url}/a.pt"], target, sha256=SHA256.upper(), label="a", progress=lambda *state: seen.append(state))
    _assert_whole_and_alone(target)
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert site.ranges == [None]


def test_a_cut_connection_is_continued_where_it_stopped(site: Site, tmp_path: Path) -> None:
    site.cut_after = [1000, 500]
    _get(site, tmp_path / "a.pt")
    _assert_whole_and_alone(tmp_path / "a.pt")
    assert site.ranges == [None, "bytes=1000-", "bytes=1500-"]


def test_progress_between_failures_does_not_exhaust_the_patience(site: Site, tmp_path: Path) -> None:
    site.cut_after = [1000] * 8
    _get(site, tmp_path / "a.pt")
    assert len(site.requests) == 9


def test_a_server_that_ignores_ranges_is_started_over(site: Site, tmp_path: Path) -> None:
    site.honours_range = False
    site.cut_after = [1000]
    _get(site, tmp_path / "a.pt")
    _assert_whole_and_alone(tmp_path / "a.pt")
    assert site.ranges == [None, "bytes=1000-"]


def test_starting_over_for_ever_is_given_up(site: Site, tmp_path: Path) -> None:
    site.honours_range = False
    site.cut_after = [1000] * 20
    with pytest.raises(WeightsError, match=r"the connection ended at 1000 of 10240 bytes \(3 attempts\)"):
        _get(site, tmp_path / "a.pt")
    assert len(site.requests) == 3


def test_an_earlier_runs_part_is_continued(site: Site, tmp_path: Path) -> None:
    _leave_part(tmp_path / "a.pt", site, CONTENT[:300])
    _get(site, tmp_path / "a.pt")
    _assert_whole_and_alone(tmp_path / "a.pt")
    assert site.ranges == ["bytes=300-"]


def test_a_part_that_is_already_whole_is_only_verified(site: Site, tmp_path: Path) -> None:
    _leave_part(tmp_path / "a.pt", site, CONTENT)
    _get(site, tmp_path / "a.pt")
    _assert_whole_and_alone(tmp_path / "a.pt")
    assert site.ranges == [f"bytes={len(CONTENT)}-"]


def test_a_file_that_changed_on_the_server_is_fetched_afresh(site: Site, tmp_path: Path) -> None:
    _leave_part(tmp_path / "a.pt", site, b"old" * 100, version='"v0"')
    _get(site, tmp_path / "a.pt")
    _assert_whole_and_alone(tmp_path / "a.pt")
    assert site.ranges == ["bytes=300-"]


def test_a_part_longer_than_the_file_is_dropped(site: Site, tmp_path: Path) -> None:
    _leave_part(tmp_path / "a.pt", site, CONTENT + b"more")
    _get(site, tmp_path / "a.pt")
    _assert_whole_and_alone(tmp_path / "a.pt")
    assert site.ranges == [f"bytes={len(CONTENT) + 4}-", None]


def test_a_wrong_part_without_version_mark_gets_a_second_fresh_try(site: Site, tmp_path: Path) -> None:
    site.etag = None
    _leave_part(tmp_path / "a.pt", site, b"x" * 300, version=None)
    _get(site, tmp_path / "a.pt")
    _assert_whole_and_alone(tmp_path / "a.pt")
    assert site.ranges == ["bytes=300-", None]


def test_a_weak_version_mark_is_not_used_to_continue(site: Site, tmp_path: Path) -> None:
    site.etag = 'W/"v1"'
    site.cut_after = [1000]
    _get(site, tmp_path / "a.pt")
    _assert_whole_and_alone(tmp_path / "a.pt")
    assert site.ranges == [None, "bytes=1000-"]


def test_a_part_from_another_url_or_of_unknown_origin_is_not_continued(site: Site, tmp_path: Path) -> None:
    for mark in ('{"url": "http://elsewhere/a.pt"}', "[]", "{broken"):
        (tmp_path / "a.pt.part").write_bytes(b"y" * 300)
        (tmp_path / "a.pt.part.json").write_text(mark)
        _get(site, tmp_path / "a.pt")
        _assert_whole_and_alone(tmp_path / "a.pt")
        (tmp_path / "a.pt").unlink()
    assert site.ranges == [None] * 3


def test_a_wrong_hash_names_both_and_leaves_nothing(site: Site, tmp_path: Path) -> None:
    with pytest.raises(WeightsError) as caught:
        _get(site, tmp_path / "a.pt", sha256="0" * 64)
    assert str(caught.value) == (
        f"The weights a from {site.url}/a.pt is not the expected file: its sha256 is {SHA256}, expected {'0' * 64}. "
        "It was deleted. Try again later or from another mirror."
    )
    assert list(tmp_path.iterdir()) == []
    assert site.ranges == [None]


def test_a_web_page_instead_of_the_file_is_recognised(site: Site, tmp_path: Path) -> None:
    site.files["a.pt"] = b"\n<!DOCTYPE html><title>Sign in</title>"
    with pytest.raises(WeightsError, match=r"What arrived is a web page: is there a login page"):
        _get(site, tmp_path / "a.pt")


def test_a_file_without_announced_length_arrives(site: Site, tmp_path: Path) -> None:
    site.sends_length = False
    _get(site, tmp_path / "a.pt")
    _assert_whole_and_alone(tmp_path / "a.pt")


def test_404_is_told_at_once_and_the_next_url_is_tried(site: Site, tmp_path: Path) -> None:
    first, second = f"{site.url}/missing.pt", f"{site.url}/gone.pt"
    with pytest.raises(WeightsError) as caught:
        download([first, second], tmp_path / "a.pt", sha256=SHA256, label="weights a", patience=QUICK)
    assert f"there is no such file at {first} and {second}. Check the mirror" in str(caught.value)
    download([first, f"{site.url}/a.pt"], tmp_path / "a.pt", sha256=SHA256, label="weights a", patience=QUICK)
    _assert_whole_and_alone(tmp_path / "a.pt")
    assert [path for path, _ in site.requests] == ["missing.pt", "gone.pt", "missing.pt", "a.pt"]


def test_403_is_told_at_once(site: Site, tmp_path: Path) -> None:
    site.statuses = [403]
    with pytest.raises(WeightsError, match=r"/a.pt answered HTTP 403 Forbidden\. Check the address and your access"):
        _get(site, tmp_path / "a.pt")
    assert len(site.requests) == 1


def test_passing_trouble_is_waited_for(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(download_module.time, "sleep", pauses.append)
    site.statuses = [503, 500, 429]
    _get(site, tmp_path / "a.pt", patience=Patience(attempts=4, first_pause_s=1.0))
    _assert_whole_and_alone(tmp_path / "a.pt")
    assert pauses == [1.0, 2.0, 4.0]


@pytest.mark.parametrize(("wish", "pause"), [("7", 7.0), ("100000", 60.0), ("Wed, 21 Oct 2026 07:28:00 GMT", 1.0)])
def test_the_servers_wish_is_honoured_up_to_a_limit(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wish: str, pause: float
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(download_module.time, "sleep", pauses.append)
    site.statuses, site.retry_after = [503], wish
    _get(site, tmp_path / "a.pt", patience=Patience())
    assert pauses == [pause]


def test_lasting_trouble_is_given_up_and_the_part_is_kept(site: Site, tmp_path: Path) -> None:
    part = _leave_part(tmp_path / "a.pt", site, CONTENT[:300])
    site.statuses = [502] * 3
    with pytest.raises(
        WeightsError, match=r"HTTP 502 Bad Gateway \(3 attempts\).* 300 bytes are kept and the download"
    ):
        _get(site, tmp_path / "a.pt")
    assert part.read_bytes() == CONTENT[:300]


def test_no_network_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    with serve(Site()) as closed:
        pass
    with pytest.raises(WeightsError) as caught:
        _get(closed, tmp_path / "a.pt")
    assert "the connection failed" in str(caught.value)
    assert f"Or copy the file to {tmp_path / 'a.pt'} by hand." in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_an_untrusted_certificate_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def refuse(request: urllib.request.Request, timeout: float) -> None:
        calls.append(timeout)
        error = ssl.SSLCertVerificationError(1, "certificate verify failed")
        error.verify_message = "self-signed certificate"
        raise urllib.error.URLError(error)

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    with pytest.raises(WeightsError) as caught:
        download(["https://host/a.pt"], tmp_path / "a.pt", sha256=SHA256, label="weights a")
    assert "The certificate of https://host/a.pt is not trusted: self-signed certificate." in str(caught.value)
    assert "SSL_CERT_FILE" in str(caught.value)
    assert len(calls) == 1


def test_a_silent_server_is_left_and_asked_again(site: Site, tmp_path: Path) -> None:
    released = threading.Event()
    waits = [released.wait]
    site.before_body = lambda: waits.pop()(10) if waits else None
    try:
        _get(site, tmp_path / "a.pt")
    finally:
        released.set()
    _assert_whole_and_alone(tmp_path / "a.pt")
    assert len(site.requests) == 2


def test_a_slow_server_is_waited_for(site: Site, tmp_path: Path) -> None:
    site.before_body = lambda: threading.Event().wait(0.2)
    _get(site, tmp_path / "a.pt")
    assert len(site.requests) == 1


def test_ctrl_c_keeps_the_part_for_the_next_run(site: Site, tmp_path: Path) -> None:
    def interrupt(done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    site.cut_after = [4000]
    with pytest.raises(KeyboardInterrupt):
        download([f"{site.url}/a.pt"], tmp_path / "a.pt", sha256=SHA256, label="a", progress=interrupt)
    kept = (tmp_path / "a.pt.part").stat().st_size
    assert 0 < kept <= 4000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pt.part", "a.pt.part.json"]
    _get(site, tmp_path / "a.pt")
    _assert_whole_and_alone(tmp_path / "a.pt")
    assert site.ranges == [None, f"bytes={kept}-"]


def test_a_full_disk_is_noticed_before_the_first_byte(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=5_000_000))
    with pytest.raises(StorageError) as caught:
        _get(site, tmp_path / "a.pt")
    assert f"Not enough disk space for the weights a: 17 MB are needed in {tmp_path}, 5 MB are free." in str(
        caught.value
    )
    assert not (tmp_path / "a.pt").exists()


def test_a_disk_that_fills_up_keeps_the_part(site: Site, tmp_path: Path) -> None:
    def fill_up(done: int, total: int | None) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StorageError, match=r"cannot be written to .*: No space left on device\. Free some space there"):
        download([f"{site.url}/a.pt"], tmp_path / "a.pt", sha256=SHA256, label="weights a", progress=fill_up)
    assert (tmp_path / "a.pt.part").exists()


def test_a_folder_that_cannot_be_made_is_told(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"The weights a cannot be written to .*file: "):
        _get(site, tmp_path / "file" / "a.pt")
    assert site.requests == []


def _fetch_in_process(url: str, target: Path) -> None:
    os.environ["no_proxy"] = "*"
    download([url], target, sha256=SHA256, label="weights a")


def test_two_processes_fetch_once(site: Site, tmp_path: Path) -> None:
    site.before_body = lambda: threading.Event().wait(1.0)
    context = multiprocessing.get_context("spawn")
    arguments = (f"{site.url}/a.pt", tmp_path / "a.pt")
    processes = [context.Process(target=_fetch_in_process, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    _assert_whole_and_alone(tmp_path / "a.pt")
    assert len(site.requests) == 1


def test_threads_wait_for_the_one_that_fetches(site: Site, tmp_path: Path) -> None:
    first_is_in = threading.Event()
    go_on = threading.Event()

    def hold() -> None:
        first_is_in.set()
        go_on.wait(10)

    site.before_body = hold
    patient = Patience(silence_s=20)
    threads = [threading.Thread(target=_get, args=(site, tmp_path / "a.pt"), kwargs={"patience": patient})]
    threads[0].start()
    assert first_is_in.wait(10)
    threads += [threading.Thread(target=_get, args=(site, tmp_path / "a.pt")) for _ in range(3)]
    for thread in threads[1:]:
        thread.start()
    threads[1].join(0.2)
    assert threads[1].is_alive()
    go_on.set()
    for thread in threads:
        thread.join(10)
    _assert_whole_and_alone(tmp_path / "a.pt")
    assert len(site.requests) == 1


def test_where_locks_do_not_work_each_process_writes_its_own_part(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locking.fcntl, "flock", unsupported)
    other = _leave_part(tmp_path / "a.pt", site, CONTENT[:300])
    names: list[str] = []
    site.before_body = lambda: names.extend(path.name for path in tmp_path.iterdir())
    _get(site, tmp_path / "a.pt")
    assert (tmp_path / "a.pt").read_bytes() == CONTENT
    assert other.read_bytes() == CONTENT[:300]
    assert site.ranges == [None]
    site.cut_after = [10] * 9
    site.honours_range = False
    (tmp_path / "a.pt").unlink()
    with pytest.raises(WeightsError):
        _get(site, tmp_path / "a.pt")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pt.part", "a.pt.part.json"]


def test_mirrors_are_looked_up_in_both_layouts() -> None:
    url = "https://official.example/dinov2/dinov2_vits14/x.pth"
    assert mirrored_urls("http://mirror:8000/weights/", url, "dinov2/x.pth") == [
        "http://mirror:8000/weights/dinov2/dinov2_vits14/x.pth",
        "http://mirror:8000/weights/dinov2/x.pth",
    ]
    assert mirrored_urls("https://mirror", "https://official.example/x.pth", "x.pth") == ["https://mirror/x.pth"]


@pytest.mark.parametrize("base", ["/mnt/weights", "ftp://host/x", "mirror", "", "http://"])
def test_a_mirror_must_be_a_web_address(base: str) -> None:
    with pytest.raises(ConfigError, match=r"is not a URL this program can fetch from\. Give one that starts"):
        mirrored_urls(base, "https://official.example/x.pth", "x.pth")
