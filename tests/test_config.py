"""Every option composes; wrong values are refused with a message that helps."""

import os
from itertools import chain, zip_longest
from pathlib import Path

import pytest
from conftest import cases, refused, run_python
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from report_samples import box_metrics, make_runs

from ntt.base.project import CONF_DIR
from ntt.config import schema as config
from ntt.config.command_line import check_overrides, run_hydra
from ntt.config.compose import compose_config, compose_many
from ntt.config.typed_text import keep_text
from ntt.errors import ConfigError, DataError
from ntt.run import runner

GROUPS = sorted(path.name for path in CONF_DIR.iterdir() if path.is_dir())
OPTIONS = {group: sorted(path.stem for path in (CONF_DIR / group).glob("*.yaml")) for group in GROUPS}


def composed(*overrides: str) -> config.ExperimentConfig:
    return compose_config(overrides)


@cases("options")(*list(zip_longest(*OPTIONS.values())))
def test_every_option_composes_into_its_schema(options, tmp_path):
    """One of each group at a time, which is quicker than one by one."""
    chosen = {group: option for group, option in zip(GROUPS, options, strict=True) if option}
    needed = [f"dataset.root={tmp_path}"] if chosen.get("dataset") in ("coco_json", "folder") else []
    settings = composed(*map("=".join, chosen.items()), *needed)
    assert {group: getattr(settings, group).name for group in chosen} == chosen
    shots = settings.shots
    assert shots.name == ("all" if shots.count is None else f"{shots.count}shot")


def test_several_mistakes_are_reported_at_once_and_other_names_of_stages_are_known():
    wrong = ("seed=-1", "shots.count=0", "stage=walk", "visualisation.score_threshold=-2", "shots.sampler=dice")
    with refused(ConfigError, *wrong, "one of native, reference, fixed, shot_index"):
        composed(*wrong)
    with pytest.raises(ConfigError, match="~shots: a run needs all settings, so none can be removed"):
        compose_many([["seed=1", "~shots"]])
    names = [f"{group}.name=" for group in OPTIONS]
    for path in ("../../esc", "a/b", "..", "-x", "a b", ""):
        with refused(ConfigError, f".name={path} is invalid. Allowed: letters, digits", f"for {len(names) - 1} more"):
            composed(*(f"{name}'{path}'" for name in names))
    names = {alias: composed(f"stage={alias}").stage for alias in ("fill_memory", "postprocess_memory", "test")}
    assert names == {"fill_memory": "memory", "postprocess_memory": "prototypes", "test": "evaluation"}


@cases("overrides", "message")(
    (["shots=all", "shots.sampler=native"], r"shots\.count=null is only possible with shots\.sampler=fixed"),
    (["split=lvis_rare", "split.classes=[cat]"], "split.frequency and split.classes exclude each other"),
    (["split.classes=[]"], "split.classes is empty"),
    (["split.classes=[cat,cat]"], "split.classes names cat more than once"),
    (["+foo=1"], "There is no setting foo"),
    (["+shots.foo=1"], "There is no setting shots.foo"),
    (["runtime.output_root=${oc.env:NTT_NOT_SET}"], r"(?s)cannot be resolved.*NTT_NOT_SET"),
)
def test_what_cannot_be_run_is_refused(overrides, message):
    with pytest.raises(ConfigError, match=message):
        composed(*overrides)


