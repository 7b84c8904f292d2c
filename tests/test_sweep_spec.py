"""Sweep files: what they say, what is refused with which words; Hydra's own multirun does the same."""

from dataclasses import replace
from pathlib import Path

import pytest
from conftest import PROJECT_DIR, cases, refused, run_python
from hydra.core.override_parser.overrides_parser import OverridesParser
from tiny_data import SMALL, make_tiny

from ntt.config.compose import compose_config, compose_many, from_hydra
from ntt.config.identity import run_directory, run_id
from ntt.config.registry import compose_lines, hydra_session
from ntt.config.typed_text import keep_text
from ntt.errors import ConfigError
from ntt.sweeps.plan import plan_file
from ntt.sweeps.points import expand
from ntt.sweeps.spec import SweepSpec, override_text, read_spec

FOUR_AXES = {key: list(range(1000)) for key in "abcd"}
SWEEPS = sorted((PROJECT_DIR / "sweeps").glob("*.yaml"))


def write(folder: Path, text: str) -> Path:
    path = folder / "study.yaml"
    path.write_text(text)
    return path


def labels(path: Path, *overrides: str) -> list[str]:
    return [point.label for point, _ in expand(read_spec(path), overrides)]


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        expand(read_spec(path), overrides)
    return str(caught.value)


def with_root(spec: SweepSpec, folder: Path) -> list[str]:
    """What has to be said on the command line: a folder of one's own, where the sweep does not name any."""
    varies = {key for settings in (spec.axes, *spec.points) for key in settings}
    lacks_root = "dataset=coco_json" in spec.base and "dataset.root" not in varies
    return [f"dataset.root={folder}"] if lacks_root else []


def ends(spec: SweepSpec) -> SweepSpec:
    """The same sweep with the first value of everything, and with the last."""
    points = spec.points or ({},)
    two = [{**points[end], **{key: values[end] for key, values in spec.axes.items()}} for end in (0, -1)]
    return replace(spec, axes={}, points=tuple(two), exclude=())


# The published tables are composed row by row in tests/test_experiments.py.
@cases("path", ids=lambda path: path.stem)(*[path for path in SWEEPS if not path.stem.startswith("table_")])
def test_every_sweep_of_the_project_is_usable(path, tmp_path):
    spec = read_spec(path)
    points = expand(ends(spec), with_root(spec, tmp_path))
    assert len({point.run_dir for point, _ in points}) == 2
    assert spec.description


@pytest.mark.slow
@cases("path", ids=lambda path: path.stem)(*SWEEPS)
def test_every_sweep_expands(path, tmp_path):
    spec = read_spec(path)
    points = expand(spec, with_root(spec, tmp_path))
    assert len({point.run_dir for point, _ in points}) == len(points) > 1


@cases("text", "expected")(
    # The last axis varies fastest; points are crossed with the axes; exclusions take out what agrees with them.
    ("axes: {matcher: [ntt, probe], seed: [1, 0]}", ["ntt seed=1", "ntt seed=0", "probe seed=1", "probe seed=0"]),
    ("points: [{matcher: ntt, shots: 1shot}]\naxes: {seed: [0, 1]}", [f"ntt shots=1shot seed={n}" for n in (0, 1)]),
    ("axes: {matcher: [ntt, probe], seed: [0, 1]}\nexclude: [{seed: 1, matcher: [ntt]}]",
     ["ntt seed=0", "probe seed=0", "probe seed=1"]),
)  # fmt: skip
def test_points_of_a_file(text, expected, tmp_path):
    assert labels(write(tmp_path, text)) == [f"matcher={label}" for label in expected]


def test_a_point_is_what_main_would_run_without_pictures(tmp_path):
    path = write(tmp_path, "base: [dataset=demo, seed=3]\naxes: {shots: [1shot, 5shot]}")
    (first, config), _ = expand(read_spec(path), ["matcher.merging=hard"])
    words = ["dataset=demo", "seed=3", "shots=1shot", "matcher.merging=hard", "visualisation.enabled=false"]
    assert config == compose_config(words)
    assert first.id == run_id(config)
    assert first.run_dir.name.endswith(first.id[:10])
    off = write(tmp_path, "axes: {seed: [0, 1]}")
    assert [config.visualisation.enabled for _, config in expand(read_spec(off))] == [False, False]
    assert expand(read_spec(off), ["visualisation.enabled=true"])[0][1].visualisation.enabled
    ((_, config),) = expand(
        read_spec(write(tmp_path, "base: [experiment=ntt_reference]\npictures: true\naxes: {seed: [0]}"))
    )
    assert (config.visualisation.enabled, config.matcher.name) == (True, "ntt_reference")


