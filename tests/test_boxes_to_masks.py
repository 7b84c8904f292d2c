"""Masks made of boxes: choice among proposals, whole annotation files, references of a run."""

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from coco_samples import annotation
from conftest import cases
from scipy import ndimage
from tiny_data import edited, make_tiny, read, run_with, settings

from ntt.cli.main import main
from ntt.data.coco import CocoDataset, read_coco
from ntt.data.masks import mask_to_polygons, segmentation_rle
from ntt.models.box_masks import (
    BoxMasks,
    Conversion,
    ProposalBoxes,
    ReferenceMasks,
    best_proposals,
    choose_box_segmenter,
    convert,
)
from ntt.models.segmenters.regions import RegionsConfig
from ntt.ops.masks import decode_masks
from ntt.run.artefacts import read_memory
from ntt.store.store import Store
from ntt.types import FloatArray, Proposals


class Prompted:
    """A stand-in for a segmenter with box prompts: the left half of each box, nothing in boxes without a middle."""

    name = "prompted"

    def __init__(self, *, fails_at: int | None = None, seed: int = 0) -> None:
        self.fingerprint: Mapping[str, Any] = {"stub": "left half", "seed": seed}
        self.calls: list[list[list[float]]] = []
        self._fails_at = fails_at

    def canvas_hw(self, height: int, width: int) -> tuple[int, int]:
        return 2 * height, 2 * width

    def propose(self, canvas_3hw: torch.Tensor, feature_map_Dhw: torch.Tensor) -> Proposals:
        raise AssertionError("boxes are prompts here")

    images_at_once = 1

    def segment_boxes(self, canvases: Sequence[torch.Tensor], boxes: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        return [self._segment(*prompts) for prompts in zip(canvases, boxes, strict=True)]

    def _segment(self, canvas_3hw: torch.Tensor, boxes_xyxy: torch.Tensor) -> torch.Tensor:
        if len(self.calls) == self._fails_at:
            raise KeyboardInterrupt
        self.calls.append(boxes_xyxy.tolist())
        _, rows, columns = canvas_3hw.shape
        logits = torch.full((len(boxes_xyxy), rows, columns), -1.0)
        for mask, (left, top, right, bottom) in zip(logits, boxes_xyxy.int().tolist(), strict=True):
            if right - left > 8:
                mask[top:bottom, left : (left + right) // 2] = 1.0
        return logits


class Together(Prompted):
    """The same, of several images at once; memory runs out where there are more than `most`."""

    images_at_once = 3

    def __init__(self, *, most: int = 99, **more: int) -> None:
        super().__init__(**more)
        self.groups: list[int] = []
        self._most = most

    def segment_boxes(self, canvases: Sequence[torch.Tensor], boxes: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        self.groups.append(len(canvases))
        if len(canvases) > self._most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().segment_boxes(canvases, boxes)


class Proposer:
    """A stand-in for a segmenter without box prompts; its grid is half its canvas."""

    name = "proposer"
    fingerprint: Mapping[str, Any] = {"stub": "one square"}

    def canvas_hw(self, height: int, width: int) -> tuple[int, int]:
        return height, width

    def propose(self, canvas_3hw: torch.Tensor, feature_map_Dhw: torch.Tensor) -> Proposals:
        assert feature_map_Dhw.shape == (3, 2, 2)
        logits = torch.full((1, canvas_3hw.shape[1] // 2, canvas_3hw.shape[2] // 2), -1.0)
        logits[0, 5:15, 10:20] = 1.0
        return Proposals(logits, torch.tensor([0.9]))


class Halves:
    """A stand-in for a backbone: the means of the four quarters of an image."""

    name = "quarters"
    input_size, patch_size = 8, 4
    fingerprint: Mapping[str, Any] = {"stub": "quarters"}

    def encode(self, images_B3HW: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(images_B3HW, 4)


def boxes(*rows: tuple[float, float, float, float]) -> FloatArray:
    return np.array(rows, dtype=np.float32).reshape(-1, 4)


def rectangles(*boxes_xyxy: tuple[int, int, int, int], iou: list[float] | None = None) -> Proposals:
    logits = torch.full((len(boxes_xyxy), 10, 12), -1.0)
    for mask, (left, top, right, bottom) in zip(logits, boxes_xyxy, strict=True):
        mask[top:bottom, left:right] = 1.0
    return Proposals(logits, torch.tensor(iou or [0.5] * len(boxes_xyxy)))


def cells(mask_hw: torch.Tensor) -> tuple[int, int, int, int]:
    """Tight box of the foreground, which must be a full rectangle."""
    rows, columns = (mask_hw > 0).nonzero().T
    left, top, right, bottom = int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1
    assert len(rows) == (right - left) * (bottom - top)
    return left, top, right, bottom


# Polygons
def test_polygons_of_masks():
    mask = np.zeros((4, 6), dtype=bool)
    mask[1, 2] = True
    assert mask_to_polygons(mask) == [[3, 1, 3, 2, 2, 2, 2, 1]]
    mask[2, 3] = True  # touches at a corner only: a part of its own
    assert mask_to_polygons(mask) == [[3, 1, 3, 2, 2, 2, 2, 1], [4, 2, 4, 3, 3, 3, 3, 2]]
    assert mask_to_polygons(np.zeros((3, 3), dtype=bool)) == []
    assert mask_to_polygons(np.ones((2, 3), dtype=bool)) == [[3, 0, 3, 2, 0, 2, 0, 0]]
    generator = np.random.default_rng(0)
    for trial in range(20):
        height, width = generator.integers(2, 30, 2).tolist()
        noise = generator.random((height, width))
        mask = noise < 0.6 if trial % 2 else ndimage.gaussian_filter(noise, 2) > 0.5
        if not mask.any():
            continue
        drawn = decode_masks([segmentation_rle(mask_to_polygons(mask), height, width)], height, width)[0]
        parts, count = ndimage.label(mask)
        filled = [ndimage.binary_fill_holes(parts == n + 1, structure=np.ones((3, 3))) for n in range(count)]
        assert np.array_equal(drawn, np.any(filled, axis=0))


# Choosing among proposals
def test_the_proposal_with_the_closest_box_is_cut_to_the_box_and_the_better_of_equals_taken():
    proposals = rectangles((0, 0, 12, 10), (2, 2, 9, 7), (2, 2, 4, 4))
    chosen = best_proposals(proposals, boxes((3, 2, 9, 8), (0, 0, 12, 9)))
    assert [cells(mask) for mask in chosen] == [(3, 2, 9, 7), (0, 0, 12, 9)]
    assert set(chosen.unique().tolist()) == {-1.0, 1.0}
    proposals = rectangles((2, 2, 6, 6), (2, 2, 6, 6), (2, 2, 6, 6), iou=[0.3, 0.8, 0.8])
    proposals.logits_Nhw[0, 3, 3] = proposals.logits_Nhw[1, 4, 4] = proposals.logits_Nhw[2, 3, 4] = -1
    (mask,) = best_proposals(proposals, boxes((2, 2, 6, 6)))
    assert torch.equal(mask > 0, proposals.logits_Nhw[1] > 0)


@cases("proposals", "box", "foreground")(
    (rectangles((2, 2, 8, 8)), (2.5, 2.6, 7.5, 7.4), 5 * 4),  # a cell belongs to the box if its centre does
    *((rectangles((0, 0, 4, 4)), (0, 0, 4, side), left) for side, left in ((8, 16), (8.01, 0))),  # IoU 1/2 fits
    (Proposals(torch.zeros(0, 10, 12), torch.zeros(0)), (0, 0, 4, 4), 0),
    (Proposals(torch.full((1, 10, 12), -1.0), torch.ones(1)), (0, 0, 4, 4), 0),
)
def test_what_is_left_in_the_box(proposals, box, foreground):
    assert int((best_proposals(proposals, boxes(box)) > 0).sum()) == foreground
    assert best_proposals(proposals, boxes()).shape == (0, 10, 12)


def test_what_makes_masks_of_boxes():
    prompted, proposer, backbone = Prompted(), Proposer(), Halves()
    assert choose_box_segmenter("box", prompted, backbone) is None
    assert choose_box_segmenter("auto", prompted, backbone) is prompted
    assert choose_box_segmenter("segmenter", prompted, backbone) is prompted
    assert choose_box_segmenter("auto", proposer, backbone) is None
    fallback = choose_box_segmenter("segmenter", proposer, backbone)
    assert isinstance(fallback, ProposalBoxes)
    (masks,) = fallback.segment_boxes([torch.rand(3, 40, 60)], [torch.tensor([[20.0, 10.0, 40.0, 26.0]])])
    assert cells(masks[0]) == (10, 5, 20, 13)  # boxes are scaled from the canvas to the grid
    assert fallback.fingerprint["segmenter"] == proposer.fingerprint
    assert fallback.fingerprint["backbone"] == backbone.fingerprint


# Whole annotation files
def without_masks(content: Any, *, number: int | None = None) -> Any:
    for entry in content["annotations"][:number]:
        del entry["segmentation"]
    return content


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Boxes only, but for one annotation; a crowd region, a box too small, and one outside its image."""
    folder = make_tiny(tmp_path / "tiny")
    path = folder / "annotations" / "targets.json"
    content = without_masks(read(path), number=-1)
    content["annotations"].insert(1, annotation(50, 103, 3, [200, 200, 4, 4], area=16, note="outside"))
    content["annotations"].append(annotation(51, 103, 3, [10, 20, 30, 30], area=16, iscrowd=1))
    content["annotations"].append(annotation(52, 103, 3, [60, 60, 4, 4], area=16, note="tiny"))
    content["info"] = {"description": "kept"}
    path.write_text(json.dumps(content))
    return folder


def dataset_of(root: Path) -> CocoDataset:
    return read_coco(root / "annotations" / "targets.json", root / "images")


def converted(root: Path, segmenter: Prompted, **changes: Any) -> tuple[Conversion, dict[int, dict[str, Any]]]:
    output = root / "out.json"
    usual = {"box_masks": BoxMasks(segmenter, Store(root / "parts")), "mask_format": "rle"}
    result = convert(dataset=dataset_of(root), output=output, **{**usual, **changes})
    return result, {entry.get("id"): entry for entry in read(output)["annotations"]}


def area(entry: dict[str, Any]) -> int:
    return int(decode_masks([segmentation_rle(entry["segmentation"], 96, 128)], 96, 128).sum())


def test_box_only_annotations_get_masks_and_nothing_else_changes(root):
    before = (root / "annotations" / "targets.json").read_bytes()
    segmenter = Prompted()
    result, entries = converted(root, segmenter)
    assert (root / "annotations" / "targets.json").read_bytes() == before
    original = json.loads(before)
    assert list(entries) == [entry["id"] for entry in original["annotations"]]
    assert read(root / "out.json")["info"] == {"description": "kept"}
    assert result == Conversion(num_new=4, num_unchanged=3, boxes_as_masks=(52,))
    # [10, 10, 40, 40], of which the left half is foreground
    assert area(entries[1]) == 20 * 40
    assert entries[1]["mask_source"] == "prompted"
    assert area(entries[52]) == 16
    assert entries[52]["mask_source"] == "box"
    for entry in original["annotations"]:
        new = dict(entries[entry["id"]])
        if entry["id"] in (5, 50, 51):
            assert new == entry
        else:
            del new["segmentation"], new["mask_source"]
            assert new == entry
    # All boxes of an image at once, in canvas pixels.
    assert segmenter.calls[0] == [[20, 20, 100, 100], [140, 80, 212, 152]]
    assert len(segmenter.calls) == 4
    assert read_coco(root / "out.json", root / "images").has_masks
    # An annotation that has a mask gets another on request only.
    result, entries = converted(root, Prompted(), overwrite_masks=True)
    assert result.num_new == 5
    assert area(entries[5]) == 18 * 36


def test_an_interrupted_conversion_goes_on_where_it_stopped(root):
    with pytest.raises(KeyboardInterrupt):
        converted(root, Prompted(fails_at=2))
    assert not (root / "out.json").exists()
    second = Prompted()
    result, entries = converted(root, second)
    assert len(second.calls) == 2
    assert result.num_new == 4
    whole = Prompted()
    assert converted(root, whole, box_masks=BoxMasks(whole, Store(root / "elsewhere")))[1] == entries
    other = Prompted(seed=1)
    converted(root, other)
    assert len(other.calls) == 4  # what another segmenter left is not used


@cases("image_batch", "most", "groups")(
    # In the last, memory runs out.
    (None, 99, [3, 1]),
    (1, 99, [1] * 4),
    (2, 99, [2, 2]),
    (100, 99, [4]),
    (3, 1, [3, 1, 1, 1, 1]),
)
def test_images_go_together_to_a_segmenter_that_takes_several(root, caplog, image_batch, most, groups):
    one_by_one = converted(root, Prompted(), box_masks=BoxMasks(Prompted(), Store(root / "one")))
    segmenter = Together(most=most)
    assert converted(root, segmenter, image_batch=image_batch) == one_by_one
    assert segmenter.groups == groups
    warning = "Memory ran out with 3 images at a time; continuing with 1. Set --image-batch to that"
    assert (warning in caplog.text) == (most == 1)


def test_only_what_is_missing_goes_to_the_segmenter_and_a_file_without_ids_keeps_its_order(root):
    prompts = [(record, [(10.0, 10.0, 40.0, 40.0)]) for record in dataset_of(root).images.values()]
    next(BoxMasks(Together(), Store(root / "parts")).get([prompts[1]]))
    again = Together()
    masks = list(BoxMasks(again, Store(root / "parts")).get(prompts, image_batch=4))
    assert again.groups == [3]
    assert masks == [next(BoxMasks(Together(), Store(root / "other")).get([prompt])) for prompt in prompts]
    with edited(root, "targets") as content:
        for entry in content["annotations"]:
            del entry["id"]
    converted(root, Prompted())
    entries = read(root / "out.json")["annotations"]
    assert [entry.get("mask_source", "") for entry in entries] == ["prompted", "", *["prompted"] * 3, "", "", "box"]
    assert area(entries[2]) == 18 * 36


# The command
def words(root: Path, *more: str) -> list[str]:
    files = {"annotations": "annotations/targets.json", "images": "images", "output": "masks.json"}
    options = [word for name, file in files.items() for word in (f"--{name}", str(root / file))]
    return ["data", "boxes-to-masks", *options, *more, "runtime.threads=1", f"runtime.weights_root={root}"]


def test_the_command_goes_on_after_an_interruption(root, monkeypatch, capsys):
    for stub, status in ((Prompted(fails_at=3), 130), (second := Prompted(), 0)):
        monkeypatch.setattr("ntt.cli.boxes_to_masks.choose_box_segmenter", lambda *_, stub=stub: stub)
        assert main(words(root, "--pictures", str(root / "pictures"), "--format", "polygon")) == status
    assert len(second.calls) == 1
    out = capsys.readouterr().out
    assert "Going on with what is in" in out
    assert "4 masks made by prompted, 3 annotations left as they were" in out
    assert "found nothing in 1 boxes" in out
    assert "(annotations 52)" in out
    assert isinstance(read(root / "masks.json")["annotations"][0]["segmentation"], list)
    assert not (root / "masks.json.parts").exists()
    drawn = sorted(path.name for path in (root / "pictures").iterdir())
    assert drawn == [f"targets_{number}_{101 + number}.png" for number in range(4)]


def test_the_command_takes_any_segmenter(root):
    coarse = ("segmenter.canvas_side=96", "segmenter.mask_side=96", "segmenter.leaves=50", "backbone.input_size=64")
    assert main(words(root, "--segmenter", "regions", *coarse)) == 0
    entries = read(root / "masks.json")["annotations"]
    assert {entry["mask_source"] for entry in entries if "mask_source" in entry} <= {"regions", "box"}
    assert read_coco(root / "masks.json", root / "images").has_masks


def test_the_command_changes_no_file(root, capsys):
    assert main(words(root, "--output", str(root / "annotations/targets.json"))) == 2
    assert "exists already, and files are never changed" in capsys.readouterr().err


# References of a run
@pytest.fixture
def box_only(tmp_path: Path) -> Path:
    folder = make_tiny(tmp_path / "tiny")
    path = folder / "annotations" / "references.json"
    path.write_text(json.dumps(without_masks(read(path))))
    return folder


def memory_of(root: Path, folder: Path, monkeypatch: Any, stub: object, *more: str) -> tuple[Path, list[list[float]]]:
    monkeypatch.setattr(RegionsConfig, "build", lambda self, placement: stub)
    run_dir = run_with(settings(root, folder / "out", folder / "store", "stage=memory", *more))
    memory = read_memory(run_dir / "memory.safetensors")
    return run_dir, [feature.flatten().tolist() for feature in memory.features]


def test_references_get_their_masks_from_box_prompts(box_only, tmp_path, monkeypatch, capsys):
    stub = Prompted()
    folder, by_box = memory_of(box_only, tmp_path, monkeypatch, stub, "memory.box_masks=box")
    assert not stub.calls
    assert "2 of 2 references have no segmentation: their boxes serve as masks" in capsys.readouterr().out
    other, by_prompt = memory_of(box_only, tmp_path, monkeypatch, stub)
    assert len(stub.calls) == 2
    assert "prompted makes masks from their boxes" in capsys.readouterr().out
    assert folder != other
    assert by_box != by_prompt
    shutil.rmtree(other)
    assert memory_of(box_only, tmp_path, monkeypatch, stub) == (other, by_prompt)
    assert len(stub.calls) == 2  # found in the store


def test_a_box_in_which_nothing_is_found_serves_as_mask(box_only, tmp_path, caplog):
    dataset = read_coco(box_only / "annotations" / "references.json", box_only / "images")
    instance = dataset.instances[0]
    record = dataset.images[instance.image_id]
    segmenter = Prompted()
    masks = ReferenceMasks(BoxMasks(segmenter, Store(tmp_path / "store")))
    assert int(masks.mask(instance, record).sum()) == 20 * 40
    segmenter.fingerprint = {"stub": "nothing"}
    segmenter.segment_boxes = lambda canvases, boxes: [torch.full((1, 4, 4), -1.0)]  # type: ignore[method-assign]
    with caplog.at_level(logging.WARNING):
        assert masks.rle(instance, record) is None
        assert int(masks.mask(instance, record).sum()) == 40 * 40
    assert "found nothing in 1 of 1 boxes" in caplog.text
    assert ReferenceMasks(None).rle(instance, record) is None
