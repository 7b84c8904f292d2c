"""A job that is killed, doubled or starved of disk space goes on and ends with the same result."""

import json
from pathlib import Path

import pytest
from conftest import run_python
from tiny_data import make_split

from ntt.types import Json


def make_data(folder: Path, num_images: int) -> Path:
    (folder / "images").mkdir(parents=True)
    (folder / "annotations").mkdir()
    make_split(folder, "references", [[(3, 20, 20, 40)], [(7, 70, 30, 40)]], first_id=1)
    scenes = [[(3, 10 + number, 10, 40), (7, 70, 40 - number, 36)] for number in range(num_images)]
    make_split(folder, "targets", scenes, first_id=101)
    return folder


def interrupted(folder: Path, *, num_images: int, kills: int) -> Json:
    data = make_data(folder / "data", num_images)
    done = run_python("tests/interrupted.py", data, folder / "work", kills)
    assert done.returncode == 0, done.stderr
    report: Json = json.loads(done.stdout.splitlines()[-1])
    assert report["alone"] == {"status": 0, "same": True}
    assert report["images"] == num_images
    return report


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Json:
    """What happened to a small job that was killed three times, started twice at once, and starved."""
    return interrupted(tmp_path_factory.mktemp("interrupted"), num_images=5, kills=3)


def check_killed(report: Json, *, kills: int) -> None:
    rounds = report["killed"]["rounds"]
    assert sum(each["kills"] for each in rounds) == kills
    for each in rounds:
        assert each["status"] == 0
        assert each["same"], "the result differs from that of an undisturbed run"
        assert each["vanished"] == 0
        assert each["begun"] <= report["images"] + each["kills"], "more than one image a kill was lost"
        assert each["temporaries"] == []


def test_a_killed_job_and_two_jobs_at_once_give_the_same(report):
    check_killed(report, kills=3)
    assert report["twins"] == {"statuses": [0, 0], "same": True, "temporaries": []}


def test_a_limit_of_file_sizes(report):
    starved = report["starved"]
    assert starved["statuses"] == [2, 0]
    assert "the disk is full. Make space and run the same command again" in starved["said"]
    assert "Traceback" not in starved["said"]
    assert starved["kept"] == 2
    assert starved["same"]
    assert starved["temporaries"] == []
    assert starved["begun"] == report["images"] + 1, "more than the third image was computed again"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_job_killed_fifty_times(tmp_path):
    check_killed(interrupted(tmp_path, num_images=12, kills=50), kills=50)
