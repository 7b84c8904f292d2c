"""Records of runs, means over seeds, significance, tables."""

import csv
import io
import json
import math
from pathlib import Path

import pytest
from report_samples import box_metrics, make_runs

from ntt.errors import ConfigError, DataError
from ntt.reports.content import classes_table, comparison_table, missing_table, results_table, runs_table
from ntt.reports.records import ALL_SHOTS, read_run
from ntt.reports.significance import compare, paired_test
from ntt.reports.summary import Statistic, name_series, summarise
from ntt.reports.tables import Table, escape_latex, render
from ntt.sweeps.records import read_runs


def test_a_finished_run_is_read_whole(tmp_path: Path):
    made = make_runs(tmp_path, {"shots=1shot seed=3": box_metrics(20.0, segm=15.0)})
    record = read_run(made["shots=1shot seed=3"])
    assert (record.state, record.problem) == ("finished", "")
    assert (record.dataset, record.split, record.shots, record.seed) == ("demo", "all", 1, 3)
    assert record.method == "efficientnet_lite0 + regions + ntt"
    assert record.values["bbox/AP"] == 20.0
    assert record.values["segm/AP/square"] == 13.0
    assert record.stage_seconds == {"candidates": 10.0, "evaluation": 1.0}
    assert record.finished_utc.endswith("+00:00")
    assert "runtime.output_root" not in record.settings
    assert record.settings["matcher.merging"] == "soft_semantic"


def test_a_run_with_every_reference_has_no_number_of_shots(tmp_path: Path):
    runs = {"shots=all": box_metrics(20.0), "shots=1shot": box_metrics(10.0), "shots=all seed=1": None}
    assert [read_run(path).shots for path in make_runs(tmp_path, runs).values()] == [ALL_SHOTS, 1, ALL_SHOTS]
    records = read_runs([tmp_path])
    missing = missing_table(records)
    assert missing is not None
    assert [row[2:6] for row in missing.rows] == [("all", "efficientnet_lite0 + regions + ntt", 1, "unfinished")]
    assert [row[2] for row in results_table(summarise(records), "bbox/AP").rows] == ["all", 1]
    assert {row[2] for row in runs_table(records, "bbox/AP").rows} == {"all", 1}
    assert comparison_table(records, "shots=1shot", "shots=all", "bbox/AP").rows[0][1] == "1 / all"


def test_runs_without_metrics_are_kept_and_damaged_ones_explained(tmp_path: Path):
    made = make_runs(
        tmp_path, {"seed=0": box_metrics(10), "seed=1": None, "seed=2": box_metrics(30), "seed=3": box_metrics(40)}
    )
    (made["seed=2"] / "metrics.json").write_text('{"overall": ')
    (made["seed=3"] / "metrics.json").write_text(json.dumps({"overall": {"bbox": {"AP": "high"}}}))
    states = {record.seed: (record.state, record.problem) for record in read_runs([tmp_path])}
    assert states[0] == ("finished", "")
    assert states[1] == ("unfinished", "it has no metrics yet")
    assert states[2][0] == "damaged"
    assert "metrics.json cannot be read back" in states[2][1]
    assert states[3][0] == "damaged"
    assert "does not hold the metrics of a run" in states[3][1]
    (summary,) = summarise(read_runs([tmp_path]))
    assert summary.statistic("bbox/AP") == Statistic({0: 10.0})
    assert [record.seed for record in summary.lacking] == [1, 2, 3]
    missing = missing_table(read_runs([tmp_path]))
    assert missing is not None
    assert missing.title == "Without a result: 3 of 4 runs"
    assert [row[4:6] for row in missing.rows] == [(1, "unfinished"), (2, "damaged"), (3, "damaged")]


@pytest.mark.parametrize(
    ("config", "metrics", "problem"),
    [
        ("a: [", '{"overall": {}, "per_class": {}, "num_images": 1, "num_detections": 0}', "cannot be read"),
        ("a: 1", "{}", "is not the configuration of a run"),
        ("seed: 0\nshots: {name: 1shot}", "{}", "dataset, backbone, segmenter, matcher, split is unusable"),
        ("- seed", "{}", "is not the configuration of a run"),
    ],
)
def test_a_configuration_nobody_can_use(tmp_path: Path, config: str, metrics: str, problem: str):
    (tmp_path / "config.yaml").write_text(config)
    (tmp_path / "metrics.json").write_text(metrics)
    record = read_run(tmp_path)
    assert record.state == "damaged"
    assert problem in record.problem
    assert summarise([record]) == []
    missing = missing_table([record])
    assert missing is not None
    assert missing.rows[0][5] == "damaged"


