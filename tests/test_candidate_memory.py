"""Candidates kept at hand: bounded, and with the same overlaps as computed anew."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ntt.matchers.graph_diffusion import GraphDiffusionMatcher
from ntt.ops.diffusion import Transition
from ntt.ops.masks import encode_masks
from ntt.ops.merging import hard_survivors, soft_penalties
from ntt.ops.overlaps import all_overlaps, overlaps_of
from ntt.store.cache import CandidateMemory, _bytes_of
from ntt.types import Candidates

HEIGHT, WIDTH = 40, 60


def make(count: int, seed: int = 0) -> Candidates:
    """Random rectangles; several share their predicted IoU."""
    generator = np.random.default_rng(seed)
    masks = torch.zeros(count, HEIGHT, WIDTH, dtype=torch.bool)
    for mask in masks:
        top, left = generator.integers(0, HEIGHT - 5), generator.integers(0, WIDTH - 5)
        mask[top : top + generator.integers(3, 30), left : left + generator.integers(3, 30)] = True
    features = generator.normal(size=(count, 6)).astype(np.float32)
    return Candidates(
        height=HEIGHT,
        width=WIDTH,
        rles=encode_masks(masks),
        grid_boxes_xyxy=np.zeros((count, 4), dtype=np.float32),
        predicted_iou=generator.integers(0, 4, size=count).astype(np.float32) / 4,
        features=features / np.linalg.norm(features, axis=1, keepdims=True),
    )


def test_known_overlaps_change_no_bit():
    candidates = make(60)
    generator = np.random.default_rng(1)
    labels = generator.integers(0, 3, size=60)
    order = np.argsort(-candidates.predicted_iou, kind="stable")
    kept = order[np.sort(generator.choice(60, size=45, replace=False))]
    rles = [candidates.rles[index] for index in kept.tolist()]
    size = {"height": HEIGHT, "width": WIDTH}
    known = overlaps_of(all_overlaps(candidates), kept)
    assert len(known.fractions_P) > 100
    for features in (None, candidates.features[kept]):
        expected = soft_penalties(rles, labels[kept], features, **size)
        assert expected.max() > 0.5
        assert np.array_equal(soft_penalties(rles, labels[kept], features, **size, known=known), expected)
    expected = hard_survivors(rles, labels[kept], threshold=0.3, **size)
    assert 0 < expected.sum() < 45
    assert np.array_equal(hard_survivors(rles, labels[kept], threshold=0.3, **size, known=known), expected)


@pytest.mark.parametrize("transition", ["normalised", "plain"])
def test_diffusion_over_known_overlaps_changes_no_bit(transition: Transition):
    candidates = make(40)
    matcher = GraphDiffusionMatcher(transition=transition)
    kept = np.argsort(-candidates.predicted_iou, kind="stable")
    labels, scores = np.arange(40) % 3, np.linspace(0.2, 0.9, 40, dtype=np.float32)
    _, expected = matcher.merge(candidates, kept, labels, scores)
    assert (expected < scores).sum() > 20
    known = replace(candidates, overlaps=all_overlaps(candidates), rles=(b"not looked at",) * 40)
    assert np.array_equal(matcher.merge(known, kept, labels, scores)[1], expected)


def test_overlaps_by_hand():
    masks = torch.zeros(3, HEIGHT, WIDTH, dtype=torch.bool)
    masks[0, :10, :10] = True
    masks[1, 5:10, :20] = True
    masks[2, 30:, 30:] = True
    candidates = make(3)
    ranking = np.array([0.1, 0.9, 0.5], dtype=np.float32)
    candidates = Candidates(
        HEIGHT, WIDTH, encode_masks(masks), candidates.grid_boxes_xyxy, ranking, candidates.features
    )
    found = all_overlaps(candidates)
    # Half of mask 0 lies in mask 1, which is ranked higher; mask 2 meets nothing.
    assert (found.later_P.tolist(), found.earlier_P.tolist(), found.fractions_P.tolist()) == ([0], [1], [0.5])
    assert overlaps_of(found, np.array([2, 0])).later_P.size == 0


def test_nothing_to_overlap():
    assert all_overlaps(make(0)).count == 0
    assert overlaps_of(all_overlaps(make(5)), np.array([], dtype=np.int64)).count == 0


def test_what_is_kept_is_given_back():
    memory, candidates = CandidateMemory(), make(4)
    memory.begin_run()
    assert memory.get("a") is None
    memory.put("a", candidates)
    assert memory.get("a") is candidates


def test_overlaps_come_with_the_run_that_asks_for_them():
    memory = CandidateMemory(overlaps_from_run=3)
    memory.begin_run()
    memory.put("a", make(10))
    memory.begin_run()
    assert memory.get("a").overlaps is None
    assert memory.get("a").overlaps is None, "twice in one run counts once"
    memory.begin_run()
    known = memory.get("a").overlaps
    expected = all_overlaps(make(10))
    assert np.array_equal(known.fractions_P, expected.fractions_P)
    assert memory.get("a").overlaps is known


def test_a_round_through_too_many_images_keeps_some():
    images = {name: make(4, seed) for seed, name in enumerate("abcd")}
    memory = CandidateMemory(limit_bytes=sum(_bytes_of(images[name]) for name in "ab"))
    for _ in range(3):
        memory.begin_run()
        kept = [name for name in "abcd" if memory.get(name) is not None]
        for name in "abcd":
            memory.put(name, images[name])
    assert kept == ["a", "b"]


def test_what_two_runs_did_not_use_makes_room():
    old, new = make(4, 0), make(4, 1)
    memory = CandidateMemory(limit_bytes=max(_bytes_of(old), _bytes_of(new)))
    memory.begin_run()
    memory.put("old", old)
    memory.begin_run()
    memory.put("new", new)
    assert memory.get("new") is None
    memory.begin_run()
    memory.put("new", new)
    assert memory.get("new") is new
    assert memory.get("old") is None


def test_no_room_at_all():
    memory = CandidateMemory(limit_bytes=0)
    memory.begin_run()
    memory.put("a", make(1))
    assert memory.get("a") is None
