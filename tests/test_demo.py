"""The generated demo data set: files, masks, references, caching and interruption."""

import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from ntt.datasets import demo_pictures as demo
from ntt.datasets import demo_scenes
from ntt.datasets.demo_pictures import make_demo
from ntt.datasets.demo_scenes import Cutout, Photograph, Pose, load_catalogue, place, polygon_area, visible_masks
from ntt.errors import ConfigError, DataError, StorageError


@pytest.fixture(scope="module")
def demo_dir(tmp_path_factory) -> Path:
    return make_demo(tmp_path_factory.mktemp("demo") / "set")


def read(folder: Path, split: str) -> dict:
    return json.loads((folder / "annotations" / f"{split}.json").read_text(encoding="utf-8"))


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture
def quick(monkeypatch):
    """Two shots a class instead of ten: enough where only files and folders are looked at."""
    monkeypatch.setattr(demo, "SHOTS", 2)


def test_same_arguments_give_the_same_bytes_and_another_seed_does_not(tmp_path, quick):
    first = digests(make_demo(tmp_path / "a", seed=3, num_targets=6))
    again = digests(make_demo(tmp_path / "b", seed=3, num_targets=6))
    other = digests(make_demo(tmp_path / "c", seed=4, num_targets=6))
    assert first == again
    assert first["annotations/references.json"] != other["annotations/references.json"]
    assert first["annotations/targets.json"] != other["annotations/targets.json"]
    assert first["images/target_0000.jpg"] != other["images/target_0000.jpg"]


def test_a_finished_set_is_not_made_again(tmp_path, quick, monkeypatch):
    root = make_demo(tmp_path / "set", num_targets=2)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    monkeypatch.setattr(demo, "_generate", lambda *args, **kwargs: pytest.fail("generated again"))
    assert make_demo(root, num_targets=2) == root
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


@pytest.mark.parametrize("damage", ["other arguments", "older version", "no targets", "damaged marker"])
def test_an_outdated_set_is_made_anew(tmp_path, quick, damage):
    root = make_demo(tmp_path / "set", num_targets=3 if damage == "other arguments" else 2)
    marker = root / "demo.json"
    if damage == "older version":
        marker.write_text(json.dumps({**json.loads(marker.read_text()), "generator_version": 0}))
    elif damage == "no targets":
        (root / "annotations" / "targets.json").unlink()
    elif damage == "damaged marker":
        marker.write_text("{")
    make_demo(root, num_targets=2)
    assert json.loads(marker.read_text()) == {
        "generator_version": demo.GENERATOR_VERSION,
        "seed": 0,
        "num_targets": 2,
        "image_height": 360,
        "image_width": 480,
    }
    assert len(read(root, "targets")["images"]) == 2
    assert sorted(path.name for path in (root / "images").glob("target_*")) == ["target_0000.jpg", "target_0001.jpg"]
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_generation_leaves_nothing(tmp_path, quick, monkeypatch, error):
    painted = []
    original = demo.paint

    def paint_three(*args, **kwargs):
        if len(painted) == 3:
            raise error
        painted.append(1)
        return original(*args, **kwargs)

    monkeypatch.setattr(demo, "paint", paint_three)
    with pytest.raises(error):
        make_demo(tmp_path / "set", num_targets=2)
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_keeps_the_earlier_set(tmp_path, quick, monkeypatch):
    root = make_demo(tmp_path / "set", num_targets=2)
    before = digests(root)

    def fail(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "paint", fail)
    with pytest.raises(KeyboardInterrupt):
        make_demo(root, num_targets=3)
    assert digests(root) == before


def test_of_two_processes_the_slower_keeps_the_result_of_the_faster(tmp_path, quick, monkeypatch):
    root = tmp_path / "set"
    original = demo._generate

    def generate_while_another_finishes(folder, **kwargs):
        original(folder, **kwargs)
        monkeypatch.setattr(demo, "_generate", original)
        make_demo(root, num_targets=2)
        (root / "mine").touch()

    monkeypatch.setattr(demo, "_generate", generate_while_another_finishes)
    make_demo(root, num_targets=2)
    assert (root / "mine").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_a_foreign_folder_is_never_replaced(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match=r"exists and is not a demo data set \(it has no demo\.json\)"):
        make_demo(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_an_empty_folder_may_be_filled(tmp_path, quick):
    (tmp_path / "set").mkdir()
    assert (make_demo(tmp_path / "set", num_targets=1) / "demo.json").is_file()


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"cannot be written to .*set"):
        make_demo(tmp_path / "file" / "set", num_targets=1)


