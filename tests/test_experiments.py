"""The overlays of the published tables: they exist, they compose, their commands run, and sweeps run each table."""

import itertools
import json
import re
from pathlib import Path

import pytest
import yaml
from conftest import PROJECT_DIR, cases
from miniatures import make_miniatures
from tiny_data import SMALL

from ntt.base.project import CONF_DIR
from ntt.cli.main import main
from ntt.config import schema as config
from ntt.config.compose import compose_many
from ntt.config.identity import run_directory
from ntt.datasets.published.details import known_datasets
from ntt.reports.expected import load_expected
from ntt.run import runner
from ntt.sweeps.spec import read_spec

ROWS = {result.row: result for result in load_expected()}
TABLES = list(dict.fromkeys(result.table for result in ROWS.values()))
SECONDS_PER_IMAGE = 0.9292  # what the authors state for their program on an A100, candidates and matching together
EXPERIMENTS = CONF_DIR.parent / "experiments"
FILES = {path.stem: path for path in (EXPERIMENTS / "experiment").glob("*.yaml")}
EMBEDDED = ("backbone=efficientnet_lite0", "segmenter=regions", "visualisation.enabled=false", "shots.strict=false")


def values(row: str) -> dict[str, float | None]:
    """The published numbers of a row, by metric."""
    return {result.metric: result.value for result in load_expected() if result.row == row}


def check_row(row: str, composed: config.ExperimentConfig) -> None:
    result = ROWS[row]
    assert composed.experiment == result.experiment
    assert composed.dataset.name == result.dataset
    assert composed.seed == result.seeds[0]
    assert composed.matcher.name == "ntt_reference"
    assert vars(composed.matcher)["on_empty"] == "empty"
    assert vars(composed.matcher)["box_convention"] == "reference"
    assert composed.candidates.feature_dtype == "float32"
    shots = re.search(r"shots=(\d+)shot$", row)
    assert composed.shots.count == (int(shots[1]) if shots else 10)
    assert composed.shots.sampler == ("reference" if result.dataset in ("coco", "lvis", "lvis_minival") else "fixed")
    on_lvis = result.dataset.startswith("lvis")
    assert (composed.evaluation.protocol, vars(composed.matcher)["max_detections"]) == (
        ("lvis", 300) if on_lvis else ("coco", 100)
    )
    assert composed.evaluation.semantic == ("reference" if result.table == "coco20i" else "none")
    assert composed.published is not None
    assert [row["overrides"] for row in composed.published["rows"]].count(list(result.overrides)) == 1


def test_experiments_compose_as_their_first_rows_and_what_is_published_does_not_decide():
    first = {result.experiment: result for result in reversed(load_expected())}
    assert {*first, "ntt_reference"} == set(FILES)
    for result, composed in zip(first.values(), compose_many([r.command_line for r in first.values()]), strict=True):
        check_row(result.row, composed)
    lines = ["experiment=merging", "matcher.merging=soft_semantic"], ["experiment=coco_novel20"]
    merging, main_table = compose_many(lines)
    assert run_directory(merging) == run_directory(main_table)
    assert merging.published != main_table.published


@pytest.mark.slow
def test_every_row_composes():
    for row, composed in zip(ROWS, compose_many([result.command_line for result in ROWS.values()]), strict=True):
        check_row(row, composed)


@cases("table")(*TABLES)
def test_a_sweep_runs_every_row_of_a_table(table):
    spec = read_spec(CONF_DIR.parent / "sweeps" / f"table_{table}.yaml")
    axes = dict(spec.axes)
    seeds = {result.seeds for result in load_expected() if result.table == table}
    assert {tuple(map(int, axes.pop("seed", min(seeds))))} == seeds
    points = itertools.product(*([f"{key}={value}" for value in values] for key, values in axes.items()))
    expected = {frozenset(result.command_line) for result in ROWS.values() if result.table == table}
    assert {frozenset(point) for point in points} == expected


