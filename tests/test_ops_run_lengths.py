"""Run lengths without full-size masks: byte for byte what pycocotools makes of the masks resized pixel by pixel."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pycocotools import mask as coco_mask

from ntt.ops import run_lengths
from ntt.ops.resize import resize_matrix
from ntt.ops.run_lengths import full_size_changes, mask_changes

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
    """Every pixel of every mask as two matrix products, in float32."""
    rows, columns = (
        resize_matrix(inputs, outputs, antialias=True)
        for inputs, outputs in zip(logits_Nhw.shape[1:], (height, width), strict=True)
    )
    return (columns @ (rows @ logits_Nhw.float()).mT).mT > 0


def smooth(count: int, height: int, width: int) -> torch.Tensor:
    noise = torch.randn(count, 1, max(1, height // 8), max(1, width // 8), generator=GENERATOR) - 0.3
    return F.interpolate(noise, (height, width), mode="bicubic")[:, 0]


def encoded(logits_Nhw: torch.Tensor, height: int, width: int) -> tuple[bytes, ...]:
    return full_size_changes(logits_Nhw, logits_Nhw > 0, height, width).encode()


@pytest.mark.parametrize(("grid", "image"), SIZES)
@pytest.mark.parametrize("kind", ["smooth", "noise", "whole numbers", "halves", "quarters of signs"])
def test_equal_to_masks_resized_pixel_by_pixel(kind: str, grid: tuple[int, int], image: tuple[int, int]) -> None:
    logits = smooth(7, *grid) if kind != "noise" else torch.randn(7, *grid, generator=GENERATOR)
    # Whole numbers and fractions with few digits give sums of exactly 0, where rounding decides.
    rounded = {
        "whole numbers": logits.sign().to(torch.int8),
        "halves": (logits * 4).round() / 2,
        "quarters of signs": logits.sign() / 4,
    }
    logits = rounded.get(kind, logits)
    assert encoded(logits, *image) == pycocotools(resized(logits, *image))


def test_equal_on_recorded_masks(golden_dir: Path) -> None:
    for path in sorted(golden_dir.glob("matching_[0-9]*.npz"))[:2]:
        recorded = np.load(path)
        logits = torch.from_numpy(recorded["mask_logits_x16_int8"][::5])
        height, width = recorded["image_hw"].tolist()
        assert encoded(logits, height, width) == pycocotools(resized(logits, height, width))


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (5, 7), (40, 33)])
def test_full_size_masks(size: tuple[int, int]) -> None:
    masks = torch.rand(40, *size, generator=GENERATOR) > torch.linspace(0, 1, 40)[:, None, None]
    masks[0], masks[1] = True, False
    changes = mask_changes(masks)
    assert changes.encode() == pycocotools(masks)
    assert ((changes.per_mask_N > 0) == masks.any(dim=2).any(dim=1).numpy()).all()


def test_long_runs_take_several_characters() -> None:
    masks = torch.zeros(3, 3000, 2100, dtype=torch.bool)
    masks[0, -1, -1] = masks[1, 0, 0] = masks[2, 1500, 1000:1003] = True
    assert mask_changes(masks).encode() == pycocotools(masks)


def test_no_masks() -> None:
    assert encoded(torch.zeros(0, 8, 8), 20, 20) == ()
    assert mask_changes(torch.zeros(0, 8, 8, dtype=torch.bool)).encode() == ()


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = smooth(9, 32, 32)
    whole = [encoded(logits, 90, 70), encoded(logits, 20, 70)]
    monkeypatch.setattr(run_lengths, "_SAMPLES_CPU", 1)
    monkeypatch.setattr(run_lengths, "_PIXELS_CPU", 1)
    monkeypatch.setattr(run_lengths, "_RUNS", 1)
    assert [encoded(logits, 90, 70), encoded(logits, 20, 70)] == whole


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", ["smooth", "whole numbers"])
def test_a_gpu_finds_the_same(kind: str) -> None:
    logits = smooth(30, 256, 256) if kind == "smooth" else smooth(30, 256, 256).sign().to(torch.int8)
    assert encoded(logits.cuda(), 480, 640) == encoded(logits, 480, 640)
