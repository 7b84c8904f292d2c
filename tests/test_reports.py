"""Records of runs, means over seeds, significance, tables; sweeps' missing points and published values."""

import csv
import io
import math
import os
import re
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import cases, refused
from report_samples import box_metrics, make_runs, mean_of
from sweep_samples import make_plan, make_point

import ntt
from ntt.base.files import read_json, write_json
from ntt.cli.main import main
from ntt.config.compose import compose_many
from ntt.config.identity import run_directory, run_id
from ntt.errors import ConfigError, DataError
from ntt.reports import expected
from ntt.reports.content import classes_table, missing_table, results_table, runs_table
from ntt.reports.expected import ExpectedResult, expected_table
from ntt.reports.records import ALL_SHOTS, read_run
from ntt.reports.significance import comparison_table, paired_test
from ntt.reports.summary import name_series, runs_frame, settings_with
from ntt.reports.tables import Table, escape_latex, render
from ntt.run.table import multirun_table
from ntt.sweeps.plan import read_plan, write_plan
from ntt.sweeps.records import read_runs
from ntt.sweeps.state import SweepFolder, TaskState
from ntt.sweeps.worker import point_config
from ntt.types import ReferenceCheck

METHOD = "efficientnet_lite0 + regions + ntt"
FILES = ("config.yaml", "identity.json", "metrics.json")


def missing(runs: pd.DataFrame) -> pd.DataFrame:
    """The table of runs without a result."""
    table = missing_table(runs)
    assert table is not None
    return table.frame


def test_runs_can_be_loaded_as_a_data_frame(tmp_path):
    runs = {"seed=0": box_metrics(20, segm=15), "seed=1 matcher.merging=soft": box_metrics(10), "seed=2": None}
    folders = make_runs(tmp_path, runs)
    (tmp_path / "code" / "conf").mkdir(parents=True)
    (tmp_path / "code" / "conf" / "config.yaml").write_text("seed: 0")  # a copy of the program is not a run
    runs = ntt.load_runs(tmp_path).set_index("seed")
    first = {"dataset": "demo", "split": "all", "shots": 5, "method": METHOD, "state": "finished", "problem": ""}
    assert runs.loc[0, list(first)].to_dict() == first
    assert (runs.path[0], runs.finished_utc[0][-6:]) == (str(folders["seed=0"]), "+00:00")
    assert runs["bbox/AP"].dropna().to_dict() == {0: 20.0, 1: 10.0}
    assert runs["segm/AP/square"].dropna().to_dict() == {0: 13.0}
    assert runs["seconds/candidates"].dropna().to_dict() == {0: 2.5, 1: 2.5}
    assert runs["matcher.merging"].to_dict() == {0: "soft_semantic", 1: "soft", 2: "soft_semantic"}
    assert runs.counted.to_dict() == {0: True, 1: True, 2: False}
    assert not {"config", "parts", "settings", "runtime.output_root"} & set(runs)


def test_a_run_with_every_reference_has_no_number_of_shots(tmp_path):
    make_runs(tmp_path, {"shots=all": box_metrics(20.0), "shots=1shot": box_metrics(10.0), "shots=all seed=1": None})
    runs = read_runs([tmp_path])
    assert sorted(runs.shots) == [ALL_SHOTS, ALL_SHOTS, 1]
    assert missing(runs).iloc[0, 2:6].tolist() == ["all", METHOD, 1, "unfinished"]
    assert results_table(runs, "bbox/AP").frame.shots.tolist() == ["all", 1]
    assert set(runs_table(runs, "bbox/AP").frame.shots) == {"all", 1}
    (pair,) = comparison_table(runs, "shots=1shot", "shots=all", "bbox/AP").frame.itertuples()
    assert pair[2:8] == ("1 / all", METHOD, 1, 10.0, 20.0, "+10.00")


