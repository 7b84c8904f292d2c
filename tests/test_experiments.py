"""The overlays of the published tables: they exist, they compose, their commands run, and sweeps run each table."""

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml
from conftest import PROJECT_DIR
from miniatures import CDFSOD, COCO_LIKE, make_miniature

from ntt.cli.main import main
from ntt.config import schema as config
from ntt.config.compose import compose_many
from ntt.config.explain import group_options
from ntt.config.identity import run_directory
from ntt.datasets.published.details import known_datasets
from ntt.datasets.published.voc import convert_devkit, write_kshot_files
from ntt.reports.published import expected_tables, load_expected, published_seconds_per_image
from ntt.run import runner
from ntt.sweeps.spec import read_spec

EXPECTED = load_expected()
ROWS = {result.experiment: result for result in EXPECTED.values()}
FOLDER = PROJECT_DIR / "experiments" / "experiment"
EMBEDDED = ("backbone=efficientnet_lite0", "segmenter=regions", "visualisation.enabled=false", "shots.strict=false")
CHEAP = (
    "backbone.input_size=224",
    "segmenter.canvas_side=192",
    "segmenter.mask_side=96",
    "segmenter.leaves=200",
    "segmenter.max_masks=50",
)


def test_every_row_has_an_overlay_and_the_other_way_round():
    assert {path.stem for path in FOLDER.glob("*.yaml")} == {*ROWS, "ntt_reference"}


def test_every_overlay_carries_its_own_name_and_known_options():
    for path in FOLDER.glob("*.yaml"):
        content = yaml.safe_load(path.read_text())
        assert content["experiment"] == path.stem
        chosen = [entry for entry in content["defaults"] if isinstance(entry, dict)]
        for entry in chosen:
            ((group, option),) = entry.items()
            assert option in group_options(group.removeprefix("override /")), path.name
        bases = [entry for entry in content["defaults"] if isinstance(entry, str)]
        assert all((PROJECT_DIR / "experiments" / f"{base.lstrip('/')}.yaml").is_file() for base in bases)


def check_row(experiment: str, made: config.ExperimentConfig) -> None:
    row = ROWS[experiment]
    assert made.experiment == experiment
    assert made.dataset.name == row.dataset
    assert made.seed == row.seeds[0]
    assert made.matcher.name == "ntt_reference"
    assert vars(made.matcher)["on_empty"] == "empty"
    assert vars(made.matcher)["box_convention"] == "reference"
    assert made.candidates.feature_dtype == "float32"
    shots = re.search(r"_(\d+)shot$", experiment)
    assert made.shots.count == (int(shots[1]) if shots else 10)
    assert made.shots.sampler == ("reference" if row.dataset in ("coco", "lvis", "lvis_minival") else "fixed")
    split = re.search(r"(split\d|fold\d|rare|common|frequent)", experiment)
    assert split is None or split[1] in made.split.name
    on_lvis = row.dataset.startswith("lvis")
    assert (made.evaluation.protocol, vars(made.matcher)["max_detections"]) == (
        ("lvis", 300) if on_lvis else ("coco", 100)
    )
    assert made.evaluation.semantic == ("reference" if row.table == "coco20i" else "none")


def test_one_row_of_every_table_composes():
    chosen = [experiments[-1] for experiments in expected_tables().values()]
    for experiment, made in zip(chosen, compose_many([[f"experiment={name}"] for name in chosen]), strict=True):
        check_row(experiment, made)


@pytest.mark.slow
def test_every_row_composes():
    for experiment, made in zip(ROWS, compose_many([[f"experiment={name}"] for name in ROWS]), strict=True):
        check_row(experiment, made)


def test_an_overlay_decides_what_it_varies():
    names = [
        "merging_hard",
        "backbone_vits14",
        "segmenter_tiny",
        "grid_16",
        "no_mem_embed_with",
        "no_mem_embed_without",
    ]
    hard, small, tiny, grid, with_embed, without = compose_many([[f"experiment={name}"] for name in names])
    assert vars(hard.matcher)["merging"] == "hard"
    assert (small.backbone.name, small.segmenter.name) == ("dinov2_vits14", "sam2")
    assert vars(tiny.segmenter)["model"] == "sam2_hiera_tiny"
    assert vars(grid.segmenter)["points_per_side"] == 16
    assert vars(with_embed.segmenter)["use_no_mem_embed"] is True
    assert vars(without.segmenter) == {**vars(with_embed.segmenter), "name": "sam2", "use_no_mem_embed": False}
    assert without.backbone.name == "dinov2_vitl14"


def test_the_name_of_an_experiment_does_not_decide_where_a_run_lies():
    words = ["experiment=merging_soft_semantic"], ["experiment=coco_novel20_10shot"]
    one, two = compose_many(words)
    assert run_directory(one) == run_directory(two)


@pytest.mark.parametrize("table", expected_tables())
def test_a_sweep_runs_every_row_of_a_table(table: str):
    spec = read_spec(PROJECT_DIR / "sweeps" / f"table_{table}.yaml")
    assert spec.axes["experiment"] == expected_tables()[table]
    seeds = ROWS[expected_tables()[table][0]].seeds
    assert spec.axes.get("seed", seeds[:1]) == seeds


