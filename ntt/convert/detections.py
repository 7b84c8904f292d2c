"""A run's detections as files for annotation tools, to be corrected and read back as references.

Masks become polygons, since those are what tools let people edit: the outlines of their parts, simplified to within
`TOLERANCE_PX`, holes filled.
"""

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

import numpy as np

from ntt.base.files import read_json
from ntt.data.images import MAX_PIXELS
from ntt.data.masks import checked_runs, mask_to_polygons, rle_area
from ntt.errors import DataError, printable
from ntt.ops.masks import decode_masks
from ntt.types import Json

TOLERANCE_PX = 0.7


def read_detections(images_file: Path, predictions_file: Path, *, above: float | Mapping[str, float]) -> Json:
    """Read a run's detections as a COCO file of the detected classes, whose annotations carry their `score`.

    Only detections scoring at least `above`, one score or one per class name, are read. A StorageError if a file is
    missing or damaged, a DataError if its content is not what a run writes.
    """
    document, rows = read_json(images_file), read_json(predictions_file)
    try:
        names = {entry["id"]: str(entry["name"]) for entry in document["categories"]}
        images = {entry["id"]: _image(entry) for entry in document["images"]}
        lowest = above if isinstance(above, Mapping) else dict.fromkeys(names.values(), above)
        rows = [row for row in rows if row["score"] >= lowest[names[row["category_id"]]]]
        annotations = [_annotation(number, row, images[row["image_id"]]) for number, row in enumerate(rows, start=1)]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{predictions_file} or {images_file} is not what a run writes ({error!r}). Run again."
        ) from error
    detected = sorted({row["category_id"] for row in rows})
    return {
        "info": {"description": "detections of ntt, to be corrected"},
        "categories": [{"id": number, "name": names[number]} for number in detected],
        "images": list(images.values()),
        "annotations": annotations,
    }


def _image(entry: Json) -> Json:
    """Check an image; its file name must not lead out of a folder, as output files are named after it."""
    height, width = int(entry["height"]), int(entry["width"])
    if min(height, width) < 1 or height * width > MAX_PIXELS:
        raise ValueError(f"an image of {height} x {width} pixels")
    path = PurePosixPath(entry["file_name"])
    if path.is_absolute() or ".." in path.parts or not path.name:
        raise ValueError(f"the file name {entry['file_name']!r} leads out of its folder")
    return {"id": entry["id"], "file_name": entry["file_name"], "height": height, "width": width}


def _annotation(number: int, row: Json, image: Json) -> Json:
    size, counts = (image["height"], image["width"]), row["segmentation"]["counts"]
    checked_runs(counts, *size)
    mask = counts.encode("ascii")
    return {
        "id": number,
        "image_id": image["id"],
        "category_id": row["category_id"],
        "bbox": list(map(float, row["bbox"])),
        "area": rle_area(mask, *size),
        "iscrowd": 0,
        "segmentation": simplified_polygons(mask, *size),
        "score": float(row["score"]),
    }


def simplified_polygons(mask: bytes, height: int, width: int) -> list[list[float]]:
    """Return the simplified outlines of the parts of a mask, COCO compressed RLE, as COCO polygons in pixels."""
    from skimage.measure import approximate_polygon

    simplified = []
    for polygon in mask_to_polygons(decode_masks([mask], height, width)[0]):
        points = np.reshape(polygon, (-1, 2))
        ring = approximate_polygon(np.vstack([points, points[:1]]), TOLERANCE_PX)[:-1]
        simplified.append((ring if len(ring) >= 3 else points).round(2).ravel().tolist())
    return simplified


def _objects_of_images(document: Json) -> Iterator[tuple[Json, list[tuple[str, float, list[list[list[float]]]]]]]:
    """Yield each image with the class, score and polygons, [[x, y], ...] each, of its objects."""
    names = {entry["id"]: entry["name"] for entry in document["categories"]}
    objects = defaultdict(list)
    for entry in document["annotations"]:
        polygons = [np.reshape(polygon, (-1, 2)).tolist() for polygon in entry["segmentation"]]
        objects[entry["image_id"]].append((names[entry["category_id"]], entry["score"], polygons))
    return ((image, objects[image["id"]]) for image in document["images"])


