"""Prompts, batches, the fast decoder and its GPU kernels: as the package in exact arithmetic, as good in float32."""

import logging
import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import cases
from filled_weights import fill_state_dict
from sam2_package import CONFIGS, Features, package_decode, package_model, random_features

from ntt.errors import ConfigError
from ntt.models.batching import BatchRunner, is_out_of_memory
from ntt.models.device import autocast
from ntt.models.segmenters.sam2.decoder import DecodedPrompts, FastDecoder
from ntt.models.segmenters.sam2.folding import fold
from ntt.models.segmenters.sam2.image_terms import ImageTerms, compute_image_terms
from ntt.models.segmenters.sam2.model import decoder_state
from ntt.models.segmenters.sam2.prompts import PromptEncoder, point_grid
from ntt.models.segmenters.sam2.upscaling import upscale

POINTS = torch.tensor([[0.5, 0.5], [300.0, 700.0], [1023.5, 12.25]])


@dataclass(frozen=True)
class Decoding:
    """Our decoder with one image's terms."""

    decoder: FastDecoder
    terms: ImageTerms
    prompts: PromptEncoder

    def all_masks(self, decoded: DecodedPrompts) -> torch.Tensor:
        """Upscale every mask that was decoded."""
        return upscale(self.decoder.weights.rows, self.terms, decoded.tokens, decoded.hyper_BMD)


def our_decoding(model: Any, features: Features, dtype: torch.dtype, device: str = "cpu") -> Decoding:
    state = decoder_state(model.state_dict())
    prompts = PromptEncoder.from_state(state)
    weights = fold(state, prompts.grid_positions()).to(device, dtype)
    accurate = torch.promote_types(dtype, torch.float32)
    embedding = (features.embedding[0].to(accurate) + prompts.no_mask_C[:, None, None].to(accurate)).to(device)
    fine0, fine1 = (fine[0].to(device, accurate) for fine in features.fine)
    with autocast("float32", torch.device(device)):
        terms = compute_image_terms(weights.image, embedding, (fine0, fine1), dtype=dtype)
    return Decoding(FastDecoder(weights, dtype=dtype), terms, prompts)


def filled_model(name: str) -> Any:
    model = package_model(name)
    for part in (model.sam_prompt_encoder, model.sam_mask_decoder):
        fill_state_dict(part)
    return model


@pytest.fixture(scope="module")
def tiny() -> Any:
    return filled_model("sam2_hiera_tiny")


# All eight have the same decoder; one that is filled by name has the same weights, too.
@pytest.mark.parity
@cases("name")(
    *[name if name == "sam2.1_hiera_tiny" else pytest.param(name, marks=pytest.mark.slow) for name in CONFIGS]
)
def test_equals_the_package(name, device):
    """In float64, where rounding cannot hide a mistake, on the package's own embedding of two prompts."""
    model, features, points = filled_model(name), random_features(), POINTS[:2]
    ours = our_decoding(model, features, torch.float64, device)
    labels = torch.ones(len(points), 1, dtype=torch.int)
    logits, iou = package_decode(model, features, points[:, None], labels, multimask=True, dtype=torch.float64)
    with torch.no_grad():
        tokens, _ = model.sam_prompt_encoder(points=(points[:, None], labels), boxes=None, masks=None)
        decoded = ours.decoder.decode(ours.terms, tokens.to(device), first_mask=1)
        torch.testing.assert_close(decoded.predicted_iou_BM.cpu(), iou, rtol=0, atol=1e-9)
        torch.testing.assert_close(ours.all_masks(decoded).cpu(), logits, rtol=0, atol=1e-8)


def test_equals_the_package_for_boxes(tiny, monkeypatch):
    features = random_features(1)
    ours = our_decoding(tiny, features, torch.float64)
    boxes = torch.tensor([[10.0, 20.0, 300.0, 400.0], [512.0, 500.0, 1000.0, 1023.0]])
    labels = torch.tensor([[2, 3]]).expand(2, 2)
    monkeypatch.setattr(tiny.sam_mask_decoder, "dynamic_multimask_via_stability", False)
    logits, iou = package_decode(tiny, features, boxes.view(2, 2, 2), labels, multimask=False, dtype=torch.float64)
    with torch.no_grad():
        tokens, _ = tiny.sam_prompt_encoder(points=(boxes.view(2, 2, 2), labels), boxes=None, masks=None)
        decoded = ours.decoder.decode(ours.terms, tokens)
        assert decoded.predicted_iou_BM.shape == (2, 4)
        torch.testing.assert_close(decoded.predicted_iou_BM[:, :1], iou, rtol=0, atol=1e-9)
        torch.testing.assert_close(ours.all_masks(decoded)[:, :1], logits, rtol=0, atol=1e-8)


