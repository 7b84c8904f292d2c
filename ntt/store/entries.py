"""Files of entries, and their checks.

An entry is a safetensors file with its own key and a checksum. Values are checked too: an entry with a correct checksum
and impossible values is as damaged as a truncated one.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy
import torch
import xxhash

from ntt.ops.run_lengths import run_lengths_problem
from ntt.types import Candidates, ProposalRecall, ReferenceFeature, RunLengths

FORMAT = 3
DAMAGE = (OSError, safetensors.SafetensorError, LookupError, TypeError, ValueError, AttributeError, RecursionError)
"""What reading a damaged entry raises."""

_MOST_GRID_PX = 8192
_NORM_ERROR = 0.01
"""Of unit vectors, by rounding to half precision."""

_MOST_PERCENT = 100
_MOST_FLOAT = float(np.finfo(np.float32).max)

Arrays = dict[str, npt.NDArray[Any]]
Notes = Mapping[str, str]


def entry_bytes(key: str, arrays: Arrays, notes: Notes) -> bytes:
    """Return the file of an entry; the same content gives the same bytes."""
    header = {**notes, "format": str(FORMAT), "key": key, "checksum": _checksum(arrays, notes)}
    # A single note for all: safetensors writes several in an order that changes from process to process.
    return safetensors.numpy.save(arrays, metadata={"entry": json.dumps(header, sort_keys=True)})


def load_entry(path: Path, key: str) -> tuple[Arrays, dict[str, str]]:
    """Return arrays and notes of an entry; a FileNotFoundError if there is none, one of `DAMAGE` if it is damaged."""
    with safetensors.safe_open(path, framework="np") as entry:
        notes = _notes(entry.metadata(), key)
        arrays: Arrays = {name: entry.get_tensor(name) for name in entry.keys()}  # noqa: SIM118
    del notes["format"], notes["key"]
    if notes.pop("checksum") != _checksum(arrays, notes):
        raise ValueError("its content does not fit its checksum")
    return arrays, notes


def count_candidates(path: Path, key: str) -> int:
    """Return how many candidates an entry holds, by its header and size alone; raises as `load_entry`."""
    with safetensors.safe_open(path, framework="np") as entry:  # compares the header with the file's size
        _notes(entry.metadata(), key)
        return int(entry.get_slice("predicted_iou").get_shape()[0])


def candidates_to_arrays(candidates: Candidates, feature_dtype: str) -> tuple[Arrays, Notes]:
    """Return candidates as arrays and notes, features in a precision that holds them without loss."""
    arrays, notes = masks_to_arrays(candidates.masks, candidates.height, candidates.width)
    arrays |= {
        "grid_boxes_xyxy": candidates.grid_boxes_xyxy,
        "predicted_iou": candidates.predicted_iou,
        "features": candidates.features.astype(feature_dtype),
    }
    return arrays, notes


def candidates_from_arrays(arrays: Arrays, notes: Notes, *, size: tuple[int, int] | None = None) -> Candidates:
    """Return the candidates, of an image of this `size`, that an entry holds; KeyError or ValueError if impossible."""
    masks = masks_from_arrays(arrays, notes, size=size)
    boxes, predicted_iou, features = arrays["grid_boxes_xyxy"], arrays["predicted_iou"], arrays["features"]
    _check_type("grid_boxes_xyxy", boxes, np.float32, (len(masks), 4))
    _check_type("predicted_iou", predicted_iou, np.float32, (len(masks),))
    dtype = np.float32 if features.dtype == np.float32 else np.float16
    _check_type("features", features, dtype, (len(masks), *features.shape[-1:]))
    # NumPy takes twenty times as long.
    features = torch.from_numpy(features).float().numpy()
    _check_range("grid_boxes_xyxy", boxes, 0, _MOST_GRID_PX)
    _check_range("predicted_iou", predicted_iou, 0, 1)
    lengths = np.sqrt(np.vecdot(features, features))
    _check_range("norm of features", np.where(lengths == 0, 1, lengths), 1 - _NORM_ERROR, 1 + _NORM_ERROR)
    if (boxes[:, 2:] < boxes[:, :2]).any():
        raise ValueError("grid_boxes_xyxy end before they begin")
    return Candidates(int(notes["height"]), int(notes["width"]), masks, boxes, predicted_iou, features)


def masks_to_arrays(masks: RunLengths, height: int, width: int) -> tuple[Arrays, Notes]:
    """Return masks of an image of this size as arrays and notes."""
    return {"mask_runs": masks.runs_R2, "mask_rows": masks.rows_N}, {"height": str(height), "width": str(width)}


def masks_from_arrays(arrays: Arrays, notes: Notes, *, size: tuple[int, int] | None = None) -> RunLengths:
    """Return the masks that an entry holds; see `candidates_from_arrays`."""
    height, width = int(notes["height"]), int(notes["width"])
    if min(height, width) < 1 or size not in (None, (height, width)):
        raise ValueError(f"its size is {height} x {width}, not that of the image")
    masks = RunLengths(arrays["mask_runs"], arrays["mask_rows"])
    _check_type("mask_runs", masks.runs_R2, np.uint16, (len(masks.runs_R2), 2))
    _check_type("mask_rows", masks.rows_N, np.int64, (len(masks),))
    problem = run_lengths_problem(masks, height * width)
    if problem is not None:
        raise ValueError(problem)
    return masks


def reference_to_arrays(feature: ReferenceFeature) -> Arrays:
    """Return the features of a reference as arrays."""
    arrays = {
        "feature": feature.instance,
        "background": feature.background,
        "clear_background": feature.clear_background,
    }
    return {name: values for name, values in arrays.items() if values is not None}


def reference_from_arrays(arrays: Arrays, _: Notes) -> ReferenceFeature:
    """Return the features of a reference that an entry holds; raises as `candidates_from_arrays`."""
    if not arrays["feature"].any():
        raise ValueError("feature is zero")
    for name, values in arrays.items():
        _check_type(name, values, np.float32, (len(arrays["feature"]),))
        _check_range(name, values, -_MOST_FLOAT, _MOST_FLOAT)
    return ReferenceFeature(arrays["feature"], arrays.get("background"), arrays.get("clear_background"))


def recall_from_notes(_: Arrays, notes: Notes) -> ProposalRecall:
    """Return the recall of candidates that an entry holds; raises as `candidates_from_arrays`."""
    recall: ProposalRecall = json.loads(notes["recall"])
    values = [percent for kind in recall for percent in recall[kind].values()]
    if not set(recall) <= {"bbox", "segm"} or not all(0 <= percent <= _MOST_PERCENT for percent in values):
        raise ValueError("its recall is not in percent of boxes and masks")
    return recall


PARSERS: Mapping[str, Callable[[Arrays, Notes], object]] = {
    "candidates": candidates_from_arrays,
    "references": reference_from_arrays,
    "box_masks": masks_from_arrays,
    "proposals": recall_from_notes,
}
"""Kind of entry -> what parses its arrays, and raises if they are impossible."""


def _check_type(name: str, values: npt.NDArray[Any], dtype: type, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless an array has this type and shape."""
    if values.dtype != dtype or values.shape != shape:
        raise ValueError(f"{name} is {values.dtype} {values.shape}, expected is {dtype.__name__} {shape}")


def _check_range(name: str, values: npt.NDArray[Any], least: float, most: float) -> None:
    """Raise ValueError unless all values are numbers of a range."""
    low, high = torch.aminmax(torch.from_numpy(values)) if values.size else (least, most)  # one pass in place of two
    if not (low >= least and high <= most):
        raise ValueError(f"{name} has values that are not numbers from {least:g} to {most:g}")


def _notes(metadata: Mapping[str, str], key: str) -> dict[str, str]:
    """Return the metadata of an entry whose content matches its name."""
    notes: dict[str, str] = json.loads(metadata["entry"])
    if notes.get("key") != key:
        raise ValueError("its content does not match its name")
    if notes.get("format") != str(FORMAT):
        raise ValueError(f"it is of format {notes.get('format')}, this program writes {FORMAT}")
    return notes


def _checksum(arrays: Arrays, notes: Notes) -> str:
    """Return a checksum of names, types, shapes, values and notes."""
    layout = [[name, arrays[name].dtype.str, arrays[name].shape] for name in sorted(arrays)]
    state = xxhash.xxh3_64(json.dumps([sorted(notes.items()), layout]).encode())
    for name in sorted(arrays):
        state.update(np.ascontiguousarray(arrays[name]).data)
    return state.hexdigest()
