"""Plots, the HTML page and the command `ntt report`."""

import json
import os
import re
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import numpy as np
import pandas as pd
import pytest
import yaml
from browser import open_browser, why_not
from conftest import cases
from evaluation_samples import detect
from PIL import Image
from pycocotools import mask as mask_api
from report_samples import box_metrics, make_runs
from tiny_data import make_tiny

from ntt.base.files import write_json
from ntt.cli.main import main
from ntt.reports import figures
from ntt.reports.detected import confusion, read_detected, thresholds_table
from ntt.reports.page import Gallery, make_gallery, render_page
from ntt.reports.plots import Plot, make_plots
from ntt.reports.tables import Table
from ntt.run.artefacts import write_predictions
from ntt.run.rundir import RunDirectory
from ntt.sweeps.records import read_runs
from ntt.types import Category, Metrics, ReferenceCheck

EVIL = '</script><img src=x onerror="window.hacked=1">"\'&'


detections_of = partial(detect, size=(96, 128))
DETECTIONS = [
    detections_of(101, (0, (10, 10, 40, 40), 0.9), (1, (70, 40, 36, 36), 0.5), (1, (0, 0, 20, 20), 0.2)),
    detections_of(102, (1, (40, 20, 50, 50), 0.8)),
    detections_of(103),
    detections_of(104, (0, (70, 30, 44, 44), 0.3)),
]


def tiny_runs(folder: Path, *, first_class: str = "disc") -> tuple[pd.DataFrame, dict[str, Path]]:
    """Two finished runs on the tiny data set, with predictions, and one without metrics."""
    root = make_tiny(folder / "tiny")
    for file in (root / "annotations").glob("*.json"):
        content = json.loads(file.read_text())
        content["categories"][0]["name"] = first_class
        file.write_text(json.dumps(content))
    metrics = box_metrics(50.0, classes=(first_class, "square"), segm=40.0)
    lines = {"seed=0 shots=1shot": metrics, "seed=0 shots=2shot": metrics, "seed=1 shots=2shot": None}
    folders = make_runs(folder / "outputs", lines, data=root)
    categories = [Category(3, first_class), Category(7, "square")]
    for directory in folders.values():
        write_predictions(RunDirectory(directory).predictions, DETECTIONS, categories)
    check = ReferenceCheck("ntt", {}, {"ntt": {}}, {first_class: 0.85, "square": 0.15}, is_complete=True, num_images=2)
    write_json(RunDirectory(next(iter(folders.values()))).leave_one_out, asdict(check))
    write_json(RunDirectory(next(iter(folders.values()))).lowest_scores, check.thresholds)
    return read_runs([folder / "outputs"]), folders


def gallery_of(runs: pd.DataFrame, images: int) -> Gallery:
    return make_gallery(*read_detected(runs), images=images)


def plots_of(root: Path, runs: dict[str, Metrics | None], metric: str = "bbox/AP") -> dict[str, Plot]:
    """The plots of some runs by name."""
    make_runs(root, runs)
    return {plot.name: plot for plot in make_plots(read_runs([root]), metric)}


RUNS_WITH_SHOTS: dict[str, Metrics | None] = {
    f"shots={shots}shot seed={seed} matcher.merging={merging}": box_metrics(10.0 + shots + seed - bonus)
    for shots in (1, 2, 5)
    for seed in (0, 1)
    for merging, bonus in (("soft", 0), ("hard", 4))
}


