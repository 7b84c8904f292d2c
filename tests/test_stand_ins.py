"""What references say, with models of the published kinds: DINOv2 and SAM2, their weights filled by rule."""

from pathlib import Path

import pytest
import torch
from dinov2_layout import meta_shapes
from filled_weights import filled_tensors
from sam2_package import filled_tiny, save_checkpoint
from tiny_data import make_split, read

from ntt.config.compose import compose_config
from ntt.config.identity import run_directory
from ntt.run import runner
from ntt.run.artefacts import read_memory, read_prototypes


@pytest.mark.slow
def test_a_probe_and_a_choice_by_the_references(tmp_path: Path, capsys):
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
