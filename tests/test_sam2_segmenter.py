"""SAM2 as a segmenter: settings, weights, thresholds, batches, boxes, and the recorded values."""

import json
import pickle
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sam2_package import (
    CONFIGS,
    TINY,
    encode,
    filled_tiny,
    one_thread,
    package_decode,
    package_model,
    package_rounding,
    save_checkpoint,
)

from ntt.errors import ConfigError, WeightsError
from ntt.models.segmenters.sam2 import Sam2, Sam2Config
from ntt.models.segmenters.sam2.image_terms import ImageTerms
from ntt.models.segmenters.sam2.model import ARCHITECTURES, build_image_encoder
from ntt.ops.canvas import resize_to_canvas
from ntt.types import Placement

PROJECT_DIR = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Encoded:
    """A loaded model and one encoded picture."""

    checkpoint: Path
    model: Any
    terms: ImageTerms


@pytest.fixture(scope="module", autouse=True)
def _quick_on_busy_machines() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(scope="module")
def package() -> Any:
    return filled_tiny()


@pytest.fixture(scope="module")
def checkpoint(package: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(package, tmp_path_factory.mktemp("weights") / "sam2_hiera_tiny.pt")


@pytest.fixture(scope="module")
def canvas() -> torch.Tensor:
    """A smooth picture: colours that change slowly over the canvas."""
    axis = torch.linspace(0, 1, 1024)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack([(0.5 + 0.5 * torch.sin(9 * x + k) * torch.cos(7 * y - k)).float() for k in range(3)])


@pytest.fixture(scope="module")
def encoded(checkpoint: Path, canvas: torch.Tensor) -> Encoded:
    """The loaded model and the encoded picture, for tests that change neither."""
    ours = segmenter(checkpoint)
    with torch.no_grad():
        return Encoded(checkpoint, ours._model, ours._image_terms(canvas))


@pytest.fixture(scope="module")
def everything(encoded: Encoded, canvas: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and IoUs of a 3 x 3 grid without a threshold."""
    proposals = quick(encoded, min_predicted_iou=0.0).propose(canvas)
    return proposals.logits_Nhw, proposals.predicted_iou_N


def segmenter(path: Path, **settings: Any) -> Sam2:
    placed = {name: settings.pop(name) for name in ("device", "precision", "compile") if name in settings}
    config = Sam2Config(**{"name": TINY, "weights": str(path), "model": TINY, "points_per_side": 3, **settings})
    return Sam2(config, Placement(**placed))


def quick(encoded: Encoded, **settings: Any) -> Sam2:
    """A segmenter that finds its model loaded and its picture encoded."""
    ours = segmenter(encoded.checkpoint, **settings)
    ours.__dict__["_model"] = encoded.model
    ours.__dict__["_image_terms"] = lambda canvas: encoded.terms
    return ours


def test_proposals_have_the_promised_form(everything: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, iou = everything
    assert logits.shape == (9, 256, 256)
    assert iou.shape == (9,)
    assert logits.dtype == iou.dtype == torch.float32
    assert float(iou.min()) > 0
    assert float(iou.max()) < 1
    logits.add_(0)  # an ordinary tensor, not one of inference mode


def test_threshold_keeps_what_is_above_it(
    encoded: Encoded, canvas: torch.Tensor, everything: tuple[torch.Tensor, torch.Tensor]
) -> None:
    logits, iou = everything
    middle = float(iou.sort().values[3:5].mean())
    proposals = quick(encoded, min_predicted_iou=middle).propose(canvas)
    kept = iou > middle
    assert int(kept.sum()) == 5
    torch.testing.assert_close(proposals.predicted_iou_N, iou[kept], rtol=0, atol=1e-3)
    assert float(((proposals.logits_Nhw > 0) == (logits[kept] > 0)).float().mean()) > 0.999
    nothing = quick(encoded, min_predicted_iou=0.9999).propose(canvas)
    assert nothing.logits_Nhw.shape == (0, 256, 256)
    assert nothing.predicted_iou_N.shape == (0,)


@pytest.mark.parametrize("batch", [1, 5, 100])
def test_batch_size_does_not_matter(
    batch: int, encoded: Encoded, canvas: torch.Tensor, everything: tuple[torch.Tensor, torch.Tensor]
) -> None:
    logits, iou = everything
    proposals = quick(encoded, min_predicted_iou=0.0, prompt_batch_size=batch).propose(canvas)
    # These weights amplify rounding, see test_recorded_values.
    torch.testing.assert_close(proposals.predicted_iou_N, iou, rtol=0, atol=1e-3)
    assert float(((proposals.logits_Nhw > 0) == (logits > 0)).float().mean()) > 0.999


def test_threads_do_not_matter(
    encoded: Encoded, canvas: torch.Tensor, everything: tuple[torch.Tensor, torch.Tensor]
) -> None:
    torch.set_num_threads(2)
    try:
        proposals = quick(encoded, min_predicted_iou=0.0).propose(canvas)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    torch.testing.assert_close(proposals.predicted_iou_N, everything[1], rtol=0, atol=1e-3)


def test_remainder_is_dropped_on_request(
    encoded: Encoded, canvas: torch.Tensor, everything: tuple[torch.Tensor, torch.Tensor]
) -> None:
    proposals = quick(encoded, min_predicted_iou=0.0, drop_remainder_of=4).propose(canvas)
    torch.testing.assert_close(proposals.predicted_iou_N, everything[1][:8], rtol=0, atol=1e-3)


def test_no_mem_embed_changes_the_result(
    checkpoint: Path, canvas: torch.Tensor, everything: tuple[torch.Tensor, torch.Tensor]
) -> None:
    proposals = segmenter(checkpoint, min_predicted_iou=0.0, use_no_mem_embed=True).propose(canvas)
    assert float((proposals.predicted_iou_N - everything[1]).abs().max()) > 1e-3


def test_boxes_as_the_package_predicts_them(package: Any, checkpoint: Path, canvas: torch.Tensor) -> None:
    boxes = torch.tensor([[100.0, 100.0, 500.0, 400.0], [0.0, 0.0, 1023.0, 1023.0], [600.0, 300.0, 600.0, 300.0]])
    ours = segmenter(checkpoint, use_no_mem_embed=True).segment_boxes(canvas, boxes)
    features = encode(package, canvas)
    with torch.no_grad():
        features = replace(features, embedding=features.embedding + package.no_mem_embed.view(1, -1, 1, 1))
    assert package.sam_mask_decoder.dynamic_multimask_via_stability
    labels = torch.tensor([[2, 3]]).expand(3, 2)
    expected, _ = package_decode(package, features, boxes.view(3, 2, 2), labels, multimask=False)
    assert ours.shape == (3, 256, 256)
    assert float(((ours > 0) == (expected[:, 0] > 0)).float().mean()) > 0.999
    assert float((ours - expected[:, 0]).abs().median()) < 0.01


class QuickEncoder(torch.nn.Module):
    """A stand-in for the image encoder: maps of the right shapes that differ from image to image."""

    def forward(self, images_I3hw: torch.Tensor) -> dict[str, list[torch.Tensor]]:
        weights = torch.linspace(-1, 1, 3 * 256).reshape(256, 3, 1, 1)
        coloured = [torch.nn.functional.avg_pool2d(images_I3hw, stride) for stride in (4, 8, 16)]
        return {"backbone_fpn": [torch.nn.functional.conv2d(one, weights) for one in coloured]}


@pytest.mark.parametrize("encoder", ["quick", pytest.param("real", marks=pytest.mark.slow)])
def test_images_together_are_segmented_as_one_by_one(encoder: str, encoded: Encoded, canvas: torch.Tensor) -> None:
    ours = segmenter(encoded.checkpoint)
    ours.__dict__["_model"] = (
        encoded.model if encoder == "real" else replace(encoded.model, image_encoder=QuickEncoder())
    )
    canvases = [canvas, canvas.flip(2) * 0.8]
    first, second = torch.tensor([[100.0, 100.0, 500.0, 400.0]]), torch.tensor([[600.0, 300.0, 900.0, 800.0]])
    boxes = [torch.cat([first, second]), first]
    together = ours.segment_boxes_of_images(canvases, boxes)
    assert [len(logits) for logits in together] == [2, 1]
    for both, one_canvas, some in zip(together, canvases, boxes, strict=True):
        alone = ours.segment_boxes(one_canvas, some)
        assert float((both - alone).abs().max()) < 1e-4
        assert torch.equal(both > 0, alone > 0)
    assert float((together[0][0] - together[1][0]).abs().max()) > 1e-2
    assert ours.segment_boxes_of_images([], []) == []
    assert ours.images_at_once == 1


def test_several_images_are_checked_like_one(encoded: Encoded, canvas: torch.Tensor) -> None:
    box = torch.tensor([[0.0, 0, 5, 5]])
    with pytest.raises(ValueError, match=r"canvas of shape \(3, 480, 640\)"):
        quick(encoded).segment_boxes_of_images([canvas, torch.zeros(3, 480, 640)], [box, box])
    with pytest.raises(ValueError, match=r"boxes of shape \(4,\)"):
        quick(encoded).segment_boxes_of_images([canvas, canvas], [box, box[0]])


def test_no_boxes_no_masks(encoded: Encoded, canvas: torch.Tensor) -> None:
    assert quick(encoded).segment_boxes(canvas, torch.empty(0, 4)).shape == (0, 256, 256)


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        (torch.zeros(4), r"boxes of shape \(4,\); expected \[B, 4\]"),
        (torch.tensor([[0.0, 0, 5, 5], [5, 0, 4, 9]]), r"box 1 is \[5.0, 0.0, 4.0, 9.0\]"),
        (torch.tensor([[0.0, 0, float("nan"), 5]]), "box 0 is .*nan.*expected finite"),
    ],
)
def test_bad_boxes(checkpoint: Path, canvas: torch.Tensor, boxes: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        segmenter(checkpoint).segment_boxes(canvas, boxes)


def test_canvas_is_always_square(checkpoint: Path) -> None:
    ours = segmenter(checkpoint)
    assert ours.canvas_hw(480, 640) == ours.canvas_hw(9, 5000) == (1024, 1024)
    with pytest.raises(ValueError, match=r"canvas of shape \(3, 480, 640\); expected \(3, 1024, 1024\)"):
        ours.propose(torch.zeros(3, 480, 640))


def test_fingerprint_names_what_decides_the_result(checkpoint: Path) -> None:
    plain = segmenter(checkpoint)
    assert plain.name == TINY
    assert json.loads(json.dumps(plain.fingerprint)) == plain.fingerprint
    assert plain.fingerprint == segmenter(checkpoint, prompt_batch_size=7).fingerprint
    changes: list[dict[str, Any]] = [
        {"points_per_side": 4},
        {"min_predicted_iou": 0.5},
        {"use_no_mem_embed": True},
        {"drop_remainder_of": 4},
        {"compile": True},
    ]
    for change in changes:
        assert segmenter(checkpoint, **change).fingerprint != plain.fingerprint


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "sam3"}, "segmenter.model is 'sam3'; it must be one of sam2_hiera_tiny, .*sam2.1_hiera_large"),
        ({"precision": "float16"}, "float16.* is not available on the CPU"),
        ({"precision": "int8"}, "int8"),
    ],
)
def test_bad_settings(checkpoint: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        segmenter(checkpoint, **settings)


def test_missing_weights_name_the_command(tmp_path: Path) -> None:
    with pytest.raises(
        WeightsError, match=r"none\.pt of sam2_hiera_tiny does not exist.*`ntt weights get sam2_hiera_tiny`"
    ):
        segmenter(tmp_path / "none.pt")
    with pytest.raises(WeightsError, match=r"ntt weights get sam2\.1_hiera_small"):
        Sam2Config(name="sam2", model="sam2.1_hiera_small").build(Placement(weights_root=tmp_path))


@pytest.mark.parametrize("model", ["sam2_hiera_small", "sam2.1_hiera_tiny"])
def test_weights_of_another_model(model: str, checkpoint: Path, canvas: torch.Tensor) -> None:
    message = f"given for segmenter.model={model}, but it holds the weights of sam2_hiera_tiny. Fetch .*{model}`"
    with pytest.raises(WeightsError, match=message):
        segmenter(checkpoint, model=model).propose(canvas)


def test_weights_of_something_else(tmp_path: Path, canvas: torch.Tensor) -> None:
    path = tmp_path / "other.pt"
    torch.save({"model": {"layer.weight": torch.zeros(2)}}, path)
    with pytest.raises(WeightsError, match="holds weights of no SAM2 model known here"):
        segmenter(path).propose(canvas)


@pytest.mark.parametrize("missing", ["sam_mask_decoder.iou_token.weight", "image_encoder.neck.convs.0.conv.bias"])
def test_incomplete_weights(missing: str, package: Any, tmp_path: Path, canvas: torch.Tensor) -> None:
    state = {name: value for name, value in package.state_dict().items() if name != missing}
    path = tmp_path / "part.pt"
    torch.save({"model": state}, path)
    with pytest.raises(WeightsError, match=missing.removeprefix("image_encoder.")):
        segmenter(path).propose(canvas)


def test_another_file_in_the_place_of_the_official_one_is_refused_with_the_key(
    checkpoint: Path, tmp_path: Path
) -> None:
    # The key is computed at the start of a run; the model is built hours later, maybe.
    (tmp_path / "sam2_hiera_tiny.pt").write_bytes(checkpoint.read_bytes())
    ours = Sam2Config(name="sam2", model=TINY).build(Placement(weights_root=tmp_path))
    with pytest.raises(WeightsError, match=r"its sha256 is [0-9a-f]{64}, expected [0-9a-f]{64}\. .*fetch it"):
        _ = ours.fingerprint


def test_truncated_weights(checkpoint: Path, tmp_path: Path, canvas: torch.Tensor) -> None:
    path = tmp_path / "cut.pt"
    path.write_bytes(checkpoint.read_bytes()[:100_000])
    with pytest.raises(WeightsError, match=r"cut\.pt .*truncated or damaged"):
        segmenter(path).propose(canvas)


class _Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return (Path.touch, (self.target,))


@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_code_in_weights_is_not_run(save: Any, tmp_path: Path, canvas: torch.Tensor) -> None:
    path, target = tmp_path / "bomb.pt", tmp_path / "exploded"
    save({"model": _Bomb(target)}, path)
    with pytest.raises(WeightsError, match=r"bomb\.pt"):
        segmenter(path).propose(canvas)
    assert not target.exists()


@pytest.mark.parametrize("name", ["sam2_hiera_tiny", "sam2.1_hiera_small"])
def test_encoder_has_the_packages_parameters(name: str) -> None:
    expected = {key: value.shape for key, value in package_model(name).image_encoder.state_dict().items()}
    assert {key: value.shape for key, value in build_image_encoder(name).state_dict().items()} == expected


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CONFIGS if name.endswith(("base_plus", "large"))])
def test_larger_encoders_have_the_packages_parameters(name: str) -> None:
    expected = {key: value.shape for key, value in package_model(name).image_encoder.state_dict().items()}
    assert {key: value.shape for key, value in build_image_encoder(name).state_dict().items()} == expected
    assert list(ARCHITECTURES) == list(CONFIGS)


def test_building_leaves_the_random_stream_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    build_image_encoder(TINY)
    assert torch.equal(torch.rand(3), expected)


HYDRA_SETUPS = {
    "no Hydra": "assert GlobalHydra.instance().hydra is None\nbuild()\nassert GlobalHydra.instance().hydra is None",
    "Hydra afterwards": (
        "build()\n"
        "with initialize_config_dir(config_dir=folder, version_base='1.3'):\n"
        "    assert compose('app').answer == 42\n"
        "build()\n"
        "assert GlobalHydra.instance().hydra is None"
    ),
    "Hydra before and after": (
        "with initialize_config_dir(config_dir=folder, version_base='1.3'):\n"
        "    place = GlobalHydra.instance().hydra\n"
        "    build()\n"
        "    assert GlobalHydra.instance().hydra is place\n"
        "    assert compose('app').answer == 42\n"
        "build()\n"
        "assert GlobalHydra.instance().hydra is None"
    ),
    "inside an application": (
        "@hydra.main(config_path=folder, config_name='app', version_base='1.3')\n"
        "def app(cfg):\n"
        "    place = GlobalHydra.instance().hydra\n"
        "    build()\n"
        "    assert GlobalHydra.instance().hydra is place\n"
        "    assert cfg.answer == 42\n"
        "app()\n"
        "build()\n"
        "print('application ran')"
    ),
}


@pytest.mark.parametrize("setup", HYDRA_SETUPS)
def test_hydra_is_left_alone(setup: str, tmp_path: Path) -> None:
    # In a process of its own: `sam2` does its set-up once, when it is first imported.
    (tmp_path / "app.yaml").write_text("answer: 42\nhydra:\n  run:\n    dir: .\n  output_subdir: null\n")
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, hydra\n"
        "from hydra import compose, initialize_config_dir\n"
        "from hydra.core.global_hydra import GlobalHydra\n"
        "from ntt.models.segmenters.sam2.model import build_image_encoder\n"
        "assert 'sam2' not in sys.modules\n"
        f"folder = {str(tmp_path)!r}\n"
        f"def build():\n    build_image_encoder({TINY!r})\n"
        f"{HYDRA_SETUPS[setup]}\n"
        "assert 'sam2' in sys.modules\n"
        "print('done')\n"
    )
    command = [sys.executable, "-W", "error", str(script)]
    result = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": str(PROJECT_DIR)}, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith("done\n")
    assert ("application ran" in result.stdout) == (setup == "inside an application")


@pytest.mark.parity
@pytest.mark.timeout(900)
@pytest.mark.parametrize("image_id", [20992, *(pytest.param(n, marks=pytest.mark.slow) for n in (5001, 10764))])
def test_recorded_values(image_id: int, checkpoint: Path, shared_dir: Path, golden_dir: Path, device: str) -> None:
    recorded = np.load(golden_dir / f"sam2_{image_id}.npz")
    path = _image_file(shared_dir / "data" / "coco_dev", image_id)
    with Image.open(path) as image:
        canvas = resize_to_canvas(np.asarray(image.convert("RGB")), (1024, 1024))
    ours = segmenter(checkpoint, points_per_side=8, min_predicted_iou=0.0, device=device).propose(canvas)
    logits, iou = ours.logits_Nhw.cpu().numpy(), ours.predicted_iou_N.cpu().numpy()
    package = package_rounding(path, device)
    exact, sample, coarse = package.exact_logits_BHW, package.prompts, np.s_[:, ::8, ::8]
    package_error = package.logits_BHW - exact
    # Neither the truth nor the record, made on another machine, may be further away than rounding explains.
    for error in (iou[sample] - package.exact_iou_B, iou - recorded["pred_iou"]):
        package.check(np.abs(error), np.abs(package.iou_B - package.exact_iou_B), floor=1e-5)
    package.check(_typical(logits[sample] - exact), _typical(package_error), floor=1e-5)
    package.check(_typical(logits[coarse] - recorded["lr_logits_stride8"]), _typical(package_error[coarse]), floor=1e-3)
    expected = np.unpackbits(recorded["lr_mask_bits"], axis=1).reshape(-1, 256, 256).astype(bool)
    package_misses = _misses(package.logits_BHW > 0, exact > 0)
    package.check(_misses(logits[sample] > 0, exact > 0), package_misses, floor=1e-3)
    package.check(_misses(logits > 0, expected), package_misses, floor=1e-3)


def _typical(errors: np.ndarray) -> np.ndarray:
    """Root mean square of each mask's errors."""
    return np.asarray(np.sqrt(np.square(errors.astype(np.float64)).mean(axis=(1, 2))))


def _misses(masks: np.ndarray, others: np.ndarray) -> np.ndarray:
    """1 - IoU, mask by mask."""
    return np.asarray(1 - (masks & others).sum(axis=(1, 2)) / np.maximum((masks | others).sum(axis=(1, 2)), 1))


def _image_file(folder: Path, image_id: int) -> Path:
    images = json.loads((folder / "annotations" / "targets.json").read_text())["images"]
    return folder / "images" / next(image["file_name"] for image in images if image["id"] == image_id)