@cases("override", "expected")(
    ("shots.cuont=3", ["shots.cuont=3", "no setting 'shots.cuont'", "Did you mean shots.count"]),
    ("shots=4shot", ["shots=4shot", "Allowed: one of 10shot", "write shots.count=4"]),
    ("seed=many", ["seed=many", "could not be converted to Integer", "seed=0"]),
    ("split=[cat,dog]", ["split=", "split.classes=[NAME,NAME]"]),
    ("runtime.deterministic=perhaps", ["runtime.deterministic=perhaps", "not a valid bool"]),
    ("nonsense", ["nonsense", "Write KEY=VALUE"]),
    ("shots=5", ["shots=5", "Allowed: one of 10shot", "Did you mean shots=5shot?"]),
    ("backbone=null", ["backbone=null", "Allowed: one of", "efficientnet_lite0"]),
    ("seed=1,2", ["seed=1,2", "several values", "--multirun"]),
    ("dataset.root=/a,b", ["several values", "quote it twice: 'dataset.root=\"/a,b\"'"]),
    ("dataset.root=Bäume (1)", ["cannot be read", "quote it twice: 'dataset.root=\"Bäume (1)\"'"]),
    ("dataset.root='a", ["dataset.root='a: this override cannot be read. Write KEY=VALUE.\n"]),
    ("~shots", ["~shots: a run needs all settings", "Leave ~shots out to keep the default."]),
    ("experiment=cdfsod_diorr", ["Did you mean experiment=cdfsod_dior?"]),
    ("shotts=1shot", ["shotts=1shot: there is no setting 'shotts'. Did you mean shots?\n"]),
    ("memory=x", ["memory=x: memory is a section. Set its entries: memory."]),
    ("split.classes=person", ["split.classes=person", "Write split.classes=[person]"]),
)
def test_wrong_overrides_are_explained(override, expected, capsys):
    with pytest.raises(SystemExit, match="^2$"):
        check_overrides([override])
    message = capsys.readouterr().err
    assert [part for part in expected if part not in message] == []


@cases("line", "expected")(
    ("dataset.root=2024_01_15", "dataset.root='2024_01_15'"),
    ("+dataset.root=1e3,true", "+dataset.root='1e3','true'"),
    ("dataset.root=~/Bücher #1", "dataset.root='~/Bücher #1'"),
    ("split.classes=[vélo, a b]", "split.classes=['vélo', a b]"),
    ("split.classes=[1e3, null ,'1',\"2\",b c]", "split.classes=['1e3', 'null' ,'1',\"2\",b c]"),
    ("runtime.output_root=null", "runtime.output_root='null'"),
    ("runtime.store_root=${runtime.data_root}/1e3", "runtime.store_root=${runtime.data_root}/1e3"),
    ("dataset.root=~/d/${seed}", "dataset.root='~/d/${seed}'"),
    ("dataset.root=/ü/${oc.env:A,${oc.env:B,'b'}},1e3", r"dataset.root='/ü/${oc.env:A,${oc.env:B,\'b\'}}','1e3'"),
    ("tracker.group=choice(1,2)", "tracker.group=choice('1','2')"),
    ("tracker.group=range(1,3)", "tracker.group=range(1,3)"),
    *((line, line) for line in ("seed=1_0", "visualisation.image_ids=[1e3]", "shots=1", "split.classes=null")),
)
def test_text_keeps_what_was_typed(line, expected):
    assert keep_text([line]) == [expected]


@cases("phase")("check_overrides", "from_hydra")
def test_ctrl_c_ends_with_one_line(phase, monkeypatch, capsys):
    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sys.argv", ["main.py"])
    monkeypatch.setattr(f"ntt.config.command_line.{phase}", interrupt)
    with pytest.raises(SystemExit, match="130"):
        runner.main()
    assert capsys.readouterr().err == "\nInterrupted. Run the same command again to resume.\n"


def test_a_folder_named_like_a_number_is_that_folder(monkeypatch, tmp_path):
    configs: list[config.ExperimentConfig] = []
    lines = ["runtime.output_root=2024_01_15", "split.classes=[1e3,null,true]", "runtime.data_root=null"]
    monkeypatch.setattr("sys.argv", ["main.py", *lines])
    monkeypatch.chdir(tmp_path)
    run_hydra(lambda config: configs.append(config))
    for each in (*configs, composed(*lines), *compose_many([lines])):
        assert (each.runtime.output_root, each.runtime.data_root) == ("2024_01_15", "null")
        assert each.split.classes == ["1e3", "null", "true"]
    assert len(configs) == 1


