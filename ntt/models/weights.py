"""Official checkpoints: finding, downloading, verifying and reading them.

The registry is `ntt/models/checkpoints.json`. Paths below the weights folder are those of the published instructions,
such as `checkpoints/sam2_hiera_large.pt` and `checkpoints/dinov2/dinov2_vitl14_pretrain.pth`.
"""

import json
import os
import pickle
import shlex
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from ntt.base.digests import sha256_of
from ntt.base.download import download, mirrored_urls
from ntt.base.project import WEIGHTS_ROOT
from ntt.errors import ConfigError, DownloadError, WeightsError

MIRROR_VARIABLE = "NTT_WEIGHTS_MIRROR"
OFFLINE_VARIABLE = "NTT_OFFLINE"
DEFAULT_ROOT = Path(WEIGHTS_ROOT)


@dataclass(frozen=True)
class Checkpoint:
    """One official file; `path` is relative to the weights folder, `size_mb` its approximate size in 10^6 bytes."""

    name: str
    url: str
    sha256: str
    path: str
    size_mb: int = 0
    licence: str = ""


@cache
def checkpoints() -> Mapping[str, Checkpoint]:
    """Return all registered checkpoints by name."""
    table = json.loads(resources.files("ntt.models").joinpath("checkpoints.json").read_text(encoding="utf-8"))
    return {name: Checkpoint(name=name, **entry) for name, entry in table["checkpoints"].items()}


def checkpoint(name: str) -> Checkpoint:
    """Look a checkpoint up; the ConfigError for an unknown name lists all."""
    if name not in checkpoints():
        raise ConfigError(f"No checkpoint is called {name!r}. Known names: {', '.join(checkpoints())}.")
    return checkpoints()[name]


def fetch_command(name: str, root: Path) -> str:
    """Return the shell command that fetches checkpoint `name` into the weights folder `root`."""
    option = "" if root == DEFAULT_ROOT else f" --root {shlex.quote(str(root))}"
    return f"ntt weights get {name}{option}"


def locate(name: str, root: Path) -> Path:
    """Return the path of a checkpoint below the weights folder `root`; a WeightsError if it does not exist."""
    path = root / checkpoint(name).path
    if not path.is_file():
        raise WeightsError(
            f"The weights {name} are missing: {path} does not exist. Fetch them with `{fetch_command(name, root)}`."
        )
    return path


@dataclass(frozen=True)
class WeightsFile:
    """The weights file of a model: the official one, which must have the registered sha256, or a user's own."""

    path: Path
    expected_sha256: str | None = None

    @classmethod
    def find(cls, model: str, own_file: str | None, root: Path, *, setting: str) -> "WeightsFile":
        """Look for `own_file`, the value of `setting`, else the official file below `root`; else a WeightsError."""
        if own_file is None:
            return cls(locate(model, root), checkpoint(model).sha256)
        path = Path(own_file).expanduser()
        if not path.is_file():
            raise WeightsError(
                f"The weights file {path} of {model} does not exist. Fetch the official one with "
                f"`{fetch_command(model, DEFAULT_ROOT)}`, or set {setting} to your file."
            )
        return cls(path)

    @property
    def digest(self) -> str:
        """The sha256 of the file; a WeightsError if it is not the one expected."""
        return checked_digest(self.path, self.expected_sha256)


def is_offline() -> bool:
    """Return whether the environment variable NTT_OFFLINE forbids network access; a ConfigError for other values."""
    value = os.environ.get(OFFLINE_VARIABLE, "").strip().lower()
    if value not in ("1", "true", "yes", "", "0", "false", "no"):
        raise ConfigError(f"{OFFLINE_VARIABLE}={value!r} is not understood. Set it to 1 (no network access) or 0.")
    return value in ("1", "true", "yes")


def fetch(name: str, root: Path, *, mirror: str | None = None, offline: bool = False) -> Path:
    """Make sure a registered checkpoint is on disk below `root`, created if need be, and intact; else download it.

    `mirror` is a base URL that replaces the official host, or of a copy of a weights folder; None: the environment
    variable NTT_WEIGHTS_MIRROR, else the official host. `offline` does not use the network, as with NTT_OFFLINE=1 in
    the environment.

    A ConfigError if the name is not known or the mirror is no http(s) URL, a WeightsError if the file is not available
    or has another sha256 than registered, a StorageError if the disk is full or not writable.
    """
    entry = checkpoint(name)
    path = root / entry.path
    if path.is_file():
        checked_digest(path, entry.sha256)
        return path
    if offline or is_offline():
        raise WeightsError(
            f"The weights {name} are missing: {path} does not exist, and network access is switched off (offline "
            f"setting or {OFFLINE_VARIABLE}). Download {entry.url} to that path."
        )
    mirror = mirror if mirror is not None else os.environ.get(MIRROR_VARIABLE) or None
    urls = [entry.url] if mirror is None else mirrored_urls(mirror, entry.url, entry.path)
    try:
        download(urls, path, sha256=entry.sha256, label=f"weights {name}")
    except DownloadError as error:
        raise WeightsError(f"{error} A mirror is named with --mirror URL or {MIRROR_VARIABLE}=URL.") from error
    return path


