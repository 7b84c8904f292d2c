"""Annotation files cut down, cut apart, put together; references to keep and share; the commands for all that."""

import json
import pickle
from collections import OrderedDict
from pathlib import Path

import pytest
from coco_samples import annotation, document
from conftest import cases, refused
from PIL import Image
from tiny_data import edited, make_tiny, run_with

from ntt.cli.main import main
from ntt.convert.coco_files import merge, read_whole, split, subset
from ntt.data.coco import read_coco
from ntt.errors import ConfigError, DataError
from ntt.types import Json


def whole(num_images: int = 10) -> Json:
    """Images 0 to 9 with a cat each; every second one has a dog as well."""
    images = [{"id": i, "file_name": f"{i}.png", "height": 100, "width": 200, "license": i} for i in range(num_images)]
    cats = [annotation(i, i, 1, [20, 20, 50, 40]) for i in range(num_images)]
    dogs = [annotation(100 + i, i, 7, [20, 20, 50, 40], note="x") for i in range(0, num_images, 2)]
    return document(images=images, annotations=[*cats, *dogs])


def ids(content: Json, key: str = "images") -> list[int]:
    return [entry["id"] for entry in content[key]]


def test_subsets_of_classes_and_of_images():
    dogs = subset(whole(), classes=["dog"])
    assert dogs["categories"] == [{"id": 7, "name": "dog"}]
    assert len(dogs["images"]) == 10
    assert [(entry["id"], entry["note"]) for entry in dogs["annotations"]] == [(100 + i, "x") for i in range(0, 10, 2)]
    three, four = (ids(subset(whole(), num_images=n, seed=3)) for n in (3, 4))
    assert set(three) < set(four)
    assert len(three) == 3
    shuffled = whole()
    shuffled["images"].reverse()
    assert sorted(ids(subset(shuffled, num_images=3, seed=3))) == sorted(three)
    assert ids(subset(whole(), num_images=3, seed=4)) != three
    assert subset(whole(), num_images=10) == whole()
    assert "annotations" not in subset(document(annotations=None), num_images=1)


@cases("options", "text")(
    ({"classes": ["cow"]}, "no class 'cow'. It has dog, cat"),
    ({"num_images": 11}, "11 images cannot be chosen: there are 10"),
    ({"num_images": 0}, "0 images cannot be chosen"),
)
def test_impossible_subsets_are_refused(options, text):
    with pytest.raises(ConfigError, match=text):
        subset(whole(), **options)


def test_parts_are_disjoint_and_complete():
    shares = {"train": 0.6, "val": 0.2, "test": 0.2}
    parts = split(whole(), shares, seed=1)
    assert [len(part["images"]) for part in parts.values()] == [6, 2, 2]
    assert sorted(number for part in parts.values() for number in ids(part)) == list(range(10))
    assert sum(len(part["annotations"]) for part in parts.values()) == 15
    for part in parts.values():
        assert {entry["image_id"] for entry in part["annotations"]} == set(ids(part))
    assert parts == split(whole(), shares, seed=1)


@cases("parts", "text")(
    ({"a": 0.5, "b": 0.4}, "add up to 1"),
    ({"a": float("nan"), "b": 0.4}, "must be above 0 and add up to 1"),
    ({"a": 1.2, "b": -0.2}, "above 0"),
    ({"a": 0.99, "b": 0.01}, "no image of 10"),
)
def test_impossible_parts_are_refused(parts, text):
    with pytest.raises(ConfigError, match=text):
        split(whole(), parts)


@cases("changes", "text")(
    ({"images": [{"file_name": "a"}]}, "`images` must be a list of objects with an `id`"),
    ({"categories": None}, "`categories` must be a list"),
    ({"images": [{"id": [5]}]}, "`images` must be a list of objects with an `id` that is a whole number or text"),
    ({"annotations": 3}, "`annotations` must be a list"),
    ({"annotations": [{"image_id": [5], "category_id": 1}]}, "annotations.0. has a image_id that is not in"),
    ({"annotations": [annotation(1, 6, 1, [1, 1, 5, 5])]}, "annotations.0. has a image_id that is not in `images`"),
    ({"images": [{"id": 5}, {"id": 5}]}, "an id of `images` occurs more than once"),
)
def test_files_whose_parts_do_not_fit_are_refused(tmp_path, changes, text):
    (tmp_path / "a.json").write_text(json.dumps(document(**changes)))
    with pytest.raises(DataError, match=text):
        read_whole(tmp_path / "a.json")


