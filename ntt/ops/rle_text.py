"""COCO's compressed run lengths read without pycocotools, which does not validate its input.

The text holds each count as digits of five bits, lowest first: character code 48 + digit, + 32 where more follow. From
the fourth count of a mask on it is the difference to the count before the last. Suffixes: B characters, R counts.
"""

import numpy as np
import numpy.typing as npt

from ntt.types import IntArray

_MOST_DIGITS = 6


def run_lengths_problem(text_B: npt.NDArray[np.uint8], lengths_N: IntArray, num_pixels: int) -> str | None:
    """Return what is wrong with the compressed run lengths of masks of one image; None for nothing.

    Args:
        text_B: the text of all masks, one after the other.
        lengths_N: number of characters of each mask; their sum is the length of `text_B`.
        num_pixels: of the image; the counts of each mask must sum to it.
    """
    if not len(lengths_N):
        return None
    codes_B = text_B - np.uint8(48)
    ends_B = codes_B < 32
    last_of_mask_N = np.cumsum(lengths_N) - 1
    if (codes_B > 63).any() or lengths_N.min() < 1 or not ends_B[last_of_mask_N].all():
        return "its run lengths are no numbers"
    ends_R = np.flatnonzero(ends_B)
    digits_R = np.diff(ends_R, prepend=-1)
    if digits_R.max() > _MOST_DIGITS:
        return "its run lengths are too large"
    differences_R = _differences(codes_B, ends_R, digits_R)
    starts_N = np.searchsorted(ends_R, last_of_mask_N - lengths_N, side="right")
    firsts_N = differences_R[starts_N]
    differences_R[starts_N] = 0  # the first count is not added to the third
    totals_N = firsts_N.astype(np.int64)
    least = int(firsts_N.min())
    for parity in (0, 1):
        counts, bounds = _summed(differences_R[parity::2], (starts_N + 1 - parity) // 2)
        totals_N += np.diff(np.concatenate([[0], np.cumsum(counts)])[bounds])
        least = min(least, int(counts.min(initial=0)))
    return "its run lengths do not fit its size" if least < 0 or (totals_N != num_pixels).any() else None


def _differences(codes_B: npt.NDArray[np.uint8], ends_R: IntArray, digits_R: IntArray) -> npt.NDArray[np.int32]:
    """Combine digits: int32 [R]. The highest digit's highest bit is the sign."""
    values_R: npt.NDArray[np.int32] = (codes_B[ends_R].astype(np.int32) ^ 16) - 16
    for back in range(1, int(digits_R.max())):
        longer = np.flatnonzero(digits_R > back)
        values_R[longer] = (values_R[longer] << 5) | (codes_B[ends_R[longer] - back] & 31)
    return values_R


def _summed(differences: npt.NDArray[np.int32], starts_N: IntArray) -> tuple[npt.NDArray[np.int64], IntArray]:
    """Turn the differences of every second count into counts; also return where each mask's begin, and the end."""
    bounds = np.append(starts_N, len(differences))
    sums = np.zeros(len(differences) + 1, dtype=np.int64)
    np.cumsum(differences, out=sums[1:])
    # Take away what earlier masks have added up to.
    return sums[1:] - np.repeat(sums[starts_N], np.diff(bounds)), bounds
