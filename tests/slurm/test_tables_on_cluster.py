"""The sweep file of a published table through the real sbatch, on a miniature of its data set."""

import os
from pathlib import Path

import pytest
from conftest import PROJECT_DIR
from miniatures import make_miniature
from slurm.cluster import Cluster
from slurm.sweeps import wait_for

from ntt.cli.main import main

WORDS = (
    "backbone=efficientnet_lite0",
    "backbone.input_size=224",
    "segmenter=regions",
    "segmenter.canvas_side=192",
    "segmenter.mask_side=96",
    "segmenter.leaves=200",
    "segmenter.max_masks=50",
    "shots.strict=false",
)


@pytest.mark.slurm
@pytest.mark.timeout(900)
def test_a_table_is_submitted_and_finishes(
    slurm_cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    for key, value in slurm_cluster.env.items():
        monkeypatch.setenv(key, value)
    make_miniature("coco", tmp_path / "data")
    out = tmp_path / "out"
    places = [f"runtime.data_root={tmp_path / 'data'}", f"runtime.store_root={out / 'store'}"]
    file = str(PROJECT_DIR / "sweeps" / "table_merging.yaml")
    words = [*WORDS, *places, f"runtime.output_root={out}"]
    assert main(["sweep", "submit", file, *words, "--output-root", str(out), "--cluster", "local_test"]) == 0
    user = f"--user={os.getuid()}"

    def is_idle() -> bool:
        return not slurm_cluster.run("squeue", "--noheader", user).strip()

    wait_for(is_idle, "the end of all jobs", cluster=slurm_cluster, timeout_s=600)
    capsys.readouterr()
    assert main(["sweep", "status", file, "--output-root", str(out)]) == 0, capsys.readouterr().out
    assert len(list(out.rglob("metrics.json"))) == 3
