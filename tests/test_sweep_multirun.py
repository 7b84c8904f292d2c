"""Hydra's own multirun, in one process and through submitit's local launcher: same store, same directories."""

import pytest
from conftest import PROJECT_DIR, cases, run_python
from tiny_data import SMALL, make_tiny

from ntt.config.compose import compose_config
from ntt.config.identity import run_directory
from ntt.sweeps.plan import plan_file

pytestmark = pytest.mark.slow


@cases("launcher")("basic", "submitit_local")
def test_a_multirun_shares_store_and_directories_with_everything_else(launcher, tmp_path):
    data = make_tiny(tmp_path / "tiny")
    roots = [f"runtime.{name}_root={tmp_path}/{name}" for name in ("output", "store", "cache")]
    settings = ["dataset=coco_json", f"dataset.root={data}", *SMALL, "visualisation.enabled=false", *roots]
    extra = [] if launcher == "basic" else [f"hydra/launcher={launcher}", "hydra.launcher.timeout_min=20"]
    words = [PROJECT_DIR / "main.py", "--multirun", *settings, "seed=0,1", "shots=1shot,2shot", *extra]
    done = run_python(*words, cwd=tmp_path, PYTHONWARNINGS="ignore")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Means over seeds, comparisons, plots: ntt report {tmp_path / 'output'}" in done.stdout
    points = [[*settings, f"seed={seed}", f"shots={shots}shot"] for seed in (0, 1) for shots in (1, 2)]
    folders = {run_directory(compose_config(point)) for point in points}
    assert len(folders) == 4
    assert all((folder / "metrics.json").is_file() for folder in folders)
    assert {path.parent for path in (tmp_path / "output").rglob("metrics.json")} == folders
    assert len(list((tmp_path / "store" / "candidates").rglob("*.safetensors"))) == 4
    sweep = tmp_path / "same.yaml"
    sweep.write_text("axes: {shots: [1shot, 2shot], seed: [0, 1]}")
    _, plan = plan_file(sweep, settings)
    assert all(point.finished for point in plan.points)
    assert [unit.num_missing for unit in plan.units] == [0, 0]
