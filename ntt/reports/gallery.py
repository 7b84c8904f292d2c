"""The pictures of an HTML report as data: images as JPEG, ground truth and predictions as boxes and run-length codes.

The page draws them itself, so that one copy of an image serves every run and the reader can filter.
"""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image
from pycocotools import mask as mask_api

from ntt.config.compose import restore_data
from ntt.data.coco import CocoDataset
from ntt.data.images import read_image
from ntt.drawing.colours import class_colour
from ntt.errors import DataError, NttError
from ntt.reports.summary import SETTING, name_series, shots_text
from ntt.run.artefacts import read_predictions
from ntt.run.inputs import read_inputs
from ntt.run.rundir import RunDirectory
from ntt.stages.target_pictures import drawn_instances
from ntt.types import Category, Detections, ImageId, ImageRecord, Json

MAX_SIDE_PX = 640
MAX_RUNS = 6
"""Per data set; of each setting the run with the lowest seed is taken."""

MAX_DETECTIONS = 50
"""Per image, by descending score."""

MAX_BYTES = 24e6
"""Of all images and masks together; the remainder is left out, and the page says so."""

_JPEG_QUALITY = 80


@dataclass(frozen=True)
class Gallery:
    """What the page draws, fit for JSON: one entry per data set; and sentences about what is not in it."""

    sets: tuple[Json, ...]
    notes: tuple[str, ...]


def make_gallery(runs: pd.DataFrame, *, images: int) -> Gallery:
    """Collect images, ground truth and predictions of every data set that can still be read.

    A data set that can no longer be read adds a note and does not stop the report.

    Args:
        runs: as `ntt.reports.summary.runs_frame` arranges them.
        images: per data set, spread evenly over the target images; 0 makes no gallery.
    """
    sets: list[Json] = []
    notes: list[str] = []
    budget = MAX_BYTES
    lowest_seeds = runs[runs.counted].sort_values([*SETTING, "seed"]).drop_duplicates("setting")
    for label, group in lowest_seeds.groupby("data", sort=False) if images > 0 else ():
        try:
            entry = _make_set(label, group.head(MAX_RUNS), images, budget)
        except NttError as error:
            notes.append(f"{label} is not shown: {str(error).splitlines()[0]}")
            continue
        budget -= _size(entry)
        sets.append(entry)
        if len(group) > MAX_RUNS:
            notes.append(f"{label}: {MAX_RUNS} of {len(group)} settings are shown.")
        if len(entry["images"]) < entry["total"]:
            notes.append(f"{label}: {len(entry['images'])} of {entry['total']} target images are shown.")
    return Gallery(tuple(sets), tuple(notes))


def _make_set(label: str, runs: pd.DataFrame, max_images: int, budget: float) -> Json:
    inputs = read_inputs(restore_data(runs.config.iloc[0]))
    targets = inputs.target_data
    records = list(targets.images.values())
    predictions = [_read_predictions(Path(path), records, inputs.categories) for path in runs.path]
    images: list[Json] = []
    detections: list[list[list[Json]]] = [[] for _ in predictions]
    for index in np.linspace(0, len(records) - 1, min(max_images, len(records))).round().astype(int):
        record = records[index]
        image = _image(record, targets, inputs.categories)
        rows = [_detections(of_run.get(record.id), image["scale"]) for of_run in predictions]
        budget -= _size([image, rows])
        if budget < 0:
            break
        images.append(image)
        for of_run, row in zip(detections, rows, strict=True):
            of_run.append(row)
    names = name_series(runs)
    labels = [f"{names.short[run.label]}, {shots_text(run.shots)}, seed {run.seed}" for run in runs.itertuples()]
    return {
        "label": label,
        "annotated": targets.has_annotations,
        "total": len(records),
        "classes": [{"name": c.name, "colour": class_colour(label)} for label, c in enumerate(inputs.categories)],
        "images": images,
        "runs": [{"label": name, "found": rows} for name, rows in zip(labels, detections, strict=True)],
    }


def _read_predictions(
    folder: Path, records: Sequence[ImageRecord], categories: Sequence[Category]
) -> Mapping[ImageId, Detections]:
    path = RunDirectory(folder).predictions
    try:
        return {detections.image_id: detections for detections in read_predictions(path, records, categories)}
    except (KeyError, TypeError) as error:
        raise DataError(f"{path} does not fit the data set, which has changed since the run: {error!r}.") from error


def _image(record: ImageRecord, targets: CocoDataset, categories: Sequence[Category]) -> Json:
    """Return one image with its ground truth, all reduced to the size it is shown in."""
    size = (record.height, record.width)
    scale = min(1.0, MAX_SIDE_PX / max(size))
    picture = Image.fromarray(read_image(record))
    if scale < 1:
        picture = picture.resize(_reduced_size(size, scale), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    picture.save(stream, format="JPEG", quality=_JPEG_QUALITY)
    drawn = drawn_instances(targets.instances_of_image(record.id), categories, record, masks={})
    rows = zip(drawn.labels.tolist(), drawn.boxes_xywh.tolist(), drawn.rles, drawn.iscrowd.tolist(), strict=True)
    truth = [{**_object(label, box, rle, size, scale), "crowd": crowd} for label, box, rle, crowd in rows]
    return {
        "name": record.file_name,
        "width": picture.width,
        "height": picture.height,
        "scale": scale,
        "jpeg": base64.b64encode(stream.getvalue()).decode("ascii"),
        "truth": truth,
    }


def _detections(detections: Detections | None, scale: float) -> list[Json]:
    if detections is None:
        return []
    columns = (detections.labels, detections.scores, detections.boxes_xywh)
    rows = zip(*(column.tolist() for column in columns), detections.rles, strict=True)
    size = (detections.height, detections.width)
    best = sorted(rows, key=lambda row: -row[1])[:MAX_DETECTIONS]
    return [{**_object(label, box, rle, size, scale), "score": round(score, 4)} for label, score, box, rle in best]


def _object(label: int, box: Sequence[float], rle: bytes | None, size: tuple[int, int], scale: float) -> Json:
    return {
        "class": label,
        "box": [round(value * scale, 1) for value in box],
        "rle": None if rle is None else _reduced(rle, size, scale),
    }


def _reduced(rle: bytes, size: tuple[int, int], scale: float) -> str:
    """Return a mask at the size it is shown in, as text of a compressed RLE."""
    if scale == 1:
        return rle.decode("ascii")
    mask: npt.NDArray[np.uint8] = mask_api.decode({"size": list(size), "counts": rle})
    small = np.asarray(Image.fromarray(mask).resize(_reduced_size(size, scale), Image.Resampling.NEAREST))
    return str(mask_api.encode(np.asfortranarray(small))["counts"].decode("ascii"))


def _reduced_size(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """Return width and height."""
    return max(1, round(size[1] * scale)), max(1, round(size[0] * scale))


def _size(value: object) -> int:
    """Return the bytes a part of the data takes in the page."""
    return len(json.dumps(value))