def test_runs_without_metrics_are_kept_and_damaged_ones_explained(tmp_path):
    damage = {
        2: ('{"overall": ', "metrics.json cannot be read"),
        3: ('{"overall": {"bbox": {"AP": "high"}}}', "does not hold the metrics of a run"),
        4: ('{"overall": {"b": {"AP": NaN}}, "per_class": {}, "num_images": 1, "num_detections": 1}', "not a finite"),
    }
    folders = make_runs(tmp_path, {f"seed={seed}": None if seed == 1 else box_metrics(10) for seed in range(5)})
    for seed, (text, _) in damage.items():
        (folders[f"seed={seed}"] / "metrics.json").write_text(text)
    runs = read_runs([tmp_path, tmp_path / "demo"]).set_index("seed")
    assert runs.state.tolist() == ["finished", "unfinished", "damaged", "damaged", "damaged"]
    assert runs.problem[:2].tolist() == ["", "it has no metrics yet"]
    assert all(problem in runs.problem[seed] for seed, (_, problem) in damage.items())
    assert mean_of(read_runs([tmp_path]), "bbox/AP") == (10.0, None, 1)


CONFIG = "seed: 0\nsplit: {name: all, classes: null}\nshots: {name: 5shot, count: 5, since: 2026-01-01}\n"
CONFIG += "".join(f"{group}: {{name: x}}\n" for group in ("dataset", "backbone", "segmenter", "matcher"))


@cases("config", "problem")(
    ("a: [", "is not readable as YAML"),
    ("a: 1", "dataset, backbone, segmenter, matcher, shots, split, seed is unusable"),
    ("- seed", "is not the configuration of a run"),
    (CONFIG.replace("classes: null", "classes: 5"), "run: split is unusable"),
    (CONFIG.replace("count: 5", "count: many"), "run: shots is unusable"),
)
def test_a_configuration_nobody_can_use(tmp_path, config, problem):
    (tmp_path / "config.yaml").write_text(config)
    (tmp_path / "metrics.json").write_text("{}")
    record = read_run(tmp_path)
    assert record["state"] == "damaged"
    assert problem in record["problem"]
    runs = runs_frame([record])
    assert results_table(runs, "bbox/AP").frame.empty
    assert missing(runs).state.tolist() == ["damaged"]


@cases("name", "content", "problem")(
    ("config.yaml", "seed: &a [*a]", "aliases (*name) are not read"),
    ("config.yaml", "key: sk-SECRET: x", "line 1, is not readable as YAML: mapping values are not allowed here"),
    *((name, "link", "is a link that leads out of the run directory") for name in FILES),
    *((name, "huge", "it has more than 64 MiB") for name in ("config.yaml", "facts.json")),
    ("config.yaml", "pipe", "there is no such file"),
    ("identity.json", "[]", "does not hold the settings of a run"),
    ("metrics.json", "[" * 10**5, "cannot be read: maximum recursion depth"),
)
def test_run_directories_of_others_are_plain_data(tmp_path, name, content, problem):
    (run,) = make_runs(tmp_path / "runs", {"seed=0": box_metrics(10)}).values()
    (tmp_path / "secret").write_text("password: SECRET: x")
    (run / name).unlink()
    if content == "link":
        (run / name).symlink_to(tmp_path / "secret")
    elif content == "pipe":
        os.mkfifo(run / name)
    else:
        (run / name).write_text(content)
    if content == "huge":
        os.truncate(run / name, 65 << 20)
    record = read_run(run)
    assert record["state"] == "damaged"
    assert problem in record["problem"]
    assert "SECRET" not in record["problem"]


