"""The published data sets and the demo: options, layouts, files, and what `ntt data check` says of them."""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from coco_samples import document, read
from conftest import cases
from miniatures import CDFSOD, COCO_LIKE, LVIS_CLASSES, make_miniature, make_miniatures
from PIL import Image
from tiny_data import SMALL, make_tiny

from ntt.base.project import CONF_DIR
from ntt.cli.data_files import files_by_shots
from ntt.cli.main import main
from ntt.config import schema as config
from ntt.config.compose import compose_config, compose_many
from ntt.config.identity import run_directory
from ntt.data.coco import read_coco
from ntt.data.sampling import Validity, sample_native
from ntt.datasets.base import DatasetFiles
from ntt.datasets.demo import DEMO_FOLDER, DemoConfig, copy_demo
from ntt.datasets.folders import PublishedConfig
from ntt.datasets.published.check import CheckReport, check_published
from ntt.datasets.published.details import DatasetDetails, known_datasets
from ntt.datasets.published.fetch import convert_devkit, write_kshot_files
from ntt.errors import ConfigError, DataError, StorageError
from ntt.run import runner
from ntt.run.artefacts import read_metrics
from ntt.run.inputs import read_inputs

OPTIONS = (*COCO_LIKE, *CDFSOD)
Miniatures = tuple[Path, Mapping[str, DatasetDetails]]


@pytest.fixture(scope="session")
def miniatures(tmp_path_factory) -> Miniatures:
    """All data sets below one data root, and their details."""
    return make_miniatures(tmp_path_factory.mktemp("published"))


def settings(option: str, data_root: Path, *more: str) -> config.ExperimentConfig:
    return compose_config([f"dataset={option}", f"runtime.data_root={data_root}", *more])


@cache
def places_below_root(option: str) -> Mapping[int | None, DatasetFiles]:
    """Composing takes a third of a second: once an option is enough."""
    return files_by_shots(known_datasets()[option], None, data_root=Path("/ROOT"))


def check(option: str, root: Path, details: DatasetDetails) -> CheckReport:
    moved = {
        shots: DatasetFiles(**{key: root / path.relative_to("/ROOT") for key, path in vars(files).items()})
        for shots, files in places_below_root(option).items()
    }
    return check_published(details, moved)


def test_every_published_option_is_known_and_has_a_miniature():
    folder = CONF_DIR / "dataset"
    published = {path.stem for path in folder.glob("*.yaml") if "schema/dataset/published" in path.read_text()}
    assert published == set(known_datasets()) == set(OPTIONS)


@cases("option")(*OPTIONS)
def test_a_miniature_passes_its_check(option, miniatures):
    root, details = miniatures
    assert check(option, root, details[option]).problems == []


@cases("option")("coco", "lvis", "voc")
def test_the_option_finds_its_files_and_classes(option, miniatures):
    root, details = miniatures
    composed = settings(option, root, "shots=1shot")
    inputs = read_inputs(composed)
    names = details[option].class_names or sum(LVIS_CLASSES.values(), ())
    assert tuple(category.name for category in inputs.categories) == names
    assert composed.dataset.label() == option
    assert len(inputs.target_data.images) == details[option].targets.images


@cases("option", "shots", "file", "sampler")(
    ("cdfsod_dior", "5shot", "DIOR/annotations/5_shot.json", "fixed"),
    ("cdfsod_neu_det", "10shot", "NEU-DET/annotations/10_shot.json", "fixed"),
    ("voc_kshot", "3shot", "voc/annotations/3_shot.json", "fixed"),
    ("coco", "5shot", "coco/annotations/instances_train2017.json", "native"),
)
def test_references_follow_the_shots(option, shots, file, sampler, tmp_path):
    words = [f"dataset={option}", f"runtime.data_root={tmp_path}", f"shots={shots}"]
    composed, otherwise = compose_many([words, [*words, "shots.sampler=native"]])
    assert isinstance(composed.dataset, PublishedConfig)
    assert composed.dataset.places().references_file == tmp_path / file
    assert composed.shots.sampler == sampler
    assert otherwise.shots.sampler == "native"


def test_lvis_has_images_of_coco_and_frequencies_of_its_own(tmp_path):
    dataset = settings("lvis", tmp_path).dataset
    assert isinstance(dataset, PublishedConfig)
    assert dataset.places().target_images == tmp_path / "coco"
    assert replace(dataset, target_images="/big/coco").places().target_images == Path("/big/coco")
    categories = [{"id": 1, "name": "cat", "frequency": "r"}, {"id": 7, "name": "dog", "frequency": "often"}]
    assert read(tmp_path, document(categories=categories)).frequencies == {1: "r"}


def test_a_missing_root_or_file_leads_to_the_check(tmp_path):
    make_miniature("cdfsod_fish", tmp_path)
    remedy = "`ntt data check {0}` lists what is missing, `ntt data get {0}` says how to get it. runtime.data_root or N"
    for option, text in (("cdfsod_uodd", "dataset.root=.*/UODD is not a folder.*"), ("cdfsod_fish", r"3_shot\.json.*")):
        with pytest.raises(DataError, match=text + r"\n" + remedy.format(option)):
            settings(option, tmp_path, "shots=3shot").dataset.locate(tmp_path)


