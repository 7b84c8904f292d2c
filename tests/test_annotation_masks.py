"""Masks of annotated objects: numbers worked by hand, and degenerate cases."""

from typing import Any

import numpy as np
import pytest
from conftest import cases
from pycocotools import mask as mask_api

from ntt.data.masks import (
    box_mask,
    checked_runs,
    instance_mask,
    instance_rle,
    rle_area,
    rle_box,
    segmentation_rle,
    unpack_runs,
)
from ntt.errors import DataError
from ntt.types import Instance


def instance(segmentation: Any, box: tuple[float, float, float, float] = (0, 0, 1, 1)) -> Instance:
    return Instance(1, 1, 1, box, segmentation, area_px=1.0)


def filled(rows: tuple[int, int], columns: tuple[int, int]) -> np.ndarray:
    """A mask of 5 rows and 8 columns, true in a block."""
    mask = np.zeros((5, 8), dtype=bool)
    mask[slice(*rows), slice(*columns)] = True
    return mask


# Rows 1 and 2 of column 2, rows 0 to 2 of column 3, in an image of 3 rows and 5 columns.
EXPECTED = np.array([[0, 0, 0, 1, 0], [0, 0, 1, 1, 0], [0, 0, 1, 1, 0]], dtype=bool)
RUNS = [7, 5, 3]


def compressed() -> str:
    text: str = mask_api.encode(np.asfortranarray(EXPECTED, dtype=np.uint8))["counts"].decode()
    return text


@cases("counts")(RUNS, compressed(), compressed().encode())
def test_run_length_codes_of_all_kinds(counts):
    coded = instance({"size": [3, 5], "counts": counts})
    mask = instance_mask(coded, 3, 5)
    assert mask.dtype == np.bool_
    np.testing.assert_array_equal(mask, EXPECTED)
    assert instance_rle(coded, 3, 5) == compressed().encode()


def test_a_box_serves_as_mask_and_an_rle_of_another_size_does_not():
    np.testing.assert_array_equal(instance_mask(instance(None, (1, 2, 3, 2)), 5, 8), filled((2, 4), (1, 4)))
    assert instance_rle(instance(None, (1, 2, 3, 2)), 5, 8) == instance_rle(instance([[1, 2, 4, 2, 4, 4, 1, 4]]), 5, 8)
    with pytest.raises(DataError, match=r"A mask of .height, width. .5, 3. does not fit an image of .3, 5."):
        instance_mask(instance({"size": [5, 3], "counts": RUNS}), 3, 5)
    with pytest.raises(DataError, match="without polygons"):
        segmentation_rle([], 5, 8)


@cases("polygons", "rows", "columns")(
    ([[1.0, 1.0, 3.0, 1.0, 3.0, 4.0, 1.0, 4.0], [2.0, 1.0, 6.0, 1.0, 6.0, 4.0, 2.0, 4.0]], (1, 4), (1, 6)),
    ([[-4, -4, 2, -4, 2, 3, -4, 3]], (0, 3), (0, 2)),
    ([[20, 20, 30, 20, 30, 30]], (0, 0), (0, 0)),
    ([[2.0, 2.0, 2.1, 2.0, 2.1, 2.1]], (0, 0), (0, 0)),
)
def test_polygons_are_united_and_clipped(polygons, rows, columns):
    np.testing.assert_array_equal(instance_mask(instance(polygons), 5, 8), filled(rows, columns))


@cases("box", "rows", "columns")(
    ((0, 0, 8, 5), (0, 5), (0, 8)),
    ((1.4, 0, 2, 1), (0, 1), (1, 3)),  # centres 1.5 and 2.5 lie in [1.4, 3.4)
    ((1.5, 0, 2, 1), (0, 1), (1, 3)),  # a centre on the left edge belongs to the box
    ((1.6, 0, 2, 1), (0, 1), (2, 4)),
    ((2.6, 1.6, 0.2, 0.2), (1, 2), (2, 3)),  # no centre inside: the pixel under the box's own
    ((7.9, 4.9, 0.1, 0.1), (4, 5), (7, 8)),
    ((8.0, 5.0, 0.0, 0.0), (4, 5), (7, 8)),
    ((-3, -3, 20, 20), (0, 5), (0, 8)),
    ((20, 20, 3, 3), (4, 5), (7, 8)),
)
def test_boxes_cover_the_pixels_whose_centres_they_hold(box, rows, columns):
    np.testing.assert_array_equal(box_mask(box, 5, 8), filled(rows, columns))


def test_runs_area_and_box_of_an_rle():
    counts = compressed().encode()
    assert rle_area(counts, 3, 5) == 5
    assert rle_box(counts, 3, 5) == (2, 0, 2, 3)
    empty = segmentation_rle({"size": [3, 5], "counts": [15]}, 3, 5)
    assert rle_area(empty, 3, 5) == 0
    assert rle_box(empty, 3, 5) == (0, 0, 0, 0)
    assert unpack_runs(compressed()) == RUNS
    assert unpack_runs("") == []
    mask = np.asfortranarray(np.random.default_rng(0).random((97, 103)) < 0.3, dtype=np.uint8)
    mask[:, 40:90] = 1
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    expected = runs if flat[0] == 0 else [0, *runs]
    assert unpack_runs(mask_api.encode(mask)["counts"].decode()) == expected


@cases("counts", "text")(
    ("ab\x7f", "does not occur in run-length codes"),
    ("o", "ends in the middle of a number"),
    ([16], "cover 16 pixels, the image has 15"),
    ([16, -1], "negative length"),
    ([15.0], "text or a list of whole numbers"),
    ([True, 14], "text or a list of whole numbers"),
    (None, "text or a list of whole numbers"),
    ("", "cover 0 pixels, the image has 15"),
)
def test_runs_from_files_are_checked(counts, text):
    with pytest.raises(ValueError, match=text):
        checked_runs(counts, 3, 5)
    assert checked_runs(RUNS, 3, 5) == RUNS
