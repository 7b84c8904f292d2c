"""SAM2 as a segmenter: settings, weights, thresholds, batches, and boxes."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from conftest import cases, run_python
from sam2_package import CONFIGS, TINY, Features, filled_tiny, package_decode, package_model, save_checkpoint

from ntt.errors import ConfigError, WeightsError
from ntt.models.device import PRECISIONS
from ntt.models.segmenters.sam2 import Sam2, Sam2Config
from ntt.models.segmenters.sam2.model import ARCHITECTURES, build_image_encoder
from ntt.models.segmenters.sam2.segmenter import can_fuse
from ntt.types import Placement, Proposals


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return save_checkpoint(filled_tiny(), tmp_path_factory.mktemp("weights") / "sam2_hiera_tiny.pt")


@pytest.fixture(scope="module")
def canvas() -> torch.Tensor:
    """A smooth picture: colours that change slowly over the canvas."""
    axis = torch.linspace(0, 1, 1024)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack([(0.5 + 0.5 * torch.sin(9 * x + k) * torch.cos(7 * y - k)).float() for k in range(3)])


class QuickEncoder(torch.nn.Module):
    """A stand-in for the image encoder: maps of the right shapes that differ from image to image."""

    def forward(self, images_I3hw: torch.Tensor) -> list[torch.Tensor]:
        weights = torch.linspace(-1, 1, 3 * 256).reshape(256, 3, 1, 1)
        coloured = [torch.nn.functional.avg_pool2d(images_I3hw, stride) for stride in (4, 8, 16)]
        return [torch.nn.functional.conv2d(image, weights) for image in coloured]


class Loaded(NamedTuple):
    """A model read from its checkpoint."""

    checkpoint: Path
    model: Any


@pytest.fixture(scope="module")
def loaded(checkpoint: Path) -> Loaded:
    return Loaded(checkpoint, segmenter(checkpoint)._model)


@pytest.fixture(scope="module")
def everything(loaded: Loaded, canvas: torch.Tensor) -> Proposals:
    """Logits and IoUs of a 3 x 3 grid without a threshold."""
    return quick(loaded, min_predicted_iou=0.0).propose(canvas)


def segmenter(path: Path, **settings: Any) -> Sam2:
    placed = {name: settings.pop(name) for name in ("device", "precision", "compile") if name in settings}
    config = Sam2Config(**{"name": TINY, "weights": str(path), "model": TINY, "points_per_side": 3, **settings})
    return Sam2(config, Placement(**placed))


def quick(loaded: Loaded, **settings: Any) -> Sam2:
    """A segmenter with the loaded decoder and a stand-in for the image encoder."""
    ours = segmenter(loaded.checkpoint, **settings)
    ours.__dict__["_model"] = replace(loaded.model, image_encoder=QuickEncoder())
    return ours


def test_image_encoder_is_the_packages_and_leaves_the_random_stream_alone(loaded):
    # A quarter of the canvas: the windows of its blocks are padded, as they are at full size.
    images = torch.rand(1, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours, package = loaded.model.image_encoder(images), filled_tiny().image_encoder(images)["backbone_fpn"]
    for level, expected in zip(ours, package, strict=True):
        torch.testing.assert_close(level, expected)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    build_image_encoder(TINY)
    assert torch.equal(torch.rand(3), expected)


def test_proposals_have_the_promised_form(everything):
    logits, iou = everything.logits_Nhw, everything.predicted_iou_N
    assert (logits.shape, iou.shape) == ((9, 256, 256), (9,))
    assert logits.dtype == iou.dtype == torch.float32
    assert 0 < float(iou.min()) < float(iou.max()) < 1
    logits.add_(0)  # an ordinary tensor, not one of inference mode


def assert_alike(proposals: Proposals, expected: Proposals, index: Any = slice(None)) -> None:
    """Equal to what these weights, which amplify rounding, make of it."""
    torch.testing.assert_close(proposals.predicted_iou_N, expected.predicted_iou_N[index], rtol=0, atol=1e-3)
    assert float(((proposals.logits_Nhw > 0) == (expected.logits_Nhw[index] > 0)).float().mean()) > 0.999


def test_what_is_kept_and_what_changes_it(loaded, canvas, everything):
    middle = float(everything.predicted_iou_N.sort().values[3:5].mean())
    above = everything.predicted_iou_N > middle
    assert int(above.sum()) == 5
    assert_alike(quick(loaded, min_predicted_iou=middle).propose(canvas), everything, above)
    nothing = quick(loaded, min_predicted_iou=0.9999).propose(canvas)
    assert (nothing.logits_Nhw.shape, nothing.predicted_iou_N.shape) == ((0, 256, 256), (0,))
    assert_alike(quick(loaded, min_predicted_iou=0.0, drop_remainder_of=4).propose(canvas), everything, slice(8))
    proposals = quick(loaded, min_predicted_iou=0.0, use_no_mem_embed=True).propose(canvas)
    assert float((proposals.predicted_iou_N - everything.predicted_iou_N).abs().max()) > 1e-3


@cases("batch", "threads")((1, 1), (5, 1), (4, 2))
def test_batches_and_threads_do_not_matter(batch, threads, loaded, canvas, everything):
    torch.set_num_threads(threads)
    proposals = quick(loaded, min_predicted_iou=0.0, prompt_batch_size=batch).propose(canvas)
    assert torch.get_num_threads() == threads
    assert_alike(proposals, everything)


def test_boxes_as_the_package_predicts_them(loaded, canvas):
    boxes = torch.tensor([[100.0, 100.0, 500.0, 400.0], [0.0, 0.0, 1023.0, 1023.0], [600.0, 300.0, 600.0, 300.0]])
    segmenter = quick(loaded, use_no_mem_embed=True)
    ours, package = segmenter.segment_boxes([canvas], [boxes])[0], filled_tiny()
    fine0, fine1, embedding = (level[None] for level in segmenter._encode([canvas])[0])
    with torch.no_grad():
        features = Features(embedding + package.no_mem_embed.view(1, -1, 1, 1), (fine0, fine1))
    assert package.sam_mask_decoder.dynamic_multimask_via_stability
    labels = torch.tensor([[2, 3]]).expand(3, 2)
    expected, _ = package_decode(package, features, boxes.view(3, 2, 2), labels, multimask=False)
    assert ours.shape == (3, 256, 256)
    assert float(((ours > 0) == (expected[:, 0] > 0)).float().mean()) > 0.999
    assert float((ours - expected[:, 0]).abs().median()) < 0.01


@cases("encoder")("quick", pytest.param("real", marks=pytest.mark.slow))
def test_images_together_are_segmented_as_one_by_one(encoder, loaded, canvas):
    ours = quick(loaded)
    if encoder == "real":
        ours.__dict__["_model"] = loaded.model
    canvases = [canvas, canvas.flip(2) * 0.8]
    first, second = torch.tensor([[100.0, 100.0, 500.0, 400.0]]), torch.tensor([[600.0, 300.0, 900.0, 800.0]])
    boxes = [torch.cat([first, second]), first]
    together = ours.segment_boxes(canvases, boxes)
    assert [len(logits) for logits in together] == [2, 1]
    for both, image, boxes_B4 in zip(together, canvases, boxes, strict=True):
        (alone,) = ours.segment_boxes([image], [boxes_B4])
        assert float((both - alone).abs().max()) < 1e-4
        assert torch.equal(both > 0, alone > 0)
    assert float((together[0][0] - together[1][0]).abs().max()) > 1e-2
    assert ours.segment_boxes([], []) == []
    assert ours.segment_boxes([canvas], [torch.empty(0, 4)])[0].shape == (0, 256, 256)
    assert ours.images_at_once == 1


def test_fingerprint_and_canvas(checkpoint):
    plain = segmenter(checkpoint)
    assert plain.name == TINY
    assert json.loads(json.dumps(plain.fingerprint)) == plain.fingerprint
    assert segmenter(checkpoint, compile=True).fingerprint != plain.fingerprint
    ours = segmenter(checkpoint)
    assert ours.canvas_hw(480, 640) == ours.canvas_hw(9, 5000) == (1024, 1024)
    with pytest.raises(ValueError, match=r"canvas of shape \(3, 480, 640\); expected \(3, 1024, 1024\)"):
        ours.propose(torch.zeros(3, 480, 640))


@cases("capability", "fitting")(
    ((7, 5), ()), ((8, 0), PRECISIONS), ((8, 9), ("bfloat16", "float16")), ((9, 0), PRECISIONS)
)
def test_the_fused_decoder_needs_shared_memory(capability, fitting, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert tuple(precision for precision in PRECISIONS if can_fuse(precision, torch.device("cuda"))) == fitting


def test_missing_weights_name_the_command_and_a_precision_the_device_lacks_is_refused(checkpoint, tmp_path):
    with pytest.raises(ConfigError, match="float16.* is not available on the CPU"):
        segmenter(checkpoint, precision="float16")
    with pytest.raises(WeightsError, match=r"none\.pt of sam2_hiera_tiny does not exist.*`ntt weights get sam2_hiera"):
        segmenter(tmp_path / "none.pt")
    with pytest.raises(WeightsError, match=r"ntt weights get sam2\.1_hiera_small"):
        Sam2Config(name="sam2", model="sam2.1_hiera_small").build(Placement(weights_root=tmp_path))


def test_weights_of_another_model_or_of_something_else(checkpoint, canvas, tmp_path):
    model = "sam2.1_hiera_tiny"
    message = f"given for segmenter.model={model}, but its tensors are those of sam2_hiera_tiny. Fetch .*{model}`, or"
    with pytest.raises(WeightsError, match=message):
        segmenter(checkpoint, model=model).propose(canvas)
    path = tmp_path / "other.pt"
    torch.save({"model": {"layer.weight": torch.zeros(2)}}, path)
    with pytest.raises(WeightsError, match="are of no model in the official layout"):
        segmenter(path).propose(canvas)


@cases("missing")("sam_mask_decoder.iou_token.weight", "image_encoder.neck.convs.0.conv.bias")
def test_incomplete_weights(missing, tmp_path, canvas):
    state = {name: value for name, value in filled_tiny().state_dict().items() if name != missing}
    path = tmp_path / "part.pt"
    torch.save({"model": state}, path)
    with pytest.raises(WeightsError, match=missing.removeprefix("image_encoder.")):
        segmenter(path).propose(canvas)


def test_another_file_in_the_place_of_the_official_one_is_refused_with_the_key(checkpoint, tmp_path):
    # The key is computed at the start of a run; the model is built hours later, maybe.
    (tmp_path / "sam2_hiera_tiny.pt").write_bytes(checkpoint.read_bytes())
    ours = Sam2Config(name="sam2", model=TINY).build(Placement(weights_root=tmp_path))
    with pytest.raises(WeightsError, match=r"its sha256 is [0-9a-f]{64}, expected [0-9a-f]{64}\. .*fetch it"):
        _ = ours.fingerprint


@cases("name")(
    *[name if name == "sam2.1_hiera_small" else pytest.param(name, marks=pytest.mark.slow) for name in CONFIGS]
)
def test_encoder_has_the_packages_parameters(name):
    expected = {key: value.shape for key, value in package_model(name).image_encoder.state_dict().items()}
    assert {key: value.shape for key, value in build_image_encoder(name).state_dict().items()} == expected
    assert list(ARCHITECTURES) == list(CONFIGS)


HYDRA = """
import sys, hydra
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from ntt.models.segmenters.sam2.model import build_image_encoder
assert 'sam2' not in sys.modules

@hydra.main(config_path={folder!r}, config_name='app', version_base='1.3')
def app(cfg):
    before = GlobalHydra.instance().hydra
    build_image_encoder({model!r})
    assert GlobalHydra.instance().hydra is before
    assert cfg.answer == 42

app()
assert 'sam2' in sys.modules
build_image_encoder({model!r})
assert GlobalHydra.instance().hydra is None
with initialize_config_dir(config_dir={folder!r}, version_base='1.3'):
    assert compose('app').answer == 42
print('done')
"""


def test_hydra_is_left_alone(tmp_path):
    # In a process of its own: importing the package for the first time would start Hydra globally.
    (tmp_path / "app.yaml").write_text("answer: 42\nhydra:\n  run:\n    dir: .\n  output_subdir: null\n")
    (tmp_path / "script.py").write_text(HYDRA.format(folder=str(tmp_path), model=TINY))
    result = run_python("-W", "error", "script.py", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith("done\n")
