"""The Python API: the same detections as a run, from files, pictures or arrays."""

import io
import json
import re
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from conftest import PROJECT_DIR, cases
from PIL import Image
from skimage import data
from tiny_data import EXAMPLES, HEIGHT, WIDTH, make_folder, run_with, shape_mask

import ntt
from ntt.base.files import read_json
from ntt.data.coco import read_coco
from ntt.data.images import read_image
from ntt.data.masks import instance_mask
from ntt.errors import ConfigError, DataError, StorageError
from ntt.predictor.references import as_file
from ntt.run import artefacts as results
from ntt.stages.candidates import CandidateSource

# Coarse masks and small inputs, for speed.
QUICK = ("backbone.input_size=64", "segmenter.canvas_side=128", "segmenter.mask_side=128", "segmenter.leaves=150")


def pixels(path: Path) -> Any:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def examples(tiny: Path) -> list[ntt.Reference]:
    """The tiny data set's references with their annotated masks and boxes."""
    data = read_coco(tiny / "annotations/references.json", tiny / "images")
    names = {category.id: category.name for category in data.categories}
    references = []
    for instance in data.instances:
        record = data.images[instance.image_id]
        left, top, width, height = instance.bbox_xywh
        mask = instance_mask(instance, record.height, record.width)
        box = (left, top, left + width, top + height)
        references.append(ntt.Reference(record.path, names[instance.category_id], mask=mask, box_xyxy=box))
    return references


@pytest.fixture(scope="module")
def predictor(tiny: Path, shared_store: Path) -> ntt.Predictor:
    return ntt.Predictor(examples(tiny), overrides=QUICK, store=shared_store)


def test_detections_are_those_of_a_run(tiny, shared_store, predictor, tmp_path):
    words = ["dataset=coco_json", f"dataset.root={tiny}", "shots=all", "visualisation.enabled=false", *QUICK]
    words += [f"runtime.output_root={tmp_path}", f"runtime.store_root={shared_store}", "evaluation.thresholds=proposed"]
    run_dir = run_with(words)
    assert predictor.thresholds == read_json(run_dir / "leave_one_out.json")["thresholds"]
    assert predictor.thresholds == pytest.approx(read_json(run_dir / "lowest_scores.json"))
    data = read_coco(tiny / "annotations/targets.json", tiny / "images")
    records = list(data.images.values())
    run = results.read_predictions(run_dir / "predictions.json", records, data.categories)
    assert predictor.classes == ("disc", "square")
    for record, theirs in zip(records, run, strict=True):
        ours = predictor(record.path)
        np.testing.assert_array_equal(ours.labels, theirs.labels)
        np.testing.assert_array_equal(ours.scores, theirs.scores)
        np.testing.assert_array_equal(ours.boxes_xyxy[:, 2:] - ours.boxes_xyxy[:, :2], theirs.boxes_xywh[:, 2:])
        assert ours.rles == theirs.rles
        shown = [score >= predictor.thresholds[name] for name, score in zip(ours.names, ours.scores, strict=True)]
        assert ours.above().rles == ours[np.array(shown, dtype=np.bool_)].rles


def test_what_is_found(tiny, predictor):
    instances = predictor(tiny / "images/targets_1.png")
    assert len(instances) == len(instances.scores) == len(instances.boxes_xyxy) > 0
    assert instances.masks.shape == (len(instances), HEIGHT, WIDTH)
    assert instances.masks.dtype == np.bool_
    assert instances.names.tolist() == [predictor.classes[label] for label in instances.labels]
    assert (np.diff(instances.scores) <= 0).all()
    for mask, (left, top, right, bottom) in zip(instances.masks, instances.boxes_xyxy, strict=True):
        rows, columns = np.nonzero(mask)
        assert (left, top, right, bottom) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    square = shape_mask(7, 40, 20, 50)
    overlaps = (instances.masks & square).sum((1, 2)) / (instances.masks | square).sum((1, 2))
    assert instances.names[int(overlaps.argmax())] == "square"
    assert overlaps.max() > 0.8
    best = instances.above(float(instances.scores[3]))
    assert 4 <= len(best) < len(instances)
    np.testing.assert_array_equal(best.masks, instances.masks[: len(best)])
    assert len(instances.above(1.1)) == 0
    assert instances.above(1.1).masks.shape == (0, HEIGHT, WIDTH)