def test_values_that_are_not_finite_are_damage(tmp_path: Path):
    made = make_runs(tmp_path, {"seed=0": box_metrics(10)})["seed=0"]
    text = (made / "metrics.json").read_text()
    (made / "metrics.json").write_text(text.replace('"AP": 10', '"AP": NaN', 1))
    assert "bbox/AP is not a finite number" in read_run(made).problem


def test_every_run_is_read_once(tmp_path: Path):
    made = make_runs(tmp_path, {"seed=0": box_metrics(10), "seed=1": box_metrics(12)})
    records = read_runs([tmp_path, made["seed=0"], tmp_path / "demo"])
    assert sorted(record.seed for record in records) == [0, 1]


def test_folders_without_runs_are_refused_together(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError) as caught:
        read_runs([tmp_path / "empty", tmp_path / "nowhere"])
    assert "empty holds no run directory" in str(caught.value)
    assert "nowhere is not a folder" in str(caught.value)


def test_a_copy_of_the_program_is_not_a_run(tmp_path: Path):
    make_runs(tmp_path, {"seed=0": box_metrics(10)})
    (tmp_path / "code" / "conf").mkdir(parents=True)
    (tmp_path / "code" / "conf" / "config.yaml").write_text("seed: 0")
    assert len(read_runs([tmp_path])) == 1


def test_mean_and_sample_deviation_by_hand():
    statistic = Statistic({0: 10.0, 1: 12.0, 2: 14.0})
    assert (statistic.n, statistic.mean, statistic.std) == (3, 12.0, 2.0)
    assert Statistic({5: 10.0}).std is None


def test_rows_are_settings_and_differ_by_what_their_names_say(tmp_path: Path):
    make_runs(
        tmp_path,
        {
            "shots=1shot seed=0": box_metrics(10),
            "shots=1shot seed=1": box_metrics(14),
            "shots=1shot seed=0 matcher.merging=hard": box_metrics(8),
            "shots=5shot seed=0": box_metrics(20),
            "shots=5shot seed=0 visualisation.enabled=false tracker=wandb runtime.cache_root=elsewhere": box_metrics(
                20
            ),
        },
    )
    summaries = summarise(read_runs([tmp_path]))
    assert [(one.setting.shots, one.setting.label, len(one.runs)) for one in summaries] == [
        (1, "efficientnet_lite0 + regions + ntt, matcher.merging=hard", 1),
        (1, "efficientnet_lite0 + regions + ntt, matcher.merging=soft_semantic", 2),
        (5, "efficientnet_lite0 + regions + ntt, matcher.merging=soft_semantic", 1),
    ]
    names = name_series(one.setting for one in summaries)
    assert names.common == "efficientnet_lite0 + regions + ntt"
    assert list(names.short.values()) == ["matcher.merging=hard", "matcher.merging=soft_semantic"]


def test_of_two_runs_with_the_same_settings_the_later_one_counts(tmp_path: Path):
    old = make_runs(tmp_path / "old", {"seed=0": box_metrics(10)})["seed=0"]
    new = make_runs(tmp_path / "new", {"seed=0": box_metrics(30)})["seed=0"]
    facts = json.loads((old / "facts.json").read_text())
    facts["stages"]["evaluation"]["finished_utc"] = "2020-01-01T00:00:00+00:00"
    (old / "facts.json").write_text(json.dumps(facts))
    (summary,) = summarise(read_runs([tmp_path]))
    assert summary.statistic("bbox/AP") == Statistic({0: 30.0})
    assert [record.path for record in summary.repeated] == [old.absolute()]
    assert any(str(old) in note for note in results_table([summary], "bbox/AP").notes)
    assert new.exists()


def test_a_metric_that_only_some_runs_have_is_averaged_over_those(tmp_path: Path):
    make_runs(tmp_path, {"seed=0": box_metrics(10, segm=4), "seed=1": box_metrics(20)})
    (summary,) = summarise(read_runs([tmp_path]))
    assert summary.statistic("segm/AP") == Statistic({0: 4.0})
    assert summary.statistic("bbox/AP") == Statistic({0: 10.0, 1: 20.0})
    assert summary.statistic("semantic/mIoU") is None