@cases("words")(
    ["--multirun", "seed=0,1,2", "shots=1shot,5shot"],
    ["-m", "shots=glob(*)"],
    ["--cfg", "job"],
    ["hydra/launcher=basic", "seed=3"],
    ["dataset=coco_json", 'dataset.root="Bäume (1), it\'s ;= all"'],
    ["seed=range(0,3)", "-m"],
    ["-m", "seed=interval(0,3)", "dataset=coco_json"],
    ["--cfg", "job", "seed=-1"],
    ["-sc", "install=bash"],
    ["--hydra-help"],
    ["-m", "seed=-1", "seed=1"],
    ["-m", "hydra/launcher=submitit_local", "runtime.store_root=${oc.env:NTT_NOT_SET}"],
    ["-m", "runtime.store_root='${hydra:runtime.cwd}'"],
)
def test_right_command_lines_pass(words):
    check_overrides(words)


@cases("words", "expected")(
    (["seed=12", "matcher.merging=soft,sfot"], "matcher.merging=sfot is invalid. Allowed: one of soft_sem"),
    (["seed=1,2", "shots=1shot,6shot"], "shots=6shot: there is no such option. Allowed: one of 10shot,"),
    (["seed=1,many"], "seed=many: Value 'many' of type 'str' could not be converted to Integer. Give a value of"),
    (["seed=range(1,-2,-1)"], "seed=-1 is invalid. Allowed: 0 or more."),
    (["shots=glob(*)", "shots.sampler=native"], "shots.count=null is only possible with shots.sampler=fixed"),
    (["split.classes=[cat]", "split=all,lvis_rare"], "split.frequency and split.classes exclude each other"),
    (["dataset=demo,coco_json"], "dataset.root is not set and has no default."),
    (["runtime.store_root=${oc.env:NTT_NOT_SET}"], "Environment variable 'NTT_NOT_SET' not found"),
    (["shots=glob(x*)"], "shots=glob(x*): this expands to no value. List the values, separated by commas"),
    (["--cfg", "job"], "--multirun, --run, --cfg and --info exclude each other. Give one of them."),
    (["hydra/launcher=joblib"], "submitit_local, submitit_slurm. Get it with: pip install hydra-joblib-launcher\n"),
    (["hydra/sweeper=optuna"], "Installed: basic. Get it with: pip install hydra-optuna-sweeper\n"),
    (["hydra/launcher=submitit_lokal"], "Did you mean submitit_local?"),
)
def test_every_value_of_a_multirun_is_tried_before_it_begins(words, expected, capsys):
    with pytest.raises(SystemExit, match="^2$"):
        check_overrides(["--multirun", *words])
    message = capsys.readouterr().err
    assert message.startswith("\nError: ")
    assert expected in message


@cases("error", "expected")(
    (DataError("There is no folder. Make it."), "\nError: There is no folder. Make it.\n"),
    (
        RuntimeError("No srun.\n"),
        "\nError: hydra/launcher=submitit_slurm: No srun.\nThe same command repeats only",
    ),
)
def test_what_a_launcher_meets_is_told_without_a_traceback(error, expected, monkeypatch, capsys, tmp_path):
    def launch(*_: object, **settings: object) -> None:
        raise error

    monkeypatch.setattr("submitit.AutoExecutor", launch)
    words = ["-m", "hydra/launcher=submitit_slurm", "seed=0,1", f"hydra.sweep.dir={tmp_path}"]
    monkeypatch.setattr("sys.argv", ["main.py", *words])
    with pytest.raises(SystemExit, match="^2$"):
        run_hydra(lambda _: None)
    assert capsys.readouterr().err.startswith(expected)
    assert "HYDRA_FULL_ERROR" not in os.environ


OWN_OPTIONS = {
    "good": "defaults: [/schema/matcher/prototype@_here_, _self_]\nname: good\nmerging: hard",
    "no_schema": "defaults: [/schema/matcher/nope@_here_, _self_]\nname: no_schema",
    "no_defaults": "name: no_defaults",
    "no_defaults_but_settings": "name: no_defaults_but_settings\nmerging: hard",
    "no_name": "defaults: [/schema/matcher/prototype@_here_, _self_]\nmerging: hard",
    "misspelt": "defaults: [/schema/matcher/prototype@_here_, _self_]\nname: misspelt\nmergign: hard",
    "wrong": "defaults: [/schema/matcher/prototype@_here_, _self_]\nname: wrong\nmin_score: many",
    "no_yaml": "name: x\nmerging: [",
}


