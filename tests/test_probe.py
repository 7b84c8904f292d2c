"""The ridge probe, on features small enough to solve by hand."""

from collections.abc import Sequence

import numpy as np
import torch
from conftest import cases
from drawn_candidates import rectangles

from ntt.matchers.probe import ProbeMatcher
from ntt.matchers.prototype import PrototypeMatcher
from ntt.matchers.scoring import DetectingMatcher
from ntt.ops.probe import ridge_directions
from ntt.types import Candidates, Category, MemoryBank, Prototypes

CAT, DOG = Category(3, "cat"), Category(8, "dog")


def vectors(*rows: Sequence[float], channels: int = 3) -> torch.Tensor:
    """Rows with zeros up to the number of channels."""
    return torch.tensor([[*row, *[0.0] * (channels - len(row))] for row in rows]).reshape(-1, channels)


def candidates(rows: torch.Tensor) -> Candidates:
    boxes = [(3 * number, 0, 3 * number + 1, 1) for number in range(len(rows))]
    return rectangles(boxes, np.linspace(0.9, 0.5, len(rows)), rows.tolist(), channels=rows.shape[1])


def scores(matcher: DetectingMatcher, memory: MemoryBank, rows: torch.Tensor) -> np.ndarray:
    found = matcher.class_scores(candidates(rows), Prototypes(memory.categories, *matcher.build_prototypes(memory)))
    assert found.dtype == np.float32
    return found


@cases("channels", ids=["primal", "dual"])(2, 4)
def test_one_reference_of_one_class(channels):
    # m = (0, 1), a = (1, -1): v is a multiple of a, and the probe (1, -1) / 2 whatever the ridge.
    memory = MemoryBank((CAT,), (vectors([2], channels=channels),), (vectors([0, 3], channels=channels),))
    rows = vectors([1], [0.8, 0.6], [0.6, 0.8], [0, 1], [-1], channels=channels)
    np.testing.assert_allclose(scores(ProbeMatcher(), memory, rows)[:, 0], [1, 0.6, 0.4, -1, -1], atol=1e-6)
    half = scores(ProbeMatcher(cosine_share=0.5, ridge=7.0), memory, rows)[:, 0]
    np.testing.assert_allclose(half, [1, 0.7, 0.5, -1, -1], atol=1e-6)


# a = (1, 0, -1) and (0, 1, -1), trace(H) = 1. With ridge 3, v_cat = (6 a_cat - a_dog) / 35, and the probe of cats is
# (6, -1, -5) / 11 from (0, 0, 1).
TWO = MemoryBank((CAT, DOG), (vectors([1]), vectors([0, 5])), (vectors([0, 0, 2]), vectors()))


def test_classes_against_pooled_surroundings():
    found = scores(ProbeMatcher(ridge=3.0), TWO, vectors([1], [0, 1], [0, 0.6, 0.8]))
    np.testing.assert_allclose(found, [[1, 4 / 11], [4 / 11, 1], [0.4 / 11, 4.6 / 11]], atol=1e-6)
    rows = vectors([1], [0, 1])
    plain, weighted = (scores(ProbeMatcher(iou_power=power), TWO, rows) for power in (0.0, 0.5))
    np.testing.assert_allclose(weighted, plain * np.sqrt([[0.9], [0.5]]), rtol=1e-6)


def test_surroundings_weigh_as_much_as_the_references():
    # m = (0.3, 0.1), a = (0.7, -0.1), (-0.3, 0.9), (0.3, -0.9) with weights 1/2, 1/4, 1/4; trace(H) = 0.7,
    # H = [[29, -17], [-17, 41]] / 100, v is a multiple of (0.515, 0.055), and a.v = 0.355.
    memory = MemoryBank((CAT,), (vectors([1], channels=2),), (vectors([0, 1], [1.2, -1.6], channels=2),))
    found = scores(ProbeMatcher(), memory, vectors([1], [0.8, 0.6], [0.6, 0.8], [0, 1], channels=2))[:, 0]
    np.testing.assert_allclose(found, [1, 0.285 / 0.355, 0.193 / 0.355, -1], atol=1e-6)


def test_surroundings_that_look_like_the_class():
    # What surrounds the dog looks like a cat: cats keep the probe above, and dogs have one against both.
    memory = MemoryBank(TWO.categories, TWO.features, (TWO.backgrounds[0], vectors([4, 0, 3])))
    rows = vectors([1], [0, 1], [0, 0.6, 0.8])
    guarded, plain = (scores(ProbeMatcher(ridge=3.0, guard=guard), memory, rows) for guard in (True, False))
    np.testing.assert_allclose(guarded[:, 0], [1, 4 / 11, 0.4 / 11], atol=1e-6)
    np.testing.assert_allclose(guarded[:, 1], plain[:, 1], atol=1e-6)
    assert abs(plain[2, 0] - guarded[2, 0]) > 0.01
    memory = MemoryBank((CAT, DOG), (vectors([1], [-1]), vectors([0, 1])), (vectors([0, 0, 1], [0, 0, -1]),))
    assert scores(ProbeMatcher(), memory, vectors([1], [0, 1]))[:, 0].tolist() == [-1, 0]
    half = vectors([0.5**0.5, 0, 0.5**0.5])
    assert scores(ProbeMatcher(), TWO, half)[0, 0] < scores(PrototypeMatcher(), TWO, half)[0, 0]
    memory = MemoryBank(TWO.categories, TWO.features, (vectors(), vectors()))
    np.testing.assert_array_equal(scores(ProbeMatcher(), memory, half), scores(PrototypeMatcher(), memory, half))


def test_primal_and_dual_agree():
    generator = np.random.default_rng(0)
    rows, weights = generator.normal(size=(6, 6)), generator.uniform(size=6)
    targets = generator.normal(size=(6, 2))
    wider = np.concatenate([rows, np.zeros((6, 6))], axis=1)
    primal = ridge_directions(rows, weights, targets, ridge=0.3)
    dual = ridge_directions(wider, weights, targets, ridge=0.6)  # twice the channels, half the mean eigenvalue
    np.testing.assert_allclose(dual[:6], primal, rtol=1e-9)
    # Rows of no weight change nothing.
    more = ridge_directions(*(np.concatenate([part, 0 * part]) for part in (rows, weights, targets)), ridge=0.3)
    np.testing.assert_allclose(more, primal, rtol=1e-9)
