"""The matchers beside the published one, on features and masks small enough to follow by hand."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from conftest import cases
from drawn_candidates import rectangles

from ntt.base.settings import setting_problems
from ntt.config.compose import compose_config
from ntt.matchers.counterexamples import BackgroundMatcher, NegativeMatcher
from ntt.matchers.graph_diffusion import GraphDiffusionMatcher
from ntt.matchers.probe import ProbeMatcher
from ntt.matchers.prototype import PrototypeMatcher
from ntt.matchers.scoring import DetectingMatcher
from ntt.matchers.several_prototypes import KMeansMatcher, NearestMatcher
from ntt.types import Candidates, Category, Detections, MemoryBank, Prototypes

MATCHERS = [BackgroundMatcher, GraphDiffusionMatcher, KMeansMatcher, NearestMatcher, NegativeMatcher, ProbeMatcher]
CATEGORIES = (Category(3, "cat"), Category(8, "dog"))
# Directions in a space of four channels: cats are (0.8, 0.6, 0, 0) or the first axis, dogs the third axis. Around
# the cats there is (0, 0.8, 0, 0.6); the one dog fills its crop.
FEATURES = (torch.tensor([[2.0, 0, 0, 0], [1.6, 1.2, 0, 0]]), torch.tensor([[0, 0, 5.0, 0]]))
BACKGROUNDS = (torch.tensor([[0, 8.0, 0, 6.0]]), torch.zeros(0, 4))
MEMORY = MemoryBank(CATEGORIES, FEATURES, BACKGROUNDS)
CAT_MEAN = np.array([3.6, 1.2, 0, 0]) / np.hypot(3.6, 1.2)


def prototypes(matcher: DetectingMatcher, memory: MemoryBank = MEMORY) -> Prototypes:
    vectors, labels = matcher.build_prototypes(memory)
    assert vectors.dtype == torch.float32
    assert labels.dtype == torch.int64
    is_unit = torch.full_like(labels, matcher.SCHEMA != "probe", dtype=torch.bool) | (labels >= -1)
    torch.testing.assert_close(vectors[is_unit].norm(dim=1), torch.ones(int(is_unit.sum())))
    return Prototypes(memory.categories, vectors, labels)


def candidates(features: Sequence[Sequence[float]], boxes: Sequence[tuple[int, int, int, int]] = ()) -> Candidates:
    """Rectangles, best predicted IoU first; without boxes, masks that lie apart."""
    boxes = boxes or [(3 * index, 0, 3 * index + 1, 1) for index in range(len(features))]
    return rectangles(boxes, np.linspace(0.9, 0.5, len(features)), features, channels=4)


def scores(matcher: DetectingMatcher, features: Sequence[Sequence[float]], memory: MemoryBank = MEMORY) -> np.ndarray:
    result = matcher.class_scores(candidates(features), prototypes(matcher, memory))
    assert result.dtype == np.float32
    assert result.shape == (len(features), len(memory.categories))
    return result


def match(matcher: DetectingMatcher, image_candidates: Candidates, memory: MemoryBank = MEMORY) -> Detections:
    return matcher.match(7, image_candidates, prototypes(matcher, memory))


AXES = [[1.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 1.0, 0]]


def test_nearest_averages_the_best_instances():
    # Cosines with the two cats: 1 and 0.8, then 0 and 0.6; there is one dog, however many are asked for.
    np.testing.assert_allclose(scores(NearestMatcher(neighbours=1), AXES), [[1, 0], [0.6, 0], [0, 1]], atol=1e-7)
    np.testing.assert_allclose(scores(NearestMatcher(neighbours=2), AXES), [[0.9, 0], [0.3, 0], [0, 1]], atol=1e-7)
    five, two = (scores(NearestMatcher(neighbours=number), AXES) for number in (5, 2))
    np.testing.assert_array_equal(five, two)


FOUR_CATS = MemoryBank(
    CATEGORIES, (torch.tensor([[1.0, 0, 0, 0], [0, 2.0, 0, 0], [4.0, 3.0, 0, 0], [0, 0.6, 0, 0.8]]), FEATURES[1])
)


def test_kmeans_groups_instances_class_by_class_and_averages_them():
    built = prototypes(KMeansMatcher(prototypes_per_class=2), FOUR_CATS)
    assert built.labels_P.tolist() == [0, 0, 1]
    # The first and third cat, cosine 0.8, and the second and fourth, cosine 0.6.
    expected = np.array([[5.0, 3.0, 0, 0], [0, 2.6, 0, 0.8]])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(built.vectors_PD[:2], expected, rtol=1e-6)
    actual = scores(KMeansMatcher(prototypes_per_class=2), AXES, FOUR_CATS)
    np.testing.assert_allclose(actual[1], [2.6 / np.hypot(2.6, 0.8), 0], rtol=1e-6)
    built = prototypes(KMeansMatcher(prototypes_per_class=3))
    assert built.labels_P.tolist() == [0, 0, 1]
    np.testing.assert_allclose(built.vectors_PD, [[1, 0, 0, 0], [0.8, 0.6, 0, 0], [0, 0, 1, 0]], rtol=1e-6)
    matchers = (KMeansMatcher(prototypes_per_class=1), PrototypeMatcher())
    single, published = (prototypes(matcher, FOUR_CATS) for matcher in matchers)
    assert torch.equal(single.vectors_PD, published.vectors_PD)
    assert torch.equal(single.labels_P, published.labels_P)
    many = torch.from_numpy(np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32))
    alone = prototypes(KMeansMatcher(), MemoryBank(CATEGORIES[1:], (many,)))
    among = prototypes(KMeansMatcher(), MemoryBank(CATEGORIES, (many[:10], many)))
    assert torch.equal(alone.vectors_PD, among.vectors_PD[among.labels_P == 1])


def test_a_background_prototype_competes_with_the_classes():
    matcher = BackgroundMatcher()
    built = prototypes(matcher)
    assert built.labels_P.tolist() == [0, 1, -1]
    np.testing.assert_allclose(built.vectors_PD[2], [0, 0.8, 0, 0.6], rtol=1e-6)
    # The second axis: cosine 0.32 with the cats' mean, 0.8 with the background; both ties stay.
    actual = scores(matcher, [*AXES, [0, 0, 0.6, -0.8], [0, 0, 0.6, 1.0]])
    np.testing.assert_allclose(actual[0], [CAT_MEAN[0], 0], rtol=1e-6)
    assert actual[1].tolist() == [-1, -1]
    np.testing.assert_allclose(actual[2:], [[0, 1], [0, 0.6], [0, 0.6]], rtol=1e-6)


def test_a_dropped_candidate_suppresses_none():
    # Twice the same box; the better ranked one is background.
    twice = candidates([AXES[1], AXES[0]], [(0, 0, 9, 9)] * 2)
    assert match(BackgroundMatcher(), twice).scores.tolist() == pytest.approx([CAT_MEAN[0]])
    assert match(PrototypeMatcher(), twice).scores.tolist() == pytest.approx([CAT_MEAN[1]])
    result = match(BackgroundMatcher(), candidates([AXES[1]]))
    assert (result.labels.shape, result.scores.shape, result.boxes_xywh.shape, result.rles) == ((0,), (0,), (0, 4), ())


@cases("backgrounds")((), (torch.zeros(0, 4), torch.zeros(0, 4)))
@cases("matcher", "warning")(
    (BackgroundMatcher(), "there is no background prototype."),
    (NegativeMatcher(), "there are no negatives from the surroundings."),
    (ProbeMatcher(), "candidates are scored by the published cosine."),
)
def test_references_without_background_give_the_published_scores(matcher, warning, backgrounds, caplog):
    memory = MemoryBank(CATEGORIES, FEATURES, backgrounds)
    with caplog.at_level(logging.WARNING, logger="ntt"):
        actual = scores(matcher, AXES, memory)
    assert caplog.messages == [f"No reference shows any background: {warning}"]
    np.testing.assert_array_equal(actual, scores(PrototypeMatcher(), AXES, memory))


def test_negatives_of_a_class_are_its_own_surroundings_and_the_other_classes():
    built = prototypes(NegativeMatcher())
    # Two means; the cats' surroundings; two cats, negatives of dogs, and a dog, negative of cats.
    assert built.labels_P.tolist() == [0, 1, -2, -4, -4, -5]
    # Between cat and dog: 0.8 with the mean of the dogs, 0.6 with the nearest cat, so only cats are damped.
    between = [0.6, 0, 0.8, 0]
    cat = 0.6 * CAT_MEAN[0]
    damped = cat * np.exp(-(0.8 - cat) / 0.8)
    np.testing.assert_allclose(scores(NegativeMatcher(), [between]), [[damped, 0.8]], rtol=1e-5)
    # Cosines of the cats' surroundings: 0.8 * 0.6 + 0.6 * 0.8 = 0.96, and 0.19 of their mean.
    cat = 0.6 * CAT_MEAN[1]
    actual = scores(NegativeMatcher(), [[0, 0.6, 0, 0.8]])
    np.testing.assert_allclose(actual, [[cat * np.exp(-(0.96 - cat) / 0.8), 0]], rtol=1e-5)


# A large mask, a smaller one of the same class inside it (box IoU 90 / 209), and one inside both.
NESTED = candidates([[1.0, 0, 0, 0], [0.8, 0, 0, 0.6], [0.6, 0, 0, 0.8]], [(0, 0, 19, 11), (0, 0, 9, 10), (0, 0, 4, 5)])


def test_graph_diffusion_weakens_fragments():
    # Penalties 0, 0.7 and 0.7 + 0.3 * 0.7 / 2 (see test_ops_diffusion.py).
    expected = CAT_MEAN[0] * np.array([1.0, 0.8 * 0.3**0.5, 0.6 * 0.195**0.5])
    np.testing.assert_allclose(match(GraphDiffusionMatcher(), NESTED).scores, expected, rtol=1e-5)
    plain = CAT_MEAN[0] * np.array([1.0, 0.8 * 0.3**2, 0.6 * 0.09**2])
    detections = match(GraphDiffusionMatcher(transition="plain", decay_power=2.0), NESTED)
    np.testing.assert_allclose(detections.scores, plain, rtol=1e-4)


@cases("matcher")(*MATCHERS)
def test_an_image_without_candidates_or_without_anything_similar(matcher):
    assert match(matcher(), candidates([])).rles == ()
    if matcher is not ProbeMatcher:  # to which whatever is unlike the surroundings has some similarity
        assert match(matcher(), candidates([[0, 0, 0, 1.0]])).rles == ()


@cases("matcher", "wrong", "allowed")(
    (NearestMatcher, {"neighbours": 0}, "1 or more"),
    (NegativeMatcher, {"sigma": float("nan")}, "more than 0"),
    (GraphDiffusionMatcher, {"decay_power": float("inf")}, "more than 0"),
    (PrototypeMatcher, {"min_score": 1.0}, "0 to less than 1"),
    (PrototypeMatcher, {"merging": "gentle"}, "one of soft_semantic, soft, hard, none"),
)
def test_settings_have_a_range(matcher, wrong, allowed):
    ((key, value),) = wrong.items()
    problem = f"matcher.{key}={value} is invalid. Allowed: {allowed}."
    assert setting_problems(matcher(**wrong), "matcher") == [problem]
    assert setting_problems(PrototypeMatcher(nms_iou_threshold=0.0, min_score=0.0), "matcher") == []


BEST_100: dict[str, Any] = {"nms_iou_threshold": 1.0, "max_candidates_after_nms": 100}


@cases("option", "expected")(
    ("ntt_reference", PrototypeMatcher(name="ntt_reference", box_convention="reference", on_empty="raise")),
    ("ntt_hard", PrototypeMatcher(name="ntt_hard", merging="hard")),
    ("ntt_soft", PrototypeMatcher(name="ntt_soft", merging="soft")),
    ("ntt_none", PrototypeMatcher(name="ntt_none", merging="none")),
    ("ntt_best100", PrototypeMatcher(name="ntt_best100", **BEST_100)),
    ("nearest", NearestMatcher(name="nearest")),
    ("kmeans", KMeansMatcher(name="kmeans")),
    ("background", BackgroundMatcher(name="background")),
    ("negative", NegativeMatcher(name="negative")),
    ("ntt_full_both", PrototypeMatcher(name="ntt_full_both", reference_vectors="both", **BEST_100)),
    ("probe", ProbeMatcher(name="probe", surroundings="clear")),
    ("graph_diffusion", GraphDiffusionMatcher(name="graph_diffusion")),
    (
        "graph_diffusion_published",
        GraphDiffusionMatcher(name="graph_diffusion_published", transition="plain", **BEST_100),
    ),
)
def test_options_are_their_matcher(option, expected):
    assert compose_config([f"matcher={option}"]).matcher == expected
