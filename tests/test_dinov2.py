import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import cases

from ntt.data.coco import read_coco
from ntt.data.images import read_image
from ntt.data.masks import instance_mask
from ntt.errors import ConfigError, WeightsError
from ntt.models.backbones import dinov2 as dinov2_module
from ntt.models.backbones.dinov2 import (
    VARIANTS,
    Dinov2,
    Dinov2Config,
    identify,
    resize_position_embedding,
    to_timm_layout,
)
from ntt.models.backbones.vit import without_values
from ntt.models.compiling import COMPILED_VERSION
from ntt.ops.crops import crop_reference
from ntt.types import Placement
from tests.dinov2_layout import meta_forward, meta_shapes
from tests.filled_weights import filled_tensors

SMALL_GRID = 3


def _saved(path: Path, **shapes: int) -> Path:
    torch.save(filled_tensors(meta_shapes(**shapes)), path)
    return path


@pytest.fixture(scope="module")
def vits14(tmp_path_factory) -> Path:
    return _saved(tmp_path_factory.mktemp("weights") / "dinov2_vits14_pretrain.pth")


@pytest.fixture(scope="module")
def vits14_reg4(tmp_path_factory) -> Path:
    return _saved(tmp_path_factory.mktemp("weights") / "dinov2_vits14_reg4_pretrain.pth", registers=4)


def _encoder(weights: Path, model: str = "dinov2_vits14", *, placement: Placement | None = None, **settings) -> Dinov2:
    config = Dinov2Config(name="mine", model=model, weights=str(weights), **settings)
    return config.build(placement or Placement())


def _images(count: int, side: int) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(3))


def _standardised(images: torch.Tensor) -> torch.Tensor:
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    return (images - mean) / std


@pytest.mark.parity
@cases("crops")(1, pytest.param(3, marks=pytest.mark.slow))
def test_tokens_are_those_of_the_reference(shared_dir, vits14, crops, device):
    golden = np.load(shared_dir / "golden" / "memory.npz")
    references = json.loads((shared_dir / "golden" / "references.json").read_text())
    data = read_coco(shared_dir / "data/coco_dev/annotations/references.json", shared_dir / "data/coco_dev/images")
    encoder = _encoder(vits14, placement=Placement(device=device))
    entries = references[str(golden["category_ids"][0])][:crops]
    for entry, expected in zip(entries, golden["encoder_tokens_every_37"], strict=False):
        instance = data.instance(entry["ann_ids"][0])
        assert instance is not None
        record = data.images[instance.image_id]
        mask = instance_mask(instance, record.height, record.width)
        crop, _ = crop_reference(read_image(record), mask, instance.bbox_xywh, output_size=518, grid_size=37)
        tokens = encoder.encode(crop[None])[0].cpu().flatten(1).T
        np.testing.assert_allclose(tokens[::37], expected, rtol=0, atol=1e-4)


@cases("side")(70, 98)
def test_plain_model_equals_the_plain_equations_at_any_size(vits14, side):
    state = torch.load(vits14, weights_only=True)
    images = _images(1, side)
    rows = side // 14
    state["pos_embed"] = _positions_as_published(state["pos_embed"], rows)
    expected = meta_forward(state, _standardised(images), heads=6)
    features = _encoder(vits14, input_size=side).encode(images)
    assert features.shape == (1, 384, rows, rows)
    assert features.dtype == torch.float32
    torch.testing.assert_close(features.flatten(2).transpose(1, 2), expected, rtol=0, atol=2e-5)


def test_registers_enter_between_class_token_and_patches(vits14_reg4):
    state = torch.load(vits14_reg4, weights_only=True)
    images = _images(2, 70)
    state["pos_embed"] = resize_position_embedding(state["pos_embed"], 5, offset=0.0, antialias=True)
    expected = meta_forward(state, _standardised(images), heads=6)
    features = _encoder(vits14_reg4, "dinov2_vits14_reg4", input_size=70).encode(images)
    torch.testing.assert_close(features.flatten(2).transpose(1, 2), expected, rtol=0, atol=2e-5)


@cases("block")(0, 8, 11)
def test_features_of_a_block_are_its_tokens_after_the_final_norm(vits14, block):
    state = torch.load(vits14, weights_only=True)
    later = tuple(f"blocks.{index}." for index in range(block + 1, 12))
    state = {name: value for name, value in state.items() if not name.startswith(later)} if later else state
    state["pos_embed"] = _positions_as_published(state["pos_embed"], 3)
    encoder, images = _encoder(vits14, input_size=42, block=block), _images(1, 42)
    features = encoder.encode(images).flatten(2).transpose(1, 2)
    torch.testing.assert_close(features, meta_forward(state, _standardised(images), heads=6), rtol=0, atol=2e-5)


