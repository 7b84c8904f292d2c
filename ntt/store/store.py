"""Content-addressed store of what costs the most: candidates of target images and features of references.

An entry's key is the digest of everything that decides its content and of nothing else: the bytes of the image, the
fingerprints of the models, the preprocessing. Seeds, shots, classes, matchers, file names and the number of processes
are not in it, so that every run that asks for the same thing finds the same entry.

An entry is one safetensors file, `<store>/<kind>/<first two digits>/<key>.safetensors`, written under a temporary
name and renamed. There are no locks: two processes that compute the same entry write the same bytes. The file carries
its own key and a checksum; an entry that does not agree with them is reported and treated as absent.
"""

import contextlib
import hashlib
import json
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from ntt.base.files import atomic_path, write_bytes
from ntt.store.cache import CandidateMemory
from ntt.types import Candidates, ReferenceFeature

_LOG = logging.getLogger(__name__)
_FORMAT = 1
_DAMAGE = (OSError, safetensors.SafetensorError, KeyError, TypeError, ValueError, AttributeError)

SUFFIX = ".safetensors"
USE_RESOLUTION_S = 24 * 3600.0
"""The time of an entry's file is the time of its last use, to within this many seconds."""

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Store:
    """A folder of entries; see the module's description.

    Attributes:
        memory: where loaded candidates are kept for the next run; None: nowhere.
        used: kind and key of every entry that was read or written through this object.
        written: those of them that were written.
    """

    root: Path
    memory: CandidateMemory | None = None
    used: set[tuple[str, str]] = field(default_factory=set, compare=False)
    written: set[tuple[str, str]] = field(default_factory=set, compare=False)

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
        return self.root / kind / key[:2] / f"{key}{SUFFIX}"

    def read(self, kind: str, key: str) -> tuple[Arrays, dict[str, str]] | None:
        """Return an entry's arrays and notes, or None if there is no such entry or it is damaged."""
        path = self.path(kind, key)
        try:
            entry = load_entry(path, key)
        except FileNotFoundError:
            return None
        except _DAMAGE as error:
            _LOG.warning("Stored entry %s is damaged (%s); it will be computed again.", path, error)
            return None
        self._note_use(kind, key, path)
        return entry

    def holds(self, kind: str, key: str) -> bool:
        """Say whether there is an entry, without looking into it; who asks will need it, so this counts as use."""
        path = self.path(kind, key)
        if not path.is_file():
            return False
        _renew_time(path)
        return True

    def write(self, kind: str, key: str, arrays: Arrays, *, notes: Mapping[str, str]) -> None:
        """Write an entry; one that exists is replaced.

        Raises:
            StorageError: if the disk is full or the folder cannot be written.
        """
        header = {**notes, "format": str(_FORMAT), "key": key, "checksum": _checksum(arrays, notes)}
        # One note that holds all: safetensors writes several in an order that changes from process to process.
        packed = {"entry": json.dumps(header, sort_keys=True)}
        write_bytes(self.path(kind, key), safetensors.numpy.save(arrays, metadata=packed))
        self.used.add((kind, key))
        self.written.add((kind, key))

    def read_candidates(self, key: str) -> Candidates | None:
        """Return the candidates of one image, or None."""
        known = None if self.memory is None else self.memory.get(key)
        if known is not None:
            self.used.add(("candidates", key))
            return known
        entry = self.read("candidates", key)
        if entry is None:
            return None
        candidates = _candidates_from(*entry)
        if self.memory is not None:
            self.memory.put(key, candidates)
        return candidates

    def count_candidates(self, key: str) -> int | None:
        """Return how many candidates an entry holds, by its header and size alone; None where they are not as written.

        Damage of the values is found by `read_candidates`.
        """
        path = self.path("candidates", key)
        try:
            # The format's reader compares the header with the file's size, so a truncated file is found.
            with safetensors.safe_open(path, framework="np") as entry:
                _check_name(json.loads(entry.metadata()["entry"]), key)
                count = int(entry.get_slice("predicted_iou").get_shape()[0])
        except FileNotFoundError:
            return None
        except _DAMAGE as error:
            _LOG.warning("Stored entry %s is damaged (%s); it will be computed again.", path, error)
            return None
        self._note_use("candidates", key, path)
        return count

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
        if self.memory is not None:
            self.memory.put(key, candidates)

    def read_reference(self, key: str) -> ReferenceFeature | None:
        """Return the features of one reference instance, or None."""
        entry = self.read("references", key)
        return None if entry is None else ReferenceFeature(entry[0]["feature"], entry[0].get("background"))

    def write_reference(self, key: str, found: ReferenceFeature) -> None:
        """Write the features of one reference instance."""
        arrays: Arrays = {"feature": found.instance}
        if found.background is not None:
            arrays["background"] = found.background
        self.write("references", key, arrays, notes={})

    def _note_use(self, kind: str, key: str, path: Path) -> None:
        """Remember that an entry was used; its file's time says on which day it last was."""
        self.used.add((kind, key))
        _renew_time(path)


def _renew_time(path: Path) -> None:
    """Set the time of an entry's file to now, at most once in `USE_RESOLUTION_S`."""
    with contextlib.suppress(OSError):  # a store of somebody else's may be read, too
        if time.time() - path.stat().st_mtime > USE_RESOLUTION_S:
            os.utime(path)


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


def load_entry(path: Path, key: str) -> tuple[Arrays, dict[str, str]]:
    """Read an entry and compare it with its checksum.

    Args:
        path: of the entry.
        key: what its name says it holds.

    Returns:
        Its arrays and notes.

    Raises:
        FileNotFoundError: if there is none.
        OSError, SafetensorError, KeyError, TypeError, ValueError, AttributeError: if it is damaged or another's.
    """
    data = path.read_bytes()
    arrays: Arrays = safetensors.numpy.load(data)
    header_length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + header_length])
    notes: dict[str, str] = json.loads(header["__metadata__"]["entry"])
    _check_name(notes, key)
    del notes["format"], notes["key"]
    if notes.pop("checksum") != _checksum(arrays, notes):
        raise ValueError("its content does not fit its checksum")
    return arrays, notes


def damage(path: Path) -> str | None:
    """Say what is wrong with an entry; None for nothing."""
    try:
        load_entry(path, path.name.removesuffix(SUFFIX))
    except _DAMAGE as error:
        return str(error)
    return None


def _check_name(notes: Mapping[str, str], key: str) -> None:
    if notes.get("key") != key:
        raise ValueError("it does not hold what its name says")
    if notes.get("format") != str(_FORMAT):
        raise ValueError(f"it is of format {notes.get('format')}, this program writes {_FORMAT}")


def _checksum(arrays: Arrays, notes: Mapping[str, str]) -> str:
    """Digest names, types, shapes, values and notes."""
    state = hashlib.blake2b(digest_size=16)
    state.update(json.dumps(sorted((k, v) for k, v in notes.items()), separators=(",", ":")).encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        state.update(f"{name}|{array.dtype.str}|{array.shape}".encode())
        state.update(array.tobytes())
    return state.hexdigest()
