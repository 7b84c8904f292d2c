"""Every option composes; wrong values are refused with a message that helps."""

import subprocess
import sys
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
from conftest import PROJECT_DIR
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from ntt.base.project import CONF_DIR
from ntt.config import schema as config
from ntt.config.command_line import check_overrides, run_hydra
from ntt.config.compose import compose_config, compose_many
from ntt.config.identity import run_directory
from ntt.config.typed_text import keep_text
from ntt.errors import ConfigError

GROUPS = sorted(path.name for path in CONF_DIR.iterdir() if path.is_dir())
OPTIONS = [(group, path.stem) for group in GROUPS for path in sorted((CONF_DIR / group).glob("*.yaml"))]


def composed(*overrides: str) -> config.ExperimentConfig:
    return compose_config(overrides)


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes_into_its_schema(group: str, option: str, tmp_path: Path):
    needed = [f"dataset.root={tmp_path}"] if option in ("coco_json", "folder") else []
    made = getattr(composed(f"{group}={option}", *needed), group)
    assert type(made) is not dict
    assert made.name == option


def test_an_experiment_goes_with_another_data_set():
    # tests/test_experiments.py composes them all; a third of a second each is too long for here
    made = composed("experiment=ntt_reference", "dataset=demo")
    assert (made.experiment, made.dataset.name, made.shots.sampler) == ("ntt_reference", "demo", "reference")


def test_every_shot_option_means_its_number():
    for path in (CONF_DIR / "shots").glob("*.yaml"):
        count = composed(f"shots={path.stem}").shots.count
        assert path.stem == ("all" if count is None else f"{count}shot")


def test_seeds_have_directories_of_their_own():
    assert run_directory(composed("seed=0")) != run_directory(composed("seed=1"))


def test_several_mistakes_are_reported_at_once():
    with pytest.raises(ConfigError) as caught:
        composed("seed=-1", "shots.count=0", "stage=walk", "visualisation.score_threshold=2", "shots.sampler=dice")
    message = str(caught.value)
    for part in ("seed=-1", "shots.count=0", "stage=walk", "visualisation.score_threshold=2", "shots.sampler=dice"):
        assert part in message
    assert "one of native, reference, fixed, shot_index" in message


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["shots=all", "shots.sampler=native"], r"shots\.count=null is possible with shots\.sampler=fixed only"),
        (["split=lvis_rare", "split.classes=[cat]"], "split.frequency and split.classes exclude each other"),
        (["split.classes=[]"], "split.classes is empty"),
        (["split.classes=[cat,cat]"], "split.classes names cat more than once"),
        (["+foo.bar=1"], "There is no setting foo"),
        (["+foo=1"], "There is no setting foo"),
        (["+shots.foo=1"], "There is no setting shots.foo"),
        (["~shots"], "shots: no option is chosen.*Choose one on the command line: shots=NAME"),
        (["runtime.output_root=${oc.env:NTT_NOT_SET}"], r"(?s)cannot be resolved.*NTT_NOT_SET"),
    ],
)
def test_what_cannot_be_run_is_refused(overrides: list[str], message: str):
    with pytest.raises(ConfigError, match=message):
        composed(*overrides)


def test_aliases_of_the_published_stage_names():
    names = {alias: composed(f"stage={alias}").stage for alias in ("fill_memory", "postprocess_memory", "test")}
    assert names == {"fill_memory": "memory", "postprocess_memory": "prototypes", "test": "evaluation"}


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("shots.cuont=3", ["shots.cuont=3", "no setting 'shots.cuont'", "Did you mean shots.count"]),
        ("shots=7shot", ["shots=7shot", "Allowed: one of 10shot, 1shot, 2shot, 30shot, 3shot, 5shot"]),
        ("shots=4shot", ["shots=4shot", "Allowed: one of 10shot", "write shots.count=4"]),
        ("seed=many", ["seed=many", "could not be converted to Integer", "seed=0"]),
        ("split=[cat,dog]", ["split=", "split.classes=[NAME,NAME]"]),
        ("runtime.deterministic=perhaps", ["runtime.deterministic=perhaps", "not a valid bool"]),
        ("nonsense", ["nonsense", "Write KEY=VALUE"]),
        ("shots=5", ["shots=5", "Allowed: one of 10shot", "Did you mean shots=5shot?"]),
        ("backbone=null", ["backbone=null", "Allowed: one of", "efficientnet_lite0"]),
        ("shots=3", ["shots=3", "Did you mean shots=3shot?"]),
        ("seed=1,2", ["seed=1,2", "several values", "--multirun"]),
        ("dataset.root=/a,b", ["several values", "quote it twice: 'dataset.root=\"/a,b\"'"]),
        ("dataset.root=Bäume (1)", ["cannot be read", "quote it twice: 'dataset.root=\"Bäume (1)\"'"]),
        ("dataset.root='a", ["dataset.root='a: this override cannot be read. Write KEY=VALUE.\n"]),
        ("~shots", ["~shots: settings cannot be removed", "Leave ~shots out to keep the default."]),
        ("~dataset=demo", ["~dataset=demo: settings cannot be removed"]),
        ("experiment=cdfsod_diorr", ["Did you mean experiment=cdfsod_dior?"]),
        ("shotts=1shot", ["shotts=1shot: there is no setting 'shotts'. Did you mean shots?\n"]),
        ("split.classes=person", ["split.classes=person", "Write split.classes=[person]"]),
    ],
)
def test_wrong_overrides_are_explained(override: str, expected: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as caught:
        check_overrides([override])
    assert caught.value.code == 2
    message = capsys.readouterr().err
    for part in expected:
        assert part in message


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ("dataset.root=2024_01_15", "dataset.root='2024_01_15'"),
        ("+dataset.root=1e3,true", "+dataset.root='1e3','true'"),
        ("split.classes=[1e3, null ,'1',\"2\",b c]", "split.classes=['1e3', 'null' ,'1',\"2\",b c]"),
        ("split.classes=null", "split.classes=null"),
        ("runtime.output_root=null", "runtime.output_root='null'"),
        ("runtime.store_root=${runtime.data_root}/1e3", "runtime.store_root=${runtime.data_root}/1e3"),
        ("tracker.group=choice(1,2)", "tracker.group=choice('1','2')"),
        ("tracker.group=range(1,3)", "tracker.group=range(1,3)"),
        ("seed=1_0", "seed=1_0"),
        ("visualisation.image_ids=[1e3]", "visualisation.image_ids=[1e3]"),
        ("shots=1", "shots=1"),
    ],
)
def test_text_keeps_what_was_typed(line: str, kept: str):
    assert keep_text([line]) == [kept]