def test_files_pictures_and_arrays_are_the_same(tiny, shared_store, predictor):
    path = tiny / "images/targets_1.png"
    from_file = predictor(path)
    with Image.open(path) as picture:
        forms = [predictor(str(path)), predictor(picture), predictor(pixels(path))]
    for instances in forms:
        np.testing.assert_array_equal(instances.scores, from_file.scores)
        assert instances.rles == from_file.rles
    arrays = [
        ntt.Reference(pixels(each.image), each.name, Image.fromarray(np.uint8(each.mask) * 255), each.box_xyxy)
        for each in examples(tiny)
    ]
    again = ntt.Predictor(iter(arrays), overrides=QUICK, store=shared_store)  # type: ignore[arg-type]
    np.testing.assert_array_equal(again(path).scores, from_file.scores)


def test_examples_from_a_plain_folder(shared_store, tmp_path):
    root = make_folder(tmp_path / "my_set")
    read, by_hand = ntt.references_from_folder(root / "references"), []
    assert read[0].box_xyxy == (20, 20, 60, 60)
    for given, (name, (stem, scene)) in zip(read, EXAMPLES.items(), strict=True):
        folder = root / "references" / name
        by_hand.append(ntt.Reference(folder / f"{stem}.png", name, mask=folder / f"{stem}_mask.png"))
        assert given.name == name
        np.testing.assert_array_equal(given.mask, shape_mask(*scene))
    target = root / "targets/targets_1.png"
    scores = [ntt.Predictor(given, overrides=QUICK, store=shared_store)(target).scores for given in (read, by_hand)]
    np.testing.assert_array_equal(scores[0], scores[1])


def test_boxes_and_whole_images_serve_as_examples(tiny, shared_store, monkeypatch):
    image = tiny / "images/references_0.png"
    boxed = [ntt.Reference(image, "disc", box_xyxy=(20, 20, 60, 60)), ntt.Reference(image, "all of it")]
    finer = [*QUICK, "backbone.input_size=224"]
    detections = ntt.Predictor(boxed, overrides=finer, store=shared_store)(tiny / "images/targets_0.png")
    assert set(detections.names) == {"disc", "all of it"}
    few = ntt.Predictor(boxed, overrides=[*finer, "matcher.max_detections=3"], store=shared_store)
    assert len(few(tiny / "images/targets_0.png")) == 3
    boxes = [ntt.Reference(image, "disc", box_xyxy=(20, 20, side, side)) for side in (50, 60)]
    monkeypatch.setattr("ntt.predictor.predictor.check_references", None)
    for overrides, score in ((QUICK, 0.4), ("visualisation.score_threshold=0.7", 0.7)):
        assert ntt.Predictor(boxes, overrides=overrides, store=shared_store).thresholds == {"disc": score}


