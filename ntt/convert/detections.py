"""A run's detections as files for annotation tools, to be corrected and read back as references.

Masks become polygons, since those are what tools let people edit: the outlines of their parts, simplified to within
`TOLERANCE_PX`, holes filled.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree import ElementTree

import numpy as np

from ntt.base.files import read_json
from ntt.data.images import MAX_PIXELS
from ntt.data.masks import checked_runs, mask_to_polygons, rle_area
from ntt.errors import DataError, printable
from ntt.ops.masks import decode_masks
from ntt.types import Category, Json

TOLERANCE_PX = 0.7


@dataclass(frozen=True)
class DetectedObject:
    """One detection; its mask as compressed run lengths of the image's size."""

    category: Category
    score: float
    bbox_xywh: tuple[float, ...]
    counts: bytes


@dataclass(frozen=True)
class DetectedImage:
    """An image that was searched and what was found in it, by descending score."""

    id: int | str
    file_name: str
    height: int
    width: int
    objects: tuple[DetectedObject, ...]

    def polygons(self, detected: DetectedObject) -> list[list[float]]:
        """Return the outlines of a mask's parts as COCO polygons in pixels."""
        from skimage.measure import approximate_polygon

        simplified = []
        for polygon in mask_to_polygons(decode_masks([detected.counts], self.height, self.width)[0]):
            points = np.reshape(polygon, (-1, 2))
            ring = approximate_polygon(np.vstack([points, points[:1]]), TOLERANCE_PX)[:-1]
            simplified.append((ring if len(ring) >= 3 else points).round(2).ravel().tolist())
        return simplified


def read_detections(
    images_file: Path, predictions_file: Path, *, above: float, above_of_class: Mapping[str, float]
) -> list[DetectedImage]:
    """Read a run's `images.json` and the detections of `predictions.json` with at least a score.

    `above_of_class` has the score of some classes by name, `above` is that of the others.

    Raises:
        StorageError: if a file is missing or damaged.
        DataError: if their content is not what a run writes.
    """
    document, rows = read_json(images_file), read_json(predictions_file)
    try:
        categories = {entry["id"]: Category(entry["id"], str(entry["name"])) for entry in document["categories"]}
        sizes = {entry["id"]: _size(entry) for entry in document["images"]}
        objects: dict[Any, list[DetectedObject]] = {number: [] for number in sizes}
        for row in rows:
            category = categories[row["category_id"]]
            if row["score"] >= above_of_class.get(category.name, above):
                counts = row["segmentation"]["counts"]
                checked_runs(counts, *sizes[row["image_id"]])
                box = tuple(map(float, row["bbox"]))
                objects[row["image_id"]].append(
                    DetectedObject(category, float(row["score"]), box, counts.encode("ascii"))
                )
        return [
            DetectedImage(entry["id"], _inside(entry["file_name"]), *sizes[entry["id"]], tuple(objects[entry["id"]]))
            for entry in document["images"]
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{predictions_file} or {images_file} is not what a run writes ({error!r}). Run again."
        ) from error


def _size(entry: Json) -> tuple[int, int]:
    height, width = int(entry["height"]), int(entry["width"])
    if min(height, width) < 1 or height * width > MAX_PIXELS:
        raise ValueError(f"an image of {height} x {width} pixels")
    return height, width


def _inside(file_name: str) -> str:
    """Refuse a file name that leads out of a folder: files are written under names made of it."""
    path = PurePosixPath(file_name)
    if path.is_absolute() or ".." in path.parts or not path.name:
        raise ValueError(f"the file name {file_name!r} leads out of its folder")
    return file_name


def class_names(images: Sequence[DetectedImage]) -> list[str]:
    """Return the names of the detected classes in alphabetical order."""
    return sorted({detected.category.name for image in images for detected in image.objects})


def to_coco(images: Sequence[DetectedImage]) -> Json:
    """Return an annotation file in COCO format; annotations carry their `score`."""
    categories = {detected.category.id: detected.category for image in images for detected in image.objects}
    annotations: list[Json] = []
    for image in images:
        for detected in image.objects:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image.id,
                    "category_id": detected.category.id,
                    "bbox": list(detected.bbox_xywh),
                    "area": rle_area(detected.counts, image.height, image.width),
                    "iscrowd": 0,
                    "segmentation": image.polygons(detected),
                    "score": detected.score,
                }
            )
    return {
        "info": {"description": "detections of ntt, to be corrected"},
        "categories": [{"id": number, "name": categories[number].name} for number in sorted(categories)],
        "images": [
            {"id": image.id, "file_name": image.file_name, "height": image.height, "width": image.width}
            for image in images
        ],
        "annotations": annotations,
    }


