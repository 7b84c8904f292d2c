"""The pictures of an HTML report as data: images as JPEG, ground truth and predictions as boxes and run-length codes.

The page draws them itself, so that one copy of an image serves every run and the reader can filter. Everything is
bounded: images per data set, predictions per image, runs, and the size of it all.
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
from ntt.data.masks import instance_rle
from ntt.drawing.colours import class_colours
from ntt.errors import DataError, NttError
from ntt.reports.summary import SETTING, name_series, shots_text
from ntt.run.artefacts import read_predictions
from ntt.run.inputs import read_inputs
from ntt.run.rundir import RunDirectory
from ntt.types import Category, Detections, ImageId, ImageRecord, Json

MAX_SIDE_PX = 640
_JPEG_QUALITY = 80


@dataclass(frozen=True)
class GalleryLimits:
    """How much goes into one page.

    Attributes:
        images: per data set, spread evenly over the target images; 0 makes no gallery.
        runs: per data set; of each setting the run with the lowest seed is taken.
        detections: per image, by descending score.
        megabytes: of all images and masks together; what comes after is left out, and the page says so.
    """

    images: int = 24
    runs: int = 6
    detections: int = 50
    megabytes: float = 24.0


@dataclass(frozen=True)
class Gallery:
    """What the page draws, fit for JSON: one entry per data set; and sentences about what is not in it."""

    sets: tuple[Json, ...]
    notes: tuple[str, ...]


def make_gallery(runs: pd.DataFrame, limits: GalleryLimits) -> Gallery:
    """Collect images, ground truth and predictions of every data set that can still be read.

    A data set that cannot be read any more costs a note, not the report.
    """
    sets: list[Json] = []
    notes: list[str] = []
    budget = limits.megabytes * 1e6
    lowest_seeds = runs[runs.counted].sort_values([*SETTING, "seed"]).drop_duplicates("setting")
    for label, group in lowest_seeds.groupby("data", sort=False) if limits.images > 0 else ():
        try:
            entry = _make_set(label, group.head(limits.runs), limits, budget)
        except NttError as error:
            notes.append(f"{label} is not shown: {str(error).splitlines()[0]}")
            continue
        budget -= _size(entry)
        sets.append(entry)
        if len(group) > limits.runs:
            notes.append(f"{label}: {limits.runs} of {len(group)} settings are shown.")
        if len(entry["images"]) < entry["total"]:
            notes.append(f"{label}: {len(entry['images'])} of {entry['total']} target images are shown.")
    return Gallery(tuple(sets), tuple(notes))


def _make_set(label: str, runs: pd.DataFrame, limits: GalleryLimits, budget: float) -> Json:
    inputs = read_inputs(restore_data(runs.config.iloc[0]))
    targets = inputs.target_data
    records = list(targets.images.values())
    predictions = [_read_predictions(Path(path), records, inputs.categories) for path in runs.path]
    images: list[Json] = []
    detections: list[list[list[Json]]] = [[] for _ in predictions]
    for record in _spread(records, limits.images):
        image = _image(record, targets, inputs.categories)
        rows = [_detections(of_run.get(record.id), image["scale"], limits.detections) for of_run in predictions]
        budget -= _size([image, rows])
        if budget < 0:
            break
        images.append(image)
        for of_run, row in zip(detections, rows, strict=True):
            of_run.append(row)
    names = name_series(runs)
    labels = [f"{names.short[run.label]}, {shots_text(run.shots)}, seed {run.seed}" for run in runs.itertuples()]
    colours = class_colours(len(inputs.categories)).tolist()
    return {
        "label": label,
        "annotated": targets.has_annotations,
        "total": len(records),
        "classes": [{"name": c.name, "colour": rgb} for c, rgb in zip(inputs.categories, colours, strict=True)],
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


def _spread(records: Sequence[ImageRecord], count: int) -> list[ImageRecord]:
    """Take `count` records at even distances, in order."""
    if len(records) <= count:
        return list(records)
    return [records[round(index)] for index in np.linspace(0, len(records) - 1, count)]


def _image(record: ImageRecord, targets: CocoDataset, categories: Sequence[Category]) -> Json:
    """Return one image with its ground truth, all reduced to the size it is shown in."""
    scale = min(1.0, MAX_SIDE_PX / max(record.height, record.width))
    height, width = max(1, round(record.height * scale)), max(1, round(record.width * scale))
    picture = Image.fromarray(read_image(record))
    if scale < 1:
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    picture.save(stream, format="JPEG", quality=_JPEG_QUALITY)
    labels = {category.id: label for label, category in enumerate(categories)}
    size = (record.height, record.width)
    truth = []
    for instance in targets.instances_of_image(record.id):
        if instance.category_id in labels:
            rle = None if instance.segmentation is None else instance_rle(instance, *size)
            entry = _object(labels[instance.category_id], instance.bbox_xywh, rle, size, scale)
            truth.append({**entry, "crowd": instance.iscrowd})
    return {
        "name": record.file_name,
        "width": width,
        "height": height,
        "scale": scale,
        "jpeg": base64.b64encode(stream.getvalue()).decode("ascii"),
        "truth": truth,
    }


def _detections(detections: Detections | None, scale: float, limit: int) -> list[Json]:
    if detections is None:
        return []
    rows = zip(
        detections.labels.tolist(),
        detections.scores.tolist(),
        detections.boxes_xywh.tolist(),
        detections.rles,
        strict=True,
    )
    size = (detections.height, detections.width)
    best = sorted(rows, key=lambda row: -row[1])[:limit]
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
    height, width = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
    small = np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))
    return str(mask_api.encode(np.asfortranarray(small))["counts"].decode("ascii"))


def _size(value: object) -> int:
    """Return the bytes a part of the data takes in the page."""
    return len(json.dumps(value))