def test_the_command_line_fixes_an_axis_and_replaces_a_part_of_the_base(tmp_path):
    path = write(tmp_path, "base: [dataset=demo, shots=1shot]\naxes: {seed: [0, 1], matcher.merging: [soft, hard]}")
    assert labels(path, "seed=7", "shots=2shot") == ["seed=7 matcher.merging=soft", "seed=7 matcher.merging=hard"]
    assert expand(read_spec(path), ["shots=2shot"])[0][1].shots.count == 2
    assert "seed=1,2: this is not one value for one setting" in refusal(path, "seed=1,2")


def test_points_of_one_directory_several_mistakes_and_files_that_cannot_be_read_are_refused(tmp_path):
    message = refusal(write(tmp_path, "axes: {visualisation.score_threshold: [0.3, 0.5]}"))
    assert "visualisation.score_threshold does not change results, so there is no point in both " in message
    assert "both visualisation.score_threshold=0.3 and visualisation.score_threshold=0.5. Exclude one" in message
    with refused(
        ConfigError, "axes.seed=3", "max_parallel=0", "no key nmae. Did you mean name?", "neither an axis nor"
    ):
        read_spec(write(tmp_path, "axes: {seed: 3}\nmax_parallel: 0\nnmae: x"))
    path = tmp_path / "other.yaml"
    assert "There is no sweep file" in refusal(path)
    path.write_bytes(b"axes: {seed: [0]}\ndescription: \xff\xfe")
    assert "other.yaml is not readable as YAML" in refusal(path)


@cases("text", "expected")(
    ("name: a/b\naxes: {seed: [0]}", "name=a/b is invalid. Allowed: letters, digits"),
    ("axes: {seed: []}", "axes.seed has no value."),
    ("axes: {seed: [0, 1, 0]}", "axes.seed=[0, 1, 0] has a value twice."),
    ("axes: {seed: [{a: 1}]}", "axes.seed={'a': '1'} is invalid. Allowed: a word, true or false, a number"),
    ("axes: [seed]", "axes=[seed] is invalid. Allowed: a mapping."),
    ("base: [dataset]\naxes: {seed: [0]}", "base=[dataset] is invalid. Allowed: a list of KEY=VALUE."),
    ("axes: {hydra.job.num: [0]}", "axes.hydra.job.num: this is not a setting such as seed"),
    ("points: [{seed: 1}]\naxes: {seed: [0]}", "seed is given in axes and in points."),
    ("points: [{seed: 1}, {seed: 1}]", "points has a combination twice."),
    ("axes: {seeed: [0], shots: [1shot]}\nexclude: [{seed: 0}]", "do not set seed. They set seeed, shots."),
    ("axes: {seed: [0, 1]}\nexclude: [{seed: 2}]", "exclude.seed=2 never occurs. Allowed: one of 0, 1."),
    ("axes: {seed: [0]}\nresources: {points: {gpu: 1}}", "points.gpu. Did you mean resources.points.gpus?"),
    ("axes: {seed: [0]}\nresources: {points: {cpus: true}}", "cpus=true is invalid. Allowed: a whole number."),
    ("axes: {seed: [0]}\naxes: {seed: [1]}", "study.yaml, line 2, is not readable as YAML: axes is given twice."),
    ("axes: {seed: &s [0], shots: *s}", "line 1, is not readable as YAML: aliases (*name) are not read"),
    (f"axes: {'[' * 5000}", "is not readable as YAML: it is nested too deeply."),
    (f"axes: {{seed: [{'9' * 5000}]}}", ": no setting takes a number of so many digits. Give a shorter one."),
    (f"name: x{' ' * 1_000_000}", "has more than 1,000,000 bytes. Divide it."),
    (f"axes: {FOUR_AXES}", "its axes make 1,000,000,000,000 points, and a"),
    ("axes: {seed: [0", "is not readable as YAML"),
    ("- seed", ": [seed] is invalid. Allowed: a mapping with the keys name, description"),
    ("axes: {sed: [0, 1]}", "sed=0: there is no setting 'sed'. Did you mean seed?"),
    ("axes: {shots: [1, 5]}", "shots=1: there is no such option. Allowed: one of"),
    ("axes: {seed: [-1]}", "seed=-1 is invalid. Allowed: 0 or more"),
    ("axes: {seed: [0]}\nexclude: [{seed: 0}]", "every point is excluded"),
    ("base: [stage=candidates]\naxes: {seed: [0, 1]}", "stage=candidates is invalid: a sweep does all stages"),
)
def test_mistakes_are_named(text, expected, tmp_path):
    assert expected in refusal(write(tmp_path, text))