def written(folder: Path, name: str, content: Json) -> tuple[Path, Path]:
    (folder / name).mkdir(exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(content))
    return path, folder / name


def test_merging_matches_classes_by_name(tmp_path):
    first = written(tmp_path, "first", document())
    classes = [{"id": 1, "name": "dog", "frequency": "r"}, {"id": 2, "name": "cow"}]
    images = [{"id": 9, "file_name": "a.png", "height": 50, "width": 60, "license": 4}]
    entries = [annotation(8, 9, 1, [1, 1, 5, 5]), annotation(9, 9, 2, [1, 1, 5, 5], note="x")]
    other = document(categories=classes, images=images, annotations=entries)
    merged = merge([first, written(tmp_path, "second", other)])
    assert [(c["id"], c["name"]) for c in merged.document["categories"]] == [(1, "cat"), (2, "cow"), (7, "dog")]
    assert [(i["id"], i["file_name"]) for i in merged.document["images"]] == [(5, "first/a.png"), (9, "second/a.png")]
    assert merged.document["images"][1]["license"] == 4
    assert [(e["id"], e["category_id"]) for e in merged.document["annotations"]] == [(1, 1), (8, 7), (9, 2)]
    assert merged.document["annotations"][2]["note"] == "x"
    assert merged.image_root == tmp_path
    assert merged.notes == ("class 'dog' of second.json has id 7 now, had 1",)


def test_merging_renumbers_where_ids_clash_and_joins_the_same_image(tmp_path):
    cats = document(annotations=[annotation(1, 5, 1, [20, 20, 50, 40])])
    dogs = document(annotations=[annotation(1, 5, 7, [20, 20, 50, 40])])
    first = written(tmp_path, "same", cats)
    (tmp_path / "dogs.json").write_text(json.dumps(dogs))
    merged = merge([first, (tmp_path / "dogs.json", tmp_path / "x" / ".." / "same")]).document
    assert [(i["id"], i["file_name"]) for i in merged["images"]] == [(5, "a.png")]
    assert [(e["id"], e["image_id"], e["category_id"]) for e in merged["annotations"]] == [(1, 5, 1), (2, 5, 7)]
    clashing = merge([first, written(tmp_path, "other", dogs)]).document
    assert [(i["id"], i["file_name"]) for i in clashing["images"]] == [(1, "same/a.png"), (2, "other/a.png")]
    assert [(e["id"], e["image_id"]) for e in clashing["annotations"]] == [(1, 1), (2, 2)]


def test_objects_of_two_files_are_written_once_where_files_can_be_merged(tmp_path):
    """Files that overlap would double their objects; within a file, equal annotations are left as they are."""
    here, there = [20, 20, 50, 40], [30, 20, 50, 40]
    first = written(tmp_path, "same", document(annotations=[annotation(1, 5, 1, here), annotation(2, 5, 1, here)]))
    other = document(annotations=[annotation(8, 5, 1, here), annotation(9, 5, 1, there)])
    (tmp_path / "other.json").write_text(json.dumps(other))
    merged = merge([first, (tmp_path / "other.json", tmp_path / "same")])
    assert [(e["id"], e["bbox"]) for e in merged.document["annotations"]] == [(1, here), (2, here), (9, there)]
    assert merged.notes == ("1 annotation(s) left out, which an earlier file has for the same image",)
    first = written(tmp_path, "same", document())
    smaller = document(images=[{"id": 5, "file_name": "a.png", "height": 99, "width": 200}])
    for content, text in (
        (document(annotations=None), "no annotations, other files have"),
        (smaller, "different sizes"),
    ):
        path, _ = written(tmp_path, "other", content)
        with refused(DataError, text):
            merge([first, (path, tmp_path / "same")])