def test_values_agree_with_the_reference_numbers(shared_dir):
    numbers = json.loads((shared_dir / "reference_numbers.json").read_text())
    study = numbers["coco_novel20_ten_seeds"]
    for shots, (mean, std) in study["box_mean_std"].items():
        (box,) = [r for r in load_expected() if (r.row, r.metric) == (f"coco_ten_seeds shots={shots}shot", "bbox/AP")]
        assert (box.value, box.tolerance, list(box.seeds)) == (mean, std, study["seeds"])
        assert values(box.row)["segm/AP"] == study["segm_mean_std"][shots][0]
    for shots, published in numbers["coco_novel20_box"]["ntt"].items():
        row = values(f"coco_novel20 shots={shots}shot")
        assert [row[f"bbox/{name}"] for name in ("AP", "AP50", "AP75")] == published
    voc = numbers["voc_nap50"]
    for split in (1, 2, 3):
        rows = [values(f"voc split=voc_split{split} shots={shots}shot") for shots in voc["shots"]]
        assert [row["bbox/AP50"] for row in rows] == voc["ntt"][f"split{split}"]
    benchmark = numbers["cdfsod_box_map"]
    for shots, published in benchmark["ntt"].items():
        names = [name.lower().replace("-", "_") for name in benchmark["datasets"][:6]]
        assert [values(f"cdfsod_{name} shots={shots}shot")["bbox/AP"] for name in names] == published[:6]
    for name, value in numbers["merging_ablation_coco10_box"].items():
        assert values(f"merging matcher.merging={name}") == {"bbox/AP": value}
    assert numbers["seconds_per_image_a100"]["ntt"] == SECONDS_PER_IMAGE


def test_values_have_sources_and_the_hours_in_the_docs_follow_from_them():
    for path in FILES.values():
        published = yaml.safe_load(path.read_text()).get("published", {"rows": []})
        assert all(({**published, **row}["source"]) for row in published["rows"])
    for result in load_expected():
        assert (result.value is None) == (result.tolerance is None)
        assert result.tolerance is None or result.tolerance > 0
        assert result.dataset in known_datasets()
    text = (PROJECT_DIR / "docs" / "experiments.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `sweeps/table_(\w+)\.yaml` \|[^|]*\| ([\d,]+) \| ([\d.]+) \|", text, flags=re.MULTILINE)
    assert {table for table, _, _ in rows} == set(TABLES)
    for table, images, hours in rows:
        expected = int(images.replace(",", "")) * SECONDS_PER_IMAGE / 3600
        assert float(hours) == pytest.approx(expected, abs=0.051), table


@pytest.fixture(scope="session")
def data_root(tmp_path_factory) -> Path:
    """The miniatures of all data sets."""
    return make_miniatures(tmp_path_factory.mktemp("published"))[0]


@pytest.fixture(scope="session")
def output(tmp_path_factory) -> Path:
    """One output folder, so that all rows share one store."""
    return tmp_path_factory.mktemp("out")


def places(data_root: Path, output: Path) -> list[str]:
    roots = {"data": data_root, "output": output, "store": output / "store"}
    return [f"runtime.{name}_root={path}" for name, path in roots.items()]


@pytest.mark.slow
@cases("row")(*ROWS)
def test_a_row_runs_on_its_miniature(row, data_root, output):
    (composed,) = compose_many([[*ROWS[row].command_line, *EMBEDDED, *SMALL, *places(data_root, output)]])
    runner.run(composed)
    overall = json.loads((run_directory(composed) / "metrics.json").read_text())["overall"]
    for metric in values(row):
        kind, name = metric.split("/")
        assert name in overall[kind]


@pytest.mark.slow
def test_the_sweep_of_a_table_runs_on_a_miniature(data_root, tmp_path, capsys, cli):
    words = [*EMBEDDED, *SMALL, *places(data_root, tmp_path)]
    file = str(CONF_DIR.parent / "sweeps" / "table_merging.yaml")
    assert main(["sweep", "run", file, *words, "--output-root", str(tmp_path)]) == 0
    assert len(list(tmp_path.rglob("metrics.json"))) == 3
    capsys.readouterr()
    (line,) = [
        line for line in cli("report", tmp_path, "--expected").splitlines() if "merging=hard" in line and "31.2" in line
    ]
    assert "not run" in line
