"""Run lengths, full-size masks, and overlaps: equal to pycocotools in every bit."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import cases
from pycocotools import mask as coco_mask

from ntt.ops import mask_changes as module
from ntt.ops.mask_changes import full_size_changes, mask_changes
from ntt.ops.masks import decode_masks, encode_masks, mask_ious
from ntt.ops.overlaps import Segments, overlaps_with_earlier
from ntt.ops.resize import resize_matrix
from ntt.ops.run_lengths import (
    rle_areas,
    rle_intersections,
    run_lengths_problem,
    take,
    to_run_lengths,
    to_text,
)
from ntt.types import RunLengths

GENERATOR = torch.Generator().manual_seed(0)
SIZES = [
    # grid, image: both axes grow, one, none; grids of a few samples
    ((256, 256), (480, 640)),
    ((256, 256), (301, 256)),
    ((64, 48), (640, 427)),
    ((97, 130), (388, 520)),
    ((16, 16), (17, 40)),
    ((8, 9), (8, 9)),
    ((1, 7), (4, 9)),
    # one axis shrinks, or both
    ((64, 64), (100, 60)),
    ((64, 64), (20, 37)),
]


def pycocotools(foreground_NHW: torch.Tensor) -> tuple[bytes, ...]:
    encoded = coco_mask.encode(np.asfortranarray(foreground_NHW.permute(1, 2, 0).numpy().astype(np.uint8)))
    return tuple(code["counts"] for code in encoded)


def resized(logits_Nhw: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Every pixel of every mask as two matrix products, in float64."""
    rows, columns = (
        resize_matrix(inputs, outputs, antialias=True).double()
        for inputs, outputs in zip(logits_Nhw.shape[1:], (height, width), strict=True)
    )
    return (columns @ (rows @ logits_Nhw.double()).mT).mT