@pytest.fixture
def own_conf(tmp_path: Path) -> Path:
    """A folder of the user's own, with options of matchers and a primary configuration that extends the project's."""
    folder = tmp_path / "own"
    (folder / "matcher").mkdir(parents=True)
    for name, text in OWN_OPTIONS.items():
        (folder / "matcher" / f"{name}.yaml").write_text(text)
    (folder / "mine.yaml").write_text("defaults: [config, override matcher: good, _self_]\nseed: 7")
    return folder


def typed(monkeypatch: pytest.MonkeyPatch, *words: str) -> list[config.ExperimentConfig]:
    """What `python main.py WORDS` runs."""
    configs: list[config.ExperimentConfig] = []
    monkeypatch.setattr("sys.argv", ["main.py", *words])
    run_hydra(lambda config: configs.append(config))
    return configs


def test_options_in_a_folder_of_ones_own(own_conf, monkeypatch):
    monkeypatch.chdir(own_conf.parent)
    (option,) = typed(monkeypatch, "--config-dir", "own", "matcher=good", "seed=3")
    assert (option.matcher.name, vars(option.matcher)["merging"], option.seed) == ("good", "hard", 3)
    for words in ("-cd own -cn mine", "-cp own -cn mine", f"--config-path={own_conf} -cn=mine"):
        (extended,) = typed(monkeypatch, *words.split(), "experiment=ntt_reference", "matcher=good")
        assert (extended.matcher.name, extended.seed, extended.experiment) == ("good", 7, "ntt_reference")
    points = typed(monkeypatch, "seed=1,2", "-m", "matcher=good,ntt", "--config-dir", "own")
    assert [(point.seed, point.matcher.name) for point in points] == [(1, "good"), (1, "ntt"), (2, "good"), (2, "ntt")]
    assert composed("seed=3").matcher.name == "ntt", "the folder is forgotten afterwards"


@cases("words", "expected")(
    (["matcher=no_schema"], "no_schema: its file builds on schema/matcher/nope, which does not exist. Allow"),
    (["matcher=no_defaults"], "the chosen option's file names no schema. Begin it with `defaults: [/schema/"),
    (["matcher=no_defaults_but_settings"], "matcher: the chosen option's file names no schema."),
    (["matcher=no_name"], "matcher: no option is chosen, or its file has no line `name: NAME`."),
    (["matcher=misspelt"], "There is no key matcher.mergign. Did you mean matcher.merging?"),
    (["matcher=wrong"], "its file cannot be used: matcher.min_score: Value 'many' of type 'str' could not"),
    (["matcher=no_yaml"], "matcher=no_yaml: its file cannot be used: line 2: expected the node content"),
    (["nix=1"], "nix=1: there is no setting 'nix'. See all settings with: python main.py --cfg job"),
    (["matcher=goood"], "Did you mean matcher=good?"),
    (["-cn", "nope"], "--config-name nope: Cannot find primary config 'nope'."),
    (["-cp", "nope"], "--config-path nope: there is no such folder."),
    (["--config-dir", "nope"], "--config-dir nope: there is no such folder."),
)
def test_mistakes_in_options_of_ones_own_are_explained(words, expected, own_conf, monkeypatch, capsys):
    with pytest.raises(SystemExit, match="^2$"):
        typed(monkeypatch, "--config-dir", str(own_conf), *words)
    assert expected in capsys.readouterr().err


def test_help_has_examples_and_every_option_but_no_schema(own_conf, monkeypatch, capsys):
    assert typed(monkeypatch, "--help", "--config-dir", str(own_conf)) == []
    text = capsys.readouterr().out
    assert text.count("\n  python main.py ") == 7, "the usage and six examples"
    assert [option for option in ("cdfsod_dior", *chain(*OPTIONS.values())) if f" {option}" not in text] == []
    assert " good," in text
    assert "schema/" not in text