def test_a_plot_shows_the_numbers_of_its_summaries(tmp_path):
    plots = plots_of(tmp_path, RUNS_WITH_SHOTS)
    assert list(plots) == ["shots", "datasets", "time", "classes_demo"]
    assert len({axes.get_ylim() for axes in plots["datasets"].figure.axes}) == 1
    (axes,) = plots["shots"].figure.axes
    lines = {str(line.get_label()): line.get_xydata().tolist() for line in axes.get_lines()}
    hard, soft = [[1, 7.5], [2, 8.5], [5, 11.5]], [[1, 11.5], [2, 12.5], [5, 15.5]]
    assert lines == {"matcher.merging=hard": hard, "matcher.merging=soft": soft}
    (band, _) = axes.collections
    spread = np.sqrt(0.5)  # of two values that differ by 1
    assert band.get_datalim(axes.transData).ymin == pytest.approx(7.5 - spread)
    assert axes.get_xlabel() == "References per class (shots)"
    assert axes.get_ylabel() == "box AP (%)"
    heights = sorted(bar.get_height() for axes in plots["datasets"].figure.axes for bar in axes.patches)
    assert heights == [7.5, 8.5, 11.5, 11.5, 12.5, 15.5]
    heat = plots["classes_demo"].figure.axes[0]
    assert [text.get_text() for text in heat.get_yticklabels()] == ["disc", "square"]
    assert heat.get_xticklabels()[0].get_text() == "matcher.merging=hard, 1 shot"
    assert heat.texts[0].get_text() == "10"  # 7.5 + 2, rounded to even
    (time,) = plots["time"].figure.axes
    assert {tuple(line.get_xdata()) for line in time.get_lines()} == {(2.75, 2.75)}


def test_plots_of_one_run_and_of_none(tmp_path):
    assert list(plots_of(tmp_path / "one", {"seed=0": box_metrics(10)})) == ["datasets", "time", "classes_demo"]
    assert plots_of(tmp_path / "none", {"seed=0": None}) == {}
    all_shots = plots_of(tmp_path / "all", {"shots=all": box_metrics(20), "shots=1shot": box_metrics(10)})
    assert "shots" not in all_shots, "all shots are no number of shots"


def test_candidates_from_the_store_count_with_the_time_of_whoever_computed_them(tmp_path):
    folders = make_runs(tmp_path, {f"seed={seed}": box_metrics(10.0 + seed) for seed in (0, 1)})
    for folder, times in zip(folders.values(), ([(2.75, 2.75)], None), strict=True):
        facts = folder / "facts.json"
        facts.write_text(facts.read_text().replace('"candidates": 4', ""))
        plots = {plot.name: plot for plot in make_plots(read_runs([tmp_path]), "bbox/AP")}
        axes = plots["time"].figure.axes if times else []
        assert [tuple(line.get_xdata()) for panel in axes for line in panel.get_lines()] == (times or [])
    assert "time" not in plots


def test_of_many_classes_the_best_and_the_worst_are_drawn(tmp_path):
    metrics = box_metrics(10, classes=["price $a$_b", "猫", *(f"class {n}" for n in range(68))], segm=5)
    metrics.per_class["bbox"]["class 60"]["AP"] = 90.0
    figure = plots_of(tmp_path, {"seed=0": metrics})["classes_demo"].figure
    rows = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert len(rows) == 60
    assert rows[0] == "class 60"
    assert "30 best and the 30 worst of 70 classes" in figure.get_suptitle()
    assert figures.to_bytes(figure, "png").startswith(b"\x89PNG")  # dollar signs and foreign letters too


def test_curves_thresholds_and_confusions_by_hand(tmp_path):
    """Discs: two of three found, at 0.9 and 0.3. Squares: at 0.8 and 0.5, and a wrong one at 0.2."""
    runs, _ = tiny_runs(tmp_path)
    (detected,), _ = read_detected(runs)
    disc, square = detected.ranked[0]["disc"], detected.ranked[0]["square"]
    assert (disc.num_objects, disc.is_true.tolist()) == (3, [True, True])
    assert (square.scores.round(2).tolist(), square.is_true.tolist()) == ([0.8, 0.5, 0.2], [True, True, False])
    rows = thresholds_table([detected]).frame.iloc[:, 2:].values.tolist()
    best_disc, best_square = ["0.30", 100, pytest.approx(200 / 3), pytest.approx(80)], ["0.50", 100, 100, 100]
    assert rows == [
        ["disc", 3, "0.85", 100, pytest.approx(100 / 3), 50, *best_disc],
        ["square", 2, "0.15", pytest.approx(200 / 3), 100, 80, *best_square],
        ["disc", 3, None, None, None, None, *best_disc],
        ["square", 2, None, None, None, None, *best_square],
    ]
    without = replace(detected, targets=replace(detected.targets, has_annotations=False))
    rows = thresholds_table([without]).frame.iloc[:, 2:].values.tolist()
    assert rows == [["disc", None, "0.85", *[None] * 7], ["square", None, "0.15", *[None] * 7]]
    counts, threshold = confusion(detected, 0)
    assert threshold == pytest.approx(0.3)
    assert counts.tolist() == [[2, 0, 1], [0, 2, 0], [0, 0, 0]]
    swapped = [replace(each, labels=1 - each.labels) for each in detected.detections[0]]
    counts, _ = confusion(replace(detected, detections=[swapped]), 0)
    assert counts.tolist() == [[0, 1, 2], [0, 0, 2], [0, 0, 0]]  # nothing is right: from the highest score on
    names = [plot.name for plot in make_plots(runs, "bbox/AP", [detected])]
    assert names[-3:] == ["precision_recall_tiny", "confusion_tiny", "confusion_tiny_2"]


