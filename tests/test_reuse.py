"""What runs share and what they notice: subsets, damaged entries, changed images, altered files, a workspace."""

import json
import logging
import os
import shutil
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.numpy
from conftest import cases
from PIL import Image
from tiny_data import SMALL, edited, run_with, settings

from ntt.base import digests
from ntt.base.log import file_logging
from ntt.config.compose import compose_config
from ntt.errors import StorageError
from ntt.run import shared as workspace
from ntt.run.environment import apply_runtime
from ntt.run.shared import Workspace
from ntt.stages.candidates import CandidateSource
from ntt.store.maintenance import KEY_DIGITS, used_store_keys
from ntt.store.store import Store
from ntt.types import ImageRecord

Go = Callable[..., Path]


@pytest.fixture(scope="module")
def models() -> Workspace:
    """Keeps the network of one test for the next, and nothing else."""
    return Workspace()


@pytest.fixture
def go(tiny: Path, tmp_path: Path, models: Workspace) -> Go:
    """Run with overrides in this process; returns the run directory."""

    def run(*more: str, root: Path = tiny, out: str = "out", space: Workspace = models) -> Path:
        return run_with(settings(root, tmp_path / out, tmp_path / "store", *more), workspace=space)

    return run


@pytest.fixture
def computed(monkeypatch) -> list[str]:
    """Note each image whose candidates are computed."""
    names: list[str] = []
    load = CandidateSource.load

    def noted(source: CandidateSource, record: ImageRecord):
        names.append(record.file_name)
        return load(source, record)

    monkeypatch.setattr(CandidateSource, "load", noted)
    return names


def with_targets(data: Path, folder: Path, positions: list[int]) -> Path:
    """Copy the data set with some target images only, in another order and under other names and ids."""
    root = Path(shutil.copytree(data, folder))
    with edited(root, "targets") as content:
        content["images"] = [content["images"][position] for position in positions]
        ids = {image["id"]: 500 + number for number, image in enumerate(content["images"])}
        for image in content["images"]:
            (root / "images" / image["file_name"]).rename(root / "images" / f"x{image['id']}.png")
            image.update(file_name=f"x{image['id']}.png", id=ids[image["id"]])
        content["annotations"] = [entry for entry in content["annotations"] if entry["image_id"] in ids]
        for entry in content["annotations"]:
            entry["image_id"] = ids[entry["image_id"]]
    return root


def test_any_subset_hits(go, tiny, tmp_path, computed):
    whole = read_detections(go())
    assert len(computed) == 4
    part = read_detections(go(root=with_targets(tiny, tmp_path / "part", [3, 0])))
    assert len(computed) == 4, "an image under another name was computed again"
    assert part == {500: whole[104], 501: whole[101]}
    go("seed=1", "split.classes=[disc]", "matcher.merging=hard")
    assert len(computed) == 4


def test_references_are_seen_in_their_full_images(go, computed):
    plain = read_detections(go("shots=2shot"))
    assert computed == [f"targets_{number}.png" for number in range(4)]
    full = go("matcher=ntt_full_both", "shots=2shot")
    # Two instances of the four share an image.
    assert computed[4:] == ["references_0.png", "references_2.png", "references_1.png"]
    probe = go("matcher=probe_half", "shots=2shot")
    assert len(computed) == 7
    assert len({str(detections) for detections in (plain, read_detections(full), read_detections(probe))}) == 3
    memory, with_full = (
        {name: value.tolist() for name, value in safetensors.numpy.load_file(folder / "memory.safetensors").items()}
        for folder in (go("shots=2shot"), full)
    )
    assert [len(with_full.pop(f"full_{label}")) for label in (0, 1)] == [2, 2]
    assert with_full == memory


def read_detections(folder: Path) -> dict[int, list[object]]:
    by_image: dict[int, list[object]] = {}
    for row in json.loads((folder / "predictions.json").read_text()):
        by_image.setdefault(row.pop("image_id"), []).append(row)
    return by_image


def test_a_complete_store_of_another_user_serves_a_run(go, tiny, tmp_path, monkeypatch, capsys):
    store = tmp_path / "store"
    whole = read_detections(go())
    before = {path: path.read_bytes() for path in store.rglob("*") if path.is_file()}
    monkeypatch.setattr(os, "access", lambda path, _: not Path(path).is_relative_to(store))
    capsys.readouterr()
    assert read_detections(go(out="mine")) == whole
    assert capsys.readouterr().out.count("is read-only for you: this run uses it") == 1
    go("seed=1", "shots=2shot", out="mine")  # references that the store lacks
    assert {path: path.read_bytes() for path in store.rglob("*") if path.is_file()} == before
    refusal = pytest.raises(StorageError, match=r"which another user has created.*chmod -R g\+w .*umask 002")
    with refusal:  # the store has the candidates of all targets, and of no reference
        go("matcher=ntt_full_both", out="again", space=Workspace())
    next((store / "candidates").rglob("*.safetensors")).unlink()
    with refusal:
        go(out="again", space=Workspace())
    assert not (tmp_path / "again").exists()


def test_an_entry_that_is_a_folder_is_named_with_its_remedy(go, tmp_path, capsys):
    go()
    entry = next((tmp_path / "store" / "candidates").rglob("*.safetensors"))
    entry.unlink()
    entry.mkdir()
    with pytest.raises(StorageError, match=f"Cannot write {entry}: it is a folder. Remove it"):
        go(out="again")
    assert "is damaged (it is no file)" in capsys.readouterr().out


