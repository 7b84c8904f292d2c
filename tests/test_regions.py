"""The region proposer: its parts on images worked by hand, its contract, and real images."""

import numpy as np
import pytest
import torch
from conftest import cases
from PIL import Image
from scipy.ndimage import label
from scipy.stats import spearmanr

from ntt.data.coco import read_coco
from ntt.data.masks import instance_mask
from ntt.errors import ConfigError
from ntt.models.backbones.efficientnet_lite0 import EfficientNetLite0Config
from ntt.models.segmenters.base import Segmenter
from ntt.models.segmenters.regions import Regions, RegionsConfig
from ntt.models.segmenters.regions import leaves as leaves_module
from ntt.models.segmenters.regions.leaves import Leaves, find_leaves
from ntt.models.segmenters.regions.nodes import LINKAGES, Linkage, build_tree, measure_nodes
from ntt.models.segmenters.regions.objectness import COEFFICIENTS, DESCRIPTORS, INTERCEPT, objectness
from ntt.models.segmenters.regions.segmenter import all_nodes, distinct, overlaps, select
from ntt.ops.resize import encoder_input, resize_to_canvas
from ntt.types import Placement


def _regions(**settings) -> Regions:
    return RegionsConfig(name="regions", **settings).build(Placement())


def _features(*, channels: int = 6, side: int = 7, seed: int = 0) -> torch.Tensor:
    return torch.randn(channels, side, side, generator=torch.Generator().manual_seed(seed))


def _square_on_grey(height: int = 64, width: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """A red square on grey, and the mask of the square."""
    canvas = torch.full((3, height, width), 0.5)
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[height // 4 : height // 2, width // 4 : width // 2] = True
    canvas[:, mask] = torch.tensor([0.9, 0.1, 0.1])[:, None]
    return canvas, mask


@pytest.fixture
def quarters(monkeypatch) -> Leaves:
    """Four leaves of 2x2 pixels: black and dark above, grey and white below."""
    canvas = torch.zeros(3, 4, 4)
    canvas[:, :2, 2:], canvas[:, 2:, :2], canvas[:, 2:, 2:] = 0.1, 0.6, 1.0
    labels = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]])
    monkeypatch.setattr(leaves_module, "_watershed", lambda lab, count: labels)
    return find_leaves(canvas, _features(), count=4)


def test_leaves_of_four_quarters(quarters):
    assert quarters.area_L.tolist() == [4.0] * 4
    assert quarters.box_L4.tolist() == [[0, 0, 1, 1], [2, 0, 3, 1], [0, 2, 1, 3], [2, 2, 3, 3]]
    assert quarters.frame_L.tolist() == [4.0] * 4
    assert quarters.edges_E2.tolist() == [[0, 1], [0, 2], [1, 3], [2, 3]]
    assert quarters.length_E.tolist() == [2.0] * 4
    # x is 2 and 3, y is 0 and 1 in the second leaf.
    assert quarters.moments_L5[1].tolist() == [10.0, 2.0, 26.0, 2.0, 5.0]
    # White has lightness 100, black 0; colours are divided by 20.
    assert quarters.colour_L3[[0, 3]] == pytest.approx(np.array([[0.0, 0.0, 0.0], [5.0, 0.0, 0.0]]), abs=1e-3)
    assert quarters.colour_square_L[3] == pytest.approx(25.0, abs=1e-2)


def test_leaves_are_at_most_as_many_as_asked_for_and_keep_distances(monkeypatch):
    canvas = torch.rand(3, 40, 40, generator=torch.Generator().manual_seed(5))
    assert [len(find_leaves(canvas, _features(), count=n).area_L) for n in (2, 50)] == [2, 50]
    monkeypatch.setattr(leaves_module, "_watershed", lambda lab, count: np.array([[0, 1], [2, 3]]))
    features = torch.arange(8.0).view(2, 2, 2) ** 2
    leaves = find_leaves(torch.zeros(3, 2, 2), features, count=4)
    centred = features.view(2, 4).double() - features.view(2, 4).double().mean(dim=1, keepdim=True)
    scaled = (centred / centred.square().sum(dim=0).mean().sqrt()).T
    of_leaves = torch.from_numpy(leaves.feature_LK)
    torch.testing.assert_close(torch.cdist(scaled, scaled), torch.cdist(of_leaves, of_leaves), rtol=0, atol=1e-9)