def test_gallery_holds_truth_and_predictions_in_shown_pixels(tmp_path, monkeypatch):
    monkeypatch.setattr("ntt.reports.page.MAX_DETECTIONS", 2)
    runs, _ = tiny_runs(tmp_path)
    for config in runs.config:
        config["dataset"]["decode_images"] = False  # as earlier versions wrote
    gallery = gallery_of(runs, 3)
    (shown,) = gallery.sets
    assert gallery.notes == ("tiny: 3 of 4 target images are shown.",)
    assert [image["name"] for image in shown["images"]] == ["targets_0.png", "targets_2.png", "targets_3.png"]
    truth = shown["images"][0]["truth"]
    assert ([entry["class"] for entry in truth], truth[1]["box"]) == ([0, 1], [70, 40, 36, 36])
    method = "efficientnet_lite0 + regions + ntt"
    assert [run["label"] for run in shown["runs"]] == [f"{method}, 1 shot, seed 0", f"{method}, 2 shots, seed 0"]
    detected = shown["runs"][0]["found"]
    assert [[entry["score"] for entry in row] for row in detected] == [[0.9, 0.5], [], [0.3]]
    assert detected[0][0]["rle"] == DETECTIONS[0].rles[0].decode()
    assert [[entry["match"] for entry in row] for row in detected] == [[0, 1], [], [0]]
    assert [entry["name"] for entry in shown["classes"]] == ["disc", "square"]
    assert [run["lowest"] for run in shown["runs"]] == [[0.85, 0.15], [0.4, 0.4]]


def test_large_images_are_reduced_with_everything_in_them(tmp_path, monkeypatch):
    monkeypatch.setattr("ntt.reports.page.MAX_SIDE_PX", 64)
    runs, _ = tiny_runs(tmp_path)
    (shown,) = gallery_of(runs, 24).sets
    image, detected = shown["images"][0], shown["runs"][0]["found"][0][0]
    assert (image["width"], image["height"], detected["box"]) == (64, 48, [5, 5, 20, 20])
    mask = mask_api.decode({"size": [48, 64], "counts": detected["rle"]})
    assert (mask.sum(), mask[5:25, 5:25].all()) == (400, True)


def test_a_gallery_is_bounded_and_says_so(tmp_path, monkeypatch):
    runs, _ = tiny_runs(tmp_path)
    assert gallery_of(runs, 0) == Gallery((), ())
    monkeypatch.setattr("ntt.reports.detected.MAX_RUNS", 1)
    assert gallery_of(runs, 4).notes == ("tiny: 1 of 2 settings are shown.",)
    monkeypatch.setattr("ntt.reports.page.MAX_BYTES", 12e3)
    (shown,) = gallery_of(runs, 4).sets
    assert 0 < len(shown["images"]) < 4
    (tmp_path / "tiny").rename(tmp_path / "moved")
    gone = gallery_of(runs, 1)
    assert (gone.sets, gone.notes[0][:34]) == ((), "tiny is not shown: dataset.root=/t"[:34])


