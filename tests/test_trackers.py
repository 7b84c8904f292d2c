"""Trackers: Weights & Biases with the real package, offline and with servers that fail; TensorBoard."""

import http.server
import json
import logging
import os
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

import pytest
import yaml
from conftest import PROJECT_DIR, cases
from PIL import Image
from tiny_data import make_tiny, settings

from ntt.base.files import read_json
from ntt.config.compose import compose_config, compose_many
from ntt.config.identity import run_directory
from ntt.run import runner
from ntt.trackers import wandb as ours
from ntt.trackers.base import RunIdentity, Tracker, TrackerConfig, choose_pictures
from ntt.trackers.tensorboard import TensorboardTrackerConfig
from ntt.trackers.wandb import WandbTrackerConfig

METRICS = {"bbox/AP": 12.5, "bbox/AP50": 30.0, "bbox/AP/cat": 5.0, "bbox/AP/tug/boat": 20.0, "bbox/AP50/cat": 11.0}
KEY = "f00d" * 10


@pytest.fixture(autouse=True)
def _no_account(monkeypatch, tmp_path: Path) -> Iterator[None]:
    """No key, no settings and no home of whoever runs the tests; W&B's background process ends with the test."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    for name in ("HOME", "WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setattr(ours, "_UNREACHABLE", threading.Event())
    yield
    if sys.modules.get("wandb") is not None:
        sys.modules["wandb"].teardown()


def identity(folder: Path) -> RunIdentity:
    names = {"run_id": "0123456789abcdef", "name": "demo_5shot_seed0", "group": "my sweep", "tags": ("demo", "x" * 80)}
    config = {"seed": 0, "shots": {"name": "5shot", "count": 5}, "split": {"classes": ["a", "b"]}}
    return RunIdentity(run_dir=folder, config=config, **names)


def records(folder: Path) -> list[list[Any]]:
    """Every record of every run W&B has written below a folder, by its own protocol: a log in blocks of 32 KiB."""
    import wandb
    from wandb.proto import wandb_internal_pb2

    wandb.teardown()  # only now is everything in the files
    runs = []
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        data, position, part, run = path.read_bytes(), 7, b"", []
        while position < len(data):
            if position % 32768 > 32768 - 7:  # no room for another header in this block
                position += 32768 - position % 32768
            _, length, kind = struct.unpack("<IHB", data[position : position + 7])
            part += data[position + 7 : position + 7 + length]
            position += 7 + length
            if kind in (1, 4):  # whole, or the last part
                run.append(wandb_internal_pb2.Record.FromString(part))
                part = b""
        runs.append(run)
    return runs


def summary(run: list[Any]) -> dict[str, Any]:
    items = [item for record in run if record.WhichOneof("record_type") == "summary" for item in record.summary.update]
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def first_record(run: list[Any], kind: str) -> Any:
    return next(getattr(record, kind) for record in run if record.WhichOneof("record_type") == kind)


def pictures(folder: Path, count: int) -> dict[str, Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = {f"p{number}": folder / f"p{number}.png" for number in range(count)}
    for path in paths.values():
        Image.new("RGB", (1600, 400), "red").save(path)
    return paths


def test_a_run_is_written_offline_without_a_key_and_can_be_read_back(tmp_path, caplog):
    caplog.set_level(logging.INFO, "ntt")
    config = WandbTrackerConfig(name="wandb", folder=str(tmp_path), tags=["mine"], max_pictures=2)
    tracker = config.build(identity(tmp_path))
    tracker.log_stage("candidates", {"seconds": 4.0, "images_per_second": 6.0, "peak_memory_mb/process": 900.0})
    tracker.log_metrics(METRICS)
    tracker.log_pictures(pictures(tmp_path / "drawn", 5))
    tracker.finish(failed=False)
    (record,) = records(tmp_path)
    run = first_record(record, "run")
    assert run.run_id.startswith("0123456789abcdef-")
    assert (run.project, run.run_group, run.job_type) == ("ntt", "my sweep", "run")
    assert list(run.tags) == ["demo", "x" * 64, "mine"]
    settings = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert settings.items() >= {"shots.count": 5, "point": "0123456789abcdef"}.items()
    assert settings["split.classes"] == ["a", "b"]
    numbers = {"stage/candidates/images_per_second": 6.0, "bbox/AP": 12.5, "bbox/AP/tug/boat": 20.0}
    assert summary(record).items() >= numbers.items()
    (table,) = tmp_path.glob("wandb/offline-run-*/files/media/table/results*.table.json")
    rows = [["cat", 5.0, 11.0], ["tug/boat", 20.0, None], ["all classes", 12.5, 30.0]]
    assert json.loads(table.read_text()) == {"columns": ["class", "bbox/AP", "bbox/AP50"], "data": rows}
    sent = list(tmp_path.glob("wandb/offline-run-*/files/media/images/pictures/*.jpg"))
    assert len(sent) == 2
    with Image.open(sent[0]) as picture:
        assert picture.size == (800, 200)
    assert first_record(record, "exit").exit_code == 0
    (folder,) = tmp_path.glob("wandb/offline-run-*")
    assert "no key is set" in caplog.text
    assert f"Send it with: wandb sync {folder}" in caplog.text


def test_offline_attempts_have_ids_of_their_own_and_an_agent_keeps_its_id(tmp_path, monkeypatch):
    config = WandbTrackerConfig(name="wandb", folder=str(tmp_path), mode="offline")
    for failed in (True, False):
        config.build(identity(tmp_path)).finish(failed=failed)
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep1")
    monkeypatch.setenv("WANDB_RUN_ID", "agentrun")
    config.build(identity(tmp_path)).finish(failed=False)
    runs = {first_record(run, "run").run_id: first_record(run, "exit").exit_code for run in records(tmp_path)}
    assert runs.pop("agentrun") == 0
    assert sorted(runs.values()) == [0, 1]
    assert {run_id.partition("-")[0] for run_id in runs} == {"0123456789abcdef"}


def test_a_whole_run_tells_its_tracker_everything(tmp_path, shared_store, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    root = make_tiny(tmp_path / "tiny")
    words = settings(root, tmp_path, shared_store, "tracker=wandb", "tracker.mode=offline", "tracker.group=s")
    words += ["visualisation.enabled=true", "visualisation.max_images=1", "visualisation.contact_sheet_size=0"]
    box_ap = runner.run(compose_config(words))
    assert runner.run(compose_config(words)) == box_ap  # finished before: mirrored again
    elsewhere = [word for word in words if not word.startswith("tracker")]
    assert runner.run(compose_config([*elsewhere, "tracker=tensorboard"])) == box_ap
    assert list(tmp_path.glob("tiny/*/*/tensorboard/events*"))
    runs = records(tmp_path)
    first, second = (first_record(run, "run") for run in runs)
    assert first.run_group == second.run_group == "s"
    assert list(first.tags) == ["tiny", "all", "1shot", "efficientnet_lite0", "regions", "ntt"]
    folder = run_directory(compose_config(words))
    point = read_json(folder / "identity.json")["id"]
    is_new = bool(read_json(folder / "facts.json")["stages"]["candidates"]["computed"])
    items = [item for run in (first, second) for item in run.config.update if item.key == "point"]
    assert [item.value_json for item in items] == [f'"{point}"'] * 2
    for numbers in map(summary, runs):
        assert numbers["bbox/AP"] == box_ap
        assert numbers.keys() >= {"stage/matching/images_per_second", "segm/AP/disc"}
        assert ("stage/candidates/images_per_second" in numbers) == is_new
    assert all(KEY.encode() not in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


@dataclass
class Server:
    """A stand-in for W&B's server: as much of its protocol as opening and closing a run takes."""

    url: str
    status: int | None  # of every answer; None: no answer at all
    questions: list[tuple[str, dict[str, Any]]] = field(default_factory=list)  # name and variables, of GraphQL

    def answer(self, body: bytes) -> bytes:
        if not body.startswith(b"{") or b'"query"' not in body:
            return b"{}"
        question = json.loads(body)
        name = question.get("operationName") or question["query"].split("(")[0].split()[-1]
        self.questions.append((name, question.get("variables") or {}))
        project = {"id": "p", "name": "ntt", "entity": {"id": "e", "name": "me"}}
        bucket = {"id": "b", "name": "abc", "displayName": "n", "config": "{}", "project": project}
        data = {
            "RunResumeStatus": {"model": {**project, "bucket": None}},
            "UpsertBucket": {"upsertBucket": {"bucket": {**bucket, "historyLineCount": 0}, "inserted": True}},
            "Viewer": {"viewer": {"id": "1", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}},
        }.get(name)
        return json.dumps({"data": data} if data else {"data": None, "errors": [{"message": "not here"}]}).encode()