def to_labelme(images: Sequence[DetectedImage]) -> Mapping[str, Json]:
    """Return a LabelMe file for each image with detections, by its path: the image's with the ending .json.

    Raises:
        DataError: if two images would have the same file.
    """
    files: dict[str, Json] = {}
    for image in images:
        path = PurePosixPath(image.file_name).with_suffix(".json").as_posix()
        if path in files:
            raise DataError(f"{image.file_name} and another image would both have {path}. Rename one of the images.")
        shapes = [
            shape
            for number, detected in enumerate(image.objects, start=1)
            for shape in _shapes(image, detected, number)
        ]
        if shapes:
            files[path] = {
                "version": "5.5.0",
                "flags": {},
                "shapes": shapes,
                "imagePath": PurePosixPath(image.file_name).name,
                "imageData": None,
                "imageHeight": image.height,
                "imageWidth": image.width,
            }
    return files


def _shapes(image: DetectedImage, detected: DetectedObject, number: int) -> list[Json]:
    """Return LabelMe's shapes of one object; several parts are joined by a group."""
    polygons = image.polygons(detected)
    return [
        {
            "label": detected.category.name,
            "points": np.reshape(polygon, (-1, 2)).tolist(),
            "group_id": number if len(polygons) > 1 else None,
            "description": f"score {detected.score:.3f}",
            "shape_type": "polygon",
            "flags": {},
        }
        for polygon in polygons
    ]


def to_cvat(images: Sequence[DetectedImage]) -> str:
    """Return the XML of "CVAT for images 1.1"; several parts of an object are joined by a group."""
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    labels = ElementTree.SubElement(ElementTree.SubElement(ElementTree.SubElement(root, "meta"), "task"), "labels")
    for name in class_names(images):
        ElementTree.SubElement(ElementTree.SubElement(labels, "label"), "name").text = printable(name)
    group = 0
    for number, image in enumerate(images):
        size = {"width": str(image.width), "height": str(image.height)}
        entry = ElementTree.SubElement(root, "image", {"id": str(number), "name": printable(image.file_name), **size})
        for detected in image.objects:
            polygons = image.polygons(detected)
            group += len(polygons) > 1
            for polygon in polygons:
                points = ";".join(f"{x:g},{y:g}" for x, y in np.reshape(polygon, (-1, 2)).tolist())
                attributes = {
                    "label": printable(detected.category.name),
                    "source": "auto",
                    "occluded": "0",
                    "z_order": "0",
                }
                attributes |= {"group_id": str(group)} if len(polygons) > 1 else {}
                ElementTree.SubElement(entry, "polygon", {**attributes, "points": points})
    ElementTree.indent(root)
    text: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return text.decode() + "\n"


def to_label_studio(images: Sequence[DetectedImage], *, prefix: str) -> list[Json]:
    """Return Label Studio's tasks with predictions; `prefix` and the file name make the address of each image."""
    return [
        {
            "data": {"image": prefix + image.file_name},
            "predictions": [{"model_version": "ntt", "result": _regions(image)}],
        }
        for image in images
    ]


def _regions(image: DetectedImage) -> list[Json]:
    scale = np.array([100 / image.width, 100 / image.height])
    regions: list[Json] = []
    for detected in image.objects:
        for polygon in image.polygons(detected):
            points = (np.reshape(polygon, (-1, 2)) * scale).round(4).tolist()
            regions.append(
                {
                    "id": f"region{len(regions) + 1}",
                    "type": "polygonlabels",
                    "from_name": "label",
                    "to_name": "image",
                    "original_width": image.width,
                    "original_height": image.height,
                    "value": {"points": points, "closed": True, "polygonlabels": [detected.category.name]},
                    "score": detected.score,
                }
            )
    return regions


def label_studio_interface(names: Sequence[str]) -> str:
    """Return the labelling interface that the predictions of `to_label_studio` fit, as XML."""
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Image", {"name": "image", "value": "$image"})
    labels = ElementTree.SubElement(view, "PolygonLabels", {"name": "label", "toName": "image"})
    for name in names:
        ElementTree.SubElement(labels, "Label", {"value": printable(name)})
    ElementTree.indent(view)
    return ElementTree.tostring(view, encoding="unicode") + "\n"