@cases("name", "old", "new")(
    ("metrics.json", '"num_images": 4', f'"num_images": {10**30}'),
    ("metrics.json", '"bbox"', '"seconds"'),
    ("metrics.json", '"disc"', '"\\ud800 $x"'),
    ("metrics.json", '"AP": 10', '"AP": 1e999'),
    ("config.yaml", "seed: 0", f"seed: {10**30}"),
    ("config.yaml", "name: ntt\n", "name: [ntt]\n"),
    ("config.yaml", "seed: 0", "seed: 0\n2026-01-01: {2: .nan}"),
    ("facts.json", '"seconds": 10.0', '"seconds": 1e999'),
    ("identity.json", '"matcher.merging": "soft_semantic"', '"matcher.merging": {"a": [NaN]}'),
)
def test_values_of_another_shape_end_in_a_report_all_the_same(tmp_path, name, old, new):
    (run,) = make_runs(tmp_path, {"seed=0": box_metrics(10)}).values()
    text = (run / name).read_text()
    assert old in text
    (run / name).write_text(text.replace(old, new))
    words = ["report", str(tmp_path), "--html", str(tmp_path / "page.html"), "--out", str(tmp_path / "out"), "--plots"]
    assert main(words) == 0


def test_folders_without_runs_are_refused_together(tmp_path):
    (tmp_path / "empty").mkdir()
    with refused(DataError, "empty holds no run directory", "nowhere is not a folder"):
        read_runs([tmp_path / "empty", tmp_path / "nowhere"])


def test_rows_are_settings_and_differ_by_what_their_names_say(tmp_path):
    lines = {"shots=1shot seed=0": 10, "shots=1shot seed=1": 14, "shots=1shot seed=0 matcher.merging=hard": 8}
    lines |= {"shots=5shot": 20, "shots=5shot visualisation.enabled=false tracker=wandb runtime.threads=1": 20}
    make_runs(tmp_path, {line: box_metrics(ap) for line, ap in lines.items()})
    runs = read_runs([tmp_path])
    settings = settings_with(runs, "bbox/AP")
    labels = [f"{METHOD}, matcher.merging={name}" for name in ("hard", "soft_semantic", "soft_semantic")]
    assert settings[["shots", "count"]].values.tolist() == [[1, 1], [1, 2], [5, 1]]
    bold = re.findall(r"\\textbf{(.*?)}", render(results_table(runs, "bbox/AP"), "latex"))
    assert bold == [r"12.0 $\pm$ 2.8 (2)", r"22.0 $\pm$ 2.8 (2)"], "the best of each metric, where there are several"
    assert settings.label.tolist() == labels
    names = name_series(runs)
    assert names.common == METHOD
    assert list(names.short.values()) == ["matcher.merging=hard", "matcher.merging=soft_semantic"]
    words = ("split.classes=[disc]", "split.classes=[square]", "split.classes=[square,disc]", "seed=1")
    make_runs(tmp_path / "classes", {line: box_metrics(10) for line in words})
    rows = settings_with(read_runs([tmp_path / "classes"]), "bbox/AP")
    assert rows.split.tolist() == ["1 class", "1 class", "2 classes", "all"]
    assert rows.label[:2].tolist() == [f"{METHOD}, split.classes=['{name}']" for name in ("disc", "square")]


def test_of_two_runs_with_the_same_settings_the_later_one_counts(tmp_path):
    old = make_runs(tmp_path / "old", {"seed=0": box_metrics(10)})["seed=0"]
    make_runs(tmp_path / "new", {"seed=0": box_metrics(30)})
    facts = (old / "facts.json").read_text()
    (old / "facts.json").write_text(re.sub(r'"finished_utc": "\d+', '"finished_utc": "2020', facts))
    runs = read_runs([tmp_path])
    assert mean_of(runs, "bbox/AP") == (30.0, None, 1)
    assert any(f"a later run has the same settings: {old}." in note for note in results_table(runs, "bbox/AP").notes)


def test_runs_of_different_versions_and_seeds_without_effect_are_pointed_out(tmp_path):
    folders = make_runs(tmp_path, {"seed=0": box_metrics(10), "seed=1": box_metrics(20)})
    facts = folders["seed=1"] / "facts.json"
    facts.write_text(facts.read_text().replace('"abc"', '"def"'))
    notes = results_table(read_runs([tmp_path]), "bbox/AP").notes
    assert f"demo, 5 shots, {METHOD}: averaged over runs of 2 versions of the program." in notes
    assert not any(note.startswith("Spread 0: ") for note in notes)
    make_runs(tmp_path / "fixed", dict.fromkeys(("seed=0", "seed=1"), box_metrics(10)))
    notes = results_table(read_runs([tmp_path / "fixed"]), "bbox/AP").notes
    assert any(note.startswith("Spread 0: the seeds of a row gave equal results") for note in notes)


