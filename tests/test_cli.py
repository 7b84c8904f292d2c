"""The console script `ntt`."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_data import make_tiny

from ntt import __version__
from ntt.base.files import write_json
from ntt.base.standard_streams import outlive_readers
from ntt.cli.main import main
from ntt.run.table import metrics_table
from ntt.types import Metrics

METRICS = Metrics(
    overall={"bbox": {"AP": 12.34, "AP50": 50.0, "AP75": 0.0, "AR100": 20.0}},
    per_class={"bbox": {"cat": {"AP": 12.34, "AP50": 50.0, "AP75": 0.0, "AR100": 20.0}, "boat": {}}},
    num_images=2,
    num_detections=3,
)


def test_version(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"ntt {__version__}\n"


def test_check_of_a_good_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["data", "check", str(make_tiny(tmp_path / "tiny")), "--decode"]) == 0
    out = capsys.readouterr().out
    assert "3 images, 4 annotations, masks" in out
    assert "4 images, 5 annotations, masks" in out
    assert "disc             2        3" in out


def test_check_of_a_bad_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    root = make_tiny(tmp_path / "tiny")
    (root / "images" / "targets_1.png").unlink()
    assert main(["data", "check", str(root)]) == 2
    assert "targets_1.png" in capsys.readouterr().err


def test_check_of_targets_without_annotations(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    root = make_tiny(tmp_path / "tiny")
    path = root / "annotations" / "targets.json"
    content = json.loads(path.read_text())
    del content["annotations"]
    path.write_text(json.dumps(content))
    assert main(["data", "check", str(root)]) == 0
    assert "no annotations: predictions and pictures, no metrics" in capsys.readouterr().out


def test_check_finds_classes_without_examples_and_classes_that_differ(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    root = make_tiny(tmp_path / "tiny")
    for name in ("references", "targets"):
        path = root / "annotations" / f"{name}.json"
        content = json.loads(path.read_text())
        content["categories"].append({"id": 9, "name": "zebra"})
        path.write_text(json.dumps(content))
    assert main(["data", "check", str(root)]) == 1
    assert "No example in the references: zebra" in capsys.readouterr().out
    content["categories"][0]["name"] = "other"
    path.write_text(json.dumps(content))
    assert main(["data", "check", str(root)]) == 2
    assert "'disc' of the references is not a category" in capsys.readouterr().err


def test_demo_data_into_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = tmp_path / "demo"
    assert main(["data", "demo", str(folder)]) == 0
    assert str(folder) in capsys.readouterr().out
    assert main(["data", "check", str(folder)]) == 0
    assert main(["data", "demo", str(folder)]) == 2
    assert f"{folder} exists already. Name a new folder." in capsys.readouterr().err


def test_show_prints_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write_json(tmp_path / "metrics.json", vars(METRICS))
    assert main(["show", str(tmp_path)]) == 0
    assert capsys.readouterr().out == metrics_table(METRICS) + "\n"


def test_show_of_something_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["show", str(tmp_path)]) == 2
    assert "holds no metrics.json" in capsys.readouterr().err


def test_table():
    assert metrics_table(METRICS).splitlines() == [
        "class        box AP  box AP50  box AP75  box AR",
        "-----------------------------------------------",
        "cat            12.3      50.0       0.0    20.0",
        "boat              -         -         -       -",
        "-----------------------------------------------",
        "all classes    12.3      50.0       0.0    20.0",
        "Masks are not evaluated: not every object of the ground truth has one.",
    ]


@pytest.mark.parametrize(
    ("masks", "expected"),
    [
        (0, "Masks are not evaluated: the ground truth has none, its 9 objects have boxes only."),
        (
            8,
            "Masks are not evaluated: 1 of the 9 objects of the ground truth have none; AP needs all.",
        ),
    ],
)
def test_table_says_how_many_masks_are_missing(masks: int, expected: str):
    assert metrics_table(replace(METRICS, num_objects=9, num_masks=masks)).splitlines()[-1] == expected


def test_table_without_ground_truth():
    empty = Metrics(overall={}, per_class={}, num_images=2, num_detections=3)
    assert "nothing to compare" in metrics_table(empty)


def test_unknown_command_is_refused(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as caught:
        main(["dance"])
    assert caught.value.code == 2
    assert "invalid choice: 'dance'" in capsys.readouterr().err


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_goes_away_is_no_error(unbuffered: str) -> None:
    # As `ntt weights list | head -1`, but certain to write after the reader has gone.
    code = "import sys; from ntt.cli.main import main; sys.stdin.read(); sys.exit(main(['weights', 'list']))"
    pipe = subprocess.PIPE
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment) as process:
        for stream in (process.stdout, process.stdin):
            assert stream is not None
            stream.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_a_run_outlives_the_readers_of_both_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    # As `python main.py 2>&1 | head -1`
    reader, writer = os.pipe()
    with os.fdopen(writer, "w", encoding="utf-8") as one, os.fdopen(os.dup(writer), "w", encoding="utf-8") as other:
        monkeypatch.setattr(sys, "stdout", one)
        monkeypatch.setattr(sys, "stderr", other)
        outlive_readers()
        for stream in (sys.stdout, sys.stderr):
            print("a line: Ä", file=stream)
        assert os.read(reader, 100).decode() == "a line: Ä\na line: Ä\n"
        os.close(reader)
        for stream in (sys.stdout, sys.stderr):
            for number in range(3):
                print("line", number, file=stream, flush=True)
            assert os.fstat(stream.fileno()).st_rdev == Path(os.devnull).stat().st_rdev


def test_a_run_without_output_goes_on_without(monkeypatch: pytest.MonkeyPatch) -> None:
    # As `python main.py >&-`
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    outlive_readers()
    assert sys.stdout is None


def test_a_run_whose_log_nobody_reads_complains_of_nothing() -> None:
    code = """
import logging, sys
from ntt.base.standard_streams import outlive_readers
outlive_readers()
sys.stdin.read()
logging.basicConfig(stream=sys.stdout, level=logging.INFO)
logging.info("lost")
print("kept: Ä", file=sys.stderr)
"""
    pipe = subprocess.PIPE
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, "-W", "error", "-c", code]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment) as process:
        for stream in (process.stdout, process.stdin):
            assert stream is not None
            stream.close()
        assert process.stderr is not None
        assert process.stderr.read().decode() == "kept: Ä\n"
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            ("status", "a"),
            "ntt sweep status: error: unrecognized arguments: {}. This command takes no settings: write ",
        ),
        (("collect", "a"), "ntt sweep collect: error: unrecognized arguments: {}. This command takes no settings: wr"),
        (("retry", "a", "--processes", "2"), "ntt sweep retry: error: unrecognized arguments: {}. This command tak"),
    ],
)
def test_a_setting_that_is_an_option_here(words: tuple[str, ...], expected: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as caught:
        main(["sweep", *words, "runtime.output_root=/my runs"])
    assert caught.value.code == 2
    message = capsys.readouterr().err
    assert expected.format("runtime.output_root=/my runs") in message
    assert message.endswith("write --output-root '/my runs'.\n")


def test_a_setting_of_a_command_without_settings(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main(["sweep", "list", "seed=0"])
    assert capsys.readouterr().err.endswith("seed=0. This command takes no settings: leave out seed=0.\n")


def test_a_broken_pipe_within_a_command_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> int:
        raise BrokenPipeError

    monkeypatch.setattr("ntt.cli.weights._list", fail)
    with pytest.raises(BrokenPipeError):
        main(["weights", "list"])