def test_runs_of_different_versions_are_pointed_out(tmp_path: Path):
    made = make_runs(tmp_path, {"seed=0": box_metrics(10), "seed=1": box_metrics(20)})
    facts = json.loads((made["seed=1"] / "facts.json").read_text())
    (made["seed=1"] / "facts.json").write_text(json.dumps({**facts, "git": {"revision": "def"}}))
    notes = results_table(summarise(read_runs([tmp_path])), "bbox/AP").notes
    assert any("averaged over runs of 2 versions of the program" in note for note in notes)


def test_t_test_and_sign_flips_by_hand():
    # mean 2, standard deviation 1, t = 2 sqrt(3); two degrees of freedom: p = 1 - t / sqrt(2 + t^2)
    test = paired_test([1.0, 2.0, 3.0])
    t = 2 * math.sqrt(3)
    assert (test.n, test.mean, test.std) == (3, 2.0, 1.0)
    assert test.p_t == pytest.approx(1 - t / math.sqrt(2 + t * t))
    # of the 8 sign patterns only + + + and - - - sum to 6 or more
    assert test.p_permutation == 0.25
    # sums of +-1 +-1 +-2: 4, 0, 2, -2, 2, -2, 0, -4; six of eight are at least as far from 0 as the observed 2
    assert paired_test([1.0, -1.0, 2.0]).p_permutation == 0.75


def test_sign_flips_survive_rounding():
    assert paired_test([0.1, 0.2, 0.3, 0.4, 0.5]).p_permutation == 2 / 32


@pytest.mark.parametrize("differences", [[1.0], [1.0, 2.0]])
def test_fewer_than_three_pairs_are_no_test(differences: list[float]):
    test = paired_test(differences)
    assert (test.p_t, test.p_permutation) == (None, None)
    assert (test.std is None) == (len(differences) == 1)


def test_ends_of_the_tests():
    assert paired_test([2.0, 2.0, 2.0]).p_t is None  # no spread, no t
    assert paired_test([0.0, 0.0, 0.0]).p_permutation == 1.0
    assert paired_test([1.0] * 6 + [2.0] * 6).p_permutation == 2 / 2**12
    thirteen = paired_test([1.0] * 6 + [2.0] * 7)
    assert thirteen.p_permutation is None
    assert thirteen.p_t is not None


def merging_runs(root: Path) -> None:
    soft, hard = {0: 10.0, 1: 13.0, 2: 16.0, 3: 11.0}, {0: 9.0, 1: 11.0, 2: 13.0, 4: 50.0}
    runs = {f"seed={seed} matcher.merging=soft": box_metrics(ap) for seed, ap in soft.items()}
    runs |= {f"seed={seed} matcher.merging=hard": box_metrics(ap) for seed, ap in hard.items()}
    make_runs(root, runs)


def test_settings_are_compared_over_the_seeds_both_have(tmp_path: Path):
    merging_runs(tmp_path)
    (found,) = compare(read_runs([tmp_path]), "matcher.merging=hard", "matcher.merging=soft", metric="bbox/AP")
    assert (found.mean_a, found.mean_b) == (11.0, 13.0)
    assert found.test == paired_test([1.0, 2.0, 3.0])
    assert found.unpaired == (3, 4)
    table = comparison_table(read_runs([tmp_path]), "matcher.merging=hard", "matcher.merging=soft", "bbox/AP")
    assert table.rows[0][3:] == (3, 11.0, 13.0, "+2.00", "1.00", "0.0742", "0.2500")
    assert any("Seeds that only one side has, left out of its row: 3, 4" in note for note in table.notes)


def test_a_group_stands_for_its_option_and_everything_below(tmp_path: Path):
    runs = {f"seed={seed} matcher=ntt": box_metrics(20 + seed) for seed in range(3)}
    runs |= {f"seed={seed} matcher=ntt_reference": box_metrics(18.0) for seed in range(3)}
    runs |= {
        f"seed={seed} shots=1shot matcher={name}": box_metrics(5.0)
        for seed in (0, 1)
        for name in ("ntt", "ntt_reference")
    }
    make_runs(tmp_path, runs)
    found = compare(read_runs([tmp_path]), "matcher=ntt_reference", "matcher=ntt", metric="bbox/AP")
    assert [(one.shots, one.rest, one.test.n, one.test.mean) for one in found] == [
        ((1, 1), "efficientnet_lite0 + regions", 2, 0.0),
        ((5, 5), "efficientnet_lite0 + regions", 3, 3.0),
    ]


