"""A report as one HTML page that needs nothing else, no network and no further file; and the pictures on it.

Names of classes, files and folders are inserted as escaped text or as JSON that a script reads as data, and a content
security policy keeps the page from running or loading anything else. Pictures are data, too: the page draws boxes and
run-length codes on one JPEG copy of each image, which serves every run. Which object each detection finds is decided
here; since matching proceeds by descending score, matches are valid above any score.
"""

import base64
import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass

import jinja2
import numpy as np
from PIL import Image
from pycocotools import mask as mask_api

from ntt.data.images import read_image
from ntt.data.masks import checked_runs
from ntt.drawing.colours import class_colour
from ntt.drawing.instances import DrawnInstances
from ntt.drawing.quality import match_objects
from ntt.errors import DataError, NttError
from ntt.evaluation.thresholds import lowest_scores
from ntt.reports import figures
from ntt.reports.detected import Detected
from ntt.reports.plots import Plot
from ntt.reports.tables import Table
from ntt.stages.target_pictures import drawn_instances
from ntt.types import ByteArray, Detections, ImageRecord, IntArray, Json

MAX_SIDE_PX = 640
MAX_DETECTIONS = 50
"""Per image, by descending score."""

MAX_BYTES = 24e6
"""Of all images and masks together; the rest is left out, with a note on the page."""

_OPEN_ROWS = 40
_LONG_TEXT = 60
_JPEG_QUALITY = 80


@dataclass(frozen=True)
class Gallery:
    """The data of the page as JSON values: one entry per data set; and sentences about what was left out."""

    sets: tuple[Json, ...]
    notes: tuple[str, ...]


def make_gallery(detected: Sequence[Detected], notes: Sequence[str], *, images: int) -> Gallery:
    """Collect `images` images per data set, spread evenly over the targets, with ground truth and predictions.

    A data set whose images can no longer be read adds a note and does not stop the report. `notes` are about data sets
    that are missing altogether.
    """
    if images == 0:
        return Gallery((), ())
    sets: list[Json] = []
    notes = list(notes)
    budget = MAX_BYTES
    for each in detected:
        try:
            entry = _make_set(each, images, budget)
        except NttError as error:
            notes.append(f"{each.data} is not shown: {str(error).splitlines()[0]}")
            continue
        budget -= _size(entry)
        sets.append(entry)
        if len(each.labels) < each.num_settings:
            notes.append(f"{each.data}: {len(each.labels)} of {each.num_settings} settings are shown.")
        if len(entry["images"]) < len(each.targets.images):
            notes.append(f"{each.data}: {len(entry['images'])} of {len(each.targets.images)} target images are shown.")
    return Gallery(tuple(sets), tuple(notes))


def _make_set(detected: Detected, max_images: int, budget: float) -> Json:
    records = list(detected.targets.images.values())
    samples: list[tuple[Json, list[list[Json]]]] = []
    for index in np.linspace(0, len(records) - 1, min(max_images, len(records))).round().astype(int):
        record = records[index]
        instances = detected.targets.instances_of_image(record.id)
        drawn = drawn_instances(instances, detected.categories, record, masks={})
        image = _image(record, drawn)
        rows = [_detections(of_run[index], drawn, image["scale"]) for of_run in detected.detections]
        budget -= _size([image, rows])
        if budget < 0:
            break
        samples.append((image, rows))
    return {
        "label": detected.data,
        "annotated": detected.targets.has_annotations,
        "classes": [{"name": c.name, "colour": class_colour(label)} for label, c in enumerate(detected.categories)],
        "images": [image for image, _ in samples],
        "runs": [
            {
                "label": label,
                "found": [rows[run] for _, rows in samples],
                "lowest": list(lowest_scores(detected.categories, None, lowest).values()),
            }
            for run, (label, lowest) in enumerate(zip(detected.labels, detected.lowest_scores, strict=True))
        ],
    }