def test_swiglu_layers_of_the_giant_model_keep_their_meaning(tmp_path, monkeypatch):
    # The giant's architecture, cut to two narrow blocks.
    import timm
    from timm.layers import SwiGLUPacked

    name = "dinov2_vitg14"
    small = replace(VARIANTS[name], feature_dim=48, depth=2)
    monkeypatch.setattr(dinov2_module, "VARIANTS", {name: small})
    monkeypatch.setattr(dinov2_module, "require_model", lambda *_, **__: None)
    create = timm.create_model

    def create_small(timm_name: str, **settings: object) -> torch.nn.Module:
        assert timm_name == "vit_giant_patch14_dinov2"
        giant = create(timm_name, **settings)
        assert type(giant.blocks[0].mlp).__name__ == "GluMlp"
        return create(
            "vit_small_patch14_dinov2", embed_dim=48, depth=2, num_heads=4, mlp_ratio=2.66667 * 2,
            mlp_layer=SwiGLUPacked, act_layer=torch.nn.SiLU, **settings
        )  # fmt: skip

    monkeypatch.setattr(timm, "create_model", create_small)
    path = _saved(tmp_path / "giant.pth", dim=48, depth=2, swiglu_hidden=128, rows=SMALL_GRID)
    state = torch.load(path, weights_only=True)
    images = _images(1, 14 * SMALL_GRID)
    features = _encoder(path, name, input_size=14 * SMALL_GRID).encode(images)
    expected = meta_forward(state, _standardised(images), heads=4)
    torch.testing.assert_close(features.flatten(2).transpose(1, 2), expected, rtol=0, atol=2e-5)


@cases("name")(*VARIANTS)
def test_every_published_layout_fits_timms_network(name):
    import timm

    model = VARIANTS[name]
    options = {"pretrained": False, "num_classes": 0, "img_size": 14 * SMALL_GRID}
    network = without_values(lambda: timm.create_model(model.timm_name, **options))
    sizes = {"dim": model.feature_dim, "depth": model.depth, "registers": model.registers, "rows": SMALL_GRID}
    shapes = meta_shapes(**sizes, swiglu_hidden=4096 if "vitg" in name else None)
    state = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    assert identify(state) == model.name
    converted = to_timm_layout(state, model, network, SMALL_GRID)
    expected, actual = ({key: value.shape for key, value in x.items()} for x in (network.state_dict(), converted))
    assert actual == expected


def _positions_as_published(embedding: torch.Tensor, rows: int) -> torch.Tensor:
    """Cubic convolution (a = -0.75) at the places the scale (rows + 0.1) / 37 gives, borders repeated."""
    before = round((embedding.shape[1] - 1) ** 0.5)
    if rows == before:
        return embedding
    matrix = torch.zeros(rows, before, dtype=torch.float64)
    for row in range(rows):
        position = (row + 0.5) * before / (rows + 0.1) - 0.5
        start = int(np.floor(position))
        for neighbour in range(start - 1, start + 3):
            matrix[row, min(max(neighbour, 0), before - 1)] += _cubic(abs(position - neighbour))
    grid = embedding[0, 1:].double().view(before, before, -1)
    resized = torch.einsum("ai,bj,ijd->abd", matrix, matrix, grid).float()
    return torch.cat((embedding[:, :1], resized.reshape(1, rows * rows, -1)), dim=1)


def _cubic(distance: float, a: float = -0.75) -> float:
    if distance <= 1:
        return (a + 2) * distance**3 - (a + 3) * distance**2 + 1
    return a * distance**3 - 5 * a * distance**2 + 8 * a * distance - 4 * a if distance < 2 else 0.0


@cases("rows")(1, 16, 38, 73)
def test_position_embedding_of_plain_models_is_sampled_at_the_offset_scale(rows):
    embedding = torch.randn(1, 1 + 37 * 37, 5, generator=torch.Generator().manual_seed(0))
    resized = resize_position_embedding(embedding, rows, offset=0.1, antialias=False)
    assert resized.shape == (1, 1 + rows * rows, 5)
    torch.testing.assert_close(resized, _positions_as_published(embedding, rows), rtol=0, atol=1e-4)
    plain = resize_position_embedding(embedding, rows, offset=0.0, antialias=False)
    assert (plain - resized).abs().max() > 1e-3


def test_position_embeddings_of_register_models_and_of_odd_sizes():
    assert VARIANTS["dinov2_vits14_reg4"].resizing == (0, True)
    assert VARIANTS["dinov2_vits14"].resizing == (0.1, False)
    # A checkerboard halved with antialiasing is flat in the middle; without, its two values survive.
    board = (torch.arange(8)[:, None] + torch.arange(8)[None]) % 2
    embedding = torch.cat((torch.zeros(1, 1, 1), board.float().reshape(1, 64, 1)), dim=1)
    smooth = resize_position_embedding(embedding, 4, offset=0.0, antialias=True)[0, 1:, 0].view(4, 4)
    torch.testing.assert_close(smooth[1:3, 1:3], torch.full((2, 2), 0.5), rtol=0, atol=0.01)
    embedding = torch.randn(1, 1 + 9, 5)
    assert resize_position_embedding(embedding, 3, offset=0.1, antialias=False) is embedding