def test_trees_merge_the_likest_first_and_share_their_leaves(quarters):
    tree, altitudes = build_tree(quarters, Linkage("ward", colour=1.0))
    parents = tree.parents()
    assert parents[0] == parents[1] == 4
    assert parents[2] == parents[3] == 5
    assert (np.diff(altitudes[4:]) >= 0).all()
    nodes = all_nodes(quarters)
    assert nodes.members_NL.shape[0] == 6 + 2 * (len(LINKAGES) - 1)
    assert (nodes.members_NL.sum(axis=1) == 1).sum() == 4
    assert np.isfinite(nodes.descriptors_NF).all()


@cases("linkage")(*LINKAGES)
def test_every_linkage_builds_a_whole_tree(linkage, quarters):
    tree, _ = build_tree(quarters, linkage)
    assert tree.num_vertices() == 7
    nodes = measure_nodes(quarters, tree, np.arange(7.0))
    # The root, which is the whole image, is no candidate.
    assert nodes.members_NL.shape == (6, 4)
    assert nodes.area_N.tolist() == [4.0] * 4 + [float(4 * row.sum()) for row in nodes.members_NL[4:]]


def test_measurements_of_the_upper_half(quarters):
    leaves = quarters
    nodes = measure_nodes(leaves, *build_tree(leaves, Linkage("ward", colour=1.0)))
    assert nodes.members_NL[4].tolist() == [True, True, False, False]
    upper = dict(zip(DESCRIPTORS, nodes.descriptors_NF[4], strict=True))
    first, second, third, fourth = leaves.colour_L3[:, 0]
    expected = {
        "log_area": np.log(0.5),
        "extent": 1.0,
        "log_aspect": np.log(2.0),
        "frame_share": 8 / 12,  # four sides face the lower half, eight the frame
        "compactness": 4 * np.pi * 8 / 144,
        "log_parent_area": np.log(2.0),
        "colour_contrast": (third + fourth - first - second) / 2,
        "colour_step": (third - first + fourth - second) / 2,
        "colour_spread": (second - first) / 2,
    }
    assert {name: upper[name] for name in expected} == pytest.approx(expected, abs=1e-3)


def test_objectness_and_overlaps_by_hand():
    mean, deviation = np.array(list(COEFFICIENTS.values()))[:, :2].T
    assert objectness(mean[None])[0] == pytest.approx(1 / (1 + np.exp(-INTERCEPT)), rel=1e-5)
    at, beyond = mean + np.outer([3, -3], deviation), mean + np.outer([50, -50], deviation)
    assert np.array_equal(objectness(at), objectness(beyond))
    assert not np.array_equal(objectness(at), objectness(mean + np.outer([2, -2], deviation)))
    members = np.array([[True, True, False], [False, True, True], [False, False, True]])
    iou = overlaps(members, np.array([1.0, 2.0, 3.0]))
    assert iou == pytest.approx(np.array([[1, 2 / 6, 0], [2 / 6, 1, 3 / 5], [0, 3 / 5, 1]]))


@cases("max_iou", "limit", "kept")((0.5, 9, [0, 1, 2]), (0.49, 9, [0, 2]), (0.5, 1, [0]))
def test_distinct_keeps_at_the_threshold_and_drops_above(max_iou, limit, kept):
    members = np.array([[True, True, False, False], [True, False, False, False], [False, False, True, True]])
    assert distinct(members, np.ones(4), max_iou=max_iou, limit=limit).tolist() == kept
    assert distinct(members[:0], np.ones(4), max_iou=max_iou, limit=limit).tolist() == []


def test_select_orders_by_score_hands_on_free_budget_and_breaks_ties_by_order():
    # Two leaves of more than 2 % of the image, three below 0.1 %: the large ones leave budget to the small ones.
    area = np.array([500.0, 490.0, 0.5, 0.5, 0.5])
    score = np.array([0.2, 0.9, 0.5, 0.5, 0.1], dtype=np.float32)
    assert select(np.eye(5, dtype=bool), area, score, canvas_px=10000, max_masks=100).tolist() == [1, 2, 3, 0, 4]
    score = np.full(40, 0.5, np.float32)
    selected = select(np.eye(40, dtype=bool), np.ones(40), score, canvas_px=2000, max_masks=10)
    assert selected.tolist() == list(range(10))


def test_contract_and_canvas():
    regions: Segmenter = _regions()
    assert regions.name == "regions"
    # The canvas keeps the aspect ratio.
    sizes = {(480, 640): (384, 512), (8, 8): (512, 512), (5000, 10): (512, 8)}
    assert {size: regions.canvas_hw(*size) for size in sizes} == sizes
    with pytest.raises(ConfigError, match=r"segmenter\.mask_side=200 is larger than segmenter\.canvas_side=100"):
        _regions(canvas_side=100, mask_side=200)


