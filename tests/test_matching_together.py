"""Matching without loops over pairs, alone and with others, equals a plain walk; so do files of runs."""

import logging
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import cases
from drawn_candidates import random_candidates, rles_of
from pycocotools import mask as coco_mask
from tiny_data import make_tiny, read, settings

from ntt.config.compose import compose_many
from ntt.config.identity import run_directory
from ntt.config.schema import ExperimentConfig
from ntt.errors import DataError
from ntt.matchers.prototype import PrototypeMatcher
from ntt.matchers.scoring import DetectingMatcher, match_together
from ntt.ops.boxes import pair_iou
from ntt.ops.similarity import cosine_similarity
from ntt.run import runner, together
from ntt.run.shared import Workspace
from ntt.run.together import match_ahead
from ntt.stages.candidates import CandidateSource
from ntt.types import Candidates, Category, Detections, FloatArray, ImageRecord, IntArray, MemoryBank, Prototypes

# `auto` is none of them: it takes another option, which the references choose.
OPTIONS = sorted({path.stem for path in (Path(__file__).parent.parent / "conf" / "matcher").glob("*.yaml")} - {"auto"})
VARIANTS = (
    (),
    ("matcher.nms_iou_threshold=0", "matcher.box_convention=reference"),
    ("matcher.nms_iou_threshold=0.33", "matcher.max_candidates_after_nms=40", "matcher.max_detections=17"),
    ("matcher.min_score=0.3",),
)
# Candidates, classes, channels: nothing, one, few, and products small and large enough for different routines of BLAS.
SIZES = [(0, 3, 16), (1, 1, 16), (2, 3, 16), (150, 5, 384), (400, 20, 96), (300, 2, 1024)]


@pytest.fixture(scope="module")
def matchers() -> list[DetectingMatcher]:
    """Every option with several settings."""
    lines = [[f"matcher={option}", *more] for option in OPTIONS for more in VARIANTS]
    return [config.matcher for config in compose_many(lines)]


def drawn(number: int) -> tuple[Candidates, MemoryBank]:
    """Candidates and a memory with backgrounds."""
    count, classes, channels = SIZES[number]
    generator = np.random.default_rng(number)
    directions = generator.normal(size=(classes, channels))

    def scattered(label: int, shots: int, spread: float) -> torch.Tensor:
        noise = generator.normal(size=(shots, channels)) * spread
        return torch.from_numpy((directions[label] + noise).astype(np.float32))

    memory = MemoryBank(
        tuple(Category(label + 1, str(label)) for label in range(classes)),
        tuple(scattered(label, 5, 0.7) for label in range(classes)),
        tuple(scattered(label, 3, 3.0) for label in range(classes)),
    )
    return random_candidates(number, count, directions_CD=directions), memory


def prototypes(matcher: DetectingMatcher, memory: MemoryBank) -> Prototypes:
    vectors, labels = matcher.build_prototypes(memory)
    return Prototypes(memory.categories, vectors, labels)


def content(result: Detections | DataError) -> tuple[object, ...]:
    if isinstance(result, DataError):
        return (str(result),)
    return (result.labels.tolist(), result.scores.tobytes(), result.boxes_xywh.tobytes(), result.rles)


@cases("number")(*range(len(SIZES)))
def test_points_together_are_equal_to_points_alone(number, matchers):
    candidates, memory = drawn(number)
    points = [(matcher, prototypes(matcher, memory)) for matcher in matchers]
    together = list(match_together(7, candidates, points))
    assert len(together) == len(points)
    for (matcher, vectors), result in zip(points, together, strict=True):
        try:
            alone: Detections | DataError = matcher.match(7, candidates, vectors)
        except DataError as error:
            alone = error
        assert content(result) == content(alone), matcher
    assert any(isinstance(result, DataError) for result in together) == (number == 0), "ntt_reference: none is left"


@cases("merging")("soft_semantic", "soft", "hard", "none")
@cases("number")(*range(1, len(SIZES)))
def test_matching_equals_a_plain_walk(number, merging):
    candidates, memory = drawn(number)
    matcher = PrototypeMatcher(merging=merging, max_detections=30)
    result = matcher.match(7, candidates, prototypes(matcher, memory))
    scores_NC = matcher.class_scores(candidates, prototypes(matcher, memory))
    order, scores = walked(matcher, candidates, scores_NC)
    rles = rles_of(candidates)
    assert result.rles == tuple(rles[index] for index in order)
    assert result.labels.tolist() == scores_NC.argmax(axis=1)[order].tolist()
    assert np.array_equal(result.scores, scores)


def walked(matcher: PrototypeMatcher, candidates: Candidates, scores_NC: FloatArray) -> tuple[list[int], FloatArray]:
    """method.md §5 and §6, candidate by candidate: the detections' indices and scores."""
    labels, scores, boxes = scores_NC.argmax(axis=1), scores_NC.max(axis=1), candidates.grid_boxes_xyxy
    left: list[int] = []
    for index in np.argsort(-candidates.predicted_iou, kind="stable").tolist():
        rivals = [rival for rival in left if labels[rival] == labels[index]]
        if not (pair_iou(boxes[rivals], np.repeat(boxes[[index]], len(rivals), axis=0)) > 0.5).any():
            left.append(index)
    left = [index for index in left if scores[index] > 0]
    merged = dict(zip(left, scores[left], strict=True))
    for label in set(labels[left].tolist()):
        members = np.array([index for index in left if labels[index] == label])
        merged |= merged_scores(matcher.merging, candidates, members, merged)
    order = [index for index in sorted(left, key=lambda index: -merged[index]) if merged[index] > 0]
    order = order[: matcher.max_detections]
    return order, np.array([merged[index] for index in order], dtype=np.float32)


