"""A whole sweep on tiny data: planned, done by two processes, equal to single runs, resumed, collected."""

import json
import shutil
import time
from pathlib import Path

import pytest
from tiny_data import make_tiny

from ntt.cli.main import main
from ntt.config.compose import compose_config
from ntt.config.identity import run_directory
from ntt.errors import ConfigError, DataError
from ntt.run import runner
from ntt.store.maintenance import keys_of_runs
from ntt.store.usage import KEY_DIGITS
from ntt.sweeps import work
from ntt.sweeps.desk import keep_plan, look_again, open_sweep, plan_file
from ntt.sweeps.local import run_local, shared_tasks
from ntt.sweeps.plan import Plan, compose_points, read_plan, write_plan
from ntt.sweeps.state import SweepFolder, TaskState
from ntt.sweeps.status import is_done, sweep_status
from ntt.sweeps.text import duration, plan_text, status_text
from ntt.types import Json

RESULTS = ("references.json", "memory.safetensors", "prototypes.safetensors", "predictions.json", "metrics.json")


class Place:
    """A tiny data set, a sweep over two seeds and two numbers of shots, and where its results go."""

    def __init__(self, root: Path) -> None:
        self.data = make_tiny(root / "tiny")
        self.output, self.store = root / "out", root / "store"
        self.file = root / "four.yaml"
        self.file.write_text(
            f"""
            name: four
            base:
              - dataset=coco_json
              - segmenter.max_masks=60
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
def done(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """The sweep after `ntt sweep run` with two processes; tests must leave it as it is."""
    place = Place(tmp_path_factory.mktemp("sweep"))
    assert main(place.command("run", str(place.file), "--processes", "2")) == 0
    return place


@pytest.fixture
def place(done: Place, tmp_path: Path) -> Place:
    """A copy of the data with an empty output folder and the filled store."""
    made = Place(tmp_path)
    shutil.copytree(done.store, made.store)
    return made


def read(path: Path) -> Json:
    loaded: Json = json.loads(path.read_text())
    return loaded


def test_a_plan_names_points_shared_work_and_costs(tmp_path: Path):
    place = Place(tmp_path)
    folder, plan = plan_file(place.file)
    assert not folder.root.exists()
    assert [point.label for point in plan.points] == [
        "shots=1shot seed=0",
        "shots=1shot seed=1",
        "shots=2shot seed=0",
        "shots=2shot seed=1",
    ]
    assert {point.units for point in plan.points} == {tuple(unit.id for unit in plan.units)}
    candidates, references = plan.units
    assert (candidates.kind, candidates.num_items, candidates.num_cached) == ("candidates", 4, 0)
    # The references file has four instances that may be drawn; two shots of two classes draw all of them.
    assert (references.kind, references.num_items, references.num_cached) == ("references", 4, 0)
    assert candidates.item_s == 1.0
    assert references.item_s is None
    text = plan_text(folder, plan)
    assert "Sweep four: 4 points, 0 done" in text
    assert "to do  shots=2shot seed=1" in text
    assert "candidates, tiny, efficientnet_lite0 + regions" in text
    assert "time of candidates: docs/regions.md" in text
    write_plan(folder, plan)
    assert read_plan(folder) == plan


def test_only_what_decides_candidates_divides_them(tmp_path: Path):
    place = Place(tmp_path)
    place.vary("{candidates.feature_dtype: [float16, float32], shots: [1shot]}")
    _, plan = plan_file(place.file)
    assert sorted(unit.kind for unit in plan.units) == ["candidates", "candidates", "references"]
    place.vary("{matcher.merging: [soft, hard], split.classes: [[disc], [disc, square]]}")
    _, plan = plan_file(place.file)
    assert [(unit.kind, unit.num_items) for unit in plan.units] == [("candidates", 4), ("references", 4)]


def test_a_sweep_of_two_processes_equals_single_runs_bit_for_bit(done: Place, tmp_path: Path):
    _, plan = plan_file(done.file)
    assert all(point.finished for point in plan.points)
    for point in (plan.points[1], plan.points[2]):
        elsewhere = [f"runtime.output_root={tmp_path}", f"runtime.store_root={tmp_path}/store"]
        config = compose_config([*point.overrides, *elsewhere])
        runner.run(config)
        for name in RESULTS:
            assert (run_directory(config) / name).read_bytes() == (point.run_dir / name).read_bytes(), name


def test_shared_work_was_done_once_and_divided(done: Place):
    folder, plan = plan_file(done.file)
    states = [folder.state(path.stem) for path in sorted((folder.root / "state").glob("candidates-*.json"))]
    assert [(one.status, one.items, one.computed) for one in states] == [("done", 2, 2), ("done", 2, 2)]
    assert len(list((done.store / "candidates").rglob("*.safetensors"))) == 4
    assert [unit.num_missing for unit in plan.units] == [0, 0]
    assert not list(done.output.rglob("*.tmp"))


def test_a_finished_sweep_does_nothing_again(done: Place, capfd: pytest.CaptureFixture[str]):
    before = {path: path.stat().st_mtime_ns for path in done.output.rglob("metrics.json")}
    assert main(done.command("run", "four", "--processes", "2")) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert "4 points: 4 done" in capfd.readouterr().out


def test_the_commands_tell_where_a_sweep_stands(done: Place, capfd: pytest.CaptureFixture[str]):
    assert main(done.command("status", str(done.file))) == 0
    status = capfd.readouterr().out
    assert "Sweep four: 4 points: 4 done" in status
    assert "candidates, tiny, efficientnet_lite0 + regions: 4 of 4 (2 done)" in status
    assert "still to do" not in status
    assert main(done.command("status", "four", "--verbose")) == 0
    assert "  shots=2shot seed=0 (" in capfd.readouterr().out
    assert main(done.command("list")) == 0
    assert capfd.readouterr().out.splitlines()[1].split()[:3] == ["four", "4", "4"]
    assert main(done.command("collect", "four")) == 0
    tables = capfd.readouterr().out
    assert "Results" in tables
    assert "(2)" in tables
    assert "Without a result" not in tables
    assert (done.output / "sweeps" / "four" / "tables" / "runs.csv").read_text().count("finished") == 4
    assert main(done.command("plan", str(done.file))) == 0
    assert "4 points, 4 done" in capfd.readouterr().out


def test_a_failing_point_is_recorded_and_spoils_nothing_else(place: Place, capfd: pytest.CaptureFixture[str]):
    place.vary("{shots: [1shot, 5shot], shots.strict: [false, true]}")
    folder, plan = place.plan()
    assert [bool(point.problem) for point in plan.points] == [False, False, False, True]
    text = plan_text(folder, plan)
    assert "Will fail as it is: 1 point\n  shots=5shot shots.strict=true\n    Too few references" in text
    failed = work.run_points(folder.root, [point.id for point in plan.points])
    by_label = {point.label: folder.state(point.id) for point in plan.points}
    bad = "shots=5shot shots.strict=true"
    assert failed == [point.id for point in plan.points if point.label == bad]
    assert {label: one.status for label, one in by_label.items()} == {
        label: "failed" if label == bad else "done" for label in by_label
    }
    assert (by_label[bad].error or "").startswith("DataError: ")
    assert "Traceback" in (by_label[bad].traceback or "")
    capfd.readouterr()
    assert main(place.command("status", "four")) == 0
    text = capfd.readouterr().out
    assert "4 points: 3 done, 1 failed" in text
    assert "\nfailed:\n  shots=5shot shots.strict=true (" in text
    assert "Traceback" not in text
    assert main(place.command("collect", "four")) == 0
    assert "Without a result: 1 of 4 runs" in capfd.readouterr().out
    assert work.run_points(folder.root, failed) == failed
    assert folder.state(failed[0]).attempts == 2


def test_a_deleted_result_is_missing_again(place: Place):
    folder, plan = place.plan("shots=1shot", "seed=0")
    (point,) = plan.points
    assert work.run_points(folder.root, [point.id]) == []
    assert is_done(folder, point)
    shutil.rmtree(point.run_dir)
    assert not is_done(folder, point)
    status = sweep_status(folder, plan)
    assert status.with_status("waiting") == (point,)
    assert status.left_s is not None or point.seconds is None


def test_a_run_outside_the_sweep_counts(place: Place):
    folder, plan = place.plan("shots=1shot", "seed=0")
    runner.run(compose_points(plan)[0].config)
    assert not is_done(folder, plan.points[0])
    again = look_again(folder)
    assert again.points[0].finished
    assert is_done(folder, again.points[0])


def test_changed_annotations_make_a_point_wait_again(place: Place):
    folder, plan = place.plan("shots=1shot", "seed=0")
    assert work.run_points(folder.root, [plan.points[0].id]) == []
    assert look_again(folder).points[0].finished
    path = place.data / "annotations" / "targets.json"
    content = read(path)
    content["annotations"] = content["annotations"][:2]
    path.write_text(json.dumps(content))
    assert is_done(folder, plan.points[0])
    changed = look_again(folder)
    assert sweep_status(folder, changed).counts == {"waiting": 1}


def test_points_that_another_process_works_on_are_left_to_it(place: Place):
    folder, plan = place.plan("shots=1shot", "seed=0")
    now = time.time()
    busy = TaskState(status="running", host="elsewhere", pid=1, started_s=now, heartbeat_s=now)
    folder.write_state(plan.points[0].id, busy)
    told: list[str] = []
    run_local(folder, plan, processes=1, on_change=told.append)
    assert folder.state(plan.points[0].id) == busy
    assert told[-1] == "0 of 1 points done, 1 running"


def test_shards_fill_the_store_by_themselves(tmp_path: Path):
    place = Place(tmp_path)
    folder, plan = place.plan()
    references = plan.units[1]
    work.fill_references(folder.root, references.id, 1, 2)
    assert look_again(folder).units[1].num_cached == 2
    assert shared_tasks(plan, {references.id}, 3)[0].name == f"{references.id}.0of3"
    (place.data / "images" / "targets_1.png").write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"targets_1\.png"):
        work.fill_candidates(folder.root, plan.units[0].id, 1, 2)
    status = sweep_status(folder, plan)
    text = status_text(folder, plan, status)
    assert "candidates, tiny, efficientnet_lite0 + regions: 0 of 4 (1 failed)" in text
    assert "targets_1.png" in text


def test_changed_meanings_of_points_are_refused(place: Place):
    folder, plan = place.plan("shots=1shot", "seed=0")
    text = folder.plan.read_text()
    folder.plan.write_text(text.replace('"seed=0"', '"seed=5"'))
    assert work.run_points(folder.root, [plan.points[0].id]) == [plan.points[0].id]
    assert "options or defaults of this program have changed since" in (folder.state(plan.points[0].id).error or "")
    with pytest.raises(ConfigError, match="was planned as"):
        look_again(folder)


def test_plans_of_one_name(place: Place):
    folder, _ = place.plan("shots=1shot")
    _, longer = plan_file(place.file)
    assert keep_plan(folder, longer) == "The plan has changed: 2 of its points are new, 0 have gone."
    assert keep_plan(folder, longer) is None
    _, other = plan_file(place.file, ["matcher.merging=hard"])
    with pytest.raises(ConfigError, match=r"another sweep named 'four'.* with --name"):
        keep_plan(folder, other)
    folder.write_state(longer.points[-1].id, TaskState(status="running", heartbeat_s=1e12, host="elsewhere"))
    _, shorter = plan_file(place.file, ["shots=1shot"])
    with pytest.raises(ConfigError, match=r"drops points that run or are queued \(1\)"):
        keep_plan(folder, shorter)
    renamed, _ = plan_file(place.file, ["matcher.merging=hard"], name="hard")
    assert renamed.root.name == "hard"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("status", "none"), "There is no sweep 'none' below"),
        (("cancel", "four"), "was not submitted to a cluster"),
        (("run", "four", "seed=3"), "its settings are fixed. Give the sweep file"),
        (("run", "four", "--processes", "0"), "0 is not in the range x>=1"),
        (("collect", "four", "--metric", "bbox/ap"), "Allowed is one of bbox/AP"),
        (("plan", "none.yaml"), "There is no sweep file none.yaml"),
        (("plan", "four.yaml", "--name", "a b"), "--name a b is not possible"),
    ],
)
def test_what_cannot_be_done_is_said_plainly(
    words: tuple[str, ...],
    expected: str,
    done: Place,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.chdir(done.file.parent)
    assert main(done.command(*words)) == 2
    assert expected in capfd.readouterr().err


def test_settings_may_follow_options(place: Place, capfd: pytest.CaptureFixture[str]):
    assert main([*place.command("plan", str(place.file), "shots=1shot", "--name", "late"), "seed=0"]) == 0
    assert "Sweep late: 1 point," in capfd.readouterr().out
    assert main([*place.command("status", "four"), "seed=0"]) == 2
    assert "unexpected extra argument (seed=0)" in capfd.readouterr().err


def test_a_plan_says_each_warning_once(place: Place, caplog: pytest.LogCaptureFixture):
    place.vary("{seed: [0, 1, 2], shots: [2shot, 3shot]}")
    for _ in range(2):
        caplog.clear()
        plan_file(place.file)
        said = [message for message in caplog.messages if "fewer valid instances" in message]
        assert len(said) == 1
        assert "than the 3 shots asked for" in said[0]


def test_shards_list_the_entries_of_the_store_they_have_made_or_found(done: Place):
    known, lists = keys_of_runs([done.output / "sweeps" / "four" / "shards"])
    there = {(path.parent.parent.name, path.stem[:KEY_DIGITS]) for path in done.store.rglob("*.safetensors")}
    assert known == there
    assert lists == 4, "two processes, two kinds of work"


def test_a_sweep_is_found_by_name_file_and_folder(done: Place):
    folder = open_sweep("four", done.output)
    assert open_sweep(str(done.file), done.output) == folder
    assert open_sweep(str(folder.root), Path("elsewhere")) == folder


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.0, "0 s"),
        (0.0035, "4 ms"),
        (0.25, "0.2 s"),
        (3.14, "3.1 s"),
        (9.96, "10 s"),
        (89.4, "89 s"),
        (91, "2 min"),
        (3599, "1 h 0 min"),
        (11100, "3 h 5 min"),
        (187200, "2 d 4 h"),
    ],
)
def test_durations_are_words(seconds: float, expected: str):
    assert duration(seconds) == expected