def test_prompts_are_embedded_as_in_the_package(tiny):
    prompts = PromptEncoder.from_state(tiny.state_dict())
    boxes = torch.tensor([[10.0, 20.0, 300.0, 400.0]])
    with torch.no_grad():
        points = (POINTS[:, None], torch.ones(len(POINTS), 1, dtype=torch.int))
        corners = (boxes.view(1, 2, 2), torch.tensor([[2, 3]]))
        for ours, package in ((prompts.points(POINTS), points), (prompts.boxes(boxes), corners)):
            expected, _ = tiny.sam_prompt_encoder(points=package, boxes=None, masks=None)
            torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)
        dense = tiny.sam_prompt_encoder.get_dense_pe()[0].flatten(1)
        torch.testing.assert_close(prompts.grid_positions(), dense, rtol=0, atol=1e-6)


def test_float32_is_as_exact_as_the_package(tiny):
    # These weights amplify rounding: the package's own float32 result is off by more than 1e-4. Ours may be no worse
    # than a small multiple of that.
    features = random_features()
    labels = torch.ones(len(POINTS), 1, dtype=torch.int)
    exact, exact_iou = package_decode(tiny, features, POINTS[:, None], labels, multimask=True, dtype=torch.float64)
    package, package_iou = package_decode(tiny, features, POINTS[:, None], labels, multimask=True)
    ours = our_decoding(tiny, features, torch.float32)
    with torch.no_grad():
        decoded = ours.decoder.decode(ours.terms, ours.prompts.points(POINTS), first_mask=1)
        logits = ours.all_masks(decoded)
    assert logits.dtype == decoded.predicted_iou_BM.dtype == torch.float32

    def typical(difference: torch.Tensor) -> float:
        return float(difference.double().square().mean().sqrt())

    assert typical(logits - exact) < 4 * typical(package - exact) + 1e-4
    assert typical(decoded.predicted_iou_BM - exact_iou) < 4 * typical(package_iou - exact_iou) + 1e-4


def tame_model() -> Any:
    """A model whose attention has a tenth of the sharpness: it does not amplify rounding."""
    model = filled_model("sam2_hiera_tiny")
    with torch.no_grad():
        for name, parameter in model.sam_mask_decoder.named_parameters():
            if name.endswith("q_proj.weight"):
                parameter.mul_(0.1)
    return model


@pytest.fixture(scope="module")
def tame() -> Any:
    return tame_model()


@pytest.mark.parity
def test_float32_agrees_to_rounding_where_the_model_is_tame(tame, device):
    features = random_features()
    labels = torch.ones(len(POINTS), 1, dtype=torch.int)
    package, package_iou = package_decode(tame, features, POINTS[:, None], labels, multimask=True)
    ours = our_decoding(tame, features, torch.float32, device)
    with torch.no_grad():
        decoded = ours.decoder.decode(ours.terms, ours.prompts.points(POINTS).to(device), first_mask=1)
        torch.testing.assert_close(decoded.predicted_iou_BM.cpu(), package_iou, rtol=0, atol=1e-5)
        torch.testing.assert_close(ours.all_masks(decoded).cpu(), package, rtol=0, atol=1e-4)


def test_bfloat16_is_close_where_the_model_is_tame(tame):
    features = random_features()
    exact, half = (our_decoding(tame, features, dtype) for dtype in (torch.float32, torch.bfloat16))
    with torch.no_grad():
        tokens = exact.prompts.points(POINTS[:1])
        decoded = [each.decoder.decode(each.terms, tokens, first_mask=1) for each in (exact, half)]
        logits = [each.all_masks(result) for each, result in zip((exact, half), decoded, strict=True)]
    assert half.terms.up_NF.dtype == torch.bfloat16
    assert logits[1].dtype == torch.float32
    assert float((decoded[0].predicted_iou_BM - decoded[1].predicted_iou_BM).abs().max()) < 0.03
    assert float((logits[0] - logits[1]).square().mean().sqrt()) < 0.1 * float(logits[0].std())


def test_prompts_do_not_influence_each_other(tiny):
    ours = our_decoding(tiny, random_features(), torch.float64)
    with torch.no_grad():
        tokens = ours.prompts.points(POINTS)
        together = ours.decoder.decode(ours.terms, tokens, first_mask=1)
        logits = ours.all_masks(together)
        alone = ours.decoder.decode(ours.terms, tokens[1:2], first_mask=1)
        torch.testing.assert_close(ours.all_masks(alone)[0], logits[1], rtol=0, atol=1e-5)
        for index in (torch.tensor([2, 0]), torch.tensor([], dtype=torch.long)):
            hyper = together.hyper_BMD[index, 1:2]
            selected = upscale(ours.decoder.weights.rows, ours.terms, together.tokens.part(index), hyper)
            torch.testing.assert_close(selected[:, 0], logits[index, 1], rtol=0, atol=1e-5)


def test_grids_of_points():
    grid = point_grid(3)
    assert grid.dtype == torch.float32
    assert grid.tolist() == [[x, y] for x in (0.5, 512.0, 1023.5) for y in (0.5, 512.0, 1023.5)]
    assert point_grid(1).tolist() == [[0.5, 0.5]]
    assert len(point_grid(20)) == 400
    assert torch.equal(point_grid(20, drop_remainder_of=256), point_grid(20)[:256])
    assert len(point_grid(32, drop_remainder_of=256)) == 1024
    with pytest.raises(ConfigError, match="more than the 225 points of a 15 x 15 grid: no point would be left"):
        point_grid(15, drop_remainder_of=256)


