"""The decoder's GPU kernels against the decoder without them: in triton's interpreter, and on a GPU."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from conftest import cases
from sam2_package import random_features
from test_sam2_decoder import Decoding, our_decoding, tame_model

from ntt.models.device import autocast
from ntt.models.segmenters.sam2.decoder import DecodedPrompts, FastDecoder

POINTS = torch.tensor([[0.5, 0.5], [300.0, 700.0], [1023.5, 12.25]])
SCRIPT = """
import sys
sys.path[:0] = [{project!r}, {tests!r}]
import test_sam2_decoder as plain, test_sam2_fused as fused
import torch
torch.set_num_threads(1)
fused.assert_equal(plain.tame_model(), torch.float32, "cpu", 1e-4)
"""


def decoded(decoding: Decoding, decoder: FastDecoder, device: str) -> tuple[DecodedPrompts, torch.Tensor]:
    """Decode the points, and draw the second mask of the first and the last."""
    with torch.no_grad():
        result = decoder.decode(decoding.terms, decoding.prompts.points(POINTS).to(device), first_mask=1)
        index = torch.tensor([0, 2], device=device)
        return result, decoder.upscale(decoding.terms, result.tokens, index, result.hyper_BMD[index, 1:2])


def assert_equal(model: object, dtype: torch.dtype, device: str, tolerance: float, *, tf32: bool = False) -> None:
    from ntt.models.segmenters.sam2.fused import FusedDecoder

    decoding = our_decoding(model, random_features(), dtype, device)
    with autocast("float32", torch.device(device)):
        plain, logits = decoded(decoding, decoding.decoder, device)
        decoder = FusedDecoder(decoding.decoder.weights, dtype=dtype, tf32=tf32)
        for decoder.last_by_product in (True, False):
            fused, fused_logits = decoded(decoding, decoder, device)
            assert fused_logits.shape == logits.shape == (2, 1, 256, 256)
            assert float((fused.predicted_iou_BM - plain.predicted_iou_BM).abs().max()) < tolerance
            assert float((fused_logits - logits).square().mean().sqrt()) < 10 * tolerance


@pytest.mark.skipif(find_spec("triton") is None, reason="needs triton")
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_kernels_in_the_interpreter():
    tests = Path(__file__).parent
    script = SCRIPT.format(project=str(tests.parent), tests=str(tests))
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True)


@pytest.mark.gpu
@pytest.mark.parity
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@cases("dtype", "tf32", "tolerance")(
    (torch.float32, False, 1e-5), (torch.float32, True, 3e-3), (torch.bfloat16, False, 3e-2)
)
def test_kernels_on_a_gpu(dtype, tf32, tolerance):
    assert_equal(tame_model(), dtype, "cuda", tolerance, tf32=tf32)
