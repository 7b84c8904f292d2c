"""Sweeps through the real sbatch, on a cluster of this machine: what arrives, and what survives."""

import contextlib
import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import PROJECT_DIR, run_python
from slurm.cluster import NODE, Cluster
from slurm.sweeps import Sweep, planned, wait_for, write_sweep
from tiny_data import SMALL, run_with

from ntt.config.compose import compose_config
from ntt.config.identity import run_directory
from ntt.sweeps import slurm
from ntt.sweeps.clusters import CLUSTERS_DIR
from ntt.sweeps.plan import refresh
from ntt.sweeps.queue import ArrayRecord, observe, read_jobs, read_queue
from ntt.sweeps.state import TaskState
from ntt.sweeps.task import take_snapshot

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]

Results = dict[str, tuple[bytes, bytes]]


@pytest.fixture
def cluster(slurm_cluster: Cluster, monkeypatch) -> Iterator[Cluster]:
    """The cluster, reached by SLURM's commands of this process; left idle."""
    for key, value in slurm_cluster.env.items():
        monkeypatch.setenv(key, value)
    yield slurm_cluster
    slurm_cluster.run("scontrol", "update", f"nodename={NODE}", "state=resume", check=False)
    slurm_cluster.run("scancel", f"--user={os.getuid()}", check=False)
    wait_for(lambda: not slurm_cluster.run("squeue", "--noheader").strip(), "an idle cluster", cluster=slurm_cluster)


@pytest.fixture
def sweep(tiny: Path, undisturbed: tuple[Path, Results], tmp_path: Path, monkeypatch) -> Sweep:
    """One point. The job of its candidates stops after each image it has stored, until `release`."""
    shutil.copytree(undisturbed[0] / "references", tmp_path / "store" / "references")
    (tmp_path / "hold").touch()
    monkeypatch.setenv("NTT_TEST_HOLD", str(tmp_path / "hold"))
    monkeypatch.setenv("PYTHONPATH", str(PROJECT_DIR / "tests" / "slurm" / "hold"))
    return planned(write_sweep(tmp_path, tiny, axes={"shots": ["1shot"]}))


@pytest.fixture(scope="session")
def undisturbed(tiny: Path, tmp_path_factory) -> tuple[Path, Results]:
    """The store of the point of `sweep`, and what it gives, without a cluster."""
    folder = tmp_path_factory.mktemp("undisturbed")
    results = local_results(planned(write_sweep(folder, tiny, axes={"shots": ["1shot"]})), folder / "local")
    return folder / "local" / "store", results


def local_results(sweep: Sweep, folder: Path) -> Results:
    """Run a sweep's points here, one after the other, with a store of their own."""
    results = {}
    for point in sweep.plan.points:
        roots = [f"runtime.output_root={folder / 'out'}", f"runtime.store_root={folder / 'store'}"]
        results[point.id] = results_of(run_with([*point.overrides, *roots]))
    return results


def results_of(folder: Path) -> tuple[bytes, bytes]:
    return (folder / "predictions.json").read_bytes(), (folder / "metrics.json").read_bytes()


def is_over(sweep: Sweep) -> bool:
    return not read_queue(sweep.folder)[1]


def states(sweep: Sweep, tasks: list[str]) -> list[str]:
    return [state.status for state in observe(sweep.folder, tasks).values()]


