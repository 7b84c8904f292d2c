"""Run lengths without full-size masks: byte for byte what pycocotools makes of the masks resized pixel by pixel."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pycocotools import mask as coco_mask

from ntt.ops import mask_changes as module
from ntt.ops.mask_changes import full_size_changes, mask_changes
from ntt.ops.resize import resize_matrix
from ntt.ops.run_lengths import run_lengths_problem, take, to_run_lengths, to_text
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


@pytest.mark.parametrize(("grid", "image"), SIZES)
@pytest.mark.parametrize("kind", ["smooth", "noise", "whole numbers", "halves", "quarters of signs"])
def test_equal_to_masks_resized_pixel_by_pixel(kind: str, grid: tuple[int, int], image: tuple[int, int]):
    logits = smooth(7, *grid) if kind != "noise" else torch.randn(7, *grid, generator=GENERATOR)
    # Whole numbers and fractions with few digits give sums of 0, where the processor's order of adding decides.
    rounded = {
        "whole numbers": logits.sign().to(torch.int8),
        "halves": (logits * 4).round() / 2,
        "quarters of signs": logits.sign() / 4,
    }
    logits = rounded.get(kind, logits)
    check_resized(logits, *image)


def test_equal_on_recorded_masks(golden_dir: Path):
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


@pytest.mark.parametrize("masks", [pytest.param(masks, id=name) for name, masks in drawn_masks().items()])
def test_full_size_masks(masks: torch.Tensor):
    changes = mask_changes(masks)
    assert to_text(to_run_lengths(changes)) == pycocotools(masks)
    has_foreground = masks.any(dim=2).any(dim=1).numpy()
    assert ((changes.per_mask_N > 0) == has_foreground).all()
    num_pixels = masks[0].numel()
    some = np.flatnonzero(has_foreground)[::-2]
    run_lengths = take(to_run_lengths(changes), some)
    assert run_lengths_problem(run_lengths, num_pixels) is None
    assert run_lengths_problem(run_lengths, num_pixels + 1) == "its run lengths do not fit its size"
    assert to_text(run_lengths) == pycocotools(masks[some.copy()])


def test_no_masks():
    assert encoded(torch.zeros(0, 8, 8), 20, 20) == ()
    none = to_run_lengths(mask_changes(torch.zeros(0, 8, 8, dtype=torch.bool)))
    assert run_lengths_problem(none, 64) is None
    assert to_text(none) == ()


@pytest.mark.parametrize(
    ("rows", "runs", "expected"),
    [
        ([1], [[3, 2], [0, 0]], "fit its masks"),
        ([2, 0], [[3, 1], [0, 1]], "fit its masks"),
        ([3, -1], [[3, 1], [0, 1]], "fit its masks"),
        ([2**62, 2**62, 2**62, 2**62 + 2], [[3, 1], [0, 1]], "fit its masks"),
        ([], [[3, 2]], "fit its masks"),
        ([1, 1], [[3, 3], [2, 2]], "fit its size"),
        ([1, 1], [[3, 2], [5, 0]], "a mask has no foreground"),
    ],
)
def test_impossible_run_lengths(rows: list[int], runs: list[list[int]], expected: str):
    masks = RunLengths(np.array(runs, dtype=np.uint16), np.array(rows, dtype=np.int64))
    assert str(run_lengths_problem(masks, 5)).endswith(expected)


def test_chunks_change_nothing(monkeypatch):
    logits = smooth(9, 32, 32)
    whole = [encoded(logits, 90, 70), encoded(logits, 20, 70)]
    monkeypatch.setattr(module, "_SAMPLES_CPU", 1)
    monkeypatch.setattr(module, "_PIXELS_CPU", 1)
    assert [encoded(logits, 90, 70), encoded(logits, 20, 70)] == whole


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", ["smooth", "whole numbers"])
def test_a_gpu_finds_the_same(kind: str):
    logits = smooth(30, 256, 256) if kind == "smooth" else smooth(30, 256, 256).sign().to(torch.int8)
    assert encoded(logits.cuda(), 480, 640) == encoded(logits, 480, 640)