def test_a_multirun_draws_nothing_unless_asked_and_ends_with_a_table(monkeypatch, tmp_path, capsys):
    drawn: list[bool] = []
    monkeypatch.setattr(runner, "run", lambda config, **rest: drawn.append(config.visualisation.enabled))
    monkeypatch.setattr(runner, "match_ahead", lambda configs, workspace: len(configs))
    for words in ([], ["visualisation.max_images=3"]):
        words = ["-m", "seed=0,1", "matcher.merging=soft,hard", f"runtime.output_root={tmp_path}", *words]
        monkeypatch.setattr("sys.argv", ["main.py", *words])
        runner.main()
    assert drawn == [False] * 4 + [True] * 4
    lines = capsys.readouterr().out.splitlines()
    end = len(lines) - 1 - lines[::-1].index(f"Means over seeds, comparisons, plots: ntt report {tmp_path}")
    rows = [[merging, seed, "-"] for seed in "01" for merging in ("soft", "hard")]
    assert [line.split()[:3] for line in lines[end - 5 : end - 1]] == rows
    words = ["-m", "shots=1shot,5shot", "matcher=ntt,probe", f"runtime.output_root={tmp_path}"]
    monkeypatch.setattr("sys.argv", ["main.py", *words])
    runner.main()
    assert "\nmatcher.name  shots.name  box AP " in capsys.readouterr().out


def test_a_point_of_a_multirun_that_fails_leaves_the_others(monkeypatch, tmp_path, capsys):
    lines = [f"shots.count={count} shots.sampler=fixed" for count in (1, "null")]
    make_runs(tmp_path, dict.fromkeys(lines, box_metrics(10.0)))

    def run(config: config.ExperimentConfig, **rest: object) -> None:
        if config.shots.count is None:  # and has the metrics of earlier data
            raise DataError("No image.")

    words = ["-m", "shots.count=1,null", "shots.sampler=fixed,native", f"runtime.output_root={tmp_path}"]
    monkeypatch.setattr("sys.argv", ["main.py", *words])  # the last combination is not possible
    monkeypatch.setattr(runner, "run", run)
    with pytest.raises(SystemExit, match="2"):
        runner.main()
    out, err = capsys.readouterr()
    failed = "2 of 4 points failed, for the reasons given above. The same command repeats only these."
    assert err.startswith("\nError: No image.\n\nError: shots.count=null is only possible with ")
    assert err.endswith(f"\nError: {failed}\n")
    rows = [line.split()[:3] for line in out.splitlines()[-5:-2]]
    assert rows == [["1", "fixed", "10.0"], ["1", "native", "-"], ["None", "fixed", "failed"]]


def test_axes_of_a_multirun_are_tried_one_at_a_time(monkeypatch):
    tried = []
    noted = "ntt.config.command_line.from_hydra"
    monkeypatch.setattr(noted, lambda cfg: tried.append((cfg.seed, cfg.shots.name, cfg.stage)))
    check_overrides(["-m", "seed=range(0,3)", "shots=1shot,5shot,10shot", "stage=all"])
    assert tried == [*((seed, "1shot", "all") for seed in (0, 1, 2)), (0, "5shot", "all"), (0, "10shot", "all")]
    tried.clear()
    monkeypatch.setattr("ntt.config.command_line._MAX_VALUES_CHECKED", 4)
    check_overrides(["-m", "seed=range(0,1000000000)"])
    assert [seed for seed, _, _ in tried] == [0, 1, 2, 3]


def test_composing_leaves_another_applications_hydra_alone(tmp_path):
    (tmp_path / "other.yaml").write_text("answer: 42\n")
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        assert composed("seed=3").seed == 3
        assert compose("other").answer == 42
    assert not GlobalHydra.instance().is_initialized()


@cases("module", "heavy")(
    ("ntt", "torch hydra numpy PIL"),
    ("ntt.sweeps.task", "torch hydra"),  # submitit can take signals only after it; one that comes earlier ends it
    ("ntt.run.runner", "timm wandb sam2"),
)
def test_importing_a_module_does_nothing(module, heavy):
    code = f"import logging, sys, {module}; print([name for name in {heavy.split()} if name in sys.modules])"
    done = run_python("-W", "error", "-c", f"{code}; assert not logging.getLogger('ntt').handlers")
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