@contextmanager
def server(status: int | None) -> Iterator[Server]:
    """Start a server on a port of this machine."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = state.answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))
            if state.status is None:
                time.sleep(60)
            self.send_response(state.status or 500)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PUT = do_POST

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        httpd.daemon_threads, httpd.block_on_close = True, False
        state = Server(f"http://127.0.0.1:{httpd.server_port}", status)
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield state
        httpd.shutdown()


SCRIPT = """
import logging, sys, time
from pathlib import Path
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
from ntt.trackers.base import RunIdentity
from ntt.trackers.wandb import WandbTrackerConfig
folder = Path(sys.argv[1])
identity = RunIdentity(run_id="abc", name="n", group="g", run_dir=folder, config={"seed": 0}, tags=("demo",))
for seed in range(2):
    config = WandbTrackerConfig(name="wandb", folder=str(folder), init_timeout_s=4, finish_timeout_s=4)
    tracker = config.build(identity)
    print("opened", flush=True)
    time.sleep(float(sys.argv[2]))
    tracker.log_metrics({"bbox/AP": 12.5})
    tracker.finish(failed=False)
    time.sleep(1.1)
print("the result is safe")
"""


def start_tracking(url: str, folder: Path, *, pause_s: float = 0) -> "subprocess.Popen[str]":
    """Begin two runs, one after the other in one process, with the server at `url`."""
    env = {**os.environ, "WANDB_BASE_URL": url, "WANDB_API_KEY": KEY, "PYTHONPATH": str(PROJECT_DIR)}
    words = [sys.executable, "-c", SCRIPT, str(folder), str(pause_s)]
    return subprocess.Popen(words, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def output_of(process: "subprocess.Popen[str]") -> str:
    """What the two runs log; their result is safe whatever the server does."""
    with process:
        output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    assert "the result is safe" in output
    assert KEY not in output
    return output


def test_online_a_run_continues_under_its_id(tmp_path):
    with server(200) as running:
        output = output_of(start_tracking(running.url, tmp_path))
    assert output.count(f"W&B: {running.url}/me/ntt/runs/abc") == 2
    asked = [variables["name"] for name, variables in running.questions if name == "RunResumeStatus"]
    assert asked == ["abc", "abc"]  # W&B's way of continuing a run instead of making a new one
    first = next(variables for name, variables in running.questions if name == "UpsertBucket")
    assert (first["name"], first["project"], first["groupName"], first["jobType"]) == ("abc", "ntt", "g", "run")
    assert first["tags"] == ["demo"]
    assert KEY not in json.dumps(running.questions)


@pytest.mark.slow
def test_a_server_that_falls_silent_costs_a_warning_and_little_time(tmp_path):
    with server(200) as running, start_tracking(running.url, tmp_path, pause_s=2) as process:
        assert process.stdout is not None
        while process.stdout.readline().strip() != "opened":
            pass
        running.status = None
        started = time.monotonic()
        output = output_of(process)
    assert "The run continues" in output
    assert "Send it with: wandb sync" in output
    assert time.monotonic() - started < 150


@cases("kind")("wrong key", *(pytest.param(x, marks=pytest.mark.slow) for x in ("silent", "gone")))
def test_a_server_that_cannot_be_used_costs_one_warning_and_little_time(tmp_path, kind):
    started = time.monotonic()
    with server(401 if kind == "wrong key" else None) as unusable:
        output = output_of(start_tracking("http://127.0.0.1:9" if kind == "gone" else unusable.url, tmp_path))
    assert output.count("tracker=wandb cannot be opened") == 1  # the second run of the process does not try again
    assert "The record is kept offline" in output
    assert time.monotonic() - started < 90
    assert [summary(run)["bbox/AP"] for run in records(tmp_path)] == [12.5, 12.5]


@dataclass(frozen=True, kw_only=True)
class FailingConfig(TrackerConfig):
    SCHEMA: ClassVar[str] = "failing"

    def build(self, identity: RunIdentity) -> Tracker:
        raise ValueError(f"no address for {identity.name}")


@cases("config", "package", "reason")(
    (FailingConfig(name="failing"), None, "ValueError: no address"),
    (WandbTrackerConfig(name="wandb", mode="offline"), "wandb", "ModuleNotFoundError"),
    (WandbTrackerConfig(name="wandb", mode="offline", folder="file/below"), None, "NotADirectoryError"),
    (TensorboardTrackerConfig(name="tensorboard"), "torch.utils.tensorboard", "pip install tensorboard"),
)
def test_a_package_that_is_missing_and_a_bad_folder_cost_a_warning(
    config, package, reason, tmp_path, monkeypatch, caplog
):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("not a folder")
    if package:
        monkeypatch.setitem(sys.modules, package, None)
    assert type(config.open(identity(tmp_path))) is Tracker
    assert f"tracker={config.name} cannot be opened" in caplog.text
    assert reason in caplog.text
    assert "The run continues without it" in caplog.text


class Recorder(Tracker):
    """Keeps numbers, and fails at a table."""

    numbers: ClassVar[dict[str, float]] = {}

    def _write_numbers(self, values: Any) -> None:
        self.numbers.update(values)

    def _write_results(self, metrics: Any) -> None:
        raise OSError(28, "No space left on device")


def test_a_tracker_that_fails_warns_once_and_thousands_of_classes_are_in_the_table_only(caplog):
    tracker = Recorder(name="wandb")
    tracker.log_metrics({**METRICS, **{f"bbox/AP/{number}": 1.0 for number in range(2000)}})
    tracker.log_metrics(METRICS)
    tracker.finish(failed=False)
    assert tracker.numbers == {"bbox/AP": 12.5, "bbox/AP50": 30.0}
    warning = "tracker=wandb stopped (OSError: [Errno 28] No space left on device). The run continues."
    assert [record.message for record in caplog.records] == [warning]


@cases("mode", "variables", "logged_in_to", "online")(
    ("auto", {}, None, False),
    ("auto", {"WANDB_API_KEY": KEY}, None, True),
    ("auto", {"WANDB_API_KEY": KEY, "WANDB_MODE": "offline"}, None, False),
    ("auto", {}, "", True),  # the package's own server
    ("auto", {"WANDB_BASE_URL": "https://wandb.lab"}, "", False),
    ("auto", {"WANDB_BASE_URL": "https://wandb.lab"}, "wandb.lab", True),
    ("auto", {"WANDB_API_KEY": "too short"}, None, False),
    ("online", {}, None, False),
    ("offline", {"WANDB_API_KEY": KEY}, None, False),
)
def test_online_only_with_a_key_where_the_package_looks_for_one(
    mode, variables, logged_in_to, online, monkeypatch, tmp_path, capfd
):
    import wandb

    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    server = logged_in_to or urlsplit(wandb.Settings().base_url).netloc
    (tmp_path / "netrc").write_text("" if logged_in_to is None else f"machine {server} login user password {KEY}")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert WandbTrackerConfig(name="wandb", mode=mode)._is_online() is online
    assert capfd.readouterr().err == ""


def test_pictures_are_chosen_evenly(tmp_path):
    drawn = pictures(tmp_path, 10)
    assert list(choose_pictures(drawn, 3)) == ["p0", "p3", "p6"]
    assert list(choose_pictures({**drawn, "gone": tmp_path / "gone.png"}, 20)) == list(drawn)
    assert choose_pictures(drawn, 0) == {}


def test_tensorboard_events_can_be_read_back(tmp_path):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for _ in range(2):  # a retry begins its record again
        tracker = TensorboardTrackerConfig(name="tensorboard", max_pictures=1).build(identity(tmp_path))
        tracker.log_stage("candidates", {"seconds": 4.0})
        tracker.log_metrics(METRICS)
        tracker.log_pictures(pictures(tmp_path / "drawn", 3))
        tracker.finish(failed=False)
    events = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    values = {tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    seconds = {"stage/candidates/seconds": [4.0]}
    assert values == {**{name: [value] for name, value in METRICS.items()}, **seconds, "failed": [0.0]}
    assert events.Tags()["images"] == ["pictures/p0"]
    text = events.Tensors("results/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "| cat | 5.0 | 11.0 |" in text
    assert "| tug/boat | 20.0 | – |" in text


WANDB_SWEEPS = sorted((PROJECT_DIR / "sweeps").glob("wandb/*.yaml"))


@cases("path", ids=lambda path: path.stem)(*WANDB_SWEEPS)
def test_the_command_line_of_an_agent_composes(path, tmp_path, monkeypatch):
    from wandb import wandb_agent

    sweep = yaml.safe_load(path.read_text())
    assert (PROJECT_DIR / sweep["program"]).is_file()
    commands: list[list[str]] = []

    class Process:
        last_sigterm_time = None

        def __init__(self, *, command: list[str], **_: Any) -> None:
            commands.append(command)

    monkeypatch.setattr(wandb_agent, "AgentProcess", Process)
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("NTT_SET", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    agent = wandb_agent.Agent(api=None, queue=None, sweep_id="sweep1")
    agent._sweep_command = sweep["command"]
    proposals = {
        name: parameter.get("values") or [parameter[end] for end in ("value", "min", "max") if end in parameter]
        for name, parameter in sweep["parameters"].items()
    }
    for number in range(max(map(len, proposals.values()))):  # every value at least once
        args = {name: {"value": values[number % len(values)]} for name, values in proposals.items()}
        agent._command_run({"run_id": f"run{number}", "program": sweep["program"], "args": args})
    assert {tuple(command[:3]) for command in commands} == {("/usr/bin/env", "python", "main.py")}
    assert not any("$" in word for command in commands for word in command)
    configs = compose_many([command[3:] for command in commands])
    assert {config.tracker.name for config in configs} == {"wandb"}
    assert len({run_directory(config) for config in configs}) == len(commands)
    assert sweep["metric"]["name"] in ("bbox/AP", "segm/AP")
