"""Settings have ranges; those that decide results change a run's directory, its keys and the reports, others none."""

from dataclasses import dataclass, field, fields, is_dataclass, make_dataclass, replace
from inspect import signature
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from conftest import cases
from tiny_data import make_tiny

from ntt.base.settings import deciding_settings, setting, setting_problems
from ntt.config import registry
from ntt.config.compose import compose_config
from ntt.config.identity import experiment_settings, run_directory, run_id, run_settings
from ntt.config.registry import option_schemas
from ntt.config.schema import STAGES, ExperimentConfig
from ntt.datasets.base import DatasetConfig
from ntt.datasets.folders import CocoJsonConfig
from ntt.errors import ConfigError, raise_all
from ntt.matchers.auto import AutoMatcher
from ntt.matchers.scoring import DetectingMatcher
from ntt.models.backbones.base import BackboneConfig
from ntt.models.segmenters.base import SegmenterConfig
from ntt.reports.records import read_run
from ntt.run import stages
from ntt.run.pipeline import Pipeline
from ntt.run.rundir import RunDirectory
from ntt.run.shared import Workspace

AFTER_MATCHING = {"matching", "counts", "visualisation", "thresholds", "evaluation"}
AFTER_MEMORY = {"memory", "leave_one_out", "prototypes", *AFTER_MATCHING}
AFTER_CANDIDATES = {"leave_one_out", "candidates", *AFTER_MATCHING}
# The stages and the entries of the store whose keys follow from each group's settings.
REACH: dict[str, set[str]] = {
    "dataset": set(),
    "backbone": AFTER_MEMORY | AFTER_CANDIDATES | {"proposals", "reference entry", "candidate entry"},
    "segmenter": AFTER_CANDIDATES | {"proposals", "candidate entry"},
    "shots": AFTER_MEMORY | {"references"},
    "split": set(),
    "matcher": {"leave_one_out", "prototypes", *AFTER_MATCHING},
    "runtime": set(),
    "memory": AFTER_MEMORY | {"reference entry"},
    "candidates": AFTER_CANDIDATES | {"proposals", "candidate entry"},
    "evaluation": {"evaluation"},
}


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> ExperimentConfig:
    root = make_tiny(tmp_path_factory.mktemp("data") / "tiny")
    return compose_config(["dataset=coco_json", f"dataset.root={root}", "shots=1shot"])


@pytest.fixture(scope="module")
def workspace() -> Workspace:
    return Workspace()


def with_new_field(config: ExperimentConfig, group: str, **metadata: Any) -> ExperimentConfig:
    """Add a field to the schema of a group."""
    settings = getattr(config, group)
    schema = make_dataclass(
        "Extended", [("added", int, setting(1, **metadata))], bases=(type(settings),), frozen=True, kw_only=True
    )
    values = {field.name: getattr(settings, field.name) for field in fields(settings)}
    return replace(config, **{group: schema(**values)})


def identities(config: ExperimentConfig, workspace: Workspace, folder: Path) -> dict[str, Any]:
    run = Pipeline(config, workspace=workspace)
    directory = RunDirectory(folder)
    directory.write_config(config)
    (instance,) = run.references.instances[0]
    return {
        "directory": run_directory(config),
        "id": run_id(config),
        "report": read_run(folder)["settings"],
        **{stage.name: run.key(stage) for stage in stages.STAGES},
        "reference entry": run.encoder.key(instance, run.references.images[instance.image_id]),
        "candidate entry": run.models.source.key(run.targets[0]),
    }


@cases("group")(*REACH)
def test_a_new_setting_changes_every_key_it_decides_and_no_other(config, workspace, group, tmp_path):
    before = identities(config, workspace, tmp_path)
    after = identities(with_new_field(config, group), workspace, tmp_path)
    changed = {name for name, value in after.items() if value != before[name]}
    assert changed == {"directory", "id", "report"} | REACH[group]
    assert identities(with_new_field(config, group, decides=False), workspace, tmp_path) == before


@cases("group")("dataset", "backbone", "segmenter", "matcher")
def test_options_of_one_name_and_two_kinds_are_two_runs(config, group):
    option = getattr(config, group)
    kind = type("Other", (type(option),), {"SCHEMA": "other"})
    other = replace(config, **{group: kind(**{field.name: getattr(option, field.name) for field in fields(option)})})
    assert run_directory(other) != run_directory(config)
    assert run_settings(other) != run_settings(config)
    first, second = (AutoMatcher(name="auto", choices={"ntt": each}) for each in (option, getattr(other, group)))
    assert first.fingerprint != second.fingerprint
    assert run_id(replace(config, matcher=first)) != run_id(replace(config, matcher=second))


def test_two_schemas_of_one_name_are_refused(monkeypatch):
    monkeypatch.setattr("ntt.matchers.graph_diffusion.GraphDiffusionMatcher.SCHEMA", "kmeans")
    with pytest.raises(
        ConfigError, match=r"graph_diffusion and ntt\.matchers\.several_prototypes both have SCHEMA = 'k"
    ):
        option_schemas(*registry.OPTION_GROUPS["matcher"])