def test_shots_can_be_compared(tmp_path: Path):
    make_runs(tmp_path, {f"seed=0 shots={n}shot": box_metrics(10 + n) for n in (1, 5)})
    (found,) = compare(read_runs([tmp_path]), "shots=1shot", "shots=5shot", metric="bbox/AP")
    assert (found.shots, found.test.mean) == ((1, 5), 4.0)


def test_what_cannot_be_compared_is_explained(tmp_path: Path):
    merging_runs(tmp_path)
    records = read_runs([tmp_path])
    with pytest.raises(ConfigError, match="this is not a setting. Write KEY=VALUE"):
        compare(records, "soft", "matcher.merging=hard", metric="bbox/AP")
    with pytest.raises(ConfigError, match="no finished run with bbox/AP has it. matcher.merging is hard or soft there"):
        compare(records, "matcher.merging=none", "matcher.merging=hard", metric="bbox/AP")
    with pytest.raises(ConfigError, match="There is no setting matcher.glue"):
        compare(records, "matcher.glue=1", "matcher.merging=hard", metric="bbox/AP")
    with pytest.raises(ConfigError, match="several settings, which differ in matcher.merging"):
        compare(records, "matcher=ntt", "matcher=ntt", metric="bbox/AP")
    with pytest.raises(DataError, match="no two runs with the same seed differ in just this"):
        compare(records, "matcher.merging=soft,seed=3", "matcher.merging=hard,seed=4", metric="bbox/AP")


TABLE = Table(
    "t",
    "A | title",
    ("name", "AP", "n"),
    (("a_b | 50 % <b>", Statistic({0: 10.0, 1: 12.0}), 2), ("=SUM(A1)", Statistic({0: 1.5}), None)),
    ("A note & more.",),
)


def test_markdown():
    assert render(TABLE, "markdown") == (
        "### A \\| title\n"
        "\n"
        "| name             |             AP |   n |\n"
        "| ---------------- | -------------: | --: |\n"
        "| a_b \\| 50 % \\<b> | 11.0 ± 1.4 (2) |   2 |\n"
        "| =SUM(A1)         |        1.5 (1) |   – |\n"
        "\n"
        "- A note & more.\n"
    )


def test_csv_keeps_all_digits_and_starts_no_formula():
    rows = list(csv.reader(io.StringIO(render(TABLE, "csv"))))
    assert rows[0] == ["name", "AP mean", "AP std", "AP n", "n"]
    assert rows[1] == ["a_b | 50 % <b>", "11.0", str(math.sqrt(2)), "2", "2"]
    assert rows[2] == ["'=SUM(A1)", "1.5", "", "1", ""]


def test_latex_is_escaped():
    text = render(TABLE, "latex")
    assert r"\caption{A \textbar{} title}" in text
    assert r"a\_b \textbar{} 50 \% \textless{}b\textgreater{} & 11.0 $\pm$ 1.4 (2) & 2 \\" in text
    assert r"\begin{tabular}{lrr}" in text
    assert r"A note \& more." in text
    assert escape_latex("\\a{b}$^~#") == r"\textbackslash{}a\{b\}\$\textasciicircum{}\textasciitilde{}\#"


def test_a_row_of_the_wrong_length_is_our_mistake():
    with pytest.raises(ValueError, match="every row needs 2 cells"):
        Table("t", "t", ("a", "b"), (("only one",),))


def test_tables_of_a_report(tmp_path: Path):
    make_runs(tmp_path, {"seed=0": box_metrics(10, segm=5), "seed=1": box_metrics(14, segm=7), "seed=2": None})
    records = read_runs([tmp_path])
    summaries = summarise(records)
    results = results_table(summaries, "bbox/AP")
    assert results.columns == (
        "data set",
        "split",
        "shots",
        "method",
        "runs",
        "box AP",
        "box AP50",
        "mask AP",
        "mask AP50",
    )
    assert results.rows[0][4] == "2 of 3"
    assert results.rows[0][5] == Statistic({0: 10.0, 1: 14.0})
    classes = classes_table(summaries, "bbox/AP")
    assert [row[4:] for row in classes.rows] == [
        ("disc", Statistic({0: 12.0, 1: 16.0})),
        ("square", Statistic({0: 8.0, 1: 12.0})),
    ]
    runs = runs_table(records, "bbox/AP")
    assert runs.columns[4:] == ("seed", "state", "box AP", "candidates s", "evaluation s", "directory")
    assert [row[4:9] for row in runs.rows] == [
        (0, "finished", 10.0, 10.0, 1.0),
        (1, "finished", 14.0, 10.0, 1.0),
        (2, "unfinished", None, None, None),
    ]
