"""The files of a run directory: how each artefact is written and read back."""

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import orjson
import safetensors
import safetensors.torch
import torch

from ntt.base.files import read_json, write_bytes, write_json, write_parts, write_text
from ntt.base.garbage import no_collection
from ntt.base.typed import read_record
from ntt.errors import ConfigError, StorageError, printable
from ntt.types import (
    Category,
    Detections,
    FloatArray,
    ImageRecord,
    Json,
    MemoryBank,
    Metrics,
    ProposalRecall,
    Prototypes,
    ReferenceCheck,
)

# Numbers from the one to below the other are written without an exponent.
_LEAST_WITHOUT_EXPONENT, _LEAST_LARGE = 1e-4, 1e16
_MAX_COUNTS = 1_000_000
# Prefixes of the names of a memory's tensors, and the fields they belong to.
MEMORY_FIELDS = {
    "class": "features",
    "background": "backgrounds",
    "clear_background": "clear_backgrounds",
    "full": "full",
}


def write_predictions(path: Path, detections: Sequence[Detections], categories: Sequence[Category]) -> Path:
    """Write COCO results, which pycocotools and viewers load; image by image, because the file is large."""

    def parts() -> Iterator[bytes]:
        yield b"["
        separator = ""
        for image in detections:
            if len(image.labels):
                yield (separator + results_text(image, categories)).encode()
                separator = ", "
        yield b"]\n"

    return write_parts(path, parts())


def results_text(image: Detections, categories: Sequence[Category]) -> str:
    """Return the results of one image just as `json.dumps` would write them, in a fraction of the time."""
    if not len(image.labels):
        return ""
    image_id, size = json.dumps(image.image_id, ensure_ascii=False), f"[{image.height}, {image.width}]"
    # The backslash is the only character in run lengths that JSON escapes.
    counts = b" ".join(image.rles).decode().replace("\\", "\\\\").split()
    ids = [categories[label].id for label in image.labels.tolist()]
    scores, boxes = _numbers(image.scores)[1:-1].split(", "), _numbers(image.boxes_xywh)[2:-2].split("], [")
    head, middle = f'{{"image_id": {image_id}, "category_id": ', f'], "segmentation": {{"size": {size}, "counts": "'
    return ", ".join(
        [
            f'{head}{category_id}, "score": {score}, "bbox": [{box}{middle}{text}"}}}}'
            for category_id, score, box, text in zip(ids, scores, boxes, counts, strict=True)
        ]
    )


def _numbers(values: FloatArray) -> str:
    """Return an array as `json.dumps` would write the list of its values."""
    doubles = values.astype(np.float64)
    # The two write only numbers with an exponent differently.
    if np.all((doubles == 0) | ((doubles >= _LEAST_WITHOUT_EXPONENT) & (doubles < _LEAST_LARGE))):
        return orjson.dumps(doubles, option=orjson.OPT_SERIALIZE_NUMPY).decode().replace(",", ", ")
    return json.dumps(doubles.tolist())


def write_images(path: Path, images: Sequence[ImageRecord], categories: Sequence[Category]) -> Path:
    """Write the images and classes of a results file in COCO format: pycocotools, FiftyOne and CVAT open the two."""
    document = {
        "info": {"description": "images and classes of predictions.json"},
        "images": [
            {"id": record.id, "file_name": record.file_name, "height": record.height, "width": record.width}
            for record in images
        ],
        "categories": [{"id": category.id, "name": category.name} for category in categories],
        "annotations": [],
    }
    return write_text(path, json.dumps(document) + "\n")  # in ASCII: a file name need not be UTF-8


