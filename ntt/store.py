"""Content-addressed store of what costs the most: candidates of target images and features of references.

An entry's key is the digest of everything that decides its content and of nothing else: the bytes of the image, the
fingerprints of the models, the preprocessing. Seeds, shots, classes, matchers, file names and the number of processes
are not in it, so that every run that asks for the same thing finds the same entry.

An entry is one safetensors file, `<store>/<kind>/<first two digits>/<key>.safetensors`, written under a temporary
name and renamed. There are no locks: two processes that compute the same entry write the same bytes. The file carries
its own key and a checksum; an entry that does not agree with them is reported and treated as absent.
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from ntt.files import atomic_path, write_bytes
from ntt.types import Candidates

_LOG = logging.getLogger(__name__)
_FORMAT = 1
Arrays = dict[str, npt.NDArray[Any]]


def content_key(facts: Mapping[str, Any]) -> str:
    """Return the sha256 hex digest of JSON-able facts, independent of their order."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Return the sha256 hex digest of a file's bytes."""
    state = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            state.update(block)
    return state.hexdigest()


@dataclass(frozen=True)
class Store:
    """A folder of entries; see the module's description."""

    root: Path

    def check_writable(self) -> None:
        """Find out before any long work whether entries can be written.

        Raises:
            StorageError: if they cannot.
        """
        with atomic_path(self.root / ".writable") as temporary:
            temporary.touch()
        (self.root / ".writable").unlink(missing_ok=True)

    def path(self, kind: str, key: str) -> Path:
        """Return where an entry lies or would lie."""
        return self.root / kind / key[:2] / f"{key}.safetensors"

    def read(self, kind: str, key: str) -> tuple[Arrays, dict[str, str]] | None:
        """Return an entry's arrays and notes, or None if there is no such entry or it is damaged."""
        path = self.path(kind, key)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            arrays, notes = _unpack(data)
            found = (notes.pop("format"), notes.pop("key"), notes.pop("checksum"))
        except (safetensors.SafetensorError, KeyError, ValueError) as error:
            _LOG.warning("Stored entry %s is damaged (%s); it will be computed again.", path, error)
            return None
        if found != (str(_FORMAT), key, _checksum(arrays, notes)):
            _LOG.warning("Stored entry %s does not hold what its name says; it will be computed again.", path)
            return None
        return arrays, notes

    def write(self, kind: str, key: str, arrays: Arrays, *, notes: Mapping[str, str]) -> None:
        """Write an entry; one that exists is replaced.

        Raises:
            StorageError: if the disk is full or the folder cannot be written.
        """
        header = {**notes, "format": str(_FORMAT), "key": key, "checksum": _checksum(arrays, notes)}
        # One note that holds all: safetensors writes several in an order that changes from process to process.
        packed = {"entry": json.dumps(header, sort_keys=True)}
        write_bytes(self.path(kind, key), safetensors.numpy.save(arrays, metadata=packed))

    def read_candidates(self, key: str) -> Candidates | None:
        """Return the candidates of one image, or None."""
        entry = self.read("candidates", key)
        return None if entry is None else _candidates_from(*entry)

    def write_candidates(self, key: str, candidates: Candidates, *, feature_dtype: str) -> None:
        """Write the candidates of one image, features in `feature_dtype` (they are already rounded to it)."""
        lengths = np.array([len(rle) for rle in candidates.rles], dtype=np.int64)
        arrays: Arrays = {
            "rle_bytes": np.frombuffer(b"".join(candidates.rles), dtype=np.uint8),
            "rle_lengths": lengths,
            "grid_boxes_xyxy": candidates.grid_boxes_xyxy,
            "predicted_iou": candidates.predicted_iou,
            "features": candidates.features.astype(feature_dtype),
        }
        notes = {"height": str(candidates.height), "width": str(candidates.width)}
        self.write("candidates", key, arrays, notes=notes)

    def read_feature(self, key: str) -> npt.NDArray[np.float32] | None:
        """Return the float32 [D] feature vector of one reference instance, or None."""
        entry = self.read("references", key)
        return None if entry is None else entry[0]["feature"]

    def write_feature(self, key: str, feature: npt.NDArray[np.float32]) -> None:
        """Write the float32 [D] feature vector of one reference instance."""
        self.write("references", key, {"feature": feature}, notes={})


def _candidates_from(arrays: Arrays, notes: Mapping[str, str]) -> Candidates:
    ends = np.cumsum(arrays["rle_lengths"])
    data = arrays["rle_bytes"].tobytes()
    starts = np.concatenate([[0], ends[:-1]]) if len(ends) else ends
    return Candidates(
        height=int(notes["height"]),
        width=int(notes["width"]),
        rles=tuple(data[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)),
        grid_boxes_xyxy=arrays["grid_boxes_xyxy"],
        predicted_iou=arrays["predicted_iou"],
        features=arrays["features"].astype(np.float32),
    )


def _unpack(data: bytes) -> tuple[Arrays, dict[str, str]]:
    """Read a safetensors file held in memory: its arrays and its notes."""
    arrays = safetensors.numpy.load(data)
    header_length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + header_length])
    return arrays, dict(json.loads(header["__metadata__"]["entry"]))


def _checksum(arrays: Arrays, notes: Mapping[str, str]) -> str:
    """Digest names, types, shapes, values and notes."""
    state = hashlib.blake2b(digest_size=16)
    state.update(json.dumps(sorted((k, v) for k, v in notes.items()), separators=(",", ":")).encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        state.update(f"{name}|{array.dtype.str}|{array.shape}".encode())
        state.update(array.tobytes())
    return state.hexdigest()