def smooth(count: int, height: int, width: int) -> torch.Tensor:
    noise = torch.randn(count, 1, max(1, height // 8), max(1, width // 8), generator=GENERATOR) - 0.3
    return F.interpolate(noise, (height, width), mode="bicubic")[:, 0]


def encoded(logits_Nhw: torch.Tensor, height: int, width: int) -> tuple[bytes, ...]:
    return to_text(to_run_lengths(full_size_changes(logits_Nhw, logits_Nhw > 0, height, width)))


def check_resized(logits_Nhw: torch.Tensor, height: int, width: int) -> None:
    """Compare run lengths with every pixel whose sign does not hang on rounding, and with pycocotools' bytes."""
    counts = encoded(logits_Nhw, height, width)
    codes = [{"size": (height, width), "counts": of_mask} for of_mask in counts]
    foreground = torch.from_numpy(coco_mask.decode(codes)).permute(2, 0, 1).bool()
    exact = resized(logits_Nhw, height, width)
    is_clear = exact.abs() > 1e-6 * exact.abs().max()
    assert torch.equal(foreground[is_clear], (exact > 0)[is_clear])
    assert counts == pycocotools(foreground)


@cases("grid", "image")(*SIZES)
@cases("kind")("smooth", "noise", "whole numbers", "halves", "quarters of signs")
def test_equal_to_masks_resized_pixel_by_pixel(kind, grid, image):
    logits = smooth(7, *grid) if kind != "noise" else torch.randn(7, *grid, generator=GENERATOR)
    # Whole numbers and fractions with few digits give sums of 0, where the processor's order of adding decides.
    rounded = {
        "whole numbers": logits.sign().to(torch.int8),
        "halves": (logits * 4).round() / 2,
        "quarters of signs": logits.sign() / 4,
    }
    logits = rounded.get(kind, logits)
    check_resized(logits, *image)


def test_equal_on_recorded_masks(golden_dir):
    for path in sorted(golden_dir.glob("matching_[0-9]*.npz"))[:2]:
        recorded = np.load(path)
        logits = torch.from_numpy(recorded["mask_logits_x16_int8"][::5])
        height, width = recorded["image_hw"].tolist()
        check_resized(logits, height, width)


def drawn_masks() -> dict[str, torch.Tensor]:
    """Masks of several sizes and shares of foreground, and with runs longer than 16 bits can say."""
    masks = {}
    for size in [(1, 1), (1, 9), (9, 1), (5, 7), (40, 33)]:
        masks[f"{size}"] = torch.rand(40, *size, generator=GENERATOR) > torch.linspace(0, 1, 40)[:, None, None]
        masks[f"{size}"][0], masks[f"{size}"][1] = True, False
    masks["long"] = torch.zeros(6, 3000, 200, dtype=torch.bool)
    masks["long"][0, -1, -1] = masks["long"][1, 0, 0] = masks["long"][2, 1500, 100:103] = True
    masks["long"][3, :, 30:180] = masks["long"][4, 5:, :60] = masks["long"][4, :, 60:] = masks["long"][5] = True
    return masks


@cases("masks")(*[pytest.param(masks, id=name) for name, masks in drawn_masks().items()])
def test_full_size_masks(masks):
    changes = mask_changes(masks)
    assert to_text(to_run_lengths(changes)) == pycocotools(masks)
    has_foreground = masks.any(dim=2).any(dim=1).numpy()
    assert ((changes.per_mask_N > 0) == has_foreground).all()
    num_pixels = masks[0].numel()
    indices = np.flatnonzero(has_foreground)[::-2]
    run_lengths = take(to_run_lengths(changes), indices)
    assert run_lengths_problem(run_lengths, num_pixels) is None
    assert run_lengths_problem(run_lengths, num_pixels + 1) == "its run lengths do not fit its size"
    assert to_text(run_lengths) == pycocotools(masks[indices.copy()])


def test_chunks_change_nothing_and_no_masks_are_none(monkeypatch):
    assert encoded(torch.zeros(0, 8, 8), 20, 20) == ()
    none = to_run_lengths(mask_changes(torch.zeros(0, 8, 8, dtype=torch.bool)))
    assert run_lengths_problem(none, 64) is None
    assert to_text(none) == ()
    logits = smooth(9, 32, 32)
    whole = [encoded(logits, 90, 70), encoded(logits, 20, 70)]
    monkeypatch.setattr(module, "_SAMPLES_CPU", 1)
    monkeypatch.setattr(module, "_PIXELS_CPU", 1)
    assert [encoded(logits, 90, 70), encoded(logits, 20, 70)] == whole


def test_changes_beyond_32_bits():
    logits = -torch.ones(1000, 4, 4)
    logits[-1, 1:3, 1:3] = 1
    for few, kind in ((logits[-500:], np.int32), (logits, np.int64)):
        changes = full_size_changes(few, few > 0, 30_000, 100)
        assert changes.flat_T.dtype == kind
        assert changes.per_mask_N.tolist() == [0] * (len(few) - 1) + [len(changes.flat_T)]
        assert to_text(to_run_lengths(changes))[-1:] == encoded(logits[-1:], 30_000, 100)


@cases("rows", "runs", "expected")(
    ([1], [[3, 2], [0, 0]], "fit its masks"),
    ([2, 0], [[3, 1], [0, 1]], "fit its masks"),
    ([3, -1], [[3, 1], [0, 1]], "fit its masks"),
    ([2**62, 2**62, 2**62, 2**62 + 2], [[3, 1], [0, 1]], "fit its masks"),
    ([], [[3, 2]], "fit its masks"),
    ([1, 1], [[3, 3], [2, 2]], "fit its size"),
    ([1, 1], [[3, 2], [5, 0]], "a mask has no foreground"),
)
def test_impossible_run_lengths(rows, runs, expected):
    masks = RunLengths(np.array(runs, dtype=np.uint16), np.array(rows, dtype=np.int64))
    assert str(run_lengths_problem(masks, 5)).endswith(expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@cases("kind")("smooth", "whole numbers")
def test_a_gpu_finds_the_same(kind):
    logits = smooth(30, 256, 256) if kind == "smooth" else smooth(30, 256, 256).sign().to(torch.int8)
    assert encoded(logits.cuda(), 480, 640) == encoded(logits, 480, 640)


@cases("masks")(*[pytest.param(masks, id=name) for name, masks in drawn_masks().items()])
def test_equal_to_pycocotools(masks):
    masks = masks[masks.any(dim=2).any(dim=1)]
    segments = Segments.of(to_run_lengths(mask_changes(masks)), *masks.shape[1:])
    coded = [{"size": list(masks.shape[1:]), "counts": text} for text in pycocotools(masks)]
    assert segments.areas_N.tolist() == coco_mask.area(coded).tolist()
    assert np.array_equal(segments.boxes_xywh, coco_mask.toBbox(coded).astype(np.float32))
    groups_N = np.arange(len(masks)) % 3
    expected = np.tril(coco_mask.iou(coded, coded, [1] * len(masks)), k=-1) * (groups_N[:, None] == groups_N)
    assert np.array_equal(overlaps_with_earlier(segments, groups_N), expected)


@cases("masks")(*[pytest.param(masks, id=name) for name, masks in drawn_masks().items()])
def test_areas_and_intersections_from_text(masks):
    rles, count = pycocotools(masks), len(masks)
    flat = masks.reshape(count, -1).numpy().astype(np.int64)
    assert rle_areas(rles).tolist() == flat.sum(axis=1).tolist()
    pairs = np.indices((count, count)).reshape(2, -1)
    shared = rle_intersections(rles, rles[::-1], *pairs)
    assert np.array_equal(shared.reshape(count, count), flat @ flat[::-1].T)


def test_damaged_text_is_read_to_its_end_only():
    assert rle_areas([b"~~~~~~~~~", b"", b"5", b"06o"])[1:].tolist() == [0, 0, 6]


def test_by_hand():
    masks = torch.zeros(3, 4, 8, dtype=torch.bool)
    masks[0, :, :4] = masks[1, :2, 2:4] = masks[2, :, 6:] = True
    segments = Segments.of(to_run_lengths(mask_changes(masks)), 4, 8)
    assert overlaps_with_earlier(segments, np.zeros(3, dtype=int)).tolist() == [[0, 0, 0], [1, 0, 0], [0, 0, 0]]
    assert segments.boxes_xyxy.tolist() == [[0, 0, 4, 4], [2, 0, 4, 2], [6, 0, 8, 4]]
    segments = Segments.of(to_run_lengths(mask_changes(torch.zeros(0, 4, 8, dtype=torch.bool))), 4, 8)
    assert segments.boxes_xywh.shape == (0, 4)
    assert overlaps_with_earlier(segments, np.zeros(0, dtype=int)).shape == (0, 0)


def test_edges_and_the_threshold():
    # torch's own antialiased interpolation gets this one wrong, so it is no standard here.
    logits = smooth(12, 64, 64)
    upright = decode_masks(encoded(logits, 37, 1), 37, 1)
    lying = decode_masks(encoded(logits.mT.contiguous(), 1, 37), 1, 37)
    assert np.array_equal(upright, lying.transpose(0, 2, 1))
    assert upright.any()
    logits = torch.tensor([[[0, 1], [-1, 0]]], dtype=torch.int8)
    assert decode_masks(encoded(logits, 2, 2), 2, 2).tolist() == [[[False, True], [False, False]]]
    assert encoded(logits, 7, 5) == encoded(logits.float(), 7, 5)
    logits = torch.full((1, 16, 16), -1.0)
    logits[0, 15, 15] = 9.0
    rles = encoded(logits, 32, 64)
    # Along the last row, from -1 to 9 the zero lies at a tenth: column 58 is at 14.125, column 57 at 13.875.
    rows, columns = np.nonzero(decode_masks(rles, 32, 64)[0])
    assert (columns.min(), rows.min(), columns.max(), rows.max()) == (58, 29, 63, 31)


def test_round_trip_also_of_nothing():
    empty = encoded(torch.zeros(1, 4, 4), 8, 8)
    assert rle_areas(empty).tolist() == [0]
    assert rle_areas(()).shape == (0,)
    assert decode_masks((), 8, 9).shape == (0, 8, 9)
    assert mask_ious((), empty, 8, 8).shape == (0, 1)
    masks = torch.rand(2, 5, 7, generator=GENERATOR) > 0.5
    assert np.array_equal(decode_masks(encode_masks(masks), 5, 7), masks.numpy())