def test_facts_of_an_encoder_that_encodes_images_alike_in_a_batch(vits14):
    encoder = _encoder(vits14, input_size=42)
    assert (encoder.name, encoder.input_size, encoder.patch_size) == ("mine", 42, 14)
    fingerprint = json.loads(json.dumps(encoder.fingerprint))
    assert (len(fingerprint["weights"]), fingerprint["precision"], fingerprint["compile"]) == (64, "float32", False)
    images = _images(3, 42)
    features = encoder.encode(images)
    assert torch.equal(features, encoder.encode(images))
    assert not features.requires_grad
    torch.testing.assert_close(features[1:2], encoder.encode(images[1:2]), rtol=0, atol=1e-5)
    assert encoder.encode(images[:0]).shape == (0, 384, 3, 3)
    with pytest.raises(ValueError, match=r"images of shape \(1, 3, 42, 56\); expected \[B, 3, 42, 42\]"):
        encoder.encode(torch.zeros(1, 3, 42, 56))


def test_bfloat16_is_near_float32_and_compile_builds_the_network_once(vits14, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    images = _images(1, 70)
    exact = _encoder(vits14, input_size=70).encode(images)
    rough = _encoder(vits14, input_size=70, placement=Placement(precision="bfloat16")).encode(images)
    assert rough.dtype == torch.float32
    assert not torch.equal(exact, rough)
    assert torch.nn.functional.cosine_similarity(exact, rough, dim=1).min() > 0.99
    sent = []
    monkeypatch.setattr(torch, "compile", lambda function: sent.append(function) or function)
    images = _images(1, 42)
    encoder = _encoder(vits14, input_size=42, placement=Placement(compile=True))
    encoder.encode(images)
    encoder.encode(images)
    assert len(sent) == 1  # built once
    assert encoder.fingerprint["compile"] == COMPILED_VERSION


@cases("settings", "problem")(
    ({"input_size": 500}, r"=500 is no[^.]* multiple of the patch size 14\. Choose for example 490 or 504\."),
    ({"block": 12}, r"backbone.block=12, but the network has 12 blocks. Choose 0 to 11, or null for the last\."),
    *(({"input_size": size}, "Choose for example 14 or 28") for size in (0, 13)),
    ({"implementation": "official"}, r"needs Meta's code, and backbone.repo_dir is not set. Run `git clone "),
    ({"implementation": "official", "repo_dir": "/nowhere"}, r"there is no /nowhere/hubconf.py"),
    ({"repo_dir": "/nowhere"}, r"is not used by backbone.implementation=timm"),
)
def test_impossible_settings_are_refused(vits14, settings, problem):
    with pytest.raises(ConfigError, match=problem):
        _encoder(vits14, **settings)


def test_checkpoints_that_do_not_fit_are_refused(tmp_path, vits14_reg4):
    foreign, incomplete = tmp_path / "foreign.pth", tmp_path / "incomplete.pth"
    torch.save({"conv.weight": torch.zeros(2)}, foreign)
    state = filled_tensors(meta_shapes(rows=SMALL_GRID))
    del state["blocks.3.attn.qkv.bias"]
    torch.save(state, incomplete)
    problems = {
        vits14_reg4: r"but its tensors are those of dinov2_vits14_reg4\. .* or set backbone.model=dinov2_vits14_reg4\.",
        foreign: r"\(conv.weight, ...\) are of no model in the official layout\. .*`ntt weights get dinov2_vits14`\.",
        incomplete: r"does not fit the network: (.|\n)*blocks.3.attn.qkv.bias",
    }
    for path, problem in problems.items():
        with pytest.raises(WeightsError, match=problem):
            _encoder(path, input_size=42).encode(_images(1, 42))


def test_the_official_file_is_looked_for_and_its_digest_checked(tmp_path, vits14):
    config = Dinov2Config(name="dinov2_vits14", model="dinov2_vits14", input_size=42)
    with pytest.raises(WeightsError, match="The weights dinov2_vits14 are missing"):
        config.build(Placement(weights_root=tmp_path))
    path = tmp_path / "dinov2" / "dinov2_vits14_pretrain.pth"
    path.parent.mkdir()
    path.write_bytes(vits14.read_bytes())
    encoder = config.build(Placement(weights_root=tmp_path))
    for use in (lambda: encoder.encode(_images(1, 42)), lambda: encoder.fingerprint):
        with pytest.raises(WeightsError, match="expected b938bf1bc15cd2ec0feacfe3a1bb553f"):
            use()
    with pytest.raises(WeightsError, match="`ntt weights get dinov2_vits14`"):
        _encoder(tmp_path / "none.pth")
