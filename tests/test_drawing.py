"""Pictures: what is drawn where, in every degenerate case; quality that ranks them; features and similarities."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import cases
from evaluation_samples import Box, detect, encode, rectangle
from PIL import Image, ImageDraw
from tiny_data import run_with, settings

from ntt.drawing import instances
from ntt.drawing.colours import class_colour, text_colour
from ntt.drawing.feature_maps import draw_feature_pca, draw_similarity_map
from ntt.drawing.instances import DrawnInstances, draw_instances
from ntt.drawing.quality import IN_CROWD, WRONG, image_quality, match_objects
from ntt.drawing.sheets import cut_reference_tile, draw_comparison, draw_contact_sheet, draw_reference_pages
from ntt.drawing.text import label_size, shorten, text_width_px
from ntt.models.backbones.efficientnet_lite0 import EfficientNetLite0
from ntt.stages.pictures import class_similarity
from ntt.stages.target_pictures import picture_stem
from ntt.types import Category, Detections, ImageRecord, Prototypes

GREY = 128


def grey_image(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), GREY, dtype=np.uint8)


def rle(height: int, width: int, box: Box) -> bytes:
    return encode(rectangle(box, (height, width)))


def truth(height, width, boxes, labels, *, crowd=None) -> DrawnInstances:
    return DrawnInstances(
        labels=np.array(labels, dtype=np.int64),
        boxes_xywh=np.array(boxes, dtype=np.float32).reshape(-1, 4),
        rles=tuple(rle(height, width, box) for box in boxes),
        iscrowd=np.zeros(len(labels), dtype=bool) if crowd is None else np.array(crowd, dtype=bool),
    )


def predicted(height, width, boxes, labels, scores) -> Detections:
    return detect(1, *zip(labels, boxes, scores, strict=True), size=(height, width))


def boxes_only(height, width, boxes, labels, *, crowd=None) -> DrawnInstances:
    return replace(truth(height, width, boxes, labels, crowd=crowd), rles=(None,) * len(labels))


def detected(instances: DrawnInstances, scores) -> DrawnInstances:
    return replace(instances, scores=np.array(scores, dtype=np.float32))


def pixels(image, instances: DrawnInstances, names) -> np.ndarray:
    return np.asarray(draw_instances(image, instances, names)).astype(int)


@pytest.fixture
def labels(monkeypatch) -> list[tuple[int, int, int, int, str]]:
    """Every label drawn: left, top, right, bottom, text."""
    seen: list[tuple[int, int, int, int, str]] = []
    real = instances.draw_label

    def record(draw, left_top, text, size_px, *, fill, ink):
        (left, top), (width, height) = left_top, label_size(text, size_px)
        seen.append((left, top, left + width, top + height, text))
        real(draw, left_top, text, size_px, fill=fill, ink=ink)

    monkeypatch.setattr(instances, "draw_label", record)
    return seen


@pytest.fixture
def written(monkeypatch) -> list[str]:
    """Every text drawn."""
    seen: list[str] = []
    real = ImageDraw.ImageDraw.text

    def record(draw, position, text, *args, **rest):
        seen.append(text)
        real(draw, position, text, *args, **rest)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", record)
    return seen


def test_a_hundred_colours_differ_and_then_repeat():
    assert len({class_colour(label) for label in range(100)}) == 100
    assert class_colour(101) == class_colour(1)


@cases("background", "ink")(((255, 255, 0), 0), ((0, 0, 200), 255))
def test_text_colour_contrasts(background, ink):
    assert text_colour(background) == (ink,) * 3


def test_shorten_keeps_what_fits_and_both_ends_of_file_names():
    name = "a_very_long_file_name_of_a_photograph_0042.jpg"
    cut = shorten(name, 120, 13, middle=True)
    assert text_width_px(cut, 13) <= 120
    assert cut.startswith("a_v")
    assert cut.endswith("jpg")
    assert shorten("dog", 120, 13) == "dog"
    assert shorten("dog", 0, 13) == ""
    assert shorten("two\nlines\tand tab", 400, 13) == "two lines and tab"


def test_labels_go_above_their_box_inside_or_below_an_earlier_one(labels):
    boxes = [(50, 100, 40, 40), (200, 0, 40, 60), (50, 100, 200, 90), (470, 150, 10, 10)]
    draw_instances(grey_image(200, 480), detected(boxes_only(200, 480, boxes, [0] * 4), [0.9, 0.8, 0.7, 0.6]), ["a"])
    width, height = label_size("a 0.90", 10)
    corners = [(50, 100 - height), (200, 0), (50, 100), (480 - width, 150 - height)]
    assert [label[:2] for label in labels] == corners


def test_a_label_without_room_is_left_out(labels):
    boxes = [(10, 20, 5, 5)] * 9
    draw_instances(grey_image(100, 480), boxes_only(100, 480, boxes, [0] * 9), ["a"])
    assert len(labels) == 3


def test_mask_is_tinted_outlined_and_the_rest_untouched():
    picture = pixels(grey_image(400, 500), truth(400, 500, [(100, 100, 200, 200)], [0]), ["thing"])
    colour = np.array(class_colour(0))
    # The mask covers 40000 of 200000 pixels, so its opacity is 0.42 * (1 - 0.6 * 0.2) = 0.3696.
    np.testing.assert_allclose(picture[270, 250], GREY + 0.3696 * (colour - GREY), atol=1.5)
    assert (picture[350, 400] == GREY).all()
    assert (picture[5, 5] == GREY).all()
    assert np.abs(picture[250, 98:103] - class_colour(0)).sum(axis=1).min() <= 6


@cases("empty_mask")(True, False)
def test_box_without_mask_is_outlined_and_tinted_faintly(empty_mask):
    instances = boxes_only(400, 500, [(100, 100, 200, 200)], [0])
    if empty_mask:
        instances = replace(instances, rles=(rle(400, 500, (0, 0, 0, 0)),))
    picture = pixels(grey_image(400, 500), instances, ["thing"])
    assert np.abs(picture[250, 98:103] - class_colour(0)).sum(axis=1).min() <= 6
    assert np.abs(picture[250, 200] - GREY).max() < 20


def test_crowd_is_named_so(labels):
    draw_instances(grey_image(400, 500), truth(400, 500, [(100, 100, 200, 200)], [0], crowd=[True]), ["thing"])
    assert [label[-1] for label in labels] == ["thing (crowd)"]


@cases("size", "expected")(
    ((480, 640), (640, 480)), ((1080, 1920), (1600, 900)), ((1, 1), (480, 480)), ((4000, 100), (40, 1600))
)
def test_drawn_size(size, expected):
    assert draw_instances(grey_image(*size), truth(*size, [], []), ["a"]).size == expected


@cases("size")((200, 200), (1, 1), (4000, 30), (30, 4000))
def test_labels_stay_inside_on_every_size(size, labels):
    height, width = size
    boxes = [(0, 0, width, height), (width - 1, height - 1, 1, 1), (0, height - 1, 1, 1), (width - 1, 0, 1, 1)]
    names = ["a rather long class name that goes on and on and on and on and on and on and on", "b"]
    for make in (truth, boxes_only):
        instances = detected(make(height, width, boxes, [0, 1, 0, 1]), [0.9, 0.8, 0.7, 1.0])
        picture = draw_instances(grey_image(height, width), instances, names)
        for left, top, right, bottom, _ in labels:
            assert 0 <= left < right <= picture.width
            assert 0 <= top < bottom <= picture.height


def test_names_of_any_script_are_drawn(labels):
    names = ["Äpfel", "коты", "σκύλος", "猫", "a\nb", "", "\udcff"]
    boxes = [(20 + 80 * i, 60, 40, 40) for i in range(7)]
    draw_instances(grey_image(200, 640), truth(200, 640, boxes, list(range(7))), names)
    assert sorted(label[-1] for label in labels) == sorted(["Äpfel", "коты", "σκύλος", "猫", "a b", "\ufffd"])


def compared(annotated: DrawnInstances | None, detections: Detections, *, threshold=0.4, **more) -> Image.Image:
    image, thresholds = grey_image(detections.height, detections.width), np.full(9, threshold, dtype=np.float32)
    names = ["apple", "bear", "cat", "dog"]
    of_image = {"ground_truth": annotated, "detections": detections, "class_names": names, "thresholds_C": thresholds}
    return draw_comparison(image, **of_image, **more)


def test_a_panel_tells_counts_file_and_note_or_that_it_is_empty(written):
    compared(truth(300, 500, [], []), predicted(300, 500, [(10, 10, 80, 80)], [0], [0.39]))
    assert {"no detection above 0.40", "no object annotated"} <= set(written)
    annotated = boxes_only(300, 500, [(10, 10, 80, 80), (200, 10, 80, 80)], [0, 1], crowd=[False, True])
    detections = predicted(300, 500, [(10, 10, 80, 80), (200, 10, 80, 80)], [2, 2], [0.4, 0.39])
    compared(annotated, detections, file_name="photo.jpg", note="quality 0.83")
    assert {"photo.jpg", "quality 0.83", "Ground truth", "Predictions"} <= set(written)
    assert "1 object, 1 crowd region, boxes only" in written
    assert "1 of 2 with score ≥ 0.40" in written


BOX = (10, 10, 20, 20)
HALF = (10, 10, 10, 20)


# Quality
def test_matches_hold_above_any_threshold():
    """By score: the box takes its object, its repeat is wrong, and so is another class; one lies in the crowd."""
    annotated = truth(90, 90, [BOX, (50, 50, 30, 30)], [0, 1], crowd=[False, True])
    boxes, labels, scores = [BOX, BOX, BOX, (55, 55, 9, 9)], [0, 0, 1, 1], [0.5, 0.9, 0.8, 0.4]
    objects, overlaps = match_objects(annotated, predicted(90, 90, boxes, labels, scores))
    assert (objects.tolist(), overlaps.tolist()) == ([WRONG, 0, WRONG, IN_CROWD], [0, 1, 0, 0])
    assert match_objects(annotated, predicted(90, 90, boxes[:1], [0], [0.5]))[0].tolist() == [0]


def quality(annotated, detections, threshold=0.5):
    return image_quality(annotated, detections, thresholds_C=np.full(9, threshold, dtype=np.float32))


@cases("objects", "boxes", "label", "score", "expected")(
    (None, [BOX], 0, 0.9, None),
    ([], [], 0, 0.9, None),
    ([], [BOX], 0, 0.49, None),
    ([BOX], [], 0, 0.9, 0.0),  # missed
    ([], [BOX], 0, 0.9, 0.0),  # a false alarm
    ([BOX], [BOX], 1, 0.9, 0.0),  # of another class
)
def test_quality_of_nothing_to_rank_is_none_and_of_only_mistakes_zero(objects, boxes, label, score, expected):
    annotated = None if objects is None else truth(50, 50, objects, [0] * len(objects))
    assert quality(annotated, predicted(50, 50, boxes, [label] * len(boxes), [score] * len(boxes))) == expected


@cases("objects", "detections", "expected")(
    # One exact hit, one with IoU 0.5, one miss, one false alarm: 1.5 / (2 + 1/2 + 1/2).
    ("full0 half_of0 far1", [(BOX, 0, 0.9), ((50, 10, 10, 20), 0, 0.8), (BOX, 2, 0.7)], 0.5),
    # The higher score takes the object although the other overlaps more: 0.5 / (1 + 1/2).
    ("full0", [(BOX, 0, 0.6), (HALF, 0, 0.9)], 1 / 3),
    ("full0", [((10, 10, 9, 20), 0, 0.7)], 0.0),  # IoU 0.45 is no match
)
def test_quality_by_hand(objects, detections, expected):
    boxes = {"full0": BOX, "half_of0": (50, 10, 20, 20), "far1": (10, 60, 5, 5)}
    annotated = truth(100, 100, [boxes[name] for name in objects.split()], [int(name[-1]) for name in objects.split()])
    assert quality(annotated, predicted(100, 100, *zip(*detections, strict=True))) == pytest.approx(expected)


def test_quality_of_equal_scores_masks_and_crowds():
    # A float32 score of 0.7 counts at the threshold 0.7, which float64 would call larger.
    annotated, half = truth(50, 50, [BOX], [0]), predicted(50, 50, [HALF], [0], [0.7])
    assert [quality(annotated, half, threshold=threshold) for threshold in (0.7, 0.71)] == [pytest.approx(0.5), 0.0]
    # The mask fills half of the box the file gives; the second object has no mask.
    annotated = replace(truth(50, 50, [HALF, HALF], [0, 1]), boxes_xywh=np.array([BOX, BOX], np.float32))
    annotated = replace(annotated, rles=(annotated.rles[0], None))
    assert quality(annotated, predicted(50, 50, [BOX, BOX], [0, 1], [0.9, 0.8])) == pytest.approx((0.5 + 1.0) / 2)
    crowd = truth(50, 50, [(0, 0, 40, 40)], [0], crowd=[True])
    assert quality(crowd, predicted(50, 50, [BOX], [0], [0.9])) is None
    assert quality(crowd, predicted(50, 50, [BOX], [1], [0.9])) == 0.0
    # Half of the first one lies in the crowd region, less of the second.
    assert quality(crowd, predicted(50, 50, [(30, 0, 20, 10)], [0], [0.9])) is None
    assert quality(crowd, predicted(50, 50, [(31, 0, 19, 10)], [0], [0.9])) == 0.0


# Sheets
def cut(image, box, rle_or_none) -> tuple[Image.Image, tuple[str, ...]]:
    shown = {"label": 0, "class_name": "a", "file_name": "a.jpg", "annotation_id": 7}
    return cut_reference_tile(image, box_xywh=box, rle=rle_or_none, **shown)


@cases("with_mask")(True, False)
def test_reference_tile_shows_the_object_bright_and_its_surroundings_dark(with_mask):
    box = (30, 30, 40, 40)
    image = np.full((100, 100, 3), 200, dtype=np.uint8)
    picture, caption = cut(image, box, rle(100, 100, box) if with_mask else None)
    assert caption == ("a", "a.jpg", "annotation 7" if with_mask else "annotation 7 · box only")
    # The crop is 60 px wide, the tile 176: the object spans 29 to 147. A box is tinted faintly.
    pixels = np.asarray(picture).astype(int)
    assert np.abs(pixels[88, 88] - 200).max() <= (0 if with_mask else 20)
    assert (pixels[8, 8] < 130).all()


@cases("box")((0, 0, 100, 50), (99, 49, 1, 1), (100, 50, 0, 0))
def test_reference_tile_at_the_border_is_still_a_full_tile(box):
    assert cut(grey_image(50, 100), box, None)[0].size == (176, 176)


def test_sheets_break_into_pages_and_reduce_large_pictures(written):
    tiles = [(Image.new("RGB", (100, 100)), ("Kätzchen", f"{i}.jpg")) for i in range(80)]
    pages = draw_reference_pages(tiles, title="References")
    assert [page.width for page in pages] == [2 * 16 + 8 * 110 - 10] * 2
    assert written[:3] == ["References · page 1 of 2", "Kätzchen", "0.jpg"]
    assert written[-2:] == ["Kätzchen", "79.jpg"]
    tiles = [(Image.new("RGB", (side, 400), (9, 9, 9)), ["quality 0.83"]) for side in (1280, 200)]
    dark = (np.asarray(draw_contact_sheet(tiles * 2, title="Best", columns=2)) == 9).all(axis=2)
    assert dark.shape[1] == 2 * 16 + 2 * 640 + 10
    # The first picture of each row becomes 640 x 200, the second stays 200 x 400.
    assert sorted(set(dark.sum(axis=1).tolist())) == [0, 200, 840]
    assert dark.any(axis=1).sum() == 2 * 400
    bare = draw_contact_sheet([(picture, ()) for picture, _ in tiles * 2], columns=2)
    assert bare.height == 2 * 16 + 2 * 400 + 10, "no room for captions where there are none"


# Feature pictures
def components(features, weights) -> np.ndarray:
    """The right half of the picture."""
    return np.asarray(draw_feature_pca(features, weights, grey_image(480, 480)))[16:496, -496:-16]


def test_feature_pca_separates_two_kinds_of_patches():
    features = np.zeros((5, 4, 4), dtype=np.float32)
    features[2, :, :2] = 1.0
    right = components(features, np.ones((4, 4), dtype=np.float32))
    # Channel 2 is the only direction: red is full where it is large and absent elsewhere, green and blue stay middling.
    assert right[240, 100].tolist() == [255, 128, 128]
    assert right[240, 400].tolist() == [0, 128, 128]


@cases("shape")((3, 1, 1), (1, 2, 2), (8, 37, 37))
@cases("weight")(0.0, 1.0)
def test_feature_pca_of_flat_features_is_grey(shape, weight):
    right = components(np.full(shape, 0.7, dtype=np.float32), np.full(shape[1:], weight, dtype=np.float32))
    assert abs(right[300, -100].astype(int) - 128).max() <= 1


def test_similarity_map_is_brightest_where_it_is_highest_and_one_colour_of_a_constant():
    similarity = np.zeros((4, 4), dtype=np.float32)
    similarity[:, 2:] = 1.0
    row = np.asarray(draw_similarity_map(grey_image(480, 480), similarity, value_range=(0.0, 1.0))).astype(int)
    assert row[250, 400].sum() > row[250, 50].sum() + 100
    flat = np.full((3, 3), 0.3, np.float32)
    picture = np.asarray(draw_similarity_map(grey_image(480, 480), flat, value_range=(0.3, 0.3)))
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) == 1


def drawn(tiny: Path, output: Path, store: Path, *more: str) -> tuple[Path, set[str]]:
    words = settings(tiny, output, store, "stage=visualisation", "visualisation.enabled=true", *more)
    folder = run_with(words) / "pictures"
    return folder, {path.relative_to(folder).as_posix() for path in folder.rglob("*.png")}


def test_names_of_pictures_are_short_and_unique_by_image_id():
    ids: list[int | str] = [1, "1", "001/001", "001_001", "x" * 300, 10**300, -(10**299), "\ud800", "\ud801", "A", "a"]
    stems = {picture_stem(ImageRecord(each, "ö" * 300 + "\udcff.png", Path(), 1, 1)) for each in ids}
    assert len({stem.casefold() for stem in stems}) == len(ids)
    assert max(len(stem.encode()) for stem in stems) < 130
    assert picture_stem(ImageRecord(7, "a/photo.one.jpg", Path(), 1, 1)) == "photo.one_7"


def test_similarity_of_cells_by_hand():
    vectors = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [0.0, -1.0]])
    labels = torch.tensor([0, 0, 1, -1])  # two prototypes of a, one of b, one of background
    prototypes = Prototypes((Category(3, "a"), Category(5, "b")), vectors, labels)
    cells = torch.tensor([[[2.0, 3.0], [0.0, 0.0]], [[0.0, 4.0], [-5.0, 0.0]]])  # D = 2, a grid of 2 x 2
    similarity = class_similarity(cells, prototypes)
    # (2, 0) is a's first; (3, 4) / 5 is a's second; (0, -5) is like nothing but background; (0, 0) like nothing.
    expected = [[[1.0, 1.0], [0.0, 0.0]], [[0.0, 0.8], [0.0, 0.0]]]
    torch.testing.assert_close(torch.from_numpy(similarity.copy()), torch.tensor(expected))


def test_pictures_of_features_are_drawn_on_request(tiny, tmp_path, shared_store):
    more = ("features=true", "image_ids=[102,103]")
    folder, names = drawn(tiny, tmp_path, shared_store, *(f"visualisation.{setting}" for setting in more))
    features = {name for name in names if name.startswith("features/")}
    similarities = {f"features/similarity_targets_{name}.png" for name in ("1_102", "2_103")}
    assert {name for name in features if "similarity" in name} == similarities
    references = features - similarities
    assert len(references) == 2
    assert sorted(name.split("_")[1] for name in references) == ["disc", "square"]
    for name in features:
        with Image.open(folder / name) as picture:
            assert len(picture.convert("RGB").getcolors(1 << 24) or []) > 100


def test_asked_for_later_they_are_added_and_only_then_is_the_backbone_used(tiny, tmp_path, shared_store, monkeypatch):
    _, before = drawn(tiny, tmp_path, shared_store)
    assert not [name for name in before if name.startswith("features/")]

    def refuse(*_: object) -> torch.Tensor:
        raise AssertionError("encoded")

    with monkeypatch.context() as patch:
        patch.setattr(EfficientNetLite0, "encode", refuse)
        drawn(tiny, tmp_path / "second", shared_store)
        with pytest.raises(AssertionError, match="encoded"):
            drawn(tiny, tmp_path / "second", shared_store, "visualisation.features=true")
    _, after = drawn(tiny, tmp_path, shared_store, "visualisation.features=true")
    assert before <= after
    assert [sum(kind in name for name in after - before) for kind in ("similarity", "reference")] == [4, 2]
