"""A whole sweep on tiny data: planned, done by two processes, equal to single runs, resumed, collected."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import PROJECT_DIR, cases
from tiny_data import SMALL, edited, make_tiny, run_with

from ntt.cli.main import main
from ntt.errors import ConfigError, NttError
from ntt.run import runner
from ntt.store.maintenance import KEY_DIGITS, keys_of_runs
from ntt.sweeps.layout import local_jobs
from ntt.sweeps.local import _left_by, run_local
from ntt.sweeps.plan import Plan, compose_points, keep_plan, open_sweep, plan_file, read_plan, refresh, write_plan
from ntt.sweeps.state import Job, Shard, SweepFolder, TaskState
from ntt.sweeps.status import duration, is_done, plan_text, status_text, sweep_status
from ntt.sweeps.worker import by_candidates, work

RESULTS = ("references.json", "memory.safetensors", "prototypes.safetensors", "predictions.json", "metrics.json")


class Study:
    """A tiny data set, a sweep over two seeds and two numbers of shots, and where its results go."""

    def __init__(self, root: Path) -> None:
        self.data = make_tiny(root / "tiny")
        self.output, self.store = root / "out", root / "store"
        self.file = root / "four.yaml"
        small = ("\n" + 14 * " " + "- ").join(SMALL)
        self.file.write_text(
            f"""
            name: four
            base:
              - dataset=coco_json
              - segmenter.max_masks=60
              - {small}
              - dataset.root={self.data}
              - runtime.output_root={self.output}
              - runtime.store_root={self.store}
            axes: {{shots: [1shot, 2shot], seed: [0, 1]}}
            """
        )

    def plan(self, *overrides: str, name: str | None = None) -> tuple[SweepFolder, Plan]:
        folder, plan = plan_file(self.file, overrides, name=name)
        keep_plan(folder, plan)
        return folder, plan

    def vary(self, axes: str) -> None:
        """Give the sweep other axes."""
        text = self.file.read_text()
        self.file.write_text(f"{text[: text.index('axes:')]}axes: {axes}\n")

    def command(self, *words: str) -> list[str]:
        root = [] if words[0] == "plan" else ["--output-root", str(self.output)]
        return ["sweep", *words, *root]


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Study:
    """The sweep after `ntt sweep run` with two processes; tests must leave it as it is."""
    study = Study(tmp_path_factory.mktemp("sweep"))
    assert main(study.command("run", str(study.file), "--processes", "2")) == 0
    return study


@pytest.fixture
def study(done: Study, tmp_path: Path) -> Study:
    """A copy of the data with an empty output folder and the filled store."""
    copy = Study(tmp_path)
    shutil.copytree(done.store, copy.store)
    return copy


def wait_for(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


# --- plans
def test_a_plan_names_points_shared_work_and_costs(tmp_path):
    study = Study(tmp_path)
    folder, plan = plan_file(study.file)
    assert not folder.root.exists()
    labels = [f"shots={shots}shot seed={seed}" for shots in (1, 2) for seed in (0, 1)]
    assert [point.label for point in plan.points] == labels
    assert {point.units for point in plan.points} == {tuple(unit.id for unit in plan.units)}
    candidates, references = plan.units
    assert (candidates.kind, candidates.num_items, candidates.num_cached) == ("candidates", 4, 0)
    # The references file has four instances that may be drawn; two shots of two classes draw all of them.
    assert (references.kind, references.num_items, references.num_cached) == ("references", 4, 0)
    assert (candidates.item_s, references.item_s) == (1.0, None)
    text = plan_text(folder, plan)
    parts = (
        "Sweep four: 4 points, 0 done",
        "to do  shots=2shot seed=1",
        "candidates, tiny, efficientnet_lite0 + regions",
    )
    assert [part for part in parts if part not in text] == []
    write_plan(folder, plan)
    assert read_plan(folder) == plan


def test_only_what_decides_candidates_divides_them(tmp_path):
    study = Study(tmp_path)
    study.vary("{candidates.feature_dtype: [float16, float32], shots: [1shot]}")
    _, plan = plan_file(study.file)
    assert sorted(unit.kind for unit in plan.units) == ["candidates", "candidates", "references"]
    assert [len(points) for points in by_candidates(plan.points)] == [1, 1]
    study.vary("{matcher.merging: [soft, hard], split.classes: [[disc], [disc, square]]}")
    _, plan = plan_file(study.file)
    assert [(unit.kind, unit.num_items) for unit in plan.units] == [("candidates", 4), ("references", 4)]
    assert [len(points) for points in by_candidates(plan.points)] == [4]
    # The four references are on three images, and the probe has surroundings of its own.
    study.vary("{matcher: [ntt, ntt_full_both, probe_half], shots: [2shot]}")
    _, plan = plan_file(study.file)
    units = [(unit.kind, unit.num_items) for unit in plan.units]
    assert units == [("candidates", 7), ("references", 4), ("references", 4)]
    assert [unit.label.endswith("(clear surroundings)") for unit in plan.units] == [False, False, True]
    assert [len(points) for points in by_candidates(plan.points)] == [3]


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without GPU")
def test_a_login_node_cannot_tell_what_is_stored(done):
    folder, plan = plan_file(done.file, ["runtime.device=cuda"])
    units = [(unit.kind, unit.num_items, unit.num_cached) for unit in plan.units]
    assert units == [("candidates", 4, None), ("references", 4, None)]
    (row,) = [line for line in plan_text(folder, plan).splitlines() if line.startswith("candidates, tiny")]
    assert row.split()[5:8] == ["4", "?", "4"]


def test_work_is_divided_among_processes(tmp_path):
    _, plan = plan_file(Study(tmp_path).file)
    candidates, references = (replace(unit, num_cached=cached) for unit, cached in zip(plan.units, (0, 3), strict=True))
    shared, points = local_jobs(replace(plan, units=(candidates, references)), plan.points[:3], processes=2)
    first, second, other = f"{candidates.id}.0of2", f"{candidates.id}.1of2", f"{references.id}.0of1"
    assert [job.tasks for job in shared] == [(first, other), (second,)]
    ids = [point.id for point in plan.points]
    assert [job.points for job in points] == [(ids[0], ids[1]), (ids[2],)]
    assert {job.needs for job in points} == {(first, second, other)}
    assert local_jobs(plan, (), processes=2) == ([], [])


def test_plans_of_one_name(study):
    folder, _ = study.plan("shots=1shot")
    _, longer = plan_file(study.file)
    assert keep_plan(folder, longer) == "The plan has changed. New points: 2; removed: 0."
    assert keep_plan(folder, longer) is None
    _, other = plan_file(study.file, ["matcher.merging=hard"])
    with pytest.raises(ConfigError, match=r"another sweep named 'four'.* with --name"):
        keep_plan(folder, other)
    folder.write_state(longer.points[-1].id, TaskState(status="running", heartbeat_s=1e12, host="elsewhere"))
    _, shorter = plan_file(study.file, ["shots=1shot"])
    with pytest.raises(ConfigError, match=r"drops points that run or are queued \(1\)"):
        keep_plan(folder, shorter)
    renamed, _ = plan_file(study.file, ["matcher.merging=hard"], name="hard")
    assert renamed.root.name == "hard"


def test_a_plan_says_each_warning_once(study, caplog):
    study.vary("{seed: [0, 1, 2], shots: [2shot, 3shot]}")
    for _ in range(2):
        caplog.clear()
        plan_file(study.file)
        (message,) = [message for message in caplog.messages if "Classes with fewer" in message]
        assert "than the 3 shots asked for" in message


# --- a sweep that is done
def test_a_sweep_of_two_processes_equals_single_runs_bit_for_bit(done, tmp_path):
    _, plan = plan_file(done.file)
    assert all(point.finished for point in plan.points)
    for point in (plan.points[1], plan.points[2]):
        elsewhere = [f"runtime.output_root={tmp_path}", f"runtime.store_root={tmp_path}/store"]
        alone = run_with([*point.overrides, *elsewhere])
        for name in RESULTS:
            assert (alone / name).read_bytes() == (point.run_dir / name).read_bytes(), name


def test_shared_work_was_done_once_and_divided(done):
    folder, plan = plan_file(done.file)
    states = [folder.state(path.stem) for path in sorted((folder.root / "state").glob("candidates-*.json"))]
    assert [(state.status, state.computed) for state in states] == [("done", 2), ("done", 2)]
    assert len(list((done.store / "candidates").rglob("*.safetensors"))) == 4
    assert [unit.num_missing for unit in plan.units] == [0, 0]
    assert not list(done.output.rglob("*.tmp"))
    listed, lists = keys_of_runs([done.output / "sweeps" / "four" / "shards"])
    stored = {(path.parent.parent.name, path.stem[:KEY_DIGITS]) for path in done.store.rglob("*.safetensors")}
    assert listed == {(kind, key) for kind, key in stored if kind != "proposals"}, "recall is the points' own work"
    assert lists == 4, "two processes, two kinds of work"


def test_a_finished_sweep_is_found_and_does_nothing_again(done, cli):
    before = {path: path.stat().st_mtime_ns for path in done.output.rglob("metrics.json")}
    assert "4 points: 4 done" in cli(*done.command("run", "four", "--processes", "2"))
    assert {path: path.stat().st_mtime_ns for path in before} == before
    folder = open_sweep("four", done.output)
    assert open_sweep(str(done.file), done.output).root == folder.root
    assert open_sweep(str(folder.root), Path("elsewhere")).root == folder.root


def test_the_commands_tell_where_a_sweep_stands(done, cli):
    status = cli(*done.command("status", str(done.file)))
    assert "Sweep four: 4 points: 4 done" in status
    assert "candidates, tiny, efficientnet_lite0 + regions: 4 of 4 (2 done)" in status
    assert "still to do" not in status
    assert "  shots=2shot seed=0 (" in cli(*done.command("status", "four", "--verbose"))
    tables = cli(*done.command("collect", "four"))
    assert [part in tables for part in ("Results", "(2)", "Without a result")] == [True, True, False]
    assert (done.output / "sweeps" / "four" / "tables" / "runs.csv").read_text().count("finished") == 4
    assert "4 points, 4 done" in cli(*done.command("plan", str(done.file)))
    scripts = cli(*done.command("submit", "four", "--cluster", "cpu", "--dry-run"))
    assert scripts == "Nothing to submit: everything is done.\n"


@cases("words", "expected")(
    (("status", "none"), "There is no sweep 'none' below"),
    (("cancel", "four"), "was not submitted to a cluster"),
    (("run", "four", "seed=3"), "its settings are fixed. Give the sweep file"),
    (("collect", "four", "--metric", "bbox/ap"), "Allowed: one of bbox/AP"),
)
def test_what_cannot_be_done_is_said_plainly(words, expected, done, cli, monkeypatch):
    monkeypatch.chdir(done.file.parent)
    assert expected in cli(*done.command(*words), status=2)


# --- failures, interruptions, changes
def test_a_failing_point_is_recorded_and_spoils_nothing_else(study, cli):
    study.vary("{shots: [1shot, 5shot], shots.strict: [false, true]}")
    folder, plan = study.plan()
    assert [bool(point.problem) for point in plan.points] == [False, False, False, True]
    text = plan_text(folder, plan)
    assert "Will fail as it is: 1 point\n  shots=5shot shots.strict=true\n    Too few " in text
    with pytest.raises(NttError, match="2 of 5 tasks of this job failed"):
        work(folder.root, Job(points=("gone", *(point.id for point in plan.points))))
    assert "gone is not in the plan any more" in (folder.state("gone").error or "")
    states = {point.label: folder.state(point.id) for point in plan.points}
    bad = states.pop("shots=5shot shots.strict=true")
    assert {state.status for state in states.values()} == {"done"}
    assert (bad.status, (bad.error or "").split(":")[0]) == ("failed", "DataError")
    assert "Traceback" in (bad.traceback or "")
    text = cli(*study.command("status", "four"))
    assert "4 points: 3 done, 1 failed" in text
    assert "\nfailed:\n  shots=5shot shots.strict=true (" in text
    assert "Traceback" not in text
    assert "Without a result: 1 of 4 runs" in cli(*study.command("collect", "four"))


def test_a_run_outside_the_sweep_counts(study):
    folder, plan = study.plan("shots=1shot", "seed=0")
    runner.run(compose_points(plan)[0][1])
    assert not is_done(folder, plan.points[0])
    folder.record_failure(plan.points[0].id, "DataError: no image")
    again = refresh(folder)
    assert again.points[0].finished
    assert is_done(folder, again.points[0])
    run_with([*plan.points[0].overrides, "visualisation.score_threshold=0.9"])
    assert refresh(folder).points[0].finished, "other counts of the same result"


def test_changed_annotations_and_a_deleted_result_make_a_point_wait_again(study):
    folder, plan = study.plan("shots=1shot", "seed=0")
    work(folder.root, Job(points=(plan.points[0].id,)))
    assert refresh(folder).points[0].finished
    with edited(study.data, "targets") as content:
        content["annotations"] = content["annotations"][:2]
    assert is_done(folder, plan.points[0])
    assert sweep_status(folder, refresh(folder)).counts == {"waiting": 1}
    shutil.rmtree(plan.points[0].run_dir)
    assert not is_done(folder, plan.points[0])
    assert sweep_status(folder, plan).counts == {"waiting": 1}


def test_points_that_another_process_works_on_are_left_to_it(study):
    folder, plan = study.plan("shots=1shot", "seed=0")
    now = time.time()
    busy = TaskState(status="running", host="elsewhere", pid=1, started_s=now, heartbeat_s=now)
    folder.write_state(plan.points[0].id, busy)
    lines: list[str] = []
    run_local(folder, plan, processes=1, on_change=lines.append)
    assert folder.state(plan.points[0].id) == busy
    assert lines[-1] == "0 of 1 points done, 1 running"


def test_shards_fill_the_store_by_themselves(tmp_path):
    study = Study(tmp_path)
    folder, plan = study.plan()
    candidates, references = plan.units
    work(folder.root, Job(shards=(Shard(references.id, 1, 2),)))
    assert refresh(folder).units[1].num_cached == 2
    (study.data / "images" / "targets_1.png").write_bytes(b"not an image")
    shards = (Shard("candidates-gone", 0, 1), Shard(candidates.id, 1, 2), Shard(references.id, 0, 2))
    with pytest.raises(NttError, match=rf"2 of 3 tasks of this job failed: {shards[0].task}, {shards[1].task}\."):
        work(folder.root, Job(shards=shards))
    assert folder.state(shards[2].task).status == "done", "what failed has not stopped what follows"
    assert "candidates-gone is not in the plan any more" in (folder.state(shards[0].task).error or "")
    text = status_text(folder, plan, sweep_status(folder, plan))
    assert "candidates, tiny, efficientnet_lite0 + regions: 0 of 4 (1 failed)" in text
    assert "targets_1.png" in text


def test_nothing_is_computed_for_a_store_that_cannot_be_written(tmp_path, monkeypatch):
    study = Study(tmp_path)
    folder, plan = study.plan()
    (study.store / "candidates").mkdir(parents=True)
    monkeypatch.setattr(os, "access", lambda *_: False)
    shard = Shard(plan.units[0].id, 0, 1)
    with pytest.raises(NttError, match="1 of 1 tasks"):
        work(folder.root, Job(shards=(shard,)))
    assert "which another user has created. To share a store" in (folder.state(shard.task).error or "")


def test_each_process_of_a_job_has_shards_of_its_own(tmp_path):
    folder, plan = Study(tmp_path).plan()
    shards = tuple(Shard(plan.units[1].id, index, 2) for index in range(2))
    work(folder.root, Job(shards=shards), rank=1, num_processes=2, job_id="5_0")
    states = [folder.state(shard.task) for shard in shards]
    assert [(state.status, state.job) for state in states] == [("waiting", None), ("done", "5_0")]


def test_changed_meanings_of_points_are_refused(study):
    folder, plan = study.plan("shots=1shot", "seed=0")
    text = folder.plan.read_text()
    folder.plan.write_text(text.replace('"seed=0"', '"seed=5"'))
    with pytest.raises(NttError, match="1 of 1 tasks"):
        work(folder.root, Job(points=(plan.points[0].id,)))
    assert "defaults of this program have changed since" in (folder.state(plan.points[0].id).error or "")
    with pytest.raises(ConfigError, match="was planned as"):
        refresh(folder)


def died(pid: int) -> TaskState:
    return TaskState(status="running", heartbeat_s=1.0, host="elsewhere", pid=pid, attempts=1)


def test_a_job_that_died_costs_the_task_at_hand(tmp_path):
    folder = SweepFolder(tmp_path)
    job = Job(points=("a", "b", "c", "d"), needs=("n",))
    folder.write_state("a", TaskState(status="done"))
    folder.write_state("b", died(1))
    assert _left_by(folder, job, log=tmp_path / "log") == [Job(points=("c", "d"), needs=("n",))]
    assert folder.state("b").status == "failed"
    assert "ended without an error message. The kernel does this when memory runs out." in folder.state("b").error
    # One that died before its first task has nothing that could be left out.
    assert _left_by(folder, Job(points=("c", "d")), log=tmp_path / "log") == []
    states = [folder.state(task) for task in "abcd"]
    assert [(state.status, state.attempts) for state in states] == [("done", 0), *[("failed", 1)] * 3]


def test_a_killed_process_costs_its_point_only(study):
    """The process waits for a reader of its first point's log and is killed there; another one does the rest."""
    folder, plan = study.plan("shots=1shot")
    first, second = plan.points
    first.run_dir.mkdir(parents=True)
    os.mkfifo(first.run_dir / "run.log")

    def kill() -> None:
        wait_for(lambda: folder.state(first.id).status == "running")
        os.kill(folder.state(first.id).pid or 0, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    run_local(folder, plan, processes=1)
    killer.join()
    assert [folder.state(point.id).status for point in (first, second)] == ["failed", "done"]
    assert folder.state(first.id).pid != folder.state(second.id).pid


def test_an_interruption_ends_the_jobs_and_leaves_their_tasks_waiting(tmp_path):
    """Ctrl-C reaches all processes of the terminal; the jobs leave it to the one that waits for them."""
    study = Study(tmp_path)
    folder, plan = study.plan()
    words = [sys.executable, "-m", "ntt", *study.command("run", str(study.file))]
    launcher = subprocess.Popen(words, cwd=PROJECT_DIR, start_new_session=True)
    task = Shard(plan.units[0].id, 0, 1).task
    wait_for(lambda: folder.state(task).status == "running")
    pid = folder.state(task).pid or 0
    os.killpg(launcher.pid, signal.SIGINT)
    launcher.wait(60)
    assert not Path(f"/proc/{pid}").exists()
    assert folder.state(task).status in ("waiting", "done")
    assert not list(study.store.rglob("*.tmp"))


def test_durations_are_words():
    texts = ["0 s", "0.003 s", "0.25 s", "3.1 s", "10 s", "89 s", "0:01:31", "3:05:00", "2 days, 4:00:00"]
    assert list(map(duration, (0.0, 0.0031, 0.25, 3.14, 9.96, 89.4, 91, 11100, 187200))) == texts