@cases("count", "workers")((0, 1), (1, 1), (7, 1), (7, 2), (8, 3), (2, 4))
def test_batches_cover_everything_in_order(count, workers):
    parts = BatchRunner(3).run(lambda start, stop: list(range(start, stop)), count, workers=workers)
    assert [index for part in parts for index in part] == list(range(count))
    assert all(len(part) <= 3 for part in parts)


def test_workers_compute_with_one_thread_and_leave_the_setting():
    torch.set_num_threads(2)
    inside = BatchRunner(1).run(lambda start, stop: torch.get_num_threads(), 4, workers=2)
    assert inside == [1, 1, 1, 1]
    assert torch.get_num_threads() == 2
    seen: list[int] = []
    thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert seen == [2]


@cases("workers")(1, 2)
def test_memory_running_out_halves_the_batch(workers, caplog):
    def work(start: int, stop: int) -> list[int]:
        if stop - start > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return list(range(start, stop))

    runner = BatchRunner(16)
    with caplog.at_level(logging.WARNING):
        parts = runner.run(work, 40, workers=workers)
    assert [index for part in parts for index in part] == list(range(40))
    assert runner.batch_size == 2
    assert len(caplog.records) == 1
    assert "Memory ran out with 16 prompts at a time; continuing with 8" in caplog.text
    runner.run(work, 40, workers=workers)
    assert len(caplog.records) == 1


@cases("error", "size")(
    (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"), 1),
    (RuntimeError("shapes do not match"), 4),
)
def test_what_smaller_batches_do_not_cure_is_an_error(error, size):
    sizes: list[int] = []

    def work(start: int, stop: int) -> None:
        sizes.append(stop - start)
        raise error

    with pytest.raises(RuntimeError, match=str(error)[-20:]):
        BatchRunner(4).run(work, 4)
    assert sizes[-1] == size


def test_which_errors_mean_that_memory_ran_out():
    assert not is_out_of_memory(ValueError("not enough memory"))
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GB)"))
    assert is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"))
    assert not is_out_of_memory(RuntimeError("shapes do not match"))


SCRIPT = """
import sys
sys.path[:0] = [{project!r}, {tests!r}]
import test_sam2_decoder as tests
import torch
torch.set_num_threads(1)
tests.assert_equal(tests.tame_model(), torch.float32, "cpu", 1e-4)
from ntt.models.splitting import split
values = torch.randn(3, 700)
high, low = split(values)
assert torch.equal(high + low, values)
assert not (high.view(torch.int32) & 0x1fff).any()
assert (low.abs() <= high.abs() * 2.0**-11).all()
"""


def second_masks(decoding: Decoding, decoder: FastDecoder, decoded: DecodedPrompts) -> torch.Tensor:
    """Draw the second mask of the first and the last point."""
    index = torch.tensor([0, 2], device=decoded.hyper_BMD.device)
    return decoder.upscale(decoding.terms, decoded.tokens, index, decoded.hyper_BMD[index, 1:2])


@torch.no_grad()
def assert_equal(model: object, dtype: torch.dtype, device: str, tolerance: float, *, tf32: bool = False) -> None:
    from ntt.models.segmenters.sam2.fused import FusedDecoder

    decoding = our_decoding(model, random_features(), dtype, device)
    with autocast("float32", torch.device(device)):
        points_BPC = decoding.prompts.points(POINTS).to(device)
        plain = decoding.decoder.decode(decoding.terms, points_BPC, first_mask=1)
        logits = second_masks(decoding, decoding.decoder, plain)
        decoder = FusedDecoder(decoding.decoder.weights, dtype=dtype, tf32=tf32)
        fused = decoder.decode(decoding.terms, points_BPC, first_mask=1)
        assert float((fused.predicted_iou_BM - plain.predicted_iou_BM).abs().max()) < tolerance
        for decoder.upscale_form in ("product", "sums", "parts"):
            fused_logits = second_masks(decoding, decoder, fused)
            assert fused_logits.shape == logits.shape == (2, 1, 256, 256)
            assert float((fused_logits - logits).square().mean().sqrt()) < 10 * tolerance
        index, hyper_B1D = torch.tensor([-1, 2], device=device), fused.hyper_BMD[[0, 2], 1:2]
        assert torch.equal(decoder.upscale(decoding.terms, fused.tokens, index, hyper_B1D)[1], fused_logits[1])


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
    (torch.float32, False, 1e-4), (torch.float32, True, 3e-3), (torch.bfloat16, False, 3e-2)
)
def test_kernels_on_a_gpu(dtype, tf32, tolerance):
    assert_equal(tame_model(), dtype, "cuda", tolerance, tf32=tf32)