def test_finds_a_square_and_the_whole_of_one_colour():
    canvas, mask = _square_on_grey(128, 128)
    proposals = _regions(canvas_side=128, mask_side=128).propose(canvas, _features())
    inside = proposals.logits_Nhw > 0
    iou = (inside & mask).sum(dim=(1, 2)) / (inside | mask).sum(dim=(1, 2))
    assert float(iou.max()) > 0.9
    assert proposals.logits_Nhw.dtype == torch.int8
    assert set(proposals.logits_Nhw.unique().tolist()) == {-1, 1}
    scores = proposals.predicted_iou_N.tolist()
    assert scores == sorted(scores, reverse=True)
    assert 0 < scores[-1] <= scores[0] < 1
    proposals = _regions(canvas_side=64, mask_side=32).propose(torch.full((3, 48, 64), 0.3), _features())
    assert proposals.logits_Nhw.shape == (1, 24, 32)
    assert bool((proposals.logits_Nhw > 0).all())
    assert proposals.predicted_iou_N.tolist() == [0.5]


def test_proposals_are_connected_distinct_and_the_same_with_any_number_of_threads():
    canvas = torch.rand(3, 40, 56, generator=torch.Generator().manual_seed(1))
    proposals = _regions(canvas_side=64, mask_side=56, leaves=60).propose(canvas, _features())
    masks = (proposals.logits_Nhw > 0).numpy()
    assert masks.shape[1:] == (40, 56)
    assert all(label(mask)[1] == 1 for mask in masks)
    assert len({mask.tobytes() for mask in masks}) == len(masks)
    assert not masks.all(axis=(1, 2)).any()
    canvas = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(3))
    regions = _regions(canvas_side=64, mask_side=64, leaves=200)
    results = []
    for count in (1, 2):
        torch.set_num_threads(count)
        results.append(regions.propose(canvas, _features(channels=48, side=14)))
    assert torch.equal(results[0].logits_Nhw, results[1].logits_Nhw)
    assert torch.equal(results[0].predicted_iou_N, results[1].predicted_iou_N)


@cases("height", "width")((8, 8), (8, 64), (64, 8), (9, 33))
def test_odd_shapes_work(height, width):
    canvas = torch.rand(3, height, width, generator=torch.Generator().manual_seed(2))
    proposals = _regions(canvas_side=64, mask_side=64).propose(canvas, _features(side=1 if height == 8 else 3))
    assert len(proposals.logits_Nhw) == len(proposals.predicted_iou_N) > 0
    assert bool(torch.isfinite(proposals.predicted_iou_N).all())


def test_the_number_of_masks_is_limited():
    canvas = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(4))

    def count(**limits) -> int:
        regions = _regions(canvas_side=64, mask_side=64, leaves=100, **limits)
        proposals = regions.propose(canvas, _features())
        assert proposals.logits_Nhw.shape == (len(proposals.predicted_iou_N), 64, 64)
        return len(proposals.predicted_iou_N)

    assert 0 < count(max_masks=7) <= 7 < count()


def test_proposals_on_a_real_image(shared_dir):
    """Fruits on a table: nearly all are found, and the objectness puts good masks before bad ones."""
    root = shared_dir / "data" / "fruits_nuts_dev"
    dataset = read_coco(root / "annotations" / "targets.json", root / "images")
    record = next(iter(dataset.images.values()))
    regions, backbone = _regions(), EfficientNetLite0Config().build(Placement())
    image = np.asarray(Image.open(record.path).convert("RGB"))
    canvas = resize_to_canvas(image, regions.canvas_hw(record.height, record.width))
    proposals = regions.propose(canvas, backbone.encode(encoder_input(canvas, backbone.input_size))[0])
    masks = (proposals.logits_Nhw > 0).flatten(1).float()
    size = (proposals.logits_Nhw.shape[2], proposals.logits_Nhw.shape[1])
    full_size = [instance_mask(each, record.height, record.width) for each in dataset.instances_of_image(record.id)]
    resized = np.stack([np.asarray(Image.fromarray(mask).resize(size)) for mask in full_size])
    objects = torch.from_numpy(resized).flatten(1).float()
    shared = masks @ objects.T
    iou = shared / (masks.sum(dim=1)[:, None] + objects.sum(dim=1)[None] - shared)
    assert len(masks) <= 1000
    assert float((iou.max(dim=0).values > 0.5).float().mean()) >= 0.9
    assert spearmanr(proposals.predicted_iou_N.numpy(), iou.max(dim=1).values.numpy())[0] > 0.3