@cases("old", "new")(
    ('"image_id": 101', '"image_id": 7'),
    *(('"score": 0.5', f'"score": {value}') for value in ("NaN", "{}")),
    ('"bbox": [10.0', '"bbox": [1e999'),
    *(('"counts": "', f'"counts": "{text}') for text in ("ooooo", "\u00e9")),
    ('"segmentation": {', '"segmentation": 3, "x": {'),
    *(("[{", text) for text in ("[[], {", "[" * 10**5)),
)
def test_predictions_that_do_not_fit_cost_a_note(tmp_path, old, new):
    runs, folders = tiny_runs(tmp_path)
    path = RunDirectory(next(iter(folders.values()))).predictions
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    (note,) = gallery_of(runs, 1).notes
    assert "does not fit the data set" in note or "cannot be read" in note


@cases("key")("root", "targets")
def test_nothing_in_the_configuration_of_a_run_is_resolved(tmp_path, key, monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "s3cret")
    _, folders = tiny_runs(tmp_path)
    for directory in folders.values():
        config = yaml.safe_load((directory / "config.yaml").read_text())
        config["dataset"][key] = "${oc.env:SECRET_TOKEN}"
        (directory / "config.yaml").write_text(yaml.safe_dump(config))
    page = tmp_path / "page.html"
    assert main(["report", str(tmp_path / "outputs"), "--html", str(page), "--out", str(tmp_path / "out")]) == 0
    text = page.read_text()
    assert "holds ${...}, which is not resolved" in text
    assert "50.0 (1)" in text
    assert not any("s3cret" in path.read_text() for path in (page, *(tmp_path / "out").iterdir()))


def test_a_page_needs_nothing_else_and_escapes_every_name(tmp_path):
    runs, _ = tiny_runs(tmp_path, first_class=EVIL)
    tables = [Table("results", EVIL, pd.DataFrame({EVIL: [EVIL], "n": [1.0]}), (EVIL,))]
    text = render_page(EVIL, EVIL, tables, make_plots(runs, "bbox/AP")[:1], gallery_of(runs, 1))
    assert EVIL not in text
    assert text.count("</script>") == 2
    data = re.search(r'id="gallery-data">(.*?)</script>', text, flags=re.DOTALL)
    assert data is not None
    assert json.loads(data[1])[0]["classes"][0]["name"] == EVIL
    assert not re.search(r'(src|href)="(?!data:|#)', text)
    assert "url(" not in text
    assert "default-src 'none'" in text


def test_the_command_writes_files(tmp_path, cli):
    make_runs(tmp_path / "runs", {f"seed={seed} shots={seed + 1}shot": box_metrics(10) for seed in (0, 1)})
    out = tmp_path / "out"
    words = ["report", str(tmp_path / "runs"), "--out", str(out), "--plots", "--format", "csv"]
    assert (
        cli(*words, "--compare", "shots=1shot", "shots=1shot").count("plot           ") == 8
    )  # the data set's predictions are not there
    assert sorted(path.stem for path in out.glob("*.csv")) == ["classes", "comparison", "results", "runs"]
    assert (out / "results.csv").read_text().startswith("data set,split,shots,method,runs,box AP mean,")
    with Image.open(out / "shots.png") as image:
        assert min(image.size) > 400
        assert np.asarray(image.convert("L")).std() > 5
    assert (out / "shots.pdf").read_bytes().startswith(b"%PDF")


def test_what_a_killed_report_left_is_removed(tmp_path):
    make_runs(tmp_path / "runs", {"seed=0": box_metrics(10)})
    left = [tmp_path / "out" / ".ntt-a.tmp", tmp_path / ".ntt-b.tmp", tmp_path / "runs" / ".ntt-c.tmp"]
    for path in left:
        path.parent.mkdir(exist_ok=True)
        path.touch()
        os.utime(path, (0, 0))
    page = str(tmp_path / "page.html")
    assert main(["report", str(tmp_path / "runs"), "--out", str(tmp_path / "out"), "--html", page]) == 0
    assert [path.exists() for path in left] == [False, False, True]