def test_annotation_files_that_change_between_runs_are_pointed_out(tmp_path):
    folders = make_runs(tmp_path, {"seed=0": box_metrics(10), "seed=1 matcher.merging=hard": box_metrics(20)})
    for digest, folder in zip("ab", folders.values(), strict=True):
        facts = read_json(folder / "facts.json")
        write_json(folder / "facts.json", facts | {"data": {"targets": {"sha256": digest}}})
        notes = results_table(read_runs([tmp_path]), "bbox/AP").notes
        changed = any(note.startswith("demo: the annotation files have changed between these runs.") for note in notes)
        assert changed == (digest == "b")


@cases("stages")('["matching"]', '{"matching": 3}', '{"evaluation": {"seconds": "long"}}')
def test_stages_of_another_shape_cost_their_seconds_only(tmp_path, stages):
    (run,) = make_runs(tmp_path, {"seed=0": box_metrics(10)}).values()
    (run / "facts.json").write_text(f'{{"stages": {stages}}}')
    assert runs_table(read_runs([tmp_path]), "bbox/AP").frame["box AP"].tolist() == [10.0]


def test_settings_are_compared_over_the_seeds_both_have_by_a_t_test(tmp_path):
    # mean 2, standard deviation 1, t = 2 sqrt(3); two degrees of freedom: p = 1 - t / sqrt(2 + t^2)
    t = 2 * math.sqrt(3)
    assert paired_test(np.array([1.0, 2.0, 3.0]))[0] == pytest.approx(1 - t / math.sqrt(2 + t * t))
    merging_runs(tmp_path)
    runs = read_runs([tmp_path])
    table = comparison_table(runs, "matcher.merging=hard", "matcher.merging=soft", "bbox/AP")
    assert table.frame.iloc[0, 3:-2].tolist() == [3, 11.0, 13.0, "+2.00", "1.00", "0.0742", "0.2500"]
    assert any("Seeds that only one side has, left out of its row: 3, 4" in note for note in table.notes)


@cases("differences", "has_t_test", "p_flips")(
    ([1.0, 2.0], False, None),
    ([1.0, 2.0, 3.0], True, 0.25),  # of the 8 sign patterns only + + + and - - - sum to 6 or more
    ([1.0, -1.0, 2.0], True, 0.75),  # sums 4, 0, 2, -2, 2, -2, 0, -4: six are at least as far from 0 as 2
    ([0.1] * 10, False, None),  # the same references for all seeds: nothing was repeated
    ([0.1, 0.2, 0.3, 0.4, 0.5], True, 2 / 32),  # sums that differ by rounding are equal
    ([1.0] * 6 + [2.0] * 6, True, 2 / 2**12),
    ([1.0] * 6 + [2.0] * 7, True, None),
)
def test_sign_flips_by_hand_and_the_ends_of_both_tests(differences, has_t_test, p_flips):
    p_t, p_sign = paired_test(np.array(differences))
    assert (p_t is not None, p_sign) == (has_t_test, p_flips)


def merging_runs(root: Path) -> None:
    soft, hard = {0: 10.0, 1: 13.0, 2: 16.0, 3: 11.0}, {0: 9.0, 1: 11.0, 2: 13.0, 4: 50.0}
    runs = {f"seed={seed} matcher.merging=soft": box_metrics(ap) for seed, ap in soft.items()}
    runs |= {f"seed={seed} matcher.merging=hard": box_metrics(ap) for seed, ap in hard.items()}
    make_runs(root, runs)