def test_real_files_split_and_merged_are_whole_again(shared_dir, tmp_path):
    source = shared_dir / "data/fruits_nuts_dev"
    truth = read_coco(source / "annotations/targets.json", source / "images")
    for name, part in split(read_whole(truth.annotation_file), {"a": 0.5, "b": 0.5}).items():
        (tmp_path / f"{name}.json").write_text(json.dumps(part))
    merged = merge([(tmp_path / f"{name}.json", source / "images") for name in "ab"])
    (tmp_path / "merged.json").write_text(json.dumps(merged.document))
    again = read_coco(tmp_path / "merged.json", merged.image_root)
    assert again.categories == truth.categories
    assert dict(again.images) == dict(truth.images)
    assert sorted(again.instances, key=lambda each: each.id) == sorted(truth.instances, key=lambda each: each.id)


# Commands
def test_commands_cut_and_merge(tmp_path, cli):
    root = make_tiny(tmp_path / "tiny")
    source = root / "annotations/targets.json"
    before = source.read_bytes()
    out = tmp_path / "out"
    said = cli("data", "subset", source, "--class", "disc", "--output", out / "disc.json")
    assert "4 images, 3 annotations, 1 class written to" in said
    assert main(["data", "split", str(source), "train=0.75", "val=0.25", "--output", str(out)]) == 0
    assert [len(json.loads((out / f"{name}.json").read_text())["images"]) for name in ("train", "val")] == [3, 1]
    pairs = [word for name in ("train", "val") for word in ("--input", str(out / f"{name}.json"), str(root / "images"))]
    merging = ("data", "merge", *pairs, "--output", out / "all.json")
    assert "4 images, 5 objects (5 with a mask, 0 crowd regions)" in cli(*merging)
    assert "files are never changed" in cli(*merging, status=2)
    assert "cannot be part of a file name" in cli("data", "split", source, "../x=1", "--output", out, status=2)
    assert source.read_bytes() == before


def test_commands_convert_and_leave_nothing_that_a_run_could_not_use(tmp_path, cli):
    Image.new("RGB", (100, 80)).save(tmp_path / "a.png")
    before = list(tmp_path.iterdir())
    refusal = cli("data", "convert", "yolo", tmp_path, "--output", tmp_path / "boats.json", status=2)
    assert "has no images/train/ with labels/train/" in refusal
    assert list(tmp_path.iterdir()) == before
    corners = "<xmin>11</xmin><ymin>21</ymin><xmax>40</xmax><ymax>60</ymax>"
    boat = f"<object><name>boat</name><bndbox>{corners}</bndbox></object>"
    (tmp_path / "a.xml").write_text(f"<annotation><filename>a.png</filename>{boat}</annotation>")
    words = ["--annotations", str(tmp_path), "--images", str(tmp_path), "--output", str(tmp_path / "voc.json")]
    out = cli("data", "convert", "voc", *words, "--zero-based")
    assert "1 image, 1 object (0 with a mask, 0 crowd regions)" in out
    assert f"its file names start from {tmp_path}\n" in out
    assert json.loads((tmp_path / "voc.json").read_text())["annotations"][0]["bbox"] == [11, 21, 29, 39]
    (tmp_path / "voc.json").unlink()
    far = {"label": "boat", "points": [[1, 1], [50_000, 1], [50_000, 9]]}
    (tmp_path / "a.json").write_text(json.dumps({"imagePath": "a.png", "shapes": [far]}))
    words = ["--annotations", str(tmp_path), "--output", str(tmp_path / "out.json")]
    assert "a polygon from 1.0 to 50000.0 px" in cli("data", "convert", "labelme", *words, status=2)
    assert not (tmp_path / "out.json").exists()


def sampling(root: Path, output: Path, *more: str) -> list[str]:
    files = ["--annotations", str(root / "annotations/references.json"), "--images", str(root / "images")]
    return ["data", "sample-references", *files, "--output", str(output), *more]


