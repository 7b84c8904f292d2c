import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from ntt.errors import ConfigError, WeightsError
from ntt.models.backbones.timm_vit import TimmVit, TimmVitConfig
from ntt.models.backbones.vit import without_values
from ntt.types import Placement
from tests.filled_weights import fill_state_dict

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
def test_features_are_timms_patch_tokens_at_the_models_own_size(tiny: Path):
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


def test_patches_of_averaging_models_are_normalised_too(tmp_path: Path, monkeypatch):
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


def test_fingerprint_follows_the_weights(tiny: Path, tmp_path: Path):
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


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({}, f"backbone.model={TINY} has no weights: set backbone.weights to a local"),
        ({"weights": "FILE", "pretrained": True}, "and backbone.pretrained=true exclude each other"),
        ({"weights": "/nowhere.pth"}, f"The weights file /nowhere.pth of {TINY} does not exist"),
        ({"pretrained": True}, "backbone.pretrained=true downloads .* but NTT_OFFLINE switches network access off"),
        ({"weights": "FILE", "model": "vit_tiny_patch16_225"}, "225' is not known to timm .* vit_tiny_patch16_224"),
        ({"weights": "FILE", "block": 12}, "the network has 12 blocks. Choose 0 to 11"),
        ({"weights": "FILE", "model": "resnet18"}, "'resnet18' is not a plain vision transformer"),
    ],
)
def test_impossible_settings_are_refused(tiny: Path, monkeypatch, settings: dict[str, Any], problem: str):
    monkeypatch.setenv("NTT_OFFLINE", "1")
    if "weights" in settings:
        settings = {**settings, "weights": Path(str(settings["weights"]).replace("FILE", str(tiny)))}
    with pytest.raises((ConfigError, WeightsError), match=problem):
        _encoder(**settings)


def test_weights_of_another_model_are_refused(tiny: Path, tmp_path: Path):
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


@pytest.mark.parametrize("reads_values", [False, True])
def test_networks_to_be_filled_leave_the_random_stream_alone(reads_values: bool):
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
