"""The whole run: what it writes, what it repeats, what it refuses, and that processes do not change the result."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import cases, refused, run_python
from PIL import Image
from pycocotools.coco import COCO
from tiny_data import edited, read, run_with, settings

from ntt.config import schema as config
from ntt.config.compose import compose_config
from ntt.errors import ConfigError, DataError, StorageError, WeightsError
from ntt.reports.records import read_run
from ntt.run import runner

Run = Callable[..., Path]


@pytest.fixture
def run(tiny: Path, tmp_path: Path, shared_store: Path) -> Run:
    """Run with overrides in this process; returns the run directory."""

    def go(*more: str, root: Path = tiny, store: Path = shared_store) -> Path:
        return run_with(settings(root, tmp_path / "out", store, *more))

    return go


@pytest.fixture
def root(tiny: Path, tmp_path: Path) -> Path:
    """A copy of the data set, to be changed."""
    return Path(shutil.copytree(tiny, tmp_path / "copy"))


def test_a_run_leaves_everything(run, tiny, caplog):
    folder = run("visualisation.enabled=true")
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    documents = ("identity", "facts", "references", "candidates", "predictions", "metrics")
    documents += ("thresholds", *(f"stages/{stage}" for stage in config.STAGES if stage != "leave_one_out"))
    expected = {f"{name}.json" for name in documents} | {"config.yaml", "memory.safetensors", "prototypes.safetensors"}
    assert expected | {"run.log", *(f"pictures/{name}.png" for name in ("references", "best", "worst"))} <= names
    assert not [name for name in names if name.endswith(".tmp")]
    metrics = read(folder / "metrics.json")
    assert set(metrics["overall"]) == {"bbox", "segm", "rejection"}
    assert set(metrics["per_class"]["bbox"]) == {"disc", "square"}
    assert 50 < metrics["overall"]["segm"]["AP50"] <= 100
    facts = read(folder / "facts.json")
    assert set(facts["stages"]) == {*config.STAGES} - {"leave_one_out"}
    assert facts["packages"]["torch"]
    assert facts["stages"]["memory"]["seconds"] > 0
    assert facts["stages"]["candidates"]["peak_memory_mb"]["process"] > 50
    loaded = COCO(str(tiny / "annotations" / "targets.json")).loadRes(str(folder / "predictions.json"))
    assert len(loaded.anns) == len(json.loads((folder / "predictions.json").read_text())) > 0


def test_a_finished_run_does_nothing_and_the_log_has_what_was_said(run, capsys):
    log = (run("shots=30shot", "stage=memory") / "run.log").read_text()
    (warning,) = [line for line in capsys.readouterr().out.splitlines() if "30" in line and "disc" in line]
    assert log.count(warning) == 1
    assert log.index(warning) < log.index("Run directory: ")
    runner._say_weak.cache_clear()
    folder = run()
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.suffix != ".log"}
    weak = "The models that come with the package are weak."
    assert weak in capsys.readouterr().out
    assert run() == folder
    text = capsys.readouterr().out
    assert "already finished; nothing to do" in text
    assert weak not in text, "once per process is enough"
    assert {path: path.stat().st_mtime_ns for path in before} == before
    for name in ("config.yaml", "identity.json", "facts.json"):
        (folder / name).write_text("{")
        assert read_run(folder)["state"] == "damaged"
        run()
        assert read_run(folder)["state"] == "finished"


def test_counts_follow_the_score_from_which_detections_are_shown(run, capsys):
    totals = []
    for score in (0.1, 0.6):
        folder = run(f"visualisation.score_threshold={score}")
        assert "already finished" not in capsys.readouterr().out
        assert read(folder / "lowest_scores.json") == pytest.approx({"disc": score, "square": score})
        with (folder / "counts.csv").open(newline="") as stream:
            totals.append(sum(int(row["number"]) for row in csv.DictReader(stream)))
    assert totals[0] > totals[1] > 0


def test_changed_annotations_are_never_met_with_stale_results(run, root):
    folder = run(root=root)
    before = read(folder / "metrics.json")
    with edited(root, "targets") as content:
        content["annotations"] = content["annotations"][:1]
    assert run(root=root) == folder
    assert read(folder / "metrics.json") != before
    drawn = read(folder / "references.json")["references"]["3"][0]["annotation_id"]
    memory, predictions = ((folder / name).read_bytes() for name in ("memory.safetensors", "predictions.json"))
    with edited(root, "references") as content:
        (annotation,) = [entry for entry in content["annotations"] if entry["id"] == drawn]
        x, y, width, height = annotation["bbox"]
        annotation["segmentation"] = [[x, y, x + width / 2, y, x + width / 2, y + height / 2, x, y + height / 2]]
    run("stage=references", root=root)
    assert {path.stem for path in (folder / "stages").iterdir()} == {"references", "candidates", "proposals"}
    assert not (folder / "metrics.json").exists(), "a report would show it"
    run(root=root)
    assert (folder / "memory.safetensors").read_bytes() != memory
    assert (folder / "predictions.json").read_bytes() != predictions


def test_one_stage_makes_what_it_needs_and_no_more(run):
    folder = run("stage=candidates")
    assert {path.stem for path in (folder / "stages").iterdir()} == {"candidates"}
    run("stage=fill_memory")
    assert {path.stem for path in (folder / "stages").iterdir()} == {"candidates", "references", "memory"}
    assert not (folder / "metrics.json").exists()
    run("stage=evaluation")
    assert (folder / "metrics.json").exists()
    assert not (folder / "stages" / "visualisation.json").exists()


def test_chosen_pictures(run):
    folder = run("visualisation.enabled=true", "visualisation.image_ids=[102,104]")
    names = sorted(path.name for path in (folder / "pictures" / "targets").iterdir())
    assert names == ["targets_1_102.png", "targets_3_104.png"]
    with Image.open(folder / "pictures" / "targets" / "targets_1_102.png") as picture:
        assert picture.width > 2 * 480
    with pytest.raises(ConfigError, match=r"visualisation.image_ids=\[1\]: no target image has such an id"):
        run("visualisation.image_ids=[1,101]")


def test_pictures_of_an_earlier_run_are_not_announced_where_none_are_wanted(run, capsys):
    run("visualisation.enabled=true", "visualisation.max_images=1", "visualisation.contact_sheet_size=0")
    assert "\npictures " in capsys.readouterr().out
    folder = run()
    assert (folder / "pictures").is_dir()
    assert "pictures " not in capsys.readouterr().out


def test_what_is_wrong_with_both_files_is_reported_at_once(run, root, tmp_path):
    (root / "images" / "targets_2.png").unlink()
    (root / "images" / "references_0.png").write_bytes(b"no image")
    with refused(DataError, "targets_2.png", "references_0.png is not an image"):
        run(root=root, store=tmp_path / "store")
    assert not list((tmp_path / "store").rglob("*.safetensors"))
    for name in ("references", "targets"):
        (root / "annotations" / f"{name}.json").write_text("{}" if name == "targets" else "{")
    with refused(DataError, "references.json is not valid JSON", "targets.json is not in COCO format"):
        run(root=root)
    with pytest.raises(DataError) as caught:
        run("dataset.targets=annotations/references.json", root=root)
    assert str(caught.value).count("is not valid JSON") == 1


def test_missing_weights_and_a_missing_device_are_reported_at_once(tmp_path):
    words = ["backbone=dinov2_vits14", "segmenter=sam2_tiny", f"runtime.weights_root={tmp_path}"]
    words += [f"runtime.output_root={tmp_path}", f"runtime.store_root={tmp_path}"]
    with refused(
        ConfigError,
        "runtime.device=cuda:99: ",
        f"ntt weights get dinov2_vits14 --root {tmp_path}",
        "The same holds for 1 more (sam2_hiera_tiny)",
    ):
        runner.run(compose_config([*words, "runtime.device=cuda:99"]))
    with pytest.raises(WeightsError, match=r"1 more \(sam2_hiera_tiny\)"):
        runner.run(compose_config(words))


def test_a_store_that_cannot_be_written_is_found_first(run, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match=r"Cannot write .*/\.writable"):
        run(store=tmp_path / "file" / "store")
    assert not list((tmp_path / "out").rglob("memory.safetensors"))


@cases("trouble")("no data", "no image")
def test_a_refused_run_leaves_no_directory(run, tiny, tmp_path, trouble):
    root = tmp_path / "copy"
    if trouble == "no image":  # found when all keys have been made already
        shutil.copytree(tiny, root)
        (root / "images" / "targets_2.png").unlink()
    with pytest.raises(DataError):
        run(root=root, store=tmp_path / "deep" / "store")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "deep").exists()


def test_classes_that_differ_between_the_files_are_named_or_refused(run, root, capsys):
    with edited(root, "references") as content:
        for part, key in (("categories", "id"), ("annotations", "category_id")):
            content[part] = [entry for entry in content[part] if entry[key] == 3]
    run("stage=references", root=root)
    said = capsys.readouterr().out
    assert "1 class(es) of the targets are not among the references" in said
    assert "neither searched nor evaluated: square." in said
    run("stage=references", "split.classes=[disc]", root=root)
    assert "neither searched" not in capsys.readouterr().out
    with edited(root, "targets") as content:
        content["categories"][0]["id"] = 9
        for annotation in content["annotations"]:
            annotation["category_id"] = 9 if annotation["category_id"] == 3 else 7
    with pytest.raises(DataError, match="'disc' has id 3 in the references and 9 in"):
        run(root=root)


RUNS = """
import json, sys
from ntt.reports.records import read_run
from ntt.run import runner
for words in json.loads(sys.argv[1]):
    sys.argv[1:] = words
    runner.main()
