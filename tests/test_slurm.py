"""What can be said of sweeps on SLURM without a cluster: profiles, scripts, arrays, records, copies of the program."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import PROJECT_DIR, cases, refused
from sweep_samples import make_plan, make_point, make_unit

from ntt.base.distributed import adopt_slurm_ranks
from ntt.errors import ConfigError, DistributedError, NttError, StorageError
from ntt.sweeps import slurm, worker
from ntt.sweeps.clusters import JobRequest, load_profile, profile_names
from ntt.sweeps.layout import cluster_arrays
from ntt.sweeps.plan import Plan, write_plan
from ntt.sweeps.queue import ArrayRecord, observe, owners, read_jobs, read_queue, write_jobs
from ntt.sweeps.slurm import sbatch_parameters
from ntt.sweeps.spec import Resources, StageResources
from ntt.sweeps.state import Job, Shard, SweepFolder, TaskState
from ntt.sweeps.status import status_text, sweep_status
from ntt.sweeps.task import JobTask, code_digest, take_snapshot


# --- profiles
@cases("name")(*profile_names())
def test_every_profile_can_be_used(name):
    profile = load_profile(name)
    for stage in ("candidates", "references", "points"):
        request = profile.request(stage, StageResources(), max_parallel=None)
        assert sbatch_parameters(request, name="x", code=Path("/code"))["nodes"] == 1


def write_profile(folder: Path, text: str) -> str:
    path = folder / "mine.yaml"
    path.write_text(text)
    return str(path)


def test_later_words_win(tmp_path):
    text = "partition: short\nmem_gb: 20\nextra: {nice: 5}\nstages: {points: {partition: cpu, extra: {begin: now}}}"
    words = ["timeout_min=60", "points.timeout_min=7", "candidates.extra.nice=9"]
    profile = load_profile(write_profile(tmp_path, text), words)
    resources = StageResources(gpus=2, cpus=4, mem_gb=3.0, timeout_min=99, tasks=2)
    candidates = profile.request("candidates", resources, max_parallel=None)
    points = profile.request("points", resources, max_parallel=3)
    assert (candidates.partition, candidates.mem_gb, candidates.timeout_min) == ("short", 20, 60)
    assert (candidates.gpus, candidates.cpus, candidates.tasks, candidates.max_parallel) == (2, 4, 2, 256)
    assert (points.partition, points.timeout_min, points.max_parallel) == ("cpu", 7, 3)
    assert (candidates.extra, points.extra) == ({"nice": "9"}, {"nice": "5", "begin": "now"})


def test_all_mistakes_of_a_profile_are_named(tmp_path):
    text = """
    partitions: a
    cpus: 0
    extra: {dependency: x, cpus_per_task: 7, "no word": 1}
    setup: module load
    python: "a\\nb"
    stages: {points: {requeue: 1}, matching: {}}
    """
    with refused(
        ConfigError,
        "There is no key partitions. Did you mean partition?",
        "cpus=0 is invalid. Allowed: 1 or more.",
        "extra.dependency is set by the sweep itself, or by a key of the profile, as are array, dependency,",
        "(extra.cpus_per_task)",
        "extra.no word: this is not the long name of a parameter",
        "setup=module load is invalid. Allowed: a list.",
        "python has more than one line.",
        "stages.points: requeue=1 is invalid. Allowed: true or false.",
        "stages.matching is invalid",
        "tasks=3: There is no key tasks.",
        "matching.cpus=1: There is no key matching.cpus.",
        "gpus=-1 is invalid. Allowed: 0 or more.",
    ):
        load_profile(write_profile(tmp_path, text), ["tasks=3", "matching.cpus=1", "gpus=-1"])
    with pytest.raises(ConfigError, match="gpus: this is not an override. Write KEY=VALUE"):
        load_profile("cpu", ["gpus"])


@cases("text")("- a list", "{", "stages: [points]")
def test_what_is_no_profile_is_refused(tmp_path, text):
    with pytest.raises(ConfigError, match=r"mine\.yaml"):
        load_profile(write_profile(tmp_path, text))
    with pytest.raises(ConfigError, match="no cluster profile 'moon'. Allowed: one of cpu, gpu_a100, local_test"):
        load_profile("moon")
    with pytest.raises(ConfigError, match=r"two\.yaml names no cluster profile.*one of cpu, gpu_a100, local_test"):
        slurm.dry_run(SweepFolder(tmp_path), replace(two_data_sets(tmp_path), cluster=None))


def test_a_request_in_submitits_words():
    request = JobRequest(
        partition="gpu", qos="long", gpus=2, gpu_type="a100", cpus=4, mem_gb=1.5, tasks=2, requeue=False,
        setup=("module load x",), extra={"reservation": "eccv"}
    )  # fmt: skip
    parameters = sbatch_parameters(request, name="n", code=Path("/a b"))
    assert parameters["gres"] == "gpu:a100:2"
    assert "gpus_per_node" not in parameters
    assert (parameters["mem"], parameters["ntasks_per_node"], parameters["cpus_per_task"]) == ("1536M", 2, 4)
    assert parameters["setup"] == ["module load x", "cd '/a b'"]
    assert parameters["srun_args"] == ["--cpus-per-task=4"]
    assert parameters["additional_parameters"] == {"no-requeue": True, "reservation": "eccv"}
    assert (parameters["partition"], parameters["qos"], "account" in parameters) == ("gpu", "long", False)
    assert sbatch_parameters(replace(request, gpu_type=None), name="n", code=Path("/"))["gpus_per_node"] == 2
    assert "mem" not in sbatch_parameters(replace(request, mem_gb=None), name="n", code=Path("/"))


# --- arrays
def two_data_sets(folder: Path, *, max_parallel: int | None = None) -> Plan:
    """Points p1 and p2 on one data set, p3 on another; references of the second are stored already."""
    units = [make_unit(name) for name in ("candidates-a", "candidates-b", "references-a")]
    names = {"p1": "a", "p2": "a", "p3": "b"}
    return make_plan(
        "two",
        [make_point(name, folder / name, f"candidates-{x}", f"references-{x}") for name, x in names.items()],
        [*units, make_unit("references-b", num_cached=10)],
        resources=Resources(candidates=StageResources(shards=2, tasks=2), points=StageResources(points_per_job=2)),
        max_parallel=max_parallel,
        cluster="cpu",
    )


def test_points_wait_for_just_the_shared_work_they_build_on(tmp_path):
    arrays = cluster_arrays(SweepFolder(tmp_path), two_data_sets(tmp_path), load_profile("cpu"), queued={})
    assert [array.stage for array in arrays] == ["candidates", "references", "points", "points"]
    shards = [tuple(f"candidates-{x}.{n}of4" for n in pair) for x in "ab" for pair in ((0, 2), (1, 3))]
    assert [job.tasks for job in arrays[0].jobs] == shards
    assert [job.points for job in arrays[2].jobs] == [("p1", "p2")]
    assert arrays[2].after == {0: (0, 1), 1: (0,)}
    assert [job.points for job in arrays[3].jobs] == [("p3",)]
    assert arrays[3].after == {0: (2, 3)}
    assert set(arrays[3].jobs[0].needs) == {f"candidates-b.{shard}of4" for shard in range(4)}


def test_arrays_keep_to_the_limits_of_the_sweep_and_of_the_site(tmp_path):
    plan = two_data_sets(tmp_path, max_parallel=2)
    arrays = cluster_arrays(SweepFolder(tmp_path), plan, load_profile("cpu"), queued={})
    after = [("candidates", {}), ("references", {0: (0, 1, 2, 3)}), ("points", {1: (0,)})]
    assert [(array.stage, dict(array.after)) for array in arrays] == after
    assert {array.request.max_parallel for array in arrays} == {2}
    assert [job.points for job in arrays[2].jobs] == [("p1", "p2"), ("p3",)]
    profile = load_profile("cpu", ["max_array_size=3"])
    arrays = cluster_arrays(SweepFolder(tmp_path), two_data_sets(tmp_path), profile, queued={})
    assert [(array.stage, len(array.jobs)) for array in arrays[:2]] == [("candidates", 3), ("candidates", 1)]
    assert arrays[-1].after == {0: (2,), 1: (0,)}


def test_what_is_done_or_waiting_is_not_submitted_again(tmp_path):
    folder, plan = SweepFolder(tmp_path), two_data_sets(tmp_path)
    for task in ("candidates-a.0of4", "candidates-a.2of4", "p1", "references-a.0of1"):
        folder.write_state(task, TaskState(status="done"))
    (tmp_path / "p1").mkdir()
    (tmp_path / "p1" / "metrics.json").touch()
    queued = {"candidates-a.1of4": "77_0", "candidates-a.3of4": "77_0", "p3": "79"}
    arrays = cluster_arrays(folder, plan, load_profile("cpu"), queued=queued)
    shards = [("candidates-b.0of4", "candidates-b.2of4"), ("candidates-b.1of4", "candidates-b.3of4")]
    stages = [(array.stage, [job.tasks for job in array.jobs]) for array in arrays]
    assert stages == [("candidates", shards), ("points", [("p2",)])]
    assert (arrays[1].after, arrays[1].after_jobs) == ({}, ("77_0",))


def test_a_dry_run_shows_every_script(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    overrides = ["account=vision", "points.partition=quick", "extra.mail-type=FAIL"]
    scripts = slurm.dry_run(SweepFolder(tmp_path), two_data_sets(tmp_path), overrides=overrides)
    assert len(scripts) == 4
    assert "#SBATCH --array=0-3%4" in scripts[0]
    assert all("#SBATCH --account=vision" in script and "#SBATCH --mail-type=FAIL" in script for script in scripts)
    assert ["--partition=quick" in script for script in scripts] == [False, False, True, True]
    assert "#SBATCH --dependency=afterany:ARRAY1_0:ARRAY1_1:ARRAY2" in scripts[2]
    assert "#SBATCH --signal=USR2@180" in scripts[0]
    assert f"\ncd {tmp_path / 'code' / code_digest()[:12]}\n" in scripts[0]
    assert list(tmp_path.iterdir()) == []
    plan, folder = two_data_sets(tmp_path), SweepFolder(tmp_path / "100%")
    resources = replace(plan.resources, points=StageResources(tasks=2))
    scripts = slurm.dry_run(folder, replace(plan, resources=resources))
    assert ["--kill-on-bad-exit=1" in script for script in scripts] == [False, False, True, True]
    escaped = str(folder.logs).replace("%", "%%")
    assert f"#SBATCH --output={escaped}/%A_%a_0_log.out" in scripts[0]
    assert f" --error={escaped}/%j_%t_log.err" in scripts[1]


# --- records and queue
def record(job: str, *jobs: tuple[str, ...], cancelled_s: float | None = None) -> ArrayRecord:
    usual = {"stage": "points", "cluster": "cpu", "overrides": ("cpus=1",), "code": "c"}
    return ArrayRecord(name=f"ntt-{job}", job_id=job, jobs=jobs, cancelled_s=cancelled_s, **usual)


def test_records_are_read_back_as_written(tmp_path):
    folder = SweepFolder(tmp_path)
    assert read_jobs(folder) == []
    arrays = [record("5", ("a",), ("b", "c")), record("6", ("b",), cancelled_s=2.0)]
    write_jobs(folder, arrays)
    assert read_jobs(folder) == arrays
    assert {task: job for task, (job, _) in owners(arrays).items()} == {"a": "5_0", "b": "6", "c": "5_1"}
    folder.jobs.write_text('{"format": 99}')
    with pytest.raises(StorageError, match="arrays is missing.* Wait for its jobs or end them"):
        read_jobs(folder)


@pytest.fixture
def fake_slurm(tmp_path: Path, monkeypatch) -> Path:
    """A folder that is the whole PATH; programs of SLURM are put into it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def program(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def submitting(folder: Path, answer: str, queue: str = "") -> None:
    """Make sbatch run this when it is given a job."""
    for name, text in {"sbatch": f'[ "$1" = --version ] || {answer}', "srun": "", "squeue": queue}.items():
        program(folder, name, text)


def show_queue(folder: Path, *rows: str) -> None:
    """Make squeue print rows "ID|STATE|REASON"; each job has the name of its `record`, and may be a colleague's."""
    cells = [row.split("|") for row in rows]
    lines = [f"{job}|{state}|ntt-{job.partition('_')[0]}|{reason}" for job, state, reason in cells]
    program(folder, "squeue", "\n".join(['case "$*" in *--user*) exit 1; esac', *(f"echo '{line}'" for line in lines)]))


def test_the_queue_tells_who_is_still_coming(tmp_path, fake_slurm):
    folder = SweepFolder(tmp_path / "sweep")
    assert read_queue(folder) == ([], {})
    rows = ["5_0|RUNNING|None", "5_1|PENDING|Dependency", "6|COMPLETED|None", "7|PENDING|Resources", "9|FAILED|x"]
    show_queue(fake_slurm, *rows, "8_0|PENDING|Priority", "8_1|PENDING|Priority")
    arrays = [record("5", ("a",), ("b",)), record("6", ("c",)), record("9", ("d",))]
    # Two submissions were killed before sbatch's answer was on record; one of them never reached the queue.
    killed = [replace(record("8", ("e",), ("f",)), job_id=""), replace(record("10", ("g",)), job_id="")]
    write_jobs(folder, [*arrays, *killed])
    jobs, live = read_queue(folder)
    waiting = {f"8_{index}": ("PENDING", "Priority") for index in (0, 1)}
    assert live == {"5_0": ("RUNNING", "None"), "5_1": ("PENDING", "Dependency"), **waiting}
    assert jobs == [*arrays, record("8", ("e",), ("f",))]


def test_states_and_queue_are_brought_together(tmp_path, fake_slurm):
    folder = SweepFolder(tmp_path / "sweep")
    write_jobs(folder, [record("5", *[(task,) for task in "abcdefgi"]), record("6", ("h",), cancelled_s=1.0)])
    alive = TaskState(status="running", heartbeat_s=time.time(), host="elsewhere", pid=1, attempts=1)
    for task, state in {
        "a": TaskState(status="done"),
        "b": TaskState(status="failed", error="why"),
        "c": alive,
        "d": alive,
        "e": alive,
        "f": TaskState(),
        "i": replace(alive, heartbeat_s=1.0),
    }.items():
        folder.write_state(task, state)
    folder.logs.mkdir()
    aftermath = "srun: Force Terminated StepId=5.0\nsrun: error: n1: task 0: Exited with exit code 2\n\n"
    (folder.logs / "5_6_0_log.err").write_text(f"MemoryError\n{aftermath}")
    lost = "Its job left the queue without recording an end."
    show_queue(fake_slurm, "5_2|RUNNING|None", "5_3|PENDING|BeginTime", "5_5|RUNNING|None", "5_7|RUNNING|None")
    seen = observe(folder, [*"abcdefghi", "not submitted"])
    assert {task: (state.status, state.error) for task, state in seen.items()} == {
        "a": ("done", None),
        "b": ("failed", "why"),
        "c": ("running", None),
        "d": ("waiting", "BeginTime"),  # it ran, and was queued again
        "e": ("lost", f"{lost} What it wrote: {folder.logs}/5_4_*"),  # it ran, and has left the queue
        "f": ("waiting", "its job is RUNNING"),
        "g": ("lost", f'{lost} It ended with "MemoryError" ({folder.logs}/5_6_0_log.err).'),
        "h": ("cancelled", None),
        "i": ("waiting", "its job is RUNNING, but its process has ended or is silent"),
        "not submitted": ("waiting", None),
    }


def test_held_jobs_are_named_with_what_releases_them(tmp_path, fake_slurm):
    folder, plan = SweepFolder(tmp_path / "sweep"), two_data_sets(tmp_path)
    shards = [Shard("candidates-a", index, 5).task for index in range(5)]
    for task in shards:
        folder.write_state(task, TaskState())
    write_jobs(folder, [record("5", *[(task,) for task in shards])])
    reasons = ("launch failed requeued held", "Resources", "Resources", "JobHeldUser", "JobHeldAdmin")
    show_queue(fake_slurm, *[f"5_{index}|PENDING|{reason}" for index, reason in enumerate(reasons)])
    text = status_text(folder, plan, sweep_status(folder, plan))
    assert [line.strip()[:80] for line in text.splitlines() if "    waiting: " in line] == [
        "waiting: launch failed requeued held: scontrol release 5_0 lets it continue",
        "waiting: Resources (2 shards)",
        "waiting: JobHeldUser: scontrol release 5_3 lets it continue",
        "waiting: JobHeldAdmin: scontrol release 5_4 lets it continue (by an administrato",
    ]


def test_without_slurm_or_a_queue_that_answers(tmp_path, fake_slurm, cli):
    with pytest.raises(ConfigError, match="sbatch is not found: this machine belongs to no SLURM cluster"):
        slurm.submit(SweepFolder(tmp_path / "sweep"), two_data_sets(tmp_path))
    program(fake_slurm, "sbatch", "echo 'Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(ConfigError, match="sbatch failed with status 1: Unable to contact slurm controller"):
        slurm.submit(SweepFolder(tmp_path / "sweep"), two_data_sets(tmp_path))
    folder, plan = SweepFolder(tmp_path / "sweeps" / "two"), two_data_sets(tmp_path)
    write_plan(folder, plan)
    write_jobs(folder, [record("5", *[(point.id,) for point in plan.points])])
    program(fake_slurm, "squeue", "echo 'Unable to contact slurm controller' >&2; exit 1")
    said = cli("sweep", "status", "two", "--output-root", tmp_path)
    assert "The queue cannot be queried" in said
    assert "Unable to contact slurm controller" in said
    assert f"{len(plan.points)} waiting" in said


@cases("reason", "remedy")(
    ("invalid partition specified", "Change the profile's setting that it names, and submit again"),
    ("Invalid job array specification", "Give --set max_array_size=N, at most MaxArraySize of scontrol show"),
    ("Unable to contact slurm controller (connect)", "controller is down or busy: wait until squeue answers"),
    ("Job violates accounting/QOS policy (job submit limit, user's size)", "wait for jobs to end and submit again"),
)
def test_a_refused_job_is_reported_and_none_of_it_counts(tmp_path, fake_slurm, reason, remedy):
    submitting(fake_slurm, f'{{ echo "{reason}" >&2; exit 1; }}')
    folder = SweepFolder(tmp_path / "sweep")
    with refused(ConfigError, "SLURM refuses the jobs of candidates: ", reason, remedy):
        slurm.submit(folder, two_data_sets(tmp_path))
    assert read_queue(folder) == ([], {})
    assert list(folder.logs.iterdir()) == []


def test_a_submission_that_ends_before_its_record_is_not_repeated(tmp_path, fake_slurm, monkeypatch):
    submitting(fake_slurm, 'echo "Submitted batch job 77"')
    folder = SweepFolder(tmp_path / "sweep")
    send, names = slurm._send, []

    def end_after_sending(executor: Any, *rest: Any) -> str:
        names.append(executor.parameters["job_name"])
        send(executor, *rest)
        raise KeyboardInterrupt

    monkeypatch.setattr(slurm, "_send", end_after_sending)
    with pytest.raises(KeyboardInterrupt):
        slurm.submit(folder, two_data_sets(tmp_path))
    monkeypatch.setattr(slurm, "_send", send)
    queue = "\n".join(f"echo '77_{index}|PENDING|{names[0]}|Priority'" for index in range(4))
    submitting(fake_slurm, 'echo "Submitted batch job 78"', queue)
    arrays, queued = slurm.submit(folder, two_data_sets(tmp_path))
    assert [array.stage for array in arrays] == ["references", "points", "points"]
    assert len(queued) == 8, "the shards of both data sets are in the queue"
    written = [(array.job_id, array.stage) for array in read_jobs(folder)]
    assert written[:2] == [("77", "candidates"), ("78", "references")]
    assert len({array.name for array in read_jobs(folder)}) == 4


def test_a_submission_remembers_its_profile(tmp_path, fake_slurm):
    submitting(fake_slurm, 'echo "Submitted batch job $(( $$ ))"')
    folder, plan = SweepFolder(tmp_path / "sweep"), two_data_sets(tmp_path)
    first, _ = slurm.submit(folder, plan, cluster="local_test", overrides=["cpus=3"])
    second, _ = slurm.submit(folder, plan)
    assert len(first) == len(second) == 4
    assert {(job.cluster, job.overrides) for job in read_jobs(folder)} == {("local_test", ("cpus=3",))}
    script = (folder.logs / f"{second[0].job_id}_submission.sh").read_text()
    assert "--cpus-per-task=3" in script


def test_cancelled_jobs_are_ended_and_noted(tmp_path, fake_slurm):
    folder, gone = SweepFolder(tmp_path / "sweep"), tmp_path / "gone"
    assert slurm.cancel(folder) == []
    write_jobs(folder, [record("5", ("a",), ("b",)), record("6", ("c",))])
    folder.write_state("b", TaskState(status="done"))
    lines = "echo '5_0|RUNNING|ntt-5|None'; echo '5_1|COMPLETING|ntt-5|x'"
    program(fake_slurm, "squeue", f"[ -e {gone} ] || {{ {lines}; }}")
    program(fake_slurm, "scancel", f'[ "$*" = 5 ] && : > {gone}')
    assert slurm.cancel(folder) == ["5_0", "5_1"]
    assert [folder.state(task).status for task in "abc"] == ["cancelled", "done", "waiting"]
    assert [array.cancelled_s is None for array in read_jobs(folder)] == [False, True]


# --- the copy of the program
def make_project(folder: Path) -> Path:
    for name in ("ntt/a.py", "conf/b.yaml", "experiments/c.yaml", "main.py", "ntt/__pycache__/a.pyc", "outputs/x.py"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return folder


def test_the_program_is_copied_once_with_every_file_it_needs(tmp_path):
    project = make_project(tmp_path / "project")
    copy = take_snapshot(tmp_path / "code", project=project)
    files = sorted(path.relative_to(copy.root).as_posix() for path in copy.root.rglob("*") if path.is_file())
    assert files == ["conf/b.yaml", "experiments/c.yaml", "main.py", "ntt/a.py"]
    assert take_snapshot(tmp_path / "code", project=project) == copy
    (project / "ntt" / "a.py").write_text("changed")
    other = take_snapshot(tmp_path / "code", project=project)
    assert other.root != copy.root
    assert {path.name for path in (tmp_path / "code").iterdir()} == {copy.root.name, other.root.name}
    copy = take_snapshot(tmp_path).root
    for part in ("ntt", "conf", "experiments"):
        listed = subprocess.run(["git", "ls-files", part], cwd=PROJECT_DIR, capture_output=True, text=True, check=False)
        if listed.returncode:
            pytest.skip("needs the project's git repository")
        assert [name for name in listed.stdout.split() if not (copy / name).is_file()] == []


@cases("name", "text")(("ntt/a.py", "other"), ("ntt/a.py", None), ("ntt/new.py", ""), ("json.py", ""))
def test_a_copy_that_was_changed_is_refused(tmp_path, name, text):
    copy = take_snapshot(tmp_path / "code", project=make_project(tmp_path / "project"))
    task = JobTask(sweep_dir=tmp_path, work_dir=tmp_path, code=copy, job=Job(points=("p",)))
    assert task.checkpoint().function == task
    with pytest.raises(ConfigError, match=r"This job runs the program in .* not the copy made at submission"):
        task()
    (copy.root / name).unlink() if text is None else (copy.root / name).write_text(text)
    with pytest.raises(ConfigError, match=r"is not what was submitted.*ntt sweep retry"):
        task()


@cases("gpus", "is_alone")(("2,3", False), (None, True))
def test_a_job_of_this_machine_sees_its_gpus_and_ends_when_told_or_left_alone(tmp_path, monkeypatch, gpus, is_alone):
    launcher = subprocess.Popen(["sleep", "600"])
    before = signal.getsignal(signal.SIGTERM)
    for name, value in {"LOCAL_JOB_ID": "12", "LOCAL_NTASKS": "2", "LOCAL_GLOBALID": "1", "EXECUTOR": "local"}.items():
        monkeypatch.setenv(f"SUBMITIT_{name}", value)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.chdir(tmp_path)
    calls = []

    def work(*arguments: object, **settings: object) -> None:
        calls.append((*arguments, settings))
        if is_alone:
            launcher.kill()
            launcher.wait()
        else:
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    monkeypatch.setattr(worker, "work", work)
    pid = launcher.pid if is_alone else os.getpid()
    task = JobTask(sweep_dir=tmp_path, work_dir=tmp_path, job=Job(), launcher=pid, visible_gpus=gpus)
    try:
        with pytest.raises(SystemExit) as caught:
            task()
    finally:
        launcher.kill()
        launcher.wait()
        signal.signal(signal.SIGTERM, before)
    assert caught.value.code == 128 + signal.SIGTERM
    assert calls == [(tmp_path, Job(), {"rank": 1, "num_processes": 2, "job_id": "12"})]
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == gpus


# --- ranks
STEP = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "1", "SLURM_JOB_ID": "7"}


def test_ranks_of_a_step_are_adopted(fake_slurm):
    environment = dict(STEP)
    adopt_slurm_ranks(environment)
    assert {key: environment[key] for key in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")} == {
        "RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "20350",
    }  # fmt: skip
    adopt_slurm_ranks(environment)
    assert environment["MASTER_PORT"] == "20351", "a second meeting has a port of its own"
    environment = {**STEP, "SLURM_STEP_NUM_NODES": "2", "SLURM_STEP_NODELIST": "n[3-4]", "PATH": str(fake_slurm)}
    with pytest.raises(DistributedError, match=r"first of the nodes 'n\[3-4\]' cannot be determined"):
        adopt_slurm_ranks(dict(environment))
    program(fake_slurm, "scontrol", '[ "$*" = "show hostnames n[3-4]" ] && echo n3 && echo n4')
    adopt_slurm_ranks(environment)
    assert environment["MASTER_ADDR"] == "n3"


@cases("environment")(
    {},
    {**STEP, "SLURM_STEP_NUM_TASKS": "1"},
    {"SLURM_NTASKS": "2", "SLURM_PROCID": "0", "SLURM_JOB_ID": "7"},  # the batch script itself
    {**STEP, "WORLD_SIZE": "4", "RANK": "3"},  # torchrun below srun
)
def test_other_environments_are_left_alone(environment):
    before = dict(environment)
    adopt_slurm_ranks(environment)
    assert environment == before


# --- inside a job
@pytest.fixture
def planned(tmp_path: Path) -> SweepFolder:
    """The folder of `two_data_sets`, with its plan."""
    folder = SweepFolder(tmp_path / "sweep")
    write_plan(folder, two_data_sets(tmp_path))
    return folder


def test_points_whose_shared_work_is_missing_fail_at_once(planned, monkeypatch):
    tried = []
    monkeypatch.setattr(worker._Worker, "_run_point", lambda _, point, *rest: tried.append(point.id) or True)
    planned.write_state("candidates-a.0of2", TaskState(status="done"))
    planned.write_state("candidates-a.1of2", TaskState(status="failed", error="DataError: no such image."))
    planned.write_state("candidates-b.0of1", TaskState(status="done"))
    needs = ("candidates-a.0of2", "candidates-a.1of2", "candidates-b.0of1")
    with pytest.raises(NttError, match="2 of 3 tasks of this job failed: p1, p2"):
        worker.work(planned.root, Job(points=("p1", "p2", "p3"), needs=needs), job_id="6_0")
    assert tried == ["p3"], "the point of another data set is run"
    states = [planned.state(point) for point in ("p1", "p2")]
    assert {(state.status, state.job, state.attempts) for state in states} == {("failed", "6_0", 1)}
    shared = "The shared work candidates-a.1of2 of this point is failed: DataError: no such image."
    assert states[0].error == f"{shared} ntt sweep retry {planned.root} repeats both."


DISTRIBUTED = """
import sys
from pathlib import Path
from ntt.base import distributed
from ntt.sweeps import worker
from ntt.sweeps.state import Job

def run(config, *, workspace):
    with distributed.join_process_group(timeout_s=60) as group:
        if config == "p2" and group.rank == 1:
            raise ValueError("one process alone has failed")
        print(config, group.size, flush=True)

joined = distributed.dist.init_process_group
def join(*arguments, **settings):
    print("joined", flush=True)
    joined(*arguments, **settings)

distributed.dist.init_process_group = join
worker.runner.run = run
worker.point_config = lambda plan, point: point.id
worker._Worker._timeout_s = lambda self, points: 60
worker.work(Path(sys.argv[1]), Job(points=("p1", "p2", "p3")), rank=int(sys.argv[2]), num_processes=2)
"""


def test_processes_of_a_job_meet_once_and_again_after_a_failure(planned):
    step = {**STEP, "SLURM_JOB_ID": str(os.getpid())}  # decides the ports
    environment = {**os.environ, **step, "PYTHONPATH": str(PROJECT_DIR), "OMP_NUM_THREADS": "1"}
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = []
    for rank in ("0", "1"):
        command = [sys.executable, "-c", DISTRIBUTED, str(planned.root), rank]
        ranked = {**environment, "SLURM_PROCID": rank, "SLURM_LOCALID": rank}
        processes.append(subprocess.Popen(command, env=ranked, **pipes))
    outputs = [process.communicate(timeout=200) for process in processes]
    for out, err in outputs:
        assert "1 of 3 tasks of this job failed: p2" in err
        assert [line for line in out.split("\n") if line not in ("p2 2", "")] == ["joined", "p1 2", "joined", "p3 2"]
    statuses = {point: planned.state(point).status for point in ("p1", "p2", "p3")}
    assert statuses == {"p1": "done", "p2": "failed", "p3": "done"}
    assert "Another process of this run has stopped" in (planned.state("p2").error or "")


def test_processes_that_do_not_meet_fail_their_points(planned, monkeypatch):
    for key, value in {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "x"}.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(NttError, match="2 of 2 tasks"):
        worker.work(planned.root, Job(points=("p1", "p2")), num_processes=2)
    assert [planned.state(point).status for point in ("p1", "p2")] == ["failed", "failed"]
    assert "could not join the others" in (planned.state("p1").error or "")
