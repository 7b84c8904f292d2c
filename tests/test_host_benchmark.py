"""The benchmarks that need no GPU to show what the host does, and how well precisions agree."""

import json
import sys

import numpy as np
import torch

from benchmarks import host, precision
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
