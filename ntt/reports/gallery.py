"""The pictures of an HTML report as data: images as JPEG, ground truth and predictions as boxes and run-length codes.

The page draws them itself, so that one copy of an image serves every run and the reader can filter. Everything is
bounded: images a data set, predictions an image, runs, and the size of it all.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image
from pycocotools import mask as mask_api

from ntt.config.compose import restore_data
from ntt.data.coco import CocoDataset
from ntt.data.images import read_image
from ntt.data.masks import instance_rle
from ntt.drawing.colours import class_colours
from ntt.errors import DataError, NttError
from ntt.reports.figures import shots_text
from ntt.reports.records import RunRecord
from ntt.reports.summary import Summary, name_series
from ntt.run.artefacts import read_predictions
from ntt.run.inputs import read_inputs
from ntt.run.rundir import RunDirectory
from ntt.types import Category, Detections, ImageId, ImageRecord, Json

MAX_SIDE_PX = 640
_JPEG_QUALITY = 80
_BYTES_BESIDE_MASK = 80


@dataclass(frozen=True)
class GalleryLimits:
    """How much goes into one page.

    Attributes:
        images: of a data set, spread evenly over the target images; 0 makes no gallery.
        runs: of a data set; of each setting the run with the lowest seed is taken.
        detections: of an image, by descending score.
        megabytes: of all images and masks together; what comes after is left out, and the page says so.
    """

    images: int = 24
    runs: int = 6
    detections: int = 50
    megabytes: float = 24.0


@dataclass(frozen=True)
class Gallery:
    """What the page draws, fit for JSON: one entry a data set; and sentences about what is not in it."""

    sets: tuple[Json, ...]
    notes: tuple[str, ...]


def make_gallery(summaries: Sequence[Summary], limits: GalleryLimits) -> Gallery:
    """Collect images, ground truth and predictions of every data set that can still be found.

    A data set that cannot be read any more costs a note, not the report.
    """
    groups: dict[str, list[Summary]] = {}
    for summary in summaries:
        if summary.runs and limits.images > 0:
            groups.setdefault(summary.setting.data_label, []).append(summary)
    sets: list[Json] = []
    notes: list[str] = []
    budget = limits.megabytes * 1e6
    for label, group in groups.items():
        try:
            made = _make_set(label, group[: limits.runs], limits, budget)
        except NttError as error:
            notes.append(f"{label} is not shown: {str(error).splitlines()[0]}")
            continue
        budget -= sum(map(_size, made["images"])) + sum(_size(run) for run in made["runs"])
        sets.append(made)
        if len(group) > limits.runs:
            notes.append(f"{label}: {limits.runs} of {len(group)} settings are shown.")
        if len(made["images"]) < made["total"]:
            notes.append(f"{label}: {len(made['images'])} of {made['total']} target images are shown.")
    return Gallery(tuple(sets), tuple(notes))


def _make_set(label: str, summaries: Sequence[Summary], limits: GalleryLimits, budget: float) -> Json:
    inputs = read_inputs(restore_data(summaries[0].runs[0].config))
    targets = inputs.target_data
    records = list(targets.images.values())
    predictions = [_read_predictions(one.runs[0], records, inputs.categories) for one in summaries]
    names = name_series(one.setting for one in summaries)
    images: list[Json] = []
    found: list[list[list[Json]]] = [[] for _ in summaries]
    for record in _spread(records, limits.images):
        image = _image(record, targets, inputs.categories)
        rows = [_found(one.get(record.id), image["scale"], limits.detections) for one in predictions]
        budget -= _size(image) + sum(map(_size, rows))
        if budget < 0:
            break
        images.append(image)
        for run, row in zip(found, rows, strict=True):
            run.append(row)
    colours = class_colours(len(inputs.categories)).tolist()
    return {
        "label": label,
        "annotated": targets.has_annotations,
        "total": len(records),
        "classes": [{"name": c.name, "colour": rgb} for c, rgb in zip(inputs.categories, colours, strict=True)],
        "images": images,
        "runs": [
            {"label": _run_label(one, names.short[one.setting.label]), "found": rows}
            for one, rows in zip(summaries, found, strict=True)
        ],
    }


def _run_label(summary: Summary, name: str) -> str:
    return f"{name}, {shots_text(summary.setting.shots)}, seed {summary.runs[0].seed}"


def _read_predictions(
    run: RunRecord, records: Sequence[ImageRecord], categories: Sequence[Category]
) -> Mapping[ImageId, Detections]:
    path = RunDirectory(run.path).predictions
    try:
        return {one.image_id: one for one in read_predictions(path, records, categories)}
    except (KeyError, TypeError) as error:
        raise DataError(
            f"{path} does not fit the data set: {error!r}. The data set has changed since the run."
        ) from error


def _spread(records: Sequence[ImageRecord], count: int) -> list[ImageRecord]:
    """Take `count` records at even distances, in order."""
    if len(records) <= count:
        return list(records)
    return [records[round(place)] for place in np.linspace(0, len(records) - 1, count)]


def _image(record: ImageRecord, targets: CocoDataset, categories: Sequence[Category]) -> Json:
    """Return one image with its ground truth, all reduced to the size it is shown in."""
    scale = min(1.0, MAX_SIDE_PX / max(record.height, record.width))
    height, width = max(1, round(record.height * scale)), max(1, round(record.width * scale))
    picture = Image.fromarray(read_image(record))
    if scale < 1:
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    picture.save(stream, format="JPEG", quality=_JPEG_QUALITY)
    index = {category.id: place for place, category in enumerate(categories)}
    truth = []
    for one in targets.instances_of_image(record.id):
        if one.category_id in index:
            rle = None if one.segmentation is None else instance_rle(one, record.height, record.width)
            entry = _object(index[one.category_id], one.bbox_xywh, rle, (record.height, record.width), scale)
            truth.append({**entry, "crowd": one.iscrowd})
    return {
        "name": record.file_name,
        "width": width,
        "height": height,
        "scale": scale,
        "jpeg": base64.b64encode(stream.getvalue()).decode("ascii"),
        "truth": truth,
    }


def _found(detections: Detections | None, scale: float, limit: int) -> list[Json]:
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
    """Estimate the bytes a part of the data takes in the page."""
    if isinstance(value, Mapping):
        return sum(map(_size, value.values())) + _BYTES_BESIDE_MASK
    if isinstance(value, Sequence) and not isinstance(value, str):
        return sum(map(_size, value))
    return len(value) if isinstance(value, str) else 6