def test_a_damaged_entry_is_reported_and_computed_again(go, tmp_path, computed, capsys):
    expected = (go() / "predictions.json").read_bytes()
    entries = sorted((tmp_path / "store" / "candidates").rglob("*.safetensors"))
    bytes_before = {path: path.read_bytes() for path in entries}
    entries[0].write_bytes(bytes_before[entries[1]])
    computed.clear()
    again = go(out="again")
    assert (again / "predictions.json").read_bytes() == expected
    assert len(computed) == 1
    assert f"{entries[0]} is damaged" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in entries} == bytes_before


def test_altered_files_are_noticed(go, capsys):
    folder = go()
    names = ("references.json", "memory.safetensors", "prototypes.safetensors", "candidates.json", "predictions.json")
    stages = ("references", "memory", "prototypes", "candidates", "matching", "evaluation")
    capsys.readouterr()
    for name, stage in zip((*names, "metrics.json"), stages, strict=True):
        path = folder / name
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        assert go() == folder
        assert f"{path} is not as stage {stage} wrote it; the stage is repeated." in capsys.readouterr().out
        assert path.read_bytes() == whole
    identity = (folder / "identity.json").read_bytes()
    (folder / "identity.json").unlink()
    go()
    assert "already finished" in capsys.readouterr().out
    assert (folder / "identity.json").read_bytes() == identity


@cases("role")("targets_0", "references_0")
def test_a_changed_image_is_never_met_with_stale_results(go, tiny, tmp_path, role):
    root = Path(shutil.copytree(tiny, tmp_path / "copy"))
    for path in (root / "images").iterdir():
        with Image.open(path) as image:
            image.save(path.with_suffix(".bmp"))
    for path in (root / "annotations").iterdir():
        path.write_text(path.read_text().replace(".png", ".bmp"))
    first = go(root=root)
    before = (first / "predictions.json").read_bytes()
    image = root / "images" / f"{role}.bmp"
    stat = image.stat()
    content = bytearray(image.read_bytes())
    content[54:] = bytes(255 - value for value in content[54:])
    image.write_bytes(content)
    os.utime(image, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert image.stat().st_size == stat.st_size
    assert go(root=root) == first
    assert (first / "predictions.json").read_bytes() != before


def test_a_run_lists_the_entries_it_has_used(go, tmp_path):
    folder = go(space=Workspace())
    store = Store(tmp_path / "store")
    listed = {(kind, key) for kinds in used_store_keys(folder).values() for kind, keys in kinds.items() for key in keys}
    there = {(path.parent.parent.name, path.stem[:KEY_DIGITS]) for path in store.root.rglob("*.safetensors")}
    assert listed == there
    assert {kind for kind, _ in listed} == {"candidates", "references", "proposals"}
    stages = {"memory", "candidates", "proposals"}
    assert set(used_store_keys(folder)) == stages, "matching uses what the candidates listed"
    second = go("seed=1", "shots=2shot")
    assert used_store_keys(second)["candidates"] == used_store_keys(folder)["candidates"]


def test_a_workspace_changes_no_bit_and_reads_once(go, monkeypatch, caplog):
    points = [(f"seed={seed}", f"shots={shots}shot") for seed in (0, 1) for shots in (1, 2)]
    alone = [go(*point, out="alone", space=Workspace()) for point in points]
    monkeypatch.setattr(digests, "_SETTLED_NS", -1)
    monkeypatch.setattr(digests, "_CACHE", OrderedDict())
    hashed, annotations = [], []
    digest, coco = digests._hash, workspace.read_coco
    monkeypatch.setattr(digests, "_hash", lambda stream: hashed.append(stream.name) or digest(stream))
    monkeypatch.setattr(workspace, "read_coco", lambda *a, **k: annotations.append(a) or coco(*a, **k))
    shared = Workspace()
    together = [go(*point, out="together", space=shared) for point in points]
    for first, other in zip(alone, together, strict=True):
        for name in ("predictions.json", "metrics.json", "candidates.json", "store_keys.json"):
            assert (first / name).read_bytes() == (other / name).read_bytes(), name
    images = [name for name in hashed if str(name).endswith(".png")]
    assert len(images) == len(set(images)) == 7
    assert len(annotations) == 2


def test_a_workspace_notices_what_changes_between_two_points(go, tiny, tmp_path):
    root, shared = Path(shutil.copytree(tiny, tmp_path / "copy")), Workspace()
    go(root=root, space=shared)
    (root / "images" / "targets_1.png").write_bytes(b"no image any more")
    with pytest.raises(Exception, match=r"targets_1\.png is not an image"):
        go("seed=1", root=root, space=shared)


def test_other_models_are_built_anew(models):
    first = compose_config(list(SMALL))
    placement = apply_runtime(first.runtime, local_rank=0)
    space = Workspace()
    backbone = space.model("backbone", first.backbone, placement)
    assert space.model("backbone", compose_config(list(SMALL)).backbone, placement) is backbone
    other = compose_config(["backbone.input_size=64"])
    assert space.model("backbone", other.backbone, placement).input_size == 64
    segmenter = space.model("segmenter", first.segmenter, placement)
    assert space.model("segmenter", first.segmenter, placement) is segmenter
    assert space.model("segmenter", other.segmenter, placement) is not segmenter


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_log_does_not_hide_the_error(tmp_path, capfd):
    (tmp_path / "run.log").symlink_to("/dev/full")

    def fail() -> None:
        with file_logging(tmp_path):
            logging.getLogger("ntt").warning("cannot be written")
            raise ValueError("the real one")

    with pytest.raises(ValueError, match="the real one"):
        fail()
    assert "No space left" not in capfd.readouterr().err