def test_runs_on_images_without_annotations_are_reported(tmp_path, capsys):
    make_runs(tmp_path, {"seed=0": Metrics(overall={}, per_class={}, num_images=4, num_detections=9)})
    assert main(["report", str(tmp_path), "--out", str(tmp_path / "out"), "--plots"]) == 0
    text = (tmp_path / "out" / "results.md").read_text()
    assert "| 1 of 1 |" in text
    assert "target images without annotations" in text
    assert "plot " not in capsys.readouterr().out


@cases("more", "message")(
    (["--plots"], "--plots draws into a folder: add --out FOLDER"),
    (["--metric", "bbox/APP"], "bbox/APP: no run has it. Allowed: one of bbox/AP, bbox/AP50."),
    (["--html", "."], "--html . is a folder. Name a file, for example report.html"),
)
def test_mistakes_on_the_command_line(tmp_path, more, message, cli):
    make_runs(tmp_path, {"seed=0": box_metrics(10)})
    assert message in cli("report", tmp_path, *more, status=2)


def test_the_page_in_a_browser(tmp_path):
    pytest.importorskip("selenium")
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.remote.webelement import WebElement
    from selenium.webdriver.support.ui import Select, WebDriverWait

    reason = why_not()
    if reason:
        pytest.skip(reason)
    tiny_runs(tmp_path, first_class=EVIL)
    page = tmp_path / "report.html"
    assert main(["report", str(tmp_path / "outputs"), "--html", str(page)]) == 0
    with open_browser(tmp_path / "profile") as browser:

        def find(selector: str) -> list[WebElement]:
            return list(browser.find_elements(By.CSS_SELECTOR, selector))

        def cards() -> list[str]:
            """The captions of each card, once all its canvases are drawn."""
            done = "return [...document.querySelectorAll('#cards canvas')].every((c) => c.dataset.drawn)"
            WebDriverWait(browser, 120).until(lambda driver: driver.execute_script(done))
            captions = [card.find_elements(By.TAG_NAME, "figcaption") for card in find(".card")]
            return [" | ".join(caption.text for caption in pair) for pair in captions]

        def choose(name: str, value: str) -> list[str]:
            events = "for (const name of ['input', 'change']) arguments[0].dispatchEvent(new Event(name))"
            browser.execute_script(f"arguments[0].value = arguments[1]; {events}", find(f"#choose-{name}")[0], value)
            return cards()

        def names() -> list[str]:
            return [heading.text for heading in find(".card h3")]

        def pixel(number: int) -> list[int]:
            script = "return [...arguments[0].getContext('2d').getImageData(30, 30, 1, 1).data].slice(0, 3)"
            return list(browser.execute_script(script, find(".card canvas")[number]))

        def press(*keys: str) -> None:
            for key in keys:
                browser.switch_to.active_element.send_keys(key)

        def state() -> dict[str, str]:
            return dict(parse_qsl(urlsplit(browser.current_url).fragment))

        browser.get(page.as_uri())
        # The first run counted from 0.85 and 0.15, by class; the second has not noted it and starts at 0.4.
        assert cards()[0] == "Ground truth: 2, 0 missed | Predictions: 3, 1 wrong"
        assert cards()[3] == "Ground truth: 2, 2 missed | Predictions: 0, 0 wrong"
        assert (find("#score-shown")[0].text, state()) == ("0.15 to 0.85", {})
        Select(find("#choose-class")[0]).select_by_index(1)
        assert (find("#score-shown")[0].text, find("#choose-score")[0].get_attribute("value")) == ("0.85", "0.85")
        Select(find("#choose-class")[0]).select_by_index(0)
        choose("score", "0.4")
        assert (find("#choose-own")[0].is_selected(), state()) == (False, {"own": "false"})
        assert cards() == [
            "Ground truth: 2, 0 missed | Predictions: 2, 0 wrong",
            "Ground truth: 1, 0 missed | Predictions: 1, 0 wrong",
            "Ground truth: 0, 0 missed | Predictions: 0, 0 wrong",
            "Ground truth: 2, 2 missed | Predictions: 0, 0 wrong",
        ]
        # The gallery comes first.
        assert [section.get_attribute("id") for section in find("main > section")] == ["gallery", "tables", "plots"]
        # Left the disc of the ground truth, right the square that the prediction fills: half photograph, half colour.
        photograph, colour = np.array([220, 40, 30]), np.array([240, 88, 60])
        assert np.abs(pixel(0) - (photograph + colour) / 2).max() < 14
        assert pixel(4) == pixel(5)
        choose("colour", "outcome")
        assert np.abs(pixel(1) - (photograph + np.array([0, 158, 115])) / 2).max() < 14
        assert find("#outcomes")[0].is_displayed()
        choose("colour", "class")
        find("#choose-masks")[0].click()
        cards()
        assert np.abs(pixel(0) - photograph).max() < 14
        assert choose("score", "0.1")[0] == "Ground truth: 2, 0 missed | Predictions: 3, 1 wrong"
        assert choose("score", "0.85")[1] == "Ground truth: 1, 1 missed | Predictions: 0, 0 wrong"
        choose("sort", "worst")
        assert names() == [f"targets_{number}.png" for number in (1, 3, 0, 2)]
        classes = Select(find("#choose-class")[0])
        options = [option.text for option in classes.options]
        assert options[1:] == [f"{EVIL} (3 true, 2 at any score)", "square (2 true, 3 at any score)"]
        classes.select_by_index(2)
        assert cards() == ["Ground truth: 1, 1 missed | Predictions: 0, 0 wrong"] * 2
        assert find("#position")[0].text == "1 to 2 of 2"
        # The address holds what is shown, and a page opened at it shows the same.
        expected = {"score": "0.85", "own": "false", "sort": "worst", "class": "square", "masks": "false"}
        assert state() == expected
        browser.refresh()
        assert (len(cards()), names(), state()) == (2, ["targets_0.png", "targets_1.png"], expected)
        Select(find("#choose-class")[0]).select_by_index(0)
        Select(find("#choose-run")[0]).select_by_index(1)
        find("#choose-own")[0].click()
        assert find("#score-shown")[0].text == "0.40"
        Select(find("#choose-run")[0]).select_by_index(0)
        choose("score", "0.85")
        # The keyboard: Tab reaches the first card, arrows the others; Enter enlarges, arrows go on, Escape closes.
        browser.execute_script(
            "document.getElementById('next').disabled = false; document.getElementById('next').focus()"
        )
        press(Keys.TAB)
        assert browser.switch_to.active_element.text.startswith("targets_1.png")
        press(Keys.ARROW_RIGHT, Keys.ARROW_DOWN, Keys.ARROW_LEFT, Keys.ENTER)
        assert find("#large")[0].is_displayed()
        assert find("#large-name")[0].text == "targets_3.png (2 of 4)"
        press(Keys.ARROW_RIGHT)
        assert (find("#large-name")[0].text, state()["image"]) == ("targets_0.png (3 of 4)", "targets_0.png")
        browser.refresh()
        cards()
        assert find("#large-name")[0].text == "targets_0.png (3 of 4)"
        press(Keys.ESCAPE)
        assert not find("#large")[0].is_displayed()
        # The browser tells the page that a dialog was closed some time after it has closed it.
        WebDriverWait(browser, 120).until(lambda _: "image" not in state())
        assert browser.switch_to.active_element.text.startswith("targets_0.png")
        for _ in range(2):
            find("#table-runs th button")[2].click()
        assert [row.text for row in find("#table-runs tbody td:nth-child(3)")] == ["2", "2", "1"]
        # A telephone, in the dark.
        width = {"width": 400, "height": 800, "deviceScaleFactor": 1, "mobile": True}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", width)
        dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
        assert browser.execute_script("return document.documentElement.scrollWidth") == 400
        assert browser.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(20, 24, 29)"
        assert browser.execute_script("return window.hacked") is None
        assert browser.get_log("browser") == []
        requests = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
        urls = [item["params"]["request"]["url"] for item in requests if item["method"] == "Network.requestWillBeSent"]
        assert [url for url in urls if not url.startswith(("data:", "file:", "chrome"))] == []
