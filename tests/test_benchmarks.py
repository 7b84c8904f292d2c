"""The benchmarks, as far as they can be tried without a GPU."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import gpu, host, precision
from benchmarks.whole_image import PARTS, fill_sam2
from ntt.datasets.demo import DEMO_FOLDER
from ntt.models.segmenters.sam2.model import load_image_encoder, read_state
from ntt.ops.mask_changes import mask_changes
from ntt.ops.run_lengths import to_run_lengths
from ntt.types import Candidates, Metrics


def test_host_benchmark_runs(monkeypatch, capsys):
    options = "--device-ms 4 --images 6 --masks 10 --channels 8 --size 64 48"
    monkeypatch.setattr(sys, "argv", ["host", *options.split()])
    host.main()
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(figures) == {"images_per_second", "host_ms_per_image", "device_idle"}
    assert figures["images_per_second"] > 0
    assert 0 <= figures["device_idle"] < 1


def candidates(*widths: int) -> Candidates:
    """Stripes of one pixel's height that begin at the left."""
    masks = torch.arange(8) < torch.tensor(widths)[:, None]
    nothing = np.zeros((len(widths), 4), dtype=np.float32)
    return Candidates(1, 8, to_run_lengths(mask_changes(masks[:, None])), nothing, nothing[:, 0], nothing)


def test_agreement_by_hand():
    metrics, exact = (Metrics({"bbox": {"AP": ap}, "semantic": {"mIoU": 1.0}}, {}, 2, 9) for ap in (30.5, 31.0))
    agreement = precision.compare(
        [candidates(4, 8), candidates(2)], [candidates(8, 2), candidates(1, 4)], metrics, exact
    )
    assert agreement.same_count == 0.5
    assert agreement.mask_iou.tolist() == [0.5, 1.0, 0.5]
    assert agreement.ap_difference == {"bbox": -0.5}
    assert precision.best_overlaps(candidates(3), candidates()).tolist() == [0.0]


def figures(seconds: float, peak: int | None) -> gpu.Figures:
    """Two images, the second twice as slow; the decoder takes half of the time."""
    others = {part: seconds / 10 for part in PARTS if part != "SAM2 decoder"}
    first = {**others, "SAM2 decoder": seconds / 2}
    return gpu.Figures([first, {part: 2 * value for part, value in first.items()}], peak, peak, 500 * seconds, 0.25)


def test_a_device_and_a_precision_that_are_not_there_are_refused(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu", "image.jpg"])
    with pytest.raises(SystemExit) as caught:
        gpu.main()
    assert caught.value.code == 2
    assert "--device cuda: there is no CUDA device here" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["gpu", "image.jpg", "--device", "cpu", "--precisions", "float16"])
    with pytest.raises(SystemExit, match="float16 is not available on the CPU.*--precisions"):
        gpu.main()
    monkeypatch.setattr(sys, "argv", ["precision", str(DEMO_FOLDER), "--precisions", "bfloat16"])
    with pytest.raises(SystemExit, match="bfloat16 is not supported by backbone=efficientnet_lite0.*--precisions"):
        precision.main()


def test_table_and_idle_share_by_hand():
    # 10 parts of 0.1 s, of which the decoder has 5, and twice that: the median is 1.5 s, 0.667 images a second.
    lines = gpu.table({"package tf32": figures(4.0, 6 * gpu.GIB), "ntt tf32": figures(1.0, 2 * gpu.GIB)}).splitlines()
    rows = {line[:26].strip(): line[26:].split() for line in lines}
    assert rows["SAM2 decoder"] == ["3000.0", "750.0"]
    assert rows["total"] == ["6000.0", "1500.0"]
    assert rows["images a second"] == ["0.50", "2.00"]
    assert rows["device idle, %"] == ["25.0", "25.0"]
    assert rows["peak memory, GiB"] == ["6.00", "2.00"]
    assert lines[-1] == "package / ntt tf32: decoder 4.00, total 4.00"
    lines = gpu.table({"package float32": figures(1.0, None), "ntt float32": figures(1.0, None)}).splitlines()
    assert next(line for line in lines if line.startswith("peak memory")).split()[-2:] == ["-", "-"]
    assert lines[-1] == "package / ntt float32: decoder 1.00, total 1.00"
    # From 2 on to 8: idle from 4 to 5, and from 7 to 7.5.
    assert gpu.idle_share([(0, 1), (1, 4), (3, 4), (5, 7), (5.5, 6), (7.5, 8)]) == pytest.approx(1.5 / 6)
    assert gpu.idle_share([]) is None


def test_filled_weights_are_of_the_model_asked_for(tmp_path):
    fill_sam2("sam2.1_hiera_tiny", str(tmp_path / "filled.pt"))
    load_image_encoder(read_state(tmp_path / "filled.pt", "sam2.1_hiera_tiny"), "sam2.1_hiera_tiny")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_it_runs(device, tmp_path):
    Image.new("RGB", (64, 48), (90, 120, 30)).save(tmp_path / "image.png")
    command = [sys.executable, "-m", "benchmarks.gpu", str(tmp_path / "image.png"), "--device", device, "--rounds", "1"]
    command += ["--points-per-side", "2", "--sam2-model", "sam2_hiera_tiny", "--dinov2-model", "dinov2_vits14"]
    command += ["--images", "2", "--batches", "2", "--json", str(tmp_path / "figures.json")]
    done = subprocess.run(command, cwd=Path(__file__).parent.parent, capture_output=True, text=True, check=True)
    assert "package / ntt float32: decoder" in done.stdout
    assert json.loads(done.stdout.splitlines()[-1])["ntt float32"] > 0
    assert set(json.loads((tmp_path / "figures.json").read_text())) == {"ntt float32", "package float32"}
