"""Files of entries, and what is believed of them.

An entry is one safetensors file that carries its own key and a checksum. Candidates are also inspected when they
are written and when they are read: an entry with a right checksum and impossible values is as damaged as a torn one.
"""

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy
import torch

from ntt.ops.rle_text import run_lengths_problem
from ntt.types import Candidates

FORMAT = 2
DAMAGE = (OSError, safetensors.SafetensorError, KeyError, TypeError, ValueError, AttributeError)
"""What reading a damaged entry raises."""

# Sides of mask grids, and lengths of unit vectors after rounding to half precision.
_MOST_GRID_PX, _MOST_FEATURE = 65_536, 1.01

Arrays = dict[str, npt.NDArray[Any]]


def entry_bytes(key: str, arrays: Arrays, notes: Mapping[str, str]) -> bytes:
    """Return the file of an entry; the same content gives the same bytes."""
    header = {**notes, "format": str(FORMAT), "key": key, "checksum": _checksum(arrays, notes)}
    # One note that holds all: safetensors writes several in an order that changes from process to process.
    return safetensors.numpy.save(arrays, metadata={"entry": json.dumps(header, sort_keys=True)})


def load_entry(path: Path, key: str) -> tuple[Arrays, dict[str, str]]:
    """Read an entry and compare it with its checksum.

    Args:
        path: of the entry.
        key: the content its name states.

    Returns:
        Its arrays and notes.

    Raises:
        FileNotFoundError: if there is none.
        DAMAGE: if it is damaged or another's.
    """
    data = path.read_bytes()
    arrays: Arrays = safetensors.numpy.load(data)
    header_length = int.from_bytes(data[:8], "little")
    notes = _notes(json.loads(data[8 : 8 + header_length])["__metadata__"], key)
    del notes["format"], notes["key"]
    if notes.pop("checksum") != _checksum(arrays, notes):
        raise ValueError("its content does not fit its checksum")
    return arrays, notes


def count_rows(path: Path, key: str, name: str) -> int:
    """Return the number of rows of one array, by an entry's header and size alone; raises as `load_entry`."""
    with safetensors.safe_open(path, framework="np") as entry:  # compares the header with the file's size
        _notes(entry.metadata(), key)
        return int(entry.get_slice(name).get_shape()[0])


def candidates_to_arrays(candidates: Candidates, feature_dtype: str) -> tuple[Arrays, dict[str, str]]:
    """Return candidates as arrays and notes, features in a precision that holds them without loss."""
    arrays: Arrays = {
        "rle_bytes": np.frombuffer(b"".join(candidates.rles), dtype=np.uint8),
        "rle_lengths": np.array([len(rle) for rle in candidates.rles], dtype=np.int64),
        "grid_boxes_xyxy": candidates.grid_boxes_xyxy,
        "predicted_iou": candidates.predicted_iou,
        "features": candidates.features.astype(feature_dtype),
    }
    return arrays, {"height": str(candidates.height), "width": str(candidates.width)}


def candidates_from_arrays(arrays: Arrays, notes: Mapping[str, str]) -> Candidates:
    """Return the candidates that an entry holds.

    Raises:
        KeyError, ValueError: for impossible values.
    """
    height, width = int(notes["height"]), int(notes["width"])
    lengths, boxes, text = arrays["rle_lengths"], arrays["grid_boxes_xyxy"], arrays["rle_bytes"]
    _check_shapes(arrays)
    # NumPy takes twenty times as long for this.
    features = torch.from_numpy(arrays["features"]).float().numpy()
    _check_range("grid_boxes_xyxy", boxes, 0, _MOST_GRID_PX)
    _check_range("predicted_iou", arrays["predicted_iou"], 0, 1)
    _check_range("features", features, -_MOST_FEATURE, _MOST_FEATURE)
    if (boxes[:, 2:] < boxes[:, :2]).any():
        raise ValueError("grid_boxes_xyxy end before they begin")
    problem = run_lengths_problem(text, lengths, height * width)
    if problem is not None:
        raise ValueError(problem)
    data, ends = text.tobytes(), np.cumsum(lengths)
    spans = zip((ends - lengths).tolist(), ends.tolist(), strict=True)
    return Candidates(
        height=height,
        width=width,
        rles=tuple(data[start:end] for start, end in spans),
        grid_boxes_xyxy=boxes,
        predicted_iou=arrays["predicted_iou"],
        features=features,
    )


def _check_shapes(arrays: Arrays) -> None:
    lengths = arrays["rle_lengths"]
    count = len(lengths)
    expected = {
        "rle_lengths": (np.int64, (count,)),
        "rle_bytes": (np.uint8, (int(lengths.sum()),)),
        "grid_boxes_xyxy": (np.float32, (count, 4)),
        "predicted_iou": (np.float32, (count,)),
        "features": (arrays["features"].dtype, (count, arrays["features"].shape[1])),
    }
    for name, (dtype, shape) in expected.items():
        if arrays[name].dtype != dtype or arrays[name].shape != shape:
            raise ValueError(f"{name} is {arrays[name].dtype} {arrays[name].shape}, expected is {shape}")


def _check_range(name: str, values: npt.NDArray[Any], least: float, most: float) -> None:
    """Raise ValueError unless all values are numbers of a range."""
    if values.size and not (values.min() >= least and values.max() <= most):
        raise ValueError(f"{name} has values that are not numbers from {least:g} to {most:g}")


def _notes(metadata: Mapping[str, str], key: str) -> dict[str, str]:
    """Return the metadata of an entry whose content matches its name."""
    notes: dict[str, str] = json.loads(metadata["entry"])
    if notes.get("key") != key:
        raise ValueError("its content does not match its name")
    if notes.get("format") != str(FORMAT):
        raise ValueError(f"it is of format {notes.get('format')}, this program writes {FORMAT}")
    return notes


def _checksum(arrays: Arrays, notes: Mapping[str, str]) -> str:
    """Return a CRC of names, types, shapes, values and notes."""
    layout = [[name, arrays[name].dtype.str, arrays[name].shape] for name in sorted(arrays)]
    checksum = zlib.crc32(json.dumps([sorted(notes.items()), layout]).encode())
    for name in sorted(arrays):
        checksum = zlib.crc32(np.ascontiguousarray(arrays[name]).data, checksum)
    return f"{checksum:08x}"
