"""Compressed run lengths are read as pycocotools writes them, and nothing else is believed."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from ntt.ops.rle_text import run_lengths_problem


def problem(rles: list[bytes], num_pixels: int) -> str | None:
    text = np.frombuffer(b"".join(rles), dtype=np.uint8)
    return run_lengths_problem(text, np.array([len(rle) for rle in rles], dtype=np.int64), num_pixels)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (20, 30), (1000, 700)])
def test_what_pycocotools_writes_is_believed(size: tuple[int, int]):
    generator = np.random.default_rng(0)
    masks = [np.zeros(size), np.ones(size), *(generator.random(size) < share for share in (0.0001, 0.1, 0.5, 0.999))]
    rles = [coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"] for mask in masks]
    for first in range(len(rles)):
        turned = rles[first:] + rles[:first]
        assert problem(turned, size[0] * size[1]) is None
        assert problem(turned, size[0] * size[1] + 1) == "its run lengths do not fit its size"
    assert problem([], 5) is None


@pytest.mark.parametrize(
    ("rle", "expected"),
    [
        (b"", "its run lengths are no numbers"),
        (b"\x01", "its run lengths are no numbers"),
        (b"\xff", "its run lengths are no numbers"),
        (b"P", "its run lengths are no numbers"),  # more digits follow
        (b"PPPPPPPPP1", "its run lengths are too large"),
        (b"6O", "its run lengths do not fit its size"),  # 6 and -1
        (b"214M", "its run lengths do not fit its size"),  # 2, 1, 4, and 1 - 3
    ],
)
def test_anything_else_is_not(rle: bytes, expected: str):
    assert problem([b"5", rle, b"5"], 5) == expected