@cases("group", "base", "methods")(
    ("dataset", DatasetConfig, "locate"),
    ("backbone", BackboneConfig, "build"),
    ("segmenter", SegmenterConfig, "build"),
    ("matcher", DetectingMatcher, "build_prototypes, class_scores, merge"),
)
def test_incomplete_options_are_refused(group, base, methods, monkeypatch):
    undecorated, bare = (type("Mine", (base,), {"SCHEMA": "mine", "__module__": "own"}) for _ in range(2))
    decorated = dataclass(frozen=True, kw_only=True)(bare)
    for option, message in ((undecorated, "Mine needs the decorator @dataclass"), (decorated, f"Define {methods}, as")):
        monkeypatch.setattr(f"{base.__module__}.Mine", option, raising=False)
        with pytest.raises(ConfigError, match=rf"^own\.Mine.*{message}"):
            option_schemas(*registry.OPTION_GROUPS[group])


def test_every_group_and_stage_has_been_thought_of(config):
    groups = {field.name for field in fields(config) if is_dataclass(getattr(config, field.name))}
    assert groups == {*REACH, "tracker", "visualisation"}
    assert tuple(stage.name for stage in stages.STAGES) == STAGES


@cases("group")("tracker", "visualisation")
def test_what_is_drawn_and_who_is_told_decides_no_result(config, group):
    assert run_id(with_new_field(config, group)) == run_id(config)


def test_an_experiment_is_the_same_with_any_seed_on_any_machine(config):
    elsewhere = replace(config.runtime, name="x", store_root="/elsewhere", weights_root="/w", dist_timeout_s=7)
    assert run_id(replace(config, runtime=elsewhere, stage="memory", experiment="row")) == run_id(config)

    def experiment(changed: ExperimentConfig) -> dict[str, Any]:
        return experiment_settings(run_settings(changed))

    moved = replace(config, dataset=replace(config.dataset, root="/elsewhere"))
    assert experiment(replace(moved, seed=3, runtime=replace(config.runtime, threads=2))) == experiment(config)
    assert experiment(replace(config, memory=replace(config.memory, context_ratio=0.3))) != experiment(config)


OPTIONS = [
    schema
    for group in ("dataset", "backbone", "segmenter", "matcher")
    for schema in option_schemas(*registry.OPTION_GROUPS[group]).values()
]


@cases("schema", ids=lambda schema: schema.__name__)(*OPTIONS)
def test_no_option_lists_its_settings_twice(schema):
    build = getattr(schema, "build", None)
    if build is None:  # the settings are the fields of the object itself
        return
    built = get_type_hints(build)["return"]
    repeated = {field.name for field in fields(schema)} & set(signature(built.__init__).parameters)
    assert not repeated


@dataclass(frozen=True)
class Inner:
    share: float = setting(0.5, ge=0, le=1)
    label: str = setting("a", decides=False)


@dataclass(frozen=True)
class Outer:
    inner: Inner = field(default_factory=Inner)
    way: str = setting("fast", one_of=("fast", "slow"))
    count: int | None = setting(1, ge=1)
    weight: float = setting(0.5, gt=0, lt=1)


def test_defaults_pass_and_paths_are_absolute_in_digests():
    assert setting_problems(Outer()) == []
    assert setting_problems(Outer(count=None)) == []
    assert deciding_settings(Outer()) == {"inner": {"share": 0.5}, "way": "fast", "count": 1, "weight": 0.5}

    @dataclass(frozen=True)
    class Files:
        root: str | None = setting("data", path=True)

    assert deciding_settings(Files()) == {"root": str(Path("data").absolute())}
    assert deciding_settings(Files(root="x/../data/")) == deciding_settings(Files())
    assert CocoJsonConfig(name="coco_json", root="data/x/..").label() == "data"
    assert deciding_settings(Files(root=None)) == {"root": None}


@cases("settings", "problem")(
    (Outer(inner=Inner(share=1.5)), "inner.share=1.5 is invalid. Allowed: 0 to 1."),
    (Outer(inner=Inner(share=float("nan"))), "inner.share=nan is invalid. Allowed: 0 to 1."),
    (Outer(way="swift"), "way=swift is invalid. Allowed: one of fast, slow."),
    (Outer(count=0), "count=0 is invalid. Allowed: 1 or more."),
    (Outer(count=10**30), f"count={10**30} is invalid. Allowed: at most 9,223,372,036,854,775,807."),
    (Outer(weight=float("inf")), "weight=inf is invalid. Allowed: more than 0 to less than 1."),
    (Outer(weight=0.0), "weight=0.0 is invalid. Allowed: more than 0 to less than 1."),
    (Outer(weight=1.0), "weight=1.0 is invalid. Allowed: more than 0 to less than 1."),
)
def test_a_value_out_of_range_is_named_with_what_is_allowed(settings, problem):
    assert setting_problems(settings) == [problem]
    assert setting_problems(settings, "group") == [f"group.{problem}"]


def test_values_with_one_range_are_reported_together_and_once():
    lowest = {"shots.count": "1", "matcher.temperature": "0.1", "num_workers": "1"}
    problems = [f"{name}=0 is invalid. Allowed: {low} or more." for name, low in lowest.items()]
    with pytest.raises(ConfigError) as caught:
        raise_all(problems * 2, ConfigError, summary="Some settings are wrong")
    assert str(caught.value).splitlines() == [
        "Some settings are wrong (2 problems):",
        f"  - {problems[0]} The same holds for 1 more (num_workers=0).",
        f"  - {problems[1]}",
    ]
