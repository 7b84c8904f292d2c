"""Hydra's own multirun, in one process and through submitit's local launcher: same store, same directories."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PROJECT_DIR
from tiny_data import SMALL, make_tiny

from ntt.config.compose import compose_config
from ntt.config.identity import run_directory
from ntt.sweeps.plan import plan_file

pytestmark = pytest.mark.slow


def multirun(*overrides: str, folder: Path) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, str(PROJECT_DIR / "main.py"), "--multirun", *overrides]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=280, check=False)


@pytest.mark.parametrize("launcher", ["basic", "submitit_local"])
def test_a_multirun_shares_store_and_directories_with_everything_else(launcher: str, tmp_path: Path):
    data = make_tiny(tmp_path / "tiny")
    settings = [
        "dataset=coco_json",
        f"dataset.root={data}",
        "segmenter.max_masks=60",
        *SMALL,
        "visualisation.enabled=false",
        f"runtime.output_root={tmp_path / 'out'}",
        f"runtime.store_root={tmp_path / 'store'}",
        f"runtime.cache_root={tmp_path / 'cache'}",
    ]
    extra = [] if launcher == "basic" else [f"hydra/launcher={launcher}", "hydra.launcher.timeout_min=20"]
    done = multirun(*settings, "seed=0,1", "shots=1shot,2shot", *extra, folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Means over seeds, comparisons, plots: ntt report {tmp_path / 'out'}" in done.stdout
    points = [[*settings, f"seed={seed}", f"shots={shots}shot"] for seed in (0, 1) for shots in (1, 2)]
    folders = {run_directory(compose_config(point)) for point in points}
    assert len(folders) == 4
    assert all((folder / "metrics.json").is_file() for folder in folders)
    assert {path.parent for path in (tmp_path / "out").rglob("metrics.json")} == folders
    assert len(list((tmp_path / "store" / "candidates").rglob("*.safetensors"))) == 4
    sweep = tmp_path / "same.yaml"
    sweep.write_text("axes: {shots: [1shot, 2shot], seed: [0, 1]}")
    _, plan = plan_file(sweep, settings)
    assert all(point.finished for point in plan.points)
    assert [unit.num_missing for unit in plan.units] == [0, 0]
