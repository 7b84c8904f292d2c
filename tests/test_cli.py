"""The console script `ntt`."""

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import click
import pytest
from conftest import PROJECT_DIR, cases, run_python
from tiny_data import edited, make_tiny

from ntt import __version__
from ntt.cli.main import main, ntt
from ntt.cli.options import FORMAT
from ntt.datasets.folders import CocoJsonConfig
from ntt.errors import NttError
from ntt.reports.tables import SUFFIXES
from ntt.run.table import metrics_table
from ntt.types import Metrics

HELP_TEXTS = Path(__file__).with_name("help_texts.txt")

VALUES = {"AP": 12.34, "AP50": 50.0, "AP75": 0.0, "AR100": 20.0}
METRICS = Metrics({"bbox": VALUES}, {"bbox": {"cat": VALUES, "boat": {}}}, num_images=2, num_detections=3)


def test_check_of_a_folder(tmp_path, cli):
    root = make_tiny(tmp_path / "tiny")
    out = cli("data", "check", root, "--decode")
    assert "3 images, 4 annotations, masks" in out
    assert "4 images, 5 annotations, masks" in out
    assert "disc             2        3" in out
    for name in ("references", "targets"):
        with edited(root, name) as content:
            content["categories"].append({"id": 9, "name": "zebra"})
    assert "No example in the references: zebra" in cli("data", "check", root, status=1)
    with edited(root, "targets") as content:
        content["categories"][0]["name"] = "other"
    assert "'disc' has id 3 in the references and none in" in cli("data", "check", root, status=2)
    with edited(root, "targets") as content:
        del content["annotations"]
        content["categories"][0]["name"] = "disc"
    assert "no annotations: predictions and pictures, no metrics" in cli("data", "check", root, status=1)
    (root / "images" / "targets_1.png").unlink()
    assert "targets_1.png" in cli("data", "check", root, status=2)


def test_demo_data_into_a_folder(tmp_path, cli):
    folder = tmp_path / "demo"
    assert str(folder) in cli("data", "demo", folder)
    assert main(["data", "check", str(folder)]) == 0
    assert f"{folder} exists already. Name a new folder." in cli("data", "demo", folder, status=2)


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
    last_line = metrics_table(replace(METRICS, num_objects=9, num_masks=8)).splitlines()[-1]
    assert last_line == "Masks are not evaluated: 1 of the 9 objects of the ground truth have none."
    assert "nothing to compare" in metrics_table(Metrics(overall={}, per_class={}, num_images=2, num_detections=3))


def help_texts(command: click.Command, parent: click.Context | None = None, name: str = "ntt") -> Iterator[str]:
    """The help of a command and of all commands below it."""
    context = click.Context(command, parent, name, **{**command.context_settings, "terminal_width": 80})
    yield f"$ {context.command_path} --help\n{command.get_help(context)}\n\n"
    for below, subcommand in sorted(getattr(command, "commands", {}).items()):
        yield from help_texts(subcommand, context, below)


def test_help_texts():
    """NTT_WRITE=1 pytest tests/test_cli.py -k help_texts writes them anew."""
    text = "".join(help_texts(ntt))
    if os.environ.get("NTT_WRITE"):
        HELP_TEXTS.write_text(text)
    assert text.split() == HELP_TEXTS.read_text().split()
    assert "None" not in text
    assert re.findall(r"^  [a-z].*\w\.\.\.$", text, re.MULTILINE) == [], "a command's line is cut off"


def test_options_say_what_they_do_with_the_librarys_choices_and_defaults():
    def parameters(command: click.Command) -> Iterator[click.Option]:
        yield from (parameter for parameter in command.params if isinstance(parameter, click.Option))
        for below in getattr(command, "commands", {}).values():
            yield from parameters(below)

    assert [option.opts for option in parameters(ntt) if not option.help] == []
    assert tuple(FORMAT.choices) == tuple(SUFFIXES)
    help_text = " ".join(HELP_TEXTS.read_text().split())
    for name in ("references", "targets", "reference_images", "target_images"):
        assert f"Default: {getattr(CocoJsonConfig(), name)}." in help_text


def test_the_package_is_the_command():
    done = run_python("-m", "ntt", "--version")
    assert (done.returncode, done.stdout) == (0, f"ntt {__version__}\n")


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@cases("line", "expected")(
    ("ntt exp", ["export"]),
    ("ntt export c", ["coco", "cvat"]),
    ("ntt run matcher=near", ["matcher=nearest"]),
    ("ntt run matcher=probe matcher.ri", ["no blank", "matcher.ridge="]),
    ("ntt run --config-dir nowhere seed", [""]),
    ("ntt run -cn ", [""]),
    ("ntt run -x sh", [""]),
    ("ntt run --version sh", [""]),
    ("ntt run seed=[ sh", [""]),
    ("ntt run dataset.root=/ü matcher=near", ["matcher=nearest"]),
    ("ntt run sh", ["no blank", "shots.", "shots="]),
    ("ntt run dataset.root=./my", [r"dataset.root=./my\ photos"]),
)
def test_commands_options_and_settings_complete_on_tab(line, expected, tmp_path):
    (tmp_path / "ntt").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m ntt "$@"\n')
    (tmp_path / "ntt").chmod(0o755)
    (tmp_path / "my photos").mkdir()
    setup = 'eval "$(ntt run -sc install=bash)"; compopt() { echo no blank; }; COMP_WORDS=($1)'
    script = f"{setup}; COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _ntt_words ntt; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(PROJECT_DIR)}
    words = ["bash", "-c", script, "bash", line]
    done = subprocess.run(words, capture_output=True, text=True, env=env, cwd=tmp_path, check=False)
    assert (done.stdout.splitlines(), done.stderr) == (expected, "")