def test_a_folder_named_like_a_number_is_that_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    configs: list[config.ExperimentConfig] = []
    lines = ["runtime.output_root=2024_01_15", "split.classes=[1e3,null,true]", "runtime.data_root=null"]
    monkeypatch.setattr("sys.argv", ["main.py", *lines])
    monkeypatch.chdir(tmp_path)
    run_hydra(lambda config: configs.append(config))
    for made in (*configs, composed(*lines), *compose_many([lines])):
        assert (made.runtime.output_root, made.runtime.data_root) == ("2024_01_15", "null")
        assert made.split.classes == ["1e3", "null", "true"]
    assert len(configs) == 1


@pytest.mark.parametrize(
    "words",
    [
        ["--multirun", "seed=0,1,2", "shots=1shot,5shot"],
        ["-m", "shots=glob(*)"],
        ["--cfg", "job"],
        ["hydra/launcher=basic", "seed=3"],
        ["dataset=coco_json", 'dataset.root="Bäume (1), it\'s ;= all"'],
        ["seed=range(0,3)", "-m"],
        ["-m", "seed=interval(0,3)", "dataset=coco_json"],
        ["-m", "--cfg", "job", "seed=-1"],
        ["-m", "seed=-1", "seed=1"],
        ["-m", "hydra/launcher=submitit_local", "runtime.store_root=${oc.env:NTT_NOT_SET}"],
        ["-m", "runtime.store_root='${hydra:runtime.cwd}'"],
    ],
)
def test_right_command_lines_pass(words: list[str]):
    check_overrides(words)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["seed=12", "matcher.merging=soft,sfot"], "matcher.merging=sfot is invalid. Allowed: one of soft_sem"),
        (["seed=1,2", "shots=1shot,6shot"], "shots=6shot: there is no such option. Allowed: one of 10shot,"),
        (["seed=1,many"], "seed=many: Value 'many' of type 'str' could not be converted to Integer. Give a value of"),
        (["seed=range(1,-2,-1)"], "seed=-1 is invalid. Allowed: 0 or more."),
        (["shots=glob(*)", "shots.sampler=native"], "shots.count=null is possible with shots.sampler=fixed only"),
        (["split.classes=[cat]", "split=all,lvis_rare"], "split.frequency and split.classes exclude each other"),
        (["dataset=demo,coco_json"], "dataset.root is not set and has no default."),
        (["runtime.store_root=${oc.env:NTT_NOT_SET}"], "Environment variable 'NTT_NOT_SET' not found"),
        (["shots=glob(x*)"], "shots=glob(x*): this expands to no value. List the values, separated by commas"),
    ],
)
def test_every_value_of_a_multirun_is_tried_before_it_begins(
    words: list[str], expected: str, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit) as caught:
        check_overrides(["--multirun", *words])
    assert caught.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("\nError: ")
    assert expected in message


def test_axes_of_a_multirun_are_tried_one_at_a_time(monkeypatch: pytest.MonkeyPatch):
    tried = []
    noted = "ntt.config.command_line.from_hydra"
    monkeypatch.setattr(noted, lambda cfg: tried.append((cfg.seed, cfg.shots.name, cfg.stage)))
    check_overrides(["-m", "seed=range(0,3)", "shots=1shot,5shot,10shot", "stage=all"])
    assert tried == [*((seed, "1shot", "all") for seed in (0, 1, 2)), (0, "5shot", "all"), (0, "10shot", "all")]
    tried.clear()
    monkeypatch.setattr("ntt.config.command_line._MAX_VALUES_CHECKED", 4)
    check_overrides(["-m", "seed=range(0,1000000000)"])
    assert [seed for seed, _, _ in tried] == [0, 1, 2, 3]


def test_a_frozen_schema_can_be_overridden_and_stays_frozen_afterwards():
    settings = composed("visualisation.max_images=null", "memory.context_ratio=0.3")
    assert (settings.visualisation.max_images, settings.memory.context_ratio) == (None, 0.3)
    with pytest.raises(FrozenInstanceError):
        settings.memory.context_ratio = 0.4


def test_composing_leaves_another_applications_hydra_alone(tmp_path: Path):
    (tmp_path / "other.yaml").write_text("answer: 42\n")
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        assert composed("seed=3").seed == 3
        assert compose("other").answer == 42
    assert not GlobalHydra.instance().is_initialized()


def test_importing_the_package_does_nothing():
    checks = ["assert not logging.getLogger('ntt').handlers", "assert 'timm' not in sys.modules"]
    code = "\n".join(["import logging, sys, ntt.run.runner", *checks])
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=PROJECT_DIR, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_taking_a_group_out_of_a_sweep_is_refused():
    with pytest.raises(ConfigError, match="~shots: settings cannot be removed"):
        compose_many([["seed=1", "~shots"]])
