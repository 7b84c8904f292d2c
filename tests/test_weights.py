import hashlib
import io
import json
import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import cases
from safetensors.torch import save_file

from ntt.cli.main import main
from ntt.errors import ConfigError, WeightsError
from ntt.models import weights
from ntt.models.weights import (
    Checkpoint,
    checked_digest,
    checkpoints,
    fetch,
    is_offline,
    load_state_dict,
    locate,
)
from tests.http_server import Site, serve

CONTENT = b"weights" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch) -> None:
    monkeypatch.delenv("NTT_OFFLINE", raising=False)
    monkeypatch.delenv("NTT_WEIGHTS_MIRROR", raising=False)
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def site(monkeypatch) -> Iterator[Site]:
    """A server with one of two small checkpoints that take the place of the official ones."""
    with serve(Site(files={"official/tiny.pt": CONTENT})) as running:
        entries = {
            "tiny": Checkpoint("tiny", f"{running.url}/official/tiny.pt", SHA256, "sub/tiny.pt", 5, "MIT"),
            "other": Checkpoint("other", f"{running.url}/official/other.pt", "0" * 64, "other.pt"),
        }
        monkeypatch.setattr(weights, "checkpoints", lambda: entries)
        yield running


def test_registry_agrees_with_the_given_list(shared_dir):
    given = json.loads((shared_dir / "checkpoints.json").read_text())
    given.pop("note")
    assert {name: {"url": e.url, "sha256": e.sha256} for name, e in checkpoints().items()} == given


def test_missing_weights_name_the_command_and_unknown_names_the_known_ones(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"No checkpoint is called 'sam3'\. Known names: sam2_hiera_tiny, "):
        locate("sam3", tmp_path)
    monkeypatch.chdir(tmp_path)
    path = Path("checkpoints/dinov2/dinov2_vits14_pretrain.pth")
    with pytest.raises(WeightsError, match=f"{path} does not exist. Fetch them with `ntt weights get dinov2_vits14`."):
        locate("dinov2_vits14", Path("checkpoints"))
    path.parent.mkdir(parents=True)
    path.touch()
    assert locate("dinov2_vits14", Path("checkpoints")) == path
    assert weights.fetch_command("a", Path("my weights")) == "ntt weights get a --root 'my weights'"


def test_fetch_downloads_once(site, tmp_path):
    path = fetch("tiny", tmp_path)
    assert path == tmp_path / "sub" / "tiny.pt"
    assert path.read_bytes() == CONTENT
    assert fetch("tiny", tmp_path) == path
    assert len(site.requests) == 1


def test_fetch_does_not_overwrite_another_file(site, tmp_path):
    path = tmp_path / "sub" / "tiny.pt"
    path.parent.mkdir()
    path.write_bytes(b"mine")
    digest = hashlib.sha256(b"mine").hexdigest()
    with pytest.raises(WeightsError, match=f"its sha256 is {digest}, expected {SHA256}. Move it away, then fetch it"):
        fetch("tiny", tmp_path)
    assert path.read_bytes() == b"mine"
    assert site.requests == []


def test_a_failed_fetch_names_the_mirror(site, tmp_path):
    with pytest.raises(WeightsError, match=r"--mirror URL or NTT_WEIGHTS_MIRROR=URL"):
        fetch("tiny", tmp_path, mirror=f"{site.url}/nowhere")


@cases("variable", "setting")(("/copy", None), ("/nowhere", "/copy/"))
def test_fetch_uses_a_mirror(site, tmp_path, monkeypatch, variable, setting):
    site.files = {"copy/sub/tiny.pt": CONTENT}
    monkeypatch.setenv("NTT_WEIGHTS_MIRROR", site.url + variable)
    path = fetch("tiny", tmp_path, mirror=None if setting is None else site.url + setting)
    assert path.read_bytes() == CONTENT
    assert [path for path, _ in site.requests] == ["copy/official/tiny.pt", "copy/sub/tiny.pt"]


def test_offline_fetch_takes_what_is_there_and_asks_for_nothing(site, tmp_path, monkeypatch):
    monkeypatch.setenv("NTT_OFFLINE", "1")
    with pytest.raises(WeightsError, match=f"Download {site.url}/official/tiny.pt to that path"):
        fetch("tiny", tmp_path)
    monkeypatch.delenv("NTT_OFFLINE")
    with pytest.raises(WeightsError, match="network access is switched off"):
        fetch("tiny", tmp_path, offline=True)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "tiny.pt").write_bytes(CONTENT)
    assert fetch("tiny", tmp_path, offline=True) == tmp_path / "sub" / "tiny.pt"
    assert site.requests == []


def test_offline_switch(monkeypatch):
    for value, offline in {"1": True, "true": True, "YES": True, "0": False, "": False}.items():
        monkeypatch.setenv("NTT_OFFLINE", value)
        assert is_offline() is offline
    monkeypatch.setenv("NTT_OFFLINE", "maybe")
    with pytest.raises(ConfigError, match=r"NTT_OFFLINE='maybe' is not understood\. Set it to 1"):
        is_offline()


STATE = {"b.weight": torch.arange(6.0).view(2, 3), "a": torch.tensor(7)}


def _assert_is_state(state: dict[str, torch.Tensor]) -> None:
    assert set(state) == set(STATE)
    assert all(torch.equal(state[name], STATE[name]) for name in STATE)


@cases("zipped")(True, False)
@cases("content")(STATE, {"model": STATE, "epoch": 3}, {"state_dict": STATE})
def test_state_dicts_are_read_wrapped_or_not(tmp_path, content, zipped):
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    _assert_is_state(load_state_dict(tmp_path / "a.pth"))