def test_reports_name_the_matcher_that_the_references_chose(tmp_path):
    lines = [f"matcher={name} seed={seed}" for name in ("auto", "ntt") for seed in range(3)]
    folders = make_runs(tmp_path, dict.fromkeys(lines, box_metrics(10.0)))
    for line, scoring in zip(lines, ("probe_half", "ntt", "probe_half"), strict=False):
        check = ReferenceCheck(scoring, better={}, expected={}, thresholds={}, is_complete=True, num_images=3)
        write_json(folders[line] / "leave_one_out.json", asdict(check))
    scorings = ntt.load_runs(tmp_path).groupby("matcher.name").scoring.agg(list).to_dict()
    assert scorings == {"auto": ["probe_half", "ntt", "probe_half"], "ntt": ["ntt"] * 3}
    runs = read_runs([tmp_path])
    chosen, plain = METHOD.replace("ntt", "auto: probe_half 2x, ntt 1x"), METHOD
    for table, rows in ((results_table(runs, "bbox/AP"), 1), (classes_table(runs, "bbox/AP"), 2)):
        assert table.frame.method.tolist() == [chosen] * rows + [plain] * rows
    names = [method.rpartition(" + ")[2] for method in runs_table(runs, "bbox/AP").frame.method]
    assert names == ["auto: probe_half", "auto: ntt", "auto: probe_half", *["ntt"] * 3]
    assert list(name_series(runs).short.values()) == ["auto: probe_half 2x, ntt 1x", "ntt"]
    comparison = comparison_table(runs, "matcher=ntt", "matcher=auto", "bbox/AP").columns()
    assert [column.texts for column in comparison if "chosen" in column.name] == [["probe_half 2x, ntt 1x"]]
    configs = compose_many([[*line.split(), f"runtime.output_root={tmp_path}"] for line in lines])
    heading, *rows = multirun_table(configs).splitlines()[:7]
    assert [row.split()[heading.split().index("chosen")] for row in rows] == ["probe_half", "ntt", "probe_half", *"---"]
    write_json(folders[lines[0]] / "leave_one_out.json", asdict(replace(check, scoring="kmeans")))
    assert multirun_table(configs).splitlines()[1].split()[heading.split().index("chosen")] == "-"
    assert "names no matcher of ntt, ntt_best100" in missing(read_runs([tmp_path])).reason[0]


def test_a_group_stands_for_its_option_and_everything_below(tmp_path):
    runs = {f"seed={seed} matcher=ntt": box_metrics(20 + seed) for seed in range(3)}
    runs |= {f"seed={seed} matcher=ntt_reference": box_metrics(18.0) for seed in range(3)}
    for name in ("ntt", "ntt_reference"):
        runs |= {f"seed={seed} shots=1shot matcher={name}": box_metrics(5.0) for seed in (0, 1)}
    make_runs(tmp_path, runs)
    table = comparison_table(read_runs([tmp_path]), "matcher=ntt_reference", "matcher=ntt", "bbox/AP")
    rows = [
        [shots, "efficientnet_lite0 + regions", n, text] for shots, n, text in (("1", 2, "+0.00"), ("5", 3, "+3.00"))
    ]
    assert table.frame[["shots", "common", "pairs n", "B − A"]].values.tolist() == rows


@cases("first", "second", "error", "message")(
    ("soft", "matcher.merging=hard", ConfigError, "this is not a setting. Write KEY=VALUE"),
    ("matcher.merging=none", "matcher.merging=hard", ConfigError, "has it. matcher.merging is hard or soft there"),
    ("matcher.glue=1", "matcher.merging=hard", ConfigError, "There is no setting matcher.glue"),
    ("matcher=ntt", "matcher=ntt", ConfigError, "several settings, which differ in matcher.merging"),
    ("matcher.merging=soft,seed=3", "matcher.merging=hard,seed=4", DataError, "no two runs with the same seed"),
)
def test_what_cannot_be_compared_is_explained(tmp_path, first, second, error, message):
    merging_runs(tmp_path)
    with pytest.raises(error, match=message):
        comparison_table(read_runs([tmp_path]), first, second, "bbox/AP")