@cases("sampler")("native", "reference", "fixed")
def test_a_run_with_sampled_references_uses_the_same_ones(tmp_path, sampler, cli):
    root = make_tiny(tmp_path / "tiny")
    chosen = [f"shots.sampler={sampler}", "shots=2shot", "seed=3"]
    out = cli(*sampling(root, root / "annotations/shared.json", "--pictures", str(tmp_path / "sheet"), *chosen))
    assert "3 images, 4 objects" in out
    with Image.open(tmp_path / "sheet/references.png") as sheet:
        assert sheet.width > 400
    content = json.loads((root / "annotations/shared.json").read_text())
    facts = content["info"]["references"]
    assert f"digest {facts['digest']}" in out
    assert (facts["sampler"], facts["shots"], facts["seed"], facts["file"]) == (sampler, 2, 3, "references.json")
    shots = sorted((entry["category_id"], entry["shot_index"]) for entry in content["annotations"])
    assert shots == [(3, 0), (3, 1), (7, 0), (7, 1)]
    common = ["dataset=coco_json", f"dataset.root={root}", "shots=2shot", "seed=3", f"runtime.output_root={tmp_path}"]
    of_file = ["shots.sampler=shot_index", "dataset.references=annotations/shared.json"]
    runs = [run_with([*common, *words, "stage=references"]) for words in (chosen[:1], of_file)]
    original, shared = (json.loads((run / "references.json").read_text()) for run in runs)
    assert original["references"] == shared["references"]
    assert original["digest"] == shared["digest"] == facts["digest"]
    file = read_coco(root / "annotations/shared.json", root / "images")
    assert (shared["file"], shared["file_sha256"]) == ("shared.json", file.digest)
    recorded = json.loads((runs[1] / "facts.json").read_text())["data"]
    expected = {"file": str(file.annotation_file), "sha256": file.digest, "images": str(root / "images")}
    assert recorded["references"] == expected
    assert recorded["targets"]["file"].endswith("targets.json")


def test_a_class_without_an_example_is_left_out_by_the_reference_sampler_only(tmp_path):
    root = make_tiny(tmp_path / "tiny")
    for name in ("references", "targets"):
        with edited(root, name) as content:
            content["categories"].append({"id": 9, "name": "star"})
    words = ["dataset=coco_json", f"dataset.root={root}", "shots=1shot", f"runtime.output_root={tmp_path}"]
    words += [f"runtime.store_root={tmp_path}/store", "stage=references"]
    with pytest.raises(DataError, match="of 1 of the 3 classes: star"):
        run_with(words)
    drawn = json.loads((run_with([*words, "shots.sampler=reference"]) / "references.json").read_text())
    assert list(drawn["names"].values()) == ["disc", "square"]


def test_wrong_wishes_for_references_are_refused(tmp_path, cli):
    root = make_tiny(tmp_path / "tiny")
    source = root / "annotations/references.json"
    for output, more, text in (
        (source, (), "exists already, and files are never changed"),
        (tmp_path / "refs.json", ("split.classes=[dics]",), "The nearest is 'disc'"),
        (tmp_path / "refs.json", ("shots=30shot", "shots.strict=true"), "for 30 shots"),
    ):
        assert text in cli(*sampling(root, output, *more), status=2)
    words = ("data", "sample-references", "--annotations", source, "--output", tmp_path / "a.json")
    assert "--annotations is given without --images" in cli(*words, status=2)
    assert not (tmp_path / "refs.json").exists()


def test_the_published_draw_is_the_one_of_our_command(shared_dir, golden_dir, tmp_path):
    """The recorded draw of the published sampler: drawn by ours it is the same file as converted from its pickle."""
    root = shared_dir / "data/coco_dev"
    words = ["--annotations", str(root / "annotations/targets.json"), "--images", str(root / "images")]
    recorded = json.loads((golden_dir / "sampler.json").read_text())["runs"][0]
    assert (recorded["class_split"], recorded["shots"], recorded["seed"]) == ("few_shot_classes", 1, 33)
    lists = OrderedDict((int(number), entries) for number, entries in recorded["references"].items())
    (tmp_path / "published.pkl").write_bytes(pickle.dumps(lists))
    drawn, converted = (str(tmp_path / name) for name in ("drawn.json", "converted.json"))
    chosen = ["split=coco_novel20", "shots=1shot", "shots.sampler=reference", "seed=33"]
    assert main(["data", "sample-references", *words, "--output", drawn, *chosen]) == 0
    published = str(tmp_path / "published.pkl")
    assert main(["data", "convert", "references-pickle", published, *words, "--output", converted]) == 0
    ours, theirs = (json.loads(Path(name).read_text()) for name in (drawn, converted))
    for key in ("images", "categories", "annotations"):
        assert ours[key] == theirs[key]
    assert len(ours["annotations"]) == len(lists) > 15