@pytest.mark.parametrize(
    ("name", "value", "least"),
    [("seed", -1, 0), ("num_targets", 0, 1), ("image_height", 239, 240), ("image_width", 319, 320)],
)
def test_arguments_out_of_range_are_refused(tmp_path, name, value, least):
    with pytest.raises(ConfigError, match=f"{name} is {value}; give a number >= {least}"):
        make_demo(tmp_path / "set", **{name: value})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("split", ["references", "targets"])
def test_images_are_as_the_annotation_file_says(demo_dir, split):
    content = read(demo_dir, split)
    on_disk = {path.name for path in (demo_dir / "images").glob(f"{split[:-1]}_*.jpg")}
    assert {entry["file_name"] for entry in content["images"]} == on_disk
    licences = {entry["id"] for entry in content["licenses"]}
    photographs = {entry["name"]: entry["license"] for entry in content["info"]["photographs"]}
    for entry in content["images"]:
        with Image.open(demo_dir / "images" / entry["file_name"]) as image:
            assert (
                (image.width, image.height, image.mode) == (entry["width"], entry["height"], "RGB") == (480, 360, "RGB")
            )
        assert entry["license"] in licences
        # Licences are listed strictest first.
        assert entry["license"] == min(photographs[name] for name in entry["photographs"])


# pycocotools 2.0.11 decodes with a numpy call that numpy 2.4 warns about.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("split", ["references", "targets"])
def test_masks_agree_with_boxes_and_areas_and_do_not_share_pixels(demo_dir, split):
    content = read(demo_dir, split)
    painted = {entry["id"]: np.zeros((360, 480), dtype=int) for entry in content["images"]}
    assert len({entry["id"] for entry in content["annotations"]}) == len(content["annotations"])
    for entry in content["annotations"]:
        mask = coco_mask.decode(entry["segmentation"]).astype(bool)
        rows, columns = np.nonzero(mask)
        left, top = columns.min(), rows.min()
        assert entry["bbox"] == [left, top, columns.max() + 1 - left, rows.max() + 1 - top]
        assert entry["area"] == mask.sum() > 100
        assert entry["iscrowd"] == 0
        assert 0.35 <= entry["visible_fraction"] <= 1.05
        painted[entry["image_id"]] += mask
    assert max(canvas.max() for canvas in painted.values()) == 1


def test_image_ids_of_the_two_splits_differ(demo_dir):
    ids = [entry["id"] for split in ("references", "targets") for entry in read(demo_dir, split)["images"]]
    assert len(ids) == len(set(ids))


def test_references_hold_ten_valid_shots_of_every_class(demo_dir):
    content = read(demo_dir, "references")
    assert [entry["id"] for entry in content["categories"]] == [1, 2, 3, 4, 5, 6, 7]
    for category in content["categories"]:
        shots = [entry for entry in content["annotations"] if entry["category_id"] == category["id"]]
        assert sorted(entry["shot_index"] for entry in shots) == list(range(10))
        assert len({entry["image_id"] for entry in shots}) == 10
        for entry in shots:
            left, top, width, height = entry["bbox"]
            assert min(width, height) >= 32
            assert min(left, top, 480 - left - width, 360 - top - height) >= 10
            assert entry["visible_fraction"] > 0.95
    per_image = Counter(entry["image_id"] for entry in content["annotations"])
    assert set(per_image.values()) == {1, 2}


def test_targets_vary(demo_dir):
    content = read(demo_dir, "targets")
    per_image = Counter(entry["image_id"] for entry in content["annotations"])
    assert len(content["images"]) - len(per_image) == 4
    assert {entry["category_id"] for entry in content["annotations"]} == {1, 2, 3, 4, 5, 6, 7}
    assert max(per_image.values()) >= 4
    pairs = Counter((entry["image_id"], entry["category_id"]) for entry in content["annotations"])
    assert max(pairs.values()) >= 3
    assert sum(entry["visible_fraction"] < 0.8 for entry in content["annotations"]) >= 5
    areas = [entry["area"] for entry in content["annotations"]]
    assert max(areas) > 20 * min(areas)


@pytest.mark.parametrize("size", [(240, 320), (600, 320)])
def test_references_are_valid_in_the_smallest_and_in_tall_images(tmp_path, quick, size):
    root = make_demo(tmp_path / "set", num_targets=3, image_height=size[0], image_width=size[1])
    for entry in read(root, "references")["annotations"]:
        left, top, width, height = entry["bbox"]
        assert min(width, height) >= 32
        assert min(left, top, size[1] - left - width, size[0] - top - height) >= 10


