"""The benchmark for GPUs, as far as it can be tried without one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from benchmarks import gpu
from benchmarks.whole_image import PARTS, fill_sam2
from ntt.models.segmenters.sam2.model import load_image_encoder, read_state


def figures(seconds: float, peak: int | None) -> gpu.Figures:
    """Two images, the second twice as slow; the decoder takes half of the time."""
    others = {part: seconds / 10 for part in PARTS if part != "SAM2 decoder"}
    one = {**others, "SAM2 decoder": seconds / 2}
    return gpu.Figures([one, {part: 2 * value for part, value in one.items()}], peak, peak, 500 * seconds, 0.25)


def test_without_cuda_it_refuses(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu", "image.jpg"])
    with pytest.raises(SystemExit) as caught:
        gpu.main()
    assert caught.value.code == 2
    assert "--device cuda: there is no CUDA device here" in capsys.readouterr().err


def test_a_precision_the_device_lacks_is_refused(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["gpu", "image.jpg", "--device", "cpu", "--precisions", "float16"])
    with pytest.raises(SystemExit, match="float16 is not available on the CPU.*--precisions"):
        gpu.main()


def test_table_by_hand():
    # 10 parts of 0.1 s, of which the decoder has 5, and twice that: the median is 1.5 s, 0.667 images a second.
    lines = gpu.table({"package tf32": figures(4.0, 6 * gpu.GIB), "ntt tf32": figures(1.0, 2 * gpu.GIB)}).splitlines()
    rows = {line[:26].strip(): line[26:].split() for line in lines}
    assert rows["SAM2 decoder"] == ["3000.0", "750.0"]
    assert rows["total"] == ["6000.0", "1500.0"]
    assert rows["images a second"] == ["0.50", "2.00"]
    assert rows["device idle, %"] == ["25.0", "25.0"]
    assert rows["peak memory, GiB"] == ["6.00", "2.00"]
    assert lines[-1] == "package / ntt tf32: decoder 4.00, total 4.00"


def test_memory_that_is_not_known_is_not_zero():
    lines = gpu.table({"package float32": figures(1.0, None), "ntt float32": figures(1.0, None)}).splitlines()
    assert next(line for line in lines if line.startswith("peak memory")).split()[-2:] == ["-", "-"]
    assert lines[-1] == "package / ntt float32: decoder 1.00, total 1.00"


def test_idle_share_by_hand():
    # From 2 on to 8: idle from 4 to 5, and from 7 to 7.5.
    assert gpu.idle_share([(0, 1), (1, 4), (3, 4), (5, 7), (5.5, 6), (7.5, 8)]) == pytest.approx(1.5 / 6)
    assert gpu.idle_share([]) is None


def test_filled_weights_are_of_the_model_asked_for(tmp_path: Path):
    fill_sam2("sam2.1_hiera_tiny", str(tmp_path / "filled.pt"))
    load_image_encoder(read_state(tmp_path / "filled.pt", "sam2.1_hiera_tiny"), "sam2.1_hiera_tiny")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_it_runs(device: str, tmp_path: Path):
    Image.new("RGB", (64, 48), (90, 120, 30)).save(tmp_path / "image.png")
    command = [sys.executable, "-m", "benchmarks.gpu", str(tmp_path / "image.png"), "--device", device, "--rounds", "1"]
    command += ["--points-per-side", "2", "--sam2-model", "sam2_hiera_tiny", "--dinov2-model", "dinov2_vits14"]
    command += ["--images", "2", "--batches", "2", "--json", str(tmp_path / "figures.json")]
    done = subprocess.run(command, cwd=Path(__file__).parent.parent, capture_output=True, text=True, check=True)
    assert "package / ntt float32: decoder" in done.stdout
    assert json.loads(done.stdout.splitlines()[-1])["ntt float32"] > 0
    assert set(json.loads((tmp_path / "figures.json").read_text())) == {"ntt float32", "package float32"}