ROWS = [["a_b | 50 % <b>", 11.0, math.sqrt(2), 2, 2], ["=SUM(A1)\x1b[31m", 1.5, math.nan, 1, None]]
FRAME = pd.DataFrame(ROWS, columns=["name", "AP mean", "AP std", "AP n", "n"]).astype({"n": "Int64"})
TABLE = Table("t", "A | title", FRAME, ("A note & more.",))


def test_tables_in_every_format():
    assert render(TABLE, "markdown") == (
        "### A \\| title\n"
        "\n"
        "| name             |             AP |   n |\n"
        "| ---------------- | -------------: | --: |\n"
        "| a_b \\| 50 % \\<b> | 11.0 ± 1.4 (2) |   2 |\n"
        "| =SUM(A1)�\\[31m   |        1.5 (1) |   – |\n"
        "\n"
        "- A note & more.\n"
    )
    rows = list(csv.reader(io.StringIO(render(TABLE, "csv"))))
    assert rows[0] == ["name", "AP mean", "AP std", "AP n", "n"]
    assert rows[1] == ["a_b | 50 % <b>", "11.0", str(math.sqrt(2)), "2", "2"]
    assert rows[2] == ["'=SUM(A1)�[31m", "1.5", "", "1", ""]
    text = render(TABLE, "latex")
    assert r"\caption{A \textbar{} title}" in text
    assert r"a\_b \textbar{} 50 \% \textless{}b\textgreater{} & 11.0 $\pm$ 1.4 (2) & 2 \\" in text
    assert r"\begin{tabular}{lrr}" in text
    assert r"A note \& more." in text
    assert escape_latex("\\a{b}$^~#") == r"\textbackslash{}a\{b\}\$\textasciicircum{}\textasciitilde{}\#"


def test_tables_of_a_report(tmp_path):
    make_runs(tmp_path, {"seed=0": box_metrics(10, segm=5), "seed=1": box_metrics(14), "seed=2": None})
    runs = read_runs([tmp_path])
    columns = {column.name: column.texts for column in results_table(runs, "bbox/AP").columns()}
    assert list(columns)[:5] == ["data set", "split", "shots", "method", "runs"]
    assert list(columns)[5:] == ["box AP", "box AP50", "mask AP", "mask AP50"]
    # A metric that only some runs have is averaged over those.
    assert [columns[name] for name in ("runs", "box AP", "mask AP")] == [["2 of 3"], ["12.0 ± 2.8 (2)"], ["5.0 (1)"]]
    assert settings_with(runs, "semantic/mIoU").empty
    classes = classes_table(runs, "bbox/AP").columns()
    assert [column.texts for column in classes[4:]] == [["disc", "square"], ["14.0 ± 2.8 (2)", "10.0 ± 2.8 (2)"]]
    frame = runs_table(runs, "bbox/AP").frame
    stages = ["candidates, ms per image", "memory, ms per reference", "matching, ms per image"]
    assert list(frame)[4:] == ["seed", "state", "box AP", *stages, "directory"]
    rows = frame.drop(columns="memory, ms per reference").iloc[:, 4:9].values.tolist()
    assert rows[:2] == [[0, "finished", 10.0, 2500.0, 250.0], [1, "finished", 14.0, 2500.0, 250.0]]
    assert rows[2][:2] == [2, "unfinished"]
    assert pd.isna(rows[2][2:]).all()


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
    write_plan(folder, replace(read_plan(folder), created_s=time.time() + 60))  # it found the data changed since
    row = read_runs([folder.root]).iloc[0]
    assert (row.state, row.problem) == ("unfinished", "its result is of earlier data")
    folder.write_state(ids[0], TaskState(status="failed", error="DataError: no image", heartbeat_s=time.time() + 60))
    assert read_runs([folder.root]).iloc[0].problem == "DataError: no image"


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


def test_every_published_number_has_a_row():
    table = expected_of_nothing()
    published = table.frame.theirs.notna().sum()
    assert len(table.frame) > 70
    assert 0 < published < len(table.frame)
    assert set(table.frame.verdict) == {"not run"}
    assert f"{published} published numbers: not run {published}." in table.notes[1]