def checked_digest(path: Path, expected_sha256: str | None = None) -> str:
    """Return the sha256 of a weights file; a WeightsError if it is not the expected one (None: any) or unreadable."""
    try:
        digest = sha256_of(path)
    except OSError as error:
        raise WeightsError(f"The file {path} cannot be read: {error.strerror or error}.") from error
    if expected_sha256 is not None and digest != expected_sha256.lower():
        raise WeightsError(
            f"The weights file {path} is damaged or another file: its sha256 is {digest}, expected {expected_sha256}. "
            f"{_remedy(path)}"
        )
    return digest


def load_state_dict(path: Path, *, expected_sha256: str | None = None) -> dict[str, torch.Tensor]:
    """Read named tensors from a checkpoint onto the CPU, without running any code in it.

    It is a `.safetensors` file, or one written by `torch.save` that holds a state dict, perhaps under the key "model"
    or "state_dict". A WeightsError if it is missing, damaged, contains code, is no state dict, or has another digest
    than `expected_sha256`, in hex.
    """
    if not path.is_file():
        raise WeightsError(f"The weights file {path} does not exist. {_remedy(path)}")
    if expected_sha256 is not None:
        checked_digest(path, expected_sha256)
    return _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)


def require_model(
    state: Mapping[str, torch.Tensor], path: Path, identified: str | None, expected: str, *, setting: str
) -> None:
    """Raise a WeightsError unless a checkpoint was `identified` as that of the model that `setting` asks for."""
    if identified == expected:
        return
    tensors = ", ".join(list(state)[:3])
    held = f"are those of {identified}" if identified else f"({tensors}, ...) are of no model in the official layout"
    raise WeightsError(
        f"The weights file {path} was given for {setting}={expected}, but its tensors {held}. Fetch the official file "
        f"with `{fetch_command(expected, DEFAULT_ROOT)}`" + (f", or set {setting}={identified}." if identified else ".")
    )


def _remedy(path: Path) -> str:
    """Return what to do about a bad file: the fetch command if the path ends like that of a registered checkpoint."""
    for entry in checkpoints().values():
        relative = Path(entry.path).parts
        if path.parts[-len(relative) :] == relative:
            command = fetch_command(entry.name, Path(*path.parts[: -len(relative)]))
            return f"{'Move it away, then fetch it' if path.exists() else 'Fetch it'} with `{command}`."
    return "Give the path of a checkpoint saved by torch.save (a state dict) or of a .safetensors file."


def _read_torch(path: Path) -> dict[str, torch.Tensor]:
    try:
        with warnings.catch_warnings():
            # torch warns about unusual pickle protocols; only the outcome, an error or tensors, matters.
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "global" in str(error).lower() or "unsupported class" in str(error).lower():
            raise WeightsError(
                f"The weights file {path} is refused: it contains Python objects that would run code when loaded. "
                "Save its state dict alone (`torch.save(model.state_dict(), path)`) on a machine that trusts it."
            ) from error
        raise WeightsError(f"The file {path} is not a checkpoint, or is damaged. {_remedy(path)}") from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise WeightsError(
            f"The weights file {path} ({path.stat().st_size} bytes) is truncated or damaged. {_remedy(path)}"
        ) from error
    return _state_dict_of(content, path)


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path, device="cpu")
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"The weights file {path} is truncated or damaged: {error}. {_remedy(path)}") from error


def _state_dict_of(content: Any, path: Path) -> dict[str, torch.Tensor]:
    for key in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        raise WeightsError(f"The file {path} holds a {type(content).__name__}, not a state dict. {_remedy(path)}")
    foreign = [str(key) for key, value in content.items() if not (isinstance(key, str) and torch.is_tensor(value))]
    if foreign or not content:
        problem = f"has entries that are not named tensors, such as {foreign[0]!r}" if foreign else "is empty"
        raise WeightsError(f"The file {path} is not a state dict: it {problem}. {_remedy(path)}")
    return dict(content)