def test_text_and_paths_keep_what_was_typed(tmp_path):
    path = write(tmp_path, "axes: {dataset.root: [2024_01_15, 1e3, 007, 2024-01-15, no]}\nbase: [dataset=coco_json]")
    roots = ["2024_01_15", "1e3", "007", "2024-01-15", "no"]
    spec = read_spec(path)
    assert [vars(config.dataset)["root"] for _, config in expand(spec)] == roots
    ((point, config),) = expand(spec, ["dataset.root=1_0", "split.classes=[1e3,null,true,2024_01,'a b',b c]"])
    assert vars(config.dataset)["root"] == "1_0"
    assert config.split.classes == ["1e3", "null", "true", "2024_01", "a b", "b c"]
    assert point.label == "dataset.root=1_0"


TEXTS = [
    "1shot", "a b", "it's", "x=y", "", "null", "NULL", "1", "-1", "5e3", "2024_01_15", "007", "true", "False", "nan",
    "a,b", "[x]", "\\", "a\\'b", "\\\\'", "a\\", "é", "~/x", "/a/b-c", "  x ", "a#b", "line\nbreak", "12:30", "${x}",
]  # fmt: skip


@cases("text", ids=repr)(*TEXTS)
def test_text_survives_hydras_grammar(text):
    for value, expected in ((text, [text]), ((text, "b"), [text, "b"])):
        key = "dataset.root" if value == text else "split.classes"
        (line,) = keep_text([override_text(key, value)])
        read = OverridesParser.create().parse_override(line).value()
        assert [getattr(each, "text", each) for each in (read if isinstance(read, list) else [read])] == expected


@cases("value", ids=repr)(0, -1, 0.25, 1e-07, True, False, None, ())
def test_other_values_survive_hydras_grammar(value):
    read = OverridesParser.create().parse_override(override_text("key", value)).value()
    assert (read, type(read)) == (([], list) if value == () else (value, type(value)))


def test_composing_many_equals_what_hydra_composes():
    lines = [
        ["seed=3", "shots=1shot", "matcher.merging=hard"],
        ["seed=4", "shots=1shot", "split.classes=[cat,'b c']", "visualisation.max_images=null"],
        ["experiment=ntt_reference", "seed=5"],
    ]
    with hydra_session():
        expected = [from_hydra(compose_lines(keep_text(line))) for line in lines]
    assert compose_many(lines) == expected


@pytest.mark.slow
@cases("launcher")("basic", "submitit_local")
def test_a_multirun_shares_store_and_directories_with_everything_else(launcher, tmp_path):
    data = make_tiny(tmp_path / "tiny")
    roots = [f"runtime.{name}_root={tmp_path}/{name}" for name in ("output", "store", "cache")]
    settings = ["dataset=coco_json", f"dataset.root={data}", *SMALL, "visualisation.enabled=false", *roots]
    extra = [] if launcher == "basic" else [f"hydra/launcher={launcher}", "hydra.launcher.timeout_min=20"]
    words = [PROJECT_DIR / "main.py", "--multirun", *settings, "seed=0,1", "shots=1shot,2shot", *extra]
    done = run_python(*words, cwd=tmp_path, PYTHONWARNINGS="ignore")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Means over seeds, comparisons, plots: ntt report {tmp_path / 'output'}" in done.stdout
    points = [[*settings, f"seed={seed}", f"shots={shots}shot"] for seed in (0, 1) for shots in (1, 2)]
    folders = {run_directory(compose_config(point)) for point in points}
    assert len(folders) == 4
    assert all((folder / "metrics.json").is_file() for folder in folders)
    assert {path.parent for path in (tmp_path / "output").rglob("metrics.json")} == folders
    assert len(list((tmp_path / "store" / "candidates").rglob("*.safetensors"))) == 4
    sweep = tmp_path / "same.yaml"
    sweep.write_text("axes: {shots: [1shot, 2shot], seed: [0, 1]}")
    _, plan = plan_file(sweep, settings)
    assert all(point.finished for point in plan.points)
    assert [unit.num_missing for unit in plan.units] == [0, 0]