def test_safetensors_are_read_and_missing_files_name_the_command(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file(STATE, path)
    _assert_is_state(load_state_dict(path, expected_sha256=checked_digest(path).upper()))
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(WeightsError, match="is truncated or damaged"):
        load_state_dict(path)
    with pytest.raises(WeightsError, match=f"its sha256 is {checked_digest(path)}, expected {'1' * 64}"):
        load_state_dict(path, expected_sha256="1" * 64)
    with pytest.raises(WeightsError, match="Fetch it with `ntt weights get sam2_hiera_tiny --root"):
        load_state_dict(tmp_path / "sam2_hiera_tiny.pt")
    with pytest.raises(WeightsError, match=r"mine.pt does not exist\. Give the path of a checkpoint"):
        load_state_dict(tmp_path / "mine.pt")
    with pytest.raises(WeightsError, match=r"none cannot be read: No such file or directory\."):
        checked_digest(tmp_path / "none")


def _saved(content: object, **options: bool) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, **options)
    return stream.getvalue()[:20_000]


@cases("content", "problem")(
    (_saved({"a": torch.zeros(10_000)}), r"\(20000 bytes\) is truncated or damaged\. Move it away, then fetch it"),
    (_saved({"a": torch.zeros(10_000)}, _use_new_zipfile_serialization=False), "is truncated or damaged"),
    (b"<!DOCTYPE html>", "is not a checkpoint, or is damaged"),
    (b"PK\x03\x04nothing", "damaged"),
    (_saved(torch.zeros(2)), "holds a Tensor, not a state dict"),
    (_saved({}), "is not a state dict: it is empty"),
    (_saved({"a": 1}), "it has entries that are not named tensors, such as 'a'"),
    (_saved({3: torch.zeros(1)}), "it has entries that are not named tensors, such as '3'"),
)
def test_files_without_a_state_dict_are_refused(tmp_path, content, problem):
    path = tmp_path / "dinov2" / "dinov2_vits14_pretrain.pth"
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=f"{problem}.*`ntt weights get dinov2_vits14 --root {tmp_path}`"):
        load_state_dict(path)


class _Attack:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.mark),)


def test_code_in_a_file_is_never_run(tmp_path):
    path, mark = tmp_path / "a.pth", tmp_path / "was_run"
    path.write_bytes(pickle.dumps({"a": _Attack(mark)}, protocol=2))
    with pytest.raises(WeightsError):
        load_state_dict(path)
    torch.save({"a": _Attack(mark)}, path)
    with pytest.raises(WeightsError, match="is refused: it contains Python objects that would run code when loaded"):
        load_state_dict(path)
    assert not mark.exists()


def test_command_get(site, tmp_path, capsys, monkeypatch, cli):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert main(["weights", "get", "tiny", "--root", str(tmp_path), "--mirror", site.url]) == 0
    out, err = capsys.readouterr()
    assert out == f"tiny: {tmp_path / 'sub/tiny.pt'} (sha256 verified)\n"
    assert "tiny: 100%" in err
    assert "No checkpoint is called 'typo'" in cli("weights", "get", "other", "typo", "--root", tmp_path, status=2)
    offline = cli("weights", "get", "other", "--root", tmp_path, "--offline", status=2)
    assert "The weights other are missing" in offline
    assert len(site.requests) == 1


def test_command_list_names_size_licence_and_options(cli):
    rows = {line.split()[0]: line.split()[1:] for line in cli("weights", "list").splitlines()[1:] if line}
    assert rows["dinov2_vitg14"] == ["4,546", "Apache-2.0", "no", "backbone=dinov2_vitg14"]
    options = [f"segmenter=sam2{end}" for end in ("", "_grid16", "_grid64", "_large", "_no_mem_embed")]
    assert rows["sam2_hiera_large"][3:] == options
    assert all(entry.size_mb and entry.licence for entry in checkpoints().values())


def test_command_list(site, tmp_path, cli):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "tiny.pt").write_bytes(bytes(3_000_000))
    lines = cli("weights", "list", "--root", tmp_path).splitlines()
    assert lines[0].split() == ["checkpoint", "MB", "licence", "on", "disk", "needed", "by"]
    assert lines[1].split() == ["tiny", "5", "MIT", "yes"]
    assert lines[2].split() == ["other", "0", "no"]


@cases("settings", "names")(
    (["backbone=dinov2_vits14", "segmenter=sam2_tiny"], ["dinov2_vits14", "sam2_hiera_tiny"]),
    (["experiment=coco_novel20"], ["dinov2_vitl14", "sam2_hiera_large"]),
    (["backbone=dinov2_vits14", "backbone.weights=mine.pt", "seed=2"], []),
)
def test_command_get_for_a_run(settings, names, monkeypatch, cli):
    fetched: list[tuple[str, Path]] = []
    monkeypatch.setattr(weights, "fetch", lambda name, root, **rest: fetched.append((name, root)))
    out = cli("weights", "get", "--for", *settings, "runtime.weights_root=/models")
    assert fetched == [(name, Path("/models")) for name in names]
    assert ("need no checkpoint" in out) == (not names)
    assert "Name a checkpoint, or settings of a run after --for." in cli("weights", "get", status=2)


def test_command_verify(site, tmp_path, cli):
    verify = ("weights", "verify", "--root", tmp_path)
    assert "Fetch one, for example with `ntt weights get" in cli(*verify, status=2)
    path = tmp_path / "sub" / "tiny.pt"
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    assert cli(*verify) == f"tiny: ok  {path}\n"
    assert f"other: missing  {tmp_path / 'other.pt'}" in cli(*verify, "tiny", "other", status=1)
    path.write_bytes(b"bad")
    digests = f"its sha256 is {hashlib.sha256(b'bad').hexdigest()}, expected {SHA256}"
    assert cli(*verify, status=1) == f"tiny: damaged  {path}\n  {digests}\n"
