"""A setting that decides results changes the run's directory and id, its keys and the reports; another changes none."""

from dataclasses import fields, is_dataclass, make_dataclass, replace
from inspect import signature
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from tiny_data import make_tiny

from ntt.base.settings import setting
from ntt.config import registry
from ntt.config.compose import compose_config
from ntt.config.identity import experiment_settings, run_directory, run_id, run_identity
from ntt.config.registry import option_schemas
from ntt.config.schema import STAGES, ExperimentConfig
from ntt.errors import ConfigError
from ntt.reports.records import read_run
from ntt.run import stages
from ntt.run.pipeline import Pipeline
from ntt.run.rundir import RunDirectory
from ntt.run.shared import Workspace

AFTER_MATCHING = {"matching", "visualisation", "thresholds", "evaluation"}
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
        "reference entry": run.models.encoder.key(instance, run.references.images[instance.image_id]),
        "candidate entry": run.models.source.key(run.targets[0]),
    }


@pytest.mark.parametrize("group", REACH)
def test_a_new_setting_changes_every_key_it_decides(
    config: ExperimentConfig, workspace: Workspace, group: str, tmp_path: Path
):
    before = identities(config, workspace, tmp_path)
    after = identities(with_new_field(config, group), workspace, tmp_path)
    changed = {name for name, value in after.items() if value != before[name]}
    assert changed == {"directory", "id", "report"} | REACH[group]


@pytest.mark.parametrize("group", REACH)
def test_a_new_setting_that_decides_nothing_changes_no_key(
    config: ExperimentConfig, workspace: Workspace, group: str, tmp_path: Path
):
    before = identities(config, workspace, tmp_path)
    assert identities(with_new_field(config, group, decides=False), workspace, tmp_path) == before


@pytest.mark.parametrize("group", ["dataset", "backbone", "segmenter", "matcher"])
def test_options_of_one_name_and_two_kinds_are_two_runs(config: ExperimentConfig, group: str):
    option = getattr(config, group)
    kind = type("Other", (type(option),), {"SCHEMA": "other"})
    other = replace(config, **{group: kind(**{field.name: getattr(option, field.name) for field in fields(option)})})
    assert run_directory(other) != run_directory(config)
    assert run_identity(other)["settings"] != run_identity(config)["settings"]


def test_two_schemas_of_one_name_are_refused(monkeypatch):
    monkeypatch.setattr("ntt.matchers.nearest.NearestMatcher.SCHEMA", "kmeans")
    with pytest.raises(
        ConfigError, match=r"ntt\.matchers\.kmeans and ntt\.matchers\.nearest both have SCHEMA = 'kmeans'"
    ):
        option_schemas(*registry.OPTION_GROUPS["matcher"])


def test_every_group_has_been_thought_of(config: ExperimentConfig):
    groups = {field.name for field in fields(config) if is_dataclass(getattr(config, field.name))}
    assert groups == {*REACH, "tracker", "visualisation"}


@pytest.mark.parametrize("group", ["tracker", "visualisation"])
def test_what_is_drawn_and_who_is_told_decides_no_result(config: ExperimentConfig, group: str):
    assert run_id(with_new_field(config, group)) == run_id(config)


def test_places_do_not_decide(config: ExperimentConfig):
    elsewhere = replace(config.runtime, name="x", store_root="/elsewhere", weights_root="/w", dist_timeout_s=7)
    assert run_id(replace(config, runtime=elsewhere, stage="memory", experiment="row")) == run_id(config)


def test_an_experiment_is_the_same_with_any_seed_on_any_machine(config: ExperimentConfig):
    def experiment(changed: ExperimentConfig) -> dict[str, Any]:
        return experiment_settings(run_identity(changed)["settings"])

    moved = replace(config, dataset=replace(config.dataset, root="/elsewhere"))
    assert experiment(replace(moved, seed=3, runtime=replace(config.runtime, threads=2))) == experiment(config)
    assert experiment(replace(config, memory=replace(config.memory, context_ratio=0.3))) != experiment(config)


def test_the_table_of_stages_has_the_configurations_names():
    assert tuple(stage.name for stage in stages.STAGES) == STAGES


OPTIONS = [
    schema
    for group in ("dataset", "backbone", "segmenter", "matcher")
    for schema in option_schemas(*registry.OPTION_GROUPS[group]).values()
]


@pytest.mark.parametrize("schema", OPTIONS, ids=lambda schema: schema.__name__)
def test_no_option_lists_its_settings_twice(schema: type):
    build = getattr(schema, "build", None)
    if build is None:  # the settings are the fields of the object itself
        return
    built = get_type_hints(build)["return"]
    repeated = {field.name for field in fields(schema)} & set(signature(built.__init__).parameters)
    assert not repeated
