"""Numbers a person plans by: time left, time of earlier runs; worked by hand."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from sweep_samples import make_plan, make_point, make_unit

from ntt.config.compose import compose_config
from ntt.run.rundir import RunDirectory
from ntt.sweeps.costs import item_seconds, point_seconds
from ntt.sweeps.plan import Plan
from ntt.sweeps.spec import Resources, StageResources
from ntt.sweeps.state import SweepFolder, TaskState
from ntt.sweeps.status import plan_text, status_text, sweep_status

NOW = time.time()


@pytest.fixture(autouse=True)
def _stopped_clock(monkeypatch):
    """Let all of these tests take place at NOW: signs of life grow old while other tests run."""
    monkeypatch.setattr(time, "time", lambda: NOW)


def plan_of(folder: SweepFolder, *, item_s: float | None = None, point_s: float | None = None) -> Plan:
    return make_plan(
        "study",
        [make_point(name, folder.root.parent / name, "candidates-1", seconds=point_s) for name in "abc"],
        [make_unit("candidates-1", num_cached=2, item_s=item_s)],
        created_s=NOW - 1000,
        resources=Resources(candidates=StageResources(shards=4), points=StageResources(points_per_job=2)),
    )


@pytest.fixture
def folder(tmp_path: Path) -> SweepFolder:
    return SweepFolder(tmp_path / "sweep")


def ended(status: Any, started_s: float, ended_s: float, **more: Any) -> TaskState:
    """A state from so many seconds ago to so many seconds ago."""
    times = {"heartbeat_s": NOW - ended_s, "finished_s": NOW - ended_s, "attempts": 1, **more}
    return TaskState(status, started_s=NOW - started_s, **times)


def finish(folder: SweepFolder, plan: Plan, name: str) -> None:
    run_dir = plan.point(name).run_dir
    run_dir.mkdir()
    (run_dir / "metrics.json").write_text("{}")
    folder.write_state(name, ended("done", 60, 50))


def test_time_left_by_the_plans_figures_while_nothing_is_measured(folder):
    # 8 images of 3 s and three points of 20 s, in one process.
    status = sweep_status(folder, plan_of(folder, item_s=3.0, point_s=20.0))
    assert status.left_s == pytest.approx(84.0)
    assert status.elapsed_s is None
    assert sweep_status(folder, plan_of(folder, item_s=None, point_s=20.0)).left_s is None
    assert sweep_status(folder, plan_of(folder, item_s=3.0, point_s=None)).left_s is None
    plan = plan_of(folder, item_s=0.0, point_s=30.0)
    for name in "ab":
        running = TaskState("running", started_s=NOW - 10, heartbeat_s=NOW, host="elsewhere", pid=1, attempts=1)
        folder.write_state(name, running)
    # 20 + 20 + 30 s over two processes.
    assert sweep_status(folder, plan).left_s == pytest.approx(35.0)


def test_time_left_by_what_the_sweep_has_measured(folder):
    plan = plan_of(folder, item_s=3.0, point_s=20.0)
    folder.write_state("candidates-1.0of2", ended("done", 100, 80, computed=4))
    folder.write_state("candidates-1.1of2", ended("done", 2000, 1990, computed=0))
    finish(folder, plan, "a")
    # 4 images took 20 s; 10 - 2 - 4 are missing: 4 x 5 s. Point a took 10 s: two more are 20 s.
    status = sweep_status(folder, plan)
    assert status.left_s == pytest.approx(40.0)
    assert status.counts == {"done": 1, "waiting": 2}
    # From the first start, 2,000 s ago, to the last heartbeat, 50 s ago.
    assert status.elapsed_s == pytest.approx(1950.0)


def test_jobs_and_hours_of_a_plan_whose_points_need_their_metrics(folder):
    text = plan_text(folder, plan_of(folder, item_s=1800.0, point_s=600.0))
    # 8 images of half an hour in four jobs; three points of ten minutes in two jobs.
    rows = {line.split("  ")[0]: line.split() for line in text.splitlines()}
    assert " ".join(rows["candidates"][1:]) == "4 1:00:00 4:00:00"
    assert " ".join(rows["points"][1:]) == "2 0:15:00 0:30:00"
    assert rows["all together"][-1] == "4:30:00"
    plan = plan_of(folder)
    finish(folder, plan, "a")
    (plan.point("a").run_dir / "metrics.json").unlink()
    assert sweep_status(folder, plan).counts == {"waiting": 3}


def test_states_are_told_with_what_matters(folder):
    plan = plan_of(folder)
    finish(folder, plan, "a")
    lost = ended("running", 900, 600, host="elsewhere", pid=1, job="7_1", attempts=2, finished_s=None)
    folder.write_state("b", lost)
    folder.write_state("c", ended("failed", 9, 5, error="DataError: no.", traceback="T1\nT2"))
    text = status_text(folder, plan, sweep_status(folder, plan))
    assert "Sweep study: 3 points: 1 done, 1 failed, 1 lost" in text
    assert "lost:\n  seed=b (0:05:00, job 7_1, attempt 2)\n" in text
    assert "failed:\n  seed=c (4 s)\n    DataError: no." in text
    assert "still to do: unknown" in text
    assert "T2" not in text
    assert "seed=a" not in text
    verbose = status_text(folder, plan, sweep_status(folder, plan), verbose=True)
    assert "    T2" in verbose
    assert "done:\n  seed=a (10 s)" in verbose


def make_run(root: Path, dataset: str, digest: str, **stages: Any) -> None:
    """Write records of stages, given as seconds, or as (seconds, new entries of the store by kind)."""
    folder = root / dataset / "all_1shot_seed0" / f"efficientnet_lite0_regions_ntt_{digest}"
    for name, value in stages.items():
        seconds, computed = value if isinstance(value, tuple) else (value, {})
        RunDirectory(folder).write_record(name, "key", [], {"seconds": seconds, "computed": computed})


def test_costs_come_from_earlier_runs(tmp_path):
    config = compose_config([f"runtime.output_root={tmp_path}"])
    assert item_seconds("candidates", config) == 1.0
    assert item_seconds("references", config) is None
    rest = {"references": 0.5, "prototypes": 0.5, "matching": 4.0, "evaluation": 3.0}
    make_run(tmp_path, "other", "a", candidates=(40.0, {"candidates": 4}))
    assert item_seconds("candidates", config) == 10.0
    assert point_seconds(config) is None
    make_run(tmp_path, "demo", "b", candidates=(20.0, {"candidates": 10}), memory=(10.0, {"references": 5}), **rest)
    make_run(tmp_path, "demo", "c", candidates=(20.0, {"candidates": 5}), **rest)
    # One has found everything in the store, one has segmented the images of its references.
    make_run(tmp_path, "demo", "d", candidates=0.1, memory=0.1)
    make_run(tmp_path, "demo", "e", memory=(100.0, {"references": 5, "candidates": 5}))
    assert item_seconds("candidates", config) == 3.0
    assert item_seconds("references", config) == 2.0
    assert point_seconds(config) == 8.0


def test_shards_of_sweeps_are_measurements_too(tmp_path):
    config = compose_config([f"runtime.output_root={tmp_path}"])
    folder = SweepFolder(tmp_path / "sweeps" / "earlier")
    label = "demo, efficientnet_lite0 + regions"
    units = [{"id": "candidates-1", "kind": "candidates", "label": label}]
    units.append({"id": "candidates-2", "kind": "candidates", "label": "demo, dinov2_vitl14 + sam2"})
    folder.root.mkdir(parents=True)
    folder.plan.write_text(json.dumps({"units": units}))
    for unit, seconds in (("candidates-1", 12.0), ("candidates-2", 99.0)):
        folder.write_state(f"{unit}.0of1", ended("done", seconds, 0, computed=3))
    # 12 s for three computed images.
    assert item_seconds("candidates", config) == pytest.approx(4.0)
    folder.plan.write_text("{")
    assert item_seconds("candidates", config) == 1.0
