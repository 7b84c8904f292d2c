"""The run directory's files: how each artefact is written and read back."""

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
import torch

from ntt.base.files import read_json, write_bytes, write_json, write_parts
from ntt.errors import StorageError
from ntt.types import Category, Detections, ImageRecord, Json, MemoryBank, Metrics, Prototypes


def detections_to_coco(detections: Sequence[Detections], categories: Sequence[Category]) -> list[Json]:
    """Return COCO results: one object per detection with image_id, category_id, score, bbox and segmentation."""
    return [
        {
            "image_id": image.image_id,
            "category_id": categories[label].id,
            "score": score,
            "bbox": box,
            "segmentation": {"size": [image.height, image.width], "counts": rle.decode("ascii")},
        }
        for image in detections
        for label, score, box, rle in zip(
            image.labels.tolist(), image.scores.tolist(), image.boxes_xywh.tolist(), image.rles, strict=True
        )
    ]


def write_predictions(path: Path, detections: Sequence[Detections], categories: Sequence[Category]) -> None:
    """Write `detections_to_coco` as a file that pycocotools and other viewers load; image by image, for it is large."""
    ids = [category.id for category in categories]
    texts = (_results_text(one, ids) for one in detections if len(one.labels))
    write_parts(path, itertools.chain([b"["], _separated(texts), [b"]\n"]))


def _results_text(detections: Detections, category_ids: Sequence[int]) -> str:
    """Return the objects of one image as JSON writes them."""
    start = f'{{"image_id": {json.dumps(detections.image_id, ensure_ascii=False)}, "category_id": '
    size = f'"segmentation": {{"size": [{detections.height}, {detections.width}], "counts": "'
    columns = (detections.labels.tolist(), detections.scores.tolist(), detections.boxes_xywh.tolist(), detections.rles)
    return ", ".join(
        # Of the characters of run lengths JSON escapes the backslash only.
        f'{start}{category_ids[label]}, "score": {score!r}, "bbox": {box!r}, {size}'
        + rle.decode("ascii").replace("\\", "\\\\")
        + '"}}'
        for label, score, box, rle in zip(*columns, strict=True)
    )


def _separated(texts: Iterable[str]) -> Iterator[bytes]:
    for number, text in enumerate(texts):
        yield (f", {text}" if number else text).encode()


def read_predictions(path: Path, images: Sequence[ImageRecord], categories: Sequence[Category]) -> list[Detections]:
    """Read a results file back: one entry per image, in the order of `images`, equal to what was written."""
    labels = {category.id: label for label, category in enumerate(categories)}
    rows: dict[int | str, list[Json]] = {record.id: [] for record in images}
    for row in read_json(path):
        rows[row["image_id"]].append(row)
    return [_detections_from(record, rows[record.id], labels) for record in images]


def _detections_from(record: ImageRecord, rows: Sequence[Json], labels: Mapping[int, int]) -> Detections:
    return Detections(
        image_id=record.id,
        height=record.height,
        width=record.width,
        labels=np.array([labels[row["category_id"]] for row in rows], dtype=np.int64),
        scores=np.array([row["score"] for row in rows], dtype=np.float32),
        boxes_xywh=np.array([row["bbox"] for row in rows], dtype=np.float32).reshape(-1, 4),
        rles=tuple(row["segmentation"]["counts"].encode("ascii") for row in rows),
    )


def write_memory(path: Path, memory: MemoryBank) -> None:
    """Write a memory bank as safetensors; the categories are in its metadata."""
    tensors = {f"class_{label}": features for label, features in enumerate(memory.features)}
    tensors |= {f"background_{label}": features for label, features in enumerate(memory.backgrounds)}
    _write_tensors(path, tensors, memory.categories)


def read_memory(path: Path) -> MemoryBank:
    """Read a memory bank back."""
    tensors, categories = _read_tensors(path)
    features = tuple(tensors[f"class_{label}"] for label in range(len(categories)))
    backgrounds = tuple(tensors[name] for label in range(len(categories)) if (name := f"background_{label}") in tensors)
    return MemoryBank(categories=categories, features=features, backgrounds=backgrounds)


def write_prototypes(path: Path, prototypes: Prototypes) -> None:
    """Write prototypes as safetensors."""
    _write_tensors(path, {"vectors": prototypes.vectors_PD, "labels": prototypes.labels_P}, prototypes.categories)


def read_prototypes(path: Path) -> Prototypes:
    """Read prototypes back."""
    tensors, categories = _read_tensors(path)
    return Prototypes(categories, tensors["vectors"], tensors["labels"])


def write_metrics(path: Path, metrics: Metrics) -> None:
    """Write metrics as JSON."""
    write_json(path, asdict(metrics))


def read_metrics(path: Path) -> Metrics:
    """Read metrics back."""
    return Metrics(**read_json(path))


def flat_metrics(metrics: Metrics) -> dict[str, float]:
    """Return metrics under flat names: "bbox/AP", and "bbox/AP/cat" for one class."""
    flat = {f"{kind}/{name}": value for kind, values in metrics.overall.items() for name, value in values.items()}
    for kind, classes in metrics.per_class.items():
        for label, values in classes.items():
            flat |= {f"{kind}/{name}/{label}": value for name, value in values.items()}
    return flat


def _write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], categories: Sequence[Category]) -> None:
    metadata = {"categories": json.dumps([[category.id, category.name] for category in categories])}
    data = safetensors.torch.save({name: value.contiguous() for name, value in tensors.items()}, metadata=metadata)
    write_bytes(path, data)


def _read_tensors(path: Path) -> tuple[dict[str, torch.Tensor], tuple[Category, ...]]:
    try:
        with safetensors.safe_open(path, framework="pt") as stream:
            pairs: list[tuple[int, str]] = json.loads(stream.metadata()["categories"])
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
    except (OSError, safetensors.SafetensorError) as error:
        raise StorageError(f"{path} cannot be read: {error}.") from error
    return tensors, tuple(Category(id=number, name=name) for number, name in pairs)