def class_names(document: Json) -> list[str]:
    """Return the names of the detected classes in alphabetical order."""
    return sorted(entry["name"] for entry in document["categories"])


def to_labelme(document: Json, output: Path, *, photos: Path | None) -> Mapping[Path, Json]:
    """Return a LabelMe file for each image with detections.

    They are keyed by path: the image's path below `output`, with suffix .json. Several parts of an object are joined by
    a group. LabelMe opens a file only together with its image, so it contains the relative path to it: `photos` is the
    folder of the images, or None if they will be next to their files. A DataError if two images would have the same
    file.
    """
    files: dict[Path, Json] = {}
    for image, objects in _objects_of_images(document):
        name = image["file_name"]
        path = (output / name).with_suffix(".json")
        if path in files:
            raise DataError(f"{name} and another image would both have {path}. Rename one of the images.")
        shapes: list[Json] = [
            {
                "label": label,
                "points": points,
                "group_id": number if len(polygons) > 1 else None,
                "description": f"score {score:.3f}",
                "shape_type": "polygon",
                "flags": {},
            }
            for number, (label, score, polygons) in enumerate(objects, start=1)
            for points in polygons
        ]
        if shapes:
            size = {"imageHeight": image["height"], "imageWidth": image["width"]}
            image_path = os.path.relpath(photos / name, path.parent) if photos else PurePosixPath(name).name
            picture = {"imagePath": image_path, "imageData": None, **size}
            files[path] = {"version": "5.5.0", "flags": {}, "shapes": shapes, **picture}
    return files


def to_cvat(document: Json) -> str:
    """Return the XML of "CVAT for images 1.1"; several parts of an object are joined by a group."""
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    labels = ElementTree.SubElement(ElementTree.SubElement(ElementTree.SubElement(root, "meta"), "task"), "labels")
    for name in class_names(document):
        ElementTree.SubElement(ElementTree.SubElement(labels, "label"), "name").text = printable(name)
    group = 0
    for number, (image, objects) in enumerate(_objects_of_images(document)):
        size = {"width": str(image["width"]), "height": str(image["height"])}
        attributes = {"id": str(number), "name": printable(image["file_name"]), **size}
        entry = ElementTree.SubElement(root, "image", attributes)
        for label, _, polygons in objects:
            group += len(polygons) > 1
            attributes = {"label": printable(label), "source": "auto", "occluded": "0", "z_order": "0"}
            attributes |= {"group_id": str(group)} if len(polygons) > 1 else {}
            for polygon in polygons:
                points = ";".join(f"{x:g},{y:g}" for x, y in polygon)
                ElementTree.SubElement(entry, "polygon", {**attributes, "points": points})
    ElementTree.indent(root)
    text: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return text.decode() + "\n"


def to_label_studio(document: Json, *, prefix: str) -> list[Json]:
    """Return Label Studio's tasks with predictions; `prefix` and the file name make the address of each image."""
    tasks = []
    for image, objects in _objects_of_images(document):
        scale = np.array([100 / image["width"], 100 / image["height"]])
        polygons = [(label, score, polygon) for label, score, parts in objects for polygon in parts]
        regions = [
            {
                "id": f"region{number}",
                "type": "polygonlabels",
                "from_name": "label",
                "to_name": "image",
                "original_width": image["width"],
                "original_height": image["height"],
                "value": {
                    "points": np.multiply(polygon, scale).round(4).tolist(),
                    "closed": True,
                    "polygonlabels": [label],
                },
                "score": score,
            }
            for number, (label, score, polygon) in enumerate(polygons, start=1)
        ]
        predictions = [{"model_version": "ntt", "result": regions}]
        tasks.append({"data": {"image": prefix + image["file_name"]}, "predictions": predictions})
    return tasks


def label_studio_interface(names: Sequence[str]) -> str:
    """Return the labelling interface that the predictions of `to_label_studio` fit, as XML."""
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Image", {"name": "image", "value": "$image"})
    labels = ElementTree.SubElement(view, "PolygonLabels", {"name": "label", "toName": "image"})
    for name in names:
        ElementTree.SubElement(labels, "Label", {"value": printable(name)})
    ElementTree.indent(view)
    return ElementTree.tostring(view, encoding="unicode") + "\n"