def test_nothing_is_kept_unless_asked_for(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mask = Image.fromarray(shape_mask(3, 20, 20, 40))
    plain = ntt.Predictor([ntt.Reference(tiny / "images/references_0.png", "disc", mask)], overrides=QUICK)
    assert len(plain(Image.new("RGB", (64, 48), "white"))) >= 0
    assert list(tmp_path.iterdir()) == []


@cases("change", "text")(
    ({"image": np.zeros((4, 5, 4), np.uint8)}, r"The image is uint8 \[4, 5, 4\]"),
    ({"image": np.zeros((4, 5), np.float32)}, r"The image is float32 \[4, 5\]"),
    ({"image": 3}, "The image is int"),
    ({"image": "nowhere.png"}, "There is no image .*nowhere.png. Give the path of an image"),
    ({"mask": np.zeros((HEIGHT, WIDTH), bool)}, "The mask is empty"),
    ({"mask": np.ones((WIDTH, HEIGHT), bool)}, r"The mask has the shape \[128, 96\], the image \[96, 128\]"),
    ({"mask": "nowhere.png"}, "There is no image nowhere.png"),
    ({"box_xyxy": (10, 10, 5, 20)}, "does not lie in the image of 128 x 96 pixels"),
    ({"box_xyxy": (10, 10, 500, 20)}, "does not lie in the image"),
    ({"box_xyxy": (1, 2, 3)}, "is not four numbers"),
    ({"box_xyxy": (1, 2, 3, None)}, r"The box \(1, 2, 3, None\) is not four numbers"),
    ({"box_xyxy": 5}, "The box 5 is not four numbers"),
    ({"mask": [["a"]]}, "The mask is an array of <U1: bool or numbers are needed"),
)
def test_unusable_examples_are_refused(change, text):
    given = {"image": np.zeros((HEIGHT, WIDTH, 3), np.uint8), "name": "disc", **change}
    with pytest.raises(DataError, match=text):
        ntt.Predictor([ntt.Reference(**given)])


@cases("given", "text")(
    ([], "There is no example"),
    ("my_set/references", r"Example 1 is of type str, a Reference is needed. See references_from_folder"),
    ([("a.jpg", "cat")], "Example 1 is of type tuple, a Reference is needed"),
    ([ntt.Reference("a.jpg", " ")], "Example 1 has the class name ' ': a text is needed"),
    ([ntt.Reference("a.jpg", 3)], "Example 1 has the class name 3: a text is needed"),  # type: ignore[arg-type]
)
def test_what_is_no_example_is_refused(given, text):
    with pytest.raises(ConfigError, match=text):
        ntt.Predictor(given)


@cases("kind")("transparent", "16 bit")
def test_pictures_become_rgb_as_files_do(kind, tmp_path):
    """Transparency over white, 16 bits scaled: converting with Pillow alone gives black and white respectively."""
    if kind == "16 bit":
        picture = Image.fromarray(np.arange(12, dtype=np.uint16).reshape(3, 4) * 5000)
    else:
        picture = Image.new("RGBA", (4, 3), (0, 0, 0, 0))
    picture.save(tmp_path / "a.png")
    with as_file(picture) as given, as_file(tmp_path / "a.png") as file:
        np.testing.assert_array_equal(read_image(given), read_image(file))
        assert read_image(given).max() == (255 if kind == "transparent" else round(55000 * 255 / 65535))


@pytest.mark.slow
def test_photographs_that_a_package_ships():
    """A cat and a cup, each found in its own photograph seen in a mirror, and not the other."""
    cat, cup = (Image.fromarray(picture).resize((225, 150)) for picture in (data.chelsea(), data.coffee()))
    boxes = {"cat": (55, 10, 190, 150), "cup": (75, 25, 155, 120)}
    photographs = zip((cat, cup), boxes.items(), strict=True)
    predictor = ntt.Predictor([ntt.Reference(image, name, box_xyxy=box) for image, (name, box) in photographs])
    for picture, name in ((cat, "cat"), (cup, "cup")):
        instances = predictor(picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
        assert (instances.names[0], instances.height, instances.width) == (name, 150, 225)
        assert instances.scores[0] > 0.5


def test_the_documented_examples_run(tmp_path, monkeypatch, capsys):
    root = make_folder(tmp_path / "my_set")
    with Image.open(root / "targets/targets_1.png") as picture:
        picture.save(root / "targets/monday.jpg", quality=95)
    monkeypatch.chdir(tmp_path)
    text = (PROJECT_DIR / "docs/api.md").read_text(encoding="utf-8")
    code = "".join(re.findall(r"```python\n(.*?)```", text.partition("## Results of runs")[0], flags=re.DOTALL))
    # Coarse and small, for speed.
    code = re.sub(r"ntt\.Predictor\((.*?)\)", rf"ntt.Predictor(\1, overrides={QUICK})", code)
    variables: dict[str, Any] = {}
    exec(code, variables)
    assert re.search(r"^square 0\.\d\d at \[.*\], \d+ pixels$", capsys.readouterr().out, flags=re.MULTILINE)
    assert sorted(variables["counts"]) == ["monday.jpg", "targets_0.png", "targets_1.png"]
    assert variables["predictor"].classes == ("disc", "square")
    assert {"monday.png", "monday.json", "shapes.safetensors"} < {path.name for path in tmp_path.iterdir()}
    assert read_json(tmp_path / "monday.json")[0].keys() == {"image_id", "category_id", "score", "bbox", "segmentation"}


def test_instances_are_selected_shown_and_saved(tiny, predictor, tmp_path):
    path = tiny / "images/targets_1.png"
    instances = predictor(path)
    first = instances[0]
    assert (first.name, first.score) == (instances.names[0], instances.scores[0])
    np.testing.assert_array_equal(first.mask, instances.masks[0])
    assert [each.score for each in instances[:3]] == instances.scores[:3].tolist()
    for squares in (instances[instances.names == "square"], instances[np.flatnonzero(instances.labels == 1)]):
        assert set(squares.names) == {"square"}
        assert len(squares) == (instances.labels == 1).sum()
    np.testing.assert_array_equal(instances[[2, 0]].boxes_xyxy, instances.boxes_xyxy[[2, 0]])
    with pytest.raises(IndexError):
        instances[len(instances)]
    assert re.fullmatch(r"DetectedInstance\('(disc|square)', [01]\.\d\d, box \[\d+, \d+, \d+, \d+\]\)", repr(first))
    few = instances[:0]
    assert repr(few) == f"Instances(0 in {WIDTH} x {HEIGHT} pixels)"
    assert re.fullmatch(r"Instances\(\d+ in 128 x 96 pixels: \d+ .*; scores 0\.\d\d to 0\.\d\d\)", repr(instances))
    assert repr(predictor) == "Predictor(2 classes: disc, square; efficientnet_lite0, regions, ntt)"
    assert repr(ntt.Reference(path, "disc", mask=instances.masks[0])) == "Reference('disc', targets_1.png, mask)"
    assert repr(ntt.Reference(pixels(path), "disc")) == "Reference('disc', ndarray, whole image)"
    picture = instances[:1].draw()
    assert Image.open(io.BytesIO(instances[:1]._repr_png_())).size == picture.size
    assert np.any(np.asarray(picture) != np.asarray(few.draw()))
    assert predictor(pixels(path))[:1].draw().tobytes() == picture.tobytes()
    instances.save(tmp_path / "a.jpg")
    assert instances.to_coco(image_id="monday")[0]["image_id"] == "monday"
    with pytest.raises(ConfigError, match=r"a\.txt ends in '\.txt': \.png, \.jpg or \.json is needed"):
        instances.save(tmp_path / "a.txt")


def test_folders_lists_and_generators_are_searched(tiny, predictor, tmp_path):
    names = ["targets_0.png", "targets_1.png"]
    for name in names:
        shutil.copy(tiny / "images" / name, tmp_path)
    given = [tmp_path, [tmp_path / name for name in names], (str(tmp_path / name) for name in names)]
    results = [list(predictor.search(images, progress=False)) for images in given]
    for result in results:
        assert [Path(each.image).name for each in result] == names
        for ours, expected in zip(result, results[0], strict=True):
            np.testing.assert_array_equal(ours.scores, expected.scores)
    for image in (tmp_path / names[0], pixels(tmp_path / names[0])):  # one image, whose rows are no images
        (only,) = predictor.search(image, progress=False)
        np.testing.assert_array_equal(only.scores, results[0][0].scores)
    pictures = iter([pixels(tmp_path / names[0]), "nowhere.png"])
    lazy = predictor.search(pictures)
    assert len(next(lazy)) == len(results[0][0])
    with pytest.raises(DataError, match="There is no image"):
        next(lazy)
    with pytest.raises(DataError, match="nowhere does not exist"):
        predictor.search("nowhere")


def test_the_list_of_classes_can_be_changed(tiny, shared_store, predictor):
    path = tiny / "images/targets_1.png"
    changed = ntt.Predictor(examples(tiny), overrides=QUICK, store=shared_store)
    changed.classes = ["square"]
    only = [each for each in examples(tiny) if each.name == "square"]
    alone = ntt.Predictor(only, overrides=QUICK, store=shared_store)
    np.testing.assert_array_equal(changed(path).scores, alone(path).scores)
    assert set(changed(path).names) == {"square"}
    assert {entry["category_id"] for entry in changed(path).to_coco()} == {2}
    changed.classes = reversed(predictor.classes)
    assert changed.classes == ("square", "disc")
    np.testing.assert_array_equal(changed(path).scores, predictor(path).scores)
    for names in ([], ["square", "square"], "circle"):
        with pytest.raises(ConfigError, match=r"Choose one or more of \['disc', 'square'\], each once"):
            changed.classes = names


def test_a_memory_is_saved_and_read_by_the_same_models_only(tiny, shared_store, predictor, tmp_path):
    path, image = tmp_path / "shapes.safetensors", tiny / "images/targets_1.png"
    predictor.save_memory(path)
    again = ntt.Predictor(memory=path, overrides=QUICK, store=shared_store, device="cpu")
    np.testing.assert_array_equal(again(image).scores, predictor(image).scores)
    assert again.thresholds == predictor.thresholds
    assert set(predictor.thresholds.values()) != {0.4}
    other = ntt.Predictor(memory=path, overrides=QUICK, store=shared_store, matcher="nearest")
    assert set(other.thresholds.values()) == {0.4}
    other.save_memory(path)
    assert ntt.Predictor(memory=path, overrides=QUICK, store=shared_store).thresholds == predictor.thresholds
    for more in ({"overrides": [*QUICK, "backbone.input_size=80"]}, {"overrides": QUICK, "matcher": "ntt_full_both"}):
        with pytest.raises(ConfigError, match="was made with another backbone or other settings"):
            ntt.Predictor(memory=path, **more)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(StorageError, match="cannot be read"):
        ntt.Predictor(memory=path, overrides=QUICK)
    for references, memory in ((None, None), (examples(tiny), path)):
        with pytest.raises(ConfigError, match="exclude each other, and one is needed"):
            ntt.Predictor(references, memory=memory)


@cases("matcher")("ntt_full_both", "auto")
def test_without_a_store_images_of_examples_are_segmented_once(matcher, tiny, monkeypatch):
    compute = Mock(side_effect=CandidateSource.compute)
    monkeypatch.setattr(CandidateSource, "compute", lambda *arguments: compute(*arguments))
    ntt.Predictor(examples(tiny), matcher=matcher, overrides=QUICK)
    assert compute.call_count == len({each.image for each in examples(tiny)})


def test_examples_from_annotation_files(tiny, tmp_path):
    read = ntt.references_from_coco(tiny / "annotations/references.json", tiny / "images")
    for ours, expected in zip(read, examples(tiny), strict=True):
        assert (ours.image, ours.name, ours.box_xyxy) == (expected.image, expected.name, expected.box_xyxy)
        np.testing.assert_array_equal(ours.mask, expected.mask)
    (tmp_path / "images/train").mkdir(parents=True)
    (tmp_path / "labels/train").mkdir(parents=True)
    shutil.copy(tiny / "images/references_0.png", tmp_path / "images/train/a.png")
    (tmp_path / "labels/train/a.txt").write_text("0 0.5 0.5 0.25 0.5\n")
    (tmp_path / "data.yaml").write_text("names: [disc]\n")
    (box,) = ntt.references_from_yolo(tmp_path)
    assert (box.name, box.mask, tuple(box.box_xyxy)) == ("disc", None, (48, 24, 80, 72))
    shape = {"label": "disc", "points": [[20, 20], [60, 60]], "shape_type": "rectangle"}
    label = {"imagePath": "a.png", "imageHeight": HEIGHT, "imageWidth": WIDTH, "shapes": [shape]}
    (tmp_path / "images/train/a.json").write_text(json.dumps(label))
    (marked,) = ntt.references_from_labelme(tmp_path / "images/train")
    assert (marked.name, tuple(marked.box_xyxy)) == ("disc", (20, 20, 60, 60))


def test_names_of_the_package():
    with pytest.raises(AttributeError, match="module 'ntt' has no attribute 'Predicter'"):
        _ = ntt.Predicter
    assert dir(ntt) == sorted(ntt.__all__)
    assert all(getattr(ntt, name) for name in ntt.__all__)