def command(project: Path, *words: str) -> str:
    """Run `ntt sweep` of a copy of the program and return what it prints."""
    done = run_python("-m", "ntt", "sweep", *words, cwd=project, PYTHONPATH=str(project))
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_sweep_through_sbatch_equals_the_local_runs(cluster, tiny, tmp_path):
    resources = {"candidates": {"shards": 2}, "points": {"tasks": 2, "points_per_job": 2}}
    path = write_sweep(tmp_path, tiny, axes={"shots": ["1shot", "2shot"]}, resources=resources)
    project = take_snapshot(tmp_path / "project").root
    shutil.copytree(CLUSTERS_DIR, project / "sweeps" / "clusters")
    sweep = planned(path)
    dry = "\n".join(slurm.dry_run(sweep.folder, sweep.plan)) + "\n"
    command(project, "submit", str(path), "--output-root", str(tmp_path / "out"))
    # Whoever submitted goes on working; the jobs must not see it.
    (project / "ntt" / "types.py").write_text("raise RuntimeError('the working tree was used')")
    arrays = read_jobs(sweep.folder)
    assert [(job.stage, len(job.jobs)) for job in arrays] == [("candidates", 2), ("references", 1), ("points", 1)]
    assert len(read_queue(sweep.folder)[1]) == 4, "submit has waited for its jobs"
    assert states(sweep, sweep.points) == ["waiting"] * 2
    waits = cluster.run("squeue", "--noheader", f"--jobs={arrays[2].job_id}", "--format=%E")
    after = {f"afterany:{arrays[0].job_id}_*", f"afterany:{arrays[1].job_id}"}
    assert {line.split("(")[0] for line in waits.replace(",", "\n").split()} == after
    for number, array in enumerate(arrays, start=1):
        dry = dry.replace(f"ARRAY{number}", array.job_id)
    assert dry == "\n".join((sweep.folder.logs / f"{job.job_id}_submission.sh").read_text() for job in arrays) + "\n"

    assert slurm.submit(sweep.folder, sweep.plan)[0] == [], "a second submission sends nothing twice"
    wait_for(lambda: is_over(sweep), "the end of all jobs", cluster=cluster)
    assert states(sweep, sweep.points) == ["done"] * 2, [sweep.folder.state(point).error for point in sweep.points]
    begun = min(sweep.folder.state(point).started_s or 0.0 for point in sweep.points)
    assert all((sweep.folder.state(shard).finished_s or 1e99) <= begun for shard in sweep.shards)
    assert len(sweep.stored()) == 4
    facts = json.loads((sweep.plan.points[0].run_dir / "facts.json").read_text())
    assert facts["processes"] == 2
    results = sweep.results()
    assert results == local_results(sweep, tmp_path / "local")
    assert all(b'"score"' in predictions for predictions, _ in results.values())
    assert slurm.submit(sweep.folder, refresh(sweep.folder))[0] == []


def held(sweep: Sweep, cluster: Cluster, *, after: int = 0) -> TaskState:
    """Wait until the job of the candidates has stopped; starts up to number `after` do not count."""
    wait_for(lambda: len(sweep.shards) == 1, "a shard", cluster=cluster)
    (shard,) = sweep.shards
    wait_for(lambda: sweep.folder.state(shard).attempts > after, f"start {after + 1}", cluster=cluster)
    # On a loaded machine a minute may end before the first image: then the next start is held.
    wait_for(lambda: "State:\tT" in process_status(sweep.folder.state(shard).pid), "a held process", cluster=cluster)
    return sweep.folder.state(shard)


def release(state: TaskState | None = None) -> None:
    """Let jobs run to their end: those to come, and the one of `state`."""
    Path(os.environ["NTT_TEST_HOLD"]).unlink()
    if state:
        wake(state)


def wake(state: TaskState) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(state.pid or 0, signal.SIGCONT)


def process_status(pid: int | None) -> str:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/status").read_text()
    return ""


def assert_kept(sweep: Sweep, earlier: dict[str, tuple[int, int]]) -> None:
    """No image that was stored then was computed again since."""
    now = sweep.stored()
    assert {name: now[name] for name in earlier} == earlier


def assert_ends_undisturbed(sweep: Sweep, earlier: Any, undisturbed: tuple[Path, Results], cluster: Cluster) -> None:
    wait_for(lambda: is_over(sweep), "the end of all jobs", cluster=cluster)
    assert states(sweep, sweep.points) == ["done"]
    assert_kept(sweep, earlier)
    assert sweep.results() == undisturbed[1]


def log_of(sweep: Sweep, array: ArrayRecord) -> str:
    return "".join(path.read_text() for path in sweep.folder.logs.glob(f"{array.job_id}_0_log.*"))


def test_interruptions_cost_no_finished_image(cluster, sweep, undisturbed):
    submitted, _ = slurm.submit(sweep.folder, sweep.plan, overrides=["max_timeouts=0"])
    first, before = held(sweep, cluster), sweep.stored()
    (shard,) = sweep.shards
    # A more important job takes the node; the same job comes back.
    cluster.run("sbatch", "--partition=urgent", "--exclusive", "--output=/dev/null", "--wrap=sleep 2")
    wait_for(lambda: is_told(first.pid, signal.SIGUSR2), "the signal of the pre-emption", cluster=cluster)
    wake(first)
    second = held(sweep, cluster, after=1)
    assert "this job is preempted" in log_of(sweep, submitted[0])
    assert (second.attempts, second.job) == (2, submitted[0].job_id)
    assert_kept(sweep, before)
    before = sweep.stored()
    assert len(before) == 2
    # What is left is withdrawn in the middle, and submitted again.
    assert slurm.cancel(sweep.folder) == [array.job_id for array in submitted]
    assert states(sweep, [shard, *sweep.points]) == ["cancelled"] * 2
    release()
    again, _ = slurm.submit(sweep.folder, refresh(sweep.folder))
    assert [array.stage for array in again] == ["candidates", "points"]
    assert_ends_undisturbed(sweep, before, undisturbed, cluster)