def test_completion_for_an_unknown_shell(cli):
    for shell in ("zsh", "fish"):
        assert "_NTT_COMPLETE" in cli("run", "-sc", f"install={shell}")
    assert "${(M)completions:#*[=./]}" in cli("run", "-sc", "install=zsh"), "these are not followed by a blank"
    refusal = cli("run", "-sc", "install=tcsh", status=2)
    assert "-sc install=tcsh: write install=bash, install=zsh or install=fish." in refusal


def test_help_is_there_at_once():
    code = """
import sys, time
from ntt.cli.main import main
status = main(["--help"]) or main(["--version"]) or main(["sweep", "run", "--help"])
heavy = {"torch", "numpy", "hydra", "pandas", "tqdm"} & set(sys.modules)
sys.exit(f"{status} {heavy} {time.process_time()}" if status or heavy or time.process_time() > 0.3 else 0)
"""
    done = run_python("-c", code)
    assert done.returncode == 0, done.stderr
    assert "Training-free" in done.stdout


@cases("error", "status", "text")(
    (NttError("It does not fit. Cut it."), 2, "Error: It does not fit. Cut it.\n"),
    (OSError(errno.EROFS, "", "b", None, "a"), 2, "Error: a cannot be used: . Change that, or name another folder.\n"),
    (KeyboardInterrupt(), 130, "\nInterrupted. Run the same command again to resume.\n"),
)
def test_what_ends_a_command(error, status, text, monkeypatch, capsys):
    def fail() -> None:
        raise error

    monkeypatch.setattr("ntt.models.weights.checkpoints", fail)
    assert main(["weights", "list"]) == status
    assert capsys.readouterr().err == text


@cases("code", "status", "said")(
    ("from ntt.cli.main import main; sys.exit(main(['sweep', '--help']))", 1, b""),
    (
        "from ntt.base.log import console_logging; from logging import getLogger\n"
        "with console_logging(): [getLogger('ntt').info('lost') for _ in range(3)]\n"
        "sys.stderr.write('goes on')",
        0,
        b"goes on",
    ),
)
def test_a_reader_that_goes_away_is_no_error(code, status, said):
    # As `ntt sweep --help | head -1` and `ntt run | head -1`, but certain to write after the reader has gone.
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", f"import sys; sys.stdin.read()\n{code}"]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        for stream in (process.stdout, process.stdin):
            assert stream is not None
            stream.close()
        assert process.stderr is not None
        assert process.stderr.read() == said
    assert process.returncode == status


def test_ntt_run_takes_what_main_py_takes(monkeypatch, capsys, cli):
    monkeypatch.setattr("sys.argv", ["ntt"])
    assert "count: 3" in cli("run", "--cfg", "job", "shots=3shot")
    with pytest.raises(SystemExit, match="^2$"):
        main(["run", "sede=1"])
    assert "there is no setting 'sede'. Did you mean seed?" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="^2$"):
        main(["run", "nix=1"])
    assert "See all settings with: ntt run --cfg job\n" in capsys.readouterr().err


@cases("package")("ntt.errors", "numpy", "torch")
def test_ctrl_c_while_packages_are_imported_leaves_no_traceback(package, tmp_path):
    command = [sys.executable, "-X", "importtime", "main.py", f"runtime.output_root={tmp_path}", "split.classes=[none]"]
    restored = partial(signal.signal, signal.SIGINT, signal.default_int_handler)  # CI may start us with it ignored
    run = subprocess.Popen(command, cwd=PROJECT_DIR, stderr=subprocess.PIPE, text=True, preexec_fn=restored)
    assert run.stderr is not None
    assert any(package in line for line in run.stderr), "it is imported"
    run.send_signal(signal.SIGINT)
    _, err = run.communicate(timeout=120)
    assert run.returncode == -signal.SIGINT
    assert "Traceback" not in err


@cases("module")("ntt.cli.main", "ntt.run.runner")
def test_the_end_of_a_program_is_short_and_undisturbed(module):
    say = "lambda: print(gc.get_freeze_count() > 0, signal.getsignal(signal.SIGINT).name)"
    code = f"import atexit, gc, signal; atexit.register({say}); from {module} import main; main()"
    assert run_python("-c", code, "--version").stdout.endswith("True SIG_IGN\n")
