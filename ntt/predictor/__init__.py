"""The Python API: the method as an object, without configuration files or run directories.

predictor    examples in, detections out, by the same stages as a run
references   examples, from annotation files of several formats
results      the objects found in an image
"""

from ntt.predictor.predictor import Predictor
from ntt.predictor.references import (
    Reference,
    references_from_coco,
    references_from_folder,
    references_from_labelme,
    references_from_yolo,
)
from ntt.predictor.results import DetectedInstance, Instances

__all__ = [
    "DetectedInstance",
    "Instances",
    "Predictor",
    "Reference",
    "references_from_coco",
    "references_from_folder",
    "references_from_labelme",
    "references_from_yolo",
]