@pytest.mark.slow
def test_a_killed_process_is_named_by_what_waited_for_it(cluster, sweep, undisturbed):
    slurm.submit(sweep.folder, sweep.plan)
    first, before = held(sweep, cluster), sweep.stored()
    (shard,) = sweep.shards
    os.kill(first.pid or 0, signal.SIGKILL)  # as for lack of memory
    wait_for(lambda: is_over(sweep), "the end of all jobs", cluster=cluster)
    assert states(sweep, [shard, *sweep.points]) == ["lost", "failed"]
    error = sweep.folder.state(sweep.points[0]).error or ""
    assert f"The shared work {shard} of this point is lost" in error
    assert f"ntt sweep retry {sweep.folder.root} repeats both" in error
    release()
    slurm.submit(sweep.folder, refresh(sweep.folder))
    assert_ends_undisturbed(sweep, before, undisturbed, cluster)


@pytest.mark.slow
def test_a_job_out_of_time_is_queued_again(cluster, sweep, undisturbed):
    # A minute is the shortest limit SLURM knows; the process is held until it is told that its time is up.
    limits = ["candidates.timeout_min=1", "candidates.signal_delay_s=10", "max_timeouts=9"]
    submitted, _ = slurm.submit(sweep.folder, sweep.plan, overrides=limits)
    first, before = held(sweep, cluster), sweep.stored()
    wait_for(lambda: is_told(first.pid, signal.SIGUSR2), "the signal that time is up", cluster=cluster)
    release(first)
    (shard,) = sweep.shards
    wait_for(lambda: sweep.folder.state(shard).attempts > first.attempts, "the next start", cluster=cluster)
    assert_ends_undisturbed(sweep, before, undisturbed, cluster)
    assert "this job is timed-out" in log_of(sweep, submitted[0])


def is_told(pid: int | None, signum: signal.Signals) -> bool:
    """Whether a stopped process has a signal before it, or has been woken by SLURM to take it."""
    status = process_status(pid)
    masks = [int(line.split()[1], 16) for line in status.splitlines() if line.startswith(("SigPnd", "ShdPnd"))]
    return "State:\tT" not in status or any(mask >> (signum - 1) & 1 for mask in masks)


@pytest.mark.slow
def test_a_drained_node_holds_jobs_until_it_is_resumed(cluster, sweep, undisturbed):
    submitted, _ = slurm.submit(sweep.folder, sweep.plan)
    first, before = held(sweep, cluster), sweep.stored()
    (shard,) = sweep.shards
    cluster.run("scontrol", "update", f"nodename={NODE}", "state=drain", "reason=maintenance")
    cluster.run("scontrol", "requeue", submitted[0].job_id)
    wait_for(lambda: states(sweep, [shard]) == ["waiting"], "the job back in the queue", cluster=cluster)
    drained = "Nodes required for job are DOWN, DRAINED"
    wait_for(lambda: drained in (observe(sweep.folder, [shard])[shard].error or ""), "why it waits", cluster=cluster)
    assert_kept(sweep, before)
    release()
    cluster.run("scontrol", "update", f"nodename={NODE}", "state=resume")
    assert_ends_undisturbed(sweep, before, undisturbed, cluster)
    assert sweep.folder.state(shard).attempts == first.attempts + 1


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_hydras_launcher_shares_store_and_run_directories(tiny, tmp_path):
    settings = ["dataset=coco_json", f"dataset.root={tiny}", "shots=1shot", *SMALL]
    settings += ["visualisation.enabled=false", f"runtime.output_root={tmp_path / 'out'}"]
    settings += [f"runtime.store_root={tmp_path / 'store'}"]
    launcher = ["hydra/launcher=submitit_slurm", "hydra.launcher.timeout_min=20", "hydra.launcher.tasks_per_node=2"]
    done = run_python("main.py", "--multirun", *launcher, "seed=0,1", *settings)
    assert done.returncode == 0, done.stderr
    for seed in (0, 1):
        config = compose_config([*settings, f"seed={seed}"])
        folder = run_directory(config)
        facts = json.loads((folder / "facts.json").read_text())
        assert facts["processes"] == 2
        assert len(list((tmp_path / "store" / "candidates").rglob("*.safetensors"))) == 4
        here = run_with([*settings, f"seed={seed}", f"runtime.output_root={tmp_path / 'here'}"])
        assert results_of(folder) == results_of(here)
