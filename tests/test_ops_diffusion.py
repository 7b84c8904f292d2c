"""Diffusion of penalties over overlapping masks, numbers worked by hand."""

from typing import Any

import numpy as np
import pytest
import torch
from drawn_candidates import covered_parts

from ntt.ops.diffusion import diffused_penalties, pagerank

# Of 4 x 8 pixels: the whole, its left half, its left quarter, its last column.
MASKS = torch.zeros(4, 4, 8, dtype=torch.bool)
MASKS[0] = True
MASKS[1, :, :4] = True
MASKS[2, :, :2] = True
MASKS[3, :, 7:] = True
WHOLE, HALF, QUARTER, LAST = range(4)


def penalties(*order: int, **changed: Any) -> list[float]:
    settings = {"alpha": 0.3, "steps": 30, "transition": "normalised", **changed}
    penalties_N = diffused_penalties(covered_parts(MASKS[list(order)]), **settings)
    assert penalties_N.dtype == np.float32
    return penalties_N.tolist()


@pytest.mark.parametrize(
    ("rles", "settings", "expected"),
    [
        ((), {}, []),
        ((WHOLE,), {}, [0.0]),
        # The first touches nothing earlier: 0. The second lies in it: 0.7 * 1 + 0.3 * 0.
        ((WHOLE, HALF), {}, [0.0, 0.7]),
        # The third lies in both others; its edges weigh a half each: 0.7 + 0.3 * (0 + 0.7) / 2.
        ((WHOLE, HALF, QUARTER), {}, [0.0, 0.7, 0.805]),
        # Unscaled, both edges weigh 1: 0.7 + 0.3 * (0 + 0.7).
        ((WHOLE, HALF, QUARTER), {"transition": "plain"}, [0.0, 0.7, 0.91]),
        # Half of the second lies in the first: 0.7 * 0.5. Of the third, a quarter lies in the first and a half in the
        # second, so its edges weigh 1/3 and 2/3: 0.7 * 0.5 + 0.3 * 2/3 * 0.35.
        ((QUARTER, HALF, WHOLE), {}, [0.0, 0.35, 0.42]),
        ((HALF, LAST), {}, [0.0, 0.0]),
        ((WHOLE, HALF, QUARTER), {"alpha": 0.0}, [0.0, 1.0, 1.0]),
        # Without restart nothing is left once the walks have ended in the first mask.
        ((WHOLE, HALF, QUARTER), {"alpha": 1.0}, [0.0, 0.0, 0.0]),
    ],
)
def test_penalties_by_hand(rles: tuple[bytes, ...], settings: dict[str, Any], expected: list[float]):
    assert penalties(*rles, **settings) == pytest.approx(expected, abs=1e-7)


def test_unscaled_penalties_stop_at_one():
    several = [WHOLE, HALF, QUARTER, QUARTER, QUARTER, QUARTER]
    found = penalties(*several, transition="plain", alpha=0.6)
    assert max(found) == 1.0
    assert max(penalties(*several, alpha=0.6)) < 1.0


def test_pagerank_step_by_step():
    weights, restart = np.array([[0.0, 0.0], [1.0, 0.0]]), np.array([0.0, 1.0])
    assert pagerank(weights, restart, alpha=0.3, steps=0).tolist() == [0.5, 0.5]
    # One step from 1/2 each: 0, and 0.3 * 0.5 + 0.7.
    np.testing.assert_allclose(pagerank(weights, restart, alpha=0.3, steps=1), [0.0, 0.85])
    np.testing.assert_allclose(pagerank(weights, restart, alpha=0.3, steps=2), [0.0, 0.7])


def test_pagerank_agrees_with_the_solution_of_its_equation():
    weights = np.array([[0.0, 0.6, 0.4], [0.5, 0.0, 0.5], [1.0, 0.0, 0.0]])
    restart = np.array([0.2, 0.5, 0.9])
    expected = np.linalg.solve(np.eye(3) - 0.3 * weights, 0.7 * restart)
    np.testing.assert_allclose(pagerank(weights, restart, alpha=0.3, steps=30), expected, atol=1e-12)