@cases("split", "letter")(("lvis_rare", "r"), ("lvis_common", "c"), ("lvis_frequent", "f"))
def test_lvis_splits_go_by_the_file(split, letter, miniatures):
    inputs = read_inputs(settings("lvis", miniatures[0], f"split={split}"))
    assert tuple(category.name for category in inputs.categories) == LVIS_CLASSES[letter]
    with pytest.raises(ConfigError, match=rf"split={split} takes the classes whose `frequency` is .*there is none"):
        read_inputs(settings("coco", miniatures[0], f"split={split}"))


def edit(path: Path, change: Callable[[Any], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@cases("file", "spoil", "expected")(
    ("test/0.jpg", Path.unlink, ["There is no image ", "test/0.jpg"]),
    ("test/0.jpg", lambda path: os.truncate(path, 2000), ["test/0.jpg", "damaged"]),
    # a target under another name
    ("train/ref_5_0.jpg", lambda path: shutil.copy(path, path.parents[1] / "test/1.jpg"),
     ["1 of 2 target images are also images of the references file", "1.jpg (as reference: ref_5_0.jpg)"]),
    ("annotations/5_shot.json", Path.unlink, ["There is no annotation file ", "5_shot.json"]),
    ("annotations/test.json", lambda path: path.write_text("{"), ["test.json is not valid JSON"]),
    ("annotations/test.json", lambda path: edit(path, lambda content: content["annotations"].pop()),
     ["test.json has 8 annotations, the published file has 9", "scallop 1 (2)"]),
    ("annotations/test.json", lambda path: edit(path, lambda it: it["categories"][0].update(name="cucumber")),
     ["lacks the class(es) seacucumber", "has the class(es) cucumber, which are not known"]),
    ("annotations/1_shot.json", lambda path: edit(path, lambda content: content["annotations"].pop(0)),
     ["1_shot.json has no example of seacucumber"]),
    ("train", shutil.rmtree, ["There is no image folder ", "UODD/train"]),
)  # fmt: skip
def test_the_check_finds_what_is_wrong(file, spoil, expected, tmp_path):
    details = make_miniature("cdfsod_uodd", tmp_path)
    spoil(tmp_path / "UODD" / file)
    problems = "\n".join(check("cdfsod_uodd", tmp_path, details).problems)
    assert [part for part in expected if part not in problems] == []


def test_classes_with_other_than_k_examples_are_mentioned(tmp_path):
    details = make_miniature("voc_kshot", tmp_path)
    convert_devkit(tmp_path / "voc")
    write_kshot_files(tmp_path / "voc", (1, 2, 3, 5, 10))
    report = check("voc_kshot", tmp_path, details)
    assert report.problems == []
    assert "         classes with other than 2 examples: tvmonitor 1" in report.lines


def test_check_command(tmp_path, cli, monkeypatch):
    monkeypatch.setenv("NTT_DATA", str(tmp_path))
    details = make_miniature("cdfsod_fish", tmp_path)
    out = cli("data", "check", "cdfsod_fish", status=1)
    assert "test.json: 2 images, 9 annotations, boxes only" in out
    assert "test.json has 2 images, the published file has 909." in out
    assert "fish 9 (3029)" in out
    assert "published at https://github.com/lovelyqian/CDFSOD-benchmark" in out
    monkeypatch.setattr("ntt.cli.data_files.known_datasets", lambda: {"cdfsod_fish": details})
    assert cli("data", "check", "cdfsod_fish").endswith("All files are present and as published.\n")
    moved = (tmp_path / "FISH").rename(tmp_path / "with = and, comma")
    assert main(["data", "check", "cdfsod_fish", "--root", str(moved), "--decode"]) == 0


def test_check_command_names_everything_that_is_missing(tmp_path, cli, monkeypatch):
    monkeypatch.setenv("NTT_DATA", str(tmp_path))
    out = cli("data", "check", "coco", status=1)
    for half in ("val", "train"):
        assert f"There is no annotation file {tmp_path}/coco/annotations/instances_{half}2017.json" in out
        assert f"There is no image folder {tmp_path}/coco/{half}2017" in out
    assert "Run `ntt data get coco`" in out


def test_check_only_reads_the_folder_it_is_given(tmp_path, cli, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = make_tiny(tmp_path / "tiny")
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert "4 images, 5 annotations, masks" in cli("data", "check", root)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]
    assert main(["data", "check", "coco_json", "--root", str(root)]) == 0
    # A target that is a reference under another name is found.
    shutil.copy(root / "images" / "references_0.png", root / "images" / "targets_1.png")
    assert "1 of 4 target images are also images of the references file" in cli("data", "check", root, status=1)


@cases("words", "message")(
    (["cocoa"], "cocoa is neither a folder nor a known data set"),
    (["demo", "--root", "x"], "--root x: the demo data set is part of the program"),
    (["demo", "--targets", "t.json"], "--targets cannot be given with the data set demo"),
    (["tests", "--root", "x"], "--root needs the name of a data set; tests is a folder or unknown"),
)
def test_check_refuses_what_it_would_not_read(words, message, cli):
    assert message in cli("data", "check", *words, status=2)


def test_facts_agree_with_the_benchmark(shared_dir):
    published = json.loads((shared_dir / "cdfsod_test_statistics.json").read_text())
    for key, entry in published.items():
        if key in ("source", "shot_file_images"):
            continue
        option = f"cdfsod_{key.lower().replace('neudet', 'neu_det')}"
        details = known_datasets()[option]
        assert details.targets.images == entry["test_images"]
        assert details.targets.annotations == entry.get("total")
        assert dict(details.targets.per_class) == entry.get("instances", {})
        assert {str(k): n for k, n in details.shot_images.items()} == published["shot_file_images"][key]


def small(option: str, root: Path, output: Path, *more: str) -> config.ExperimentConfig:
    folders = (f"runtime.output_root={output}", f"runtime.store_root={output}/store")
    return settings(option, root, "shots=1shot", "visualisation.enabled=false", *folders, *SMALL, *more)


def test_a_box_only_set_runs_from_end_to_end(miniatures, tmp_path, capsys):
    composed = small("cdfsod_fish", miniatures[0], tmp_path, "split=cdfsod_fish")
    runner.run(composed)
    folder = run_directory(composed)
    assert json.loads((folder / "references.json").read_text())["sampler"] == "fixed"
    assert set(json.loads((folder / "metrics.json").read_text())["overall"]) == {"bbox"}
    assert "9 of the 9 objects of the ground truth have none." in capsys.readouterr().out


def test_difficult_objects_of_voc_count_by_one_setting(miniatures, tmp_path, capsys):
    """VOC's own protocol leaves them out of the count; as ordinary objects they are among the 20 of the file."""
    counts = {}
    for difficult in ("null", "crowd", "ordinary"):
        words = ["shots=1shot", "split=all", f"evaluation.difficult={difficult}", *SMALL]
        composed = small("voc", miniatures[0], tmp_path, *words)
        runner.run(composed)
        metrics = read_metrics(run_directory(composed) / "metrics.json")
        counts[difficult] = (metrics.num_objects, metrics.difficult)
    assert counts == {"null": (18, "crowd"), "crowd": (18, "crowd"), "ordinary": (20, "ordinary")}
    out = capsys.readouterr().out
    assert "\nDifficult objects count as crowd regions (evaluation.difficult=crowd).\nclass " in out
    assert "\nDifficult objects count as ordinary objects (evaluation.difficult=ordinary).\nclass " in out


def demo_file(split: str) -> dict[str, Any]:
    return json.loads((DEMO_FOLDER / "annotations" / f"{split}.json").read_text(encoding="utf-8"))


def test_it_lies_in_the_package_with_every_photograph_credited_and_is_copied(tmp_path):
    files = DemoConfig(name="demo").locate(tmp_path)
    assert files.references_file.is_file()
    assert files.targets_file.is_file()
    assert files.reference_images.is_dir()
    assert list(tmp_path.iterdir()) == []
    assert sum(path.stat().st_size for path in DEMO_FOLDER.rglob("*")) < 3.5e6
    credit = (DEMO_FOLDER / "CREDITS.md").read_text(encoding="utf-8")
    for photograph in demo_file("targets")["info"]["photographs"]:
        assert f"| {photograph['title']} | {photograph['author']} |" in credit
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"cannot be copied to .*set"):
        copy_demo(tmp_path / "file" / "set")


@cases("split")("references", "targets")
def test_images_are_as_the_annotation_file_says(split):
    content = demo_file(split)
    on_disk = {path.name for path in (DEMO_FOLDER / "images").glob(f"{split[:-1]}_*.jpg")}
    assert {entry["file_name"] for entry in content["images"]} == on_disk
    licences = {entry["name"]: entry["license"] for entry in content["info"]["photographs"]}
    for entry in content["images"]:
        with Image.open(DEMO_FOLDER / "images" / entry["file_name"]) as image:
            assert (image.size, image.mode) == ((entry["width"], entry["height"]), "RGB") == ((480, 360), "RGB")
        # Licences are listed strictest first.
        assert entry["license"] == min(licences[name] for name in entry["photographs"])


def test_the_demo_is_annotated_without_a_doubt_and_has_ten_shots_of_every_class(tmp_path, caplog):
    files = DemoConfig(name="demo").locate(tmp_path)
    references = read_coco(files.references_file, files.reference_images)
    targets = read_coco(files.targets_file, files.target_images)
    validity = Validity(min_box_side_px=32, border_px=10)
    sample = sample_native(references, references.categories, shots=10, seed=0, strict=True, validity=validity)
    assert all(len({instance.image_id for instance in instances}) == 10 for instances in sample)
    assert sorted(i.shot_index for i in references.instances) == sorted([*range(10)] * 7)
    assert references.categories == targets.categories
    assert caplog.text == ""