def write_counts(
    path: Path,
    images: Sequence[ImageRecord],
    detections: Sequence[Detections],
    categories: Sequence[Category],
    *,
    thresholds_C: FloatArray,
) -> Path:
    """Write a table of how many detections of a class reach its threshold, and the best score, if there is any.

    It has a row per image and class; beyond a million, as with the 1,203 classes of LVIS, only those with detections.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["image", "class", "number", "best_score", "threshold"])
    names, thresholds = [printable(category.name) for category in categories], [f"{value:g}" for value in thresholds_C]
    has_all = len(images) * len(categories) <= _MAX_COUNTS
    for record, image in zip(images, detections, strict=True):
        file_name, numbers = printable(record.file_name), Counter(image.labels[image.reaching(thresholds_C)].tolist())
        # Detections are sorted by descending score: the first of a class is its best.
        best = dict(zip(image.labels[::-1].tolist(), image.scores[::-1].tolist(), strict=True))
        for label in range(len(categories)) if has_all else sorted(best):
            score = f"{best[label]:.4f}" if label in best else ""
            writer.writerow([file_name, names[label], numbers[label], score, thresholds[label]])
    return write_text(path, stream.getvalue())


def read_lowest_scores(path: Path) -> dict[str, float]:
    """Read the score of each class from which detections are shown; a StorageError if the file holds something else."""
    scores = read_json(path)
    try:
        if all(map(math.isfinite, scores.values())):
            return dict(scores)
    except (AttributeError, OverflowError, TypeError):
        pass
    raise StorageError(f"{path} does not hold a score per class. Run again.")


@no_collection()
def read_predictions(path: Path, images: Sequence[ImageRecord], categories: Sequence[Category]) -> list[Detections]:
    """Read a results file back: one entry per image, in the order of `images`, equal to what was written."""
    labels = {category.id: label for label, category in enumerate(categories)}
    rows_of: dict[int | str, list[Json]] = {record.id: [] for record in images}
    for row in read_json(path):
        rows_of[row["image_id"]].append(row)
    return [
        Detections(
            image_id=record.id,
            height=record.height,
            width=record.width,
            labels=np.array([labels[row["category_id"]] for row in rows], dtype=np.int64),
            scores=np.array([row["score"] for row in rows], dtype=np.float32),
            boxes_xywh=np.array([row["bbox"] for row in rows], dtype=np.float32).reshape(-1, 4),
            rles=tuple(row["segmentation"]["counts"].encode("ascii") for row in rows),
        )
        for record, rows in zip(images, rows_of.values(), strict=True)
    ]


def flat_proposals(recall: ProposalRecall) -> dict[str, float]:
    """Return the recall of the candidates under flat names, such as "proposals/box_AR100"."""
    names = {"bbox": "box", "segm": "mask"}
    return {
        f"proposals/{names[kind]}_{name}": value for kind, values in recall.items() for name, value in values.items()
    }


def write_memory(
    path: Path, memory: MemoryBank, *, made_with: str = "", thresholds: Mapping[str, Mapping[str, float]] | None = None
) -> Path:
    """Write a memory bank as safetensors, with the categories and a digest of its settings as metadata.

    Score thresholds are metadata, too: digest of the settings they are for -> class name -> score.
    """
    tensors = {
        f"{name}_{label}": vectors
        for name, field in MEMORY_FIELDS.items()
        for label, vectors in enumerate(getattr(memory, field))
    }
    notes = {"made_with": made_with} if made_with else {}
    notes |= {} if thresholds is None else {"thresholds": json.dumps(thresholds)}
    return _write_tensors(path, tensors, memory.categories, notes)


def read_memory_thresholds(path: Path) -> dict[str, dict[str, float]]:
    """Read the thresholds that were written with a memory, by the digest of their settings; {} without any."""
    try:
        with safetensors.safe_open(path, framework="pt") as stream:
            thresholds = json.loads((stream.metadata() or {}).get("thresholds", "{}"))
        return {key: {name: float(score) for name, score in of.items()} for key, of in thresholds.items()}
    except (OSError, safetensors.SafetensorError, AttributeError, TypeError, ValueError) as error:
        raise StorageError(f"{path} cannot be read: {error}.") from error


def read_memory(path: Path, *, made_with: str = "") -> MemoryBank:
    """Read a memory bank back; a ConfigError if it was made with settings other than `made_with` ("": any)."""
    tensors, categories = _read_tensors(path, made_with=made_with)
    names = {field: [f"{name}_{label}" for label in range(len(categories))] for name, field in MEMORY_FIELDS.items()}
    vectors = {field: tuple(tensors[name] for name in own if name in tensors) for field, own in names.items()}
    return MemoryBank(categories=categories, **vectors)


def read_reference_check(path: Path) -> ReferenceCheck:
    """Read the result of leaving references out in turn; a StorageError if the file holds something else."""
    check = read_record(ReferenceCheck, path, remedy="Run again.")
    if not all(map(math.isfinite, check.thresholds.values())):
        raise StorageError(f"{path} has a threshold that is no number. Run again.")
    return check


def read_scoring(path: Path, choices: Collection[str]) -> str:
    """Read from the same file which matcher the references have chosen; a StorageError if it is none of `choices`."""
    scoring = read_reference_check(path).scoring
    if scoring not in choices:
        raise StorageError(f"{path} names no matcher of {', '.join(choices)}.")
    return scoring


def write_prototypes(path: Path, prototypes: Prototypes) -> Path:
    """Write prototypes as safetensors."""
    tensors = {"vectors": prototypes.vectors_PD, "labels": prototypes.labels_P}
    return _write_tensors(path, tensors, prototypes.categories, {})


def read_prototypes(path: Path) -> Prototypes:
    """Read prototypes back."""
    tensors, categories = _read_tensors(path)
    return Prototypes(categories, tensors["vectors"], tensors["labels"])


def write_metrics(path: Path, metrics: Metrics) -> Path:
    """Write metrics."""
    values = asdict(metrics)
    if metrics.difficult is None:  # of interest for Pascal VOC only
        del values["difficult"]
    return write_json(path, values)


def read_metrics(path: Path) -> Metrics:
    """Read metrics back; a StorageError if the file holds something else."""
    problem = f"{path} does not hold the metrics of a run."
    try:
        metrics = Metrics(**read_json(path))
        counts = (metrics.num_images, metrics.num_detections)
        unusable = [name for name, value in flat_metrics(metrics).items() if not math.isfinite(value)]
        unusable += [] if all(isinstance(count, int) and count < 2**53 for count in counts) else ["num_images"]
        unusable += [name for name in metrics.overall if name == "seconds"]
    except (TypeError, AttributeError, OverflowError) as error:
        raise StorageError(problem) from error
    if unusable:
        raise StorageError(f"{problem} {', '.join(unusable[:5])} is not a finite number.")
    return metrics


def flat_metrics(metrics: Metrics) -> dict[str, float]:
    """Return metrics under flat names: "bbox/AP", and "bbox/AP/cat" for one class."""
    flat = {f"{kind}/{name}": value for kind, values in metrics.overall.items() for name, value in values.items()}
    for kind, classes in metrics.per_class.items():
        for label, values in classes.items():
            flat |= {f"{kind}/{name}/{label}": value for name, value in values.items()}
    return flat


def _write_tensors(
    path: Path, tensors: Mapping[str, torch.Tensor], categories: Sequence[Category], notes: Mapping[str, str]
) -> Path:
    metadata = {"categories": json.dumps([[category.id, category.name] for category in categories]), **notes}
    data = safetensors.torch.save({name: value.contiguous() for name, value in tensors.items()}, metadata=metadata)
    return write_bytes(path, data)


def _read_tensors(path: Path, *, made_with: str = "") -> tuple[dict[str, torch.Tensor], tuple[Category, ...]]:
    try:
        with safetensors.safe_open(path, framework="pt") as stream:
            metadata = stream.metadata() or {}
            pairs: list[tuple[int, str]] = json.loads(metadata["categories"])
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
    except (OSError, safetensors.SafetensorError, KeyError, ValueError) as error:
        raise StorageError(f"{path} cannot be read: {error}.") from error
    if made_with and metadata.get("made_with") != made_with:
        raise ConfigError(f"{path} was made with another backbone or other settings. Use those, or encode again.")
    return tensors, tuple(Category(id=number, name=name) for number, name in pairs)