def merged_scores(
    merging: str, candidates: Candidates, members: IntArray, scores: dict[int, np.float32]
) -> dict[int, np.float32]:
    cosine = cosine_similarity(candidates.features[members], candidates.features[members])
    size = [candidates.height, candidates.width]
    texts = rles_of(candidates)
    rles = [{"size": size, "counts": texts[index]} for index in members.tolist()]
    merged: dict[int, np.float32] = {}
    for row, index in enumerate(members.tolist()):
        earlier = [column for column in range(row) if merging != "hard" or merged[members[column]] > 0]
        covered = [float(coco_mask.iou([rles[row]], [rles[column]], [1])[0, 0]) for column in earlier]
        if merging == "soft_semantic":
            covered = [share * cosine[row, column] for share, column in zip(covered, earlier, strict=True)]
        most = max(covered, default=0.0)
        if merging == "hard":
            merged[index] = np.float32(0) if most > 0.5 else scores[index]
        else:
            penalty = np.float32(0 if merging == "none" else most)
            merged[index] = scores[index] * np.sqrt(np.float32(1) - penalty)
    return merged


POINTS = [
    ("seed=0", "shots=1shot"),
    ("seed=1", "shots=2shot"),
    ("seed=0", "shots=1shot", "matcher=graph_diffusion"),
    ("seed=0", "shots=1shot", "matcher=nearest", "matcher.min_score=0.99", "matcher.on_empty=raise"),
    ("seed=0", "shots=2shot", "matcher=ntt_hard", "evaluation.semantic=correct"),
]
FILES = ("predictions.json", "metrics.json", "candidates.json", "store_keys.json", "prototypes.safetensors")


@pytest.fixture
def configs(tmp_path: Path) -> dict[str, list[ExperimentConfig]]:
    """The same points in two folders, with one store."""
    root = make_tiny(tmp_path / "tiny")
    return {
        name: compose_many([settings(root, tmp_path / name, tmp_path / "store", *point) for point in POINTS])
        for name in ("alone", "together")
    }


@pytest.fixture
def reads(monkeypatch) -> list[str]:
    """Note each image whose candidates are read, which takes 0.02 s at least."""
    names: list[str] = []
    get = CandidateSource.get

    def noted(source: CandidateSource, record: ImageRecord) -> Candidates:
        names.append(record.file_name)
        time.sleep(0.02)
        return get(source, record)

    monkeypatch.setattr(CandidateSource, "get", noted)
    return names


def run_all(configs: list[ExperimentConfig], workspace: Workspace) -> list[str]:
    """Run points one after the other; return the errors."""
    errors = []
    for config in configs:
        try:
            runner.run(config, workspace=workspace)
        except DataError as error:
            errors.append(str(error))
    return errors


def test_points_together_write_what_points_alone_write(configs, reads):
    errors = run_all(configs["alone"], Workspace())
    assert len(errors) == 1
    assert "candidates scores above 0.99" in errors[0]
    reads.clear()
    shared = Workspace()
    assert match_ahead(configs["together"], shared) == len(POINTS)
    assert len(reads) == len(set(reads)) == 4
    assert run_all(configs["together"], shared) == errors
    assert len(reads) == 4, "the runs read no candidates of their own"
    for alone, other in zip(configs["alone"], configs["together"], strict=True):
        for name in FILES:
            paths = [run_directory(config) / name for config in (alone, other)]
            assert paths[0].exists() == paths[1].exists()
            assert not paths[0].exists() or paths[0].read_bytes() == paths[1].read_bytes(), paths[0]
    reads.clear()
    assert match_ahead(configs["together"], shared) == len(POINTS)
    assert reads == [], "one point is left, and matches itself"


def test_a_multirun_matches_its_points_together_after_the_first(configs, reads, monkeypatch, tmp_path):
    words = settings(tmp_path / "tiny", tmp_path / "multirun", tmp_path / "store")[3:]
    axes = ["seed=0,1", "shots=1shot,2shot", "matcher=ntt,nearest"]
    monkeypatch.setattr("sys.argv", ["main.py", "-m", "dataset=coco_json", *words, *axes])
    monkeypatch.setattr(together, "MAX_IMAGES", 16)  # four points of four images
    runner.main()
    # An image without objects, so that only matching reads its candidates.
    assert reads.count("targets_2.png") == 3, "for the first point, for the next four, for the last three"
    records = [read(path) for path in (tmp_path / "multirun").rglob("stages/matching.json")]
    assert (len(records), min(record["seconds"] for record in records) >= 0.02) == (8, True), "each has its share"
    for config in configs["alone"][:2]:
        runner.run(config)
        name = f"{run_directory(config).relative_to(tmp_path / 'alone')}/predictions.json"
        assert (tmp_path / "multirun" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()


def test_a_point_that_cannot_be_prepared_fails_by_itself(configs, tmp_path, monkeypatch):
    shared, points = Workspace(), configs["together"][:3]
    monkeypatch.setattr(together, "MAX_IMAGES", 8)
    assert match_ahead(points, shared) == 2, "the third does not fit"
    (tmp_path / "tiny" / "images" / "targets_1.png").write_bytes(b"no image any more")
    assert match_ahead(points, shared) == 2
    with pytest.raises(DataError, match=r"targets_1\.png is not an image"):
        runner.run(points[0], workspace=shared)


def test_nothing_is_written_ahead(configs, caplog):
    with caplog.at_level(logging.INFO, logger="ntt"):
        match_ahead(configs["together"][:2], Workspace())
    assert not run_directory(configs["together"][0]).exists()
    assert not [message for message in caplog.messages if " in 0." in message]
