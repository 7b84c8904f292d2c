"""Runs that are matched together: the same files as of runs alone, and failures of their own."""

import logging
from pathlib import Path

import pytest
from tiny_data import make_tiny, settings

from ntt.config.compose import compose_many
from ntt.config.identity import run_directory
from ntt.config.schema import ExperimentConfig
from ntt.errors import DataError
from ntt.run import runner, together
from ntt.run.shared import Workspace
from ntt.run.together import match_ahead
from ntt.stages.candidates import CandidateSource
from ntt.types import Candidates, ImageRecord

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
    """Note each image whose candidates are read."""
    names: list[str] = []
    get = CandidateSource.get

    def noted(source: CandidateSource, record: ImageRecord) -> Candidates:
        names.append(record.file_name)
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