def test_outlines_lie_in_their_photographs():
    catalogue = load_catalogue()
    for cutout in catalogue.cutouts:
        height, width, _ = cutout.photograph.pixels.shape
        assert cutout.outline_xy.min() >= 0
        assert (cutout.outline_xy.max(axis=0) <= (width, height)).all()
        assert polygon_area(cutout.outline_xy) > 800
    assert Counter(cutout.category for cutout in catalogue.cutouts) == {
        "cat": 1, "coin": 24, "cup": 1, "flower": 1, "pagoda": 1, "person": 3, "shuttle": 1,
    }  # fmt: skip


def square(left: float, top: float, side: float) -> Cutout:
    photograph = Photograph("grey", 1, np.full((40, 40, 3), 0.5, dtype=np.float32))
    corners = np.array([[left, top], [left + side, top], [left + side, top + side], [left, top + side]])
    return Cutout("square", "square", photograph, corners, (0.1, 0.9), 0.0)


def upright(x: float, y: float, scale: float = 1.0) -> Pose:
    return Pose(scale, 0.0, mirrored=False, centre_xy=(x, y), gain_rgb=(1.0, 1.0, 1.0), gamma=1.0)


def test_a_square_covers_exactly_its_pixels():
    placed = place(square(3, 5, 10), upright(20.0, 15.0, 2.0), size_hw=(40, 60))
    rows, columns = np.nonzero(placed.full_mask)
    # Ten pixels twice enlarged around (20, 15): columns 10 to 29, rows 5 to 24.
    assert (columns.min(), columns.max(), rows.min(), rows.max()) == (10, 29, 5, 24)
    assert placed.full_mask.sum() == 400 == placed.area_px


def test_later_objects_hide_earlier_ones():
    size = (20, 30)
    below = place(square(0, 0, 10), upright(10.0, 10.0), size_hw=size)
    above = place(square(0, 0, 10), upright(14.0, 10.0), size_hw=size)
    hidden, whole = visible_masks([below, above])
    assert (hidden.sum(), whole.sum()) == (40, 100)
    assert not (hidden & whole).any()
    assert visible_masks([]) == ()


def test_a_turned_object_is_where_its_mask_is():
    pixels = np.zeros((40, 60, 3), dtype=np.float32)
    pixels[10:20, 20:50] = 1.0
    corners = np.array([[20.0, 10.0], [50.0, 10.0], [50.0, 20.0], [20.0, 20.0]])
    cutout = Cutout("bar", "bar", Photograph("bar", 1, pixels), corners, (0.1, 0.9), 0.0)
    for angle, mirrored, scale in [(0.0, False, 1.0), (90.0, False, 1.0), (30.0, True, 2.0), (-50.0, False, 0.5)]:
        pose = Pose(scale, angle, mirrored, (50.0, 40.0), (1.0, 1.0, 1.0), 1.0)
        placed = place(cutout, pose, size_hw=(80, 100))
        warped = demo_scenes._warp(cutout, pose, (0, 0, 100, 80))[..., 0]
        rows, columns = np.nonzero(placed.full_mask)
        by_warp = np.average(np.indices(warped.shape).reshape(2, -1), axis=1, weights=warped.ravel())
        assert by_warp == pytest.approx((39.5, 49.5), abs=0.1)
        assert (rows.mean(), columns.mean()) == pytest.approx((39.5, 49.5), abs=0.3)
        assert (warped > 0.5)[placed.full_mask].mean() > 0.93
        assert warped.sum() == pytest.approx(placed.area_px, rel=0.05)


def test_another_photograph_than_the_outlined_one_is_refused():
    entry = {"name": "x", "package": "skimage", "path": "data/brick.png", "license": 1}
    with pytest.raises(DataError, match="it is 512 x 512 pixels, 512 x 400 is expected"):
        demo_scenes._load_photograph({**entry, "height": 512, "width": 400, "mean_rgb": [111.5, 111.5, 111.5]})
    with pytest.raises(DataError, match="its mean colour is off by 50 of 255, at most 3 is allowed"):
        demo_scenes._load_photograph({**entry, "height": 512, "width": 512, "mean_rgb": [61.5, 111.5, 111.5]})
    with pytest.raises(DataError, match=r"needs the photograph .*absent\.png, which cannot be read"):
        demo_scenes._load_photograph({**entry, "path": "data/absent.png"})
    with pytest.raises(DataError, match="package 'no_such_package', which is not installed"):
        demo_scenes._load_photograph({**entry, "package": "no_such_package"})
