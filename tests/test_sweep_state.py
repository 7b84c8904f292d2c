"""What is kept of tasks while they run, and what is concluded when nothing is said any more."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import cases

from ntt.errors import DataError, StorageError
from ntt.sweeps import state
from ntt.sweeps.state import Shard, SweepFolder, TaskState


@pytest.fixture
def folder(tmp_path: Path) -> SweepFolder:
    return SweepFolder(tmp_path / "sweep")


def test_shards_are_found_by_their_unit_and_wait_until_begun(folder):
    assert folder.state("a") == TaskState()
    assert folder.observed("a").status == "waiting"
    for index in (1, 0):
        folder.write_state(Shard("candidates-ab", index, 2).task, TaskState())
    folder.write_state("candidates-abc.0of1", TaskState())
    assert folder.shards("candidates-ab") == ["candidates-ab.0of2", "candidates-ab.1of2"]


def test_work_is_done_with_its_times_and_counts(folder):
    with folder.working_on("a", job="17_3") as count:
        begun = folder.state("a")
        count.computed = 1
    ended = folder.state("a")
    assert (begun.status, begun.job, begun.attempts, begun.pid) == ("running", "17_3", 1, os.getpid())
    assert (ended.status, ended.computed) == ("done", 1)
    assert ended.started_s == begun.started_s
    assert ended.finished_s is not None
    assert 0 <= ended.finished_s - (ended.started_s or 0) < 60


def test_a_failure_is_kept_with_its_traceback_and_goes_on(folder):
    with pytest.raises(DataError), folder.working_on("a"):
        raise DataError("image 7 is broken.")
    ended = folder.state("a")
    assert (ended.status, ended.error) == ("failed", "DataError: image 7 is broken.")
    assert "test_sweep_state.py" in (ended.traceback or "")


def test_a_process_told_to_stop_leaves_its_task_waiting(folder):
    for stop in (KeyboardInterrupt, SystemExit):
        with pytest.raises(stop), folder.working_on("a"):
            raise stop
        assert folder.state("a").status == "waiting"
    assert folder.state("a").attempts == 2


def test_signs_of_life_come_while_the_work_goes_on(folder, monkeypatch):
    monkeypatch.setattr(state, "HEARTBEAT_S", 0.01)
    with folder.working_on("a") as count:
        first = folder.state("a").heartbeat_s
        count.computed += 1
        end = time.monotonic() + 20
        while folder.state("a").computed == 0 and time.monotonic() < end:
            time.sleep(0.01)
        later = folder.state("a")
    assert later.computed == 1
    assert (later.heartbeat_s or 0) > (first or 0)


def test_a_full_disk_does_not_end_the_work(folder, monkeypatch):
    monkeypatch.setattr(state, "HEARTBEAT_S", 0.01)
    written = state.write_json
    failures: list[object] = []

    def full(path: Path, value: object) -> None:
        failures.append(value)
        raise StorageError("the disk is full")

    with folder.working_on("a"):
        monkeypatch.setattr(state, "write_json", full)
        end = time.monotonic() + 20
        while len(failures) < 2 and time.monotonic() < end:
            time.sleep(0.01)
        monkeypatch.setattr(state, "write_json", written)
    assert len(failures) >= 2
    assert folder.state("a").status == "done"


def running(**changes: object) -> TaskState:
    now = time.time()
    values = {"started_s": now - 500, "heartbeat_s": now, "host": "elsewhere", "pid": 1, **changes}
    return TaskState(status="running", **values)  # type: ignore[arg-type]


def test_silence_and_a_process_that_is_gone_mean_lost(folder, monkeypatch):
    now = time.time()
    folder.write_state("quiet", running(heartbeat_s=now - 181))
    folder.write_state("alive", running(heartbeat_s=now - 179))
    monkeypatch.setattr(time, "time", lambda: now)
    assert folder.observed("quiet").status == "lost"
    assert folder.observed("alive").status == "running"
    assert folder.state("quiet").status == "running"
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    folder.write_state("gone", running(host=socket.gethostname(), pid=child.pid))
    folder.write_state("here", running(host=socket.gethostname(), pid=os.getpid()))
    assert folder.observed("gone").status == "lost"
    assert folder.observed("here").status == "running"


@cases("content", "why")(
    ("", "Expecting value"),
    ("{", "Expecting property"),
    ("[]", "[] is invalid. Allowed: a mapping"),
    ('{"status": "gone"}', "Allowed: one of waiting"),
    ('{"pid": "x"}', "pid=x is invalid. Allowed: a whole number or null"),
    ('{"started_s": 1e999}', "started_s=inf is invalid. Allowed: a finite number."),
)
def test_a_damaged_file_counts_as_none(folder, content, why, caplog):
    path = folder.root / "state" / "a.json"
    path.parent.mkdir(parents=True)
    path.write_text(content)
    assert folder.state("a") == TaskState()
    assert "counts as waiting" in caplog.text
    assert why in caplog.text
    path.write_text('{"status": "done", "items": 3}')
    assert folder.state("a") == TaskState("done"), "what another version wrote is ignored"
