"""Training-free, reference-based instance segmentation as an experiment framework.

Layers, from the bottom: base · ops · data, store · models, matchers, evaluation, drawing, trackers, convert ·
datasets, stages · config · run · reports, predictor · sweeps · cli. Each imports from lower ones only.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ntt.predictor import (
        DetectedInstance,
        Instances,
        Predictor,
        Reference,
        references_from_coco,
        references_from_folder,
        references_from_labelme,
        references_from_yolo,
    )
    from ntt.sweeps.records import load_runs

__version__ = "0.1.0"
__all__ = [
    "DetectedInstance",
    "Instances",
    "Predictor",
    "Reference",
    "__version__",
    "load_runs",
    "references_from_coco",
    "references_from_folder",
    "references_from_labelme",
    "references_from_yolo",
]


def __getattr__(name: str) -> Any:
    """Load the Python API when it is first used: importing `ntt` alone stays cheap."""
    if name not in __all__:
        raise AttributeError(f"module 'ntt' has no attribute {name!r}")
    return getattr(importlib.import_module("ntt.sweeps.records" if name == "load_runs" else "ntt.predictor"), name)


def __dir__() -> list[str]:
    """Return the names of the Python API."""
    return list(__all__)