def _image(record: ImageRecord, drawn: DrawnInstances) -> Json:
    """Return one image with its ground truth, both scaled to the size shown."""
    size = (record.height, record.width)
    scale = min(1.0, MAX_SIDE_PX / max(size))
    picture = Image.fromarray(read_image(record))
    if scale < 1:
        picture = picture.resize(_reduced_size(size, scale), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    picture.save(stream, format="JPEG", quality=_JPEG_QUALITY)
    rows = zip(drawn.labels.tolist(), drawn.boxes_xywh.tolist(), drawn.rles, drawn.iscrowd.tolist(), strict=True)
    objects = [{**_object(label, box, rle, size, scale), "crowd": crowd} for label, box, rle, crowd in rows]
    return {
        "name": record.file_name,
        "width": picture.width,
        "height": picture.height,
        "scale": scale,
        "jpeg": base64.b64encode(stream.getvalue()).decode("ascii"),
        "truth": objects,
    }


def _detections(detections: Detections, drawn: DrawnInstances, scale: float) -> list[Json]:
    """Return the best detections of an image; "match" is the object they find, from `match_objects`."""
    try:
        for rle in detections.rles:
            checked_runs(rle.decode("ascii"), detections.height, detections.width)
    except ValueError as error:
        raise DataError(f"A mask of image {detections.image_id} does not fit the data set: {error}.") from error
    matches: IntArray = match_objects(drawn, detections)[0]
    columns = (detections.labels, detections.scores, detections.boxes_xywh, matches)
    rows = zip(*(column.tolist() for column in columns), detections.rles, strict=True)
    size = (detections.height, detections.width)
    best = sorted(rows, key=lambda row: -row[1])[:MAX_DETECTIONS]
    return [
        {**_object(label, box, rle, size, scale), "score": round(score, 6), "match": match}
        for label, score, box, match, rle in best
    ]


def _object(label: int, box: Sequence[float], rle: bytes | None, size: tuple[int, int], scale: float) -> Json:
    return {
        "class": label,
        "box": [round(value * scale, 1) for value in box],
        "rle": None if rle is None else _reduced(rle, size, scale),
    }


def _reduced(rle: bytes, size: tuple[int, int], scale: float) -> str:
    """Return a mask at the size shown, as the text of a compressed RLE."""
    if scale == 1:
        return rle.decode("ascii")
    mask: ByteArray = mask_api.decode({"size": list(size), "counts": rle})
    small = np.asarray(Image.fromarray(mask).resize(_reduced_size(size, scale), Image.Resampling.NEAREST))
    return str(mask_api.encode(np.asfortranarray(small))["counts"].decode("ascii"))


def _reduced_size(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """Return width and height."""
    return max(1, round(size[1] * scale)), max(1, round(size[0] * scale))


def _size(value: object) -> int:
    """Return the number of bytes of a part of the data in the page."""
    return len(json.dumps(value))


def render_page(title: str, subtitle: str, tables: Sequence[Table], plots: Sequence[Plot], gallery: Gallery) -> str:
    """Return the page as text."""
    loader = jinja2.PackageLoader("ntt.reports", "assets")
    environment = jinja2.Environment(
        loader=loader,
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style, script = (loader.get_source(environment, name)[0] for name in ("page.css", "page.js"))
    return environment.get_template("page.html").render(
        title=title,
        subtitle=subtitle,
        tables=tables,
        plots=plots,
        gallery=gallery,
        images=[base64.b64encode(figures.to_bytes(plot.figure, "png")).decode() for plot in plots],
        policy=_policy(style, script),
        style=style,
        script=script,
        data=_json_for_script(gallery.sets),
        open_rows=_OPEN_ROWS,
        long_text=_LONG_TEXT,
    )


def _policy(style: str, script: str) -> str:
    """Allow this style, this script and pictures within the page; nothing else."""
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)]
    return f"default-src 'none'; img-src data:; style-src 'sha256-{hashes[0]}'; script-src 'sha256-{hashes[1]}'"


def _json_for_script(value: object) -> str:
    """Return JSON that cannot close its script element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("&", r"\u0026").replace("<", r"\u003c").replace(">", r"\u003e")
