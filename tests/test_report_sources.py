"""Reports on sweeps, whose missing points are known, and beside published values."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from conftest import cases
from report_samples import box_metrics, make_runs, mean_of
from sweep_samples import make_plan, make_point

from ntt.config.compose import compose_many
from ntt.config.identity import run_directory, run_id
from ntt.reports import expected
from ntt.reports.content import results_table
from ntt.reports.expected import ExpectedResult, expected_table
from ntt.reports.summary import runs_frame
from ntt.reports.tables import Table
from ntt.run.artefacts import write_metrics
from ntt.run.rundir import RunDirectory
from ntt.sweeps.plan import read_plan, write_plan
from ntt.sweeps.records import read_runs
from ntt.sweeps.state import SweepFolder, TaskState
from ntt.sweeps.worker import point_config


def make_sweep(root: Path, lines: list[str]) -> tuple[SweepFolder, list[str]]:
    """A sweep's folder with one planned point per command line, and the points' ids."""
    overrides = [(*line.split(), f"runtime.output_root={root}") for line in lines]
    points = [
        make_point(run_id(config), run_directory(config).absolute(), settings={"seed": index}, overrides=words)
        for index, (words, config) in enumerate(zip(overrides, compose_many(overrides), strict=True))
    ]
    folder = SweepFolder(root / "sweeps" / "small")
    write_plan(folder, make_plan("small", points))
    return folder, [point.id for point in points]


def test_every_point_of_a_sweep_has_a_record(tmp_path):
    lines = [f"seed={seed}" for seed in range(5)]
    folder, ids = make_sweep(tmp_path, lines)
    make_runs(tmp_path, {"seed=0": box_metrics(10), "seed=1": None, "seed=2": None, "seed=9": box_metrics(99)})
    folder.write_state(ids[2], TaskState(status="failed", error="DataError: no image\nmore"))
    folder.write_state(ids[3], TaskState(status="failed", error="StorageError: disk full"))
    folder.write_state(ids[1], TaskState(status="cancelled"))
    runs = read_runs([folder.root])
    assert runs[["seed", "state", "problem"]].values.tolist() == [
        [0, "finished", ""],
        [1, "unfinished", "it has no metrics yet; the sweep reports: cancelled"],
        [2, "failed", "DataError: no image"],
        [3, "failed", "StorageError: disk full"],
        [4, "missing", "it has not begun"],
    ]
    assert mean_of(runs, "bbox/AP") == (10.0, None, 1)
    assert results_table(runs, "bbox/AP").frame.runs.tolist() == ["1 of 5"]


def test_a_report_on_a_sweep_that_has_not_begun(tmp_path, cli):
    folder, _ = make_sweep(tmp_path, ["seed=0", "seed=1"])
    out = cli("report", folder.root, "--html", tmp_path / "page.html")
    assert "| 0 of 2 |" in out
    assert "Without a result: 2 of 2 runs" in out
    text = (tmp_path / "page.html").read_text()
    assert "0 of 2 runs finished" in text
    assert 'id="gallery"' not in text
    assert 'id="plots"' not in text


def test_points_are_tracked_under_the_name_of_the_sweep_and_listed_if_they_no_longer_compose(tmp_path):
    folder, ids = make_sweep(tmp_path, ["seed=0", "seed=1 tracker.group=mine"])
    plan = read_plan(folder)
    assert [point_config(plan, plan.point(point)).tracker.group for point in ids] == ["small", "mine"]
    folder, _ = make_sweep(tmp_path, ["seed=0"])
    text = folder.plan.read_text()
    folder.plan.write_text(text.replace('"seed=0"', '"matcher=gone"'))
    (row,) = read_runs([folder.root]).itertuples()
    assert (row.state, row.seed is pd.NA) == ("missing", True)
    assert "it has not begun, and cannot" in row.problem


ROW = {"experiment": "row", "overrides": ("backbone=efficientnet_lite0",), "table": "t", "dataset": "demo"}
PUBLISHED = ExpectedResult(**ROW, metric="bbox/AP", value=20.0, tolerance=0.5, seeds=(0, 1))


@pytest.fixture
def published(monkeypatch) -> list[ExpectedResult]:
    """Published numbers, of an experiment that is the default one at one shot; tests may change them."""
    (config,) = compose_many([["shots=1shot"]])
    results = [PUBLISHED]
    monkeypatch.setattr(expected, "load_expected", lambda: results)
    monkeypatch.setattr(expected, "compose_many", lambda lines: [config] * len(lines))
    return results


def verdict(root: Path) -> list[str]:
    """What the only row says: ours, theirs, tolerance, difference, verdict."""
    row = {column.name: column.texts[0] for column in expected_table(read_runs([root])).columns()}
    return [row.get(name, "–") for name in ("ours", "theirs", "tolerance", "difference", "verdict")]


def expected_of_nothing() -> Table:
    return expected_table(runs_frame([]))


@cases("ap", "difference", "word")(
    (20.5, "+0.5", "within tolerance"),
    (19.5, "−0.5", "within tolerance"),
    (19.4, "−0.6", "below"),
    (20.6, "+0.6", "above"),
)
@pytest.mark.usefixtures("published")
def test_verdicts(tmp_path, ap, difference, word):
    runs = {f"seed={seed} shots=1shot runtime.threads=2": box_metrics(ap) for seed in (0, 1)}
    make_runs(tmp_path, {**runs, "seed=2 shots=1shot": box_metrics(90), "seed=0 shots=5shot": box_metrics(90)})
    assert verdict(tmp_path) == [f"{ap} ± 0.0 (2)", "20.0", "0.5", difference, word]


def test_rows_without_a_verdict(tmp_path, published):
    assert expected_of_nothing().notes[-1] == "1 published numbers: not run 1. Rows without one: 0."
    make_runs(tmp_path, {"seed=1 shots=1shot": box_metrics(20)})
    assert verdict(tmp_path)[-1] == "incomplete: 1 of 2 seeds"
    make_runs(tmp_path, {"seed=0 shots=1shot": box_metrics(20)})
    published[0] = replace(PUBLISHED, value=None, tolerance=None)
    assert verdict(tmp_path)[1:] == ["–", "–", "–", "nothing published"]
    assert expected_of_nothing().notes[-1] == "0 published numbers: none. Rows without one: 1."


@pytest.mark.usefixtures("published")
def test_a_run_of_the_experiment_with_other_settings_is_named(tmp_path):
    (config,) = compose_many([["shots=1shot", "matcher.merging=hard"]])
    directory = RunDirectory(tmp_path / "run")
    directory.write_config(replace(config, experiment="row"))
    write_metrics(directory.metrics, box_metrics(20))
    assert verdict(tmp_path) == ["–", "20.0", "0.5", "–", "not run: run with another matcher.merging"]
    other_row = replace(config.backbone, input_size=224)
    directory.write_config(replace(config, experiment="row", backbone=other_row))
    assert verdict(tmp_path)[-1] == "not run", "a run of another row of the same experiment"


def test_every_published_number_has_a_row():
    table = expected_of_nothing()
    published = table.frame.theirs.notna().sum()
    assert len(table.frame) > 70
    assert 0 < published < len(table.frame)
    assert set(table.frame.verdict) == {"not run"}
    assert f"{published} published numbers: not run {published}." in table.notes[1]