def test_values_agree_with_the_reference_numbers(shared_dir: Path):
    numbers = json.loads((shared_dir / "reference_numbers.json").read_text())
    study = numbers["coco_novel20_ten_seeds"]
    for shots, (mean, std) in study["box_mean_std"].items():
        row = EXPECTED[f"coco_ten_seeds_{shots}shot:bbox/AP"]
        assert (row.value, row.std, list(row.seeds)) == (mean, std, study["seeds"])
        assert EXPECTED[f"coco_ten_seeds_{shots}shot:segm/AP"].value == study["segm_mean_std"][shots][0]
    for shots, values in numbers["coco_novel20_box"]["ntt"].items():
        found = [EXPECTED[f"coco_novel20_{shots}shot:bbox/{name}"].value for name in ("AP", "AP50", "AP75")]
        assert found == values
    voc = numbers["voc_nap50"]
    for split in (1, 2, 3):
        found = [EXPECTED[f"voc_split{split}_{shots}shot:bbox/AP50"].value for shots in voc["shots"]]
        assert found == voc["ntt"][f"split{split}"]
    benchmark = numbers["cdfsod_box_map"]
    for shots, values in benchmark["ntt"].items():
        names = [name.lower().replace("-", "_") for name in benchmark["datasets"][:6]]
        assert [EXPECTED[f"cdfsod_{name}_{shots}shot:bbox/AP"].value for name in names] == values[:6]
    for name, value in numbers["merging_ablation_coco10_box"].items():
        assert EXPECTED[f"merging_{name}:bbox/AP"].value == value
    assert published_seconds_per_image() == numbers["seconds_per_image_a100"]["ntt"]


def test_a_value_has_a_tolerance_and_a_source():
    for result in EXPECTED.values():
        assert (result.value is None) == (result.tolerance is None)
        assert result.tolerance is None or result.tolerance > 0
        assert result.source
        assert result.overrides == (f"experiment={result.experiment}",)
        assert result.dataset in known_datasets()


def test_the_hours_in_the_docs_follow_from_the_stated_assumption():
    text = (PROJECT_DIR / "docs" / "reproduce.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `sweeps/table_(\w+)\.yaml` \|[^|]*\| ([\d,]+) \| ([\d.]+) \|", text, flags=re.MULTILINE)
    assert [table for table, _, _ in rows] == list(expected_tables())
    for table, images, hours in rows:
        expected = int(images.replace(",", "")) * published_seconds_per_image() / 3600
        assert float(hours) == pytest.approx(expected, abs=0.051), table


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The miniatures of all data sets."""
    root = tmp_path_factory.mktemp("published")
    for option in (*COCO_LIKE, *CDFSOD):
        make_miniature(option, root)
    convert_devkit(root / "voc")
    write_kshot_files(root / "voc", known_datasets()["voc_kshot"].shots)
    return root


@pytest.fixture(scope="session")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One output folder, so that all rows share one store."""
    return tmp_path_factory.mktemp("out")


def places(data_root: Path, output: Path) -> list[str]:
    return [
        f"runtime.data_root={data_root}",
        f"runtime.output_root={output}",
        f"runtime.store_root={output}/store",
    ]


def read_metrics(made: config.ExperimentConfig) -> Mapping[str, Mapping[str, float]]:
    overall: Mapping[str, Mapping[str, float]] = json.loads((run_directory(made) / "metrics.json").read_text())[
        "overall"
    ]
    return overall


@pytest.mark.slow
@pytest.mark.parametrize("experiment", ROWS)
def test_a_row_runs_on_its_miniature(experiment: str, data_root: Path, output: Path):
    (made,) = compose_many([[f"experiment={experiment}", *EMBEDDED, *CHEAP, *places(data_root, output)]])
    runner.run(made)
    overall = read_metrics(made)
    for result in EXPECTED.values():
        if result.experiment == experiment:
            kind, metric = result.metric.split("/")
            assert metric in overall[kind]
    kept = yaml.safe_load((run_directory(made) / "config.yaml").read_text())
    assert kept["experiment"] in expected_tables()[ROWS[experiment].table] or kept["experiment"] in ROWS


@pytest.mark.slow
def test_the_command_of_the_docs_runs_on_a_miniature(data_root: Path, output: Path):
    words = ["experiment=cdfsod_neu_det_5shot", *EMBEDDED, *CHEAP, *places(data_root, output / "command")]
    done = subprocess.run([sys.executable, "main.py", *words], cwd=PROJECT_DIR, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Masks are not evaluated" in done.stdout


@pytest.mark.slow
def test_the_sweep_of_a_table_runs_on_a_miniature(data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = [*EMBEDDED, *CHEAP, *places(data_root, tmp_path)]
    file = str(PROJECT_DIR / "sweeps" / "table_merging.yaml")
    assert main(["sweep", "run", file, *words, "--output-root", str(tmp_path)]) == 0
    assert len(list(tmp_path.rglob("metrics.json"))) == 3
    capsys.readouterr()
    assert main(["report", str(tmp_path), "--expected"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "merging_hard" in line]
    assert "31.2" in line
    assert "not run: run with another backbone" in line