"""


def test_processes_do_not_change_a_bit(tmp_path, run, tiny, root):
    """Two processes, with more and with fewer images than processes."""
    with edited(root, "targets") as content:
        content["images"] = content["images"][:1]
        content["annotations"] = [entry for entry in content["annotations"] if entry["image_id"] == 101]
    pictures = ("visualisation.enabled=true", "visualisation.features=true")
    asked = {tiny: pictures, root: ("matcher=auto", "shots=2shot")}
    many = {data: tmp_path / f"many-{data.name}" for data in asked}
    jobs = [settings(data, many[data], many[data] / "store", *more) for data, more in asked.items()]
    (tmp_path / "runs.py").write_text(RUNS)
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    done = run_python(*launcher, tmp_path / "runs.py", json.dumps(jobs))
    assert done.returncode == 0, done.stderr
    names = ["references.json", "predictions.json", "metrics.json", "candidates.json"]
    more = {tiny: [], root: ["leave_one_out.json", "thresholds.json", "memory.safetensors"]}
    for data in asked:
        (metrics,) = many[data].rglob("metrics.json")
        alone, together = run(*asked[data], root=data, store=tmp_path / f"alone-{data.name}"), metrics.parent
        pictures = [path.relative_to(alone) for path in (alone / "pictures").rglob("*.png")]
        for name in (*names, *more[data], *pictures):
            assert (alone / name).read_bytes() == (together / name).read_bytes(), name
        facts = [read(folder / "facts.json") for folder in (alone, together)]
        assert [each["processes"] for each in facts] == [1, 2]
        first, second = (each["stages"]["candidates"]["computed"] for each in facts)
        assert first == second, "the images of all processes count"


def test_the_program_ends_with_the_plain_message(tmp_path):
    words = ["dataset=coco_json", "dataset.root=/nowhere", f"runtime.output_root={tmp_path}"]
    done = run_python("main.py", *words)
    assert done.returncode == 2
    assert "dataset.root=/nowhere is not a folder" in done.stderr
    assert "Traceback" not in done.stderr
